//! Arrays of the kernel program in our own memory, so that a single word of an element is
//! read and written whole, without the others: a write of an element by bpf(2) would put back
//! what the program has added to its neighbours meanwhile.
#![expect(unsafe_code, reason = "mmap(2) answers with an address")]

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
};

use meter_common::{Arming, Machine, ShortWay};

/// # Safety
/// The type is `repr(C)` and consists of `AtomicU64`s alone: any bytes are a value, and
/// others may write them at any time.
pub(super) unsafe trait Words {}

// SAFETY: as its declaration says.
unsafe impl Words for Machine {}
// SAFETY: as its declaration says.
unsafe impl Words for Arming {}
// SAFETY: as its declaration says.
unsafe impl Words for ShortWay {}

/// Elements of an array that was made with `BPF_F_MMAPABLE`.
pub(super) struct Mapped<T> {
    /// The element at `start`.
    first: NonNull<T>,
    start: u32,
    length: usize,
}

// SAFETY: it is a shared view of atomics, and owns the mapping: no thread is special.
unsafe impl<T: Words> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Words> Sync for Mapped<T> {}

impl<T: Words> Mapped<T> {
    /// These of its elements; they begin where a page does.
    pub(super) fn new(map: BorrowedFd<'_>, elements: Range<u32>) -> io::Result<Self> {
        // An array's elements lie at multiples of their size rounded up to 8.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let length = usize::try_from(elements.end.saturating_sub(elements.start))
            .map_err(io::Error::other)?;
        let offset = u64::from(elements.start) * size_of::<T>() as u64;
        // SAFETY: a new mapping at a place of the kernel's choice; nothing of ours is there.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                libc::off_t::try_from(offset).map_err(io::Error::other)?,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            first,
            start: elements.start,
            length,
        })
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let at = usize::try_from(index.checked_sub(self.start)?).ok()?;
        if at >= self.length {
            return None;
        }
        // SAFETY: within the mapping, which is page-aligned, has `length` elements and lives
        // as long as we. The kernel writes them, too, which the type allows for.
        Some(unsafe { self.first.add(at).as_ref() })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and no reference outlives us.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}
