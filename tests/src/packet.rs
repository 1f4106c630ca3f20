//! Frames read and written by hand.

use std::net::Ipv4Addr;

use crate::links::Mac;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG: usize = 4;

/// What a frame's headers say of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// VLAN tags inside the bytes.
    pub tags: usize,
    /// `Some` for TCP and UDP: bytes that are neither Ethernet, IP nor TCP or UDP header.
    pub payload: Option<usize>,
}

/// Reads the beginning of a frame. `None` for what is not IP, or carries neither TCP nor UDP.
#[must_use]
pub fn dissect(frame: &[u8]) -> Anatomy {
    let mut tags = 0;
    let mut at = 12;
    while matches!(word(frame, at), Some(0x8100 | 0x88a8)) {
        tags += 1;
        at += TAG;
    }
    let payload = match word(frame, at) {
        Some(0x0800) => payload_v4(frame, at + 2),
        Some(0x86dd) => payload_v6(frame, at + 2),
        _ => None,
    };
    Anatomy { tags, payload }
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

fn payload_v4(frame: &[u8], ip: usize) -> Option<usize> {
    let header = usize::from(frame.get(ip)? & 15) * 4;
    let total = usize::from(word(frame, ip + 2)?);
    transport(
        frame,
        ip + header,
        *frame.get(ip + 9)?,
        total.checked_sub(header)?,
    )
}

fn payload_v6(frame: &[u8], ip: usize) -> Option<usize> {
    transport(
        frame,
        ip + 40,
        *frame.get(ip + 6)?,
        usize::from(word(frame, ip + 4)?),
    )
}

fn transport(frame: &[u8], at: usize, protocol: u8, length: usize) -> Option<usize> {
    match protocol {
        6 => length.checked_sub(usize::from(frame.get(at + 12)? >> 4) * 4),
        17 => length.checked_sub(8),
        _ => None,
    }
}

/// The Internet checksum of these bytes, with `start` (a pseudo header's sum) added.
#[must_use]
pub fn checksum(bytes: &[u8], start: u32) -> u16 {
    !fold(sum(bytes) + start)
}

/// The sum before it is folded.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

/// Carries folded in.
#[must_use]
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// From and to.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Addresses on the link.
    pub macs: (Mac, Mac),
    /// Addresses.
    pub ips: (Ipv4Addr, Ipv4Addr),
}

impl Ends {
    /// Ethernet with these VLAN tags (outermost first), IPv4, and what it carries.
    #[must_use]
    pub fn frame(&self, tags: &[u16], protocol: u8, carried: &[u8]) -> Vec<u8> {
        let mut frame = [self.macs.1.0, self.macs.0.0].concat();
        for (n, tag) in tags.iter().enumerate() {
            // The inner one of two is a customer's, the outer one the provider's.
            let outer_of_two = tags.len() == 2 && n == 0;
            let protocol: u16 = if outer_of_two { 0x88a8 } else { 0x8100 };
            frame.extend(protocol.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(0x0800_u16.to_be_bytes());
        let start = frame.len();
        let length = u16::try_from(20 + carried.len()).unwrap_or(u16::MAX);
        frame.extend([0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(self.ips.0.octets());
        frame.extend(self.ips.1.octets());
        let check = checksum(&frame[start..], 0);
        frame[start + 10..start + 12].copy_from_slice(&check.to_be_bytes());
        frame.extend(carried);
        frame
    }

    /// A UDP datagram (without a checksum, which IPv4 allows).
    #[must_use]
    pub fn udp(&self, tags: &[u16], port: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
        let mut datagram = [port.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes()].concat();
        datagram.extend([0, 0]);
        datagram.extend(payload);
        self.frame(tags, 17, &datagram)
    }

    /// A TCP packet whose checksum holds the pseudo header's sum only, as a guest hands it
    /// over that leaves checksums and segmentation to the host.
    #[must_use]
    pub fn tcp_unfinished(&self, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut segment = [port.to_be_bytes(), port.to_be_bytes()].concat();
        segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        let length = u32::try_from(segment.len() + payload.len()).unwrap_or(u32::MAX);
        let pseudo = fold(sum(&self.ips.0.octets()) + sum(&self.ips.1.octets()) + 6 + length);
        segment[16..18].copy_from_slice(&pseudo.to_be_bytes());
        segment.extend(payload);
        self.frame(&[], 6, &segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        macs: (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])),
        ips: (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)),
    };

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let plain = ENDS.udp(&[], 9, &[7; 100]);
        assert_eq!(plain.len(), 14 + 20 + 8 + 100);
        assert_eq!(
            dissect(&plain),
            Anatomy {
                tags: 0,
                payload: Some(100)
            }
        );
        let tagged = ENDS.udp(&[5, 6], 9, &[7; 100]);
        assert_eq!(tagged.len(), plain.len() + 8);
        assert_eq!(
            dissect(&tagged),
            Anatomy {
                tags: 2,
                payload: Some(100)
            }
        );
        let tcp = ENDS.tcp_unfinished(9, &[7; 3000]);
        assert_eq!(
            dissect(&tcp),
            Anatomy {
                tags: 0,
                payload: Some(3000)
            }
        );
        assert_eq!(dissect(&[0; 20]), Anatomy::default());
    }

    #[test]
    fn a_correct_header_sums_to_zero() {
        let frame = ENDS.frame(&[], 17, &[]);
        assert_eq!(checksum(&frame[14..34], 0), 0);
    }
}
