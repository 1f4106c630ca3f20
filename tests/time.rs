//! Clocks that step, stand or were never set, and a daemon that was away when a period ended:
//! no byte is lost or counted twice, and no period begins twice or on the word of a clock that
//! nobody has set. The daemon is a debug build, which can be shown another wall clock; a time
//! namespace has none of its own.

use std::time::Duration;

use meter_tests::{
    Failure, Result,
    meterd::{Counted, End, Synchronised, bytes},
    needs,
    sandbox::Sandbox,
    scene::{MACHINE, Scene},
    traffic::ping,
    wait::{self, Seen},
};
use serde_json::Value;

const DAY: i64 = 86_400;

const CONFIG: &str = "
poll-interval = '1s'
[[discover]]
interface = '^tap(?<machine>\\d+)i'
plan = 'monthly'
";

/// A period of a month from the 1st, over which usage can be read.
const PLAN: &str = "period = { starts = 1 }\nallowance = '1 TB'";

fn prepared(sandbox: &Sandbox) -> Result<Scene<'_>> {
    let scene = Scene::prepare(sandbox, CONFIG)?;
    scene.meterd.write("plans/monthly.toml", PLAN)?;
    Ok(scene)
}

/// So many echo requests there and back: 98 bytes each.
fn traffic(scene: &Scene<'_>, count: u16) -> Result<()> {
    let pings = ping(
        &scene.guest.party,
        scene.node.world.v4,
        count,
        Duration::ZERO,
    )?;
    if pings.answered.len() == usize::from(count) {
        return Ok(());
    }
    Err(Failure::new("some pings were not answered"))
}

fn rows(scene: &Scene<'_>, by: &str) -> Result<Vec<Value>> {
    let rows = scene.meterd.json(&["usage", MACHINE, "--by", by])?;
    Ok(rows.as_array().cloned().unwrap_or_default())
}

/// Every resolution and every period together have what the far end saw.
#[track_caller]
fn assert_exact(scene: &mut Scene<'_>) -> Result<()> {
    scene.meterd.status(MACHINE)?;
    let wire = scene.capture.settled(scene.guest.party.mac)?;
    let wire = Counted {
        received: wire.received.bytes,
        sent: wire.sent.bytes,
    };
    for by in ["minute", "hour", "day", "month", "period"] {
        let mut sum = Counted::default();
        let mut last = String::new();
        for row in rows(scene, by)? {
            sum.received += bytes(&row, "received")?;
            sum.sent += bytes(&row, "sent")?;
            let start = row["start"].as_str().unwrap_or_default().to_owned();
            assert!(start > last, "{by}: {start} after {last}");
            last = start;
        }
        assert_eq!(sum, wire, "{by}");
    }
    Ok(())
}

fn period(scene: &Scene<'_>) -> Result<String> {
    let status = scene.meterd.status(MACHINE)?;
    Ok(status["period"]["start"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// How often each period began, by the events.
fn begun(scene: &Scene<'_>) -> Result<Vec<String>> {
    let events = scene.meterd.events(MACHINE)?;
    let starts = events.iter().filter(|e| e["event"] == "period-started");
    Ok(starts
        .map(|event| event["time"].as_str().unwrap_or_default().to_owned())
        .collect())
}

fn until_logged(scene: &Scene<'_>, word: &str) -> Result<()> {
    let often = Duration::from_millis(20);
    wait::until(word, often, Duration::from_secs(10), || {
        let log = scene.meterd.log();
        Ok(if log.contains(word) {
            Seen::Yes(())
        } else {
            Seen::NotYet(log)
        })
    })?;
    Ok(())
}

#[test]
fn a_clock_that_jumps_ahead_starts_no_period_until_it_is_synchronised_also_across_restarts()
-> Result<()> {
    if !needs::shown_clock()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?;
        scene.meterd.shift_clock(0, Synchronised::No)?;
        scene.meterd.start()?;
        traffic(&scene, 3)?;
        let (first, starts) = (period(&scene)?, begun(&scene)?.len());

        scene.meterd.shift_clock(40 * DAY, Synchronised::No)?;
        until_logged(&scene, "not call it synchronised")?;
        traffic(&scene, 3)?;
        assert_eq!(period(&scene)?, first, "while it runs");
        for end in [End::Killed, End::Asked, End::Killed] {
            scene.meterd.stop(end)?;
            traffic(&scene, 2)?;
            scene.meterd.start()?;
            assert_eq!(period(&scene)?, first, "after a restart");
        }
        // It jumps while nobody looks, too.
        scene.meterd.stop(End::Killed)?;
        scene.meterd.shift_clock(80 * DAY, Synchronised::No)?;
        scene.meterd.start()?;
        assert_eq!(period(&scene)?, first, "jumped while the daemon was down");
        assert_eq!(begun(&scene)?.len(), starts);
        let events = scene.meterd.json(&["events"])?.to_string();
        assert!(events.contains("clock-stepped"), "{events}");

        scene.meterd.shift_clock(40 * DAY, Synchronised::Yes)?;
        traffic(&scene, 5)?;
        assert_ne!(period(&scene)?, first, "synchronised");
        assert_exact(&mut scene)
    })
}

#[test]
fn an_operator_confirms_a_clock_that_nothing_synchronises_once_by_its_key() -> Result<()> {
    if !needs::shown_clock()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?;
        scene.meterd.shift_clock(0, Synchronised::No)?;
        scene.meterd.start()?;
        traffic(&scene, 3)?;
        let first = period(&scene)?;
        scene.meterd.shift_clock(40 * DAY, Synchronised::No)?;
        traffic(&scene, 3)?;
        assert_eq!(period(&scene)?, first);
        scene.meterd.text(&["confirm", "--dry-run"])?;
        assert_eq!(period(&scene)?, first, "a dry run");
        let confirm = ["confirm", "--key", "k", "--reason", "no NTP here"];
        let answer = scene.meterd.json(&confirm)?;
        assert_ne!(period(&scene)?, first, "confirmed");
        assert_eq!(scene.meterd.json(&confirm)?, answer);
        let (second, starts) = (period(&scene)?, begun(&scene)?);
        scene.meterd.stop(End::Killed)?;
        traffic(&scene, 3)?;
        scene.meterd.start()?;
        assert_eq!((period(&scene)?, begun(&scene)?), (second, starts));
        // Nothing is left to confirm.
        assert!(!scene.meterd.cli(&["confirm"])?.status.success());
        assert_exact(&mut scene)
    })
}

#[test]
fn a_clock_that_steps_back_and_forth_repeats_and_skips_nothing() -> Result<()> {
    if !needs::shown_clock()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?;
        scene.meterd.shift_clock(0, Synchronised::Yes)?;
        scene.meterd.start()?;
        // Over a boundary and back, an hour, a second as a leap does, and over it again.
        let shifts = [
            0,
            20 * DAY,
            -20 * DAY,
            20 * DAY - 3600,
            20 * DAY,
            20 * DAY - 1,
        ];
        for (index, shift) in shifts
            .into_iter()
            .chain([21 * DAY, 0, 22 * DAY])
            .enumerate()
        {
            scene.meterd.shift_clock(shift, Synchronised::Yes)?;
            traffic(&scene, 3)?;
            scene.meterd.status(MACHINE)?;
            if index % 3 == 1 {
                scene.meterd.stop(End::Killed)?;
                traffic(&scene, 1)?;
                scene.meterd.start()?;
            }
        }
        let starts = begun(&scene)?;
        let periods = rows(&scene, "period")?.len();
        assert_eq!(periods, 2, "{starts:?}");
        assert_eq!(starts.len(), periods, "each began once: {starts:?}");
        assert_exact(&mut scene)
    })
}

#[test]
fn a_daemon_that_was_down_across_0_1_or_3_boundaries_closes_each_once_and_loses_nothing()
-> Result<()> {
    if !needs::shown_clock()? {
        return Ok(());
    }
    for (days, boundaries) in [(0, 0), (31, 1), (93, 3)] {
        Sandbox::run(|sandbox| {
            let mut scene = prepared(sandbox)?;
            // The middle of a month, whatever today is: ten days behind the boundary.
            scene.meterd.shift_clock(0, Synchronised::Yes)?;
            scene.meterd.start()?;
            let start: String = period(&scene)?;
            scene.meterd.stop(End::Asked)?;
            let into = seconds_since(&start)?;
            let base = 10 * DAY - into;
            std::fs::remove_dir_all(scene.meterd.directory().join("state"))
                .map_err(|error| Failure::new(error.to_string()))?;
            scene.meterd.shift_clock(base, Synchronised::Yes)?;
            scene.meterd.start()?;
            traffic(&scene, 3)?;
            let before = begun(&scene)?.len();
            scene.meterd.stop(End::Asked)?;
            traffic(&scene, 50)?;
            scene
                .meterd
                .shift_clock(base + days * DAY, Synchronised::Yes)?;
            scene.meterd.start()?;
            traffic(&scene, 2)?;
            assert_exact(&mut scene)?;
            assert_eq!(begun(&scene)?.len() - before, boundaries, "{days} days");
            let periods = rows(&scene, "period")?;
            let nothing = periods.iter().filter(|row| row["received"] == 0);
            assert_eq!(
                periods.len() - nothing.count(),
                boundaries + 1,
                "{periods:?}"
            );
            for pair in periods.windows(2) {
                assert_eq!(pair[0]["end"], pair[1]["start"]);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// How long a period has run, by the machine's own clock.
fn seconds_since(start: &str) -> Result<i64> {
    let day = |text: &str| -> Option<i64> {
        let mut parts = text
            .get(..10)?
            .split('-')
            .map(|part| part.parse::<i64>().ok());
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        // Days since 1970 of a civil date (Howard Hinnant's days_from_civil).
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let of_era = year - era * 400;
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
    };
    let start = day(start).ok_or_else(|| Failure::new(format!("no date: {start}")))?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    Ok(now - start * DAY)
}

#[test]
fn a_node_without_a_clock_of_its_own_counts_from_its_first_second_and_begins_no_period_in_1970()
-> Result<()> {
    if !needs::shown_clock()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        scene.meterd.shift_clock(100 - now, Synchronised::No)?;
        scene.meterd.start()?;
        traffic(&scene, 3)?;
        let (first, starts) = (period(&scene)?, begun(&scene)?);
        assert!(first.starts_with("2020-"), "{first}");
        // The time server answers: the clock is stepped first and called synchronised later.
        scene.meterd.shift_clock(0, Synchronised::No)?;
        traffic(&scene, 3)?;
        assert_eq!((period(&scene)?, begun(&scene)?), (first.clone(), starts));
        scene.meterd.shift_clock(0, Synchronised::Yes)?;
        traffic(&scene, 3)?;
        assert_ne!(period(&scene)?, first);
        assert_exact(&mut scene)?;

        // A later boot of it, with the same fault.
        let last = period(&scene)?;
        scene.meterd.stop(End::Killed)?;
        traffic(&scene, 3)?;
        scene.meterd.shift_clock(100 - now, Synchronised::No)?;
        scene.meterd.start()?;
        traffic(&scene, 3)?;
        assert_eq!(period(&scene)?, last, "not before the last record");
        scene.meterd.shift_clock(0, Synchronised::Yes)?;
        assert_exact(&mut scene)
    })
}
