//! More laws: charges, commands of one instant, states that are left, limits in the kernel.

use jiff::SignedDuration;
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::{build::*, world::*};
use crate::engine::{
    Effect, Enforcement, Observation,
    command::{Change, Command, CommandAction},
    event::State,
    money::price_of,
    plan::*,
    units::*,
};

/// Rules that act, at any figure, in any order.
fn acting_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        (1_u64..500).prop_map(|kbit| Action::Throttle(BitsPerSecond(kbit * 1_000))),
        (0_u64..400 * GB).prop_map(|volume| Action::Cap(Bytes(volume))),
        Just(Action::Suspend),
    ];
    let word = proptest::sample::select(&["used", "over"][..]);
    (
        word,
        1_u32..200,
        action,
        proptest::bool::weighted(0.2),
        0_i64..2,
    )
        .prop_map(|(word, percent, action, by_hand, hours)| {
            let mut rule = rule(&format!("{word} {percent}%")).act(action);
            if by_hand {
                rule = rule.by_hand();
            }
            match hours {
                0 => rule,
                hours => rule.after_hours(hours),
            }
        })
}

/// Some of them, no two of one name: a plan's file may have no twins.
fn acting_rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(acting_rule(), 1..6).prop_map(|mut rules| {
        rules.sort_by(|one, other| one.name.cmp(&other.name));
        rules.dedup_by(|one, other| one.name == other.name);
        rules
    })
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![
        Just(Direction::Sum),
        Just(Direction::Received),
        Just(Direction::Larger),
    ]
}

/// Whether packets notice it.
fn is_felt(enforcement: Enforcement) -> bool {
    !matches!(enforcement, Enforcement::None)
        && !matches!(enforcement, Enforcement::Cap { remaining } if remaining > Bytes::ZERO)
}

fn received_at_once(world: &mut World, bytes: u64) {
    let now = world.now;
    world.receive(now, bytes);
}

proptest! {
    #[test]
    fn what_the_kernel_is_told_of_a_boundary_is_what_the_engine_does_at_that_byte(
        rules in acting_rules(), direction in direction(),
        parts in proptest::collection::vec((0_u64..200 * GB, 0_u64..200 * GB), 0..8),
        lifted: bool,
    ) {
        let plan = Plan { rules, direction, ..plan("p", TB) };
        let mut world = World::of(plan, "2026-06-10");
        for (received, sent) in parts {
            let until = world.now + SignedDuration::from_mins(20);
            let traffic = Traffic { received: Bytes(received), sent: Bytes(sent), exempt: Bytes(9) };
            world.travel(until, &[("m", traffic)]);
        }
        if lifted {
            world.lift(None);
        }
        // Twice: what comes after the first is what was foretold behind it.
        for _ in 0..2 {
            let boundaries = world.engine.boundaries(&m(), world.now);
            prop_assert!(boundaries.len() <= 2);
            let before = world.enforcement();
            let Some(first) = boundaries.first() else {
                // However much comes, nothing harder does.
                received_at_once(&mut world, 100 * TB);
                let after = world.enforcement();
                prop_assert!(after == before || !is_felt(after), "{:?} after {:?}", after, before);
                break;
            };
            let left = first.left.sum.or(first.left.received).unwrap();
            if left > Bytes::ZERO {
                received_at_once(&mut world, left.0 - 1);
                let short = world.enforcement();
                prop_assert!(short == before || !is_felt(short), "{:?} a byte before", short);
                received_at_once(&mut world, 1);
            }
            prop_assert_eq!(world.enforcement(), first.then);
        }
    }

    #[test]
    fn raising_an_allowance_brings_no_boundary_nearer(
        rules in acting_rules(), direction in direction(),
        used in 0_u64..2 * TB, more in 0_u64..TB,
    ) {
        let plan = Plan { rules, direction, ..plan("p", TB) };
        let mut world = World::of(plan, "2026-06-10");
        world.uses(used);
        let harder = |then: Enforcement| match then {
            Enforcement::None => (0, 0),
            Enforcement::Throttle(rate) => (1, u64::MAX - rate.0),
            Enforcement::Cap { remaining } => (2, u64::MAX - remaining.0),
            Enforcement::Suspend => (3, 0),
        };
        let first = |world: &World| {
            let boundary = world.engine.boundaries(&m(), world.now).first().copied();
            boundary.map(|it| it.left.sum.or(it.left.received).unwrap())
        };
        let (before, nearest) = (world.enforcement(), first(&world));
        world.set(Change::Allowance(limited(TB + more)));
        prop_assert!(harder(world.enforcement()) <= harder(before));
        if world.enforcement() == before
            && let (Some(before), Some(after)) = (nearest, first(&world))
        {
            prop_assert!(after >= before, "{} after {}", after, before);
        }
    }

    #[test]
    fn what_is_charged_depends_on_no_step(
        parts in proptest::collection::vec(0_u64..200 * GB, 1..20), price in 0_u32..50_000,
    ) {
        let tariff = Tariff { per: Bytes(GB), price: Decimal::new(i64::from(price), 6) };
        let mut plan = caasify(TB);
        plan.price.as_mut().unwrap().overage = Some(Overage {
            tariff,
            collect: CollectOverage::Balance,
        });
        let total = parts.iter().sum::<u64>();
        let mut many = World::of(plan.clone(), "2026-06-01");
        for part in &parts {
            many.uses(*part);
        }
        let mut one = World::of(plan, "2026-06-01");
        one.uses(total);
        let excess = Bytes(total.saturating_sub(TB));
        let exact = Money { amount: price_of(excess, tariff), currency: "1 EUR".parse::<Money>().unwrap().currency };
        prop_assert_eq!(many.charged(), exact.rounded().amount);
        prop_assert_eq!(one.charged(), many.charged());
    }

    #[test]
    fn of_commands_of_one_instant_none_is_lost_in_any_order(
        order in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(), used in 0_u64..1_300 * GB,
    ) {
        let acme = Account { pool: Some(Bytes(TB)), ..account("acme") };
        let mut world = World::with_account(edis(), acme, "2026-06-10");
        world.uses(used).forget_events();
        let top_up = |volume, from_pool| CommandAction::TopUp { machine: m(), volume: Bytes(volume), from_pool };
        let balance = |add: i64| CommandAction::Balance { account: "acme".into(), add: Decimal::from(add) };
        // Each with the event by which it is seen, if it is not refused.
        let all = [
            (top_up(100 * GB, false), "topped-up"),
            (top_up(50 * GB, true), "topped-up"),
            (top_up(2 * TB, true), "topped-up"),
            (CommandAction::Set { machine: m(), change: Change::Allowance(limited(1_100 * GB)) }, "changed"),
            (balance(7), "balance"),
            (balance(-3), "balance"),
            (CommandAction::Suspend { machine: m(), until: None }, "suspended"),
            (CommandAction::Lift { machine: Some(m()), until: None }, "lifted"),
        ];
        let commands = order.iter().map(|index| Command {
            author: "ops".to_owned(),
            reason: None,
            action: all[*index].0.clone(),
        });
        world.step(Observation { traffic: Vec::new(), commands: commands.collect() });
        let told = |word| world.told(word).len();
        let answers = ["topped-up", "changed", "balance", "suspended", "lifted", "refused"];
        prop_assert_eq!(answers.map(told).iter().sum::<usize>(), all.len(), "{:?}", world.words());
        // The pool is too small for one of them, and there may be nothing to lift.
        prop_assert!((1..=2).contains(&told("refused")), "{:?}", world.words());
        // What they add up to does not depend on who came first.
        prop_assert_eq!(world.status().allowance, Some(Bytes(1_250 * GB)));
        prop_assert_eq!(world.status().pool.unwrap().left, Bytes(950 * GB));
        let view = world.engine.balance(&"acme".into()).unwrap();
        prop_assert_eq!(view.balance, Some(money("4 EUR")));
        let place = |command| order.iter().position(|index| *index == command);
        let suspended = world.state() == State::Suspended;
        prop_assert_eq!(suspended, place(7) < place(6), "staff's word stands until it is lifted");
    }
}

/// What may end a state.
#[derive(Clone, Copy, Debug)]
enum End {
    TopUp,
    Pool,
    Allowance,
    Upgrade,
    Reset,
    Lift,
    LiftAll,
    NoRules,
    Cancel,
}

const ENDS: [End; 9] = [
    End::TopUp,
    End::Pool,
    End::Allowance,
    End::Upgrade,
    End::Reset,
    End::Lift,
    End::LiftAll,
    End::NoRules,
    End::Cancel,
];

fn end(world: &mut World, end: End) {
    match end {
        End::TopUp => drop(world.top_up(5 * TB)),
        End::Pool => drop(world.hydrate(5 * TB)),
        End::Allowance => drop(world.set(Change::Allowance(limited(5 * TB)))),
        End::Upgrade => drop(world.set(Change::Plan("bigger".into()))),
        End::Reset => drop(world.wait("2026-07-01")),
        End::Lift => drop(world.lift(None)),
        End::LiftAll => {
            world.says(CommandAction::Lift {
                machine: None,
                until: None,
            });
        }
        End::NoRules => {
            let mut terms = world.terms.clone();
            terms.machines.get_mut(&m()).unwrap().plan = Some(plan("p", TB).into());
            world.set_terms(terms);
        }
        End::Cancel => drop(world.says(CommandAction::Cancel { machine: m() })),
    }
}

fn hit(rule: &Rule) -> World {
    let under = |name, allowance| Plan {
        rules: vec![rule.clone()],
        ..plan(name, allowance)
    };
    let acme = Account {
        pool: Some(Bytes(10 * TB)),
        ..account("acme")
    };
    let mut world = World::with_account(under("p", TB), acme, "2026-06-10");
    let mut terms = world.terms.clone();
    let bigger = under("bigger", 5 * TB);
    terms.plans.insert("bigger".into(), bigger.into());
    world.set_terms(terms);
    world.uses(1_100 * GB);
    world
}

#[test]
fn every_state_is_left_by_each_of_its_causes_and_leaves_nothing_behind() {
    let rules = [
        rule("used 100%").throttle().notify(),
        rule("used 100%").act(Action::Cap(Bytes(GB))).notify(),
        rule("used 100%").suspend().notify(),
        rule("over 100%").flag().notify(),
        rule("used 100%").throttle().flag(),
    ];
    for rule in &rules {
        for cause in ENDS {
            let mut world = hit(rule);
            let status = world.status();
            assert!(status.state != State::Normal || status.flagged, "{rule:?}");
            let lifts = matches!(cause, End::Lift | End::LiftAll);
            if lifts && rule.flag {
                // A flag does nothing, so that there is nothing to lift.
                continue;
            }
            end(&mut world, cause);
            let what = format!("{} by {cause:?}", rule.name);
            for world in [&world, &restarted(&world)] {
                let status = world.status();
                assert_eq!(status.state, State::Normal, "{what}");
                assert!(!status.flagged, "{what}");
                assert_eq!(status.rule, None, "{what}");
                assert_eq!(status.rate_limit_bits_per_second, None, "{what}");
                assert_eq!(status.cap_remaining, None, "{what}");
                assert_eq!(world.enforcement(), Enforcement::None, "{what}");
            }
            let said = world.effects.iter().rev().find_map(|effect| match effect {
                Effect::Enforce(_, enforcement) => Some(*enforcement),
                Effect::Event(_) => None,
            });
            if rule.action.is_some() {
                assert_eq!(said, Some(Enforcement::None), "{what}: and it is said");
            }
        }
    }
}

/// The same, as it comes back from what was kept.
fn restarted(world: &World) -> World {
    let mut again = World::from_terms(world.terms.clone(), world.settings, "2026-06-10");
    again.now = world.now;
    again.ledger = world.ledger.clone();
    again.restart();
    again
}

#[test]
fn each_state_that_waits_for_a_hand_is_left_by_a_hand_and_by_nothing_else() {
    for action in [
        Action::Throttle(BitsPerSecond(64_000)),
        Action::Cap(Bytes(GB)),
        Action::Suspend,
    ] {
        let rule = rule("used 100%").act(action).by_hand();
        for cause in ENDS {
            let mut world = hit(&rule);
            end(&mut world, cause);
            let by_hand = matches!(cause, End::Lift | End::LiftAll | End::Cancel);
            assert_eq!(
                world.state() == State::Normal,
                by_hand,
                "{action:?} by {cause:?}"
            );
            if !by_hand {
                world.lift(None);
            }
            assert_eq!(
                world.enforcement(),
                Enforcement::None,
                "{action:?} by {cause:?}"
            );
        }
    }
}
