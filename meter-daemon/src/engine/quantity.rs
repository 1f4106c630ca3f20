//! Volumes, rates, durations, percentages and money as people write them: `"1.5 TiB"`,
//! `"64 kbit/s"`, `"1h 30m"`, `"105%"`, `"10 USD"`. Exact: no floating point, nothing rounded,
//! what does not fit is an error that says what to write instead.
//!
//! The command line reads its arguments with the same functions.

mod number;
mod remedy;

use std::fmt;

use jiff::SignedDuration;
use rust_decimal::Decimal;

use self::{
    number::{Product, number, number_and_unit},
    remedy::{unknown_duration_unit, unknown_rate_unit, unknown_volume_unit},
};
use super::{
    plan::{Allowance, Percent},
    units::{BitsPerSecond, Bytes, Currency, Money},
};

/// Why a text is not the quantity it should be, and a text that would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to write instead, without quotes.
    pub instead: String,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            instead: instead.into(),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; write for example `{}`", self.message, self.instead)
    }
}

impl std::error::Error for Wrong {}

/// Somebody's text, made fit to stand inside a message: one line, no control
/// characters, not endless.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    // `escape_debug` is for string literals; quotes and apostrophes are harmless here.
    format!("`{}`", shown.replace("\\\"", "\"").replace("\\'", "'"))
}

type Checked<T> = Result<T, Wrong>;

impl std::str::FromStr for Bytes {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        volume(text)
    }
}

/// `parse`, with the guarantee that what its errors say to write would be taken.
fn remedied<T>(parse: fn(&str) -> Checked<T>, text: &str, example: &str) -> Checked<T> {
    parse(text.trim()).map_err(|wrong| match parse(&wrong.instead) {
        Ok(_) => wrong,
        Err(_) => Wrong {
            instead: example.to_owned(),
            ..wrong
        },
    })
}

const VOLUMES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("EB", 1_000_000_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
];

const RATES: &[(&str, u64)] = &[
    ("bit/s", 1),
    ("kbit/s", 1_000),
    ("Mbit/s", 1_000_000),
    ("Gbit/s", 1_000_000_000),
    ("Tbit/s", 1_000_000_000_000),
];

const SECOND: u64 = 1_000_000_000;

/// In nanoseconds. The first name of each is the one that messages use.
const DURATIONS: &[(&[&str], u64)] = &[
    (&["ms"], 1_000_000),
    (&["s", "sec", "second", "seconds"], SECOND),
    (&["m", "min", "minute", "minutes"], 60 * SECOND),
    (&["h", "hour", "hours"], 3_600 * SECOND),
    (&["d", "day", "days"], 86_400 * SECOND),
    (&["w", "week", "weeks"], 7 * 86_400 * SECOND),
];

/// The longest duration that is taken, in days: a hundred years.
const LONGEST_DAYS: u64 = 36_525;

/// A volume: `1 TB` is 10^12 bytes, `1 TiB` is 2^40.
///
/// # Errors
/// What is no volume, not a whole number of bytes, or more than 2^64 bytes.
pub fn volume(text: &str) -> Checked<Bytes> {
    remedied(parse_volume, text, "1 TB")
}

fn parse_volume(text: &str) -> Checked<Bytes> {
    let (number, unit) = number_and_unit(text, "a volume", "1 TB", "GB")?;
    if unit.is_empty() && number.is_zero() {
        return Ok(Bytes::ZERO);
    }
    let Some((_, size)) = VOLUMES.iter().find(|(name, _)| *name == unit) else {
        return Err(unknown_volume_unit(text, &number, unit));
    };
    whole(number.times(*size), text, "bytes", "B").map(Bytes)
}

/// An allowance: a volume, or `unlimited`.
///
/// # Errors
/// What is neither.
pub fn allowance(text: &str) -> Checked<Allowance> {
    match text.trim() {
        "unlimited" => Ok(Allowance::Unlimited),
        other if other.eq_ignore_ascii_case("unlimited") || other == "none" || other == "-1" => {
            Err(Wrong::new(
                format!("{} is not an allowance", quoted(text)),
                "unlimited",
            ))
        }
        other => volume(other).map(Allowance::Limited),
    }
}

/// A rate in bits per second: `64 kbit/s` is 64 000 bit/s.
///
/// # Errors
/// What is no rate, not a whole number of bits, or zero.
pub fn rate(text: &str) -> Checked<BitsPerSecond> {
    remedied(parse_rate, text, "64 kbit/s")
}

fn parse_rate(text: &str) -> Checked<BitsPerSecond> {
    let (number, unit) = number_and_unit(text, "a rate", "64 kbit/s", "kbit/s")?;
    let Some((_, size)) = RATES.iter().find(|(name, _)| *name == unit) else {
        return Err(unknown_rate_unit(text, &number, unit));
    };
    match whole(number.times(*size), text, "bits per second", "bit/s")? {
        0 => Err(Wrong::new(
            "a rate of 0 lets nothing pass: that is `suspend`",
            "64 kbit/s",
        )),
        bits => Ok(BitsPerSecond(bits)),
    }
}

/// A span of time: one number and unit, or several: `90s`, `24h`, `1h 30m`, `5d`.
///
/// # Errors
/// What is none, or longer than a hundred years.
pub fn duration(text: &str) -> Checked<SignedDuration> {
    remedied(parse_duration, text, "24h")
}

fn parse_duration(text: &str) -> Checked<SignedDuration> {
    let mut nanoseconds: u128 = 0;
    let mut rest = text;
    loop {
        let (number, after) = number_and_unit(rest, "a duration", "24h", "s")?;
        let letters = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        if unit.is_empty() && next.is_empty() && rest == text && number.is_zero() {
            return Ok(SignedDuration::ZERO);
        }
        let known = DURATIONS.iter().find(|(names, _)| names.contains(&unit));
        let Some((_, size)) = known else {
            return Err(unknown_duration_unit(text, &number, unit));
        };
        let part = match number.times(*size) {
            Product::Whole(part) => part,
            Product::Between(_) => {
                return Err(Wrong::new(
                    format!("{} is finer than a nanosecond", quoted(text)),
                    "1ms",
                ));
            }
        };
        nanoseconds = nanoseconds.saturating_add(part);
        rest = next.trim_start();
        if rest.is_empty() {
            break;
        }
    }
    let longest = u128::from(LONGEST_DAYS) * 86_400 * u128::from(SECOND);
    if nanoseconds > longest {
        return Err(Wrong::new(
            format!("{} is longer than a hundred years", quoted(text)),
            format!("{LONGEST_DAYS}d"),
        ));
    }
    let seconds = i64::try_from(nanoseconds / u128::from(SECOND)).unwrap_or(i64::MAX);
    let rest = i32::try_from(nanoseconds % u128::from(SECOND)).unwrap_or(0);
    Ok(SignedDuration::new(seconds, rest))
}

/// Whole civil days: `5d`. Hours are not days: a civil day may have 23 or 25.
///
/// # Errors
/// What is not a whole number of days, or more than ten years of them.
pub fn civil_days(text: &str) -> Checked<u32> {
    remedied(parse_civil_days, text, "5d")
}

fn parse_civil_days(text: &str) -> Checked<u32> {
    const DAY: i64 = 86_400;
    const MOST: i64 = 3_660;
    let span = parse_duration(text)?;
    let (whole, rest) = (span.as_secs() / DAY, span.as_secs() % DAY);
    let names_hours = text.chars().any(|c| matches!(c, 'h' | 'H'));
    if names_hours || rest != 0 || span.subsec_nanos() != 0 {
        let days = if whole == 0 { 1 } else { whole };
        return Err(Wrong::new(
            format!("{} is not a number of civil days", quoted(text)),
            format!("{days}d"),
        ));
    }
    u32::try_from(whole)
        .ok()
        .filter(|_| whole <= MOST)
        .ok_or_else(|| {
            Wrong::new(
                format!("{} is longer than ten years", quoted(text)),
                format!("{MOST}d"),
            )
        })
}

/// A percentage, exact: `105%`, `99.5 %`; at most 10 000 % with four decimals.
///
/// # Errors
/// What is none, or beyond that.
pub fn percent(text: &str) -> Checked<Percent> {
    remedied(parse_percent, text, "105%")
}

fn parse_percent(text: &str) -> Checked<Percent> {
    const DECIMALS: u32 = 4;
    let (number, unit) = number_and_unit(text, "a percentage", "105%", "%")?;
    if unit != "%" {
        let instead = format!("{number}%");
        return Err(match unit {
            "" => Wrong::new(format!("{} has no percent sign", quoted(text)), instead),
            _ => Wrong::new(format!("{} is not a percentage", quoted(text)), instead),
        });
    }
    if number.whole > 10_000 || (number.whole == 10_000 && number.fraction > 0) {
        return Err(Wrong::new(
            format!("{} is more than 10000%", quoted(text)),
            "10000%",
        ));
    }
    match number.decimal() {
        Some(value) if value.scale() <= DECIMALS => Ok(Percent(value)),
        _ => Err(Wrong::new(
            format!("{} has more than {DECIMALS} decimals", quoted(text)),
            format!("{}%", number.whole),
        )),
    }
}

/// The largest price and amount that are taken, so that no product of them with any volume
/// leaves the range of exact decimals.
const LARGEST_AMOUNT: u128 = 1_000_000_000;
const AMOUNT_DECIMALS: u32 = 9;

/// A price: a plain decimal number, its currency is the plan's.
///
/// # Errors
/// What is none, is negative, or beyond 10^9 or nine decimals.
pub fn price(text: &str) -> Checked<Decimal> {
    remedied(parse_price, text, "0.02")
}

fn parse_price(text: &str) -> Checked<Decimal> {
    let (number, rest) = number_and_unit(text, "a price", "0.02", "")?;
    if !rest.is_empty() {
        return Err(Wrong::new(
            format!(
                "{} is not a plain number: `currency` names the currency",
                quoted(text)
            ),
            number.to_string(),
        ));
    }
    number.amount().ok_or_else(|| beyond_amounts(text, "0.02"))
}

/// An amount that is not negative: `10 USD`.
///
/// # Errors
/// What is none, or beyond 10^9 or nine decimals.
pub fn money(text: &str) -> Checked<Money> {
    remedied(parse_money, text, "10 USD")
}

fn parse_money(text: &str) -> Checked<Money> {
    let (number, currency) = number_and_unit(text, "an amount of money", "10 USD", "EUR")?;
    let Some(currency) = Currency::new(currency) else {
        let upper = currency.to_ascii_uppercase();
        let instead = Currency::new(&upper).map_or("EUR", |_| upper.as_str());
        return Err(match currency {
            "" => Wrong::new(
                format!("{} names no currency", quoted(text)),
                format!("{number} EUR"),
            ),
            _ => Wrong::new(
                format!(
                    "{} is not a currency code of three capitals",
                    quoted(currency)
                ),
                format!("{number} {instead}"),
            ),
        });
    };
    let amount = number
        .amount()
        .ok_or_else(|| beyond_amounts(text, "10 USD"))?;
    Ok(Money { amount, currency })
}

/// An amount that may be owed: `-10 USD`.
///
/// # Errors
/// As [`money`].
pub fn balance(text: &str) -> Checked<Money> {
    match text.trim().strip_prefix('-') {
        Some(owed) => {
            let money = money(owed)?;
            Ok(Money {
                amount: -money.amount,
                ..money
            })
        }
        None => money(text),
    }
}

/// How a rule's name writes a figure: what its author wrote, in the usual form. `080 %` and
/// `100GB` become `80%` and `100 GB`; `1000 GB` stays.
pub(crate) fn figure_name(text: &str) -> String {
    match number(text.trim()) {
        Some((number, "%")) => format!("{number}%"),
        Some((number, unit)) if !unit.is_empty() => format!("{number} {unit}"),
        _ => text.trim().to_owned(),
    }
}

/// How a rule's name writes a duration: `24 h` becomes `24h`, `1 h  30 m` becomes `1h 30m`.
pub(crate) fn duration_name(text: &str) -> String {
    let mut name = String::new();
    for word in text.split_whitespace() {
        if !name.is_empty() && !name.ends_with(|c: char| c.is_ascii_digit()) {
            name.push(' ');
        }
        name.push_str(word);
    }
    name
}

fn whole(product: Product, text: &str, units: &str, unit: &str) -> Checked<u64> {
    let too_large = || {
        Wrong::new(
            format!("{} is too large: 2^64 {units} or more", quoted(text)),
            "18 EB",
        )
    };
    match product {
        Product::Whole(value) => u64::try_from(value).map_err(|_| match unit {
            "B" => too_large(),
            _ => Wrong {
                instead: "100 Gbit/s".into(),
                ..too_large()
            },
        }),
        Product::Between(below) => Err(Wrong::new(
            format!("{} is not a whole number of {units}", quoted(text)),
            format!("{} {unit}", below.max(1)),
        )),
    }
}

fn beyond_amounts(text: &str, example: &str) -> Wrong {
    Wrong::new(
        format!(
            "{} is beyond {LARGEST_AMOUNT} or has more than {AMOUNT_DECIMALS} decimals",
            quoted(text)
        ),
        example,
    )
}

#[cfg(test)]
mod tests;
