//! The programs that every frame of a metered interface passes: they find its slot, weigh
//! it, and let it go on.
//!
//! `meter_received` and `meter_sent` stand first on their hook, so that what a foreign
//! filter drops behind them was still seen; `shape_sent` stands last and only while the
//! machine is throttled, because a redirect ends the chain for whoever comes after it.
//! Where there is no tcx, `mark_sent` stands in its place.
#![no_std]
#![no_main]

mod log;
mod traffic;
mod verdict;

use aya_ebpf::{
    Global,
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray},
    programs::TcContext,
};
use meter_common::{
    Counters, Direction, IFINDEX_ARRAY, Interface, Machine, MapSet, Verdict, counter_index,
};

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: the next program on the hook decides. Anything else would
/// hide the packet from the filters behind us.
const NEXT: i32 = -1;

/// `TCX_DROP` and `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// From a program that only classifies: the packet is the filter's, in its default class.
const MATCH: i32 = -1;

/// What a byte is: a `CountBytes`, set when the program is loaded.
#[unsafe(no_mangle)]
static COUNT_BYTES: Global<u32> = Global::new(0);

/// Slot + 1 by ifindex; 0 where there is none. The daemon sets the sizes of the other maps.
#[map]
static SLOTS: Array<u32> = Array::with_max_entries(IFINDEX_ARRAY, 0);

/// Slot + 1 of an ifindex that lies past the array. A node that starts and stops machines
/// all day gets there, since an ifindex only grows.
#[map]
static SLOTS_HIGH: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// Two a slot: `counter_index` says where.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(2, 0);

/// By slot.
#[map]
static INTERFACES: Array<Interface> = Array::with_max_entries(1, 0);

/// By `Interface::machine`. The place for limits; nothing reads it yet.
#[map]
static MACHINES: Array<Machine> = Array::with_max_entries(1, 0);

/// One entry, which names the set.
#[map]
static MAP_SET: Array<MapSet> = Array::with_max_entries(1, 0);

/// Egress of the tap: what the guest receives.
#[classifier]
pub fn meter_received(ctx: TcContext) -> i32 {
    meter(&ctx, Direction::Received)
}

/// Ingress of the tap: what the guest sends.
#[classifier]
pub fn meter_sent(ctx: TcContext) -> i32 {
    meter(&ctx, Direction::Sent)
}

#[inline(always)]
fn meter(ctx: &TcContext, direction: Direction) -> i32 {
    let Some(slot) = slot(ctx) else {
        return NEXT;
    };
    let Some(interface) = INTERFACES.get(slot) else {
        return NEXT;
    };
    let Some(counters) = COUNTERS.get_ptr_mut(counter_index(slot, direction)) else {
        return NEXT;
    };
    let weight = traffic::weigh(ctx, COUNT_BYTES.load());
    if interface.verdict != Verdict::Pass as u32 {
        // SAFETY: as below.
        unsafe { refuse(&mut *counters, interface.verdict, weight.bytes) };
        return DROP;
    }
    // What the guest sends is marked where it is redirected, last on the hook.
    let shaper = match direction {
        Direction::Received => interface.shaper,
        Direction::Sent => 0,
    };
    // SAFETY: the pointer is to this CPU's own copy, which lives as long as the map, and a
    // sched_cls program runs with migration and bottom halves off: nothing else writes it.
    unsafe {
        (*counters).bytes += weight.bytes;
        (*counters).packets += weight.packets;
        (*counters).frame_bytes += u64::from(ctx.len());
        if shaper != 0 {
            (*counters).shaped_bytes += weight.bytes;
        }
    }
    if shaper != 0 {
        verdict::choose_class(ctx, shaper);
    }
    NEXT
}

/// A packet that is not let through spends nothing. Both counters are written, one of them
/// with nothing: a choice between the two would become arithmetic on the pointer, which the
/// verifier refuses to a daemon without CAP_PERFMON.
#[inline(always)]
fn refuse(counters: &mut Counters, verdict: u32, bytes: u64) {
    let capped = if verdict == Verdict::Capped as u32 {
        bytes
    } else {
        0
    };
    counters.dropped_capped += capped;
    counters.dropped_suspended += bytes - capped;
}

/// Ingress of the tap, last: into the shaper of what the guest sends.
#[classifier]
pub fn shape_sent(ctx: TcContext) -> i32 {
    match into_shaper(&ctx) {
        Some(ifb) => verdict::redirect(ifb),
        None => NEXT,
    }
}

/// The same for a filter whose own action redirects: on kernels before 6.4, and so on all that
/// have no tcx, an IFB drops what comes from `bpf_redirect`, which did not tell it that the
/// packet had been redirected (Linux commit 59e498a3289f).
#[classifier]
pub fn mark_sent(ctx: TcContext) -> i32 {
    into_shaper(&ctx);
    MATCH
}

/// Chooses the packet's class and counts it as shaped; `meter_sent` counted it as sent. The
/// IFB that it goes to, while a shaper stands.
#[inline(always)]
fn into_shaper(ctx: &TcContext) -> Option<u32> {
    let slot = slot(ctx)?;
    let interface = INTERFACES.get(slot)?;
    if interface.shaper == 0 || interface.ifb == 0 {
        return None;
    }
    let counters = COUNTERS.get_ptr_mut(counter_index(slot, Direction::Sent))?;
    // SAFETY: as in `meter`.
    unsafe { (*counters).shaped_bytes += traffic::weigh(ctx, COUNT_BYTES.load()).bytes };
    verdict::choose_class(ctx, interface.shaper);
    Some(interface.ifb)
}

/// The slot of the interface that the packet is on, if it is metered.
#[inline(always)]
fn slot(ctx: &TcContext) -> Option<u32> {
    // SAFETY: the kernel hands every program a context that outlives the call.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let entry = if ifindex < IFINDEX_ARRAY {
        *SLOTS.get(ifindex)?
    } else {
        // SAFETY: the value is one aligned u32, so a concurrent update or a recycled element
        // yields the old or the new number, never a torn one. The daemon gives a slot to
        // another interface only long after it took the ifindex out of the map.
        unsafe { *SLOTS_HIGH.get(ifindex)? }
    };
    entry.checked_sub(1)
}

/// A loop that cannot end would not pass the verifier, and nothing here panics; the language
/// asks for a handler all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Read when the program is loaded: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
