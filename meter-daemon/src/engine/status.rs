//! What `status` shows of a machine: the engine's answer, in the interface's own words.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    event::State,
    plan::Direction,
    units::{AccountId, BitsPerSecond, Bytes, MachineId, PlanName, RuleName},
};

/// One machine, as `status --json` writes it. `interfaces` is empty until the daemon, which
/// knows them, fills it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its id.
    pub machine: MachineId,
    /// Whose it is.
    pub account: Option<AccountId>,
    /// Its plan; null without one.
    pub plan: Option<PlanName>,
    /// Names of its interfaces on this node now.
    pub interfaces: Vec<String>,
    /// What became of their links, in a sentence each, while it is suspended and until all is
    /// as before; the daemon fills it, too.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub links: Vec<String>,
    /// What stands between it and its traffic.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// The rule that caused it.
    pub rule: Option<RuleName>,
    /// The running period.
    pub period: PeriodStatus,
    /// Which traffic the plan counts.
    pub direction: Direction,
    /// What the plan counts, since the period began.
    pub used: Bytes,
    /// What the guest received in the period.
    pub received: Bytes,
    /// What the guest sent in the period.
    pub sent: Bytes,
    /// To and from exempt prefixes.
    pub exempt: Bytes,
    /// With valid top-ups; null when unlimited.
    pub allowance: Option<Bytes>,
    /// Allowance less used, not below 0; null when unlimited.
    pub remaining: Option<Bytes>,
    /// used / allowance; null when unlimited or 0.
    pub ratio: Option<f64>,
    /// Used at the period's end at the current rate; null while history is too short.
    pub forecast: Option<Bytes>,
    /// Whether a `flag` rule holds.
    pub flagged: bool,
    /// Whether `cancel` would be carried out.
    pub cancellable: bool,
    /// The throttle's rate, while one stands.
    pub rate_limit_bits_per_second: Option<BitsPerSecond>,
    /// Bytes left under a cap, 0 when used up; null without one.
    pub cap_remaining: Option<Bytes>,
    /// What comes next if usage goes on.
    pub next: Option<NextRule>,
    /// The account's pool, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pool: Option<PoolStatus>,
}

/// The running period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeriodStatus {
    /// Its first instant, with the machine's offset.
    pub start: String,
    /// The next one's first instant, with the machine's offset.
    pub end: String,
    /// Civil days until then, a part of a day counted as one.
    pub days_left: i64,
}

/// The next rule to act or speak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextRule {
    /// Which.
    pub rule: RuleName,
    /// At this usage.
    pub at_bytes: Option<Bytes>,
    /// At this instant.
    pub at_time: Option<Timestamp>,
}

/// A traffic pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// All of it.
    pub size: Bytes,
    /// What is left.
    pub left: Bytes,
}
