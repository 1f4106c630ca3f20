//! How a command fails: an exit status that scripts can rely on (sysexits), and one clear
//! message on standard error.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// The exit statuses in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Asked for, understood, and refused.
    Refused = 1,
    /// The command line is wrong: `EX_USAGE`.
    Usage = 64,
    /// What was recorded cannot be used: `EX_DATAERR`.
    Data = 65,
    /// A file given cannot be read: `EX_NOINPUT`.
    NoInput = 66,
    /// The daemon is not running: `EX_UNAVAILABLE`.
    Unavailable = 69,
    /// A defect: `EX_SOFTWARE`.
    Software = 70,
    /// The system lacks something: `EX_OSERR`.
    System = 71,
    /// Reading or writing failed: `EX_IOERR`.
    Io = 74,
    /// It may work later: `EX_TEMPFAIL`.
    TryAgain = 75,
    /// Not for this user: `EX_NOPERM`.
    NotAllowed = 77,
    /// The configuration is wrong: `EX_CONFIG`.
    Config = 78,
}

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For scripts.
    pub exit: Exit,
    /// For people: what was attempted, on what, why it failed, what can be done. Empty where
    /// there is nobody left to tell.
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }

    /// Tells on standard error, and gives the exit status.
    pub(super) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            // Where standard error is gone as well, the exit status still speaks.
            let _ = writeln!(io::stderr(), "error: {}", self.message.trim_end());
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
