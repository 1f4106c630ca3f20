//! The system calls that rustix has no safe form of. The only `unsafe` of the tests.
#![expect(
    unsafe_code,
    reason = "raw socket options, ioctls, bpf(2) and a packet ring have no safe wrapper"
)]

use std::{
    ffi::c_int,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

/// The calling thread leaves its network namespace, and with `mounts` its mount namespace.
pub(crate) fn unshare(mounts: bool) -> io::Result<()> {
    let mut flags = rustix::thread::UnshareFlags::NEWNET;
    if mounts {
        flags |= rustix::thread::UnshareFlags::NEWNS;
    }
    // SAFETY: FILES, which is what could pull descriptors from under other threads, is not
    // among the flags.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// `command`'s process is killed by the kernel when the calling thread ends, however that is.
pub(crate) fn end_with_this_thread(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec; prctl is a plain system call without
    // allocation or locks.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}

/// `command` runs as a user without any privilege.
pub(crate) fn without_privilege(command: &mut Command) {
    command.uid(65534).gid(65534);
}

/// Set by the handler of [`note_interrupts`].
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the first SIGINT or SIGTERM is only noted; a second one ends the process.
pub(crate) fn note_interrupts() -> io::Result<()> {
    extern "C" fn note(signal: c_int) {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            // SAFETY: both calls are among those that a signal handler may make
            // (signal-safety(7)), and change nothing but what this signal does.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }
    let handler: extern "C" fn(c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler has the type that signal(2) asks for and calls nothing that may
        // not be called between any two instructions.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

/// setsockopt with an `int`.
pub(crate) fn set_option(fd: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer is to a c_int of this frame and its length is given.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length_of::<c_int>(),
        )
    })?;
    Ok(())
}

/// getsockopt into bytes; returns how many the kernel wrote.
pub(crate) fn get_option(
    fd: impl AsFd,
    level: c_int,
    name: c_int,
    into: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(into.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes into `into`, which is so long.
    check(unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            into.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    usize::try_from(length).map_err(io::Error::other)
}

/// An ioctl on an interface by name, with `bytes` as what follows the name in `ifreq`.
pub(crate) fn interface_ioctl(
    fd: impl AsFd,
    request: libc::c_ulong,
    name: &str,
    bytes: [u8; 24],
) -> io::Result<()> {
    let mut ifreq = [0_u8; 40];
    if name.len() >= 16 {
        return Err(io::Error::other("an interface's name has at most 15 bytes"));
    }
    ifreq[..name.len()].copy_from_slice(name.as_bytes());
    ifreq[16..].copy_from_slice(&bytes);
    // SAFETY: `ifreq` is as long as struct ifreq (40 bytes). Callers pass a union that holds
    // plain values; the one that holds a pointer is `ethtool`, below, which keeps it alive.
    check(unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            request as libc::Ioctl,
            ifreq.as_mut_ptr(),
        )
    })?;
    Ok(())
}

/// An ethtool command that takes one value.
pub(crate) fn ethtool(fd: impl AsFd, name: &str, command: u32, value: u32) -> io::Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut request = [command, value];
    let mut bytes = [0_u8; 24];
    bytes[..8].copy_from_slice(&(request.as_mut_ptr() as usize).to_ne_bytes());
    let result = interface_ioctl(fd, SIOCETHTOOL, name, bytes);
    // The kernel has written through the pointer: the array must be alive until here.
    std::hint::black_box(&request);
    result
}

/// An ioctl that takes an integer by value.
pub(crate) fn value_ioctl(
    fd: impl AsFd,
    request: libc::c_ulong,
    value: libc::c_ulong,
) -> io::Result<()> {
    // SAFETY: the requests used here (TUNSETOFFLOAD) read the argument as a number.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, value) })?;
    Ok(())
}

/// An AF_PACKET socket that sees and sends everything on one interface.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed; the descriptor that comes back is nobody else's. Protocol
    // 0: nothing is queued before the socket is bound to its interface.
    let fd =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: just made, and owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a packet socket to an interface, for every protocol.
pub(crate) fn bind_packet(fd: impl AsFd, ifindex: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL)
            .map_err(io::Error::other)?
            .to_be(),
        sll_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is of this frame and its length is given.
    check(unsafe {
        libc::bind(
            fd.as_fd().as_raw_fd(),
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    })?;
    Ok(())
}

/// How many bytes of a frame the ring keeps: enough for a TCP header behind IPv6 and two tags.
pub(crate) const RING_FRAME: usize = 192;

/// A TPACKET_V2 ring: the kernel writes what it sees, we read it later.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: NonNull<u8>,
    frames: usize,
    next: usize,
}

// SAFETY: the memory is the mapping's own; whoever holds the Ring is its only reader.
unsafe impl Send for Ring {}

impl Ring {
    /// Room for `frames` on this socket; a multiple of 21 845 is rounded down to whole blocks.
    pub(crate) fn map(fd: impl AsFd, frames: usize) -> io::Result<Self> {
        const BLOCK: usize = 1 << 20;
        let per_block = BLOCK / RING_FRAME;
        let blocks = frames.div_ceil(per_block);
        let number = |n: usize| u32::try_from(n).map_err(io::Error::other);
        let request = libc::tpacket_req {
            tp_block_size: number(BLOCK)?,
            tp_block_nr: number(blocks)?,
            tp_frame_size: number(RING_FRAME)?,
            tp_frame_nr: number(blocks * per_block)?,
        };
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_VERSION, 1)?;
        // SAFETY: the request is of this frame and its length is given.
        check(unsafe {
            libc::setsockopt(
                fd.as_fd().as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_RX_RING,
                (&raw const request).cast(),
                length_of::<libc::tpacket_req>(),
            )
        })?;
        // SAFETY: a new shared mapping of the ring just asked for, of exactly its size; it is
        // unmapped in Drop and nowhere else.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                blocks * BLOCK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self {
            memory,
            frames: blocks * per_block,
            next: 0,
        })
    }

    fn offset(&self) -> usize {
        const BLOCK: usize = 1 << 20;
        let per_block = BLOCK / RING_FRAME;
        (self.next / per_block) * BLOCK + (self.next % per_block) * RING_FRAME
    }

    /// The next frame's bytes (header, address and the beginning of the frame), or None while
    /// the kernel has written no further.
    pub(crate) fn take(&mut self) -> Option<[u8; RING_FRAME]> {
        // SAFETY: `offset` lies inside the mapping; the status is the first word of a frame
        // and the one word that kernel and reader both touch while the other may.
        let status =
            unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(self.offset()).cast::<u32>()) };
        if status.load(Ordering::Acquire) & 1 == 0 {
            return None;
        }
        let mut bytes = [0; RING_FRAME];
        // SAFETY: the status says that the frame is ours until we hand it back; it is
        // RING_FRAME long and inside the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.memory.as_ptr().add(self.offset()),
                bytes.as_mut_ptr(),
                RING_FRAME,
            );
        }
        status.store(0, Ordering::Release);
        self.next = (self.next + 1) % self.frames;
        Some(bytes)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        const BLOCK: usize = 1 << 20;
        let blocks = self.frames / (BLOCK / RING_FRAME);
        // SAFETY: the whole mapping made in `map`, which nothing refers to any more. That it
        // cannot be unmapped would be a bug here and harms nothing but our address space.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), blocks * BLOCK) };
    }
}

/// bpf(2). Every pointer in an attribute is made here, from a slice that outlives the call.
pub(crate) mod bpf {
    use super::{FromRawFd, OwnedFd, check, io};
    use std::os::fd::{AsFd, AsRawFd};

    const MAP_CREATE: u32 = 0;
    const MAP_LOOKUP: u32 = 1;
    const MAP_UPDATE: u32 = 2;
    const PROG_LOAD: u32 = 5;
    const OBJ_GET: u32 = 7;
    const PROG_TEST_RUN: u32 = 10;
    const PROG_GET_FD_BY_ID: u32 = 13;
    const OBJ_GET_INFO: u32 = 15;
    const PROG_QUERY: u32 = 16;
    const LINK_CREATE: u32 = 28;

    #[derive(Clone)]
    struct Attributes([u64; 18]);

    impl Attributes {
        fn new() -> Self {
            Self([0; 18])
        }

        fn u32(mut self, offset: usize, value: u32) -> Self {
            let (word, shift) = (offset / 8, (offset % 8) * 8);
            // Little endian, as every machine that the kernel program is built for.
            self.0[word] = self.0[word] & !(0xffff_ffff << shift) | u64::from(value) << shift;
            self
        }

        fn read_u32(&self, offset: usize) -> u32 {
            u32::try_from(self.0[offset / 8] >> ((offset % 8) * 8) & 0xffff_ffff)
                .unwrap_or_default()
        }

        fn address<T>(mut self, offset: usize, of: *const T) -> Self {
            self.0[offset / 8] = of as usize as u64;
            self
        }

        /// # Safety
        /// Every address in the attributes must be good for what `command` does with it.
        unsafe fn call(&mut self, command: u32) -> io::Result<i32> {
            // SAFETY: the attributes are 144 bytes, which is the length given; the caller
            // vouches for what they point to.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    libc::c_ulong::from(command),
                    self.0.as_mut_ptr(),
                    libc::c_ulong::try_from(size_of_val(&self.0)).unwrap_or_default(),
                )
            };
            check(i32::try_from(result).map_err(io::Error::other)?)
        }

        /// # Safety
        /// As [`Self::call`], and `command` must answer with a descriptor.
        unsafe fn open(&mut self, command: u32) -> io::Result<OwnedFd> {
            // SAFETY: the caller's word.
            let fd = unsafe { self.call(command) }?;
            // SAFETY: the kernel just made it for us.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
    }

    fn raw(fd: impl AsFd) -> u32 {
        u32::try_from(fd.as_fd().as_raw_fd()).unwrap_or_default()
    }

    /// One instruction: its code, registers (source << 4 | destination), offset, immediate.
    pub(crate) fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
        let [o0, o1] = offset.to_le_bytes();
        let [i0, i1, i2, i3] = immediate.to_le_bytes();
        u64::from_le_bytes([code, registers, o0, o1, i0, i1, i2, i3])
    }

    /// An array of one element of `value` bytes.
    pub(crate) fn array_map(value: u32) -> io::Result<OwnedFd> {
        const ARRAY: u32 = 2;
        map(ARRAY, value, 1)
    }

    /// A map of this kind, with keys of four bytes.
    pub(crate) fn map(kind: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
        let mut attributes = Attributes::new()
            .u32(0, kind)
            .u32(4, 4)
            .u32(8, value)
            .u32(12, entries);
        // SAFETY: no addresses.
        unsafe { attributes.open(MAP_CREATE) }
    }

    /// The value under `key`; per-CPU maps write one value a CPU, rounded up to 8 bytes.
    pub(crate) fn lookup(map: impl AsFd, key: &[u8], value: &mut [u8]) -> io::Result<()> {
        let info = info(&map)?;
        let key_size = u32::from_ne_bytes([info[8], info[9], info[10], info[11]]);
        let value_size = u32::from_ne_bytes([info[12], info[13], info[14], info[15]]);
        let kind = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        // Types 5, 6 and 10 are per CPU.
        let cpus = if matches!(kind, 5 | 6 | 10) {
            possible_cpus()?
        } else {
            1
        };
        let needed = value_size.next_multiple_of(8) as usize * cpus;
        if key.len() != key_size as usize || value.len() < needed {
            return Err(io::Error::other(format!(
                "the map has keys of {key_size} and values of {needed} bytes, not {} and {}",
                key.len(),
                value.len()
            )));
        }
        let mut attributes = Attributes::new()
            .u32(0, raw(map))
            .address(8, key.as_ptr())
            .address(16, value.as_mut_ptr());
        // SAFETY: key and value are as long as the map says, checked above.
        unsafe { attributes.call(MAP_LOOKUP) }?;
        Ok(())
    }

    /// An entry of all zeroes under `key`, in a map made by [`map`].
    pub(crate) fn insert_zero(map: impl AsFd, key: u32) -> io::Result<()> {
        let info = info(&map)?;
        let size = u32::from_ne_bytes([info[12], info[13], info[14], info[15]]) as usize;
        let value = vec![0_u8; size.next_multiple_of(8) * possible_cpus()?];
        let mut attributes = Attributes::new()
            .u32(0, raw(map))
            .address(8, &raw const key)
            .address(16, value.as_ptr());
        // SAFETY: a key of four bytes, as such maps have, and as many as a per-CPU value takes.
        unsafe { attributes.call(MAP_UPDATE) }.map(drop)
    }

    /// How many CPUs a per-CPU value has room for.
    pub(crate) fn possible_cpus() -> io::Result<usize> {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
        let last = text.trim().rsplit(['-', ',']).next().unwrap_or("0");
        Ok(last.parse::<usize>().map_err(io::Error::other)? + 1)
    }

    /// Loads a sched_cls program.
    pub(crate) fn load(instructions: &[u64], expected_attach_type: u32) -> io::Result<OwnedFd> {
        const SCHED_CLS: u32 = 3;
        let mut log = vec![0_u8; 65536];
        let mut attributes = Attributes::new()
            .u32(0, SCHED_CLS)
            .u32(
                4,
                u32::try_from(instructions.len()).map_err(io::Error::other)?,
            )
            .address(8, instructions.as_ptr())
            .address(16, c"GPL".as_ptr())
            .u32(24, 1)
            .u32(28, 65536)
            .address(32, log.as_mut_ptr())
            .u32(68, expected_attach_type);
        // prog_name, at byte 48.
        attributes.0[6] = u64::from_le_bytes(*b"foreign\0");
        // SAFETY: instructions, licence and log live in this frame and their lengths are given.
        unsafe { attributes.open(PROG_LOAD) }.map_err(|error| {
            let said = String::from_utf8_lossy(&log);
            io::Error::other(format!("{error}: {}", said.trim_end_matches('\0')))
        })
    }

    /// Has the kernel run a program so many times on a frame, with this `struct __sk_buff`
    /// before each; nanoseconds a run.
    pub(crate) fn test_run(
        program: impl AsFd,
        frame: &[u8],
        context: &[u8],
        repeat: u32,
    ) -> io::Result<u32> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let mut attributes = Attributes::new()
            .u32(0, raw(program))
            .u32(8, length(frame)?)
            .address(16, frame.as_ptr())
            .u32(32, repeat)
            .u32(40, length(context)?)
            .address(48, context.as_ptr());
        // SAFETY: the kernel reads frame and context, whose lengths are given, and writes
        // neither: no room for output is named.
        unsafe { attributes.call(PROG_TEST_RUN) }?;
        Ok(attributes.read_u32(36))
    }

    /// A link of a program to a TCX hook; `flags` are BPF_F_BEFORE or BPF_F_AFTER or 0.
    pub(crate) fn tcx_link(
        program: impl AsFd,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    ) -> io::Result<OwnedFd> {
        let mut attributes = Attributes::new()
            .u32(0, raw(program))
            .u32(4, ifindex)
            .u32(8, attach_type)
            .u32(12, flags);
        // SAFETY: no addresses.
        unsafe { attributes.open(LINK_CREATE) }
    }

    /// Ids of the programs on a TCX hook, in order.
    pub(crate) fn query(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
        let mut ids = [0_u32; 64];
        let mut attributes = Attributes::new()
            .u32(0, ifindex)
            .u32(4, attach_type)
            .address(16, ids.as_mut_ptr())
            .u32(24, 64);
        // SAFETY: the kernel writes at most 64 ids, which there is room for.
        unsafe { attributes.call(PROG_QUERY) }?;
        let count = attributes.read_u32(24) as usize;
        Ok(ids[..count.min(64)].to_vec())
    }

    /// The program of this id.
    pub(crate) fn program(id: u32) -> io::Result<OwnedFd> {
        let mut attributes = Attributes::new().u32(0, id);
        // SAFETY: no addresses.
        unsafe { attributes.open(PROG_GET_FD_BY_ID) }
    }

    /// What is pinned at a path.
    pub(crate) fn pinned(path: &std::ffi::CStr) -> io::Result<OwnedFd> {
        let mut attributes = Attributes::new().address(0, path.as_ptr());
        // SAFETY: a C string that outlives the call.
        unsafe { attributes.open(OBJ_GET) }
    }

    /// What the kernel says of a program, map or link.
    pub(crate) fn info(of: impl AsFd) -> io::Result<[u8; 256]> {
        let mut info = [0_u8; 256];
        let mut attributes = Attributes::new()
            .u32(0, raw(of))
            .u32(4, 256)
            .address(8, info.as_mut_ptr());
        // SAFETY: the kernel writes at most the 256 bytes that there are.
        unsafe { attributes.call(OBJ_GET_INFO) }?;
        Ok(info)
    }
}
