//! The SQLite store's writer. There is one: see [`super::lock()`].

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::{
    Batch, CommandRecord, LedgerError, Pruned, Reader, Remembered, Retention, Seed, Store, file,
    forget, memory::Memory, outbox, query, record, remember, retention, seed, standing::Standing,
};
use crate::engine::units::MachineId;

/// The writer.
#[derive(Debug)]
pub struct Ledger {
    pub(super) connection: Connection,
    pub(super) file: PathBuf,
    /// The files that are open.
    pub(super) open: Standing,
    pub(super) reopened: bool,
    /// Absent after a failure: what was known then may not be what the tables hold.
    memory: Option<Memory>,
}

impl Ledger {
    /// Opens the ledger of a state directory, beginning one where there is none, and reads
    /// what it remembers.
    ///
    /// # Errors
    /// A damaged or newer ledger is left as it is. See [`LedgerError`].
    pub fn open(directory: &Path) -> Result<(Self, Remembered), LedgerError> {
        file::make_directory(directory)?;
        let file = directory.join(file::NAME);
        let restoring = file::restoring(directory);
        if restoring.exists() {
            return Err(LedgerError::Restoring { file: restoring });
        }
        if !file::exists(&file)? {
            file::begin(directory, &file)?;
        }
        let mut connection = file::connect(&file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        file::prepare(&mut connection, &file)?;
        let open = Standing::of(&file)?;
        let read = || {
            let memory = Memory::load(&connection)?;
            let remembered = remember::all(&connection, &memory)?;
            // A start reads more than any later step, and would keep all those pages.
            connection.execute_batch("PRAGMA shrink_memory")?;
            Ok((memory, remembered))
        };
        let (memory, remembered) =
            read().map_err(|error| LedgerError::sqlite("reading what was kept", &file, &error))?;
        let ledger = Self {
            connection,
            file,
            open,
            reopened: false,
            memory: Some(memory),
        };
        Ok((ledger, remembered))
    }

    /// Records a step whole, or nothing of it: see [`Store::record`].
    ///
    /// # Errors
    /// Why nothing was recorded.
    pub fn record(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        self.write(batch, |_, _| Ok(()))
    }

    /// Records a step with usage that was brought in from elsewhere. `retention` as for
    /// [`Self::prune`].
    ///
    /// # Errors
    /// Why nothing was recorded.
    pub fn seed(
        &mut self,
        batch: &Batch,
        seed: &Seed,
        retention: &Retention,
    ) -> Result<(), LedgerError> {
        self.write(batch, |connection, memory| {
            seed::record(connection, memory, seed, batch.at, retention)
        })
    }

    /// Records a step, and forgets everything of a machine but its events.
    ///
    /// # Errors
    /// Why nothing was recorded, and nothing forgotten.
    pub fn forget(&mut self, batch: &Batch, machine: &MachineId) -> Result<(), LedgerError> {
        self.write(batch, |connection, memory| {
            forget::forget(connection, memory, machine)
        })
    }

    /// A batch and what goes with it in one transaction.
    fn write(
        &mut self,
        batch: &Batch,
        more: impl FnOnce(&Connection, &mut Memory) -> rusqlite::Result<()>,
    ) -> Result<(), LedgerError> {
        self.stand()?;
        let memory = self.memory.take();
        let write = || {
            let transaction = begin_immediate(&mut self.connection)?;
            let mut memory = match memory {
                Some(memory) => memory,
                None => Memory::load(&transaction)?,
            };
            record::batch(&transaction, &mut memory, batch)?;
            more(&transaction, &mut memory)?;
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

    /// Whether it was opened anew since the last time this was asked: readers that were had
    /// before read what nobody keeps any more.
    pub fn was_reopened(&mut self) -> bool {
        std::mem::take(&mut self.reopened)
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
            // The pages that the step touched are the system's to keep, or not, until the next.
            .and_then(|()| self.connection.release_memory())
            .map_err(|error| self.failed("moving the log into the ledger", &error))
    }

    /// Ends it with everything in the one file.
    pub(super) fn close(self) -> Result<(), LedgerError> {
        let file = self.file;
        self.connection
            .close()
            .map_err(|(_, error)| LedgerError::sqlite("closing the ledger", &file, &error))?;
        let log = file.with_extension("db-wal");
        match log.exists() {
            false => Ok(()),
            true => Err(LedgerError::Locked {
                attempt: "moving the log into the ledger",
                file,
            }),
        }
    }

    pub(super) fn failed(&self, attempt: &'static str, error: &rusqlite::Error) -> LedgerError {
        let error = LedgerError::sqlite(attempt, &self.file, error);
        if matches!(error, LedgerError::Corrupt { .. }) {
            // Pages that were read damaged would be believed on once the file is whole again. If
            // they cannot be let go of now, the next failure tries again.
            let _ = self.connection.execute_batch("PRAGMA shrink_memory");
        }
        error
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

fn begin_immediate(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}
