//! A real TAP device with a guest that is nothing but a file descriptor, and that hands over
//! packets of many segments as a virtio guest does: the kernel is told the segment's size and
//! is not told their number.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

use crate::{
    Context, Result, links, packet, sys,
    wait::{self, Seen},
};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// A TAP device; it vanishes when this is dropped, as when QEMU ends.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

/// `virtio_net_hdr`: what a guest says of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
struct VirtioHeader {
    needs_checksum: bool,
    segment: u16,
    headers: u16,
    checksum_from: u16,
    checksum_at: u16,
}

impl VirtioHeader {
    const LENGTH: usize = 10;

    fn bytes(self) -> [u8; Self::LENGTH] {
        const GSO_TCPV4: u8 = 1;
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = self.needs_checksum.into();
        bytes[1] = if self.segment > 0 { GSO_TCPV4 } else { 0 };
        bytes[2..4].copy_from_slice(&self.headers.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_from.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_at.to_ne_bytes());
        bytes
    }
}

impl Tap {
    /// Makes one in the calling thread's namespace, up and silent.
    pub fn new(name: &str) -> Result<Self> {
        const TUN_F_CSUM: libc::c_ulong = 1;
        const TUN_F_TSO4: libc::c_ulong = 2;
        const TUN_F_TSO6: libc::c_ulong = 4;
        let path = "/dev/net/tun";
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .could_not(|| format!("open {path} (is the kernel built without CONFIG_TUN?)"))?;
        let mut request = [0; 24];
        request[..2].copy_from_slice(&(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
        sys::interface_ioctl(file.as_fd(), TUNSETIFF, name, request)
            .could_not(|| format!("make the TAP device {name}"))?;
        sys::value_ioctl(
            file.as_fd(),
            TUNSETOFFLOAD,
            TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6,
        )
        .could_not(|| format!("let {name} take large packets"))?;
        let flags = fcntl_getfl(&file).could_not(|| "read the file's flags")?;
        fcntl_setfl(&file, flags | OFlags::NONBLOCK).could_not(|| "set the file's flags")?;
        links::silence(name)?;
        links::up(name)?;
        Ok(Self {
            file,
            name: name.to_owned(),
        })
    }

    /// The device stays when this is dropped, and goes with its namespace: of thousands together,
    /// where one after the other would take minutes.
    pub fn lasting(self) -> Result<Self> {
        sys::value_ioctl(self.file.as_fd(), TUNSETPERSIST, 1)
            .could_not(|| format!("let {} stay", self.name))?;
        Ok(self)
    }

    /// Its name when it was made.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The guest sends a frame.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.write(VirtioHeader::default(), frame)
    }

    /// The guest sends one TCP packet, to be cut into segments of `segment` payload bytes.
    pub fn send_large(&mut self, frame: &[u8], segment: u16) -> Result<()> {
        let before_tcp = u16::try_from(packet::ETHERNET + 20).unwrap_or(u16::MAX);
        let header = VirtioHeader {
            needs_checksum: true,
            segment,
            headers: before_tcp + 20,
            checksum_from: before_tcp,
            checksum_at: 16,
        };
        self.write(header, frame)
    }

    fn write(&mut self, header: VirtioHeader, frame: &[u8]) -> Result<()> {
        let bytes = [&header.bytes(), frame].concat();
        self.file
            .write_all(&bytes)
            .could_not(|| format!("send {} bytes through {}", frame.len(), self.name))
    }

    /// Reads for the guest from now on, whatever comes, as soon as it comes: the kernel counts
    /// what was read, and a frame that waits is not counted yet.
    pub fn reader(&self) -> Result<Reader> {
        let file = self.file.try_clone();
        let file = file.could_not(|| format!("share {}", self.name))?;
        let device = self.file.try_clone();
        let device = device.could_not(|| format!("share {}", self.name))?;
        let taken = Arc::new(Mutex::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (bytes, stopped) = (Arc::clone(&taken), Arc::clone(&stop));
        let thread = std::thread::spawn(move || read_along(file, &bytes, &stopped));
        Ok(Reader {
            device,
            taken,
            stop,
            thread: Some(thread),
        })
    }

    /// Frames that wait for the guest: their lengths as handed over (a large one is one).
    pub fn take_all(&mut self) -> Vec<usize> {
        let mut buffer = vec![0; 1 << 17];
        let mut lengths = Vec::new();
        while let Ok(length) = self.file.read(&mut buffer) {
            lengths.push(length.saturating_sub(VirtioHeader::LENGTH));
        }
        lengths
    }
}

/// A guest that reads at once; it lets go of the device when it is dropped.
#[derive(Debug)]
pub struct Reader {
    device: File,
    /// Held from before a frame is read until it is counted.
    taken: Arc<Mutex<u64>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Bytes of the frames that it has read.
    #[must_use]
    pub fn taken(&self) -> u64 {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, once nothing waits to be read: on a busy machine it reads later than at once.
    pub fn taken_in_all(&self) -> Result<u64> {
        let (all, _) = wait::until(
            "the guest has read what came to its tap",
            Duration::from_millis(1),
            Duration::from_secs(30),
            || {
                let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                let device = &mut [PollFd::new(&self.device, PollFlags::IN)];
                let polled = poll(device, Some(&Timespec::default()));
                polled.could_not(|| "poll a tap")?;
                Ok(match device[0].revents().contains(PollFlags::IN) {
                    true => Seen::NotYet(format!("{} bytes are read, and more waits", *taken)),
                    false => Seen::Yes(*taken),
                })
            },
        )?;
        Ok(all)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn read_along(mut file: File, taken: &Mutex<u64>, stop: &AtomicBool) {
    let each = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Acquire) {
        // A device that is down has nothing and says so at once.
        let waited = poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&each));
        let mut bytes = taken.lock().unwrap_or_else(PoisonError::into_inner);
        match file.read(&mut buffer) {
            Ok(length) => *bytes += length.saturating_sub(VirtioHeader::LENGTH) as u64,
            Err(_) if waited.is_ok_and(|ready| ready > 0) => {
                drop(bytes);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => {}
        }
    }
}
