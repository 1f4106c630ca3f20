//! What a step writes on: the effects so far, and what is shared by all machines.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Effect, EngineSettings,
    books::{Bill, Books, Purpose, TransactionKind, file},
    event::{Event, EventKind, State},
    machine::Machine,
    period::civil_days_later,
    plan::Terms,
    record::Running,
    units::{AccountId, Bytes, InvoiceNumber, MachineId, Money, RuleName},
};

/// The desk of one step.
pub(crate) struct Desk<'a> {
    pub(crate) terms: &'a Terms,
    pub(crate) settings: EngineSettings,
    pub(crate) books: &'a mut Arc<Books>,
    pub(crate) effects: Vec<Effect>,
    /// Periods that closed.
    pub(crate) closed: Vec<(MachineId, Running)>,
}

/// A bill to be issued.
pub(crate) struct Order {
    pub(crate) purpose: Purpose,
    pub(crate) volume: Bytes,
    pub(crate) amount: Money,
    pub(crate) due_days: u32,
    pub(crate) valid_from: Timestamp,
    pub(crate) valid_to: Timestamp,
}

impl Desk<'_> {
    /// Records what happened to a machine.
    pub(crate) fn tell(
        &mut self,
        machine: &Machine,
        time: Timestamp,
        rule: Option<&RuleName>,
        kind: EventKind,
    ) {
        self.effects.push(Effect::Event(Event {
            time,
            machine: Some(machine.id.clone()),
            account: machine.terms.account.clone(),
            kind,
            rule: rule.cloned(),
            used: machine.used(),
            allowance: machine.allowance(),
            state: machine.state(),
        }));
    }

    /// Records what happened to no machine in particular, or to one that is not known.
    pub(crate) fn tell_at_large(
        &mut self,
        time: Timestamp,
        machine: Option<MachineId>,
        account: Option<AccountId>,
        kind: EventKind,
    ) {
        self.effects.push(Effect::Event(Event {
            time,
            machine,
            account,
            kind,
            rule: None,
            used: Bytes::ZERO,
            allowance: None,
            state: State::Normal,
        }));
    }

    /// Moves money on the machine's account. None where it has none, or none of that currency.
    pub(crate) fn post(
        &mut self,
        machine: &Machine,
        time: Timestamp,
        kind: TransactionKind,
        money: Money,
    ) -> Option<Money> {
        let id = machine.terms.account.as_ref()?;
        Books::account(self.books, id)?.post(time, kind, money, Some(&machine.id), None)
    }

    /// Issues a bill. It counts as paid at once where the account pays by itself.
    pub(crate) fn issue(&mut self, machine: &mut Machine, now: Timestamp, order: &Order) {
        let zone = &machine.record.zone;
        let date = zone.to_datetime(now).date();
        let books = Arc::make_mut(self.books);
        books.node.bills += 1;
        let number = InvoiceNumber::from(format!("{}-{:06}", date.year(), books.node.bills));
        let bill = Bill {
            number: number.clone(),
            account: machine.terms.account.clone(),
            date: date.to_string(),
            due: civil_days_later(now, order.due_days, zone),
            purpose: order.purpose,
            valid_from: order.valid_from,
            valid_to: order.valid_to,
            volume: order.volume,
            amount: order.amount,
            paid: None,
            overdue: false,
            lapsed: None,
        };
        let issued = EventKind::Invoiced {
            invoice: number.clone(),
            number: number.clone(),
            date: bill.date.clone(),
            due: bill.due,
            description: bill.description().to_owned(),
            valid_from: bill.valid_from,
            valid_to: bill.valid_to,
            amount: bill.amount,
            volume: bill.volume,
        };
        file(&mut Arc::make_mut(&mut machine.record).bills, bill);
        self.tell(machine, now, None, issued);
        let account = machine.terms.account.as_ref();
        if account.is_some_and(|id| self.terms.accounts.get(id).is_some_and(|it| it.autopay)) {
            self.settle_bill(machine, now, &number);
        }
    }

    /// Takes note that a bill of this machine was paid. False where it has no such unpaid one.
    pub(crate) fn settle_bill(
        &mut self,
        machine: &mut Machine,
        now: Timestamp,
        number: &InvoiceNumber,
    ) -> bool {
        let unpaid = |bill: &Bill| bill.number == *number && bill.is_open();
        let Some(index) = machine.record.bills.iter().position(unpaid) else {
            return false;
        };
        let bill = {
            let bill = &mut Arc::make_mut(&mut machine.record).bills[index];
            bill.paid = Some(now);
            bill.clone()
        };
        machine.stale = true;
        // The bill and its payment, which came from outside: the balance stays as it was.
        if let Some(id) = &bill.account
            && let Some(account) = Books::account(self.books, id)
        {
            let of = (Some(&machine.id), Some(number));
            let owed = Money {
                amount: -bill.amount.amount,
                ..bill.amount
            };
            account.post(now, TransactionKind::Invoice, owed, of.0, of.1);
            account.post(now, TransactionKind::Payment, bill.amount, of.0, of.1);
        }
        let paid = EventKind::Paid {
            invoice: number.clone(),
            amount: bill.amount,
        };
        self.tell(machine, now, None, paid);
        if bill.purpose == Purpose::Extra {
            self.add_volume(machine, now, bill.volume, Some(bill.amount), FromPool::No);
        }
        true
    }

    /// Adds volume to the running period.
    pub(crate) fn add_volume(
        &mut self,
        machine: &mut Machine,
        now: Timestamp,
        volume: Bytes,
        amount: Option<Money>,
        from_pool: FromPool,
    ) {
        Arc::make_mut(&mut machine.record).added += volume;
        machine.stale = true;
        let added = EventKind::ToppedUp {
            volume,
            amount,
            from_pool: from_pool == FromPool::Yes,
        };
        self.tell(machine, now, None, added);
    }
}

/// Whether volume was moved from the account's pool.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromPool {
    No,
    Yes,
}
