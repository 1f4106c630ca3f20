//! A ledger of every released schema is led to the newest, and nothing in it is lost.

use std::{fs, path::Path};

use rusqlite::Connection;

use super::*;
use crate::engine::{Engine, EngineSettings, plan::Terms};

/// Each written by the version that had that schema, as `sqlite3 ledger.db .dump` shows it. A
/// schema that is released gets its line here.
const RELEASED: &[(i64, &str)] = &[(1, include_str!("released/schema-1.sql"))];

fn begin(directory: &Path, dump: &str) {
    let connection = Connection::open(directory.join("ledger.db")).unwrap();
    connection.execute_batch(dump).unwrap();
}

#[test]
fn every_schema_but_the_newest_has_a_ledger_to_try() {
    let tried: Vec<_> = RELEASED.iter().map(|(version, _)| *version).collect();
    assert_eq!(tried, (1..schema::known()).collect::<Vec<_>>());
}

#[test]
fn a_ledger_of_every_released_schema_is_led_to_the_newest_and_adds_up() {
    for (version, dump) in RELEASED {
        let directory = tempfile::tempdir().unwrap();
        begin(directory.path(), dump);
        let before = Reader::open(directory.path()).unwrap();
        let rows = |reader: &Reader| {
            let one =
                |by| ["web1", "db1"].map(|m| reader.usage(&m.into(), by, None, None).unwrap());
            [HISTORIES.map(one), [Resolution::Period; 4].map(one)]
        };
        let held = rows(&before);
        assert_eq!(before.verify().unwrap().difference, None, "as it was");
        drop(before);

        let (mut ledger, remembered) = Ledger::open(directory.path()).unwrap();
        let reader = ledger.reader().unwrap();
        let found: i64 = ledger
            .connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(found, schema::known(), "from {version}");
        assert_eq!(rows(&reader), held, "from {version}");
        assert_eq!(reader.verify().unwrap().difference, None, "from {version}");
        assert_eq!(
            total(&reader, "web1", Resolution::Month),
            moved(59_999_820_940, 59_999_280, 200)
        );
        assert_eq!(
            total(&reader, "db1", Resolution::Month),
            moved(63, 9_895_604_649_984, 0)
        );

        // What was remembered is of use, and goes on.
        assert_eq!(remembered.slots.len(), 2);
        assert_eq!(remembered.generations.len(), 3);
        assert_eq!(reader.outbox_waiting().unwrap(), 1);
        assert!(ledger.answer("k1").unwrap().is_some());
        let settings = EngineSettings::default();
        Engine::new(Terms::default().into(), remembered.kept.clone(), settings).unwrap();
        let now = remembered.last.unwrap() + SECOND * 60;
        let mut step = batch(now);
        for record in &remembered.slots {
            let mut reading = record.cursor;
            reading.traffic += moved(9, 7, 0);
            let (traffic, next) = cursor::advance(record, &reading, record.shaped).unwrap();
            step.slots.push(next);
            let name = record.machine.as_str();
            step.usage
                .push(usage(name, &TimeZone::UTC, now - SECOND * 60, now, traffic));
        }
        for kept in &remembered.kept.machines {
            let running = Running {
                traffic: kept.running.traffic + moved(9, 7, 0),
                ..kept.running
            };
            let name = kept.machine.as_str();
            step.changes.machines.push(change(name, None, running));
        }
        step.freed = vec![remembered.slots[0].counter.clone()];
        ledger.record(&step).unwrap();
        assert_eq!(reader.verify().unwrap().difference, None, "from {version}");
    }
}

#[test]
fn a_step_to_the_next_schema_that_fails_leaves_the_ledger_as_it_was() {
    let (version, dump) = RELEASED[0];
    let directory = tempfile::tempdir().unwrap();
    begin(directory.path(), dump);
    // In the way of the table that the next version makes last.
    let file = directory.path().join("ledger.db");
    let connection = Connection::open(&file).unwrap();
    connection.execute_batch("CREATE TABLE chain (x)").unwrap();
    drop(connection);
    Ledger::open(directory.path()).unwrap_err();
    let connection = Connection::open(&file).unwrap();
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(found, version);
    connection.execute_batch("DROP TABLE chain").unwrap();
    drop(connection);
    let (ledger, _) = Ledger::open(directory.path()).unwrap();
    assert_eq!(ledger.reader().unwrap().verify().unwrap().difference, None);
    drop(ledger);
    assert!(fs::metadata(&file).unwrap().len() > 0);
}
