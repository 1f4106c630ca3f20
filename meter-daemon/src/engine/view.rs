//! What can be asked of the engine: `status`, bills and balances, in the interface's words.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    books::{Bill, Transaction},
    kept::Cause,
    machine::Machine,
    offer::Offer,
    plan::{Action, Rule},
    status::{NextRule, PeriodStatus, PoolStatus, Status},
    step::Engine,
    triggers::Basis,
    units::{AccountId, Bytes, InvoiceNumber, MachineId, Money},
    usage::ratio,
};

pub use super::books::TransactionKind;

/// A bill, as `invoices` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceView {
    /// Its number.
    pub invoice: InvoiceNumber,
    /// Whose account; null for a machine that has none.
    pub account: Option<AccountId>,
    /// For which machine.
    pub machine: MachineId,
    /// Civil date of issue.
    pub date: String,
    /// When it must be paid.
    pub due: Timestamp,
    /// What it is for.
    pub description: String,
    /// Begin of what it pays for.
    pub valid_from: Timestamp,
    /// Its end.
    pub valid_to: Timestamp,
    /// The volume it is for.
    pub volume: Bytes,
    /// Amount due.
    pub amount: Money,
    /// `unpaid`, `overdue`, `paid` or `lapsed`.
    pub status: InvoiceStatus,
    /// When it was paid.
    pub paid: Option<Timestamp>,
}

/// Where a bill stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InvoiceStatus {
    /// Not yet due.
    Unpaid,
    /// Past its due date.
    Overdue,
    /// Paid.
    Paid,
    /// For volume that was ordered and not paid in time: nothing is owed.
    Lapsed,
}

/// A movement on an account, as `balance` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionView {
    /// When; for charges of one day that were put together, the last.
    pub time: Timestamp,
    /// What kind.
    pub kind: TransactionKind,
    /// Positive: to the customer's credit.
    pub amount: Money,
    /// For which machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// For which bill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoice: Option<InvoiceNumber>,
}

/// An account, as `balance` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalanceView {
    /// Which.
    pub account: AccountId,
    /// What is on it; null where it has no currency.
    pub balance: Option<Money>,
    /// The sum of older transactions that are not listed here; every one is an event. Null
    /// where it has no currency.
    pub carried: Option<Money>,
    /// The latest, oldest first.
    pub transactions: Vec<TransactionView>,
    /// Its traffic pool.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pool: Option<PoolStatus>,
}

impl Engine {
    /// What `status` shows of a machine. Its `interfaces` are left empty for the daemon.
    #[must_use]
    pub fn status(&self, machine: &MachineId, now: Timestamp) -> Option<Status> {
        let machine = self.machines.get(machine)?;
        let now = now.max(self.clock);
        let period = machine.period();
        let allowance = machine.allowance();
        let used = machine.used();
        let cause = &machine.record.standing.cause;
        let rate = match cause {
            Cause::Rule {
                action: Action::Throttle(rate),
                ..
            } => Some(*rate),
            _ => None,
        };
        let owes = machine.record.bills.iter().any(Bill::is_owed);
        let cancelled = machine.record.cancelled.is_some();
        Some(Status {
            machine: machine.id.clone(),
            account: machine.terms.account.clone(),
            plan: machine.terms.plan_name().cloned(),
            interfaces: Vec::new(),
            links: Vec::new(),
            state: machine.state(),
            since: machine.record.standing.since,
            rule: cause.rule().cloned(),
            period: PeriodStatus {
                start: period.local(period.start),
                end: period.local(period.end),
                days_left: period.days_left(now),
            },
            direction: machine.terms.direction(),
            used,
            received: machine.running.traffic.received,
            sent: machine.running.traffic.sent,
            exempt: machine.running.traffic.exempt,
            allowance,
            remaining: allowance.map(|allowance| allowance.saturating_sub(used)),
            ratio: ratio(used, allowance),
            forecast: machine.forecast(now),
            flagged: machine.record.rules.iter().any(|state| state.flagging),
            cancellable: !owes && !cancelled,
            rate_limit_bits_per_second: rate,
            cap_remaining: machine.cap_remaining(),
            next: machine.next_rule(now),
            pool: self.pool(machine.terms.account.as_ref()),
        })
    }

    /// What was used in the running period, and of how much: cheaper than a whole status.
    #[must_use]
    pub fn used(&self, machine: &MachineId) -> Option<(Bytes, Option<Bytes>)> {
        let machine = self.machines.get(machine)?;
        Some((machine.used(), machine.allowance()))
    }

    fn pool(&self, account: Option<&AccountId>) -> Option<PoolStatus> {
        let id = account?;
        let size = self.terms.accounts.get(id)?.pool?;
        let taken = self.books.accounts.get(id).map(|account| account.taken);
        Some(PoolStatus {
            size,
            left: size.saturating_sub(taken.unwrap_or_default()),
        })
    }

    /// What more volume the machine may want, and what it costs.
    #[must_use]
    pub fn offer(&self, machine: &MachineId, now: Timestamp) -> Option<Offer> {
        let machine = self.machines.get(machine)?;
        Some(machine.offer(now.max(self.clock), &self.terms.plans))
    }

    /// All bills, or an account's, in order of their numbers.
    #[must_use]
    pub fn invoices(&self, account: Option<&AccountId>) -> Vec<InvoiceView> {
        let mut bills: Vec<_> = self
            .machines
            .values()
            .flat_map(|machine| machine.record.bills.iter().map(move |bill| (machine, bill)))
            .filter(|(_, bill)| account.is_none() || bill.account.as_ref() == account)
            .map(|(machine, bill)| invoice(machine, bill, self.clock))
            .collect();
        bills.sort_by(|one, other| one.invoice.cmp(&other.invoice));
        bills
    }

    /// An account's balance, transactions and pool.
    #[must_use]
    pub fn balance(&self, account: &AccountId) -> Option<BalanceView> {
        let books = self.books.accounts.get(account)?;
        let (carried, transactions) = books.statement();
        // Without a currency no money moves, and there is nothing to list.
        let money = |amount| {
            let currency = books.currency()?;
            Some(Money { amount, currency })
        };
        let view = |transaction: &Transaction| {
            Some(TransactionView {
                time: transaction.time,
                kind: transaction.kind,
                amount: money(transaction.amount)?,
                machine: transaction.machine.clone(),
                invoice: transaction.invoice.clone(),
            })
        };
        Some(BalanceView {
            account: account.clone(),
            balance: books.balance(),
            carried: money(carried),
            transactions: transactions.iter().filter_map(view).collect(),
            pool: self.pool(Some(account)),
        })
    }
}

fn invoice(machine: &Arc<Machine>, bill: &Bill, now: Timestamp) -> InvoiceView {
    let status = match (bill.paid, bill.lapsed) {
        (Some(_), _) => InvoiceStatus::Paid,
        (None, Some(_)) => InvoiceStatus::Lapsed,
        (None, None) if bill.is_overdue(now) => InvoiceStatus::Overdue,
        (None, None) => InvoiceStatus::Unpaid,
    };
    InvoiceView {
        invoice: bill.number.clone(),
        account: bill.account.clone(),
        machine: machine.id.clone(),
        date: bill.date.clone(),
        due: bill.due,
        description: bill.description().to_owned(),
        valid_from: bill.valid_from,
        valid_to: bill.valid_to,
        volume: bill.volume,
        amount: bill.amount,
        status,
        paid: bill.paid,
    }
}

impl Machine {
    /// The rule whose cap stands, and the usage at which nothing is left of it.
    fn cap_that_runs_out(&self) -> Option<(Bytes, &Rule)> {
        let left = self.cap_remaining().filter(|left| *left > Bytes::ZERO)?;
        let name = self.record.standing.cause.rule()?;
        let rule = self.terms.rules().iter().find(|rule| rule.name == *name)?;
        Some((self.used() + left, rule))
    }

    /// The rule that acts or speaks next if usage goes on: one whose time is running, else the
    /// one whose volume comes first, else one whose bill falls due.
    pub(crate) fn next_rule(&self, now: Timestamp) -> Option<NextRule> {
        if !self.is_live() {
            return None;
        }
        if let Some((at, rule)) = self.countdown(now) {
            return Some(NextRule {
                rule: rule.name.clone(),
                at_bytes: None,
                at_time: Some(at),
            });
        }
        let figures = self.figures(now);
        let ahead = |basis| matches!(basis, Basis::Used | Basis::Cost | Basis::Accrued);
        let by_volume = self
            .terms
            .rules()
            .iter()
            .zip(&self.record.rules)
            // What acts already and waits for a hand does not come.
            .filter(|(_, state)| state.acting.is_none())
            .map(|(rule, _)| (rule, figures.compare(rule.trigger)))
            .filter(|(_, compared)| !compared.holds && ahead(compared.basis))
            .filter_map(|(rule, compared)| Some((compared.at?, rule)))
            .chain(self.cap_that_runs_out())
            // The first in the plan's order, of those at the same byte.
            .min_by_key(|(at, _)| *at);
        if let Some((at, rule)) = by_volume {
            return Some(NextRule {
                rule: rule.name.clone(),
                at_bytes: Some(at),
                at_time: None,
            });
        }
        let due = self
            .record
            .bills
            .iter()
            .filter(|bill| bill.is_owed() && bill.due > now)
            .map(|bill| bill.due)
            .min()?;
        let overdue = |rule: &&Rule| figures.compare(rule.trigger).basis == Basis::Overdue;
        self.terms
            .rules()
            .iter()
            .find(overdue)
            .map(|rule| NextRule {
                rule: rule.name.clone(),
                at_bytes: None,
                at_time: Some(due),
            })
    }
}
