//! What a machine will have used when its period ends, if it goes on as in the last 72 hours.
//!
//! For that, what moved is kept by hours of the machine's zone, the same that the ledger
//! keeps, so that a restart finds the same figures.

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};

use super::{
    Sample,
    period::{Period, nanoseconds_between},
    plan::Direction,
    span::{arrived, arrived_traffic},
    units::{Bytes, Traffic},
    usage::whole,
};

/// How far a forecast looks back.
const WINDOW: i64 = 72 * HOUR;
/// Of a period's first day no forecast is made.
pub(crate) const WITHHELD: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
const HOUR: i64 = 3_600;

/// A machine's hours of the window, each with what moved in it. Less than 1 kB when every
/// hour had traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hours {
    /// Complete ones, shared between an engine and its clone: they change once an hour.
    done: Arc<Done>,
    /// The running one: its bounds in Unix seconds, and what moved.
    running: Option<(i64, i64)>,
    moved: [u64; 2],
}

/// Hours in order of time, each as three numbers: minutes since the one before began, received
/// and sent; seven bits a byte, the low ones first (LEB128). An hour's volume takes four or five
/// bytes of its eight, and of ten thousand machines that is much of what the daemon needs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Done {
    /// When the first and the last began, in minutes since 1970.
    first: u32,
    last: u32,
    bytes: Vec<u8>,
}

impl Done {
    /// A window of hours of common volumes, and one more.
    const ROOM: usize = 74 * 10;

    fn push(&mut self, start: u32, moved: [u64; 2]) {
        if self.bytes.is_empty() {
            self.first = start;
            self.last = start;
        }
        let gap = u64::from(start.saturating_sub(self.last));
        self.last = start;
        // Exactly: doubling would waste half.
        let longest = 3 * 10;
        if self.bytes.capacity() - self.bytes.len() < longest {
            let more = Self::ROOM.saturating_sub(self.bytes.len()).max(2 * longest);
            self.bytes.reserve_exact(more);
        }
        for number in [gap, moved[0], moved[1]] {
            put(&mut self.bytes, number);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u32, [u64; 2])> {
        let mut bytes = self.bytes.as_slice();
        let mut before = None;
        std::iter::from_fn(move || {
            let gap = u32::try_from(take(&mut bytes)?).ok()?;
            let moved = [take(&mut bytes)?, take(&mut bytes)?];
            let start = before.map_or(self.first, |before: u32| before.saturating_add(gap));
            before = Some(start);
            Some((start, moved))
        })
    }

    /// Without those that do not begin within.
    fn retain(&mut self, within: impl Fn(u32) -> bool) {
        if [self.first, self.last].into_iter().all(&within) {
            return;
        }
        let all = std::mem::take(self);
        for (start, moved) in all.iter().filter(|(start, _)| within(*start)) {
            self.push(start, moved);
        }
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(number)
}

impl Hours {
    /// An hour as the ledger has it, in order of time: of ten thousand machines, rows on the
    /// way from there to here would be most of what a start needs.
    pub fn push(&mut self, start: Timestamp, end: Timestamp, traffic: &Traffic) {
        self.turn(start.as_second(), end.as_second());
        self.count(traffic);
    }

    /// Those of a period alone.
    pub(crate) fn within(mut self, period: &Period) -> Self {
        let within = |start| instant(start) >= period.start && instant(start) < period.end;
        Arc::make_mut(&mut self.done).retain(within);
        if !self.running.is_some_and(|(start, _)| within(minute(start))) {
            (self.running, self.moved) = (None, [0, 0]);
        }
        self
    }

    /// A new period: a forecast looks at nothing before it.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds what arrived of `sample` after `since` (`None`: from its beginning) up to `until`.
    pub(crate) fn add(
        &mut self,
        sample: &Sample,
        since: Option<Timestamp>,
        until: Timestamp,
        zone: &TimeZone,
    ) {
        let until = until.min(sample.to);
        // What lies before the window is never asked for.
        let window = until.as_second().saturating_sub(WINDOW + HOUR);
        let oldest = Timestamp::from_second(window).unwrap_or(Timestamp::MIN);
        let mut at = since.unwrap_or(sample.from).max(sample.from).min(until);
        if at < oldest {
            at = oldest;
        }
        let mut before = if at > sample.from {
            arrived_traffic(sample.traffic, sample.from, sample.to, at)
        } else {
            Traffic::ZERO
        };
        loop {
            let end = self.hour_after(at, until, zone);
            let cut = end.min(until);
            let by_then = arrived_traffic(sample.traffic, sample.from, sample.to, cut);
            self.count(&less(by_then, before));
            if cut >= until {
                return;
            }
            (at, before) = (cut, by_then);
        }
    }

    /// Makes the hour running that holds what comes right after `at`, and tells its end.
    fn hour_after(&mut self, at: Timestamp, until: Timestamp, zone: &TimeZone) -> Timestamp {
        let second = at.as_second();
        if let Some((_, end)) = self.running
            && (second < end || (at == until && second <= end))
        {
            // Also for what came late: an hour that is complete stays as it is.
            return Timestamp::from_second(end).unwrap_or(Timestamp::MAX);
        }
        let offset = i64::from(zone.to_offset(at).seconds());
        let start = second - (second + offset).rem_euclid(HOUR);
        self.turn(start, start + HOUR);
        Timestamp::from_second(start + HOUR).unwrap_or(Timestamp::MAX)
    }

    /// Completes the running hour and begins another.
    fn turn(&mut self, start: i64, end: i64) {
        if let Some((complete, _)) = self.running
            && self.moved != [0, 0]
        {
            let done = Arc::make_mut(&mut self.done);
            let expired = minute(start - WINDOW - HOUR);
            done.retain(|start| start >= expired);
            done.push(minute(complete), self.moved);
        }
        self.running = Some((start, end));
        self.moved = [0, 0];
    }

    fn count(&mut self, traffic: &Traffic) {
        self.moved[0] = self.moved[0].saturating_add(traffic.received.0);
        self.moved[1] = self.moved[1].saturating_add(traffic.sent.0);
    }

    /// When each hour began, in minutes since 1970, and what moved: the running one comes last.
    fn rows(&self) -> impl Iterator<Item = (u32, [u64; 2])> {
        let running = self.running.map(|(start, _)| (minute(start), self.moved));
        self.done.iter().chain(running)
    }

    /// When each hour began, and what the machine received and sent in it.
    #[cfg(test)]
    pub(crate) fn figures(&self) -> Vec<(Timestamp, [Bytes; 2])> {
        let figures = |(start, moved): (u32, [u64; 2])| (instant(start), moved.map(Bytes));
        self.rows().map(figures).collect()
    }

    /// What moved after `from`.
    fn since(&self, from: Timestamp) -> [Bytes; 2] {
        let mut hours = self.rows().peekable();
        let mut sums = [Bytes::ZERO; 2];
        while let Some((start, moved)) = hours.next() {
            // A change of offset by half an hour cuts an hour short.
            let next = hours.peek().map_or(u32::MAX, |(next, _)| *next);
            let (start, end) = (instant(start), instant(next.min(start.saturating_add(60))));
            if end <= from {
                continue;
            }
            for (sum, moved) in sums.iter_mut().zip(moved) {
                let before = arrived(Bytes(moved), start, end, from);
                *sum += Bytes(moved).saturating_sub(before);
            }
        }
        sums
    }
}

fn minute(second: i64) -> u32 {
    u32::try_from(second.div_euclid(60)).unwrap_or(0)
}

fn instant(minute: u32) -> Timestamp {
    Timestamp::from_second(i64::from(minute) * 60).unwrap_or(Timestamp::MAX)
}

fn less(all: Traffic, part: Traffic) -> Traffic {
    Traffic {
        received: all.received.saturating_sub(part.received),
        sent: all.sent.saturating_sub(part.sent),
        exempt: all.exempt.saturating_sub(part.exempt),
    }
}

/// Used at the period's end at the current rate; `None` in its first 24 hours.
///
/// used + (bytes of the last 72 hours, or of the period so far where that is shorter) / that
/// time x the time left.
pub(crate) fn forecast(
    hours: &Hours,
    traffic: &Traffic,
    direction: Direction,
    period: &Period,
    now: Timestamp,
) -> Option<Bytes> {
    if now
        < period
            .start
            .saturating_add(WITHHELD)
            .unwrap_or(Timestamp::MAX)
    {
        return None;
    }
    let window =
        Timestamp::from_second(now.as_second().saturating_sub(WINDOW)).unwrap_or(Timestamp::MIN);
    let (from, recent) = if window > period.start {
        (window, hours.since(window))
    } else {
        (period.start, [traffic.received, traffic.sent])
    };
    let span = nanoseconds_between(from, now).max(1);
    let left = period.left(now);
    let ahead = |recent: Bytes| whole(times(recent, left, span));
    let at_end = Traffic {
        received: traffic.received + ahead(recent[0]),
        sent: traffic.sent + ahead(recent[1]),
        exempt: Bytes::ZERO,
    };
    Some(match direction {
        // One rounding, not two.
        Direction::Sum => traffic.received + traffic.sent + ahead(recent[0] + recent[1]),
        _ => direction.counted(&at_end),
    })
}

/// `volume * part / whole` without overflow: 2^64 bytes times 500 years of nanoseconds fit.
fn times(volume: Bytes, part: u128, whole: u128) -> u128 {
    u128::from(volume.0).saturating_mul(part) / whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::units::MachineId;

    const GB: u64 = 1_000_000_000;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn june() -> Period {
        Period {
            start: at("2026-06-01T00:00:00Z"),
            end: at("2026-07-01T00:00:00Z"),
            zone: TimeZone::UTC,
        }
    }

    fn sample(from: &str, to: &str, gigabytes: u64) -> Sample {
        Sample {
            machine: MachineId::from("m"),
            from: at(from),
            to: at(to),
            traffic: Traffic {
                received: Bytes(gigabytes * GB),
                ..Traffic::ZERO
            },
        }
    }

    fn used(gigabytes: u64) -> Traffic {
        Traffic {
            received: Bytes(gigabytes * GB),
            ..Traffic::ZERO
        }
    }

    #[test]
    fn the_first_24_hours_have_no_forecast() {
        let hours = Hours::default();
        let foretell = |now| forecast(&hours, &used(10), Direction::Sum, &june(), at(now));
        assert_eq!(foretell("2026-06-01T23:59:59Z"), None);
        assert_eq!(foretell("2026-06-02T00:00:00Z"), Some(Bytes(300 * GB)));
    }

    #[test]
    fn a_forecast_is_used_and_the_last_72_hours_rate_for_the_time_left() {
        let mut hours = Hours::default();
        // 100 GB in the first week, then 3 GB a day: 9 GB in the window's 72 hours.
        let early = sample("2026-06-01T00:00:00Z", "2026-06-08T00:00:00Z", 100);
        let late = sample("2026-06-08T00:00:00Z", "2026-06-11T00:00:00Z", 9);
        hours.add(&early, None, early.to, &TimeZone::UTC);
        hours.add(&late, None, late.to, &TimeZone::UTC);
        let now = at("2026-06-11T00:00:00Z");
        assert_eq!(
            forecast(&hours, &used(109), Direction::Sum, &june(), now),
            Some(Bytes((109 + 3 * 20) * GB))
        );
        // Nothing moved for a day: the window holds two days of it.
        let now = at("2026-06-12T00:00:00Z");
        assert_eq!(
            forecast(&hours, &used(109), Direction::Sum, &june(), now),
            Some(Bytes((109 + 2 * 19) * GB))
        );
    }

    #[test]
    fn hours_are_those_of_the_zone_and_come_back_from_the_ledgers_rows() {
        let zone = TimeZone::get("Asia/Kathmandu").unwrap();
        let mut hours = Hours::default();
        let day = sample("2026-06-10T00:00:00Z", "2026-06-11T00:00:00Z", 24);
        hours.add(&day, None, day.to, &zone);
        // 05:45 ahead of UTC: civil hours begin at a quarter past.
        let first = at("2026-06-10T00:15:00Z");
        assert_eq!(hours.figures()[1].0, first);
        let mut restored = Hours::default();
        for (start, [received, sent]) in hours.figures() {
            let end = start + jiff::SignedDuration::from_hours(1);
            let traffic = Traffic {
                received,
                sent,
                exempt: Bytes::ZERO,
            };
            restored.push(start, end, &traffic);
        }
        assert_eq!(restored.clone().within(&june()), restored);
        let from = at("2026-06-10T12:15:00Z");
        let period = Period {
            start: from,
            ..june()
        };
        let later = restored.clone().within(&period).figures();
        assert_eq!(later, restored.figures()[13..]);
        assert_eq!(later[0].0, from);
        let ended = Period {
            end: from,
            ..june()
        };
        let earlier = restored.clone().within(&ended).figures();
        assert_eq!(earlier, restored.figures()[..13]);
        for from in ["2026-06-10T00:00:00Z", "2026-06-10T13:37:00Z"] {
            assert_eq!(restored.since(at(from)), hours.since(at(from)));
        }
        assert_eq!(hours.since(at("2026-06-09T23:15:00Z"))[0], Bytes(24 * GB));
    }

    #[test]
    fn an_hour_of_any_volume_comes_back_and_expired_ones_are_gone() {
        let volumes = [0, 1, 127, 128, 16_383, 16_384, GB, u64::MAX - 1, u64::MAX];
        let mut hours = Done::default();
        let rows: Vec<_> = (27_000_000_u32..)
            .step_by(60)
            .zip(volumes.map(|volume| [volume, u64::MAX - volume]))
            .collect();
        for (start, moved) in &rows {
            hours.push(*start, *moved);
        }
        assert_eq!(hours.iter().collect::<Vec<_>>(), rows);
        hours.retain(|start| start >= rows[3].0);
        assert_eq!(hours.iter().collect::<Vec<_>>(), rows[3..]);
        hours.retain(|_| false);
        assert_eq!(hours, Done::default());
    }

    #[test]
    fn larger_foretells_each_direction_and_takes_the_larger() {
        let traffic = Traffic {
            received: Bytes(10 * GB),
            sent: Bytes(20 * GB),
            exempt: Bytes::ZERO,
        };
        let now = at("2026-06-03T00:00:00Z");
        assert_eq!(
            forecast(&Hours::default(), &traffic, Direction::Larger, &june(), now),
            Some(Bytes(300 * GB))
        );
    }
}
