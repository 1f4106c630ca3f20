//! Copies of the ledger, and copies put in its place.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
};

use super::*;

/// So many minutes of one machine, cursors and histories saying the same.
fn filled(directory: &Path, minutes: i32) -> Ledger {
    let (mut ledger, remembered) = Ledger::open(directory).unwrap();
    let mut record = remembered.slots.first().cloned().unwrap_or(slot("m", 1));
    let from = remembered.last.unwrap_or(at("2026-11-20T10:00:00Z"));
    for minute in 1..=minutes {
        let to = from + SECOND * 60 * minute;
        let mut reading = record.cursor;
        reading.traffic += moved(1_000, 1, 0);
        let (traffic, next) = cursor::advance(&record, &reading, None).unwrap();
        record = next;
        let mut step = batch(to);
        step.slots = vec![record.clone()];
        step.usage = vec![usage("m", &TimeZone::UTC, to - SECOND * 60, to, traffic)];
        ledger.record(&step).unwrap();
    }
    ledger
}

fn received(directory: &Path) -> u64 {
    let reader = Reader::open(directory).unwrap();
    assert_eq!(reader.verify().unwrap().difference, None);
    total(&reader, "m", Resolution::Month).received.0
}

const NOW: &str = "2026-11-21T00:00:00Z";

fn restored(directory: &Path, from: &Path) -> Result<Restored, LedgerError> {
    let lock = lock(directory).unwrap();
    let finish = |last: Option<Timestamp>| {
        assert!(last.is_some());
        (event(at(NOW), "m", "ledger-restored"), None)
    };
    restore(directory, from, at(NOW), finish, &lock)
}

#[test]
fn a_backup_is_of_one_state_while_the_ledger_is_written_and_is_one_file_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    // Much of it still in the log, and the writer goes on.
    let ledger = filled(directory.path(), 300);
    let to = directory.path().join("copy.db");
    let written = backup(directory.path(), &to, Existing::Keep).unwrap();
    drop(ledger);
    assert_eq!(written.last, Some(at("2026-11-20T15:00:00Z")));
    assert_eq!(written.verified.difference, None);
    assert_eq!(
        fs::metadata(&to).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let verified = verify_file(&to).unwrap();
    assert_eq!(
        (verified.difference, verified.rows),
        (None, written.verified.rows)
    );
    let names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("copy"))
        .collect();
    assert_eq!(
        names,
        ["copy.db"],
        "nothing beside it, before or after reading it"
    );
}

#[test]
fn what_is_there_already_stays_unless_it_is_to_be_replaced() {
    let directory = tempfile::tempdir().unwrap();
    drop(filled(directory.path(), 3));
    let to = directory.path().join("copy.db");
    fs::write(&to, "precious").unwrap();
    let refused = backup(directory.path(), &to, Existing::Keep).unwrap_err();
    assert!(matches!(refused, LedgerError::Exists { .. }), "{refused}");
    assert_eq!(fs::read(&to).unwrap(), b"precious");
    backup(directory.path(), &to, Existing::Replace).unwrap();
    assert_eq!(verify_file(&to).unwrap().difference, None);
}

#[test]
fn a_ledger_that_does_not_add_up_gives_no_backup_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = filled(directory.path(), 3);
    let sql = "UPDATE open SET day_sent = day_sent + 1";
    ledger.connection.execute_batch(sql).unwrap();
    let before = fs::read_dir(directory.path()).unwrap().count();
    let to = directory.path().join("copy.db");
    let refused = backup(directory.path(), &to, Existing::Keep).unwrap_err();
    assert!(matches!(refused, LedgerError::Differs { .. }), "{refused}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), before);
}

#[test]
fn a_restore_puts_the_ledger_aside_with_its_log_and_goes_on_from_the_backup() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = filled(directory.path(), 10);
    let copy = directory.path().join("copy.db");
    backup(directory.path(), &copy, Existing::Keep).unwrap();
    drop(ledger);
    // What the old one holds since is partly in its log: as after a kill.
    let ledger = filled(directory.path(), 10);
    let (old, log) = ("ledger.db", "ledger.db-wal");
    let saved = tempfile::tempdir().unwrap();
    for name in [old, log] {
        fs::copy(directory.path().join(name), saved.path().join(name)).unwrap();
    }
    drop(ledger);
    for name in [old, log] {
        fs::copy(saved.path().join(name), directory.path().join(name)).unwrap();
    }

    let done = restored(directory.path(), &copy).unwrap();
    assert_eq!(done.last, Some(at("2026-11-20T10:10:00Z")));
    assert_eq!(received(directory.path()), 10_000);
    let (ledger, remembered) = Ledger::open(directory.path()).unwrap();
    assert_eq!(
        remembered.last, done.last,
        "what came since is still to be taken"
    );
    let events = ledger.reader().unwrap().events(&EventFilter {
        limit: 9,
        ..EventFilter::default()
    });
    let (_, first) = &events.unwrap()[0];
    assert!(first.get().contains("\"ledger-restored\""), "{first}");
    drop(ledger);
    // Aside is everything, also what only the log had.
    let aside = done.aside.unwrap();
    let was = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", aside.display());
        fs::copy(from, was.path().join(format!("ledger.db{suffix}"))).unwrap();
    }
    assert_eq!(received(was.path()), 20_000);
    let names = fs::read_dir(directory.path()).unwrap();
    let left = names.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        name.contains("restor")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn a_backup_that_is_damaged_newer_or_none_is_refused_and_the_ledger_stays() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = filled(directory.path(), 50);
    let copy = directory.path().join("copy.db");
    backup(directory.path(), &copy, Existing::Keep).unwrap();
    drop(ledger);
    let good = fs::read(&copy).unwrap();
    let damages: [(&str, &dyn Fn()); 4] = [
        ("damaged", &|| {
            let file = fs::File::options().write(true).open(&copy).unwrap();
            file.write_all_at(&[0xff; 64], 4096 * 2).unwrap();
        }),
        ("newer", &|| {
            let connection = rusqlite::Connection::open(&copy).unwrap();
            connection.pragma_update(None, "user_version", 99).unwrap();
        }),
        ("add up", &|| {
            let connection = rusqlite::Connection::open(&copy).unwrap();
            let sql = "UPDATE open SET month_received = 1";
            connection.execute_batch(sql).unwrap();
        }),
        ("damaged", &|| fs::write(&copy, "no ledger").unwrap()),
    ];
    for (why, damage) in damages {
        fs::write(&copy, &good).unwrap();
        damage();
        let refused = restored(directory.path(), &copy).unwrap_err().to_string();
        assert!(
            refused.contains(why) && refused.contains("copy.db"),
            "{refused}"
        );
        assert_eq!(received(directory.path()), 50_000, "{why}");
    }
    fs::write(&copy, &good).unwrap();
    restored(directory.path(), &copy).unwrap();
}

#[test]
fn after_a_restore_that_was_cut_short_no_start_takes_the_wrong_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = filled(directory.path(), 2);
    let copy = directory.path().join("copy.db");
    backup(directory.path(), &copy, Existing::Keep).unwrap();
    drop(ledger);
    // The old one aside, the new one not there yet.
    fs::rename(
        directory.path().join("ledger.db"),
        directory.path().join("x"),
    )
    .unwrap();
    fs::copy(&copy, directory.path().join("ledger.db.restoring")).unwrap();
    let refused = Ledger::open(directory.path()).unwrap_err();
    assert!(refused.to_string().contains("meterd restore"), "{refused}");
    let done = restored(directory.path(), &copy).unwrap();
    assert_eq!(done.aside, None);
    assert_eq!(received(directory.path()), 2_000);
}

#[test]
fn a_backup_of_an_earlier_schema_is_led_to_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.db");
    let old = rusqlite::Connection::open(&copy).unwrap();
    old.execute_batch(include_str!("released/schema-1.sql"))
        .unwrap();
    drop(old);
    restored(directory.path(), &copy).unwrap();
    let (ledger, _) = Ledger::open(directory.path()).unwrap();
    assert_eq!(ledger.reader().unwrap().verify().unwrap().difference, None);
}
