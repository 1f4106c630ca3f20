//! Periods: from one anchor day to the next, in civil time of a named zone.

use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date, tz::AmbiguousOffset, tz::TimeZone};

use super::plan::DayOfMonth;

/// A period that has begun. It is written down and not recomputed afterwards, whatever
/// becomes of the zone or the anchor it was made with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Period {
    /// Its first instant.
    pub(crate) start: Timestamp,
    /// The next one's first instant.
    pub(crate) end: Timestamp,
    /// In which its days are counted.
    pub(crate) zone: TimeZone,
}

impl Period {
    /// The period around `now`.
    pub(crate) fn containing(now: Timestamp, anchor: DayOfMonth, zone: &TimeZone) -> Self {
        let today = zone.to_datetime(now).date();
        // The month before holds the start when the anchor is still ahead, and one more on
        // each side covers zones whose civil date runs backwards across a midnight.
        let mut month = months_later(today, -2);
        let mut start = first_instant(anchored(month, anchor), zone);
        loop {
            let following = months_later(month, 1);
            let end = first_instant(anchored(following, anchor), zone);
            if end > now || following == month {
                return Self {
                    start,
                    end,
                    zone: zone.clone(),
                };
            }
            (month, start) = (following, end);
        }
    }

    /// The period after this one, if from now on this anchor and this zone are in force.
    ///
    /// It runs to the first anchor day after the *civil* day on which this one ends: compared
    /// as instants, a change of zone would give a period of a few hours.
    pub(crate) fn following(&self, anchor: DayOfMonth, zone: &TimeZone) -> Self {
        let last = self.zone.to_datetime(self.end).date();
        let mut month = last.first_of_month();
        loop {
            let day = anchored(month, anchor);
            let end = first_instant(day, zone);
            let next = months_later(month, 1);
            if (day > last && end > self.end) || next == month {
                return Self {
                    start: self.end,
                    end,
                    zone: zone.clone(),
                };
            }
            month = next;
        }
    }

    /// Which of the period's civil days `at` is in, from 1. The day that begins as the period
    /// ends is none of them.
    pub(crate) fn day_number(&self, at: Timestamp) -> u32 {
        let last = self.end.saturating_sub(SignedDuration::from_nanos(1));
        let at = at.min(last.unwrap_or(self.end));
        let first = self.zone.to_datetime(self.start).date();
        let today = self.zone.to_datetime(at).date();
        u32::try_from(days_between(first, today).saturating_add(1)).unwrap_or(1)
    }

    /// When the civil day after that of `at` begins.
    pub(crate) fn next_day(&self, at: Timestamp) -> Timestamp {
        let today = self.zone.to_datetime(at).date();
        let mut day = today;
        loop {
            let Ok(next) = day.tomorrow() else {
                return Timestamp::MAX;
            };
            let start = first_instant(next, &self.zone);
            if start > at {
                return start;
            }
            day = next;
        }
    }

    /// Civil days from `at` to the period's end, a part of a day counted as one.
    pub(crate) fn days_left(&self, at: Timestamp) -> i64 {
        let today = self.zone.to_datetime(at).date();
        let last = self.zone.to_datetime(self.end).date();
        let begun = i64::from(self.end > first_instant(last, &self.zone));
        (days_between(today, last) + begun).max(0)
    }

    /// How long it lasts, in nanoseconds.
    pub(crate) fn length(&self) -> u128 {
        nanoseconds_between(self.start, self.end)
    }

    /// How much of it is left at `at`, in nanoseconds.
    pub(crate) fn left(&self, at: Timestamp) -> u128 {
        nanoseconds_between(at.max(self.start), self.end)
    }

    /// An instant as people of this zone write it: RFC 3339 with their offset, in whole seconds.
    pub(crate) fn local(&self, at: Timestamp) -> String {
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        at.display_with_offset(self.zone.to_offset(at)).to_string()
    }
}

/// The same time of day so many civil days later.
pub(crate) fn civil_days_later(at: Timestamp, days: u32, zone: &TimeZone) -> Timestamp {
    at.to_zoned(zone.clone())
        .checked_add(i64::from(days).days())
        .map_or(Timestamp::MAX, |later| later.timestamp())
}

/// The nanoseconds from one instant to a later one; 0 where it is not later.
pub(crate) fn nanoseconds_between(from: Timestamp, to: Timestamp) -> u128 {
    u128::try_from(to.as_nanosecond() - from.as_nanosecond()).unwrap_or(0)
}

/// The first instant that exists on that day in that zone.
fn first_instant(day: Date, zone: &TimeZone) -> Timestamp {
    let midnight = day.at(0, 0, 0, 0);
    let instant = match zone.to_ambiguous_timestamp(midnight).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(midnight).ok(),
        // Midnight comes twice: the earlier one.
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(midnight).ok(),
        // Midnight is skipped: the day begins with the transition that skips it. (Not with
        // "midnight moved on by the gap": Toronto went from 23:30 to 00:30 in 1919.)
        AmbiguousOffset::Gap { after, .. } => {
            after.to_timestamp(midnight).ok().and_then(|before| {
                zone.following(before)
                    .next()
                    .map(|transition| transition.timestamp())
            })
        }
    };
    instant.unwrap_or(if day.year() > 0 {
        Timestamp::MAX
    } else {
        Timestamp::MIN
    })
}

/// The anchor's day in a month: its last where the month is too short.
fn anchored(month: Date, anchor: DayOfMonth) -> Date {
    let last = month.last_of_month();
    let day = i8::try_from(anchor.get()).unwrap_or(31);
    if day >= last.day() {
        return last;
    }
    month.with().day(day).build().unwrap_or(last)
}

/// The first of the month so many months later; the same month at the calendar's end.
fn months_later(day: Date, months: i32) -> Date {
    let first = day.first_of_month();
    first.checked_add(months.months()).unwrap_or(first)
}

fn days_between(from: Date, to: Date) -> i64 {
    i64::from((to - from).get_days())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u8) -> DayOfMonth {
        DayOfMonth::new(number).unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_anchor_past_the_month_s_end_is_its_last_day_and_is_kept() {
        let utc = TimeZone::UTC;
        let mut period = Period::containing(at("2026-01-31T12:00:00Z"), day(31), &utc);
        let mut starts = vec![period.start];
        for _ in 0..4 {
            period = period.following(day(31), &utc);
            starts.push(period.start);
        }
        let days: Vec<_> = starts.iter().map(ToString::to_string).collect();
        assert_eq!(
            days,
            [
                "2026-01-31T00:00:00Z",
                "2026-02-28T00:00:00Z",
                "2026-03-31T00:00:00Z",
                "2026-04-30T00:00:00Z",
                "2026-05-31T00:00:00Z",
            ]
        );
    }

    #[test]
    fn a_period_starts_at_the_first_instant_that_exists_that_day() {
        for (name, anchor, within, start) in [
            // Midnight skipped: the clocks go from 00:00 to 01:00.
            (
                "America/Sao_Paulo",
                4,
                "2018-11-10T00:00:00Z",
                "2018-11-04T03:00:00Z",
            ),
            // Skipped from the middle: 23:30 of the day before to 00:30.
            (
                "America/Toronto",
                31,
                "1919-04-01T12:00:00Z",
                "1919-03-31T04:30:00Z",
            ),
            // The day itself does not exist.
            (
                "Pacific/Apia",
                30,
                "2012-01-02T00:00:00Z",
                "2011-12-30T10:00:00Z",
            ),
            // Midnight comes twice: the earlier.
            (
                "America/Havana",
                2,
                "2025-11-05T00:00:00Z",
                "2025-11-02T04:00:00Z",
            ),
            (
                "Europe/Vienna",
                1,
                "2026-07-15T00:00:00Z",
                "2026-06-30T22:00:00Z",
            ),
        ] {
            let period = Period::containing(at(within), day(anchor), &zone(name));
            assert_eq!(period.start, at(start), "{name}");
        }
    }

    #[test]
    fn a_change_of_anchor_or_zone_runs_from_the_old_end_to_the_new_day() {
        let june = Period::containing(at("2026-06-10T00:00:00Z"), day(1), &TimeZone::UTC);
        let short = june.following(day(15), &TimeZone::UTC);
        assert_eq!(short.start, at("2026-07-01T00:00:00Z"));
        assert_eq!(short.end, at("2026-07-15T00:00:00Z"));
        // Not the four hours until it is July in New York, too.
        let moved = june.following(day(1), &zone("America/New_York"));
        assert_eq!(moved.start, at("2026-07-01T00:00:00Z"));
        assert_eq!(moved.end, at("2026-08-01T04:00:00Z"));
    }

    #[test]
    fn a_part_of_a_day_counts_as_a_day_left() {
        let november = Period::containing(at("2026-11-20T10:00:00Z"), day(1), &TimeZone::UTC);
        for (now, days) in [
            ("2026-11-20T10:00:00Z", 11),
            ("2026-11-20T00:00:00Z", 11),
            ("2026-11-30T23:59:59Z", 1),
        ] {
            assert_eq!(november.days_left(at(now)), days, "{now}");
        }
    }

    #[test]
    fn days_are_civil_days_of_the_zone() {
        let vienna = zone("Europe/Vienna");
        let march = Period::containing(at("2026-03-10T00:00:00Z"), day(1), &vienna);
        // Daylight saving begins on the 29th: that day has 23 hours.
        assert_eq!(march.day_number(at("2026-03-28T22:59:59Z")), 28);
        assert_eq!(march.day_number(at("2026-03-28T23:00:00Z")), 29);
        assert_eq!(
            march.next_day(at("2026-03-28T23:00:00Z")),
            at("2026-03-29T22:00:00Z")
        );
    }
}
