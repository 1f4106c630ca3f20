//! The ledger's file: begun, opened, checked.
//!
//! Write-ahead log and `synchronous = FULL`: what was acknowledged survives a power cut. A
//! ledger is begun under another name and renamed when it is whole, so an empty or strange
//! file under the ledger's own name is always damage, and damage is refused, never repaired.
//!
//! Nothing in this process may open and close the ledger file but SQLite: closing any
//! descriptor of a file drops every POSIX lock that the process has on it
//! (<https://sqlite.org/howtocorrupt.html>, 2.2).

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{LedgerError, record, schema};

/// In the state directory.
pub(super) const NAME: &str = "ledger.db";

/// A backup that is about to take the ledger's place.
pub(super) fn restoring(directory: &Path) -> PathBuf {
    directory.join("ledger.db.restoring")
}

/// A ledger that is being written, before it has its name.
pub(super) fn unfinished(file: &Path) -> PathBuf {
    file.with_extension("db.new")
}

/// A lock that somebody else keeps for longer is an error: the loop must go on, and the
/// next batch takes all.
const PATIENCE: Duration = Duration::from_millis(500);

/// Larger ledgers are checked at start without their minutes and hours, which would take
/// longer than the seconds a start may; `verify` checks all.
const CHECK_WHOLE: u64 = 1 << 30;

/// Makes a state directory, for its owner and group only.
pub(super) fn make_directory(directory: &Path) -> Result<(), LedgerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(|error| LedgerError::io("making the state directory", directory, &error))
}

/// Whether there is a ledger; what stands there and cannot be one is refused.
pub(super) fn exists(file: &Path) -> Result<bool, LedgerError> {
    let damaged = |cause: &str| LedgerError::Corrupt {
        file: file.to_owned(),
        cause: cause.to_owned(),
    };
    match fs::metadata(file) {
        Ok(metadata) if metadata.len() == 0 => Err(damaged("it is empty")),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // SQLite would replay the log of the missing file into a new one.
            if file.with_extension("db-wal").exists() {
                return Err(damaged(
                    "it is missing, and its log ledger.db-wal is still there",
                ));
            }
            Ok(false)
        }
        Err(error) => Err(LedgerError::io("looking for the ledger", file, &error)),
    }
}

/// Begins a ledger: under another name, and renamed when it is whole and on the disk.
pub(super) fn begin(directory: &Path, file: &Path) -> Result<(), LedgerError> {
    const ATTEMPT: &str = "beginning a ledger";
    let new = unfinished(file);
    let io = |error| LedgerError::io(ATTEMPT, &new, &error);
    // A start that was cut short left them.
    for left in [&new, &directory.join("ledger.db.new-journal")] {
        match fs::remove_file(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640);
    options.open(&new).map_err(io)?;
    let sqlite = |error| LedgerError::sqlite(ATTEMPT, &new, &error);
    let mut connection = connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .and_then(|()| schema::migrate(&mut connection, 0))
        .map_err(sqlite)?;
    connection.close().map_err(|(_, error)| sqlite(error))?;
    fs::rename(&new, file)
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(io)
}

pub(super) fn connect(file: &Path, access: OpenFlags) -> Result<Connection, LedgerError> {
    let sqlite = |error| LedgerError::sqlite("opening the ledger", file, &error);
    let connection = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(sqlite)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection
        .busy_timeout(PATIENCE)
        .and_then(|()| connection.pragma_update(None, "cell_size_check", true))
        .and_then(|()| connection.pragma_update(None, "trusted_schema", false))
        .map_err(sqlite)?;
    Ok(connection)
}

/// Refuses what must not be written to, then makes the connection the writer's.
pub(super) fn prepare(connection: &mut Connection, file: &Path) -> Result<(), LedgerError> {
    let version = schema::check(connection, file)?;
    let sqlite = |attempt| move |error: rusqlite::Error| LedgerError::sqlite(attempt, file, &error);
    // SQLite falls back to reading without a word.
    if connection
        .is_readonly("main")
        .map_err(sqlite("opening the ledger"))?
    {
        return Err(LedgerError::ReadOnly {
            attempt: "opening the ledger for writing",
            file: file.to_owned(),
        });
    }
    check_at_start(connection, file)?;
    write_ahead(connection, file)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .and_then(|()| connection.pragma_update(None, "temp_store", "MEMORY"))
        // A full node's step touches some 4 MB; less would spill into the log in mid-commit.
        .and_then(|()| connection.pragma_update(None, "cache_size", -8_000))
        // The daemon checkpoints after each step; this is for when readers kept it from that.
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", 16_384))
        .and_then(|()| record::add_bytes(connection))
        .map_err(sqlite("setting up the ledger"))?;
    schema::migrate(connection, version).map_err(sqlite("bringing the schema up to date"))
}

/// Switches to a write-ahead log, and looks whether it did. The pragma returns its row
/// before it commits: an I/O error in that commit is the next step's, and whoever reads the
/// first row only goes on with a rollback journal and takes it for a log.
pub(super) fn write_ahead(connection: &Connection, file: &Path) -> Result<(), LedgerError> {
    const ATTEMPT: &str = "switching to a write-ahead log";
    let switch = || -> rusqlite::Result<String> {
        let mut pragma = connection.prepare("PRAGMA journal_mode = WAL")?;
        let mut rows = pragma.query([])?;
        while rows.next()?.is_some() {}
        connection.pragma_query_value(None, "journal_mode", |row| row.get(0))
    };
    let mode = switch().map_err(|error| LedgerError::sqlite(ATTEMPT, file, &error))?;
    if mode == "wal" {
        return Ok(());
    }
    Err(LedgerError::Io {
        attempt: ATTEMPT,
        file: file.to_owned(),
        cause: format!("SQLite stayed with journal mode `{mode}`"),
    })
}

/// The whole file, or of one that is large every table but the two large ones.
fn check_at_start(connection: &Connection, file: &Path) -> Result<(), LedgerError> {
    let size = fs::metadata(file)
        .map_err(|error| LedgerError::io("looking at the ledger", file, &error))?
        .len();
    if size <= CHECK_WHOLE {
        check_integrity(connection, file, "PRAGMA integrity_check(1)")
    } else {
        check_small_tables(connection, file)
    }
}

pub(super) fn check_small_tables(connection: &Connection, file: &Path) -> Result<(), LedgerError> {
    let names = || -> rusqlite::Result<Vec<String>> {
        let mut names = connection.prepare(
            "SELECT name FROM sqlite_schema
             WHERE type = 'table' AND name NOT IN ('minute', 'hour')",
        )?;
        names.query_map([], |row| row.get(0))?.collect()
    };
    let names = names().map_err(|error| LedgerError::sqlite("reading the schema", file, &error))?;
    for name in names {
        check_integrity(
            connection,
            file,
            &format!("PRAGMA integrity_check('{name}')"),
        )?;
    }
    Ok(())
}

pub(super) fn check_integrity(
    connection: &Connection,
    file: &Path,
    pragma: &str,
) -> Result<(), LedgerError> {
    let finding: String = connection
        .query_row(pragma, [], |row| row.get(0))
        .map_err(|error| LedgerError::sqlite("checking the ledger", file, &error))?;
    if finding == "ok" {
        return Ok(());
    }
    Err(LedgerError::Corrupt {
        file: file.to_owned(),
        cause: finding.replace('\n', " "),
    })
}
