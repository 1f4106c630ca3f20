//! What a fixture says when it could not do its part.

use std::{fmt, io};

/// What was attempted, on what, and why it failed.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(String);

/// Of a fixture.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// With this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// A test that returns `Err` is shown through Debug: the text as it is, not quoted.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Says what was attempted beside why it failed.
pub trait Context<T> {
    /// `what` reads on from "could not": `"open /dev/net/tun"`.
    fn could_not<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Why>> Context<T> for std::result::Result<T, E> {
    fn could_not<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|why| Failure(format!("could not {}: {}", what(), why.into().0)))
    }
}

/// The text of an error that [`Context`] takes.
#[derive(Debug)]
pub struct Why(String);

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rustix::io::Errno> for Why {
    fn from(error: rustix::io::Errno) -> Self {
        Self(io::Error::from(error).to_string())
    }
}

impl From<Failure> for Why {
    fn from(error: Failure) -> Self {
        Self(error.0)
    }
}

impl From<serde_json::Error> for Why {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}
