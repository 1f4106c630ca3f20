//! Memory that nobody needs any more, back to the system: a start, a reload and an answer about
//! all machines take as much again as what stays, and glibc would keep it for good.
#![expect(unsafe_code, reason = "malloc_trim(3) and mallopt(3) are C functions")]

/// All threads allocate from one heap: each other one would keep what was freed in it. The loop
/// is one thread, and the others only carry its answers. To be called before there are threads.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number within the allocator and takes no pointer.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// What was freed and is still kept goes back to the system.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but pages that the allocator has marked free.
    unsafe {
        libc::malloc_trim(0);
    }
}
