//! The independent count: every frame on an interface as it is on the wire, by a packet
//! socket. The kernel writes into a ring that is large enough to be read at the end, so
//! that counting takes no time from what is counted; a frame missed is a failure.

use std::{
    collections::BTreeMap,
    ops::Sub,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use crate::{
    Context, Failure, Result, links,
    links::Mac,
    packet::{self, TAG},
    sandbox::Namespace,
    sys::{self, RING_FRAME, Ring},
};

/// What passed one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Their bytes on the wire, VLAN tags included, without preamble and FCS.
    pub bytes: u64,
    /// What TCP and UDP carried in them.
    pub payload: u64,
    /// The same bytes, with each frame that was to be segmented later as its segments: full ones,
    /// and one that holds the rest.
    pub segmented: u64,
    /// Frames that carried something in TCP or UDP.
    pub carriers: u64,
    /// The bytes of those frames.
    pub carrier_bytes: u64,
    /// The largest frame: above the MTU's, the capture stands where packets are not segmented.
    pub largest: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.payload += other.payload;
        self.segmented += other.segmented;
        self.carriers += other.carriers;
        self.carrier_bytes += other.carrier_bytes;
        self.largest = self.largest.max(other.largest);
    }
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
            payload: self.payload - before.payload,
            segmented: self.segmented - before.segmented,
            carriers: self.carriers - before.carriers,
            carrier_bytes: self.carrier_bytes - before.carrier_bytes,
            largest: self.largest,
        }
    }
}

/// What a guest moved, as seen from elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// To the guest.
    pub received: Count,
    /// From the guest.
    pub sent: Count,
}

impl Sub for Moved {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            received: self.received - before.received,
            sent: self.sent - before.sent,
        }
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    ring: Ring,
    what: String,
    flows: BTreeMap<(Mac, Mac), Count>,
}

/// Frames that the ring holds until they are read: 100 MB of traffic, and 100 MB of memory.
const FRAMES: usize = 500_000;

impl Capture {
    /// Of everything that an interface of `namespace` sends and takes in, from now on.
    pub fn on(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::with_room_for(FRAMES, namespace, interface)
    }

    /// As [`Self::on`], where less passes between two looks.
    pub fn with_room_for(frames: usize, namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.run(|| {
            let what = format!("capture on {interface}");
            let socket = sys::packet_socket().could_not(|| &what)?;
            let ring = Ring::map(&socket, frames).could_not(|| &what)?;
            sys::bind_packet(&socket, links::get(interface)?.index).could_not(|| &what)?;
            Ok(Self {
                socket,
                ring,
                what,
                flows: BTreeMap::new(),
            })
        })
    }

    /// What `guest` has moved so far. Fails if the ring was ever full.
    pub fn of(&mut self, guest: Mac) -> Result<Moved> {
        self.read()?;
        let mut moved = Moved::default();
        for (&(source, destination), &count) in &self.flows {
            if source == guest {
                moved.sent.add(count);
            } else if destination == guest || destination.is_group() {
                moved.received.add(count);
            }
        }
        Ok(moved)
    }

    /// As [`Self::of`], once nothing more has come for a fifth of a second.
    pub fn settled(&mut self, guest: Mac) -> Result<Moved> {
        self.silent(guest, Duration::from_millis(200))
    }

    /// As [`Self::of`], once nothing more has come for so long. (At 64 kbit/s, a full frame
    /// comes each fifth of a second.)
    pub fn silent(&mut self, guest: Mac, quiet: Duration) -> Result<Moved> {
        let start = Instant::now();
        let mut last = self.of(guest)?;
        loop {
            std::thread::sleep(quiet);
            let now = self.of(guest)?;
            if now == last {
                return Ok(now);
            }
            last = now;
            if start.elapsed() > Duration::from_secs(20) {
                return Err(Failure::new(format!(
                    "{}: {guest} does not fall silent",
                    self.what
                )));
            }
        }
    }

    /// Everything, by source and destination: for finding out who made a difference.
    pub fn flows(&mut self) -> Result<&BTreeMap<(Mac, Mac), Count>> {
        self.read()?;
        Ok(&self.flows)
    }

    fn read(&mut self) -> Result<()> {
        while let Some(slot) = self.ring.take() {
            let (from, to, count) = weigh(&slot);
            self.flows.entry((from, to)).or_default().add(count);
        }
        let mut statistics = [0; 8];
        sys::get_option(
            &self.socket,
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            &mut statistics,
        )
        .could_not(|| &self.what)?;
        let [.., a, b, c, d] = statistics;
        let drops = u32::from_ne_bytes([a, b, c, d]);
        if drops > 0 {
            return Err(Failure::new(format!(
                "{}: {drops} frames were missed",
                self.what
            )));
        }
        Ok(())
    }
}

/// One slot of the ring: `tpacket2_hdr`, an address, and the beginning of the frame.
fn segmented(bytes: u64, payload: u64) -> u64 {
    const FULL: u64 = 1514;
    let headers = bytes - payload;
    if bytes <= FULL || headers >= FULL {
        return bytes;
    }
    payload + payload.div_ceil(FULL - headers) * headers
}

fn weigh(slot: &[u8; RING_FRAME]) -> (Mac, Mac, Count) {
    const TAG_APART: u32 = 1 << 4; // TP_STATUS_VLAN_VALID: it is in the skb's metadata
    let u32_at =
        |at: usize| u32::from_ne_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    let start = usize::from(u16::from_ne_bytes([slot[12], slot[13]]));
    let kept = (u32_at(8) as usize).min(RING_FRAME.saturating_sub(start));
    let frame = &slot[start..start + kept];
    let mac = |at: usize| {
        Mac(frame
            .get(at..at + 6)
            .and_then(|m| m.try_into().ok())
            .unwrap_or([0; 6]))
    };
    let apart = if u32_at(0) & TAG_APART == 0 {
        0
    } else {
        TAG as u64
    };
    let bytes = u64::from(u32_at(4)) + apart;
    let payload = packet::dissect(frame).payload.unwrap_or(0) as u64;
    let count = Count {
        frames: 1,
        bytes,
        payload,
        segmented: segmented(bytes, payload),
        carriers: u64::from(payload > 0),
        carrier_bytes: if payload > 0 { bytes } else { 0 },
        largest: bytes,
    };
    (mac(6), mac(0), count)
}
