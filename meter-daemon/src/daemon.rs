//! (daemon)

use std::path::Path;

use crate::cli::{Exit, Failure, doctor::Feature};

/// Stands in until the daemon's own is joined.
pub fn run(_config: &Path) -> Result<(), Failure> {
    Err(Failure::new(
        Exit::Software,
        "the daemon is not joined to this build",
    ))
}

/// As above.
pub fn detach(_config: &Path, _dry_run: bool) -> Result<Vec<String>, Failure> {
    Err(Failure::new(
        Exit::Software,
        "the daemon is not joined to this build",
    ))
}

/// As above.
pub fn features(_config: &Path) -> Vec<Feature> {
    Vec::new()
}
