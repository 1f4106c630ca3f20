//! Quantities as people write them: `1.5 TiB`, `64 kbit/s`, `24h`, `105%`. Exact: no floats,
//! nothing rounded, and what does not fit or is not a whole byte is an error.

use std::str::FromStr;

use jiff::SignedDuration;
use rust_decimal::Decimal;

use super::{
    plan::{Allowance, Percent},
    units::{BitsPerSecond, Bytes},
};

const VOLUMES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
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

const DURATIONS: &[(&str, u64)] = &[
    ("s", 1),
    ("m", 60),
    ("min", 60),
    ("h", 3_600),
    ("d", 86_400),
    ("w", 604_800),
];

/// A volume: `1 TB`, `1.5 TiB`, `0 B`.
///
/// # Errors
/// Says what was expected instead.
pub fn parse_volume(text: &str) -> Result<Bytes, String> {
    scaled(text, VOLUMES, "a volume such as `1 TB` or `1.5 TiB`").map(Bytes)
}

/// A rate: `64 kbit/s`.
///
/// # Errors
/// Says what was expected instead.
pub fn parse_rate(text: &str) -> Result<BitsPerSecond, String> {
    scaled(text, RATES, "a rate in bits per second such as `64 kbit/s`").map(BitsPerSecond)
}

/// A length of time: `90s`, `24h`, `5d`, `1h 30m`. A day is 24 hours.
///
/// # Errors
/// Says what was expected instead.
pub fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let expected = "a duration such as `90s`, `24h` or `5d`";
    let mut rest = text.trim();
    let mut seconds = 0_u64;
    if rest.is_empty() {
        return Err(format!("expected {expected}, found nothing"));
    }
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(number_character).len();
        let unit = &rest[number..].trim_start();
        let unit_end = unit.len() - unit.trim_start_matches(char::is_alphabetic).len();
        let part_end = rest.len() - unit.len() + unit_end;
        let part = scaled(&rest[..part_end], DURATIONS, expected)?;
        seconds = seconds
            .checked_add(part)
            .ok_or_else(|| format!("`{text}` is longer than can be counted"))?;
        rest = rest[part_end..].trim_start();
    }
    i64::try_from(seconds)
        .map(SignedDuration::from_secs)
        .map_err(|_| format!("`{text}` is longer than can be counted"))
}

/// A percentage: `105%`, `99.5 %`.
///
/// # Errors
/// Says what was expected instead.
pub fn parse_percent(text: &str) -> Result<Percent, String> {
    let wrong = || format!("expected a percentage such as `105%`, found `{text}`");
    let number = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim_end();
    if number.is_empty() || !number.chars().all(number_character) {
        return Err(wrong());
    }
    Decimal::from_str(number).map(Percent).map_err(|_| wrong())
}

/// An allowance: a volume, or `unlimited`.
///
/// # Errors
/// Says what was expected instead.
pub fn parse_allowance(text: &str) -> Result<Allowance, String> {
    if text.trim() == "unlimited" {
        return Ok(Allowance::Unlimited);
    }
    parse_volume(text).map(Allowance::Limited)
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_volume(text)
    }
}

impl FromStr for BitsPerSecond {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_rate(text)
    }
}

const fn number_character(character: char) -> bool {
    character.is_ascii_digit() || character == '.'
}

/// `number unit` in whole smallest units.
fn scaled(text: &str, units: &[(&str, u64)], expected: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let number = trimmed.len() - trimmed.trim_start_matches(number_character).len();
    let (number, unit) = (&trimmed[..number], trimmed[number..].trim_start());
    let Some((_, one)) = units.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        let found = if unit.is_empty() { "no unit" } else { unit };
        return Err(format!(
            "expected {expected}, found `{text}` ({found}; the units are {})",
            names.join(", ")
        ));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let wrong = || format!("expected {expected}, found `{text}`");
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return Err(wrong());
    }
    // The smallest unit is 1 of 2^60 or 10^18 of the largest: more decimals than that can
    // only be zeros, or not a whole smallest unit.
    let fraction = fraction.trim_end_matches('0');
    let too_large = || format!("`{text}` is more than can be counted (2^64)");
    let digits: u128 = format!("{whole}{fraction}")
        .parse()
        .map_err(|_| too_large())?;
    let divisor = u32::try_from(fraction.len())
        .ok()
        .and_then(|decimals| 10_u128.checked_pow(decimals))
        .ok_or_else(wrong)?;
    let product = digits.checked_mul(u128::from(*one)).ok_or_else(too_large)?;
    if product % divisor != 0 {
        let smallest = units[0].0;
        return Err(format!("`{text}` is not a whole number of {smallest}"));
    }
    u64::try_from(product / divisor).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_exact_in_decimal_and_binary_units() {
        for (text, bytes) in [
            ("1 TB", 1_000_000_000_000),
            ("1TB", 1_000_000_000_000),
            ("  1.5 TiB ", 1_649_267_441_664),
            ("0.1 GB", 100_000_000),
            ("0 B", 0),
            ("1.50 kB", 1_500),
            ("18446744073709551615 B", u64::MAX),
        ] {
            assert_eq!(parse_volume(text), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_volume_is_refused_with_what_to_write_instead() {
        for text in [
            "",
            "TB",
            "1",
            "1 tb",
            "1 Tb",
            "-1 TB",
            "1. TB",
            ".5 TB",
            "1.2.3 TB",
            "1,5 TB",
            "1e3 B",
            "0.5 B",
            "1.0001 kB x",
            "18446744073709551616 B",
            "16 EiB",
            "0.00001 kB",
        ] {
            let error = parse_volume(text).unwrap_err();
            assert!(error.contains('`'), "{text}: {error}");
        }
        insta::assert_snapshot!(parse_volume("3 Tb").unwrap_err(), @"expected a volume such as `1 TB` or `1.5 TiB`, found `3 Tb` (Tb; the units are B, kB, KB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB, EiB)");
    }

    #[test]
    fn rates_durations_and_percentages_are_exact() {
        assert_eq!(parse_rate("64 kbit/s"), Ok(BitsPerSecond(64_000)));
        assert_eq!(parse_rate("2.5 Gbit/s"), Ok(BitsPerSecond(2_500_000_000)));
        assert!(parse_rate("64 kB/s").is_err());
        for (text, seconds) in [
            ("0s", 0),
            ("24h", 86_400),
            ("5d", 432_000),
            ("1h30m", 5_400),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(SignedDuration::from_secs(seconds)),
                "{text}"
            );
        }
        assert_eq!(
            parse_duration("1 h 30 m"),
            Ok(SignedDuration::from_secs(5_400))
        );
        for text in [
            "",
            "5",
            "h",
            "5 days ago",
            "-1h",
            "99999999999999999999d",
            "0.5s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_percent("99.5 %"), Ok(Percent(Decimal::new(995, 1))));
        assert!(parse_percent("105").is_err());
        assert!(parse_percent("-5%").is_err());
    }

    #[test]
    fn an_allowance_is_a_volume_or_unlimited_and_zero_is_not_unlimited() {
        assert_eq!(parse_allowance("unlimited"), Ok(Allowance::Unlimited));
        assert_eq!(parse_allowance("0 B"), Ok(Allowance::Limited(Bytes(0))));
    }
}
