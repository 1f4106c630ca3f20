//! Minutes, hours, days and months: where they begin and end in a machine's zone, and how
//! a volume falls into them without a byte lost. Pure.
//!
//! Buckets are half open on the left, as samples are: `(start, end]`. Every resolution tiles
//! time, and each boundary of a coarser one is a boundary of the finer ones (minutes
//! excepted where a zone's offset is no whole minute, which none has had since 1972).

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use super::{Resolution, Usage, error::UnknownZone};
use crate::engine::{
    span::arrived_traffic,
    units::{Bytes, Traffic},
};

/// A bucket's bounds: whole seconds since 1970, as they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

impl Span {
    /// Whether what arrives right after `at` falls into it.
    pub(super) fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }

    fn clipped(self, other: Self) -> Self {
        Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        }
    }
}

/// The zones that a machine's hours have been in. A change cuts the running hour, day and
/// month in two, so that rows never overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct Zones(Vec<(Timestamp, TimeZone)>);

impl Zones {
    /// From what was kept, in order of time.
    pub(super) fn push(&mut self, since: Timestamp, zone: TimeZone) {
        // Nearly every machine has one and keeps it.
        self.0.reserve_exact(1);
        self.0.push((since, zone));
    }

    /// The newest one.
    pub(super) fn last(&self) -> Option<&(Timestamp, TimeZone)> {
        self.0.last()
    }

    /// The bucket into which falls what arrives right after `at`.
    pub(super) fn bucket(&self, resolution: Resolution, at: Timestamp) -> Span {
        let next = self.0.partition_point(|(since, _)| *since <= at).max(1);
        let utc = TimeZone::UTC;
        let zone = self.0.get(next - 1).map_or(&utc, |(_, zone)| zone);
        let epoch = Span {
            start: match next {
                1 => Timestamp::MIN,
                _ => self.0[next - 1].0,
            },
            end: self.0.get(next).map_or(Timestamp::MAX, |(since, _)| *since),
        };
        bucket(resolution, zone, at).clipped(epoch)
    }

    /// The bounds of a row that starts then. It keeps its start even if the zone's rules
    /// were corrected after it was recorded.
    pub(super) fn row(&self, resolution: Resolution, start: Timestamp) -> Span {
        Span {
            start,
            ..self.bucket(resolution, start)
        }
    }
}

/// The bucket of a zone's clock into which falls what arrives right after `at`.
fn bucket(resolution: Resolution, zone: &TimeZone, at: Timestamp) -> Span {
    match resolution {
        Resolution::Minute => minute(at),
        Resolution::Hour => hour(zone, at),
        Resolution::Day => days(zone, at, |date| date, Date::tomorrow),
        // Periods are the engine's; they never come here.
        Resolution::Month | Resolution::Period => days(zone, at, Date::first_of_month, |date| {
            date.last_of_month().tomorrow()
        }),
    }
}

fn minute(at: Timestamp) -> Span {
    let start = floor_second(at).div_euclid(60) * 60;
    Span {
        start: second(start),
        end: second(start + 60),
    }
}

/// An hour of the zone's clock, cut where the clock is set forward or back.
fn hour(zone: &TimeZone, at: Timestamp) -> Span {
    let offset = zone.to_offset(at);
    let ahead = i64::from(offset.seconds());
    let start = (floor_second(at) + ahead).div_euclid(3600) * 3600 - ahead;
    let mut hour = Span {
        start: second(start),
        end: second(start + 3600),
    };
    // Most hours have one offset; the list of transitions is asked for the others only.
    if zone.to_offset(hour.start) != offset {
        let set = zone
            .preceding(
                at.saturating_add(SignedDuration::from_nanos(1))
                    .unwrap_or(at),
            )
            .find(|set| zone.to_offset(before(set.timestamp())) != offset);
        hour.start = set
            .map_or(hour.start, |set| set.timestamp())
            .max(hour.start);
    }
    if zone.to_offset(before(hour.end)) != offset {
        let set = zone.following(at).find(|set| set.offset() != offset);
        hour.end = set.map_or(hour.end, |set| set.timestamp()).min(hour.end);
    }
    hour
}

/// From the first instant of one civil day to that of another.
fn days(
    zone: &TimeZone,
    at: Timestamp,
    first: impl Fn(Date) -> Date,
    next: impl Fn(Date) -> Result<Date, jiff::Error>,
) -> Span {
    let mut date = first(zone.to_datetime(at).date());
    loop {
        let after = next(date).unwrap_or(Date::MAX);
        let end = first_instant(zone, after).unwrap_or(Timestamp::MAX);
        // A clock set back over midnight shows a date again whose successor has begun: what
        // arrives then is the successor's.
        if at < end || after == Date::MAX {
            let start = first_instant(zone, date).unwrap_or(Timestamp::MIN);
            return Span { start, end };
        }
        date = after;
    }
}

fn first_instant(zone: &TimeZone, date: Date) -> Option<Timestamp> {
    let day = date.to_zoned(zone.clone()).ok()?.start_of_day().ok()?;
    Some(day.timestamp())
}

fn floor_second(at: Timestamp) -> i64 {
    at.as_nanosecond()
        .div_euclid(1_000_000_000)
        .try_into()
        .unwrap_or_else(|_| at.as_second())
}

/// The instant, or the nearest that there is.
pub(super) fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(if second < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

fn before(at: Timestamp) -> Timestamp {
    at.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(at)
}

/// The first whole minute that is not before `at`: where a change of zone takes effect.
pub(super) fn next_minute(at: Timestamp) -> Timestamp {
    let minute = minute(at);
    if minute.start == at { at } else { minute.end }
}

/// Divides a span's traffic over the buckets it touches: cumulatively, so that the parts
/// add up to the whole and every resolution finds the same figure at the same instant.
/// Parts without traffic are left out. A span of no length, or one that a clock set back
/// turned around, arrives whole at its end.
pub(super) fn split(
    usage: &Usage,
    mut bucket: impl FnMut(Timestamp) -> Span,
    mut part: impl FnMut(Span, Traffic),
) {
    let mut at = if usage.from < usage.to {
        usage.from
    } else {
        before(usage.to)
    };
    let mut earlier = Traffic::ZERO;
    loop {
        let span = bucket(at);
        let by_then = arrived_traffic(usage.traffic, usage.from, usage.to, span.end);
        let traffic = less(by_then, earlier);
        if !traffic.is_zero() {
            part(span, traffic);
        }
        if span.end >= usage.to {
            return;
        }
        (earlier, at) = (by_then, span.end);
    }
}

/// What arrived after `earlier`; what has arrived only grows.
fn less(later: Traffic, earlier: Traffic) -> Traffic {
    let since = |later: Bytes, earlier| later.saturating_sub(earlier);
    Traffic {
        received: since(later.received, earlier.received),
        sent: since(later.sent, earlier.sent),
        exempt: since(later.exempt, earlier.exempt),
    }
}

/// A zone as text that [`zone_from`] reads: a name, `+05:30`, or a POSIX rule.
pub(super) fn zone_text(zone: &TimeZone) -> Result<String, jiff::Error> {
    if let Some(name) = zone.iana_name() {
        return Ok(name.to_owned());
    }
    jiff::fmt::temporal::DateTimePrinter::new().time_zone_to_string(zone)
}

/// The zone of a text that [`zone_text`] wrote.
pub(super) fn zone_from(text: &str) -> Result<TimeZone, UnknownZone> {
    jiff::fmt::temporal::DateTimeParser::new()
        .parse_time_zone(text)
        .map_err(|_| UnknownZone(text.to_owned()))
}
