//! Prefixes that count against no allowance: whether a packet's far end lies in one.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, lpm_trie::Key},
    programs::TcContext,
};
use meter_common::{EXEMPT_PREFIXES, ExemptV4, ExemptV6, GROUP_BITS};

use crate::traffic::{ETH_P_IPV4, network};

/// By group and address: one for all plans.
#[map]
static EXEMPT_V4: LpmTrie<ExemptV4, u32> = LpmTrie::with_max_entries(EXEMPT_PREFIXES, 0);

#[map]
static EXEMPT_V6: LpmTrie<ExemptV6, u32> = LpmTrie::with_max_entries(EXEMPT_PREFIXES, 0);

/// Whether the packet goes to, or comes from, an exempt prefix of this group.
#[inline(never)]
pub fn is_exempt(ctx: &TcContext, sent: bool, group: u32) -> bool {
    let Some(network) = network(ctx) else {
        return false;
    };
    if !network.is_ip() {
        return false;
    }
    if network.ethertype == ETH_P_IPV4 {
        // The source address stands before the destination: RFC 791, section 3.1.
        let at = network.at + if sent { 16 } else { 12 };
        let Ok(address) = ctx.load(at as usize) else {
            return false;
        };
        let data = ExemptV4 { group, address };
        return EXEMPT_V4.get(Key::new(GROUP_BITS + 32, data)).is_some();
    }
    // RFC 8200, section 3.
    let at = network.at + if sent { 24 } else { 8 };
    let Ok(address) = ctx.load(at as usize) else {
        return false;
    };
    let data = ExemptV6 { group, address };
    EXEMPT_V6.get(Key::new(GROUP_BITS + 128, data)).is_some()
}
