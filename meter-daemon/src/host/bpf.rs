//! The calls of bpf(2) that aya does not offer: links by ifindex, what stands on a hook, and
//! counters read many at a time.
#![expect(unsafe_code, reason = "bpf(2) takes pointers inside an untyped union")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;

/// `BPF_MPROG_MAX`: more programs do not fit on one hook.
const MOST_PROGRAMS: usize = 64;

/// What a batch may take of our memory.
const BATCH_BYTES: usize = 1 << 20;

/// A tcx hook: `BPF_TCX_INGRESS` or `BPF_TCX_EGRESS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachType {
    Ingress = 46,
    Egress = 47,
}

/// Where among the programs of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Last,
}

/// Calls bpf(2) with one of the variants of `union bpf_attr`.
///
/// # Safety
/// `T` must be laid out as the variant that `command` reads, without padding bytes, and every
/// address in it must be valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at this address, which is a
    // whole, exclusively borrowed T. It takes what a shorter T leaves out as zero. For what
    // the fields point at, the caller answers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// As [`bpf`], for commands that open a file descriptor.
///
/// # Safety
/// As [`bpf`], and `command` must answer with a new file descriptor.
unsafe fn bpf_open<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller answers for the attributes.
    let fd = unsafe { bpf(command, attributes)? };
    // SAFETY: the command succeeded, so this is a descriptor that was opened for us just now
    // and that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn address<T: ?Sized>(pointer: *const T) -> u64 {
    // An address has no more bits than that on any machine that Linux runs on.
    pointer.cast::<u8>().addr() as u64
}

/// Attaches a program to a hook of an interface of this thread's network namespace. By index,
/// since a name may be given to another interface before the call is made. The program stays
/// for as long as the link is open or pinned.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: AttachType,
    place: Place,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        reserved: u32,
        expected_revision: u64,
    }
    let mut attributes = LinkCreate {
        program: number(program),
        ifindex,
        attach_type: hook as u32,
        // Without a relative these mean the head and the tail.
        flags: match place {
            Place::First => BPF_F_BEFORE,
            Place::Last => BPF_F_AFTER,
        },
        relative: 0,
        reserved: 0,
        expected_revision: 0,
    };
    // SAFETY: laid out as `link_create` with its `tcx` part, which holds no pointer; the
    // command answers with the link's descriptor.
    unsafe { bpf_open(BPF_LINK_CREATE, &mut attributes) }
}

/// Puts another program in the place of a link's, between two packets.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes: [u32; 4] = [number(link), number(program), 0, 0];
    // SAFETY: laid out as `link_update`: link, new program, flags, old program. No pointer.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attributes) }.map(drop)
}

/// Takes a link's program off its hook now. Closing the last descriptor would do it, too, but
/// some time later.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes: [u32; 1] = [number(link)];
    // SAFETY: laid out as `link_detach`. No pointer.
    unsafe { bpf(BPF_LINK_DETACH, &mut attributes) }.map(drop)
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Gives a link, map or program a name on a bpf file system.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Object {
        path: address(path.as_ptr()),
        fd: number(object),
        flags: 0,
    };
    // SAFETY: laid out as the variant of BPF_OBJ_*; the path is NUL-terminated and lives until
    // after the call, which only reads it.
    unsafe { bpf(BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Opens what is pinned there.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Object {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: as above; this command answers with a descriptor of the object.
    unsafe { bpf_open(BPF_OBJ_GET, &mut attributes) }
}

/// The ids of the programs on a tcx hook, in the order in which packets meet them.
pub(super) fn programs_on(ifindex: u32, hook: AttachType) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Query {
        ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        program_ids: u64,
        count: u32,
        reserved: u32,
        program_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut attributes = Query {
        ifindex,
        attach_type: hook as u32,
        query_flags: 0,
        attach_flags: 0,
        program_ids: address(ids.as_mut_ptr()),
        count: 64,
        reserved: 0,
        program_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    const _: () = assert!(MOST_PROGRAMS == 64);
    // SAFETY: laid out as `query`. The kernel writes at most `count` u32s at `program_ids`,
    // and the array has as many; where the other addresses are 0 it writes nothing.
    unsafe { bpf(BPF_PROG_QUERY, &mut attributes)? };
    let count = usize::try_from(attributes.count).map_err(io::Error::other)?;
    Ok(ids.into_iter().take(count).collect())
}

/// A per-CPU array of one u64 that nobody else knows of.
pub(super) fn create_per_cpu_array() -> io::Result<OwnedFd> {
    const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;
    // Type, size of a key, size of a value, entries, flags.
    let mut attributes: [u32; 5] = [BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1, 0];
    // SAFETY: laid out as the variant of BPF_MAP_CREATE, which holds no pointer; the command
    // answers with the map's descriptor.
    unsafe { bpf_open(BPF_MAP_CREATE, &mut attributes) }
}

/// Reads the first `total` elements of an array, many with one call: `each` gets the index
/// and the element, of a per-CPU array every possible CPU's copy. (Batches of arrays came with
/// Linux 5.6, of per-CPU arrays with 5.13.)
pub(super) fn read_array<T: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    copies: usize,
    total: u32,
    mut each: impl FnMut(u32, &[T]),
) -> io::Result<()> {
    #[repr(C)]
    struct Batch {
        after: u64,
        last: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }
    let element = copies * size_of::<T>();
    let length = (BATCH_BYTES / element).max(1).min(total.max(1) as usize);
    let mut keys = vec![0u32; length];
    let mut values = vec![T::default(); length * copies];
    let (mut after, mut last) = (0u32, 0u32);
    let mut read = 0;
    while read < total {
        let mut attributes = Batch {
            after: if read == 0 {
                0
            } else {
                address(&raw const after)
            },
            last: address(&raw mut last),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: u32::try_from(length)
                .map_err(io::Error::other)?
                .min(total - read),
            map: number(map),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: laid out as `batch`. The kernel reads one u32 at `after`, writes one at
        // `last`, at most `count` u32s at `keys`, and at most `count` elements at `values`,
        // each of `element` bytes: the caller names the map's own value type, whose size is a
        // multiple of 8 where the map is per CPU (checked by `shapes`), and the number of
        // possible CPUs. Both vectors have room for `length` of these, and `count` is not
        // above that. T is Pod: whatever is written is a value.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        let ended = match result {
            Ok(_) => false,
            // The map ends within this batch; what there was has been written.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = usize::try_from(attributes.count).map_err(io::Error::other)?;
        for (key, value) in keys.iter().zip(values.chunks_exact(copies)).take(count) {
            each(*key, value);
        }
        if ended || count == 0 {
            return Ok(());
        }
        read += attributes.count;
        after = last;
    }
    Ok(())
}

/// Reads every possible CPU's copy of one element of a per-CPU array.
pub(super) fn read_element<T: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    copies: usize,
    index: u32,
) -> io::Result<Vec<T>> {
    #[repr(C)]
    struct Element {
        map: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut values = vec![T::default(); copies];
    let mut attributes = Element {
        map: number(map),
        reserved: 0,
        key: address(&raw const index),
        value: address(values.as_mut_ptr()),
        flags: 0,
    };
    // SAFETY: laid out as the variant of BPF_MAP_*_ELEM. The kernel reads one u32 at `key` and
    // writes one element at `value`, whose size is that of the vector, as above.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes)? };
    Ok(values)
}
