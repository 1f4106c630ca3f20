//! The five systems of the policies, sentence by sentence.

use rust_decimal::Decimal;

use super::{build::*, world::*};
use crate::engine::{
    Enforcement,
    command::{Change, CommandAction, Until},
    event::{EventKind, State},
    plan::{Allowance, CollectExtra, DayOfMonth, Extra, Machine, Plan},
    units::*,
    view::{InvoiceStatus, TransactionKind},
};

// 1. invapi

#[test]
fn invapi_the_forecast_foretells_the_periods_end_and_offers_what_would_cover_it() {
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-06-11", 500 * GB);
    let offer = world.engine.offer(&m(), world.now).unwrap();
    assert_eq!(offer.allowance, Some(Bytes(TB)));
    assert_eq!(offer.forecast, Some(Bytes(1_500 * GB)));
    assert_eq!(offer.recommended, Bytes(TB));
    let costs: Vec<_> = offer
        .choices
        .iter()
        .map(|choice| (choice.volume.0 / TB, choice.cost.unwrap().to_string()))
        .collect();
    assert_eq!(costs[0], (1, "1.50 EUR".to_owned()));
    assert_eq!(costs[1], (2, "3.00 EUR".to_owned()));
}

#[test]
fn invapi_the_near_limit_notice_carries_the_offer() {
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-06-21", 820 * GB);
    let near = world.told("notice");
    let near: Vec<_> = near
        .iter()
        .filter(|event| event.rule.as_ref().unwrap().as_str() == "used 80%")
        .collect();
    let [notice] = near[..] else {
        panic!("one near-limit notice, not {near:?}");
    };
    let EventKind::Notice { message, offer, .. } = &notice.kind else {
        panic!("a notice");
    };
    let offer = offer.as_ref().expect("it carries the offer");
    assert_eq!(offer.allowance, Some(Bytes(TB)));
    assert!(offer.forecast.is_some());
    for part in [
        "Current limit: 1 TB",
        "forecast",
        "1 TB for 1.50 EUR",
        "2 TB for 3.00 EUR",
    ] {
        assert!(message.contains(part), "{part} in: {message}");
    }
}

#[test]
fn invapi_the_bill_for_extra_traffic_says_it_all_and_its_payment_adds_the_volume() {
    let mut world = World::with_account(invapi(), account("acme"), "2026-06-10");
    world.moves("2026-06-12", 100 * GB).top_up(2 * TB);
    let bill = world.engine.invoices(Some(&"acme".into())).pop().unwrap();
    assert_eq!(bill.date, "2026-06-12");
    assert_eq!(bill.description, "additional traffic");
    assert_eq!(bill.valid_from, at("2026-06-12"));
    assert_eq!(bill.valid_to, at("2026-07-01"));
    assert_eq!(bill.amount, money("3 EUR"));
    assert_eq!(bill.volume, Bytes(2 * TB));
    assert_eq!(bill.status, InvoiceStatus::Unpaid);
    assert_eq!(
        world.status().allowance,
        Some(Bytes(TB)),
        "not before it is paid"
    );
    world.pay(&bill.invoice);
    assert_eq!(world.status().allowance, Some(Bytes(3 * TB)));
    assert_eq!(
        world.words(),
        ["period-started", "invoiced", "paid", "topped-up"]
    );
    let again = world.forget_events().pay(&bill.invoice).words();
    assert_eq!(again, ["refused"], "nobody pays twice");
}

/// Closes June over the allowance: 1.5 TB of 1 TB.
fn over_in_june(autopay: bool) -> World {
    let acme = crate::engine::plan::Account {
        autopay,
        ..account("acme")
    };
    let mut world = World::with_account(invapi(), acme, "2026-06-01");
    world.moves("2026-07-01", 1_500 * GB);
    world
}

#[test]
fn invapi_the_final_bill_is_issued_when_the_period_closes_over_and_is_due_in_5_days() {
    let world = over_in_june(false);
    let bills = world.engine.invoices(None);
    let [bill] = &bills[..] else {
        panic!("one bill, not {bills:?}");
    };
    assert_eq!(bill.date, "2026-07-01");
    assert_eq!(bill.due, at("2026-07-06"));
    assert_eq!(bill.amount, money("1 EUR"));
    assert_eq!(
        (bill.valid_from, bill.valid_to),
        (at("2026-06-01"), at("2026-07-01"))
    );
    let issued = world.told("invoiced")[0];
    assert_eq!(
        issued.used,
        Bytes(1_500 * GB),
        "with the closing period's figures"
    );
    let order = world.words();
    let place = |word| order.iter().rposition(|other| *other == word).unwrap();
    assert!(
        place("invoiced") < place("period-started"),
        "closed, then begun"
    );
}

#[test]
fn invapi_no_bill_is_issued_for_a_period_within_the_allowance() {
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-07-01", TB);
    assert_eq!(world.told("invoiced").len(), 0);
}

#[test]
fn invapi_with_automatic_payment_it_counts_as_paid_at_the_moment_it_is_issued() {
    let mut world = over_in_june(true);
    assert_eq!(world.times("paid"), world.times("invoiced"));
    assert_eq!(world.engine.invoices(None)[0].status, InvoiceStatus::Paid);
    world.wait("2026-07-20");
    assert_eq!(world.state(), State::Normal);
    assert_eq!(world.told("overdue").len(), 0);
}

#[test]
fn invapi_unpaid_after_5_days_it_may_move_100_mb_more_then_nothing() {
    let mut world = over_in_june(false);
    world.moves("2026-07-06", 10 * GB);
    assert_eq!(world.times("overdue"), ["2026-07-06T00:00:00Z"]);
    assert_eq!(world.times("capped"), ["2026-07-06T00:00:00Z"]);
    assert_eq!(world.status().cap_remaining, Some(Bytes(100 * MB)));
    world.uses(60 * MB);
    assert_eq!(world.status().cap_remaining, Some(Bytes(40 * MB)));
    let left = Bytes(40 * MB);
    assert_eq!(world.enforcement(), Enforcement::Cap { remaining: left });
    world.restart();
    assert_eq!(
        world.status().cap_remaining,
        Some(left),
        "it survives a restart"
    );
    world.uses(50 * MB);
    assert_eq!(world.status().cap_remaining, Some(Bytes::ZERO));
    world.wait("2026-08-02");
    assert_eq!(world.state(), State::Capped, "a new period pays no bill");
    assert_eq!(world.status().cap_remaining, Some(Bytes::ZERO));
}

#[test]
fn invapi_paying_lifts_the_cap_at_once() {
    let mut world = over_in_june(false);
    world.wait("2026-07-10");
    assert_eq!(world.state(), State::Capped);
    let bill = world.last_bill();
    world.pay(&bill);
    assert_eq!(world.state(), State::Normal);
    assert_eq!(world.enforcement(), Enforcement::None);
    assert_eq!(world.times("restored"), ["2026-07-10T00:00:00Z"]);
}

#[test]
fn invapi_cannot_be_cancelled_while_a_bill_is_unpaid() {
    let mut world = over_in_june(false);
    let bill = world.last_bill();
    assert!(!world.status().cancellable);
    world.says(CommandAction::Cancel { machine: m() });
    let EventKind::Refused { reason, .. } = &world.told("refused")[0].kind else {
        panic!("a refusal");
    };
    assert!(reason.contains(bill.as_str()), "{reason}");
    world.pay(&bill);
    assert!(world.status().cancellable);
    world.says(CommandAction::Cancel { machine: m() });
    assert_eq!(world.told("cancelled").len(), 1);
    assert_eq!(world.engine.machines().count(), 0);
    assert_eq!(world.engine.deadline(), None);
}

#[test]
fn invapi_the_payment_and_the_accounts_transactions_can_be_read() {
    let mut world = over_in_june(false);
    let bill = world.last_bill();
    world.pay(&bill);
    let view = world.engine.balance(&"acme".into()).unwrap();
    let kinds: Vec<_> = view
        .transactions
        .iter()
        .map(|transaction| (transaction.kind, transaction.amount))
        .collect();
    assert_eq!(
        kinds,
        [
            (TransactionKind::Invoice, money("-1 EUR")),
            (TransactionKind::Payment, money("1 EUR")),
        ]
    );
    assert_eq!(view.balance, Some(money("0 EUR")));
}

#[test]
fn invapi_the_forecasts_own_notice_carries_the_offer_with_the_recommended_volume() {
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-06-11", 500 * GB);
    let told = world.told("notice");
    let EventKind::Notice { message, offer, .. } = &told[0].kind else {
        panic!("a notice");
    };
    assert_eq!(told[0].rule, Some("forecast 100%".into()));
    let offer = offer.as_ref().expect("it carries the offer");
    assert_eq!(offer.recommended, Bytes(TB));
    for part in [
        "At its current rate m will have used 1.5 TB",
        "recommended extra volume: 1 TB",
        "1 TB for 1.50 EUR",
    ] {
        assert!(message.contains(part), "{part} in: {message}");
    }
}

#[test]
fn invapi_every_bill_has_a_number_of_its_own() {
    let mut world = over_in_june(false);
    world.top_up(TB).top_up(TB);
    let bills = world.engine.invoices(None);
    let numbers: Vec<_> = bills.iter().map(|bill| bill.invoice.as_str()).collect();
    assert_eq!(numbers, ["2026-000001", "2026-000002", "2026-000003"]);
}

#[test]
fn invapi_paid_within_5_days_it_is_never_limited() {
    let mut world = over_in_june(false);
    world.wait("2026-07-05T23:59:59");
    let bill = world.last_bill();
    world.pay(&bill).wait("2026-07-31");
    assert_eq!(world.told("overdue").len() + world.told("capped").len(), 0);
}

#[test]
fn invapi_the_status_of_a_bill_can_be_read_before_and_after_its_due_date_and_its_payment() {
    let mut world = over_in_june(false);
    let status = |world: &World| world.engine.invoices(None)[0].status;
    assert_eq!(status(&world), InvoiceStatus::Unpaid);
    world.wait("2026-07-06");
    assert_eq!(status(&world), InvoiceStatus::Overdue);
    let bill = world.last_bill();
    world.pay(&bill);
    assert_eq!(status(&world), InvoiceStatus::Paid);
    assert_eq!(world.engine.invoices(None)[0].paid, Some(at("2026-07-06")));
}

// 2. edis

#[test]
fn edis_used_is_what_was_received_and_sent() {
    let mut world = World::of(edis(), "2026-06-01");
    let both = Traffic {
        received: Bytes(300 * GB),
        sent: Bytes(200 * GB),
        exempt: Bytes(77 * GB),
    };
    world.travel(at("2026-06-02"), &[("m", both)]);
    let status = world.status();
    assert_eq!(status.used, Bytes(500 * GB));
    assert_eq!(status.ratio, Some(0.5));
    assert_eq!(status.remaining, Some(Bytes(500 * GB)));
    assert_eq!(status.exempt, Bytes(77 * GB));
    assert_eq!(status.period.days_left, 29);
}

#[test]
fn edis_warns_at_80_90_and_100_percent_and_throttles_at_105() {
    let mut world = World::of(edis(), "2026-06-01");
    for (used, notices, state) in [
        (799, 0, State::Normal),
        (800, 1, State::Normal),
        (900, 2, State::Normal),
        (1_000, 3, State::Normal),
        (1_049, 3, State::Normal),
        (1_050, 4, State::Throttled),
    ] {
        let more = used * GB - world.status().used.0;
        world.uses(more);
        assert_eq!(world.notices().len(), notices, "at {used} GB");
        assert_eq!(world.state(), state, "at {used} GB");
    }
    assert_eq!(
        world.notices(),
        ["used 80%", "used 90%", "used 100%", "used 105%"]
    );
    assert_eq!(
        world.enforcement(),
        Enforcement::Throttle(BitsPerSecond(64_000))
    );
    let status = world.status();
    assert_eq!(
        status.rate_limit_bits_per_second,
        Some(BitsPerSecond(64_000))
    );
    assert_eq!(status.rule, Some("used 105%".into()));
    assert_eq!(world.charged(), Decimal::ZERO, "there is no overage charge");
}

#[test]
fn edis_the_period_begins_on_the_products_own_renewal_day() {
    let machine = Machine {
        renewal_day: DayOfMonth::new(31),
        ..machine("m", edis())
    };
    let mut world = World::with(vec![machine], Vec::new(), "2026-02-10");
    world.wait("2026-05-01");
    assert_eq!(
        world.times("period-started"),
        [
            "2026-02-10T00:00:00Z",
            "2026-02-28T00:00:00Z",
            "2026-03-31T00:00:00Z",
            "2026-04-30T00:00:00Z"
        ]
    );
    let EventKind::PeriodStarted { start, .. } = world.events[0].kind else {
        panic!("the first event is the period's");
    };
    assert_eq!(
        start,
        at("2026-01-31"),
        "the period that contains the first sight"
    );
}

#[test]
fn edis_is_restored_by_the_pool_an_upgrade_or_waiting() {
    let acme = || crate::engine::plan::Account {
        pool: Some(Bytes(10 * TB)),
        ..account("acme")
    };
    let throttled = || {
        let mut world = World::with_account(edis(), acme(), "2026-06-10");
        let bigger = Plan {
            allowance: limited(2 * TB),
            name: "edis-big".into(),
            ..edis()
        };
        let mut terms = world.terms.clone();
        terms
            .plans
            .insert("edis-big".into(), std::sync::Arc::new(bigger));
        world.set_terms(terms);
        world.uses(1_100 * GB);
        assert_eq!(world.state(), State::Throttled);
        world
    };

    let mut world = throttled();
    world.hydrate(500 * GB);
    assert_eq!(world.state(), State::Normal);
    let pool = world.status().pool.unwrap();
    assert_eq!((pool.size, pool.left), (Bytes(10 * TB), Bytes(9_500 * GB)));
    world.hydrate(10 * TB);
    assert_eq!(
        world.told("refused").len(),
        1,
        "the pool has not so much left"
    );

    let mut world = throttled();
    world.set(Change::Plan("edis-big".into()));
    assert_eq!(world.state(), State::Normal);
    assert_eq!(
        world.status().used,
        Bytes(1_100 * GB),
        "what was used stays"
    );
    assert_eq!(world.status().plan, Some("edis-big".into()));

    let mut world = throttled();
    world.wait("2026-07-01");
    assert_eq!(world.state(), State::Normal);
    assert_eq!(world.times("restored"), ["2026-07-01T00:00:00Z"]);
}

#[test]
fn edis_a_warning_goes_out_once_per_period_and_threshold() {
    let mut world = World::of(edis(), "2026-06-01");
    world.uses(820 * GB).uses(GB).uses(GB);
    world.restart();
    world.uses(GB);
    assert_eq!(world.notices(), ["used 80%"]);
    world.wait("2026-07-01");
    world.uses(820 * GB);
    assert_eq!(world.notices(), ["used 80%", "used 80%"]);
}

#[test]
fn edis_the_machine_stays_online_however_much_it_used() {
    let mut world = World::of(edis(), "2026-06-01");
    for _ in 0..10 {
        world.uses(TB);
    }
    assert_eq!(world.state(), State::Throttled);
    assert_eq!(world.status().remaining, Some(Bytes::ZERO));
    assert_eq!(world.status().ratio, Some(10.0));
    assert_eq!(
        world.told("charged").len() + world.told("invoiced").len(),
        0
    );
}

#[test]
fn edis_the_total_available_moves_up_when_volume_is_added() {
    let mut world = World::of(edis(), "2026-06-01");
    world.uses(500 * GB).top_up(TB);
    let status = world.status();
    assert_eq!(status.allowance, Some(Bytes(2 * TB)));
    assert_eq!(status.remaining, Some(Bytes(1_500 * GB)));
    assert_eq!(status.ratio, Some(0.25));
}

// 3. caasify

#[test]
fn scenario_a_flags_the_temporary_excess_and_charges_what_is_over_the_month() {
    let balance = crate::engine::plan::Account {
        opening_balance: Some(money("50 EUR")),
        ..account("acme")
    };
    let mut world = World::with_account(caasify(5 * TB), balance, "2026-06-01");
    world.moves("2026-06-04T23:59:00", 7_000 * GB);
    let explained = world.engine.explain(&m(), world.now).unwrap();
    assert_eq!(explained.granted, Some(Bytes(666_666_666_666)));
    let excess = explained.used.saturating_sub(explained.granted.unwrap());
    assert_eq!(excess, Bytes(6_333_333_333_334));
    assert!(world.status().flagged);
    assert_eq!(world.charged(), Decimal::from(20), "2000 GB at 0.01");
    assert_eq!(
        world.engine.balance(&"acme".into()).unwrap().balance,
        Some(money("30 EUR"))
    );
    assert_eq!(world.state(), State::Normal, "service is never interrupted");
}

#[test]
fn scenario_a_prime_is_flagged_on_day_4_and_not_at_the_end_and_charges_nothing() {
    let mut world = World::of(caasify(5 * TB), "2026-06-01");
    world.moves("2026-06-04T23:59:00", 1_000 * GB);
    assert!(world.status().flagged);
    let EventKind::Flagged { .. } = world.told("flagged")[0].kind else {
        panic!("flagged");
    };
    world.moves("2026-06-30T23:59:00", 4_000 * GB);
    assert!(!world.status().flagged);
    assert_eq!(world.told("charged").len(), 0);
}

#[test]
fn scenario_b_is_flagged_on_day_1_and_compensated_by_day_30() {
    let mut world = World::of(caasify(TB), "2026-06-01");
    world.moves("2026-06-01T23:00:00", 900 * GB);
    assert!(world.status().flagged);
    world.moves("2026-06-30T23:00:00", 100 * GB);
    assert!(!world.status().flagged);
    assert_eq!(world.status().used, Bytes(TB));
    assert_eq!(world.told("unflagged").len(), 1);
    assert_eq!(world.told("charged").len(), 0);
}

#[test]
fn caasify_unused_days_carry_forward_inside_the_month() {
    let mut world = World::of(caasify(3 * TB), "2026-06-01");
    world.wait("2026-06-10");
    world.uses(900 * GB);
    assert!(!world.status().flagged, "ten days of 100 GB were granted");
    world.uses(101 * GB);
    assert!(world.status().flagged);
}

#[test]
fn caasify_a_months_31st_day_grants_nothing_more() {
    let mut world = World::of(caasify(3 * TB), "2026-07-31");
    world.uses(3 * TB);
    assert!(!world.status().flagged);
    world.uses(1);
    assert!(world.status().flagged);
}

#[test]
fn caasify_the_closing_period_is_not_judged_by_the_day_that_follows_it() {
    // 28 days of 100 GB were granted.
    let mut world = World::of(caasify(3 * TB), "2026-02-28");
    world.moves("2026-03-01", 2_801 * GB);
    assert_eq!(world.times("flagged"), ["2026-03-01T00:00:00Z"]);
    assert_eq!(world.told("flagged")[0].used, Bytes(2_801 * GB));
    assert!(!world.status().flagged);
}

#[test]
fn caasify_the_excess_is_charged_as_it_accrues_and_the_balance_may_fall_below_zero() {
    let acme = crate::engine::plan::Account {
        opening_balance: Some(money("1 EUR")),
        ..account("acme")
    };
    let mut world = World::with_account(caasify(TB), acme, "2026-06-01");
    world.uses(TB);
    assert_eq!(world.told("charged").len(), 0);
    for expected in [1, 2, 3] {
        world.uses(100 * GB);
        assert_eq!(world.charged(), Decimal::from(expected));
    }
    let view = world.engine.balance(&"acme".into()).unwrap();
    assert_eq!(view.balance, Some(money("-2 EUR")));
    assert_eq!(world.state(), State::Normal);
}

#[test]
fn caasify_a_machine_without_an_account_is_charged_and_no_balance_moves() {
    let mut world = World::of(caasify(TB), "2026-06-01");
    world.uses(1_100 * GB);
    let EventKind::Charged {
        amount, balance, ..
    } = &world.told("charged")[0].kind
    else {
        panic!("charged");
    };
    assert_eq!((*amount, *balance), (money("1 EUR"), None));
}

#[test]
fn caasify_a_later_top_up_neither_refunds_what_was_charged_nor_lets_it_be_charged_again() {
    let mut world = World::of(caasify(TB), "2026-06-01");
    world.uses(1_500 * GB);
    assert_eq!(world.charged(), Decimal::from(5));
    world.top_up(TB).uses(700 * GB);
    assert_eq!(
        world.charged(),
        Decimal::from(5),
        "200 GB over, 500 charged"
    );
    world.uses(400 * GB);
    assert_eq!(world.charged(), Decimal::from(6), "600 GB over");
}

#[test]
fn caasify_a_top_up_is_granted_whole_and_at_once() {
    let mut world = World::of(caasify(3 * TB), "2026-06-01");
    world.uses(500 * GB);
    assert!(world.status().flagged);
    world.top_up(TB);
    assert!(
        !world.status().flagged,
        "100 GB of the day and the whole top-up"
    );
}

#[test]
fn caasify_service_is_never_interrupted() {
    let mut world = World::with_account(caasify(TB), account("acme"), "2026-06-01");
    for _ in 0..20 {
        world.uses(TB);
        assert_eq!(world.state(), State::Normal);
        assert_eq!(world.enforcement(), Enforcement::None);
        assert_eq!(world.engine.boundaries(&m(), world.now), []);
    }
    let balance = world.engine.balance(&"acme".into()).unwrap().balance;
    assert_eq!(balance, Some(money("-190 EUR")));
}

#[test]
fn caasify_an_upgrade_at_any_time_ends_the_excess() {
    let mut world = World::of(caasify(TB), "2026-06-10");
    world.uses(600 * GB);
    assert!(world.status().flagged, "333.33 GB are granted");
    world.set(Change::Allowance(limited(3 * TB)));
    assert!(!world.status().flagged, "a TB is");
    world.uses(900 * GB);
    assert_eq!(world.charged(), Decimal::ZERO);
}

// 4. calendar suspend

#[test]
fn calendar_suspend_the_allowance_resets_on_the_1st_and_unused_volume_does_not_roll_over() {
    let mut world = World::of(calendar_suspend(), "2026-06-15");
    world.moves("2026-07-01", 100 * GB);
    let status = world.status();
    assert_eq!(status.used, Bytes::ZERO);
    assert_eq!(status.allowance, Some(Bytes(TB)));
}

#[test]
fn calendar_suspend_notices_at_75_and_100_and_suspends_24_hours_later() {
    let mut world = World::of(calendar_suspend(), "2026-06-20");
    world.uses(760 * GB).uses(240 * GB);
    assert_eq!(without_forecasts(&world), ["used 75%", "used 100%"]);
    let EventKind::Notice { message, .. } = &world.told("notice").pop().unwrap().kind else {
        panic!("a notice");
    };
    assert!(
        message.contains("suspended on 2026-06-21T00:02:00"),
        "{message}"
    );
    world.wait("2026-06-21T00:01:59");
    assert_eq!(world.state(), State::Normal);
    world.wait("2026-06-21T00:02:00");
    assert_eq!(world.state(), State::Suspended);
    assert_eq!(world.enforcement(), Enforcement::Suspend);
    assert_eq!(world.status().rule, Some("used 100% after 24h".into()));
}

fn without_forecasts(world: &World) -> Vec<String> {
    let mut notices = world.notices();
    notices.retain(|rule| !rule.starts_with("forecast"));
    notices
}

fn suspended_for_traffic() -> World {
    let mut world = World::of(calendar_suspend(), "2026-06-20");
    world.uses(1_100 * GB).wait("2026-06-22");
    assert_eq!(world.state(), State::Suspended);
    world
}

#[test]
fn calendar_suspend_returns_by_itself_when_traffic_is_added() {
    let mut world = suspended_for_traffic();
    world.top_up(TB);
    assert_eq!(world.state(), State::Normal);
    assert_eq!(world.enforcement(), Enforcement::None);
}

#[test]
fn calendar_suspend_returns_by_itself_when_the_plan_is_upgraded() {
    let mut world = suspended_for_traffic();
    world.set(Change::Allowance(limited(2 * TB)));
    assert_eq!(world.state(), State::Normal);
}

#[test]
fn calendar_suspend_returns_by_itself_when_the_allowance_resets() {
    let mut world = suspended_for_traffic();
    world.wait("2026-07-01");
    assert_eq!(world.state(), State::Normal);
    assert_eq!(world.times("restored"), ["2026-07-01T00:00:00Z"]);
    assert_eq!(
        world.notices().last().unwrap(),
        "used 100% after 24h",
        "and says so"
    );
}

#[test]
fn calendar_suspend_a_reset_within_the_24_hours_stops_them() {
    let mut world = World::of(calendar_suspend(), "2026-06-30T12:00:00");
    world.uses(1_100 * GB).wait("2026-07-10");
    assert_eq!(world.told("suspended").len(), 0);
}

#[test]
fn calendar_suspend_traffic_added_mid_month_is_prorated_by_what_is_left_of_it() {
    let mut world = World::of(calendar_suspend(), "2026-06-21");
    world.top_up(TB);
    let EventKind::ToppedUp { amount, .. } = &world.told("topped-up")[0].kind else {
        panic!("topped up");
    };
    assert_eq!(*amount, Some(money("1 EUR")), "a third of 3 EUR");
    assert_eq!(
        world.status().allowance,
        Some(Bytes(2 * TB)),
        "the volume is whole"
    );
}

#[test]
fn calendar_suspend_a_top_up_that_leaves_usage_at_100_percent_does_not_stop_the_24_hours() {
    let mut world = World::of(calendar_suspend(), "2026-06-20");
    world.uses(1_100 * GB).wait("2026-06-20T12:00:00");
    world.top_up(100 * GB).wait("2026-06-21T00:01:00");
    assert_eq!(world.state(), State::Suspended);
}

#[test]
fn calendar_suspend_a_top_up_below_100_percent_stops_them_and_reaching_it_starts_them_anew() {
    let mut world = World::of(calendar_suspend(), "2026-06-20");
    world.uses(1_100 * GB).wait("2026-06-20T12:00:00");
    world.top_up(200 * GB).wait("2026-06-21T06:00:00");
    assert_eq!(world.state(), State::Normal);
    world.uses(100 * GB).wait("2026-06-22T06:00:59");
    assert_eq!(world.state(), State::Normal);
    world.wait("2026-06-22T06:01:00");
    assert_eq!(world.state(), State::Suspended);
    let told = ["used 100%", "used 100%", "used 100% after 24h"];
    assert_eq!(without_forecasts(&world), told, "75 % held all the while");
}

#[test]
fn calendar_suspend_a_machine_that_trends_over_its_cap_is_told_by_its_forecast() {
    let mut world = World::of(calendar_suspend(), "2026-06-01");
    world.moves("2026-06-01T23:00:00", 40 * GB);
    assert_eq!(
        world.notices().len(),
        0,
        "not by a forecast made of an hour"
    );
    world.moves("2026-06-02T12:00:00", 20 * GB);
    assert_eq!(world.notices(), ["forecast 100%"]);
}

#[test]
fn calendar_suspend_one_that_is_over_most_months_is_advised_a_bigger_plan() {
    let mut world = World::of(calendar_suspend(), "2026-01-01");
    let bigger = plan("calendar-big", 5 * TB);
    let mut terms = world.terms.clone();
    terms
        .plans
        .insert(bigger.name.clone(), std::sync::Arc::new(bigger));
    world.set_terms(terms);
    for month in 2..=5 {
        world.moves(&format!("2026-{month:02}-01"), 1_200 * GB);
    }
    let advice = world.engine.offer(&m(), world.now).unwrap().advice.unwrap();
    assert!(advice.contains("in 4 of its last 4 periods"), "{advice}");
    assert!(advice.contains("calendar-big"), "{advice}");
}

/// A plan with these prices: base, and a TB more.
fn priced(name: &str, allowance: u64, base: &str, extra: Option<&str>) -> Plan {
    let mut price = euros();
    price.base = Some(base.parse().unwrap());
    price.extra = extra.map(|extra| Extra {
        tariff: per(TB, extra),
        prorated: true,
        collect: CollectExtra::None,
    });
    Plan {
        name: name.into(),
        allowance: limited(allowance),
        price: Some(price),
        ..calendar_suspend()
    }
}

/// Four months of 1.5 TB under a plan with 1 TB, topped up so that it is never suspended.
fn over_every_month(own: Plan, bigger: Vec<Plan>) -> World {
    let mut world = World::of(own, "2026-01-01");
    let mut terms = world.terms.clone();
    for plan in bigger {
        terms.plans.insert(plan.name.clone(), plan.into());
    }
    world.set_terms(terms);
    for month in 2..=5 {
        world.top_up(TB);
        world.moves(&format!("2026-{month:02}-01"), 1_500 * GB);
    }
    world
}

#[test]
fn calendar_suspend_a_bigger_plan_is_advised_by_the_plans_own_prices() {
    let big = |base| priced("big", 5 * TB, base, None);
    let own = |extra| priced("own", TB, "5", extra);
    for (own, bigger, advised) in [
        // 4 x (5 + 0.5 x 3) = 26 against 4 x 6.
        (
            own(Some("3")),
            vec![big("6")],
            Some("costs 26.00 EUR under `own` and 24.00 EUR under `big` with 5 TB"),
        ),
        (own(Some("3")), vec![big("6.50")], None),
        (own(Some("3")), vec![big("9")], None),
        // The cheapest of all, not the smallest.
        (
            own(Some("3")),
            vec![big("6"), priced("middle", 1_200 * GB, "5.50", Some("3"))],
            Some("24.00 EUR under `big`"),
        ),
        // A plan that would not have sufficed, and sells no more, is not compared.
        (
            own(Some("3")),
            vec![big("6"), priced("small", 1_200 * GB, "1", None)],
            Some("24.00 EUR under `big`"),
        ),
        // Without prices, nothing is computed.
        (
            own(None),
            vec![big("6")],
            Some("usually cheaper, for example `big` with 5 TB"),
        ),
        (
            calendar_suspend(),
            vec![plan("large", 5 * TB)],
            Some("usually cheaper, for example `large`"),
        ),
    ] {
        let world = over_every_month(own, bigger);
        let offer = world.engine.offer(&m(), world.now).unwrap();
        let explained = world.engine.explain(&m(), world.now).unwrap();
        assert_eq!(offer.advice, explained.advice);
        match advised {
            Some(words) => {
                let advice = offer.advice.unwrap();
                assert!(advice.contains("in 4 of its last 4 periods"), "{advice}");
                assert!(advice.contains(words), "{words} in: {advice}");
            }
            None => assert_eq!(offer.advice, None),
        }
    }
}

#[test]
fn calendar_suspend_the_notice_carries_the_advice() {
    let own = priced("own", TB, "5", Some("3"));
    let mut world = over_every_month(own, vec![priced("big", 5 * TB, "6", None)]);
    world.forget_events().uses(760 * GB);
    let EventKind::Notice { message, .. } = &world.told("notice")[0].kind else {
        panic!("a notice");
    };
    assert!(message.contains("a bigger plan is cheaper"), "{message}");
}

#[test]
fn calendar_suspend_who_is_over_in_few_months_is_advised_nothing() {
    let mut world = World::of(calendar_suspend(), "2026-01-01");
    world.moves("2026-02-01", 1_200 * GB);
    for month in 3..=5 {
        world.moves(&format!("2026-{month:02}-01"), 100 * GB);
    }
    assert_eq!(world.engine.offer(&m(), world.now).unwrap().advice, None);
}

// 5. cdn limit

fn cdn(traffic: Option<u64>, cost: Option<&str>, auto: bool) -> World {
    let machine = Machine {
        allowance: traffic.map(limited),
        cost_limit: cost.map(money),
        auto_unsuspend: Some(auto),
        ..machine("m", cdn_limit())
    };
    World::with(vec![machine], Vec::new(), "2026-06-01")
}

#[test]
fn scenario_c_suspends_on_june_15_and_unsuspends_on_july_1_with_mail() {
    let mut world = cdn(Some(100 * GB), None, true);
    world.moves("2026-06-15T12:00:00", 100 * GB);
    assert_eq!(
        world.state(),
        State::Normal,
        "100 GB are not more than 100 GB"
    );
    world.uses(GB);
    assert_eq!(world.times("suspended"), ["2026-06-15T12:01:00Z"]);
    world.wait("2026-07-02");
    assert_eq!(world.times("restored"), ["2026-07-01T00:00:00Z"]);
    assert_eq!(world.notices(), ["over 100%", "over 100%"]);
    let told = world.told("notice");
    let id = |index: usize| match &told[index].kind {
        EventKind::Notice { id, .. } => id.clone(),
        other => panic!("{other:?}"),
    };
    assert_ne!(id(0), id(1));
}

#[test]
fn scenario_d_a_raised_limit_unsuspends_at_once_with_mail() {
    let mut world = cdn(Some(100 * GB), None, true);
    world.moves("2026-06-15", 101 * GB).wait("2026-06-20");
    assert_eq!(world.state(), State::Suspended);
    world.set(Change::Allowance(limited(200 * GB)));
    assert_eq!(world.times("restored"), ["2026-06-20T00:00:00Z"]);
    assert_eq!(world.notices().len(), 2);
}

#[test]
fn scenario_e_suspends_at_the_byte_whose_price_passes_10_usd() {
    let mut world = cdn(None, Some("10 USD"), true);
    world.uses(500 * GB);
    assert_eq!(world.state(), State::Normal, "exactly 10 USD");
    let next = world.status().next.unwrap();
    assert_eq!(next.at_bytes, Some(Bytes(500 * GB + 1)));
    world.uses(1);
    assert_eq!(world.state(), State::Suspended);
    assert_eq!(world.status().rule, Some("cost 100%".into()));
}

#[test]
fn scenario_f_raised_traffic_with_the_cost_still_exceeded_stays_suspended() {
    let mut world = cdn(Some(100 * GB), Some("1 USD"), true);
    world.uses(101 * GB);
    assert_eq!(world.status().rule, Some("over 100%".into()));
    let told = world.notices().len();
    world.set(Change::Allowance(limited(TB)));
    assert_eq!(world.state(), State::Suspended);
    assert_eq!(world.status().rule, Some("cost 100%".into()));
    assert_eq!(world.told("restored").len(), 0);
    assert_eq!(
        world.notices().len() - told,
        1,
        "the other cause is told, not an end"
    );
    world.set(Change::CostLimit(Some(money("10 USD"))));
    assert_eq!(world.state(), State::Normal);
}

#[test]
fn cdn_each_limit_is_optional_and_either_suspends() {
    for (traffic, cost, suspended) in [
        (None, None, false),
        (Some(100 * GB), None, true),
        (None, Some("1 USD"), true),
        (Some(TB), Some("100 USD"), false),
    ] {
        let mut world = cdn(traffic, cost, false);
        world.uses(200 * GB);
        assert_eq!(
            world.state() == State::Suspended,
            suspended,
            "{traffic:?} {cost:?}"
        );
    }
}

#[test]
fn cdn_without_auto_unsuspend_it_stays_until_someone_unsuspends_it() {
    let mut world = cdn(Some(100 * GB), None, false);
    world.uses(101 * GB).wait("2026-07-10");
    assert_eq!(world.state(), State::Suspended);
    world.lift(None);
    assert_eq!(world.state(), State::Normal);
    assert_eq!(world.told("lifted").len(), 1);
    world.uses(50 * GB);
    assert_eq!(world.state(), State::Normal);
    world.uses(51 * GB);
    assert_eq!(world.state(), State::Suspended, "exceeded anew");
}

#[test]
fn cdn_unsuspending_is_allowed_at_any_time_and_holds_until_the_period_ends() {
    let mut world = cdn(Some(100 * GB), None, false);
    world.uses(101 * GB).lift(None);
    assert_eq!(world.state(), State::Normal);
    world.uses(GB).wait("2026-07-01");
    assert_eq!(world.state(), State::Normal);
    world.uses(101 * GB);
    assert_eq!(world.state(), State::Suspended);
}

#[test]
fn cdn_both_limits_and_auto_unsuspend_are_switches_of_the_machine_by_command() {
    let mut world = World::of(cdn_limit(), "2026-06-01");
    world.uses(200 * GB);
    assert_eq!(world.state(), State::Normal, "no limit is on");
    world.set(Change::Allowance(limited(100 * GB)));
    assert_eq!(world.state(), State::Suspended);
    world.set(Change::Allowance(Allowance::Unlimited));
    assert_eq!(
        world.state(),
        State::Suspended,
        "auto-unsuspend is off by default"
    );
    world.set(Change::AutoUnsuspend(true));
    assert_eq!(world.state(), State::Normal);
    world.set(Change::CostLimit(Some(money("1 USD"))));
    assert_eq!(world.state(), State::Suspended);
    world.set(Change::CostLimit(None));
    assert_eq!(world.state(), State::Normal);
    let hour = jiff::SignedDuration::from_hours(1);
    world.says(CommandAction::Suspend {
        machine: m(),
        until: Some(Until::For(hour)),
    });
    assert_eq!(world.state(), State::Suspended);
}
