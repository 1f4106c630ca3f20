//! The ledger: what must not be lost. One transaction a step.
//!
//! This file is the contract: a [`Batch`] goes in whole or not at all, and what was
//! recorded comes back as [`Remembered`]. `sqlite` keeps it; another store can stand beside.
//! The ledger reads no clock: every time in it was given by its caller.

mod backup;
pub mod cursor;
mod error;
mod file;
mod forget;
mod key;
mod lock;
mod memory;
mod outbox;
mod query;
mod reader;
mod record;
mod remember;
mod retention;
mod rollup;
mod schema;
mod seed;
mod settled;
mod slots;
mod sqlite;
mod standing;
pub mod statement;
#[cfg(test)]
mod tests;
mod value;
mod verify;

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::engine::{
    record::{Changes, Kept},
    units::{AccountId, Bytes, MachineId, Traffic},
};

pub use self::{
    backup::{BackedUp, Existing, Restored, backup, is_database, restore, verify_file},
    error::LedgerError,
    forget::Holdings,
    key::{key_file, signing_key},
    lock::{Lock, lock},
    outbox::Queued,
    query::EventFilter,
    reader::Reader,
    retention::Pruned,
    seed::{Seed, SeedRow},
    sqlite::Ledger,
    verify::{Difference, Parts, Verified},
};

/// A store of whole transactions: all that the daemon's loop needs to keep its promises.
pub trait Store {
    /// Records a step whole. On failure nothing of it is recorded, and a later batch that
    /// holds everything since may be tried instead: the kernel's counters forget nothing.
    ///
    /// # Errors
    /// Why nothing was recorded.
    fn record(&mut self, batch: &Batch) -> Result<(), LedgerError>;

    /// What a command under this key was answered, if one was recorded.
    ///
    /// # Errors
    /// Why it could not be looked up; the command must not be carried out then.
    fn answer(&self, key: &str) -> Result<Option<CommandRecord>, LedgerError>;
}

/// How long each resolution is kept. Months, periods and events are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Minutes.
    pub minutes: SignedDuration,
    /// Hours.
    pub hours: SignedDuration,
    /// Days.
    pub days: SignedDuration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            minutes: SignedDuration::from_hours(24 * 35),
            hours: SignedDuration::from_hours(24 * 400),
            days: SignedDuration::from_hours(24 * 1826),
        }
    }
}

/// This boot of this kernel: the text of `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub Arc<str>);

/// One set of pinned maps, named at random when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MapSetId(pub u64);

/// A place in the counter arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u32);

/// How often a slot has been handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u32);

/// Which counter a reading is of. Another identity is another counter: it counts whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CounterId {
    /// Of which boot.
    pub boot: BootId,
    /// In which maps.
    pub map_set: MapSetId,
    /// At which place.
    pub slot: Slot,
    /// For which of its owners.
    pub generation: Generation,
}

/// A network interface of this boot: an ifindex and the network namespace it is of (its
/// cookie, which is not used again before a reboot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InterfaceId {
    /// `SO_NETNS_COOKIE`.
    pub netns: u64,
    /// Only ever grows within a namespace.
    pub ifindex: u32,
}

/// What a slot's counters showed: monotone over the life of the map set, whoever owns the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// In the configured basis.
    pub traffic: Traffic,
    /// Received, sent.
    pub packets: [u64; 2],
    /// Frames' bytes as the kernel's own interface counters take them: received, sent.
    pub frames: [Bytes; 2],
    /// Of `traffic`, what was handed to a shaper of ours instead of going straight through:
    /// received, sent. What a shaper drops was not used, so of this only what came through
    /// counts: used = traffic - shaped + what the shapers let through ([`Shaped`]).
    pub shaped: [Bytes; 2],
}

/// What came through the two shapers of an interface since they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shaped {
    /// The IFB's ifindex: names the pair. Another pair counts from zero.
    pub ifb: u32,
    /// Received, sent.
    pub through: [Bytes; 2],
}

/// A slot, its owner, and how far its counters are in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRecord {
    /// Shared by all who know the slot: of twenty thousand of them the daemon, the ledger's writer
    /// and a batch would each have a copy. Who changes it gets one of his own.
    pub owner: Arc<SlotOwner>,
    /// What the counters showed at the last commit: everything up to here is in the ledger.
    pub cursor: Reading,
    /// What had come through our shapers at the cursor, while they stand.
    pub shaped: Option<Shaped>,
}

impl SlotRecord {
    /// As it is handed out: what its counters show then is its base, and nothing is past that.
    #[must_use]
    pub fn of(owner: SlotOwner) -> Self {
        Self {
            cursor: owner.base,
            owner: Arc::new(owner),
            shaped: None,
        }
    }
}

impl Deref for SlotRecord {
    type Target = SlotOwner;

    fn deref(&self) -> &SlotOwner {
        &self.owner
    }
}

impl DerefMut for SlotRecord {
    fn deref_mut(&mut self) -> &mut SlotOwner {
        Arc::make_mut(&mut self.owner)
    }
}

/// What seldom changes of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotOwner {
    /// Which counter.
    pub counter: CounterId,
    /// Whose traffic it is.
    pub machine: MachineId,
    /// On which interface.
    pub interface: InterfaceId,
    /// The interface's name, last seen.
    pub name: String,
    /// What the counters showed when the slot was handed out; of `shaped`, with what has come
    /// through our shapers since, so that what is between it and the cursor was dropped.
    pub base: Reading,
    /// Traffic from before attachment, credited from the interface's own counters. Absent
    /// until it has been found, once.
    pub credit: Option<Traffic>,
    /// Whether the interface's earlier bytes are to be credited (false: a baseline).
    pub credits: bool,
}

/// A machine's new traffic, for the roll-ups.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Whose.
    pub machine: MachineId,
    /// Whose hours, days and months they are.
    pub zone: TimeZone,
    /// The span `(from, to]`.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// What moved.
    pub traffic: Traffic,
}

/// An event as the ledger keeps it: append only, its body JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// When.
    pub time: Timestamp,
    /// To whom.
    pub machine: Option<MachineId>,
    /// Whose account.
    pub account: Option<AccountId>,
    /// Its word: `throttled`, `notice`, `interface-attached`, …
    pub name: String,
    /// The whole line, as `events --json` prints it.
    pub body: serde_json::Value,
    /// For a notice, its id: it also goes into the outbox, once whatever happens.
    pub notice: Option<String>,
}

/// A command that was carried out under a key, and what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRecord {
    /// The `Idempotency-Key`.
    pub key: String,
    /// What was asked: a digest or the canonical text.
    pub request: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// The answer's JSON.
    pub answer: String,
}

/// Something that `host` needs to undo what it does, e.g. the root qdisc that stood before
/// a shaper: `key` names the thing, `None` forgets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNote {
    /// `root-qdisc/<netns cookie>/<ifindex>`, …
    pub key: String,
    /// JSON that only `host` reads.
    pub value: Option<String>,
}

/// All that one step changes. Recorded in one transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Wall time of the step.
    pub at: Timestamp,
    /// Slots handed out, moved on (cursor), renamed or credited: the whole new record each.
    pub slots: Vec<SlotRecord>,
    /// Slots whose interface is gone and whose last delta is in `usage`: free from now on.
    pub freed: Vec<CounterId>,
    /// Slots of `slots` whose counters fell and are begun anew: what they had counted stays
    /// their owner's.
    pub anew: Vec<CounterId>,
    /// New traffic.
    pub usage: Vec<Usage>,
    /// What the engine changed.
    pub changes: Changes,
    /// What happened, in order.
    pub events: Vec<EventRecord>,
    /// Answers to keep for a repeated key.
    pub commands: Vec<CommandRecord>,
    /// For the host's undoing.
    pub notes: Vec<HostNote>,
    /// The highest ifindex seen in this boot and namespace, where it grew.
    pub highest: Option<Highest>,
}

impl Batch {
    /// One that changes nothing but when the last one was.
    #[must_use]
    pub fn empty(at: Timestamp) -> Self {
        Self {
            at,
            slots: Vec::new(),
            freed: Vec::new(),
            anew: Vec::new(),
            usage: Vec::new(),
            changes: Changes::default(),
            events: Vec::new(),
            commands: Vec::new(),
            notes: Vec::new(),
            highest: None,
        }
    }
}

/// The highest ifindex ever seen in a namespace: what is above it was born since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Highest {
    /// Which boot.
    pub boot: BootId,
    /// Which namespace, and the ifindex.
    pub interface: InterfaceId,
}

/// What a start finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    /// Every slot that is not free, of whatever boot and map set.
    pub slots: Vec<SlotRecord>,
    /// The newest generation of every slot of a map set, freed ones included.
    pub generations: Vec<(MapSetId, Slot, Generation)>,
    /// For the engine.
    pub kept: Kept,
    /// For the host's undoing.
    pub notes: Vec<(String, String)>,
    /// Per boot and namespace.
    pub highest: Vec<Highest>,
    /// When the last batch was recorded.
    pub last: Option<Timestamp>,
}

/// A history's resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// 60 s.
    Minute,
    /// Of the machine's zone.
    Hour,
    /// Of the machine's zone.
    Day,
    /// Of the machine's zone.
    Month,
    /// The plan's periods.
    Period,
}

impl Resolution {
    /// The word used in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Period => "period",
        }
    }
}

/// A row of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// Its first instant.
    pub start: Timestamp,
    /// The next row's.
    pub end: Timestamp,
    /// What moved.
    pub traffic: Traffic,
}
