//! The host's network interfaces, by rtnetlink: what there is, and what changes.
//!
//! Level-triggered: an event says which state an interface is in now, and whoever missed
//! some asks for all. An interface is its ifindex; names are for people, and wander.

#![expect(
    unsafe_code,
    reason = "tokio has no safe way to wait for a socket of another crate"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::AsFd,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkHeader, LinkMessage},
    tc::TcHeader,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};

use super::netlink::{
    Message, Netlink, NetlinkError, Reply, Request, Requests, attribute, attributes, messages,
    text, u32_at, u64_at,
};
use crate::engine::units::Bytes;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTCLASS: u16 = 40;
const RTM_DELTCLASS: u16 = 41;

const LINK_HEADER: usize = 16;

/// Asked for; a burst of 1000 new interfaces is about 4 MB of socket memory.
const EVENT_BUFFER: usize = 32 << 20;

/// One datagram of an event socket is one message; VFs can make it long.
const LARGEST_EVENT: usize = 256 << 10;

/// A network interface of this host, as of one message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is known by. Never reused while the namespace lives.
    pub ifindex: u32,
    /// What people call it; may change, and be given to another interface.
    pub name: String,
    /// Its own Ethernet address (of a tap: the host's side, not the guest's).
    pub mac: Option<[u8; 6]>,
    /// What it is.
    pub kind: LinkKind,
    /// Whether it is administratively up.
    pub up: bool,
    /// Largest packet it takes, without the Ethernet header.
    pub mtu: u32,
    /// The kernel's own counters.
    pub kernel: KernelCounters,
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// A tun/tap device in tap mode: a VM's interface.
    Tap,
    /// One end of a pair: a container's interface.
    Veth,
    /// An intermediate functional block: what we shape `sent` with.
    Ifb,
    /// Anything else, in the kernel's word (empty for a physical device).
    Other(String),
}

/// The interface's own statistics in the guest's directions, a GSO packet as one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// What the interface transmitted.
    pub received: Bytes,
    /// What it took in.
    pub sent: Bytes,
    /// The packets of each: received, sent.
    pub packets: [u64; 2],
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// There is such an interface: new, renamed, or changed in some other way.
    Present(Link),
    /// There is none any more; this was its last state. A tap's counters are its last; of a
    /// veth's, `sent` is 0, as it was the counter of a peer that it has lost by then.
    Gone(Link),
    /// Someone, perhaps we, changed the qdiscs or classes of an interface.
    QdiscChanged {
        /// Of which.
        ifindex: u32,
    },
    /// Events were lost: nothing but a fresh [`Links::dump`] tells what is.
    Overrun,
}

/// What is wanted of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// Administratively up.
    Up,
    /// Administratively down.
    Down,
}

/// The interfaces of the network namespace that [`Links::open`] was called in.
pub struct Links {
    netlink: Netlink,
    events: AsyncFd<Socket>,
    pending: VecDeque<LinkChange>,
}

impl Links {
    /// Subscribes to changes: what is asked for afterwards misses none. Panics outside of a
    /// tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_with_buffer(EVENT_BUFFER)
    }

    /// As [`Links::open`], with room for this many bytes of events.
    pub fn open_with_buffer(bytes: usize) -> Result<Self, NetlinkError> {
        let subscribe = || -> io::Result<AsyncFd<Socket>> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            // Forcing past net.core.rmem_max takes CAP_NET_ADMIN of the first namespace.
            use rustix::net::sockopt;
            sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), bytes)
                .or_else(|_| sockopt::set_socket_recv_buffer_size(socket.as_fd(), bytes))?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(libc::RTNLGRP_LINK)?;
            socket.add_membership(libc::RTNLGRP_TC)?;
            socket.set_non_blocking(true)?;
            // SAFETY: `Socket` owns its descriptor, closes it only when it is dropped, and has
            // no way to exchange it; the AsyncFd owns the socket.
            Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
        };
        Ok(Self {
            netlink: Netlink::open()?,
            events: subscribe()
                .map_err(|error| NetlinkError::new("subscribe to changes of interfaces", error))?,
            pending: VecDeque::new(),
        })
    }

    /// Every interface there is, by ifindex.
    pub async fn dump(&self) -> Result<Vec<Link>, NetlinkError> {
        self.netlink.run(dump).await
    }

    /// One interface, if it is there.
    pub async fn get(&self, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
        self.netlink
            .run(move |requests| get(requests, ifindex))
            .await
    }

    /// Sets an interface administratively up or down.
    pub async fn set(&self, ifindex: u32, state: AdminState) -> Result<(), NetlinkError> {
        self.netlink
            .run(move |requests| requests.apply(vec![change_state(ifindex, state, None)]))
            .await
    }

    /// The next change. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> LinkChange {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return change;
            }
            let Ok(mut ready) = self.events.readable().await else {
                // Only when the runtime shuts down.
                return std::future::pending().await;
            };
            let mut datagram = Vec::with_capacity(LARGEST_EVENT);
            match ready.try_io(|socket| socket.get_ref().recv(&mut datagram, libc::MSG_TRUNC)) {
                // Longer than the buffer: cut off, so as good as lost.
                Ok(Ok(length)) if length > datagram.len() => return LinkChange::Overrun,
                Ok(Ok(_)) => self
                    .pending
                    .extend(messages(&datagram).iter().filter_map(change)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS, or no memory: the kernel has dropped messages, and goes on doing so
                // until the socket is empty (NETLINK_S_CONGESTED).
                Ok(Err(_)) => {
                    self.discard();
                    return LinkChange::Overrun;
                }
                Err(_would_block) => {}
            }
        }
    }

    /// Throws away what is queued: it is older than the dump that follows.
    fn discard(&self) {
        let mut datagram = Vec::with_capacity(64);
        loop {
            datagram.clear();
            match self.events.get_ref().recv(&mut datagram, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }
}

/// The first change of interest that a message tells of.
fn change(message: &Message) -> Option<LinkChange> {
    match message.kind {
        RTM_NEWLINK => link(&message.payload).map(LinkChange::Present),
        RTM_DELLINK => link(&message.payload).map(LinkChange::Gone),
        RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTCLASS | RTM_DELTCLASS => {
            let header = TcHeader::parse(&message.payload).ok()?;
            let ifindex = u32::try_from(header.index).ok()?;
            Some(LinkChange::QdiscChanged { ifindex })
        }
        _ => None,
    }
}

/// Every interface there is, by ifindex.
pub(super) fn dump(requests: &mut Requests) -> Result<Vec<Link>, NetlinkError> {
    let everything = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let replies = requests.dump("list the network interfaces", &everything)?;
    // Where a dump was interrupted the attempts follow one another: the last word counts.
    let links: BTreeMap<u32, Link> = replies
        .iter()
        .filter_map(|reply| link(reply))
        .map(|link| (link.ifindex, link))
        .collect();
    Ok(links.into_values().collect())
}

/// One interface, if it is there.
pub(super) fn get(requests: &mut Requests, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    found(requests.get(
        &format!("read interface {ifindex}"),
        RouteNetlinkMessage::GetLink(message),
    ))
}

/// The interface that has this name now.
pub(super) fn named(requests: &mut Requests, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    found(requests.get(
        &format!("look for an interface named {name}"),
        RouteNetlinkMessage::GetLink(message),
    ))
}

fn found(answer: Result<Option<Reply>, NetlinkError>) -> Result<Option<Link>, NetlinkError> {
    match answer {
        Ok(reply) => Ok(reply.and_then(|reply| link(&reply))),
        Err(error) if error.is(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The request that sets an interface up or down, and perhaps its alias beside.
pub(super) fn change_state(ifindex: u32, state: AdminState, alias: Option<String>) -> Request {
    let mut message = LinkMessage::default();
    message.header = LinkHeader {
        index: ifindex,
        flags: match state {
            AdminState::Up => LinkFlags::Up,
            AdminState::Down => LinkFlags::empty(),
        },
        change_mask: LinkFlags::Up,
        ..LinkHeader::default()
    };
    message.attributes = alias.map(LinkAttribute::IfAlias).into_iter().collect();
    let word = match state {
        AdminState::Up => "up",
        AdminState::Down => "down",
    };
    Request {
        attempt: format!("set interface {ifindex} {word}"),
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
    }
}

/// The link that a message is about. `None` for what is not about one: a bridge tells of its
/// ports in the same words (AF_BRIDGE, where RTM_DELLINK means that a port has left the
/// bridge), and a radio of its scans (without statistics).
fn link(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mac, mut mtu, mut kernel) = (None, None, 0, None);
    let mut kind = LinkKind::Other(String::new());
    for (number, value) in attributes(payload.get(LINK_HEADER..)?) {
        match number {
            libc::IFLA_IFNAME => name = Some(text(value)),
            libc::IFLA_ADDRESS => mac = value.try_into().ok(),
            libc::IFLA_MTU => mtu = u32_at(value, 0)?,
            libc::IFLA_STATS64 => kernel = counters(value),
            libc::IFLA_LINKINFO => kind = link_kind(value),
            _ => {}
        }
    }
    Some(Link {
        ifindex: header.index,
        name: name?,
        mac,
        kind,
        up: header.flags.contains(LinkFlags::Up),
        mtu,
        kernel: kernel?,
    })
}

/// From a `struct rtnl_link_stats64`.
fn counters(value: &[u8]) -> Option<KernelCounters> {
    let [rx_packets, tx_packets, rx_bytes, tx_bytes] =
        [0, 8, 16, 24].map(|offset| u64_at(value, offset));
    Some(KernelCounters {
        received: Bytes(tx_bytes?),
        sent: Bytes(rx_bytes?),
        packets: [tx_packets?, rx_packets?],
    })
}

fn link_kind(info: &[u8]) -> LinkKind {
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_TUN_TYPE: u16 = 3;
    const IFF_TAP: u8 = 2;

    let word = attribute(info, IFLA_INFO_KIND)
        .map(text)
        .unwrap_or_default();
    let tap = || {
        attribute(attribute(info, IFLA_INFO_DATA)?, IFLA_TUN_TYPE)
            .map(|mode| mode.first() == Some(&IFF_TAP))
    };
    match word.as_str() {
        "tun" if tap() == Some(true) => LinkKind::Tap,
        "veth" => LinkKind::Veth,
        "ifb" => LinkKind::Ifb,
        _ => LinkKind::Other(word),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable};

    use super::*;

    fn attributes_of(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let attributes: Vec<DefaultNla> = attributes
            .iter()
            .map(|(number, value)| DefaultNla::new(*number, value.to_vec()))
            .collect();
        let mut bytes = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut bytes);
        bytes
    }

    #[test]
    fn only_a_tun_device_in_tap_mode_is_a_tap() {
        let other = |word: &str| LinkKind::Other(word.to_owned());
        for (word, mode, kind) in [
            ("tun", Some(2), LinkKind::Tap),
            ("tun", Some(1), other("tun")),
            ("tun", None, other("tun")),
            ("veth", None, LinkKind::Veth),
            ("ifb", None, LinkKind::Ifb),
            ("macvtap", None, other("macvtap")),
        ] {
            let data = mode.map(|mode| attributes_of(&[(3, &[mode])]));
            let mut info = vec![(1, word.as_bytes())];
            info.extend(data.iter().map(|data| (2, data.as_slice())));
            assert_eq!(link_kind(&attributes_of(&info)), kind, "{word} {mode:?}");
        }
    }

    #[test]
    fn an_attribute_that_is_malformed_hides_neither_the_link_nor_what_stands_before_it() {
        let statistics: Vec<u8> = (1..=4_u64).flat_map(u64::to_ne_bytes).collect();
        let mut message = vec![0; LINK_HEADER];
        message[4] = 7;
        message.extend(attributes_of(&[
            (libc::IFLA_IFNAME, b"tap0\0"),
            (libc::IFLA_STATS64, &statistics),
            (libc::IFLA_ADDRESS, &[1, 2, 3]),
        ]));
        message.extend([255, 255, 1, 0]);
        let link = link(&message).unwrap();
        assert_eq!(
            (link.ifindex, link.name.as_str(), link.mac),
            (7, "tap0", None)
        );
        assert_eq!(link.kernel.received, Bytes(4));
        assert_eq!(link.kernel.sent, Bytes(3));
        assert_eq!(link.kernel.packets, [2, 1]);
    }
}
