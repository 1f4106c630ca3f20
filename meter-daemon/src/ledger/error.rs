//! What can be wrong with a ledger, told apart because the remedy differs each time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::ErrorCode;

/// Why the ledger could not be opened, read or written. Traffic goes on being counted in
/// the kernel whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file is damaged, or none of ours.
    #[error(
        "the ledger {} is damaged: {cause}. It was left as it is; counting goes on in the kernel \
         meanwhile. Stop meterd and restore a backup (`meterd restore` puts this one aside), or move \
         it and its -wal and -shm files away, all three, and start without one to begin a new \
         history",
        file.display()
    )]
    Corrupt {
        /// The ledger.
        file: PathBuf,
        /// What is damaged.
        cause: String,
    },
    /// A newer meterd wrote it.
    #[error(
        "the ledger {} has schema {found}, and this meterd knows schemas up to {known}: a newer \
         meterd wrote it. It was left as it is. Install that version again, or restore a \
         backup that this one made",
        file.display()
    )]
    Newer {
        /// The ledger.
        file: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// Another daemon runs on this state directory.
    #[error(
        "{} is held by another meterd ({}): two on one state directory would count twice. Stop that \
         one, or give this one a state-directory of its own",
        file.display(),
        pid.map_or_else(|| "of unknown pid".to_owned(), |pid| format!("pid {pid}"))
    )]
    Held {
        /// The lock.
        file: PathBuf,
        /// Who wrote themselves into it.
        pid: Option<u32>,
    },
    /// Another process keeps the database locked.
    #[error(
        "{attempt} on the ledger {} failed: another process keeps it locked. End that process \
         (`fuser {}` names it); what it holds up is recorded afterwards",
        file.display(), file.display()
    )]
    Locked {
        /// What was attempted.
        attempt: &'static str,
        /// The ledger.
        file: PathBuf,
    },
    /// No room.
    #[error(
        "{attempt} on {} failed: the disk is full. Make room on its file system; what could not \
         be written is recorded then",
        file.display()
    )]
    Full {
        /// What was attempted.
        attempt: &'static str,
        /// The ledger.
        file: PathBuf,
    },
    /// The file or its file system takes no writes.
    #[error(
        "{attempt} on {} failed: it is read-only. Mount its file system read-write, or make the file \
         writable (`lsattr` shows whether it is immutable)",
        file.display()
    )]
    ReadOnly {
        /// What was attempted.
        attempt: &'static str,
        /// The ledger.
        file: PathBuf,
    },
    /// Not allowed.
    #[error(
        "{attempt} on {} failed: permission denied. The user that meterd runs as must own the state \
         directory and what is in it",
        file.display()
    )]
    Permission {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        file: PathBuf,
    },
    /// Moved or deleted while in use: what is written would be lost.
    #[error(
        "the ledger {} was moved, replaced or deleted while meterd used it. Put it back: a moved one \
         goes on by itself, of a deleted one make a copy from /proc/{}/fd, which is whole, and \
         restart meterd. Nothing is recorded until then, and the kernel counts on",
        file.display(), std::process::id()
    )]
    Moved {
        /// Where it was.
        file: PathBuf,
    },
    /// A backup was cut short while it took the ledger's place.
    #[error(
        "a restore was cut short: {} is still to take the ledger's place. Run `meterd restore` with          the backup again; the ledger that stood there before is beside it, as ledger-before-….db",
        file.display()
    )]
    Restoring {
        /// The backup that waits.
        file: PathBuf,
    },
    /// Something is where a new file should be.
    #[error(
        "{} is there already, and was left as it is. Give another name, or --replace",
        file.display()
    )]
    Exists {
        /// What is there.
        file: PathBuf,
    },
    /// A ledger whose figures contradict each other.
    #[error(
        "{} does not add up: {difference}. It was left as it is. Take an earlier backup, and          report this",
        file.display()
    )]
    Differs {
        /// The ledger or backup.
        file: PathBuf,
        /// The first row that differs.
        difference: String,
    },
    /// The key for statements is none.
    #[error(
        "the key for statements {} is damaged: it should be 64 hexadecimal digits. It was left as it          is. Put back a copy; without one, move it away: statements are then signed by a new key,          to be published anew",
        file.display()
    )]
    Key {
        /// The key's file.
        file: PathBuf,
    },
    /// A machine's hours are of a zone that cannot be found.
    #[error(
        "the ledger {} has hours in the time zone `{zone}`, which this system's time zone \
         database has not. Install the tzdata that has it",
        file.display()
    )]
    Zone {
        /// The ledger.
        file: PathBuf,
        /// The zone.
        zone: String,
    },
    /// Anything else that the system or SQLite reports.
    #[error("{attempt} on {} failed: {cause}. Look for input/output errors in the kernel log", file.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's words.
        cause: String,
    },
}

/// What the system says to a write beside the ledger: a file system that has turned read-only
/// by itself says so to nobody who only asks for permissions.
fn probe(directory: &Path) -> io::Result<()> {
    let path = directory.join("ledger.db.probe");
    let written = fs::write(&path, "?");
    let removed = fs::remove_file(&path);
    written.and(removed)
}

/// Whether a file system has no block left for us.
fn no_room(file: &Path) -> bool {
    let directory = file.parent().unwrap_or(file);
    rustix::fs::statvfs(directory).is_ok_and(|system| system.f_bavail == 0)
}

/// A zone that no database knows, on its way out of a row.
#[derive(Debug, thiserror::Error)]
#[error("unknown time zone `{0}`")]
pub(super) struct UnknownZone(pub(super) String);

impl LedgerError {
    /// The same of the file that a copy was made of.
    pub(super) fn of(mut self, original: &Path) -> Self {
        if let Self::Corrupt { file, .. } | Self::Newer { file, .. } | Self::Differs { file, .. } =
            &mut self
        {
            original.clone_into(file);
        }
        self
    }

    /// Tells SQLite's failures apart.
    pub(super) fn sqlite(attempt: &'static str, file: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::Error;
        let file = file.to_owned();
        let corrupt = |file| Self::Corrupt {
            file,
            cause: error.to_string(),
        };
        match error {
            Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => corrupt(file),
                ErrorCode::DiskFull => Self::Full { attempt, file },
                // No room for the log's index is reported as an I/O error.
                ErrorCode::SystemIoFailure if no_room(&file) => Self::Full { attempt, file },
                ErrorCode::SystemIoFailure => Self::refused(attempt, &file, error),
                ErrorCode::ReadOnly => Self::ReadOnly { attempt, file },
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed => Self::Locked { attempt, file },
                ErrorCode::PermissionDenied => Self::Permission { attempt, file },
                ErrorCode::CannotOpen => Self::refused(attempt, &file, error),
                _ => Self::Io {
                    attempt,
                    file,
                    cause: error.to_string(),
                },
            },
            Error::FromSqlConversionFailure(_, _, cause) => {
                match cause.downcast_ref::<UnknownZone>() {
                    Some(UnknownZone(zone)) => Self::Zone {
                        file,
                        zone: zone.clone(),
                    },
                    None => corrupt(file),
                }
            }
            Error::IntegralValueOutOfRange(..) | Error::InvalidColumnType(..) => corrupt(file),
            _ => Self::Io {
                attempt,
                file,
                cause: error.to_string(),
            },
        }
    }

    /// SQLite says only that it could not; the system knows why. Asked without opening the
    /// file, which would let go of SQLite's own locks.
    fn refused(attempt: &'static str, file: &Path, error: &rusqlite::Error) -> Self {
        use rustix::fs::{Access, access};
        let directory = file.parent().unwrap_or(file);
        for path in [file, &file.with_extension("db-wal"), directory] {
            match access(path, Access::READ_OK | Access::WRITE_OK) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Self::io(attempt, path, &errno.into()),
            }
        }
        let error =
            probe(directory).map_or_else(|why| why, |()| io::Error::other(error.to_string()));
        Self::io(attempt, file, &error)
    }

    /// Tells the file system's failures apart.
    pub(super) fn io(attempt: &'static str, file: &Path, error: &io::Error) -> Self {
        let file = file.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { attempt, file }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { attempt, file },
            // Who may write and is refused all the same has an immutable file before him.
            _ if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {
                Self::ReadOnly { attempt, file }
            }
            io::ErrorKind::PermissionDenied => Self::Permission { attempt, file },
            _ => Self::Io {
                attempt,
                file,
                cause: error.to_string(),
            },
        }
    }
}
