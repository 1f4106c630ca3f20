//! What routed set-ups put on an interface, and all of it read back: routes, addresses,
//! neighbours, forwarding entries. Everything happens in the namespace of the calling thread.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use crate::{
    Result,
    links::{self, Mac},
    netlink::{Attributes, CREATE, Message, Netlink},
};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;
const NTF_SELF: u8 = 2;
const NTF_PROXY: u8 = 8;
/// NUD_PERMANENT and NUD_NOARP.
const STATIC: u16 = 0xc0;

/// One way of a route.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Out of this interface.
    pub interface: &'a str,
    /// By this router.
    pub via: Option<IpAddr>,
    /// As often as this, plus one.
    pub weight: u8,
}

/// A route that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// To this prefix.
    pub to: (IpAddr, u8),
    /// One way or several.
    pub ways: &'a [Way<'a>],
    /// 254 is `main`.
    pub table: u32,
    /// 0 is the kernel's choice.
    pub metric: u32,
    /// 3 is `boot`, 4 `static`.
    pub protocol: u8,
    /// 0 for the interface's.
    pub mtu: u32,
    /// What the node's own packets come from.
    pub source: Option<IpAddr>,
    /// In seconds (IPv6); 0 for ever.
    pub expires: u32,
}

impl<'a> Route<'a> {
    /// To one address, straight out of an interface.
    #[must_use]
    pub fn host(to: IpAddr, ways: &'a [Way<'a>]) -> Self {
        Self {
            to: (to, if to.is_ipv4() { 32 } else { 128 }),
            ways,
            table: 254,
            metric: 0,
            protocol: 3,
            mtu: 0,
            source: None,
            expires: 0,
        }
    }

    /// Makes it.
    pub fn add(&self) -> Result<()> {
        let message = self.message(RTM_NEWROUTE, CREATE)?;
        Netlink::open()?.request(message, &format!("add {self:?}"))
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        let message = self.message(RTM_DELROUTE, 0)?;
        Netlink::open()?.request(message, &format!("remove {self:?}"))
    }

    fn message(&self, kind: u16, flags: u16) -> Result<Message> {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RTA_PRIORITY: u16 = 6;
        const RTA_PREFSRC: u16 = 7;
        const RTA_METRICS: u16 = 8;
        const RTA_MULTIPATH: u16 = 9;
        const RTA_TABLE: u16 = 15;
        const RTA_EXPIRES: u16 = 23;
        const RTAX_MTU: u16 = 2;
        const SCOPE_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let (to, prefix) = self.to;
        let (family, bytes) = octets(to);
        let direct = self.ways.iter().all(|way| way.via.is_none()) && family == AF_INET;
        let scope = if direct { SCOPE_LINK } else { 0 };
        let header = [
            family,
            prefix,
            0,
            0,
            0,
            self.protocol,
            scope,
            UNICAST,
            0,
            0,
            0,
            0,
        ];
        let mut message = Message::new(kind, flags)
            .bytes(&header)
            .attribute(RTA_DST, &bytes)
            .number(RTA_TABLE, self.table);
        if self.metric != 0 {
            message = message.number(RTA_PRIORITY, self.metric);
        }
        if self.mtu != 0 {
            message = message.nest(RTA_METRICS, |metrics| metrics.number(RTAX_MTU, self.mtu));
        }
        if let Some(source) = self.source {
            message = message.attribute(RTA_PREFSRC, &octets(source).1);
        }
        if self.expires != 0 {
            message = message.number(RTA_EXPIRES, self.expires);
        }
        if let [way] = self.ways {
            message = message.number(RTA_OIF, links::get(way.interface)?.index);
            return Ok(match way.via {
                Some(via) => message.attribute(RTA_GATEWAY, &octets(via).1),
                None => message,
            });
        }
        let mut hops = Vec::new();
        for way in self.ways {
            let via = way.via.map(|via| octets(via).1).unwrap_or_default();
            let attribute = if via.is_empty() { 0 } else { 4 + via.len() };
            let length = u16::try_from(8 + attribute).unwrap_or(u16::MAX);
            hops.extend(length.to_ne_bytes());
            hops.extend([0, way.weight]);
            hops.extend(links::get(way.interface)?.index.to_ne_bytes());
            if attribute > 0 {
                let length = u16::try_from(attribute).unwrap_or(u16::MAX);
                hops.extend(length.to_ne_bytes());
                hops.extend(RTA_GATEWAY.to_ne_bytes());
                hops.extend(via);
            }
        }
        Ok(message.attribute(RTA_MULTIPATH, &hops))
    }
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    }
}

/// How an address is entered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// IFA_F_*: 2 is nodad, 0x10 home, 0x200 noprefixroute.
    pub flags: u32,
    /// Seconds; `None` for ever.
    pub valid: Option<u32>,
    /// Seconds; `None` for ever.
    pub preferred: Option<u32>,
    /// Of the route that follows from it; 0 is the kernel's choice.
    pub metric: u32,
}

/// An IPv6 address, as somebody enters it.
pub fn address(name: &str, address: IpAddr, prefix: u8, terms: Terms) -> Result<()> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_CACHEINFO: u16 = 6;
    const IFA_FLAGS: u16 = 8;
    const IFA_RT_PRIORITY: u16 = 9;
    let (family, bytes) = octets(address);
    let index = links::get(name)?.index.to_ne_bytes();
    let times = [
        terms.preferred.unwrap_or(u32::MAX),
        terms.valid.unwrap_or(u32::MAX),
        0,
        0,
    ];
    let times: Vec<u8> = times.iter().flat_map(|time| time.to_ne_bytes()).collect();
    let mut message = Message::new(RTM_NEWADDR, CREATE)
        .bytes(&[&[family, prefix, 0, 0], &index[..]].concat())
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes)
        .number(IFA_FLAGS, terms.flags)
        .attribute(IFA_CACHEINFO, &times);
    if terms.metric != 0 {
        message = message.number(IFA_RT_PRIORITY, terms.metric);
    }
    Netlink::open()?.request(message, &format!("give {name} the address {address}"))
}

/// Answers on an interface for somebody who is elsewhere.
pub fn proxy(name: &str, address: IpAddr) -> Result<()> {
    const NDA_DST: u16 = 1;
    let (family, bytes) = octets(address);
    let message = Message::new(RTM_NEWNEIGH, CREATE)
        .bytes(&neighbour(family, links::get(name)?.index, 0, NTF_PROXY))
        .attribute(NDA_DST, &bytes);
    Netlink::open()?.request(message, &format!("answer for {address} on {name}"))
}

/// A further address that an interface itself takes in.
pub fn take_in(name: &str, mac: Mac) -> Result<()> {
    const NDA_LLADDR: u16 = 2;
    let index = links::get(name)?.index;
    let message = Message::new(RTM_NEWNEIGH, CREATE)
        .bytes(&neighbour(AF_BRIDGE, index, STATIC, NTF_SELF))
        .attribute(NDA_LLADDR, &mac.0);
    Netlink::open()?.request(message, &format!("let {name} take in {mac}"))
}

fn neighbour(family: u8, index: u32, state: u16, flags: u8) -> Vec<u8> {
    let (index, state) = (index.to_ne_bytes(), state.to_ne_bytes());
    [&[family, 0, 0, 0][..], &index, &state, &[flags, 0]].concat()
}

/// A nexthop object, which routes can share.
pub fn nexthop(id: u32, name: &str, via: IpAddr) -> Result<()> {
    const NHA_ID: u16 = 1;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;
    let (family, bytes) = octets(via);
    let message = Message::new(RTM_NEWNEXTHOP, CREATE)
        .bytes(&[family, 0, 4, 0, 0, 0, 0, 0])
        .number(NHA_ID, id)
        .number(NHA_OIF, links::get(name)?.index)
        .attribute(NHA_GATEWAY, &bytes);
    Netlink::open()?.request(message, &format!("make the nexthop object {id}"))
}

/// Removes it.
pub fn remove_nexthop(id: u32) -> Result<()> {
    let message = Message::new(RTM_DELNEXTHOP, 0).bytes(&[0; 8]).number(1, id);
    Netlink::open()?.request(message, &format!("remove the nexthop object {id}"))
}

/// All that an interface has of these, as the kernel tells it, without what time changes:
/// one line each, by table, in the kernel's order where that means something.
pub type Picture = BTreeMap<&'static str, Vec<String>>;

/// Takes it.
pub fn picture(name: &str) -> Result<Picture> {
    /// Follows the interface's name.
    const IFA_LABEL: u16 = 3;
    const IFA_CACHEINFO: u16 = 6;
    const NDA_CACHEINFO: u16 = 3;
    const NDA_PROBES: u16 = 4;
    const RTA_CACHEINFO: u16 = 12;
    let index = links::get(name)?.index;
    let netlink = Netlink::open()?;
    let list = |kind: u16, header: Vec<u8>| {
        let message = Message::new(kind, 0).bytes(&header);
        let all = netlink.dump(message, "list what interfaces have")?;
        Ok::<_, crate::Failure>(all.into_iter().map(|(_, body)| body).collect::<Vec<_>>())
    };
    let mut picture = Picture::new();
    for (table, family) in [("routes 4", AF_INET), ("routes 6", AF_INET6)] {
        let mut header = vec![0; 12];
        header[0] = family;
        let routes = list(RTM_GETROUTE, header)?;
        let ours = routes.iter().filter(|body| through(body, index));
        picture.insert(
            table,
            ours.map(|body| line(body, 12, &[RTA_CACHEINFO])).collect(),
        );
    }
    for (table, family) in [("addresses 4", AF_INET), ("addresses 6", AF_INET6)] {
        let mut header = vec![0; 8];
        header[0] = family;
        let addresses = list(RTM_GETADDR, header)?;
        let ours = addresses.iter().filter(|body| number(body, 4) == index);
        let lines = ours.map(|body| {
            let times = Attributes(&body[8..]).get(IFA_CACHEINFO).unwrap_or(&[0; 8]);
            format!(
                "{} {:?}",
                line(body, 8, &[IFA_LABEL, IFA_CACHEINFO]),
                &times[..8]
            )
        });
        picture.insert(table, lines.collect());
    }
    for (table, family, flags) in [
        ("neighbours 4", AF_INET, 0),
        ("neighbours 6", AF_INET6, 0),
        ("proxies 4", AF_INET, NTF_PROXY),
        ("proxies 6", AF_INET6, NTF_PROXY),
        ("forwarding", AF_BRIDGE, 0),
    ] {
        let all = list(RTM_GETNEIGH, neighbour(family, 0, 0, flags))?;
        let entered = |body: &&Vec<u8>| {
            let state = u16::from_ne_bytes([body[8], body[9]]);
            let group = Attributes(&body[12..])
                .get(2)
                .is_some_and(|mac| mac[0] & 1 == 1);
            number(body, 4) == index && (flags != 0 || state & STATIC != 0 && !group)
        };
        let ours = all.iter().filter(entered);
        let mut lines: Vec<String> = ours
            .map(|body| line(body, 12, &[NDA_CACHEINFO, NDA_PROBES]))
            .collect();
        lines.sort();
        picture.insert(table, lines);
    }
    Ok(picture)
}

fn number(body: &[u8], at: usize) -> u32 {
    let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn through(route: &[u8], index: u32) -> bool {
    const RTA_OIF: u16 = 4;
    const RTA_MULTIPATH: u16 = 9;
    const CACHED: u32 = 0x200;
    let attributes = Attributes(&route[12..]);
    let mut hops = attributes.get(RTA_MULTIPATH).unwrap_or_default();
    let mut one = false;
    while hops.len() >= 8 {
        one |= number(hops, 4) == index;
        let length = usize::from(u16::from_ne_bytes([hops[0], hops[1]]));
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (attributes.number(RTA_OIF) == Some(index) || one) && number(route, 8) & CACHED == 0
}

fn line(body: &[u8], header: usize, passing: &[u16]) -> String {
    let mut line = format!("{:02x?}", &body[..header]);
    for (kind, value) in Attributes(&body[header..]) {
        if !passing.contains(&kind) {
            let _ = write!(line, " {kind}={value:02x?}");
        }
    }
    line
}
