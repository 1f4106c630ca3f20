//! What the shaper does to traffic: goodput, and a talk beside a bulk transfer. Real veths in
//! namespaces of the test's own, as root. tc's own filters stand in for the kernel program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod netns;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use meter_daemon::{
    engine::units::BitsPerSecond,
    host::shaping::{Figures, Shaping},
};
use netns::{Netns, Pair};

const RATE: BitsPerSecond = BitsPerSecond(64_000);
const NODE: &str = "10.9.0.1";
const GUEST: &str = "10.9.0.2";
const BULK_PORT: u16 = 5001;
const ECHO_PORT: u16 = 7;
const FLOOD_PORT: u16 = 9;

/// Which way the guest's bulk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Received,
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gso {
    On,
    Off,
}

/// What else goes the way of the bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// A thousand small packets a second: 700 kbit/s and more.
    Flood,
}

/// A guest throttled in both directions.
fn throttled(gso: Gso) -> Pair {
    let pair = Pair::new();
    if gso == Gso::Off {
        pair.node.sh("ip link set tap gso_max_segs 1");
        pair.guest.sh("ip link set eth0 gso_max_segs 1");
    }
    let tap = pair.tap;
    let ifb = pair.node.block_on(move || async move {
        let installed = Shaping::open().unwrap().install(tap, RATE).await.unwrap();
        format!("mtrd{tap}@{}", installed.ifb_ifindex)
    });
    let ifb = ifb.split('@').next().unwrap();
    pair.node.sh(&format!(
        "tc qdisc add dev tap clsact
         tc filter add dev tap ingress protocol all u32 match u32 0 0 action mirred egress redirect dev {ifb}
         for dev in tap {ifb}; do
           add=\"tc filter add dev $dev parent 6d74: prio\"
           # Small packets by flow: what the kernel program does with skb->priority.
           $add 1 protocol arp u32 match u32 0 0 flowid 6d74:17
           $add 2 protocol ip u32 match ip protocol 17 0xff match ip dport {ECHO_PORT} 0xffff match u16 0 0xff00 at 2 flowid 6d74:10
           $add 2 protocol ip u32 match ip protocol 17 0xff match ip sport {ECHO_PORT} 0xffff match u16 0 0xff00 at 2 flowid 6d74:10
           $add 2 protocol ip u32 match ip protocol 17 0xff match ip dport {FLOOD_PORT} 0xffff match u16 0 0xff00 at 2 flowid 6d74:11
           $add 3 protocol ip u32 match u16 0 0xff00 at 2 flowid 6d74:12
         done"
    ));
    pair
}

/// What a scenario gave.
#[derive(Debug)]
struct Report {
    /// TCP payload taken by the receiver, kbit/s.
    goodput: f64,
    /// Longest time in which the receiver got nothing.
    stall: Duration,
    /// Round trips of a small packet, sorted, and how many were lost.
    round_trips: Vec<Duration>,
    lost: usize,
}

impl Report {
    fn at(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let index = ((self.round_trips.len() - 1) as f64 * share) as usize;
        self.round_trips[index]
    }

    fn line(&self, name: &str) {
        println!(
            "{name:42} {:5.1} kbit/s, stall {:4.1} s; ping median {:4.0} ms, 95 % {:4.0}, worst {:4.0}, lost {}/{}",
            self.goodput,
            self.stall.as_secs_f64(),
            self.at(0.5).as_secs_f64() * 1e3,
            self.at(0.95).as_secs_f64() * 1e3,
            self.at(1.0).as_secs_f64() * 1e3,
            self.lost,
            self.lost + self.round_trips.len(),
        );
    }
}

/// Bulk flows beside a ping, after three seconds of warming up.
fn measure(pair: &Pair, way: Way, flows: usize, beside: Beside, seconds: u64) -> Report {
    let (server, client, address) = match way {
        Way::Received => (&pair.guest, &pair.node, GUEST),
        Way::Sent => (&pair.node, &pair.guest, NODE),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let taken = Arc::new(AtomicU64::new(0));
    let listener = server.run(move || TcpListener::bind((address, BULK_PORT)).unwrap());
    let (counter, stopped) = (Arc::clone(&taken), Arc::clone(&stop));
    let readers = server.run(move || {
        thread::spawn(move || {
            let readers: Vec<_> = (0..flows)
                .map(|_| {
                    let (stream, _) = listener.accept().unwrap();
                    let (counter, stopped) = (Arc::clone(&counter), Arc::clone(&stopped));
                    thread::spawn(move || read(stream, &counter, &stopped))
                })
                .collect();
            readers
                .into_iter()
                .for_each(|reader| reader.join().unwrap());
        })
    });
    let stopped = Arc::clone(&stop);
    let writers = client.run(move || {
        (0..flows)
            .map(|_| {
                let stopped = Arc::clone(&stopped);
                thread::spawn(move || write(address, &stopped))
            })
            .collect::<Vec<_>>()
    });

    if beside == Beside::Flood {
        let stopped = Arc::clone(&stop);
        client.run(move || drop(thread::spawn(move || flood(address, &stopped))));
    }
    let stopped = Arc::clone(&stop);
    pair.guest
        .run(move || drop(thread::spawn(move || echo(&stopped))));
    thread::sleep(Duration::from_secs(3));
    let stop_ping = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop_ping);
    let ping = pair.node.run(move || thread::spawn(move || ping(&stopped)));

    let (begun, before) = (Instant::now(), taken.load(Ordering::Relaxed));
    let (mut stall, mut last, mut last_change) = (Duration::ZERO, before, begun);
    while begun.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(Duration::from_millis(50));
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, last_change) = (now, Instant::now());
        }
        stall = stall.max(last_change.elapsed());
    }
    let bytes = taken.load(Ordering::Relaxed) - before;
    let elapsed = begun.elapsed().as_secs_f64();
    stop_ping.store(true, Ordering::Relaxed);
    let (round_trips, lost) = ping.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    readers.join().unwrap();
    writers
        .into_iter()
        .for_each(|writer| writer.join().unwrap());
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let goodput = bytes as f64 * 8.0 / 1e3 / elapsed;
    Report {
        goodput,
        stall,
        round_trips,
        lost,
    }
}

const TICK: Option<Duration> = Some(Duration::from_millis(100));

fn read(mut stream: TcpStream, taken: &AtomicU64, stop: &AtomicBool) {
    stream.set_read_timeout(TICK).unwrap();
    let mut buffer = [0; 65536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(length) = stream.read(&mut buffer) {
            taken.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}

fn write(address: &str, stop: &AtomicBool) {
    let mut stream = TcpStream::connect((address, BULK_PORT)).unwrap();
    stream.set_write_timeout(TICK).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let _ = stream.write(&[7; 65536]);
    }
}

fn flood(address: &str, stop: &AtomicBool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    while !stop.load(Ordering::Relaxed) {
        let _ = socket.send_to(&[0; 50], (address, FLOOD_PORT));
        thread::sleep(Duration::from_millis(1));
    }
}

fn echo(stop: &AtomicBool) {
    let socket = UdpSocket::bind((GUEST, ECHO_PORT)).unwrap();
    socket.set_read_timeout(TICK).unwrap();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// Five small packets a second, as when somebody types; each is waited for up to 3 s.
fn ping(stop: &AtomicBool) -> (Vec<Duration>, usize) {
    let socket = UdpSocket::bind((NODE, 0)).unwrap();
    socket.connect((GUEST, ECHO_PORT)).unwrap();
    let (mut round_trips, mut lost, mut sequence) = (Vec::new(), 0, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        sequence += 1;
        let mut packet = [0; 56];
        packet[..8].copy_from_slice(&sequence.to_ne_bytes());
        let begun = Instant::now();
        socket.send(&packet).unwrap();
        let mut answer = [0; 56];
        let answered = loop {
            let left = Duration::from_secs(3).saturating_sub(begun.elapsed());
            if left.is_zero() {
                break false;
            }
            socket.set_read_timeout(Some(left)).unwrap();
            if socket.recv(&mut answer).is_ok() && answer == packet {
                break true;
            }
        };
        if answered {
            round_trips.push(begun.elapsed());
        } else {
            lost += 1;
        }
        thread::sleep(Duration::from_millis(200).saturating_sub(begun.elapsed()));
    }
    round_trips.sort();
    (round_trips, lost)
}

/// Several scenarios at once, each on a pair of its own.
fn run(scenarios: Vec<(Way, Gso, usize, Beside)>) -> Vec<(String, Report)> {
    let running: Vec<_> = scenarios
        .into_iter()
        .map(|(way, gso, flows, beside)| {
            thread::spawn(move || {
                let pair = throttled(gso);
                let report = measure(&pair, way, flows, beside, 20);
                let name = format!("{way:?}, GSO {gso:?}, {flows} flow(s), {beside:?}");
                report.line(&name);
                (name, report)
            })
        })
        .collect();
    running
        .into_iter()
        .map(|scenario| scenario.join().unwrap())
        .collect()
}

#[test]
fn goodput_is_50_to_64_kbit_s_and_a_ping_beside_it_takes_less_than_a_second() {
    let mut scenarios = Vec::new();
    for way in [Way::Received, Way::Sent] {
        for gso in [Gso::On, Gso::Off] {
            scenarios.extend([1, 8].map(|flows| (way, gso, flows, Beside::Nothing)));
        }
    }
    for (name, report) in run(scenarios) {
        assert!(
            (50.0..=64.0).contains(&report.goodput),
            "{name}: {report:?}"
        );
        assert!(
            report.at(1.0) < Duration::from_secs(1),
            "{name}: {report:?}"
        );
        assert_eq!(report.lost, 0, "{name}");
    }
}

#[test]
fn a_flood_of_small_packets_takes_a_quarter_at_most_and_leaves_a_ping_alone() {
    let scenarios = [Way::Received, Way::Sent]
        .into_iter()
        .flat_map(|way| [1, 8].map(|flows| (way, Gso::On, flows, Beside::Flood)))
        .collect();
    for (name, report) in run(scenarios) {
        // Three quarters of 64 kbit/s, less the headers and what TCP sends twice.
        assert!(
            (40.0..=64.0).contains(&report.goodput),
            "{name}: {report:?}"
        );
        assert!(
            report.at(1.0) < Duration::from_secs(1),
            "{name}: {report:?}"
        );
        assert_eq!(report.lost, 0, "{name}");
    }
}

#[test]
fn figures_are_what_came_through_and_not_what_was_dropped() {
    let pair = throttled(Gso::On);
    let tap = pair.tap;
    let figures = move || pair_figures(tap);
    let before = pair.node.block_on(figures);
    // Fifty at once, of which a few fit into the queue: 1042 bytes each on the wire.
    let (at_the_guest, at_the_node) = (
        taken(&pair.guest, GUEST, &pair.node),
        taken(&pair.node, NODE, &pair.guest),
    );
    let after = pair.node.block_on(figures);
    for (direction, came) in [at_the_guest, at_the_node].into_iter().enumerate() {
        assert!((3..50).contains(&came), "{came} of 50");
        let figure = after.traffic[direction].0 - before.traffic[direction].0;
        assert_eq!(figure, came * 1042, "{came} packets");
    }
    let removed = pair
        .node
        .block_on(move || async move { Shaping::open().unwrap().remove(tap, None).await.unwrap() });
    assert_eq!(removed.figures, Some(after));
}

async fn pair_figures(tap: u32) -> Figures {
    let shaping = Shaping::open().unwrap();
    shaping.figures(tap).await.unwrap().expect("an IFB stands")
}

/// Sends fifty packets at once to `to`, and says how many arrived.
fn taken(to: &Netns, address: &'static str, from: &Netns) -> u64 {
    let socket = to.run(move || UdpSocket::bind((address, 4242)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..50 {
            socket.send_to(&[0; 1000], (address, 4242)).unwrap();
        }
    });
    let mut taken = 0;
    while socket.recv(&mut [0; 2000]).is_ok() {
        taken += 1;
    }
    taken
}
