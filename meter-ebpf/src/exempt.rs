//! Prefixes that count against no allowance: whether a packet's far end lies in one.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, lpm_trie::Key},
    programs::TcContext,
};
use meter_common::{EXEMPT_PREFIXES, ExemptV4, ExemptV6, GROUP_BITS, Machine, first_byte_bit};

use crate::{
    atomic::load,
    traffic::{ETH_P_IPV4, ETH_P_IPV6, ETHERNET, Network, network},
};

/// By group and address: one for all plans.
#[map]
static EXEMPT_V4: LpmTrie<ExemptV4, u32> = LpmTrie::with_max_entries(EXEMPT_PREFIXES, 0);

#[map]
static EXEMPT_V6: LpmTrie<ExemptV6, u32> = LpmTrie::with_max_entries(EXEMPT_PREFIXES, 0);

/// False where none of the machine's prefixes begins like the far end's address: most packets
/// are told apart by this, at a tenth of what walking a trie takes. True where it cannot say.
#[inline(always)]
pub fn may_be<const SENT: bool>(ctx: &TcContext, machine: &Machine) -> bool {
    // SAFETY: the kernel hands every program a context that outlives the call.
    let protocol = u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16);
    // Where RFC 791 and RFC 8200 put the addresses. An offset that is known when compiled: the
    // verifier lets a process without CAP_PERFMON add no other to a packet's address.
    let first = match (protocol, SENT) {
        (ETH_P_IPV4, true) => byte::<{ ETHERNET as usize + 16 }>(ctx),
        (ETH_P_IPV4, false) => byte::<{ ETHERNET as usize + 12 }>(ctx),
        (ETH_P_IPV6, true) => byte::<{ ETHERNET as usize + 24 }>(ctx),
        (ETH_P_IPV6, false) => byte::<{ ETHERNET as usize + 8 }>(ctx),
        _ => None,
    };
    first.is_none_or(|first| load(&machine.never_exempt) & first_byte_bit(first) == 0)
}

/// A byte of the frame, if it lies in the part that can be read directly.
#[inline(always)]
fn byte<const AT: usize>(ctx: &TcContext) -> Option<u8> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + AT + 1 > end {
        return None;
    }
    // SAFETY: between the packet's start and its end, as just seen. Volatile, so that the
    // compiler makes no variable of the offset.
    Some(unsafe { ((start + AT) as *const u8).read_volatile() })
}

/// Whether the packet goes to, or comes from, an exempt prefix of this group.
#[inline(never)]
pub fn is_exempt(ctx: &TcContext, sent: bool, group: u32) -> bool {
    let Some(network) = ip(ctx) else {
        return false;
    };
    if network.ethertype == ETH_P_IPV4 {
        // The source address stands before the destination: RFC 791, section 3.1.
        let at = network.at + if sent { 16 } else { 12 };
        let Ok(address) = ctx.load::<u32>(at as usize) else {
            return false;
        };
        let key = [head(group, 32), u64::from(address)];
        // SAFETY: the words begin with the 12 bytes of the key, see `head`.
        return EXEMPT_V4.get(unsafe { &*key.as_ptr().cast() }).is_some();
    }
    // RFC 8200, section 3.
    let at = network.at + if sent { 24 } else { 8 };
    let Ok([high, low]) = ctx.load::<[u64; 2]>(at as usize) else {
        return false;
    };
    let key = [head(group, 128), high, low];
    // SAFETY: the words are the 24 bytes of the key, see `head`.
    EXEMPT_V6.get(unsafe { &*key.as_ptr().cast() }).is_some()
}

/// Where the IP header stands. The kernel has looked at the Ethernet header already; it need
/// be read only where a tag lies behind it.
#[inline(always)]
fn ip(ctx: &TcContext) -> Option<Network> {
    // SAFETY: the kernel hands every program a context that outlives the call.
    let protocol = unsafe { (*ctx.skb.skb).protocol } as u16;
    let untagged = Network {
        ethertype: u16::from_be(protocol),
        at: ETHERNET,
    };
    if untagged.is_ip() {
        return Some(untagged);
    }
    network(ctx).filter(Network::is_ip)
}

/// The length of a key in bits, and the group: a key's first two numbers in one, on a target
/// whose lowest byte comes first. Keys are put together from whole words, because the verifier
/// of Linux 6.1 lets a process without CAP_PERFMON write each word of the stack in one piece
/// only.
#[inline(always)]
const fn head(group: u32, bits: u32) -> u64 {
    (GROUP_BITS + bits) as u64 | (group as u64) << 32
}

const _: () = assert!(cfg!(target_endian = "little"));
const _: () = assert!(size_of::<Key<ExemptV4>>() == 12);
const _: () = assert!(size_of::<Key<ExemptV6>>() == 24);
