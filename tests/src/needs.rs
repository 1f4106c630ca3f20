//! What a test needs that some kernels, or machines, have not. It is said aloud, past the harness, so that
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
        say("tcx");
    }
    Ok(there)
}

/// Whether a program is installed. The same is said of one that is not.
#[track_caller]
pub fn program(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).exists());
    if !there {
        say(name);
    }
    there
}

/// Whether two processors are there to do something at once.
#[track_caller]
pub fn two_processors() -> bool {
    let there = std::thread::available_parallelism().is_ok_and(|number| number.get() > 1);
    if !there {
        say("two processors");
    }
    there
}

/// Whether the daemon under test can be shown another wall clock: a release build cannot.
#[track_caller]
pub fn shown_clock() -> Result<bool> {
    let binary = crate::meterd::binary()?;
    let debug = !binary
        .components()
        .any(|part| part.as_os_str() == "release");
    if !debug {
        say("a debug build of meterd");
    }
    Ok(debug)
}

/// Says that the calling test needs what is not there, and so tests nothing more.
#[track_caller]
pub fn say(what: &str) {
    let place = std::panic::Location::caller();
    // The harness keeps what goes through `println!`, and may be within a line of its own.
    let line = format!("\nneeds {what}: {}:{}\n", place.file(), place.line());
    drop(std::io::stderr().write_all(line.as_bytes()));
}
