//! What people say, and the bills.

use jiff::{SignedDuration, Timestamp, ToSpan};

use super::{
    Bill, Exact, Model,
    diary::{Fact, Order},
};
use crate::engine::{
    command::{Change, Command, CommandAction, SettingKey, Until},
    plan::{CollectExtra, CollectOverage, Extra, Overage},
    units::{Currency, MachineId, Money},
};

impl Model {
    pub(super) fn obey(&mut self, command: &Command, now: Timestamp) {
        match &command.action {
            CommandAction::TopUp {
                machine,
                volume,
                from_pool,
            } => {
                self.top_up(machine, volume.0, *from_pool, now);
            }
            CommandAction::Set { machine, change } => self.set(machine, change, now),
            CommandAction::Unset { machine, key } => {
                if self.diaries[machine].settings().has(*key) {
                    self.write(machine, Fact::Unset(*key));
                    self.tell(machine, now, "changed", None, key_word(*key).to_owned());
                } else {
                    self.refuse(Some(machine), now);
                }
            }
            CommandAction::Suspend { machine, until } => match end(*until, now) {
                Some(end) if end <= now => self.refuse(Some(machine), now),
                until => {
                    let order = Order { at: now, until };
                    self.write(machine, Fact::SuspendedByStaff(order));
                }
            },
            CommandAction::Lift { machine, until } => self.lift(machine.as_ref(), *until, now),
            CommandAction::Pay { invoice } => {
                // The simulation writes bills' numbers as their place in the order of issue.
                let index: usize = invoice.as_str().parse().unwrap();
                let open = |bill: &Bill| bill.paid.is_none() && !(bill.extra && bill.done_for);
                if self.bills.get(index).is_some_and(open) {
                    self.pay(index, now);
                } else {
                    self.refuse(None, now);
                }
            }
            CommandAction::Balance { account, add } => {
                let configured = self.terms.accounts.get(account);
                match configured.and_then(|account| account.currency) {
                    Some(currency) => {
                        let money = Money {
                            amount: *add,
                            currency,
                        };
                        let balance = self.post(Some(account), money).unwrap();
                        self.tell_all(now, "balance", format!("{money} {balance}"));
                    }
                    None => self.refuse(None, now),
                }
            }
            CommandAction::Cancel { .. } | CommandAction::Confirm => {
                unreachable!("not in the model")
            }
        }
    }

    fn write(&mut self, id: &MachineId, fact: Fact) {
        self.diaries.get_mut(id).unwrap().note(fact);
    }

    fn tell_all(&mut self, time: Timestamp, word: &str, detail: String) {
        self.told.push(super::Told {
            time,
            machine: None,
            word: word.to_owned(),
            rule: None,
            used: 0,
            allowance: None,
            detail,
        });
    }

    fn refuse(&mut self, id: Option<&MachineId>, now: Timestamp) {
        match id {
            Some(id) => self.tell(id, now, "refused", None, String::new()),
            None => self.tell_all(now, "refused", String::new()),
        }
    }

    fn set(&mut self, id: &MachineId, change: &Change, now: Timestamp) {
        // Usage that costs nothing can pass no limit.
        let price = self.plan(id).and_then(|plan| plan.price.clone());
        let priced = price.filter(|price| price.usage.is_some());
        let currency = priced.map(|price| price.currency);
        let nonsense = match change {
            Change::Plan(name) => !self.terms.plans.contains_key(name),
            Change::CostLimit(Some(limit)) => Some(limit.currency) != currency,
            _ => false,
        };
        if nonsense {
            return self.refuse(Some(id), now);
        }
        self.write(id, Fact::Changed(change.clone()));
        let key = match change {
            Change::Plan(_) => SettingKey::Plan,
            Change::Allowance(_) => SettingKey::Allowance,
            Change::RenewalDay(_) => SettingKey::RenewalDay,
            Change::CostLimit(_) => SettingKey::CostLimit,
            Change::AutoUnsuspend(_) => SettingKey::AutoUnsuspend,
        };
        self.tell(id, now, "changed", None, key_word(key).to_owned());
    }

    fn lift(&mut self, whom: Option<&MachineId>, until: Option<Until>, now: Timestamp) {
        if end(until, now).is_some_and(|end| end <= now) {
            return self.refuse(whom, now);
        }
        let mut lifted = 0;
        for id in self.diaries.keys().cloned().collect::<Vec<_>>() {
            if whom.is_some_and(|whom| *whom != id) {
                continue;
            }
            let diary = &self.diaries[&id];
            let acting = diary.last_look().into_iter().flat_map(|look| &look.rules);
            let rules: Vec<_> = acting.filter(|seen| seen.acting).cloned().collect();
            if rules.is_empty() && diary.suspended_by_staff(now).is_none() {
                continue;
            }
            let period_end = diary.period().end;
            let until = end(until, now).map_or(period_end, |end| end.min(period_end));
            // What ends for good is no override, and has no end.
            let overrides = rules.iter().any(|seen| seen.since.is_some());
            let said = if overrides {
                until.to_string()
            } else {
                "none".to_owned()
            };
            let rules = rules.into_iter().map(|seen| seen.rule.name).collect();
            self.write(&id, Fact::LiftedByStaff { rules, until });
            self.tell(&id, now, "lifted", None, said);
            lifted += 1;
        }
        if lifted == 0 {
            self.refuse(whom, now);
        }
    }

    fn top_up(&mut self, id: &MachineId, volume: u64, from_pool: bool, now: Timestamp) {
        if volume == 0 || self.allowance(id).is_none() {
            return self.refuse(Some(id), now);
        }
        let account = self.terms.machines[id].account.clone();
        if from_pool {
            let left = account.as_ref().and_then(|account| self.pool_left(account));
            let Some(account) = account.filter(|_| left.is_some_and(|left| left >= volume)) else {
                return self.refuse(Some(id), now);
            };
            self.taken.push((account, volume));
            return self.grant(id, volume, None, true, now);
        }
        let Some((extra, currency)) = self.extra(id) else {
            return self.grant(id, volume, None, false, now);
        };
        let amount = self.extra_price(id, extra, volume, now).rounded(currency);
        match extra.collect {
            // What rounds to nothing is no debt.
            _ if amount.amount.is_zero() => self.grant(id, volume, Some(amount), false, now),
            CollectExtra::None => self.grant(id, volume, Some(amount), false, now),
            CollectExtra::Balance => {
                let deducted = Money {
                    amount: -amount.amount,
                    ..amount
                };
                self.post(account.as_ref(), deducted);
                self.grant(id, volume, Some(amount), false, now);
            }
            CollectExtra::Invoice { due_days } => {
                let valid = (now, self.diaries[id].period().end);
                self.issue(id, true, due_days, valid, volume, amount, now);
            }
        }
    }

    fn extra(&self, id: &MachineId) -> Option<(Extra, Currency)> {
        let price = self.plan(id)?.price.clone()?;
        Some((price.extra?, price.currency))
    }

    pub(super) fn overage(&self, id: &MachineId) -> Option<(Overage, Currency)> {
        let price = self.plan(id)?.price.clone()?;
        Some((price.overage?, price.currency))
    }

    fn extra_price(&self, id: &MachineId, extra: Extra, volume: u64, now: Timestamp) -> Exact {
        let price = Exact::price(extra.tariff, volume);
        if !extra.prorated {
            return price;
        }
        let span = self.diaries[id].period();
        let nanos = |to: Timestamp, from: Timestamp| to.duration_since(from).as_nanos();
        price.times(Exact::new(
            nanos(span.end, now),
            nanos(span.end, span.start),
        ))
    }

    fn grant(
        &mut self,
        id: &MachineId,
        volume: u64,
        amount: Option<Money>,
        from_pool: bool,
        now: Timestamp,
    ) {
        self.write(id, Fact::Granted(volume));
        let amount = amount.map_or("none".to_owned(), |money| money.to_string());
        self.tell(
            id,
            now,
            "topped-up",
            None,
            format!("{volume} {amount} {from_pool}"),
        );
    }

    /// The bill for what went beyond the allowance, as the period closes.
    pub(super) fn close(&mut self, id: &MachineId, now: Timestamp) {
        let Some((overage, currency)) = self.overage(id) else {
            return;
        };
        let CollectOverage::Invoice { due_days } = overage.collect else {
            return;
        };
        let volume = self.uncharged(id);
        let amount = Exact::price(overage.tariff, volume).rounded(currency);
        if !amount.amount.is_zero() {
            let span = self.diaries[id].period();
            let valid = (span.start, span.end);
            self.issue(id, false, due_days, valid, volume, amount, now);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that stands on a bill")]
    fn issue(
        &mut self,
        id: &MachineId,
        extra: bool,
        due_days: u32,
        valid: (Timestamp, Timestamp),
        volume: u64,
        amount: Money,
        now: Timestamp,
    ) {
        let account = self.terms.machines[id].account.clone();
        let here = now.to_zoned(self.diaries[id].zone().clone());
        let due = here
            .checked_add(i64::from(due_days).days())
            .unwrap()
            .timestamp();
        let index = self.bills.len();
        let detail = format!(
            "#{index} {volume} {amount} due {due} for {} to {}",
            valid.0, valid.1
        );
        let autopay = account
            .as_ref()
            .is_some_and(|account| self.terms.accounts[account].autopay);
        self.bills.push(Bill {
            machine: id.clone(),
            extra,
            // What nobody has had yet is owed by nobody: the order ends with its period, too.
            due: if extra { due.min(valid.1) } else { due },
            volume,
            amount,
            paid: None,
            done_for: false,
        });
        self.tell(id, now, "invoiced", None, detail);
        if autopay {
            self.pay(index, now);
        }
    }

    fn pay(&mut self, index: usize, now: Timestamp) {
        let bill = &mut self.bills[index];
        bill.paid = Some(now);
        let bill = bill.clone();
        self.tell(
            &bill.machine,
            now,
            "paid",
            None,
            format!("#{index} {}", bill.amount),
        );
        if bill.extra {
            self.grant(&bill.machine, bill.volume, Some(bill.amount), false, now);
        }
    }
}

fn end(until: Option<Until>, now: Timestamp) -> Option<Timestamp> {
    match until? {
        Until::For(time) => Some(now.checked_add(time.max(SignedDuration::ZERO)).unwrap()),
        Until::At(end) => Some(end),
    }
}

fn key_word(key: SettingKey) -> &'static str {
    match key {
        SettingKey::Plan => "plan",
        SettingKey::Allowance => "allowance",
        SettingKey::RenewalDay => "renewal-day",
        SettingKey::CostLimit => "cost-limit",
        SettingKey::AutoUnsuspend => "auto-unsuspend",
    }
}
