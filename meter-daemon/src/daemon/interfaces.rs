//! What interfaces there are, whose they are, and which were born while we could know it.
//! A picture of the world kept up to date by events and dumps; it asks and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{guests::Guests, packed::pack};
use crate::{
    config::{Claim, Config},
    host::links::{AdminState, KernelCounters, Link, LinkKind},
    ledger::{BootId, Highest, InterfaceId},
};

/// How long after its birth an interface that becomes a machine's is still new: hypervisors
/// create a tap under one name and rename it, or set its address, some moments later.
const NEWBORN: Duration = Duration::from_secs(10);

/// The kernel tells of every change, and tells when it could not: a list of all links is for what
/// nobody has thought of.
const LIST: Duration = Duration::from_mins(10);

/// What the kernel last said of a link that is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastWords {
    pub(crate) kernel: KernelCounters,
    /// Nothing is missing from it.
    pub(crate) whole: bool,
}

/// The links of this network namespace.
#[derive(Debug)]
pub(crate) struct Interfaces {
    boot: BootId,
    netns: u64,
    links: BTreeMap<u32, Link>,
    claims: BTreeMap<u32, Claim>,
    /// Whose they are by hypervisors' files and hooks.
    pub(super) guests: Guests,
    /// When an interface that is younger than our first sight came, by the monotonic clock.
    born: BTreeMap<u32, Duration>,
    /// The last counters of links that were a machine's and are gone.
    last_words: BTreeMap<u32, LastWords>,
    /// When all links are to be listed again though nothing calls for it, by the monotonic clock.
    list_at: Duration,
    /// Links that came and went between two looks at what there is, and whose they were.
    brief: BTreeMap<u32, (Link, Claim)>,
    highest: u32,
    recorded: Option<u32>,
    /// The ledger knows an earlier boot: all interfaces of this one are younger.
    later_boot: bool,
    /// Whose something is, or what it is called, has changed since somebody asked.
    changed: bool,
}

impl Interfaces {
    /// `recorded`: the highest ifindex the ledger has seen in this boot and namespace.
    pub(crate) fn new(
        boot: BootId,
        netns: u64,
        recorded: Option<u32>,
        later_boot: bool,
        guests: Guests,
    ) -> Self {
        Self {
            guests,
            boot,
            netns,
            links: BTreeMap::new(),
            claims: BTreeMap::new(),
            born: BTreeMap::new(),
            last_words: BTreeMap::new(),
            list_at: Duration::ZERO,
            brief: BTreeMap::new(),
            highest: recorded.unwrap_or(0),
            recorded,
            later_boot,
            changed: false,
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
        let present: BTreeSet<u32> = links.iter().map(|link| link.ifindex).collect();
        self.guests.keep_only(|ifindex| present.contains(&ifindex));
        for link in links {
            if link.ifindex > seen {
                self.born.insert(link.ifindex, now);
            }
            self.keep(link, config, now);
        }
    }

    /// Takes in the counters of all links. False where they are not those that we know, or have
    /// not been listed for long: only a list tells.
    pub(crate) fn counted(
        &mut self,
        counters: &BTreeMap<u32, KernelCounters>,
        now: Duration,
    ) -> bool {
        for (ifindex, kernel) in counters {
            if let Some(link) = self.links.get_mut(ifindex) {
                link.kernel = *kernel;
            }
        }
        now < self.list_at && self.links.keys().eq(counters.keys())
    }

    /// Events were lost.
    pub(crate) fn list_again(&mut self) {
        self.list_at = Duration::ZERO;
    }

    /// A link that is there: new, renamed or otherwise changed.
    pub(crate) fn present(&mut self, link: Link, config: &Config, now: Duration) {
        // One that comes with a number we have passed was not born here and now: it comes
        // (back) from another namespace, its old counters with it.
        if link.ifindex > self.highest {
            self.born.insert(link.ifindex, now);
        }
        self.brief.remove(&link.ifindex);
        self.keep(link, config, now);
    }

    /// All that is there now; whatever else we knew is gone. Returns those that are new.
    pub(crate) fn replace(&mut self, links: Vec<Link>, config: &Config, now: Duration) -> Vec<u32> {
        self.list_at = now + LIST;
        let present: BTreeSet<u32> = links.iter().map(|link| link.ifindex).collect();
        let gone: Vec<u32> = self
            .links
            .keys()
            .filter(|ifindex| !present.contains(ifindex))
            .copied()
            .collect();
        for ifindex in gone {
            self.gone(ifindex);
        }
        let mut new = Vec::new();
        for link in links {
            if !self.links.contains_key(&link.ifindex) {
                new.push(link.ifindex);
            }
            self.present(link, config, now);
        }
        new
    }

    /// A link that is no more, with the last that the kernel said of it.
    pub(crate) fn departed(&mut self, last: &Link) {
        let mut kernel = last.kernel;
        // A veth's peer has parted by then, and with it what the guest sent: what is left is
        // what was last said before.
        if let Some(before) = self.links.get(&last.ifindex) {
            kernel.received = kernel.received.max(before.kernel.received);
            kernel.sent = kernel.sent.max(before.kernel.sent);
        }
        if let Some(claim) = self.claims.get(&last.ifindex) {
            if self.born.contains_key(&last.ifindex) {
                let brief = (last.clone(), claim.clone());
                self.brief.insert(last.ifindex, brief);
            }
            let whole = last.kind != LinkKind::Veth;
            self.last_words
                .insert(last.ifindex, LastWords { kernel, whole });
        }
        self.gone(last.ifindex);
    }

    /// What the kernel last said of a link that is no more.
    pub(crate) fn last_words(&self, ifindex: u32) -> Option<LastWords> {
        self.last_words.get(&ifindex).copied()
    }

    /// What there was has been looked at.
    pub(crate) fn looked_at(&mut self) {
        self.brief.clear();
    }

    /// Whoever had it has all of its bytes.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.last_words.remove(&ifindex);
    }

    fn gone(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.born.remove(&ifindex);
        self.guests.forget(ifindex);
        self.changed |= self.claims.remove(&ifindex).is_some();
    }

    /// Whose everything is under another configuration.
    pub(crate) fn claim_again(&mut self, config: &Config, now: Duration) {
        self.guests.look(config, now);
        let all: Vec<u32> = self.links.keys().copied().collect();
        for ifindex in all {
            self.judge(ifindex, config, now);
        }
        self.changed = true;
    }

    /// Looks at hypervisors' files again, and whose what is concerned is by now.
    pub(crate) fn ask_again(&mut self, config: &Config, now: Duration) {
        let concerned = match self.guests.look(config, now) {
            true => self.links.keys().copied().collect(),
            false => self.guests.unknown(),
        };
        for ifindex in concerned {
            self.judge(ifindex, config, now);
        }
    }

    /// Somebody has said something new of this one.
    pub(crate) fn judge(&mut self, ifindex: u32, config: &Config, now: Duration) {
        let Some(link) = self.links.get(&ifindex) else {
            return;
        };
        let claim = self.guests.claim(link, config, now);
        self.changed |= claim.as_ref() != self.claims.get(&ifindex);
        match claim {
            Some(claim) => self.claims.insert(ifindex, claim),
            None => self.claims.remove(&ifindex),
        };
    }

    pub(crate) fn pack(&mut self) {
        pack(&mut self.links);
        pack(&mut self.claims);
    }

    /// How many there are that are somebody's.
    pub(crate) fn claimed(&self) -> usize {
        self.claims.len()
    }

    pub(crate) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether anything changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What was to follow a change did not happen.
    pub(crate) fn still_changed(&mut self) {
        self.changed = true;
    }

    fn keep(&mut self, link: Link, config: &Config, now: Duration) {
        let ifindex = link.ifindex;
        self.highest = self.highest.max(ifindex);
        let known = self.links.insert(ifindex, link.clone());
        // Most changes are of counters and flags: who is who stays.
        let is_who_it_was = |known: &Link| {
            (&known.name, known.mac, &known.kind) == (&link.name, link.mac, &link.kind)
        };
        if known.as_ref().is_some_and(is_who_it_was) {
            return;
        }
        self.guests.look(config, now);
        let before = self.claims.contains_key(&ifindex);
        self.judge(ifindex, config, now);
        // A new name is news, too, whose ever it is.
        self.changed |= before || self.claims.contains_key(&ifindex);
    }

    /// The interface that has this name now.
    pub(crate) fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    pub(crate) fn id(&self, ifindex: u32) -> InterfaceId {
        InterfaceId {
            netns: self.netns,
            ifindex,
        }
    }

    pub(crate) fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// Whether it is administratively up, as far as we were told.
    pub(crate) fn is_up(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some_and(|link| link.up)
    }

    /// What we did ourselves need not be told.
    pub(crate) fn was_set(&mut self, ifindex: u32, state: AdminState) {
        if let Some(link) = self.links.get_mut(&ifindex) {
            link.up = state == AdminState::Up;
        }
    }

    /// A VLAN device on an interface, by name.
    pub(crate) fn vlan_on(&self, ifindex: u32) -> Option<&str> {
        let mut links = self.links.values();
        let vlan = links.find(|link| link.vlan_of == Some(ifindex))?;
        Some(&vlan.name)
    }

    /// Those that are there, and those that were there since the last look.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Link, &Claim)> {
        self.claims
            .iter()
            .filter_map(|(ifindex, claim)| Some((self.links.get(ifindex)?, claim)))
            .chain(self.brief.values().map(|(link, claim)| (link, claim)))
    }

    pub(crate) fn claim(&self, ifindex: u32) -> Option<&Claim> {
        self.claims.get(&ifindex)
    }

    /// Whether what an interface moved before it was metered is to be credited.
    pub(crate) fn is_newborn(&self, ifindex: u32, now: Duration) -> bool {
        let young = |born: &Duration| now.saturating_sub(*born) < NEWBORN;
        self.brief.contains_key(&ifindex) || self.born.get(&ifindex).is_some_and(young)
    }

    pub(crate) fn highest_if_grown(&self) -> Option<Highest> {
        (self.recorded != Some(self.highest)).then(|| Highest {
            boot: self.boot.clone(),
            interface: InterfaceId {
                netns: self.netns,
                ifindex: self.highest,
            },
        })
    }

    pub(crate) fn highest_recorded(&mut self, highest: Option<&Highest>) {
        if let Some(highest) = highest {
            self.recorded = Some(highest.interface.ifindex);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn veth(ifindex: u32, name: &str) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            mac: None,
            kind: LinkKind::Veth,
            up: true,
            mtu: 1500,
            vlan_of: None,
            kernel: KernelCounters::default(),
        }
    }

    fn node(recorded: Option<u32>, later_boot: bool) -> Interfaces {
        let boot = BootId("b".into());
        let guests = Guests::new(&boot, 7, &[]);
        Interfaces::new(boot, 7, recorded, later_boot, guests)
    }

    /// spec: an ifindex above the highest the ledger has seen was born since; an interface
    /// older than the first sight ever is a baseline.
    #[test]
    fn who_was_born_while_the_daemon_was_away_is_told_by_its_ifindex() {
        let config = Config::default();
        for (recorded, later_boot, newborn) in [
            (None, false, [false, false]),
            (Some(3), false, [false, true]),
            (None, true, [true, true]),
        ] {
            let mut interfaces = node(recorded, later_boot);
            interfaces.first_sight(vec![veth(3, "a"), veth(4, "b")], &config, NOW);
            let found = [3, 4].map(|ifindex| interfaces.is_newborn(ifindex, NOW));
            assert_eq!(found, newborn, "{recorded:?} {later_boot}");
        }
    }

    #[test]
    fn what_comes_while_we_watch_is_new_for_a_while_and_not_for_ever() {
        let config = Config::default();
        let mut interfaces = node(Some(9), false);
        interfaces.present(veth(10, "a"), &config, NOW);
        assert!(interfaces.is_newborn(10, NOW + Duration::from_secs(9)));
        assert!(!interfaces.is_newborn(10, NOW + Duration::from_secs(11)));
        interfaces.departed(&veth(10, "a"));
        interfaces.looked_at();
        assert!(!interfaces.is_newborn(10, NOW));
    }

    #[test]
    fn all_are_listed_where_the_counters_are_of_others_or_events_were_lost_or_long_after() {
        let config = Config::default();
        let counters = |ifindices: &[u32]| -> BTreeMap<u32, KernelCounters> {
            let of = |ifindex: &u32| {
                let mut counters = veth(*ifindex, "").kernel;
                counters.packets = [u64::from(*ifindex), 7];
                (*ifindex, counters)
            };
            ifindices.iter().map(of).collect()
        };
        let mut interfaces = node(Some(9), false);
        assert!(!interfaces.counted(&counters(&[]), NOW), "never listed");
        let both = vec![veth(10, "a"), veth(11, "b")];
        assert_eq!(interfaces.replace(both.clone(), &config, NOW), [10, 11]);
        assert!(interfaces.counted(&counters(&[10, 11]), NOW));
        let link = interfaces.link(11).unwrap();
        assert_eq!(link.kernel.packets, [11, 7], "taken in");
        for others in [&[10][..], &[10, 12], &[10, 11, 12]] {
            assert!(!interfaces.counted(&counters(others), NOW), "{others:?}");
        }
        let later = NOW + LIST;
        assert!(!interfaces.counted(&counters(&[10, 11]), later));
        assert!(interfaces.replace(both, &config, later).is_empty());
        assert!(interfaces.counted(&counters(&[10, 11]), later));
        interfaces.list_again();
        assert!(!interfaces.counted(&counters(&[10, 11]), later));
    }

    #[test]
    fn an_interface_that_comes_back_from_another_namespace_is_no_newborn() {
        let config = Config::default();
        let mut interfaces = node(Some(9), false);
        interfaces.present(veth(10, "a"), &config, NOW);
        interfaces.departed(&veth(10, "a"));
        interfaces.looked_at();
        interfaces.present(veth(10, "a"), &config, NOW);
        assert!(!interfaces.is_newborn(10, NOW), "its bytes were counted");
        interfaces.present(veth(11, "b"), &config, NOW);
        assert!(interfaces.is_newborn(11, NOW));
    }

    #[test]
    fn one_that_came_and_went_between_two_looks_is_still_its_machines() {
        let config = Config::default();
        let mut interfaces = node(Some(9), false);
        interfaces.present(veth(10, "a"), &config, NOW);
        interfaces.departed(&veth(10, "a"));
        assert_eq!(interfaces.claims().count(), 1);
        assert!(interfaces.is_newborn(10, NOW));
        interfaces.looked_at();
        assert_eq!(interfaces.claims().count(), 0);
    }

    #[test]
    fn what_a_link_last_said_is_kept_until_its_bytes_are() {
        let config = Config::default();
        let mut interfaces = node(Some(9), false);
        let mut link = veth(10, "a");
        link.kernel.received = crate::engine::units::Bytes(7);
        interfaces.present(link.clone(), &config, NOW);
        interfaces.departed(&link);
        let last = interfaces.last_words(10).map(|last| last.kernel);
        assert_eq!(last, Some(link.kernel));
        interfaces.forget(10);
        assert!(interfaces.last_words(10).is_none());
    }

    #[test]
    fn only_what_concerns_a_machine_is_a_change() {
        let config = Config::default();
        let mut interfaces = node(Some(9), false);
        interfaces.present(veth(10, "a"), &config, NOW);
        assert!(interfaces.take_changed());
        interfaces.present(veth(10, "a"), &config, NOW);
        assert!(!interfaces.take_changed(), "the same again");
        interfaces.present(veth(10, "b"), &config, NOW);
        assert!(interfaces.take_changed(), "renamed");
        let uplink = Link {
            kind: LinkKind::Other("bridge".into()),
            ..veth(11, "vmbr0")
        };
        interfaces.present(uplink, &config, NOW);
        assert!(!interfaces.take_changed(), "nobody's");
        interfaces.replace(vec![], &config, NOW);
        assert!(interfaces.take_changed());
        assert_eq!(
            interfaces.highest_if_grown().map(|h| h.interface.ifindex),
            Some(11)
        );
    }
}
