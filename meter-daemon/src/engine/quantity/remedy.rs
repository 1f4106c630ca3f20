//! What somebody who wrote a strange unit, or none, most likely meant.

use super::{
    DURATIONS, RATES, VOLUMES, Wrong,
    number::{Number, Product},
    quoted,
};

pub(super) fn unknown_volume_unit(text: &str, number: &Number, unit: &str) -> Wrong {
    if unit.is_empty() {
        return Wrong::new(
            format!(
                "{} has no unit (B, kB, MB, GB, TB, PB; KiB, MiB, …)",
                quoted(text)
            ),
            format!("{number} GB"),
        );
    }
    let bits = unit.ends_with('b') && unit.len() == 2 && !unit.starts_with(char::is_lowercase);
    if bits || unit.contains("bit") {
        let byte = format!("{}B", unit.chars().next().unwrap_or('G'));
        let byte = known_volume(&byte).unwrap_or("GB");
        return Wrong::new(
            format!("{} counts bits; a volume is in bytes", quoted(unit)),
            format!("{number} {byte}"),
        );
    }
    let known = known_volume(unit)
        .or_else(|| known_volume(&format!("{unit}B")))
        .unwrap_or("GB");
    Wrong::new(
        format!(
            "{} is not a unit of volume (B, kB, MB, GB, TB, PB; KiB, MiB, GiB, TiB)",
            quoted(unit)
        ),
        format!("{number} {known}"),
    )
}

fn known_volume(unit: &str) -> Option<&'static str> {
    VOLUMES
        .iter()
        .map(|(name, _)| *name)
        .find(|name| name.eq_ignore_ascii_case(unit))
}

pub(super) fn unknown_rate_unit(text: &str, number: &Number, unit: &str) -> Wrong {
    if unit.is_empty() {
        return Wrong::new(
            format!(
                "{} has no unit (bit/s, kbit/s, Mbit/s, Gbit/s)",
                quoted(text)
            ),
            format!("{number} kbit/s"),
        );
    }
    let bytes = unit
        .strip_suffix("/s")
        .and_then(|unit| VOLUMES.iter().find(|(n, _)| *n == unit));
    if let Some((_, size)) = bytes
        && let Product::Whole(bytes) = number.times(*size)
        && let Some(bits) = bytes.checked_mul(8)
    {
        let (name, one) = RATES
            .iter()
            .rev()
            .find(|(_, one)| bits % u128::from(*one) == 0)
            .unwrap_or(&("bit/s", 1));
        return Wrong::new(
            format!(
                "{} counts bytes; a rate is in bits per second",
                quoted(unit)
            ),
            format!("{} {name}", bits / u128::from(*one)),
        );
    }
    let prefix = unit
        .chars()
        .next()
        .filter(char::is_ascii_alphabetic)
        .unwrap_or('k');
    let known = match prefix.to_ascii_lowercase() {
        'm' => "Mbit/s",
        'g' => "Gbit/s",
        't' => "Tbit/s",
        'b' => "bit/s",
        _ => "kbit/s",
    };
    Wrong::new(
        format!(
            "{} is not a unit of rate (bit/s, kbit/s, Mbit/s, Gbit/s)",
            quoted(unit)
        ),
        format!("{number} {known}"),
    )
}

pub(super) fn unknown_duration_unit(text: &str, number: &Number, unit: &str) -> Wrong {
    if unit.is_empty() {
        return Wrong::new(
            format!("{} has no unit (s, m, h, d, w)", quoted(text)),
            format!("{number}s"),
        );
    }
    let lower = unit.to_lowercase();
    let months = unit == "M" || lower.starts_with("mo") || lower.starts_with('y');
    let known = DURATIONS
        .iter()
        .find(|(names, _)| names.contains(&lower.as_str()))
        .map_or("d", |(names, _)| names.first().copied().unwrap_or("d"));
    let why = if months {
        ": months and years differ in length"
    } else {
        ""
    };
    let instead = if months {
        "30d".to_owned()
    } else {
        format!("{number}{known}")
    };
    Wrong::new(
        format!(
            "{} is not a unit of time (ms, s, m, h, d, w){why}",
            quoted(unit)
        ),
        instead,
    )
}
