//! The limits of a machine, over all its interfaces and CPUs: what it has spent, and what
//! becomes of its packets once a boundary is reached. No daemon is needed for any of it.
//!
//! A packet first looks whether a boundary is reached, by plain loads; if it passes, it is
//! added to what was spent by an atomic addition, and then looks again. Between its look and
//! its addition a CPU is at one packet, so that at most one a CPU goes beyond a boundary. Of
//! all additions one is the last before or at a limit's being reached; whoever makes it reads
//! the other direction's sum afterwards, and finds the boundary reached: the daemon is told.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, RingBuf},
};
use meter_common::{
    Action, Arming, Boundary, MAPPED, Machine, REACHED_BYTES, Reached, arming_index,
};

use crate::{
    atomic::{add, load, store},
    police,
};

/// At `arming_index`.
#[map]
static ARMINGS: Array<Arming> = Array::with_max_entries(4, MAPPED);

/// To the daemon: `Reached`.
#[map]
static REACHED: RingBuf = RingBuf::with_byte_size(REACHED_BYTES, 0);

/// The packet may pass: no `Action`.
pub const PASSES: u32 = Action::None as u32;
const POLICE: u32 = Action::Police as u32;

/// What is to become of a packet that limits must know.
pub struct Packet {
    /// The index of its machine.
    pub machine: u32,
    pub bytes: u64,
    /// Of the frame in memory.
    pub len: u32,
    /// A shaper of ours takes it.
    pub shaped: bool,
}

/// Lets the packet pass and adds it to what was spent, or names the `Action` that stops it:
/// then it has spent nothing.
#[inline(always)]
pub fn admit<const SENT: bool>(machine: &Machine, packet: &Packet) -> u32 {
    if !is_within(machine) {
        let stopped = beyond::<SENT>(machine, packet);
        if stopped != PASSES {
            return stopped;
        }
    }
    spend::<SENT>(machine, packet.machine.into(), packet.bytes);
    PASSES
}

/// Whether no boundary is reached.
#[inline(always)]
pub fn is_within(machine: &Machine) -> bool {
    let received = load(&machine.spent_received);
    let sent = load(&machine.spent_sent);
    received < load(&machine.nearest_received)
        && sent < load(&machine.nearest_sent)
        && received + sent < load(&machine.nearest_sum)
}

/// What exempt traffic meets: it spends nothing and is not policed.
#[inline(always)]
pub fn standing(machine: &Machine, index: u32) -> u32 {
    parted(sentence(machine, index.into())).0
}

/// Adds what passed, and tells the daemon if a boundary is reached by it.
#[inline(always)]
pub fn spend<const SENT: bool>(machine: &Machine, index: u64, bytes: u64) {
    let (own, other, nearest) = if SENT {
        (
            &machine.spent_sent,
            &machine.spent_received,
            &machine.nearest_sent,
        )
    } else {
        (
            &machine.spent_received,
            &machine.spent_sent,
            &machine.nearest_received,
        )
    };
    add(own, bytes);
    // The loads are not older than the addition, so that of two CPUs that add at once, be it to
    // different directions, at least one sees both additions. (Where a processor holds less
    // than that, the next packet to be stopped tells the daemon.)
    let own = load(own);
    if own >= load(nearest) || own + load(other) >= load(&machine.nearest_sum) {
        sentence(machine, index);
    }
}

#[inline(always)]
fn beyond<const SENT: bool>(machine: &Machine, packet: &Packet) -> u32 {
    let (action, rate) = parted(sentence(machine, packet.machine.into()));
    if action != POLICE {
        return action;
    }
    if packet.shaped || police::conforms::<SENT>(machine, rate, packet.bytes, packet.len) {
        return PASSES;
    }
    POLICE
}

/// What the boundaries that are reached say, in one number, so that it need not go through
/// the stack: the rate, and in its two lowest bits the action. The daemon is told.
#[inline(never)]
fn sentence(machine: &Machine, index: u64) -> u64 {
    let arming = load(&machine.arming);
    // Where to look depends on the word just read, so that the limits behind it are read
    // after it: the daemon wrote them before it stored that word.
    let Some(armed) = ARMINGS.get(arming_index(index as u32, arming)) else {
        return PASSES.into();
    };
    let received = load(&machine.spent_received);
    let sent = load(&machine.spent_sent);
    let [first, second] = &armed.boundaries;
    let mut says = PASSES.into();
    if is_reached(first, received, sent) {
        if load(&machine.told[0]) != arming && tell(index, arming, 0, received, sent) {
            store(&machine.told[0], arming);
        }
        says = joined(first);
    }
    if is_reached(second, received, sent) {
        if load(&machine.told[1]) != arming && tell(index, arming, 1, received, sent) {
            store(&machine.told[1], arming);
        }
        says = joined(second);
    }
    says
}

#[inline(always)]
fn joined(boundary: &Boundary) -> u64 {
    load(&boundary.rate) << 2 | load(&boundary.action) & 3
}

#[inline(always)]
fn parted(sentence: u64) -> (u32, u64) {
    ((sentence & 3) as u32, sentence >> 2)
}

#[inline(always)]
fn is_reached(boundary: &Boundary, received: u64, sent: u64) -> bool {
    load(&boundary.action) as u32 != PASSES
        && (received >= load(&boundary.received)
            || sent >= load(&boundary.sent)
            || received + sent >= load(&boundary.sum))
}

/// Says whether the record went out. If not, for want of room, the next packet tries again.
#[inline(always)]
fn tell(machine: u64, arming: u64, boundary: u32, spent_received: u64, spent_sent: u64) -> bool {
    let Some(mut record) = REACHED.reserve::<Reached>(0) else {
        return false;
    };
    record.write(Reached {
        arming,
        machine: machine as u32,
        boundary,
        spent_received,
        spent_sent,
        // SAFETY: takes nothing and gives a number.
        at: unsafe { bpf_ktime_get_boot_ns() },
    });
    record.submit(0);
    true
}
