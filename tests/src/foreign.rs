//! Somebody else's filters on the same hooks: minimal programs of hand-assembled
//! instructions that count what they see and let it pass.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::{
    Context, Result,
    inspect::{Hook, tcmsg},
    links,
    netlink::{CREATE, Message, Netlink},
    sys,
};

/// Where on a TCX hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Before all that is there.
    First,
    /// Behind all that is there.
    Last,
}

impl Place {
    const fn flags(self) -> u32 {
        match self {
            Self::First => 1 << 3, // BPF_F_BEFORE
            Self::Last => 1 << 4,  // BPF_F_AFTER
        }
    }
}

/// A filter that counts; it is gone when this is dropped (a `clsact` one with its interface).
#[derive(Debug)]
pub struct Filter {
    map: OwnedFd,
    program: OwnedFd,
    _link: Option<OwnedFd>,
}

/// What a filter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// skbs.
    pub packets: u64,
    /// By `skb->len`.
    pub bytes: u64,
}

impl Filter {
    /// On a TCX hook.
    pub fn tcx(interface: &str, hook: Hook, place: Place) -> Result<Self> {
        let mut filter = Self::load(hook)?;
        let ifindex = links::get(interface)?.index;
        let attach = hook.attach_type();
        let link = sys::bpf::tcx_link(&filter.program, ifindex, attach, place.flags())
            .could_not(|| format!("attach a tcx program to {interface}"))?;
        filter._link = Some(link);
        Ok(filter)
    }

    /// As a `cls_bpf` filter in direct-action mode, in a
    /// `clsact` qdisc, which is made if there is none.
    pub fn clsact(interface: &str, hook: Hook, priority: u16) -> Result<Self> {
        const RTM_NEWTFILTER: u16 = 44;
        const TCA_KIND: u16 = 1;
        const TCA_OPTIONS: u16 = 2;
        const TCA_BPF_FD: u16 = 6;
        const TCA_BPF_NAME: u16 = 7;
        const TCA_BPF_FLAGS: u16 = 8;
        const DIRECT_ACTION: u32 = 1;
        const ETH_P_ALL: u16 = 3;
        clsact_qdisc(interface)?;
        let filter = Self::load(hook)?;
        let ifindex = links::get(interface)?.index;
        let info = u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be());
        let message = Message::new(RTM_NEWTFILTER, CREATE)
            .bytes(&tcmsg(ifindex, 1, hook.parent(), info))
            .string(TCA_KIND, "bpf")
            .nest(TCA_OPTIONS, |options| {
                let fd = filter.program.as_fd().as_raw_fd();
                options
                    .attribute(TCA_BPF_FD, &fd.to_ne_bytes())
                    .string(TCA_BPF_NAME, "foreign")
                    .number(TCA_BPF_FLAGS, DIRECT_ACTION)
            });
        Netlink::open()?.request(message, &format!("add a filter to {interface}"))?;
        Ok(filter)
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Result<Seen> {
        let mut value = [0; 16];
        sys::bpf::lookup(&self.map, &[0; 4], &mut value).could_not(|| "read a filter's map")?;
        let word = |at: usize| value[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        Ok(Seen {
            packets: word(0),
            bytes: word(8),
        })
    }

    fn load(hook: Hook) -> Result<Self> {
        let map = sys::bpf::array_map(16).could_not(|| "make a map")?;
        let program = sys::bpf::load(&count_and_pass(&map), hook.attach_type())
            .could_not(|| "load a filter")?;
        Ok(Self {
            map,
            program,
            _link: None,
        })
    }
}

/// A `clsact` qdisc, as libvirt or an administrator would add one; none if it is there.
pub fn clsact_qdisc(interface: &str) -> Result<()> {
    const RTM_NEWQDISC: u16 = 36;
    const CREATE_OR_KEEP: u16 = 0x400;
    const TC_H_CLSACT: u32 = 0xffff_fff1;
    let ifindex = links::get(interface)?.index;
    let message = Message::new(RTM_NEWQDISC, CREATE_OR_KEEP)
        .bytes(&tcmsg(ifindex, 0xffff_0000, TC_H_CLSACT, 0))
        .string(1, "clsact");
    Netlink::open()?.request(message, &format!("add clsact to {interface}"))
}

/// `packets += 1; bytes += skb->len; return TCX_NEXT` (which is TC_ACT_UNSPEC), in BPF
/// instructions: code, registers (source << 4 | destination), offset, immediate.
fn count_and_pass(map: &OwnedFd) -> Vec<u64> {
    let op = sys::bpf::instruction;
    vec![
        op(0xbf, 0x16, 0, 0),               // r6 = r1, the skb
        op(0x62, 0x0a, -4, 0),              // *(u32 *)(r10 - 4) = 0, the key
        op(0xbf, 0xa2, 0, 0),               // r2 = r10
        op(0x07, 0x02, 0, -4),              // r2 -= 4
        op(0x18, 0x11, 0, map.as_raw_fd()), // r1 = map
        op(0, 0, 0, 0),                     // (its upper half)
        op(0x85, 0x00, 0, 1),               // r0 = map_lookup_elem(r1, r2)
        op(0x15, 0x00, 4, 0),               // if r0 == 0 skip to the end
        op(0xb7, 0x01, 0, 1),               // r1 = 1
        op(0xdb, 0x10, 0, 0),               // lock *(u64 *)(r0 + 0) += r1
        op(0x61, 0x61, 0, 0),               // r1 = skb->len
        op(0xdb, 0x10, 8, 0),               // lock *(u64 *)(r0 + 8) += r1
        op(0xb7, 0x00, 0, -1),              // r0 = TCX_NEXT
        op(0x95, 0x00, 0, 0),               // return
    ]
}
