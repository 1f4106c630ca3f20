//! Policing to a rate: what a machine gets between the packet that reached its boundary and
//! the shaper that the daemon puts up, and for good where none can stand.
//!
//! Each direction has a virtual clock (the generic cell rate algorithm, ITU-T I.371): a
//! packet that finds it not ahead of the time passes and sets it forward by as long as its
//! bytes take at the rate. Small packets (an interactive flow, acknowledgements, what keeps a
//! link alive) have a clock of their own, at a quarter of the rate, and that alone decides for
//! them: bulk that is stopped for seconds by one long packet must not stop them, too. What
//! they take is taken off the rate, and what they leave of it is bulk's.

use core::sync::atomic::AtomicU64;

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use meter_common::Machine;

use crate::atomic;

/// Frames of less than this are small: 256 bytes of IP, as in a shaper's classes.
const SMALL: u32 = 256 + 14;
/// Small packets have this part of the rate.
const SMALL_SHARE: u64 = 4;

/// What is longer is no single frame (jumbo frames have up to 9216 bytes): it is many segments.
const LONGEST_FRAME: u32 = 9216;

const SECOND: u64 = 1_000_000_000;

/// So much of its rate may a silent machine save up, in nanoseconds. It is what keeps TCP
/// going: with less than a few segments at a rate of 64 kbit/s, one that is lost is seldom
/// followed by those that would say so, and the sender waits longer and longer.
const BURST: u64 = SECOND;

/// Whether a packet of a machine passes at this rate, in bytes a second.
#[inline(always)]
pub fn conforms<const SENT: bool>(machine: &Machine, rate: u64, bytes: u64, len: u32) -> bool {
    // SAFETY: takes nothing and gives a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let all = &machine.bulk_clock[SENT as usize];
    let small = &machine.small_clock[SENT as usize];
    let is_small = len < SMALL;
    // Both are read: to choose between two places is arithmetic on an address, which the verifier
    // refuses to a daemon without CAP_PERFMON.
    let (of_all, of_small) = (atomic::load(all), atomic::load(small));
    let Some(saved) = now.checked_sub(if is_small { of_small } else { of_all }) else {
        return false;
    };
    // At no rate at all nothing passes.
    let Some(takes) = (bytes * SECOND).checked_div(rate) else {
        return false;
    };
    // A frame may run into debt, or none would pass at a low rate. Dozens of segments would leave
    // a debt of many seconds, in which TCP loses all that it sends again, and waits twice as long
    // each time; without them it sends fewer at once.
    if len > LONGEST_FRAME && takes > saved.min(BURST) {
        return false;
    }
    set_forward(all, now, takes);
    if is_small {
        set_forward(small, now, takes * SMALL_SHARE);
    }
    true
}

#[inline(always)]
fn set_forward(clock: &AtomicU64, now: u64, takes: u64) {
    let earliest = now.saturating_sub(BURST);
    // Another CPU that lets a packet pass at this very moment may lose its time here, once.
    if atomic::load(clock) < earliest {
        atomic::store(clock, earliest);
    }
    atomic::add(clock, takes);
}
