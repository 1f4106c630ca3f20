//! Whose interfaces are in the words of hypervisors: their files, and their hooks, which
//! know it a moment earlier. It asks and changes nothing; what hooks assigned by hand is
//! kept as notes in the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    config::{self, Claim, Config, Hypervisor, LinkFacts, Owner},
    engine::units::MachineId,
    host::{
        hypervisor::{Libvirt, Proxmox},
        links::{Link, LinkKind},
    },
    ledger::{BootId, HostNote},
};

/// How long a hypervisor that has made an interface may take to write down whose it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Its files are looked at again so much later.
const AGAIN: Duration = Duration::from_millis(25);

/// A burst of new interfaces is one look.
const FRESH: Duration = Duration::from_millis(5);

const PREFIX: &str = "assigned/";

/// What is known of guests.
#[derive(Debug)]
pub(crate) struct Guests {
    libvirt: Libvirt,
    proxmox: Proxmox,
    looked: Option<Duration>,
    /// Whose files cannot be read at present: that is said once.
    unreadable: Mutex<BTreeSet<&'static str>>,
    /// What hooks said of guests whose file is not written yet.
    told: BTreeMap<u32, config::Guest>,
    /// Whose hooks said that interfaces are.
    assigned: BTreeMap<u32, MachineId>,
    /// The same by the ledger's notes, and notes of namespaces that are no more.
    recorded: BTreeMap<u32, MachineId>,
    outdated: Vec<String>,
    prefix: String,
    /// The last owner of which there was no doubt. A file that is missing or cannot be read
    /// changes nothing: the interface is still the same.
    known: BTreeMap<u32, Claim>,
    /// Since when it is not known whose these are.
    unknown: BTreeMap<u32, Unknown>,
}

#[derive(Clone, Copy, Debug)]
struct Unknown {
    since: Duration,
    said: bool,
}

impl Guests {
    /// With the ledger's notes.
    pub(crate) fn new(boot: &BootId, netns: u64, notes: &[(String, String)]) -> Self {
        let prefix = format!("{PREFIX}{}/{netns}/", boot.0);
        let mut recorded = BTreeMap::new();
        let mut outdated = Vec::new();
        for (key, machine) in notes.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            match key.strip_prefix(&prefix).map(str::parse) {
                Some(Ok(ifindex)) => {
                    recorded.insert(ifindex, MachineId::from(machine.as_str()));
                }
                _ if key.starts_with(&format!("{PREFIX}{}/", boot.0)) => {}
                _ => outdated.push(key.clone()),
            }
        }
        Self {
            libvirt: Libvirt::default(),
            proxmox: Proxmox::default(),
            looked: None,
            unreadable: Mutex::default(),
            told: BTreeMap::new(),
            assigned: recorded.clone(),
            recorded,
            outdated,
            prefix,
            known: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// Whose an interface was when somebody last knew.
    pub(crate) fn remember(&mut self, ifindex: u32, claim: Claim) {
        self.known.insert(ifindex, claim);
    }

    /// A hook says whose an interface is.
    pub(crate) fn assign(&mut self, ifindex: u32, machine: MachineId) {
        self.assigned.insert(ifindex, machine);
    }

    /// Whose a hook said it is.
    pub(crate) fn assigned(&self, ifindex: u32) -> Option<&MachineId> {
        self.assigned.get(&ifindex)
    }

    /// What was said last does not stand.
    pub(crate) fn assign_again(&mut self, ifindex: u32, machine: Option<MachineId>) {
        match machine {
            Some(machine) => self.assigned.insert(ifindex, machine),
            None => self.assigned.remove(&ifindex),
        };
    }

    /// A hook says which guest's an interface is.
    pub(crate) fn tell(&mut self, ifindex: u32, guest: config::Guest) {
        self.told.insert(ifindex, guest);
    }

    /// There is no such interface any more.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.told.remove(&ifindex);
        self.assigned.remove(&ifindex);
        self.known.remove(&ifindex);
        self.unknown.remove(&ifindex);
    }

    /// Of those that are gone while nobody looked nothing is to be known.
    pub(crate) fn keep_only(&mut self, is_there: impl Fn(u32) -> bool) {
        self.assigned.retain(|ifindex, _| is_there(*ifindex));
        self.known.retain(|ifindex, _| is_there(*ifindex));
    }

    /// Looks at libvirt's files, unless that was a moment ago; says whether they changed.
    pub(crate) fn look(&mut self, config: &Config, now: Duration) -> bool {
        let fresh = self
            .looked
            .is_some_and(|looked| now.saturating_sub(looked) < FRESH);
        if fresh || !config.asks(Hypervisor::Libvirt) {
            return false;
        }
        self.looked = Some(now);
        let looked = self.libvirt.look();
        self.complain("libvirt", looked.as_ref().err());
        looked.unwrap_or(false)
    }

    /// Whose an interface is.
    pub(crate) fn claim(&mut self, link: &Link, config: &Config, now: Duration) -> Option<Claim> {
        let owner = self.owner(link, config);
        let facts = facts(link, owner, self.assigned.get(&link.ifindex).cloned());
        let claim = config.claim(&facts);
        match (facts.owner, &claim) {
            (Owner::Unknown, None) => {
                let since = Unknown {
                    since: now,
                    said: false,
                };
                self.unknown.entry(link.ifindex).or_insert(since);
                return self.known.get(&link.ifindex).cloned();
            }
            (Owner::Guest(_), Some(claim)) => {
                self.known.insert(link.ifindex, claim.clone());
            }
            _ => {}
        }
        self.unknown.remove(&link.ifindex);
        claim
    }

    /// Whose an interface would be, were this said of it.
    pub(crate) fn claim_if(
        &self,
        link: &Link,
        config: &Config,
        guest: Option<config::Guest>,
        machine: Option<MachineId>,
    ) -> Option<Claim> {
        let owner = guest.map_or_else(|| self.owner(link, config), Owner::Guest);
        let assigned = machine.or_else(|| self.assigned.get(&link.ifindex).cloned());
        config.claim(&facts(link, owner, assigned))
    }

    fn owner(&self, link: &Link, config: &Config) -> Owner {
        let guest = |hypervisor, guest: &crate::host::hypervisor::Guest| {
            Owner::Guest(config::Guest {
                hypervisor,
                id: guest.id.clone(),
                name: guest.name.clone(),
            })
        };
        if config.asks(Hypervisor::Libvirt) {
            if let Some(owner) = self.libvirt.owner(link) {
                return guest(Hypervisor::Libvirt, owner);
            }
            if let Some(told) = self.told.get(&link.ifindex) {
                return Owner::Guest(told.clone());
            }
            if Libvirt::gives_out(&link.name) {
                return Owner::Unknown;
            }
        }
        if config.asks(Hypervisor::Proxmox) && Proxmox::gives_out(&link.name) {
            let asked = self.proxmox.owner(&link.name);
            self.complain("Proxmox VE", asked.as_ref().err());
            return match asked {
                Ok(Some(owner)) => guest(Hypervisor::Proxmox, &owner),
                Ok(None) | Err(_) => Owner::Unknown,
            };
        }
        Owner::Unasked
    }

    /// A lasting fault is said once, and its end once.
    fn complain(&self, whose: &'static str, fault: Option<&io::Error>) {
        let mut unreadable = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(error) if unreadable.insert(whose) => warn!(
                "{whose}'s files: {error}; whose interfaces are stays as it was, and new ones are \
                 nobody's until the files can be read"
            ),
            None if unreadable.remove(whose) => info!("{whose}'s files can be read again"),
            _ => {}
        }
    }

    /// The interfaces that nobody has told whose they are.
    pub(crate) fn unknown(&self) -> Vec<u32> {
        self.unknown.keys().copied().collect()
    }

    /// When it is worth asking again, if that is soon.
    pub(crate) fn next_look(&self, now: Duration) -> Option<Duration> {
        let waiting = |unknown: &Unknown| now.saturating_sub(unknown.since) < PATIENCE;
        self.unknown.values().any(waiting).then_some(AGAIN)
    }

    /// The interfaces that were waited for long enough, each once.
    pub(crate) fn given_up(&mut self, now: Duration) -> Vec<u32> {
        let mut given_up = Vec::new();
        for (ifindex, unknown) in &mut self.unknown {
            let late = now.saturating_sub(unknown.since) >= PATIENCE;
            if late && !unknown.said && !self.known.contains_key(ifindex) {
                unknown.said = true;
                given_up.push(*ifindex);
            }
        }
        given_up
    }

    /// The notes that make what hooks assigned known after a restart, too.
    pub(crate) fn news(&self) -> Vec<HostNote> {
        let note = |ifindex: &u32, machine: Option<&MachineId>| HostNote {
            key: format!("{}{ifindex}", self.prefix),
            value: machine.map(ToString::to_string),
        };
        let new = self
            .assigned
            .iter()
            .filter(|(ifindex, machine)| self.recorded.get(ifindex) != Some(machine))
            .map(|(ifindex, machine)| note(ifindex, Some(machine)));
        let old = self
            .recorded
            .keys()
            .filter(|ifindex| !self.assigned.contains_key(ifindex))
            .map(|ifindex| note(ifindex, None));
        let outdated = self.outdated.iter().map(|key| HostNote {
            key: key.clone(),
            value: None,
        });
        new.chain(old).chain(outdated).collect()
    }

    /// What the ledger has recorded.
    pub(crate) fn recorded(&mut self, notes: &[HostNote]) {
        for note in notes {
            self.outdated.retain(|key| *key != note.key);
            let ifindex = note.key.strip_prefix(&self.prefix).map(str::parse);
            let Some(Ok(ifindex)) = ifindex else {
                continue;
            };
            match &note.value {
                Some(machine) => self.recorded.insert(ifindex, machine.as_str().into()),
                None => self.recorded.remove(&ifindex),
            };
        }
    }
}

fn facts(link: &Link, owner: Owner, assigned: Option<MachineId>) -> LinkFacts {
    LinkFacts {
        name: link.name.clone(),
        mac: link.mac,
        kind: match &link.kind {
            LinkKind::Tap => config::LinkKind::Tap,
            // A guest's card straight on the uplink, as libvirt's `direct` interfaces.
            LinkKind::Other(kind) if kind == "macvtap" => config::LinkKind::Tap,
            LinkKind::Veth => config::LinkKind::Veth,
            LinkKind::Ifb | LinkKind::Other(_) => config::LinkKind::Other,
        },
        owner,
        assigned,
    }
}
