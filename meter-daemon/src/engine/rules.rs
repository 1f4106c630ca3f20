//! Rules: for how long each trigger holds, and what follows.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    books::Bill,
    desk::Desk,
    event::EventKind,
    kept::{Acting, Lifted, RuleState},
    machine::Machine,
    notices::{notice_id, twin},
    plan::{CollectOverage, Lift, Rule},
    triggers::{Basis, Compared, Figures},
    units::{Bytes, Money},
};

/// Something to be told once a judgement is done.
enum Said {
    Event(EventKind),
    /// A rule that only notifies, or flags, holds.
    Holds,
    /// A flag that speaks is gone.
    Over,
}

impl Rule {
    /// Whether it does nothing but speak.
    pub(crate) const fn only_notifies(&self) -> bool {
        self.notify && self.action.is_none() && !self.flag
    }
}

impl Machine {
    /// Brings everything but the state up to date with what is used, allowed and owed at
    /// `now`: charges, overdue bills, every rule's trigger, flags, and notices of rules that do
    /// nothing else. What the rules then want is [`Machine::wanted`]. `moved` is by how much
    /// usage grew since the last time.
    pub(crate) fn judge(&mut self, now: Timestamp, moved: Bytes, desk: &mut Desk<'_>) {
        if !self.is_live() {
            return;
        }
        self.announce_overdue(now, desk);
        let lapses = |bill: &Bill| bill.lapses().is_some_and(|end| end <= now);
        self.let_lapse(lapses, now, desk);
        self.charge(now, desk);
        let figures = self.figures(now);
        if self.is_calm(now, &figures) {
            return;
        }
        if self
            .record
            .staff
            .as_ref()
            .is_some_and(|staff| staff.until.is_some_and(|end| end <= now))
        {
            Arc::make_mut(&mut self.record).staff = None;
        }
        let mut said = self.follow_rules(now, moved, &figures);
        self.choose_speakers(now, &figures, &mut said);
        self.stale = false;
        let terms = Arc::clone(&self.terms);
        for (index, said) in said {
            let Some(rule) = terms.rules().get(index) else {
                continue;
            };
            match said {
                Said::Event(kind) => desk.tell(self, now, Some(&rule.name), kind),
                Said::Holds => self.speak_of_trigger(index, rule, now, &figures, desk),
                Said::Over => self.speak_of_flag_gone(index, rule, now, desk),
            }
        }
        self.let_former_rules_go(now, desk);
    }

    /// Whether every trigger is where the last judgement left it, and no time has come.
    fn is_calm(&self, now: Timestamp, figures: &Figures) -> bool {
        let settled = |(rule, state): (&Rule, &RuleState)| {
            figures.compare(rule.trigger).holds == state.since.is_some()
        };
        !self.stale
            && self.wake.is_none_or(|wake| now < wake)
            && self
                .terms
                .rules()
                .iter()
                .zip(&self.record.rules)
                .all(settled)
    }

    fn announce_overdue(&mut self, now: Timestamp, desk: &mut Desk<'_>) {
        let fresh = |bill: &Bill| bill.is_overdue(now) && !bill.overdue;
        while let Some(index) = self.record.bills.iter().position(fresh) {
            let bill = &mut Arc::make_mut(&mut self.record).bills[index];
            bill.overdue = true;
            let overdue = EventKind::Overdue {
                invoice: bill.number.clone(),
                amount: bill.amount,
            };
            desk.tell(self, now, None, overdue);
        }
    }

    /// Gives up orders that nobody paid.
    pub(crate) fn let_lapse(
        &mut self,
        lapses: impl Fn(&Bill) -> bool,
        now: Timestamp,
        desk: &mut Desk<'_>,
    ) {
        let given_up = |bill: &Bill| bill.is_open() && lapses(bill);
        while let Some(index) = self.record.bills.iter().position(given_up) {
            let bill = &mut Arc::make_mut(&mut self.record).bills[index];
            bill.lapsed = Some(now);
            let lapsed = EventKind::Lapsed {
                invoice: bill.number.clone(),
                amount: bill.amount,
            };
            desk.tell(self, now, None, lapsed);
        }
    }

    /// Charges the excess that has accrued since the last time.
    fn charge(&mut self, now: Timestamp, desk: &mut Desk<'_>) {
        let Some((overage, currency)) = self.terms.overage_price() else {
            return;
        };
        let Some(allowance) = self.allowance() else {
            return;
        };
        let excess = self.used().saturating_sub(allowance);
        if overage.collect != CollectOverage::Balance || excess <= self.record.overcharge.charged {
            return;
        }
        let overcharge = &mut Arc::make_mut(&mut self.record).overcharge;
        if let Some((amount, volume)) = overcharge.grow(excess, overage.tariff, currency) {
            let deducted = Money {
                amount: -amount.amount,
                ..amount
            };
            let kind = super::books::TransactionKind::Overage;
            let balance = desk.post(self, now, kind, deducted);
            let charged = EventKind::Charged {
                amount,
                volume,
                balance,
            };
            desk.tell(self, now, None, charged);
        }
    }

    /// What was charged in this period, where that is done as it accrues.
    pub(crate) fn charged(&self) -> Option<Money> {
        let (_, currency) = self.terms.overage_price()?;
        let amount = self.record.overcharge.posted();
        (!amount.is_zero()).then_some(Money { amount, currency })
    }

    /// Follows every rule's trigger, and begins and ends flags and actions.
    fn follow_rules(
        &mut self,
        now: Timestamp,
        moved: Bytes,
        figures: &Figures,
    ) -> Vec<(usize, Said)> {
        let terms = Arc::clone(&self.terms);
        let record = Arc::make_mut(&mut self.record);
        let mut said = Vec::new();
        for (index, (rule, state)) in terms.rules().iter().zip(&mut record.rules).enumerate() {
            let compared = figures.compare(rule.trigger);
            state.follow_trigger(compared.holds, now);
            let ripe = state.is_ripe(rule, now);
            if state.end_override(now) {
                said.push((index, Said::Event(EventKind::OverrideEnded {})));
            }
            let flags = rule.flag && ripe;
            if flags != state.flagging {
                state.flagging = flags;
                let kind = if flags {
                    EventKind::Flagged {
                        excess: figures.excess(&compared),
                    }
                } else {
                    EventKind::Unflagged {}
                };
                said.push((index, Said::Event(kind)));
                // Beside an action, the action speaks.
                if rule.notify && rule.action.is_none() {
                    said.push((index, if flags { Said::Holds } else { Said::Over }));
                }
            }
            let beyond = moved_beyond(rule, &compared, figures.used, moved);
            state.act(rule, terms.lift(rule), ripe, now, beyond);
            if let Some(acting) = &mut state.acting {
                if !rule.notify {
                    acting.notice = None;
                } else if acting.notice.is_none() {
                    let twin = twin(terms.rules(), index);
                    acting.notice = Some(notice_id(
                        &self.id,
                        self.running.period_start,
                        rule,
                        twin,
                        state.arming,
                    ));
                }
            }
        }
        said
    }

    /// Of rules that only notify and have not spoken in this arming: on each basis, the highest.
    fn choose_speakers(
        &mut self,
        now: Timestamp,
        figures: &Figures,
        said: &mut Vec<(usize, Said)>,
    ) {
        let terms = Arc::clone(&self.terms);
        let record = Arc::make_mut(&mut self.record);
        let mut highest: Vec<(Basis, Option<Bytes>, usize)> = Vec::new();
        for (index, (rule, state)) in terms.rules().iter().zip(&mut record.rules).enumerate() {
            if !rule.only_notifies() || state.spoken || !state.is_ripe(rule, now) {
                continue;
            }
            state.spoken = true;
            let compared = figures.compare(rule.trigger);
            match highest
                .iter_mut()
                .find(|(basis, ..)| *basis == compared.basis)
            {
                Some(best) if compared.at >= best.1 => *best = (compared.basis, compared.at, index),
                Some(_) => {}
                None => highest.push((compared.basis, compared.at, index)),
            }
        }
        said.extend(
            highest
                .into_iter()
                .map(|(_, _, index)| (index, Said::Holds)),
        );
    }

    /// Ends what rules did that the plan has no more, but for what waits for a hand.
    fn let_former_rules_go(&mut self, now: Timestamp, desk: &mut Desk<'_>) {
        let waits = |acting: &Acting| acting.by_hand;
        let auto = self.terms.lifts_by_itself();
        let settled = |state: &RuleState| {
            state.since.is_none()
                && !state.flagging
                && state.lifted.is_none()
                && state
                    .acting
                    .as_ref()
                    .is_none_or(|acting| waits(acting) && !auto)
        };
        if self.record.former.iter().all(settled) {
            return;
        }
        let mut unflagged = Vec::new();
        for state in &mut Arc::make_mut(&mut self.record).former {
            if state.flagging {
                unflagged.push(state.rule.clone());
            }
            state.since = None;
            state.fired = false;
            state.spoken = false;
            state.flagging = false;
            state.lifted = None;
            state.acting.take_if(|acting| !waits(acting) || auto);
        }
        for rule in unflagged {
            desk.tell(self, now, Some(&rule), EventKind::Unflagged {});
        }
    }

    /// A period begins: every trigger is armed anew, and overrides end.
    pub(crate) fn rearm(&mut self, now: Timestamp, desk: &mut Desk<'_>) {
        let mut ended = Vec::new();
        let record = Arc::make_mut(&mut self.record);
        record.former.retain(|state| state.acting.is_some());
        for state in record.rules.iter_mut().chain(&mut record.former) {
            state.arming = 0;
            state.fired = false;
            state.spoken = false;
            if state.lifted.take().is_some() {
                ended.push(state.rule.clone());
            }
        }
        for rule in ended {
            desk.tell(self, now, Some(&rule), EventKind::OverrideEnded {});
        }
    }
}

/// What of a step's growth lies beyond the byte at which a rule that acts at once began to
/// hold: a cap counts from there, wherever the readings fall. Nothing where it was not usage
/// that made it hold: then it begins with the step.
fn moved_beyond(rule: &Rule, compared: &Compared, used: Bytes, moved: Bytes) -> Bytes {
    let by_usage = matches!(compared.basis, Basis::Used | Basis::Accrued | Basis::Cost);
    let before = used.saturating_sub(moved);
    match compared.at {
        Some(at) if by_usage && rule.after.is_zero() && before < at => used.saturating_sub(at),
        _ => Bytes::ZERO,
    }
}

impl RuleState {
    fn follow_trigger(&mut self, holds: bool, now: Timestamp) {
        if !holds {
            self.since = None;
            self.fired = false;
            self.spoken = false;
            return;
        }
        self.since.get_or_insert(now);
        if !self.fired {
            self.fired = true;
            self.arming += 1;
        }
    }

    /// Whether the trigger has held for long enough.
    pub(crate) fn is_ripe(&self, rule: &Rule, now: Timestamp) -> bool {
        self.ripens(rule).is_some_and(|at| at <= now)
    }

    /// When it will have.
    pub(crate) fn ripens(&self, rule: &Rule) -> Option<Timestamp> {
        let since = self.since?;
        Some(since.saturating_add(rule.after).unwrap_or(Timestamp::MAX))
    }

    /// Ends an override whose time has come or whose trigger has ceased to hold.
    fn end_override(&mut self, now: Timestamp) -> bool {
        let over = |lifted: &Lifted| lifted.until.is_some_and(|end| end <= now);
        let holds = self.since.is_some();
        let ended = self.lifted.take_if(|lifted| !holds || over(lifted));
        if ended.is_some() && holds {
            // It acts again: that is another arming, so that it is told once more.
            self.arming += 1;
        }
        ended.is_some()
    }

    /// Begins or ends the rule's action. `beyond` moved after it began.
    fn act(&mut self, rule: &Rule, lift: Lift, ripe: bool, now: Timestamp, beyond: Bytes) {
        let by_hand = lift == Lift::ByHand;
        let Some(action) = rule.action else {
            self.acting = None;
            return;
        };
        let stays = by_hand && self.acting.is_some();
        if self.lifted.is_some() || !(ripe || stays) {
            self.acting = None;
            return;
        }
        let acting = self.acting.get_or_insert_with(|| {
            Box::new(Acting {
                since: now,
                action,
                by_hand,
                notice: None,
                spent: beyond,
                spoken: false,
            })
        });
        if acting.action != action {
            // Another plan has another action under this name: one ends and another begins,
            // which is told, and a cap starts with its whole volume.
            self.arming += 1;
            **acting = Acting {
                since: now,
                action,
                notice: None,
                spent: Bytes::ZERO,
                spoken: false,
                ..**acting
            };
        }
        acting.by_hand = by_hand;
    }
}
