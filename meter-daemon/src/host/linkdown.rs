//! Links set down and up again, and what goes meanwhile.
//!
//! What a link loses when it is set down, and what comes back by itself (Linux 6.18, tap, veth and
//! bridge port; 6.1 is the same by its source):
//!
//! | | set down | set up again |
//! |---|---|---|
//! | IPv4 addresses | stay | |
//! | IPv4 routes that follow from an address (proto kernel) | go | come back |
//! | IPv4 routes of others, all tables | go | **stay away** |
//! | routes by several ways | lose the way; go with the last | the way comes back; a gone one **stays away** |
//! | nexthop objects, their membership in groups | go | **stay away** |
//! | the kernel's own IPv6 link-local address (the last of several), what a router announced | go | come back |
//! | IPv6 addresses of others (unless `keep_addr_on_down`) and what follows from them | go | **stay away** |
//! | IPv6 routes of others, all tables | go | **stay away** |
//! | permanent neighbours, proxy entries (IPv4, IPv6) | go | **stay away** |
//! | neighbours that were learnt | go | are learnt anew |
//! | bridge: membership, port settings, VLANs, static, permanent and external FDB entries, permanent groups | stay | |
//! | bridge: learnt FDB entries and groups | go | are learnt anew |
//! | own address filter, `ip rule`, sysctls, qdiscs, tcx programs | stay | |
//! | VLAN devices on it | go down with it, with all of theirs | up, without |
//!
//! So the kernel's own messages about what stays away are kept, less what changes by itself,
//! and are sent back. Nothing is interpreted that need not be. FDB entries are kept all the
//! same: nobody promises that they stay.

mod entry;
mod seen;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic,
    sync::{Arc, Mutex, PoisonError},
};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rustix::io::Errno;

pub use self::entry::Entry;
use self::{
    entry::{AF_BRIDGE, AF_INET, AF_INET6, Kind, NTF_PROXY},
    seen::Seen,
};
use super::{
    links::AdminState,
    netlink::{NetlinkError, u32_at, written},
    wire::Wire,
};

/// Sets links down and up, and knows what they lose, in the network namespace it was opened in.
#[derive(Clone)]
pub struct LinkDown(Arc<Mutex<Wire>>);

/// What an interface has that goes with its link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtRisk {
    /// What can be put back, in the order in which it is.
    pub entries: Vec<Entry>,
    /// What cannot, and why: while there is any, the link is better left up.
    pub obstacles: Vec<String>,
}

/// What could not be put back, and why.
#[derive(Debug)]
pub struct Missing {
    /// What.
    pub entry: Entry,
    /// The kernel's answer.
    pub why: String,
}

impl LinkDown {
    /// For the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Arc::new(Mutex::new(Wire::open()?))))
    }

    /// Whether an interface is administratively up; `None` where it is gone.
    pub async fn state(&self, ifindex: u32) -> Result<Option<AdminState>, NetlinkError> {
        self.run(move |wire| state(wire, ifindex)).await
    }

    /// What an interface would lose.
    pub async fn at_risk(&self, ifindex: u32) -> Result<AtRisk, NetlinkError> {
        self.run(move |wire| at_risk(wire, ifindex)).await
    }

    /// Sets an interface administratively up or down.
    pub async fn set(&self, ifindex: u32, state: AdminState) -> Result<(), NetlinkError> {
        self.run(move |wire| set(wire, ifindex, state)).await
    }

    /// Puts back what is not there, and says what is still not there afterwards. What somebody
    /// else has put in its place meanwhile stays.
    pub async fn put_back(
        &self,
        ifindex: u32,
        entries: Vec<Entry>,
    ) -> Result<Vec<Missing>, NetlinkError> {
        self.run(move |wire| put_back(wire, ifindex, &entries))
            .await
    }

    /// Off the runtime's own threads: the kernel may wait for the RTNL lock, and for packets
    /// in flight.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Wire) -> T + Send + 'static,
    ) -> T {
        let wire = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            work(&mut wire.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match task.await {
            Ok(result) => result,
            Err(failure) => match failure.try_into_panic() {
                Ok(panic) => panic::resume_unwind(panic),
                // The runtime is shutting down, and whoever waits for this with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

const IFF_UP: u32 = 1;

/// `struct ifinfomsg`.
fn ifinfo(ifindex: u32, flags: u32, change: u32) -> Vec<u8> {
    let numbers = [0, ifindex, flags, change];
    numbers.iter().flat_map(|it| it.to_ne_bytes()).collect()
}

fn state(wire: &mut Wire, ifindex: u32) -> Result<Option<AdminState>, NetlinkError> {
    let attempt = format!("read interface {ifindex}");
    let asked = wire.request(&attempt, libc::RTM_GETLINK, 0, &ifinfo(ifindex, 0, 0));
    let answer = match asked {
        Err(error) if error.is(Errno::NODEV) => return Ok(None),
        asked => asked?,
    };
    let flags = answer.first().and_then(|link| u32_at(&link.body, 8));
    Ok(flags.map(|flags| match flags & IFF_UP {
        0 => AdminState::Down,
        _ => AdminState::Up,
    }))
}

fn set(wire: &mut Wire, ifindex: u32, state: AdminState) -> Result<(), NetlinkError> {
    let (flags, word) = match state {
        AdminState::Up => (IFF_UP, "up"),
        AdminState::Down => (0, "down"),
    };
    let attempt = format!("set interface {ifindex} {word}");
    let body = ifinfo(ifindex, flags, IFF_UP);
    wire.request(&attempt, libc::RTM_NEWLINK, 0, &body)
        .map(drop)
}

/// One list that the kernel is asked for, and how it is read.
struct List {
    what: &'static str,
    request: u16,
    body: Vec<u8>,
    read: fn(&[u8], u32) -> Seen,
    kind: Kind,
}

fn lists(ifindex: u32) -> Vec<List> {
    const RTA_OIF: u16 = 4;
    const NDA_IFINDEX: u16 = 8;
    let by = |number| written([(number, ifindex.to_ne_bytes().to_vec())]);
    let routes = |family: u8| List {
        what: "routes",
        request: libc::RTM_GETROUTE,
        body: [vec![family], vec![0; 11], by(RTA_OIF)].concat(),
        read: seen::route,
        kind: Kind::Route,
    };
    let neighbours = |family: u8, flags: u8| List {
        what: "neighbours",
        request: libc::RTM_GETNEIGH,
        body: [vec![family], vec![0; 9], vec![flags, 0], by(NDA_IFINDEX)].concat(),
        read: seen::neighbour,
        kind: Kind::Neighbour,
    };
    let addressed = |family: u8| [&[family, 0, 0, 0][..], &ifindex.to_ne_bytes()].concat();
    vec![
        List {
            what: "addresses",
            request: libc::RTM_GETADDR,
            body: addressed(AF_INET6),
            read: seen::address,
            kind: Kind::Address,
        },
        neighbours(AF_INET, 0),
        neighbours(AF_INET6, 0),
        neighbours(AF_INET, NTF_PROXY),
        neighbours(AF_INET6, NTF_PROXY),
        List {
            what: "forwarding entries",
            request: libc::RTM_GETNEIGH,
            body: [addressed(AF_BRIDGE), vec![0; 4]].concat(),
            read: seen::forwarding,
            kind: Kind::Forwarding,
        },
        routes(AF_INET),
        routes(AF_INET6),
    ]
}

fn at_risk(wire: &mut Wire, ifindex: u32) -> Result<AtRisk, NetlinkError> {
    let mut found = AtRisk::default();
    for list in lists(ifindex) {
        let attempt = format!("list the {} of interface {ifindex}", list.what);
        let family = list.body[0];
        let mut entries = Vec::new();
        for message in wire.dump(&attempt, list.request, &list.body)? {
            // A kernel without a family answers with those that it has.
            let whole = message.body.len() >= list.kind.header();
            if message.kind != list.kind.message() || !whole || message.body[0] != family {
                continue;
            }
            match (list.read)(&message.body, ifindex) {
                Seen::Passing => {}
                Seen::Kept(entry) => entries.push(entry),
                Seen::Obstacle(entry, why) => found.obstacles.push(format!("the {entry}: {why}")),
            }
        }
        if list.kind == Kind::Address {
            // The newest stands first.
            entries.reverse();
            leave_to_the_kernel(&mut entries);
        }
        found.entries.extend(entries);
    }
    found.obstacles.extend(nexthop_objects(wire, ifindex)?);
    found.entries.sort_by_key(order);
    Ok(found)
}

/// The kernel makes its link-local address again by itself; but it must stand where it stood
/// among others, because the oldest speaks for the router (`__ipv6_get_lladdr`).
fn leave_to_the_kernel(addresses: &mut Vec<Entry>) {
    let others = |it: &Entry| it.is_link_local() && !it.is_the_kernels_link_local();
    if !addresses.iter().any(others) {
        addresses.retain(|it| !it.is_the_kernels_link_local());
    }
}

/// Stable: within a kind, what the kernel lists first is put back first.
fn order(entry: &Entry) -> (Kind, bool) {
    (entry.kind, entry.has_gateway())
}

/// They go with the link, whether a route uses them or not.
fn nexthop_objects(wire: &mut Wire, ifindex: u32) -> Result<Vec<String>, NetlinkError> {
    const RTM_GETNEXTHOP: u16 = 106;
    const NHA_ID: u16 = 1;
    const NHA_OIF: u16 = 5;
    const HEADER: usize = 8;

    let attempt = format!("list the nexthop objects of interface {ifindex}");
    let filter = written([(NHA_OIF, ifindex.to_ne_bytes().to_vec())]);
    let body = [vec![0; HEADER], filter].concat();
    let found = wire.dump(&attempt, RTM_GETNEXTHOP, &body)?;
    let number = |body: &[u8], number| {
        let value = super::netlink::attribute(body.get(HEADER..)?, number)?;
        u32_at(value, 0)
    };
    Ok(found
        .iter()
        .filter(|it| number(&it.body, NHA_OIF) == Some(ifindex))
        .filter_map(|it| number(&it.body, NHA_ID))
        .map(|id| format!("the nexthop object {id}: it cannot be given back to its groups"))
        .collect())
}

fn put_back(
    wire: &mut Wire,
    ifindex: u32,
    entries: &[Entry],
) -> Result<Vec<Missing>, NetlinkError> {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| order(entry));
    let mut refused: BTreeMap<&Entry, String> = BTreeMap::new();
    let mut missing = entries.len() + 1;
    loop {
        let found: BTreeSet<Entry> = at_risk(wire, ifindex)?.entries.into_iter().collect();
        let before = missing;
        entries.retain(|entry| !found.contains(*entry));
        missing = entries.len();
        // What is refused for want of something else is tried again once that is there.
        if missing == 0 || missing == before {
            break;
        }
        let taken: BTreeSet<(Kind, Vec<u8>)> =
            found.iter().map(|it| (it.kind, it.place())).collect();
        let mut ours = BTreeSet::new();
        for entry in &entries {
            let place = (entry.kind, entry.place());
            let again = !ours.insert(place.clone());
            if let Err(error) = put(wire, entry, again, taken.contains(&place)) {
                refused.insert(*entry, error.to_string());
            }
        }
    }
    Ok(entries
        .into_iter()
        .map(|entry| Missing {
            entry: entry.clone(),
            why: refused
                .remove(entry)
                .unwrap_or_else(|| "the kernel took it and does not show it".to_owned()),
        })
        .collect())
}

/// `again`: another of ours has just been put into the same place. `taken`: something that
/// stays stands there.
fn put(wire: &mut Wire, entry: &Entry, again: bool, taken: bool) -> Result<(), NetlinkError> {
    let attempt = format!("put back the {entry}");
    let (kind, body) = (entry.kind.message(), &entry.body);
    let flags = match entry.kind {
        Kind::Route if again => NLM_F_APPEND,
        _ => NLM_F_EXCL,
    };
    match wire.request(&attempt, kind, NLM_F_CREATE | flags, body) {
        // What was learnt meanwhile gives way.
        Err(error)
            if error.is(Errno::EXIST)
                && matches!(entry.kind, Kind::Neighbour | Kind::Forwarding)
                && !taken =>
        {
            wire.request(&attempt, kind, NLM_F_CREATE | NLM_F_REPLACE, body)
        }
        answer => answer,
    }
    .map(drop)
}
