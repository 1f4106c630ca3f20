//! Datagrams in packets of 64 KB from one CPU, as many as go, and what of them arrives.

use std::{
    io,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    net::sockopt,
    thread::{CpuSet, sched_setaffinity},
};

use super::udp::UDP_SEGMENT;
use crate::{
    Context, Result, sys,
    topology::{Family, Party},
};

/// Payload of each datagram, and how many of them are one packet.
const EACH: usize = 1448;
const TOGETHER: usize = 44;

/// A flood under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Flood {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Payload of a datagram.
    pub const EACH: usize = EACH;
    /// Datagrams in a packet.
    pub const TOGETHER: usize = TOGETHER;

    /// Begins, on this CPU.
    pub fn start(from: &Party, to: &Party, cpu: usize) -> Result<Self> {
        let to_ip = to.address(Family::V4);
        let receiver = to.namespace.run(|| {
            let socket = UdpSocket::bind((to_ip, 0)).could_not(|| format!("bind to {to_ip}"))?;
            sockopt::set_socket_recv_buffer_size_force(&socket, 256 << 20)
                .could_not(|| "ask for a large buffer")?;
            socket
                .set_read_timeout(Some(Duration::from_millis(20)))
                .could_not(|| "bound the wait")?;
            Ok(socket)
        })?;
        let address = receiver
            .local_addr()
            .could_not(|| "read the receiver's address")?;
        let from_ip = from.address(Family::V4);
        let sender = from.namespace.run(|| {
            let socket = UdpSocket::bind((from_ip, 0)).could_not(|| "bind")?;
            socket
                .connect(address)
                .could_not(|| format!("connect to {address}"))?;
            Ok(socket)
        })?;
        let (arrived, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped) = (arrived.clone(), stop.clone());
        let taken = thread::spawn(move || take(&receiver, &counted, &stopped));
        let stopped = stop.clone();
        let given = thread::spawn(move || {
            let mut one = CpuSet::new();
            one.set(cpu);
            let _ = sched_setaffinity(None, &one);
            give(&sender, &stopped);
        });
        Ok(Self {
            arrived,
            stop,
            threads: vec![taken, given],
        })
    }

    /// Datagrams that have arrived.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn give(socket: &UdpSocket, stop: &AtomicBool) {
    let segment = |size: usize| {
        let size = i32::try_from(size).unwrap_or_default();
        sys::set_option(socket, libc::SOL_UDP, UDP_SEGMENT, size)
    };
    drop(segment(EACH));
    let payload = vec![0x5a; EACH * TOGETHER];
    let mut packet = payload.as_slice();
    while !stop.load(Ordering::Relaxed) {
        // Dropped on its way it may be an error or none.
        if let Err(error) = socket.send(packet)
            && error.raw_os_error() == Some(libc::EIO)
        {
            // Kernels before 6.11 do so for no device that leaves checksums to them.
            drop(segment(0));
            packet = &payload[..EACH];
        }
    }
}

fn take(socket: &UdpSocket, arrived: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = [0; EACH + 1];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(EACH) => drop(arrived.fetch_add(1, Ordering::Relaxed)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
