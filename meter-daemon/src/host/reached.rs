//! What the kernel program says of boundaries that are reached, at the packet that reached
//! them.
#![expect(
    unsafe_code,
    reason = "tokio wants it promised that a registered descriptor stays open"
)]

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use meter_common::Reached;
use tokio::io::{Interest, unix::AsyncFd};

use super::limits::Spent;
use crate::engine::units::Bytes;

/// A machine has reached a boundary. Of one arming there may be several, and one may come late
/// (before a restart, of limits that are no longer in force, of an index that has another
/// owner by now): it says that it is time to look, and what it looked like then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitEvent {
    /// The machine's index.
    pub machine: u32,
    /// Which limits: compare [`super::limits::Limits::arming`].
    pub arming: u64,
    /// Which of the two boundaries.
    pub boundary: u32,
    /// What had been spent.
    pub spent: Spent,
    /// When, since boot: compare [`super::clock::Moment::since_boot`].
    pub at: Duration,
}

/// The events in the order in which they came. Those that nobody waited for are kept, over
/// a thousand of them; when no more fit, the program tries again at each packet.
pub struct LimitEvents {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl LimitEvents {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor, opens no other, and is owned by the AsyncFd,
        // which takes the registration back before it drops it.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self { ring })
    }

    /// The next one, as soon as it is there. May be cancelled.
    ///
    /// # Errors
    /// Where the runtime is gone.
    pub async fn next(&mut self) -> io::Result<LimitEvent> {
        loop {
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            let mut ready = self.ring.readable_mut().await?;
            // What comes from here on makes it ready again.
            ready.clear_ready();
            if let Some(event) = read(ready.get_inner_mut()) {
                return Ok(event);
            }
        }
    }

    /// The next one, if it is there.
    pub fn try_next(&mut self) -> Option<LimitEvent> {
        read(self.ring.get_mut())
    }
}

fn read(ring: &mut RingBuf<MapData>) -> Option<LimitEvent> {
    // One of another length is not ours; there is none.
    while let Some(item) = ring.next() {
        if let Some(event) = event(&item) {
            return Some(event);
        }
    }
    None
}

/// Laid out as [`Reached`].
fn event(bytes: &[u8]) -> Option<LimitEvent> {
    const _: () = assert!(size_of::<Reached>() == 40);
    let bytes: &[u8; 40] = bytes.try_into().ok()?;
    let (words, _) = bytes.as_chunks::<4>();
    let [_, _, machine, boundary, ..] = *words else {
        return None;
    };
    let (words, _) = bytes.as_chunks::<8>();
    let [arming, _, received, sent, at] = *words else {
        return None;
    };
    Some(LimitEvent {
        machine: u32::from_ne_bytes(machine),
        arming: u64::from_ne_bytes(arming),
        boundary: u32::from_ne_bytes(boundary),
        spent: Spent {
            received: Bytes(u64::from_ne_bytes(received)),
            sent: Bytes(u64::from_ne_bytes(sent)),
        },
        at: Duration::from_nanos(u64::from_ne_bytes(at)),
    })
}
