//! The kernel's own limits, kept where the engine wants them: which of the program's entries is
//! which machine's, what stands against it from the first packet, what its next boundaries are,
//! and whose traffic is exempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
};

use ipnet::IpNet;
use tracing::{debug, error, info};

use super::{
    RETRY,
    apply::Which,
    limits::{Absolute, Account, Indices, Spent},
    node::Node,
    open::Failure,
    packed::pack,
    share::aim,
};
use crate::{
    engine::{
        Boundary, Enforcement,
        units::{BitsPerSecond, Bytes, MachineId, PlanName, Traffic},
    },
    host::{
        clock,
        error::HostError,
        limits::{ArmedBoundary, ExemptWhenSuspended, Then},
        reached::{LimitEvent, LimitEvents},
    },
    ledger::{Slot, SlotRecord},
};

/// What the daemon knows of the program's entries of machines.
#[derive(Debug, Default)]
pub(crate) struct Arms {
    pub(super) indices: Indices,
    accounts: BTreeMap<MachineId, Account>,
    /// Machines whose entry no packet has passed yet.
    unused: BTreeSet<MachineId>,
    /// Prefixes by group, as the program has them.
    groups: BTreeMap<u32, Vec<IpNet>>,
    /// Whether groups of an earlier run have been looked for.
    knows_groups: bool,
    /// Machines whose limits could not be armed, and of which that was said.
    failing: BTreeSet<MachineId>,
}

impl Arms {
    pub(super) fn pack(&mut self) {
        self.indices.pack();
        pack(&mut self.accounts);
    }

    /// These bytes of the counters are in the ledger now.
    pub(super) fn took(&mut self, traffic: &BTreeMap<MachineId, Traffic>) {
        for (machine, traffic) in traffic {
            if let Some(account) = self.accounts.get_mut(machine) {
                account.took(*traffic);
            }
        }
    }
}

impl Node {
    /// What the kernel program says of limits that are reached.
    pub(super) fn limit_events(&mut self) -> Result<LimitEvents, Failure> {
        let events = self.programs.limit_events()?;
        events.ok_or_else(|| listening(io::Error::other("somebody in this process does already")))
    }

    /// The entry that all of the machine's interfaces share.
    pub(super) fn machine_entry(&mut self, machine: &MachineId) -> Result<u32, HostError> {
        let (index, is_new) = self.arms.indices.take(machine);
        if is_new {
            // Whoever had it before left its limits there.
            self.programs.limits_mut().reset(index)?;
        }
        Ok(index)
    }

    /// As above; without one the interface is metered, and its machine's limits are the poll's.
    pub(super) fn entry_before_attach(&mut self, record: &SlotRecord) -> u32 {
        let is_new = self.arms.indices.get(&record.machine).is_none();
        match self.machine_entry(&record.machine) {
            Ok(index) => {
                if is_new {
                    self.arms.unused.insert(record.machine.clone());
                }
                index
            }
            Err(failure) => {
                error!(interface = record.name, machine = %record.machine, "{failure}");
                meter_common::NO_MACHINE
            }
        }
    }

    /// An interface's entry as an earlier run left it: its machine's, or it is put right.
    pub(super) fn adopt_entry(&mut self, slot: Slot, index: u32) -> Result<(), HostError> {
        let Some(machine) = self.slots.get(slot).map(|record| record.machine.clone()) else {
            return Ok(());
        };
        if self.arms.indices.adopt(&machine, index) {
            return Ok(());
        }
        let index = self.machine_entry(&machine)?;
        self.programs.set_machine(slot.0, index)
    }

    /// The entries of machines that have no interface any more can be others'.
    pub(super) fn release_entries(&mut self) {
        let present: BTreeSet<MachineId> = self
            .slots
            .iter()
            .map(|record| record.machine.clone())
            .collect();
        self.arms
            .accounts
            .retain(|machine, _| present.contains(machine));
        for index in self.arms.indices.keep(&present) {
            if let Err(failure) = self.programs.limits_mut().reset(index) {
                error!("{failure}");
            }
        }
    }

    /// What every machine has spent that is counted, by entry, to be looked at around a reading.
    pub(super) fn spent(&self) -> Vec<(u32, Spent)> {
        let limits = self.programs.limits();
        let spent = |account: &Account| {
            let spent = limits.spent(account.index()).ok()?;
            Some((account.index(), [spent.received.0, spent.sent.0]))
        };
        self.arms.accounts.values().filter_map(spent).collect()
    }

    /// A reading was taken in that began after `before` was looked at.
    pub(super) fn compare_spent(&mut self, before: &[(u32, Spent)]) {
        let after = self.spent();
        let mut looks = before.iter().zip(&after);
        for account in self.arms.accounts.values_mut() {
            let Some(((of, before), (and, after))) = looks.next() else {
                break;
            };
            // Nobody comes or goes in between; if somebody did, the next reading's looks are his.
            if [*of, *and] == [account.index(); 2] {
                account.look(*before, *after);
            }
        }
    }

    /// Limits and exempt prefixes of machines that are about to be attached, from the first
    /// packet.
    pub(super) fn arm_before_attach(&mut self) {
        self.exempt();
        self.arm();
        self.arms.unused.clear();
    }

    /// Arms every machine's limits as they follow from what is in the ledger. True where a
    /// machine is counted only from now on: its limits wait for the next reading.
    pub(super) fn arm(&mut self) -> bool {
        let machines: BTreeSet<MachineId> = self
            .slots
            .iter()
            .filter(|record| !self.closing.contains(&record.counter.slot))
            .map(|record| record.machine.clone())
            .collect();
        self.arm_those(&machines)
    }

    /// How many interfaces of a throttled machine are policed, of how many, where others of it
    /// are shaped.
    pub(super) fn policed(&self) -> BTreeMap<MachineId, (u64, u64)> {
        let mut found = self.of_throttled(|(policed, all): &mut (u64, u64), record| {
            *policed += u64::from(!self.enforcer.shapes(record));
            *all += 1;
        });
        found.retain(|_, (policed, all)| (1..*all).contains(policed));
        found
    }

    /// Shapers of these machines were put up or taken away: what is policed has what they
    /// leave of the rate.
    pub(super) fn police_the_rest(&mut self, throttled: &BTreeSet<MachineId>) {
        if !throttled.is_empty() {
            self.unapplied |= self.arm_those(throttled);
        }
    }

    fn arm_those(&mut self, machines: &BTreeSet<MachineId>) -> bool {
        let now = self.now();
        let policed = self.policed();
        let mut again = false;
        for machine in machines {
            let Some(index) = self.arms.indices.get(machine) else {
                continue;
            };
            let boundaries = self.engine.boundaries(machine, now);
            let stands = match (self.wanted(machine), policed.get(machine)) {
                (Enforcement::Throttle(rate), Some((policed, all))) => {
                    Enforcement::Throttle(BitsPerSecond(rate.0 / all * policed))
                }
                (wanted, _) => wanted,
            };
            match self.arm_one(machine, index, standing(stands), &boundaries) {
                Ok(is_new) => {
                    again |= is_new;
                    self.arms.failing.remove(machine);
                }
                Err(failure) => {
                    self.tally.enforcement_failures += 1;
                    if self.arms.failing.insert(machine.clone()) {
                        error!(machine = %machine, "{failure}");
                    }
                }
            }
        }
        again
    }

    fn arm_one(
        &mut self,
        machine: &MachineId,
        index: u32,
        standing: Option<ArmedBoundary>,
        boundaries: &[Boundary],
    ) -> Result<bool, HostError> {
        let is_new = !boundaries.is_empty() && !self.arms.accounts.contains_key(machine);
        if is_new {
            self.programs.limits_mut().start_counting(index)?;
            let mut account = Account::new(index);
            if self.arms.unused.contains(machine) {
                // Nothing moves there, so there is no need to wait for a reading.
                let spent = self.programs.limits().spent(index)?;
                let spent = [spent.received.0, spent.sent.0];
                account.look(spent, spent);
            }
            self.arms.accounts.insert(machine.clone(), account);
        }
        let account = self.arms.accounts.get(machine);
        let mut armed = Vec::with_capacity(2);
        for boundary in boundaries {
            let (Some(then), Some(account)) = (then(boundary.then), account) else {
                continue;
            };
            let Some(absolute) = account.absolute(boundary.left) else {
                // Not looked at since we started: what is armed there stays.
                return Ok(true);
            };
            armed.push(at(absolute, then));
        }
        let limits = match (standing, armed.as_slice()) {
            // What stands already is one of the two; of two that follow, the harder.
            (Some(standing), following) => [Some(standing), following.last().copied()],
            (None, [first, second, ..]) => [Some(*first), Some(*second)],
            (None, [only]) => [Some(*only), None],
            (None, []) => [None, None],
        };
        self.programs.limits_mut().arm(index, limits)?;
        Ok(is_new)
    }

    /// The kernel stopped or slowed machines by itself: what follows is recorded and done, for
    /// all of them in one reading.
    pub(super) async fn reached(&mut self, events: &[LimitEvent]) {
        let mut news = events.iter().filter(|event| self.is_news(event));
        let Some(first) = news.next() else {
            return;
        };
        let more = news.count();
        let Some(machine) = self.arms.indices.machine(first.machine).cloned() else {
            return;
        };
        let before = self.wanted(&machine);
        if let Err(failure) = self.freshen().await {
            self.failed(&failure);
            // The kernel says it once: a limit that came early would stay.
            self.try_again();
            return;
        }
        let microseconds = clock::now().since_boot.saturating_sub(first.at).as_micros();
        if self.wanted(&machine) == before {
            debug!(%machine, more, microseconds, "a limit in the kernel came early: put right");
        } else {
            info!(
                %machine, more, microseconds,
                "acted upon a limit that was reached in the kernel"
            );
        }
    }

    /// Whether something may follow from it: not from what is of before a restart, or of limits
    /// that were replaced meanwhile, and not from meeting what stands from the first byte.
    fn is_news(&self, event: &LimitEvent) -> bool {
        let arming = self.programs.limits().arming(event.machine);
        let Some(machine) = self.arms.indices.machine(event.machine) else {
            return false;
        };
        arming.is_ok_and(|arming| arming == event.arming)
            && (event.boundary != 0 || standing(self.wanted(machine)).is_none())
    }

    /// What is recorded, or reached, and could not be followed is taken up again in a moment.
    fn try_again(&mut self) {
        self.unapplied = true;
        self.patience = Some(clock::now().monotonic + RETRY);
    }

    /// Tells the program whose traffic is exempt.
    pub(super) fn exempt(&mut self) {
        let mut wanted: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        let mut of: Vec<(u32, u32, ExemptWhenSuspended)> = Vec::new();
        let mut lists: BTreeMap<Option<&PlanName>, u32> = BTreeMap::new();
        for (machine, index) in self.arms.indices.iter() {
            let plan = self.engine.plan(machine);
            let name = plan.map(|plan| &plan.name);
            let group = *lists.entry(name).or_insert_with(|| {
                let of_plan = plan.map_or(&[][..], |plan| &plan.exempt);
                let prefixes: BTreeSet<IpNet> =
                    self.config.exempt.iter().chain(of_plan).copied().collect();
                let prefixes: Vec<IpNet> = prefixes.into_iter().collect();
                let group = group(&prefixes);
                if group != meter_common::NO_GROUP {
                    wanted.insert(group, prefixes);
                }
                group
            });
            let passes = plan.is_some_and(|plan| plan.exempt_when_suspended);
            let when_suspended = match passes {
                true => ExemptWhenSuspended::Passes,
                false => ExemptWhenSuspended::Stopped,
            };
            of.push((index, group, when_suspended));
        }
        let outcome = self.set_exempt(&wanted, &of);
        match outcome {
            Ok(()) => self.tally.say_again("exempt"),
            Err(failure) => {
                self.tally.enforcement_failures += 1;
                if self.tally.say_once("exempt".to_owned()) {
                    error!("exempt prefixes: {failure}");
                }
            }
        }
    }

    /// New groups first, then who is in which, then the groups that nobody is in: at each
    /// moment a machine's prefixes are the old ones or the new.
    fn set_exempt(
        &mut self,
        wanted: &BTreeMap<u32, Vec<IpNet>>,
        of: &[(u32, u32, ExemptWhenSuspended)],
    ) -> Result<(), HostError> {
        for (group, prefixes) in wanted {
            if self.arms.groups.get(group) != Some(prefixes) {
                self.programs.set_exempt_prefixes(*group, prefixes)?;
                self.arms.groups.insert(*group, prefixes.clone());
            }
        }
        for (index, group, when_suspended) in of {
            self.programs
                .limits_mut()
                .set_exempt_group(*index, *group, *when_suspended)?;
        }
        let mut present: BTreeSet<u32> = self.arms.groups.keys().copied().collect();
        if !self.arms.knows_groups {
            present.extend(self.programs.exempt_groups()?);
            self.arms.knows_groups = true;
        }
        for group in present {
            if wanted.contains_key(&group) {
                continue;
            }
            self.programs.set_exempt_prefixes(group, &[])?;
            self.arms.groups.remove(&group);
        }
        Ok(())
    }

    /// Applies what is wanted; machines that are counted only from now on get their limits by
    /// another reading.
    pub(super) async fn arm_and_apply(&mut self, which: Which) {
        if which == Which::All {
            self.exempt();
        }
        self.unapplied = false;
        if self.arm() {
            match self.measure().await {
                Ok(()) => {
                    self.unapplied = false;
                    self.arm();
                }
                Err(failure) => {
                    self.failed(&failure);
                    self.try_again();
                }
            }
        }
        self.apply_to(which).await;
    }
}

pub(super) fn listening(error: io::Error) -> Failure {
    Failure::System {
        attempt: "listening to the kernel program",
        error,
    }
}

/// What stands against a machine from the first packet, whatever else there is: also on an
/// interface that no shaper stands on, or none yet.
fn standing(wanted: Enforcement) -> Option<ArmedBoundary> {
    let then = match wanted {
        Enforcement::Throttle(rate) => Then::Police(aim(rate)),
        Enforcement::Suspend => Then::Suspended,
        Enforcement::Cap {
            remaining: Bytes::ZERO,
        } => Then::Capped,
        Enforcement::None | Enforcement::Cap { .. } => return None,
    };
    Some(at(
        Absolute {
            sum: Some(0),
            ..Absolute::default()
        },
        then,
    ))
}

fn then(enforcement: Enforcement) -> Option<Then> {
    match enforcement {
        Enforcement::Throttle(rate) => Some(Then::Police(aim(rate))),
        Enforcement::Suspend => Some(Then::Suspended),
        Enforcement::Cap { .. } => Some(Then::Capped),
        Enforcement::None => None,
    }
}

fn at(absolute: Absolute, then: Then) -> ArmedBoundary {
    ArmedBoundary {
        sum: absolute.sum.map(Bytes),
        received: absolute.received.map(Bytes),
        sent: absolute.sent.map(Bytes),
        then,
    }
}

/// The number of a list of prefixes: the same list has the same one, so that a list that is
/// changed is another group, and no packet sees it half changed.
fn group(prefixes: &[IpNet]) -> u32 {
    if prefixes.is_empty() {
        return meter_common::NO_GROUP;
    }
    let mut hasher = DefaultHasher::new();
    prefixes.hash(&mut hasher);
    let [low @ .., _, _, _, _] = hasher.finish().to_le_bytes();
    u32::from_le_bytes(low).max(meter_common::NO_GROUP + 1)
}
