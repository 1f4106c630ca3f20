//! Triggers: what each compares, and whether it holds.
//!
//! A new kind of trigger is one variant in `plan` and one arm in [`Figures::compare`]; a new
//! kind of action is one variant there and one arm wherever the compiler then asks for it.

use jiff::Timestamp;

use super::{
    machine::Machine,
    money::{costs_more_than, price_of},
    plan::{CostThreshold, Tariff, Threshold, Trigger},
    units::{Bytes, Currency, Money},
    usage::{Entitlement, Share},
};

/// What a machine's triggers are compared with at one instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) used: Bytes,
    pub(crate) entitlement: Entitlement,
    pub(crate) usage_price: Option<(Tariff, Currency)>,
    pub(crate) cost_limit: Option<Money>,
    pub(crate) forecast: Option<Bytes>,
    pub(crate) overdue: bool,
}

/// What a trigger looks at. Of several notices on one of these, the highest speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    Used,
    Accrued,
    Cost,
    Forecast,
    Overdue,
}

/// A trigger's two figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) basis: Basis,
    /// What is measured; `None` while there is nothing to measure.
    pub(crate) measured: Option<Bytes>,
    /// The least figure at which it holds; `None` where none would do.
    pub(crate) at: Option<Bytes>,
    pub(crate) holds: bool,
}

impl Figures {
    pub(crate) fn compare(&self, trigger: Trigger) -> Compared {
        let used = Some(self.used);
        let (basis, measured, at) = match trigger {
            Trigger::Used(threshold) => (Basis::Used, used, self.reached(threshold)),
            Trigger::Over(threshold) => (Basis::Used, used, self.exceeded(threshold)),
            Trigger::Accrued(percent) => (
                Basis::Accrued,
                used,
                self.entitlement.beyond_accrued(percent),
            ),
            Trigger::Cost(limit) => (Basis::Cost, used, self.too_dear(limit)),
            Trigger::Forecast(threshold) => {
                (Basis::Forecast, self.forecast, self.exceeded(threshold))
            }
            Trigger::Overdue => {
                return Compared {
                    basis: Basis::Overdue,
                    measured: None,
                    at: None,
                    holds: self.overdue,
                };
            }
        };
        Compared {
            basis,
            measured,
            at,
            holds: measured
                .zip(at)
                .is_some_and(|(measured, at)| measured >= at),
        }
    }

    fn reached(&self, threshold: Threshold) -> Option<Bytes> {
        match threshold {
            Threshold::Volume(volume) => Some(volume),
            Threshold::Percent(percent) => {
                Share::of(u128::from(self.entitlement.total()?.0), 1, percent).reached()
            }
        }
    }

    fn exceeded(&self, threshold: Threshold) -> Option<Bytes> {
        match threshold {
            Threshold::Volume(volume) => volume.0.checked_add(1).map(Bytes),
            Threshold::Percent(percent) => {
                Share::of(u128::from(self.entitlement.total()?.0), 1, percent).exceeded()
            }
        }
    }

    fn too_dear(&self, limit: CostThreshold) -> Option<Bytes> {
        let (tariff, currency) = self.usage_price?;
        let limit = match limit {
            CostThreshold::Amount(amount) => amount,
            CostThreshold::Percent(percent) => {
                let limit = self.cost_limit?;
                let share = limit.amount.checked_mul(percent.0)?;
                Money {
                    amount: share / rust_decimal::Decimal::ONE_HUNDRED,
                    ..limit
                }
            }
        };
        if limit.currency != currency {
            return None;
        }
        costs_more_than(limit.amount, tariff)
    }

    /// What the period's usage costs so far.
    pub(crate) fn cost(&self) -> Option<Money> {
        let (tariff, currency) = self.usage_price?;
        Some(Money {
            amount: price_of(self.used, tariff),
            currency,
        })
    }

    /// By how much usage is over what a flag compares it with.
    pub(crate) fn excess(&self, compared: &Compared) -> Bytes {
        let limit = match compared.basis {
            Basis::Accrued => self.entitlement.accrued(),
            Basis::Used | Basis::Forecast => self.entitlement.total(),
            Basis::Cost => compared.at,
            Basis::Overdue => None,
        };
        limit.map_or(Bytes::ZERO, |limit| self.used.saturating_sub(limit))
    }
}

impl Machine {
    pub(crate) fn figures(&self, now: Timestamp) -> Figures {
        Figures {
            forecast: self.terms.forecasts.then(|| self.forecast(now)).flatten(),
            overdue: self.record.bills.iter().any(|bill| bill.is_overdue(now)),
            ..self.figures_of_usage(now)
        }
    }

    /// What usage is compared with, without what takes longer to find.
    pub(crate) fn figures_of_usage(&self, now: Timestamp) -> Figures {
        Figures {
            used: self.used(),
            entitlement: self.entitlement(now),
            usage_price: self.terms.usage_price(),
            cost_limit: self.terms.cost_limit,
            forecast: None,
            overdue: false,
        }
    }
}
