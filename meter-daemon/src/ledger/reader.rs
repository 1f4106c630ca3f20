//! The SQLite store's readers, each of a connection of its own.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde_json::value::RawValue;

use super::{
    CommandRecord, EventFilter, Holdings, LedgerError, Queued, Resolution, Seed, UsageRow,
    Verified, file, forget, outbox, query, remember, schema, seed,
    statement::{self, Statement},
    value::Instant,
    verify,
};
use crate::engine::units::MachineId;

/// Reads beside the writer, each answer from one state of the ledger.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) file: PathBuf,
    /// Of its schema.
    version: i64,
}

impl Reader {
    /// Reads the ledger of a state directory, whether a daemon runs on it or not.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        let file = directory.join(file::NAME);
        if file::exists(&file)? {
            Self::of(file)
        } else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            Err(LedgerError::io("reading the ledger", &file, &missing))
        }
    }

    pub(super) fn of(file: PathBuf) -> Result<Self, LedgerError> {
        let connection = file::connect(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let version = schema::check(&connection, &file)?;
        Ok(Self {
            connection,
            file,
            version,
        })
    }

    /// What `host` needs to undo what it did, by key.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn notes(&self) -> Result<Vec<(String, String)>, LedgerError> {
        self.read("reading the host's notes", remember::notes)
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

    /// Events with their sequence numbers, oldest first, each as the JSON that was recorded.
    ///
    /// # Errors
    /// Why they could not be read.
    pub fn events(&self, filter: &EventFilter) -> Result<Vec<(u64, Box<RawValue>)>, LedgerError> {
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

    /// What a command under this key was answered.
    ///
    /// # Errors
    /// Why it could not be looked up.
    pub fn answer(&self, key: &str) -> Result<Option<CommandRecord>, LedgerError> {
        self.read("looking up a command's key", |connection| {
            query::answer(connection, key)
        })
    }

    /// Why usage from elsewhere cannot be taken, if it cannot: it was taken already, or is of
    /// time that is recorded.
    ///
    /// # Errors
    /// Why that could not be looked up.
    pub fn refuses(&self, seed: &Seed) -> Result<Option<String>, LedgerError> {
        self.read("comparing with what is recorded", |connection| {
            seed::refusal(connection, seed)
        })
    }

    /// What there is of a machine, where it is known.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn holdings(&self, machine: &MachineId) -> Result<Option<Holdings>, LedgerError> {
        self.read("reading a machine's history", |connection| {
            forget::holdings(connection, machine)
        })
    }

    /// When the last batch was recorded.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn last(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.read("reading the last instant", |connection| {
            connection.query_row("SELECT recorded FROM ledger", [], |row| {
                let recorded: Option<Instant> = row.get(0)?;
                Ok(recorded.map(|Instant(at)| at))
            })
        })
    }

    /// The statements of closed periods, of every machine in order of name or of one, each
    /// machine's in order of time.
    ///
    /// # Errors
    /// Why they could not be read.
    pub fn statements(&self, only: Option<&MachineId>) -> Result<Vec<Statement>, LedgerError> {
        self.read("reading closed periods", |connection| {
            statement::all(connection, only)
        })
    }

    /// Checks the whole file, and that every row is the sum of its parts.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] where the file is damaged; or why it could not be read.
    pub fn verify(&self) -> Result<Verified, LedgerError> {
        file::check_integrity(&self.connection, &self.file, "PRAGMA integrity_check(1)")?;
        self.read("verifying", |connection| {
            verify::verify(connection, self.version)
        })
    }

    /// Within one transaction, so that an answer is of one state.
    pub(super) fn read<T>(
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
