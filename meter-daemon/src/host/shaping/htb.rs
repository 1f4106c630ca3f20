//! HTB's options: `struct tc_htb_glob` of the qdisc, `struct tc_htb_opt` of a class
//! (include/uapi/linux/pkt_sched.h).

use super::qdisc::Node;
use crate::host::netlink::{self, attribute, u32_at, u64_at, written};

const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const TCA_HTB_OFFLOAD: u16 = 9;

/// Nanoseconds in a tick of the packet scheduler: PSCHED_SHIFT is 6 since Linux 2.6.31.
const TICK: u128 = 64;

/// The version of HTB that the kernel takes. It shows a minor number beside (HTB_VER).
const VERSION: u32 = 3;

/// A class of ours. Rates are bytes a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HtbClass {
    pub(super) handle: u32,
    pub(super) parent: u32,
    /// Its leaf qdisc's handle; 0 for an inner class.
    pub(super) leaf: u32,
    pub(super) rate: u64,
    pub(super) ceil: u64,
    /// How much it may send at once after a pause, in ticks at each of the two rates.
    pub(super) buffers: [u32; 2],
    pub(super) quantum: u32,
    pub(super) priority: u32,
}

impl HtbClass {
    pub(super) fn node(&self) -> Node {
        let mut parameters = Vec::with_capacity(44);
        parameters.extend(rate_specification(self.rate));
        parameters.extend(rate_specification(self.ceil));
        // Buffer, cbuffer, quantum, level (the kernel's own), prio.
        for number in [
            self.buffers[0],
            self.buffers[1],
            self.quantum,
            0,
            self.priority,
        ] {
            parameters.extend(number.to_ne_bytes());
        }
        Node {
            kind: "htb".to_owned(),
            handle: self.handle,
            parent: self.parent,
            leaf: self.leaf,
            options: written([
                (TCA_HTB_PARMS, parameters),
                (TCA_HTB_RATE64, self.rate.to_ne_bytes().to_vec()),
                (TCA_HTB_CEIL64, self.ceil.to_ne_bytes().to_vec()),
            ]),
            has_size_table: false,
        }
    }

    pub(super) fn parse(node: &Node) -> Option<Self> {
        let parameters = attribute(&node.options, TCA_HTB_PARMS)?;
        let number = |offset| u32_at(parameters, offset);
        // The 64-bit attributes are dumped only where 32 bits do not hold the rate.
        let wide = |kind| attribute(&node.options, kind).and_then(|value| u64_at(value, 0));
        Some(Self {
            handle: node.handle,
            parent: node.parent,
            leaf: node.leaf,
            rate: wide(TCA_HTB_RATE64).or(number(8).map(u64::from))?,
            ceil: wide(TCA_HTB_CEIL64).or(number(20).map(u64::from))?,
            buffers: [number(24)?, number(28)?],
            quantum: number(32)?,
            priority: number(40)?,
        })
    }
}

/// The root qdisc's options: unclassified packets go to the class of this minor number.
pub(super) fn root_options(default_class: u16) -> Vec<u8> {
    // Rate2quantum is for classes without a quantum.
    let init = [VERSION, 10, u32::from(default_class), 0, 0];
    let init = init.iter().flat_map(|number| number.to_ne_bytes());
    written([(TCA_HTB_INIT, init.collect())])
}

/// The minor number of the class for unclassified packets.
pub(super) fn default_class(options: &[u8]) -> Option<u32> {
    u32_at(attribute(options, TCA_HTB_INIT)?, 8)
}

/// A root qdisc's options as the kernel takes them, from how it shows them: with the major
/// version only, and without the number of unclassified packets, which is a counter.
pub(super) fn taken(shown: &[u8]) -> Vec<u8> {
    let attributes = netlink::attributes(shown).map(|(kind, value)| {
        let mut value = value.to_vec();
        if kind == TCA_HTB_INIT && value.len() >= 20 {
            value[..4].copy_from_slice(&VERSION.to_ne_bytes());
            value[16..20].fill(0);
        }
        (kind, value)
    });
    written(attributes)
}

/// Whether the network card does the work.
pub(super) fn is_offloaded(options: &[u8]) -> bool {
    attribute(options, TCA_HTB_OFFLOAD).is_some()
}

/// How long so many bytes take at a rate, in ticks.
pub(super) fn ticks(bytes: u64, rate: u64) -> u32 {
    let ticks = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1)) / TICK;
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// A `struct tc_ratespec`. Its link layer is said to be Ethernet: unknown, the kernel would
/// want a table of transmission times beside.
pub(super) fn rate_specification(rate: u64) -> [u8; 12] {
    const TC_LINKLAYER_ETHERNET: u8 = 1;
    let mut bytes = [0; 12];
    bytes[1] = TC_LINKLAYER_ETHERNET;
    let rate = u32::try_from(rate).unwrap_or(u32::MAX);
    bytes[8..].copy_from_slice(&rate.to_ne_bytes());
    bytes
}
