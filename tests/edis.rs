//! The plan `edis` as it is shipped, end to end on a real interface, with an allowance that
//! a test can use up: notices, throttle, top-up from the pool, full speed again.
#![expect(clippy::print_stdout, reason = "a test shows what it measured")]

use std::time::Duration;

use meter_tests::{
    Context, Result,
    capture::Capture,
    foreign,
    inspect::{self, Hook, Inventory},
    links::{self, Switch},
    meterd::{self, bytes},
    paper,
    sandbox::Sandbox,
    scene::Scene,
    stall,
    topology::{ETH, Party, Port, WAN},
    traffic::{Bulk, Pings, Tcp, ping},
    wait::{self, Seen},
};
use serde_json::Value;

const MEGABYTE: u64 = 1_000_000;
const SOON: Duration = Duration::from_secs(10);
/// At 64 kbit/s, 53 segments: one more or less, and what the shaper owes at the beginning, are
/// less than what the headers are.
const WINDOW: Duration = Duration::from_secs(10);

/// `tap101i0` and `tap101i1` are web1's, which has 20 MB and a pool of 1 GB to draw on.
const CONFIG: &str = "
poll-interval = '1s'
[[account]]
id = 'acme'
primary = 'owner@example.com'
currency = 'EUR'
pool = '1 GB'
[[machine]]
id = 'web1'
interfaces = ['tap101i0', 'tap101i1']
plan = 'edis'
account = 'acme'
renewal-day = 31
allowance = '20 MB'
";

fn scene(sandbox: &Sandbox) -> Result<Scene<'_>> {
    let scene = Scene::prepare(sandbox, CONFIG)?;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/plans/edis.toml");
    let plan = std::fs::read_to_string(shipped).could_not(|| format!("read {shipped}"))?;
    scene.meterd.write("plans/edis.toml", &plan)?;
    scene.started()
}

/// Uses the allowance up to a percentage, by traffic of both directions.
fn use_up(scene: &Scene<'_>, percent: u64) -> Result<Value> {
    let (guest, world) = (&scene.guest.party, &scene.node.world);
    loop {
        let status = scene.meterd.status("web1")?;
        let (used, allowance) = (bytes(&status, "used")?, bytes(&status, "allowance")?);
        let missing = (allowance * percent).div_ceil(100).saturating_sub(used);
        if missing == 0 {
            return Ok(status);
        }
        // Headers are a twentieth: a little less payload, and the rest in small steps.
        let part = (missing * 9 / 20).max(300);
        Tcp::v4(part).run(guest, world)?;
        Tcp::v4(part).run(world, guest)?;
    }
}

fn throttled(scene: &Scene<'_>) -> Result<()> {
    use_up(scene, 105)?;
    scene.meterd.wait_for_state("web1", "throttled", SOON)?;
    until_shaped("tap101i0")
}

/// Until then it is policed, and a second of the rate may have been saved up.
fn until_shaped(tap: &str) -> Result<()> {
    wait::until("the shaper", Duration::from_millis(10), SOON, || {
        Ok(match root(tap)?.as_deref() {
            Some("htb") => Seen::Yes(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
    .map(drop)
}

/// The kind of a tap's root qdisc, if it has one.
fn root(tap: &str) -> Result<Option<String>> {
    let index = links::get(tap)?.index;
    let all = inspect::qdiscs()?;
    let root = all
        .into_iter()
        .find(|q| q.ifindex == index && q.parent == u32::MAX);
    Ok(root
        .map(|qdisc| qdisc.kind)
        .filter(|kind| kind != "noqueue"))
}

/// 50 kbit/s over a stretch, and since the flows began never more than 64.
#[track_caller]
fn assert_throttled(bulk: &Bulk, what: &str) -> Result<()> {
    let found = bulk.sustained(WINDOW, 50e3)?;
    println!("{what}: {found}");
    assert!(
        found.best >= 50e3 && found.overall <= 64e3,
        "{what}: {found}"
    );
    Ok(())
}

fn notices(events: &[Value], rule: &str) -> usize {
    events
        .iter()
        .filter(|e| e["event"] == "notice" && e["rule"] == rule)
        .count()
}

#[test]
fn notices_go_out_at_80_90_and_100_percent_once_each_and_105_throttles() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let at = |percent: u64, expected: [usize; 3]| -> Result<()> {
            let status = use_up(&scene, percent)?;
            assert_eq!(status["state"], "normal", "at {percent} %: {status}");
            let events = scene.meterd.events("web1")?;
            let found = ["used 80%", "used 90%", "used 100%"].map(|rule| notices(&events, rule));
            assert_eq!(found, expected, "at {percent} %: {events:#?}");
            Ok(())
        };
        at(79, [0, 0, 0])?;
        at(80, [1, 0, 0])?;
        at(85, [1, 0, 0])?;
        at(90, [1, 1, 0])?;
        at(100, [1, 1, 1])?;
        at(103, [1, 1, 1])?;
        throttled(&scene)?;
        let status = scene.meterd.status("web1")?;
        assert_eq!(status["rule"], "used 105%");
        assert_eq!(status["rate_limit_bits_per_second"], 64_000);
        let events = scene.meterd.events("web1")?;
        assert_eq!(
            events.iter().filter(|e| e["event"] == "throttled").count(),
            1
        );
        for rule in ["used 80%", "used 90%", "used 100%"] {
            assert_eq!(notices(&events, rule), 1, "{rule}");
        }
        Ok(())
    })
}

/// Goodput of what the guest receives, or sends, while it is throttled.
fn goodput(segmentation: Switch, flows: usize) -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        guest.segmentation(segmentation)?;
        throttled(&scene)?;
        let down = Bulk::start(world, guest, flows)?;
        assert_throttled(&down, "the guest receives")?;
        drop(down);
        let up = Bulk::start(guest, world, flows)?;
        assert_throttled(&up, "the guest sends")?;
        Ok(())
    })
}

#[test]
fn a_throttled_flow_gets_50_to_64_kbit_each_way_with_gso() -> Result<()> {
    goodput(Switch::On, 1)
}

#[test]
fn a_throttled_flow_gets_50_to_64_kbit_each_way_without_gso() -> Result<()> {
    goodput(Switch::Off, 1)
}

#[test]
fn eight_throttled_flows_share_50_to_64_kbit_each_way() -> Result<()> {
    goodput(Switch::On, 8)
}

#[test]
fn all_interfaces_of_a_machine_share_the_rate() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let second = scene
            .node
            .plug(Port {
                machine: 101,
                nic: 1,
            })?
            .party;
        throttled(&scene)?;
        until_shaped("tap101i1")?;
        let world = &scene.node.world;
        let pair = |a: (&Party, &Party), b: (&Party, &Party), what| {
            let mut bulk = Bulk::start(a.0, a.1, 1)?;
            bulk.add(b.0, b.1, 1)?;
            assert_throttled(&bulk, what)
        };
        let first = &scene.guest.party;
        pair((world, first), (world, &second), "both receive")?;
        pair((first, world), (&second, world), "both send")
    })
}

#[test]
fn one_busy_interface_of_two_gets_the_whole_rate() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let _idle = scene.node.plug(Port {
            machine: 101,
            nic: 1,
        })?;
        throttled(&scene)?;
        until_shaped("tap101i1")?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        let down = Bulk::start(world, guest, 1)?;
        assert_throttled(&down, "one of two receives")?;
        drop(down);
        let up = Bulk::start(guest, world, 1)?;
        assert_throttled(&up, "one of two sends")?;
        Ok(())
    })
}

#[test]
fn an_interactive_flow_beside_bulk_stays_under_a_second() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        throttled(&scene)?;
        for (what, from, to) in [("download", world, guest), ("upload", guest, world)] {
            let bulk = Bulk::start(from, to, 1)?;
            std::thread::sleep(Duration::from_secs(2));
            let quick = |pings: &Pings| pings.longest().is_some_and(|l| l < Duration::from_secs(1));
            let pings = stall::undisturbed(what, quick, || {
                ping(guest, world.v4, 20, Duration::from_millis(300))
            })?;
            println!(
                "beside a bulk {what}: {} of {} answered, median {:?}, longest {:?}",
                pings.answered.len(),
                pings.asked,
                pings.median(),
                pings.answered.last(),
            );
            assert!(quick(&pings), "{what}: {pings:?}");
            drop(bulk);
        }
        Ok(())
    })
}

#[test]
fn received_while_throttled_is_what_came_through_the_shaper() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        throttled(&scene)?;
        // What it receives is what came into the guest, and what it sends what came out into the
        // world: in between, either may be dropped by a shaper, and was not used then.
        let mut inside = Capture::on(&guest.namespace, ETH)?;
        let mut outside = Capture::on(&world.namespace, WAN)?;
        let received = inside.settled(guest.mac)?.received;
        let sent = outside.settled(guest.mac)?.sent;
        let before = scene.meterd.counted("web1")?;
        let bulk = Bulk::start(world, guest, 8)?;
        wait::until("traffic", Duration::from_millis(100), SOON * 3, || {
            Ok(match bulk.delivered()? {
                enough if enough > 50_000 => Seen::Yes(()),
                yet => Seen::NotYet(format!("{yet} bytes")),
            })
        })?;
        drop(bulk);
        // The queue empties: everything that is let through has gone through.
        let received = inside.silent(guest.mac, Duration::from_secs(1))?.received - received;
        let sent = outside.silent(guest.mac, Duration::from_secs(1))?.sent - sent;
        let counted = scene.meterd.counted("web1")? - before;
        println!("{counted:?}; on the wire: {received:?}, {sent:?}");
        assert!(received.bytes > 50_000, "{received:?}");
        assert!(paper::within(counted.received, received.bytes, 0.001));
        assert!(paper::within(counted.sent, sent.bytes, 0.001));
        Ok(())
    })
}

#[test]
fn a_top_up_from_the_pool_restores_full_speed_and_what_stood_there() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        let metered = Inventory::take()?;
        throttled(&scene)?;
        assert!(
            Inventory::take()?.same_as(&metered).is_err(),
            "nothing shapes"
        );
        let pool = |scene: &Scene<'_>| -> Result<u64> {
            bytes(&scene.meterd.status("web1")?["pool"], "left")
        };
        assert_eq!(pool(&scene)?, 1000 * MEGABYTE);

        let arguments = ["top-up", "web1", "100 MB", "--from-pool", "--key", "one"];
        scene.meterd.text(&arguments)?;
        scene.meterd.text(&arguments)?;
        scene.meterd.wait_for_state("web1", "normal", SOON)?;
        assert_eq!(pool(&scene)?, 900 * MEGABYTE, "one key is one command");
        assert_eq!(
            bytes(&scene.meterd.status("web1")?, "allowance")?,
            120 * MEGABYTE
        );
        wait::until("the old qdiscs", Duration::from_millis(20), SOON, || {
            Ok(match Inventory::take()?.same_as(&metered) {
                Ok(()) => Seen::Yes(()),
                Err(difference) => Seen::NotYet(difference.to_string()),
            })
        })?;
        let full = |rates: &[f64; 2]| rates.iter().all(|&rate| rate > 100e6);
        let rates = stall::undisturbed("after the top-up", full, || {
            let (down, up) = (Tcp::v4(5 * MEGABYTE), Tcp::v4(5 * MEGABYTE));
            Ok([
                down.run(world, guest)?.goodput(),
                up.run(guest, world)?.goodput(),
            ])
        })?;
        println!(
            "after the top-up: {:.0} Mbit/s",
            rates[0].min(rates[1]) / 1e6
        );
        assert!(full(&rates), "{rates:?} bit/s");

        let events = scene.meterd.events("web1")?;
        for event in ["throttled", "topped-up", "restored"] {
            assert_eq!(
                events.iter().filter(|e| e["event"] == event).count(),
                1,
                "{event}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_throttle_stands_while_the_daemon_is_dead_and_is_adopted_by_the_next() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = scene(sandbox)?;
        throttled(&scene)?;
        let shaped = Inventory::take()?;
        scene.meterd.stop(meterd::End::Killed)?;
        Inventory::take()?.same_as(&shaped)?;
        let bulk = Bulk::start(&scene.node.world, &scene.guest.party, 1)?;
        assert_throttled(&bulk, "with the daemon dead")?;
        drop(bulk);
        scene.meterd.start()?;
        assert_eq!(scene.meterd.status("web1")?["state"], "throttled");
        Inventory::take()?.same_as(&shaped)?;
        let events = scene.meterd.events("web1")?;
        assert_eq!(
            events.iter().filter(|e| e["event"] == "throttled").count(),
            1
        );
        Ok(())
    })
}

#[test]
fn a_throttle_that_somebody_removed_comes_back_within_one_event() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        throttled(&scene)?;
        let ours = root("tap101i0")?;
        assert!(ours.is_some(), "no shaper at the tap's root");
        inspect::delete_root_qdisc("tap101i0")?;
        wait::until(
            "the shaper to be back",
            Duration::from_millis(10),
            SOON,
            || {
                let now = root("tap101i0")?;
                Ok(if now == ours {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(format!("{now:?}"))
                })
            },
        )?;
        Ok(())
    })
}

#[test]
fn a_machine_without_its_tap_is_throttled_again_when_it_has_one() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        throttled(&scene)?;
        links::delete("tap101i0")?;
        let guest = scene.node.plug(Port::of(101))?.party;
        scene.meterd.wait_for_state("web1", "throttled", SOON)?;
        until_shaped("tap101i0")?;
        let bulk = Bulk::start(&scene.node.world, &guest, 1)?;
        assert_throttled(&bulk, "on the new tap")?;
        Ok(())
    })
}

#[test]
fn the_metrics_show_the_same_figures() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        throttled(&scene)?;
        let status = scene.meterd.status("web1")?;
        let metrics = scene.meterd.metrics(9750)?;
        let value = |name: &str, labels: &[(&str, &str)]| {
            let labels = [labels, &[("machine", "web1")]].concat();
            meterd::sample(&metrics, name, &labels)
        };
        #[expect(clippy::cast_precision_loss, reason = "figures below 2^53")]
        let used = bytes(&status, "used")? as f64;
        assert_eq!(
            value("meterd_period_used_bytes", &[]),
            Some(used),
            "{metrics}"
        );
        assert_eq!(value("meterd_period_allowance_bytes", &[]), Some(20e6));
        assert_eq!(
            value("meterd_rate_limit_bytes_per_second", &[]),
            Some(8000.0)
        );
        for (state, expected) in [
            ("normal", 0.0),
            ("throttled", 1.0),
            ("capped", 0.0),
            ("suspended", 0.0),
        ] {
            assert_eq!(
                value("meterd_machine_state", &[("state", state)]),
                Some(expected)
            );
        }
        let traffic = |direction| {
            value(
                "meterd_traffic_bytes_total",
                &[("interface", "tap101i0"), ("direction", direction)],
            )
        };
        let sum = traffic("sent").zip(traffic("received")).map(|(a, b)| a + b);
        assert_eq!(sum, Some(used));
        Ok(())
    })
}

/// spec: an anti-spoofing rule on the tap's ingress must not be bypassed.
#[test]
fn somebodys_ingress_filter_still_sees_every_packet_of_a_throttled_guest() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox)?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        foreign::clsact_qdisc("tap101i0")?;
        let filter = foreign::Filter::clsact("tap101i0", Hook::Sent, 10)?;
        throttled(&scene)?;
        let said = |event: &Value| {
            event["event"] == "enforcement-changed" && event.to_string().contains("policed")
        };
        // By clsact ours is a filter like theirs, and stands behind it: nothing is led past it.
        if inspect::has_tcx()? {
            wait::until("it to be said", Duration::from_millis(50), SOON, || {
                let events = scene.meterd.events("web1")?;
                Ok(match events.iter().any(said) {
                    true => Seen::Yes(()),
                    false => Seen::NotYet(format!("{events:#?}")),
                })
            })?;
        }
        let before = filter.seen()?.packets;
        ping(guest, world.v4, 5, Duration::ZERO)?;
        assert!(filter.seen()?.packets >= before + 5);
        let down = Bulk::start(world, guest, 1)?;
        assert_throttled(&down, "the guest receives")?;
        Ok(())
    })
}
