//! Whether what is open is still what stands under its name. A file that was moved or deleted
//! takes writes without a word, and nobody finds them again.

use std::{
    fs::{self, File, OpenOptions},
    io, mem,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Ledger, LedgerError, file};

/// A file's device and inode.
type Identity = (u64, u64);

/// A deleted ledger of at most this size is written again at once. A larger one would keep the
/// loop for longer than a watchdog waits, and to be ended by it would lose what is still open.
const AT_ONCE: u64 = 512 << 20;

/// The ledger and its log, as they stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    ledger: Option<Identity>,
    /// Absent until SQLite makes it.
    log: Option<Identity>,
}

impl Standing {
    /// What stands there now.
    pub(super) fn of(file: &Path) -> Result<Self, LedgerError> {
        Ok(Self {
            ledger: identity(file)?,
            log: identity(&log_of(file))?,
        })
    }
}

fn log_of(file: &Path) -> std::path::PathBuf {
    file.with_extension("db-wal")
}

fn identity(file: &Path) -> Result<Option<Identity>, LedgerError> {
    match fs::metadata(file) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LedgerError::io("looking at the ledger", file, &error)),
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Ledger {
    /// Looks before a write. A ledger that is gone is an error, unless it was deleted: then it is
    /// written again from what is open. A log that was deleted is emptied into the ledger, and a
    /// new one begun.
    ///
    /// Whichever it is, what was acknowledged is first moved into the ledger file, so that it
    /// is whole for whoever puts it back.
    pub(super) fn stand(&mut self) -> Result<(), LedgerError> {
        let now = Standing::of(&self.file)?;
        if now.ledger.is_none() || now.ledger != self.open.ledger {
            self.checkpoint()?;
            if now.ledger.is_none() && self.deleted().is_some_and(|size| size <= AT_ONCE) {
                return self.put_back();
            }
            return Err(LedgerError::Moved {
                file: self.file.clone(),
            });
        }
        if self.open.log.is_none() {
            self.open.log = now.log;
        }
        if now.log == self.open.log {
            return Ok(());
        }
        self.empty_log()?;
        self.reopen()?;
        tracing::warn!(
            "the ledger's log {} was deleted or replaced while it was in use; all that was in it is \
             in the ledger now, and a new one was begun. Nothing was lost",
            log_of(&self.file).display()
        );
        Ok(())
    }

    /// The size of what is open, if it has no name any more, anywhere. One that was moved, or whose
    /// file system was unmounted, has.
    fn deleted(&self) -> Option<u64> {
        let open = self.open.ledger?;
        let descriptors = fs::read_dir("/proc/self/fd").ok()?;
        // Asked by a name of the descriptor's: opening and closing the file would let go of
        // SQLite's locks on it.
        let found = descriptors
            .filter_map(|entry| fs::metadata(entry.ok()?.path()).ok())
            .find(|metadata| (metadata.dev(), metadata.ino()) == open)?;
        (found.nlink() == 0).then_some(found.len())
    }

    /// Writes a deleted ledger under its name again and goes on with that.
    fn put_back(&mut self) -> Result<(), LedgerError> {
        const ATTEMPT: &str = "writing the deleted ledger again";
        // Its log must not be taken for the new one's.
        self.empty_log()?;
        let new = file::unfinished(&self.file);
        let io = |error| LedgerError::io(ATTEMPT, &new, &error);
        remove(&new).map_err(io)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o640);
        let made = options.open(&new).map_err(io)?;
        self.connection
            .execute("VACUUM INTO ?1", [new.to_string_lossy()])
            .map_err(|error| LedgerError::sqlite(ATTEMPT, &new, &error))?;
        made.sync_all().map_err(io)?;
        renameat_with(CWD, &new, CWD, &self.file, RenameFlags::NOREPLACE)
            .map_err(io::Error::from)
            .and_then(|()| File::open(self.file.parent().unwrap_or(Path::new(".")))?.sync_all())
            .and_then(|()| remove(&log_of(&self.file)))
            .and_then(|()| remove(&self.file.with_extension("db-shm")))
            .map_err(|error| LedgerError::io(ATTEMPT, &self.file, &error))?;
        self.reopen()?;
        tracing::warn!(
            "the ledger {} was deleted while it was in use; what was still open of it, which is all, \
             was written there again. Nothing was lost",
            self.file.display()
        );
        Ok(())
    }

    /// Everything from the log into the ledger, or an error.
    fn empty_log(&mut self) -> Result<(), LedgerError> {
        let busy: bool = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| self.failed("emptying a deleted log into the ledger", &error))?;
        if busy {
            return Err(LedgerError::Locked {
                attempt: "emptying a deleted log into the ledger",
                file: self.file.clone(),
            });
        }
        Ok(())
    }

    /// The same ledger by a new connection: only that makes a new log.
    fn reopen(&mut self) -> Result<(), LedgerError> {
        // The old one first, or the new one would share its idea of the log.
        let nothing = Connection::open_in_memory()
            .map_err(|error| self.failed("opening the ledger again", &error))?;
        // Should it fail from here on, this is no log's, and the next write tries again.
        self.open.log = Some((0, 0));
        drop(mem::replace(&mut self.connection, nothing));
        let mut connection = file::connect(&self.file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        file::prepare(&mut connection, &self.file)?;
        self.connection = connection;
        self.open = Standing::of(&self.file)?;
        self.reopened = true;
        Ok(())
    }
}
