//! Disks that fill, files that are damaged, and what is said of them.

use std::{fs, os::unix::fs::FileExt as _, path::Path};

use rusqlite::Connection;

use super::*;

const MINUTE: i32 = 60;

/// A minute of three machines with a slot each, whose cursor and usage say the same.
fn minute(index: i32) -> Batch {
    let to = at("2026-11-20T10:00:00Z") + SECOND * MINUTE * (index + 1);
    let mut step = batch(to);
    for machine in 0..3_u32 {
        let name = format!("m{machine}");
        let each = u64::from(machine) + 1;
        let minutes = u64::try_from(index).unwrap() + 1;
        let mut slot = slot(&name, machine);
        slot.cursor.traffic = moved(1_000 * each * minutes, 0, 0);
        step.slots.push(slot);
        let from = to - SECOND * MINUTE;
        step.usage.push(usage(
            &name,
            &TimeZone::UTC,
            from,
            to,
            moved(1_000 * each, 0, 0),
        ));
    }
    step
}

/// A step that takes much room in the file.
fn bulky(index: i32) -> Batch {
    let mut step = minute(index);
    let mut event = event(step.at, "m0", "bulk");
    event.body = serde_json::json!({"text": "x".repeat(200_000)});
    step.events.push(event);
    step
}

fn cursors(directory: &Path) -> Vec<Traffic> {
    let (_, remembered) = Ledger::open(directory).unwrap();
    remembered
        .slots
        .iter()
        .map(|slot| slot.cursor.traffic)
        .collect()
}

#[test]
fn a_full_disk_changes_nothing_and_the_next_commit_takes_all() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    ledger.record(&minute(0)).unwrap();
    let pages: i64 = ledger
        .connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    ledger
        .connection
        .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
        .unwrap();
    let full = ledger.record(&bulky(1)).unwrap_err();
    assert!(matches!(full, LedgerError::Full { .. }), "{full:?}");
    assert!(full.to_string().contains("the disk is full"));
    let reader = ledger.reader().unwrap();
    assert_eq!(total(&reader, "m2", Resolution::Minute), moved(3_000, 0, 0));
    let filter = EventFilter {
        limit: 9,
        ..EventFilter::default()
    };
    assert_eq!(reader.events(&filter).unwrap().len(), 0);

    ledger
        .connection
        .pragma_update_and_check(None, "max_page_count", i64::from(u32::MAX - 1), |_| Ok(()))
        .unwrap();
    // What could not be recorded then, and what came since.
    let mut later = minute(2);
    later.usage.extend(minute(1).usage);
    ledger.record(&later).unwrap();
    for by in HISTORIES {
        assert_eq!(total(&reader, "m2", by), moved(9_000, 0, 0), "{by:?}");
    }
    assert_eq!(reader.verify().unwrap().difference, None);
    drop((ledger, reader));
    let expected = [moved(3_000, 0, 0), moved(6_000, 0, 0), moved(9_000, 0, 0)];
    assert_eq!(cursors(directory.path()), expected);
}

#[test]
fn a_file_system_that_takes_no_writes_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    ledger
        .connection
        .pragma_update(None, "query_only", true)
        .unwrap();
    let refused = ledger.record(&minute(0)).unwrap_err();
    assert!(
        matches!(refused, LedgerError::ReadOnly { .. }),
        "{refused:?}"
    );
    ledger
        .connection
        .pragma_update(None, "query_only", false)
        .unwrap();
    ledger.record(&minute(0)).unwrap();
}

#[test]
fn a_ledger_that_somebody_else_keeps_locked_is_told_apart_and_written_when_it_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let other = Connection::open(directory.path().join("ledger.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = ledger.record(&minute(0)).unwrap_err();
    assert!(matches!(refused, LedgerError::Locked { .. }), "{refused:?}");
    other.execute_batch("ROLLBACK").unwrap();
    ledger.record(&minute(0)).unwrap();
}

#[test]
fn a_ledger_that_is_moved_away_while_in_use_takes_no_more_writes() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    ledger.record(&minute(0)).unwrap();
    let (here, there) = (
        directory.path().join("ledger.db"),
        directory.path().join("gone"),
    );
    fs::rename(&here, &there).unwrap();
    let refused = ledger.record(&minute(1)).unwrap_err();
    assert!(matches!(refused, LedgerError::Moved { .. }), "{refused:?}");
    fs::rename(&there, &here).unwrap();
    ledger.record(&minute(1)).unwrap();
}

#[test]
fn a_step_that_fails_halfway_leaves_what_the_writer_remembers_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    ledger.record(&minute(0)).unwrap();
    // The event comes last and is of a time that cannot be kept; a machine, a boot and a
    // slot that came with it must not be taken for recorded.
    let mut bad = minute(1);
    let mut new = slot("new", 9);
    new.counter.boot = BootId("new".into());
    bad.slots.push(new);
    let mut good = bad.clone();
    bad.events
        .push(event(at("9000-01-01T00:00:00Z"), "new", "mad"));
    assert!(matches!(
        ledger.record(&bad).unwrap_err(),
        LedgerError::Io { .. }
    ));
    good.events.push(event(good.at, "new", "sane"));
    ledger.record(&good).unwrap();
    assert_eq!(ledger.reader().unwrap().verify().unwrap().difference, None);
    drop(ledger);
    let (_, remembered) = Ledger::open(directory.path()).unwrap();
    assert_eq!(remembered.slots, good.slots);
}

/// A closed ledger of a few hundred pages.
fn grown() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    for index in 0..4 {
        ledger.record(&bulky(index)).unwrap();
    }
    directory
}

#[test]
fn a_damaged_ledger_is_refused_at_start_and_left_as_it_is() {
    type Damage = fn(&fs::File);
    let damages: [(&str, Damage); 5] = [
        ("its header", |file| {
            file.write_all_at(b"not SQLite at all", 0).unwrap();
        }),
        ("a table's root page", |file| {
            file.write_all_at(&[0xff; 4096], 4096 * 2).unwrap();
        }),
        ("a page in the middle", |file| {
            let middle = file.metadata().unwrap().len() / 2 / 4096 * 4096;
            file.write_all_at(&[0xa5; 4096], middle).unwrap();
        }),
        ("its length", |file| file.set_len(4096 * 20).unwrap()),
        ("everything", |file| file.set_len(0).unwrap()),
    ];
    for (what, damage) in damages {
        let directory = grown();
        let path = directory.path().join("ledger.db");
        damage(
            &fs::OpenOptions::new()
                .write(true)
                .read(true)
                .open(&path)
                .unwrap(),
        );
        let before = fs::read(&path).unwrap();
        let refused = Ledger::open(directory.path()).unwrap_err();
        assert!(
            matches!(refused, LedgerError::Corrupt { .. }),
            "{what}: {refused:?}"
        );
        let text = refused.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains("restore a backup"),
            "{text}"
        );
        assert_eq!(
            fs::read(&path).unwrap(),
            before,
            "{what}: the file was written to"
        );
    }
}

#[test]
fn a_log_without_its_ledger_is_refused_and_not_replayed_into_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ledger.db-wal"), b"frames").unwrap();
    let refused = Ledger::open(directory.path()).unwrap_err();
    assert!(
        matches!(refused, LedgerError::Corrupt { .. }),
        "{refused:?}"
    );
}

#[test]
fn another_programs_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let other = Connection::open(directory.path().join("ledger.db")).unwrap();
    other.execute_batch("CREATE TABLE t (a)").unwrap();
    drop(other);
    let refused = Ledger::open(directory.path()).unwrap_err();
    assert!(
        matches!(refused, LedgerError::Corrupt { .. }),
        "{refused:?}"
    );
}

#[test]
fn a_ledger_of_a_newer_meterd_is_refused_by_number_and_left_as_it_is() {
    let directory = grown();
    let path = directory.path().join("ledger.db");
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let before = fs::read(&path).unwrap();
    let refused = Ledger::open(directory.path()).unwrap_err();
    assert!(
        matches!(refused, LedgerError::Newer { found: 99, .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("schema 99"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_ledger_that_was_begun_and_not_finished_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ledger.db.new"), b"half").unwrap();
    fs::write(directory.path().join("ledger.db.new-journal"), b"half").unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    ledger.record(&minute(0)).unwrap();
    assert!(!directory.path().join("ledger.db.new").exists());
}

#[test]
fn a_database_that_does_not_switch_to_a_write_ahead_log_is_refused() {
    // One in memory cannot, and says so only in the row that the pragma returns: as a disk
    // does that fails at that moment.
    let memory = Connection::open_in_memory().unwrap();
    let refused = file::write_ahead(&memory, Path::new("ledger.db")).unwrap_err();
    assert!(
        refused.to_string().contains("journal mode `memory`"),
        "{refused}"
    );
}

#[test]
fn a_switch_to_a_write_ahead_log_that_fails_after_it_was_announced_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let mut connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t (a)").unwrap();
    // The pragma returns its row, and its commit fails: as it does when a disk fails then.
    connection.commit_hook(Some(|| true)).unwrap();
    assert!(file::write_ahead(&connection, &path).is_err());
    connection.commit_hook(None::<fn() -> bool>).unwrap();
    file::write_ahead(&connection, &path).unwrap();
}

#[test]
fn of_a_large_ledger_every_table_but_the_minutes_and_hours_is_checked_at_start() {
    for (table, found) in [("machine_state", true), ("event", true), ("minute", false)] {
        let directory = grown();
        let path = directory.path().join("ledger.db");
        let connection = Connection::open(&path).unwrap();
        file::check_small_tables(&connection, &path).unwrap();
        let root: u64 = connection
            .query_row(
                "SELECT rootpage FROM sqlite_schema WHERE name = ?1",
                [table],
                |row| row.get::<_, i64>(0),
            )
            .unwrap()
            .unsigned_abs();
        drop(connection);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xa5; 4096], (root - 1) * 4096).unwrap();
        drop(file);
        let connection = Connection::open(&path).unwrap();
        let refused = file::check_small_tables(&connection, &path).is_err();
        assert_eq!(refused, found, "{table}");
    }
}

#[test]
fn verify_names_the_first_row_that_is_not_the_sum_of_its_parts() {
    for (sql, resolution) in [
        (
            "UPDATE minute SET received = received + 1",
            Resolution::Hour,
        ),
        ("UPDATE hour SET sent = sent + 1", Resolution::Hour),
        (
            "UPDATE open SET day_exempt = day_exempt + 1",
            Resolution::Day,
        ),
        (
            "UPDATE open SET month_sent = month_sent + 1",
            Resolution::Month,
        ),
        ("DELETE FROM minute", Resolution::Hour),
        ("DELETE FROM hour", Resolution::Hour),
        (
            "UPDATE running SET received = received + 1",
            Resolution::Period,
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let mut sum = Traffic::ZERO;
        for index in 0..150 {
            let mut step = minute(index);
            sum += moved(1_000, 0, 0);
            let (start, end) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
            let period = running(start, end, step.at, sum);
            step.changes.machines.push(change("m0", Some("{}"), period));
            ledger.record(&step).unwrap();
        }
        let reader = ledger.reader().unwrap();
        let sound = reader.verify().unwrap();
        assert_eq!(sound.difference, None);
        assert!(sound.rows > 3 * (3 + 1 + 1), "{sound:?}");
        ledger.connection.execute(sql, []).unwrap();
        let difference = reader.verify().unwrap().difference.expect(sql);
        assert_eq!(difference.resolution, resolution, "{sql}: {difference}");
        assert!(difference.to_string().contains("of m"), "{difference}");
    }
}

#[test]
fn a_log_that_is_deleted_while_in_use_is_saved_and_another_is_begun() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let log = directory.path().join("ledger.db-wal");
    for index in 0..6 {
        ledger.record(&minute(index)).unwrap();
        if index % 2 == 0 {
            // Whatever is in it was acknowledged.
            fs::remove_file(&log).unwrap();
        }
        assert_eq!(ledger.was_reopened(), index % 2 == 1);
    }
    assert_has_six_minutes_as_a_power_cut_leaves_it(&ledger, directory.path());
}

/// All that six [`minute`]s brought is there, also after a power cut, which closes nothing in good
/// order.
#[track_caller]
fn assert_has_six_minutes_as_a_power_cut_leaves_it(ledger: &Ledger, directory: &Path) {
    let reader = ledger.reader().unwrap();
    assert_eq!(
        total(&reader, "m2", Resolution::Minute),
        moved(18_000, 0, 0)
    );
    assert_eq!(reader.verify().unwrap().difference, None);
    let after = tempfile::tempdir().unwrap();
    for name in ["ledger.db", "ledger.db-wal"] {
        fs::copy(directory.join(name), after.path().join(name)).unwrap();
    }
    let expected = [6_000, 12_000, 18_000].map(|bytes| moved(bytes, 0, 0));
    assert_eq!(cursors(after.path()), expected);
}

#[test]
fn a_ledger_that_is_deleted_while_in_use_is_written_again_with_all_that_was_acknowledged() {
    for deleted in [
        &["ledger.db"][..],
        &["ledger.db", "ledger.db-wal"],
        &["ledger.db", "ledger.db-wal", "ledger.db-shm"],
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
        let before = ledger.reader().unwrap();
        for index in 0..6 {
            ledger.record(&minute(index)).unwrap();
            if index % 2 == 0 {
                for name in deleted {
                    fs::remove_file(directory.path().join(name)).unwrap();
                }
            }
            assert_eq!(ledger.was_reopened(), index % 2 == 1, "{deleted:?}");
        }
        // Who had it open before closes what nobody keeps any more, and takes nothing along.
        drop(before);
        assert_has_six_minutes_as_a_power_cut_leaves_it(&ledger, directory.path());
    }
}

#[test]
fn whatever_page_is_damaged_under_the_writer_it_is_said_and_mended_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    ledger.record(&minute(0)).unwrap();
    ledger.checkpoint().unwrap();
    // Held open: to close it would let go of the locks that SQLite has in this process.
    let path = directory.path().join("ledger.db");
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).open(&path).unwrap();
    let (mut index, mut refused) = (1, 0);
    for page in 0..file.metadata().unwrap().len() / 4096 {
        // As of a ledger that is too large to be kept in memory.
        let forget = |ledger: &Ledger| {
            let connection = &ledger.connection;
            connection.execute_batch("PRAGMA shrink_memory").unwrap();
        };
        forget(&ledger);
        let mut whole = [0; 4096];
        file.read_exact_at(&mut whole, page * 4096).unwrap();
        file.write_all_at(&[0xa5; 4096], page * 4096).unwrap();
        match ledger.record(&minute(index)) {
            Ok(()) => index += 1,
            Err(error) => {
                assert!(matches!(error, LedgerError::Corrupt { .. }), "{error:?}");
                refused += 1;
            }
        }
        file.write_all_at(&whole, page * 4096).unwrap();
        ledger.record(&minute(index)).unwrap();
        index += 1;
        forget(&ledger);
        ledger.checkpoint().unwrap();
    }
    assert!(refused >= 3, "only {refused} damaged pages were met");
    let reader = ledger.reader().unwrap();
    assert_eq!(reader.verify().unwrap().difference, None);
    let sum = 3_000 * u64::try_from(index).unwrap();
    assert_eq!(total(&reader, "m2", Resolution::Minute), moved(sum, 0, 0));
}

#[test]
fn a_deleted_ledger_is_whole_in_the_file_that_is_still_open() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    ledger.record(&minute(0)).unwrap();
    let path = directory.path().join("ledger.db");
    // Another name for it, as /proc/PID/fd has one.
    let open = directory.path().join("open");
    fs::hard_link(&path, &open).unwrap();
    fs::remove_file(&path).unwrap();
    let refused = ledger.record(&minute(1)).unwrap_err();
    assert!(refused.to_string().contains("/proc/"), "{refused}");
    let after = tempfile::tempdir().unwrap();
    fs::copy(&open, after.path().join("ledger.db")).unwrap();
    let expected = [1_000, 2_000, 3_000].map(|bytes| moved(bytes, 0, 0));
    assert_eq!(cursors(after.path()), expected);
}
