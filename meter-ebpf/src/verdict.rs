//! What becomes of a packet of a throttled machine: which class of its shaper it waits in.
//!
//! The shaper's tree is the daemon's; what both must agree on is the minor numbers below. A
//! class is chosen through `skb->priority`, which HTB takes for a class id, so that the tree
//! needs no filter. Small packets (an interactive flow, acknowledgements, what keeps a link
//! alive) do not wait behind bulk, and no flood of them stands in the way of the others:
//! each kind has its own class, and within a kind so has each flow, by its hash.

use aya_ebpf::{
    helpers::generated::{bpf_get_hash_recalc, bpf_redirect},
    programs::TcContext,
};

use crate::traffic::{ETH_P_IPV6, IPPROTO_TCP, Network, network, transport};

/// Packets with an IP length of this and more are bulk.
const SMALL: u32 = 256;

const BULK: u32 = 0x2;
/// ARP, neighbour discovery and whatever is not IP.
const LINK: u32 = 0x10;
const ICMP: u32 = 0x11;
const TCP: u32 = 0x12;
const OTHER: u32 = 0x15;
/// So many classes have TCP and the other protocols each.
const SPREAD: u32 = 3;

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;

/// Router solicitation to redirect: RFC 4861, section 4.
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// Sets the class; `shaper` is its tree's major number in the upper half.
#[inline(always)]
pub fn choose_class(ctx: &TcContext, shaper: u32) {
    let class = shaper | minor(ctx);
    // SAFETY: the kernel hands every program a context that outlives the call, and lets a
    // classifier write this field of it.
    unsafe { (*ctx.skb.skb).priority = class };
}

/// Past all classes: HTB takes its own handle for the queue that no rate holds back.
#[inline(always)]
pub fn past_classes(ctx: &TcContext, shaper: u32) {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).priority = shaper };
}

/// Ends the chain: the packet goes out of that interface.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: takes two numbers, touches no memory of ours.
    let verdict = unsafe { bpf_redirect(ifindex, 0) };
    verdict as i32
}

#[inline(never)]
fn minor(ctx: &TcContext) -> u32 {
    let Some(network) = network(ctx) else {
        return LINK;
    };
    if !network.is_ip() {
        return LINK;
    }
    let small = ctx.len().saturating_sub(network.at) < SMALL;
    let protocol = match transport(ctx, &network) {
        Some(transport) => {
            if discovers_neighbours(ctx, &network, transport.protocol, transport.at) {
                return LINK;
            }
            transport.protocol
        }
        None => 0,
    };
    match protocol {
        _ if !small => BULK,
        IPPROTO_ICMP | IPPROTO_ICMPV6 => ICMP,
        IPPROTO_TCP => TCP + flow(ctx),
        _ => OTHER + flow(ctx),
    }
}

#[inline(always)]
fn discovers_neighbours(ctx: &TcContext, network: &Network, protocol: u8, at: u32) -> bool {
    network.ethertype == ETH_P_IPV6
        && protocol == IPPROTO_ICMPV6
        && ctx
            .load::<u8>(at as usize)
            .is_ok_and(|kind| NEIGHBOUR_DISCOVERY.contains(&kind))
}

/// The same number for the packets of one flow.
#[inline(always)]
fn flow(ctx: &TcContext) -> u32 {
    // SAFETY: takes the context that the kernel gave us.
    let hash = unsafe { bpf_get_hash_recalc(ctx.skb.skb) };
    hash % SPREAD
}
