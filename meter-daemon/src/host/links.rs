//! The host's network interfaces, by rtnetlink: what there is, and what changes.
//!
//! Level-triggered: an event says which state an interface is in now, and whoever missed
//! some asks for all. An interface is its ifindex; names are for people, and wander.

use std::collections::BTreeMap;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    tc::TcMessage,
};
use rtnetlink::LinkUnspec;

use super::netlink::{
    self, Events, Netlink, NetlinkError, Requests, attribute, attributes, text, u32_at, u64_at,
    values,
};
use crate::engine::units::Bytes;

/// Asked for; a burst of 1000 new interfaces is about 4 MB of socket memory.
const EVENT_BUFFER: usize = 32 << 20;

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
    /// Of a VLAN device: the interface that it is on.
    pub vlan_of: Option<u32>,
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
    /// Someone, perhaps we, changed the filters of an interface.
    FiltersChanged {
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
    events: Events,
}

impl Links {
    /// Subscribes to changes: what is asked for afterwards misses none. Panics outside of a
    /// tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_with_buffer(EVENT_BUFFER)
    }

    /// As [`Links::open`], with room for this many bytes of events.
    pub fn open_with_buffer(bytes: usize) -> Result<Self, NetlinkError> {
        Ok(Self {
            netlink: Netlink::open()?,
            events: netlink::events(bytes)
                .map_err(|error| NetlinkError::new("subscribe to changes of interfaces", error))?,
        })
    }

    /// Every interface there is, by ifindex.
    pub async fn dump(&self) -> Result<Vec<Link>, NetlinkError> {
        self.netlink.run(dump).await
    }

    /// The counters of every interface there is, by ifindex: a tenth of what a list of them with
    /// all that they are takes of the kernel's time.
    pub async fn counters(&self) -> Result<BTreeMap<u32, KernelCounters>, NetlinkError> {
        self.netlink.run(counters_of_all).await
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
            .run(move |requests| set(requests, ifindex, state, None))
            .await
    }

    /// The next change. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> LinkChange {
        loop {
            match self.events.next().await {
                Some(NetlinkPayload::InnerMessage(message)) => {
                    if let Some(change) = change(&message) {
                        return change;
                    }
                }
                Some(NetlinkPayload::Overrun(_)) => {
                    self.discard();
                    return LinkChange::Overrun;
                }
                Some(_) => {}
                // Only when the runtime shuts down.
                None => return std::future::pending().await,
            }
        }
    }

    /// Throws away what is queued: it is older than the dump that follows. The kernel, too,
    /// drops messages until the socket is empty (NETLINK_S_CONGESTED).
    fn discard(&mut self) {
        while let Some(Some(_)) = self.events.next().now_or_never() {}
    }
}

/// The change of interest that a message tells of.
fn change(message: &RouteNetlinkMessage) -> Option<LinkChange> {
    let at = |message: &TcMessage| u32::try_from(message.header.index).ok();
    match message {
        RouteNetlinkMessage::NewLink(message) => link(message).map(LinkChange::Present),
        RouteNetlinkMessage::DelLink(message) => link(message).map(LinkChange::Gone),
        RouteNetlinkMessage::NewQueueDiscipline(message)
        | RouteNetlinkMessage::DelQueueDiscipline(message)
        | RouteNetlinkMessage::NewTrafficClass(message)
        | RouteNetlinkMessage::DelTrafficClass(message) => {
            at(message).map(|ifindex| LinkChange::QdiscChanged { ifindex })
        }
        RouteNetlinkMessage::NewTrafficFilter(message)
        | RouteNetlinkMessage::DelTrafficFilter(message) => {
            at(message).map(|ifindex| LinkChange::FiltersChanged { ifindex })
        }
        _ => None,
    }
}

/// Every interface there is, by ifindex.
pub(super) fn dump(requests: &mut Requests) -> Result<Vec<Link>, NetlinkError> {
    const IFLA_EXT_MASK: u16 = 29;
    // IPv6's statistics, which the kernel would add up over all CPUs; the link's own come all
    // the same.
    const RTEXT_FILTER_SKIP_STATS: u32 = 8;

    let mask = RTEXT_FILTER_SKIP_STATS.to_ne_bytes().to_vec();
    let everything = [vec![0; HEADER], netlink::written([(IFLA_EXT_MASK, mask)])].concat();
    // Where a dump was interrupted the attempts follow one another: the last word counts.
    let mut links: BTreeMap<u32, Link> = BTreeMap::new();
    let attempt = "list the network interfaces";
    requests
        .wire()
        .each(attempt, libc::RTM_GETLINK, &everything, |message| {
            if message.kind == libc::RTM_NEWLINK
                && let Some(link) = written(&message.body)
            {
                links.insert(link.ifindex, link);
            }
        })?;
    Ok(links.into_values().collect())
}

/// The counters of every interface there is.
fn counters_of_all(requests: &mut Requests) -> Result<BTreeMap<u32, KernelCounters>, NetlinkError> {
    // linux/rtnetlink.h and if_link.h, which libc has not.
    const RTM_NEWSTATS: u16 = 92;
    const RTM_GETSTATS: u16 = 94;
    const IFLA_STATS_LINK_64: u16 = 1;
    // `struct if_stats_msg`: a family, an ifindex at 4, a mask of attributes at 8.
    const HEADER: usize = 12;

    let mut question = vec![0; HEADER];
    question[8] = 1 << (IFLA_STATS_LINK_64 - 1);
    let mut found = BTreeMap::new();
    let attempt = "read the counters of the network interfaces";
    requests
        .wire()
        .each(attempt, RTM_GETSTATS, &question, |message| {
            let statistics = message.body.get(HEADER..).unwrap_or_default();
            if message.kind == RTM_NEWSTATS
                && let Some(ifindex) = u32_at(&message.body, 4)
                && let Some(counters) = attribute(statistics, IFLA_STATS_LINK_64).and_then(counters)
            {
                found.insert(ifindex, counters);
            }
        })?;
    Ok(found)
}

/// One interface, if it is there.
pub(super) fn get(requests: &mut Requests, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
    let mut answer = requests.links().get().match_index(ifindex).execute();
    let attempt = format!("read interface {ifindex}");
    found(requests.wait(&attempt, answer.try_next()))
}

/// The interface that has this name now.
pub(super) fn named(requests: &mut Requests, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut answer = requests.links().get().match_name(name).execute();
    let attempt = format!("look for an interface named {name}");
    found(requests.wait(&attempt, answer.try_next()))
}

fn found(answer: Result<Option<LinkMessage>, NetlinkError>) -> Result<Option<Link>, NetlinkError> {
    match answer {
        Ok(message) => Ok(message.and_then(|message| link(&message))),
        Err(error) if error.is(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets an interface up or down, and perhaps its alias beside.
pub(super) fn set(
    requests: &mut Requests,
    ifindex: u32,
    state: AdminState,
    alias: Option<String>,
) -> Result<(), NetlinkError> {
    let link = LinkUnspec::new_with_index(ifindex);
    let (mut link, word) = match state {
        AdminState::Up => (link.up(), "up"),
        AdminState::Down => (link.down(), "down"),
    };
    if let Some(alias) = alias {
        link = link.append_extra_attribute(LinkAttribute::IfAlias(alias));
    }
    let answer = requests.links().set(link.build()).execute();
    requests.wait(&format!("set interface {ifindex} {word}"), answer)
}

/// `struct ifinfomsg`.
const HEADER: usize = 16;

/// The link that a message is about. `None` for what is not about one: a bridge tells of its
/// ports in the same words (AF_BRIDGE, where RTM_DELLINK means that a port has left the
/// bridge), and a radio of its scans (without statistics).
fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let up = header.flags.contains(LinkFlags::Up);
    said(header.index, up, values(&message.attributes))
}

/// The same of a message as the kernel writes it.
fn written(body: &[u8]) -> Option<Link> {
    const IFF_UP: u32 = 1;
    if *body.first()? != 0 {
        return None;
    }
    let up = u32_at(body, 8)? & IFF_UP != 0;
    said(u32_at(body, 4)?, up, attributes(body.get(HEADER..)?))
}

fn said<V: AsRef<[u8]>>(
    ifindex: u32,
    up: bool,
    attributes: impl Iterator<Item = (u16, V)>,
) -> Option<Link> {
    let (mut name, mut mac, mut mtu, mut kernel, mut below) = (None, None, 0, None, None);
    let mut kind = LinkKind::Other(String::new());
    for (number, value) in attributes {
        let value = value.as_ref();
        match number {
            libc::IFLA_IFNAME => name = Some(text(value)),
            libc::IFLA_ADDRESS => mac = value.try_into().ok(),
            libc::IFLA_MTU => mtu = u32_at(value, 0)?,
            libc::IFLA_LINK => below = u32_at(value, 0),
            libc::IFLA_STATS64 => kernel = counters(value),
            libc::IFLA_LINKINFO => kind = link_kind(value),
            _ => {}
        }
    }
    Some(Link {
        ifindex,
        name: name?,
        mac,
        // Of others it is a lower device, or a peer.
        vlan_of: below.filter(|_| kind == LinkKind::Other("vlan".to_owned())),
        kind,
        up,
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
    use netlink_packet_core::NetlinkMessage;

    use super::*;
    use crate::host::verbatim;

    fn attributes_of(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let owned = |(number, value): &(u16, &[u8])| (*number, value.to_vec());
        netlink::written(attributes.iter().map(owned))
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
        let mut message = vec![0; 32];
        message[4] = 16;
        message[20] = 7;
        message.extend(attributes_of(&[
            (libc::IFLA_IFNAME, b"tap0\0"),
            (libc::IFLA_STATS64, &statistics),
            (libc::IFLA_ADDRESS, &[1, 2, 3]),
        ]));
        message.extend([255, 255, 1, 0]);
        message[0] = message.len().try_into().unwrap();
        let message = verbatim::disguised(&message).unwrap();
        let message = NetlinkMessage::deserialize(&message).unwrap();
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) = message.payload
        else {
            panic!("{message:?}");
        };
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
