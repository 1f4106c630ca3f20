//! The decimal number that a quantity begins with, exact.

use std::fmt;

use rust_decimal::Decimal;

use super::{AMOUNT_DECIMALS, Checked, LARGEST_AMOUNT, Wrong, quoted};

/// A decimal number as written: digits, and up to eighteen behind a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) whole: u128,
    pub(super) fraction: u64,
    scale: u32,
}

pub(super) enum Product {
    Whole(u128),
    /// Not a whole number: the one below it.
    Between(u128),
}

impl Number {
    pub(super) fn is_zero(&self) -> bool {
        self.whole == 0 && self.fraction == 0
    }

    /// Exact; cannot overflow, because `whole` has at most twenty digits.
    pub(super) fn times(&self, unit: u64) -> Product {
        let scale = 10_u128.pow(self.scale);
        let part = u128::from(self.fraction) * u128::from(unit);
        let product = self.whole * u128::from(unit) + part / scale;
        if part % scale == 0 {
            Product::Whole(product)
        } else {
            Product::Between(product)
        }
    }

    pub(super) fn decimal(&self) -> Option<Decimal> {
        self.to_string().parse().ok()
    }

    pub(super) fn amount(&self) -> Option<Decimal> {
        if self.whole > LARGEST_AMOUNT || self.scale > AMOUNT_DECIMALS {
            return None;
        }
        self.decimal()
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scale {
            0 => write!(f, "{}", self.whole),
            scale => write!(
                f,
                "{}.{:0width$}",
                self.whole,
                self.fraction,
                width = scale as usize
            ),
        }
    }
}

/// The number that a text begins with, and what follows it. `None`: it begins with none, or
/// with one of more than twenty digits, or eighteen decimals.
pub(super) fn number(text: &str) -> Option<(Number, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, mut rest) = text.split_at(digits(text));
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        (fraction, rest) = after.split_at(digits(after));
        if fraction.is_empty() {
            return None;
        }
        fraction = fraction.trim_end_matches('0');
    }
    let significant = whole.trim_start_matches('0');
    if whole.is_empty() || significant.len() > 20 || fraction.len() > 18 {
        return None;
    }
    let number = Number {
        whole: if significant.is_empty() {
            0
        } else {
            significant.parse().ok()?
        },
        fraction: if fraction.is_empty() {
            0
        } else {
            fraction.parse().ok()?
        },
        scale: u32::try_from(fraction.len()).ok()?,
    };
    Some((number, rest.trim_start()))
}

/// As [`number`], with what is wrong when there is none.
pub(super) fn number_and_unit<'a>(
    text: &'a str,
    what: &str,
    example: &str,
    unit: &str,
) -> Checked<(Number, &'a str)> {
    if let Some(parts) = number(text) {
        // A comma or a second point is the commonest slip: name it, rather than a strange unit.
        if parts.1.starts_with(',') {
            let instead = text.replacen(',', ".", 1);
            let instead = if number(&instead).is_some() {
                &instead
            } else {
                example
            };
            return Err(Wrong::new(
                format!("{} is not {what}: decimals follow a point", quoted(text)),
                instead,
            ));
        }
        return Ok(parts);
    }
    let positive = text.strip_prefix(['-', '+']);
    Err(match positive.map(str::trim_start) {
        Some(rest) if number(rest).is_some() => {
            let what = if text.starts_with('-') {
                format!("{} is negative", quoted(text))
            } else {
                format!("{} is not {what}: it needs no sign", quoted(text))
            };
            Wrong::new(what, rest)
        }
        _ if text.is_empty() => Wrong::new(format!("this is empty, not {what}"), example),
        _ if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && text.len() > 18 => {
            Wrong::new(format!("{} has too many digits", quoted(text)), example)
        }
        _ if text.starts_with(|c: char| c.is_ascii_digit()) && text.len() > 18 => Wrong::new(
            format!("{} is too long a number for {what}", quoted(text)),
            example,
        ),
        _ => {
            let unit = if unit.is_empty() { "" } else { " and a unit" };
            Wrong::new(
                format!("{} is not {what}: a number{unit}", quoted(text)),
                example,
            )
        }
    })
}
