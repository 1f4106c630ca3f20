//! What an unpaid bill does: one for exceeding is owed, one for an order lapses.

use super::{build::*, world::*};
use crate::engine::{
    command::CommandAction,
    event::{EventKind, State},
    units::*,
    unpaid_in,
    view::{InvoiceStatus, InvoiceView},
};

fn ordered(on: &str) -> World {
    let mut world = World::with_account(invapi(), account("acme"), on);
    world.top_up(TB);
    world
}

fn bill(world: &World) -> InvoiceView {
    world.engine.invoices(None).pop().unwrap()
}

#[test]
fn an_unpaid_order_is_never_overdue_caps_nothing_and_keeps_nobody_from_cancelling() {
    let mut world = ordered("2026-06-10");
    assert!(world.status().cancellable);
    world.wait("2026-06-20");
    assert_eq!(world.told("overdue").len(), 0);
    assert_eq!(world.state(), State::Normal);
    let mut world = ordered("2026-06-10");
    world.says(CommandAction::Cancel { machine: m() });
    assert_eq!(world.told("refused").len(), 0);
    assert_eq!(bill(&world).status, InvoiceStatus::Lapsed);
    let told = world.words();
    let place = |word| told.iter().position(|other| *other == word);
    assert!(place("lapsed") < place("cancelled"), "{told:?}");
}

#[test]
fn an_unpaid_order_lapses_with_its_due_date_or_with_the_period_it_is_for() {
    for (on, lapses) in [
        ("2026-06-10", "2026-06-15T00:00:00Z"),
        ("2026-06-28", "2026-07-01T00:00:00Z"),
    ] {
        let mut world = ordered(on);
        assert_eq!(bill(&world).status, InvoiceStatus::Unpaid);
        world.wait("2026-07-10");
        assert_eq!(world.times("lapsed"), [lapses], "ordered on {on}");
        assert_eq!(bill(&world).status, InvoiceStatus::Lapsed);
        world.forget_events().wait("2026-09-10");
        assert_eq!(world.told("lapsed").len(), 0, "once");
    }
}

#[test]
fn a_machine_has_unpaid_bills_while_somebody_may_pay_them_and_no_longer() {
    let mut world = ordered("2026-06-10");
    let number = bill(&world).invoice;
    let state = |world: &World| world.ledger.kept().machines[0].state.clone();
    let unpaid = |world: &World, day: &str| {
        let now = day.parse().unwrap();
        assert_eq!(
            unpaid_in(&state(world), now),
            world.engine.unpaid(&m(), now)
        );
        world.engine.unpaid(&m(), now)
    };
    assert_eq!(unpaid(&world, "2026-06-14T00:00:00Z"), [number]);
    // Whether or not the daemon was there to see it lapse.
    assert_eq!(unpaid(&world, "2026-06-16T00:00:00Z"), []);
    world.wait("2026-06-20");
    assert_eq!(unpaid(&world, "2026-06-20T00:00:00Z"), []);
}

#[test]
fn an_order_that_lapsed_can_not_be_paid_and_the_refusal_says_what_to_do() {
    let mut world = ordered("2026-06-10");
    let number = bill(&world).invoice;
    world.wait("2026-06-15").pay(&number);
    let EventKind::Refused { reason, .. } = &world.told("refused")[0].kind else {
        panic!("refused");
    };
    for part in [
        number.as_str(),
        "lapsed at 2026-06-15T00:00:00Z",
        "meterd top-up",
        "meterd balance acme --add \"1.50 EUR\"",
    ] {
        assert!(reason.contains(part), "{part} in: {reason}");
    }
    assert_eq!(world.status().allowance, Some(Bytes(TB)));
    let view = world.engine.balance(&"acme".into()).unwrap();
    assert_eq!(view.transactions.len(), 0, "and no money moved");
}

#[test]
fn an_order_of_a_machine_that_is_gone_lapses_though_nobody_looks() {
    let mut world = ordered("2026-06-10");
    let number = bill(&world).invoice;
    let mut empty = world.terms.clone();
    empty.machines.clear();
    world.set_terms(empty);
    world.wait("2026-06-20").pay(&number);
    assert_eq!(world.told("refused").len(), 1);
}

#[test]
fn an_order_paid_a_second_before_it_lapses_brings_its_volume() {
    let mut world = ordered("2026-06-10");
    let number = bill(&world).invoice;
    world.wait("2026-06-14T23:59:59").pay(&number);
    assert_eq!(world.status().allowance, Some(Bytes(2 * TB)));
    world.wait("2026-06-20");
    assert_eq!(world.told("lapsed").len(), 0);
    assert_eq!(bill(&world).status, InvoiceStatus::Paid);
}

#[test]
fn a_bill_for_exceeding_never_lapses() {
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-07-01", 1_500 * GB).top_up(TB);
    world.wait("2027-07-01");
    let statuses: Vec<_> = world
        .engine
        .invoices(None)
        .iter()
        .map(|bill| bill.status)
        .collect();
    assert_eq!(statuses, [InvoiceStatus::Overdue, InvoiceStatus::Lapsed]);
    assert_eq!(world.told("overdue").len(), 1);
    assert!(!world.status().cancellable);
    let owed = world.engine.invoices(None)[0].invoice.clone();
    world.pay(&owed);
    assert!(world.status().cancellable);
    assert_eq!(world.state(), State::Normal);
}

/// Every value under a key that means money, with its key.
fn amounts(value: &serde_json::Value, found: &mut Vec<(String, serde_json::Value)>) {
    let of_money = ["amount", "balance", "carried", "cost", "cost_limit"];
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                if of_money.contains(&key.as_str()) {
                    found.push((key.clone(), value.clone()));
                }
                amounts(value, found);
            }
        }
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| amounts(value, found));
        }
        _ => {}
    }
}

#[test]
fn money_in_json_is_a_decimal_string_with_its_currency_everywhere() {
    let mut plan = invapi();
    plan.price.as_mut().unwrap().usage = Some(per(GB, "0.001"));
    plan.cost_limit = Some(money("1000 EUR"));
    let mut world = World::with_account(plan, account("acme"), "2026-06-01");
    world
        .moves("2026-07-01", 1_500 * GB)
        .moves("2026-07-03", GB);
    world.says(CommandAction::Balance {
        account: "acme".into(),
        add: rust_decimal::Decimal::from(10),
    });
    let bill = world.last_bill();
    world.pay(&bill);
    let everything = serde_json::json!({
        "balance of": world.engine.balance(&"acme".into()),
        "bills": world.engine.invoices(None),
        "offer": world.engine.offer(&m(), world.now),
        "explain": world.engine.explain(&m(), world.now),
        "events": world.events,
    });
    let mut found = Vec::new();
    amounts(&everything, &mut found);
    assert!(found.len() > 15, "{found:?}");
    for (key, value) in found {
        let parsed = value.as_str().map(str::parse::<Money>);
        assert!(matches!(parsed, Some(Ok(_))), "{key}: {value}");
    }
}
