//! Usage from elsewhere, and machines that are forgotten.

use proptest::prelude::*;

use super::*;

fn row(from: Timestamp, to: Timestamp, received: u64) -> SeedRow {
    SeedRow {
        from,
        to,
        received: Bytes(received),
        sent: Bytes(received / 3),
    }
}

fn seed(rows: Vec<SeedRow>, zone: &TimeZone) -> Seed {
    Seed {
        machine: "m".into(),
        zone: zone.clone(),
        rows,
        source: "usage.csv".into(),
        author: "root".into(),
    }
}

fn metered(ledger: &mut Ledger, from: Timestamp, minutes: i32, zone: &TimeZone) {
    let mut record = slot("m", 1);
    for minute in 1..=minutes {
        let to = from + SECOND * 60 * minute;
        let mut reading = record.cursor;
        reading.traffic += moved(77, 7, 0);
        let (traffic, next) = cursor::advance(&record, &reading, None).unwrap();
        record = next;
        let mut step = batch(to);
        step.slots = vec![record.clone()];
        step.usage = vec![usage("m", zone, to - SECOND * 60, to, traffic)];
        ledger.record(&step).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Before, after and in holes of what is recorded, days or years ago: all of it is in the
    /// months, every resolution adds up as far as it is kept, and nothing is taken twice.
    #[test]
    fn what_is_brought_in_is_part_of_the_history_to_the_byte(
        zone_name in prop::sample::select(&["UTC", "Asia/Kathmandu", "America/St_Johns"][..]),
        first_metered in 0_i32..3, spans in prop::collection::vec((1_i64..4_000_000, 0_i64..200_000, 0_u64..1_000_000_007), 1..12),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let (zone, now) = (zone(zone_name), at("2026-11-20T10:00:00Z"));
        if first_metered > 0 {
            metered(&mut ledger, now, 5 * first_metered, &zone);
        }
        let mut rows = Vec::new();
        let mut to = now;
        for (length, gap, bytes) in spans {
            let from = to - SECOND * i32::try_from(length).unwrap();
            if bytes > 0 {
                rows.push(row(from, to, bytes));
            }
            to = from - SECOND * i32::try_from(gap).unwrap();
        }
        prop_assume!(!rows.is_empty());
        rows.reverse();
        let seed = seed(rows, &zone);
        let reader = ledger.reader().unwrap();
        prop_assert_eq!(reader.refuses(&seed).unwrap(), None);
        ledger.seed(&batch(now + SECOND * 3600), &seed, &Retention::default()).unwrap();
        let measured = total(&reader, "m", Resolution::Month);
        let minutes = 5 * u64::try_from(first_metered).unwrap();
        prop_assert_eq!(measured, seed.traffic() + moved(77 * minutes, 7 * minutes, 0));
        prop_assert_eq!(reader.verify().unwrap().difference, None);
        let again = reader.refuses(&seed).unwrap().unwrap();
        prop_assert!(again.contains("imported already"), "{}", again);
        while ledger.prune(now, &Retention::default()).unwrap().more {}
        prop_assert_eq!(reader.verify().unwrap().difference, None);
        drop(ledger);
        let (ledger, _) = Ledger::open(directory.path()).unwrap();
        prop_assert_eq!(ledger.reader().unwrap().verify().unwrap().difference, None);
    }
}

#[test]
fn rows_of_time_that_is_recorded_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let now = at("2026-11-20T10:00:00Z");
    metered(&mut ledger, now, 3, &TimeZone::UTC);
    let reader = ledger.reader().unwrap();
    let refusal = |rows| reader.refuses(&seed(rows, &TimeZone::UTC)).unwrap();
    let hour = SECOND * 3600;
    assert_eq!(
        refusal(vec![row(now - hour, now, 5)]),
        None,
        "up to the first minute"
    );
    assert_eq!(
        refusal(vec![row(now + hour, now + hour * 2, 5)]),
        None,
        "behind"
    );
    let refused = refusal(vec![
        row(now - hour, now, 5),
        row(now, now + SECOND * 30, 5),
        row(now + SECOND * 150, now + hour, 5),
    ]);
    insta::assert_snapshot!(refused.unwrap(), @"2 of 3 rows are of time that is recorded already, and would count twice: row 2 (2026-11-20T10:00:00Z to 2026-11-20T10:00:30Z): 77 B received and 7 B sent are recorded from 2026-11-20T10:00:00Z to 2026-11-20T10:01:00Z; row 3 (2026-11-20T10:02:30Z to 2026-11-20T11:00:00Z): 77 B received and 7 B sent are recorded from 2026-11-20T10:02:00Z to 2026-11-20T10:03:00Z. Leave them out");
    // By hours, once the minutes are gone.
    let much_later = now + hour * 24 * 40;
    while ledger
        .prune(much_later, &Retention::default())
        .unwrap()
        .more
    {}
    assert!(refusal(vec![row(now - hour, now, 5)]).is_none());
    assert!(refusal(vec![row(now - hour, now + SECOND, 5)]).is_some());
}

#[test]
fn what_reaches_into_a_closed_period_is_refused_because_its_statement_stands() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let [october, november, december] =
        ["2026-10-01", "2026-11-01", "2026-12-01"].map(|day| at(&format!("{day}T00:00:00Z")));
    let mut step = batch(november);
    let closed = running(october, november, november, Traffic::ZERO);
    step.changes.closed = vec![("m".into(), closed)];
    let now_running = running(november, december, november, Traffic::ZERO);
    step.changes.machines = vec![change("m", Some("{}"), now_running)];
    ledger.record(&step).unwrap();
    let reader = ledger.reader().unwrap();
    let refusal = |from, to| {
        let rows = vec![row(from, to, 5)];
        reader.refuses(&seed(rows, &TimeZone::UTC)).unwrap()
    };
    let day = SECOND * 86_400;
    assert_eq!(refusal(october - day, october), None, "before the first");
    assert_eq!(
        refusal(november, november + day),
        None,
        "in the running one"
    );
    for from in [october - day, october, november - day] {
        let refused = refusal(from, from + day * 2).unwrap();
        assert!(refused.contains("closed"), "{refused}");
    }
}

#[test]
fn of_a_forgotten_machine_events_stay_and_its_statements_go_on_should_it_return() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let [october, november, december] =
        ["2026-10-01", "2026-11-01", "2026-12-01"].map(|day| at(&format!("{day}T00:00:00Z")));
    metered(&mut ledger, november, 3, &TimeZone::UTC);
    let close = |ledger: &mut Ledger, start, end| {
        let mut step = batch(end);
        let closed = running(start, end, end, Traffic::ZERO);
        step.changes.closed = vec![("m".into(), closed)];
        step.events = vec![event(end, "m", "period-started")];
        ledger.record(&step).unwrap();
    };
    close(&mut ledger, october - SECOND * 86_400, october);
    let other = usage("other", &TimeZone::UTC, october, november, moved(9, 9, 9));
    let mut record = slot("other", 2);
    record.cursor.traffic = moved(9, 9, 9);
    let mut step = batch(november);
    (step.usage, step.slots) = (vec![other], vec![record]);
    ledger.record(&step).unwrap();
    let mut last = batch(december);
    last.freed = vec![slot("m", 1).counter.clone()];
    ledger.record(&last).unwrap();

    let reader = ledger.reader().unwrap();
    let held = reader.holdings(&"m".into()).unwrap().unwrap();
    assert_eq!((held.traffic, held.slots), (moved(231, 21, 0), 0));
    let first = reader.statements(Some(&"m".into())).unwrap();
    let mut step = batch(december);
    step.events = vec![event(december, "m", "forgotten")];
    ledger.forget(&step, &"m".into()).unwrap();

    assert_eq!(reader.holdings(&"m".into()).unwrap(), None);
    assert_eq!(reader.verify().unwrap().difference, None);
    assert_eq!(total(&reader, "other", Resolution::Minute), moved(9, 9, 9));
    for table in [
        "minute", "hour", "day", "month", "open", "settled", "period", "zone", "seed",
    ] {
        let sql = format!(
            "SELECT count(*) FROM {table} WHERE {} = 1",
            match table {
                "minute" | "hour" | "day" | "month" => "key & 0xffffff",
                _ => "machine",
            }
        );
        let left: i64 = ledger
            .connection
            .query_row(&sql, [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0, "{table}");
    }
    let filter = EventFilter {
        machine: Some("m".into()),
        limit: 9,
        ..EventFilter::default()
    };
    assert_eq!(reader.events(&filter).unwrap().len(), 2);

    close(&mut ledger, november, december);
    let statements = reader.statements(Some(&"m".into())).unwrap();
    assert_eq!(statements[0].sequence, 2);
    assert_eq!(statements[0].previous, first[0].hash());
    drop(ledger);
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    metered(&mut ledger, december, 2, &TimeZone::UTC);
    assert_eq!(ledger.reader().unwrap().verify().unwrap().difference, None);
}
