//! A copy of the ledger while it is in use, and a copy put in its place.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::OpenFlags;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Batch, CommandRecord, EventRecord, Ledger, LedgerError, Lock, Reader, Verified, file};

/// What becomes of a file that stands where the backup is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is written.
    Keep,
    /// The backup takes its place when it is whole.
    Replace,
}

/// A backup that was written and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct BackedUp {
    /// What was compared in it.
    pub verified: Verified,
    /// Its size in bytes.
    pub size: u64,
    /// The last instant that it knows of.
    pub last: Option<Timestamp>,
}

/// A backup that took the ledger's place.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// What was compared in it.
    pub verified: Verified,
    /// The last instant that it knows of: what was counted since is taken from the kernel.
    pub last: Option<Timestamp>,
    /// Where the ledger is that stood there before, if one did.
    pub aside: Option<PathBuf>,
}

/// Writes a copy of the ledger of a state directory, one state of it, whether a daemon
/// works on it or not: beside `to`, on the disk, verified, and only then under that name.
///
/// # Errors
/// Why there is no backup; what stood there before still does.
pub fn backup(directory: &Path, to: &Path, existing: Existing) -> Result<BackedUp, LedgerError> {
    if existing == Existing::Keep && to.symlink_metadata().is_ok() {
        return Err(LedgerError::Exists { file: to.into() });
    }
    let reader = Reader::open(directory)?;
    let new = beside(to);
    let written = write(&reader, &new).and_then(|backed_up| {
        put(&new, to, existing)?;
        Ok(backed_up)
    });
    if written.is_err() {
        // What is left of an attempt is of no use; it may not even have been made.
        let _ = fs::remove_file(&new);
    }
    written
}

/// `.NAME.PID.new` in the same directory: two at once do not meet.
fn beside(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.{}.new", std::process::id()))
}

fn write(reader: &Reader, new: &Path) -> Result<BackedUp, LedgerError> {
    const ATTEMPT: &str = "writing the backup";
    let io = |error| LedgerError::io(ATTEMPT, new, &error);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(new).map_err(io)?;
    // One statement, so one state; a file of its own without a log, packed.
    reader
        .connection
        .execute("VACUUM INTO ?1", [new.to_string_lossy()])
        .map_err(|error| LedgerError::sqlite(ATTEMPT, new, &error))?;
    let copy = Reader::of(new.to_owned())?;
    let verified = whole(&copy, new)?;
    let last = copy.last()?;
    drop(copy);
    File::open(new)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    let size = fs::metadata(new).map_err(io)?.len();
    Ok(BackedUp {
        verified,
        size,
        last,
    })
}

/// Everything in it adds up, or an error.
fn whole(reader: &Reader, file: &Path) -> Result<Verified, LedgerError> {
    let verified = reader.verify()?;
    match &verified.difference {
        None => Ok(verified),
        Some(difference) => Err(LedgerError::Differs {
            file: file.into(),
            difference: difference.to_string(),
        }),
    }
}

fn put(new: &Path, to: &Path, existing: Existing) -> Result<(), LedgerError> {
    let io = |error| LedgerError::io("putting the backup in its place", to, &error);
    let renamed = match existing {
        Existing::Replace => fs::rename(new, to),
        Existing::Keep => match renameat_with(CWD, new, CWD, to, RenameFlags::NOREPLACE) {
            // Not every file system can; it was looked for before.
            Err(rustix::io::Errno::INVAL) => fs::rename(new, to),
            outcome => outcome.map_err(io::Error::from),
        },
    };
    match renamed {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(LedgerError::Exists { file: to.into() })
        }
        outcome => outcome.and_then(|()| sync_directory(to)).map_err(io),
    }
}

fn sync_directory(file: &Path) -> io::Result<()> {
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Whether a file is an SQLite database, so perhaps a ledger or a backup of one.
///
/// # Errors
/// Where it cannot be read.
pub fn is_database(path: &Path) -> io::Result<bool> {
    use io::Read as _;
    let mut head = [0; 16];
    let read = File::open(path)?.read(&mut head)?;
    Ok(&head[..read] == b"SQLite format 3\0")
}

/// Verifies a backup, or any other file that is a ledger and that nobody works on.
///
/// # Errors
/// Where it is none, is damaged, or is newer than this program.
pub fn verify_file(path: &Path) -> Result<Verified, LedgerError> {
    if !path.exists() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        return Err(LedgerError::io("reading the backup", path, &missing));
    }
    Reader::of(path.to_owned())?.verify()
}

/// Puts a backup in the ledger's place. The lock says that no daemon runs. The backup is
/// copied, led to the newest schema and verified first; what `finish` says of the last
/// instant that it knows of is recorded in it.
///
/// # Errors
/// Why it was not done; the ledger is what it was before, unless the error says otherwise.
pub fn restore(
    directory: &Path,
    from: &Path,
    at: Timestamp,
    finish: impl FnOnce(Option<Timestamp>) -> (EventRecord, Option<CommandRecord>),
    _lock: &Lock,
) -> Result<Restored, LedgerError> {
    let (ledger, pending) = (directory.join(file::NAME), file::restoring(directory));
    let copy = directory.join(format!("restore.{}", std::process::id()));
    let prepared = prepare(from, &copy, at, finish);
    let restored = prepared.and_then(|(verified, last)| {
        let io =
            |error| LedgerError::io("putting the backup in the ledger's place", &ledger, &error);
        // From here until the last renaming a start is refused: it would find no ledger, or
        // one without its log.
        fs::rename(copy.join(file::NAME), &pending)
            .and_then(|()| sync_directory(&pending))
            .map_err(io)?;
        let aside = put_aside(&ledger, at).map_err(io)?;
        fs::rename(&pending, &ledger)
            .and_then(|()| sync_directory(&ledger))
            .map_err(io)?;
        Ok(Restored {
            verified,
            last,
            aside,
        })
    });
    // Nothing of use is left in it.
    let _ = fs::remove_dir_all(&copy);
    restored
}

/// A copy of the backup as a ledger of its own: whole, of the newest schema, on the disk.
fn prepare(
    from: &Path,
    copy: &Path,
    at: Timestamp,
    finish: impl FnOnce(Option<Timestamp>) -> (EventRecord, Option<CommandRecord>),
) -> Result<(Verified, Option<Timestamp>), LedgerError> {
    const ATTEMPT: &str = "copying the backup";
    drop(file::connect(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?);
    file::make_directory(copy)?;
    let file = copy.join(file::NAME);
    let io = |error| LedgerError::io(ATTEMPT, &file, &error);
    fs::copy(from, &file).map_err(io)?;
    fs::set_permissions(&file, Permissions::from_mode(0o640)).map_err(io)?;
    let (mut ledger, remembered) = Ledger::open(copy).map_err(|error| error.of(from))?;
    let reader = ledger.reader()?;
    let verified = whole(&reader, from).map_err(|error| error.of(from))?;
    drop(reader);
    let (event, command) = finish(remembered.last);
    ledger.record(&Batch {
        events: vec![event],
        commands: command.into_iter().collect(),
        // Not now: what was counted since then is still to be taken in.
        ..Batch::empty(remembered.last.unwrap_or(at))
    })?;
    ledger.close()?;
    File::open(&file)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    Ok((verified, remembered.last))
}

/// The ledger with its log, under a name that nothing else has.
fn put_aside(ledger: &Path, at: Timestamp) -> io::Result<Option<PathBuf>> {
    let stamp = at.strftime("%Y%m%dT%H%M%SZ");
    let mut aside = ledger.with_file_name(format!("ledger-before-{stamp}.db"));
    let mut more = 1;
    while aside.symlink_metadata().is_ok() {
        more += 1;
        aside = ledger.with_file_name(format!("ledger-before-{stamp}-{more}.db"));
    }
    let beside = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let mut found = false;
    for suffix in ["", "-wal", "-shm"] {
        match fs::rename(beside(ledger, suffix), beside(&aside, suffix)) {
            Ok(()) => found = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found.then_some(aside))
}
