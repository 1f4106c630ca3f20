//! The terms a machine is under: its file, its plan, and what commands `set`, which wins.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::{
    command::{Change, SettingKey},
    plan::{
        Allowance, DayOfMonth, Direction, Extra, Lift, Machine, Overage, PeriodStart, Plan, Price,
        Rollover, Rule, Tariff, Terms, Trigger,
    },
    units::{AccountId, Currency, Money, PlanName},
};

/// What commands set, by key: one value each, the last.
pub(crate) type Settings = BTreeMap<SettingKey, Setting>;

/// One thing that a command `set`, until `unset`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) change: Change,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Change {
    /// The key that it is a value of.
    #[must_use]
    pub const fn key(&self) -> SettingKey {
        match self {
            Self::Plan(_) => SettingKey::Plan,
            Self::Allowance(_) => SettingKey::Allowance,
            Self::RenewalDay(_) => SettingKey::RenewalDay,
            Self::CostLimit(_) => SettingKey::CostLimit,
            Self::AutoUnsuspend(_) => SettingKey::AutoUnsuspend,
        }
    }

    /// The value, as people write it.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::Plan(name) => name.to_string(),
            Self::Allowance(Allowance::Limited(volume)) => volume.to_string(),
            Self::Allowance(Allowance::Unlimited) => "unlimited".to_owned(),
            Self::RenewalDay(day) => day.get().to_string(),
            Self::CostLimit(Some(limit)) => limit.to_string(),
            Self::CostLimit(None) => "none".to_owned(),
            Self::AutoUnsuspend(true) => "on".to_owned(),
            Self::AutoUnsuspend(false) => "off".to_owned(),
        }
    }
}

impl SettingKey {
    /// The key, as people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Allowance => "allowance",
            Self::RenewalDay => "renewal-day",
            Self::CostLimit => "cost-limit",
            Self::AutoUnsuspend => "auto-unsuspend",
        }
    }
}

/// The terms in force for one machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effective {
    pub(crate) plan: Option<Arc<Plan>>,
    pub(crate) account: Option<AccountId>,
    /// What a period includes before top-ups and rollover.
    pub(crate) included: Allowance,
    pub(crate) cost_limit: Option<Money>,
    /// Of the next period.
    pub(crate) anchor: DayOfMonth,
    /// Of the next period.
    pub(crate) zone: TimeZone,
    auto_unsuspend: Option<bool>,
    /// Whether a rule's trigger moves with time alone, so that every step must look.
    pub(crate) forecasts: bool,
}

impl Effective {
    /// What `machine`'s file and plan say, and `settings` on top.
    pub(crate) fn resolve(machine: &Machine, settings: &Settings, terms: &Terms) -> Self {
        let mut plan = machine.plan.clone();
        if let Some(Change::Plan(name)) = value(settings, SettingKey::Plan)
            && let Some(set) = terms.plans.get(name)
        {
            plan = Some(Arc::clone(set));
        }
        let included = match value(settings, SettingKey::Allowance) {
            Some(Change::Allowance(set)) => *set,
            _ => machine
                .allowance
                .or(plan.as_ref().map(|plan| plan.allowance))
                .unwrap_or(Allowance::Unlimited),
        };
        let cost_limit = match value(settings, SettingKey::CostLimit) {
            Some(Change::CostLimit(set)) => *set,
            _ => machine
                .cost_limit
                .or(plan.as_ref().and_then(|plan| plan.cost_limit)),
        };
        let auto_unsuspend = match value(settings, SettingKey::AutoUnsuspend) {
            Some(Change::AutoUnsuspend(set)) => Some(*set),
            _ => machine.auto_unsuspend,
        };
        let renewal_day = match value(settings, SettingKey::RenewalDay) {
            Some(Change::RenewalDay(set)) => Some(*set),
            _ => machine.renewal_day,
        };
        let anchor = match plan.as_ref().map(|plan| plan.starts) {
            Some(PeriodStart::Day(day)) => day,
            Some(PeriodStart::RenewalDay) => renewal_day.unwrap_or(DayOfMonth::FIRST),
            None => DayOfMonth::FIRST,
        };
        Self {
            forecasts: plan.as_ref().is_some_and(|plan| forecasts(plan)),
            zone: machine.zone(plan.as_deref()).clone(),
            plan,
            account: machine.account.clone(),
            included,
            cost_limit,
            anchor,
            auto_unsuspend,
        }
    }

    /// For a machine that is configured no more: nothing is asked of it.
    pub(crate) fn gone(zone: TimeZone) -> Self {
        Self {
            plan: None,
            account: None,
            included: Allowance::Unlimited,
            cost_limit: None,
            anchor: DayOfMonth::FIRST,
            zone,
            auto_unsuspend: None,
            forecasts: false,
        }
    }

    pub(crate) fn plan_name(&self) -> Option<&PlanName> {
        self.plan.as_ref().map(|plan| &plan.name)
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        self.plan.as_ref().map_or(&[], |plan| &plan.rules)
    }

    pub(crate) fn direction(&self) -> Direction {
        self.plan
            .as_ref()
            .map_or(Direction::Sum, |plan| plan.direction)
    }

    pub(crate) fn daily(&self) -> Option<NonZeroU32> {
        self.plan.as_ref().and_then(|plan| plan.daily)
    }

    pub(crate) fn rolls_over(&self) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| plan.rollover == Rollover::Unused)
    }

    /// Whether what is decided is done.
    pub(crate) fn enforced(&self) -> bool {
        self.plan.as_ref().is_none_or(|plan| plan.enforce)
    }

    pub(crate) fn price(&self) -> Option<&Price> {
        self.plan.as_ref().and_then(|plan| plan.price.as_ref())
    }

    pub(crate) fn usage_price(&self) -> Option<(Tariff, Currency)> {
        let price = self.price()?;
        Some((price.usage?, price.currency))
    }

    pub(crate) fn overage_price(&self) -> Option<(Overage, Currency)> {
        let price = self.price()?;
        Some((price.overage?, price.currency))
    }

    pub(crate) fn extra_price(&self) -> Option<(Extra, Currency)> {
        let price = self.price()?;
        Some((price.extra?, price.currency))
    }

    /// Whether the machine's own switch lifts whatever its cause is gone of.
    pub(crate) const fn lifts_by_itself(&self) -> bool {
        matches!(self.auto_unsuspend, Some(true))
    }

    /// How a rule's action ends on this machine: its switch wins over the rule's own word.
    pub(crate) fn lift(&self, rule: &Rule) -> Lift {
        match self.auto_unsuspend {
            Some(true) => Lift::Automatic,
            Some(false) if rule.action == Some(super::plan::Action::Suspend) => Lift::ByHand,
            _ => rule.lift,
        }
    }
}

fn value(settings: &Settings, key: SettingKey) -> Option<&Change> {
    settings.get(&key).map(|setting| &setting.change)
}

fn forecasts(plan: &Plan) -> bool {
    plan.rules
        .iter()
        .any(|rule| matches!(rule.trigger, Trigger::Forecast(_)))
}
