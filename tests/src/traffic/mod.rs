//! Traffic: exact amounts, steady flows, and questions of whether anybody is there. All of
//! it is bounded in volume and in time.

mod bulk;
mod ping;
mod tcp;
mod udp;

pub use bulk::Bulk;
pub use ping::{Pings, ping};
pub use tcp::{Tcp, Transfer};
pub use udp::Udp;

use std::time::Duration;

use crate::{Failure, Result};

/// No single operation waits longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a transfer is begun anew, on a machine that is busy with something else.
const ROUNDS: usize = 30;

/// The first of a few rounds in which no segment was sent twice: on a busy machine a sender
/// at times gives up waiting too early, and paper knows nothing of that.
pub fn undisturbed<T>(mut round: impl FnMut() -> Result<(u32, T)>) -> Result<T> {
    for _ in 0..ROUNDS {
        let (sent_again, outcome) = round()?;
        if sent_again == 0 {
            return Ok(outcome);
        }
    }
    Err(Failure::new(format!(
        "segments were sent again in each of {ROUNDS} rounds"
    )))
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
