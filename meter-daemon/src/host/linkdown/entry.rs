//! Something that an interface has and loses, in a form that is the same each time it is read
//! and that the kernel takes back as it is.

use serde::{Deserialize, Serialize};

use crate::host::netlink::{attribute, u32_at};

/// Something of an interface, as the message that makes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    pub(super) kind: Kind,
    /// Header and attributes, without what changes by itself (times, carrier, offload).
    #[serde(with = "crate::host::hex")]
    pub(super) body: Vec<u8>,
}

/// Of which table. In the order in which they are put back: a neighbour or a route may need
/// an address, a route a neighbour's entry to be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Address,
    Neighbour,
    Forwarding,
    Route,
}

impl Kind {
    /// `RTM_NEW…`.
    pub(super) const fn message(self) -> u16 {
        match self {
            Self::Address => libc::RTM_NEWADDR,
            Self::Neighbour | Self::Forwarding => libc::RTM_NEWNEIGH,
            Self::Route => libc::RTM_NEWROUTE,
        }
    }

    /// What stands before the attributes: `struct ifaddrmsg`, `ndmsg`, `rtmsg`.
    pub(super) const fn header(self) -> usize {
        match self {
            Self::Address => 8,
            Self::Neighbour | Self::Forwarding | Self::Route => 12,
        }
    }
}

// Numbers of linux/if_addr.h, linux/neighbour.h and linux/rtnetlink.h.
pub(super) const IFA_PROTO: u16 = 11;
pub(super) const NTF_PROXY: u8 = 0x08;
pub(super) const NDA_DST: u16 = 1;
pub(super) const NDA_LLADDR: u16 = 2;
pub(super) const NDA_CACHEINFO: u16 = 3;
pub(super) const NDA_PROBES: u16 = 4;
pub(super) const NDA_VLAN: u16 = 5;
pub(super) const NDA_MASTER: u16 = 9;
pub(super) const NDA_PROTOCOL: u16 = 12;
pub(super) const NDA_FDB_EXT_ATTRS: u16 = 14;
pub(super) const NDA_FLAGS_EXT: u16 = 15;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_SRC: u16 = 2;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_PREFSRC: u16 = 7;
pub(super) const RTA_METRICS: u16 = 8;
pub(super) const RTA_MULTIPATH: u16 = 9;
pub(super) const RTA_FLOW: u16 = 11;
pub(super) const RTA_CACHEINFO: u16 = 12;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const RTA_VIA: u16 = 18;
pub(super) const RTA_PREF: u16 = 20;
pub(super) const RTA_ENCAP: u16 = 22;
pub(super) const RTA_PAD: u16 = 24;
pub(super) const RTA_NH_ID: u16 = 30;

/// One way of a route that has several: `struct rtnexthop` and attributes.
pub(super) struct NextHop<'a> {
    pub(super) start: &'a [u8],
    pub(super) ifindex: u32,
    pub(super) attributes: &'a [u8],
}

pub(super) fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = NextHop<'_>> {
    const START: usize = 8;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let (start, attributes) = bytes.get(..length)?.split_at_checked(START)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NextHop {
            start,
            ifindex: u32_at(start, 4)?,
            attributes,
        })
    })
}

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_BRIDGE: u8 = 7;
pub(super) const AF_INET6: u8 = 10;

impl Entry {
    pub(super) fn attributes(&self) -> &[u8] {
        self.body.get(self.kind.header()..).unwrap_or_default()
    }

    fn value(&self, number: u16) -> Option<&[u8]> {
        attribute(self.attributes(), number)
    }

    fn number(&self, number: u16) -> u32 {
        let value = self.value(number).and_then(|value| u32_at(value, 0));
        value.unwrap_or_default()
    }

    /// The link-local address that the kernel makes once the link has a carrier.
    pub(super) fn is_the_kernels_link_local(&self) -> bool {
        const IFAPROT_KERNEL_LL: u8 = 3;
        self.is_link_local() && self.value(IFA_PROTO) == Some(&[IFAPROT_KERNEL_LL])
    }

    pub(super) fn is_link_local(&self) -> bool {
        const RT_SCOPE_LINK: u8 = 253;
        self.kind == Kind::Address && self.body.get(3) == Some(&RT_SCOPE_LINK)
    }

    /// What there can be only one of.
    pub(super) fn place(&self) -> Vec<u8> {
        // Family, prefixes and type of service of a route; of others the family is enough.
        let start = match self.kind {
            Kind::Route => 4,
            _ => 1,
        };
        let numbers: &[u16] = match self.kind {
            Kind::Address => &[2, 1],
            Kind::Neighbour => &[NDA_DST],
            Kind::Forwarding => &[NDA_LLADDR, NDA_VLAN],
            Kind::Route => &[RTA_DST, RTA_SRC, RTA_PRIORITY, RTA_TABLE],
        };
        let mut place = self.body.get(..start).unwrap_or_default().to_vec();
        for number in numbers {
            let value = self.value(*number).unwrap_or_default();
            place.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            place.extend(value);
        }
        place
    }

    /// Whether it goes by way of somebody who must be reachable first.
    pub(super) fn has_gateway(&self) -> bool {
        self.kind == Kind::Route
            && [RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH]
                .iter()
                .any(|number| self.value(*number).is_some())
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = self.body.first().copied().unwrap_or_default();
        let ip = |number| self.value(number).map(ip).unwrap_or_default();
        let prefix = self.body.get(1).copied().unwrap_or_default();
        match self.kind {
            Kind::Address => {
                let own = self.value(2).or(self.value(1)).map(self::ip);
                write!(f, "address {}/{prefix}", own.unwrap_or_default())
            }
            Kind::Neighbour if self.body.get(10).is_some_and(|it| it & NTF_PROXY != 0) => {
                write!(f, "proxy entry {}", ip(NDA_DST))
            }
            Kind::Neighbour => write!(f, "neighbour {}", ip(NDA_DST)),
            Kind::Forwarding => {
                let mac = self.value(NDA_LLADDR).unwrap_or_default();
                let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                write!(f, "forwarding entry {}", mac.join(":"))
            }
            Kind::Route => {
                match (self.value(RTA_DST), family) {
                    (Some(to), _) => write!(f, "route {}/{prefix}", self::ip(to))?,
                    (None, AF_INET6) => f.write_str("route ::/0")?,
                    (None, _) => f.write_str("route 0.0.0.0/0")?,
                }
                if self.value(RTA_GATEWAY).is_some() {
                    write!(f, " via {}", ip(RTA_GATEWAY))?;
                }
                if let Some(hops) = self.value(RTA_MULTIPATH) {
                    write!(f, " by {} ways", next_hops(hops).count())?;
                }
                write!(f, " table {}", self.number(RTA_TABLE))?;
                match self.number(RTA_PRIORITY) {
                    0 => Ok(()),
                    metric => write!(f, " metric {metric}"),
                }
            }
        }
    }
}

fn ip(bytes: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        std::net::Ipv4Addr::from(four).to_string()
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
        std::net::Ipv6Addr::from(sixteen).to_string()
    } else {
        "?".to_owned()
    }
}
