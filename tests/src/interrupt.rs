//! Ctrl-C, for programs that have something to put away first.

use std::sync::atomic::Ordering;

use crate::{Context, Failure, Result, sys};

/// From now on SIGINT and SIGTERM end nothing; [`check`] tells of them.
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
