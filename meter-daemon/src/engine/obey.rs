//! Obeying commands: to whom each goes, and what follows from it.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    books::Bill,
    command::{Command, CommandAction, Until},
    commands::{Given, Refusal, move_balance, why},
    desk::{Desk, FromPool},
    event::EventKind,
    machine::Machine,
    standing::release,
    step::{Step, machine_mut},
    units::{AccountId, Bytes, InvoiceNumber, MachineId},
};

impl Bill {
    fn may_be_paid(&self, now: Timestamp) -> Result<(), Refusal> {
        let number = &self.number;
        if let Some(when) = self.paid {
            return Err(format!("bill {number} was paid already, at {when}"));
        }
        let lapses = self.lapses().filter(|end| *end <= now);
        let Some(when) = self.lapsed.or(lapses) else {
            return Ok(());
        };
        let account = self.account.as_ref().map_or("ACCOUNT", AccountId::as_str);
        Err(format!(
            "bill {number} was not paid in time and lapsed at {when}: order the volume again with \
             `meterd top-up`, and if money came in, record it with `meterd balance {account} --add \
             \"{}\"`",
            self.amount
        ))
    }
}

impl Step<'_> {
    /// Carries out a command, or says why not.
    pub(crate) fn obey(&mut self, command: &Command, desk: &mut Desk<'_>) {
        let given = Given::of(command, self.now);
        self.why = Some(why(&command.action, &command.author));
        let result = match &command.action {
            CommandAction::Confirm => self.confirm(given, desk),
            CommandAction::Lift {
                machine: None,
                until,
            } => self.lift_all(given, *until, desk),
            CommandAction::Pay { invoice } => self.pay(given, invoice, desk),
            CommandAction::Balance { account, add } => move_balance(given, account, *add, desk),
            action => self.obey_for_one(given, action, desk),
        };
        self.why = None;
        if let Err(reason) = result {
            self.refuse(&command.action, reason, desk);
        }
    }

    fn obey_for_one(
        &mut self,
        given: Given<'_>,
        action: &CommandAction,
        desk: &mut Desk<'_>,
    ) -> Result<(), Refusal> {
        let Some(id) = action.machine() else {
            return Ok(());
        };
        let machine = self.known(id)?;
        match action {
            CommandAction::TopUp {
                volume, from_pool, ..
            } => {
                let pool = if *from_pool {
                    FromPool::Yes
                } else {
                    FromPool::No
                };
                machine.top_up(given, *volume, pool, desk)
            }
            CommandAction::Set { change, .. } => machine.set(given, change, desk),
            CommandAction::Unset { key, .. } => machine.unset(given, *key, desk),
            CommandAction::Suspend { until, .. } => machine.suspend(given, *until),
            CommandAction::Lift { until, .. } => machine.lift(given, *until, desk),
            CommandAction::Cancel { .. } => machine.cancel(given, desk),
            CommandAction::Pay { .. } | CommandAction::Balance { .. } | CommandAction::Confirm => {
                Ok(())
            }
        }?;
        self.follow_up(id, desk);
        Ok(())
    }

    /// Judges a machine that a command changed.
    fn follow_up(&mut self, id: &MachineId, desk: &mut Desk<'_>) {
        let now = self.now;
        if let Some(machine) = machine_mut(self.machines, id) {
            machine.judge(now, Bytes::ZERO, desk);
            machine.wake = machine.next_wake(now);
        }
        self.settle(std::slice::from_ref(id), now, desk);
    }

    fn known(&mut self, id: &MachineId) -> Result<&mut Machine, Refusal> {
        let machine =
            machine_mut(self.machines, id).ok_or_else(|| format!("there is no machine `{id}`"))?;
        if machine.record.cancelled.is_some() {
            return Err(format!("metering of {id} was ended by `cancel`"));
        }
        if !machine.present {
            return Err(format!("{id} is neither configured nor on this node"));
        }
        Ok(machine)
    }

    fn pay(
        &mut self,
        given: Given<'_>,
        number: &InvoiceNumber,
        desk: &mut Desk<'_>,
    ) -> Result<(), Refusal> {
        let with_bill = |machine: &Arc<Machine>| {
            let bills = &machine.record.bills;
            let bill = bills.iter().find(|bill| bill.number == *number)?;
            Some((machine.id.clone(), bill.may_be_paid(given.now)))
        };
        let found = self.machines.values().find_map(with_bill);
        let (id, allowed) = found.ok_or_else(|| format!("there is no bill `{number}`"))?;
        allowed?;
        if let Some(machine) = machine_mut(self.machines, &id) {
            desk.settle_bill(machine, given.now, number);
        }
        self.follow_up(&id, desk);
        Ok(())
    }

    fn lift_all(
        &mut self,
        given: Given<'_>,
        until: Option<Until>,
        desk: &mut Desk<'_>,
    ) -> Result<(), Refusal> {
        let liftable: Vec<MachineId> = self
            .machines
            .values()
            .filter(|machine| machine.is_liftable())
            .map(|machine| machine.id.clone())
            .collect();
        if liftable.is_empty() {
            return Err("nothing is in force on any machine: there is nothing to lift".to_owned());
        }
        for id in &liftable {
            self.known(id)?.lift(given, until, desk)?;
            self.follow_up(id, desk);
        }
        Ok(())
    }

    /// Lets happen what the circuit breaker holds back.
    fn confirm(&mut self, given: Given<'_>, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        let held = desk.books.node.held.clone();
        if held.is_empty() {
            return Err("nothing is held back: there is nothing to confirm".to_owned());
        }
        let confirmed = EventKind::Confirmed {
            by: given.by.to_owned(),
        };
        desk.tell_at_large(given.now, None, None, confirmed);
        release(desk.books);
        for id in &held {
            self.stand(id, given.now, true, desk);
        }
        Ok(())
    }

    fn refuse(&self, action: &CommandAction, reason: Refusal, desk: &mut Desk<'_>) {
        let kind = EventKind::Refused {
            command: action.words(),
            reason,
        };
        let known = action.machine().and_then(|id| self.machines.get(id));
        match (known, action) {
            (Some(machine), _) => desk.tell(machine, self.now, None, kind),
            (None, CommandAction::Balance { account, .. }) => {
                desk.tell_at_large(self.now, None, Some(account.clone()), kind);
            }
            (None, _) => desk.tell_at_large(self.now, action.machine().cloned(), None, kind),
        }
    }
}
