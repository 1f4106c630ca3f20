//! What people tell the engine to do.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{
    plan::{Allowance, DayOfMonth},
    units::{AccountId, Bytes, InvoiceNumber, MachineId, Money, PlanName},
};

/// A command, who gave it, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Who: a user's name, or `simulate`.
    pub author: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// What.
    pub action: CommandAction,
}

/// What a command changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CommandAction {
    /// Add volume to this period.
    TopUp {
        /// Whose.
        machine: MachineId,
        /// How much.
        volume: Bytes,
        /// From the account's pool instead of bought.
        from_pool: bool,
    },
    /// Change a machine's terms until `unset`.
    Set {
        /// Whose.
        machine: MachineId,
        /// To what.
        change: Change,
    },
    /// Return to what the files say.
    Unset {
        /// Whose.
        machine: MachineId,
        /// Which.
        key: SettingKey,
    },
    /// Suspend by staff: no top-up, reset or payment lifts it.
    Suspend {
        /// Whom.
        machine: MachineId,
        /// For how long; until lifted where absent.
        until: Option<Until>,
    },
    /// Override every rule in force now.
    Lift {
        /// Whom; everybody where absent.
        machine: Option<MachineId>,
        /// Until the period ends where absent.
        until: Option<Until>,
    },
    /// A bill was paid.
    Pay {
        /// Which.
        invoice: InvoiceNumber,
    },
    /// Money came in or went out.
    Balance {
        /// Whose.
        account: AccountId,
        /// In the account's currency; negative to deduct.
        add: Decimal,
    },
    /// End metering with a last statement.
    Cancel {
        /// Whom.
        machine: MachineId,
    },
    /// Let the circuit breaker's held-back actions happen.
    Confirm,
}

/// When an override ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// So long after the command.
    For(SignedDuration),
    /// At that instant.
    At(Timestamp),
}

/// One `key=value` of `meterd set`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Another plan; period and usage stay.
    Plan(PlanName),
    /// Another allowance; period and usage stay.
    Allowance(Allowance),
    /// Another anchor; the running period keeps its end.
    RenewalDay(DayOfMonth),
    /// Another limit; `None` switches it off.
    CostLimit(Option<Money>),
    /// Whether rules lift by themselves.
    AutoUnsuspend(bool),
}

/// The keys of `set` and `unset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettingKey {
    /// `plan`
    Plan,
    /// `allowance`
    Allowance,
    /// `renewal-day`
    RenewalDay,
    /// `cost-limit`
    CostLimit,
    /// `auto-unsuspend`
    AutoUnsuspend,
}
