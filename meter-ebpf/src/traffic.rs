//! What a packet weighs: bytes in the basis the node counts in, and packets on the wire.
//!
//! It reads headers only where it must: of GSO packets, which stand for many frames, and in
//! the basis of IP bytes. An ordinary frame costs three loads from its metadata.

use aya_ebpf::{macros::map, maps::PerCpuArray, programs::TcContext};
use meter_common::CountBytes;

use crate::log::warning;

pub const ETHERNET: u32 = 14;
const VLAN: u32 = 4;
const ETHERTYPE_AT: u32 = 12;

pub const ETH_P_IPV4: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

const IPPROTO_HOP_BY_HOP: u8 = 0;
pub const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AUTHENTICATION: u8 = 51;
const IPPROTO_DESTINATION: u8 = 60;

/// More extension headers than real stacks send; the verifier wants an end.
const EXTENSION_HEADERS: u32 = 6;

/// RFC 2675. BIG TCP marks its over-long packets with it, and segmentation takes it off.
const OPTION_JUMBO: u8 = 0xc2;
const JUMBO_HEADER: u32 = 8;

/// Packets whose headers we could not read, so that the log names some and is not flooded.
#[map]
static UNREAD: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What is added to the counters.
pub struct Weight {
    pub bytes: u64,
    pub packets: u64,
}

/// Where the network header of a frame stands, and what it is.
pub struct Network {
    pub ethertype: u16,
    pub at: u32,
}

/// What follows the network header.
pub struct Transport {
    pub protocol: u8,
    pub at: u32,
    /// Bytes before `at` that do not go on the wire.
    pub jumbo: u32,
}

/// The weight of a packet, GSO or not, in this basis.
#[inline(always)]
pub fn weigh(ctx: &TcContext, basis: u32) -> Weight {
    let len = ctx.len();
    // SAFETY: the kernel hands every program a context that outlives the call.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    let tag = tag(ctx);
    if gso_size != 0 {
        let weight = segments(ctx, basis, gso_size, tag);
        return Weight {
            bytes: weight & BYTES,
            packets: weight >> BYTES.count_ones(),
        };
    }
    let bytes = match basis {
        FRAME => len,
        IP => ip_bytes(ctx, len),
        _ => len + tag,
    };
    Weight {
        bytes: u64::from(bytes),
        packets: 1,
    }
}

/// The tag that the kernel took off the frame, or has yet to put on it, lies outside its length
/// at both hooks.
#[inline(always)]
pub fn tag(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    let tagged = unsafe { (*ctx.skb.skb).vlan_present };
    if tagged != 0 { VLAN } else { 0 }
}

const FRAME: u32 = CountBytes::Frame as u32;
const IP: u32 = CountBytes::Ip as u32;

/// Everything behind the link's header; 0 for what is not IP.
#[inline(always)]
fn ip_bytes(ctx: &TcContext, len: u32) -> u32 {
    match network(ctx) {
        // Not the header's own length: a guest could write a small one there and pack more.
        Some(network) if network.is_ip() => len.saturating_sub(network.at),
        _ => 0,
    }
}

/// The lower bits of a weight in one number, which needs no place on the stack of those who
/// weigh ordinary frames: a packet of 2^16 segments has fewer bytes.
const BYTES: u64 = (1 << 47) - 1;

const fn joined(bytes: u64, packets: u64) -> u64 {
    packets << BYTES.count_ones() | bytes & BYTES
}

/// The weight of the frames that a GSO packet will become, `joined`: headers go out with every
/// one.
#[inline(never)]
fn segments(ctx: &TcContext, basis: u32, gso_size: u32, tag: u32) -> u64 {
    let len = ctx.len();
    // SAFETY: the kernel hands every program a context that outlives the call.
    let gso_segs = unsafe { (*ctx.skb.skb).gso_segs };
    let Some((link, headers, jumbo)) = headers(ctx) else {
        warn_unread(ctx, gso_size, gso_segs);
        let bytes = if basis == FRAME { len } else { len + tag };
        return joined(u64::from(bytes), u64::from(gso_segs.max(1)));
    };
    let count = number(len, headers, gso_size, gso_segs);
    let (packets, again) = (u64::from(count), u64::from(count - 1));
    let (len, link, tag) = (u64::from(len - jumbo), u64::from(link), u64::from(tag));
    let headers = u64::from(headers - jumbo);
    let bytes = match basis {
        FRAME => len + u64::from(jumbo),
        IP => len - link + again * (headers - link),
        _ => len + again * headers + packets * tag,
    };
    joined(bytes, packets)
}

/// How many segments. A tap's virtio header says how long they are but not how many (`gso_segs` is
/// 0); for SCTP it is the other way round (`gso_size` is a mark).
#[inline(always)]
fn number(len: u32, headers: u32, gso_size: u32, gso_segs: u32) -> u32 {
    if gso_segs != 0 {
        gso_segs
    } else {
        len.saturating_sub(headers).div_ceil(gso_size).max(1)
    }
}

/// The weight on the wire of the frames that a GSO packet will become, of one that is TCP or UDP
/// right behind IP, as nearly all are: its headers are read where they lie, each of which a helper
/// would take some 10 ns to fetch. None where they are not so, or not in one piece.
#[inline(always)]
pub fn plain_segments(ctx: &TcContext) -> Option<Weight> {
    let headers = plain_headers(ctx)?;
    let (len, tag) = (ctx.len(), tag(ctx));
    // SAFETY: the kernel hands every program a context that outlives the call.
    let (gso_size, gso_segs) = unsafe { ((*ctx.skb.skb).gso_size, (*ctx.skb.skb).gso_segs) };
    if headers > len || gso_size == 0 {
        return None;
    }
    let count = number(len, headers, gso_size, gso_segs);
    let (packets, headers) = (u64::from(count), u64::from(headers));
    Some(Weight {
        bytes: u64::from(len) + (packets - 1) * headers + packets * u64::from(tag),
        packets,
    })
}

/// The length of all headers of TCP or UDP on IPv4 without options or IPv6 without extensions, on
/// Ethernet without tags in the frame.
#[inline(always)]
fn plain_headers(ctx: &TcContext) -> Option<u32> {
    const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
    let ethertype: [u8; 2] = read::<12, _>(ctx)?;
    match u16::from_be_bytes(ethertype) {
        ETH_P_IPV4 if read::<14, u8>(ctx)? == IPV4_WITHOUT_OPTIONS => match read::<23, u8>(ctx)? {
            IPPROTO_TCP => Some(34 + u32::from(read::<46, u8>(ctx)? >> 4) * 4),
            IPPROTO_UDP => Some(34 + 8),
            _ => None,
        },
        ETH_P_IPV6 => match read::<20, u8>(ctx)? {
            IPPROTO_TCP => {
                // Of another width than above, as the compiler would join the two.
                let [offset, _]: [u8; 2] = read::<66, _>(ctx)?;
                Some(54 + u32::from(offset >> 4) * 4)
            }
            IPPROTO_UDP => Some(54 + 8),
            _ => None,
        },
        _ => None,
    }
}

/// What stands there in the frame, if it lies in its first piece. The place is a constant: the
/// verifier takes no other from a daemon without CAP_PERFMON.
#[inline(always)]
fn read<const AT: usize, T: Copy>(ctx: &TcContext) -> Option<T> {
    let at = ctx.data() + AT;
    if at + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the kernel has it in one piece up to there; all that is read are bytes.
    Some(unsafe { (at as *const T).read_unaligned() })
}

/// The lengths of the link's header and of all headers, and how much of them is not sent.
#[inline(always)]
fn headers(ctx: &TcContext) -> Option<(u32, u32, u32)> {
    let network = network(ctx)?;
    let transport = transport(ctx, &network)?;
    let length = match transport.protocol {
        IPPROTO_TCP => u32::from(ctx.load::<u8>((transport.at + 12) as usize).ok()? >> 4) * 4,
        IPPROTO_UDP => 8,
        _ => return None,
    };
    let all = transport.at + length;
    (all <= ctx.len()).then_some((network.at, all, transport.jumbo))
}

impl Network {
    #[inline(always)]
    pub fn is_ip(&self) -> bool {
        self.ethertype == ETH_P_IPV4 || self.ethertype == ETH_P_IPV6
    }
}

/// Past the Ethernet header and up to two VLAN tags that lie in the frame itself.
#[inline(always)]
pub fn network(ctx: &TcContext) -> Option<Network> {
    let mut at = ETHERNET;
    let mut ethertype = be16(ctx, ETHERTYPE_AT)?;
    if ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD {
        ethertype = be16(ctx, at + 2)?;
        at += VLAN;
    }
    if ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD {
        ethertype = be16(ctx, at + 2)?;
        at += VLAN;
    }
    Some(Network { ethertype, at })
}

/// Past the IP header and its extensions.
#[inline(always)]
pub fn transport(ctx: &TcContext, network: &Network) -> Option<Transport> {
    let at = network.at;
    match network.ethertype {
        ETH_P_IPV4 => {
            let words = u32::from(ctx.load::<u8>(at as usize).ok()? & 0x0f);
            Some(Transport {
                protocol: ctx.load::<u8>((at + 9) as usize).ok()?,
                at: at + words * 4,
                jumbo: 0,
            })
        }
        ETH_P_IPV6 => past_extensions(ctx, at),
        _ => None,
    }
}

#[inline(always)]
fn past_extensions(ctx: &TcContext, network: u32) -> Option<Transport> {
    let mut protocol = ctx.load::<u8>((network + 6) as usize).ok()?;
    let mut at = network + 40;
    let mut jumbo = 0;
    for _ in 0..EXTENSION_HEADERS {
        // Next header, length, and where a jumbo option stands: RFC 8200, section 4.
        let units = match protocol {
            IPPROTO_HOP_BY_HOP | IPPROTO_ROUTING | IPPROTO_DESTINATION => 8,
            IPPROTO_FRAGMENT => 0,
            IPPROTO_AUTHENTICATION => 4,
            _ => {
                return Some(Transport {
                    protocol,
                    at,
                    jumbo,
                });
            }
        };
        let [next, length, option, _] = ctx.load::<[u8; 4]>(at as usize).ok()?;
        if protocol == IPPROTO_HOP_BY_HOP && length == 0 && option == OPTION_JUMBO {
            jumbo = JUMBO_HEADER;
        }
        // AH counts 4-byte words beyond the first two, the others 8-byte units beyond one.
        at += 8 + u32::from(length) * units;
        protocol = next;
    }
    None
}

#[inline(always)]
fn be16(ctx: &TcContext, at: u32) -> Option<u16> {
    Some(u16::from_be_bytes(ctx.load::<[u8; 2]>(at as usize).ok()?))
}

/// Says so at the first such packet on this CPU, then the 2nd, 4th, 8th, …
#[inline(never)]
fn warn_unread(ctx: &TcContext, gso_size: u32, gso_segs: u32) {
    let Some(seen) = UNREAD.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own copy, as with the counters.
    let count = unsafe {
        *seen += 1;
        *seen
    };
    if !count.is_power_of_two() {
        return;
    }
    // SAFETY: the kernel hands every program a context that outlives the call.
    let (ifindex, protocol) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).protocol) };
    warning!(
        "interface ",
        ifindex,
        ": cannot read the headers of an offloaded packet of ",
        ctx.len(),
        " bytes (protocol ",
        u16::from_be(protocol as u16),
        ", segments ",
        gso_segs,
        " of ",
        gso_size,
        "): counted without its segments' headers; ",
        count,
        " so far on this CPU",
    );
}
