//! The short way, which nearly every packet takes: a frame as it is, or one that is yet to be
//! segmented and whose headers are TCP's or UDP's without ado, counted on the wire, of an interface
//! with nothing out of the ordinary and a machine within its limits.
//!
//! It does what the long way would do, or nothing at all. Nothing is kept on the stack, since
//! behind each first write to a place there the verifier puts a barrier if the daemon is without
//! CAP_PERFMON: some 6 ns each. Hence keys lie where the look-ups find them, in `ShortWay`, and
//! but for the first look-up's there are none on the stack. (The table itself could be a global
//! of the program, found without a look-up; but arithmetic on its address has the verifier of a
//! daemon without CAP_PERFMON tell each number from each other on the long way, too, and follow
//! 500 000 instructions instead of 5 000.)

use aya_ebpf::{helpers::bpf_map_lookup_elem, macros::map, maps::Array, programs::TcContext};
use core::ptr;
use meter_common::{Counters, IFINDEX_ARRAY, MAPPED, Machine, NO_GROUP, NO_MACHINE, ShortWay};

use crate::{
    COUNTERS, MACHINES,
    atomic::load,
    exempt, limits,
    traffic::{self, Weight},
};

/// By ifindex. Those past it go the long way, and so do all where the basis of counting is
/// not the wire: the daemon opens none.
#[map]
static SHORT_WAYS: Array<ShortWay> = Array::with_max_entries(IFINDEX_ARRAY, MAPPED);

/// None where the packet has to go the long way; nothing has become of it then.
#[inline(always)]
pub fn way<const SENT: bool>(ctx: &TcContext) -> Option<()> {
    // SAFETY: the kernel hands every program a context that outlives the call.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    // Told apart here, and not where it is counted: a frame pays for one look at it, and no more.
    match gso_size {
        0 => way_of::<SENT, false>(ctx),
        _ => way_of::<SENT, true>(ctx),
    }
}

#[inline(always)]
fn way_of<const SENT: bool, const OFFLOADED: bool>(ctx: &TcContext) -> Option<()> {
    // SAFETY: as above.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let way = SHORT_WAYS.get(ifindex)?;
    if load(&way.machine) == u64::from(NO_MACHINE) {
        count::<OFFLOADED>(ctx, counters::<SENT>(way)?)?;
        return Some(());
    }
    // SAFETY: the key is the lower half of a word, and machines are what the map holds.
    let machine: &Machine = unsafe { look_up(&MACHINES, way.machine.as_ptr().cast())?.as_ref() };
    if load(&machine.exempt_group) != u64::from(NO_GROUP) && exempt::may_be::<SENT>(ctx, machine) {
        return None;
    }
    let counters = counters::<SENT>(way)?;
    if load(&machine.counts) == 0 {
        count::<OFFLOADED>(ctx, counters)?;
        return Some(());
    }
    if !limits::is_within(machine) {
        return None;
    }
    let bytes = count::<OFFLOADED>(ctx, counters)?;
    limits::spend::<SENT>(machine, load(&way.machine), bytes);
    Some(())
}

/// None where the way is closed.
#[inline(always)]
fn counters<const SENT: bool>(way: &ShortWay) -> Option<&'static mut Counters> {
    let halves: *const u32 = way.counters.as_ptr().cast();
    // SAFETY: received is in the lower half, sent in the upper; counters are what the map
    // holds. They are this CPU's own copy, as on the long way.
    Some(unsafe { look_up(&COUNTERS, halves.add(SENT as usize))?.as_mut() })
}

/// Like a map's own `get`, which would copy the key to the stack.
///
/// # Safety
/// The map must hold values of this type, by an index that the key points to.
#[inline(always)]
unsafe fn look_up<M, V>(map: &'static M, key: *const u32) -> Option<ptr::NonNull<V>> {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: as our caller promises; a map of aya's is its definition and nothing else.
    ptr::NonNull::new(unsafe { bpf_map_lookup_elem(map, key.cast()) }.cast())
}

/// Says how many bytes it is; None, and nothing is counted, where that takes more than a look.
#[inline(always)]
fn count<const OFFLOADED: bool>(ctx: &TcContext, counters: &mut Counters) -> Option<u64> {
    let Weight { bytes, packets } = match OFFLOADED {
        true => traffic::plain_segments(ctx)?,
        false => Weight {
            bytes: u64::from(ctx.len() + traffic::tag(ctx)),
            packets: 1,
        },
    };
    counters.bytes += bytes;
    counters.packets += packets;
    counters.frame_bytes += u64::from(ctx.len());
    Some(bytes)
}
