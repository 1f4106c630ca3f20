//! Sum of both directions, warnings, 5 % of grace, then 64 kbit/s; volume from a pool, an
//! upgrade, or waiting. The plan is the shipped one, unchanged.

use std::time::{Duration, Instant};

use meter_tests::{
    Result, interrupt,
    meterd::{bytes, sample},
    paper,
    sandbox::Sandbox,
    traffic::{self, Bulk, Pings, ping},
    zone::Zone,
};
use serde_json::Value;

use super::Story;
use crate::{
    checks::Checks,
    figures::{rate, time, volume},
    plan::Plan,
    screen::{Paint, Screen},
    stage::{MEGABYTE, Midnight, Opening, Stage},
};

pub(super) const STORY: Story = Story {
    plan: Plan {
        name: "edis",
        shipped: include_str!("../../../../../config/plans/edis.toml"),
        changes: &[],
    },
    play: whole,
};

/// Which way, in the guest's words.
#[derive(Clone, Copy)]
enum Way {
    Received,
    Sent,
}

/// As the README has it.
pub(super) fn picture(sandbox: &Sandbox, screen: &mut Screen, checks: &mut Checks) -> Result<()> {
    let mut stage = set(sandbox, screen, checks, None)?;
    to_the_slow_lane_and_back(&mut stage)?;
    as_an_operator_sees_it(&mut stage)?;
    stage.leave()
}

/// With the two other ways out of the slow lane: an upgrade, and waiting.
fn whole(sandbox: &Sandbox, screen: &mut Screen, checks: &mut Checks) -> Result<()> {
    let midnight = Midnight {
        after: Duration::from_secs(29),
        and_work: Duration::from_secs(6),
        short: None,
    };
    let mut stage = set(sandbox, screen, checks, Some(midnight))?;
    to_the_slow_lane_and_back(&mut stage)?;
    as_an_operator_sees_it(&mut stage)?;
    stage.type_command(&["status", "web1"])?;
    upgrade(&mut stage)?;
    refill(&mut stage)?;
    stage.leave()
}

fn set<'a>(
    sandbox: &'a Sandbox,
    screen: &'a mut Screen,
    checks: &'a mut Checks,
    midnight: Option<Midnight>,
) -> Result<Stage<'a>> {
    let opening = Opening {
        title: "meterd: two guests, a world, and a plan",
        guests: &["web1", "db1"],
        plan: &STORY.plan,
        text: "Notices at 80, 90 and 100 %, and at 105 % 64 kbit/s each way.\n\
               web1 has 100 MB, and 1 GB in its account's pool. db1 has 1 TB.",
        midnight,
    };
    let mut stage = Stage::set(sandbox, screen, checks, &opening, config)?;
    stage.every = 10;
    Ok(stage)
}

fn config(zone: Option<&Zone>) -> String {
    let renewal = zone.map_or(31, |zone| zone.day_of_month(0));
    format!(
        r#"
[[account]]
id = "acme"
primary = "owner@example.com"
pool = "1 GB"

[[machine]]
id = "web1"
interfaces = ["tap101i0"]
plan = "edis"
account = "acme"
renewal-day = 31
allowance = "100 MB"

[[machine]]
id = "db1"
interfaces = ["tap102i0"]
plan = "edis"
account = "acme"
renewal-day = {renewal}
"#
    )
}

fn to_the_slow_lane_and_back(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Usage climbs")?;
    stage.everything_passes("web1", "before")?;
    let status = stage.climb("web1", 105 * MEGABYTE, MEGABYTE)?;
    check_notices(stage, &status)?;
    check_ledger(stage)?;
    slow_lane(stage)?;
    top_up(stage)
}

fn check_notices(stage: &mut Stage<'_>, status: &Value) -> Result<()> {
    let notices = stage.events_of("web1", "notice")?;
    let count = |rule: &&str| {
        notices
            .iter()
            .filter(|notice| notice["rule"] == **rule)
            .count()
    };
    let found: Vec<usize> = ["used 80%", "used 90%", "used 100%"]
        .iter()
        .map(count)
        .collect();
    stage.checks.note(
        "notices at 80, 90, 100 %",
        "one each",
        &format!("{}, {}, {}", found[0], found[1], found[2]),
        found == [1, 1, 1],
    );
    let (used, allowance) = (bytes(status, "used")?, bytes(status, "allowance")?);
    stage.checks.note(
        "throttled",
        "at 105 %",
        &format!(
            "at {}.{} %",
            used * 100 / allowance,
            used * 1000 / allowance % 10
        ),
        status["state"] == "throttled" && used * 100 >= allowance * 105,
    );
    Ok(())
}

/// The ledger against frames counted by a packet socket at the far end.
fn check_ledger(stage: &mut Stage<'_>) -> Result<()> {
    let moved = stage.seen("web1")?;
    let wire = moved.received.bytes + moved.sent.bytes;
    let counted = bytes(&stage.meterd.status("web1")?, "used")?;
    let holds = paper::within(counted, wire, 0.001);
    let what = "web1's bytes, as on the wire";
    stage
        .checks
        .note(what, &wire.to_string(), &counted.to_string(), holds);
    Ok(())
}

fn slow_lane(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("In the slow lane")?;
    for (way, what) in [(Way::Received, "web1 receives"), (Way::Sent, "web1 sends")] {
        let (goodput, pings) = throttled_goodput(stage, way, what)?;
        stage.checks.note(
            &format!("{what}, throttled"),
            "50 to 64 kbit/s",
            &rate(goodput),
            (50e3..=64e3).contains(&goodput),
        );
        let longest = pings.longest();
        stage.checks.note(
            "  ping beside it, at most",
            "under 1000 ms",
            &longest.map_or_else(|| format!("{} lost", lost(&pings)), time),
            longest.is_some_and(|longest| longest < Duration::from_secs(1)),
        );
    }
    let (world, db1) = (stage.world(), stage.guest("db1")?);
    stage.full_speed("db1 receives, meanwhile", &world, &db1)?;
    Ok(())
}

/// One bulk flow, and an echo request every third of a second beside it.
fn throttled_goodput(stage: &mut Stage<'_>, way: Way, what: &str) -> Result<(f64, Pings)> {
    const WINDOW: u32 = 8;
    let (world, guest) = (stage.world(), stage.guest("web1")?);
    let bulk = match way {
        Way::Received => Bulk::start(&world, &guest, 1)?,
        Way::Sent => Bulk::start(&guest, &world, 1)?,
    };
    std::thread::scope(|scope| {
        // What the first burst lost is sent again.
        std::thread::sleep(Duration::from_secs(3));
        let pings = scope.spawn(|| ping(&guest, world.v4, 20, Duration::from_millis(350)));
        let (start, first) = (Instant::now(), bulk.delivered()?);
        let mut goodput = 0.0;
        for _ in 0..WINDOW {
            interrupt::check()?;
            std::thread::sleep(Duration::from_secs(1));
            goodput = traffic::rate(bulk.delivered()? - first, start.elapsed());
            stage.screen.moving(what, Paint::Yellow, &rate(goodput));
        }
        let pings = pings
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let median = pings.median().map_or_else(|| "none".to_owned(), time);
        let text = format!(
            "{:>11}   ping beside it {median:>8}, {} of {} answered",
            rate(goodput),
            pings.answered.len(),
            pings.asked
        );
        stage.screen.now(what, Paint::Yellow, &text);
        Ok((goodput, pings))
    })
}

fn lost(pings: &Pings) -> usize {
    pings.asked - pings.answered.len()
}

fn top_up(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Volume from the pool")?;
    stage.type_change("web1", &["top-up", "web1", "200 MB", "--from-pool"])?;
    stage
        .meterd
        .wait_for_state("web1", "normal", Duration::from_secs(5))?;
    let left = bytes(&stage.meterd.status("web1")?["pool"], "left")?;
    let (whole, left) = (volume(800 * MEGABYTE), volume(left));
    stage.checks.same("left in the pool", whole, left);
    stage.everything_passes("web1", "after")
}

fn as_an_operator_sees_it(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("As an operator sees it")?;
    stage.type_command(&["status"])?;
    stage
        .screen
        .plain("  $ curl -s localhost:9750/metrics | grep web1");
    // A reading of the counters, so that the metrics show what just moved.
    let used = bytes(&stage.meterd.status("web1")?, "used")?;
    let metrics = stage.meterd.metrics(9750)?;
    for line in metrics
        .lines()
        .filter(|line| line.contains("machine=\"web1\""))
    {
        let shown = [
            "meterd_traffic_bytes",
            "meterd_period_",
            "meterd_machine_state",
        ];
        if shown.iter().any(|name| line.starts_with(name)) && !line.contains("timestamp") {
            stage.screen.plain(&format!("  {line}"));
        }
    }
    let name = "meterd_period_used_bytes";
    let shown = sample(&metrics, name, &[("machine", "web1")]);
    #[expect(clippy::cast_precision_loss, reason = "a figure below 2^53")]
    let holds = shown == Some(used as f64);
    let shown = shown.map_or_else(|| "missing".to_owned(), |shown| format!("{shown}"));
    stage
        .checks
        .note("the metrics' used bytes", &used.to_string(), &shown, holds);
    Ok(())
}

/// A smaller allowance is noticed at once, and so is a bigger one.
fn upgrade(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("An upgrade")?;
    stage.type_change("db1", &["set", "db1", "allowance=8 MB"])?;
    let lower = stage.state("db1")?;
    stage
        .checks
        .same("db1, with a smaller allowance", "throttled", &lower);
    stage.type_change("db1", &["set", "db1", "allowance=1 TB"])?;
    let state = stage.state("db1")?;
    stage.checks.same("db1, after an upgrade", "normal", &state);
    Ok(())
}

/// Waiting helps, too: the refill comes on the machine's own renewal day.
fn refill(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Waiting for the refill")?;
    stage.type_change("db1", &["set", "db1", "allowance=8 MB"])?;
    let status = stage.meterd.status("db1")?;
    let days = status["period"]["days_left"].as_i64().unwrap_or(-1);
    stage.checks.same("db1's days to the refill", 1, days);
    let used = bytes(&status, "used")?;
    stage.type_command(&["usage", "db1", "--by", "day"])?;
    let midnight = stage.midnight()?;
    stage.until_state("db1", "normal", Duration::from_secs(1))?;
    let restored = stage.events_of("db1", "restored")?;
    let last = restored.last().map(|event| event["time"].clone());
    stage.in_time(
        "refilled after midnight",
        &last.unwrap_or_default(),
        midnight,
    )?;
    let status = stage.meterd.status("db1")?;
    stage
        .checks
        .same("db1 has used, refilled", 0, bytes(&status, "used")?);
    // Within the small allowance, which it still has.
    stage.transfer = MEGABYTE;
    stage.everything_passes("db1", "refilled")?;
    let days = status["period"]["days_left"].as_i64().unwrap_or(-1);
    stage.checks.note(
        "db1's days to the next refill",
        "28 to 31",
        &days.to_string(),
        (28..=31).contains(&days),
    );
    stage.type_command(&["usage", "db1", "--by", "period"])?;
    let periods = usage(stage, "db1", "period")?;
    stage.checks.same("periods of db1", 2, periods.len());
    let before = periods.first().copied().unwrap_or(0);
    stage
        .checks
        .same("  db1's usage of the one before", used, before);
    let (days, all) = (usage(stage, "db1", "day")?, periods.iter().sum::<u64>());
    stage
        .checks
        .same("  and of all its days", all, days.iter().sum());
    Ok(())
}

/// What it moved, row by row.
fn usage(stage: &Stage<'_>, machine: &str, by: &str) -> Result<Vec<u64>> {
    let rows = stage.meterd.json(&["usage", machine, "--by", by])?;
    let rows = rows.as_array().into_iter().flatten();
    rows.map(|row| Ok(bytes(row, "received")? + bytes(row, "sent")?))
        .collect()
}
