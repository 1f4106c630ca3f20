//! Links and what hangs on them: veth pairs, bridges, addresses, neighbours, offloads.
//! Everything happens in the namespace of the calling thread.

use std::{fmt, net::IpAddr, time::Duration};

use rustix::net::{AddressFamily, SocketType};

use crate::{
    Context, Failure, Result,
    netlink::{Attributes, CREATE, Message, Netlink, REPLACE},
    sandbox::Namespace,
    sys,
    wait::{self, Seen},
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
const BR_STATE_FORWARDING: u8 = 3;
const IF_OPER_UP: u8 = 6;

const IFF_UP: u32 = 1;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// To everyone, or to a group.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A link as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its address.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// `veth`, `ifb`, `bridge`, `tun`, …; empty for a device without a kind.
    pub kind: String,
    /// It has a carrier and a queue, and its bridge (if any) forwards to it. The kernel gets
    /// there some time after both ends are up; what is sent before is dropped.
    pub operates: bool,
    /// The kernel's own counters.
    pub stats: Stats,
}

/// `rtnl_link_stats64`, as far as it is of use; directions are the interface's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes it took in, by `skb->len`.
    pub taken_in: u64,
    /// Bytes it gave out.
    pub given_out: u64,
    /// Packets it took in, an unsegmented one as one.
    pub packets_in: u64,
    /// Packets it gave out.
    pub packets_out: u64,
    /// Packets dropped on the way in and out.
    pub dropped: u64,
}

fn ifinfo(index: u32, flags: u32, mask: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}

fn new_link(kind: &str, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
    new_numbered_link(0, kind, name, data)
}

/// With 0 the kernel chooses the number.
fn new_numbered_link(
    index: u32,
    kind: &str,
    name: &str,
    data: impl FnOnce(Message) -> Message,
) -> Message {
    Message::new(RTM_NEWLINK, CREATE)
        .bytes(&ifinfo(index, 0, 0))
        .string(IFLA_IFNAME, name)
        .nest(IFLA_LINKINFO, |info| {
            data(info.string(IFLA_INFO_KIND, kind))
        })
}

/// One end of a pair that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address; the kernel's choice without.
    pub mac: Option<Mac>,
}

/// A veth pair: `here`, and `there` in another namespace.
pub fn veth(here: End<'_>, there: End<'_>, namespace: &Namespace) -> Result<()> {
    veth_numbered(0, here, there, namespace)
}

/// As [`veth`], with the number of our choice for `here`.
pub fn veth_numbered(
    index: u32,
    here: End<'_>,
    there: End<'_>,
    namespace: &Namespace,
) -> Result<()> {
    const VETH_INFO_PEER: u16 = 1;
    let address = |message: Message, mac: Option<Mac>| match mac {
        Some(mac) => message.attribute(IFLA_ADDRESS, &mac.0),
        None => message,
    };
    let message = new_numbered_link(index, "veth", here.name, |info| {
        info.nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                let peer = peer
                    .bytes(&ifinfo(0, 0, 0))
                    .string(IFLA_IFNAME, there.name)
                    .attribute(IFLA_NET_NS_FD, &namespace.number().to_ne_bytes());
                address(peer, there.mac)
            })
        })
    });
    Netlink::open()?.request(
        address(message, here.mac),
        &format!("make the veth pair {} and {}", here.name, there.name),
    )
}

/// An IFB, down: what is sent out of it comes in where it was redirected from.
pub fn ifb(name: &str) -> Result<()> {
    let message = new_link("ifb", name, |info| info);
    Netlink::open()?.request(message, &format!("make the IFB {name}"))
}

/// A bridge, up, that learns at once and speaks of nothing.
pub fn bridge(name: &str) -> Result<()> {
    const IFLA_BR_FORWARD_DELAY: u16 = 1;
    const IFLA_BR_MCAST_SNOOPING: u16 = 23;
    let message = new_link("bridge", name, |info| {
        info.nest(IFLA_INFO_DATA, |data| {
            data.number(IFLA_BR_FORWARD_DELAY, 0)
                .attribute(IFLA_BR_MCAST_SNOOPING, &[0])
        })
    });
    Netlink::open()?.request(message, &format!("make the bridge {name}"))?;
    silence(name)?;
    up(name)
}

/// No IPv6 chatter from this link: tests count every byte.
pub fn silence(name: &str) -> Result<()> {
    sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1")
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).could_not(|| format!("write {value} to {path}"))
}

/// Every link here.
pub fn list() -> Result<Vec<Link>> {
    let message = Message::new(RTM_GETLINK, 0).bytes(&ifinfo(0, 0, 0));
    let all = Netlink::open()?.dump(message, "list the links")?;
    Ok(all.iter().filter_map(|(_, body)| read(body)).collect())
}

fn read(body: &[u8]) -> Option<Link> {
    let number = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let attributes = Attributes(body.get(16..)?);
    let info = attributes.get(IFLA_LINKINFO).map(Attributes);
    let stats = attributes.get(IFLA_STATS64).unwrap_or_default();
    let counter = |n: usize| {
        let bytes = stats.get(n * 8..n * 8 + 8).unwrap_or(&[0; 8]);
        bytes.try_into().map_or(0, u64::from_ne_bytes)
    };
    Some(Link {
        name: attributes.string(IFLA_IFNAME)?,
        index: number(4)?,
        mac: attributes
            .get(IFLA_ADDRESS)
            .and_then(|m| m.try_into().ok())
            .map(Mac),
        up: number(8)? & IFF_UP != 0,
        kind: info
            .and_then(|info| info.string(IFLA_INFO_KIND))
            .unwrap_or_default(),
        operates: attributes.get(IFLA_OPERSTATE) == Some(&[IF_OPER_UP])
            && info
                .and_then(|info| info.get(IFLA_INFO_SLAVE_DATA))
                .and_then(|port| Attributes(port).get(IFLA_BRPORT_STATE))
                .is_none_or(|state| state == [BR_STATE_FORWARDING]),
        stats: Stats {
            taken_in: counter(2),
            given_out: counter(3),
            packets_in: counter(0),
            packets_out: counter(1),
            dropped: counter(6) + counter(7),
        },
    })
}

/// The link of this name, if it is here.
pub fn find(name: &str) -> Result<Option<Link>> {
    Ok(list()?.into_iter().find(|link| link.name == name))
}

/// The link of this name.
pub fn get(name: &str) -> Result<Link> {
    find(name)?.ok_or_else(|| Failure::new(format!("there is no interface {name} here")))
}

/// Its number, asked for by name: a list of all for each of thousands would take minutes.
fn index(name: &str) -> Result<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .could_not(|| "open a socket")?;
    rustix::net::netdevice::name_to_index(socket, name)
        .could_not(|| format!("find an interface {name} here"))
}

fn set(name: &str, what: &str, fill: impl FnOnce(Message) -> Message) -> Result<()> {
    let index = index(name)?;
    let message = fill(Message::new(RTM_NEWLINK, 0).bytes(&ifinfo(index, 0, 0)));
    Netlink::open()?.request(message, what)
}

fn set_up(name: &str, flags: u32) -> Result<()> {
    let index = index(name)?;
    let message = Message::new(RTM_NEWLINK, 0).bytes(&ifinfo(index, flags, IFF_UP));
    Netlink::open()?.request(
        message,
        &format!("set {name} {}", ["down", "up"][flags as usize]),
    )
}

/// Up.
pub fn up(name: &str) -> Result<()> {
    set_up(name, IFF_UP)
}

/// Down.
pub fn down(name: &str) -> Result<()> {
    set_up(name, 0)
}

/// What a link went through for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed {
    /// Nothing.
    AsItWas,
    /// It was taken down, which destroys routes, and set up again.
    Anew,
}

/// Another name: while it is up, since kernel 6.2, and taken down for it before.
pub fn rename(name: &str, new: &str) -> Result<Renamed> {
    let what = format!("rename {name} to {new}");
    if set(name, &what, |message| message.string(IFLA_IFNAME, new)).is_ok() {
        return Ok(Renamed::AsItWas);
    }
    down(name)?;
    set(name, &what, |message| message.string(IFLA_IFNAME, new))?;
    up(new)?;
    Ok(Renamed::Anew)
}

/// Away with it (and with a veth's peer).
pub fn delete(name: &str) -> Result<()> {
    let message = Message::new(RTM_DELLINK, 0).bytes(&ifinfo(index(name)?, 0, 0));
    Netlink::open()?.request(message, &format!("delete {name}"))
}

/// Into a bridge.
pub fn join(name: &str, bridge: &str) -> Result<()> {
    let master = index(bridge)?;
    set(name, &format!("put {name} into {bridge}"), |message| {
        message.number(IFLA_MASTER, master)
    })
}

/// Waits until what is sent through it is not dropped any more.
pub fn until_operating(name: &str) -> Result<()> {
    let what = format!("{name} to operate");
    wait::until(
        &what,
        Duration::from_millis(1),
        Duration::from_secs(5),
        || {
            let link = get(name)?;
            Ok(if link.operates {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{link:?}"))
            })
        },
    )?;
    Ok(())
}

/// Into another namespace; it arrives there down.
pub fn move_to(name: &str, namespace: &Namespace) -> Result<()> {
    set(name, &format!("move {name}"), |message| {
        message.attribute(IFLA_NET_NS_FD, &namespace.number().to_ne_bytes())
    })
}

/// Another address.
pub fn set_mac(name: &str, mac: Mac) -> Result<()> {
    set(name, &format!("give {name} the address {mac}"), |message| {
        message.attribute(IFLA_ADDRESS, &mac.0)
    })
}

/// Another MTU.
pub fn set_mtu(name: &str, mtu: u32) -> Result<()> {
    set(
        name,
        &format!("set the MTU of {name} to {mtu}"),
        |message| message.number(IFLA_MTU, mtu),
    )
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    let family = |family: AddressFamily| u8::try_from(family.as_raw()).unwrap_or_default();
    match address {
        IpAddr::V4(v4) => (family(AddressFamily::INET), v4.octets().to_vec()),
        IpAddr::V6(v6) => (family(AddressFamily::INET6), v6.octets().to_vec()),
    }
}

/// An address, usable at once (IPv6: without duplicate address detection).
pub fn address(name: &str, address: IpAddr, prefix: u8) -> Result<()> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_F_NODAD: u8 = 2;
    let (family, bytes) = octets(address);
    let index = get(name)?.index.to_ne_bytes();
    let header = [&[family, prefix, IFA_F_NODAD, 0], &index[..]].concat();
    let message = Message::new(RTM_NEWADDR, REPLACE)
        .bytes(&header)
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    Netlink::open()?.request(message, &format!("give {name} the address {address}"))
}

/// Everything else goes this way.
pub fn default_route(via: IpAddr) -> Result<()> {
    const RTA_GATEWAY: u16 = 5;
    let (family, bytes) = octets(via);
    // main table, protocol static, universe scope, unicast
    let header = [family, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    let message = Message::new(RTM_NEWROUTE, REPLACE)
        .bytes(&header)
        .attribute(RTA_GATEWAY, &bytes);
    Netlink::open()?.request(message, &format!("route by {via}"))
}

const PERMANENT: u16 = 0x80;

/// Who has that address, so that nobody need ask.
pub fn neighbour(name: &str, address: IpAddr, mac: Mac) -> Result<()> {
    let (family, bytes) = octets(address);
    let index = index(name)?;
    new_neighbour(
        family,
        index,
        0,
        Some(&bytes),
        mac,
        &format!("tell {name} of {address}"),
    )
}

/// Behind which port of its bridge that address is, so that nothing is flooded.
pub fn forward(port: &str, mac: Mac) -> Result<()> {
    const NTF_MASTER: u8 = 4;
    let bridge = u8::try_from(libc::AF_BRIDGE).unwrap_or_default();
    let what = format!("tell the bridge that {mac} is behind {port}");
    new_neighbour(bridge, get(port)?.index, NTF_MASTER, None, mac, &what)
}

fn new_neighbour(
    family: u8,
    index: u32,
    flags: u8,
    address: Option<&[u8]>,
    mac: Mac,
    what: &str,
) -> Result<()> {
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const NUD_NOARP: u16 = 0x40;
    // A bridge takes NOARP for a static entry; PERMANENT would make the address its own.
    let state = if address.is_some() {
        PERMANENT
    } else {
        NUD_NOARP
    };
    let header = [
        &[family, 0, 0, 0][..],
        &index.to_ne_bytes(),
        &state.to_ne_bytes(),
        &[flags, 0],
    ]
    .concat();
    let message = Message::new(RTM_NEWNEIGH, REPLACE).bytes(&header);
    let message = match address {
        Some(bytes) => message.attribute(NDA_DST, bytes),
        None => message,
    };
    Netlink::open()?.request(message.attribute(NDA_LLADDR, &mac.0), what)
}

/// What an interface leaves to the hardware, or to the last moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// One packet of many segments is handed down whole (TSO, GSO).
    Segmentation,
    /// Segments that arrive are joined to one packet (GRO).
    Joining,
    /// Checksums are filled in later; without it segmentation is off, too.
    Checksum,
}

/// Whether an offload is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Switches an offload, as `ethtool -K` does.
pub fn offload(name: &str, offload: Offload, switch: Switch) -> Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const ETHTOOL_STSO: u32 = 0x1f;
    const ETHTOOL_SGSO: u32 = 0x24;
    const ETHTOOL_SGRO: u32 = 0x2c;
    let commands: &[u32] = match offload {
        Offload::Segmentation => &[ETHTOOL_STSO, ETHTOOL_SGSO],
        Offload::Joining => &[ETHTOOL_SGRO],
        Offload::Checksum => &[ETHTOOL_STXCSUM],
    };
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .could_not(|| "open a socket")?;
    for &command in commands {
        sys::ethtool(&socket, name, command, u32::from(switch == Switch::On))
            .could_not(|| format!("switch {offload:?} of {name} {switch:?}"))?;
    }
    Ok(())
}
