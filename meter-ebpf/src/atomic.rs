//! Words that other CPUs and the daemon write while we read them.
//!
//! BPF has atomic additions and exchanges since Linux 5.12, and a load or store of an aligned
//! word is a single one. Rust's target of that name claims none of it, so that core's own
//! types have too few methods here; what is behind them works all the same.

use core::{
    intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg, atomic_xadd},
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

/// Adds, and says what was there before. A full barrier.
#[inline(always)]
pub fn fetch_add(word: &AtomicU64, more: u64) -> u64 {
    // SAFETY: as above.
    unsafe { atomic_xadd::<u64, u64, { SeqCst }>(word.as_ptr(), more) }
}

/// Puts `new` in the place of `old`, if that is still there.
#[inline(always)]
pub fn replace(word: &AtomicU64, old: u64, new: u64) {
    // SAFETY: as above.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word.as_ptr(), old, new) };
}
