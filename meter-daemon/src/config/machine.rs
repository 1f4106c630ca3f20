//! `[[machine]]` and `[[account]]`, in meterd.toml or in a file of `machines/`.

use super::{
    ConfiguredAccount, ConfiguredMachine, InterfaceMatch,
    discover::Mac,
    hypervisor::{self, Hypervisor},
    kinds::{
        ACCOUNT, ALLOWANCE, BALANCE, CURRENCY, EMAIL, INTERFACE, MAC, MACHINE, MONEY, PLAN,
        TIME_ZONE, VOLUME,
    },
    plan::day,
    problem::{Located, Place},
    table::Table,
};
use crate::engine::{
    plan::Account,
    units::{AccountId, Money, PlanName},
};

/// The keys of the top of a file in `machines/`.
pub(super) const KEYS: &[&str] = &["machine", "account"];

/// A machine with the places that checks across files point at.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) checked: ConfiguredMachine,
    pub(super) id: Place,
    pub(super) plan: Option<Located<PlanName>>,
    pub(super) account: Option<Located<AccountId>>,
    pub(super) names: Vec<Located<String>>,
    pub(super) macs: Vec<Located<Mac>>,
    pub(super) guest: Option<Located<(Hypervisor, String)>>,
    pub(super) cost_limit: Option<Located<Money>>,
    pub(super) renewal_day: Option<Place>,
}

/// An account with the place of its id.
#[derive(Debug)]
pub(super) struct LocatedAccount {
    pub(super) checked: ConfiguredAccount,
    pub(super) id: Place,
}

/// Reads a file of `machines/`.
pub(super) fn file(table: Table<'_>) -> (Vec<Machine>, Vec<LocatedAccount>) {
    let found = both(&table);
    table.finish();
    found
}

/// Reads the machines and accounts of a file's top.
pub(super) fn both(table: &Table<'_>) -> (Vec<Machine>, Vec<LocatedAccount>) {
    let machines = table
        .tables("machine", "[[machine]]")
        .into_iter()
        .filter_map(machine);
    let machines = machines.collect();
    let accounts = table
        .tables("account", "[[account]]")
        .into_iter()
        .filter_map(account);
    (machines, accounts.collect())
}

fn machine(table: Table<'_>) -> Option<Machine> {
    let id = table.require("id", &MACHINE);
    let names = table.list("interfaces", &INTERFACE);
    let macs = table.list("macs", &MAC);
    let guest = hypervisor::guest(&table);
    let plan = table.read("plan", &PLAN);
    let account = table.read("account", &ACCOUNT);
    let renewal_day = day(&table, "renewal-day");
    let allowance = table.read("allowance", &ALLOWANCE);
    let cost_limit = table.read("cost-limit", &MONEY);
    let auto_unsuspend = table.switch("auto-unsuspend");
    let time_zone = table.read("time-zone", &TIME_ZONE);
    if table.has("interfaces") && table.has("macs") {
        table.problems.error(
            &table.place_of("macs"),
            "a machine is known by its interfaces or by its MAC addresses, not by both",
            "remove `interfaces` or `macs`",
        );
    }
    if let Some(guest) = &guest
        && (table.has("interfaces") || table.has("macs"))
    {
        table.problems.error(
            &guest.place,
            "a hypervisor's guest has the interfaces that the hypervisor gives it",
            "remove `interfaces` or `macs`, or this key",
        );
    }
    let renewal_place = renewal_day.map(|_| table.place_of("renewal-day"));
    table.finish();

    let id = id?;
    let interfaces = match &guest {
        Some(guest) => InterfaceMatch::Guest(guest.value.0, guest.value.1.clone()),
        None if macs.is_empty() => {
            InterfaceMatch::Names(names.iter().map(|name| name.value.clone()).collect())
        }
        None => InterfaceMatch::Macs(macs.iter().map(|mac| mac.value.0).collect()),
    };
    let checked = ConfiguredMachine {
        id: id.value,
        interfaces,
        plan: plan.as_ref().map(|plan| plan.value.clone()),
        account: account.as_ref().map(|account| account.value.clone()),
        renewal_day,
        allowance: allowance.map(|allowance| allowance.value),
        cost_limit: cost_limit.as_ref().map(|limit| limit.value),
        auto_unsuspend,
        time_zone: time_zone.map(|zone| zone.value),
    };
    Some(Machine {
        checked,
        id: id.place,
        plan,
        account,
        names,
        macs,
        guest,
        cost_limit,
        renewal_day: renewal_place,
    })
}

fn account(table: Table<'_>) -> Option<LocatedAccount> {
    let id = table.require("id", &ACCOUNT);
    let primary = table.read("primary", &EMAIL);
    let admins = table.list("admins", &EMAIL);
    let currency = table.read("currency", &CURRENCY);
    let autopay = table.switch("autopay").unwrap_or(false);
    let pool = table.read("pool", &VOLUME);
    let balance = table.read("balance", &BALANCE);
    if let (Some(currency), Some(balance)) = (&currency, &balance)
        && currency.value != balance.value.currency
    {
        let (ours, amount) = (currency.value, balance.value.amount);
        table.problems.error(
            &balance.place,
            format!(
                "this is in {}, the account's currency is {ours}",
                balance.value.currency
            ),
            format!("write: balance = \"{amount} {ours}\""),
        );
    }
    table.finish();

    let id = id?;
    let opening_balance = balance.map(|balance| balance.value);
    let account = Account {
        id: id.value,
        // Money that is there has a currency, said twice or once.
        currency: currency
            .map(|currency| currency.value)
            .or(opening_balance.map(|balance| balance.currency)),
        autopay,
        pool: pool.map(|pool| pool.value),
        opening_balance,
    };
    let checked = ConfiguredAccount {
        account,
        primary: primary.map(|address| address.value),
        admins: admins.into_iter().map(|address| address.value).collect(),
    };
    Some(LocatedAccount {
        checked,
        id: id.place,
    })
}
