//! Limits in the kernel: what passes beyond a boundary while the daemon sleeps its minute
//! between two polls, is stopped, or is dead. Counted at the far ends.
#![expect(clippy::print_stdout, reason = "a test shows what it measured")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Result,
    capture::{Capture, Moved},
    links::{Mac, Switch},
    meterd::{End, Meterd, bytes},
    sandbox::Sandbox,
    topology::{Family, Guest, Node, Party, Port},
    traffic::{Bulk, Flood, Sustained, Udp, ping, sustained},
    wait::{self, Seen},
};
use rustix::process::Signal;

/// One skb: the largest GSO packet with the headers of its segments.
const SKB: u64 = 70_000;

/// One a CPU may pass beyond a boundary.
fn slack() -> u64 {
    thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64) * SKB
}

const MEGABYTE: u64 = 1_000_000;

/// Enough for all flows of a test to be there before it is used up.
const ALLOWANCE: u64 = 30 * MEGABYTE;

/// No poll happens by itself within a test.
fn config(plan: &str) -> String {
    format!(
        "poll-interval = '1h'\n[[discover]]\ninterface = '^tap(?<machine>\\d+)i\\d+$'\nplan = '{plan}'\n"
    )
}

/// A node with guests, what passes each of their interfaces, and a daemon with one plan.
struct Limited<'a> {
    node: Node,
    guests: Vec<Guest>,
    /// In each guest: what it receives has passed the limit, what it sends has yet to.
    inside: Vec<Capture>,
    outside: Capture,
    meterd: Meterd<'a>,
}

impl<'a> Limited<'a> {
    fn set(sandbox: &'a Sandbox, ports: &[Port], rule: &str) -> Result<Self> {
        let node = Node::new(sandbox)?;
        let guests: Vec<Guest> = ports
            .iter()
            .map(|port| node.plug(*port))
            .collect::<Result<_>>()?;
        let inside = guests
            .iter()
            .map(|guest| Capture::on(&guest.party.namespace, guest.party.interface))
            .collect::<Result<_>>()?;
        let outside = Capture::on(&node.world.namespace, node.world.interface)?;
        let mut meterd = Meterd::new(sandbox, &config("small"))?;
        let plan = format!("period = {{ starts = 1 }}\nallowance = '30 MB'\n{rule}\n");
        meterd.write("plans/small.toml", &plan)?;
        meterd.start()?;
        Ok(Self {
            node,
            guests,
            inside,
            outside,
            meterd,
        })
    }

    fn party(&self) -> &Party {
        &self.guests[0].party
    }

    /// What has passed the limit so far: received as seen inside, sent as seen outside.
    fn passed(&mut self, look: fn(&mut Capture, Mac) -> Result<Moved>) -> Result<u64> {
        let mut passed = 0;
        for (guest, inside) in self.guests.iter().zip(&mut self.inside) {
            let mac = guest.party.mac;
            passed += look(inside, mac)?.received.segmented;
            passed += look(&mut self.outside, mac)?.sent.segmented;
        }
        Ok(passed)
    }

    /// Traffic of a kind until so much has passed, and for a while longer.
    fn flood(&mut self, kind: Kind, until: u64) -> Result<()> {
        let (guest, world) = (self.party().clone(), self.node.world.clone());
        match kind {
            Kind::Flows => {
                let _bulk = self.flows(2)?;
                self.against(until)
            }
            Kind::Frames => {
                // What the guest receives is put together again on its way through the node.
                let _bulk = Bulk::start(&guest, &world, 4)?;
                self.against(until)
            }
            Kind::Datagrams => {
                let _received = Flood::start(&world, &guest, 0)?;
                let _sent = Flood::start(&guest, &world, 1)?;
                self.against(until)
            }
        }
    }

    /// Waits until the traffic that flows has reached a limit, and what might pass it has had
    /// its time.
    fn against(&mut self, limit: u64) -> Result<()> {
        self.until_passed(limit)?;
        thread::sleep(AWHILE);
        Ok(())
    }

    fn until_passed(&mut self, limit: u64) -> Result<()> {
        let often = Duration::from_millis(5);
        wait::until("the limit", often, Duration::from_secs(20), || {
            Ok(match self.passed(Capture::of)? {
                passed if passed >= limit => Seen::Yes(()),
                passed => Seen::NotYet(format!("{passed} of {limit} passed")),
            })
        })
        .map(drop)
    }

    /// Flows in both directions of every interface at once.
    fn flows(&self, flows: usize) -> Result<Bulk> {
        let mut bulk = Bulk::waiting();
        bulk.add(self.party(), &self.node.world, flows)?;
        for guest in &self.guests {
            bulk.add(&self.node.world, &guest.party, flows)?;
        }
        for guest in &self.guests[1..] {
            bulk.add(&guest.party, &self.node.world, flows)?;
        }
        bulk.go();
        Ok(bulk)
    }

    fn used(&self) -> Result<u64> {
        bytes(&self.meterd.status("101")?, "used")
    }

    /// The ledger has what passed. (Where the last of a GSO packet's segments is, the capture
    /// does not see: a header here or there.)
    #[track_caller]
    fn assert_recorded(&mut self) -> Result<()> {
        let (used, passed) = (self.used()?, self.passed(Capture::settled)?);
        assert!(
            used.abs_diff(passed) <= passed / 10_000,
            "{used} in the ledger, {passed} on the wire"
        );
        Ok(())
    }

    #[track_caller]
    fn assert_stops_at(&mut self, limit: u64, kind: Kind, when: &str) -> Result<()> {
        let passed = self.passed(Capture::settled)?;
        assert!(
            (limit..=limit + kind.slack()).contains(&passed),
            "{when}: {passed} passed, the limit is {limit}"
        );
        Ok(())
    }
}

/// What reaches a limit.
#[derive(Clone, Copy)]
enum Kind {
    /// TCP both ways.
    Flows,
    /// What the guest sends, without GSO.
    Frames,
    /// UDP both ways, as fast as it goes.
    Datagrams,
}

impl Kind {
    /// One packet a CPU may pass beyond a boundary.
    fn slack(self) -> u64 {
        match self {
            Self::Flows | Self::Datagrams => slack(),
            Self::Frames => 1514 * slack() / SKB,
        }
    }
}

/// What might yet pass a limit that was reached passes within this.
const AWHILE: Duration = Duration::from_millis(200);

/// The daemon awake, stopped, and dead; each time the limit is 30 MB further on.
fn holds_whatever_becomes_of_the_daemon(
    ports: &[Port],
    rule: &str,
    beyond: u64,
    kind: Kind,
) -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut it = Limited::set(sandbox, ports, rule)?;
        if matches!(kind, Kind::Frames) {
            it.party().segmentation(Switch::Off)?;
        }
        let mut limit = ALLOWANCE + beyond;
        it.flood(kind, limit)?;
        it.assert_stops_at(limit, kind, "awake")?;
        it.assert_recorded()?;

        let more = |it: &Limited<'_>| it.meterd.text(&["top-up", "101", "30 MB"]).map(drop);
        // A cap begins again where the allowance ends.
        for (when, stopped) in [("stopped", true), ("dead", false)] {
            more(&it)?;
            limit += ALLOWANCE;
            if stopped {
                it.meterd.signal(Signal::STOP)?;
            } else {
                it.meterd.stop(End::Killed)?;
            }
            it.flood(kind, limit)?;
            it.assert_stops_at(limit, kind, when)?;
            if stopped {
                it.meterd.signal(Signal::CONT)?;
            } else {
                it.meterd.start()?;
            }
            it.assert_recorded()?;
            thread::sleep(AWHILE);
            it.assert_stops_at(limit, kind, "and then")?;
        }
        Ok(())
    })
}

const SUSPEND: &str = "[[rule]]\nused = '100%'\nsuspend = true";
const CAP: &str = "[[rule]]\nused = '100%'\ncap = '1 MB'";

#[test]
fn a_suspension_begins_at_the_byte_with_the_daemon_awake_stopped_or_dead() -> Result<()> {
    holds_whatever_becomes_of_the_daemon(&[Port::of(101)], SUSPEND, 0, Kind::Flows)
}

#[test]
fn a_cap_ends_at_the_byte_with_the_daemon_awake_stopped_or_dead() -> Result<()> {
    holds_whatever_becomes_of_the_daemon(&[Port::of(101)], CAP, MEGABYTE, Kind::Flows)
}

#[test]
fn a_limit_is_the_machines_over_both_of_its_interfaces() -> Result<()> {
    let second = Port {
        machine: 101,
        nic: 1,
    };
    holds_whatever_becomes_of_the_daemon(&[Port::of(101), second], SUSPEND, 0, Kind::Flows)
}

#[test]
fn limits_that_are_armed_again_during_the_run_are_passed_by_a_packet_at_most() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut it = Limited::set(sandbox, &[Port::of(101)], SUSPEND)?;
        let mut bulk = Bulk::waiting();
        bulk.add(it.party(), &it.node.world, 2)?;
        bulk.add(&it.node.world, it.party(), 2)?;
        bulk.go();
        let steps = 40;
        for _ in 0..steps {
            it.meterd.text(&["top-up", "101", "1 MB"])?;
        }
        it.against(ALLOWANCE + steps * MEGABYTE)?;
        drop(bulk);
        it.assert_stops_at(ALLOWANCE + steps * MEGABYTE, Kind::Flows, "armed again")
    })
}

#[test]
fn without_gso_not_a_frame_more_than_one_a_cpu_passes_whatever_becomes_of_the_daemon() -> Result<()>
{
    holds_whatever_becomes_of_the_daemon(&[Port::of(101)], SUSPEND, 0, Kind::Frames)
}

#[test]
fn a_flood_of_datagrams_stops_at_the_byte_whatever_becomes_of_the_daemon() -> Result<()> {
    holds_whatever_becomes_of_the_daemon(&[Port::of(101)], SUSPEND, 0, Kind::Datagrams)
}

/// Received and sent, as far as they passed.
fn each_way(
    it: &mut Limited<'_>,
    look: fn(&mut Capture, Mac) -> Result<Moved>,
) -> Result<[u64; 2]> {
    let mac = it.party().mac;
    let received = look(&mut it.inside[0], mac)?.received.segmented;
    Ok([received, look(&mut it.outside, mac)?.sent.segmented])
}

/// Waits until a direction's traffic has reached a limit, and a while longer.
fn until_reached(it: &mut Limited<'_>, limit: u64, of: fn([u64; 2]) -> u64) -> Result<()> {
    let often = Duration::from_millis(5);
    wait::until("the limit", often, Duration::from_secs(20), || {
        let moved = each_way(it, Capture::of)?;
        Ok(match of(moved) >= limit {
            true => Seen::Yes(()),
            false => Seen::NotYet(format!("{moved:?} received and sent")),
        })
    })?;
    thread::sleep(AWHILE);
    Ok(())
}

#[test]
fn a_plan_that_counts_what_is_received_stops_at_the_byte_of_that() -> Result<()> {
    Sandbox::run(|sandbox| {
        let keys = format!("direction = 'received'\n{SUSPEND}");
        let mut it = Limited::set(sandbox, &[Port::of(101)], &keys)?;
        it.meterd.signal(Signal::STOP)?;
        // What is not counted goes on past the allowance, and stops with the rest.
        let bulk = Bulk::start(it.party(), &it.node.world, 2)?;
        let often = Duration::from_millis(10);
        wait::until("more than the allowance", often, AWHILE * 100, || {
            Ok(match bulk.arrived() {
                arrived if arrived > 2 * ALLOWANCE => Seen::Yes(()),
                arrived => Seen::NotYet(format!("{arrived}")),
            })
        })?;
        drop(bulk);
        let bulk = Bulk::start(&it.node.world, it.party(), 2)?;
        until_reached(&mut it, ALLOWANCE, |[received, _]| received)?;
        drop(bulk);
        it.meterd.signal(Signal::CONT)?;
        let [received, sent] = each_way(&mut it, Capture::settled)?;
        assert!(
            (ALLOWANCE..=ALLOWANCE + slack()).contains(&received),
            "{received} received, {sent} sent"
        );
        Ok(())
    })
}

#[test]
fn a_plan_that_counts_the_larger_stops_at_the_byte_of_either_direction() -> Result<()> {
    Sandbox::run(|sandbox| {
        let keys = format!("direction = 'larger'\n{SUSPEND}");
        let mut it = Limited::set(sandbox, &[Port::of(101)], &keys)?;
        let flows = it.flows(2)?;
        until_reached(&mut it, ALLOWANCE, |[received, sent]| received.max(sent))?;
        drop(flows);
        let [received, sent] = each_way(&mut it, Capture::settled)?;
        let larger = received.max(sent);
        assert!(
            (ALLOWANCE..=ALLOWANCE + slack()).contains(&larger),
            "{received} received, {sent} sent"
        );
        Ok(())
    })
}

const THROTTLE: &str = "[[rule]]\nused = '100%'\nthrottle = '64 kbit/s'";

/// Datagrams without end, of which little is let through: what comes of them.
fn trickle(it: &mut Limited<'_>, guests: &[Party]) -> Result<Sustained> {
    const WINDOW: Duration = Duration::from_secs(3);
    let datagrams = Udp {
        datagrams: 10,
        each: 1_000,
        family: Family::V4,
        together: 1,
    };
    let (enough, world) = (AtomicBool::new(false), it.node.world.clone());
    thread::scope(|scope| {
        let all = guests.iter().map(|guest| {
            let (enough, world) = (&enough, &world);
            scope.spawn(move || -> Result<()> {
                while !enough.load(Ordering::Relaxed) {
                    datagrams.spray(world, guest)?;
                }
                Ok(())
            })
        });
        let all: Vec<_> = all.collect();
        // What a silent machine has saved up.
        thread::sleep(Duration::from_secs(1));
        let mut received = || -> Result<u64> {
            let all = guests.iter().zip(&mut it.inside);
            all.map(|(guest, inside)| Ok(inside.of(guest.mac)?.received.segmented))
                .sum()
        };
        let begun = Instant::now();
        let found = received()
            .and_then(|before| sustained(begun, WINDOW, LEAST, || Ok(received()? - before)));
        enough.store(true, Ordering::Relaxed);
        all.into_iter().try_for_each(|one| match one.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })?;
        found
    })
}

/// Half the rate at least, and never more than it and what a second of silence saves up: a frame
/// or two may be on their way.
const LEAST: f64 = 32e3;
const MOST: f64 = 66e3;

#[track_caller]
fn assert_limited(found: &Sustained, how: &str) {
    println!("{how}: {found}");
    let seconds = found.took.as_secs_f64();
    assert!(
        found.best >= LEAST && found.overall * seconds <= MOST * (seconds + 1.0),
        "{how}: {found}"
    );
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[test]
fn a_throttle_begins_at_the_byte_and_is_shaped_within_moments() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut it = Limited::set(sandbox, &[Port::of(101)], THROTTLE)?;
        let (guest, world) = (it.party().clone(), it.node.world.clone());
        let began = Instant::now();
        let bulk = Bulk::start(&world, &guest, 2)?;
        it.until_passed(ALLOWANCE)?;
        thread::sleep(Duration::from_secs(2));
        drop(bulk);
        let passed = it.passed(Capture::settled)?;
        // 64 kbit/s both ways for as long as it took, and what the shapers' own bursts are.
        let throttled = 2 * 8 * milliseconds(began) + 10_000;
        assert!(
            (ALLOWANCE..=ALLOWANCE + slack() + throttled).contains(&passed),
            "{passed}"
        );
        let pings = ping(&guest, world.v4, 5, Duration::from_millis(100))?;
        assert_eq!(pings.answered.len(), 5, "{pings:?}");
        let log = it.meterd.log();
        let acted = log.lines().find(|line| line.contains("acted upon"));
        println!("{}", acted.unwrap_or("nothing in the log"));
        assert!(acted.is_some(), "{log}");
        Ok(())
    })
}

#[test]
fn a_throttle_is_policed_to_its_rate_with_the_daemon_stopped_or_dead() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut it = Limited::set(sandbox, &[Port::of(101)], THROTTLE)?;
        let guests = [it.party().clone()];
        guests[0].segmentation(Switch::Off)?;
        it.meterd.signal(Signal::STOP)?;
        let began = Instant::now();
        it.flood(Kind::Frames, ALLOWANCE)?;
        let passed = it.passed(Capture::settled)?;
        // Both ways, and a second that was saved up.
        let policed = 2 * 8 * (1_000 + milliseconds(began));
        assert!(
            (ALLOWANCE..=ALLOWANCE + slack() + policed).contains(&passed),
            "{passed}"
        );
        for how in ["stopped", "dead"] {
            assert_limited(&trickle(&mut it, &guests)?, how);
            if how == "stopped" {
                it.meterd.stop(End::Killed)?;
            }
        }
        Ok(())
    })
}

/// Somebody's root that cannot be put back, so that the machine is policed.
fn foreign_root(tap: &str) -> Result<()> {
    let words = ["qdisc", "replace", "dev", tap, "root", "handle", "5:"];
    let status = std::process::Command::new("tc")
        .args(words)
        .args(["pfifo", "limit", "1000"])
        .status()
        .could_not(|| "run tc")?;
    assert!(status.success());
    Ok(())
}

/// The machine has used its allowance up and is throttled.
fn throttled(it: &mut Limited<'_>) -> Result<()> {
    // A long packet would be what policing lets through in seconds.
    it.party().segmentation(Switch::Off)?;
    it.flood(Kind::Frames, ALLOWANCE)?;
    let soon = Duration::from_secs(5);
    it.meterd.wait_for_state("101", "throttled", soon).map(drop)
}

#[test]
fn a_root_that_somebody_puts_in_the_place_of_a_shaper_is_policed() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut it = Limited::set(sandbox, &[Port::of(101)], THROTTLE)?;
        throttled(&mut it)?;
        foreign_root("tap101i0")?;
        thread::sleep(Duration::from_secs(1));
        let guests = [it.party().clone()];
        assert_limited(&trickle(&mut it, &guests)?, "policed");
        Ok(())
    })
}

#[test]
fn a_machine_has_its_rate_where_one_interface_is_shaped_and_another_policed() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let second = Port {
            machine: 101,
            nic: 1,
        };
        let mut it = Limited::set(sandbox, &[Port::of(101), second], THROTTLE)?;
        foreign_root("tap101i1")?;
        throttled(&mut it)?;
        let guests = [it.party().clone(), it.guests[1].party.clone()];
        assert_limited(&trickle(&mut it, &guests)?, "policed");
        Ok(())
    })
}

/// Processor time that the daemon has used.
fn worked(meterd: &Meterd<'_>) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", meterd.pid().unwrap_or(0)))
        .could_not(|| "read what the daemon has worked")?;
    let behind = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = behind.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

#[test]
fn a_flood_into_a_throttle_that_a_suspension_follows_does_not_keep_the_daemon_busy() -> Result<()> {
    Sandbox::run(|sandbox| {
        let rules = format!("{THROTTLE}\n[[rule]]\nused = '200%'\nsuspend = true");
        let mut it = Limited::set(sandbox, &[Port::of(101)], &rules)?;
        throttled(&mut it)?;
        thread::sleep(AWHILE);
        let before = worked(&it.meterd)?;
        let flood = Flood::start(&it.node.world, it.party(), 0)?;
        thread::sleep(Duration::from_secs(2));
        drop(flood);
        let worked = worked(&it.meterd)?.saturating_sub(before);
        println!("{worked:?} in 2 s");
        assert!(worked < Duration::from_millis(400), "{worked:?} in 2 s");
        Ok(())
    })
}

#[test]
fn what_is_imported_is_off_the_limit_at_once() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut it = Limited::set(sandbox, &[Port::of(101)], SUSPEND)?;
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2);
        it.meterd.write(
            "usage.csv",
            &format!("time,received,sent\n{at},10000000,0\n"),
        )?;
        let file = it.meterd.directory().join("usage.csv");
        let answer = it
            .meterd
            .json(&["import", "101", "--from", &file.to_string_lossy()])?;
        // None of it in the first two hours of a month.
        let imported = bytes(&answer["events"][0], "in_period")?;
        it.meterd.signal(Signal::STOP)?;
        it.flood(Kind::Flows, ALLOWANCE - imported)?;
        it.assert_stops_at(ALLOWANCE - imported, Kind::Flows, "after the import")?;
        it.meterd.signal(Signal::CONT)
    })
}
