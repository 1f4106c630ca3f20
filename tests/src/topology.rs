//! The standard node: a bridge, guests behind interfaces named as Proxmox names taps, and a
//! world behind an uplink on which every packet is a frame of its own.
//!
//! ```text
//!  guest 101            the node                          the world
//!  eth0 ───── tap101i0 ┐
//!                      ├ vmbr0 ─ uplink0 ──────────────── wan0
//!  eth0 ───── tap102i0 ┘        (offloads off: segmented)
//! ```
//! Addresses are known to everyone in advance, and IPv6 is silent until it is asked for, so
//! that nothing moves but what a test moves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::{self, SendFlags};

use crate::{
    Context, Result,
    links::{self, End, Mac, Offload, Switch},
    sandbox::{Namespace, Sandbox},
    sys,
};

/// The bridge.
pub const BRIDGE: &str = "vmbr0";
/// The node's end of the uplink.
pub const UPLINK: &str = "uplink0";
/// The world's end of it.
pub const WAN: &str = "wan0";
/// A guest's own interface.
pub const ETH: &str = "eth0";

/// Somebody with an interface: a guest, or the world.
#[derive(Clone, Debug)]
pub struct Party {
    /// Where it lives.
    pub namespace: Namespace,
    /// Its interface there.
    pub interface: &'static str,
    /// Its address on the link.
    pub mac: Mac,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its other address.
    pub v6: Ipv6Addr,
}

/// A guest and its interface on the node. Dropped, it takes both ends of its pair with it.
#[derive(Clone, Debug)]
#[must_use = "a guest that nobody holds is gone, with its interface"]
pub struct Guest {
    /// Inside.
    pub party: Party,
    /// The host end's name when it was plugged in: `tap101i0`.
    pub tap: String,
}

/// Which guest, and which of its interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// As in `tap101i0`; 101 to 199 have addresses of their own.
    pub machine: u8,
    /// As in `tap101i0`.
    pub nic: u8,
}

impl Port {
    /// The first interface of a machine.
    #[must_use]
    pub const fn of(machine: u8) -> Self {
        Self { machine, nic: 0 }
    }

    /// `tap101i0`.
    #[must_use]
    pub fn tap(self) -> String {
        format!("tap{}i{}", self.machine, self.nic)
    }

    /// The guest's own address on the link.
    #[must_use]
    pub fn mac(self) -> Mac {
        Mac([0x52, 0x54, 0, 0, self.nic, self.machine])
    }

    /// What libvirt gives the host end: the same with the first octet fe.
    #[must_use]
    pub fn host_mac(self) -> Mac {
        Mac([0xfe, 0x54, 0, 0, self.nic, self.machine])
    }
}

/// The node and the world.
#[derive(Debug)]
pub struct Node {
    /// Where the bridge is and `meterd` runs.
    pub host: Namespace,
    /// Everybody else.
    pub world: Party,
}

const WORLD_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 1]);

impl Node {
    /// Builds it in the sandbox's namespace, without guests yet.
    pub fn new(sandbox: &Sandbox) -> Result<Self> {
        let world = Party {
            namespace: Namespace::new()?,
            interface: WAN,
            mac: WORLD_MAC,
            v4: Ipv4Addr::new(10, 9, 0, 1),
            v6: Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1),
        };
        let node = Self {
            host: sandbox.host().clone(),
            world,
        };
        node.host.run(|| {
            links::bridge(BRIDGE)?;
            let here = End {
                name: UPLINK,
                mac: None,
            };
            let there = End {
                name: WAN,
                mac: Some(WORLD_MAC),
            };
            links::veth(here, there, &node.world.namespace)?;
            links::silence(UPLINK)?;
            // What leaves is segmented; what arrives is joined again, as a NIC's driver does.
            segment_all(UPLINK)?;
            links::offload(UPLINK, Offload::Joining, Switch::On)?;
            links::join(UPLINK, BRIDGE)?;
            links::up(UPLINK)?;
            links::forward(UPLINK, WORLD_MAC)
        })?;
        node.world.settle_in()?;
        node.host.run(|| links::until_operating(UPLINK))?;
        node.world.namespace.run(|| segment_all(WAN))?;
        Ok(node)
    }

    /// A guest on a port of the bridge, reachable by the world and the other way round.
    pub fn plug(&self, port: Port) -> Result<Guest> {
        let namespace = Namespace::new()?;
        self.plug_into(port, &namespace, &port.tap())
    }

    /// As [`Self::plug`], with the host end named otherwise.
    pub fn plug_named(&self, port: Port, tap: &str) -> Result<Guest> {
        let namespace = Namespace::new()?;
        self.plug_into(port, &namespace, tap)
    }

    fn plug_into(&self, port: Port, namespace: &Namespace, tap: &str) -> Result<Guest> {
        let party = Party {
            namespace: namespace.clone(),
            interface: ETH,
            mac: port.mac(),
            v4: Ipv4Addr::new(10, 9, port.nic, port.machine),
            v6: Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, port.nic.into(), port.machine.into()),
        };
        self.host.run(|| {
            let here = End {
                name: tap,
                mac: Some(port.host_mac()),
            };
            let there = End {
                name: ETH,
                mac: Some(party.mac),
            };
            links::veth(here, there, namespace)?;
            links::silence(tap)?;
            links::join(tap, BRIDGE)?;
            links::up(tap)?;
            links::forward(tap, party.mac)
        })?;
        party.settle_in()?;
        self.host.run(|| links::until_operating(tap))?;
        party.knows(&self.world)?;
        self.world.knows(&party)?;
        Ok(Guest {
            party,
            tap: tap.to_owned(),
        })
    }
}

/// Every packet is cut into frames before it leaves. Checksums are done, too: without them
/// no kind of large packet can be left to a device (UDP's kind has no switch of its own in
/// the old interface).
fn segment_all(name: &str) -> Result<()> {
    links::offload(name, Offload::Segmentation, Switch::Off)?;
    links::offload(name, Offload::Checksum, Switch::Off)
}

/// Sends a frame as it is out of an interface of the calling thread's namespace, so many times.
pub fn inject(interface: &str, frame: &[u8], times: usize) -> Result<()> {
    let what = || format!("send a frame of {} bytes from {interface}", frame.len());
    let socket = sys::packet_socket().could_not(what)?;
    sys::bind_packet(&socket, links::get(interface)?.index).could_not(what)?;
    for _ in 0..times {
        net::send(&socket, frame, SendFlags::empty()).could_not(what)?;
    }
    Ok(())
}

impl Party {
    fn settle_in(&self) -> Result<()> {
        self.namespace.run(|| {
            links::silence(self.interface)?;
            links::address(self.interface, self.v4.into(), 16)?;
            links::up(self.interface)?;
            links::until_operating(self.interface)
        })
    }

    /// Nothing need be asked about that one: its addresses are entered here.
    pub fn knows(&self, other: &Self) -> Result<()> {
        let other = other.clone();
        self.namespace
            .run(|| links::neighbour(self.interface, other.v4.into(), other.mac))
    }

    /// IPv6 towards `other`, of global addresses only.
    pub fn speak_v6_with(&self, other: &Self) -> Result<()> {
        let name = self.interface;
        for (key, value) in [
            // No link-local address, and so nothing to announce.
            ("addr_gen_mode", "1"),
            ("accept_ra", "0"),
            // A report of its groups is repeated: at once, not while a test counts.
            ("mldv2_unsolicited_report_interval", "1"),
            ("disable_ipv6", "0"),
        ] {
            self.namespace
                .sysctl(&format!("ipv6/conf/{name}/{key}"), value)?;
        }
        self.namespace.run(|| {
            links::address(name, self.v6.into(), 64)?;
            links::neighbour(name, other.v6.into(), other.mac)
        })
    }

    /// Sends a frame as it is, so many times.
    pub fn inject(&self, frame: &[u8], times: usize) -> Result<()> {
        self.namespace.run(|| inject(self.interface, frame, times))
    }

    /// Its address of that family.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Does not send again what may only be late: on a busy machine the far end is often
    /// scheduled later than a tail loss probe waits.
    pub fn patient(&self) -> Result<()> {
        self.namespace.sysctl("ipv4/tcp_early_retrans", "0")
    }

    /// Segmentation left to the last moment, or done by the stack itself.
    pub fn segmentation(&self, switch: Switch) -> Result<()> {
        self.namespace
            .run(|| links::offload(self.interface, Offload::Segmentation, switch))
    }
}

/// Which internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 4.
    V4,
    /// 6.
    V6,
}
