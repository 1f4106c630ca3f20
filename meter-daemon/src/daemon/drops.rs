//! What the program did not let through, per slot, since this daemon first saw it: a counter
//! of the metrics, not of the ledger, since what is dropped is not used.

use std::collections::BTreeMap;

use crate::{
    engine::units::Bytes,
    host::programs::SlotReading,
    ledger::{Generation, Slot, SlotRecord},
};

/// Bytes dropped, received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) capped: [Bytes; 2],
    pub(crate) suspended: [Bytes; 2],
}

impl From<&SlotReading> for Dropped {
    fn from(reading: &SlotReading) -> Self {
        let directions = [&reading.received, &reading.sent];
        Self {
            capped: directions.map(|counters| Bytes(counters.dropped_capped)),
            suspended: directions.map(|counters| Bytes(counters.dropped_suspended)),
        }
    }
}

/// The first and the latest look at each slot, by who has it.
#[derive(Debug, Default)]
pub(crate) struct Drops(BTreeMap<Slot, (Generation, Dropped, Dropped)>);

impl Drops {
    pub(crate) fn look(&mut self, record: &SlotRecord, now: Dropped) {
        let generation = record.counter.generation;
        let seen = self
            .0
            .entry(record.counter.slot)
            .or_insert((generation, now, now));
        if seen.0 == generation {
            seen.2 = now;
        } else {
            *seen = (generation, now, now);
        }
    }

    pub(crate) fn since(&self, record: &SlotRecord) -> Dropped {
        let Some((generation, first, now)) = self.0.get(&record.counter.slot) else {
            return Dropped::default();
        };
        if *generation != record.counter.generation {
            return Dropped::default();
        }
        let grown = |first: [Bytes; 2], now: [Bytes; 2]| {
            [0, 1].map(|direction| now[direction].saturating_sub(first[direction]))
        };
        Dropped {
            capped: grown(first.capped, now.capped),
            suspended: grown(first.suspended, now.suspended),
        }
    }
}
