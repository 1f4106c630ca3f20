//! What the machines have moved by the far ends' count, to be held against the ledger.

use std::{
    collections::BTreeMap,
    ops::{AddAssign, Sub},
};

use meter_tests::{
    Result, capture::Capture, links::Mac, meterd::bytes, sandbox::Namespace, topology::WAN,
};
use serde_json::Value;

use crate::port::{EXEMPT_MAC, Kind, Plug};

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Both ways.
    pub(crate) exempt: u64,
}

impl Total {
    /// As `status` tells it.
    pub(crate) fn of(status: &Value) -> Result<Self> {
        Ok(Self {
            received: bytes(status, "received")?,
            sent: bytes(status, "sent")?,
            exempt: bytes(status, "exempt")?,
        })
    }
}

impl AddAssign for Total {
    fn add_assign(&mut self, more: Self) {
        self.received += more.received;
        self.sent += more.sent;
        self.exempt += more.exempt;
    }
}

impl Sub for Total {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            received: self.received.wrapping_sub(before.received),
            sent: self.sent.wrapping_sub(before.sent),
            exempt: self.exempt.wrapping_sub(before.exempt),
        }
    }
}

/// The far ends' count of every machine.
#[derive(Debug)]
pub(crate) struct Wire {
    world: Capture,
    /// From each guest's address, as far as it was taken into account.
    from: BTreeMap<Mac, Total>,
    moved: BTreeMap<String, Total>,
    /// Ledger and wire when they were last compared.
    agreed: BTreeMap<String, (Total, Total)>,
    /// Of these something was lost, by what the test did to them; with ledger and wire at the
    /// last look, as they begin anew only when both stand still.
    inexact: BTreeMap<String, Option<(Total, Total)>>,
    /// How often ledger and wire were compared, each machine by itself, with something to tell.
    pub(crate) compared: u64,
}

impl Wire {
    pub(crate) fn new(world: &Namespace) -> Result<Self> {
        Ok(Self {
            world: Capture::with_room_for(50_000, world, WAN)?,
            from: BTreeMap::new(),
            moved: BTreeMap::new(),
            agreed: BTreeMap::new(),
            inexact: BTreeMap::new(),
            compared: 0,
        })
    }

    /// Takes into account what has moved, for the machine whose interface it is now.
    pub(crate) fn look(
        &mut self,
        plugs: &mut [Plug],
        owner: impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        let now = self.came_to_the_world()?;
        for plug in plugs {
            let Some(name) = plug.there.as_ref().map(|there| there.name.clone()) else {
                continue;
            };
            let mac = plug.port.mac();
            let mut new = plug.came()?;
            if matches!(plug.kind, Kind::Bridged | Kind::BridgedTap) {
                let now = now.get(&mac).copied().unwrap_or_default();
                let before = self.from.insert(mac, now).unwrap_or_default();
                new += now - before;
            }
            if let Some(owner) = owner(&name) {
                *self.moved.entry(owner).or_default() += new;
            }
        }
        Ok(())
    }

    fn came_to_the_world(&mut self) -> Result<BTreeMap<Mac, Total>> {
        let mut now: BTreeMap<Mac, Total> = BTreeMap::new();
        for ((from, to), count) in self.world.flows()? {
            let total = now.entry(*from).or_default();
            match *to == EXEMPT_MAC {
                true => total.exempt += count.bytes,
                false => total.sent += count.bytes,
            }
        }
        Ok(now)
    }

    /// An interface of this address is new: what came late from the one before is not its own.
    pub(crate) fn begin(&mut self, mac: Mac) -> Result<()> {
        let now = self.came_to_the_world()?;
        self.from
            .insert(mac, now.get(&mac).copied().unwrap_or_default());
        Ok(())
    }

    /// Whether some machine's next comparison is a new beginning.
    pub(crate) fn is_inexact(&self) -> bool {
        !self.inexact.is_empty()
    }

    /// Whether this machine's is.
    pub(crate) fn is_lost(&self, machine: &str) -> bool {
        self.inexact.contains_key(machine)
    }

    /// What a routed guest sent: its far end is the node itself.
    pub(crate) fn sent(&mut self, machine: &str, total: Total) {
        *self.moved.entry(machine.to_owned()).or_default() += total;
    }

    /// So much of what was taken for exempt counts like the rest.
    pub(crate) fn not_told_apart(&mut self, machine: &str, exempt: u64, sent: bool) {
        let total = self.moved.entry(machine.to_owned()).or_default();
        total.exempt -= exempt;
        match sent {
            true => total.sent += exempt,
            false => total.received += exempt,
        }
    }

    pub(crate) fn total(&self, machine: &str) -> Total {
        self.moved.get(machine).copied().unwrap_or_default()
    }

    /// The next comparison of this machine is a new beginning.
    pub(crate) fn lost(&mut self, machine: &str) {
        self.inexact.entry(machine.to_owned()).or_default();
    }

    pub(crate) fn everything_lost(&mut self, machines: &[String]) {
        for machine in machines {
            self.lost(machine);
        }
    }

    /// What differs since they last agreed.
    pub(crate) fn difference(&mut self, machine: &str, ledger: Total) -> Option<String> {
        let wire = self.total(machine);
        if let Some(seen) = self.inexact.get_mut(machine) {
            let before = seen.replace((ledger, wire));
            return (before != Some((ledger, wire)))
                .then(|| format!("{machine} begins anew, at {wire:?} and {ledger:?}"));
        }
        let (ledger_before, wire_before) = self.agreed.get(machine).copied()?;
        let (ledger, wire) = (ledger - ledger_before, wire - wire_before);
        (ledger != wire).then(|| {
            format!(
                "{machine} has moved {wire:?} since the last comparison, and the ledger took {ledger:?}"
            )
        })
    }

    /// They agree, or begin anew.
    pub(crate) fn agree(&mut self, machine: &str, ledger: Total) {
        let wire = self.total(machine);
        let before = self.agreed.insert(machine.to_owned(), (ledger, wire));
        let anew = self.inexact.remove(machine).is_some();
        if !anew && before.is_some_and(|(_, before)| before != wire) {
            self.compared += 1;
        }
    }
}
