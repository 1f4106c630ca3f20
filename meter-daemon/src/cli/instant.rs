//! Instants and lengths of time as they are typed.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use crate::engine::quantity;

/// An instant with its offset (`2026-12-01T00:00:00+01:00`), or a date with or without a
/// time, in local time (`TZ`) as `date` and `journalctl` take it.
///
/// # Errors
/// Says what was expected instead.
#[expect(
    clippy::disallowed_methods,
    reason = "what people type without an offset is in their own time"
)]
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    parse_in(text, &TimeZone::system())
}

/// As [`parse`], or a length of time ago: `2h`, `3d`.
///
/// # Errors
/// Says what was expected instead.
#[expect(
    clippy::disallowed_methods,
    reason = "`2h` ago is as of when it is typed"
)]
pub(super) fn parse_since(text: &str) -> Result<Timestamp, String> {
    match quantity::duration(text) {
        Ok(ago) => ago_from(Timestamp::now(), ago)
            .ok_or_else(|| format!("`{text}` ago is before all time")),
        Err(_) => parse(text)
            .map_err(|error| format!("{error}; or a duration for so long ago, such as `2h`")),
    }
}

fn ago_from(now: Timestamp, ago: SignedDuration) -> Option<Timestamp> {
    now.checked_sub(ago).ok()
}

fn parse_in(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    // Jiff reads a civil time out of text with an offset, too, and drops the offset.
    text.parse::<DateTime>()
        .ok()
        .filter(|_| !text.contains(['[', 'Z']))
        .and_then(|civil| civil.to_zoned(zone.clone()).ok())
        .map(|zoned| zoned.timestamp())
        .ok_or_else(|| {
            "expected an instant such as `2026-12-01T00:00:00+01:00` or a date such as `2026-12-01`"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_decides_and_without_one_the_local_zone_does() {
        let vienna = TimeZone::get("Europe/Vienna").unwrap();
        for (text, instant) in [
            ("2026-12-01T00:00:00+01:00", "2026-11-30T23:00:00Z"),
            ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("2026-12-01", "2026-11-30T23:00:00Z"),
            ("2026-07-01T12:00", "2026-07-01T10:00:00Z"),
            ("2026-07-01 12:00:30", "2026-07-01T10:00:30Z"),
        ] {
            assert_eq!(
                parse_in(text, &vienna),
                Ok(instant.parse().unwrap()),
                "{text}"
            );
        }
        for text in [
            "",
            "tomorrow",
            "2026-13-01",
            "12:00",
            "2026-12-01T00:00:00+99:00",
        ] {
            parse_in(text, &vienna).unwrap_err();
        }
    }

    #[test]
    fn since_takes_a_length_of_time_ago() {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let ago = ago_from(now, SignedDuration::from_hours(24));
        assert_eq!(ago, Some("2026-11-30T00:00:00Z".parse().unwrap()));
        assert!(parse_since("2h").is_ok());
        assert!(parse_since("2026-12-01").is_ok());
        assert!(parse_since("yesterday-ish").is_err());
    }
}
