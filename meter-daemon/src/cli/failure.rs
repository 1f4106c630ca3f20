//! How a command fails: an exit status that scripts can rely on (sysexits), and one clear
//! message on standard error.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use crate::daemon;

/// An exit status, after sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Asked for, understood, and refused.
    pub const REFUSED: Self = Self(1);
    /// The command line is wrong.
    pub const USAGE: Self = Self(64);
    /// What was given is wrong.
    pub const DATA: Self = Self(65);
    /// A file that was given cannot be read.
    pub const NO_INPUT: Self = Self(66);
    /// The daemon is not running.
    pub const UNAVAILABLE: Self = Self(69);
    /// A defect.
    pub const SOFTWARE: Self = Self(70);
    /// The system lacks something.
    pub const SYSTEM: Self = Self(71);
    /// A file cannot be made.
    pub const CANNOT_CREATE: Self = Self(73);
    /// Reading or writing failed.
    pub const IO: Self = Self(74);
    /// It may work later.
    pub const TRY_AGAIN: Self = Self(75);
    /// Not for this user.
    pub const NOT_ALLOWED: Self = Self(77);
    /// The configuration is wrong.
    pub const CONFIG: Self = Self(78);
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
    /// Whoever read the output has seen enough: not an error, but the end.
    pub(super) const NOBODY_READS: Self = Self {
        exit: Exit(0),
        message: String::new(),
    };

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
            let message = self.message.trim_end();
            // Rendered diagnostics each begin with what they are.
            let said = ["error", "warning"]
                .iter()
                .any(|word| message.starts_with(word));
            let prefix = if said { "" } else { "error: " };
            // Where standard error is gone as well, the exit status still speaks.
            let _ = writeln!(io::stderr(), "{prefix}{message}");
        }
        ExitCode::from(self.exit.0)
    }
}

impl From<daemon::Failure> for Failure {
    fn from(failure: daemon::Failure) -> Self {
        Self::new(Exit(failure.exit_status()), failure)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
