//! Waiting for a condition, bounded: sleep-and-hope is not a test.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{Failure, Result};

/// Asks again every `each` until there is an answer; a failure names what was waited for
/// and what was seen last. Returns the answer and how long it took.
pub fn until<T>(
    what: &str,
    each: Duration,
    at_most: Duration,
    mut ask: impl FnMut() -> Result<Seen<T>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        let last = match ask()? {
            Seen::Yes(answer) => return Ok((answer, start.elapsed())),
            Seen::NotYet(last) => last,
        };
        if start.elapsed() > at_most {
            return Err(Failure::new(format!(
                "waited {at_most:?} for {what}; last seen: {last}"
            )));
        }
        thread::sleep(each);
    }
}

/// An answer, or what there is instead.
#[derive(Debug)]
pub enum Seen<T> {
    /// It is there.
    Yes(T),
    /// It is not, but this is.
    NotYet(String),
}
