//! The limits of machines as the kernel program holds them: what they have spent, and what
//! happens at the next boundaries.
//!
//! Everything here is words of memory that the program reads per packet. Each change ends
//! with one store that puts it into force, so that a daemon that is killed at any point leaves
//! the old limits or the new ones, never a mixture. We are the only one who writes them.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use aya::maps::MapData;
use meter_common::{
    Action, Arming, Boundary, Machine, NO_GROUP, NO_LIMIT, NO_MACHINE, arming_index,
};

use super::{error::HostError, mapped::Mapped};
use crate::engine::units::{BitsPerSecond, Bytes};

/// What a machine has moved since counting began, exempt traffic apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// What its guests received.
    pub received: Bytes,
    /// What its guests sent.
    pub sent: Bytes,
}

/// Where a boundary lies, in terms of [`Spent`], and what happens there. It is reached once as
/// much has been spent as any of its limits says; the packet that reaches it still passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmedBoundary {
    /// Of both directions together.
    pub sum: Option<Bytes>,
    /// Of what its guests received.
    pub received: Option<Bytes>,
    /// Of what its guests sent.
    pub sent: Option<Bytes>,
    /// What then becomes of its packets.
    pub then: Then,
}

/// What becomes of a machine's packets behind a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// They are dropped: a cap is used up.
    Capped,
    /// They are dropped: the machine is suspended.
    Suspended,
    /// Each direction is policed to this rate, where no shaper of ours slows it down.
    Police(BitsPerSecond),
}

/// Whether exempt traffic passes a suspension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExemptWhenSuspended {
    /// Nothing passes.
    #[default]
    Stopped,
    /// It passes, and only the rest is stopped.
    Passes,
}

/// Every machine's limits.
pub struct Limits {
    machines: Mapped<Machine>,
    armings: Mapped<Arming>,
    entries: u32,
    /// [`Machine::never_exempt`] of a group, as far as its prefixes are known.
    never_exempt: BTreeMap<u32, u64>,
    /// The loader hands their descriptors to the programs that it loads later.
    _maps: [MapData; 2],
}

/// A boundary as it stands in the map.
type Words = [u64; 5];

const NO_BOUNDARY: Words = [NO_LIMIT, NO_LIMIT, NO_LIMIT, 0, Action::None as u64];

impl Limits {
    /// Of the maps, with so many machines.
    pub(super) fn map(
        machines: MapData,
        armings: MapData,
        entries: u32,
    ) -> Result<Self, HostError> {
        let failed = |error| HostError::system("map the machines' limits into memory", error);
        let limits = Self {
            machines: Mapped::new(machines.fd().as_fd(), 0..entries).map_err(failed)?,
            armings: Mapped::new(armings.fd().as_fd(), 0..entries * 2).map_err(failed)?,
            entries,
            never_exempt: BTreeMap::new(),
            _maps: [machines, armings],
        };
        // Another version may have changed the groups and not known of this word.
        for machine in limits.all() {
            machine.never_exempt.store(0, Release);
        }
        Ok(limits)
    }

    fn all(&self) -> impl Iterator<Item = &Machine> {
        (0..self.entries).filter_map(|index| self.machines.get(index))
    }

    /// Indexes of machines are from 1 up to, but not including, this. (0 is for interfaces of
    /// no machine.)
    #[must_use]
    pub const fn machines(&self) -> u32 {
        self.entries
    }

    /// Refuses what is not the index of a machine.
    pub(super) fn check(&self, machine: u32) -> Result<(), HostError> {
        self.machine(machine).map(drop)
    }

    fn machine(&self, index: u32) -> Result<&Machine, HostError> {
        let machine = Some(index)
            .filter(|index| *index != NO_MACHINE)
            .and_then(|index| self.machines.get(index));
        machine.ok_or(HostError::NoMachine {
            machine: index,
            machines: self.entries,
        })
    }

    fn boundaries(&self, index: u32, arming: u64) -> Result<&[Boundary; 2], HostError> {
        let armed = self.armings.get(arming_index(index, arming));
        armed
            .map(|armed| &armed.boundaries)
            .ok_or(HostError::NoMachine {
                machine: index,
                machines: self.entries,
            })
    }

    /// What the machine has spent. Whoever arms limits by what is left looks here first, and
    /// at the counters after that: a packet in between stops the machine early, never late.
    ///
    /// # Errors
    /// Where there is no such machine.
    pub fn spent(&self, machine: u32) -> Result<Spent, HostError> {
        let machine = self.machine(machine)?;
        Ok(Spent {
            received: Bytes(machine.spent_received.load(Acquire)),
            sent: Bytes(machine.spent_sent.load(Acquire)),
        })
    }

    /// From now on the machine's packets add to what it has spent, as they must before limits
    /// can be said in terms of it.
    ///
    /// # Errors
    /// Where there is no such machine.
    pub fn start_counting(&mut self, machine: u32) -> Result<(), HostError> {
        let entry = self.machine(machine)?;
        if entry.counts.load(Relaxed) == 0 {
            let limits = words(self.boundaries(machine, arming(entry))?);
            set_nearest(entry, nearest(&limits));
            entry.counts.store(1, Release);
        }
        Ok(())
    }

    /// Which limits are in force: it changes with every [`Limits::arm`] that changes something.
    ///
    /// # Errors
    /// Where there is no such machine.
    pub fn arming(&self, machine: u32) -> Result<u64, HostError> {
        self.machine(machine).map(arming)
    }

    /// Puts these boundaries in the place of those in force, between two packets, and starts
    /// counting if that has not been done. The same again changes nothing, and nothing is told
    /// twice. Without any, everything passes. Says which arming is in force now.
    ///
    /// # Errors
    /// Where there is no such machine.
    pub fn arm(&mut self, machine: u32, to: [Option<ArmedBoundary>; 2]) -> Result<u64, HostError> {
        let arming = self.put(machine, to)?;
        self.start_counting(machine)?;
        Ok(arming)
    }

    fn put(&self, machine: u32, to: [Option<ArmedBoundary>; 2]) -> Result<u64, HostError> {
        let entry = self.machine(machine)?;
        let now = arming(entry);
        let old = words(self.boundaries(machine, now)?);
        let new = to.map(|boundary| boundary.map_or(NO_BOUNDARY, as_words));
        if effective(old) == effective(new) {
            return Ok(now);
        }
        let next = now + 1;
        for (boundary, words) in self.boundaries(machine, next)?.iter().zip(new) {
            for (word, value) in fields(boundary).into_iter().zip(words) {
                word.store(value, Relaxed);
            }
        }
        // Never above the limits in force: first below the old and the new ones, and only when
        // those are in force up to the new.
        let [old, new] = [nearest(&old), nearest(&new)];
        set_nearest(entry, [0, 1, 2].map(|limit| old[limit].min(new[limit])));
        entry.arming.store(next, Release);
        set_nearest(entry, new);
        Ok(next)
    }

    /// Whose prefixes are exempt for the machine; 0: none. See
    /// [`super::programs::Programs::set_exempt_prefixes`].
    ///
    /// # Errors
    /// Where there is no such machine.
    pub fn set_exempt_group(
        &mut self,
        machine: u32,
        group: u32,
        when_suspended: ExemptWhenSuspended,
    ) -> Result<(), HostError> {
        let never_exempt = self.never_exempt.get(&group).copied().unwrap_or(0);
        let machine = self.machine(machine)?;
        let passes = when_suspended == ExemptWhenSuspended::Passes;
        machine
            .exempt_when_suspended
            .store(u64::from(passes), Relaxed);
        if machine.exempt_group.load(Relaxed) != u64::from(group) {
            // What is never exempt in the one group may be in the other.
            machine.never_exempt.store(0, Release);
            machine.exempt_group.store(group.into(), Release);
        }
        machine.never_exempt.store(never_exempt, Release);
        Ok(())
    }

    /// What is exempt in this group is about to change: until
    /// [`Limits::set_never_exempt`], packets of its machines look it up, whatever they are.
    pub(super) fn forget_never_exempt(&mut self, group: u32) {
        self.never_exempt.remove(&group);
        self.store_never_exempt(group, 0);
    }

    pub(super) fn set_never_exempt(&mut self, group: u32, to: u64) {
        self.never_exempt.insert(group, to);
        self.store_never_exempt(group, to);
    }

    fn store_never_exempt(&self, group: u32, to: u64) {
        for machine in self.all() {
            if machine.exempt_group.load(Relaxed) == u64::from(group) {
                machine.never_exempt.store(to, Release);
            }
        }
    }

    /// Makes the index ready for another machine, which has neither limits nor exempt prefixes
    /// and is not counted. What was spent stays, as nobody resets it.
    ///
    /// # Errors
    /// Where there is no such machine.
    pub fn reset(&mut self, machine: u32) -> Result<(), HostError> {
        self.machine(machine)?.counts.store(0, Release);
        self.put(machine, [None, None])?;
        self.set_exempt_group(machine, NO_GROUP, ExemptWhenSuspended::Stopped)
    }
}

fn arming(machine: &Machine) -> u64 {
    machine.arming.load(Relaxed)
}

fn fields(boundary: &Boundary) -> [&AtomicU64; 5] {
    [
        &boundary.received,
        &boundary.sent,
        &boundary.sum,
        &boundary.rate,
        &boundary.action,
    ]
}

fn words(boundaries: &[Boundary; 2]) -> [Words; 2] {
    let [first, second] = boundaries;
    [first, second].map(|boundary| fields(boundary).map(|word| word.load(Relaxed)))
}

fn as_words(boundary: ArmedBoundary) -> Words {
    let limit = |bytes: Option<Bytes>| bytes.map_or(NO_LIMIT, |bytes| bytes.0);
    let (action, rate) = match boundary.then {
        Then::Capped => (Action::Capped, 0),
        Then::Suspended => (Action::Suspended, 0),
        Then::Police(rate) => (Action::Police, rate.0 / 8),
    };
    [
        limit(boundary.received),
        limit(boundary.sent),
        limit(boundary.sum),
        rate,
        action as u64,
    ]
}

/// What says nothing is the same, whatever it is made of.
fn effective(boundaries: [Words; 2]) -> [Words; 2] {
    boundaries.map(|words| match words {
        [.., action] if action == Action::None as u64 => NO_BOUNDARY,
        words => words,
    })
}

/// Below these, received, sent and in sum, neither is reached.
fn nearest(boundaries: &[Words; 2]) -> [u64; 3] {
    let [first, second] = effective(*boundaries);
    [0, 1, 2].map(|limit| first[limit].min(second[limit]))
}

fn set_nearest(machine: &Machine, to: [u64; 3]) {
    let words = [
        &machine.nearest_received,
        &machine.nearest_sent,
        &machine.nearest_sum,
    ];
    for (word, value) in words.into_iter().zip(to) {
        word.store(value, Release);
    }
}
