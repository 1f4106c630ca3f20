//! One machine's state: what is remembered of it, and how its traffic is taken in.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Enforcement, Sample,
    books::Bill,
    effective::{Effective, Settings},
    event::State,
    forecast::{self, Hours},
    kept::{Acting, Cause, Past, Record, RuleState, Standing},
    money::Overcharge,
    period::Period,
    plan::Action,
    record::Running,
    span::arrived_traffic,
    units::{Bytes, MachineId, Traffic},
    usage::Entitlement,
};

/// A machine, as the engine holds it. A clone shares everything but the sums.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) id: MachineId,
    pub(crate) terms: Arc<Effective>,
    pub(crate) record: Arc<Record>,
    pub(crate) running: Running,
    pub(crate) hours: Hours,
    /// Whether the terms name it now. A machine that is gone is kept, and nothing is asked
    /// of it: when it comes back, the periods between are closed in order.
    pub(crate) present: bool,
    /// Something changed that the last judgement did not know.
    pub(crate) stale: bool,
    /// The earliest instant at which it must be judged though nothing new came.
    pub(crate) wake: Option<Timestamp>,
    /// What its packets were last said to see.
    pub(crate) said: Enforcement,
}

impl Machine {
    /// A machine seen for the first time: its period is the one around `now`.
    pub(crate) fn appear(id: MachineId, terms: Effective, now: Timestamp) -> Self {
        let period = Period::containing(now, terms.anchor, &terms.zone);
        let record = Record {
            zone: period.zone,
            settings: Settings::new(),
            added: Bytes::ZERO,
            rolled: Bytes::ZERO,
            overcharge: Overcharge::default(),
            rules: Vec::new(),
            former: Vec::new(),
            standing: Standing {
                since: now,
                cause: Cause::None,
                told: None,
            },
            staff: None,
            bills: Vec::new(),
            past: Past::default(),
            cancelled: None,
        };
        let mut machine = Self {
            id,
            terms: Arc::new(terms),
            record: Arc::new(record),
            running: Running {
                period_start: period.start,
                period_end: period.end,
                traffic: Traffic::ZERO,
                measured_to: now,
            },
            hours: Hours::default(),
            present: true,
            stale: true,
            wake: None,
            said: Enforcement::None,
        };
        machine.align_rules();
        machine
    }

    /// Whether anything is still decided about it.
    pub(crate) fn is_live(&self) -> bool {
        self.present && self.record.cancelled.is_none()
    }

    pub(crate) fn period(&self) -> Period {
        Period {
            start: self.running.period_start,
            end: self.running.period_end,
            zone: self.record.zone.clone(),
        }
    }

    pub(crate) fn used(&self) -> Bytes {
        self.terms.direction().counted(&self.running.traffic)
    }

    pub(crate) fn allowance(&self) -> Option<Bytes> {
        self.entitlement_without_days().total()
    }

    fn entitlement_without_days(&self) -> Entitlement {
        Entitlement {
            included: self.terms.included,
            extra: self.record.added + self.record.rolled,
            daily: None,
        }
    }

    pub(crate) fn entitlement(&self, now: Timestamp) -> Entitlement {
        Entitlement {
            daily: self
                .terms
                .daily()
                .map(|days| (days, self.period().day_number(now))),
            ..self.entitlement_without_days()
        }
    }

    pub(crate) fn state(&self) -> State {
        self.record.standing.cause.state()
    }

    pub(crate) fn forecast(&self, now: Timestamp) -> Option<Bytes> {
        forecast::forecast(
            &self.hours,
            &self.running.traffic,
            self.terms.direction(),
            &self.period(),
            now,
        )
    }

    /// The strongest action in force, whether or not it has been carried out.
    pub(crate) fn wanted(&self) -> Cause {
        if self.record.cancelled.is_some() {
            return Cause::None;
        }
        if let Some(staff) = &self.record.staff {
            return Cause::Staff { since: staff.since };
        }
        let mut strongest: Option<(&RuleState, &Acting)> = None;
        for state in self.record.rules.iter().chain(&self.record.former) {
            if let Some(acting) = &state.acting
                && strongest.is_none_or(|(_, best)| acting.strength() > best.strength())
            {
                strongest = Some((state, acting));
            }
        }
        strongest.map_or(Cause::None, |(state, acting)| Cause::Rule {
            rule: state.rule.clone(),
            action: acting.action,
            notice: acting.notice.clone(),
        })
    }

    /// Bytes left under the cap that stands.
    pub(crate) fn cap_remaining(&self) -> Option<Bytes> {
        let Cause::Rule {
            rule,
            action: Action::Cap(volume),
            ..
        } = &self.record.standing.cause
        else {
            return None;
        };
        let states = self.record.rules.iter().chain(&self.record.former);
        let spent = states
            .filter(|state| state.rule == *rule)
            .find_map(|state| state.acting.as_ref())
            .map_or(Bytes::ZERO, |acting| acting.spent);
        Some(volume.saturating_sub(spent))
    }

    /// What its packets should see, if decisions are carried out at all.
    pub(crate) fn enforcement(&self) -> Enforcement {
        match &self.record.standing.cause {
            Cause::None => Enforcement::None,
            // Not the plan's own doing, so not under its `enforce`.
            Cause::Staff { .. } => Enforcement::Suspend,
            Cause::Rule { .. } if !self.terms.enforced() => Enforcement::None,
            Cause::Rule { action, .. } => match action {
                Action::Throttle(rate) => Enforcement::Throttle(*rate),
                Action::Cap(_) => Enforcement::Cap {
                    remaining: self.cap_remaining().unwrap_or(Bytes::ZERO),
                },
                Action::Suspend => Enforcement::Suspend,
            },
        }
    }

    /// Takes in what arrived of `samples` after `since` (`None`: all before, too) up to `until`.
    /// Returns by how much usage grew.
    pub(crate) fn accrue(
        &mut self,
        samples: &[&Sample],
        since: Option<Timestamp>,
        until: Timestamp,
    ) -> Bytes {
        if self.record.cancelled.is_some() {
            return Bytes::ZERO;
        }
        let used = self.used();
        for sample in samples {
            let arrived = |at| arrived_traffic(sample.traffic, sample.from, sample.to, at);
            let before = since.map_or(Traffic::ZERO, arrived);
            let by_then = arrived(until);
            if by_then == before {
                continue;
            }
            self.running.traffic += Traffic {
                received: by_then.received.saturating_sub(before.received),
                sent: by_then.sent.saturating_sub(before.sent),
                exempt: by_then.exempt.saturating_sub(before.exempt),
            };
            let measured = sample.to.min(until);
            self.running.measured_to = self.running.measured_to.max(measured);
            self.hours.add(sample, since, until, &self.record.zone);
        }
        let moved = self.used().saturating_sub(used);
        self.spend(moved);
        moved
    }

    /// Counts against every cap that has begun.
    fn spend(&mut self, moved: Bytes) {
        let capped = |state: &RuleState| {
            state
                .acting
                .as_ref()
                .is_some_and(|acting| acting.state() == State::Capped)
        };
        let mut states = self.record.rules.iter().chain(&self.record.former);
        if moved == Bytes::ZERO || !states.any(capped) {
            return;
        }
        let record = Arc::make_mut(&mut self.record);
        for state in record.rules.iter_mut().chain(&mut record.former) {
            if let Some(acting) = &mut state.acting
                && acting.state() == State::Capped
            {
                acting.spent += moved;
            }
        }
    }

    /// Other terms from here on. Usage, period, and what rules of the same name know, stay.
    pub(crate) fn retarget(&mut self, terms: Effective) {
        if *self.terms == terms {
            return;
        }
        let before = self.terms.overage_price();
        let after = terms.overage_price();
        if let Some((overage, currency)) = before
            && before != after
        {
            let overcharge = &mut Arc::make_mut(&mut self.record).overcharge;
            overcharge.reprice(overage.tariff);
            if after.is_some_and(|(_, now)| now != currency) {
                overcharge.change_currency();
            }
        }
        self.terms = Arc::new(terms);
        self.align_rules();
        self.stale = true;
    }

    /// Brings the states of rules into the order of the plan's.
    pub(crate) fn align_rules(&mut self) {
        let rules = self.terms.rules();
        let known = self.record.rules.iter().map(|state| &state.rule);
        if known.eq(rules.iter().map(|rule| &rule.name)) {
            return;
        }
        let record = Arc::make_mut(&mut self.record);
        let mut pool = std::mem::take(&mut record.rules);
        pool.append(&mut record.former);
        for rule in rules {
            // Two rules of one name keep their order.
            let found = pool.iter().position(|state| state.rule == rule.name);
            record.rules.push(match found {
                Some(index) => pool.remove(index),
                None => RuleState::new(rule.name.clone()),
            });
        }
        record.former = pool;
    }

    /// The earliest instant after `now` at which it must be judged, come what may.
    pub(crate) fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.is_live() {
            return None;
        }
        let period = self.period();
        let daily = self.terms.daily().map(|_| period.next_day(now));
        let foretold = self
            .terms
            .forecasts
            .then(|| period.start.saturating_add(forecast::WITHHELD).ok())
            .flatten();
        let staff = self.record.staff.as_ref().and_then(|staff| staff.until);
        let states = self.record.rules.iter().zip(self.terms.rules());
        let rules = states.flat_map(|(state, rule)| {
            let ripe = state
                .since
                .and_then(|since| since.saturating_add(rule.after).ok());
            let lifted = state.lifted.as_ref().and_then(|lifted| lifted.until);
            [ripe, lifted]
        });
        let due = self.record.bills.iter().map(Bill::deadline);
        [Some(period.end), daily, foretold, staff]
            .into_iter()
            .chain(rules)
            .chain(due)
            .flatten()
            .filter(|at| *at > now)
            .min()
    }
}
