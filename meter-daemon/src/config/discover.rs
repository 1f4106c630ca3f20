//! Whose interface is this? Machines that name their interfaces come first, then those that
//! name MAC addresses and those that name a hypervisor's guest; then what a hook said of this
//! very interface, and last every `[[discover]]` in order.

use std::{collections::HashMap, fmt};

use regex::Regex;

use super::{
    ConfiguredMachine, InterfaceMatch,
    hypervisor::{Guest, GuestKey, Hypervisor, Owner},
    kinds::in_ids,
};
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
    /// Whose a hypervisor says it is.
    pub owner: Owner,
    /// Whose `meterd attach --machine` said it is.
    pub assigned: Option<MachineId>,
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

/// How machines are found that the files do not name.
#[derive(Clone, Debug, PartialEq)]
pub struct Discover {
    /// By what.
    pub finds: Finds,
    /// The plan of machines found by it.
    pub plan: Option<PlanName>,
}

/// By what machines are found.
#[derive(Clone, Debug)]
pub enum Finds {
    /// A pattern for the names of taps and veths. It matches anywhere in the name unless it
    /// says `^` and `$`. What the group `machine` matched is the id; without such a group,
    /// the interface's name is.
    Names(Regex),
    /// The guests of a hypervisor, and what of them is the id.
    Guests(Hypervisor, GuestKey),
}

impl PartialEq for Finds {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Names(one), Self::Names(other)) => one.as_str() == other.as_str(),
            (Self::Guests(one, by), Self::Guests(other, as_other)) => {
                one == other && by == as_other
            }
            _ => false,
        }
    }
}

impl Discover {
    /// What stands where neither machines nor patterns are configured: every tap and veth is
    /// a machine of its own, metered and without a plan.
    pub(super) fn everything() -> Option<Self> {
        Some(Self {
            finds: Finds::Names(Regex::new("").ok()?),
            plan: None,
        })
    }

    fn claim(&self, link: &LinkFacts) -> Option<Claim> {
        let name = link.name.as_str();
        let id = match (&self.finds, &link.owner) {
            (Finds::Names(pattern), _) => {
                let found = pattern.captures(name)?;
                found.name("machine").map_or(name, |group| group.as_str())
            }
            (Finds::Guests(hypervisor, key), Owner::Guest(guest))
                if guest.hypervisor == *hypervisor =>
            {
                guest.key(*key)
            }
            (Finds::Guests(..), _) => return None,
        };
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
    /// By what the machine calls the guest: its UUID, VMID or name.
    guests: HashMap<(Hypervisor, String), Claim>,
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
                InterfaceMatch::Guest(hypervisor, key) => {
                    claims.guests.insert((*hypervisor, key.clone()), claim);
                }
            }
        }
        claims
    }

    /// Whether a machine names a guest of this hypervisor.
    pub(super) fn name_guests_of(&self, hypervisor: Hypervisor) -> bool {
        self.guests.keys().any(|(named, _)| *named == hypervisor)
    }

    fn by_guest(&self, guest: &Guest) -> Option<&Claim> {
        // What it keeps before what can be given to another.
        [&guest.id, &guest.name]
            .into_iter()
            .find_map(|key| self.guests.get(&(guest.hypervisor, key.clone())))
    }

    /// Whose an interface is.
    pub(super) fn claim(&self, link: &LinkFacts, discover: &[Discover]) -> Option<Claim> {
        if let Some(claim) = self.names.get(&link.name) {
            return Some(claim.clone());
        }
        // A bridge takes over the address of one of its ports: only an end of a guest's own
        // wire is known by an address.
        let is_guests = link.kind != LinkKind::Other;
        if let Some(found) = link.mac.map(Mac).filter(|_| is_guests)
            && let Some((mac, claim)) = self.macs.get(&found.tail())
            && (found == *mac || found.0[0] == 0xfe)
        {
            return Some(claim.clone());
        }
        if let Owner::Guest(guest) = &link.owner
            && let Some(claim) = self.by_guest(guest)
        {
            return Some(claim.clone());
        }
        let found = match link.owner {
            Owner::Unknown => None,
            _ => discover.iter().find_map(|discover| discover.claim(link)),
        };
        let claim = match &link.assigned {
            // The plan of an id that the files do not have is the pattern's, as for others.
            Some(machine) => Some(Claim {
                machine: machine.clone(),
                plan: found.and_then(|claim| claim.plan),
            }),
            None => found.filter(|_| is_guests),
        };
        claim.map(|claim| self.with_own_plan(claim))
    }

    /// The plan that a configured machine names, if it names one; `None`: there is no such
    /// machine in the files.
    pub(super) fn plan(&self, machine: &MachineId) -> Option<Option<&PlanName>> {
        self.plans.get(machine).map(Option::as_ref)
    }

    fn with_own_plan(&self, claim: Claim) -> Claim {
        let own = self.plan(&claim.machine).flatten().cloned();
        Claim {
            plan: own.or(claim.plan),
            machine: claim.machine,
        }
    }
}
