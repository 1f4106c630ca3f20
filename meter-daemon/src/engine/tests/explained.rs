//! What `explain` says, for each of the five systems.

use super::{build::*, world::*};
use crate::engine::{
    command::{Change, CommandAction, Until},
    plan::{Machine, Plan},
};

fn vienna(plan: Plan, start: &str) -> World {
    let machine = Machine {
        time_zone: Some(zone("Europe/Vienna")),
        account: Some("acme".into()),
        ..machine("m", plan)
    };
    World::with(vec![machine], vec![account("acme")], start)
}

impl World {
    fn explained(&self) -> String {
        self.engine.explain(&m(), self.now).unwrap().to_string()
    }
}

#[test]
fn invapi_capped_for_an_unpaid_bill() {
    let mut world = vienna(invapi(), "2026-06-01");
    world.moves("2026-06-25T10:11:12.345678", 900 * GB);
    world.top_up(TB).moves("2026-07-03", 400 * GB);
    world.wait("2026-07-08").uses(30 * MB);
    insta::assert_snapshot!(world.explained(), @r"
    m is capped since 2026-07-06T00:00:00+02:00 (plan: invapi).
    A bill is past its due date: 2026-000002 over 0.38 EUR.
    In the period from 2026-07-01T00:00:00+02:00 to 2026-08-01T00:00:00+02:00 it has used 110.03 GB of 1 TB; forecast: 110.27 GB.
    - used 80%: does not hold (used 110.03 GB, holds from 800 GB on). Then notice is given.
    - forecast 100%: does not hold (forecast 110.27 GB, holds above 1 TB). Then notice is given.
    - overdue: holds since 2026-07-06T00:00:00+02:00 (one bill is past its due date). Capped, 70 MB left of 100 MB, since 2026-07-06T00:00:00+02:00. It ends when the bill is paid.
    - bill 2026-000002 over 0.38 EUR is unpaid (traffic beyond the allowance); it was due on 2026-07-06T00:00:00+02:00.
    Next: the cap of `overdue` is used up at 110.1 GB, 70 MB from here; at the current rate about 2026-07-15T02:01:00+02:00.
    ");
}

#[test]
fn edis_throttled() {
    let mut world = vienna(edis(), "2026-06-10T00:00:00.123456");
    world.uses(950 * GB).uses(150 * GB);
    insta::assert_snapshot!(world.explained(), @r"
    m is throttled since 2026-06-10T02:02:00+02:00 (plan: edis).
    m has used 1.1 TB, 110% of its allowance of 1 TB (rule used 105%); its period ends on 2026-07-01T00:00:00+02:00.
    In the period from 2026-06-01T00:00:00+02:00 to 2026-07-01T00:00:00+02:00 it has used 1.1 TB of 1 TB; forecast: 8.76 TB.
    - used 80%: holds since 2026-06-10T02:01:00+02:00 (used 1.1 TB, holds from 800 GB on). Notice was given. It ends when volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00; then it can be given anew.
    - used 90%: holds since 2026-06-10T02:01:00+02:00 (used 1.1 TB, holds from 900 GB on). Notice was given. It ends when volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00; then it can be given anew.
    - used 100%: holds since 2026-06-10T02:02:00+02:00 (used 1.1 TB, holds from 1 TB on). Notice was given. It ends when volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00; then it can be given anew.
    - used 105%: holds since 2026-06-10T02:02:00+02:00 (used 1.1 TB, holds from 1.05 TB on). Throttled to 64 kbit/s since 2026-06-10T02:02:00+02:00. It ends when volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00.
    Next: the period ends on 2026-07-01T00:00:00+02:00.
    ");
}

#[test]
fn caasify_flagged_and_charged() {
    let mut world = vienna(caasify(5 * TB), "2026-06-01");
    world.moves("2026-06-04", 1_000 * GB);
    world.moves("2026-06-14", 100 * GB);
    world.moves("2026-06-24", 5_000 * GB);
    insta::assert_snapshot!(world.explained(), @r"
    m is normal since 2026-06-01T02:00:00+02:00 (plan: caasify).
    Nothing is in force.
    In the period from 2026-06-01T00:00:00+02:00 to 2026-07-01T00:00:00+02:00 it has used 6.1 TB of 5 TB; granted so far: 4 TB, exceeded by 2.1 TB; forecast: 9.55 TB.
    For what exceeds the allowance, 11.00 EUR was charged so far.
    - accrued 100%: holds since 2026-06-18T00:00:00+02:00 (used 6.1 TB, holds above 4 TB). Flagged; nothing is charged for that. It ends when the days' grants have caught up, volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00.
    Next: the period ends on 2026-07-01T00:00:00+02:00.
    ");
}

#[test]
fn calendar_suspend_in_its_24_hours() {
    let mut world = vienna(calendar_suspend(), "2026-06-10");
    world.moves("2026-06-20", TB);
    insta::assert_snapshot!(world.explained(), @r"
    m is normal since 2026-06-10T02:00:00+02:00 (plan: calendar-suspend).
    Nothing is in force.
    In the period from 2026-06-01T00:00:00+02:00 to 2026-07-01T00:00:00+02:00 it has used 1 TB of 1 TB; forecast: 2.09 TB.
    - used 75%: holds since 2026-06-20T02:00:00+02:00 (used 1 TB, holds from 750 GB on). Notice was given. It ends when volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00; then it can be given anew.
    - used 100%: holds since 2026-06-20T02:00:00+02:00 (used 1 TB, holds from 1 TB on). Notice was given. It ends when volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00; then it can be given anew.
    - forecast 100%: holds since 2026-06-20T02:00:00+02:00 (forecast 2.09 TB, holds above 1 TB). Notice was given. It ends when less is used, volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00; then it can be given anew.
    - used 100% after 24h: holds since 2026-06-20T02:00:00+02:00 (used 1 TB, holds from 1 TB on). On 2026-06-21T02:00:00+02:00 it is suspended, unless it ceases to hold before: when volume is added, the plan is upgraded, or on 2026-07-01T00:00:00+02:00.
    Next: `used 100% after 24h` on 2026-06-21T02:00:00+02:00.
    ");
}

#[test]
fn cdn_limit_suspended_by_its_cost() {
    let mut world = vienna(cdn_limit(), "2026-06-10");
    world.set(Change::CostLimit(Some(money("10 USD"))));
    world.uses(100 * GB).uses(500 * GB);
    insta::assert_snapshot!(world.explained(), @r"
    m is suspended since 2026-06-10T02:02:00+02:00 (plan: cdn-limit).
    m's traffic of this period costs 12.00 USD against a limit of 10.00 USD (rule cost 100%).
    In the period from 2026-06-01T00:00:00+02:00 to 2026-07-01T00:00:00+02:00 it has used 600 GB; its allowance is unlimited; forecast: 4.78 TB.
    Its usage costs 12.00 USD; the limit is 10.00 USD.
    - over 100%: does not hold (the allowance is unlimited, so it never holds). Then it is suspended, until somebody lifts it.
    - cost 100%: holds since 2026-06-10T02:02:00+02:00 (used 600 GB for 12.00 USD, holds above 500 GB). Suspended since 2026-06-10T02:02:00+02:00. It ends when somebody lifts it (`meterd lift m`).
    - cost-limit = 10.00 USD, set by ops on 2026-06-10T02:00:00+02:00.
    Next: the period ends on 2026-07-01T00:00:00+02:00.
    ");
}

/// Of that rule, what is said.
fn line(world: &World, rule: &str) -> String {
    let text = world.explained();
    let start = format!("- {rule}: ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.expect("every rule has its line").to_owned()
}

#[test]
fn what_ends_a_rule_is_said_of_each_in_its_own_words() {
    let ends = "2026-07-01T00:00:00+02:00";
    for (name, volume, words) in [
        (
            "used 50%",
            600,
            "when volume is added, the plan is upgraded, or on",
        ),
        ("over 500 GB", 600, "with another plan, or on"),
        ("cost 100%", 600, "when the cost limit is raised, or on"),
        ("cost 10 USD", 600, "with another plan, or on"),
        (
            "accrued 100%",
            600,
            "when the days' grants have caught up, volume is added",
        ),
        ("forecast 50%", 600, "when less is used, volume is added"),
    ] {
        let plan = Plan {
            rules: vec![rule(name).throttle()],
            daily: std::num::NonZeroU32::new(30),
            allowance: limited(TB),
            cost_limit: Some(money("10 USD")),
            ..cdn_limit()
        };
        let mut world = vienna(plan, "2026-06-01");
        world.moves("2026-06-05", volume * GB);
        let line = line(&world, name);
        assert!(line.contains(words), "{words} in: {line}");
        assert!(line.contains(ends), "{line}");
    }
}

#[test]
fn a_lift_staff_by_hand_and_what_is_outdone_are_each_said() {
    let mut both = edis();
    both.rules.push(rule("used 110%").suspend().by_hand());
    let mut world = vienna(both, "2026-06-10");
    world.uses(1_200 * GB);
    let outdone = line(&world, "used 105%");
    assert!(
        outdone.contains("which something stronger outdoes"),
        "{outdone}"
    );
    let by_hand = line(&world, "used 110%");
    assert!(
        by_hand.contains("It ends when somebody lifts it (`meterd lift m`)"),
        "{by_hand}"
    );
    world.lift(Some(Until::For(jiff::SignedDuration::from_hours(5))));
    let lifted = line(&world, "used 110%");
    let expected = "Lifted by ops until 2026-06-10T07:01:00+02:00, or until it ceases to hold \
                    (reason: because).";
    assert!(lifted.contains(expected), "{lifted}");
    world.says(CommandAction::Suspend {
        machine: m(),
        until: None,
    });
    let text = world.explained();
    let staff = "Suspended by ops on 2026-06-10T02:01:00+02:00 (reason: because). No top-up, reset \
                 or payment lifts it; `meterd lift m` does.";
    assert!(text.contains(staff), "{text}");
}

#[test]
fn a_machine_that_was_cancelled_has_nothing_to_come() {
    let mut world = vienna(edis(), "2026-06-10");
    world.uses(GB).says(CommandAction::Cancel { machine: m() });
    let text = world.explained();
    assert!(
        text.contains("Its metering was ended on 2026-06-10T02:01:00+02:00."),
        "{text}"
    );
    assert!(text.ends_with("Nothing comes next.\n"), "{text}");
    assert!(!text.contains("\n- "), "{text}");
}
