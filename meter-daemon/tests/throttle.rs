//! What the shaper does to traffic: goodput, and a talk beside a bulk transfer. On a veth in
//! namespaces of the tests' own, as root. u32 filters stand in for the kernel program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; this one is about time, and says what it measured"
)]

mod node;

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use meter_daemon::{
    engine::units::BitsPerSecond,
    host::shaping::{Figures, MAJOR, Shaping},
};
use meter_tests::{
    links::{self, Switch},
    stall,
    topology::Party,
    traffic::{Bulk, Pings, Sustained, ping},
};
use node::{
    Pair, inside,
    tc::{self, At, Then, id},
};

const RATE: BitsPerSecond = BitsPerSecond(64_000);
const FLOOD_PORT: u16 = 9;
const WINDOW: Duration = Duration::from_secs(10);
/// Of the rate; the headers are part of it.
const MOST: f64 = 64e3;

/// Which way the guest's bulk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Received,
    Sent,
}

/// What else goes the way of the bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// A thousand small packets a second: 700 kbit/s.
    Flood,
}

/// A guest throttled in both directions; `segmentation`: whether GSO packets reach the shaper.
fn throttled(segmentation: Switch) -> Pair {
    let pair = Pair::new();
    for party in [&pair.node, &pair.guest] {
        party.segmentation(segmentation).unwrap();
    }
    let tap = pair.tap;
    let ifb = inside(&pair.node.namespace, || async {
        let shaping = Shaping::open().unwrap();
        let found = shaping.inspect(tap).await.unwrap();
        let installed = shaping.install(tap, RATE, &found.root).await;
        installed.unwrap().ifb_ifindex
    });
    let filters = || {
        tc::clsact("tap");
        tc::filter("tap", At::Ingress, 1, &[(0, 0, 0)], Then::Redirect(ifb));
        for interface in ["tap", &format!("mtrd{tap}")] {
            classify(interface);
        }
        Ok(())
    };
    pair.node.namespace.run(filters).unwrap();
    pair
}

/// Packets of less than 256 bytes of IP by their flow, as the kernel program does.
fn classify(interface: &str) {
    let small = (0, 0x0000_ff00, 0);
    let protocol = |number: u32| (8, 0x00ff_0000, number << 16);
    let port = (20, 0x0000_ffff, u32::from(FLOOD_PORT));
    for (priority, keys, class) in [
        (1, vec![small, protocol(1)], 0x10),
        (2, vec![small, protocol(17), port], 0x11),
        (3, vec![small], 0x12),
    ] {
        let at = At::Qdisc(id(MAJOR, 0));
        tc::filter(
            interface,
            at,
            priority,
            &keys,
            Then::Class(id(MAJOR, class)),
        );
    }
}

/// What a scenario gave.
struct Report {
    /// TCP payload.
    goodput: Sustained,
    pings: Pings,
}

impl Report {
    fn is_usable(&self, least: f64) -> bool {
        let longest = self.pings.longest();
        self.goodput.best >= least
            && self.goodput.overall <= MOST
            && longest.is_some_and(|longest| longest < Duration::from_secs(1))
    }
}

/// Bulk flows beside pings, five a second.
fn measure(pair: &Pair, way: Way, flows: usize, beside: Beside, least: f64) -> Report {
    let (from, to) = match way {
        Way::Received => (&pair.node, &pair.guest),
        Way::Sent => (&pair.guest, &pair.node),
    };
    let bulk = Bulk::start(from, to, flows).unwrap();
    let flood = (beside == Beside::Flood).then(|| Flood::start(from, to));
    let report = thread::scope(|scope| {
        let pings = scope.spawn(|| ping(&pair.node, pair.guest.v4, 50, WINDOW / 50));
        Report {
            goodput: bulk.sustained(WINDOW, least).unwrap(),
            pings: pings.join().unwrap().unwrap(),
        }
    });
    drop((bulk, flood));
    report
}

/// A thread that sends small packets until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    fn start(from: &Party, to: &Party) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, target) = (Arc::clone(&stop), (to.v4, FLOOD_PORT));
        let bind = || Ok(UdpSocket::bind("0.0.0.0:0").unwrap());
        let socket = from.namespace.run(bind).unwrap();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Refused for a full queue, or for an ICMP error: both are as intended.
                let _ = socket.send_to(&[0; 50], target);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Several scenarios at once, each on a pair of its own.
fn assert_usable(scenarios: Vec<(Way, Switch, usize, Beside)>, least: f64) {
    let running: Vec<_> = scenarios
        .into_iter()
        .map(|(way, gso, flows, beside)| {
            thread::spawn(move || {
                let name = format!("{way:?}, GSO {gso:?}, {flows} flow(s), {beside:?}");
                let usable = |report: &Report| report.is_usable(least);
                let report = stall::undisturbed(&name, usable, || {
                    Ok(measure(&throttled(gso), way, flows, beside, least))
                });
                let report = report.unwrap();
                println!(
                    "{name:40} {}; {} of {} pings, median {:?}, worst {:?}",
                    report.goodput,
                    report.pings.answered.len(),
                    report.pings.asked,
                    report.pings.median(),
                    report.pings.answered.last(),
                );
                (name, report)
            })
        })
        .collect();
    for scenario in running {
        let (name, report) = scenario.join().unwrap();
        assert!(
            report.is_usable(least),
            "{name}: {}, {:?}",
            report.goodput,
            report.pings
        );
    }
}

#[test]
fn goodput_is_50_to_64_kbit_s_and_a_ping_beside_it_takes_less_than_a_second() {
    let mut scenarios = Vec::new();
    for way in [Way::Received, Way::Sent] {
        for gso in [Switch::On, Switch::Off] {
            scenarios.extend([1, 8].map(|flows| (way, gso, flows, Beside::Nothing)));
        }
    }
    assert_usable(scenarios, 50e3);
}

#[test]
fn a_flood_of_small_packets_takes_a_quarter_at_most_and_leaves_a_ping_alone() {
    let scenarios = [Way::Received, Way::Sent]
        .into_iter()
        .flat_map(|way| [1, 8].map(|flows| (way, Switch::On, flows, Beside::Flood)))
        .collect();
    // Three quarters of 64 kbit/s, less the headers and what TCP sends twice.
    assert_usable(scenarios, 40e3);
}

#[test]
fn figures_are_what_came_through_and_not_what_was_dropped() {
    let pair = throttled(Switch::On);
    let before = figures(&pair);
    // Of fifty at once a few fit into the queue: 1042 bytes each on the wire.
    let came = [
        arrived(&pair.node, &pair.guest),
        arrived(&pair.guest, &pair.node),
    ];
    let after = figures(&pair);
    for (direction, came) in came.into_iter().enumerate() {
        assert!((3..50).contains(&came), "{came} of 50");
        let figure = after.traffic[direction].0 - before.traffic[direction].0;
        assert_eq!(figure, came * 1042, "{came} packets");
    }
    let removed = inside(&pair.node.namespace, || async {
        let shaping = Shaping::open().unwrap();
        shaping.remove(pair.tap, None).await.unwrap()
    });
    assert_eq!(removed.figures, Some(after));
    let left = pair.node.namespace.run(links::list).unwrap();
    assert!(left.iter().all(|link| link.kind != "ifb"), "{left:?}");
}

fn figures(pair: &Pair) -> Figures {
    inside(&pair.node.namespace, || async {
        let shaping = Shaping::open().unwrap();
        let figures = shaping.figures(pair.tap).await.unwrap();
        figures.expect("an IFB stands")
    })
}

/// Sends fifty packets at once, and says how many arrived.
fn arrived(from: &Party, to: &Party) -> u64 {
    let bind = |party: &Party| {
        let address = (party.v4, 0);
        let bind = || Ok(UdpSocket::bind(address).unwrap());
        party.namespace.run(bind).unwrap()
    };
    let (sender, receiver) = (bind(from), bind(to));
    let patience = Some(Duration::from_secs(2));
    receiver.set_read_timeout(patience).unwrap();
    for _ in 0..50 {
        sender
            .send_to(&[0; 1000], receiver.local_addr().unwrap())
            .unwrap();
    }
    let mut arrived = 0;
    while receiver.recv(&mut [0; 2000]).is_ok() {
        arrived += 1;
    }
    arrived
}
