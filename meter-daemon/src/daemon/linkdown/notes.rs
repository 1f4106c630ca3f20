//! What we know of the links that we have set down: in memory, and as notes in the ledger,
//! which outlive us.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    daemon::node::Node,
    engine::units::MachineId,
    host::linkdown::{Entry, LinkDown},
    ledger::{BootId, EventRecord, HostNote, LedgerError},
};

const PREFIX: &str = "link-down/";

/// Somebody who sets a held link up again and again is answered so often, and at once only
/// so many times in a row: two programs that fight must not take the node's time.
const PACE: Duration = Duration::from_secs(1);
const AT_ONCE: u32 = 3;

/// The links that we have set down, or may have.
pub(crate) struct HeldLinks {
    pub(super) host: LinkDown,
    prefix: String,
    /// By ifindex: every link that has a note.
    pub(super) held: BTreeMap<u32, Held>,
    /// Suspended machines' links that stay up, and why.
    pub(super) kept_up: BTreeMap<u32, String>,
    /// Notes of earlier boots: what they were about is no more.
    stale: Vec<String>,
}

pub(super) struct Held {
    pub(super) note: Note,
    /// Since when something of it could not be put back, by the monotonic clock.
    pub(super) lacking: Option<Duration>,
    /// That has been said.
    pub(super) said: bool,
    /// When the next answer to somebody who sets it up is due, by the monotonic clock.
    due: Duration,
    /// Somebody has set it up, and was answered just now.
    pub(super) waiting: bool,
}

/// What the ledger keeps of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) machine: MachineId,
    pub(super) name: String,
    pub(super) phase: Phase,
    /// What is to be put back.
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// We set it down, or are about to.
    Down,
    /// It is the operator's again: whoever sets it down now means it.
    Returning,
}

impl HeldLinks {
    /// With the notes that an earlier run left.
    pub(crate) fn open(
        host: LinkDown,
        boot: &BootId,
        netns: u64,
        notes: &[(String, String)],
    ) -> Self {
        let of_this_boot = boot_prefix(boot);
        let prefix = format!("{of_this_boot}{netns}/");
        let (mut held, mut stale) = (BTreeMap::new(), Vec::new());
        for (key, value) in notes.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            if !key.starts_with(&of_this_boot) {
                stale.push(key.clone());
            } else if let Some(ifindex) = key.strip_prefix(&prefix).and_then(|it| it.parse().ok()) {
                held.insert(ifindex, Held::new(read(ifindex, value)));
            }
        }
        Self {
            host,
            prefix,
            held,
            kept_up: BTreeMap::new(),
            stale,
        }
    }

    /// Whether we have set a link down, and nobody has taken it back.
    pub(super) fn holds(&self, ifindex: u32) -> bool {
        let held = self.held.get(&ifindex);
        held.is_some_and(|held| held.note.phase == Phase::Down)
    }

    fn key(&self, ifindex: u32) -> String {
        format!("{}{ifindex}", self.prefix)
    }
}

fn boot_prefix(boot: &BootId) -> String {
    format!("{PREFIX}{}/", boot.0)
}

/// Whether notes tell of links that were set down in this boot.
pub(crate) fn tells_of_links(notes: &[(String, String)], boot: &BootId) -> bool {
    let prefix = boot_prefix(boot);
    notes.iter().any(|(key, _)| key.starts_with(&prefix))
}

fn read(ifindex: u32, value: &str) -> Note {
    serde_json::from_str(value).unwrap_or_else(|error| {
        warn!(
            "the note of interface {ifindex}, which was set down, is unreadable ({error}): it will \
             be set up, and its routes are yours to restore"
        );
        Note {
            machine: MachineId::from(""),
            name: format!("#{ifindex}"),
            phase: Phase::Down,
            entries: Vec::new(),
        }
    })
}

impl Held {
    fn new(note: Note) -> Self {
        Self {
            note,
            lacking: None,
            said: false,
            due: Duration::ZERO,
            waiting: false,
        }
    }

    /// Whether somebody who set it up may be answered now.
    pub(super) fn answers(&mut self, now: Duration) -> bool {
        self.waiting = now + PACE * (AT_ONCE - 1) < self.due;
        if !self.waiting {
            self.due = self.due.max(now) + PACE;
        }
        !self.waiting
    }
}

impl Node {
    /// What notes of earlier boots are about is no more.
    pub(super) fn forget_earlier_boots(&mut self) {
        if self.links.stale.is_empty() {
            return;
        }
        let now = self.now();
        let mut batch = self.batch(now, &self.engine, &[]);
        batch.notes = self
            .links
            .stale
            .iter()
            .map(|key| HostNote {
                key: key.clone(),
                value: None,
            })
            .collect();
        let engine = self.engine.clone();
        // Said where the ledger is written; tried again with the next poll.
        if self.commit(&batch, engine).is_ok() {
            self.links.stale.clear();
        }
    }

    /// The note of a link into the ledger, and then, if it got there, into our memory.
    pub(super) fn record_link(
        &mut self,
        ifindex: u32,
        note: Option<Note>,
        events: Vec<EventRecord>,
    ) -> Result<(), LedgerError> {
        let now = self.now();
        let mut batch = self.batch(now, &self.engine, &[]);
        batch.notes.push(HostNote {
            key: self.links.key(ifindex),
            value: note.as_ref().map(|note| {
                // Names, numbers and bytes as text: there is nothing in it that could fail.
                serde_json::to_string(note).unwrap_or_default()
            }),
        });
        batch.events.extend(events);
        let engine = self.engine.clone();
        self.commit(&batch, engine)?;
        match note {
            None => {
                self.links.held.remove(&ifindex);
            }
            Some(note) => match self.links.held.get_mut(&ifindex) {
                Some(held) => held.note = note,
                None => {
                    self.links.held.insert(ifindex, Held::new(note));
                }
            },
        }
        Ok(())
    }
}
