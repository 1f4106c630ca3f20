//! Nothing is lost to rounding, to late polls or to clocks that are set.

use proptest::prelude::*;

use super::*;
use crate::{engine::span::arrived_traffic, ledger::rollup::Zones};

/// Clocks set by an hour, by half an hour, at midnight; offsets of half and quarter hours;
/// a day left out (Apia 2011) and days that begin at one o'clock (Beirut, Asuncion).
const ZONES: [&str; 12] = [
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "America/St_Johns",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Asia/Beirut",
    "America/Asuncion",
    "America/Havana",
];

/// 1990 to 2040.
const YEARS: std::ops::Range<i64> = 631_152_000..2_208_988_800;

fn nanos(nanos: i128) -> Timestamp {
    Timestamp::from_nanosecond(nanos).unwrap()
}

proptest! {
    #[test]
    fn buckets_tile_time_and_nest_in_every_zone(
        name in prop::sample::select(&ZONES[..]), second in YEARS, steps in 1_usize..40,
    ) {
        let mut zones = Zones::default();
        zones.push(Timestamp::MIN, zone(name));
        for (fine, coarse) in HISTORIES.iter().zip(&HISTORIES[1..]) {
            let mut instant = Timestamp::from_second(second).unwrap();
            for _ in 0..steps {
                let span = zones.bucket(*fine, instant);
                prop_assert!(span.holds(instant), "{fine:?} {span:?} {instant}");
                prop_assert_eq!(zones.bucket(*fine, span.start), span);
                let last = span.end - SignedDuration::from_nanos(1);
                prop_assert_eq!(zones.bucket(*fine, last), span);
                let around = zones.bucket(*coarse, instant);
                prop_assert!(around.start <= span.start && span.end <= around.end,
                    "{fine:?} {span:?} reaches beyond {coarse:?} {around:?}");
                instant = span.end;
            }
        }
    }
}

#[test]
fn hours_and_days_are_those_of_the_zone() {
    for (name, resolution, instant, start, end) in [
        // A half-hour offset.
        (
            "Asia/Kolkata",
            Resolution::Hour,
            "2026-03-01T10:00:00Z",
            "2026-03-01T09:30:00Z",
            "2026-03-01T10:30:00Z",
        ),
        // 25 hours; each of the two hours called 02:00 is one of its own.
        (
            "Europe/Vienna",
            Resolution::Day,
            "2026-10-25T12:00:00Z",
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
        ),
        (
            "Europe/Vienna",
            Resolution::Hour,
            "2026-10-25T01:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T02:00:00Z",
        ),
        // 23 hours.
        (
            "Europe/Vienna",
            Resolution::Day,
            "2026-03-29T12:00:00Z",
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
        ),
        // Set forward by half an hour at 02:00: half an hour is left of the hour.
        (
            "Australia/Lord_Howe",
            Resolution::Hour,
            "2026-10-03T15:40:00Z",
            "2026-10-03T15:30:00Z",
            "2026-10-03T16:00:00Z",
        ),
        // Set back by half an hour at 02:00: the second 01:30 to 02:00.
        (
            "Australia/Lord_Howe",
            Resolution::Hour,
            "2026-04-04T15:10:00Z",
            "2026-04-04T15:00:00Z",
            "2026-04-04T15:30:00Z",
        ),
        // The day that has no midnight begins at 01:00.
        (
            "Asia/Beirut",
            Resolution::Day,
            "2026-03-29T12:00:00Z",
            "2026-03-28T22:00:00Z",
            "2026-03-29T21:00:00Z",
        ),
        // No 30 December in 2011.
        (
            "Pacific/Apia",
            Resolution::Day,
            "2011-12-30T09:00:00Z",
            "2011-12-29T10:00:00Z",
            "2011-12-30T10:00:00Z",
        ),
        (
            "Pacific/Apia",
            Resolution::Day,
            "2011-12-30T10:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-31T10:00:00Z",
        ),
        (
            "Europe/Vienna",
            Resolution::Month,
            "2026-03-15T00:00:00Z",
            "2026-02-28T23:00:00Z",
            "2026-03-31T22:00:00Z",
        ),
    ] {
        let mut zones = Zones::default();
        zones.push(Timestamp::MIN, zone(name));
        let span = zones.bucket(resolution, at(instant));
        assert_eq!(
            (span.start, span.end),
            (at(start), at(end)),
            "{name} {resolution:?} {instant}"
        );
    }
}

/// A poll: how long after the one before, where the clock was set to, and what moved.
#[derive(Clone, Debug)]
struct Poll {
    after: i64,
    stepped: i64,
    received: u64,
    sent: u64,
    exempt: u64,
    /// The index of the zone from now on.
    zone: usize,
}

fn polls() -> impl Strategy<Value = Vec<Poll>> {
    let after = prop_oneof![
        6 => 900_000_000..70_000_000_000_i64,
        3 => 0..10_000_000_000_000_i64,
        1 => 0..3_000_000_000_000_000_i64, // more than a month
    ];
    let stepped = prop_oneof![9 => Just(0_i64), 1 => -90_000_000_000..90_000_000_000_i64];
    let bytes = || prop_oneof![3 => 0..10_000_000_000_u64, 1 => Just(0), 1 => 0..7_u64];
    let zone = prop_oneof![8 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    let poll = (after, stepped, bytes(), bytes(), bytes(), zone).prop_map(
        |(after, stepped, received, sent, exempt, zone)| Poll {
            after,
            stepped,
            received,
            sent,
            exempt,
            zone,
        },
    );
    prop::collection::vec(poll, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Late polls that span minutes, hours and months, clocks that are set, changes of zone
    /// and restarts: the counters' whole in every resolution, to the byte.
    #[test]
    fn every_resolution_adds_up_to_the_counters(
        names in prop::array::uniform3(prop::sample::select(&ZONES[..])),
        start in YEARS, polls in polls(), restart in 1_usize..16,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let zones = names.map(zone);
        let mut now = nanos(i128::from(start) * 1_000_000_000);
        let mut slot = slot("m", 1);
        for (index, poll) in polls.iter().enumerate() {
            if index == restart {
                drop(ledger);
                let (opened, remembered) = Ledger::open(directory.path()).unwrap();
                prop_assert_eq!(&remembered.slots[..], std::slice::from_ref(&slot));
                ledger = opened;
            }
            let from = nanos(now.as_nanosecond() + i128::from(poll.stepped));
            let to = nanos(from.as_nanosecond() + i128::from(poll.after));
            let mut reading = slot.cursor;
            reading.traffic += moved(poll.received, poll.sent, poll.exempt);
            let (traffic, moved_on) = cursor::advance(&slot, &reading, None).unwrap();
            slot = moved_on;
            let mut step = batch(to);
            step.slots = vec![slot.clone()];
            step.usage = vec![usage("m", &zones[poll.zone], from, to, traffic)];
            ledger.record(&step).unwrap();
            now = to;
        }
        let reader = ledger.reader().unwrap();
        for by in HISTORIES {
            prop_assert_eq!(total(&reader, "m", by), slot.cursor.traffic, "{:?}", by);
        }
        prop_assert_eq!(reader.verify().unwrap().difference, None);
    }
}

/// A slot that has counted that much.
fn counted(machine: &str, traffic: Traffic) -> SlotRecord {
    let mut slot = slot(machine, 1);
    slot.cursor.traffic = traffic;
    slot
}

/// A machine whose slot is freed, another that begins anew because its counter fell, and one
/// that lives on: their months are what their counters gave, and a byte more or less is seen.
#[test]
fn months_are_what_the_counters_gave_also_those_that_are_gone_or_fell() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let (mut now, zone) = (at("2026-11-20T10:00:00Z"), TimeZone::UTC);
    let mut slots = [slot("a", 1), slot("a", 2), slot("b", 3)];
    slots[0].credit = Some(moved(40, 2, 0));
    let counter = |index: usize| slot("", u32::try_from(index).unwrap() + 1).counter.clone();
    for round in 0..6_u64 {
        let mut step = batch(now + SECOND * 60);
        for (index, record) in slots.iter_mut().enumerate() {
            if index == 0 && round > 3 {
                continue;
            }
            let mut reading = record.cursor;
            reading.traffic += moved(1_000, 500, 3);
            reading.shaped[0] += Bytes(300);
            let stands = Some(Shaped {
                ifb: 5,
                through: [Bytes(100 * round), Bytes(0)],
            });
            let mut traffic = if round == 2 && index == 2 {
                // Overwritten with zeroes from outside: not even the base tells.
                reading = Reading::default();
                *record = cursor::begun_anew(record, &reading, None);
                step.anew = vec![record.counter.clone()];
                Traffic::ZERO
            } else {
                let (moved, next) = cursor::advance(record, &reading, stands).unwrap();
                *record = next;
                moved
            };
            if round == 0 {
                traffic += record.credit.unwrap_or(Traffic::ZERO);
            }
            step.slots.push(record.clone());
            let name = record.machine.as_str();
            step.usage.push(usage(name, &zone, now, step.at, traffic));
        }
        if round == 3 {
            step.freed = vec![counter(0)];
        }
        ledger.record(&step).unwrap();
        now = step.at;
        let verified = ledger.reader().unwrap().verify().unwrap();
        assert_eq!(verified.difference, None, "round {round}");
    }
    for (sql, parts) in [
        ("UPDATE settled SET sent = sent + 1 WHERE machine = 1", 1),
        (
            "UPDATE cursor SET received = received - 7 WHERE slot = 2",
            -7,
        ),
        ("UPDATE slot SET credit_sent = 0 WHERE machine = 99", 0),
    ] {
        ledger.connection.execute_batch("SAVEPOINT s").unwrap();
        ledger.connection.execute_batch(sql).unwrap();
        let found = verify::verify(&ledger.connection, schema::known()).unwrap();
        ledger
            .connection
            .execute_batch("ROLLBACK TO s; RELEASE s")
            .unwrap();
        let off = found.difference.map_or(0, |found| {
            assert_eq!((found.machine.as_str(), found.of), ("a", Parts::Counters));
            let sum = |t: Traffic| i128::from(t.received.0) + i128::from(t.sent.0);
            sum(found.parts) - sum(found.row)
        });
        assert_eq!(off, parts, "{sql}");
    }
}

#[test]
fn a_late_poll_counts_in_the_minutes_hours_and_days_that_it_spans() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let vienna = zone("Europe/Vienna");
    // Three civil days, one of them of 25 hours, by a prime number of bytes.
    let (from, to) = (at("2026-10-23T22:00:30.5Z"), at("2026-10-26T11:17:42.25Z"));
    let traffic = moved(1_000_000_007, 999_983, 3);
    let mut step = batch(to);
    step.usage = vec![usage("m", &vienna, from, to, traffic)];
    ledger.record(&step).unwrap();
    let reader = ledger.reader().unwrap();
    for (by, count) in [
        (Resolution::Minute, 3678),
        (Resolution::Hour, 62),
        (Resolution::Day, 3),
        (Resolution::Month, 1),
    ] {
        let rows = reader.usage(&"m".into(), by, None, None).unwrap();
        assert_eq!(rows.len(), count, "{by:?}");
        for row in rows {
            let share = |at| arrived_traffic(traffic, from, to, at);
            assert_eq!(
                share(row.start) + row.traffic,
                share(row.end),
                "{by:?} {row:?}"
            );
        }
        assert_eq!(total(&reader, "m", by), traffic);
    }
}

#[test]
fn a_sample_that_ends_at_a_boundary_belongs_to_what_ends_there() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let boundary = at("2026-12-01T00:00:00Z");
    let mut step = batch(boundary);
    step.usage = vec![
        usage(
            "m",
            &TimeZone::UTC,
            boundary - SECOND,
            boundary,
            moved(1, 0, 0),
        ),
        // Of no length, and of a clock that was set back in between.
        usage("m", &TimeZone::UTC, boundary, boundary, moved(2, 0, 0)),
        usage(
            "m",
            &TimeZone::UTC,
            boundary + SECOND,
            boundary,
            moved(4, 0, 0),
        ),
    ];
    ledger.record(&step).unwrap();
    let reader = ledger.reader().unwrap();
    for by in HISTORIES {
        let rows = reader.usage(&"m".into(), by, None, None).unwrap();
        assert_eq!(rows.len(), 1, "{by:?}");
        assert_eq!(
            (rows[0].end, rows[0].traffic),
            (boundary, moved(7, 0, 0)),
            "{by:?}"
        );
    }
}

#[test]
fn a_machine_without_traffic_has_no_rows() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let to = at("2026-11-20T10:00:00Z");
    let mut step = batch(to);
    step.usage = vec![usage(
        "m",
        &TimeZone::UTC,
        to - SECOND * 86_400,
        to,
        Traffic::ZERO,
    )];
    ledger.record(&step).unwrap();
    for table in ["minute", "hour", "day", "month", "open"] {
        let rows: i64 = ledger
            .connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[test]
fn a_change_of_zone_cuts_the_day_and_no_rows_overlap() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let change = at("2026-12-01T00:00:00Z");
    let mut step = batch(change);
    let (before, after) = (change - SECOND * 3600, change + SECOND * 3600);
    step.usage = vec![
        usage("m", &TimeZone::UTC, before, change, moved(1, 0, 0)),
        usage("m", &zone("Asia/Kolkata"), change, after, moved(2, 0, 0)),
    ];
    step.slots = vec![counted("m", moved(3, 0, 0))];
    ledger.record(&step).unwrap();
    let reader = ledger.reader().unwrap();
    let days = reader
        .usage(&"m".into(), Resolution::Day, None, None)
        .unwrap();
    let bounds: Vec<_> = days.iter().map(|row| (row.start, row.end)).collect();
    let midnight = at("2026-12-01T18:30:00Z");
    assert_eq!(
        bounds,
        [(at("2026-11-30T00:00:00Z"), change), (change, midnight)]
    );
    assert_eq!(reader.verify().unwrap().difference, None);
}

#[test]
fn what_is_past_its_retention_goes_a_little_at_a_time_and_the_rest_still_adds_up() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let (from, to) = (at("2026-01-01T00:00:00Z"), at("2026-03-15T12:34:56Z"));
    let traffic = moved(1_000_000_007, 1_000_003, 0);
    let mut step = batch(to);
    step.usage = vec![usage("m", &zone("Asia/Kolkata"), from, to, traffic)];
    step.slots = vec![counted("m", traffic)];
    ledger.record(&step).unwrap();
    let retention = Retention {
        minutes: SignedDuration::from_hours(24 * 2),
        hours: SignedDuration::from_hours(24 * 20),
        days: SignedDuration::from_hours(24 * 40),
    };
    let first = ledger.prune(to, &retention).unwrap();
    assert!(first.more && first.rows > 50_000, "{first:?}");
    while ledger.prune(to, &retention).unwrap().more {}
    let reader = ledger.reader().unwrap();
    for (by, kept) in
        HISTORIES
            .into_iter()
            .zip([retention.minutes, retention.hours, retention.days])
    {
        let rows = reader.usage(&"m".into(), by, None, None).unwrap();
        let oldest = to - kept;
        assert!(
            rows[0].start >= oldest && rows[0].start <= oldest + SECOND * 86_400,
            "{by:?}"
        );
    }
    assert_eq!(total(&reader, "m", Resolution::Month), traffic);
    let verified = reader.verify().unwrap();
    assert_eq!(verified.difference, None);
    assert!(verified.rows > 48 + 18, "{verified:?}");
}
