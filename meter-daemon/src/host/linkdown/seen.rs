//! The kernel's messages about an interface, read: what comes back by itself, what is to be
//! put back, and what could not be.

use super::entry::{
    AF_BRIDGE, AF_INET6, Entry, IFA_PROTO, Kind, NDA_CACHEINFO, NDA_DST, NDA_FDB_EXT_ATTRS,
    NDA_FLAGS_EXT, NDA_LLADDR, NDA_MASTER, NDA_PROBES, NDA_PROTOCOL, NDA_VLAN, NTF_PROXY,
    RTA_CACHEINFO, RTA_DST, RTA_ENCAP, RTA_FLOW, RTA_GATEWAY, RTA_METRICS, RTA_MULTIPATH,
    RTA_NH_ID, RTA_OIF, RTA_PAD, RTA_PREF, RTA_PREFSRC, RTA_PRIORITY, RTA_SRC, RTA_TABLE, RTA_VIA,
    next_hops,
};
use crate::host::netlink::{attribute, attributes, u32_at, written};

/// What a message of the kernel is to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Another interface's, or what the kernel or the network makes anew by itself.
    Passing,
    /// To be put back.
    Kept(Entry),
    /// It would be lost: why it cannot be put back as it is.
    Obstacle(Entry, &'static str),
}

const UNKNOWN: &str = "it has a property that this version does not know";

/// An IPv6 address. (IPv4 addresses outlive the link.)
pub(super) fn address(body: &[u8], ifindex: u32) -> Seen {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_CACHEINFO: u16 = 6;
    const IFA_FLAGS: u16 = 8;
    const IFA_RT_PRIORITY: u16 = 9;
    const IFA_F_TEMPORARY: u32 = 0x01;
    const IFA_F_STABLE_PRIVACY: u32 = 0x800;
    /// NODAD, OPTIMISTIC, HOMEADDRESS, MANAGETEMPADDR, NOPREFIXROUTE, MCAUTOJOIN: those that
    /// `inet6_rtm_newaddr` takes. The others are states.
    const SETTABLE: u32 = 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400;
    /// IFAPROT_KERNEL_LO, _RA: loopback's, learnt from a router.
    const MADE_BY_THE_KERNEL: [u8; 2] = [1, 2];
    const FOR_EVER: u32 = u32::MAX;

    let header = Kind::Address.header();
    if u32_at(body, 4) != Some(ifindex) || body.first() != Some(&AF_INET6) {
        return Seen::Passing;
    }
    let all = &body[header..];
    let flags = attribute(all, IFA_FLAGS).and_then(|value| u32_at(value, 0));
    let flags = flags.unwrap_or(u32::from(body[2]));
    let protocol = attribute(all, IFA_PROTO).and_then(<[u8]>::first);
    if flags & (IFA_F_TEMPORARY | IFA_F_STABLE_PRIVACY) != 0
        || protocol.is_some_and(|it| MADE_BY_THE_KERNEL.contains(it))
    {
        return Seen::Passing;
    }
    let lifetime = |at| {
        let times = attribute(all, IFA_CACHEINFO)?;
        u32_at(times, at)
    };
    let (preferred, valid) = (
        lifetime(0).unwrap_or(FOR_EVER),
        lifetime(4).unwrap_or(FOR_EVER),
    );
    let settable = flags & SETTABLE;
    let mut start = body[..header].to_vec();
    // The attribute has all of them, this has room for eight.
    start[2] = settable.to_le_bytes()[0];
    let times = [preferred, valid, 0, 0];
    let kept = attributes(all)
        .filter(|(number, _)| ![IFA_CACHEINFO, IFA_FLAGS].contains(number))
        .map(|(number, value)| (number, value.to_vec()))
        .chain([
            (IFA_FLAGS, settable.to_ne_bytes().to_vec()),
            (
                IFA_CACHEINFO,
                times.iter().flat_map(|time| time.to_ne_bytes()).collect(),
            ),
        ]);
    let entry = entry(Kind::Address, &start, kept);
    let known = [
        IFA_ADDRESS,
        IFA_LOCAL,
        IFA_CACHEINFO,
        IFA_FLAGS,
        IFA_RT_PRIORITY,
        IFA_PROTO,
    ];
    if valid != FOR_EVER || ![0, FOR_EVER].contains(&preferred) {
        Seen::Obstacle(entry, "its lifetime runs out")
    } else {
        known_or_not(entry, all, &known)
    }
}

const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// A neighbour that somebody entered, or an address that is answered for.
pub(super) fn neighbour(body: &[u8], ifindex: u32) -> Seen {
    const NTF_EXT_LEARNED: u8 = 0x10;
    const NTF_EXT_MANAGED: u32 = 1;

    if u32_at(body, 4) != Some(ifindex) || body.first() == Some(&AF_BRIDGE) {
        return Seen::Passing;
    }
    let all = &body[Kind::Neighbour.header()..];
    let (state, flags) = (neighbour_state(body), body[10]);
    let entry = neighbour_entry(Kind::Neighbour, body, all);
    let more = attribute(all, NDA_FLAGS_EXT).and_then(|value| u32_at(value, 0));
    if more.unwrap_or(0) & NTF_EXT_MANAGED != 0 {
        return Seen::Obstacle(entry, "the kernel keeps it fresh by itself");
    }
    let entered = flags & NTF_PROXY != 0
        || state & NUD_PERMANENT != 0
        // The kernel's own entries of this state are those of groups.
        || state & NUD_NOARP != 0 && !is_group(attribute(all, NDA_LLADDR));
    if !entered {
        return if flags & NTF_EXT_LEARNED != 0 {
            Seen::Obstacle(entry, "another program keeps it up to date")
        } else {
            Seen::Passing
        };
    }
    let known = [
        NDA_DST,
        NDA_LLADDR,
        NDA_CACHEINFO,
        NDA_PROBES,
        NDA_PROTOCOL,
        NDA_FLAGS_EXT,
    ];
    known_or_not(entry, all, &known)
}

/// A static entry of a bridge for its port, or of the interface's own filter.
pub(super) fn forwarding(body: &[u8], ifindex: u32) -> Seen {
    if u32_at(body, 4) != Some(ifindex) || body.first() != Some(&AF_BRIDGE) {
        return Seen::Passing;
    }
    let all = &body[Kind::Forwarding.header()..];
    let is_static = neighbour_state(body) & (NUD_NOARP | NUD_PERMANENT) != 0;
    if !is_static || is_group(attribute(all, NDA_LLADDR)) {
        return Seen::Passing;
    }
    let known = [
        NDA_LLADDR,
        NDA_CACHEINFO,
        NDA_VLAN,
        NDA_MASTER,
        NDA_PROTOCOL,
        NDA_FLAGS_EXT,
        NDA_FDB_EXT_ATTRS,
    ];
    known_or_not(neighbour_entry(Kind::Forwarding, body, all), all, &known)
}

fn neighbour_state(body: &[u8]) -> u16 {
    u16::from_ne_bytes([body[8], body[9]])
}

fn neighbour_entry(kind: Kind, body: &[u8], all: &[u8]) -> Entry {
    const NTF_OFFLOADED: u8 = 0x20;
    let mut start = body[..kind.header()].to_vec();
    start[10] &= !NTF_OFFLOADED;
    // ndm_type: what kind of address it is, which the kernel finds out by itself.
    start[11] = 0;
    let passing = [NDA_CACHEINFO, NDA_PROBES, NDA_FDB_EXT_ATTRS];
    let kept = attributes(all)
        .filter(|(number, _)| !passing.contains(number))
        .map(|(number, value)| (number, value.to_vec()));
    entry(kind, &start, kept)
}

/// Broadcast and multicast addresses.
fn is_group(address: Option<&[u8]>) -> bool {
    address
        .and_then(<[u8]>::first)
        .is_none_or(|first| first & 1 == 1)
}

/// RTNH_F_PERVASIVE and RTNH_F_ONLINK: what somebody sets. The others are states.
const SET_ON_A_NEXT_HOP: u8 = 0x02 | 0x04;

/// A route through the interface that somebody entered.
pub(super) fn route(body: &[u8], ifindex: u32) -> Seen {
    const RTM_F_CLONED: u32 = 0x200;
    /// RTPROT_REDIRECT, _KERNEL, _RA: learnt from a router, or following an address.
    const BY_ITSELF: [u8; 3] = [1, 2, 9];

    let header = Kind::Route.header();
    let all = &body[header..];
    let flags = u32_at(body, 8).unwrap_or(0);
    let hops = attribute(all, RTA_MULTIPATH);
    let through = attribute(all, RTA_OIF).and_then(|value| u32_at(value, 0)) == Some(ifindex)
        || hops.is_some_and(|hops| next_hops(hops).any(|hop| hop.ifindex == ifindex));
    if !through || flags & RTM_F_CLONED != 0 || BY_ITSELF.contains(&body[5]) {
        return Seen::Passing;
    }
    let mut start = body[..header].to_vec();
    start[8..12].copy_from_slice(&(flags & u32::from(SET_ON_A_NEXT_HOP)).to_ne_bytes());
    let kept = attributes(all)
        .filter(|(number, _)| ![RTA_CACHEINFO, RTA_PAD].contains(number))
        .map(|(number, value)| match number {
            RTA_MULTIPATH => (number, settled(value)),
            _ => (number, value.to_vec()),
        });
    let entry = entry(Kind::Route, &start, kept);
    let strange_hop = |hops| {
        next_hops(hops).any(|hop| {
            attributes(hop.attributes)
                .any(|(number, _)| ![RTA_GATEWAY, RTA_FLOW, RTA_VIA].contains(&number))
        })
    };
    let expires = attribute(all, RTA_CACHEINFO).and_then(|value| u32_at(value, 8));
    if attribute(all, RTA_NH_ID).is_some() {
        Seen::Obstacle(entry, "it uses a nexthop object")
    } else if attribute(all, RTA_ENCAP).is_some() {
        Seen::Obstacle(entry, "it wraps packets into others")
    } else if expires.unwrap_or(0) != 0 {
        Seen::Obstacle(entry, "it expires by itself")
    } else if hops.is_some_and(strange_hop) {
        Seen::Obstacle(entry, UNKNOWN)
    } else {
        known_or_not(entry, all, &KNOWN_OF_ROUTES)
    }
}

const KNOWN_OF_ROUTES: [u16; 14] = [
    RTA_DST,
    RTA_SRC,
    RTA_OIF,
    RTA_GATEWAY,
    RTA_PRIORITY,
    RTA_PREFSRC,
    RTA_METRICS,
    RTA_MULTIPATH,
    RTA_FLOW,
    RTA_CACHEINFO,
    RTA_TABLE,
    RTA_VIA,
    RTA_PREF,
    RTA_PAD,
];

/// The same next hops, whatever state each is in.
fn settled(hops: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hops.len());
    for hop in next_hops(hops) {
        let mut start = hop.start.to_vec();
        start[2] &= SET_ON_A_NEXT_HOP;
        bytes.extend(start);
        bytes.extend(hop.attributes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn entry(kind: Kind, start: &[u8], kept: impl Iterator<Item = (u16, Vec<u8>)>) -> Entry {
    let mut body = start.to_vec();
    body.extend(written(kept));
    Entry { kind, body }
}

fn known_or_not(entry: Entry, all: &[u8], known: &[u16]) -> Seen {
    match attributes(all).all(|(number, _)| known.contains(&number)) {
        true => Seen::Kept(entry),
        false => Seen::Obstacle(entry, UNKNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::entry::AF_INET, *};

    const IFINDEX: u32 = 7;

    fn message(header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let owned = attributes.iter().map(|(n, value)| (*n, value.to_vec()));
        [header, &written(owned)].concat()
    }

    fn obstacle(seen: &Seen) -> Option<&'static str> {
        match seen {
            Seen::Obstacle(_, why) => Some(why),
            Seen::Kept(_) => None,
            Seen::Passing => panic!("it is lost, and not looked at"),
        }
    }

    /// A route to 203.0.113.5/32 of this protocol, with these properties beside.
    fn a_route(protocol: u8, flags: u32, more: &[(u16, &[u8])]) -> Vec<u8> {
        let header = [AF_INET, 32, 0, 0, 254, protocol, 0, 1];
        let start = [&header[..], &flags.to_ne_bytes()].concat();
        let all: Vec<(u16, &[u8])> = [(RTA_DST, &[203, 0, 113, 5][..])]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        message(&start, &all)
    }

    #[test]
    fn a_route_that_could_not_be_put_back_as_it_is_is_an_obstacle() {
        let out = IFINDEX.to_ne_bytes();
        let expiring = [0, 0, 60, 0, 0, 0, 0, 0_u32].map(u32::to_ne_bytes).concat();
        let rows: [(&[u8], u16, Option<&str>); 6] = [
            (&[10, 0, 0, 1], RTA_GATEWAY, None),
            (&expiring, RTA_CACHEINFO, Some("it expires by itself")),
            (&[5, 0, 0, 0], RTA_NH_ID, Some("it uses a nexthop object")),
            (&[0; 8], RTA_ENCAP, Some("it wraps packets into others")),
            (&[0; 4], 999, Some(UNKNOWN)),
            (
                &[12, 0, 0, 0, 7, 0, 0, 0, 4, 0, 99, 0],
                RTA_MULTIPATH,
                Some(UNKNOWN),
            ),
        ];
        for (value, number, why) in rows {
            let route = route(&a_route(4, 0, &[(RTA_OIF, &out), (number, value)]), IFINDEX);
            assert_eq!(obstacle(&route), why, "{number}");
        }
    }

    #[test]
    fn what_comes_back_by_itself_or_is_another_links_is_left_alone() {
        let out = IFINDEX.to_ne_bytes();
        for (protocol, flags, link) in [(2, 0, 7), (9, 0, 7), (3, 0x200, 7), (3, 0, 8)] {
            let seen = route(&a_route(protocol, flags, &[(RTA_OIF, &out)]), link);
            assert_eq!(seen, Seen::Passing, "{protocol} {flags} {link}");
        }
    }

    /// RTNH_F_DEAD and RTNH_F_LINKDOWN come and go, RTNH_F_ONLINK was set by somebody.
    #[test]
    fn a_route_is_the_same_whatever_state_its_ways_are_in() {
        let hop = |flags: u8| {
            [
                &[16, 0, flags, 2, 7, 0, 0, 0, 8, 0, 5, 0][..],
                &[10, 0, 0, 9],
            ]
            .concat()
        };
        let several = |flags: u8| [hop(flags), hop(0x04)].concat();
        let seen = |flags: u8| {
            route(
                &a_route(3, flags.into(), &[(RTA_MULTIPATH, &several(flags))]),
                IFINDEX,
            )
        };
        assert_eq!(seen(0x04), seen(0x04 | 0x01 | 0x10));
        assert_ne!(seen(0x04), seen(0x00));
        let Seen::Kept(entry) = seen(0x05) else {
            panic!("{:?}", seen(0x05));
        };
        let said = "route 203.0.113.5/32 by 2 ways table 0";
        assert_eq!(entry.to_string(), said);
    }

    #[test]
    fn an_address_that_runs_out_cannot_be_put_back_and_one_that_was_announced_comes_again() {
        let of = |flags: u8, times: [u32; 2], protocol: &[u8]| {
            let header = [&[AF_INET6, 64, flags, 0][..], &IFINDEX.to_ne_bytes()].concat();
            let times = [times[0], times[1], 8, 9].map(u32::to_ne_bytes).concat();
            let mut all: Vec<(u16, &[u8])> = vec![(1, &[0xfd; 16]), (6, &times)];
            all.extend((!protocol.is_empty()).then_some((IFA_PROTO, protocol)));
            address(&message(&header, &all), IFINDEX)
        };
        const EVER: u32 = u32::MAX;
        assert_eq!(obstacle(&of(0x82, [EVER, EVER], &[])), None);
        assert_eq!(obstacle(&of(0x82, [0, EVER], &[])), None);
        assert!(obstacle(&of(0x82, [60, EVER], &[])).is_some());
        assert!(obstacle(&of(0x82, [60, 90], &[])).is_some());
        assert_eq!(of(0x02, [60, 90], &[2]), Seen::Passing, "from a router");
        assert_eq!(of(0x01, [60, 90], &[]), Seen::Passing, "temporary");
        // Tentative, or found to be somebody else's, is a state.
        assert_eq!(
            of(0x82, [EVER, EVER], &[]),
            of(0x82 | 0x48, [EVER, EVER], &[])
        );
    }

    #[test]
    fn of_neighbours_only_what_somebody_entered_is_kept() {
        let of = |state: u16, flags: u8, mac: [u8; 6], more: u32| {
            let state = state.to_ne_bytes();
            let header = [
                &[AF_INET, 0, 0, 0][..],
                &IFINDEX.to_ne_bytes(),
                &state,
                &[flags, 1],
            ];
            let all: [(u16, &[u8]); 3] = [
                (NDA_DST, &[10, 0, 0, 9]),
                (NDA_LLADDR, &mac),
                (NDA_FLAGS_EXT, &more.to_ne_bytes()),
            ];
            neighbour(&message(&header.concat(), &all), IFINDEX)
        };
        let (one, group) = ([2, 0, 0, 0, 0, 9], [1, 0, 0x5e, 0, 0, 1]);
        for (state, flags, mac, kept) in [
            (NUD_PERMANENT, 0, one, true),
            (NUD_NOARP, 0, one, true),
            (NUD_NOARP, 0, group, false),
            (0x02, 0, one, false),
            (0, NTF_PROXY, one, true),
        ] {
            let seen = of(state, flags, mac, 0);
            assert_eq!(matches!(seen, Seen::Kept(_)), kept, "{state} {seen:?}");
        }
        assert!(
            obstacle(&of(0x02, 0x10, one, 0)).is_some(),
            "by another program"
        );
        assert!(
            obstacle(&of(NUD_PERMANENT, 0, one, 1)).is_some(),
            "kept fresh"
        );
    }
}
