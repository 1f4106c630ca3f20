//! `meterd attach`: with the daemon alive, dead, starting and stopped, an interface is metered
//! once, and what stands against its machine stands on it before the guest's first packet.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use meter_tests::{
    Context, Failure, Result,
    inspect::Inventory,
    links,
    meterd::{Counted, End, Meterd},
    sandbox::Sandbox,
    scene::{MACHINE, Scene, datagrams, is_metered, sent},
    stall,
    topology::{Node, Port},
    wait::{self, Seen},
};
use rustix::process::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// Only what a machine names is metered: `vnet7` is nobody's.
const ONE: &str = "
poll-interval = '1h'
[[machine]]
id = '101'
interfaces = ['tap101i0']
[[machine]]
id = 'web1'
";

/// What `attach --json` says of its only interface.
fn attached(meterd: &Meterd<'_>, arguments: &[&str]) -> Result<Value> {
    let all = meterd.json(&[&["attach"], arguments].concat())?;
    Ok(all[0].clone())
}

fn count_of(meterd: &Meterd<'_>, machine: &str, event: &str) -> Result<usize> {
    let events = meterd.events(machine)?;
    Ok(events
        .iter()
        .filter(|found| found["event"] == event)
        .count())
}

#[test]
fn a_suspended_machines_new_interface_lets_no_packet_pass_when_attach_returns() -> Result<()> {
    for alive in [true, false] {
        Sandbox::beside(|sandbox| {
            let mut scene = Scene::prepare(sandbox, ONE)?.started()?;
            scene.meterd.text(&["suspend", "web1"])?;
            if !alive {
                scene.meterd.stop(End::Killed)?;
            }
            let guest = scene.node.plug_named(Port::of(102), "vnet7")?;
            let told = attached(&scene.meterd, &["vnet7", "--machine", "web1"])?;
            assert_eq!(told["machine"], "web1", "{told}");
            assert_eq!(told["metered"], true, "{told}");
            assert_eq!(told["stands"], true, "{told}");
            assert_eq!(told["enforcement"], "suspended", "{told}");
            assert_eq!(told["by"], if alive { "daemon" } else { "command" });
            assert!(is_metered("vnet7")?);
            let before = scene.capture.settled(guest.party.mac)?;
            drop(datagrams(20).run(&guest.party, &scene.node.world));
            let passed = scene.capture.settled(guest.party.mac)? - before;
            assert_eq!(passed.sent.frames, 0, "alive: {alive}");
            if !alive {
                scene.meterd.start()?;
            }
            assert_eq!(scene.meterd.counted("web1")?, Counted::default());
            assert_eq!(count_of(&scene.meterd, "web1", "interface-assigned")?, 1);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn without_a_daemon_it_is_attached_once_and_the_next_start_takes_it_over() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::prepare(sandbox, ONE)?.started()?;
        scene.meterd.stop(End::Killed)?;
        let guest = scene.node.plug_named(Port::of(102), "vnet7")?;
        datagrams(7).run(&guest.party, &scene.node.world)?;
        for _ in 0..2 {
            let told = attached(&scene.meterd, &["vnet7", "--machine", "web1"])?;
            assert_eq!(told["by"], "command", "{told}");
            assert!(is_metered("vnet7")?, "one program a hook");
        }
        datagrams(10).run(&guest.party, &scene.node.world)?;
        datagrams(3).run(&scene.guest.party, &scene.node.world)?;
        scene.meterd.start()?;
        assert!(is_metered("vnet7")?);
        datagrams(5).run(&guest.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("web1")?, sent(22));
        assert_eq!(scene.meterd.counted(MACHINE)?, sent(3));
        assert_eq!(count_of(&scene.meterd, "web1", "interface-attached")?, 1);
        // Whose it is outlives further starts, and not the interface.
        scene.meterd.stop(End::Asked)?;
        scene.meterd.start()?;
        datagrams(1).run(&guest.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("web1")?, sent(23));
        links::delete("vnet7")?;
        let again = scene.node.plug_named(Port::of(103), "vnet7")?;
        datagrams(1).run(&again.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("web1")?, sent(23));
        assert!(!is_metered("vnet7")?, "that was another interface");
        drop(guest);
        Ok(())
    })
}

#[test]
fn where_nothing_was_ever_started_it_loads_and_pins() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let node = Node::new(sandbox)?;
        let mut meterd = Meterd::new(sandbox, ONE)?;
        let guest = node.plug_named(Port::of(102), "vnet7")?;
        let untouched = Inventory::take()?;
        let told = attached(&meterd, &["vnet7", "--machine", "web1", "--dry-run"])?;
        assert_eq!(
            (&told["machine"], &told["metered"]),
            (&"web1".into(), &false.into())
        );
        Inventory::take()?.same_as(&untouched)?;
        attached(&meterd, &["vnet7", "--machine", "web1"])?;
        datagrams(10).run(&guest.party, &node.world)?;
        meterd.start()?;
        assert_eq!(meterd.counted("web1")?, sent(10));
        meterd.text(&["detach"])?;
        meterd.wait()?;
        Inventory::take()?.same_as(&untouched)
    })
}

#[test]
fn a_race_with_a_daemon_that_is_just_starting_is_won_by_both() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let node = Node::new(sandbox)?;
        let mut meterd = Meterd::new(sandbox, ONE)?;
        let mut by = std::collections::BTreeMap::new();
        let mut expected = 0;
        for round in 0..12_u64 {
            let guest = node.plug_named(Port::of(102), "vnet7")?;
            // From before the daemon has begun to after it attends its socket.
            let mut hook = meterd.command(&["attach", "vnet7", "--machine", "web1", "--json"])?;
            hook.stdout(Stdio::piped()).stderr(Stdio::piped());
            let early = round % 2 == 0;
            let wait = Duration::from_millis(round * 15);
            let child = if early {
                let child = hook.spawn().could_not(|| "start the hook")?;
                std::thread::sleep(wait);
                meterd.launch()?;
                child
            } else {
                meterd.launch()?;
                std::thread::sleep(wait);
                hook.spawn().could_not(|| "start the hook")?
            };
            let output = child.wait_with_output().could_not(|| "wait for the hook")?;
            let told = read(&output)?;
            *by.entry(told[0]["by"].to_string()).or_insert(0) += 1;
            assert!(is_metered("vnet7")?, "{told}");
            datagrams(3).run(&guest.party, &node.world)?;
            expected += 3;
            let counted = wait::until("a count", Duration::from_millis(20), SOON, || {
                assert_eq!(meterd.ended()?, None, "the daemon waits for the hook");
                Ok(match meterd.counted("web1") {
                    Ok(counted) => Seen::Yes(counted),
                    Err(failure) => Seen::NotYet(failure.to_string()),
                })
            })?;
            assert_eq!(counted.0, sent(expected), "round {round}");
            assert!(is_metered("vnet7")?, "one program a hook");
            links::delete("vnet7")?;
            meterd.stop(End::Killed)?;
        }
        // What a kill left switched on (`rcu_expedited` is the machine's) a start puts back.
        meterd.start()?;
        meterd.stop(End::Asked)?;
        println!("attached by {by:?}");
        Ok(())
    })
}

fn read(output: &Output) -> Result<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure::new(format!("{}: {errors}", output.status)));
    }
    serde_json::from_slice(&output.stdout).could_not(|| format!("read the answer; {errors}"))
}

#[test]
fn what_cannot_be_attached_says_why_with_a_status_and_within_its_time() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::prepare(sandbox, ONE)?.started()?;
        let _guest = scene.node.plug_named(Port::of(102), "vnet7")?;
        for alive in [true, false] {
            if !alive {
                scene.meterd.stop(End::Killed)?;
            }
            for (arguments, status, why) in [
                (&["nix0", "--machine", "web1"][..], 1, "no interface nix0"),
                (&["vnet7"], 1, "no machine's"),
                (
                    &["tap101i0", "--machine", "web1"],
                    1,
                    "is 101's by the configuration",
                ),
                (&["vnet7", "--machine", "a/b"], 64, "a machine's id"),
                (&[], 64, "IFACE"),
            ] {
                let output = scene.meterd.cli(&[&["attach"], arguments].concat())?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let found = output.status.code();
                assert_eq!(found, Some(status), "{arguments:?}, alive {alive}: {said}");
                assert!(said.contains(why), "{arguments:?}, alive {alive}: {said}");
            }
            assert!(!is_metered("vnet7")?);
        }
        scene.meterd.start()?;
        let told = attached(&scene.meterd, &["tap101i0"])?;
        assert_eq!(
            told["machine"], "101",
            "the configuration says whose: {told}"
        );
        let refused =
            scene
                .meterd
                .cli_without_privilege(&["attach", "vnet7", "--machine", "web1"])?;
        assert_eq!(refused.status.code(), Some(77), "{refused:?}");

        // A daemon that does not answer holds nobody up for long.
        scene.meterd.signal(Signal::STOP)?;
        let arguments = ["attach", "vnet7", "--machine", "web1", "--timeout", "500ms"];
        let (output, took) = stall::timed(|| scene.meterd.cli(&arguments))?;
        assert_eq!(output.status.code(), Some(75), "{output:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        scene.meterd.signal(Signal::CONT)?;
        Ok(())
    })
}
