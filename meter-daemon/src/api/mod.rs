//! The daemon's doors: the control socket and the metrics. They know no host and no
//! configuration text; each request is a [`Call`] that the loop answers.

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::{
    engine::{
        command::CommandAction,
        units::{AccountId, MachineId},
    },
    ledger::Resolution,
};

/// Who is at the other end of the control socket, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Their user's name, or `uid 1234` where it has none: the author of what they change.
    pub name: String,
    /// Root and members of the `meterd` group may change things.
    pub may_change: bool,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// `GET /v1/machines[/ID]`: after a fresh reading.
    Status {
        /// One, or all.
        machine: Option<MachineId>,
    },
    /// `GET /v1/machines/ID/usage`: after a fresh reading.
    Usage {
        /// Whose.
        machine: MachineId,
        /// In rows of what length.
        by: Resolution,
        /// From here, inclusive, by a row's start.
        from: Option<Timestamp>,
        /// To here, exclusive.
        to: Option<Timestamp>,
    },
    /// `GET /v1/machines/ID/explain`
    Explain {
        /// Whose state.
        machine: MachineId,
    },
    /// `GET /v1/machines/ID/offer`
    Offer {
        /// Whose.
        machine: MachineId,
    },
    /// `GET /v1/events`: rows with their sequence numbers, oldest first.
    Events {
        /// Of one machine, or all.
        machine: Option<MachineId>,
        /// Not older than this.
        since: Option<Timestamp>,
        /// With a sequence number above this (for following).
        after: Option<u64>,
        /// At most so many.
        limit: usize,
    },
    /// `GET /v1/invoices`
    Invoices {
        /// Of one account, or all.
        account: Option<AccountId>,
    },
    /// `GET /v1/accounts/ID/balance`
    Balance {
        /// Whose.
        account: AccountId,
    },
    /// Any `POST` that changes what the engine knows.
    Command {
        /// What.
        action: CommandAction,
        /// Why.
        reason: Option<String>,
        /// `Idempotency-Key`.
        key: Option<String>,
        /// Show what would happen, change nothing.
        dry_run: bool,
    },
    /// `POST /v1/reload`
    Reload,
    /// `POST /v1/detach`: a last reading, everything of ours removed, and the daemon ends.
    Detach,
    /// `GET /metrics`, on its own listener.
    Metrics,
}

/// A question, who asks, and where the answer goes.
#[derive(Debug)]
pub struct Call {
    /// What.
    pub ask: Ask,
    /// Who.
    pub peer: Peer,
    /// Where to.
    pub answer: oneshot::Sender<Answer>,
}

/// What the loop answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done: JSON.
    Json(serde_json::Value),
    /// The figures for `/metrics`.
    Metrics(Box<metrics::Figures>),
    /// Not done: an `application/problem+json`.
    Problem(Problem),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{title}: {detail}")]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// In a few words.
    pub title: String,
    /// What was attempted, on what, why it failed, and what can be done.
    pub detail: String,
}

pub mod metrics;
