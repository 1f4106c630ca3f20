//! What an operator meets: broken configuration, missing privilege, a kernel without TCX, a
//! second daemon, reload, repeated commands, and leaving without a trace.

use std::{fs, os::unix::fs::PermissionsExt, process::Output, time::Duration};

use meter_tests::{
    Context, Result,
    foreign::{Filter, Place},
    http,
    inspect::{self, Hook, Inventory},
    links,
    meterd::{Counted, End, Meterd, bytes},
    sandbox::Sandbox,
    scene::{EVERY_TAP, MACHINE, Scene},
    topology::{Node, Port},
    traffic::{Tcp, ping},
    wait::{self, Seen},
};
use rustix::process::Signal;

const CONFIGURATION: i32 = 78;
const NOT_ALLOWED: i32 = 77;
const NOT_RUNNING: i32 = 69;
const USAGE: i32 = 64;

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn assert_says(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "it does not say {word:?}:\n{said}");
    }
}

/// Four mistakes of four kinds, in two files.
const BROKEN: &str = "
poll-intervall = '1s'
count-bytes = 'wires'
[[machine]]
id = 'web1'
interfaces = ['tap101i0']
plan = 'no-such-plan'
";
const BROKEN_PLAN: &str = "period = { starts = 32 }\nallowance = '1 XB'\n";

#[test]
fn every_error_of_a_broken_configuration_is_told_at_once_and_the_exit_is_78() -> Result<()> {
    Sandbox::run(|sandbox| {
        let meterd = Meterd::new(sandbox, BROKEN)?;
        meterd.write("plans/odd.toml", BROKEN_PLAN)?;
        let words = [
            "poll-intervall", // what is wrong
            "poll-interval",  // and what to write instead
            "wires",
            "no-such-plan",
            "1 XB",
            "32",
            "meterd.toml:",
            "odd.toml:",
        ];
        for command in ["check", "run"] {
            assert_says(&meterd.cli(&[command])?, CONFIGURATION, &words);
        }
        Ok(())
    })
}

#[test]
fn text_that_is_not_toml_is_shown_where_it_breaks() -> Result<()> {
    Sandbox::run(|sandbox| {
        let meterd = Meterd::new(sandbox, "poll-interval = '1s\n[[machine]]\n")?;
        assert_says(
            &meterd.cli(&["run"])?,
            CONFIGURATION,
            &["meterd.toml:", "poll-interval"],
        );
        Ok(())
    })
}

#[test]
fn a_good_configuration_is_checked_with_exit_0() -> Result<()> {
    Sandbox::run(|sandbox| {
        let meterd = Meterd::new(sandbox, EVERY_TAP)?;
        assert_says(&meterd.cli(&["check"])?, 0, &[]);
        Ok(())
    })
}

#[test]
fn without_privilege_it_says_what_it_needs_and_the_exit_is_77() -> Result<()> {
    Sandbox::run(|sandbox| {
        let meterd = Meterd::new(sandbox, EVERY_TAP)?;
        let anyone = fs::Permissions::from_mode(0o777);
        fs::set_permissions(meterd.directory(), anyone).could_not(|| "open the directory")?;
        let output = meterd.cli_without_privilege(&["run"])?;
        assert_says(&output, NOT_ALLOWED, &["CAP_"]);
        assert_eq!(
            inspect::pins(&meterd.pins())?,
            Vec::<std::path::PathBuf>::new()
        );
        Ok(())
    })
}

#[test]
fn without_bpffs_it_says_how_to_mount_one() -> Result<()> {
    Sandbox::run(|sandbox| {
        let root = sandbox.root().display();
        let config = format!(
            "state-directory = '{root}/s'\nruntime-directory = '{root}/r'\n\
             pin-directory = '{root}/not-a-bpffs'\n"
        );
        let meterd = Meterd::new(sandbox, &config)?;
        let output = meterd.cli(&["run"])?;
        assert!(!output.status.success());
        let said = said(&output);
        for word in ["not-a-bpffs", "mount -t bpf"] {
            assert!(said.contains(word), "it does not say {word:?}:\n{said}");
        }
        Ok(())
    })
}

#[test]
fn where_tcx_is_missing_clsact_counts_beside_the_filters_that_are_there() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?;
        let mut meterd = Meterd::new(sandbox, &format!("attach = 'clsact'\n{EVERY_TAP}"))?;
        meterd.start()?;
        let index = links::get(&guest.tap)?.index;
        for hook in Hook::BOTH {
            assert_eq!(inspect::tcx(index, hook)?, []);
            assert!(
                !inspect::filters(index, hook)?.is_empty(),
                "no filter at {hook:?}"
            );
        }
        let filter = Filter::clsact(&guest.tap, Hook::Sent, 60_000)?;
        ping(&guest.party, node.world.v4, 10, Duration::ZERO)?;
        assert_eq!(
            meterd.counted(MACHINE)?,
            Counted {
                received: 980,
                sent: 980
            }
        );
        assert_eq!(filter.seen()?.packets, 10, "a filter behind ours");
        // And again by the next daemon, once.
        meterd.stop(End::Killed)?;
        ping(&guest.party, node.world.v4, 10, Duration::ZERO)?;
        meterd.start()?;
        ping(&guest.party, node.world.v4, 10, Duration::ZERO)?;
        assert_eq!(
            meterd.counted(MACHINE)?,
            Counted {
                received: 2940,
                sent: 2940
            }
        );
        meterd.text(&["detach"])?;
        assert_eq!(inspect::programs(index, Hook::Received)?, []);
        assert_eq!(inspect::programs(index, Hook::Sent)?.len(), 1);
        ping(&guest.party, node.world.v4, 5, Duration::ZERO)?;
        assert_eq!(filter.seen()?.packets, 35, "a filter that is not ours");
        Ok(())
    })
}

#[test]
fn a_second_daemon_on_the_same_state_directory_is_refused() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let state = scene.meterd.directory().join("state");
        let root = sandbox.root().display();
        let config = format!(
            "state-directory = '{}'\nruntime-directory = '{root}/r2'\n\
             pin-directory = '{}/second'\n[metrics]\nlisten = ''\n",
            state.display(),
            sandbox.bpffs().display(),
        );
        let second = Meterd::named(sandbox, "second", &config)?;
        for output in [scene.meterd.cli(&["run"])?, second.cli(&["run"])?] {
            assert!(!output.status.success());
            let said = said(&output);
            let state = state.display().to_string();
            assert!(said.contains(&state), "it does not name {state}:\n{said}");
        }
        // The first was not disturbed.
        assert_eq!(scene.meterd.counted(MACHINE)?, Counted::default());
        Ok(())
    })
}

#[test]
fn commands_without_a_daemon_exit_69_and_without_sense_64() -> Result<()> {
    Sandbox::run(|sandbox| {
        let meterd = Meterd::new(sandbox, EVERY_TAP)?;
        assert_says(&meterd.cli(&["status"])?, NOT_RUNNING, &["meterd.sock"]);
        assert_says(&meterd.cli(&["no-such-command"])?, USAGE, &[]);
        Ok(())
    })
}

#[test]
fn only_root_and_the_group_change_things() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let output = scene
            .meterd
            .cli_without_privilege(&["top-up", MACHINE, "1 GB"])?;
        assert_says(&output, NOT_ALLOWED, &[]);
        Ok(())
    })
}

/// A plan with an allowance of nothing: whatever moves is throttled.
const STRICT: &str = "
period = { starts = 1 }
direction = 'sum'
allowance = '1 kB'
[[rule]]
used = '105%'
throttle = '64 kbit/s'
notify = true
";

const STRICT_TAP: &str = r"
poll-interval = '1s'
[[discover]]
interface = '^tap(?<machine>\d+)i\d+$'
plan = 'strict'
";

/// A node whose one guest is throttled, so that there is something to remove.
fn throttled<'a>(sandbox: &'a Sandbox, keys: &str) -> Result<(Scene<'a>, Inventory)> {
    let scene = Scene::prepare(sandbox, &format!("{keys}{STRICT_TAP}"))?;
    let before = Inventory::take()?;
    scene.meterd.write("plans/strict.toml", STRICT)?;
    let scene = scene.started()?;
    Tcp::v4(10_000).run(&scene.guest.party, &scene.node.world)?;
    scene
        .meterd
        .wait_for_state(MACHINE, "throttled", Duration::from_secs(5))?;
    Ok((scene, before))
}

fn assert_gone(scene: &Scene<'_>, before: &Inventory) -> Result<()> {
    Inventory::take()?.same_as(before)?;
    let left = inspect::pins(&scene.meterd.pins())?;
    assert!(left.is_empty(), "pins are left: {left:?}");
    Ok(())
}

#[test]
fn detach_leaves_nothing_with_the_daemon_running() -> Result<()> {
    Sandbox::run(|sandbox| {
        let (mut scene, before) = throttled(sandbox, "")?;
        scene.meterd.text(&["detach"])?;
        assert_gone(&scene, &before)?;
        // It has nothing left to do.
        scene.meterd.wait()?;
        scene.meterd.text(&["detach"])?;
        assert_gone(&scene, &before)
    })
}

#[test]
fn detach_leaves_nothing_after_a_clean_stop_and_stopping_alone_detaches_nothing() -> Result<()> {
    Sandbox::run(|sandbox| {
        let (mut scene, before) = throttled(sandbox, "")?;
        let metered = Inventory::take()?;
        assert!(scene.meterd.stop(End::Asked)?.success());
        Inventory::take()?.same_as(&metered)?;
        scene.meterd.text(&["detach"])?;
        assert_gone(&scene, &before)?;
        scene.meterd.text(&["detach"])?;
        assert_gone(&scene, &before)
    })
}

#[test]
fn detach_leaves_nothing_after_kill_9() -> Result<()> {
    Sandbox::run(|sandbox| {
        let (mut scene, before) = throttled(sandbox, "")?;
        scene.meterd.stop(End::Killed)?;
        scene.meterd.text(&["detach"])?;
        assert_gone(&scene, &before)
    })
}

#[test]
fn detach_leaves_nothing_of_clsact_either() -> Result<()> {
    Sandbox::run(|sandbox| {
        let (mut scene, before) = throttled(sandbox, "attach = 'clsact'\n")?;
        scene.meterd.stop(End::Killed)?;
        scene.meterd.text(&["detach"])?;
        assert_gone(&scene, &before)
    })
}

#[test]
fn detach_leaves_what_is_others() -> Result<()> {
    Sandbox::run(|sandbox| {
        let (scene, _) = throttled(sandbox, "")?;
        let tap = &scene.guest.tap;
        let mut theirs = vec![Filter::clsact(tap, Hook::Received, 1)?];
        if inspect::has_tcx()? {
            theirs.push(Filter::tcx(tap, Hook::Sent, Place::First)?);
        }
        scene.meterd.text(&["detach"])?;
        let before: Vec<_> = theirs.iter().map(Filter::seen).collect::<Result<_>>()?;
        ping(&scene.guest.party, scene.node.world.v4, 3, Duration::ZERO)?;
        for (filter, before) in theirs.iter().zip(before) {
            assert_eq!(filter.seen()?.packets - before.packets, 3);
        }
        Ok(())
    })
}

#[test]
fn after_detach_the_ledger_is_kept_and_a_new_start_counts_on() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let world = scene.node.world.v4;
        ping(&scene.guest.party, world, 3, Duration::ZERO)?;
        scene.meterd.text(&["detach"])?;
        scene.meterd.wait()?;
        // Nobody meters this.
        ping(&scene.guest.party, world, 100, Duration::ZERO)?;
        scene.meterd.start()?;
        ping(&scene.guest.party, world, 2, Duration::ZERO)?;
        let expected = Counted {
            received: 5 * 98,
            sent: 5 * 98,
        };
        assert_eq!(scene.meterd.counted(MACHINE)?, expected);
        Ok(())
    })
}

const WITH_WEB1: &str = "
[[machine]]
id = 'web1'
interfaces = ['tap101i0']
";

#[test]
fn a_reload_by_command_or_sighup_takes_the_new_files_and_keeps_the_old_ones_if_broken() -> Result<()>
{
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let has_web1 = || scene.meterd.status("web1").is_ok();
        assert!(!has_web1());
        scene.meterd.configure(&format!("{EVERY_TAP}{WITH_WEB1}"))?;
        let changed = scene.meterd.text(&["reload"])?;
        assert!(changed.contains("web1"), "{changed}");
        assert!(has_web1());

        scene.meterd.configure("count-bytes = 'wires'")?;
        assert_says(
            &scene.meterd.cli(&["reload"])?,
            CONFIGURATION,
            &["wires", "meterd.toml:"],
        );
        assert!(has_web1());
        scene.meterd.signal(Signal::HUP)?;
        wait::until(
            "the complaint",
            Duration::from_millis(20),
            Duration::from_secs(5),
            || {
                let log = scene.meterd.log();
                Ok(if log.contains("wires") {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(log)
                })
            },
        )?;
        assert!(has_web1());

        scene.meterd.configure(EVERY_TAP)?;
        scene.meterd.signal(Signal::HUP)?;
        ping(&scene.guest.party, scene.node.world.v4, 2, Duration::ZERO)?;
        wait::until(
            "the old name",
            Duration::from_millis(20),
            Duration::from_secs(5),
            || {
                Ok(match scene.meterd.status(MACHINE) {
                    Ok(status) if status["interfaces"] == serde_json::json!(["tap101i0"]) => {
                        Seen::Yes(())
                    }
                    Ok(status) => Seen::NotYet(status.to_string()),
                    Err(failure) => Seen::NotYet(failure.to_string()),
                })
            },
        )?;
        Ok(())
    })
}

#[test]
fn one_key_is_one_command_also_after_a_crash() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::prepare(sandbox, STRICT_TAP)?;
        scene.meterd.write("plans/strict.toml", STRICT)?;
        scene.meterd.start()?;
        let top_up = |scene: &Scene<'_>, volume: &str, key: &str| {
            scene
                .meterd
                .cli(&["top-up", MACHINE, volume, "--key", key, "--json"])
        };
        let allowance = |scene: &Scene<'_>| bytes(&scene.meterd.status(MACHINE)?, "allowance");
        let first = top_up(&scene, "1 MB", "k1")?;
        assert_says(&first, 0, &[]);
        assert_eq!(top_up(&scene, "1 MB", "k1")?.stdout, first.stdout);
        assert_eq!(allowance(&scene)?, 1_001_000);
        scene.meterd.stop(End::Killed)?;
        scene.meterd.start()?;
        assert_eq!(top_up(&scene, "1 MB", "k1")?.stdout, first.stdout);
        assert_eq!(allowance(&scene)?, 1_001_000);
        // A key that was used for something else is refused, not mistaken.
        assert!(!top_up(&scene, "2 MB", "k1")?.status.success());
        assert_says(&top_up(&scene, "1 MB", "k2")?, 0, &[]);
        assert_eq!(allowance(&scene)?, 2_001_000);

        let path = format!("/v1/machines/{MACHINE}/top-up");
        let post = |body: &str| {
            http::over_unix(
                &scene.meterd.socket(),
                "POST",
                &path,
                &[
                    ("Idempotency-Key", "k3"),
                    ("Content-Type", "application/json"),
                ],
                body,
            )
        };
        assert_eq!(post(r#"{"volume":"1 GB"}"#)?.status, 200);
        assert_eq!(post(r#"{"volume":"1 GB"}"#)?.status, 200);
        let other = post(r#"{"volume":"2 GB"}"#)?;
        assert_eq!(other.status, 422, "{other:?}");
        assert!(other.head.contains("application/problem+json"), "{other:?}");
        Ok(())
    })
}

#[test]
fn a_dry_run_of_a_command_changes_nothing() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::prepare(sandbox, STRICT_TAP)?;
        scene.meterd.write("plans/strict.toml", STRICT)?;
        let scene = scene.started()?;
        scene
            .meterd
            .text(&["top-up", MACHINE, "1 MB", "--dry-run"])?;
        assert_eq!(bytes(&scene.meterd.status(MACHINE)?, "allowance")?, 1000);
        Ok(())
    })
}

#[test]
fn a_plan_that_does_not_enforce_decides_and_touches_nothing() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::prepare(sandbox, STRICT_TAP)?;
        scene
            .meterd
            .write("plans/strict.toml", &format!("enforce = false\n{STRICT}"))?;
        let scene = scene.started()?;
        let metered = Inventory::take()?;
        Tcp::v4(10_000).run(&scene.guest.party, &scene.node.world)?;
        let status = scene.meterd.status(MACHINE)?;
        assert_eq!(status["state"], "throttled", "{status}");
        Inventory::take()?.same_as(&metered)?;
        let goodput = Tcp::v4(5_000_000)
            .run(&scene.guest.party, &scene.node.world)?
            .goodput();
        assert!(goodput > 10e6, "{goodput}");
        Ok(())
    })
}

#[test]
fn doctor_says_what_the_kernel_has() -> Result<()> {
    Sandbox::run(|sandbox| {
        let meterd = Meterd::new(sandbox, EVERY_TAP)?;
        let output = meterd.cli(&["doctor"])?;
        assert_says(&output, 0, &["tcx", "bpffs", "HTB", "IFB"]);
        Ok(())
    })
}

#[test]
fn the_metrics_are_there_in_both_formats() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        ping(&scene.guest.party, scene.node.world.v4, 3, Duration::ZERO)?;
        scene.meterd.status(MACHINE)?;
        let classic = scene.meterd.metrics(9750)?;
        assert!(
            classic.contains("# TYPE meterd_traffic_bytes_total counter"),
            "{classic}"
        );
        let open = http::get(
            9750,
            "/metrics",
            &[("Accept", "application/openmetrics-text")],
        )?;
        assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
        assert!(
            open.head.contains("application/openmetrics-text"),
            "{}",
            open.head
        );
        Ok(())
    })
}
