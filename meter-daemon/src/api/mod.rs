//! The daemon's doors: the control socket and the metrics. They know no host and no
//! configuration text; each request is a [`Call`] that the loop answers.
//!
//! [`socket::bind`] makes the socket, [`serve`] attends it, [`metrics::serve`] attends
//! `/metrics`. Both end, after answering what is under way, when the loop drops the
//! receiving end of its calls: drop it, await them, and the last answer has been sent.

pub mod access;
mod body;
mod door;
pub mod metrics;
mod paged;
mod routes;
mod server;
pub mod socket;

use std::fmt;

use jiff::Timestamp;
use tokio::sync::oneshot;

pub use self::{
    body::change,
    door::{OPENAPI, serve},
    paged::Rows,
    server::Limits,
};

use crate::{
    engine::{
        command::CommandAction,
        units::{AccountId, MachineId},
    },
    ledger::{Resolution, SeedRow},
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
    /// `GET /v1/machines[/ID]`: after a fresh reading. Answer: an array of
    /// [`Status`](crate::engine::status::Status), also for one; the door unwraps it.
    Status {
        /// One, or all.
        machine: Option<MachineId>,
    },
    /// `GET /v1/machines/ID/usage`: after a fresh reading. Answer: an array of
    /// `{"start","end","received","sent","exempt"}`, times with the machine's offset.
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
    /// `GET /v1/machines/ID/explain`. Answer: an object with `sentences`, an array of text
    /// that says it all, beside whatever figures a program may want.
    Explain {
        /// Whose state.
        machine: MachineId,
    },
    /// `GET /v1/machines/ID/offer`. Answer: an object; `allowance`, `forecast`,
    /// `recommended` (bytes or null) and `choices`, an array of `{"volume","cost"}`.
    Offer {
        /// Whose.
        machine: MachineId,
    },
    /// `GET /v1/events`. Answer: an array of events, each as recorded plus its sequence
    /// number `seq`, oldest first. With neither `since` nor `after` the newest `limit`;
    /// otherwise the oldest `limit` that match, so that a reader goes on with `after`.
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
    /// `GET /v1/invoices`. Answer: an array of
    /// [`InvoiceView`](crate::engine::view::InvoiceView).
    Invoices {
        /// Of one account, or all.
        account: Option<AccountId>,
    },
    /// `GET /v1/accounts/ID/balance`. Answer: an account's
    /// [`BalanceView`](crate::engine::view::BalanceView), transactions oldest first.
    Balance {
        /// Whose.
        account: AccountId,
    },
    /// Any `POST` that changes what the engine knows. Answer: `{"dry_run":…,"events":[…]}`,
    /// the events that it caused, or would; a [`Problem`] (409) where it was refused.
    Command {
        /// What: one, or several that one `set` gave at once. All are carried out or none.
        actions: Vec<CommandAction>,
        /// Why.
        reason: Option<String>,
        /// `Idempotency-Key`.
        key: Option<String>,
        /// Show what would happen, change nothing.
        dry_run: bool,
    },
    /// `POST /v1/machines/ID/import`: usage that was measured elsewhere. Answer as of
    /// [`Ask::Command`]; a [`Problem`] (409) where some of it is recorded already.
    Import {
        /// What.
        import: Import,
        /// Why.
        reason: Option<String>,
        /// `Idempotency-Key`.
        key: Option<String>,
        /// Show what would happen, change nothing.
        dry_run: bool,
    },
    /// `POST /v1/machines/ID/forget`: the history of a machine that is neither configured nor
    /// here. Answer as of [`Ask::Command`]; a [`Problem`] (409) where it may not be forgotten.
    Forget {
        /// Which.
        machine: MachineId,
        /// Why.
        reason: Option<String>,
        /// `Idempotency-Key`.
        key: Option<String>,
        /// Show what would be forgotten, forget nothing.
        dry_run: bool,
    },
    /// `POST /v1/reload`. Answer: `{"dry_run":…,"changes":["…"]}`; a [`Problem`] (422) with
    /// the rendered diagnostics where the new configuration is not valid. Doing it twice is
    /// doing it once, so a key is accepted and needs no memory.
    Reload {
        /// Why.
        reason: Option<String>,
        /// Show what would change, change nothing.
        dry_run: bool,
    },
    /// `POST /v1/detach`: a last reading, everything of ours removed, and the daemon ends.
    /// Answer: `{"dry_run":…,"removed":["…"]}`.
    Detach {
        /// Why.
        reason: Option<String>,
        /// Show what would be removed, remove nothing.
        dry_run: bool,
    },
    /// `POST /v1/attach`: an interface is metered, and what stands against its machine stands.
    /// Answer: `{"interface","ifindex","machine","metered","enforcement","stands"}`. Doing it
    /// twice is doing it once, so a key is accepted and needs no memory.
    Attach {
        /// By its name now.
        interface: String,
        /// Whose it is; else the configuration says.
        machine: Option<MachineId>,
        /// The UUID and name of the libvirt domain it belongs to.
        libvirt: Option<(String, String)>,
        /// Why.
        reason: Option<String>,
        /// Show what would happen, change nothing.
        dry_run: bool,
    },
    /// `GET /metrics`, on its own listener.
    Metrics,
}

/// Usage that was measured elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// Whose.
    pub machine: MachineId,
    /// In order, not overlapping, each with traffic.
    pub rows: Vec<SeedRow>,
    /// Where it is from: a file's name.
    pub source: String,
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
#[derive(Debug)]
pub enum Answer {
    /// Done: JSON.
    Json(serde_json::Value),
    /// Done: a JSON array of which nobody knows how long it is.
    Rows(Rows),
    /// The figures for `/metrics`.
    Metrics(Box<metrics::Figures>),
    /// Not done: an `application/problem+json`.
    Problem(Problem),
}

impl From<serde_json::Value> for Answer {
    fn from(value: serde_json::Value) -> Self {
        Self::Json(value)
    }
}

impl From<Rows> for Answer {
    fn from(rows: Rows) -> Self {
        Self::Rows(rows)
    }
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

impl Problem {
    /// A problem by its HTTP status, what it is in a few words, and all that helps.
    pub fn new(status: u16, title: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self {
            status,
            title: title.into(),
            detail: detail.to_string(),
        }
    }
}
