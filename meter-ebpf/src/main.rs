//! The programs that every frame of a metered interface passes: they find its slot, weigh
//! it, and let it go on.
//!
//! `meter_received` and `meter_sent` stand first on their hook, so that what a foreign
//! filter drops behind them was still seen; `shape_sent` stands last and only while the
//! machine is throttled, because a redirect ends the chain for whoever comes after it.
//! Where there is no tcx, `mark_sent` stands in its place.
#![no_std]
#![no_main]
// Built with RUSTC_BOOTSTRAP anyhow, for the sake of `core`; see `atomic`.
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "core's atomics are not there for this target"
)]

mod atomic;
mod exempt;
mod limits;
mod log;
mod police;
mod short;
mod traffic;
mod verdict;

use atomic::load;
use aya_ebpf::{
    Global,
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray},
    programs::TcContext,
};
use limits::{PASSES, Packet};
use meter_common::{
    Action, Counters, Direction, IFINDEX_ARRAY, Interface, MAPPED, Machine, MapSet, NO_GROUP,
    NO_MACHINE, Verdict, counter_index,
};
use traffic::Weight;

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: the next program on the hook decides. Anything else would
/// hide the packet from the filters behind us.
const NEXT: i32 = -1;

/// `TCX_DROP` and `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// From a program that only classifies: the packet is the filter's, in its default class.
const MATCH: i32 = -1;
/// And here the next filter's.
const NO_MATCH: i32 = 0;

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

/// By slot: bytes of exempt frames that went past our shaper on the tap's root, whose figures
/// have them, too.
#[map]
static PAST_SHAPER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// By slot.
#[map]
static INTERFACES: Array<Interface> = Array::with_max_entries(1, 0);

/// By `Interface::machine`.
#[map]
static MACHINES: Array<Machine> = Array::with_max_entries(2, MAPPED);

/// One entry, which names the set.
#[map]
static MAP_SET: Array<MapSet> = Array::with_max_entries(1, 0);

/// Egress of the tap: what the guest receives.
#[classifier]
pub fn meter_received(ctx: TcContext) -> i32 {
    meter::<false>(&ctx)
}

/// Ingress of the tap: what the guest sends.
#[classifier]
pub fn meter_sent(ctx: TcContext) -> i32 {
    meter::<true>(&ctx)
}

#[inline(always)]
fn meter<const SENT: bool>(ctx: &TcContext) -> i32 {
    match short::way::<SENT>(ctx) {
        Some(()) => NEXT,
        None => long_way::<SENT>(ctx),
    }
}

/// Whatever the packet is. A function of its own, so that the short way needs no place on the
/// stack.
#[inline(never)]
fn long_way<const SENT: bool>(ctx: &TcContext) -> i32 {
    let direction = if SENT {
        Direction::Sent
    } else {
        Direction::Received
    };
    let Some(slot) = slot(ctx) else {
        return NEXT;
    };
    let Some(interface) = INTERFACES.get(slot) else {
        return NEXT;
    };
    let Some(counters) = COUNTERS.get_ptr_mut(counter_index(slot, direction)) else {
        return NEXT;
    };
    // SAFETY: the pointer is to this CPU's own copy, which lives as long as the map, and a
    // sched_cls program runs with migration and bottom halves off: nothing else writes it.
    let counters = unsafe { &mut *counters };
    let weight = traffic::weigh(ctx, COUNT_BYTES.load());
    let machine = machine(interface);
    if let Some(machine) = machine
        && is_exempt::<SENT>(ctx, machine)
    {
        return pass_exempt::<SENT>(ctx, slot, interface, machine, counters, &weight);
    }
    let mut stopped = interface.verdict;
    if stopped == Verdict::Pass as u32
        && let Some(machine) = machine
        && load(&machine.counts) != 0
    {
        let packet = Packet {
            machine: interface.machine,
            bytes: weight.bytes,
            len: ctx.len(),
            shaped: interface.shaper != 0
                && if SENT {
                    interface.ifb != 0
                } else {
                    interface.root_lost == 0
                },
        };
        stopped = limits::admit::<SENT>(machine, &packet);
    }
    if stopped != PASSES {
        refuse(counters, stopped, weight.bytes);
        return DROP;
    }
    counters.bytes += weight.bytes;
    counters.packets += weight.packets;
    counters.frame_bytes += u64::from(ctx.len());
    // What the guest sends is marked where it is redirected, last on the hook.
    if !SENT && interface.shaper != 0 {
        counters.shaped_bytes += weight.bytes;
        verdict::choose_class(ctx, interface.shaper);
    }
    NEXT
}

#[inline(always)]
fn machine(interface: &Interface) -> Option<&'static Machine> {
    if interface.machine == NO_MACHINE {
        return None;
    }
    MACHINES.get(interface.machine)
}

#[inline(always)]
fn is_exempt<const SENT: bool>(ctx: &TcContext, machine: &Machine) -> bool {
    let group = load(&machine.exempt_group);
    group != u64::from(NO_GROUP)
        && exempt::may_be::<SENT>(ctx, machine)
        && exempt::is_exempt(ctx, SENT, group as u32)
}

/// It is against no limit, and goes past the shaper; a suspension stops it, if the plan says
/// so.
#[inline(always)]
fn pass_exempt<const SENT: bool>(
    ctx: &TcContext,
    slot: u32,
    interface: &Interface,
    machine: &Machine,
    counters: &mut Counters,
    weight: &Weight,
) -> i32 {
    let suspended = interface.verdict == Verdict::Suspended as u32
        || limits::standing(machine, interface.machine) == Action::Suspended as u32;
    if suspended && load(&machine.exempt_when_suspended) == 0 {
        refuse(counters, Action::Suspended as u32, weight.bytes);
        return DROP;
    }
    count_exempt(counters, weight.bytes, weight.packets, ctx.len());
    if !SENT && interface.shaper != 0 {
        if let Some(past) = PAST_SHAPER.get_ptr_mut(slot) {
            // SAFETY: as in `long_way`: this CPU's own copy.
            unsafe { *past += u64::from(ctx.len()) };
        }
        verdict::past_classes(ctx, interface.shaper);
    }
    NEXT
}

// What follows are functions of their own, since the compiler would share the additions' ends
// between them and `long_way`. A choice between two counters would become arithmetic on the
// pointer, which the verifier refuses to a daemon without CAP_PERFMON.

#[inline(never)]
fn count_exempt(counters: &mut Counters, bytes: u64, packets: u64, len: u32) {
    counters.exempt_bytes += bytes;
    counters.packets += packets;
    counters.frame_bytes += u64::from(len);
}

/// A packet that is not let through spends nothing. All three counters are written, two of
/// them with nothing, for the same reason.
#[inline(never)]
fn refuse(counters: &mut Counters, action: u32, bytes: u64) {
    let of = |wanted: Action| {
        if action == wanted as u32 { bytes } else { 0 }
    };
    counters.dropped_throttled += of(Action::Police);
    counters.dropped_capped += of(Action::Capped);
    counters.dropped_suspended += of(Action::Suspended);
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
    match into_shaper(&ctx) {
        Some(_) => MATCH,
        None => NO_MATCH,
    }
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
    if let Some(machine) = machine(interface)
        && is_exempt::<true>(ctx, machine)
    {
        return None;
    }
    let counters = COUNTERS.get_ptr_mut(counter_index(slot, Direction::Sent))?;
    // SAFETY: as in `long_way`.
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
