//! `kill -9` in each system call by which the daemon changes a file or the kernel: in a first
//! start, a poll, a command, a throttle that begins and ends, and a stop. After each, a new
//! start has every acknowledged command once, every byte that the far end saw, one program a
//! hook, and what should stand stands.
//!
//! `cargo xtask test` tries a share of the instants, `cargo xtask test-crash` every one.

use std::{
    fs,
    io::Write as _,
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Result, http,
    inspect::{self, Queue},
    links,
    meterd::{Counted, End, bytes},
    needs,
    sandbox::Sandbox,
    scene::{MACHINE, Scene, is_metered},
    strace::{self, Strace},
    traffic::{Tcp, ping},
    wait::{self, Seen},
};
use rustix::process::Signal;

/// By which something changes. One that this architecture has not is passed over.
const CALLS: [&str; 13] = [
    "pwrite64",
    "fdatasync",
    "fsync",
    "ftruncate",
    "?rename",
    "?renameat2",
    "?unlink",
    "?unlinkat",
    "?mkdir",
    "bpf",
    "sendto",
    "sendmsg",
    "openat",
];

const EVERY: &str = "METERD_TEST_EVERY_KILL";

const CONFIG: &str = "
poll-interval = '1s'
[[discover]]
interface = '^tap(?<machine>\\d+)i'
plan = 'strict'
";

const PLAN: &str = "
allowance = '1 TB'
[[rule]]
used = '100%'
throttle = '64 kbit/s'
notify = true
";

fn prepared(sandbox: &Sandbox) -> Result<Scene<'_>> {
    let scene = Scene::prepare(sandbox, CONFIG)?;
    scene.meterd.write("plans/strict.toml", PLAN)?;
    Ok(scene)
}

fn traffic(scene: &Scene<'_>) -> Result<()> {
    let (guest, world) = (&scene.guest.party, &scene.node.world);
    Tcp::v4(100_000).run(guest, world)?;
    ping(guest, world.v4, 1, Duration::ZERO).map(drop)
}

/// Which calls, and of their instants each so manieth; or a few.
fn choice() -> (&'static [&'static str], Option<u32>) {
    match std::env::var(EVERY) {
        Ok(every) => (&CALLS, every.parse().ok()),
        Err(_) => (&["pwrite64", "fsync", "bpf", "sendto"], None),
    }
}

/// Whether the daemon lived to do all that it was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Killed,
    Lived,
}

/// Tries every instant of every call. `once` does the deed under the name of the instant, and
/// sees to it afterwards that nothing is amiss.
fn sweep(what: &str, mut once: impl FnMut(&str, u32, &str) -> Result<Outcome>) -> Result<()> {
    let begun = Instant::now();
    let (mut kills, mut total) = (Vec::new(), 0);
    let (calls, every) = choice();
    let next = |n: &u32| Some(every.map_or(n * 9, |every| n + every));
    for call in calls {
        let mut count = 0;
        for n in std::iter::successors(Some(1), next) {
            let name = format!("{what}-{}-{n}", call.trim_start_matches('?'));
            let outcome = once(call, n, &name).could_not(|| format!("survive {name}"))?;
            if outcome == Outcome::Lived {
                break;
            }
            count += 1;
        }
        if count > 0 {
            kills.push(format!("{} {count}", call.trim_start_matches('?')));
            total += count;
        }
        if *call == "pwrite64" {
            assert!(count > 0, "{what} wrote nothing");
        }
    }
    // Past the harness, which keeps what passing tests print: the number is part of the proof.
    let line = format!(
        "\nshown: {what}: killed at {total} instants, in {}; nothing lost, nothing twice ({:.0?})\n",
        kills.join(", "),
        begun.elapsed()
    );
    std::io::stderr()
        .write_all(line.as_bytes())
        .could_not(|| "say so")?;
    Ok(())
}

/// Waits until the daemon has ended, or `done`.
fn outcome(scene: &mut Scene<'_>, mut done: impl FnMut() -> Result<bool>) -> Result<Outcome> {
    let often = Duration::from_millis(5);
    let seen = wait::until(
        "the deed or the end",
        often,
        Duration::from_secs(20),
        || {
            if scene.meterd.ended()?.is_some() {
                return Ok(Seen::Yes(Outcome::Killed));
            }
            Ok(if done()? {
                Seen::Yes(Outcome::Lived)
            } else {
                Seen::NotYet("neither".to_owned())
            })
        },
    )?;
    Ok(seen.0)
}

fn start_again(scene: &mut Scene<'_>) -> Result<()> {
    scene.meterd.wait()?;
    scene.meterd.start()
}

#[track_caller]
fn assert_agree(scene: &mut Scene<'_>, name: &str) -> Result<()> {
    let (ledger, wire) = scene.both()?;
    assert_eq!(ledger, wire, "{name}: the ledger, the wire");
    assert!(is_metered("tap101i0")?, "{name}: one program a hook");
    Ok(())
}

/// A running daemon that is killed in the `n`-th call while it does something.
fn killed_while(
    scene: &mut Scene<'_>,
    call: &str,
    n: u32,
    deed: impl FnOnce(&mut Scene<'_>) -> Result<Outcome>,
) -> Result<Outcome> {
    let strace = Strace::killing(scene.meterd.pid(), call, n)?;
    let outcome = deed(scene)?;
    drop(strace);
    // The kill may have come with what the daemon does after its answer.
    std::thread::sleep(Duration::from_millis(5));
    let outcome = match scene.meterd.ended()? {
        Some(_) => Outcome::Killed,
        None => outcome,
    };
    if outcome == Outcome::Killed {
        start_again(scene)?;
    }
    Ok(outcome)
}

#[test]
fn a_kill_anywhere_in_a_first_start_leaves_a_node_that_starts_and_counts_exactly() -> Result<()> {
    if !needs::program("strace") {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?;
        sweep("first start", |call, n, name| {
            // Older than the first sight: a baseline, whenever that was cut short.
            traffic(&scene)?;
            scene
                .meterd
                .launch_under(strace::killing_from_the_start(call, n))?;
            let socket = scene.meterd.socket();
            let outcome = outcome(&mut scene, || {
                Ok(http::over_unix(&socket, "GET", "/v1/machines", &[], "").is_ok())
            })?;
            if outcome == Outcome::Lived {
                scene.meterd.signal_the_locks_owner(Signal::KILL)?;
            }
            start_again(&mut scene)?;
            let world = scene.node.world.v4;
            ping(&scene.guest.party, world, 3, Duration::ZERO)?;
            let expected = Counted {
                received: 3 * 98,
                sent: 3 * 98,
            };
            assert_eq!(scene.meterd.counted(MACHINE)?, expected, "{name}");
            assert!(is_metered("tap101i0")?, "{name}");
            // And as if nothing had ever been.
            scene.meterd.text(&["detach"])?;
            scene.meterd.wait()?;
            for directory in ["state", "run"] {
                let path = scene.meterd.directory().join(directory);
                fs::remove_dir_all(&path).could_not(|| format!("remove {}", path.display()))?;
            }
            Ok(outcome)
        })
    })
}

#[test]
fn a_kill_anywhere_in_a_poll_loses_and_repeats_nothing() -> Result<()> {
    if !needs::program("strace") {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?.started()?;
        sweep("poll", |call, n, name| {
            let outcome = killed_while(&mut scene, call, n, |scene| {
                traffic(scene)?;
                let begun = Instant::now();
                outcome(scene, || Ok(begun.elapsed() > Duration::from_millis(1200)))
            })?;
            assert_agree(&mut scene, name)?;
            Ok(outcome)
        })
    })
}

#[test]
fn a_kill_anywhere_in_a_command_keeps_what_was_acknowledged_and_its_key_does_it_once() -> Result<()>
{
    if !needs::program("strace") {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?.started()?;
        let allowance = |scene: &Scene<'_>| bytes(&scene.meterd.status(MACHINE)?, "allowance");
        let mut expected = allowance(&scene)?;
        sweep("command", |call, n, name| {
            let command = ["top-up", MACHINE, "1 MB", "--key", name];
            traffic(&scene)?;
            let mut acknowledged = false;
            let outcome = killed_while(&mut scene, call, n, |scene| {
                acknowledged = scene.meterd.cli(&command)?.status.success();
                if acknowledged {
                    // It may have been killed in what follows the answer.
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome(scene, || Ok(acknowledged))
            })?;
            expected += 1_000_000;
            if acknowledged {
                assert_eq!(allowance(&scene)?, expected, "{name} was acknowledged");
            }
            scene.meterd.text(&command)?;
            assert_eq!(allowance(&scene)?, expected, "{name}, once");
            assert_agree(&mut scene, name)?;
            Ok(outcome)
        })
    })
}

/// The shaper's own queues on the tap.
fn shaped() -> Result<bool> {
    let tap = links::get("tap101i0")?.index;
    let ours = |queue: &Queue| queue.ifindex == tap && queue.kind == "htb";
    Ok(inspect::qdiscs()?.iter().any(ours))
}

/// It is policed meanwhile: a root that has just changed is left alone for half a second, whoever
/// changed it.
fn until_shaped(wanted: bool) -> Result<()> {
    let often = Duration::from_millis(20);
    let what = format!("the shaper to stand: {wanted}");
    wait::until(&what, often, Duration::from_secs(5), || {
        Ok(if shaped()? == wanted {
            Seen::Yes(())
        } else {
            Seen::NotYet("otherwise".to_owned())
        })
    })?;
    Ok(())
}

#[test]
fn a_kill_anywhere_in_a_throttles_beginning_or_end_leaves_it_as_it_should_stand() -> Result<()> {
    if !needs::program("strace") {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?.started()?;
        traffic(&scene)?;
        let mut throttled = false;
        sweep("throttle", |call, n, name| {
            let mut outcomes = Vec::new();
            // Begun and ended in turn, so that both are killed at each instant.
            for _ in 0..2 {
                throttled = !throttled;
                let (allowance, state) = match throttled {
                    true => ("allowance=1 kB", "throttled"),
                    false => ("allowance=1 TB", "normal"),
                };
                let key = format!("{name}-{state}");
                let command = ["set", MACHINE, allowance, "--key", &key];
                let outcome = killed_while(&mut scene, call, n, |scene| {
                    let acknowledged = scene.meterd.cli(&command)?.status.success();
                    if acknowledged {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    outcome(scene, || Ok(acknowledged))
                })?;
                scene.meterd.text(&command)?;
                assert_eq!(scene.meterd.status(MACHINE)?["state"], state, "{name}");
                until_shaped(throttled).could_not(|| format!("survive {name}"))?;
                outcomes.push(outcome);
            }
            traffic(&scene)?;
            assert_agree(&mut scene, name)?;
            let lived = outcomes.iter().all(|outcome| *outcome == Outcome::Lived);
            Ok(if lived {
                Outcome::Lived
            } else {
                Outcome::Killed
            })
        })
    })
}

#[test]
fn a_kill_anywhere_in_a_stop_loses_and_repeats_nothing() -> Result<()> {
    if !needs::program("strace") {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?.started()?;
        sweep("stop", |call, n, name| {
            traffic(&scene)?;
            let strace = Strace::killing(scene.meterd.pid(), call, n)?;
            let status = scene.meterd.stop(End::Asked)?;
            drop(strace);
            traffic(&scene)?;
            scene.meterd.start()?;
            assert_agree(&mut scene, name)?;
            Ok(match status.code() {
                Some(0) => Outcome::Lived,
                _ => Outcome::Killed,
            })
        })
    })
}

#[test]
fn a_new_ledger_is_synced_before_it_has_its_name_and_its_directory_after() -> Result<()> {
    if !needs::program("strace") {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let mut scene = prepared(sandbox)?;
        let calls = scene.meterd.directory().join("calls");
        scene.meterd.launch_under(strace::writing_down(
            "fsync,fdatasync,?rename,?renameat,?renameat2",
            &calls,
        ))?;
        let socket = scene.meterd.socket();
        let outcome = outcome(&mut scene, || {
            Ok(http::over_unix(&socket, "GET", "/v1/machines", &[], "").is_ok())
        })?;
        assert_eq!(outcome, Outcome::Lived);
        scene.meterd.signal_the_locks_owner(Signal::KILL)?;
        scene.meterd.wait()?;
        let calls = fs::read_to_string(&calls).could_not(|| "read the calls")?;
        let mut lines = calls.lines();
        for words in [
            ["sync(", "ledger.db.new>"],
            ["rename", "ledger.db\""],
            ["fsync(", "/state>"],
        ] {
            let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
            assert!(found, "no {words:?}, or not in that order:\n{calls}");
        }
        Ok(())
    })
}
