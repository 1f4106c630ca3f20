//! A ledger that is older than what the kernel has counted since: a backup was restored. What
//! can be told whose it is, is taken once; what cannot, is nobody's and is said.
//!
//! The kernel's side keeps the newest generation of every slot, also of one that was let go
//! of. Where the ledger knows the same, all that the counter moved since the backup is its
//! owner's. Where the kernel's is newer, the slot has counted for somebody else since.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tracing::{info, warn};

use super::{node::Node, records};
use crate::{
    host::{
        clock,
        error::HostError,
        programs::{Attached, Programs},
    },
    ledger::{CounterId, Generation, LedgerError, Reading, Slot, SlotOwner, SlotRecord},
};

/// The newest generation of each slot, by the ledger and by the kernel.
pub(super) struct Generations {
    ledger: BTreeMap<Slot, Generation>,
    newest: BTreeMap<Slot, Generation>,
}

impl Generations {
    pub(super) fn of(
        programs: &Programs,
        ledger: BTreeMap<Slot, Generation>,
    ) -> Result<Self, HostError> {
        let mut newest = ledger.clone();
        for (slot, kernel) in (0..).map(Slot).zip(programs.generations()?) {
            let kernel = Generation(kernel);
            let known = newest.entry(slot).or_insert(kernel);
            *known = (*known).max(kernel);
        }
        newest.retain(|_, generation| *generation > Generation(0));
        Ok(Self { ledger, newest })
    }

    /// So that none is handed out again that the kernel has seen.
    pub(super) fn newest(&self) -> impl Iterator<Item = (Slot, Generation)> {
        self.newest.iter().map(|(slot, newest)| (*slot, *newest))
    }

    /// Whether the slot was handed out again since the ledger was told of this owner.
    pub(super) fn is_superseded(&self, record: &SlotRecord) -> bool {
        self.newest
            .get(&record.counter.slot)
            .is_some_and(|newest| *newest > record.counter.generation)
    }

    /// Slots that were handed out for the first time since the ledger's last record: all that
    /// they ever counted is their only owner's.
    pub(super) fn first_since(&self) -> Vec<Slot> {
        let first = |(slot, newest): &(&Slot, &Generation)| {
            **newest == Generation(1) && !self.ledger.contains_key(slot)
        };
        self.newest
            .iter()
            .filter(first)
            .map(|(slot, _)| *slot)
            .collect()
    }
}

impl Node {
    /// Lets go of slots that counted for others since: their counters are not divisible.
    pub(super) fn end_superseded(
        &mut self,
        now: Timestamp,
        superseded: &[SlotRecord],
    ) -> Result<(), LedgerError> {
        if superseded.is_empty() {
            return Ok(());
        }
        let mut batch = self.batch(now, &self.engine, &[]);
        batch.at = self.measured_to.min(now);
        for record in superseded {
            warn!(
                interface = record.name,
                machine = %record.machine,
                "the slot has counted for others since the ledger's last record; what this machine \
                 moved by it since then is not known"
            );
            batch.events.push(records::counter_superseded(now, record));
            batch.freed.push(record.counter.clone());
        }
        let engine = self.engine.clone();
        self.commit(&batch, engine)
    }

    /// Takes over a slot that the ledger does not know, where all that it counted is of the
    /// interface that it stands on. Says whether it did.
    pub(super) fn take_over(&mut self, attached: &Attached) -> Result<bool, LedgerError> {
        let slot = Slot(attached.slot);
        let interface = self.interfaces.id(attached.ifindex);
        let claim = self.interfaces.claim(attached.ifindex);
        let (Some(claim), Some(link)) = (claim, self.interfaces.link(attached.ifindex)) else {
            return Ok(false);
        };
        // With an owner of the ledger's own it is another slot's turn.
        if !self.first_since.contains(&slot) || self.slots.get(slot).is_some() {
            return Ok(false);
        }
        let now = clock::now().monotonic;
        let record = SlotRecord::of(SlotOwner {
            counter: CounterId {
                generation: Generation(attached.generation),
                ..self.slots.name(slot)
            },
            machine: claim.machine.clone(),
            interface,
            name: link.name.clone(),
            base: Reading::default(),
            credit: None,
            credits: self.interfaces.is_newborn(attached.ifindex, now),
        });
        info!(
            interface = record.name,
            machine = %record.machine,
            "metered since the ledger's last record: everything that it counted is taken"
        );
        let at = self.now();
        let mut batch = self.batch(at, &self.engine, &[]);
        // Not now: what it counted came since the ledger's last record.
        batch.at = self.measured_to.min(at);
        batch.slots.push(record);
        let engine = self.engine.clone();
        self.commit(&batch, engine)?;
        Ok(true)
    }
}
