//! Network namespaces of a test's own, each a thread that lives in one; they go with it.

#![allow(
    dead_code,
    reason = "each test binary takes what it needs of this module"
)]

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with its loopback up.
pub(crate) struct Netns {
    /// The thread that is in it: `ip link … netns ID`.
    pub(crate) thread_id: i32,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Netns {
    /// Makes one. Fails the test, with the reason, where that is not allowed.
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and needs root: run it with sudo"
        );
        let (jobs, received) = mpsc::channel::<Job>();
        let (started, ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            enter_new_namespace();
            started.send(gettid().as_raw_nonzero().get()).unwrap();
            for job in received {
                job();
            }
        });
        let namespace = Self {
            thread_id: ready.recv().expect("a network namespace can be made"),
            jobs: Some(jobs),
            thread: Some(thread),
        };
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Runs `work` inside; threads and commands started there are inside, too.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (result, received) = mpsc::channel();
        let job = move || drop(result.send(work()));
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        received
            .recv()
            .expect("what ran in the namespace succeeded")
    }

    /// Runs a future inside.
    pub(crate) fn block_on<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.run(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(work())
        })
    }

    /// Runs shell commands inside; they must succeed.
    pub(crate) fn sh(&self, commands: &str) -> String {
        let commands = commands.to_owned();
        self.run(move || sh(&commands))
    }

    /// The ifindex that a name has inside.
    pub(crate) fn ifindex(&self, name: &str) -> u32 {
        let shown = self.sh(&format!("ip -o link show dev {name}"));
        shown.split(':').next().unwrap().trim().parse().unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[expect(
    unsafe_code,
    reason = "unshare() is unsafe for flags that threads must not have of their own"
)]
fn enter_new_namespace() {
    // SAFETY: a network namespace and a mount namespace of a thread's own change nothing that
    // Rust's library takes to be common to all threads (which is the table of descriptors).
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .expect("a network namespace of one's own");
}

/// Runs shell commands in the namespace of the calling thread; they must succeed.
pub(crate) fn sh(commands: &str) -> String {
    let output = Command::new("sh")
        .args(["-e", "-c", commands])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{commands}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A node and a guest, joined by a veth: `tap` on the node's side, `eth0` on the guest's.
pub(crate) struct Pair {
    /// 10.9.0.1.
    pub(crate) node: Netns,
    /// 10.9.0.2.
    pub(crate) guest: Netns,
    /// Of `tap`.
    pub(crate) tap: u32,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let (node, guest) = (Netns::new(), Netns::new());
        // No packets but the test's own: no IPv6, and below, no ARP.
        for namespace in [&node, &guest] {
            namespace.sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        }
        let id = guest.thread_id;
        node.sh(&format!(
            "ip link add tap type veth peer name eth0 netns {id}; ip link set tap up
             ip addr add 10.9.0.1/24 dev tap"
        ));
        guest.sh("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0");
        let [of_tap, of_eth0] = [(&node, "tap"), (&guest, "eth0")].map(|(namespace, name)| {
            let shown = namespace.sh(&format!("ip -o link show {name}"));
            let mut words = shown.split_whitespace();
            words.find(|word| *word == "link/ether");
            words.next().unwrap().to_owned()
        });
        node.sh(&format!(
            "ip neigh replace 10.9.0.2 lladdr {of_eth0} dev tap nud permanent"
        ));
        guest.sh(&format!(
            "ip neigh replace 10.9.0.1 lladdr {of_tap} dev eth0 nud permanent"
        ));
        let tap = node.ifindex("tap");
        Self { node, guest, tap }
    }
}

/// A tap, with the test in the hypervisor's place. It goes with it.
pub(crate) struct Tap(File);

impl Tap {
    #[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
    pub(crate) fn new(name: &str) -> Self {
        // struct ifreq: 16 bytes of name, then a union whose first two are the flags.
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        const IFF_TAP: u16 = 0x0002;
        const IFF_NO_PI: u16 = 0x1000;
        let tun = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .unwrap();
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI).to_ne_bytes());
        // SAFETY: the descriptor is open, and the request is a whole struct ifreq of our own.
        let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Self(tun)
    }

    /// The guest sends a frame.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.0.write(frame).unwrap(), frame.len());
    }

    /// The guest takes the next frame.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 2048];
        let length = self.0.read(&mut frame).unwrap();
        frame.truncate(length);
        frame
    }
}
