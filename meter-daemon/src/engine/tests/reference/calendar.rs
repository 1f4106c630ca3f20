//! Days and months, found by looking at the calendar page by page.

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

use crate::engine::plan::{DayOfMonth, PeriodStart, Plan};

/// A period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::tests) struct Span {
    pub(in crate::engine::tests) start: Timestamp,
    pub(in crate::engine::tests) end: Timestamp,
}

pub(super) fn anchor(plan: Option<&Plan>, renewal: Option<DayOfMonth>) -> u8 {
    match plan.map(|plan| plan.starts) {
        Some(PeriodStart::Day(day)) => day.get(),
        Some(PeriodStart::RenewalDay) => renewal.map_or(1, DayOfMonth::get),
        None => 1,
    }
}

pub(super) fn date(at: Timestamp, zone: &TimeZone) -> civil::Date {
    zone.to_datetime(at).date()
}

/// The first instant of a day, looked for by the quarter of an hour: every zone's clock is set
/// at one.
pub(super) fn midnight(day: civil::Date, zone: &TimeZone) -> Timestamp {
    let about = TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).unwrap();
    let mut at = about - SignedDuration::from_hours(16);
    while date(at, zone) < day {
        at += SignedDuration::from_mins(15);
    }
    at
}

/// The days on which periods begin, in the months around a day, in order.
fn beginnings(here: civil::Date, anchor: u8) -> Vec<civil::Date> {
    (-2..=2)
        .map(|months: i32| {
            let month = i32::from(here.year()) * 12 + i32::from(here.month()) - 1 + months;
            let year = i16::try_from(month.div_euclid(12)).unwrap();
            let month = i8::try_from(month.rem_euclid(12) + 1).unwrap();
            let mut day = i8::try_from(anchor).unwrap();
            loop {
                match civil::Date::new(year, month, day) {
                    Ok(date) => break date,
                    Err(_) => day -= 1,
                }
            }
        })
        .collect()
}

impl Span {
    pub(super) fn containing(now: Timestamp, anchor: u8, zone: &TimeZone) -> Self {
        let all = beginnings(date(now, zone), anchor);
        let all: Vec<_> = all.into_iter().map(|day| midnight(day, zone)).collect();
        Self {
            start: *all.iter().rfind(|start| **start <= now).unwrap(),
            end: *all.iter().find(|start| **start > now).unwrap(),
        }
    }

    /// The period that begins where one ended in the zone `before`: it goes on to the first
    /// such day after the day that it was there, or a change of zone would make one of hours.
    pub(super) fn following(
        end: Timestamp,
        anchor: u8,
        before: &TimeZone,
        zone: &TimeZone,
    ) -> Self {
        let day = date(end, before);
        let later = beginnings(day, anchor).into_iter().filter(|it| *it > day);
        let mut later = later.map(|it| midnight(it, zone));
        Self {
            start: end,
            end: later.find(|start| *start > end).unwrap(),
        }
    }

    /// How many of its days have begun.
    pub(super) fn days_begun(&self, at: Timestamp, zone: &TimeZone) -> i128 {
        let last = self.end - SignedDuration::from_nanos(1);
        let today = date(at.min(last), zone);
        let mut day = date(self.start, zone);
        let mut days = 1;
        while day < today {
            day = day.tomorrow().unwrap();
            days += 1;
        }
        days
    }

    pub(super) fn next_day(&self, at: Timestamp, zone: &TimeZone) -> Timestamp {
        midnight(date(at, zone).tomorrow().unwrap(), zone)
    }
}

/// How much of what came evenly over a span had arrived by then.
pub(super) fn arrived(bytes: u64, (from, to): (Timestamp, Timestamp), by: Timestamp) -> u64 {
    let nanos = |from: Timestamp, to: Timestamp| to.duration_since(from).as_nanos();
    if by >= to {
        bytes
    } else if by <= from {
        0
    } else {
        let share = i128::from(bytes) * nanos(from, by) / nanos(from, to);
        u64::try_from(share).unwrap()
    }
}
