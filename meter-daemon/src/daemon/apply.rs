//! Which interfaces are looked at, whether they are what they should be, and how many of them
//! are seen to before somebody else has a turn. `enforce` and `linkdown` do the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{enforce::verdict, node::Node};
use crate::{
    engine::{Enforcement, units::MachineId},
    host::{clock, programs::Verdict, shaping::Root},
    ledger::SlotRecord,
};

/// So long the loop is held up by interfaces that are not what they should be. The kernel
/// stops and slows them by itself until their turn comes.
pub(super) const TURN: Duration = Duration::from_millis(50);

/// The interfaces that are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    /// Those of which we know that something else is wanted by now.
    Changed,
    /// By ifindex.
    These(BTreeSet<u32>),
}

impl Node {
    /// Makes interfaces what the engine wants them to be, where a look is due: what stands is not
    /// looked at for every question, and at every change of a single qdisc, as a look takes a
    /// third of a millisecond. Failures are said once, counted, and tried again with the next
    /// poll. What is not done within a [`TURN`] waits for the loop's next one: when a midnight
    /// suspends a thousand machines, whoever asks for something, or sends, is not kept waiting.
    pub(super) async fn apply_to(&mut self, which: Which) {
        let interfaces = self.throttled_interfaces();
        let restrained: BTreeSet<&MachineId> = self.engine.restrained().map(|it| it.0).collect();
        let mut changing = 0;
        let records: Vec<SlotRecord> = self
            .looked_at(&which)
            .filter(|record| !self.closing.contains(&record.counter.slot))
            .filter(|record| {
                restrained.contains(&record.machine)
                    || self.enforcer.touches(record.interface.ifindex)
                    || self.enforcer.verdict(record) != Some(Verdict::Pass)
            })
            .filter(|record| {
                let stands = self.stands_as_wanted(record, &interfaces);
                changing += usize::from(!stands);
                which != Which::Changed || !stands
            })
            .cloned()
            .collect();
        // Many at once, e.g. when a period begins, would hold up everybody for minutes.
        let _expedited = self.programs.expedited(changing);
        let until = clock::now().monotonic + TURN;
        let mut throttled = BTreeSet::new();
        for record in records {
            // Of all, and first: it takes no time.
            let stopped = self.stop_or_pass(&record, verdict(self.wanted(&record.machine)));
            if clock::now().monotonic > until {
                self.said(&record, stopped);
                self.unfinished.insert(record.interface.ifindex);
                continue;
            }
            if matches!(self.wanted(&record.machine), Enforcement::Throttle(_)) {
                throttled.insert(record.machine.clone());
            }
            let shaped = match self.rate(&record, &interfaces) {
                Some(rate) => self.throttle(&record, rate).await,
                None if self.enforcer.touches(record.interface.ifindex) => self.lift(&record).await,
                None => Ok(()),
            };
            let linked = self.hold_link(&record).await;
            self.said(&record, stopped.and(shaped).and(linked));
        }
        self.release_links(&which, until).await;
        self.police_the_rest(&throttled);
    }

    fn looked_at<'a>(&'a self, which: &'a Which) -> Box<dyn Iterator<Item = &'a SlotRecord> + 'a> {
        let of = |ifindex: &u32| self.slots.of_interface(self.interfaces.id(*ifindex));
        match which {
            Which::All | Which::Changed => Box::new(self.slots.iter()),
            Which::These(these) => Box::new(these.iter().filter_map(of)),
        }
    }

    /// Whether an earlier turn was too short.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Goes on where it ended.
    pub(super) async fn finish(&mut self) {
        let rest = std::mem::take(&mut self.unfinished);
        self.apply_to(Which::These(rest)).await;
    }

    /// Whether what is wanted of an interface stands, as far as we know without looking.
    pub(super) fn stands(&self, record: &SlotRecord) -> bool {
        self.stands_as_wanted(record, &self.throttled_interfaces())
    }

    /// Whether a throttle stands otherwise: where a root stands that is not ours to replace, the
    /// program polices.
    pub(super) async fn polices(&self, record: &SlotRecord) -> bool {
        let ifindex = record.interface.ifindex;
        let found = self.enforcer.shaping.inspect(ifindex).await;
        found.is_ok_and(|found| matches!(found.root, Root::Foreign { .. }))
            && matches!(self.wanted(&record.machine), Enforcement::Throttle(_))
            && self.enforcer.verdict(record) == Some(Verdict::Pass)
            && self.link_stands(ifindex)
    }

    fn stands_as_wanted(&self, record: &SlotRecord, interfaces: &BTreeMap<MachineId, u64>) -> bool {
        let touched = self.enforcer.touched.get(&record.interface.ifindex);
        let stands = match self.rate(record, interfaces) {
            None => touched.is_none(),
            rate => record.shaped.is_some() && touched.is_some_and(|it| it.rate == rate),
        };
        stands
            && self.enforcer.verdict(record) == Some(verdict(self.wanted(&record.machine)))
            && self.link_stands(record.interface.ifindex)
    }

    /// How many interfaces each throttled machine has.
    fn throttled_interfaces(&self) -> BTreeMap<MachineId, u64> {
        self.of_throttled(|count: &mut u64, _| *count += 1)
    }

    /// What is gathered of the interfaces of each throttled machine.
    pub(super) fn of_throttled<T: Default>(
        &self,
        mut gather: impl FnMut(&mut T, &SlotRecord),
    ) -> BTreeMap<MachineId, T> {
        let mut found: BTreeMap<MachineId, T> = self
            .engine
            .restrained()
            .filter(|(_, enforcement)| matches!(enforcement, Enforcement::Throttle(_)))
            .map(|(machine, _)| (machine.clone(), T::default()))
            .collect();
        // Of twenty thousand interfaces nearly all are nobody's who is throttled.
        if !found.is_empty() {
            for record in self.slots.iter() {
                if !self.closing.contains(&record.counter.slot)
                    && let Some(found) = found.get_mut(&record.machine)
                {
                    gather(found, record);
                }
            }
        }
        found
    }
}
