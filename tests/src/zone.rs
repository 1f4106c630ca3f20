//! A time zone of a test's own, in which midnight strikes when the test wants it.
//!
//! Nothing can put one process's wall clock forward, and nothing has to: what a day is, is
//! for a zone to say. In this one, clocks are put forward over midnight at a chosen second,
//! as Beirut's or Asunción's are in spring, and perhaps by almost a day soon after. A daemon
//! that finds it by `TZDIR` (RFC 9636 files, as the system's own) closes periods, begins days
//! and lets bills fall due by the clock that the machine has.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{Context, Failure, Result};

/// What a configuration calls it.
pub const NAME: &str = "Demo/Midnight";

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
/// By so much clocks are put forward over midnight.
const FORWARD: i64 = 2 * MINUTE;

/// The zone: where its file lies, and what its calendar says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    directory: PathBuf,
    midnight: i64,
    /// From that second on.
    offset: i64,
}

/// A day that takes seconds: the one that begins at the zone's midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortDay {
    /// Clocks are put forward so long after midnight ...
    pub clocks_forward: Duration,
    /// ... so that what is due at the same time of the next day is due so long after it.
    pub lasts: Duration,
}

impl Zone {
    /// Writes it below `directory`, with a midnight so long from now, rounded up to a second.
    pub fn write(directory: &Path, midnight_in: Duration, short: Option<ShortDay>) -> Result<Self> {
        let now = seconds(SystemTime::now())?;
        let midnight = now + signed(midnight_in) + 1;
        let (zone, text) = Self::with_midnight(directory, midnight, short);
        let file = directory.join(NAME);
        let folder = file.parent().unwrap_or(directory);
        fs::create_dir_all(folder).could_not(|| format!("make {}", folder.display()))?;
        fs::write(&file, text).could_not(|| format!("write {}", file.display()))?;
        Ok(zone)
    }

    fn with_midnight(directory: &Path, midnight: i64, short: Option<ShortDay>) -> (Self, Vec<u8>) {
        let mut midnight = midnight;
        // West of Greenwich by whole minutes and less than a day, as RFC 3339 can write it.
        if midnight.rem_euclid(DAY) >= DAY - FORWARD {
            midnight += FORWARD;
        }
        // 23:59 and some seconds there, whatever it is in Greenwich.
        let before = -MINUTE - midnight.rem_euclid(DAY) / MINUTE * MINUTE;
        let after = before + FORWARD;
        let mut steps = vec![(midnight, after)];
        let mut last = after;
        if let Some(short) = short {
            let lasts = signed(short.lasts);
            steps.push((midnight + signed(short.clocks_forward), after + DAY - lasts));
            // Whole minutes again, once the day is over.
            last = after + DAY;
            steps.push((midnight + lasts + 5, last));
        }
        let zone = Self {
            directory: directory.to_owned(),
            midnight,
            offset: after,
        };
        (zone, file(before, &steps, last))
    }

    /// Where it lies: for `TZDIR`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How long until midnight; `None` once it has struck.
    #[must_use]
    pub fn until_midnight(&self) -> Option<Duration> {
        self.midnight().duration_since(SystemTime::now()).ok()
    }

    /// When midnight strikes.
    #[must_use]
    pub fn midnight(&self) -> SystemTime {
        let since = u64::try_from(self.midnight).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(since)
    }

    /// The day of the month that begins with midnight, or one so many days later.
    #[must_use]
    pub fn day_of_month(&self, days_later: i64) -> u8 {
        let day = (self.midnight + self.offset).div_euclid(DAY) + days_later;
        civil(day).2
    }
}

/// An instant as meterd writes it: `2026-11-20T10:00:00.5Z`, `2026-11-20T00:00:00+01:00`.
pub fn instant(text: &str) -> Result<SystemTime> {
    read_instant(text).ok_or_else(|| Failure::new(format!("{text:?} is no instant")))
}

fn read_instant(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (time, offset) = time.split_at(time.find(['Z', '+', '-'])?);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<i64>(), time.next()?.parse::<i64>());
    let second = Duration::try_from_secs_f64(time.next()?.parse().ok()?).ok()?;
    let minutes = hour.ok()? * 60 + minute.ok()? - read_offset(offset)?;
    let whole = days_before(year, month, day) * DAY + minutes * MINUTE;
    let whole = Duration::from_secs(u64::try_from(whole).ok()?);
    Some(SystemTime::UNIX_EPOCH + whole + second)
}

/// In minutes.
fn read_offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?))
}

fn seconds(time: SystemTime) -> Result<i64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since
        .map(signed)
        .map_err(|error| Failure::new(format!("the clock stands before 1970: {error}")))
}

fn signed(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Days since 1970-01-01 in the Gregorian calendar, counted in eras of 400 years that begin
/// with March.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The other way round: year, month, day.
fn civil(days: i64) -> (i64, i64, u8) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, u8::try_from(day).unwrap_or(0))
}

/// RFC 9636: an empty first part, then offsets with the instants from which they hold, then
/// what holds for ever after.
fn file(before: i64, steps: &[(i64, i64)], last: i64) -> Vec<u8> {
    const NAME: &[u8] = b"DEMO\0";
    let header = |steps: usize, offsets: usize| {
        let mut header = b"TZif2".to_vec();
        header.extend([0; 15 + 12]);
        for count in [steps, offsets, NAME.len()] {
            header.extend(u32::try_from(count).unwrap_or(0).to_be_bytes());
        }
        header
    };
    let kind = |offset: i64| {
        let mut kind = i32::try_from(offset).unwrap_or(0).to_be_bytes().to_vec();
        kind.extend([0, 0]);
        kind
    };
    let mut text = header(0, 1);
    text.extend(kind(before));
    text.extend(NAME);
    text.extend(header(steps.len(), steps.len() + 1));
    for (at, _) in steps {
        text.extend(at.to_be_bytes());
    }
    text.extend((1u8..).take(steps.len()));
    text.extend(kind(before));
    for (_, offset) in steps {
        text.extend(kind(*offset));
    }
    text.extend(NAME);
    // POSIX counts offsets west of Greenwich.
    let sign = if last > 0 { '-' } else { '+' };
    let minutes = last.abs() / MINUTE;
    let rule = format!("\n<DEMO>{sign}{}:{:02}\n", minutes / 60, minutes % 60);
    text.extend(rule.into_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        seconds(instant(text).unwrap()).unwrap()
    }

    #[test]
    fn days_and_dates_are_the_calendars() {
        assert_eq!(days_before(1970, 1, 1), 0);
        assert_eq!(days_before(2000, 3, 1), 11_017);
        for day in [-1, 0, 58, 59, 60, 11_016, 11_017, 20_777, 20_778] {
            let (year, month, of_month) = civil(day);
            assert_eq!(days_before(year, month, of_month.into()), day);
        }
        assert_eq!(civil(20_777), (2026, 11, 20));
        assert_eq!(at("1970-01-02T00:00:01Z"), 86_401);
        assert_eq!(at("1970-01-02T01:00:01+01:00"), 86_401);
        assert_eq!(at("1970-01-01T23:30:01.5-00:30"), 86_401);
        assert!(instant("2026-11-20").is_err());
    }

    #[test]
    fn the_day_that_begins_is_todays_or_yesterdays_in_greenwich() {
        let zone = |text| Zone::with_midnight(Path::new("/"), at(text), None).0;
        // West of Greenwich, the 20th begins there during the 20th here.
        assert_eq!(zone("2026-11-20T00:00:30Z").day_of_month(0), 20);
        assert_eq!(zone("2026-11-20T12:34:56Z").day_of_month(0), 20);
        assert_eq!(zone("2026-11-20T23:57:59Z").day_of_month(0), 20);
        assert_eq!(zone("2026-11-20T12:34:56Z").day_of_month(11), 1);
        // Two minutes later, so that its offset can be written.
        assert_eq!(
            zone("2026-11-20T23:58:00Z").midnight,
            at("2026-11-21T00:00:00Z")
        );
    }

    /// As another reader of such files sees it.
    fn read(zone: &str, short: Option<ShortDay>) -> (Zone, jiff::tz::TimeZone) {
        let (zone, text) = Zone::with_midnight(Path::new("/"), at(zone), short);
        (zone, jiff::tz::TimeZone::tzif(NAME, &text).unwrap())
    }

    #[test]
    fn the_day_begins_at_the_second_that_was_asked_for() {
        for text in [
            "2026-11-20T00:00:00Z",
            "2026-11-20T10:11:12Z",
            "2028-02-29T23:59:59Z",
        ] {
            let (zone, read) = read(text, None);
            let midnight = jiff::Timestamp::from_second(zone.midnight).unwrap();
            let second = jiff::SignedDuration::from_secs(1);
            let before = (midnight - second).to_zoned(read.clone());
            let after = midnight.to_zoned(read.clone());
            assert_eq!(before.date().tomorrow().unwrap(), after.date(), "{text}");
            assert_eq!(after.date().day().unsigned_abs(), zone.day_of_month(0));
            for offset in [before.offset(), after.offset()] {
                assert_eq!(offset.seconds() % 60, 0, "{text}");
                assert!(offset.seconds().abs() < 86_400, "{text}");
            }
        }
    }

    #[test]
    fn what_is_due_a_day_later_is_due_when_the_short_day_is_over() {
        let short = ShortDay {
            clocks_forward: Duration::from_secs(5),
            lasts: Duration::from_secs(8),
        };
        let (zone, read) = read("2026-11-20T10:11:12Z", Some(short));
        let midnight = jiff::Timestamp::from_second(zone.midnight).unwrap();
        let day = jiff::Span::new().days(1);
        let later = midnight.to_zoned(read).checked_add(day).unwrap();
        let lasts = later.timestamp().duration_since(midnight);
        assert_eq!(lasts, jiff::SignedDuration::from_secs(8));
        assert_eq!((later.offset().seconds() + 8) % 60, 0);
    }
}
