//! Limits in the kernel: what passes beyond a boundary while the daemon sleeps its minute
//! between two polls, is stopped, or is dead. Counted at the far ends.

use std::{thread, time::Duration};

use meter_tests::{
    Result,
    capture::Capture,
    links::Switch,
    meterd::{End, Meterd, bytes},
    sandbox::Sandbox,
    topology::{Guest, Node, Party, Port},
    traffic::{Bulk, ping},
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
    fn passed(&mut self) -> Result<u64> {
        let mut passed = 0;
        for (guest, inside) in self.guests.iter().zip(&mut self.inside) {
            let mac = guest.party.mac;
            passed += inside.settled(mac)?.received.segmented;
            passed += self.outside.settled(mac)?.sent.segmented;
        }
        Ok(passed)
    }

    /// Flows in both directions of every interface at once, for a while.
    fn flood(&self, flows: usize, time: Duration) -> Result<()> {
        let mut bulk = Bulk::start(self.party(), &self.node.world, flows)?;
        for guest in &self.guests {
            bulk.add(&self.node.world, &guest.party, flows)?;
        }
        for guest in &self.guests[1..] {
            bulk.add(&guest.party, &self.node.world, flows)?;
        }
        thread::sleep(time);
        drop(bulk);
        Ok(())
    }

    fn used(&self) -> Result<u64> {
        bytes(&self.meterd.status("101")?, "used")
    }

    /// The ledger has what passed. (Where the last of a GSO packet's segments is, the capture
    /// does not see: a header here or there.)
    #[track_caller]
    fn assert_recorded(&mut self) -> Result<()> {
        let (used, passed) = (self.used()?, self.passed()?);
        assert!(
            used.abs_diff(passed) <= passed / 10_000,
            "{used} in the ledger, {passed} on the wire"
        );
        Ok(())
    }

    #[track_caller]
    fn assert_stops_at(&mut self, limit: u64, when: &str) -> Result<()> {
        let passed = self.passed()?;
        assert!(
            (limit..=limit + slack()).contains(&passed),
            "{when}: {passed} passed, the limit is {limit}"
        );
        Ok(())
    }
}

const AWHILE: Duration = Duration::from_millis(600);

/// The daemon awake, stopped, and dead; each time the limit is 30 MB further on.
fn holds_whatever_becomes_of_the_daemon(ports: &[Port], rule: &str, beyond: u64) -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut it = Limited::set(sandbox, ports, rule)?;
        let mut limit = ALLOWANCE + beyond;
        it.flood(2, AWHILE)?;
        it.assert_stops_at(limit, "awake")?;
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
            it.flood(2, AWHILE)?;
            it.assert_stops_at(limit, when)?;
            if stopped {
                it.meterd.signal(Signal::CONT)?;
            } else {
                it.meterd.start()?;
            }
            it.assert_recorded()?;
            thread::sleep(AWHILE);
            it.assert_stops_at(limit, "and then")?;
        }
        Ok(())
    })
}

const SUSPEND: &str = "[[rule]]\nused = '100%'\nsuspend = true";
const CAP: &str = "[[rule]]\nused = '100%'\ncap = '1 MB'";

#[test]
fn a_suspension_begins_at_the_byte_with_the_daemon_awake_stopped_or_dead() -> Result<()> {
    holds_whatever_becomes_of_the_daemon(&[Port::of(101)], SUSPEND, 0)
}

#[test]
fn a_cap_ends_at_the_byte_with_the_daemon_awake_stopped_or_dead() -> Result<()> {
    holds_whatever_becomes_of_the_daemon(&[Port::of(101)], CAP, MEGABYTE)
}

#[test]
fn a_limit_is_the_machines_over_both_of_its_interfaces() -> Result<()> {
    let second = Port {
        machine: 101,
        nic: 1,
    };
    holds_whatever_becomes_of_the_daemon(&[Port::of(101), second], SUSPEND, 0)
}

#[test]
fn limits_that_are_armed_again_during_the_run_are_passed_by_a_packet_at_most() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut it = Limited::set(sandbox, &[Port::of(101)], SUSPEND)?;
        let mut bulk = Bulk::start(it.party(), &it.node.world, 2)?;
        bulk.add(&it.node.world, it.party(), 2)?;
        let steps = 40;
        for _ in 0..steps {
            it.meterd.text(&["top-up", "101", "1 MB"])?;
        }
        thread::sleep(AWHILE);
        drop(bulk);
        it.assert_stops_at(ALLOWANCE + steps * MEGABYTE, "armed again")
    })
}

#[test]
fn without_gso_not_a_frame_more_than_one_a_cpu_passes() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut it = Limited::set(sandbox, &[Port::of(101)], SUSPEND)?;
        it.party().segmentation(Switch::Off)?;
        // What the guest receives is put together again on its way through the node.
        let bulk = Bulk::start(it.party(), &it.node.world, 4)?;
        thread::sleep(AWHILE);
        drop(bulk);
        let passed = it.passed()?;
        let frames = 1514 * slack() / SKB;
        assert!(
            (ALLOWANCE..=ALLOWANCE + frames).contains(&passed),
            "{passed}"
        );
        Ok(())
    })
}

#[test]
fn a_throttle_begins_at_the_byte_and_is_shaped_within_moments() -> Result<()> {
    Sandbox::run(|sandbox| {
        let rule = "[[rule]]\nused = '100%'\nthrottle = '64 kbit/s'";
        let mut it = Limited::set(sandbox, &[Port::of(101)], rule)?;
        let (guest, world) = (it.party().clone(), it.node.world.clone());
        let bulk = Bulk::start(&world, &guest, 2)?;
        thread::sleep(Duration::from_secs(2));
        drop(bulk);
        let passed = it.passed()?;
        // Two seconds of 64 kbit/s, and what the shapers' own bursts are.
        let throttled = 2 * 2 * 8_000 + 10_000;
        assert!(
            (ALLOWANCE..=ALLOWANCE + slack() + throttled).contains(&passed),
            "{passed}"
        );
        let pings = ping(&guest, world.v4, 5, Duration::from_millis(100))?;
        assert_eq!(pings.answered.len(), 5, "{pings:?}");
        Ok(())
    })
}
