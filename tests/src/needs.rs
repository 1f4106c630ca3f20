//! What a test needs that some kernels have not. It is said aloud, past the harness, so that
//! a test that could not be made is not taken for one that passed: `cargo xtask` counts the
//! lines.

use std::io::Write;

use crate::{Result, inspect};

/// Whether this kernel has TCX (6.6 and newer). Where it has not, that is said, and the test
/// is to end without a further word.
#[track_caller]
pub fn tcx() -> Result<bool> {
    let there = inspect::has_tcx()?;
    if !there {
        let place = std::panic::Location::caller();
        // The harness keeps what goes through `println!`, and may be within a line of its own.
        let line = format!("\nneeds tcx: {}:{}\n", place.file(), place.line());
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
    Ok(there)
}
