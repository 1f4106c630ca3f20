//! Commands: what people may change, and why something is refused.

use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::{
    books::{Books, Purpose, TransactionKind},
    command::{Change, Command, CommandAction, SettingKey, Until},
    desk::{Desk, FromPool, Order},
    effective::{Effective, Setting},
    event::EventKind,
    kept::{Lifted, StaffSuspension},
    machine::Machine,
    plan::CollectExtra,
    units::{AccountId, Bytes, Money},
};

/// Why a command was not carried out, for whoever gave it.
pub(crate) type Refusal = String;

/// Who gives a command, when and why.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) now: Timestamp,
    pub(crate) by: &'a str,
    pub(crate) reason: Option<&'a str>,
}

impl Until {
    fn instant(self, now: Timestamp) -> Result<Timestamp, Refusal> {
        let end = match self {
            Self::For(span) => now.saturating_add(span).unwrap_or(Timestamp::MAX),
            Self::At(end) => end,
        };
        if end <= now {
            return Err(format!("{end} is not in the future: it would end at once"));
        }
        Ok(end)
    }
}

impl CommandAction {
    /// The command in a few words, for the event of its refusal.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::TopUp {
                volume, from_pool, ..
            } => {
                let pool = if *from_pool { " from the pool" } else { "" };
                format!("top-up {volume}{pool}")
            }
            Self::Set { change, .. } => {
                format!("set {}={}", change.key().as_str(), change.value())
            }
            Self::Unset { key, .. } => format!("unset {}", key.as_str()),
            Self::Suspend { .. } => "suspend".to_owned(),
            Self::Lift { machine: None, .. } => "lift --all".to_owned(),
            Self::Lift { .. } => "lift".to_owned(),
            Self::Pay { invoice } => format!("pay {invoice}"),
            Self::Balance { account, add } => format!("balance {account} --add {add}"),
            Self::Cancel { .. } => "cancel".to_owned(),
            Self::Confirm => "confirm".to_owned(),
        }
    }

    /// The one machine that it is for.
    #[must_use]
    pub const fn machine(&self) -> Option<&super::units::MachineId> {
        match self {
            Self::TopUp { machine, .. }
            | Self::Set { machine, .. }
            | Self::Unset { machine, .. }
            | Self::Suspend { machine, .. }
            | Self::Cancel { machine } => Some(machine),
            Self::Lift { machine, .. } => machine.as_ref(),
            Self::Pay { .. } | Self::Balance { .. } | Self::Confirm => None,
        }
    }
}

impl<'a> Given<'a> {
    pub(crate) fn of(command: &'a Command, now: Timestamp) -> Self {
        Self {
            now,
            by: &command.author,
            reason: command.reason.as_deref(),
        }
    }
}

impl Machine {
    /// Adds volume, or bills it where it comes with the payment.
    pub(crate) fn top_up(
        &mut self,
        given: Given<'_>,
        volume: Bytes,
        from_pool: FromPool,
        desk: &mut Desk<'_>,
    ) -> Result<(), Refusal> {
        if volume == Bytes::ZERO {
            return Err("0 bytes would change nothing".to_owned());
        }
        if self.allowance().is_none() {
            return Err(format!(
                "the allowance of {} is unlimited: there is nothing to add to",
                self.id
            ));
        }
        if from_pool == FromPool::Yes {
            self.take_from_pool(volume, desk)?;
            desk.add_volume(self, given.now, volume, None, from_pool);
            return Ok(());
        }
        let cost = self.extra_cost(volume, given.now);
        let collect = self.terms.extra_price().map(|(extra, _)| extra.collect);
        match (collect, cost) {
            (Some(CollectExtra::Invoice { due_days }), Some(amount))
                if !amount.amount.is_zero() =>
            {
                let bill = Order {
                    purpose: Purpose::Extra,
                    volume,
                    amount,
                    due_days,
                    valid_from: given.now,
                    valid_to: self.running.period_end,
                };
                desk.issue(self, given.now, &bill);
            }
            (Some(CollectExtra::Balance), Some(amount)) => {
                let deducted = Money {
                    amount: -amount.amount,
                    ..amount
                };
                desk.post(self, given.now, TransactionKind::TopUp, deducted);
                desk.add_volume(self, given.now, volume, cost, from_pool);
            }
            _ => desk.add_volume(self, given.now, volume, cost, from_pool),
        }
        Ok(())
    }

    fn take_from_pool(&self, volume: Bytes, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        let Some(id) = &self.terms.account else {
            return Err(format!("{} belongs to no account, so to no pool", self.id));
        };
        let Some(size) = desk.terms.accounts.get(id).and_then(|account| account.pool) else {
            return Err(format!("account {id} has no pool"));
        };
        let Some(account) = Books::account(desk.books, id) else {
            return Err(format!("account {id} is not known"));
        };
        let left = size.saturating_sub(account.taken);
        if volume > left {
            return Err(format!(
                "the pool of account {id} has {left} left of {size}, less than {volume}"
            ));
        }
        account.taken += volume;
        Ok(())
    }

    /// Changes the machine's terms until `unset`.
    pub(crate) fn set(
        &mut self,
        given: Given<'_>,
        change: &Change,
        desk: &mut Desk<'_>,
    ) -> Result<(), Refusal> {
        self.may_set(change, desk)?;
        let setting = Setting {
            change: change.clone(),
            by: given.by.to_owned(),
            at: given.now,
        };
        let settings = &mut Arc::make_mut(&mut self.record).settings;
        settings.insert(change.key(), setting);
        self.resettle(change.key(), Some(change.value()), given, desk);
        Ok(())
    }

    fn may_set(&self, change: &Change, desk: &Desk<'_>) -> Result<(), Refusal> {
        match change {
            Change::Plan(name) if !desk.terms.plans.contains_key(name) => {
                let known: Vec<_> = desk.terms.plans.keys().map(|plan| plan.as_str()).collect();
                Err(format!(
                    "there is no plan `{name}`; there are: {}",
                    known.join(", ")
                ))
            }
            Change::CostLimit(Some(limit)) => match self.terms.usage_price() {
                None => Err(format!(
                    "the plan of {} has no price for usage, so that a cost limit would never hold",
                    self.id
                )),
                Some((_, currency)) if currency != limit.currency => Err(format!(
                    "the plan of {} is priced in {currency}, not in {}",
                    self.id, limit.currency
                )),
                Some(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Returns to what the files say.
    pub(crate) fn unset(
        &mut self,
        given: Given<'_>,
        key: SettingKey,
        desk: &mut Desk<'_>,
    ) -> Result<(), Refusal> {
        if !self.record.settings.contains_key(&key) {
            return Err(format!(
                "`{}` of {} is what the files say already",
                key.as_str(),
                self.id
            ));
        }
        Arc::make_mut(&mut self.record).settings.remove(&key);
        self.resettle(key, None, given, desk);
        Ok(())
    }

    fn resettle(
        &mut self,
        key: SettingKey,
        value: Option<String>,
        given: Given<'_>,
        desk: &mut Desk<'_>,
    ) {
        if let Some(configured) = desk.terms.machines.get(&self.id) {
            let terms = Effective::resolve(configured, &self.record.settings, desk.terms);
            self.retarget(terms);
        }
        let changed = EventKind::Changed {
            key: key.as_str().to_owned(),
            value,
            by: given.by.to_owned(),
        };
        desk.tell(self, given.now, None, changed);
    }

    /// Suspends by staff.
    pub(crate) fn suspend(
        &mut self,
        given: Given<'_>,
        until: Option<Until>,
    ) -> Result<(), Refusal> {
        let until = until.map(|until| until.instant(given.now)).transpose()?;
        let staff = StaffSuspension {
            by: given.by.to_owned(),
            reason: given.reason.map(str::to_owned),
            since: given.now,
            until,
        };
        Arc::make_mut(&mut self.record).staff = Some(staff);
        self.stale = true;
        Ok(())
    }

    /// Whether a `lift` would end anything.
    pub(crate) fn is_liftable(&self) -> bool {
        let mut states = self.record.rules.iter().chain(&self.record.former);
        self.is_live()
            && (self.record.staff.is_some() || states.any(|state| state.acting.is_some()))
    }

    /// Holds off every rule in force, and ends a suspension by staff.
    pub(crate) fn lift(
        &mut self,
        given: Given<'_>,
        until: Option<Until>,
        desk: &mut Desk<'_>,
    ) -> Result<(), Refusal> {
        let until = until.map(|until| until.instant(given.now)).transpose()?;
        if !self.is_liftable() {
            return Err(format!(
                "nothing is in force on {}: there is nothing to lift",
                self.id
            ));
        }
        let mut held_off = false;
        let record = Arc::make_mut(&mut self.record);
        record.staff = None;
        for state in record.rules.iter_mut().chain(&mut record.former) {
            if state.acting.take().is_some() && state.since.is_some() {
                held_off = true;
                state.lifted = Some(Box::new(Lifted {
                    until,
                    by: given.by.to_owned(),
                    reason: given.reason.map(str::to_owned),
                }));
            }
        }
        self.stale = true;
        let period_end = self.running.period_end;
        let lifted = EventKind::Lifted {
            // What held no longer is simply over: there is nothing to come back.
            until: held_off.then(|| until.map_or(period_end, |until| until.min(period_end))),
            by: given.by.to_owned(),
            reason: given.reason.map(str::to_owned),
        };
        desk.tell(self, given.now, None, lifted);
        Ok(())
    }

    /// Ends metering with a last statement. What was ordered and not paid is given up; what was
    /// used and not paid is in the way.
    pub(crate) fn cancel(&mut self, given: Given<'_>, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        if let Some(bill) = self.record.bills.iter().find(|bill| bill.is_owed()) {
            return Err(format!(
                "bill {} over {} is unpaid; {} can be cancelled once it is paid",
                bill.number, bill.amount, self.id
            ));
        }
        self.let_lapse(|bill| bill.lapses().is_some(), given.now, desk);
        self.close(given.now, desk);
        let record = Arc::make_mut(&mut self.record);
        record.cancelled = Some(given.now);
        record.staff = None;
        for state in record.rules.iter_mut().chain(&mut record.former) {
            state.acting = None;
            state.lifted = None;
            state.flagging = false;
        }
        self.running.period_end = given.now;
        let cancelled = EventKind::Cancelled {
            by: given.by.to_owned(),
        };
        desk.tell(self, given.now, None, cancelled);
        Ok(())
    }
}

/// Moves money on an account.
pub(crate) fn move_balance(
    given: Given<'_>,
    id: &AccountId,
    add: Decimal,
    desk: &mut Desk<'_>,
) -> Result<(), Refusal> {
    let Some(account) = Books::account(desk.books, id) else {
        return Err(format!("there is no account `{id}`"));
    };
    let Some(currency) = account.currency() else {
        return Err(format!(
            "account {id} has no currency; give it one in its file: currency = \"EUR\""
        ));
    };
    let amount = Money {
        amount: add,
        currency,
    };
    let kind = TransactionKind::Adjustment;
    if let Some(balance) = account.post(given.now, kind, amount, None, None) {
        let moved = EventKind::Balance { amount, balance };
        desk.tell_at_large(given.now, None, Some(id.clone()), moved);
    }
    Ok(())
}

/// What a command did, for a machine that it returns to normal.
pub(crate) fn why(action: &CommandAction, by: &str) -> String {
    match action {
        CommandAction::TopUp { volume, .. } => format!("{volume} was added by {by}"),
        CommandAction::Set { change, .. } => {
            format!(
                "{} was set to {} by {by}",
                change.key().as_str(),
                change.value()
            )
        }
        CommandAction::Unset { key, .. } => format!("{} was unset by {by}", key.as_str()),
        CommandAction::Lift { .. } => format!("lifted by {by}"),
        CommandAction::Pay { invoice } => format!("bill {invoice} was paid"),
        CommandAction::Cancel { .. } => format!("cancelled by {by}"),
        CommandAction::Suspend { .. } | CommandAction::Balance { .. } | CommandAction::Confirm => {
            action.words()
        }
    }
}
