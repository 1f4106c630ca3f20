//! Two limits, traffic and cost, each optional: whichever is exceeded suspends. It comes back
//! by itself where that is switched on, and by hand at any time.

use std::time::Duration;

use meter_tests::{Result, meterd::bytes, sandbox::Sandbox, zone::Zone};
use serde_json::Value;

use super::Story;
use crate::{
    checks::Checks,
    figures::{money, nanos, volume},
    plan::{Change, Plan},
    screen::Screen,
    stage::{MEGABYTE, Midnight, Opening, Stage},
};

pub(super) const STORY: Story = Story {
    plan: Plan {
        name: "cdn-limit",
        shipped: include_str!("../../../../../config/plans/cdn-limit.toml"),
        changes: &[
            Change {
                from: "starts = 1",
                to: "starts = \"renewal-day\"",
                why: "so that a month ends while you watch",
            },
            Change {
                from: "\"1 GB\"",
                to: "\"1 MB\"",
                why: "the scale: what is a GB there is a MB here",
            },
        ],
    },
    play,
};

const EACH: u64 = MEGABYTE / 4;
/// What one step, and what moves beside it, may be beyond a limit.
const STEP: u64 = EACH + 2000;

fn play(sandbox: &Sandbox, screen: &mut Screen, checks: &mut Checks) -> Result<()> {
    let opening = Opening {
        title: "cdn-limit: a limit on traffic, a limit on cost, and the way back",
        guests: &["cdn1", "cdn2"],
        plan: &STORY.plan,
        text: "Limits are switches of the single machine, set by command. Both months end at midnight.",
        midnight: Some(Midnight {
            after: Duration::from_secs(3),
            and_work: Duration::from_secs(8),
            short: None,
        }),
    };
    let mut stage = Stage::set(sandbox, screen, checks, &opening, config)?;
    stage.transfer = MEGABYTE;
    traffic(&mut stage)?;
    cost(&mut stage)?;
    both(&mut stage)?;
    by_hand(&mut stage)?;
    new_month(&mut stage)?;
    stage.leave()
}

fn config(zone: Option<&Zone>) -> String {
    let renewal = zone.map_or(1, |zone| zone.day_of_month(0));
    let machine = |id, number| {
        format!(
            "[[machine]]\nid = \"{id}\"\ninterfaces = [\"tap{number}i0\"]\nplan = \"cdn-limit\"\n\
             account = \"shop\"\nrenewal-day = {renewal}\n"
        )
    };
    let account = "[[account]]\nid = \"shop\"\nprimary = \"owner@example.com\"\n\
                   admins = [\"ops@example.com\"]\ncurrency = \"USD\"\n";
    account.to_owned() + &machine("cdn1", 101) + &machine("cdn2", 102)
}

fn traffic(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("A traffic limit of 10 MB, and cdn1 is to come back by itself")?;
    set(stage, "cdn1", &["allowance=10 MB", "auto-unsuspend=on"])?;
    let limit = 10 * MEGABYTE;
    exceed(stage, "cdn1", limit, "over 100%")?;
    stage.nothing_passes("cdn1", "over its traffic limit")?;
    set(stage, "cdn1", &["allowance=20 MB"])?;
    state(stage, "cdn1", "with the limit raised", "normal")?;
    told(stage, "cdn1", "over 100%", 2)?;
    stage.everything_passes("cdn1", "raised")
}

fn cost(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("A cost limit of 0.30 USD, at 0.02 USD a MB")?;
    set(stage, "cdn1", &["cost-limit=0.30 USD"])?;
    let limit = 15 * MEGABYTE;
    exceed(stage, "cdn1", limit, "cost 100%")?;
    let explained = stage.meterd.json(&["explain", "cdn1"])?;
    let used = i128::from(bytes(&explained, "used")?);
    // 0.02 USD a million bytes, in billionths.
    let price = money(used * 20);
    let found = money(nanos(&explained["cost"])?);
    stage.checks.same("  its cost in USD", price, found);
    stage.nothing_passes("cdn1", "over its cost limit")
}

fn both(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Both exceeded; the traffic limit is raised, the cost limit is not")?;
    set(stage, "cdn1", &["allowance=12 MB"])?;
    state(stage, "cdn1", "over both", "suspended")?;
    set(stage, "cdn1", &["allowance=1 GB"])?;
    state(stage, "cdn1", "raised, too expensive", "suspended")?;
    stage.nothing_passes("cdn1", "still too expensive")?;
    set(stage, "cdn1", &["cost-limit=1 USD"])?;
    state(stage, "cdn1", "both limits raised", "normal")?;
    told(stage, "cdn1", "cost 100%", 2)?;
    stage.everything_passes("cdn1", "both raised")
}

fn by_hand(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("cdn2 is not to come back by itself, as is the rule here")?;
    set(stage, "cdn2", &["allowance=5 MB"])?;
    exceed(stage, "cdn2", 5 * MEGABYTE, "over 100%")?;
    set(stage, "cdn2", &["allowance=8 MB"])?;
    state(stage, "cdn2", "with the limit raised", "suspended")?;
    stage.type_change("cdn2", &["lift", "cdn2", "--reason", "has called"])?;
    state(stage, "cdn2", "lifted by hand", "normal")?;
    stage.everything_passes("cdn2", "lifted")
}

fn new_month(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("A new month")?;
    set(stage, "cdn1", &["allowance=10 MB"])?;
    state(stage, "cdn1", "before it", "suspended")?;
    stage.push("cdn2", 9 * MEGABYTE, EACH)?;
    state(stage, "cdn2", "before it", "suspended")?;
    let midnight = stage.midnight()?;
    stage.until_state("cdn1", "normal", Duration::from_secs(1))?;
    let events = stage.events_of("cdn1", "restored")?;
    let when = events.last().map(|event| event["time"].clone());
    stage.in_time(
        "cdn1 is back after midnight",
        &when.unwrap_or_default(),
        midnight,
    )?;
    stage.everything_passes("cdn1", "in the new month")?;
    state(stage, "cdn2", "waiting for a hand", "suspended")?;
    set(stage, "cdn2", &["auto-unsuspend=on"])?;
    state(stage, "cdn2", "switched on", "normal")?;
    stage.everything_passes("cdn2", "switched on")
}

fn set(stage: &mut Stage<'_>, machine: &'static str, settings: &[&str]) -> Result<()> {
    stage.type_change(machine, &[&["set", machine], settings].concat())
}

/// It sends until it is stopped, and is stopped beyond the limit by no more than a step.
fn exceed(stage: &mut Stage<'_>, machine: &'static str, limit: u64, rule: &str) -> Result<()> {
    let status = stage.climb(machine, 2 * limit, EACH)?;
    let found = status["rule"].as_str().unwrap_or_default().to_owned();
    let what = format!("{machine} is suspended by");
    stage.checks.same(&what, rule, &found);
    let used = bytes(&status, "used")?;
    stage.checks.note(
        "  at",
        &format!("{} and a step of {}", volume(limit), volume(EACH)),
        &format!("{used} B"),
        (limit + 1..=limit + STEP).contains(&used),
    );
    Ok(())
}

fn state(stage: &mut Stage<'_>, machine: &str, when: &str, expected: &str) -> Result<()> {
    let found = stage.state(machine)?;
    let what = format!("{machine}, {when}");
    stage.checks.same(&what, expected, &found);
    Ok(())
}

/// The rule's notices so far, each with an id of its own: what goes out as mail.
fn told(stage: &mut Stage<'_>, machine: &str, rule: &str, times: usize) -> Result<()> {
    let notices = stage.events_of(machine, "notice")?;
    let of_rule = notices.iter().filter(|notice| notice["rule"] == rule);
    let mut ids: Vec<&Value> = of_rule.map(|notice| &notice["id"]).collect();
    ids.dedup();
    let found = ids.len();
    stage
        .checks
        .same("  notices: stopped, and back", times, found);
    Ok(())
}
