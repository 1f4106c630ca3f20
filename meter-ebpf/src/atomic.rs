//! Words that other CPUs and the daemon write while we read them.
//!
//! BPF has an atomic addition, and a load or store of an aligned word is a single one. Rust's
//! target of that name claims none of it, so that core's own types have too few methods here;
//! what is behind them works all the same.

use core::{
    intrinsics::{AtomicOrdering::SeqCst, atomic_xadd},
    ptr,
    sync::atomic::AtomicU64,
};

/// One load, of what is there now.
#[inline(always)]
pub fn load(word: &AtomicU64) -> u64 {
    // SAFETY: an aligned word that lives as long as the reference. Volatile, so that it is
    // read once, where it stands, and whole.
    unsafe { ptr::read_volatile(word.as_ptr()) }
}

/// One store.
#[inline(always)]
pub fn store(word: &AtomicU64, value: u64) {
    // SAFETY: as above, and its type lets everybody write it at any time.
    unsafe { ptr::write_volatile(word.as_ptr(), value) }
}

/// Adds, whoever else adds at the same time. On x86 it is a full barrier, too: what is loaded
/// behind it is not older than the addition.
#[inline(always)]
pub fn add(word: &AtomicU64, more: u64) {
    // SAFETY: as above. Its answer is not used: an addition that answers is of a later
    // instruction set (v3), whose 32-bit registers the verifier of Linux 6.1 does not let a
    // process without CAP_PERFMON keep on the stack beside a map's key.
    unsafe { atomic_xadd::<u64, u64, { SeqCst }>(word.as_ptr(), more) };
}
