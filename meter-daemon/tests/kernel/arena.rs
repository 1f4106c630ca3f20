//! A namespace for the host, one for each guest, and a bpf file system between nobody else.
#![expect(unsafe_code, reason = "namespaces and mounts are made by system calls")]

use std::{
    ffi::CString,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use meter_common::{CountBytes, Counters};
use meter_daemon::host::programs::{Attach, AttachRequest, Hooks, ProgramOptions, Programs};

pub(crate) const SLOTS: u32 = 1024;

/// The host's side: this thread is in its namespaces.
pub(crate) struct Arena {
    folder: PathBuf,
}

/// Runs a test as the host of a new network namespace, with a bpf file system of its own.
pub(crate) fn arena(test: impl FnOnce(&Arena) + Send + 'static) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes network namespaces and loads kernel programs: run it as root"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let host = thread::spawn(move || {
        unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS);
        mount(
            "none",
            Path::new("/"),
            None,
            libc::MS_REC | libc::MS_PRIVATE,
        );
        let bpf = path.join("bpf");
        fs::create_dir(&bpf).unwrap();
        mount("bpf", &bpf, Some("bpf"), 0);
        quiet();
        run("ip link set lo up");
        test(&Arena { folder: path });
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn unshare(flags: libc::c_int) {
    // SAFETY: a system call without pointers. It moves this thread alone, which was spawned to
    // be moved.
    let result = unsafe { libc::unshare(flags) };
    assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
}

fn mount(source: &str, target: &Path, kind: Option<&str>, flags: libc::c_ulong) {
    let source = CString::new(source).unwrap();
    let target = CString::new(target.to_str().unwrap()).unwrap();
    let kind = kind.map(|kind| CString::new(kind).unwrap());
    let kind = kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr());
    // SAFETY: all strings are NUL-terminated and live until after the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind,
            flags,
            std::ptr::null(),
        )
    };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
}

/// What would count without our saying so: router solicitations and the like, and the options
/// that TCP adds to acknowledgements of what overtook something.
fn quiet() {
    fs::write("/proc/sys/net/ipv4/tcp_sack", "0").unwrap();
    for place in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{place}/disable_ipv6"), "1").unwrap();
    }
}

impl Arena {
    pub(crate) fn pin_directory(&self) -> PathBuf {
        self.folder.join("bpf").join("meterd")
    }

    pub(crate) fn runtime_directory(&self) -> PathBuf {
        self.folder.join("run")
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn options(&self) -> ProgramOptions {
        ProgramOptions {
            pin_directory: self.pin_directory(),
            runtime_directory: self.runtime_directory(),
            count_bytes: CountBytes::Wire,
            slots: SLOTS,
            attach: Attach::Auto,
        }
    }

    pub(crate) fn open(&self) -> Programs {
        Programs::open(&self.options(), 7).unwrap()
    }

    pub(crate) fn open_clsact(&self) -> Programs {
        let options = ProgramOptions {
            attach: Attach::Clsact,
            ..self.options()
        };
        Programs::open(&options, 7).unwrap()
    }

    /// What is below the bpf file system, sorted, without the kernel's own two files.
    pub(crate) fn pins(&self) -> Vec<String> {
        let mut found = Vec::new();
        let bpf = self.folder.join("bpf");
        let mut folders = vec![bpf.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(&bpf).unwrap().display().to_string());
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found.retain(|path| !path.ends_with(".debug"));
        found.sort();
        found
    }
}

/// Asks for one interface, and expects it to be given.
pub(crate) fn attach(programs: &mut Programs, ifindex: u32, slot: u32) -> Hooks {
    let request = AttachRequest {
        ifindex,
        slot,
        generation: 1,
        machine: slot,
    };
    let results = programs.attach(&[request]);
    let [(_, result)] = <[_; 1]>::try_from(results).unwrap();
    result.unwrap()
}

pub(crate) fn both(programs: &Programs, slot: u32) -> [Counters; 2] {
    let reading = programs.reading(slot).unwrap();
    [reading.received, reading.sent]
}

/// A guest in a network namespace of its own, wired to the host's.
pub(crate) struct Guest {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    /// 10.0.<number>.1 is the host, .2 the guest.
    number: u8,
}

impl Guest {
    /// Wires a guest by a veth whose host's end has that name.
    pub(crate) fn new(number: u8) -> Self {
        Self::with(number, "")
    }

    /// The same, with an index of our choice.
    pub(crate) fn with_ifindex(number: u8, ifindex: u32) -> Self {
        Self::with(number, &format!("index {ifindex}"))
    }

    fn with(number: u8, index: &str) -> Self {
        let name = format!("tap{number}");
        let (jobs, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            unshare(libc::CLONE_NEWNET);
            quiet();
            ready
                .send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            for job in inbox {
                job();
            }
        });
        let thread = started.recv().unwrap();
        run(&format!(
            "ip link add {name} {index} address 02:00:00:00:00:01 type veth \
             peer name eth0 address 02:00:00:00:00:02 netns {thread}"
        ));
        run(&format!("ip address add 10.0.{number}.1/24 dev {name}"));
        run(&format!("ip link set {name} up"));
        let guest = Self {
            jobs,
            ifindex: ifindex(&name),
            name,
            number,
        };
        let (host, own) = (guest.host(), guest.address());
        guest.run(move || {
            run("ip link set lo up");
            run(&format!("ip address add {own}/24 dev eth0"));
            run("ip link set eth0 up");
            run(&format!(
                "ip neigh add {host} lladdr 02:00:00:00:00:01 dev eth0 nud permanent"
            ));
        });
        run(&format!(
            "ip neigh add {} lladdr 02:00:00:00:00:02 dev {} nud permanent",
            guest.address(),
            guest.name
        ));
        guest
    }

    pub(crate) fn host(&self) -> String {
        format!("10.0.{}.1", self.number)
    }

    pub(crate) fn address(&self) -> String {
        format!("10.0.{}.2", self.number)
    }

    /// Runs something inside the guest and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move || sender.send(job()).unwrap()))
            .unwrap();
        result.recv().expect("the guest's job panicked")
    }

    /// Sends so many datagrams with so much payload, each way.
    pub(crate) fn exchange(&self, count: usize, payload: usize) {
        let target = (self.host(), 9999);
        let outside = UdpSocket::bind((self.host(), 9999)).unwrap();
        let (own, from) = ((self.address(), 9999), (self.address(), 9999));
        // Held until the end: a closed port would answer.
        let _inside = self.run(move || {
            let inside = UdpSocket::bind(own).unwrap();
            for _ in 0..count {
                inside.send_to(&vec![0; payload], target.clone()).unwrap();
            }
            inside
        });
        for _ in 0..count {
            outside.send_to(&vec![0; payload], from.clone()).unwrap();
        }
    }

    /// Uploads over TCP, and calls `quiet` when all has arrived and the connection is still
    /// open. Also says what each end's kernel sent until then, in bytes of frames: the host's,
    /// then the guest's. It asks nothing but TCP's own count of segments, which knows nothing
    /// of what is tested.
    pub(crate) fn upload<T>(&self, volume: usize, quiet: impl FnOnce() -> T) -> ([u64; 2], T) {
        let listener = TcpListener::bind((self.host(), 8888)).unwrap();
        let target = (self.host(), 8888);
        let (answer, answered) = mpsc::channel();
        let (ask, asked) = mpsc::channel::<()>();
        let guest = move || {
            let mut stream = TcpStream::connect(target).unwrap();
            stream.write_all(&vec![0; volume]).unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            asked.recv().unwrap();
            answer.send(frames(&stream)).unwrap();
            asked.recv().unwrap();
        };
        self.jobs.send(Box::new(guest)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut vec![0; volume]).unwrap();
        stream.write_all(b"done").unwrap();
        // The guest may hold back its acknowledgement for some 40 ms.
        wait_until("the last word is acknowledged", || {
            unacknowledged(&stream) == 0
        });
        ask.send(()).unwrap();
        // The SYN-ACK, with time stamps and the options of a first segment, was sent before
        // this end's count began.
        let sent = [frames(&stream) + 66, answered.recv().unwrap()];
        let seen = quiet();
        ask.send(()).unwrap();
        (sent, seen)
    }
}

/// Waits for a condition, not for ever.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain until {what}");
}

fn tcp_info(stream: &TcpStream) -> [u8; 256] {
    let mut info = [0u8; 256];
    let mut length: libc::socklen_t = 256;
    // SAFETY: the kernel writes at most `length` bytes at `info`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    info
}

fn unacknowledged(stream: &TcpStream) -> u32 {
    u32::from_ne_bytes(tcp_info(stream)[24..28].try_into().unwrap())
}

/// Payload and segments that this end sent, as frames: each segment has 14 bytes of Ethernet,
/// 20 of IPv4 and 32 of TCP with time stamps, and the first (SYN or SYN-ACK) 8 more.
fn frames(stream: &TcpStream) -> u64 {
    let info = tcp_info(stream);
    let segments = u32::from_ne_bytes(info[136..140].try_into().unwrap());
    let payload = u64::from_ne_bytes(info[200..208].try_into().unwrap());
    payload + u64::from(segments) * 66 + 8
}

/// A real tap, with this process in the place of QEMU.
pub(crate) struct Tap(fs::File);

impl Tap {
    pub(crate) fn new(name: &str) -> Self {
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        const TAP_WITH_VIRTIO_HEADER: u16 = 0x0002 | 0x1000 | 0x4000;
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .unwrap();
        // A name of 16 bytes, flags, and the rest of struct ifreq.
        let mut request = [0u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&TAP_WITH_VIRTIO_HEADER.to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes a struct ifreq, which is 40 bytes.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        run(&format!("ip link set {name} up"));
        Self(file)
    }

    /// Hands over an IPv4 packet of TCP whose segmentation and checksum the guest left to us.
    pub(crate) fn send_offloaded(&self, frame: &[u8], segment: u16) {
        const NEEDS_CHECKSUM: u8 = 1;
        const TCP_OVER_IPV4: u8 = 1;
        let mut packet = vec![NEEDS_CHECKSUM, TCP_OVER_IPV4];
        // Length of the headers, of a segment, and where the checksum starts and stands.
        for number in [66, segment, 34, 16] {
            packet.extend(number.to_ne_bytes());
        }
        packet.extend(frame);
        assert_eq!((&self.0).write(&packet).unwrap(), packet.len());
    }
}

/// Sends a frame as it is.
pub(crate) fn send_frame(name: &str, frame: &[u8]) {
    let address = libc::sockaddr_ll {
        sll_family: 17,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(ifindex(name)).unwrap(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the frame and the address live until after the calls, which only read them, and
    // their lengths are given; the descriptor is ours.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        let sent = libc::sendto(
            socket,
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            20,
        );
        assert_eq!(
            sent.cast_unsigned(),
            frame.len(),
            "{}",
            std::io::Error::last_os_error()
        );
        libc::close(socket);
    }
}

pub(crate) fn ifindex(name: &str) -> u32 {
    // By netlink: /sys shows the namespace in which it was mounted.
    let name = CString::new(name).unwrap();
    // SAFETY: the name is NUL-terminated and lives until after the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {name:?}");
    index
}

/// Runs a command in this thread's namespaces and gives what it printed.
pub(crate) fn run(command: &str) -> String {
    feed(command, "")
}

/// The same, with something on its standard input.
pub(crate) fn feed(command: &str, input: &str) -> String {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
