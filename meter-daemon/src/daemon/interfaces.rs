//! What interfaces there are, whose they are, and which were born while we could know it.
//! A picture of the world kept up to date by events and dumps; it asks and changes nothing.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::{Claim, Config, LinkFacts},
    host::links::{Link, LinkKind},
    ledger::{BootId, Highest, InterfaceId},
};

/// How long after its birth an interface that becomes a machine's is still new: hypervisors
/// create a tap under one name and rename it, or set its address, some moments later.
const NEWBORN: Duration = Duration::from_secs(10);

/// The links of this network namespace.
#[derive(Debug)]
pub(crate) struct Interfaces {
    boot: BootId,
    netns: u64,
    links: BTreeMap<u32, Link>,
    claims: BTreeMap<u32, Claim>,
    /// When an interface that is younger than our first sight came, by the monotonic clock.
    born: BTreeMap<u32, Duration>,
    highest: u32,
    recorded: Option<u32>,
    /// The ledger knows an earlier boot: all interfaces of this one are younger.
    later_boot: bool,
}

impl Interfaces {
    /// `recorded`: the highest ifindex the ledger has seen in this boot and namespace.
    pub(crate) fn new(
        boot: BootId,
        netns: u64,
        recorded: Option<u32>,
        later_boot: bool,
    ) -> Self {
        Self {
            boot,
            netns,
            links: BTreeMap::new(),
            claims: BTreeMap::new(),
            born: BTreeMap::new(),
            highest: recorded.unwrap_or(0),
            recorded,
            later_boot,
        }
    }

    /// The first dump: what was born while the daemon was away is told by its ifindex, which
    /// only ever grows.
    pub(crate) fn first_sight(&mut self, links: Vec<Link>, config: &Config, now: Duration) {
        let seen = match self.recorded {
            Some(highest) => highest,
            None if self.later_boot => 0,
            None => u32::MAX,
        };
        for link in links {
            if link.ifindex > seen {
                self.born.insert(link.ifindex, now);
            }
            self.keep(link, config);
        }
    }

    /// A link that is there: new, renamed or otherwise changed.
    pub(crate) fn present(&mut self, link: Link, config: &Config, now: Duration) {
        if !self.links.contains_key(&link.ifindex) {
            self.born.insert(link.ifindex, now);
        }
        self.keep(link, config);
    }

    /// All that is there now; whatever else we knew is gone.
    pub(crate) fn replace(&mut self, links: Vec<Link>, config: &Config, now: Duration) {
        let present: Vec<u32> = links.iter().map(|link| link.ifindex).collect();
        for link in links {
            self.present(link, config, now);
        }
        self.links.retain(|ifindex, _| present.binary_search(ifindex).is_ok());
        self.claims.retain(|ifindex, _| present.binary_search(ifindex).is_ok());
        self.born.retain(|ifindex, _| present.binary_search(ifindex).is_ok());
    }

    /// A link that is no more.
    pub(crate) fn gone(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.claims.remove(&ifindex);
        self.born.remove(&ifindex);
    }

    /// Whose everything is under another configuration.
    pub(crate) fn claim_again(&mut self, config: &Config) {
        self.claims = self
            .links
            .iter()
            .filter_map(|(ifindex, link)| Some((*ifindex, config.claim(&facts(link))?)))
            .collect();
    }

    fn keep(&mut self, link: Link, config: &Config) {
        let ifindex = link.ifindex;
        self.highest = self.highest.max(ifindex);
        match config.claim(&facts(&link)) {
            Some(claim) => self.claims.insert(ifindex, claim),
            None => self.claims.remove(&ifindex),
        };
        self.links.insert(ifindex, link);
    }

    pub(crate) fn id(&self, ifindex: u32) -> InterfaceId {
        InterfaceId { netns: self.netns, ifindex }
    }

    pub(crate) fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Link, &Claim)> {
        self.claims
            .iter()
            .filter_map(|(ifindex, claim)| Some((self.links.get(ifindex)?, claim)))
    }

    pub(crate) fn claim(&self, ifindex: u32) -> Option<&Claim> {
        self.claims.get(&ifindex)
    }

    /// Whether what an interface moved before it was metered is to be credited.
    pub(crate) fn is_newborn(&self, ifindex: u32, now: Duration) -> bool {
        self.born.get(&ifindex).is_some_and(|born| now.saturating_sub(*born) < NEWBORN)
    }

    pub(crate) fn highest_if_grown(&self) -> Option<Highest> {
        (self.recorded != Some(self.highest)).then(|| Highest {
            boot: self.boot.clone(),
            interface: InterfaceId { netns: self.netns, ifindex: self.highest },
        })
    }

    pub(crate) fn highest_recorded(&mut self, highest: Option<&Highest>) {
        if let Some(highest) = highest {
            self.recorded = Some(highest.interface.ifindex);
        }
    }
}

fn facts(link: &Link) -> LinkFacts<'_> {
    LinkFacts {
        name: &link.name,
        mac: link.mac,
        kind: match link.kind {
            LinkKind::Tap => crate::config::InterfaceKind::Tap,
            LinkKind::Veth => crate::config::InterfaceKind::Veth,
            LinkKind::Ifb | LinkKind::Other(_) => crate::config::InterfaceKind::Other,
        },
    }
}
