//! What is against no allowance, per slot: what was not let through, and what is exempt.
//! Counters of the metrics, not of the ledger. Pure.

use std::collections::BTreeMap;

use super::packed::pack;
use crate::{
    engine::units::Bytes,
    host::programs::SlotReading,
    ledger::{Generation, Slot, SlotRecord},
};

/// What the program counts apart: bytes received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Apart {
    pub(crate) policed: [Bytes; 2],
    pub(crate) capped: [Bytes; 2],
    pub(crate) suspended: [Bytes; 2],
    pub(crate) exempt: [Bytes; 2],
}

impl From<&SlotReading> for Apart {
    fn from(reading: &SlotReading) -> Self {
        let directions = [&reading.received, &reading.sent];
        Self {
            policed: directions.map(|counters| Bytes(counters.dropped_throttled)),
            capped: directions.map(|counters| Bytes(counters.dropped_capped)),
            suspended: directions.map(|counters| Bytes(counters.dropped_suspended)),
            exempt: directions.map(|counters| Bytes(counters.exempt_bytes)),
        }
    }
}

/// The slots, by who has them.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    /// The owner of each slot as of the last look.
    generations: BTreeMap<Slot, Generation>,
    /// What there is of those of which there is something: of most, all is let through.
    seen: BTreeMap<Slot, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When this daemon first looked, and now.
    first: Apart,
    now: Apart,
    throttled: [Bytes; 2],
}

impl Drops {
    /// Looks at a slot whose owner `record` is: what it showed for others before is not its.
    pub(crate) fn look(&mut self, record: &SlotRecord, now: Apart) {
        let (slot, generation) = (record.counter.slot, record.counter.generation);
        if self.generations.insert(slot, generation) != Some(generation) {
            self.seen.remove(&slot);
            if now != Apart::default() {
                let seen = Seen {
                    first: now,
                    now,
                    ..Seen::default()
                };
                self.seen.insert(slot, seen);
            }
        } else if now != Apart::default() {
            self.seen.entry(slot).or_default().now = now;
        }
    }

    pub(crate) fn pack(&mut self) {
        pack(&mut self.generations);
    }

    /// Takes in what was recorded. What was handed to a shaper and has not come through was
    /// dropped or waits: a counter does not take back what then comes through after all.
    pub(crate) fn recorded(&mut self, record: &SlotRecord) {
        let slot = record.counter.slot;
        let inside = [0, 1].map(|direction| {
            record.cursor.shaped[direction].saturating_sub(record.base.shaped[direction])
        });
        if inside != [Bytes::ZERO; 2] && self.is_owner(record) {
            let seen = self.seen.entry(slot).or_default();
            seen.throttled = [0, 1].map(|i| seen.throttled[i].max(inside[i]));
        }
    }

    /// What an owner was not let through since this daemon first saw it.
    pub(crate) fn apart(&self, record: &SlotRecord) -> Apart {
        self.seen(record).map_or_else(Apart::default, |seen| {
            let grown = |first: [Bytes; 2], now: [Bytes; 2]| {
                [0, 1].map(|direction| now[direction].saturating_sub(first[direction]))
            };
            Apart {
                policed: grown(seen.first.policed, seen.now.policed),
                capped: grown(seen.first.capped, seen.now.capped),
                suspended: grown(seen.first.suspended, seen.now.suspended),
                exempt: grown(seen.first.exempt, seen.now.exempt),
            }
        })
    }

    /// What an owner sent and the program did not let through: what the slot shows of owners
    /// before it is not its.
    pub(crate) fn of_sent(&self, record: &SlotRecord, now: Apart) -> Bytes {
        let first = self.seen(record).map(|seen| seen.first).unwrap_or_default();
        let all = |apart: Apart| apart.policed[1] + apart.capped[1] + apart.suspended[1];
        all(now).saturating_sub(all(first))
    }

    /// What the shapers of an owner dropped, received and sent.
    pub(crate) fn throttled(&self, record: &SlotRecord) -> [Bytes; 2] {
        self.seen(record)
            .map_or([Bytes::ZERO; 2], |seen| seen.throttled)
    }

    fn seen(&self, record: &SlotRecord) -> Option<&Seen> {
        let seen = self.seen.get(&record.counter.slot)?;
        self.is_owner(record).then_some(seen)
    }

    fn is_owner(&self, record: &SlotRecord) -> bool {
        self.generations.get(&record.counter.slot) == Some(&record.counter.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::units::MachineId,
        ledger::{BootId, CounterId, InterfaceId, MapSetId, Reading, SlotOwner},
    };

    fn record(generation: u32, handed: u64, through: u64) -> SlotRecord {
        let shaped = |bytes| Reading {
            shaped: [Bytes(bytes), Bytes::ZERO],
            ..Reading::default()
        };
        let mut record = SlotRecord::of(SlotOwner {
            counter: CounterId {
                boot: BootId("b".into()),
                map_set: MapSetId(7),
                slot: Slot(3),
                generation: Generation(generation),
            },
            machine: MachineId::from("web1"),
            interface: InterfaceId {
                netns: 1,
                ifindex: 5,
            },
            name: "tap1".into(),
            base: shaped(through),
            credit: None,
            credits: false,
        });
        record.cursor = shaped(handed);
        record
    }

    fn capped(bytes: u64) -> Apart {
        Apart {
            capped: [Bytes(bytes); 2],
            ..Apart::default()
        }
    }

    #[test]
    fn what_a_shaper_dropped_only_ever_grows_though_what_waited_comes_through_later() {
        let mut drops = Drops::default();
        for (handed, through, dropped) in [
            (0, 0, 0),
            (10_000, 2_000, 8_000),
            (10_000, 9_000, 8_000),
            (30_000, 10_000, 20_000),
        ] {
            let record = record(1, handed, through);
            drops.look(&record, Apart::default());
            drops.recorded(&record);
            assert_eq!(drops.throttled(&record)[0], Bytes(dropped));
        }
    }

    #[test]
    fn a_slots_next_owner_begins_with_nothing() {
        let mut drops = Drops::default();
        let first = record(1, 5_000, 0);
        drops.look(&first, capped(100));
        drops.look(&first, capped(400));
        drops.recorded(&first);
        assert_eq!(drops.apart(&first), capped(300));
        let next = record(2, 0, 0);
        assert_eq!(drops.apart(&next), Apart::default());
        drops.look(&next, capped(450));
        assert_eq!(drops.apart(&next), Apart::default());
        assert_eq!(drops.throttled(&next), [Bytes::ZERO; 2]);
        drops.look(&next, capped(460));
        assert_eq!(drops.apart(&next), capped(10));
        assert_eq!(drops.of_sent(&next, capped(480)), Bytes(30));
    }
}
