//! From which byte a cap counts.

use jiff::SignedDuration;

use super::{build::*, world::*};
use crate::engine::{
    Breaker, Enforcement, EngineSettings,
    command::{Change, CommandAction, Until},
    event::{EventKind, State},
    plan::*,
    units::*,
};

const CAP: u64 = 100 * MB;

/// 1 TB, and a rule that caps at 100 MB.
fn capping(rule: Rule) -> Plan {
    Plan {
        rules: vec![rule.act(Action::Cap(Bytes(CAP)))],
        ..plan("capping", TB)
    }
}

fn left(world: &World) -> Option<u64> {
    world.status().cap_remaining.map(|bytes| bytes.0)
}

#[test]
fn a_cap_begins_at_the_byte_that_reached_its_threshold_wherever_the_readings_fall() {
    let cost = |mut plan: Plan| {
        plan.price = cdn_limit().price;
        plan.cost_limit = Some(money("10 USD"));
        plan
    };
    let daily = |mut plan: Plan| {
        plan.daily = std::num::NonZeroU32::new(1);
        plan
    };
    for (plan, at) in [
        (capping(rule("used 100%")), TB),
        (capping(rule("over 100%")), TB + 1),
        (capping(rule("used 300 GB")), 300 * GB),
        (cost(capping(rule("cost 100%"))), 500 * GB + 1),
        (daily(capping(rule("accrued 50%"))), 500 * GB + 1),
    ] {
        // So much before the reading that crosses it, and so much beyond.
        for (before, beyond, expected) in [
            (0, 0, CAP),
            (7, 0, CAP),
            (1, 1, CAP - 1),
            (at, 40 * MB, CAP - 40 * MB),
            (10 * GB, CAP - 1, 1),
            (10 * GB, CAP, 0),
            (10 * GB, 5 * CAP, 0),
        ] {
            let name = &plan.rules[0].name;
            let mut world = World::of(plan.clone(), "2026-06-10");
            if before > 0 {
                world.uses(at - before);
                assert_eq!(world.state(), State::Normal, "{name}");
                world.uses(before + beyond);
            } else {
                world.uses(at + beyond);
            }
            assert_eq!(left(&world), Some(expected), "{name}, {beyond} beyond");
            let remaining = Bytes(expected);
            assert_eq!(world.enforcement(), Enforcement::Cap { remaining });
            let EventKind::Capped { cap_remaining, .. } = world.told("capped")[0].kind else {
                panic!("capped");
            };
            assert_eq!(cap_remaining, remaining, "the event says the same");
        }
    }
}

#[test]
fn the_cap_ends_at_the_same_byte_in_one_reading_and_in_many() {
    let mut many = World::of(capping(rule("used 100%")), "2026-06-10");
    many.uses(TB - 30 * MB);
    for _ in 0..10 {
        many.uses(9 * MB);
    }
    let mut one = World::of(capping(rule("used 100%")), "2026-06-10");
    one.uses(TB - 30 * MB + 90 * MB);
    assert_eq!(left(&many), Some(40 * MB));
    assert_eq!(left(&one), left(&many));
}

#[test]
fn under_larger_the_cap_counts_the_growth_of_the_larger_sum() {
    let plan = Plan {
        direction: Direction::Larger,
        ..capping(rule("used 100%"))
    };
    let mut world = World::of(plan, "2026-06-10");
    let traffic = Traffic {
        received: Bytes(TB + 30 * MB),
        sent: Bytes(TB + 10 * MB),
        exempt: Bytes::ZERO,
    };
    world.travel(at("2026-06-11"), &[("m", traffic)]);
    assert_eq!(left(&world), Some(70 * MB));
}

#[test]
fn a_cap_that_usage_did_not_begin_counts_from_the_step_that_begins_it() {
    // A bill falls due, whatever moved in that step.
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-07-01", 1_500 * GB);
    world.moves("2026-07-06", 50 * GB);
    assert_eq!(left(&world), Some(CAP), "overdue");

    // The allowance is lowered below what was used.
    let mut world = World::of(capping(rule("used 100%")), "2026-06-10");
    world.uses(900 * GB);
    world.set(Change::Allowance(limited(500 * GB)));
    assert_eq!(left(&world), Some(CAP), "lowered");

    // A time that it must have held for.
    let mut world = World::of(capping(rule("used 100%").after_hours(24)), "2026-06-10");
    world.uses(TB + 3 * GB).moves("2026-06-12", GB);
    assert!(
        left(&world) < Some(CAP),
        "it counts since the 24 hours ended"
    );
    assert_eq!(world.times("capped"), ["2026-06-11T00:01:00Z"]);
    let EventKind::Capped { cap_remaining, .. } = world.told("capped")[0].kind else {
        panic!("capped");
    };
    assert_eq!(cap_remaining, Bytes(CAP), "after");

    // An allowance of 0, at the first sight.
    let none = Plan {
        allowance: limited(0),
        ..capping(rule("used 100%"))
    };
    assert_eq!(left(&World::of(none, "2026-06-10")), Some(CAP), "nothing");

    // A lift that ends.
    let mut world = World::of(capping(rule("used 100%")), "2026-06-10");
    world.uses(TB);
    world.lift(Some(Until::For(SignedDuration::from_hours(5))));
    world.uses(50 * MB).wait("2026-06-10T05:01:00");
    assert_eq!(left(&world), Some(CAP), "lifted");
}

#[test]
fn a_cap_that_the_circuit_breaker_held_back_counts_from_the_confirmation() {
    let ids: Vec<String> = (0..20).map(|index| format!("m{index}")).collect();
    let machines = ids.iter().map(|id| machine(id, capping(rule("used 100%"))));
    let settings = EngineSettings {
        breaker: Breaker {
            machines: 5,
            percent: 20,
            ..Breaker::default()
        },
        ..EngineSettings::default()
    };
    let terms = terms(machines.collect(), Vec::new());
    let mut world = World::from_terms(terms, settings, "2026-06-10");
    let over = Traffic {
        received: Bytes(TB + 30 * MB),
        ..Traffic::ZERO
    };
    let moved: Vec<_> = ids.iter().map(|id| (id.as_str(), over)).collect();
    world.travel(at("2026-06-11"), &moved);
    assert_eq!(world.told("held-back").len(), 1);
    world.says(CommandAction::Confirm);
    let status = world.engine.status(&"m7".into(), world.now).unwrap();
    assert_eq!(status.cap_remaining, Some(Bytes(CAP)));
}

#[test]
fn a_cap_that_stood_goes_on_where_something_harder_was_held_back_and_confirmed() {
    let ids: Vec<String> = (0..20).map(|index| format!("m{index}")).collect();
    let plan = Plan {
        rules: vec![
            rule("used 50%").act(Action::Cap(Bytes(900 * GB))),
            rule("used 100%").suspend(),
        ],
        ..plan("capping", TB)
    };
    let machines: Vec<_> = ids.iter().map(|id| machine(id, plan.clone())).collect();
    let settings = EngineSettings {
        breaker: Breaker {
            machines: 5,
            percent: 20,
            ..Breaker::default()
        },
        ..EngineSettings::default()
    };
    let mut world = World::from_terms(terms(machines, Vec::new()), settings, "2026-06-10");
    let moves = |world: &mut World, ids: &[String], bytes| {
        let traffic = Traffic {
            received: Bytes(bytes),
            ..Traffic::ZERO
        };
        let moved: Vec<_> = ids.iter().map(|id| (id.as_str(), traffic)).collect();
        let until = world.now + SignedDuration::from_mins(1);
        world.travel(until, &moved);
    };
    for few in ids.chunks(4) {
        moves(&mut world, few, 600 * GB);
    }
    moves(&mut world, &ids, 400 * GB);
    assert_eq!(world.told("held-back").len(), 1);
    world.says(CommandAction::Confirm);
    let of = |world: &World| world.engine.status(&"m7".into(), world.now).unwrap();
    assert_eq!(of(&world).state, State::Suspended);
    world.says(CommandAction::Set {
        machine: "m7".into(),
        change: Change::Allowance(limited(1_500 * GB)),
    });
    let status = of(&world);
    assert_eq!(status.state, State::Capped, "67 %");
    assert_eq!(status.cap_remaining, Some(Bytes(400 * GB)), "500 since 500");
}
