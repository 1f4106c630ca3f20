//! Ctrl-C, for programs that have something to put away first.

use std::sync::atomic::Ordering;

use crate::{Context, Failure, Result, sys};

/// From now on the first SIGINT or SIGTERM ends nothing; [`check`] tells of it. Who cannot wait
/// sends a second one: what is in namespaces goes with them.
pub fn note() -> Result<()> {
    sys::note_interrupts().could_not(|| "take over SIGINT and SIGTERM")
}

/// Fails once somebody has interrupted.
pub fn check() -> Result<()> {
    match sys::INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(Failure::new("it was interrupted")),
        false => Ok(()),
    }
}
