//! One look at a machine: which rules hold, what they do, and what is said about it.

use jiff::Timestamp;

use super::{
    Exact, Model,
    diary::{Diary, Fact, Look, Seen, Standing, counted},
    figures::DAY,
};
use crate::engine::{
    event::State,
    plan::{Action, CollectOverage, Lift, Rule, Trigger},
    units::{MachineId, Money},
};

impl Model {
    /// `closing`: with the last byte of a period that ends at this instant.
    pub(super) fn look(&mut self, id: &MachineId, at: Timestamp, closing: bool) {
        self.remind(id, at);
        self.charge(id, at);
        let rules = self
            .plan(id)
            .map(|plan| plan.rules.clone())
            .unwrap_or_default();
        let mut seen: Vec<Seen> = rules
            .iter()
            .map(|rule| self.see(id, rule, at, closing))
            .collect();
        self.keep_what_waits(id, &mut seen);
        let speakers = self.speakers(id, at, &mut seen);
        let before = self.diaries[id].last_look().cloned();
        let standing = self.strongest(id, at, &seen);
        for rule in speakers {
            self.tell(id, at, "notice", Some(rule), String::new());
        }
        let mut look = Look {
            at,
            rules: seen,
            standing,
            told: before.as_ref().map(|look| look.told).unwrap_or_default(),
        };
        self.say_what_changed(id, before.as_ref(), &look);
        let stood = before
            .as_ref()
            .map(|look| look.standing.clone())
            .unwrap_or_default();
        if stood != look.standing {
            self.speak_of_action(id, &stood, &mut look);
        }
        self.diaries
            .get_mut(id)
            .unwrap()
            .note(Fact::Looked(look.clone()));
        self.say_where_it_stands(id, before.as_ref(), &look);
    }

    fn see(&self, id: &MachineId, rule: &Rule, at: Timestamp, closing: bool) -> Seen {
        let diary = &self.diaries[id];
        let holds = self.holds(id, rule.trigger, at);
        let since = holds.then(|| diary.held_since(&rule.name).unwrap_or(at));
        let ripe = since.is_some_and(|since| at.duration_since(since) >= rule.after);
        let overridden = holds
            && diary
                .held_off(&rule.name)
                .is_some_and(|until| at < until || (closing && at == until));
        let waits = self.waits_for_a_hand(id, rule) && diary.was_acting(&rule.name);
        Seen {
            rule: rule.clone(),
            since,
            ripe,
            spoken: holds && diary.has_spoken(&rule.name),
            overridden,
            acting: rule.action.is_some() && !overridden && (ripe || waits),
            announced: diary.was_announced(rule),
            beyond: self.moved_beyond(id, rule, at),
        }
    }

    /// What has moved beyond the byte at which usage made the rule act: a cap counts from there.
    fn moved_beyond(&self, id: &MachineId, rule: &Rule, at: Timestamp) -> u64 {
        let Some(mark) = self
            .mark(id, rule.trigger, at)
            .filter(|_| rule.after.is_zero())
        else {
            return 0;
        };
        let first = match rule.trigger {
            Trigger::Used(_) => mark,
            _ => mark + 1,
        };
        let (received, sent) = self.diaries[id].moved_before_last_look();
        let before = counted(self.direction(id), received, sent);
        let reached = before < first;
        if reached {
            self.used(id).saturating_sub(first)
        } else {
            0
        }
    }

    fn waits_for_a_hand(&self, id: &MachineId, rule: &Rule) -> bool {
        let own = self.terms.machines[id].auto_unsuspend;
        match self.diaries[id].settings().auto_unsuspend.or(own) {
            Some(true) => false,
            Some(false) => rule.lift == Lift::ByHand || rule.action == Some(Action::Suspend),
            None => rule.lift == Lift::ByHand,
        }
    }

    /// By hand: it stays until somebody lifts it, though the plan has the rule no more.
    fn keep_what_waits(&self, id: &MachineId, seen: &mut Vec<Seen>) {
        let diary = &self.diaries[id];
        let Some(last) = diary.last_look() else {
            return;
        };
        for old in &last.rules {
            let gone = !seen.iter().any(|now| now.rule.name == old.rule.name);
            let waits = self.waits_for_a_hand(id, &old.rule) && diary.was_acting(&old.rule.name);
            if gone && waits {
                seen.push(Seen {
                    since: None,
                    ripe: false,
                    spoken: false,
                    overridden: false,
                    ..old.clone()
                });
            }
        }
    }

    /// Which of the rules that only notify speak: of those on one basis that came to hold in
    /// the same step, the highest.
    fn speakers(&self, id: &MachineId, at: Timestamp, seen: &mut [Seen]) -> Vec<String> {
        let basis = |trigger: Trigger| match trigger {
            Trigger::Used(_) | Trigger::Over(_) => 0,
            Trigger::Accrued(_) => 1,
            Trigger::Cost(_) => 2,
            Trigger::Forecast(_) => 3,
            Trigger::Overdue => 4,
        };
        let mut highest: [Option<(Option<Exact>, usize)>; 5] = [None; 5];
        for (index, one) in seen.iter_mut().enumerate() {
            let only_notifies = one.rule.notify && one.rule.action.is_none() && !one.rule.flag;
            if !only_notifies || !one.ripe || one.spoken {
                continue;
            }
            one.spoken = true;
            // Where it begins to hold: above a figure is higher than at it.
            let trigger = one.rule.trigger;
            let figure = match (self.figure(id, trigger, at), trigger) {
                (Some(figure), Trigger::Used(_)) => Some(Exact::whole(figure.ceil())),
                (Some(figure), Trigger::Over(_)) => Some(Exact::whole(figure.floor() + 1)),
                (figure, _) => figure,
            };
            let slot = &mut highest[basis(one.rule.trigger)];
            if slot.is_none_or(|(other, _)| figure >= other) {
                *slot = Some((figure, index));
            }
        }
        let name = |(_, index): (Option<Exact>, usize)| seen[index].rule.name.to_string();
        highest.into_iter().flatten().map(name).collect()
    }

    fn strongest(&self, id: &MachineId, at: Timestamp, seen: &[Seen]) -> Standing {
        if let Some(order) = self.diaries[id].suspended_by_staff(at) {
            return Standing {
                ordered: Some(order.at),
                state: State::Suspended,
                rule: None,
                action: Some(Action::Suspend),
            };
        }
        let strength = |one: &&Seen| match one.rule.action {
            Some(Action::Suspend) => (3, 0),
            Some(Action::Cap(_)) => (2, -i128::from(self.left_under(id, &one.rule, one.beyond))),
            Some(Action::Throttle(rate)) => (1, -i128::from(rate.0)),
            None => (0, 0),
        };
        let acting = seen.iter().filter(|one| one.acting).rev();
        let Some(one) = acting.max_by_key(strength) else {
            return Standing::default();
        };
        Standing {
            state: match one.rule.action {
                Some(Action::Suspend) => State::Suspended,
                Some(Action::Cap(_)) => State::Capped,
                Some(Action::Throttle(_)) => State::Throttled,
                None => State::Normal,
            },
            rule: Some(one.rule.name.clone()),
            action: one.rule.action,
            ordered: None,
        }
    }

    /// What may still move under the cap of that rule.
    fn left_under(&self, id: &MachineId, rule: &Rule, beyond: u64) -> u64 {
        let Some(Action::Cap(volume)) = rule.action else {
            return 0;
        };
        let moved = self.diaries[id].counted_since_acting(&rule.name);
        volume.0.saturating_sub(moved.unwrap_or(beyond))
    }

    pub(super) fn cap_remaining(&self, id: &MachineId) -> Option<u64> {
        let look = self.diaries[id].last_look()?;
        if look.standing.state != State::Capped {
            return None;
        }
        let seen = look.find(look.standing.rule.as_ref()?)?;
        Some(self.left_under(id, &seen.rule, seen.beyond))
    }

    /// With the period end the overrides of its rules.
    pub(super) fn end_overrides(&mut self, id: &MachineId, at: Timestamp) {
        let rules = self.diaries[id].last_look().map(|look| look.rules.clone());
        for seen in rules.into_iter().flatten().filter(|seen| seen.overridden) {
            let rule = Some(seen.rule.name.to_string());
            self.tell(id, at, "override-ended", rule, String::new());
        }
    }

    fn say_what_changed(&mut self, id: &MachineId, before: Option<&Look>, now: &Look) {
        let old = before.map(|look| look.rules.clone()).unwrap_or_default();
        let gone = old.iter().filter(|one| now.find(&one.rule.name).is_none());
        let pairs: Vec<(Rule, Option<&Seen>, Option<&Seen>)> = now
            .rules
            .iter()
            .map(|one| {
                let earlier = before.and_then(|look| look.find(&one.rule.name));
                (one.rule.clone(), earlier, Some(one))
            })
            .chain(gone.map(|one| (one.rule.clone(), Some(one), None)))
            .collect();
        for (rule, earlier, later) in pairs {
            let name = Some(rule.name.to_string());
            let was = |is: fn(&Seen) -> bool| earlier.is_some_and(is);
            let is = |is: fn(&Seen) -> bool| later.is_some_and(is);
            match (was(Seen::flags), is(Seen::flags)) {
                (false, true) => self.tell(id, now.at, "flagged", name.clone(), String::new()),
                (true, false) => self.tell(id, now.at, "unflagged", name.clone(), String::new()),
                _ => {}
            }
            // A flag speaks as it comes and goes; beside an action, the action speaks.
            let speaks = later.is_some() && rule.notify && rule.action.is_none();
            if speaks && was(Seen::flags) != is(Seen::flags) {
                self.tell(id, now.at, "notice", name.clone(), String::new());
            }
            // Of a rule that went with its plan nothing is left to override.
            let tellable = later.is_some() && self.diaries[id].looked_in_period();
            if tellable && was(|one| one.overridden) && !is(|one| one.overridden) {
                self.tell(id, now.at, "override-ended", name.clone(), String::new());
            }
        }
    }

    fn say_where_it_stands(&mut self, id: &MachineId, before: Option<&Look>, now: &Look) {
        let before = before.map(|look| look.standing.clone()).unwrap_or_default();
        let standing = &now.standing;
        if before == *standing {
            return;
        }
        let from = before.state.as_str();
        // Back to normal names the rule that held it.
        let cause = if standing.action.is_none() {
            &before.rule
        } else {
            &standing.rule
        };
        let rule = cause.as_ref().map(ToString::to_string);
        let (word, detail) = match standing.action {
            None => ("restored", format!("from {from}")),
            Some(Action::Suspend) => {
                let by = if standing.rule.is_none() {
                    " by staff"
                } else {
                    ""
                };
                ("suspended", format!("from {from}{by}"))
            }
            Some(Action::Throttle(rate)) => ("throttled", format!("from {from} to {rate}")),
            Some(Action::Cap(_)) => {
                let left = self.cap_remaining(id).unwrap_or(0);
                ("capped", format!("from {from}, {left} left"))
            }
        };
        self.tell(id, now.at, word, rule, detail);
    }

    /// A rule that acts speaks beside the state's own event: as its action first stands, and as
    /// a state that it brought about gives way to a milder one.
    fn speak_of_action(&mut self, id: &MachineId, before: &Standing, now: &mut Look) {
        if let Some(name) = &before.rule {
            let last = self.diaries[id].last_look();
            let spoke = last.and_then(|look| look.find(name));
            let spoke = spoke.is_some_and(|seen| seen.rule.notify);
            let ends = match (before.rate(), now.standing.rate()) {
                (Some(was), Some(is)) => spoke && is > was,
                _ if spoke => now.standing.state < before.state,
                // Another rule had told of what this one went on with.
                _ => now.standing.state < now.told,
            };
            if ends {
                self.tell(id, now.at, "notice", Some(name.to_string()), String::new());
            }
        }
        if now.standing.state < now.told {
            now.told = State::Normal;
        }
        let Some(name) = now.standing.rule.clone() else {
            return;
        };
        if let Some(seen) = now.rules.iter_mut().find(|seen| seen.rule.name == name)
            && seen.rule.notify
            && !seen.announced
        {
            seen.announced = true;
            now.told = now.standing.state;
            self.tell(id, now.at, "notice", Some(name.to_string()), String::new());
        }
    }

    /// Bills that have become overdue, and orders that nobody paid.
    fn remind(&mut self, id: &MachineId, at: Timestamp) {
        for index in 0..self.bills.len() {
            let bill = &mut self.bills[index];
            let late = bill.machine == *id && bill.paid.is_none() && bill.due <= at;
            if late && !bill.done_for {
                bill.done_for = true;
                let word = if bill.extra { "lapsed" } else { "overdue" };
                let detail = format!("#{index} {}", bill.amount);
                self.tell(id, at, word, None, detail);
            }
        }
    }

    /// Excess beyond the allowance that was not charged before.
    fn charge(&mut self, id: &MachineId, at: Timestamp) {
        let Some((overage, currency)) = self.overage(id) else {
            return;
        };
        if overage.collect != CollectOverage::Balance {
            return;
        }
        let volume = self.uncharged(id);
        if volume == 0 {
            return;
        }
        let (mut exact, mut posted) = (Exact::price(overage.tariff, volume), Exact::ZERO);
        let mut unposted = volume;
        for fact in self.diaries[id].this_period() {
            if let Fact::Charged {
                volume: earlier,
                tariff,
                posted: money,
            } = fact
            {
                exact = exact + Exact::price(*tariff, *earlier);
                posted = posted + Exact::of(money.amount);
                unposted = if money.amount.is_zero() {
                    unposted + *earlier
                } else {
                    volume
                };
            }
        }
        let owed = Exact::of(exact.rounded(currency).amount).minus(posted);
        let posted = owed.rounded(currency);
        let fact = Fact::Charged {
            volume,
            tariff: overage.tariff,
            posted,
        };
        self.diaries.get_mut(id).unwrap().note(fact);
        if posted.amount.is_zero() {
            return;
        }
        let account = self.terms.machines[id].account.clone();
        let deducted = Money {
            amount: -posted.amount,
            ..posted
        };
        let balance = self.post(account.as_ref(), deducted);
        let balance = balance.map_or("none".to_owned(), |money| money.to_string());
        self.tell(
            id,
            at,
            "charged",
            None,
            format!("{unposted} {posted} {balance}"),
        );
    }

    /// What lies beyond the allowance and was not yet charged in this period.
    pub(super) fn uncharged(&self, id: &MachineId) -> u64 {
        let Some(allowance) = self.allowance(id) else {
            return 0;
        };
        let charged: u64 = self.diaries[id]
            .this_period()
            .iter()
            .map(|fact| match fact {
                Fact::Charged { volume, .. } => *volume,
                _ => 0,
            })
            .sum();
        self.used(id)
            .saturating_sub(allowance)
            .saturating_sub(charged)
    }

    /// The next instant at which time alone changes something.
    pub(super) fn next(&self, id: &MachineId) -> Option<Timestamp> {
        let diary: &Diary = &self.diaries[id];
        let look = diary.last_look()?;
        let end = diary.period().end;
        let mut all = vec![end];
        if self.plan(id).is_some_and(|plan| plan.daily.is_some()) {
            all.push(diary.period().next_day(look.at, diary.zone()));
        }
        // A period's first forecast.
        let first = diary.period().start + DAY;
        let foretells = |rule: &Rule| matches!(rule.trigger, Trigger::Forecast(_));
        let plan = self.plan(id);
        if first > look.at && plan.is_some_and(|plan| plan.rules.iter().any(foretells)) {
            all.push(first);
        }
        for seen in &look.rules {
            all.extend(
                seen.since
                    .filter(|_| !seen.ripe)
                    .map(|since| since + seen.rule.after),
            );
            all.extend(diary.held_off(&seen.rule.name).filter(|_| seen.overridden));
        }
        all.extend(
            diary
                .suspended_by_staff(look.at)
                .and_then(|order| order.until),
        );
        let unpaid = self
            .bills
            .iter()
            .filter(|bill| bill.machine == *id && bill.paid.is_none());
        all.extend(unpaid.filter(|bill| !bill.done_for).map(|bill| bill.due));
        all.into_iter().min()
    }
}
