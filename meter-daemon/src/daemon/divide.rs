//! Each second, what a throttled machine's interfaces are shaped to: by what they have offered
//! their shapers, from the counters. The arithmetic is `share`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    apply::Which,
    node::Node,
    share::{Demand, aim, shares},
};
use crate::{
    engine::{
        Enforcement,
        units::{Bytes, MachineId},
    },
    ledger::Slot,
};

impl Node {
    /// Whether a rate is to be divided among interfaces, and so reckoned again each second.
    pub(crate) fn has_shares(&self) -> bool {
        let mut shaped: BTreeSet<&MachineId> = BTreeSet::new();
        self.slots.iter().any(|record| {
            self.enforcer.touches(record.interface.ifindex) && !shaped.insert(&record.machine)
        })
    }

    /// Divides the rate of each throttled machine among its interfaces, by what they offered
    /// in the last second.
    pub(crate) async fn share(&mut self) {
        let Ok(readings) = self.programs.readings() else {
            // Said by the poll, which reads the same.
            return;
        };
        let mut machines: BTreeMap<MachineId, Vec<(Slot, Bytes)>> = BTreeMap::new();
        let policed = self.policed();
        for record in self.slots.iter() {
            if policed.contains_key(&record.machine) {
                continue;
            }
            let slot = record.counter.slot;
            if self.enforcer.touches(record.interface.ifindex)
                && let Some(reading) = readings.get(slot.0 as usize)
            {
                let total = Bytes(reading.received.shaped_bytes) + Bytes(reading.sent.shaped_bytes);
                let machine = machines.entry(record.machine.clone()).or_default();
                machine.push((slot, total));
            }
        }
        let before = std::mem::take(&mut self.enforcer.demands);
        let shares_before = std::mem::take(&mut self.enforcer.shares);
        for (machine, slots) in machines {
            let Enforcement::Throttle(rate) = self.wanted(&machine) else {
                continue;
            };
            let demand = |(slot, offered): &(Slot, Bytes)| {
                (
                    *slot,
                    before.get(slot).copied().unwrap_or_default().look(*offered),
                )
            };
            let (slots, demands): (Vec<Slot>, Vec<Demand>) = slots.iter().map(demand).unzip();
            let shares = shares(aim(rate), &demands);
            self.enforcer
                .shares
                .extend(slots.iter().copied().zip(shares));
            self.enforcer.demands.extend(slots.into_iter().zip(demands));
        }
        let changed = self.slots.iter().filter(|record| {
            let slot = &record.counter.slot;
            self.enforcer.shares.get(slot) != shares_before.get(slot)
        });
        let changed = changed.map(|record| record.interface.ifindex).collect();
        self.apply_to(Which::These(changed)).await;
    }
}
