//! Commands, overrides, the circuit breaker, and the fine print.

use jiff::SignedDuration;
use rust_decimal::Decimal;

use super::{build::*, world::*};
use crate::engine::{
    Effect, Enforcement, EngineSettings, Event,
    command::{Change, CommandAction, SettingKey, Until},
    event::{EventKind, State},
    plan::*,
    units::*,
};

fn throttled() -> World {
    let mut world = World::of(edis(), "2026-06-10");
    world.uses(1_100 * GB);
    assert_eq!(world.state(), State::Throttled);
    world
}

fn for_hours(hours: i64) -> Option<Until> {
    Some(Until::For(SignedDuration::from_hours(hours)))
}

fn suspend(world: &mut World, until: Option<Until>) {
    world.says(CommandAction::Suspend {
        machine: m(),
        until,
    });
}

#[test]
fn a_lift_while_the_trigger_holds_is_an_override_until_the_period_ends() {
    let mut world = throttled();
    world.lift(None);
    assert_eq!(world.state(), State::Normal);
    world.uses(GB).wait("2026-06-30T23:59:59");
    assert_eq!(world.state(), State::Normal);
    let EventKind::Lifted { until, by, .. } = &world.told("lifted")[0].kind else {
        panic!("lifted");
    };
    assert_eq!((*until, by.as_str()), (Some(at("2026-07-01")), "ops"));
    world.wait("2026-07-01").uses(1_100 * GB);
    assert_eq!(
        world.state(),
        State::Throttled,
        "the next period has its own rules"
    );
}

#[test]
fn an_override_ends_at_its_time_and_the_rule_acts_again_and_says_so_again() {
    let mut world = throttled();
    let before = world.notices().len();
    world.lift(for_hours(2)).wait("2026-06-10T02:00:59");
    assert_eq!(world.state(), State::Normal);
    world.wait("2026-06-10T02:01:00");
    assert_eq!(world.state(), State::Throttled);
    assert_eq!(world.told("override-ended").len(), 1);
    assert_eq!(
        world.notices().len(),
        before + 2,
        "that it ended, that it began again"
    );
    let mut ids: Vec<_> = world
        .told("notice")
        .iter()
        .map(|event| format!("{:?}", event.kind))
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), world.notices().len());
}

#[test]
fn an_override_ends_when_its_trigger_ceases_to_hold() {
    let mut world = throttled();
    world.lift(None).top_up(TB);
    assert_eq!(world.told("override-ended").len(), 1);
    world.uses(TB);
    assert_eq!(world.state(), State::Throttled, "it was armed anew");
}

#[test]
fn a_lift_overrides_what_is_in_force_and_other_rules_still_act() {
    let mut plan = edis();
    plan.rules.push(rule("used 200%").suspend());
    let mut world = World::of(plan, "2026-06-10");
    world.uses(1_100 * GB).lift(None);
    assert_eq!(world.state(), State::Normal);
    world.uses(900 * GB);
    assert_eq!(world.state(), State::Suspended);
    assert_eq!(world.status().rule, Some("used 200%".into()));
}

#[test]
fn a_lift_with_nothing_in_force_is_refused() {
    let mut world = World::of(edis(), "2026-06-10");
    world.lift(None);
    world.says(CommandAction::Lift {
        machine: None,
        until: None,
    });
    assert_eq!(world.words(), ["period-started", "refused", "refused"]);
}

#[test]
fn a_suspension_by_staff_is_lifted_by_no_top_up_reset_or_payment() {
    let mut world = throttled();
    suspend(&mut world, None);
    assert_eq!(world.state(), State::Suspended);
    assert_eq!(world.status().rule, None);
    world.top_up(5 * TB);
    assert_eq!(world.state(), State::Suspended);
    world.wait("2026-08-02");
    assert_eq!(world.state(), State::Suspended);
    world.restart();
    assert_eq!(world.enforcement(), Enforcement::Suspend);
    world.lift(None);
    assert_eq!(world.state(), State::Normal);
    let EventKind::Suspended { by, reason, .. } = &world.told("suspended")[0].kind else {
        panic!("suspended");
    };
    assert_eq!(
        (by.as_deref(), reason.as_deref()),
        (Some("ops"), Some("because"))
    );
}

#[test]
fn a_suspension_by_staff_never_outlives_its_expiry_and_gives_way_to_the_rule_behind_it() {
    let mut world = throttled();
    suspend(&mut world, for_hours(3));
    world.wait("2026-06-10T03:01:00");
    assert_eq!(world.state(), State::Throttled);
    assert_eq!(
        world.told("restored").len(),
        0,
        "suspended to throttled is `throttled`"
    );
    let last = world.told("throttled")[1];
    let EventKind::Throttled { from, .. } = last.kind else {
        panic!("throttled");
    };
    assert_eq!(from, State::Suspended);
}

#[test]
fn an_end_in_the_past_is_refused() {
    let mut world = throttled();
    suspend(&mut world, Some(Until::At(at("2026-06-01"))));
    world.lift(Some(Until::At(at("2026-06-01"))));
    assert_eq!(world.told("refused").len(), 2);
    assert_eq!(world.state(), State::Throttled);
}

#[test]
fn what_a_command_set_wins_over_the_files_is_shown_and_ends_with_unset() {
    let mut world = throttled();
    world.set(Change::Allowance(limited(2 * TB)));
    let mut terms = world.terms.clone();
    terms.machines.get_mut(&m()).unwrap().allowance = Some(limited(500 * GB));
    world.set_terms(terms);
    world.restart();
    assert_eq!(world.status().allowance, Some(Bytes(2 * TB)));
    let explained = world.engine.explain(&m(), world.now).unwrap();
    assert_eq!(
        explained.settings,
        ["allowance = 2 TB, set by ops on 2026-06-10T00:01:00+00:00"]
    );
    world.says(CommandAction::Unset {
        machine: m(),
        key: SettingKey::Allowance,
    });
    assert_eq!(world.status().allowance, Some(Bytes(500 * GB)));
    assert_eq!(world.state(), State::Throttled);
    world.says(CommandAction::Unset {
        machine: m(),
        key: SettingKey::Allowance,
    });
    assert_eq!(world.told("refused").len(), 1);
}

#[test]
fn set_renewal_day_keeps_the_running_end_and_the_next_runs_to_the_new_day() {
    let mut world = World::of(edis(), "2026-06-10");
    world.set(Change::RenewalDay(DayOfMonth::new(15).unwrap()));
    assert_eq!(world.status().period.end, "2026-07-01T00:00:00+00:00");
    world.wait("2026-07-01");
    assert_eq!(world.status().period.start, "2026-07-01T00:00:00+00:00");
    assert_eq!(world.status().period.end, "2026-07-15T00:00:00+00:00");
}

#[test]
fn what_makes_no_sense_is_refused_and_says_why() {
    let mut world = World::with_account(cdn_limit(), account("acme"), "2026-06-01");
    world.top_up(TB);
    world.set(Change::Plan("nonsense".into()));
    world.set(Change::CostLimit(Some(money("1 EUR"))));
    world.hydrate(0);
    world.pay(&"2026-000001".into());
    world.says(CommandAction::Confirm);
    world.says(CommandAction::Cancel {
        machine: "nobody".into(),
    });
    world.says(CommandAction::Balance {
        account: "nobody".into(),
        add: Decimal::ONE,
    });
    let reasons: Vec<_> = world
        .told("refused")
        .iter()
        .map(|event| match &event.kind {
            EventKind::Refused { reason, .. } => reason.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    let words = [
        "unlimited",
        "cdn-limit",
        "USD",
        "0 bytes",
        "no bill",
        "held back",
        "no machine",
        "no account",
    ];
    assert_eq!(reasons.len(), words.len(), "{reasons:?}");
    for (reason, word) in reasons.iter().zip(words) {
        assert!(reason.contains(word), "{word}: {reason}");
    }
}

#[test]
fn a_balance_moves_by_command_and_may_go_below_zero() {
    let mut world = World::with_account(edis(), account("acme"), "2026-06-01");
    for add in [10, -25] {
        world.says(CommandAction::Balance {
            account: "acme".into(),
            add: Decimal::from(add),
        });
    }
    let view = world.engine.balance(&"acme".into()).unwrap();
    assert_eq!(view.balance, Some(money("-15 EUR")));
    assert_eq!(view.transactions.len(), 2);
    assert_eq!(world.state(), State::Normal);
}

#[test]
fn of_several_notices_passed_in_the_same_step_the_highest_speaks() {
    let mut world = World::of(edis(), "2026-06-01");
    world.uses(500 * GB).uses(510 * GB);
    assert_eq!(world.notices(), ["used 100%"]);
    world.uses(GB);
    assert_eq!(world.notices(), ["used 100%"], "the others do not follow");
}

#[test]
fn a_trigger_is_armed_anew_when_it_has_ceased_to_hold() {
    let mut world = World::of(edis(), "2026-06-01");
    world.uses(850 * GB).top_up(TB).uses(800 * GB);
    assert_eq!(world.notices(), ["used 80%", "used 80%"]);
    let ids: Vec<_> = world
        .told("notice")
        .iter()
        .map(|event| match &event.kind {
            EventKind::Notice { id, .. } => id.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        ids,
        [
            "m/20260601T000000Z/used-80pct/1",
            "m/20260601T000000Z/used-80pct/2"
        ]
    );
}

#[test]
fn the_strongest_action_in_force_wins() {
    let mut plan = edis();
    plan.rules
        .push(rule("used 110%").act(Action::Cap(Bytes(50 * GB))));
    plan.rules.push(rule("used 120%").suspend());
    let mut world = World::of(plan, "2026-06-01");
    let mut states = Vec::new();
    for used in [1_050, 1_100, 1_200] {
        let more = used * GB - world.status().used.0;
        world.uses(more);
        states.push(world.state());
    }
    assert_eq!(states, [State::Throttled, State::Capped, State::Suspended]);
    world.forget_events().top_up(120 * GB);
    assert_eq!(world.state(), State::Throttled, "107 %");
    assert_eq!(world.words(), ["topped-up", "throttled"]);
}

#[test]
fn an_allowance_of_0_is_reached_at_once_and_unlimited_never() {
    let mut nothing = edis();
    nothing.allowance = limited(0);
    let world = World::of(nothing, "2026-06-01");
    assert_eq!(world.state(), State::Throttled);
    let mut everything = edis();
    everything.allowance = Allowance::Unlimited;
    let mut world = World::of(everything, "2026-06-01");
    world.uses(1_000_000 * TB);
    assert_eq!(world.state(), State::Normal);
    assert_eq!(world.notices().len(), 0);
}

#[test]
fn a_machine_without_a_plan_has_calendar_months_and_no_limit() {
    let machine = Machine {
        plan: None,
        time_zone: Some(zone("Asia/Tokyo")),
        ..machine("m", edis())
    };
    let mut world = World::with(vec![machine], Vec::new(), "2026-06-10");
    world.uses(1_000 * TB);
    let status = world.status();
    assert_eq!((status.allowance, status.plan), (None, None));
    assert_eq!(status.period.start, "2026-06-01T00:00:00+09:00");
    assert_eq!(world.words(), ["period-started"]);
}

#[test]
fn enforce_false_decides_and_records_and_does_nothing() {
    let mut watched = edis();
    watched.enforce = false;
    let mut world = World::of(watched, "2026-06-01");
    world.uses(1_100 * GB);
    assert_eq!(world.state(), State::Throttled);
    assert_eq!(world.told("throttled").len(), 1);
    assert_eq!(world.enforcement(), Enforcement::None);
    let enforced = |effect: &Effect| matches!(effect, Effect::Enforce(..));
    assert!(!world.effects.iter().any(enforced));
}

#[test]
fn enforcing_what_was_only_watched_is_said_to_whoever_carries_it_out() {
    let mut watched = edis();
    watched.enforce = false;
    let mut world = World::of(watched, "2026-06-01");
    world.uses(1_100 * GB);
    let mut terms = world.terms.clone();
    terms.machines.get_mut(&m()).unwrap().plan = Some(std::sync::Arc::new(edis()));
    world.set_terms(terms);
    let throttle = Enforcement::Throttle(BitsPerSecond(64_000));
    assert_eq!(world.effects.last(), Some(&Effect::Enforce(m(), throttle)));
    world.top_up(TB);
    assert!(
        world
            .effects
            .contains(&Effect::Enforce(m(), Enforcement::None))
    );
}

#[test]
fn a_cap_that_is_used_up_is_said_to_whoever_carries_it_out() {
    let mut capping = plan("capping", TB);
    capping.rules = vec![rule("used 100%").act(Action::Cap(Bytes(GB)))];
    let mut world = World::of(capping, "2026-06-01");
    world.uses(TB).uses(GB / 2).uses(GB / 2).uses(GB);
    let remaining: Vec<_> = world
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Enforce(_, Enforcement::Cap { remaining }) => Some(remaining.0),
            _ => None,
        })
        .collect();
    assert_eq!(remaining, [GB, 0]);
}

#[test]
fn a_dry_run_does_nothing_either() {
    let settings = EngineSettings {
        dry_run: true,
        ..EngineSettings::default()
    };
    let terms = terms(vec![machine("m", edis())], Vec::new());
    let mut world = World::from_terms(terms, settings, "2026-06-01");
    world.uses(1_100 * GB);
    world.restart();
    assert_eq!(world.state(), State::Throttled);
    assert_eq!(world.enforcement(), Enforcement::None);
}

#[test]
fn unused_volume_rolls_over_once_and_is_used_first() {
    let mut rolling = edis();
    rolling.rollover = Rollover::Unused;
    let mut world = World::of(rolling, "2026-06-01");
    world.moves("2026-07-01", 600 * GB);
    assert_eq!(world.status().allowance, Some(Bytes(1_400 * GB)));
    // 300 of the 400 that rolled over are used, 100 of it is lost; its own TB rolls.
    world.moves("2026-08-01", 300 * GB);
    assert_eq!(world.status().allowance, Some(Bytes(2 * TB)));
    world.top_up(500 * GB).moves("2026-09-01", 1_200 * GB);
    // The 1000 that rolled over, 200 of its own; 800 and the top-up roll.
    assert_eq!(world.status().allowance, Some(Bytes(2_300 * GB)));
}

#[test]
fn extra_may_be_deducted_from_the_balance_at_once() {
    let mut plan = calendar_suspend();
    plan.price.as_mut().unwrap().extra.as_mut().unwrap().collect = CollectExtra::Balance;
    let mut world = World::with_account(plan, account("acme"), "2026-06-16");
    world.top_up(TB);
    let view = world.engine.balance(&"acme".into()).unwrap();
    assert_eq!(
        view.balance,
        Some(money("-1.50 EUR")),
        "half of the month is left"
    );
    assert_eq!(world.status().allowance, Some(Bytes(2 * TB)));
}

#[test]
fn an_extra_bill_under_autopay_brings_its_volume_at_once() {
    let acme = Account {
        autopay: true,
        ..account("acme")
    };
    let mut world = World::with_account(invapi(), acme, "2026-06-16");
    world.top_up(TB);
    assert_eq!(
        world.words(),
        ["period-started", "invoiced", "paid", "topped-up"]
    );
}

#[test]
fn notify_on_a_rule_that_acts_speaks_beside_the_states_own_event() {
    let mut world = throttled();
    assert_eq!(
        world.words(),
        ["period-started", "notice", "throttled", "notice"]
    );
    world.forget_events().top_up(TB);
    assert_eq!(world.words(), ["topped-up", "restored", "notice"]);
}

#[test]
fn another_plan_keeps_the_period_what_was_used_and_what_was_told() {
    let mut world = World::of(edis(), "2026-06-10");
    let mut terms = world.terms.clone();
    let mut other = edis();
    other.name = "edis-2".into();
    other.rules.remove(1);
    terms
        .plans
        .insert(other.name.clone(), std::sync::Arc::new(other));
    world.set_terms(terms);
    world.uses(850 * GB).set(Change::Plan("edis-2".into()));
    assert_eq!(world.status().used, Bytes(850 * GB));
    assert_eq!(world.notices(), ["used 80%"]);
    world.uses(200 * GB);
    assert_eq!(world.state(), State::Throttled);
}

#[test]
fn another_action_under_the_same_name_is_told_as_one() {
    let plans = [
        ("softer", Action::Throttle(BitsPerSecond(64_000))),
        ("harder", Action::Suspend),
        ("capping", Action::Cap(Bytes(GB))),
    ];
    let [softer, harder, capping] = plans.map(|(name, action)| Plan {
        rules: vec![rule("used 100%").act(action).notify()],
        ..plan(name, TB)
    });
    let mut world = World::of(softer, "2026-06-10");
    let mut terms = world.terms.clone();
    for plan in [harder, capping] {
        terms
            .plans
            .insert(plan.name.clone(), std::sync::Arc::new(plan));
    }
    world.set_terms(terms);
    world.uses(TB).forget_events();
    world.set(Change::Plan("harder".into()));
    assert_eq!(world.words(), ["changed", "suspended", "notice"]);
    world.uses(GB).forget_events();
    world.set(Change::Plan("capping".into()));
    assert_eq!(world.words(), ["changed", "capped", "notice", "notice"]);
    assert_eq!(world.status().cap_remaining, Some(Bytes(GB)));
    let mut ids: Vec<String> = world
        .told("notice")
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Notice { id, .. } => Some(id.clone()),
            _ => None,
        })
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 2, "each has an id of its own");
}

#[test]
fn what_waits_for_a_hand_waits_though_the_plan_has_the_rule_no_more() {
    let mut world = World::of(cdn_limit(), "2026-06-10");
    world.set(Change::Allowance(limited(GB)));
    world.uses(2 * GB);
    assert_eq!(world.state(), State::Suspended);
    let mut terms = world.terms.clone();
    let mut changed = cdn_limit();
    changed.rules.remove(0);
    terms.machines.get_mut(&m()).unwrap().plan = Some(std::sync::Arc::new(changed));
    world.set_terms(terms);
    assert_eq!(world.state(), State::Suspended);
    world.restart();
    world.uses(GB);
    assert_eq!(world.state(), State::Suspended);
    world.lift(None);
    assert_eq!(world.state(), State::Normal);
}

#[test]
fn what_waits_for_a_hand_is_told_when_it_comes_to_stand_though_the_plan_has_the_rule_no_more() {
    let mut both = plan("both", TB);
    both.rules = vec![
        rule("used 100%").throttle().notify().by_hand(),
        rule("used 110%").suspend(),
    ];
    let mut world = World::of(both, "2026-06-10");
    let mut terms = world.terms.clone();
    let cdn = cdn_limit();
    terms
        .plans
        .insert(cdn.name.clone(), std::sync::Arc::new(cdn));
    world.set_terms(terms);
    world.uses(2 * TB);
    assert_eq!(world.told("notice").len(), 0, "something harder stands");
    world.set(Change::Plan("cdn-limit".into()));
    assert_eq!(world.state(), State::Throttled);
    assert_eq!(world.notices(), ["used 100%"]);
}

fn crowd(machines: usize) -> World {
    let machines = (0..machines).map(|index| machine(&format!("m{index:03}"), edis()));
    World::with(machines.collect(), Vec::new(), "2026-06-10")
}

fn all_use(world: &mut World, count: usize, gigabytes: u64) {
    let names: Vec<_> = (0..count).map(|index| format!("m{index:03}")).collect();
    let traffic = Traffic {
        received: Bytes(gigabytes * GB),
        ..Traffic::ZERO
    };
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), traffic)).collect();
    let until = world.now + SignedDuration::from_mins(1);
    world.travel(until, &all);
}

fn throttled_in(world: &World) -> usize {
    let machines = world.engine.machines();
    machines
        .filter(|id| world.engine.enforcement(id) != Enforcement::None)
        .count()
}

#[test]
fn the_circuit_breaker_holds_a_step_back_that_would_hit_too_many() {
    for (machines, hit, held) in [
        (40, 11, true),
        (40, 10, false),
        (100, 20, false),
        (100, 21, true),
    ] {
        let mut world = crowd(machines);
        all_use(&mut world, hit, 1_100);
        assert_eq!(
            world.told("held-back").len(),
            usize::from(held),
            "{hit} of {machines}"
        );
        assert_eq!(throttled_in(&world), if held { 0 } else { hit });
    }
}

#[test]
fn confirm_lets_happen_what_was_held_back() {
    let mut world = crowd(40);
    all_use(&mut world, 20, 1_100);
    all_use(&mut world, 20, 1);
    assert_eq!(world.told("held-back").len(), 1, "told once");
    world.restart();
    world.says(CommandAction::Confirm);
    assert_eq!(throttled_in(&world), 20);
    all_use(&mut world, 20, 1);
    assert_eq!(world.told("held-back").len(), 1);
}

#[test]
fn a_correction_resolves_what_was_held_back() {
    let mut world = crowd(40);
    all_use(&mut world, 20, 1_100);
    let mut terms = world.terms.clone();
    for (_, machine) in terms.machines.iter_mut().skip(3) {
        machine.allowance = Some(limited(5 * TB));
    }
    world.set_terms(terms);
    assert_eq!(throttled_in(&world), 3, "few enough are left");
}

/// One after the other, each in a step of its own, so many seconds apart.
fn one_by_one(world: &mut World, indices: std::ops::Range<usize>, seconds: i64) {
    for index in indices {
        let until = world.now + SignedDuration::from_secs(seconds);
        let traffic = Traffic {
            received: Bytes(1_100 * GB),
            ..Traffic::ZERO
        };
        world.travel(until, &[(format!("m{index:03}").as_str(), traffic)]);
    }
}

#[test]
fn the_circuit_breaker_sees_machines_that_the_kernel_stops_one_by_one() {
    // Of 40 machines more than a fifth are more than 8, but 10 may always be hit.
    for (apart, stopped, stand) in [(1, 10, 10), (1, 20, 10), (5, 20, 10), (7, 20, 20)] {
        let mut world = crowd(40);
        one_by_one(&mut world, 0..stopped, apart);
        let what = format!("{stopped} machines {apart} s apart");
        assert_eq!(throttled_in(&world), stand, "{what}");
        let told = usize::from(stand < stopped);
        assert_eq!(world.told("held-back").len(), told, "{what}");
    }
}

#[test]
fn a_circuit_breaker_that_opened_stays_open_until_it_is_resolved() {
    let mut world = crowd(40);
    one_by_one(&mut world, 0..11, 1);
    assert_eq!(throttled_in(&world), 10, "those that stood before still do");
    let boundaries = |world: &World| world.engine.boundaries(&"m030".into(), world.now).len();
    assert_eq!(boundaries(&world), 0, "the kernel must not be quicker");
    // However slowly the next ones come, and over a restart.
    world.restart();
    one_by_one(&mut world, 11..13, 3_600);
    assert_eq!(throttled_in(&world), 10);
    world.says(CommandAction::Confirm);
    assert_eq!(throttled_in(&world), 13);
    assert_eq!(boundaries(&world), 1);
    // What was confirmed is not counted again.
    one_by_one(&mut world, 13..23, 1);
    assert_eq!(throttled_in(&world), 23);
    assert_eq!(world.told("held-back").len(), 1);
}

#[test]
fn a_correction_of_what_was_hit_slowly_closes_the_circuit_breaker() {
    let mut world = crowd(40);
    one_by_one(&mut world, 0..15, 1);
    assert_eq!(throttled_in(&world), 10);
    let mut terms = world.terms.clone();
    for (_, machine) in terms.machines.iter_mut().take(8) {
        machine.allowance = Some(limited(5 * TB));
    }
    world.set_terms(terms);
    assert_eq!(
        throttled_in(&world),
        7,
        "two that stood, and five that waited"
    );
    one_by_one(&mut world, 20..23, 1);
    assert_eq!(throttled_in(&world), 10);
}

/// What a customer reads: the first sentence, before the figures.
fn throttle_notices(world: &World) -> Vec<String> {
    let first_sentence = |event: &&Event| {
        let EventKind::Notice { message, .. } = &event.kind else {
            panic!("a notice");
        };
        let ends = [". ", ": "].iter().filter_map(|end| message.find(end));
        message[..ends.min().unwrap_or(message.len())].to_owned()
    };
    world.told("notice").iter().map(first_sentence).collect()
}

fn two_throttles(first: Rule, second: Rule) -> World {
    let mut plan = edis();
    plan.rules = vec![first, second];
    World::of(plan, "2026-06-01")
}

fn added(world: &mut World, gigabytes: u64) {
    world.says(CommandAction::TopUp {
        machine: m(),
        volume: Bytes(gigabytes * GB),
        from_pool: false,
    });
}

#[test]
fn a_throttle_that_another_goes_on_with_has_not_ended_and_its_end_is_told_once() {
    let rate = |rate| Action::Throttle(BitsPerSecond(rate));
    let first = || rule("used 100%").act(rate(64_000)).notify();
    // The same rate by another rule: nothing began, nothing ended.
    let same = rule("used 200%").act(rate(64_000));
    let mut world = two_throttles(first(), same);
    world.uses(2_100 * GB);
    added(&mut world, 100);
    assert_eq!(throttle_notices(&world), ["m is throttled to 64 kbit/s"]);
    added(&mut world, 5_000);
    assert_eq!(throttle_notices(&world)[1..], ["m is no longer throttled"]);

    // A harder one that says nothing itself: the end of what was told is told all the same.
    let harder = || rule("used 200%").act(rate(32_000));
    let mut world = two_throttles(first(), harder());
    world.uses(1_100 * GB).uses(1_000 * GB);
    added(&mut world, 5_000);
    assert_eq!(
        throttle_notices(&world),
        ["m is throttled to 64 kbit/s", "m is no longer throttled"]
    );

    // One that speaks: a milder rate is the end of its own.
    let mut world = two_throttles(first(), harder().notify());
    world.uses(1_100 * GB).uses(1_000 * GB);
    added(&mut world, 100);
    added(&mut world, 5_000);
    assert_eq!(
        throttle_notices(&world),
        [
            "m is throttled to 64 kbit/s",
            "m is throttled to 32 kbit/s",
            "m is no longer throttled to 32 kbit/s but to 64 kbit/s",
            "m is no longer throttled",
        ]
    );
}

#[test]
fn lift_all_restores_everybody_at_once() {
    let mut world = crowd(40);
    all_use(&mut world, 5, 1_100);
    assert_eq!(throttled_in(&world), 5);
    world.says(CommandAction::Lift {
        machine: None,
        until: None,
    });
    assert_eq!(throttled_in(&world), 0);
    assert_eq!(world.told("lifted").len(), 5);
}

#[test]
fn explain_says_of_every_rule_whether_it_holds_since_when_and_by_which_figures() {
    let world = throttled();
    let explained = world.engine.explain(&m(), world.now).unwrap();
    assert_eq!(explained.rules.len(), 4);
    let acting = &explained.rules[3];
    assert!(acting.holds && acting.in_force);
    assert_eq!(acting.since.as_deref(), Some("2026-06-10T00:01:00+00:00"));
    assert_eq!(acting.at, Some(Bytes(1_050 * GB)));
    assert_eq!(acting.measured, Some(Bytes(1_100 * GB)));
}
