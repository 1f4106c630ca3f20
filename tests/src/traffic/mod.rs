//! Traffic: exact amounts, steady flows, and questions of whether anybody is there. All of
//! it is bounded in volume and in time.

mod bulk;
mod course;
mod flood;
mod ping;
mod tcp;
mod udp;

pub use bulk::Bulk;
pub use course::{Sustained, sustained};
pub use flood::Flood;
pub use ping::{Pings, ping};
pub use tcp::{Tcp, Transfer};
pub use udp::Udp;

use std::time::Duration;

use crate::Result;

/// No single operation waits longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a transfer is begun anew, on a machine that is busy with something else.
const ROUNDS: usize = 8;

/// The first of a few rounds in which no segment was sent twice, else the calmest, with how
/// many were: on a busy machine a sender at times gives up waiting too early, and paper knows
/// nothing of that but what each such segment may add.
pub fn calmest<T>(mut round: impl FnMut() -> Result<(u32, T)>) -> Result<(u32, T)> {
    let mut best = round()?;
    for _ in 1..ROUNDS {
        if best.0 == 0 {
            break;
        }
        let next = round()?;
        if next.0 < best.0 {
            best = next;
        }
    }
    Ok(best)
}

/// Bits a second.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate to be compared with a tolerance"
)]
pub fn rate(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 * 8.0 / elapsed.as_secs_f64()
}
