//! A daily share of the month's volume: days above it are flagged, quieter days make up for
//! it; what the month in all goes beyond its limit is charged as it accrues, from a balance
//! that may fall below zero. Nothing is ever interrupted.

use std::time::Duration;

use meter_tests::{Result, meterd::bytes, sandbox::Sandbox, zone::Zone};
use serde_json::Value;

use super::Story;
use crate::{
    checks::Checks,
    figures::{cents, money, nanos, volume},
    plan::{Change, Plan},
    screen::{Paint, Screen},
    stage::{MEGABYTE, Midnight, Opening, Stage},
};

pub(super) const STORY: Story = Story {
    plan: Plan {
        name: "caasify",
        shipped: include_str!("../../../../../config/plans/caasify.toml"),
        changes: &[
            Change {
                from: "starts = 1",
                to: "starts = \"renewal-day\"",
                why: "so that it is day 4, and day 5 comes",
            },
            Change {
                from: "\"5 TB\"",
                to: "\"50 MB\"",
                why: "the scale: what is a TB there is 10 MB here,",
            },
            Change {
                from: "\"1 GB\"",
                to: "\"10 kB\"",
                why: "a GB 10 kB,",
            },
            Change {
                from: "\"1 TB\"",
                to: "\"10 MB\"",
                why: "and the prices are for so much",
            },
        ],
    },
    play,
};

const LIMIT: u64 = 50 * MEGABYTE;
/// Its thirtieth, of which the spec's 166 GB are what is shown.
const DAYS: u64 = 30;
const EACH: u64 = MEGABYTE / 4;

fn play(sandbox: &Sandbox, screen: &mut Screen, checks: &mut Checks) -> Result<()> {
    let opening = Opening {
        title: "caasify: a daily allowance that compensates, and overage by the GB",
        guests: &["web1"],
        plan: &STORY.plan,
        text: "web1 is in the fourth day of its month; its account has 5 EUR.",
        midnight: Some(Midnight {
            after: Duration::from_secs(3),
            and_work: Duration::from_secs(3),
            short: None,
        }),
    };
    let mut stage = Stage::set(sandbox, screen, checks, &opening, config)?;
    // Little enough for four days.
    stage.transfer = 3 * MEGABYTE;
    day_four(&mut stage)?;
    day_five(&mut stage)?;
    over_the_limit(&mut stage)?;
    as_recorded(&mut stage)?;
    more_volume(&mut stage)?;
    stage.leave()
}

fn config(zone: Option<&Zone>) -> String {
    // Midnight begins the fifth day.
    let renewal = zone.map_or(1, |zone| zone.day_of_month(-4));
    format!(
        r#"
[[account]]
id = "acme"
currency = "EUR"

[[machine]]
id = "web1"
interfaces = ["tap101i0"]
plan = "caasify"
account = "acme"
renewal-day = {renewal}
"#
    )
}

fn day_four(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Day four: four thirtieths are granted")?;
    stage.type_command(&["balance", "acme", "--add", "5 EUR"])?;
    check_granted(stage, 4)?;
    stage.everything_passes("web1", "before")?;
    stage.climb("web1", 7_500_000, EACH)?;
    check_flag(stage, true, "over the four days' share")?;
    let flagged = stage.events_of("web1", "flagged")?;
    let event = flagged.last().cloned().unwrap_or_default();
    let excess = bytes(&event, "used")? - LIMIT * 4 / DAYS;
    let found = volume(bytes(&event, "excess")?);
    stage
        .checks
        .same("  temporary excess", volume(excess), found);
    let balance = balance(stage)?;
    stage
        .checks
        .same("  the balance: a flag costs nothing", "5.00", &balance);
    Ok(())
}

fn day_five(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Day five: what was too much is made up for")?;
    let midnight = stage.midnight()?;
    stage.show_events("web1")?;
    check_granted(stage, 5)?;
    check_flag(stage, false, "compensated")?;
    let gone = stage.events_of("web1", "unflagged")?;
    let when = gone.last().map(|event| event["time"].clone());
    stage.in_time("  after midnight", &when.unwrap_or_default(), midnight)?;
    Ok(())
}

fn over_the_limit(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Beyond the month's limit: charged as it accrues, never interrupted")?;
    stage.climb("web1", LIMIT + 20 * MEGABYTE, EACH)?;
    check_flag(stage, true, "over the month's limit")?;
    check_charges(stage)?;
    let status = stage.meterd.status("web1")?;
    let state = status["state"].as_str().unwrap_or_default().to_owned();
    stage
        .checks
        .same("  its state, below zero", "normal", &state);
    stage.everything_passes("web1", "below zero")?;
    check_charges(stage)?;
    stage.type_command(&["balance", "acme"])?;
    Ok(())
}

/// The charges and the balance, against the frames at the far end.
fn check_charges(stage: &mut Stage<'_>) -> Result<()> {
    let moved = stage.seen("web1")?;
    let wire = moved.received.bytes + moved.sent.bytes;
    // A reading, so that all of it is charged.
    stage.meterd.status("web1")?;
    // 0.01 EUR for 10 kB: a millionth a byte. In all it is that to the cent, at any time.
    let price = cents(i128::from(wire - LIMIT) * 1_000);
    let charged = stage.events_of("web1", "charged")?;
    let sum = charged
        .iter()
        .map(|event| nanos(&event["amount"]))
        .sum::<Result<i128>>()?;
    let text = format!(
        "{} for {} beyond the limit, in {} steps",
        money(sum),
        volume(wire - LIMIT),
        charged.len()
    );
    stage.screen.now("charged EUR", Paint::Yellow, &text);
    stage
        .checks
        .same("charged: price x excess, in EUR", money(price), money(sum));
    let found = balance(stage)?;
    stage
        .checks
        .same("  left of 5.00", money(5_000_000_000 - price), found);
    Ok(())
}

/// The same bytes by minute, by day, by month.
fn as_recorded(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Recorded by minute, day and month")?;
    let used = bytes(&stage.meterd.status("web1")?, "used")?;
    for by in ["minute", "day", "month"] {
        stage.type_command(&["usage", "web1", "--by", by])?;
        let rows = stage.meterd.json(&["usage", "web1", "--by", by])?;
        let mut sum = 0;
        for row in rows.as_array().into_iter().flatten() {
            sum += bytes(row, "received")? + bytes(row, "sent")?;
        }
        stage.checks.same(&format!("used, by {by}"), used, sum);
    }
    Ok(())
}

fn more_volume(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("More volume at any time")?;
    let before = balance(stage)?;
    stage.type_change("web1", &["top-up", "web1", "10 MB"])?;
    let allowance = bytes(&stage.meterd.status("web1")?, "allowance")?;
    stage
        .checks
        .same("allowance, topped up", LIMIT + 10 * MEGABYTE, allowance);
    let expected = nanos(&Value::from(before))? - 5_000_000_000;
    let found = balance(stage)?;
    stage
        .checks
        .same("  for 5.00 from the balance", money(expected), found);
    Ok(())
}

fn check_granted(stage: &mut Stage<'_>, days: u64) -> Result<()> {
    let explained = stage.meterd.json(&["explain", "web1"])?;
    let granted = bytes(&explained, "granted")?;
    let text = format!("{} of {} until day {days}", volume(granted), volume(LIMIT));
    stage.screen.now("granted", Paint::Cyan, &text);
    let what = format!("granted until day {days}");
    stage.checks.same(&what, LIMIT * days / DAYS, granted);
    Ok(())
}

fn check_flag(stage: &mut Stage<'_>, flagged: bool, when: &str) -> Result<()> {
    let status = stage.meterd.status("web1")?;
    stage.show_events("web1")?;
    let found = status["flagged"].as_bool().unwrap_or(!flagged);
    stage
        .checks
        .same(&format!("flagged, {when}"), flagged, found);
    Ok(())
}

fn balance(stage: &Stage<'_>) -> Result<String> {
    let balance = stage.meterd.json(&["balance", "acme"])?;
    Ok(money(nanos(&balance["balance"])?))
}
