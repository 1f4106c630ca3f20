//! Accounts, their transactions, pools and bills.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{
    plan::Terms,
    units::{AccountId, Bytes, Currency, InvoiceNumber, MachineId, Money},
};

/// Everything that belongs to no single machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Books {
    pub(crate) accounts: BTreeMap<AccountId, Arc<Account>>,
    pub(crate) node: Node,
}

/// The node's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// How many bills were issued.
    #[serde(default)]
    pub(crate) bills: u64,
    /// Machines that the circuit breaker holds back.
    #[serde(default)]
    pub(crate) held: BTreeSet<MachineId>,
    /// Machines that were hit lately, and when. While any are held back, none is forgotten.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) hit: BTreeMap<MachineId, Timestamp>,
}

/// A customer's account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    /// `None`: no money moves.
    currency: Option<Currency>,
    balance: Decimal,
    /// Taken from the pool.
    #[serde(default)]
    pub(crate) taken: Bytes,
    /// The sum of transactions that are no longer listed here.
    #[serde(default)]
    carried: Decimal,
    #[serde(default)]
    transactions: VecDeque<Transaction>,
}

/// One movement on an account, in its currency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Transaction {
    /// When; for charges of one day that were put together, the last.
    pub(crate) time: Timestamp,
    pub(crate) kind: TransactionKind,
    /// Positive: to the customer's credit.
    pub(crate) amount: Decimal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) machine: Option<MachineId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) invoice: Option<InvoiceNumber>,
}

/// What moved the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransactionKind {
    /// What the account began with.
    Opening,
    /// Put in or taken out by command.
    Adjustment,
    /// Overage, as it accrues.
    Overage,
    /// Volume added.
    TopUp,
    /// A bill, when it was paid.
    Invoice,
    /// Its payment.
    Payment,
}

/// Transactions listed per account. Every one is an event, too, and those are for ever.
const LISTED: usize = 200;

impl Account {
    fn open(terms: &super::plan::Account, now: Timestamp) -> Self {
        let opening = terms.opening_balance;
        let mut account = Self {
            currency: terms.currency.or(opening.map(|money| money.currency)),
            balance: Decimal::ZERO,
            taken: Bytes::ZERO,
            carried: Decimal::ZERO,
            transactions: VecDeque::new(),
        };
        if let Some(opening) = opening {
            account.post(now, TransactionKind::Opening, opening, None, None);
        }
        account
    }

    /// Moves money; `None` where the account has none of that currency.
    pub(crate) fn post(
        &mut self,
        time: Timestamp,
        kind: TransactionKind,
        money: Money,
        machine: Option<&MachineId>,
        invoice: Option<&InvoiceNumber>,
    ) -> Option<Money> {
        if self.currency != Some(money.currency) {
            return None;
        }
        let written = |amount| as_written(amount, money.currency);
        let amount = written(money.amount);
        self.balance = written(self.balance + amount);
        // Overage accrues by the minute: a day of it is one transaction.
        let day = |time: Timestamp| time.as_second().div_euclid(86_400);
        match self.transactions.back_mut() {
            Some(last)
                if kind == TransactionKind::Overage
                    && last.kind == kind
                    && last.machine.as_ref() == machine
                    && day(last.time) == day(time) =>
            {
                last.amount = written(last.amount + amount);
                last.time = time;
            }
            _ => self.transactions.push_back(Transaction {
                time,
                kind,
                amount,
                machine: machine.cloned(),
                invoice: invoice.cloned(),
            }),
        }
        if self.transactions.len() > LISTED
            && let Some(old) = self.transactions.pop_front()
        {
            self.carried = written(self.carried + old.amount);
        }
        self.balance()
    }

    pub(crate) fn balance(&self) -> Option<Money> {
        self.currency.map(|currency| Money {
            amount: self.balance,
            currency,
        })
    }

    pub(crate) const fn currency(&self) -> Option<Currency> {
        self.currency
    }

    pub(crate) fn statement(&self) -> (Decimal, &VecDeque<Transaction>) {
        (self.carried, &self.transactions)
    }
}

/// A decimal as people read it: with the minor unit's digits, though it was never written
/// down and read back, and no "-0.00", which decimals know.
fn as_written(mut amount: Decimal, currency: Currency) -> Decimal {
    amount = amount.normalize();
    amount.rescale(amount.scale().max(currency.decimals()));
    if amount.is_zero() {
        amount.abs()
    } else {
        amount
    }
}

impl Books {
    /// Opens accounts that are new, and takes up a currency that one was given later.
    pub(crate) fn open(books: &mut Arc<Self>, terms: &Terms, now: Timestamp) {
        for (id, account) in &terms.accounts {
            match books.accounts.get(id) {
                None => {
                    let opened = Arc::new(Account::open(account, now));
                    Arc::make_mut(books).accounts.insert(id.clone(), opened);
                }
                Some(known)
                    if known.transactions.is_empty()
                        && account.currency.is_some()
                        && known.currency != account.currency =>
                {
                    if let Some(known) = Self::account(books, id) {
                        known.currency = account.currency;
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// An account, to change.
    pub(crate) fn account<'a>(books: &'a mut Arc<Self>, id: &AccountId) -> Option<&'a mut Account> {
        // Looked at before anything is copied.
        books.accounts.get(id)?;
        Arc::make_mut(books).accounts.get_mut(id).map(Arc::make_mut)
    }
}

/// A bill, kept with the machine that it is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bill {
    pub(crate) number: InvoiceNumber,
    pub(crate) account: Option<AccountId>,
    pub(crate) date: String,
    pub(crate) due: Timestamp,
    pub(crate) purpose: Purpose,
    pub(crate) valid_from: Timestamp,
    pub(crate) valid_to: Timestamp,
    pub(crate) volume: Bytes,
    pub(crate) amount: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paid: Option<Timestamp>,
    /// Whether it was announced as overdue.
    #[serde(default)]
    pub(crate) overdue: bool,
    /// When the order that it is for was given up, unpaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lapsed: Option<Timestamp>,
}

/// What a bill is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// What was used beyond the allowance.
    Overage,
    /// Volume that comes with the payment.
    Extra,
}

impl Bill {
    pub(crate) const fn description(&self) -> &'static str {
        match self.purpose {
            Purpose::Overage => "traffic beyond the allowance",
            Purpose::Extra => "additional traffic",
        }
    }

    /// Whether it may still be paid.
    pub(crate) const fn is_open(&self) -> bool {
        self.paid.is_none() && self.lapsed.is_none()
    }

    /// Whether it is for traffic that was used, and not paid: what was had is owed.
    pub(crate) fn is_owed(&self) -> bool {
        self.is_open() && self.purpose == Purpose::Overage
    }

    pub(crate) fn is_overdue(&self, now: Timestamp) -> bool {
        self.is_owed() && self.due <= now
    }

    /// Until when it may be paid. Volume that was ordered is for a period and at the price of
    /// its day, and nobody has had it yet: unpaid, the order ends with its due date, or with
    /// the period that it is for.
    pub(crate) fn lapses(&self) -> Option<Timestamp> {
        match self.purpose {
            Purpose::Extra => Some(self.due.min(self.valid_to)),
            Purpose::Overage => None,
        }
    }

    /// The instant at which something becomes of it, if nobody pays.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.is_open().then(|| self.lapses().unwrap_or(self.due))
    }
}

/// Paid bills kept with a machine: two years of monthly ones. The events have them all.
const PAID_BILLS: usize = 24;

/// Puts a bill to the others, and lets go of the oldest that are done with.
pub(crate) fn file(bills: &mut Vec<Bill>, bill: Bill) {
    bills.push(bill);
    while bills.iter().filter(|bill| !bill.is_open()).count() > PAID_BILLS
        && let Some(oldest) = bills.iter().position(|bill| !bill.is_open())
    {
        bills.remove(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account::open(
            &super::super::plan::Account {
                id: "acme".into(),
                currency: None,
                autopay: false,
                pool: None,
                opening_balance: Some("50 EUR".parse().unwrap()),
            },
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn transactions_add_up_to_the_balance_however_many_there_were() {
        let mut account = account();
        let hour = jiff::SignedDuration::from_hours(7);
        let mut now = Timestamp::UNIX_EPOCH;
        for _ in 0..1_000 {
            now += hour;
            let cent = "-0.01 EUR".parse().unwrap();
            account.post(now, TransactionKind::Overage, cent, None, None);
        }
        assert_eq!(account.balance(), Some("40 EUR".parse().unwrap()));
        let (carried, listed) = account.statement();
        assert_eq!(listed.len(), LISTED);
        let sum: Decimal = listed.iter().map(|transaction| transaction.amount).sum();
        assert_eq!(carried + sum, Decimal::from(40));
    }

    #[test]
    fn overage_of_one_day_is_one_transaction() {
        let mut account = account();
        for minute in 0..60 {
            let now = Timestamp::from_second(minute * 60).unwrap();
            let cent = "-0.01 EUR".parse().unwrap();
            account.post(now, TransactionKind::Overage, cent, None, None);
        }
        assert_eq!(account.statement().1.len(), 2);
        assert_eq!(account.balance(), Some("49.40 EUR".parse().unwrap()));
    }

    #[test]
    fn nothing_is_never_less_than_nothing() {
        let mut account = account();
        for amount in [Decimal::new(-50, 0), -Decimal::ZERO] {
            let money = Money {
                amount,
                currency: Currency::new("EUR").unwrap(),
            };
            account.post(
                Timestamp::UNIX_EPOCH,
                TransactionKind::TopUp,
                money,
                None,
                None,
            );
        }
        let shown = account.balance().map(|balance| balance.to_string());
        assert_eq!(shown.as_deref(), Some("0.00 EUR"));
        let (_, transactions) = account.statement();
        let amounts: Vec<_> = transactions
            .iter()
            .map(|it| it.amount.to_string())
            .collect();
        assert_eq!(amounts, ["50.00", "-50.00", "0.00"]);
    }

    #[test]
    fn another_currency_moves_nothing() {
        let mut account = account();
        let dollar = "-1 USD".parse().unwrap();
        let moved = account.post(
            Timestamp::UNIX_EPOCH,
            TransactionKind::TopUp,
            dollar,
            None,
            None,
        );
        assert_eq!(moved, None);
        assert_eq!(account.balance(), Some("50 EUR".parse().unwrap()));
    }
}
