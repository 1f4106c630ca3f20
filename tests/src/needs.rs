//! What a test needs that some machines have not. It is said aloud, past the harness, so that
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
        say("tcx", std::panic::Location::caller());
    }
    Ok(there)
}

/// Whether somebody else's program is installed, for tests of what it does to an interface.
#[track_caller]
pub fn program(name: &str) -> Result<bool> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if !there {
        say(name, std::panic::Location::caller());
    }
    Ok(there)
}

fn say(what: &str, place: &std::panic::Location<'_>) {
    // The harness keeps what goes through `println!`, and may be within a line of its own.
    let line = format!("\nneeds {what}: {}:{}\n", place.file(), place.line());
    drop(std::io::stderr().write_all(line.as_bytes()));
}
