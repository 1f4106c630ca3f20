//! Whose interface is this? Machines that name their interfaces or MAC addresses come first,
//! then the `[[discover]]` patterns in their order.

use std::{collections::HashMap, fmt};

use regex::Regex;

use super::{ConfiguredMachine, InterfaceMatch, kinds::in_ids};
use crate::engine::units::{MachineId, PlanName};

/// An interface as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its name now.
    pub name: String,
    /// Its hardware address, where it has one.
    pub mac: Option<[u8; 6]>,
    /// What it is.
    pub kind: LinkKind,
}

/// What an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A tap: the host's end of a VM's card.
    Tap,
    /// A veth: the host's end of a container's.
    Veth,
    /// Anything else: an uplink, a bridge, loopback. Metered only where a machine names it.
    Other,
}

/// A machine that an interface belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Which.
    pub machine: MachineId,
    /// The plan that goes with it: the machine's own, else the pattern's.
    pub plan: Option<PlanName>,
}

/// A pattern for the names of taps and veths.
#[derive(Clone, Debug)]
pub struct Discover {
    /// Matches anywhere in the name unless it says `^` and `$`. What the group `machine`
    /// matched is the id; without such a group, the interface's name is.
    pub interface: Regex,
    /// The plan of machines found by it.
    pub plan: Option<PlanName>,
}

impl PartialEq for Discover {
    fn eq(&self, other: &Self) -> bool {
        self.interface.as_str() == other.interface.as_str() && self.plan == other.plan
    }
}

impl Discover {
    /// What stands where neither machines nor patterns are configured: every tap and veth is
    /// a machine of its own, metered and without a plan.
    pub(super) fn everything() -> Option<Self> {
        Some(Self {
            interface: Regex::new("").ok()?,
            plan: None,
        })
    }

    fn claim(&self, name: &str) -> Option<Claim> {
        let found = self.interface.captures(name)?;
        let id = found.name("machine").map_or(name, |group| group.as_str());
        let id = if id.is_empty() { name } else { id };
        Some(Claim {
            machine: as_id(id),
            plan: self.plan.clone(),
        })
    }
}

/// An interface's name may hold what an id may not: each such byte becomes `:` and two hex
/// digits, so that no interface goes unmetered for its name.
fn as_id(name: &str) -> MachineId {
    if name.chars().all(in_ids) && name.bytes().any(|b| b != b'.') {
        return name.into();
    }
    let escaped: String = name
        .bytes()
        .map(|byte| match char::from(byte) {
            c if in_ids(c) && c != '.' => c.to_string(),
            _ => format!(":{byte:02x}"),
        })
        .collect();
    escaped.into()
}

/// A MAC address of a guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl Mac {
    /// libvirt gives a tap its guest's address with the first octet `fe`, so that a bridge
    /// never takes it for its own. What is left when that octet is not looked at.
    pub(super) fn tail(self) -> [u8; 5] {
        let [_, a, b, c, d, e] = self.0;
        [a, b, c, d, e]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Configured machines by what they claim, so that ten thousand of them are not walked for
/// each of twenty thousand interfaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    names: HashMap<String, Claim>,
    macs: HashMap<[u8; 5], (Mac, Claim)>,
    /// The plan of every configured machine, also of those found only by pattern.
    plans: HashMap<MachineId, Option<PlanName>>,
}

impl Claims {
    pub(super) fn of(machines: &[ConfiguredMachine]) -> Self {
        let mut claims = Self::default();
        for machine in machines {
            let claim = Claim {
                machine: machine.id.clone(),
                plan: machine.plan.clone(),
            };
            claims
                .plans
                .insert(machine.id.clone(), machine.plan.clone());
            match &machine.interfaces {
                InterfaceMatch::Names(names) => {
                    claims
                        .names
                        .extend(names.iter().map(|name| (name.clone(), claim.clone())));
                }
                InterfaceMatch::Macs(macs) => claims.macs.extend(
                    macs.iter()
                        .map(|mac| (Mac(*mac).tail(), (Mac(*mac), claim.clone()))),
                ),
            }
        }
        claims
    }

    /// Whose an interface is. A name says more than an address, and both more than a pattern.
    pub(super) fn claim(&self, link: &LinkFacts, patterns: &[Discover]) -> Option<Claim> {
        if let Some(claim) = self.names.get(&link.name) {
            return Some(claim.clone());
        }
        // A bridge takes over the address of one of its ports: only an end of a guest's own
        // wire is known by an address.
        if link.kind == LinkKind::Other {
            return None;
        }
        if let Some(found) = link.mac.map(Mac)
            && let Some((mac, claim)) = self.macs.get(&found.tail())
            && (found == *mac || found.0[0] == 0xfe)
        {
            return Some(claim.clone());
        }
        let claim = patterns
            .iter()
            .find_map(|pattern| pattern.claim(&link.name))?;
        let own = self.plans.get(&claim.machine).cloned().flatten();
        Some(Claim {
            plan: own.or(claim.plan),
            machine: claim.machine,
        })
    }
}
