//! Bills and balances.

use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Failure, Format,
    changes::{How, command},
    client::{path, understood},
    out::{self, Side, Style, Table, when},
};
use crate::engine::units::Money;

#[derive(Debug, clap::Args)]
pub(super) struct Invoices {
    /// Of this account alone
    account: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Pay {
    /// The bill's number
    invoice: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Balance {
    /// Whose
    account: String,
    /// Record money that came in, such as `"50 EUR"`, or with a minus went out
    #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true)]
    add: Option<String>,
    #[command(flatten)]
    how: How,
}

pub(super) fn invoices(args: &Invoices, context: &Context) -> Result<(), Failure> {
    let query = [("account", args.account.clone())];
    let found = context.daemon()?.get(&path(&["v1", "invoices"], &query))?;
    if args.format.json {
        return out::print_json(&found);
    }
    out::print(&bills(found, context.style)?)
}

pub(super) fn pay(args: &Pay, context: &Context) -> Result<(), Failure> {
    command(
        context,
        &["v1", "invoices", &args.invoice, "pay"],
        json!({}),
        &args.how,
    )
}

pub(super) fn balance(args: &Balance, context: &Context) -> Result<(), Failure> {
    if let Some(add) = &args.add {
        let to = ["v1", "accounts", &args.account, "balance"];
        return command(context, &to, json!({"add": add}), &args.how);
    }
    let found = context
        .daemon()?
        .get(&path(&["v1", "accounts", &args.account, "balance"], &[]))?;
    if args.how.json() {
        return out::print_json(&found);
    }
    out::print(&account(found, context.style)?)
}

#[derive(Debug, Deserialize)]
struct Bill {
    invoice: String,
    account: Option<String>,
    machine: Option<String>,
    date: String,
    due: String,
    description: String,
    amount: String,
    status: String,
    paid: Option<String>,
}

fn bills(found: Value, style: Style) -> Result<String, Failure> {
    let bills: Vec<Bill> = understood(found, "bills")?;
    if bills.is_empty() {
        return Ok("No bills.\n".to_owned());
    }
    let columns = [
        ("NUMBER", Side::Left),
        ("ACCOUNT", Side::Left),
        ("MACHINE", Side::Left),
        ("DATE", Side::Left),
        ("DUE", Side::Left),
        ("AMOUNT", Side::Right),
        ("STATUS", Side::Left),
        ("FOR", Side::Left),
    ];
    let mut table = Table::new(&columns, style);
    for bill in bills {
        let paid = bill.paid.map(|paid| format!(" {}", when(&paid)));
        table.row([
            bill.invoice,
            bill.account.unwrap_or_else(|| "-".to_owned()),
            bill.machine.unwrap_or_else(|| "-".to_owned()),
            when(&bill.date),
            when(&bill.due),
            bill.amount,
            bill.status + &paid.unwrap_or_default(),
            bill.description,
        ]);
    }
    Ok(table.render())
}

#[derive(Debug, Deserialize)]
struct Account {
    account: String,
    balance: Option<Money>,
    /// The sum of what is not listed any more.
    carried: Option<Money>,
    transactions: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    time: String,
    kind: String,
    amount: Money,
    machine: Option<String>,
    invoice: Option<String>,
}

fn account(found: Value, style: Style) -> Result<String, Failure> {
    let account: Account = understood(found, "balance")?;
    let name = out::plain(&account.account);
    let Some(balance) = account.balance else {
        return Ok(format!(
            "{name}  no money is kept: the account has no currency\n"
        ));
    };
    let heading = format!("{name}  {balance}\n");
    if account.transactions.is_empty() {
        return Ok(heading);
    }
    let columns = [
        ("TIME", Side::Left),
        ("AMOUNT", Side::Right),
        ("BALANCE", Side::Right),
        ("KIND", Side::Left),
        ("FOR", Side::Left),
    ];
    let mut table = Table::new(&columns, style);
    let mut so_far = account.carried.unwrap_or(Money {
        amount: Decimal::ZERO,
        ..balance
    });
    for transaction in account.transactions {
        so_far.amount += transaction.amount.amount;
        let reasons = [transaction.machine, transaction.invoice];
        table.row([
            when(&transaction.time),
            transaction.amount.to_string(),
            so_far.to_string(),
            transaction.kind,
            reasons.into_iter().flatten().collect::<Vec<_>>().join(" "),
        ]);
    }
    Ok(format!("{heading}\n{}", table.render()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bills_show_what_is_due_when_and_whether_it_is_paid() {
        let found = json!([
            {"invoice": "2026-7", "account": "acme", "machine": "web1", "date": "2026-12-01",
             "due": "2026-12-06T00:00:00+01:00", "amount": "3.00 EUR", "status": "unpaid",
             "paid": null, "description": "additional traffic"},
            {"invoice": "2026-12", "account": null, "machine": "db1", "date": "2026-12-01",
             "due": "2026-12-06T00:00:00+01:00", "amount": "120.50 EUR", "status": "paid",
             "paid": "2026-12-02T08:00:00+01:00", "description": "additional traffic"},
        ]);
        insta::assert_snapshot!(bills(found, Style::default()).unwrap(), @r#"
        NUMBER   ACCOUNT  MACHINE  DATE        DUE                            AMOUNT  STATUS                          FOR
        2026-7   acme     web1     2026-12-01  2026-12-06 00:00:00+01:00    3.00 EUR  unpaid                          additional traffic
        2026-12  -        db1      2026-12-01  2026-12-06 00:00:00+01:00  120.50 EUR  paid 2026-12-02 08:00:00+01:00  additional traffic
        "#);
        assert_eq!(bills(json!([]), Style::default()).unwrap(), "No bills.\n");
    }

    #[test]
    fn a_balance_is_shown_with_its_transactions_and_what_stood_after_each() {
        let found = json!({
            "account": "acme", "balance": "-2.50 EUR", "carried": "10.00 EUR", "transactions": [
                {"time": "2026-11-01T00:00:00Z", "kind": "adjustment", "amount": "40.00 EUR"},
                {"time": "2026-11-20T10:00:00Z", "kind": "overage", "amount": "-52.50 EUR",
                 "machine": "web1"},
            ],
        });
        insta::assert_snapshot!(account(found, Style::default()).unwrap(), @r#"
        acme  -2.50 EUR

        TIME                      AMOUNT    BALANCE  KIND        FOR
        2026-11-01 00:00:00Z   40.00 EUR  50.00 EUR  adjustment
        2026-11-20 10:00:00Z  -52.50 EUR  -2.50 EUR  overage     web1
        "#);
    }
}
