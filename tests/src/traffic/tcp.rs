//! An exact number of bytes over one TCP connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use super::{PATIENCE, rate};
use crate::{
    Context, Failure, Result, sys,
    topology::{Family, Party},
};

/// A transfer that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Payload.
    pub bytes: u64,
    /// Over which protocol.
    pub family: Family,
}

/// A transfer that was made, all of it.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Payload that arrived.
    pub bytes: u64,
    /// From the connection's opening to its last byte.
    pub elapsed: Duration,
    /// Segments that the sender sent again.
    pub retransmitted: u32,
}

impl Transfer {
    /// Bits a second.
    #[must_use]
    pub fn goodput(&self) -> f64 {
        rate(self.bytes, self.elapsed)
    }
}

/// The receiver's buffer, of which the kernel makes twice as much: fewer segments in flight
/// than a veth's queue holds (256), so that none is lost and sent again, and what is counted
/// is the same at both ends of the path.
const WINDOW: usize = 96 * 1024;

impl Tcp {
    /// So much over IPv4.
    #[must_use]
    pub const fn v4(bytes: u64) -> Self {
        Self {
            bytes,
            family: Family::V4,
        }
    }

    /// So much over IPv6.
    #[must_use]
    pub const fn v6(bytes: u64) -> Self {
        Self {
            bytes,
            family: Family::V6,
        }
    }

    /// Moves it, from connection to orderly close on both sides.
    pub fn run(self, from: &Party, to: &Party) -> Result<Transfer> {
        let address = SocketAddr::new(to.address(self.family), 0);
        let listener = to.namespace.run(|| listen(address))?;
        let address = listener
            .local_addr()
            .could_not(|| "read the listener's address")?;
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| take(&listener, self.bytes));
            let sent = from.namespace.run(|| give(address, self.bytes));
            let received = receiver
                .join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p));
            let (elapsed, retransmitted) = sent?;
            Ok(Transfer {
                bytes: received?,
                elapsed,
                retransmitted,
            })
        })
    }
}

pub(super) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).could_not(|| format!("listen on {address}"))?;
    sockopt::set_socket_recv_buffer_size(&listener, WINDOW).could_not(|| "bound the window")?;
    // accept(2) heeds it: a sender that never comes must not hang the test.
    sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(PATIENCE))
        .could_not(|| "bound the wait")?;
    Ok(listener)
}

fn take(listener: &TcpListener, expected: u64) -> Result<u64> {
    let (mut stream, _) = listener.accept().could_not(|| "accept a connection")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .could_not(|| "bound the wait")?;
    let mut buffer = vec![0; 1 << 17];
    let mut total = 0;
    loop {
        let more = stream
            .read(&mut buffer)
            .could_not(|| format!("read on after {total} of {expected} bytes"))?;
        if more == 0 {
            break;
        }
        total += more as u64;
    }
    // One byte back says that all has arrived, so that the sender's clock stops then.
    stream.write_all(&[0]).could_not(|| "confirm the end")?;
    if total == expected {
        Ok(total)
    } else {
        Err(Failure::new(format!(
            "{total} bytes arrived, not {expected}"
        )))
    }
}

fn give(address: SocketAddr, bytes: u64) -> Result<(Duration, u32)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .could_not(|| format!("connect to {address}"))?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .could_not(|| "bound the wait")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .could_not(|| "bound the wait")?;
    let chunk = vec![0x5a; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        stream
            .write_all(&chunk[..now])
            .could_not(|| format!("write the last {left} of {bytes} bytes"))?;
        left -= now as u64;
    }
    stream
        .shutdown(std::net::Shutdown::Write)
        .could_not(|| "say that this is all")?;
    stream
        .read_exact(&mut [0])
        .could_not(|| "hear that all has arrived")?;
    Ok((start.elapsed(), retransmitted(&stream)?))
}

fn retransmitted(stream: &TcpStream) -> Result<u32> {
    const TOTAL_RETRANS: usize = 100; // in struct tcp_info
    let info = info(stream)?;
    Ok(u32_at(&info, TOTAL_RETRANS))
}

/// Payload of which the sender knows that it has arrived, in order or not.
pub(super) fn delivered(stream: &TcpStream) -> Result<u64> {
    const SND_MSS: usize = 16; // in struct tcp_info
    const SACKED: usize = 28;
    const BYTES_ACKED: usize = 120;
    let info = info(stream)?;
    let acknowledged = info[BYTES_ACKED..].try_into().map_or(0, u64::from_ne_bytes);
    let behind_holes = u64::from(u32_at(&info, SACKED)) * u64::from(u32_at(&info, SND_MSS));
    Ok(acknowledged + behind_holes)
}

fn info(stream: &TcpStream) -> Result<[u8; 128]> {
    let mut info = [0; 128];
    sys::get_option(stream, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)
        .could_not(|| "read the connection's figures")?;
    Ok(info)
}

fn u32_at(info: &[u8; 128], at: usize) -> u32 {
    let [a, b, c, d] = [info[at], info[at + 1], info[at + 2], info[at + 3]];
    u32::from_ne_bytes([a, b, c, d])
}
