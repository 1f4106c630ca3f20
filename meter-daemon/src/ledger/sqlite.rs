//! The SQLite store: one writer, readers beside it.
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
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::{
    Batch, CommandRecord, EventFilter, LedgerError, Pruned, Queued, Remembered, Resolution,
    Retention, Store, UsageRow, Verified, memory::Memory, outbox, query, record, remember,
    retention, schema, verify,
};
use crate::engine::units::MachineId;

/// In the state directory.
const NAME: &str = "ledger.db";

/// A lock that somebody else keeps for longer is an error: the loop must go on, and the
/// next batch takes all.
const PATIENCE: Duration = Duration::from_millis(500);

/// Larger ledgers are checked at start without their minutes, which would take longer than
/// the seconds a start may; `verify` checks all.
const CHECK_WHOLE: u64 = 1 << 30;

/// The writer. There is one: see [`super::lock`].
#[derive(Debug)]
pub struct Ledger {
    pub(super) connection: Connection,
    file: PathBuf,
    /// Device and inode of the file that is open.
    identity: (u64, u64),
    /// Absent after a failure: what was known then may not be what the tables hold.
    memory: Option<Memory>,
}

/// Reads beside the writer, each answer from one state of the ledger.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    file: PathBuf,
}

impl Ledger {
    /// Opens the ledger of a state directory, beginning one where there is none, and reads
    /// what it remembers.
    ///
    /// # Errors
    /// A damaged or newer ledger is left as it is. See [`LedgerError`].
    pub fn open(directory: &Path) -> Result<(Self, Remembered), LedgerError> {
        make_directory(directory)?;
        let file = directory.join(NAME);
        if !exists(&file)? {
            begin(directory, &file)?;
        }
        let mut connection = connect(&file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        prepare(&mut connection, &file)?;
        let identity = identity(&file)?;
        let read = || Ok((Memory::load(&connection)?, remember::all(&connection)?));
        let (memory, remembered) =
            read().map_err(|error| LedgerError::sqlite("reading what was kept", &file, &error))?;
        let ledger = Self {
            connection,
            file,
            identity,
            memory: Some(memory),
        };
        Ok((ledger, remembered))
    }

    /// Records a step whole, or nothing of it: see [`Store::record`].
    ///
    /// # Errors
    /// Why nothing was recorded.
    pub fn record(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        if identity(&self.file).ok() != Some(self.identity) {
            return Err(LedgerError::Moved {
                file: self.file.clone(),
            });
        }
        let memory = self.memory.take();
        let write = || {
            let transaction = begin_immediate(&mut self.connection)?;
            let mut memory = match memory {
                Some(memory) => memory,
                None => Memory::load(&transaction)?,
            };
            record::batch(&transaction, &mut memory, batch)?;
            transaction.commit()?;
            Ok(memory)
        };
        let memory = write().map_err(|error| self.failed("recording a step", &error))?;
        self.memory = Some(memory);
        Ok(())
    }

    /// What a command under this key was answered: see [`Store::answer`].
    ///
    /// # Errors
    /// Why it could not be looked up.
    pub fn answer(&self, key: &str) -> Result<Option<CommandRecord>, LedgerError> {
        query::answer(&self.connection, key)
            .map_err(|error| self.failed("looking up a command's key", &error))
    }

    /// A reader of its own connection, for another thread.
    ///
    /// # Errors
    /// Why it could not be had.
    pub fn reader(&self) -> Result<Reader, LedgerError> {
        Reader::of(self.file.clone())
    }

    /// Deletes what is older than its retention, a short transaction at a time: call it
    /// after each poll. `now` must come from a clock that is believed.
    ///
    /// # Errors
    /// Why nothing was deleted.
    pub fn prune(&mut self, now: Timestamp, retention: &Retention) -> Result<Pruned, LedgerError> {
        let mut write = || {
            let transaction = begin_immediate(&mut self.connection)?;
            let pruned = retention::prune(&transaction, now, retention)?;
            transaction.commit()?;
            Ok(pruned)
        };
        write().map_err(|error| self.failed("deleting what is past its retention", &error))
    }

    /// Takes notices out of the queue: they were delivered, or expired.
    ///
    /// # Errors
    /// Why they still wait.
    pub fn settle(&mut self, ids: &[String], at: Timestamp) -> Result<(), LedgerError> {
        let mut write = || {
            let transaction = begin_immediate(&mut self.connection)?;
            outbox::settle(&transaction, ids, at)?;
            transaction.commit()
        };
        write().map_err(|error| self.failed("settling notices", &error))
    }

    /// Moves the log's pages into the ledger file, as far as readers let it. Call it when
    /// the step is done: a commit does not wait for it.
    ///
    /// # Errors
    /// Why it could not; nothing is lost, and the log grows until it can.
    pub fn checkpoint(&mut self) -> Result<(), LedgerError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(|error| self.failed("moving the log into the ledger", &error))
    }

    fn failed(&self, attempt: &'static str, error: &rusqlite::Error) -> LedgerError {
        LedgerError::sqlite(attempt, &self.file, error)
    }
}

impl Store for Ledger {
    fn record(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        Self::record(self, batch)
    }

    fn answer(&self, key: &str) -> Result<Option<CommandRecord>, LedgerError> {
        Self::answer(self, key)
    }
}

impl Reader {
    /// Reads the ledger of a state directory, whether a daemon runs on it or not.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        let file = directory.join(NAME);
        if exists(&file)? {
            Self::of(file)
        } else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            Err(LedgerError::io("reading the ledger", &file, &missing))
        }
    }

    fn of(file: PathBuf) -> Result<Self, LedgerError> {
        let connection = connect(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        schema::check(&connection, &file)?;
        Ok(Self { connection, file })
    }

    /// A machine's history: rows that start in `[from, to)`, ordered, not overlapping, each
    /// with traffic. Hours, days and months are those of the zones that the machine was in
    /// at the time.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn usage(
        &self,
        machine: &MachineId,
        by: Resolution,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Vec<UsageRow>, LedgerError> {
        self.read("reading a history", |connection| {
            query::usage(connection, machine, by, from, to)
        })
    }

    /// Events with their sequence numbers, oldest first.
    ///
    /// # Errors
    /// Why they could not be read.
    pub fn events(
        &self,
        filter: &EventFilter,
    ) -> Result<Vec<(u64, serde_json::Value)>, LedgerError> {
        self.read("reading events", |connection| {
            query::events(connection, filter)
        })
    }

    /// The oldest notices that wait, at most so many.
    ///
    /// # Errors
    /// Why they could not be read.
    pub fn outbox_pending(&self, limit: usize) -> Result<Vec<Queued>, LedgerError> {
        self.read("reading the outbox", |connection| {
            outbox::pending(connection, limit)
        })
    }

    /// How many notices wait.
    ///
    /// # Errors
    /// Why they could not be counted.
    pub fn outbox_waiting(&self) -> Result<u64, LedgerError> {
        self.read("reading the outbox", outbox::waiting)
    }

    /// Checks the whole file, and that every row is the sum of its parts.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] where the file is damaged; or why it could not be read.
    pub fn verify(&self) -> Result<Verified, LedgerError> {
        check_integrity(&self.connection, &self.file, "PRAGMA integrity_check(1)")?;
        self.read("verifying", verify::verify)
    }

    /// Within one transaction, so that an answer is of one state.
    fn read<T>(
        &self,
        attempt: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let transact = || {
            let transaction = self.connection.unchecked_transaction()?;
            let answer = read(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        };
        transact().map_err(|error| LedgerError::sqlite(attempt, &self.file, &error))
    }
}

/// Makes a state directory, for its owner and group only.
pub(super) fn make_directory(directory: &Path) -> Result<(), LedgerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(|error| LedgerError::io("making the state directory", directory, &error))
}

fn begin_immediate(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn identity(file: &Path) -> Result<(u64, u64), LedgerError> {
    let metadata = fs::metadata(file)
        .map_err(|error| LedgerError::io("looking at the ledger", file, &error))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether there is a ledger; what stands there and cannot be one is refused.
fn exists(file: &Path) -> Result<bool, LedgerError> {
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
fn begin(directory: &Path, file: &Path) -> Result<(), LedgerError> {
    const ATTEMPT: &str = "beginning a ledger";
    let new = directory.join("ledger.db.new");
    let io = |error| LedgerError::io(ATTEMPT, &new, &error);
    match fs::remove_file(&new) {
        // A start that was cut short left it.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
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

fn connect(file: &Path, access: OpenFlags) -> Result<Connection, LedgerError> {
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
fn prepare(connection: &mut Connection, file: &Path) -> Result<(), LedgerError> {
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

/// Switches to a write-ahead log. The row that the pragma returns is what counts: an I/O
/// error while switching shows nowhere else.
pub(super) fn write_ahead(connection: &Connection, file: &Path) -> Result<(), LedgerError> {
    const ATTEMPT: &str = "switching to a write-ahead log";
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(|error| LedgerError::sqlite(ATTEMPT, file, &error))?;
    if mode == "wal" {
        return Ok(());
    }
    Err(LedgerError::Io {
        attempt: ATTEMPT,
        file: file.to_owned(),
        cause: format!("SQLite stayed with journal mode `{mode}`"),
    })
}

/// The whole file, or every table but the minutes of one that is large.
fn check_at_start(connection: &Connection, file: &Path) -> Result<(), LedgerError> {
    let size = fs::metadata(file)
        .map_err(|error| LedgerError::io("looking at the ledger", file, &error))?
        .len();
    if size <= CHECK_WHOLE {
        return check_integrity(connection, file, "PRAGMA integrity_check(1)");
    }
    let names = || -> rusqlite::Result<Vec<String>> {
        let mut names = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'minute'")?;
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

fn check_integrity(connection: &Connection, file: &Path, pragma: &str) -> Result<(), LedgerError> {
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
