//! Whether a bigger plan would do better, by what the plans themselves cost.

use std::{collections::BTreeMap, sync::Arc};

use rust_decimal::Decimal;

use super::{
    machine::Machine,
    money::price_of,
    plan::{Allowance, Plan},
    units::{Bytes, Money, PlanName},
};

/// Periods that must have closed before anything is advised.
const ENOUGH: usize = 3;

impl Plan {
    /// What a period with so much use costs: the plan itself, and what exceeds it at the price
    /// of overage, or else of added volume. `None` where the plan does not say.
    fn costs(&self, used: Bytes) -> Option<Decimal> {
        let price = self.price.as_ref()?;
        let base = price.base?;
        let excess = match self.allowance {
            Allowance::Limited(included) => used.saturating_sub(included),
            Allowance::Unlimited => Bytes::ZERO,
        };
        if excess == Bytes::ZERO {
            return Some(base);
        }
        let overage = price.overage.map(|overage| overage.tariff);
        let tariff = overage.or(price.extra.map(|extra| extra.tariff))?;
        base.checked_add(price_of(excess, tariff))
    }

    fn cost_of_all(&self, past: &[(Bytes, bool)]) -> Option<Money> {
        let currency = self.price.as_ref()?.currency;
        let add = |sum: Decimal, (used, _): &(Bytes, bool)| sum.checked_add(self.costs(*used)?);
        let amount = past.iter().try_fold(Decimal::ZERO, add)?;
        Some(Money { amount, currency }.rounded())
    }

    fn has_more_than(&self, included: Bytes) -> bool {
        match self.allowance {
            Allowance::Limited(volume) => volume > included,
            Allowance::Unlimited => true,
        }
    }

    fn allowance_in_words(&self) -> String {
        match self.allowance {
            Allowance::Limited(volume) => volume.to_string(),
            Allowance::Unlimited => "no limit".to_owned(),
        }
    }
}

impl Machine {
    /// For a machine that used more than its own allowance in most periods: that a bigger plan
    /// is cheaper. Where the plans say what they cost, only if it is.
    pub(crate) fn advice(&self, plans: &BTreeMap<PlanName, Arc<Plan>>) -> Option<String> {
        let past = &self.record.past.closed;
        let periods = past.len();
        let over = past.iter().filter(|(_, over)| *over).count();
        let Allowance::Limited(included) = self.terms.included else {
            return None;
        };
        if periods < ENOUGH || over * 2 <= periods {
            return None;
        }
        let own = self.terms.plan.as_deref()?;
        let often =
            format!("It used more than its allowance in {over} of its last {periods} periods");
        let bigger = || {
            let bigger = plans.values().filter(|plan| plan.has_more_than(included));
            bigger.filter(|plan| plan.direction == own.direction)
        };
        let priced = |plan: &Arc<Plan>| Some((plan.cost_of_all(past)?, Arc::clone(plan)));
        let cheapest = bigger()
            .filter_map(priced)
            .min_by_key(|(cost, _)| cost.amount);
        let comparable = own.cost_of_all(past).zip(cheapest);
        if let Some((now, (then, plan))) = comparable
            && now.currency == then.currency
        {
            return (then.amount < now.amount).then(|| {
                format!(
                    "{often}: a bigger plan is cheaper. What it used in them costs {now} under \
                     `{}` and {then} under `{}` with {}.",
                    own.name,
                    plan.name,
                    plan.allowance_in_words(),
                )
            });
        }
        let next = bigger()
            .filter(|plan| matches!(plan.allowance, Allowance::Limited(_)))
            .min_by_key(|plan| match plan.allowance {
                Allowance::Limited(volume) => volume,
                Allowance::Unlimited => Bytes::MAX,
            });
        let example = next.map_or_else(String::new, |plan| {
            format!(
                ", for example `{}` with {}",
                plan.name,
                plan.allowance_in_words()
            )
        });
        Some(format!(
            "{often}: a bigger plan is usually cheaper{example}."
        ))
    }
}
