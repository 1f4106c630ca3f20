//! What of the engine survives a restart: plain data, for `ledger` to keep and give back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::units::{AccountId, MachineId, Traffic};

pub use super::forecast::Hours;

/// The sums of the running period, which change with every reading. Kept apart from the
/// rest of a machine's state so that a minute's commit writes few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The period's first instant.
    pub period_start: Timestamp,
    /// The next one's.
    pub period_end: Timestamp,
    /// What moved in it so far.
    pub traffic: Traffic,
    /// Up to when that is known.
    pub measured_to: Timestamp,
}

/// What changed between two states of the engine. Text is JSON that only the engine reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Machines whose state or sums changed.
    pub machines: Vec<MachineChange>,
    /// Periods that closed, with their final sums.
    pub closed: Vec<(MachineId, Running)>,
    /// Accounts whose state changed.
    pub accounts: Vec<(AccountId, String)>,
    /// The node's own state, if it changed.
    pub node: Option<String>,
}

/// A machine's part of [`Changes`].
#[derive(Clone, Debug, PartialEq)]
pub struct MachineChange {
    /// Whose.
    pub machine: MachineId,
    /// Everything but the sums; absent where only they changed.
    pub state: Option<String>,
    /// The sums of its running period.
    pub running: Running,
}

/// All that was kept, as it is read back at start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Every machine.
    pub machines: Vec<KeptMachine>,
    /// Every account's state.
    pub accounts: Vec<(AccountId, String)>,
    /// The node's own state.
    pub node: Option<String>,
}

/// A machine, as it is read back at start.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptMachine {
    /// Whose.
    pub machine: MachineId,
    /// Everything but the sums.
    pub state: String,
    /// The sums of its running period.
    pub running: Running,
    /// Hours of the last three days, for the forecast.
    pub recent: Hours,
}
