//! The short ways of interfaces with nothing out of the ordinary, as the kernel program takes
//! them: see [`meter_common::ShortWay`].
//!
//! They say again what the table of slots and the interfaces say, so that nothing is lost with
//! them. A way is closed before anything changes that it leaves out, and opened after all that
//! it says stands in those maps, too: a daemon that is killed in between leaves a packet on the
//! long way, which is right at any time.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::Ordering::{Relaxed, Release},
};

use aya::maps::MapData;
use meter_common::{CountBytes, IFINDEX_ARRAY, Interface, ShortWay};

use super::{error::HostError, mapped::Mapped};

/// A table of them by ifindex, and where it may be used.
pub(super) struct ShortWays {
    map: MapData,
    /// They count on the wire only.
    basis: CountBytes,
    /// By slot: whose it is; 0 where it is nobody's.
    owners: Vec<u32>,
}

impl ShortWays {
    /// Every way is written, so that it is ours whatever another run or version left there; no
    /// program of ours stands on a hook that may not see what it does.
    pub(super) fn new(
        map: MapData,
        basis: CountBytes,
        slots: u32,
        table: impl Iterator<Item = (u32, u32, Interface)>,
    ) -> Result<Self, HostError> {
        let slots = usize::try_from(slots).unwrap_or_default();
        let mut ways = Self {
            map,
            basis,
            owners: vec![0; slots],
        };
        let all = Mapped::new(ways.map.fd().as_fd(), 0..IFINDEX_ARRAY)
            .map_err(|error| failed("write every short way", error))?;
        let mut rest = 0;
        for (ifindex, slot, interface) in table {
            close(&all, rest..ifindex.min(IFINDEX_ARRAY));
            rest = ifindex.saturating_add(1);
            ways.own(slot, ifindex);
            write(&all, ifindex, ways.route(slot, interface));
        }
        close(&all, rest..IFINDEX_ARRAY);
        Ok(ways)
    }

    fn own(&mut self, slot: u32, ifindex: u32) {
        let owner = usize::try_from(slot).map(|slot| self.owners.get_mut(slot));
        if let Ok(Some(owner)) = owner {
            *owner = ifindex;
        }
    }

    /// Counters and machine, if the interface's packets need no more.
    fn route(&self, slot: u32, interface: Interface) -> Option<(u64, u64)> {
        let is_open = self.basis == CountBytes::Wire && interface.is_ordinary();
        is_open.then(|| (ShortWay::counters(slot), interface.machine.into()))
    }

    /// The interface is in that slot now, as the maps say already.
    pub(super) fn assigned(
        &mut self,
        ifindex: u32,
        former: Option<u32>,
        slot: u32,
        interface: Interface,
    ) -> Result<(), HostError> {
        if let Some(former) = former {
            self.own(former, 0);
        }
        self.own(slot, ifindex);
        self.set(ifindex, self.route(slot, interface))
    }

    /// The interface will be in no slot any more.
    pub(super) fn unassign(&mut self, ifindex: u32, slot: Option<u32>) -> Result<(), HostError> {
        if let Some(slot) = slot {
            self.own(slot, 0);
        }
        self.set(ifindex, None)
    }

    /// What the maps say of the slot's interface will be this, ...
    pub(super) fn changing(&self, slot: u32, to: Interface) -> Result<(), HostError> {
        match (self.owner(slot), self.route(slot, to)) {
            (Some(ifindex), None) => self.set(ifindex, None),
            _ => Ok(()),
        }
    }

    /// ... and is.
    pub(super) fn changed(&self, slot: u32, to: Interface) -> Result<(), HostError> {
        match (self.owner(slot), self.route(slot, to)) {
            (Some(ifindex), Some(route)) => self.set(ifindex, Some(route)),
            _ => Ok(()),
        }
    }

    fn owner(&self, slot: u32) -> Option<u32> {
        let owner = self.owners.get(usize::try_from(slot).ok()?);
        owner.copied().filter(|ifindex| *ifindex != 0)
    }

    fn set(&self, ifindex: u32, to: Option<(u64, u64)>) -> Result<(), HostError> {
        if ifindex >= IFINDEX_ARRAY {
            return Ok(());
        }
        // For the moment only: all of them are 1 MB, which would count as ours for good.
        let page = u32::try_from(rustix::param::page_size() / size_of::<ShortWay>()).unwrap_or(1);
        let start = ifindex - ifindex % page;
        let part = Mapped::new(self.map.fd().as_fd(), start..start + page)
            .map_err(|error| failed("write a short way", error))?;
        write(&part, ifindex, to);
        Ok(())
    }
}

fn failed(attempted: &str, error: io::Error) -> HostError {
    HostError::system(attempted, error)
}

fn close(ways: &Mapped<ShortWay>, ifindexes: std::ops::Range<u32>) {
    for ifindex in ifindexes {
        write(ways, ifindex, None);
    }
}

fn write(ways: &Mapped<ShortWay>, ifindex: u32, to: Option<(u64, u64)>) {
    let Some(way) = ways.get(ifindex) else {
        return;
    };
    match to {
        None => way.counters.store(ShortWay::CLOSED, Release),
        Some((counters, machine)) => {
            way.machine.store(machine, Relaxed);
            way.counters.store(counters, Release);
        }
    }
}
