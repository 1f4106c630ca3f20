//! What happens while something else is half done: interfaces that go, come back and change
//! their owners in the middle of a throttle, a ledger that cannot be written for a while, a
//! daemon that is killed between two of its steps. No byte is lost, and none is booked twice
//! or on somebody else.

use std::{
    fs,
    net::UdpSocket,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use meter_tests::{
    Context, Failure, Result,
    capture::Capture,
    inspect::{self, Inventory},
    links,
    meterd::{End, Meterd, bytes, sample},
    paper,
    sandbox::{Namespace, Sandbox},
    scene::{EACH, MACHINE, STRICT, STRICT_TAPS, Scene, datagrams, sent, until_metered},
    stall,
    topology::{ETH, Party, Port},
    traffic::{Bulk, Tcp},
    wait::{self, Seen},
};
use rustix::process::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// Sends datagrams that nobody waits for.
fn flood(from: &Party, to: &Party, datagrams: u64) -> Result<()> {
    from.namespace.run(|| {
        let socket = UdpSocket::bind((from.v4, 0)).could_not(|| "bind")?;
        for n in 0..datagrams {
            socket
                .send_to(&[0x5a; 1000], (to.v4, 9))
                .could_not(|| "send a datagram")?;
            if n % 128 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    })
}

/// A throttled guest, and a daemon that reads when it is asked to and not otherwise.
fn throttled<'a>(sandbox: &'a Sandbox, keys: &str) -> Result<Scene<'a>> {
    let scene = Scene::strict(sandbox, &format!("poll-interval = '1h'\n{keys}"))?.started()?;
    scene.throttle()?;
    Ok(scene)
}

/// Several flows, at the rate of a throttle, until so much has arrived.
fn receive(from: &Party, to: &Party, payload: u64) -> Result<()> {
    let bulk = Bulk::start(from, to, 4)?;
    wait::until("traffic", Duration::from_millis(50), SOON * 3, || {
        Ok(match bulk.delivered()? {
            enough if enough >= payload => Seen::Yes(()),
            yet => Seen::NotYet(format!("{yet} of {payload} bytes")),
        })
    })
    .map(drop)
}

fn count_of(events: &[Value], name: &str) -> usize {
    events.iter().filter(|event| event["event"] == name).count()
}

/// The ledger out of the way, as a full disk would have it: what is written fails.
struct Unwritable(PathBuf);

impl Unwritable {
    fn make(meterd: &Meterd<'_>) -> Result<Self> {
        let file = meterd.directory().join("state/ledger.db");
        let aside = file.with_extension("aside");
        fs::rename(&file, aside).could_not(|| "move the ledger away")?;
        Ok(Self(file))
    }

    fn again(self) -> Result<()> {
        fs::rename(self.0.with_extension("aside"), &self.0).could_not(|| "move the ledger back")
    }
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::until(what, Duration::from_millis(10), SOON, || {
        Ok(if holds()? {
            Seen::Yes(())
        } else {
            Seen::NotYet("not yet".to_owned())
        })
    })
    .map(drop)
}

#[test]
fn a_throttled_tap_that_goes_is_let_go_of_once_and_what_came_through_is_kept() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = throttled(sandbox, "")?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        let mut inside = Capture::on(&guest.namespace, ETH)?;
        let wire = inside.settled(guest.mac)?;
        let before = scene.meterd.counted(MACHINE)?;
        receive(world, guest, 24_000)?;
        let wire = inside.settled(guest.mac)? - wire;
        links::delete(&scene.guest.tap)?;
        let moved = scene.meterd.counted(MACHINE)? - before;
        println!("{moved:?}; in the guest: {wire:?}");
        assert!(wire.received.bytes > 20_000, "{wire:?}");
        assert!(
            paper::within(moved.received, wire.received.bytes, 0.01),
            "{moved:?}, {wire:?}"
        );
        let events = scene.meterd.events(MACHINE)?;
        assert_eq!(count_of(&events, "interface-gone"), 1, "{events:#?}");
        // Its slot is free, and the next tap is another's business.
        let next = scene.node.plug(Port::of(102))?;
        until_metered(&next.tap)?;
        datagrams(3).run(&next.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("102")?, sent(3));
        assert_eq!(scene.meterd.counted(MACHINE)? - before, moved);
        Ok(())
    })
}

#[test]
fn what_came_through_a_shaper_that_somebody_removed_is_kept() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = throttled(sandbox, "")?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        let mut inside = Capture::on(&guest.namespace, ETH)?;
        let wire = inside.settled(guest.mac)?;
        let before = scene.meterd.counted(MACHINE)?;
        receive(world, guest, 24_000)?;
        let shaped = Inventory::take()?;
        inspect::delete_root_qdisc(&scene.guest.tap)?;
        until("the shaper to be back", || {
            Ok(Inventory::take()?.same_as(&shaped).is_ok())
        })?;
        let wire = inside.settled(guest.mac)? - wire;
        let moved = scene.meterd.counted(MACHINE)? - before;
        println!("{moved:?}; in the guest: {wire:?}");
        assert!(
            paper::within(moved.received, wire.received.bytes, 0.01),
            "{moved:?}, {wire:?}"
        );
        Ok(())
    })
}

#[test]
fn a_throttled_interface_that_becomes_another_machines_brings_it_no_bytes() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let owned_by = |id: &str| {
            format!(
                "poll-interval = '1h'\n[[machine]]\nid = '{id}'\ninterfaces = ['tap101i0']\n\
                 plan = 'strict'\nallowance = '0'\n"
            )
        };
        let scene = Scene::prepare(sandbox, &owned_by("first"))?;
        scene.meterd.write("plans/strict.toml", STRICT)?;
        let scene = scene.started()?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        scene.meterd.wait_for_state("first", "throttled", SOON)?;
        let mut inside = Capture::on(&guest.namespace, ETH)?;
        receive(world, guest, 24_000)?;
        // What waits in the shaper is the first one's, too.
        inside.silent(guest.mac, Duration::from_secs(1))?;
        let first = scene.meterd.counted("first")?;
        assert!(first.received > 20_000, "{first:?}");
        scene.meterd.configure(&owned_by("second"))?;
        scene.meterd.text(&["reload"])?;
        scene.meterd.wait_for_state("second", "throttled", SOON)?;
        let second = scene.meterd.counted("second")?;
        println!("{first:?}; {second:?}");
        assert!(second.received < 2_000, "{second:?}");
        Ok(())
    })
}

#[test]
fn the_last_bytes_of_a_tap_survive_a_kill_at_any_moment_of_its_end() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        for (round, machine) in (102..127).enumerate() {
            let guest = scene.node.plug(Port::of(machine))?;
            until_metered(&guest.tap)?;
            datagrams(5).run(&guest.party, &scene.node.world)?;
            links::delete(&guest.tap)?;
            std::thread::sleep(Duration::from_millis(round as u64));
            scene.meterd.stop(End::Killed)?;
            scene.meterd.start()?;
            assert_eq!(
                scene.meterd.counted(&machine.to_string())?,
                sent(5),
                "killed after {round} ms"
            );
        }
        Ok(())
    })
}

#[test]
fn a_tap_that_was_in_another_namespace_for_a_while_is_not_counted_twice() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let guest = scene.node.plug(Port::of(102))?;
        until_metered(&guest.tap)?;
        datagrams(40).run(&guest.party, &scene.node.world)?;
        let elsewhere = Namespace::new()?;
        let index = links::get(&guest.tap)?.index;
        links::move_to(&guest.tap, &elsewhere)?;
        assert_eq!(scene.meterd.counted("102")?, sent(40));
        elsewhere.run(|| links::move_to(&guest.tap, sandbox.host()))?;
        assert_eq!(links::get(&guest.tap)?.index, index, "not the same number");
        until_metered(&guest.tap)?;
        assert_eq!(scene.meterd.counted("102")?, sent(40));
        Ok(())
    })
}

#[test]
fn a_guest_born_while_the_daemon_was_dead_is_credited_though_starts_are_cut_short() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let mut guests = Vec::new();
        for (round, machine) in (102..122).enumerate() {
            scene.meterd.stop(End::Killed)?;
            let guest = scene.node.plug(Port::of(machine))?;
            datagrams(5).run(&guest.party, &scene.node.world)?;
            guests.push(guest);
            scene.meterd.launch()?;
            std::thread::sleep(Duration::from_millis(20 + 4 * round as u64));
            scene.meterd.stop(End::Killed)?;
            scene.meterd.start()?;
            assert_eq!(
                scene.meterd.counted(&machine.to_string())?,
                sent(5),
                "killed in round {round}"
            );
        }
        Ok(())
    })
}

#[test]
fn what_happens_while_the_ledger_cannot_be_written_is_told_once() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let unwritable = Unwritable::make(&scene.meterd)?;
        links::rename("tap101i0", "tap101i7")?;
        datagrams(10).run(&scene.guest.party, &scene.node.world)?;
        std::thread::sleep(Duration::from_secs(4));
        unwritable.again()?;
        let told = |events: &[Value]| count_of(events, "interface-renamed");
        until("the rename to be told", || {
            Ok(told(&scene.meterd.events(MACHINE)?) > 0)
        })?;
        let events = scene.meterd.events(MACHINE)?;
        assert_eq!(told(&events), 1, "{events:#?}");
        assert_eq!(scene.meterd.counted(MACHINE)?, sent(10));
        Ok(())
    })
}

/// User and system time of a process, in ticks of 10 ms.
fn ticks(meterd: &Meterd<'_>) -> Result<u64> {
    let pid = meterd
        .pid()
        .ok_or_else(|| Failure::new("meterd does not run"))?;
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).could_not(|| format!("read {path}"))?;
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    Ok(fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum())
}

#[test]
fn a_deadline_that_comes_while_the_ledger_cannot_be_written_does_not_spin() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = Scene::strict(sandbox, "poll-interval = '1h'\n")?;
        let later = STRICT.replace("throttle", "after = '3s'\nthrottle");
        scene.meterd.write("plans/strict.toml", &later)?;
        let scene = scene.started()?;
        datagrams(10).run(&scene.guest.party, &scene.node.world)?;
        assert_eq!(scene.meterd.status(MACHINE)?["state"], "normal");
        let unwritable = Unwritable::make(&scene.meterd)?;
        std::thread::sleep(Duration::from_secs(4));
        let before = ticks(&scene.meterd)?;
        std::thread::sleep(Duration::from_secs(2));
        let spent = ticks(&scene.meterd)? - before;
        println!("{spent} ticks in two seconds");
        assert!(spent < 10, "{spent} ticks of 200");
        unwritable.again()?;
        // By itself: nobody asks.
        let shaped = || Ok(inspect::qdiscs()?.iter().any(|qdisc| qdisc.kind == "htb"));
        until("the throttle", shaped)
    })
}

#[test]
fn a_storm_of_link_events_keeps_nobody_waiting() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let others = Namespace::new()?;
        let stop = AtomicBool::new(false);
        let host = sandbox.host();
        std::thread::scope(|scope| {
            let storm = scope.spawn(|| -> Result<u32> {
                host.enter()?;
                let mut changes = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (tap, eth) = (format!("tap{changes}i1"), format!("eth{changes}"));
                    let end = |name| links::End { name, mac: None };
                    links::veth(end(&tap), end(&eth), &others)?;
                    changes += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(changes)
            });
            let soon = |slowest: &Duration| *slowest < Duration::from_secs(1);
            let asked = stall::undisturbed("the slowest answer", soon, || {
                let mut slowest = Duration::ZERO;
                for _ in 0..20 {
                    let (_, took) = stall::timed(|| scene.meterd.status(MACHINE))?;
                    slowest = slowest.max(took);
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(slowest)
            });
            stop.store(true, Ordering::Relaxed);
            let changes = storm
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let slowest: Duration = asked?;
            println!("{changes} changes; the slowest answer came after {slowest:?}");
            assert!(soon(&slowest), "{slowest:?}");
            Ok(())
        })
    })
}

#[test]
fn dry_run_is_switched_on_and_off_by_a_reload() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = Scene::strict(sandbox, "dry-run = true\n")?.started()?;
        let untouched = Inventory::take()?;
        Tcp::v4(10_000).run(&scene.guest.party, &scene.node.world)?;
        scene.meterd.status(MACHINE)?;
        Inventory::take()?.same_as(&untouched)?;
        for (dry_run, touches) in [("false", true), ("true", false), ("false", true)] {
            scene
                .meterd
                .configure(&format!("dry-run = {dry_run}\n{STRICT_TAPS}"))?;
            scene.meterd.text(&["reload"])?;
            until(&format!("dry-run = {dry_run}"), || {
                Ok(Inventory::take()?.same_as(&untouched).is_err() == touches)
            })?;
        }
        Ok(())
    })
}

#[test]
fn detach_removes_the_pins_where_they_are_though_the_files_say_elsewhere_by_now() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let before = inspect::pins(&scene.meterd.pins())?;
        assert!(!before.is_empty());
        let directory = scene.meterd.directory().display().to_string();
        scene.meterd.configure(&format!(
            "state-directory = '{directory}/state'\nruntime-directory = '{directory}/run'\n\
             pin-directory = '{}/elsewhere'\n",
            sandbox.bpffs().display()
        ))?;
        scene.meterd.text(&["reload"])?;
        scene.meterd.text(&["detach"])?;
        scene.meterd.wait()?;
        let left = inspect::pins(&scene.meterd.pins())?;
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
fn the_metrics_have_what_a_throttle_dropped_apart_from_what_was_used() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = throttled(sandbox, "[metrics]\nlisten = '127.0.0.1:9750'\n")?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        // 2 MB at once, of which 64 kbit/s let next to nothing through.
        flood(world, guest, 2_000)?;
        std::thread::sleep(Duration::from_secs(3));
        let metrics = scene.meterd.metrics(9750)?;
        let status = scene.meterd.status(MACHINE)?;
        let value = |name: &str, labels: &[(&str, &str)]| {
            let labels = [labels, &[("machine", MACHINE)]].concat();
            sample(&metrics, name, &labels)
        };
        let used = |direction| value("meterd_traffic_bytes_total", &[("direction", direction)]);
        #[expect(clippy::cast_precision_loss, reason = "figures below 2^53")]
        let expected = ["received", "sent"].map(|key| bytes(&status, key).map(|b| b as f64));
        let [received, sent] = expected;
        assert_eq!(used("received"), Some(received?), "{metrics}");
        assert_eq!(used("sent"), Some(sent?), "{metrics}");
        let dropped = value(
            "meterd_dropped_bytes_total",
            &[("direction", "received"), ("reason", "throttled")],
        );
        #[expect(clippy::cast_precision_loss, reason = "figures below 2^53")]
        let all = (2_000 * EACH) as f64;
        println!("{dropped:?} of {all} dropped; {status}");
        assert!(
            dropped.is_some_and(|bytes| bytes > 0.9 * all && bytes <= all),
            "{metrics}"
        );
        Ok(())
    })
}

#[test]
fn a_signal_that_comes_with_everything_else_still_ends_the_daemon() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        scene.meterd.signal(Signal::HUP)?;
        scene.meterd.signal(Signal::HUP)?;
        assert!(scene.meterd.stop(End::Asked)?.success());
        Ok(())
    })
}
