//! Who owns which place in the counter arrays. Knows the ledger's words and nothing else.
//!
//! A slot is handed out with a new generation, and handed out again only after the last
//! delta of its owner is in the ledger: the counters themselves are never reset.

use std::collections::{BTreeMap, BTreeSet};

use super::packed::pack;
use crate::ledger::{BootId, CounterId, Generation, InterfaceId, MapSetId, Slot, SlotRecord};

/// The slots of one map set, as of the last commit.
#[derive(Debug)]
pub(crate) struct Slots {
    boot: BootId,
    map_set: MapSetId,
    /// By slot. Those in use are a run from the first, as the lowest free one is handed out.
    owners: Vec<Option<SlotRecord>>,
    /// The newest slot of each interface.
    by_interface: BTreeMap<InterfaceId, Slot>,
    free: BTreeSet<Slot>,
    generations: BTreeMap<Slot, Generation>,
}

impl Slots {
    /// `owners` and `generations` as the ledger remembers them for this boot and map set, the
    /// owners in the order in which they came.
    pub(crate) fn new(
        boot: BootId,
        map_set: MapSetId,
        count: u32,
        owners: impl IntoIterator<Item = SlotRecord>,
        generations: impl IntoIterator<Item = (Slot, Generation)>,
    ) -> Self {
        let mut slots = Self {
            boot,
            map_set,
            owners: Vec::new(),
            by_interface: BTreeMap::new(),
            free: (0..count).map(Slot).collect(),
            generations: generations.into_iter().collect(),
        };
        for record in owners {
            slots.free.remove(&record.counter.slot);
            // The last of an interface is the newest, whatever its number.
            slots
                .by_interface
                .insert(record.interface, record.counter.slot);
            slots.put(record);
        }
        slots
    }

    /// Returns who had the slot before.
    fn put(&mut self, record: SlotRecord) -> Option<SlotRecord> {
        let index = record.counter.slot.0 as usize;
        if self.owners.len() <= index {
            // Exactly: doubling would waste half.
            const MORE: usize = 256;
            let more = index + 1 - self.owners.len();
            if self.owners.capacity() <= index {
                self.owners.reserve_exact(more.max(MORE));
            }
            self.owners.resize(index + 1, None);
        }
        self.owners.get_mut(index)?.replace(record)
    }

    /// What a slot's counter is called, but for its generation.
    pub(crate) fn name(&self, slot: Slot) -> CounterId {
        CounterId {
            boot: self.boot.clone(),
            map_set: self.map_set,
            slot,
            generation: Generation(0),
        }
    }

    /// The free slots, each under its next generation: what a record says of one is up to the
    /// caller. Nothing is handed out until [`Slots::commit`].
    pub(crate) fn free(&self) -> impl Iterator<Item = CounterId> {
        self.free.iter().map(|slot| {
            let last = self.generations.get(slot);
            CounterId {
                generation: Generation(last.map_or(1, |last| last.0.wrapping_add(1))),
                ..self.name(*slot)
            }
        })
    }

    /// What the ledger has recorded: from now on it is so.
    pub(crate) fn commit(&mut self, records: &[SlotRecord], freed: &[CounterId]) {
        for record in records {
            self.free.remove(&record.counter.slot);
            self.generations
                .insert(record.counter.slot, record.counter.generation);
            if self.put(record.clone()).is_none() {
                self.by_interface
                    .insert(record.interface, record.counter.slot);
            }
        }
        for counter in freed {
            let owner = self.owners.get_mut(counter.slot.0 as usize);
            if let Some(record) = owner.and_then(Option::take) {
                self.free.insert(counter.slot);
                if self.by_interface.get(&record.interface) == Some(&counter.slot) {
                    self.by_interface.remove(&record.interface);
                }
            }
        }
    }

    pub(crate) fn pack(&mut self) {
        pack(&mut self.by_interface);
        pack(&mut self.generations);
    }

    /// No shaper sends a slot's packets anywhere, whatever the ledger says.
    pub(crate) fn unshape(&mut self, slot: Slot) {
        if let Some(Some(record)) = self.owners.get_mut(slot.0 as usize) {
            record.shaped = None;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SlotRecord> {
        self.owners.iter().flatten()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&SlotRecord> {
        self.owners.get(slot.0 as usize)?.as_ref()
    }

    /// The slot that counts an interface now: the newest, where an earlier one of the same
    /// interface still waits for its last delta.
    pub(crate) fn of_interface(&self, interface: InterfaceId) -> Option<&SlotRecord> {
        self.by_interface
            .get(&interface)
            .and_then(|slot| self.get(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::units::MachineId,
        ledger::{Reading, SlotOwner},
    };

    fn record(counter: CounterId, ifindex: u32) -> SlotRecord {
        SlotRecord::of(SlotOwner {
            counter,
            machine: MachineId::from("web1"),
            interface: InterfaceId { netns: 1, ifindex },
            name: "tap1".into(),
            base: Reading::default(),
            credit: None,
            credits: true,
        })
    }

    #[test]
    fn a_slot_is_reused_only_after_its_last_delta_is_recorded_and_under_a_new_generation() {
        let mut slots = Slots::new(BootId("b".into()), MapSetId(7), 1, [], []);
        let first = slots.free().next().unwrap();
        assert_eq!(first.generation, Generation(1));
        slots.commit(&[record(first.clone(), 3)], &[]);
        assert_eq!(slots.free().next(), None, "the only slot is taken");
        slots.commit(&[], &[first]);
        assert_eq!(slots.free().next().unwrap().generation, Generation(2));
    }

    #[test]
    fn after_a_crash_between_two_owners_the_newer_slot_is_the_interfaces_whatever_its_number() {
        let mut slots = Slots::new(BootId("b".into()), MapSetId(7), 4, [], []);
        let first = record(slots.free().next().unwrap(), 2);
        slots.commit(std::slice::from_ref(&first), &[]);
        let old = record(slots.free().next().unwrap(), 3);
        slots.commit(std::slice::from_ref(&old), &[]);
        slots.commit(&[], std::slice::from_ref(&first.counter));
        let new = record(slots.free().next().unwrap(), 3);
        assert!(new.counter.slot < old.counter.slot);
        slots.commit(std::slice::from_ref(&new), &[]);
        let newest = |slots: &Slots| slots.of_interface(new.interface).cloned();
        assert_eq!(newest(&slots), Some(new.clone()));
        // The ledger remembers slots in the order in which they were handed out.
        let remembered = [old, new.clone()];
        let slots = Slots::new(BootId("b".into()), MapSetId(7), 4, remembered, []);
        assert_eq!(newest(&slots), Some(new.clone()));
    }
}
