//! The course of slow traffic over time: what had come when it was looked at. What is judged
//! are bytes against the time that had passed at least or at most, so that a look that came
//! late costs time and changes no verdict.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use super::rate;
use crate::Result;

/// A flow that has had no good stretch by then has none.
const AT_MOST: Duration = Duration::from_secs(60);

/// How often one looks.
const OFTEN: Duration = Duration::from_millis(50);

/// One look: it was made between two instants.
#[derive(Clone, Copy, Debug)]
struct Look {
    before: Instant,
    after: Instant,
    bytes: u64,
}

impl Look {
    fn at(bytes: &mut impl FnMut() -> Result<u64>) -> Result<Self> {
        let before = Instant::now();
        let bytes = bytes()?;
        Ok(Self {
            before,
            after: Instant::now(),
            bytes,
        })
    }

    /// Bits a second from an earlier one to this, at least: a stall between a clock and what
    /// it is read for makes the time longer, never shorter.
    fn since(&self, earlier: &Self) -> f64 {
        rate(
            self.bytes.saturating_sub(earlier.bytes),
            self.after - earlier.before,
        )
    }
}

/// Bits a second, over all of the time and in its best stretch.
#[derive(Clone, Copy, Debug)]
pub struct Sustained {
    /// From before the first byte to the last look: what a token bucket is judged by.
    pub overall: f64,
    /// In the best stretch of the length that was asked for: what a flow gets when nothing
    /// but the bucket holds it up.
    pub best: f64,
    /// How long it took until that was enough.
    pub took: Duration,
}

impl fmt::Display for Sustained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} kbit/s in the best stretch, {:.1} kbit/s in all of {:.1} s",
            self.best / 1e3,
            self.overall / 1e3,
            self.took.as_secs_f64()
        )
    }
}

/// Looks at what has come since `begun`, when it was nothing, until some stretch of `window`
/// had `least` bits a second, for a minute at most.
pub fn sustained(
    begun: Instant,
    window: Duration,
    least: f64,
    mut bytes: impl FnMut() -> Result<u64>,
) -> Result<Sustained> {
    let mut looks = VecDeque::from([Look {
        before: begun,
        after: begun,
        bytes: 0,
    }]);
    let first = looks[0];
    let mut best = 0_f64;
    loop {
        let now = Look::at(&mut bytes)?;
        looks.push_back(now);
        // The latest of those that are a window ago.
        while looks
            .get(1)
            .is_some_and(|next| next.after + window <= now.before)
        {
            looks.pop_front();
        }
        if looks[0].after + window <= now.before {
            best = best.max(now.since(&looks[0]));
        }
        if best >= least || begun.elapsed() > AT_MOST {
            return Ok(Sustained {
                overall: now.since(&first),
                best,
                took: now.after - begun,
            });
        }
        std::thread::sleep(OFTEN);
    }
}
