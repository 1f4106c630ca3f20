//! What a provider promises: a period, an allowance, prices, and an ordered list of rules.
//!
//! `config` turns a checked TOML file into these types; nothing here can be inconsistent
//! in a way that the engine would have to refuse.

use std::{num::NonZeroU32, sync::Arc};

use ipnet::IpNet;
use jiff::{SignedDuration, tz::TimeZone};
use rust_decimal::Decimal;

use super::units::{
    AccountId, BitsPerSecond, Bytes, Currency, MachineId, Money, PlanName, RuleName,
};

/// A plan, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The file's name without `.toml`.
    pub name: PlanName,
    /// When a period begins.
    pub starts: PeriodStart,
    /// The plan's zone, where it names one. A machine's own zone wins.
    pub time_zone: Option<TimeZone>,
    /// What counts as used.
    pub direction: Direction,
    /// What a period includes.
    pub allowance: Allowance,
    /// What usage may cost in a period.
    pub cost_limit: Option<Money>,
    /// An accruing allowance: `allowance / days` is granted as each day begins.
    pub daily: Option<NonZeroU32>,
    /// Whether unused volume is carried into the next period.
    pub rollover: Rollover,
    /// Prices; absent where the plan moves no money.
    pub price: Option<Price>,
    /// In the order of the file.
    pub rules: Vec<Rule>,
    /// False: everything is decided and recorded, nothing is done.
    pub enforce: bool,
    /// Far ends whose traffic is counted apart and never stopped.
    pub exempt: Vec<IpNet>,
    /// Whether such traffic passes a suspension, too. Then the link stays up.
    pub exempt_when_suspended: bool,
}

/// The day of the month on which a period begins, at the first instant of that day. In a
/// shorter month: its last day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeriodStart {
    /// A fixed day, 1 to 31.
    Day(DayOfMonth),
    /// The machine's own `renewal-day`; the 1st for a machine that has none.
    RenewalDay,
}

/// A day of the month, 1 to 31.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct DayOfMonth(u8);

impl DayOfMonth {
    /// The 1st.
    pub const FIRST: Self = Self(1);

    /// `None` for anything but 1 to 31.
    #[must_use]
    pub const fn new(day: u8) -> Option<Self> {
        if day >= 1 && day <= 31 {
            Some(Self(day))
        } else {
            None
        }
    }

    /// 1 to 31.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for DayOfMonth {
    type Error = String;
    fn try_from(day: u8) -> Result<Self, String> {
        Self::new(day).ok_or_else(|| format!("{day} is not a day from 1 to 31"))
    }
}

impl From<DayOfMonth> for u8 {
    fn from(day: DayOfMonth) -> Self {
        day.0
    }
}

/// Which traffic a plan counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Received and sent together.
    #[default]
    Sum,
    /// What the guest received.
    Received,
    /// What the guest sent.
    Sent,
    /// The larger of the period's two sums.
    Larger,
}

/// What a period includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Allowance {
    /// This much; 0 is reached at once.
    Limited(Bytes),
    /// As much as there is.
    Unlimited,
}

/// What becomes of unused volume when a period ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollover {
    /// It is gone.
    #[default]
    None,
    /// The next period has it, once; it is used first.
    Unused,
}

/// A plan's prices, all in one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// Of everything below.
    pub currency: Currency,
    /// What the plan itself costs a period. Nothing collects it here: plans are compared by it.
    pub base: Option<Decimal>,
    /// On all that is used; feeds the cost limit.
    pub usage: Option<Tariff>,
    /// On what is used beyond the allowance.
    pub overage: Option<Overage>,
    /// On volume added by a top-up.
    pub extra: Option<Extra>,
}

/// A price for a volume, charged by the exact byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tariff {
    /// The volume that costs `price`; never zero.
    pub per: Bytes,
    /// In the plan's currency; not negative.
    pub price: Decimal,
}

/// What exceeding the allowance costs, and how it is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overage {
    /// The price.
    pub tariff: Tariff,
    /// How.
    pub collect: CollectOverage,
}

/// How overage is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectOverage {
    /// Deducted from the account's balance as it accrues.
    Balance,
    /// Billed when the period closes, due so many civil days later.
    Invoice {
        /// Civil days from the bill's date.
        due_days: u32,
    },
}

/// What a top-up costs, and how it is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// The price.
    pub tariff: Tariff,
    /// By the exact time left of the period.
    pub prorated: bool,
    /// How.
    pub collect: CollectExtra,
}

/// How a top-up is collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CollectExtra {
    /// Not at all: the volume is there at once and the price is reported.
    #[default]
    None,
    /// Deducted from the balance; the volume is there at once.
    Balance,
    /// Billed; the volume comes with the payment.
    Invoice {
        /// Civil days from the bill's date.
        due_days: u32,
    },
}

/// At this much, after this long, do this.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// By trigger and figure, as operators see it.
    pub name: RuleName,
    /// When it holds.
    pub trigger: Trigger,
    /// How long it must have held; zero or more.
    pub after: SignedDuration,
    /// What it does to packets.
    pub action: Option<Action>,
    /// Whether it says so.
    pub notify: bool,
    /// Whether it marks the machine while it holds.
    pub flag: bool,
    /// How its action ends.
    pub lift: Lift,
}

/// When a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Reached: used >= X.
    Used(Threshold),
    /// Exceeded: used > X.
    Over(Threshold),
    /// Used exceeds X percent of the daily allowance accumulated so far.
    Accrued(Percent),
    /// The cost of usage exceeds X.
    Cost(CostThreshold),
    /// The forecast for the period's end exceeds X.
    Forecast(Threshold),
    /// A bill is past its due date.
    Overdue,
}

/// A volume, or a share of the allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Of the allowance with its top-ups; never holds where that is unlimited.
    Percent(Percent),
    /// Whatever the allowance.
    Volume(Bytes),
}

/// An amount, or a share of the cost limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostThreshold {
    /// Of the cost limit; never holds where there is none.
    Percent(Percent),
    /// Whatever the limit; in the plan's currency.
    Amount(Money),
}

/// A percentage, exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub Decimal);

/// What a rule does to packets, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Action {
    /// Shape to a rate, each direction.
    Throttle(BitsPerSecond),
    /// This much more, then nothing.
    Cap(Bytes),
    /// Nothing passes and the link is down.
    Suspend,
}

/// How a rule's action ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lift {
    /// When its trigger no longer holds.
    #[default]
    Automatic,
    /// When someone says so.
    ByHand,
}

/// A machine as configured. What a command `set` is kept in the engine's state and wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Its name.
    pub id: MachineId,
    /// `None`: metered, with calendar months in its zone and no rules.
    pub plan: Option<Arc<Plan>>,
    /// Who pays and is told.
    pub account: Option<AccountId>,
    /// The anchor for plans that start on the renewal day.
    pub renewal_day: Option<DayOfMonth>,
    /// Instead of the plan's.
    pub allowance: Option<Allowance>,
    /// Instead of the plan's.
    pub cost_limit: Option<Money>,
    /// Instead of the rules' `lift`: true, all lift by themselves; false, suspensions wait.
    pub auto_unsuspend: Option<bool>,
    /// Its own zone.
    pub time_zone: Option<TimeZone>,
    /// The node's.
    pub node_zone: TimeZone,
}

impl Machine {
    /// The zone of its periods under that plan: its own, else the plan's, else the node's.
    #[must_use]
    pub fn zone<'a>(&'a self, plan: Option<&'a Plan>) -> &'a TimeZone {
        let of_plan = || plan.and_then(|plan| plan.time_zone.as_ref());
        let zone = self.time_zone.as_ref().or_else(of_plan);
        zone.unwrap_or(&self.node_zone)
    }
}

/// A customer's account as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Its name.
    pub id: AccountId,
    /// Of its balance and bills. `None`: no money moves.
    pub currency: Option<Currency>,
    /// Bills count as paid when they are issued.
    pub autopay: bool,
    /// The size of the shared traffic pool. What top-ups took from it is in the engine's
    /// state: raising the size raises what is left.
    pub pool: Option<Bytes>,
    /// What the balance starts with, the first time the account is seen.
    pub opening_balance: Option<Money>,
}

/// Everything configured that the engine decides by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// Every machine that is configured or was discovered, in order of id.
    pub machines: std::collections::BTreeMap<MachineId, Machine>,
    /// Every account.
    pub accounts: std::collections::BTreeMap<AccountId, Account>,
    /// Every plan, so that `set plan=` finds it.
    pub plans: std::collections::BTreeMap<PlanName, Arc<Plan>>,
}
