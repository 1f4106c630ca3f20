//! Time: boundaries, clocks that step, outages.

use jiff::SignedDuration;

use super::{build::*, world::*};
use crate::engine::{
    EngineSettings, Observation, Sample,
    command::{Change, CommandAction, SettingKey},
    event::{EventKind, State},
    plan::*,
    units::*,
};

fn sample(from: &str, to: &str, bytes: u64) -> Observation {
    Observation {
        traffic: vec![Sample {
            machine: m(),
            from: at(from),
            to: at(to),
            traffic: Traffic {
                received: Bytes(bytes),
                ..Traffic::ZERO
            },
        }],
        commands: Vec::new(),
    }
}

#[test]
fn a_sample_that_spans_a_boundary_is_split_by_time() {
    let mut world = World::of(edis(), "2026-06-30T23:59:00");
    world.now = at("2026-07-01T00:00:30");
    world.step(sample("2026-06-30T23:59:00", "2026-07-01T00:00:30", 900));
    assert_eq!(world.status().used, Bytes(300));
    assert_eq!(world.ledger.closed.len(), 1);
    assert_eq!(world.ledger.closed[0].1.traffic.received, Bytes(600));
}

#[test]
fn a_sample_that_ends_at_the_boundary_belongs_to_the_closing_period() {
    let mut world = World::of(edis(), "2026-06-30T23:59:00");
    world.moves("2026-07-01", 900);
    assert_eq!(world.status().used, Bytes::ZERO);
    assert_eq!(world.ledger.closed[0].1.traffic.received, Bytes(900));
}

#[test]
fn the_closing_period_is_judged_with_its_last_byte_then_closed_then_the_next_begins() {
    let mut plan = invapi();
    plan.rules = vec![rule("used 80%").notify(), rule("used 105%").throttle()];
    let mut world = World::of(plan, "2026-06-30T23:59:00");
    world.forget_events().moves("2026-07-01", 2 * TB);
    assert_eq!(
        world.words(),
        [
            "notice",
            "throttled",
            "invoiced",
            "period-started",
            "restored"
        ]
    );
    for time in world.events.iter().map(|event| event.time) {
        assert_eq!(time, at("2026-07-01"));
    }
}

#[test]
fn a_daemon_down_across_several_boundaries_closes_each_in_order_once_with_its_bill() {
    let mut world = World::of(invapi(), "2026-06-01");
    // 92 days in one reading: 30, 31, 31 of them a month.
    world.now = at("2026-09-01T00:00:00");
    world.step(sample("2026-06-01", "2026-09-01", 9_200 * GB));
    let starts = world.times("period-started");
    assert_eq!(starts.len(), 4);
    let bills = world.engine.invoices(None);
    let amounts: Vec<_> = bills.iter().map(|bill| bill.amount.to_string()).collect();
    assert_eq!(amounts, ["4.00 EUR", "4.20 EUR", "4.20 EUR"]);
    let dates: Vec<_> = bills.iter().map(|bill| bill.date.as_str()).collect();
    assert_eq!(dates, ["2026-07-01", "2026-08-01", "2026-09-01"]);
    assert_eq!(world.ledger.closed.len(), 3);
    assert_eq!(world.status().used, Bytes::ZERO);
    world.step(Observation::default());
    assert_eq!(world.engine.invoices(None).len(), 3, "once");
}

#[test]
fn when_the_clock_goes_back_the_engines_time_stands_still() {
    let mut world = World::of(calendar_suspend(), "2026-06-30T12:00:00");
    world.moves("2026-07-01", GB).uses(1_100 * GB);
    let before = world.words().len();
    for now in ["2026-06-30T12:00:00", "2026-05-01", "2026-07-01T00:00:30"] {
        world.now = at(now);
        world.step(sample("2026-06-30T11:59:00", "2026-06-30T12:00:00", GB));
    }
    assert_eq!(world.words().len(), before, "no reset twice");
    assert_eq!(world.status().used, Bytes(1_103 * GB), "no byte skipped");
    world.now = at("2026-07-01T00:02:00");
    world.step(Observation::default());
    world.wait("2026-07-02T00:00:59");
    assert_eq!(world.state(), State::Normal);
    world.wait("2026-07-02T00:01:00");
    assert_eq!(world.state(), State::Suspended);
}

#[test]
fn a_change_of_zone_takes_effect_with_the_next_period() {
    let mut world = World::of(edis(), "2026-06-10");
    let mut terms = world.terms.clone();
    terms.machines.get_mut(&m()).unwrap().time_zone = Some(zone("Europe/Vienna"));
    world.set_terms(terms);
    assert_eq!(world.status().period.end, "2026-07-01T00:00:00+00:00");
    world.wait("2026-07-01");
    assert_eq!(world.status().period.end, "2026-08-01T00:00:00+02:00");
    assert_eq!(
        world.engine.zone(&m()).unwrap().iana_name(),
        Some("Europe/Vienna")
    );
}

#[test]
fn a_plan_that_is_set_brings_its_own_zone_with_the_next_period() {
    let eastern = Plan {
        name: "eastern".into(),
        time_zone: Some(zone("Asia/Tokyo")),
        ..edis()
    };
    for (own, end) in [
        (None, "2026-08-01T00:00:00+09:00"),
        (Some(zone("Europe/Vienna")), "2026-08-01T00:00:00+02:00"),
    ] {
        let machine = Machine {
            time_zone: own,
            ..machine("m", edis())
        };
        let mut terms = terms(vec![machine], Vec::new());
        let plan = std::sync::Arc::new(eastern.clone());
        terms.plans.insert(plan.name.clone(), plan);
        let mut world = World::from_terms(terms, EngineSettings::default(), "2026-06-10");
        let before = world.status().period.end;
        world.says(CommandAction::Set {
            machine: m(),
            change: Change::Plan("eastern".into()),
        });
        assert_eq!(world.status().period.end, before, "the running one is kept");
        world.wait("2026-07-01T00:00:01").wait("2026-07-02");
        assert_eq!(world.status().period.end, end);
        world.says(CommandAction::Unset {
            machine: m(),
            key: SettingKey::Plan,
        });
        assert_eq!(world.status().period.end, end);
    }
}

#[test]
fn a_due_date_is_in_civil_days_and_after_is_in_hours() {
    let mut plan = invapi();
    plan.rules.push(rule("used 100%").after_hours(24).suspend());
    let machine = Machine {
        time_zone: Some(zone("Europe/Vienna")),
        ..machine("m", plan)
    };
    // Daylight saving begins on 2026-03-29: the 24 hours end at 01:00 local more.
    let mut world = World::with(vec![machine], Vec::new(), "2026-03-28T12:00:00");
    world.uses(2 * TB).wait("2026-03-29T12:01:00");
    assert_eq!(world.times("suspended"), ["2026-03-29T12:01:00Z"]);
    world.says(CommandAction::TopUp {
        machine: m(),
        volume: Bytes(TB),
        from_pool: false,
    });
    // Issued at 14:01 local, summer time; due at 14:01 local.
    let EventKind::Invoiced { due, .. } = world.told("invoiced")[0].kind else {
        panic!("invoiced");
    };
    assert_eq!(due, at("2026-04-03T12:01:00"));
    let machine = Machine {
        time_zone: Some(zone("Europe/Vienna")),
        ..crate::engine::tests::build::machine("m", invapi())
    };
    let mut world = World::with(vec![machine], Vec::new(), "2026-10-22T12:00:00");
    world.top_up(TB);
    let EventKind::Invoiced { due, .. } = world.told("invoiced")[0].kind else {
        panic!("invoiced");
    };
    assert_eq!(
        due,
        at("2026-10-22T12:00:00") + SignedDuration::from_hours(5 * 24 + 1),
        "an hour more where summer time ends between"
    );
}

#[test]
fn a_machine_that_is_gone_is_kept_and_its_periods_are_closed_when_it_returns() {
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-06-20", 1_500 * GB);
    let full = world.terms.clone();
    let mut empty = full.clone();
    empty.machines.clear();
    world.set_terms(empty);
    assert_eq!(world.engine.machines().count(), 0);
    assert_eq!(world.engine.deadline(), None);
    world.now = at("2026-08-15");
    world.step(Observation::default());
    assert_eq!(world.engine.invoices(None).len(), 0);
    world.set_terms(full);
    let bills = world.engine.invoices(None);
    assert_eq!(bills.len(), 1);
    assert_eq!(bills[0].date, "2026-07-01");
    assert_eq!(world.status().period.start, "2026-08-01T00:00:00+00:00");
    assert_eq!(world.state(), State::Capped, "its bill is long overdue");
}

#[test]
fn a_machine_appears_within_the_period_that_contains_now() {
    let mut world = World::of(edis(), "2026-06-10");
    let mut terms = world.terms.clone();
    terms
        .machines
        .insert("late".into(), machine("late", edis()));
    world.now = at("2026-06-20T12:00:00");
    world.forget_events().set_terms(terms);
    let event = &world.events[0];
    assert_eq!(event.kind.as_str(), "period-started");
    assert_eq!(event.machine, Some("late".into()));
    let EventKind::PeriodStarted { start, end } = event.kind else {
        panic!("a period");
    };
    assert_eq!((start, end), (at("2026-06-01"), at("2026-07-01")));
}

#[test]
fn the_deadline_is_the_earliest_instant_at_which_something_must_be_looked_at() {
    let mut world = World::of(caasify(TB), "2026-06-10T12:00:00");
    assert_eq!(
        world.engine.deadline(),
        Some(at("2026-06-11")),
        "a day's grant"
    );
    world = World::of(calendar_suspend(), "2026-06-10T12:00:00");
    assert_eq!(
        world.engine.deadline(),
        Some(at("2026-07-01")),
        "the period's end"
    );
    world.uses(TB);
    assert_eq!(
        world.engine.deadline(),
        Some(at("2026-06-11T12:01:00")),
        "24 hours"
    );
    world = World::of(calendar_suspend(), "2026-06-01T12:00:00");
    assert_eq!(
        world.engine.deadline(),
        Some(at("2026-06-02")),
        "the first forecast"
    );
    world = World::of(invapi(), "2026-06-10T12:00:00");
    world.top_up(TB);
    assert_eq!(
        world.engine.deadline(),
        Some(at("2026-06-15T12:00:00")),
        "the bill's due date"
    );
}
