//! Who owns which place in the counter arrays. Knows the ledger's words and nothing else.
//!
//! A slot is handed out with a new generation, and handed out again only after the last
//! delta of its owner is in the ledger: the counters themselves are never reset.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::{BootId, CounterId, Generation, InterfaceId, MapSetId, Slot, SlotRecord};

/// The slots of one map set, as of the last commit.
#[derive(Debug)]
pub(crate) struct Slots {
    boot: BootId,
    map_set: MapSetId,
    owners: BTreeMap<Slot, SlotRecord>,
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
        let mut by_interface = BTreeMap::new();
        let owners: BTreeMap<_, _> = owners
            .into_iter()
            .inspect(|record| {
                // The last of an interface is the newest, whatever its number.
                by_interface.insert(record.interface, record.counter.slot);
            })
            .map(|record| (record.counter.slot, record))
            .collect();
        let free = (0..count)
            .map(Slot)
            .filter(|slot| !owners.contains_key(slot))
            .collect();
        let generations = generations.into_iter().collect();
        Self {
            boot,
            map_set,
            owners,
            by_interface,
            free,
            generations,
        }
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
            let known = self
                .owners
                .insert(record.counter.slot, record.clone())
                .is_some();
            if !known {
                self.by_interface
                    .insert(record.interface, record.counter.slot);
            }
        }
        for counter in freed {
            if let Some(record) = self.owners.remove(&counter.slot) {
                self.free.insert(counter.slot);
                if self.by_interface.get(&record.interface) == Some(&counter.slot) {
                    self.by_interface.remove(&record.interface);
                }
            }
        }
    }

    /// No shaper sends a slot's packets anywhere, whatever the ledger says.
    pub(crate) fn unshape(&mut self, slot: Slot) {
        if let Some(record) = self.owners.get_mut(&slot) {
            record.shaped = None;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SlotRecord> {
        self.owners.values()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&SlotRecord> {
        self.owners.get(&slot)
    }

    /// The slot that counts an interface now: the newest, where an earlier one of the same
    /// interface still waits for its last delta.
    pub(crate) fn of_interface(&self, interface: InterfaceId) -> Option<&SlotRecord> {
        self.by_interface
            .get(&interface)
            .and_then(|slot| self.owners.get(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::units::MachineId;

    fn record(counter: CounterId, ifindex: u32) -> SlotRecord {
        SlotRecord {
            counter,
            machine: MachineId::from("web1"),
            interface: InterfaceId { netns: 1, ifindex },
            name: "tap1".into(),
            base: crate::ledger::Reading::default(),
            cursor: crate::ledger::Reading::default(),
            shaped: None,
            credit: None,
            credits: true,
        }
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
        slots.commit(&[], &[first.counter]);
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
