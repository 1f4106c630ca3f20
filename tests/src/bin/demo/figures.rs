//! Figures as they are shown, and as they are compared.

use std::time::Duration;

use meter_tests::{Failure, Result};
use serde_json::Value;

/// `30.5 MB`
pub(crate) fn volume(bytes: u64) -> String {
    scaled(bytes, &["B", "kB", "MB", "GB", "TB"])
}

/// `57.9 kbit/s`
pub(crate) fn rate(bits: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and small beside 2^63"
    )]
    let bits = bits as u64;
    scaled(bits, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

fn scaled(value: u64, units: &[&str]) -> String {
    let mut power = 0;
    let mut tenths = u128::from(value) * 10;
    while tenths >= 10_000 && power + 1 < units.len() {
        tenths /= 1000;
        power += 1;
    }
    if power == 0 {
        format!("{value} {}", units[0])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, units[power])
    }
}

/// `312 ms`
pub(crate) fn time(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros < 10_000 {
        format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
    } else if micros < 10_000_000 {
        format!("{} ms", micros / 1000)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// An amount in billionths, exactly: `"-1.50 EUR"` is -1 500 000 000.
pub(crate) fn nanos(money: &Value) -> Result<i128> {
    let text = money.as_str().unwrap_or_default();
    read_nanos(text).ok_or_else(|| Failure::new(format!("{money} is no amount of money")))
}

const UNIT: i128 = 1_000_000_000;
const DECIMALS: usize = 9;
const CENT: i128 = UNIT / 100;

fn read_nanos(text: &str) -> Option<i128> {
    let number = text.split(' ').next()?;
    let (sign, number) = match number.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, number),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > DECIMALS {
        return None;
    }
    let (whole, part): (i128, i128) = (
        whole.parse().ok()?,
        format!("{part:0<DECIMALS$}").parse().ok()?,
    );
    Some(sign * (whole * UNIT + part))
}

/// `-15.063704`, with at least two decimals and no needless ones.
pub(crate) fn money(nanos: i128) -> String {
    let unit = UNIT.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let (whole, part) = (nanos.unsigned_abs() / unit, nanos.unsigned_abs() % unit);
    let part = format!("{part:0DECIMALS$}");
    let kept = part.trim_end_matches('0').len().max(2);
    format!("{sign}{whole}.{}", &part[..kept])
}

/// To whole cents, half away from zero: what is billed and charged in all.
pub(crate) fn cents(nanos: i128) -> i128 {
    let half = if nanos < 0 { -CENT / 2 } else { CENT / 2 };
    (nanos + half) / CENT * CENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_one_digit_behind_the_point_and_the_unit_that_fits() {
        assert_eq!(volume(999), "999 B");
        assert_eq!(volume(1_000), "1.0 kB");
        assert_eq!(volume(30_560_000), "30.5 MB");
        assert_eq!(rate(57_900.0), "57.9 kbit/s");
        assert_eq!(rate(2.5e9), "2.5 Gbit/s");
        assert_eq!(time(Duration::from_micros(1_250)), "1.2 ms");
        assert_eq!(time(Duration::from_millis(312)), "312 ms");
    }

    #[test]
    fn money_is_read_and_written_to_the_last_unit() {
        assert_eq!(read_nanos("-15.063704 EUR"), Some(-15_063_704_000));
        assert_eq!(read_nanos("0.5 USD"), Some(500_000_000));
        assert_eq!(read_nanos("7 EUR"), Some(7_000_000_000));
        assert_eq!(read_nanos("0.0000000001 EUR"), None);
        assert_eq!(money(-15_063_700_000), "-15.0637");
        assert_eq!(money(7_000_000_000), "7.00");
        assert_eq!(cents(1_005_000_000), 1_010_000_000);
        assert_eq!(cents(-1_004_999_999), -1_000_000_000);
    }
}
