//! What a machine's figures are, each worked out from the diary when it is wanted.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Exact, Model, diary::counted};
use crate::engine::{
    plan::{Allowance, CostThreshold, Direction, Plan, Rollover, Threshold, Trigger},
    units::{MachineId, Money},
};

pub(super) const DAY: SignedDuration = SignedDuration::from_hours(24);
const THREE_DAYS: SignedDuration = SignedDuration::from_hours(72);

impl Model {
    pub(super) fn plan(&self, id: &MachineId) -> Option<Arc<Plan>> {
        self.diaries[id]
            .settings()
            .plan(&self.terms.machines[id], &self.terms)
    }

    /// Whether a rule of its plan may find another state when it is looked at more often: one
    /// that counts time from the look that saw it hold, or that compares with what time changes.
    pub(in crate::engine::tests) fn depends_on_steps(&self, id: &MachineId) -> bool {
        let plan = self.plan(id);
        plan.iter().flat_map(|plan| &plan.rules).any(|rule| {
            let by_time = matches!(rule.trigger, Trigger::Accrued(_) | Trigger::Forecast(_));
            by_time || !rule.after.is_zero()
        })
    }

    pub(super) fn direction(&self, id: &MachineId) -> Direction {
        self.plan(id).map_or(Direction::Sum, |plan| plan.direction)
    }

    pub(super) fn used(&self, id: &MachineId) -> u64 {
        let (received, sent, _) = self.diaries[id].moved();
        counted(self.direction(id), received, sent)
    }

    /// What the plan includes, or the machine's own volume instead.
    fn included(&self, id: &MachineId) -> Option<u64> {
        let plan = self.plan(id).map(|plan| plan.allowance);
        let own = self.terms.machines[id].allowance;
        match self.diaries[id].settings().allowance.or(own).or(plan) {
            Some(Allowance::Limited(volume)) => Some(volume.0),
            Some(Allowance::Unlimited) | None => None,
        }
    }

    pub(super) fn allowance(&self, id: &MachineId) -> Option<u64> {
        Some(self.included(id)? + self.diaries[id].granted().0)
    }

    /// What of the closing period is still there for the next.
    pub(super) fn rolled(&self, id: &MachineId) -> u64 {
        let rolls = self
            .plan(id)
            .is_some_and(|plan| plan.rollover == Rollover::Unused);
        let diary = &self.diaries[id];
        let Some(included) = self
            .included(id)
            .filter(|_| rolls && diary.last_look().is_some())
        else {
            return 0;
        };
        let (granted, rolled) = diary.granted();
        let own = included + granted - rolled;
        own.saturating_sub(self.used(id).saturating_sub(rolled))
    }

    /// What the days so far have granted, and all that was added.
    pub(super) fn accrued(&self, id: &MachineId, at: Timestamp) -> Option<Exact> {
        let days = i128::from(self.plan(id)?.daily?.get());
        let included = i128::from(self.included(id)?);
        let diary = &self.diaries[id];
        let begun = diary.period().days_begun(at, diary.zone()).min(days);
        Some(Exact::new(included * begun, days) + Exact::whole(diary.granted().0))
    }

    pub(super) fn cost_limit(&self, id: &MachineId) -> Option<Money> {
        let plan = self.plan(id).and_then(|plan| plan.cost_limit);
        let own = self.terms.machines[id].cost_limit;
        self.diaries[id]
            .settings()
            .cost_limit
            .unwrap_or(own.or(plan))
    }

    /// Used, and the bytes of the last 72 hours (or of the period so far), over that time,
    /// times the time left.
    pub(super) fn forecast(&self, id: &MachineId, at: Timestamp) -> Option<Exact> {
        let diary = &self.diaries[id];
        let span = diary.period();
        let elapsed = at.duration_since(span.start);
        if elapsed < DAY {
            return None;
        }
        let window = elapsed.min(THREE_DAYS);
        let opens = at - window;
        let (all_received, all_sent, _) = diary.moved();
        let (received, sent) = if window < THREE_DAYS {
            (Exact::whole(all_received), Exact::whole(all_sent))
        } else {
            diary.moved_since(opens)
        };
        let left = span.end.duration_since(at).as_nanos();
        let share = Exact::new(left, window.as_nanos());
        let (received, sent) = (
            Exact::whole(all_received) + received.times(share),
            Exact::whole(all_sent) + sent.times(share),
        );
        // In whole bytes: a part of one exceeds nothing.
        Some(Exact::whole(match self.direction(id) {
            Direction::Sum => (received + sent).floor(),
            Direction::Received => received.floor(),
            Direction::Sent => sent.floor(),
            Direction::Larger => received.floor().max(sent.floor()),
        }))
    }

    /// Where the threshold lies, in bytes.
    fn threshold(&self, id: &MachineId, threshold: Threshold) -> Option<Exact> {
        match threshold {
            Threshold::Volume(volume) => Some(Exact::whole(volume.0)),
            Threshold::Percent(percent) => {
                let share = Exact::of(percent.0).times(Exact::new(1, 100));
                Some(Exact::whole(self.allowance(id)?).times(share))
            }
        }
    }

    fn limit(&self, id: &MachineId, threshold: CostThreshold) -> Option<Exact> {
        match threshold {
            CostThreshold::Amount(money) => Some(Exact::of(money.amount)),
            CostThreshold::Percent(percent) => {
                let share = Exact::of(percent.0).times(Exact::new(1, 100));
                Some(Exact::of(self.cost_limit(id)?.amount).times(share))
            }
        }
    }

    /// The figure from which the trigger holds (or above which), if it has one.
    pub(super) fn figure(&self, id: &MachineId, trigger: Trigger, at: Timestamp) -> Option<Exact> {
        match trigger {
            Trigger::Used(threshold) | Trigger::Over(threshold) | Trigger::Forecast(threshold) => {
                self.threshold(id, threshold)
            }
            Trigger::Accrued(percent) => {
                let share = Exact::of(percent.0).times(Exact::new(1, 100));
                Some(self.accrued(id, at)?.times(share))
            }
            Trigger::Cost(threshold) => self.limit(id, threshold),
            Trigger::Overdue => None,
        }
    }

    /// The volume that a trigger compares with: reached, or exceeded.
    pub(super) fn mark(&self, id: &MachineId, trigger: Trigger, at: Timestamp) -> Option<u64> {
        let figure = self.figure(id, trigger, at)?;
        match trigger {
            Trigger::Used(_) => Some(figure.ceil()),
            Trigger::Over(_) | Trigger::Accrued(_) => Some(figure.floor()),
            Trigger::Cost(_) => {
                let tariff = self.plan(id)?.price.as_ref()?.usage?;
                let price = Exact::of(tariff.price);
                let bytes = figure.times(Exact::whole(tariff.per.0));
                Some(bytes.over(price)?.floor())
            }
            Trigger::Forecast(_) | Trigger::Overdue => None,
        }
    }

    pub(super) fn holds(&self, id: &MachineId, trigger: Trigger, at: Timestamp) -> bool {
        let used = Exact::whole(self.used(id));
        let figure = self.figure(id, trigger, at);
        match trigger {
            Trigger::Used(_) => figure.is_some_and(|figure| used >= figure),
            Trigger::Over(_) | Trigger::Accrued(_) => figure.is_some_and(|figure| used > figure),
            Trigger::Cost(_) => {
                let price = self.plan(id).and_then(|plan| plan.price.clone());
                let tariff = price.and_then(|price| price.usage);
                figure
                    .zip(tariff)
                    .is_some_and(|(figure, tariff)| Exact::price(tariff, self.used(id)) > figure)
            }
            Trigger::Forecast(_) => {
                let forecast = self.forecast(id, at);
                figure
                    .zip(forecast)
                    .is_some_and(|(figure, forecast)| forecast > figure)
            }
            Trigger::Overdue => self.bills.iter().any(|bill| {
                let owed = !bill.extra && bill.paid.is_none();
                bill.machine == *id && owed && bill.due <= at
            }),
        }
    }
}
