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
/// What a flow of small packets may send at once after a pause: some keystrokes and their
/// echoes without waiting for a large packet ahead of them.
const SMALL_BURST: u32 = 1500;
/// None for the rest: HTB lets a packet pass while any token is left and then runs into debt,
/// so with a frame's worth of burst the first ten seconds of a flow ran 6 % past the rate.
const BULK_BURST: u32 = 1;
/// Packets that wait in one class of small ones.
const SMALL_LIMIT: u32 = 10;
/// Frames of bulk that wait, at least. Measured at 64 kbit/s: with four, TCP gets 56 to 62
/// kbit/s whatever the flows; with eight or ten it overruns them, loses a whole window at
/// once, and stands still for seconds.
const BULK_FRAMES: u64 = 4;

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
            class(ALL, ROOT, rate, rate, BULK_BURST),
            HtbClass {
                leaf: BULK_LEAF,
                // The kernel keeps an inner class's first quantum, so only these depend.
                quantum: frame,
                priority: 1,
                ..class(
                    BULK,
                    HANDLE | u32::from(ALL),
                    rate * 3 / 4,
                    rate,
                    BULK_BURST,
                )
            },
        ];
        let splitter = tbf::splitter(frame.max(2048), bulk_limit(rate, frame));
        let mut leaves = vec![leaf("tbf", BULK_LEAF, BULK, splitter)];
        for number in 0..SMALL_CLASSES {
            let handle = SMALL_LEAF + (u32::from(number) << 16);
            let minor = SMALL + number;
            let share = rate / 4 / u64::from(SMALL_CLASSES);
            let limit = SMALL_LIMIT.to_ne_bytes().to_vec();
            classes.push(HtbClass {
                leaf: handle,
                quantum: SMALL_FRAME,
                ..class(minor, HANDLE | u32::from(ALL), share, rate, SMALL_BURST)
            });
            leaves.push(leaf("pfifo", handle, minor, limit));
        }
        Self {
            root: node("htb", HANDLE, ROOT, htb::root_options(BULK)),
            classes,
            leaves,
        }
    }
}

/// A class that may send `burst` bytes at once, or what passes in 4 ms, lest timers bound
/// the rate.
fn class(minor: u16, parent: u32, rate: u64, ceil: u64, burst: u32) -> HtbClass {
    let rate = rate.max(1);
    let buffer = |rate: u64| htb::ticks(u64::from(burst).max(rate / 250), rate);
    HtbClass {
        handle: HANDLE | u32::from(minor),
        parent,
        leaf: 0,
        rate,
        ceil,
        buffers: [buffer(rate), buffer(ceil)],
        quantum: 1518,
        priority: 0,
    }
}

fn leaf(kind: &str, handle: u32, parent: u16, options: Vec<u8>) -> Node {
    node(kind, handle, HANDLE | u32::from(parent), options)
}

fn node(kind: &str, handle: u32, parent: u32, options: Vec<u8>) -> Node {
    Node {
        kind: kind.to_owned(),
        handle,
        parent,
        leaf: 0,
        options,
        has_size_table: false,
    }
}

/// In bytes: a quarter of a second's worth, where that is more than a few frames.
fn bulk_limit(rate: u64, frame: u32) -> u32 {
    let bytes = (rate / 4).max(BULK_FRAMES * u64::from(frame));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_read_back_as_they_were_written() {
        for rate in [1, 8_000, 64_000, 1_000_000_000, 400_000_000_000] {
            for class in Tree::new(BitsPerSecond(rate), 1500).classes {
                assert_eq!(HtbClass::parse(&class.node()), Some(class));
            }
        }
    }

    #[test]
    fn what_classes_are_entitled_to_is_never_more_than_the_rate() {
        for rate in [64_000, 1_000_000, 999_999] {
            let tree = Tree::new(BitsPerSecond(rate), 1500);
            let (all, below) = tree.classes.split_first().unwrap();
            assert!(below.iter().map(|class| class.rate).sum::<u64>() <= all.rate);
            assert!(below.iter().all(|class| class.ceil == all.rate));
        }
    }

    #[test]
    fn a_frame_of_the_interfaces_size_fits_into_the_splitter_whole() {
        // Else TBF would drop what is no GSO packet and cannot be taken apart.
        let tree = Tree::new(BitsPerSecond(64_000), 9000);
        assert_eq!(tree.leaves[0].options, tbf::splitter(9018, 4 * 9018));
    }
}
