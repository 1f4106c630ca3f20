//! What a disk may hold after a power cut. Pure.
//!
//! Synced is safe. Of what was written since, any sectors may have arrived, in any order, and
//! one that was on its way may be garbage. Names (created, deleted, renamed) arrive in order,
//! as on every file system with a journal, until the directory is synced. That is the model of
//! SQLite's own crash tests (test6.c), and like them it takes overwrites to be power safe: bytes
//! beside the written ones are not harmed.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// A file, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

/// What reached the file system, in order.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Write(FileId, u64, Arc<[u8]>),
    Truncate(FileId, u64),
    Sync(FileId),
    Create(String, FileId),
    Unlink(String),
    Rename(String, String),
    SyncDirectory,
    /// The program was told that what it asked for is safe.
    Acknowledged(Promise),
}

/// What must be there after the cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Promise {
    /// Steps recorded.
    pub(super) steps: u64,
    /// Notices of steps up to this one were taken out of the outbox.
    pub(super) settled: u64,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(FileId(file), offset, bytes) => {
                write!(f, "write {} bytes at {offset} of file {file}", bytes.len())
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// File contents by name.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// Reproducible dice.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    safe: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Arc<[u8]>),
    Truncate(u64),
}

impl Change {
    fn onto(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, written) => put(bytes, index(*offset), written),
            Self::Truncate(size) => bytes.resize(index(*size), 0),
        }
    }
}

/// The disk while the program runs: what is safe, and what is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<FileId, File>,
    names: BTreeMap<String, FileId>,
    renamings: Vec<Operation>,
    pub(super) promised: Promise,
}

/// How bad it was.
#[derive(Clone, Copy, Debug)]
struct Weather {
    sector: usize,
    /// Of a hundred sectors, how many arrived.
    arrived: u64,
    /// Of a hundred that did not, how many are garbage.
    garbage: u64,
}

impl Disk {
    pub(super) fn holding(files: impl IntoIterator<Item = (String, FileId, Vec<u8>)>) -> Self {
        let mut disk = Self::default();
        for (name, id, safe) in files {
            let unsynced = Vec::new();
            disk.files.insert(id, File { safe, unsynced });
            disk.names.insert(name, id);
        }
        disk
    }

    pub(super) fn take(&mut self, operation: &Operation) {
        match operation {
            Operation::Write(id, offset, bytes) => {
                self.change(*id, Change::Write(*offset, Arc::clone(bytes)));
            }
            Operation::Truncate(id, size) => self.change(*id, Change::Truncate(*size)),
            Operation::Sync(id) => {
                let file = self.files.entry(*id).or_default();
                for change in std::mem::take(&mut file.unsynced) {
                    change.onto(&mut file.safe);
                }
            }
            Operation::Create(..) | Operation::Unlink(_) | Operation::Rename(..) => {
                self.renamings.push(operation.clone());
            }
            Operation::SyncDirectory => {
                for operation in std::mem::take(&mut self.renamings) {
                    rename(&mut self.names, &operation);
                }
            }
            Operation::Acknowledged(promise) => self.promised = *promise,
        }
    }

    fn change(&mut self, id: FileId, change: Change) {
        self.files.entry(id).or_default().unsynced.push(change);
    }

    /// What could be found after a power cut now.
    pub(super) fn cut(&self, dice: &mut Dice) -> Image {
        let weather = Weather {
            sector: [512, 4096][index(dice.below(2))],
            arrived: [0, 10, 50, 50, 90, 100][index(dice.below(6))],
            garbage: [0, 0, 20][index(dice.below(3))],
        };
        let arrived = match weather.arrived {
            // Only the program was killed: the kernel has everything.
            100 => self.renamings.len(),
            _ => index(dice.below(self.renamings.len() as u64 + 1)),
        };
        let mut names = self.names.clone();
        for operation in &self.renamings[..arrived] {
            rename(&mut names, operation);
        }
        let contents = |id: &FileId, dice: &mut Dice| match self.files.get(id) {
            Some(file) => file.cut(weather, dice),
            None => Vec::new(),
        };
        names
            .iter()
            .map(|(name, id)| (name.clone(), contents(id, dice)))
            .collect()
    }
}

impl File {
    fn cut(&self, weather: Weather, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.safe.clone();
        for change in &self.unsynced {
            match change {
                Change::Truncate(_) if dice.below(100) < weather.arrived => change.onto(&mut bytes),
                Change::Truncate(_) => {}
                Change::Write(offset, written) => {
                    tear(&mut bytes, index(*offset), written, weather, dice);
                }
            }
        }
        bytes
    }
}

/// Lets each sector of a write arrive, or not, or as garbage.
fn tear(bytes: &mut Vec<u8>, offset: usize, written: &[u8], weather: Weather, dice: &mut Dice) {
    let mut at = 0;
    while at < written.len() {
        let rest = weather.sector - (offset + at) % weather.sector;
        let end = written.len().min(at + rest);
        if dice.below(100) < weather.arrived {
            put(bytes, offset + at, &written[at..end]);
        } else if dice.below(100) < weather.garbage {
            let garbage: Vec<u8> = (at..end).map(|_| dice.next().to_le_bytes()[0]).collect();
            put(bytes, offset + at, &garbage);
        }
        at = end;
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

fn rename(names: &mut BTreeMap<String, FileId>, operation: &Operation) {
    match operation {
        Operation::Create(name, id) => {
            names.insert(name.clone(), *id);
        }
        Operation::Unlink(name) => {
            names.remove(name);
        }
        Operation::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        _ => {}
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

#[test]
fn what_was_synced_is_there_and_of_the_rest_any_sectors() {
    let (file, log) = (FileId(1), FileId(2));
    let mut disk = Disk::holding([("db".to_owned(), file, vec![1; 4096])]);
    let write = |id, byte| Operation::Write(id, 0, vec![byte; 4096].into());
    for operation in [
        write(file, 2),
        Operation::Sync(file),
        write(file, 3),
        Operation::Create("log".to_owned(), log),
        write(log, 9),
        Operation::Sync(log),
    ] {
        disk.take(&operation);
    }
    let mut dice = Dice::new(1);
    let (mut torn, mut without_log) = (0, 0);
    for _ in 0..200 {
        let image = disk.cut(&mut dice);
        let db = &image["db"];
        let old = db.chunks(512).any(|sector| sector == [1; 512]);
        assert!(!old, "what was synced over is gone");
        torn += u32::from(db.contains(&2) && db.contains(&3));
        match image.get("log") {
            Some(log) => assert_eq!(log, &[9; 4096]),
            None => without_log += 1,
        }
    }
    assert!(torn > 20 && without_log > 20, "{torn} {without_log}");
    disk.take(&Operation::SyncDirectory);
    assert!((0..50).all(|_| disk.cut(&mut dice).contains_key("log")));
}
