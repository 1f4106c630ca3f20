//! The turn of a period: the closing one is billed, then the next one begins.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    books::Purpose,
    desk::{Desk, Order},
    event::EventKind,
    machine::Machine,
    money::{Overcharge, price_of},
    plan::{Allowance, CollectOverage},
    record::Running,
    units::{Bytes, Money, Traffic},
};

impl Machine {
    /// Closes the period at `end`, which was judged with its last byte: the excess is billed,
    /// and the sums are final.
    pub(crate) fn close(&mut self, end: Timestamp, desk: &mut Desk<'_>) {
        self.bill_excess(end, desk);
        // Volume that was added is what a bigger plan would have had.
        let over = match self.terms.included {
            Allowance::Limited(included) => self.used() > included + self.record.rolled,
            Allowance::Unlimited => false,
        };
        let used = self.used();
        Arc::make_mut(&mut self.record).past.push(used, over);
        let closed = Running {
            period_end: end,
            ..self.running
        };
        desk.closed.push((self.id.clone(), closed));
    }

    fn bill_excess(&mut self, end: Timestamp, desk: &mut Desk<'_>) {
        let Some((overage, currency)) = self.terms.overage_price() else {
            return;
        };
        let CollectOverage::Invoice { due_days } = overage.collect else {
            return;
        };
        let Some(allowance) = self.allowance() else {
            return;
        };
        // Under an earlier plan of this period, some may have been charged as it accrued.
        let volume = self
            .used()
            .saturating_sub(allowance)
            .saturating_sub(self.record.overcharge.charged);
        let amount = Money {
            amount: price_of(volume, overage.tariff),
            currency,
        }
        .rounded();
        if amount.amount.is_zero() {
            return;
        }
        let order = Order {
            purpose: Purpose::Overage,
            volume,
            amount,
            due_days,
            valid_from: self.running.period_start,
            valid_to: end,
        };
        desk.issue(self, end, &order);
    }

    /// Begins the period after the one that was closed.
    pub(crate) fn begin_next(&mut self, desk: &mut Desk<'_>) {
        let rolled = self.unused_to_roll();
        let next = self.period().following(self.terms.anchor, &self.terms.zone);
        self.rearm(next.start, desk);
        let record = Arc::make_mut(&mut self.record);
        record.zone = next.zone;
        record.added = Bytes::ZERO;
        record.rolled = rolled;
        record.overcharge = Overcharge::default();
        self.running = Running {
            period_start: next.start,
            period_end: next.end,
            traffic: Traffic::ZERO,
            measured_to: self.running.measured_to.max(next.start),
        };
        self.hours.clear();
        self.stale = true;
        self.tell_period(next.start, desk);
    }

    pub(crate) fn tell_period(&self, now: Timestamp, desk: &mut Desk<'_>) {
        let kind = EventKind::PeriodStarted {
            start: self.running.period_start,
            end: self.running.period_end,
        };
        desk.tell(self, now, None, kind);
    }

    /// What the next period has of this one. What had rolled over is used first and does not
    /// roll again.
    fn unused_to_roll(&self) -> Bytes {
        let rolled = self.record.rolled;
        match self.allowance() {
            Some(allowance) if self.terms.rolls_over() => {
                let own = allowance.saturating_sub(rolled);
                own.saturating_sub(self.used().saturating_sub(rolled))
            }
            _ => Bytes::ZERO,
        }
    }
}
