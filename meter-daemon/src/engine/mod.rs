//! The engine decides. It is pure: no clock, no IO, no randomness, no log; `now` is an
//! argument, and everything it does is data that somebody else records and carries out.
//!
//! The daemon, `simulate`, the property tests and the seeded simulation run this same code.

mod advice;
mod books;
mod boundary;
pub mod command;
mod commands;
mod desk;
mod effective;
pub mod event;
pub mod explain;
mod forecast;
mod history;
mod kept;
mod machine;
mod money;
mod notices;
mod obey;
pub mod offer;
mod period;
pub mod plan;
pub mod quantity;
pub mod record;
mod restore;
mod rules;
mod sentences;
pub mod span;
mod standing;
pub mod status;
mod step;
mod triggers;
mod turn;
pub mod units;
mod usage;
pub mod view;

#[cfg(test)]
mod tests;

pub use self::{
    boundary::{Boundary, Left},
    history::unpaid_in,
    restore::RestoreError,
    step::Engine,
};

use jiff::{SignedDuration, Timestamp};

use self::{
    command::Command,
    event::Event,
    units::{BitsPerSecond, Bytes, MachineId, Traffic},
};

/// What the world shows at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// New traffic, per machine, with the span in which it arrived.
    pub traffic: Vec<Sample>,
    /// What people said, in order. They come after the traffic.
    pub commands: Vec<Command>,
}

/// Traffic of a machine over the span `(from, to]`, taken as evenly spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Whose.
    pub machine: MachineId,
    /// When the reading before was taken.
    pub from: Timestamp,
    /// When this one was.
    pub to: Timestamp,
    /// What moved between them.
    pub traffic: Traffic,
}

/// What a step wants done. Every effect is idempotent.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a step has few effects, and nearly all of them are events"
)]
pub enum Effect {
    /// Something happened; it is recorded, and shown to whom it concerns.
    Event(Event),
    /// From now on this is what a machine's packets should see.
    Enforce(MachineId, Enforcement),
}

/// What a machine's packets should see: a level, not an edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Enforcement {
    /// Everything passes.
    #[default]
    None,
    /// Each direction shaped to a rate.
    Throttle(BitsPerSecond),
    /// This much more, then nothing.
    Cap {
        /// Left as of the step.
        remaining: Bytes,
    },
    /// Nothing passes; link down.
    Suspend,
}

/// What the operator sets for all machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// Guards against hitting too many at once.
    pub breaker: Breaker,
    /// Everything is decided and recorded, nothing is done.
    pub dry_run: bool,
}

/// The circuit breaker: what would newly throttle, cap or suspend more machines than both of
/// these, in one step or in steps that follow one another, hits no more of them until an
/// operator confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many may always be hit.
    pub machines: u32,
    /// And so many of a hundred.
    pub percent: u8,
    /// Steps within this time are as one: the kernel stops each machine at its own byte.
    pub within: SignedDuration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            machines: 10,
            percent: 20,
            within: SignedDuration::from_mins(1),
        }
    }
}
