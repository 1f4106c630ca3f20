//! Five hundred interfaces at once, and what the start does to the whole machine meanwhile.
#![expect(clippy::print_stdout, reason = "a test shows what it measured")]

use std::{
    fs,
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result,
    inspect::{self, Hook},
    links::{self, End},
    meterd::{self, Meterd},
    sandbox::{Namespace, Sandbox},
    scene::EVERY_TAP,
    stall,
    wait::{self, Seen},
};

const MANY: usize = 500;
const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// The switch is the machine's: another attacher's moment may be seen, too.
fn until_put_back(before: &str) -> Result<()> {
    wait::until(EXPEDITED, Duration::from_millis(5), SOON, || {
        let now = expedited()?;
        Ok(match now == before {
            true => Seen::Yes(()),
            false => Seen::NotYet(format!("{now}, not {before}: it was not put back")),
        })
    })
    .map(drop)
}

fn expedited() -> Result<String> {
    fs::read_to_string(EXPEDITED).could_not(|| format!("read {EXPEDITED}"))
}

/// Pairs whose host ends look like taps; the namespace of the others has to be kept.
fn plug_many() -> Result<(Namespace, Vec<u32>)> {
    let guests = Namespace::new()?;
    for n in 0..MANY {
        let (here, there) = (format!("tap{}i0", 1000 + n), format!("eth{n}"));
        let end = |name| End { name, mac: None };
        links::veth(end(&here), end(&there), &guests)?;
    }
    let all = links::list()?
        .into_iter()
        .filter(|link| link.name.starts_with("tap"));
    Ok((guests, all.map(|link| link.index).collect()))
}

fn attached(indices: &[u32]) -> Result<usize> {
    let mut count = 0;
    for &index in indices {
        for hook in Hook::BOTH {
            count += inspect::programs(index, hook)?.len();
        }
    }
    Ok(count)
}

const SOON: Duration = Duration::from_secs(2);

#[test]
fn five_hundred_interfaces_are_attached_in_less_than_two_seconds() -> Result<()> {
    let took = stall::undisturbed("attaching", |took| *took < SOON, attach_many)?;
    assert!(took < SOON, "{took:?}");
    Ok(())
}

/// Attaches five hundred, and tells how long that took.
fn attach_many() -> Result<Duration> {
    Sandbox::run(|sandbox| {
        let (_guests, indices) = plug_many()?;
        let before = expedited()?;
        let mut meterd = Meterd::new(sandbox, EVERY_TAP)?;
        let start = Instant::now();
        meterd.start()?;
        let (_, rest) = wait::until(
            "1000 programs",
            Duration::from_millis(5),
            Duration::from_secs(60),
            || {
                let now = attached(&indices)?;
                Ok(if now == 2 * MANY {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(now.to_string())
                })
            },
        )?;
        let elapsed = start.elapsed();
        println!(
            "ready after {:?}, all attached after {elapsed:?}",
            elapsed - rest
        );
        until_put_back(&before)?;
        let resident = resident(meterd.pid())?;
        println!("{resident} kB resident");
        assert!(resident < 64 * 1024, "{resident} kB");
        Ok(elapsed)
    })
}

fn resident(pid: Option<u32>) -> Result<u64> {
    let pid = pid.ok_or_else(|| Failure::new("meterd does not run"))?;
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).could_not(|| format!("read {path}"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .ok_or_else(|| Failure::new("no VmRSS in its status"))
}

#[test]
fn a_kill_in_mid_attach_leaves_rcu_expedited_as_it_was_once_the_daemon_has_started() -> Result<()> {
    Sandbox::run(|sandbox| {
        let (_guests, indices) = plug_many()?;
        let before = expedited()?;
        let mut meterd = Meterd::new(sandbox, EVERY_TAP)?;
        meterd.launch()?;
        let (then, _) = wait::until(
            "some programs",
            Duration::ZERO,
            Duration::from_secs(30),
            || {
                // The newest are attached last or first: look at a few of both ends.
                let few = [&indices[..5], &indices[MANY / 2..MANY / 2 + 5]].concat();
                let now = attached(&few)?;
                Ok(if now > 0 {
                    Seen::Yes(expedited()?)
                } else {
                    Seen::NotYet("none".to_owned())
                })
            },
        )?;
        meterd.stop(meterd::End::Killed)?;
        let reached = attached(&indices)?;
        println!(
            "killed with {reached} of {} attached; expedited was {}",
            2 * MANY,
            then.trim()
        );
        assert!(
            reached < 2 * MANY,
            "the kill came too late to be in mid-attach"
        );
        meterd.start()?;
        until_put_back(&before)?;
        assert_eq!(attached(&indices)?, 2 * MANY);
        Ok(())
    })
}

#[test]
fn five_hundred_interfaces_are_detached_in_less_than_two_seconds() -> Result<()> {
    let took = stall::undisturbed("detaching", |took| *took < SOON, detach_many)?;
    assert!(took < SOON, "{took:?}");
    Ok(())
}

/// Detaches five hundred, and tells how long that took.
fn detach_many() -> Result<Duration> {
    Sandbox::run(|sandbox| {
        let (_guests, indices) = plug_many()?;
        let mut meterd = Meterd::new(sandbox, EVERY_TAP)?;
        meterd.start()?;
        let before = expedited()?;
        let start = Instant::now();
        meterd.text(&["detach"])?;
        let elapsed = start.elapsed();
        println!("detached after {elapsed:?}");
        assert_eq!(attached(&indices)?, 0);
        until_put_back(&before)?;
        Ok(elapsed)
    })
}
