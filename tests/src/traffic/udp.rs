//! An exact number of datagrams.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::net::sockopt;

use super::PATIENCE;
use crate::{
    Context, Failure, Result, sys,
    topology::{Family, Party},
};

pub(super) const UDP_SEGMENT: i32 = 103;

/// Datagrams that are to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Udp {
    /// How many.
    pub datagrams: u64,
    /// Payload of each.
    pub each: u16,
    /// Over which protocol.
    pub family: Family,
    /// How many are handed to the kernel as one (UDP_SEGMENT); 1: each by itself.
    pub together: u16,
}

impl Udp {
    /// Sends them, slowly enough that none is lost, and fails if one was.
    pub fn run(self, from: &Party, to: &Party) -> Result<()> {
        let receiver = self.receiver(to, PATIENCE)?;
        let address = receiver
            .local_addr()
            .could_not(|| "read the receiver's address")?;
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| self.take(&receiver));
            let from_ip = from.address(self.family);
            from.namespace.run(|| {
                let socket = UdpSocket::bind((from_ip, 0)).could_not(|| "bind")?;
                socket
                    .connect(address)
                    .could_not(|| format!("connect to {address}"))?;
                self.give(&socket)
            })?;
            taken
                .join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p))
        })
    }

    fn receiver(self, to: &Party, patience: Duration) -> Result<UdpSocket> {
        let to_ip = to.address(self.family);
        to.namespace.run(|| {
            let socket = UdpSocket::bind((to_ip, 0)).could_not(|| format!("bind to {to_ip}"))?;
            sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20)
                .could_not(|| "ask for a large buffer")?;
            socket
                .set_read_timeout(Some(patience))
                .could_not(|| "bound the wait")?;
            Ok(socket)
        })
    }

    /// Sends them, and tells how many arrived, which may be none: for a path that something
    /// may stand in.
    pub fn spray(self, from: &Party, to: &Party) -> Result<u64> {
        /// Nothing for so long after the last was sent: nothing more comes.
        const SILENCE: Duration = Duration::from_millis(300);
        let receiver = self.receiver(to, SILENCE)?;
        let address = receiver
            .local_addr()
            .could_not(|| "read the receiver's address")?;
        let all_sent = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| {
                let mut buffer = vec![0; usize::from(self.each) + 1];
                let mut arrived = 0;
                while arrived < self.datagrams {
                    let sent = all_sent.load(Ordering::Acquire);
                    match receiver.recv(&mut buffer) {
                        Ok(_) => arrived += 1,
                        Err(_) if sent => break,
                        Err(_) => {}
                    }
                }
                arrived
            });
            let from_ip = from.address(self.family);
            let sent = from.namespace.run(|| {
                let socket = UdpSocket::bind((from_ip, 0)).could_not(|| "bind")?;
                // Where the link is down, this fails or is lost: neither arrives.
                if socket.connect(address).is_ok() {
                    drop(self.give(&socket));
                }
                Ok(())
            });
            all_sent.store(true, Ordering::Release);
            let arrived = taken
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sent.map(|()| arrived)
        })
    }

    fn give(self, socket: &UdpSocket) -> Result<()> {
        if self.together > 1 {
            sys::set_option(socket, libc::SOL_UDP, UDP_SEGMENT, self.each.into())
                .could_not(|| "have datagrams segmented by the kernel")?;
        }
        let payload = vec![0x5a; usize::from(self.each)];
        let mut left = self.datagrams;
        let mut since_rest = 0;
        while left > 0 {
            let now = left.min(self.together.into());
            let bytes = payload.repeat(usize::try_from(now).unwrap_or(1));
            let sent = socket.send(&bytes);
            if left == self.datagrams
                && self.together > 1
                && matches!(&sent, Err(error) if error.raw_os_error() == Some(libc::EIO))
            {
                // Kernels before 6.11 do so for no device that leaves checksums to them.
                return self.give_each(socket);
            }
            sent.could_not(|| "send a datagram")?;
            left -= now;
            since_rest += now;
            if since_rest >= 128 {
                since_rest = 0;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn give_each(self, socket: &UdpSocket) -> Result<()> {
        sys::set_option(socket, libc::SOL_UDP, UDP_SEGMENT, 0)
            .could_not(|| "have each datagram sent by itself")?;
        let each = Self {
            together: 1,
            ..self
        };
        each.give(socket)
    }

    fn take(self, socket: &UdpSocket) -> Result<()> {
        let mut buffer = vec![0; usize::from(self.each) + 1];
        for n in 0..self.datagrams {
            let length = socket
                .recv(&mut buffer)
                .could_not(|| format!("receive datagram {n} of {}", self.datagrams))?;
            if length != usize::from(self.each) {
                return Err(Failure::new(format!(
                    "a datagram of {length}, not {}",
                    self.each
                )));
            }
        }
        Ok(())
    }
}
