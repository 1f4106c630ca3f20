//! Where the kernel must stop by itself, byte for byte.

use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::{build::*, world::*};
use crate::engine::{
    Boundary, Breaker, Enforcement, EngineSettings, Left,
    command::{Change, CommandAction, Until},
    plan::*,
    units::*,
};

const SUSPEND: Enforcement = Enforcement::Suspend;
const USED_UP: Enforcement = Enforcement::Cap {
    remaining: Bytes::ZERO,
};

fn throttle(kbit: u64) -> Enforcement {
    Enforcement::Throttle(BitsPerSecond(kbit * 1_000))
}

fn slow(rule: Rule, kbit: u64) -> Rule {
    rule.act(Action::Throttle(BitsPerSecond(kbit * 1_000)))
}

fn cap(rule: Rule, megabytes: u64) -> Rule {
    rule.act(Action::Cap(Bytes(megabytes * MB)))
}

fn with(rules: Vec<Rule>) -> Plan {
    Plan {
        rules,
        ..plan("p", TB)
    }
}

/// So many bytes of both directions.
fn sum(left: u64, then: Enforcement) -> Boundary {
    Boundary {
        left: Left {
            sum: Some(Bytes(left)),
            ..Left::default()
        },
        then,
    }
}

impl World {
    fn boundaries(&self) -> Vec<Boundary> {
        self.engine.boundaries(&m(), self.now)
    }

    fn moves_both(&mut self, received: u64, sent: u64) -> &mut Self {
        let until = self.now + SignedDuration::from_mins(1);
        let traffic = Traffic {
            received: Bytes(received),
            sent: Bytes(sent),
            exempt: Bytes(7 * GB),
        };
        self.travel(until, &[("m", traffic)])
    }
}

#[test]
fn a_rule_that_acts_at_once_is_a_boundary_at_the_first_byte_at_which_it_holds() {
    for (rules, left) in [
        (vec![rule("used 105%").throttle()], 950 * GB),
        (vec![rule("over 100%").throttle()], 900 * GB + 1),
        (vec![rule("used 300 GB").throttle()], 200 * GB),
        (vec![rule("over 300 GB").throttle()], 200 * GB + 1),
    ] {
        let mut world = World::of(with(rules.clone()), "2026-06-10");
        world.moves_both(60 * GB, 40 * GB);
        let expected = [sum(left, throttle(64))];
        assert_eq!(world.boundaries(), expected, "{}", rules[0].name);
        // And there the engine says the same.
        world.uses(left - 1);
        assert_eq!(world.enforcement(), Enforcement::None, "{}", rules[0].name);
        assert_eq!(world.boundaries(), [sum(1, throttle(64))]);
        world.uses(1);
        assert_eq!(world.enforcement(), throttle(64), "{}", rules[0].name);
        assert_eq!(world.boundaries(), [], "it stands");
    }
}

#[test]
fn a_cost_limit_is_a_boundary_at_the_byte_whose_price_passes_it() {
    for (price, limit, at) in [
        ("0.02", "10 USD", 500 * GB + 1),
        ("0.03", "10 USD", 333_333_333_334),
        ("0.02", "0 USD", 1),
    ] {
        let mut cdn = cdn_limit();
        cdn.price.as_mut().unwrap().usage = Some(per(GB, price));
        cdn.cost_limit = Some(money(limit));
        let mut world = World::of(cdn, "2026-06-10");
        assert_eq!(world.boundaries(), [sum(at, SUSPEND)], "{limit} at {price}");
        world.uses(at - 1);
        assert_eq!(world.enforcement(), Enforcement::None);
        assert_eq!(world.boundaries(), [sum(1, SUSPEND)]);
        world.uses(1);
        assert_eq!(world.enforcement(), SUSPEND);
    }
}

#[test]
fn of_several_limits_the_one_that_is_reached_first_counts() {
    let mut cdn = cdn_limit();
    cdn.allowance = limited(100 * GB);
    cdn.cost_limit = Some(money("10 USD"));
    let world = World::of(cdn.clone(), "2026-06-10");
    assert_eq!(world.boundaries(), [sum(100 * GB + 1, SUSPEND)]);
    cdn.cost_limit = Some(money("1 USD"));
    let world = World::of(cdn, "2026-06-10");
    assert_eq!(world.boundaries(), [sum(50 * GB + 1, SUSPEND)]);
}

#[test]
fn each_direction_has_its_own_left() {
    for (direction, left) in [
        (Direction::Sum, (Some(700), None, None)),
        (Direction::Received, (None, Some(800), None)),
        (Direction::Sent, (None, None, Some(900))),
        // Whichever of the two gets there.
        (Direction::Larger, (None, Some(800), Some(900))),
    ] {
        let plan = Plan {
            direction,
            ..with(vec![rule("used 100%").suspend()])
        };
        let mut world = World::of(plan.clone(), "2026-06-10");
        world.moves_both(200 * GB, 100 * GB);
        let gb = |left: Option<u64>| left.map(|left| Bytes(left * GB));
        let left = Left {
            sum: gb(left.0),
            received: gb(left.1),
            sent: gb(left.2),
        };
        assert_eq!(
            world.boundaries(),
            [Boundary {
                left,
                then: SUSPEND
            }],
            "{direction:?}"
        );
        // One byte less changes nothing, either way; the last one does.
        let ways = [(left.received.or(left.sum), 1, 0), (left.sent, 0, 1)];
        for (left, received, sent) in ways {
            let Some(Bytes(left)) = left else {
                continue;
            };
            let mut world = World::of(plan.clone(), "2026-06-10");
            world.moves_both(200 * GB, 100 * GB);
            world.moves_both(received * (left - 1), sent * (left - 1));
            assert_eq!(world.enforcement(), Enforcement::None, "{direction:?}");
            world.moves_both(received, sent);
            assert_eq!(world.enforcement(), SUSPEND, "{direction:?}");
        }
    }
}

#[test]
fn what_is_not_done_by_usage_alone_or_not_to_packets_is_no_boundary() {
    for rules in [
        vec![],
        vec![rule("used 80%").notify()],
        vec![rule("used 80%").flag()],
        vec![rule("used 100%").after_hours(24).suspend()],
        vec![rule("forecast 100%").throttle()],
        vec![cap(rule("overdue"), 100)],
    ] {
        let world = World::of(with(rules.clone()), "2026-06-10");
        assert_eq!(world.boundaries(), [], "{rules:?}");
    }
    assert_eq!(
        World::of(edis(), "2026-06-10")
            .engine
            .boundaries(&"other".into(), at("2026-06-10")),
        [],
        "nor what nobody knows"
    );
}

#[test]
fn a_throttle_and_then_a_suspension_are_two_in_order() {
    let rules = vec![
        rule("used 200%").suspend(),
        rule("used 105%").throttle(),
        rule("used 80%").notify(),
    ];
    let mut world = World::of(with(rules), "2026-06-10");
    let both = [sum(1_050 * GB, throttle(64)), sum(2_000 * GB, SUSPEND)];
    assert_eq!(world.boundaries(), both);
    world.uses(1_050 * GB);
    assert_eq!(world.boundaries(), [sum(950 * GB, SUSPEND)]);
    world.uses(950 * GB);
    assert_eq!(world.boundaries(), []);
}

#[test]
fn only_what_is_harder_than_what_comes_before_it_is_a_boundary() {
    for (rules, expected) in [
        (
            vec![rule("used 50%").suspend(), rule("used 60%").throttle()],
            vec![sum(500 * GB, SUSPEND)],
        ),
        (
            vec![slow(rule("used 50%"), 64), slow(rule("used 60%"), 128)],
            vec![sum(500 * GB, throttle(64))],
        ),
        (
            vec![slow(rule("used 50%"), 128), slow(rule("used 60%"), 64)],
            vec![sum(500 * GB, throttle(128)), sum(600 * GB, throttle(64))],
        ),
        (
            vec![rule("used 50%").throttle(), rule("used 50%").suspend()],
            vec![sum(500 * GB, SUSPEND)],
        ),
        // Of three, the first, which a step follows, and the last, if none does.
        (
            vec![
                slow(rule("used 50%"), 128),
                slow(rule("used 60%"), 64),
                rule("used 70%").suspend(),
            ],
            vec![sum(500 * GB, throttle(128)), sum(700 * GB, SUSPEND)],
        ),
    ] {
        let world = World::of(with(rules.clone()), "2026-06-10");
        assert_eq!(world.boundaries(), expected, "{rules:?}");
    }
}

#[test]
fn a_cap_at_a_usage_is_a_boundary_where_it_is_used_up() {
    for (rules, expected) in [
        (
            vec![cap(rule("used 50%"), 100)],
            vec![sum(500 * GB + 100 * MB, USED_UP)],
        ),
        (
            vec![cap(rule("over 50%"), 100)],
            vec![sum(500 * GB + 1 + 100 * MB, USED_UP)],
        ),
        (
            vec![rule("used 40%").throttle(), cap(rule("used 50%"), 100)],
            vec![
                sum(400 * GB, throttle(64)),
                sum(500 * GB + 100 * MB, USED_UP),
            ],
        ),
        // A cap is stronger than a throttle, from where it begins.
        (
            vec![cap(rule("used 50%"), 200_000), rule("used 60%").throttle()],
            vec![sum(700 * GB, USED_UP)],
        ),
        (
            vec![cap(rule("used 50%"), 200_000), rule("used 60%").suspend()],
            vec![sum(600 * GB, SUSPEND)],
        ),
        // Nothing is counted behind it.
        (
            vec![cap(rule("used 50%"), 100), rule("used 60%").suspend()],
            vec![sum(500 * GB + 100 * MB, USED_UP)],
        ),
        (
            vec![
                cap(rule("used 50%"), 200_000),
                cap(rule("used 60%"), 50_000),
            ],
            vec![sum(650 * GB, USED_UP)],
        ),
        (vec![cap(rule("used 50%"), 0)], vec![sum(500 * GB, USED_UP)]),
    ] {
        let world = World::of(with(rules.clone()), "2026-06-10");
        assert_eq!(world.boundaries(), expected, "{rules:?}");
    }
}

#[test]
fn a_cap_in_force_is_a_boundary_too_until_nothing_is_left_and_then() {
    let mut world = World::of(invapi(), "2026-06-01");
    world.moves("2026-07-01", 1_500 * GB).wait("2026-07-06");
    assert_eq!(world.boundaries(), [sum(100 * MB, USED_UP)]);
    world.uses(60 * MB);
    assert_eq!(world.boundaries(), [sum(40 * MB, USED_UP)]);
    world.uses(40 * MB);
    assert_eq!(world.boundaries(), [sum(0, USED_UP)]);
    let bill = world.last_bill();
    world.pay(&bill);
    assert_eq!(world.boundaries(), []);
}

#[test]
fn under_larger_a_cap_in_force_is_used_up_by_the_growth_of_the_larger_sum() {
    let plan = Plan {
        direction: Direction::Larger,
        ..with(vec![cap(rule("used 100%"), 100)])
    };
    let mut world = World::of(plan, "2026-06-10");
    world.moves_both(1_000 * GB, 900 * GB);
    let left = Left {
        received: Some(Bytes(100 * MB)),
        sent: Some(Bytes(100 * GB + 100 * MB)),
        sum: None,
    };
    assert_eq!(
        world.boundaries(),
        [Boundary {
            left,
            then: USED_UP
        }]
    );
    world.moves_both(0, 100 * GB + 100 * MB);
    assert_eq!(world.enforcement(), USED_UP);
}

#[test]
fn suspension_comes_before_a_cap_in_force_is_used_up_where_it_is_nearer() {
    let rules = vec![cap(rule("used 50%"), 200_000), rule("used 60%").suspend()];
    let mut world = World::of(with(rules), "2026-06-10");
    world.uses(500 * GB);
    assert_eq!(world.boundaries(), [sum(100 * GB, SUSPEND)]);
}

#[test]
fn what_is_lifted_is_no_boundary_until_the_lift_ends() {
    let rules = vec![rule("used 100%").throttle(), rule("used 200%").suspend()];
    let mut world = World::of(with(rules), "2026-06-10");
    world
        .uses(1_100 * GB)
        .lift(Some(Until::For(SignedDuration::from_hours(5))));
    assert_eq!(world.enforcement(), Enforcement::None);
    assert_eq!(
        world.boundaries(),
        [sum(900 * GB, SUSPEND)],
        "the other still acts"
    );
    world.uses(900 * GB).lift(None);
    assert_eq!(world.boundaries(), [], "nor what was lifted then");
    world.wait("2026-07-01");
    let anew = [sum(1_000 * GB, throttle(64)), sum(2_000 * GB, SUSPEND)];
    assert_eq!(world.boundaries(), anew);
}

#[test]
fn what_waits_for_a_hand_stands_and_is_a_boundary_anew_once_it_is_lifted() {
    let mut world = World::of(
        with(vec![rule("used 100%").suspend().by_hand()]),
        "2026-06-10",
    );
    world.uses(1_000 * GB).wait("2026-07-10");
    assert_eq!(world.enforcement(), SUSPEND);
    assert_eq!(world.boundaries(), []);
    world.lift(None);
    assert_eq!(world.boundaries(), [sum(1_000 * GB, SUSPEND)]);
}

#[test]
fn a_plan_that_does_nothing_a_dry_run_staff_and_a_cancelled_machine_have_none() {
    let rules = || vec![rule("used 100%").suspend()];
    let watched = Plan {
        enforce: false,
        ..with(rules())
    };
    assert_eq!(World::of(watched, "2026-06-10").boundaries(), []);

    let dry = EngineSettings {
        dry_run: true,
        ..EngineSettings::default()
    };
    let machines = terms(vec![machine("m", with(rules()))], Vec::new());
    assert_eq!(
        World::from_terms(machines, dry, "2026-06-10").boundaries(),
        []
    );

    let mut world = World::of(with(rules()), "2026-06-10");
    world.says(CommandAction::Suspend {
        machine: m(),
        until: None,
    });
    assert_eq!(world.boundaries(), [], "there is nothing harder");
    world.lift(None);
    assert_eq!(world.boundaries(), [sum(1_000 * GB, SUSPEND)]);
    world.says(CommandAction::Cancel { machine: m() });
    assert_eq!(world.boundaries(), []);
}

#[test]
fn what_the_circuit_breaker_holds_back_the_kernel_must_not_do() {
    let rules = || vec![rule("used 100%").throttle(), rule("used 200%").suspend()];
    let ids: Vec<String> = (0..20).map(|index| format!("m{index}")).collect();
    let mut machines: Vec<_> = ids.iter().map(|id| machine(id, with(rules()))).collect();
    machines.push(machine("m", with(rules())));
    let settings = EngineSettings {
        breaker: Breaker {
            machines: 5,
            percent: 20,
            ..Breaker::default()
        },
        ..EngineSettings::default()
    };
    let mut world = World::from_terms(terms(machines, Vec::new()), settings, "2026-06-10");
    let full = Traffic {
        received: Bytes(1_100 * GB),
        ..Traffic::ZERO
    };
    let moved: Vec<_> = ids.iter().map(|id| (id.as_str(), full)).collect();
    world.travel(at("2026-06-11"), &moved);
    let of = |world: &World, id: &str| world.engine.boundaries(&id.into(), world.now);
    assert_eq!(of(&world, "m3"), []);
    assert_eq!(of(&world, "m"), [], "it would be held back with the others");
    world.says(CommandAction::Confirm);
    let both = [sum(1_000 * GB, throttle(64)), sum(2_000 * GB, SUSPEND)];
    assert_eq!(of(&world, "m"), both);
    assert_eq!(of(&world, "m3"), [sum(900 * GB, SUSPEND)]);
}

#[test]
fn under_a_daily_allowance_the_boundary_moves_as_each_day_begins() {
    let plan = Plan {
        allowance: limited(3 * TB),
        daily: std::num::NonZeroU32::new(30),
        ..with(vec![rule("accrued 100%").throttle()])
    };
    let mut world = World::of(plan, "2026-06-01");
    world.moves("2026-06-01T12:00:00", 40 * GB);
    assert_eq!(world.boundaries(), [sum(60 * GB + 1, throttle(64))]);
    world.wait("2026-06-02");
    assert_eq!(world.boundaries(), [sum(160 * GB + 1, throttle(64))]);
    world.top_up(TB);
    assert_eq!(
        world.boundaries(),
        [sum(1_160 * GB + 1, throttle(64))],
        "granted at once"
    );
    world.uses(1_160 * GB + 1);
    assert_eq!(world.enforcement(), throttle(64));
}

#[test]
fn a_percentage_of_no_limit_is_no_boundary_and_an_allowance_of_0_is_reached_at_once() {
    let rules = || vec![rule("used 100%").suspend(), rule("used 50 GB").throttle()];
    let none = Plan {
        allowance: Allowance::Unlimited,
        ..with(rules())
    };
    let world = World::of(none, "2026-06-10");
    assert_eq!(world.boundaries(), [sum(50 * GB, throttle(64))]);
    let zero = Plan {
        allowance: limited(0),
        ..with(rules())
    };
    let world = World::of(zero, "2026-06-10");
    assert_eq!(world.enforcement(), SUSPEND);
    assert_eq!(world.boundaries(), []);
}

#[test]
fn volume_that_is_added_rolls_over_or_comes_from_the_pool_moves_the_boundary() {
    let plan = Plan {
        rollover: Rollover::Unused,
        ..with(vec![rule("used 100%").suspend()])
    };
    let acme = Account {
        pool: Some(Bytes(5 * TB)),
        ..account("acme")
    };
    let mut world = World::with_account(plan, acme, "2026-06-10");
    world.uses(400 * GB).top_up(100 * GB);
    assert_eq!(world.boundaries(), [sum(700 * GB, SUSPEND)]);
    world.hydrate(200 * GB);
    assert_eq!(world.boundaries(), [sum(900 * GB, SUSPEND)]);
    world.set(Change::Allowance(limited(2 * TB)));
    assert_eq!(world.boundaries(), [sum(1_900 * GB, SUSPEND)]);
    world.wait("2026-07-01");
    assert_eq!(
        world.boundaries(),
        [sum(3_900 * GB, SUSPEND)],
        "1.9 TB rolled over"
    );
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
#[ignore = "a measurement: release build, quiet machine"]
fn a_machines_boundaries_are_found_in_a_microsecond() {
    let daily = Plan {
        daily: std::num::NonZeroU32::new(30),
        ..with(vec![
            rule("accrued 100%").throttle(),
            rule("used 100%").suspend(),
        ])
    };
    let mut dear = cdn_limit();
    dear.cost_limit = Some(money("10 USD"));
    for plan in [edis(), calendar_suspend(), dear, daily] {
        let machines =
            (0..10_000).map(|index| machine(&format!("machine-{index:05}"), plan.clone()));
        let world = World::with(machines.collect(), Vec::new(), "2026-06-10");
        let ids: Vec<_> = world.engine.machines().cloned().collect();
        let once = || {
            let started = Instant::now();
            let found: usize = ids
                .iter()
                .map(|id| world.engine.boundaries(id, world.now).len())
                .sum();
            assert!(found == 0 || found >= ids.len());
            started.elapsed()
        };
        let fastest = (0..15).map(|_| once()).min().unwrap();
        let each = fastest / 10_000;
        eprintln!(
            "boundaries, {}: {each:?} a machine, {fastest:?} for 10 000",
            plan.name
        );
        if cfg!(not(debug_assertions)) {
            assert!(each < Duration::from_micros(1), "{each:?}");
        }
    }
}
