//! Laws that hold for every history: the engine is tried with histories made at random.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::{build::*, world::*};
use crate::engine::{
    Effect, Observation,
    command::{Change, CommandAction, Until},
    money::price_of,
    period::Period,
    plan::*,
    units::*,
};

const ZONES: &[&str] = &[
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "America/Havana",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Africa/Casablanca",
    "Asia/Beirut",
];

fn anchor(day: u8) -> DayOfMonth {
    DayOfMonth::new(day).unwrap()
}

proptest! {
    #[test]
    fn periods_tile_time_for_every_anchor_zone_and_year(
        day in 1_u8..=31, name in proptest::sample::select(ZONES), from in 0_i64..4_000_000_000,
    ) {
        let zone = zone(name);
        let now = Timestamp::from_second(from).unwrap();
        let mut period = Period::containing(now, anchor(day), &zone);
        prop_assert!(period.start <= now && now < period.end);
        for _ in 0..30 {
            let next = period.following(anchor(day), &zone);
            prop_assert_eq!(next.start, period.end);
            // A month, more or less: nothing is skipped and nothing is squeezed in.
            let days = next.length() / 86_400_000_000_000;
            prop_assert!((26..=32).contains(&days), "{} days from {}", days, next.start);
            // Whoever sees the machine for the first time finds the same period.
            prop_assert_eq!(&Period::containing(next.start, anchor(day), &zone), &next);
            let last = next.end - SignedDuration::from_secs(1);
            prop_assert_eq!(&Period::containing(last, anchor(day), &zone), &next);
            period = next;
        }
    }

    #[test]
    fn periods_tile_time_when_anchor_and_zone_change_at_every_turn(
        days in proptest::collection::vec((1_u8..=31, proptest::sample::select(ZONES)), 1..40),
    ) {
        let utc = jiff::tz::TimeZone::UTC;
        let mut period = Period::containing(at("2025-12-10"), anchor(1), &utc);
        for (day, name) in days {
            let next = period.following(anchor(day), &zone(name));
            prop_assert_eq!(next.start, period.end);
            prop_assert!(next.end > next.start);
            period = next;
        }
    }
}

/// One thing that happens to a machine.
#[derive(Clone, Debug)]
enum Happening {
    /// So much in so many minutes.
    Traffic(u64, u32),
    /// Nothing, for so many hours.
    Pause(u32),
    TopUp(u64),
    FromPool(u64),
    Allowance(u64),
    Plan(usize),
    CostLimit(u32),
    Renewal(u8),
    Auto(bool),
    Suspend(Option<u32>),
    Lift(Option<u32>),
    PayLast,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (0_u64..300 * GB, 1_u32..6_000).prop_map(|(bytes, minutes)| {
            Happening::Traffic(bytes, minutes)
        }),
        4 => (1_u32..400).prop_map(Happening::Pause),
        1 => (1_u64..TB).prop_map(Happening::TopUp),
        1 => (1_u64..TB).prop_map(Happening::FromPool),
        1 => (0_u64..3 * TB).prop_map(Happening::Allowance),
        1 => (0_usize..5).prop_map(Happening::Plan),
        1 => (0_u32..20).prop_map(Happening::CostLimit),
        1 => (1_u8..=31).prop_map(Happening::Renewal),
        1 => any::<bool>().prop_map(Happening::Auto),
        1 => proptest::option::of(1_u32..100).prop_map(Happening::Suspend),
        2 => proptest::option::of(1_u32..100).prop_map(Happening::Lift),
        1 => Just(Happening::PayLast),
    ]
}

fn plans() -> [Plan; 5] {
    [
        invapi(),
        edis(),
        caasify(TB),
        calendar_suspend(),
        cdn_limit(),
    ]
}

/// A machine of an account with a pool, under one of the five plans, all of which exist.
fn world(plan: usize, name: &str) -> World {
    let machine = Machine {
        account: Some("acme".into()),
        time_zone: Some(zone(name)),
        ..machine("m", plans()[plan].clone())
    };
    let acme = Account {
        pool: Some(Bytes(5 * TB)),
        ..account("acme")
    };
    let mut terms = terms(vec![machine], vec![acme]);
    for plan in plans() {
        terms.plans.insert(plan.name.clone(), Arc::new(plan));
    }
    World::from_terms(terms, Default::default(), "2026-01-20")
}

fn until(hours: Option<u32>) -> Option<Until> {
    hours.map(|hours| Until::For(SignedDuration::from_hours(i64::from(hours))))
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Traffic(bytes, minutes) => {
            let end = world.now + SignedDuration::from_mins(i64::from(*minutes));
            let traffic = Traffic {
                received: Bytes(bytes / 3 * 2),
                sent: Bytes(bytes / 3),
                exempt: Bytes(bytes / 7),
            };
            world.travel(end, &[("m", traffic)]);
        }
        Happening::Pause(hours) => {
            let end = world.now + SignedDuration::from_hours(i64::from(*hours));
            world.travel(end, &[]);
        }
        Happening::TopUp(volume) => drop(world.top_up(*volume)),
        Happening::FromPool(volume) => drop(world.hydrate(*volume)),
        Happening::Allowance(volume) => drop(world.set(Change::Allowance(limited(*volume)))),
        Happening::Plan(index) => drop(world.set(Change::Plan(plans()[*index].name.clone()))),
        Happening::CostLimit(limit) => {
            world.set(Change::CostLimit(Some(money(&format!("{limit} USD")))));
        }
        Happening::Renewal(day) => drop(world.set(Change::RenewalDay(anchor(*day)))),
        Happening::Auto(on) => drop(world.set(Change::AutoUnsuspend(*on))),
        Happening::Suspend(hours) => {
            world.says(CommandAction::Suspend {
                machine: m(),
                until: until(*hours),
            });
        }
        Happening::Lift(hours) => drop(world.lift(until(*hours))),
        Happening::PayLast => {
            if let Some(bill) = world.engine.invoices(None).last() {
                let number = bill.invoice.clone();
                world.pay(&number);
            }
        }
    }
}

/// All that can be seen of an engine, as text.
fn seen(world: &World) -> String {
    let engine = &world.engine;
    serde_json::json!({
        "status": engine.status(&m(), world.now),
        "explain": engine.explain(&m(), world.now),
        "enforcement": engine.enforcement(&m()),
        "deadline": engine.deadline(),
        "invoices": engine.invoices(None),
        "balance": engine.balance(&"acme".into()),
        "offer": engine.offer(&m(), world.now),
    })
    .to_string()
}

proptest! {
    #[test]
    fn a_restart_after_every_step_changes_nothing(
        plan in 0_usize..5, name in proptest::sample::select(ZONES),
        history in proptest::collection::vec(happening(), 1..30),
    ) {
        let mut steady = world(plan, name);
        let mut restarting = world(plan, name);
        restarting.restarts = true;
        for event in &history {
            happen(&mut steady, event);
            happen(&mut restarting, event);
            prop_assert_eq!(seen(&steady), seen(&restarting));
        }
        prop_assert_eq!(steady.events, restarting.events);
        prop_assert_eq!(steady.ledger.closed, restarting.ledger.closed);
    }

    #[test]
    fn a_step_with_nothing_new_has_no_effect(
        plan in 0_usize..5, history in proptest::collection::vec(happening(), 1..20),
    ) {
        let mut world = world(plan, "Europe/Vienna");
        for event in &history {
            happen(&mut world, event);
            let before = world.engine.clone();
            let (told, saw) = (world.effects.len(), seen(&world));
            world.step(Observation::default());
            prop_assert_eq!(world.effects.len(), told);
            prop_assert_eq!(seen(&world), saw);
            prop_assert_eq!(world.engine.changes_since(&before), Default::default());
        }
    }

    #[test]
    fn every_byte_is_in_exactly_one_period(
        plan in 0_usize..5, history in proptest::collection::vec(happening(), 1..25),
    ) {
        let mut world = world(plan, "America/Havana");
        let mut moved = Bytes::ZERO;
        for event in &history {
            happen(&mut world, event);
            if let Happening::Traffic(bytes, _) = event {
                moved += Bytes(bytes / 3 * 2 + bytes / 3 + bytes / 7);
            }
        }
        let status = world.status();
        let closed: Bytes = world
            .ledger
            .closed
            .iter()
            .map(|(_, running)| running.traffic)
            .map(|traffic| traffic.received + traffic.sent + traffic.exempt)
            .sum();
        prop_assert_eq!(closed + status.received + status.sent + status.exempt, moved);
        let mut end = None;
        for (_, running) in &world.ledger.closed {
            prop_assert!(end.is_none_or(|end| end == running.period_start), "periods tile");
            end = Some(running.period_end);
        }
    }

    #[test]
    fn what_is_charged_is_the_price_of_the_excess_to_the_last_unit(
        parts in proptest::collection::vec(0_u64..200 * GB, 1..30),
    ) {
        let mut world = World::of(caasify(TB), "2026-06-01");
        for part in parts {
            world.uses(part);
            let excess = world.status().used.saturating_sub(Bytes(TB));
            let exact = price_of(excess, per(GB, "0.01"));
            let total = Money { amount: exact, currency: Currency::new("EUR").unwrap() }.rounded();
            prop_assert_eq!(world.charged(), total.amount);
        }
    }

    #[test]
    fn raising_an_allowance_never_worsens_a_state(
        plan in 0_usize..5, history in proptest::collection::vec(happening(), 1..20),
        more in 0_u64..3 * TB,
    ) {
        let mut world = world(plan, "UTC");
        for event in &history {
            happen(&mut world, event);
        }
        let before = world.status();
        if let Some(allowance) = before.allowance {
            world.set(Change::Allowance(Allowance::Limited(allowance)));
            let told = world.charged();
            let raised = world.status().allowance.unwrap() + Bytes(more);
            world.set(Change::Allowance(Allowance::Limited(raised)));
            prop_assert!(world.state() <= before.state);
            prop_assert_eq!(world.charged(), told, "nor charges anything");
        }
    }

    #[test]
    fn every_state_is_left_and_leaves_nothing_behind(
        plan in 0_usize..5, history in proptest::collection::vec(happening(), 1..20),
    ) {
        let mut world = world(plan, "UTC");
        for event in &history {
            happen(&mut world, event);
        }
        // Every cause is taken away: bills paid, volume without end, and a hand.
        for bill in world.engine.invoices(None) {
            world.pay(&bill.invoice);
        }
        world.set(Change::CostLimit(None));
        world.set(Change::Allowance(Allowance::Unlimited));
        world.says(CommandAction::Lift { machine: None, until: None });
        let status = world.status();
        prop_assert_eq!(status.state, crate::engine::event::State::Normal);
        prop_assert!(!status.flagged);
        prop_assert_eq!(status.rate_limit_bits_per_second, None);
        prop_assert_eq!(status.cap_remaining, None);
        prop_assert_eq!(world.enforcement(), crate::engine::Enforcement::None);
    }

    #[test]
    fn notices_have_each_an_id_of_its_own(
        plan in 0_usize..5, history in proptest::collection::vec(happening(), 1..30),
    ) {
        let mut world = world(plan, "UTC");
        for event in &history {
            happen(&mut world, event);
        }
        let mut ids: Vec<String> = Vec::new();
        for effect in &world.effects {
            if let Effect::Event(event) = effect
                && let crate::engine::event::EventKind::Notice { id, .. } = &event.kind
            {
                prop_assert!(!ids.contains(id), "{} twice", id);
                ids.push(id.clone());
            }
        }
    }

    #[test]
    fn commands_of_one_instant_are_all_obeyed_whatever_their_order(
        volumes in proptest::collection::vec(1_u64..TB, 1..10), swap: bool,
    ) {
        let mut world = World::of(edis(), "2026-06-10");
        let mut commands: Vec<_> = volumes
            .iter()
            .map(|volume| crate::engine::command::Command {
                author: "ops".to_owned(),
                reason: None,
                action: CommandAction::TopUp {
                    machine: m(),
                    volume: Bytes(*volume),
                    from_pool: false,
                },
            })
            .collect();
        if swap {
            commands.reverse();
        }
        world.step(Observation { traffic: Vec::new(), commands });
        let added: u64 = volumes.iter().sum();
        prop_assert_eq!(world.status().allowance, Some(Bytes(TB + added)));
    }

    #[test]
    fn an_outage_loses_nothing_and_bills_the_same(
        parts in proptest::collection::vec((0_u64..900 * GB, 600_u32..30_000), 1..12),
    ) {
        // Stepped at every part, and in one reading after all of them at the same rate.
        let mut steady = World::of(invapi(), "2026-01-01");
        let mut down = World::of(invapi(), "2026-01-01");
        let rate = parts[0];
        let mut minutes = 0_u64;
        for _ in &parts {
            happen(&mut steady, &Happening::Traffic(rate.0 / 3 * 3, rate.1));
            minutes += u64::from(rate.1);
        }
        let total = rate.0 / 3 * 3 * u64::try_from(parts.len()).unwrap();
        let from = down.now;
        down.now = from + SignedDuration::from_mins(i64::try_from(minutes).unwrap());
        down.step(Observation {
            traffic: vec![crate::engine::Sample {
                machine: m(),
                from,
                to: down.now,
                traffic: Traffic {
                    received: Bytes(total / 3 * 2),
                    sent: Bytes(total / 3),
                    exempt: Bytes::ZERO,
                },
            }],
            commands: Vec::new(),
        });
        let periods = |world: &World| -> Vec<(Timestamp, Timestamp)> {
            world.ledger.closed.iter().map(|(_, it)| (it.period_start, it.period_end)).collect()
        };
        prop_assert_eq!(periods(&steady), periods(&down));
        for (one, other) in steady.ledger.closed.iter().zip(&down.ledger.closed) {
            let difference = one.1.traffic.received.0.abs_diff(other.1.traffic.received.0);
            // Each boundary rounds a byte once in each part.
            prop_assert!(difference <= 1 + u64::try_from(parts.len()).unwrap());
        }
        let amounts = |world: &World| -> Vec<Decimal> {
            world.engine.invoices(None).iter().map(|bill| bill.amount.amount).collect()
        };
        prop_assert_eq!(amounts(&steady).len(), amounts(&down).len());
        for (one, other) in amounts(&steady).iter().zip(&amounts(&down)) {
            prop_assert!((one - other).abs() <= Decimal::new(1, 2));
        }
    }
}
