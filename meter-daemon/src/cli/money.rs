//! Bills and balances.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Failure, Format,
    changes::{How, command},
    client::path,
    failure::Exit,
    out::{self, Side, Style, Table, when},
};

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
    #[serde(default)]
    description: String,
    amount: String,
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
        ("PAID", Side::Left),
        ("FOR", Side::Left),
    ];
    let mut table = Table::new(&columns, style);
    for bill in bills {
        table.row([
            bill.invoice,
            bill.account.unwrap_or_else(|| "-".to_owned()),
            bill.machine.unwrap_or_else(|| "-".to_owned()),
            when(&bill.date),
            when(&bill.due),
            bill.amount,
            bill.paid
                .map_or_else(|| "no".to_owned(), |paid| when(&paid)),
            bill.description,
        ]);
    }
    Ok(table.render())
}

#[derive(Debug, Deserialize)]
struct AccountBalance {
    account: String,
    balance: Option<String>,
    transactions: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    time: String,
    amount: String,
    balance: Option<String>,
    #[serde(default)]
    description: String,
}

fn account(found: Value, style: Style) -> Result<String, Failure> {
    let account: AccountBalance = understood(found, "balance")?;
    let balance = account
        .balance
        .unwrap_or_else(|| "no money is kept".to_owned());
    let heading = format!(
        "{}  {}\n",
        out::plain(&account.account),
        out::plain(&balance)
    );
    if account.transactions.is_empty() {
        return Ok(heading);
    }
    let columns = [
        ("TIME", Side::Left),
        ("AMOUNT", Side::Right),
        ("BALANCE", Side::Right),
        ("FOR", Side::Left),
    ];
    let mut table = Table::new(&columns, style);
    for transaction in account.transactions {
        table.row([
            when(&transaction.time),
            transaction.amount,
            transaction.balance.unwrap_or_else(|| "-".to_owned()),
            transaction.description,
        ]);
    }
    Ok(format!("{heading}\n{}", table.render()))
}

fn understood<T: serde::de::DeserializeOwned>(found: Value, what: &str) -> Result<T, Failure> {
    serde_json::from_value(found).map_err(|error| {
        Failure::new(
            Exit::SOFTWARE,
            format!("the daemon's {what} is not understood: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bills_show_what_is_due_when_and_whether_it_is_paid() {
        let found = json!([
            {"invoice": "2026-7", "account": "acme", "machine": "web1", "date": "2026-12-01",
             "due": "2026-12-06T00:00:00+01:00", "amount": "3.00 EUR", "paid": null,
             "description": "additional traffic"},
            {"invoice": "2026-12", "account": null, "machine": "db1", "date": "2026-12-01",
             "due": "2026-12-06T00:00:00+01:00", "amount": "120.50 EUR",
             "paid": "2026-12-02T08:00:00+01:00", "description": "additional traffic"},
        ]);
        insta::assert_snapshot!(bills(found, Style::default()).unwrap(), @r#"
        NUMBER   ACCOUNT  MACHINE  DATE        DUE                            AMOUNT  PAID                       FOR
        2026-7   acme     web1     2026-12-01  2026-12-06 00:00:00+01:00    3.00 EUR  no                         additional traffic
        2026-12  -        db1      2026-12-01  2026-12-06 00:00:00+01:00  120.50 EUR  2026-12-02 08:00:00+01:00  additional traffic
        "#);
        assert_eq!(bills(json!([]), Style::default()).unwrap(), "No bills.\n");
    }

    #[test]
    fn a_balance_is_shown_with_its_transactions() {
        let found = json!({
            "account": "acme", "currency": "EUR", "balance": "-2.50 EUR", "transactions": [
                {"time": "2026-11-01T00:00:00Z", "amount": "50.00 EUR", "balance": "50.00 EUR",
                 "description": "opening balance"},
                {"time": "2026-11-20T10:00:00Z", "amount": "-52.50 EUR", "balance": "-2.50 EUR",
                 "description": "overage, web1"},
            ],
        });
        insta::assert_snapshot!(account(found, Style::default()).unwrap(), @r#"
        acme  -2.50 EUR

        TIME                      AMOUNT    BALANCE  FOR
        2026-11-01 00:00:00Z   50.00 EUR  50.00 EUR  opening balance
        2026-11-20 10:00:00Z  -52.50 EUR  -2.50 EUR  overage, web1
        "#);
    }
}
