//! Is anybody there, and how long does the answer take?

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt},
};

use crate::{Context, Result, packet::checksum, topology::Party};

/// What came of a number of echo requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pings {
    /// How many were sent.
    pub asked: usize,
    /// Round trips of those that were answered, shortest first.
    pub answered: Vec<Duration>,
}

impl Pings {
    /// The one in the middle; unanswered ones count as endless.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        self.answered.get(self.asked / 2).copied()
    }

    /// The longest, if none went unanswered.
    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        if self.answered.len() == self.asked {
            self.answered.last().copied()
        } else {
            None
        }
    }
}

/// `count` echo requests of 56 bytes, `every` so often, each waited for two
/// seconds at most.
pub fn ping(from: &Party, to: Ipv4Addr, count: u16, every: Duration) -> Result<Pings> {
    from.namespace.run(|| {
        let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))
            .could_not(|| "open a raw socket")?;
        let mut pings = Pings {
            asked: count.into(),
            answered: Vec::new(),
        };
        for n in 0..count {
            let start = Instant::now();
            let request = echo(n);
            net::sendto(
                &socket,
                &request,
                SendFlags::empty(),
                &SocketAddrV4::new(to, 0),
            )
            .could_not(|| format!("send an echo request to {to}"))?;
            let patience = Duration::from_secs(2);
            loop {
                // However late it is: an answer that is there is looked at.
                let left = patience.saturating_sub(start.elapsed());
                let a_look = Duration::from_millis(1);
                let wait = sockopt::Timeout::Recv;
                sockopt::set_socket_timeout(&socket, wait, Some(left.max(a_look)))
                    .could_not(|| "bound the wait")?;
                let mut buffer = [0; 256];
                match net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                    Ok((length, _)) if answers(&buffer[..length], &request) => {
                        pings.answered.push(start.elapsed());
                        break;
                    }
                    Err(Errno::AGAIN) if left.is_zero() => break,
                    Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(error).could_not(|| "receive an echo reply"),
                }
            }
            std::thread::sleep(every.saturating_sub(start.elapsed()));
        }
        pings.answered.sort_unstable();
        Ok(pings)
    })
}

/// A frame of 98 bytes on the wire with its Ethernet and IP headers, as ping(8) sends it.
fn echo(sequence: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, 0x6d, 0x74];
    packet.extend(sequence.to_be_bytes());
    packet.extend([0x5a; 56]);
    let check = checksum(&packet, 0);
    packet[2..4].copy_from_slice(&check.to_be_bytes());
    packet
}

fn answers(packet: &[u8], request: &[u8]) -> bool {
    let header = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
    match packet.get(header..) {
        Some([0, 0, _, _, rest @ ..]) => rest.get(..4) == request.get(4..8),
        _ => false,
    }
}
