//! A file system for SQLite that writes down what it is asked to do, and does it by the usual
//! one. It becomes the default; connections to files outside a recorded directory go past it.
//!
//! Nothing is really synced: what a sync is worth is the disk model's to say.

#![expect(unsafe_code, reason = "SQLite's file systems are C")]

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    ptr,
    sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use super::disk::{FileId, Operation, Promise};

/// What is known of the files of a directory, and what has been done to them.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) operations: Vec<Operation>,
    /// By name.
    names: BTreeMap<String, (FileId, Identity)>,
    files: u64,
    deaf: bool,
}

/// Inodes are used again, but not born again.
type Identity = (u64, Option<SystemTime>);

fn identity(path: &Path) -> Identity {
    let metadata = fs::metadata(path).unwrap();
    (metadata.ino(), metadata.created().ok())
}

/// Whether a sync does what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syncs {
    Kept,
    /// Acknowledged and not done.
    Ignored,
}

/// A directory whose files are recorded, until it is dropped.
#[derive(Debug)]
pub(super) struct Recorded {
    directory: PathBuf,
    log: Arc<Mutex<Log>>,
    /// What was there before.
    pub(super) found: Vec<(String, FileId, Vec<u8>)>,
}

type Directories = HashMap<PathBuf, Arc<Mutex<Log>>>;

static DIRECTORIES: LazyLock<Mutex<Directories>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorded {
    pub(super) fn new(directory: &Path, syncs: Syncs) -> Self {
        register();
        let mut log = Log {
            deaf: syncs == Syncs::Ignored,
            ..Log::default()
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let id = log.named(&name, identity(&path));
            found.push((name, id, fs::read(&path).unwrap()));
        }
        let log = Arc::new(Mutex::new(log));
        locked(&DIRECTORIES).insert(directory.to_owned(), Arc::clone(&log));
        Self {
            directory: directory.to_owned(),
            log,
            found,
        }
    }

    pub(super) fn acknowledged(&self, promise: Promise) {
        locked(&self.log)
            .operations
            .push(Operation::Acknowledged(promise));
    }

    pub(super) fn operations(self) -> Vec<Operation> {
        std::mem::take(&mut locked(&self.log).operations)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        locked(&DIRECTORIES).remove(&self.directory);
    }
}

impl Log {
    fn named(&mut self, name: &str, identity: Identity) -> FileId {
        self.files += 1;
        let id = FileId(self.files);
        self.names.insert(name.to_owned(), (id, identity));
        id
    }

    /// Which file was opened. What was made or renamed without SQLite is noticed here.
    fn opened(&mut self, name: &str, identity: Identity) -> FileId {
        match self.names.get(name) {
            Some((id, known)) if *known == identity => return *id,
            Some(_) => self.operations.push(Operation::Unlink(name.to_owned())),
            None => {}
        }
        let former = self
            .names
            .iter()
            .find(|(_, (_, known))| *known == identity)
            .map(|(former, (id, _))| (former.clone(), *id));
        if let Some((former, id)) = former {
            self.names.remove(&former);
            self.names.insert(name.to_owned(), (id, identity));
            // Whoever renames syncs the directory; tests/sweep.rs sees that it does.
            self.operations
                .push(Operation::Rename(former, name.to_owned()));
            self.operations.push(Operation::SyncDirectory);
            return id;
        }
        let id = self.named(name, identity);
        self.operations.push(Operation::Create(name.to_owned(), id));
        id
    }

    fn deleted(&mut self, name: &str) {
        self.names.remove(name);
        self.operations.push(Operation::Unlink(name.to_owned()));
    }

    fn synced(&mut self, operation: Operation) {
        if !self.deaf {
            self.operations.push(operation);
        }
    }
}

/// What of an open file is ours.
struct Handle {
    log: Arc<Mutex<Log>>,
    file: FileId,
    /// A new journal or log: its first sync is one of its directory, too (`UNIXFILE_DIRSYNC`).
    is_new: bool,
}

/// Where SQLite keeps an open file: ours, and the usual file system's right behind.
#[repr(C)]
struct Open {
    base: sqlite3_file,
    handle: *mut Handle,
}

struct Registered {
    usual: *mut sqlite3_vfs,
}

// SAFETY: SQLite shares file systems between threads; the pointer is only read.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

static REGISTERED: OnceLock<Registered> = OnceLock::new();

fn usual() -> *mut sqlite3_vfs {
    REGISTERED.get().unwrap().usual
}

/// Makes this the default file system of the process, once.
fn register() {
    REGISTERED.get_or_init(|| {
        // SAFETY: SQLite initialises itself and answers with a file system that lives as long
        // as the process.
        let usual = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        assert!(!usual.is_null());
        // SAFETY: it is not null, so it is a whole `sqlite3_vfs`, made of plain fields.
        let mut ours = unsafe { ptr::read(usual) };
        ours.szOsFile += c_int::try_from(size_of::<Open>()).unwrap();
        ours.pNext = ptr::null_mut();
        ours.zName = c"recorded".as_ptr();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        Registered { usual }.with_default(ours)
    });
}

impl Registered {
    fn with_default(self, ours: sqlite3_vfs) -> Self {
        // SAFETY: it is leaked and so lives as long as the process. Its other functions are
        // the usual ones, which use their first argument for its name and `pAppData` only.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1) };
        assert_eq!(code, ffi::SQLITE_OK);
        self
    }
}

/// The log of a file's directory, if it is recorded, and the file's name in it.
fn recorded(name: *const c_char) -> Option<(Arc<Mutex<Log>>, PathBuf, String)> {
    if name.is_null() {
        return None;
    }
    // SAFETY: SQLite gives a terminated string that lives as long as the call.
    let name = unsafe { CStr::from_ptr(name) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    let log = Arc::clone(locked(&DIRECTORIES).get(path.parent()?)?);
    let name = path.file_name()?.to_str()?.to_owned();
    Some((log, path, name))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let usual = usual();
    // SAFETY: `usual` is a registered file system, whose functions are there.
    let usual_open = unsafe { (*usual).xOpen }.unwrap();
    let Some((log, path, name_in)) = recorded(name) else {
        // SAFETY: the arguments are SQLite's own; `file` has more room than is asked for.
        return unsafe { usual_open(usual, name, file, flags, out) };
    };
    let ours = file.cast::<Open>();
    // SAFETY: `file` points to `szOsFile` bytes, which is `Open` and the usual file behind.
    let (code, code_methods) = unsafe {
        (*ours).base.pMethods = ptr::null();
        let code = usual_open(usual, name, behind(file), flags, out);
        (code, (*behind(file)).pMethods)
    };
    if code != ffi::SQLITE_OK || code_methods.is_null() {
        return code;
    }
    let id = locked(&log).opened(&name_in, identity(&path));
    let journal = ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL;
    let handle = Handle {
        log,
        file: id,
        is_new: flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & journal != 0,
    };
    // SAFETY: as above; `METHODS` is static.
    unsafe {
        (*ours).handle = Box::into_raw(Box::new(handle));
        (*ours).base.pMethods = &raw const METHODS;
    }
    code
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    let usual = usual();
    // SAFETY: `usual` is a registered file system, whose functions are there, and the name is
    // SQLite's own.
    let code = unsafe { (*usual).xDelete.unwrap()(usual, name, 0) };
    if code == ffi::SQLITE_OK
        && let Some((log, _, name)) = recorded(name)
    {
        let mut log = locked(&log);
        log.deleted(&name);
        if sync != 0 {
            log.synced(Operation::SyncDirectory);
        }
    }
    code
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // 2: with shared memory, without memory-mapped reads.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The usual file system's part of an open file.
fn behind(file: *mut sqlite3_file) -> *mut sqlite3_file {
    file.wrapping_byte_add(size_of::<Open>())
}

/// Calls the usual file system's method of the same name.
macro_rules! usually {
    ($file:ident.$method:ident($($argument:expr),*)) => {{
        let file = behind($file);
        // SAFETY: SQLite calls methods of files that were opened, so the usual file behind
        // ours is one with methods; the arguments are SQLite's own.
        unsafe { (*(*file).pMethods).$method.unwrap()(file $(, $argument)*) }
    }};
}

fn note(file: *mut sqlite3_file, note: impl FnOnce(&mut Log, &mut Handle)) {
    // SAFETY: only files that `open` made have these methods; the handle lives until `close`,
    // and SQLite uses a file from one thread at a time.
    let handle = unsafe { &mut *(*file.cast::<Open>()).handle };
    let log = Arc::clone(&handle.log);
    note(&mut locked(&log), handle);
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = usually!(file.xClose());
    // SAFETY: `open` made it by `Box::into_raw`, and a file is closed once.
    drop(unsafe { Box::from_raw((*file.cast::<Open>()).handle) });
    code
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    let code = usually!(file.xWrite(data, amount, offset));
    if code == ffi::SQLITE_OK {
        let length = usize::try_from(amount).unwrap();
        // SAFETY: SQLite gives that many bytes, which live as long as the call.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) };
        note(file, |log, handle| {
            let offset = u64::try_from(offset).unwrap();
            log.operations
                .push(Operation::Write(handle.file, offset, bytes.into()));
        });
    }
    code
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    let code = usually!(file.xTruncate(size));
    if code == ffi::SQLITE_OK {
        note(file, |log, handle| {
            let size = u64::try_from(size).unwrap();
            log.operations.push(Operation::Truncate(handle.file, size));
        });
    }
    code
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    note(file, |log, handle| {
        log.synced(Operation::Sync(handle.file));
        if std::mem::take(&mut handle.is_new) {
            log.synced(Operation::SyncDirectory);
        }
    });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    data: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    usually!(file.xRead(data, amount, offset))
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    usually!(file.xFileSize(size))
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    usually!(file.xLock(level))
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    usually!(file.xUnlock(level))
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    usually!(file.xCheckReservedLock(out))
}

unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    usually!(file.xFileControl(operation, argument))
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    usually!(file.xSectorSize())
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    usually!(file.xDeviceCharacteristics())
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    usually!(file.xShmMap(page, size, extend, out))
}

unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    usually!(file.xShmLock(offset, count, flags))
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    usually!(file.xShmBarrier());
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    usually!(file.xShmUnmap(delete))
}
