//! What the engine says happened. Events, `--dry-run` and `simulate` are printouts of these.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    offer::Offer,
    units::{AccountId, BitsPerSecond, Bytes, InvoiceNumber, MachineId, Money, RuleName},
};

/// What stands between a machine and its traffic, strongest last.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing.
    #[default]
    Normal,
    /// A rate.
    Throttled,
    /// A remaining volume.
    Capped,
    /// Everything.
    Suspended,
}

impl State {
    /// The word used in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Throttled => "throttled",
            Self::Capped => "capped",
            Self::Suspended => "suspended",
        }
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Throttled, Self::Capped, Self::Suspended];
}

/// One thing that happened, with its cause and figures. Serialises to the line that
/// `simulate` prints and `events --json` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// To whom; absent for what concerns an account alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine: Option<MachineId>,
    /// Whose account, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub account: Option<AccountId>,
    /// What, with its own fields beside the common ones.
    #[serde(flatten)]
    pub kind: EventKind,
    /// The rule that caused it.
    pub rule: Option<RuleName>,
    /// Used in the period so far.
    pub used: Bytes,
    /// Included in the period; absent when unlimited.
    pub allowance: Option<Bytes>,
    /// The machine's state after it.
    pub state: State,
}

/// The kinds of event, with the fields that each has of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields' names are the interface's own, documented there"
)]
pub enum EventKind {
    /// A period began; it is written down with its start and end.
    PeriodStarted { start: Timestamp, end: Timestamp },
    /// Someone is to be told. `id` is derived from machine, period, rule and arming. Where
    /// volume is sold and more would help, the notice carries the offer.
    Notice {
        id: String,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        offer: Option<Box<Offer>>,
    },
    /// A `flag` rule holds.
    Flagged { excess: Bytes },
    /// It no longer does.
    Unflagged {},
    /// A rate stands.
    Throttled {
        from: State,
        rate_limit_bits_per_second: BitsPerSecond,
    },
    /// A remaining volume stands.
    Capped { from: State, cap_remaining: Bytes },
    /// Nothing passes. `by` names staff where it was they.
    Suspended {
        from: State,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        by: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    },
    /// The machine is back to normal, and why.
    Restored { from: State, cause: String },
    /// Overage was charged.
    Charged {
        amount: Money,
        volume: Bytes,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        balance: Option<Money>,
    },
    /// A bill was issued.
    Invoiced {
        invoice: InvoiceNumber,
        number: InvoiceNumber,
        date: String,
        due: Timestamp,
        description: String,
        valid_from: Timestamp,
        valid_to: Timestamp,
        amount: Money,
        volume: Bytes,
    },
    /// A bill was paid.
    Paid {
        invoice: InvoiceNumber,
        amount: Money,
    },
    /// A bill passed its due date.
    Overdue {
        invoice: InvoiceNumber,
        amount: Money,
    },
    /// Volume that was ordered was not paid in time: nothing is owed, nothing comes.
    Lapsed {
        invoice: InvoiceNumber,
        amount: Money,
    },
    /// Volume was added.
    ToppedUp {
        volume: Bytes,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        amount: Option<Money>,
        from_pool: bool,
    },
    /// A command was not carried out.
    Refused { command: String, reason: String },
    /// Terms changed by command: `plan`, `allowance`, `renewal-day`, …
    Changed {
        key: String,
        value: Option<String>,
        by: String,
    },
    /// An override began: rules held off until then.
    Lifted {
        until: Option<Timestamp>,
        by: String,
        reason: Option<String>,
    },
    /// An override ended.
    OverrideEnded {},
    /// Money moved on an account by command.
    Balance { amount: Money, balance: Money },
    /// The circuit breaker holds back what would hit so many machines at once.
    HeldBack { machines: u32, of: u32 },
    /// An operator let it happen.
    Confirmed { by: String },
    /// A machine's metering ended with this statement.
    Cancelled { by: String },
}

impl EventKind {
    /// The word used in JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::PeriodStarted { .. } => "period-started",
            Self::Notice { .. } => "notice",
            Self::Flagged { .. } => "flagged",
            Self::Unflagged {} => "unflagged",
            Self::Throttled { .. } => "throttled",
            Self::Capped { .. } => "capped",
            Self::Suspended { .. } => "suspended",
            Self::Restored { .. } => "restored",
            Self::Charged { .. } => "charged",
            Self::Invoiced { .. } => "invoiced",
            Self::Paid { .. } => "paid",
            Self::Overdue { .. } => "overdue",
            Self::Lapsed { .. } => "lapsed",
            Self::ToppedUp { .. } => "topped-up",
            Self::Refused { .. } => "refused",
            Self::Changed { .. } => "changed",
            Self::Lifted { .. } => "lifted",
            Self::OverrideEnded {} => "override-ended",
            Self::Balance { .. } => "balance",
            Self::HeldBack { .. } => "held-back",
            Self::Confirmed { .. } => "confirmed",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}
