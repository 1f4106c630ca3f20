//! Notices at 75 and 100 %, then a grace in time to add traffic, then suspension; back by
//! itself with traffic, a bigger plan, or the next month.

use std::{fmt::Write, time::Duration};

use meter_tests::{
    Failure, Result, links, meterd::bytes, sandbox::Sandbox, traffic::ping, zone::Zone,
};
use serde_json::Value;

use super::Story;
use crate::{
    checks::Checks,
    figures::{cents, money, nanos, time},
    plan::{Change, Plan},
    screen::{Paint, Screen},
    stage::{MEGABYTE, Midnight, Opening, Stage, instant, lag},
};

pub(super) const STORY: Story = Story {
    plan: Plan {
        name: "calendar-suspend",
        shipped: include_str!("../../../../../config/plans/calendar-suspend.toml"),
        changes: &[
            Change {
                from: "starts = 1",
                to: "starts = \"renewal-day\"",
                why: "so that a month ends while you watch",
            },
            Change {
                from: "allowance = \"1 TB\"",
                to: "allowance = \"10 MB\"",
                why: "what a moment's traffic reaches; what is sold stays in TB",
            },
            Change {
                from: "after = \"24h\"",
                to: "after = \"8s\"",
                why: "so that you need not wait a day",
            },
        ],
    },
    play,
};

const ALLOWANCE: u64 = 10 * MEGABYTE;
const GRACE: Duration = Duration::from_secs(8);
const EACH: u64 = MEGABYTE / 4;
/// The plan's for a TB, in billionths.
const PRICE: i128 = 1_500_000_000;

fn play(sandbox: &Sandbox, screen: &mut Screen, checks: &mut Checks) -> Result<()> {
    let opening = Opening {
        title: "calendar-suspend: notices, a day of grace, suspension",
        guests: &["web1", "db1"],
        plan: &STORY.plan,
        text: "web1 is in the middle of its month; db1's ends at midnight.",
        midnight: Some(Midnight {
            after: Duration::from_secs(11),
            and_work: Duration::from_secs(7),
            short: None,
        }),
    };
    let mut stage = Stage::set(sandbox, screen, checks, &opening, config)?;
    // A transfer is more than the allowance: these come once they no longer matter.
    stage.transfer = MEGABYTE;
    notices(&mut stage)?;
    too_small(&mut stage)?;
    enough_and_anew(&mut stage)?;
    suspended(&mut stage)?;
    back(&mut stage)?;
    the_first(&mut stage)?;
    advice(&mut stage)?;
    stage.leave()
}

fn config(zone: Option<&Zone>) -> String {
    let day = |later| zone.map_or(1, |zone| zone.day_of_month(later));
    let machine = |id, number, renewal| {
        format!(
            "[[machine]]\nid = \"{id}\"\ninterfaces = [\"tap{number}i0\"]\n\
             plan = \"calendar-suspend\"\nrenewal-day = {renewal}\n"
        )
    };
    machine("web1", 101, day(15)) + &machine("db1", 102, day(0))
}

fn notices(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Notices, and the day of grace begins")?;
    stage.push("db1", 11 * MEGABYTE, EACH)?;
    stage.climb("web1", ALLOWANCE + 2 * MEGABYTE, EACH)?;
    let notices = stage.events_of("web1", "notice")?;
    let rules: Vec<&str> = notices
        .iter()
        .filter_map(|notice| notice["rule"].as_str())
        .collect();
    stage.checks.same(
        "notices, in their order",
        "forecast 100%, used 75%, used 100%",
        &rules.join(", "),
    );
    stage.type_sentences(&["explain", "web1"])?;
    let since = notices.last().map(|notice| notice["time"].clone());
    let end = countdown(stage)?.ok_or_else(|| Failure::new("no grace runs"))?;
    let grace = lag(&end, instant(&since.unwrap_or_default())?)?;
    stage.checks.note(
        "from the notice to the end of the grace",
        "8000 ms",
        &time(grace),
        grace.abs_diff(GRACE) < Duration::from_millis(100),
    );
    Ok(())
}

fn too_small(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("A top-up that is too small does not stop it")?;
    let before = countdown(stage)?;
    top_up(stage, "1 MB")?;
    let after = countdown(stage)?;
    let text = |end: Option<Value>| {
        let end = end.unwrap_or_default();
        end.as_str()
            .map_or_else(|| "none runs".to_owned(), str::to_owned)
    };
    stage
        .checks
        .same("the grace ends", text(before), text(after));
    Ok(())
}

fn enough_and_anew(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("One below 100 % does, and reaching it again starts it anew")?;
    let before = countdown(stage)?.ok_or_else(|| Failure::new("no grace runs"))?;
    top_up(stage, "5 MB")?;
    let ends = countdown(stage)?.map_or("nothing", |_| "a grace");
    stage.checks.same("runs, below 100 %", "nothing", ends);
    stage.climb("web1", ALLOWANCE + 6 * MEGABYTE, EACH)?;
    let anew = countdown(stage)?.ok_or_else(|| Failure::new("no grace runs"))?;
    let later = lag(&anew, instant(&before)?)?;
    let text = format!("later by {}", time(later));
    let holds = later > Duration::ZERO;
    stage
        .checks
        .note("the grace, anew, ends", "later", &text, holds);
    Ok(())
}

fn top_up(stage: &mut Stage<'_>, volume: &str) -> Result<Value> {
    stage.type_change("web1", &["top-up", "web1", volume])?;
    let events = stage.events_of("web1", "topped-up")?;
    Ok(events.last().cloned().unwrap_or_default())
}

fn suspended(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("The day has passed")?;
    let end = countdown(stage)?.ok_or_else(|| Failure::new("no grace runs"))?;
    let end = instant(&end)?;
    stage.wait_for("grace", end)?;
    stage.until_state("web1", "suspended", Duration::from_secs(1))?;
    let events = stage.events_of("web1", "suspended")?;
    let when = events.last().map(|event| event["time"].clone());
    stage.in_time("suspended after the grace", &when.unwrap_or_default(), end)?;
    stage.show_events("db1")?;
    stage.nothing_passes("web1", "suspended")?;
    let asked = ping(
        &stage.guest("web1")?,
        stage.node.world.v4,
        1,
        Duration::ZERO,
    );
    // With the link down even asking may fail.
    let answered = asked.map_or(0, |pings| pings.answered.len());
    stage.checks.same("  its ping is answered", 0, answered);
    let labels = [("machine", "web1"), ("state", "suspended")];
    let metric = stage.metric("meterd_machine_state", &labels)?;
    let found = format!("{}", metric.unwrap_or(-1.0));
    stage.checks.same("  its metric of that", "1", &found);
    // As the daemon says that it is.
    let said = &stage.meterd.status("web1")?["links"];
    let said = said.as_array().is_some_and(|links| !links.is_empty());
    let found = link(stage, "web1")?;
    stage
        .checks
        .same("  its link", if said { "down" } else { "up" }, found);
    Ok(())
}

fn back(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("Traffic is added: it comes back by itself")?;
    let bought = top_up(stage, "1 TB")?;
    let state = stage.state("web1")?;
    stage.checks.same("web1, topped up", "normal", &state);
    let found = link(stage, "web1")?;
    stage.checks.same("  its link", "up", found);
    stage.everything_passes("web1", "topped up")?;
    // Its price is by what was left of the month.
    let period = stage.meterd.status("web1")?["period"].clone();
    let left = lag(&period["end"], instant(&bought["time"])?)?.as_millis();
    let whole = lag(&period["end"], instant(&period["start"])?)?.as_millis();
    let share = |of: i128| {
        let (left, whole) = (i128::try_from(left), i128::try_from(whole));
        of * left.unwrap_or(0) / whole.unwrap_or(1)
    };
    let what = format!("1.50 a TB, {} % of the month left", share(100));
    let found = money(nanos(&bought["amount"])?);
    stage.checks.same(&what, money(cents(share(PRICE))), found);
    Ok(())
}

/// Whether the interface on the node is up, as the kernel lists it.
fn link(stage: &Stage<'_>, machine: &str) -> Result<&'static str> {
    let tap = stage.tap(machine)?;
    let link = stage.node.host.run(|| links::get(&tap))?;
    Ok(if link.up { "up" } else { "down" })
}

fn the_first(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("A new month: back by itself, and nothing rolls over")?;
    let state = stage.state("db1")?;
    stage.checks.same("db1, before it", "suspended", &state);
    let midnight = stage.midnight()?;
    stage.until_state("db1", "normal", Duration::from_secs(1))?;
    let events = stage.events_of("db1", "restored")?;
    let when = events.last().map(|event| event["time"].clone());
    stage.in_time("db1, after midnight", &when.unwrap_or_default(), midnight)?;
    let status = stage.meterd.status("db1")?;
    stage
        .checks
        .same("  its allowance", ALLOWANCE, bytes(&status, "allowance")?);
    stage.everything_passes("db1", "in the new month")
}

/// What no minute can show: months that were over. `simulate` is the same engine.
fn advice(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("For one that is over most months, the notice says what would be cheaper")?;
    let mut usage = "time,received,sent\n".to_owned();
    for month in 1..=5 {
        // 45 GB a day: 1.1 TB a month.
        // From the 3rd on, so that none of it falls into December, wherever that ends.
        for day in 3..=28 {
            let _ = writeln!(
                usage,
                "2026-{month:02}-{day:02}T00:00:00Z,42000000000,3000000000"
            );
        }
    }
    stage.meterd.write("usage.csv", &usage)?;
    stage.meterd.write("web1.toml", STORY.plan.shipped)?;
    let directory = stage.meterd.directory().display().to_string();
    let plan = format!("{directory}/web1.toml");
    let history = format!("{directory}/usage.csv");
    let arguments = ["simulate", "--plan", &plan, "--usage", &history, "--json"];
    let text = stage.meterd.text(&arguments)?;
    stage.screen.plain(
        "  $ meterd simulate --plan config/plans/calendar-suspend.toml --usage five-months.csv",
    );
    let advised = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["event"] == "notice" && message.contains("cheaper")
        });
    let month = advised.as_ref().map_or("never", |event| {
        event["time"]
            .as_str()
            .and_then(|time| time.get(..7))
            .unwrap_or_default()
    });
    if let Some(notice) = &advised {
        let message = notice["message"].as_str().unwrap_or_default();
        stage.screen.said("notice", Paint::Yellow, message);
    }
    stage
        .checks
        .same("advice after three such months", "2026-04", month);
    Ok(())
}

/// When the grace that runs will end.
fn countdown(stage: &Stage<'_>) -> Result<Option<Value>> {
    let next = stage.meterd.json(&["explain", "web1"])?["next"].clone();
    let runs = next["rule"] == "used 100% after 8s" && !next["at_time"].is_null();
    Ok(runs.then(|| next["at_time"].clone()))
}
