//! The tree that shapes one direction of one interface:
//!
//! ```text
//! 6d74:  HTB, unclassified packets to bulk
//!   6d74:1             all of the rate
//!     6d74:2           bulk: 3/4 of it, may borrow the rest; TBF that splits GSO packets
//!     6d74:10 … :17    small packets: 1/4 between them, may borrow, and go first
//! ```
//!
//! A policed or unsplit 64 KB GSO packet takes eight seconds at 64 kbit/s, hence the
//! splitting. Small packets (ssh, ping, ACKs, DNS) go first, but only within what bulk is not
//! entitled to, and each flow in one of eight short queues: who floods, floods one of them.

use super::{
    htb::{self, HtbClass},
    qdisc::{Node, ROOT},
    tbf,
};
use crate::engine::units::BitsPerSecond;

/// The major number by which we know our own tree, and the kernel program its classes.
pub const MAJOR: u16 = 0x6d74;
/// The minor number of the class for bulk.
pub const BULK: u16 = 0x2;
/// The minor number of the first class for small packets.
pub const SMALL: u16 = 0x10;
/// How many there are of them, one minor number after another.
pub const SMALL_CLASSES: u16 = 8;

/// The root qdisc's handle.
pub(super) const HANDLE: u32 = (MAJOR as u32) << 16;

/// What of a handle is its qdisc's.
pub(super) const MAJOR_MASK: u32 = 0xffff_0000;

const ALL: u16 = 0x1;
/// The leaves have handles of their own, so that a repair finds them where it left them.
const BULK_LEAF: u32 = 0x6d75_0000;
const SMALL_LEAF: u32 = 0x6d80_0000;

/// Packets up to this IP length are small (the kernel program decides).
const SMALL_FRAME: u32 = 256 + 18;
/// Packets that wait in one class of small ones.
const SMALL_LIMIT: u32 = 10;
/// Bytes of bulk that wait: a second's worth at 64 kbit/s, a quarter's at higher rates.
const BULK_LIMIT: u64 = 8_000;

/// What is wanted of an interface's root.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Node,
    /// Parents before children.
    pub(super) classes: Vec<HtbClass>,
    pub(super) leaves: Vec<Node>,
}

impl Tree {
    pub(super) fn new(rate: BitsPerSecond, mtu: u32) -> Self {
        let rate = (rate.0 / 8).max(1);
        // With its Ethernet header and a VLAN tag. A guest's own MTU may be the smaller.
        let frame = mtu.saturating_add(18).max(1518);
        let mut classes = vec![
            class(ALL, 0, rate, rate, frame),
            HtbClass {
                priority: 1,
                ..class(BULK, BULK_LEAF, rate * 3 / 4, rate, frame)
            },
        ];
        let mut leaves = vec![leaf(
            "tbf",
            BULK_LEAF,
            BULK,
            tbf::splitter(frame.max(2048), bulk_limit(rate, frame)),
        )];
        for number in 0..SMALL_CLASSES {
            let handle = SMALL_LEAF + (u32::from(number) << 16);
            let minor = SMALL + number;
            let share = rate / 4 / u64::from(SMALL_CLASSES);
            classes.push(class(minor, handle, share, rate, SMALL_FRAME));
            let limit = SMALL_LIMIT.to_ne_bytes().to_vec();
            leaves.push(leaf("pfifo", handle, minor, limit));
        }
        Self {
            root: Node {
                kind: "htb".to_owned(),
                handle: HANDLE,
                parent: ROOT,
                leaf: 0,
                options: htb::root_options(BULK),
                has_size_table: false,
            },
            classes,
            leaves,
        }
    }
}

fn class(minor: u16, leaf: u32, rate: u64, ceil: u64, frame: u32) -> HtbClass {
    let rate = rate.max(1);
    // One frame, or what passes in 4 ms, lest timers bound the rate.
    let burst = |rate: u64| htb::ticks(u64::from(frame).max(rate / 250), rate);
    HtbClass {
        handle: HANDLE | u32::from(minor),
        parent: if minor == ALL {
            ROOT
        } else {
            HANDLE | u32::from(ALL)
        },
        leaf,
        rate,
        ceil,
        buffers: [burst(rate), burst(ceil)],
        // How much a class sends before it is another's turn. The kernel keeps the first one
        // of an inner class, so that one must not depend on anything.
        quantum: if minor == ALL { 1518 } else { frame },
        priority: 0,
    }
}

fn leaf(kind: &str, handle: u32, parent: u16, options: Vec<u8>) -> Node {
    Node {
        kind: kind.to_owned(),
        handle,
        parent: HANDLE | u32::from(parent),
        leaf: 0,
        options,
        has_size_table: false,
    }
}

/// Never less than four frames: fewer, and TCP cannot tell a loss from a pause.
fn bulk_limit(rate: u64, frame: u32) -> u32 {
    let bytes = BULK_LIMIT.max(rate / 4).max(4 * u64::from(frame));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
