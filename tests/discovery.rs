//! Interfaces come, go, change their names and their owners; no byte is lost and none is
//! booked on the wrong machine.

use std::time::{Duration, Instant};

use meter_tests::{
    Result, inspect, links,
    meterd::{Counted, End, Meterd},
    sandbox::{Namespace, Sandbox},
    scene::{EACH, EVERY_TAP, MACHINE, Scene, datagrams, is_metered, sent, until_metered},
    stall,
    topology::{Guest, Node, Port},
    traffic::ping,
    wait::{self, Seen},
};
use rustix::process::Signal;
use serde_json::Value;

/// By TCX. Where a qdisc is needed for it, hypervisors have theirs first: 500 ms without a change.
const ATTACH: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_tap_that_appears_is_metered_within_100_ms() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let guests = Namespace::new()?;
        let kept_waiting = || stall::kept_waiting(scene.meterd.pid());
        let mut machines = 110..=199;
        let within = match inspect::has_tcx()? {
            true => ATTACH,
            false => QUIET + ATTACH,
        };
        let soon = |slowest: &Duration| *slowest < within;
        let slowest = stall::undisturbed("the slowest of ten", soon, || {
            let mut slowest = Duration::ZERO;
            for machine in machines.by_ref().take(10) {
                let tap = Port::of(machine).tap();
                let end = |name| links::End { name, mac: None };
                links::veth(end(&tap), end(&format!("eth{machine}")), &guests)?;
                let (start, kept) = (Instant::now(), kept_waiting());
                links::up(&tap)?;
                until_metered(&tap)?;
                let took = start.elapsed();
                slowest = slowest.max(took.saturating_sub(kept_waiting() - kept));
            }
            Ok(slowest)
        })?;
        println!("the slowest of ten was metered after {slowest:?}");
        assert!(slowest < within, "{slowest:?}");
        Ok(())
    })
}

#[test]
fn what_moved_before_attachment_is_credited_once_and_the_event_says_so() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        // A daemon that is held up for a moment sees the tap later than its traffic.
        scene.meterd.signal(Signal::STOP)?;
        let guest = scene.node.plug(Port::of(102))?;
        datagrams(50).run(&guest.party, &scene.node.world)?;
        scene.meterd.signal(Signal::CONT)?;
        until_metered(&guest.tap)?;
        assert_eq!(scene.meterd.counted("102")?, sent(50));
        datagrams(20).run(&guest.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("102")?, sent(70));
        let events = scene.meterd.events("102")?;
        let attached: Vec<_> = events
            .iter()
            .filter(|event| event["event"] == "interface-attached")
            .collect();
        assert_eq!(attached.len(), 1, "{events:?}");
        assert_eq!(attached[0]["basis"], "interface-counters", "{attached:?}");
        assert_eq!(attached[0]["credited_sent"], 50 * EACH, "{attached:?}");
        Ok(())
    })
}

#[test]
fn a_guest_born_while_the_daemon_is_dead_is_credited() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        scene.meterd.stop(End::Killed)?;
        let guest = scene.node.plug(Port::of(102))?;
        datagrams(50).run(&guest.party, &scene.node.world)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted("102")?, sent(50));
        scene.meterd.stop(End::Asked)?;
        datagrams(5).run(&guest.party, &scene.node.world)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted("102")?, sent(55));
        Ok(())
    })
}

#[test]
fn a_rename_neither_loses_nor_repeats_a_byte() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        datagrams(30).run(&scene.guest.party, &scene.node.world)?;
        links::rename("tap101i0", "tap101i7")?;
        datagrams(30).run(&scene.guest.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, sent(60));
        let named = |scene: &Scene<'_>| {
            let status = scene.meterd.status(MACHINE)?;
            Ok(if status["interfaces"] == serde_json::json!(["tap101i7"]) {
                Seen::Yes(())
            } else {
                Seen::NotYet(status["interfaces"].to_string())
            })
        };
        wait::until("the new name", Duration::from_millis(20), SOON, || {
            named(&scene)
        })?;
        assert!(is_metered("tap101i7")?);
        Ok(())
    })
}

#[test]
fn the_last_bytes_of_an_interface_that_goes_are_kept_and_its_machine_stays() -> Result<()> {
    Sandbox::run(|sandbox| {
        let config = format!("{EVERY_TAP}\n[[machine]]\nid = 'web1'\ninterfaces = ['tap101i0']\n");
        let scene = Scene::prepare(sandbox, &config)?.started()?;
        assert_eq!(scene.meterd.counted("web1")?, Counted::default());
        datagrams(40).run(&scene.guest.party, &scene.node.world)?;
        links::delete("tap101i0")?;
        assert_eq!(scene.meterd.counted("web1")?, sent(40));
        let without = |scene: &Scene<'_>| {
            let status = scene.meterd.status("web1")?;
            Ok(if status["interfaces"] == serde_json::json!([]) {
                Seen::Yes(())
            } else {
                Seen::NotYet(status["interfaces"].to_string())
            })
        };
        wait::until("no interfaces", Duration::from_millis(20), SOON, || {
            without(&scene)
        })?;
        let port = Port::of(101);
        let guest = scene.node.plug(port)?;
        datagrams(2).run(&guest.party, &scene.node.world)?;
        // Without TCX only in a moment: what it moved before is credited then.
        until_metered(&guest.tap)?;
        assert_eq!(scene.meterd.counted("web1")?, sent(42));
        Ok(())
    })
}

/// Two machines known by their guests' addresses, as under libvirt, where names go round.
const BY_MAC: &str = r"
poll-interval = '1s'
[[machine]]
id = 'first'
macs = ['52:54:00:00:00:65']
[[machine]]
id = 'second'
macs = ['52:54:00:00:00:66']
";

#[test]
fn a_tap_with_the_guests_own_address_or_fe_before_it_is_the_machines() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let mut meterd = Meterd::new(sandbox, BY_MAC)?;
        meterd.start()?;
        // fe:54:…, as libvirt sets it
        let first = node.plug_named(Port::of(101), "vnet0")?;
        until_metered("vnet0")?;
        ping(&first.party, node.world.v4, 3, Duration::ZERO)?;
        let second = node.plug_named(Port::of(102), "other7")?;
        links::set_mac("other7", Port::of(102).mac())?;
        // Its own address at the host end, too: not what a bridge likes, but what some do.
        until_metered("other7")?;
        links::delete("other7")?;
        drop(second);
        assert_eq!(meterd.counted("first")?.sent, 3 * 98);
        Ok(())
    })
}

#[test]
fn a_name_that_another_machine_takes_over_counts_for_that_one() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let mut meterd = Meterd::new(sandbox, BY_MAC)?;
        meterd.start()?;
        let plug = |machine: u8| -> Result<Guest> {
            let guest = node.plug_named(Port::of(machine), "vnet0")?;
            datagrams(10).run(&guest.party, &node.world)?;
            Ok(guest)
        };
        // Kept: a guest's namespace takes both ends of its pair with it.
        let former = plug(101)?;
        until_metered("vnet0")?;
        assert_eq!(meterd.counted("first")?, sent(10));
        links::delete("vnet0")?;
        let second = plug(102)?;
        until_metered("vnet0")?;
        datagrams(5).run(&second.party, &node.world)?;
        assert_eq!(meterd.counted("first")?, sent(10));
        assert_eq!(meterd.counted("second")?, sent(15));
        // And the same again while nobody looks.
        meterd.stop(End::Killed)?;
        links::delete("vnet0")?;
        let first = plug(101)?;
        meterd.start()?;
        datagrams(1).run(&first.party, &node.world)?;
        assert_eq!(meterd.counted("first")?, sent(21));
        assert_eq!(meterd.counted("second")?, sent(15));
        drop(former);
        Ok(())
    })
}

fn until_counted(meterd: &Meterd<'_>, machine: &str, sent: u64) -> Result<()> {
    wait::until("a count", Duration::from_millis(5), SOON, || {
        Ok(match meterd.counted(machine)?.sent {
            all if all == sent => Seen::Yes(()),
            yet => Seen::NotYet(format!("{yet} of {sent} bytes")),
        })
    })
    .map(drop)
}

/// The kernel's last word of a veth has not what was sent (its peer has parted by then), so
/// that of one that goes before it could be looked at is said to be unknown, not guessed.
#[test]
fn an_interface_that_lived_for_moments_is_credited_or_said_to_be_unknown() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        // So that there is such a machine.
        let guest = scene.node.plug(Port::of(102))?;
        until_metered(&guest.tap)?;
        links::delete(&guest.tap)?;
        drop(guest);
        let moments = [0, 10, 20, 30, 40].map(|moment| Some(Duration::from_millis(moment)));
        for lifetime in moments.into_iter().chain([None]) {
            let before = scene.meterd.counted("102")?.sent;
            let guest = scene.node.plug(Port::of(102))?;
            datagrams(10).run(&guest.party, &scene.node.world)?;
            match lifetime {
                Some(lifetime) => std::thread::sleep(lifetime),
                None => until_counted(&scene.meterd, "102", before + sent(10).sent)?,
            }
            links::delete(&guest.tap)?;
            let counted = scene.meterd.counted("102")?.sent - before;
            if counted != sent(10).sent {
                assert!(counted < sent(10).sent, "{counted} after {lifetime:?}");
                let events = scene.meterd.events("102")?;
                let unknown = |event: &Value| event["event"] == "traffic-unknown";
                assert!(
                    events.iter().any(unknown),
                    "{counted} after {lifetime:?}: {events:#?}"
                );
                assert!(lifetime.is_some(), "{counted} though all was counted");
            }
        }
        Ok(())
    })
}

#[test]
fn an_empty_configuration_meters_every_tap_and_veth() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::prepare(sandbox, "")?.started()?;
        until_metered("tap101i0")?;
        until_metered("uplink0")?;
        // A bridge is neither.
        assert!(!is_metered("vmbr0")?);
        datagrams(10).run(&scene.guest.party, &scene.node.world)?;
        let all = scene.meterd.json(&["status"])?;
        let total: u64 = all
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|m| m["sent"].as_u64())
            .sum();
        assert_eq!(total, 10 * EACH, "{all}");
        Ok(())
    })
}
