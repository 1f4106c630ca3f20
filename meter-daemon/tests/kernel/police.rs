//! Policing to a rate where no shaper stands.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use meter_common::Counters;
use meter_daemon::{
    engine::units::BitsPerSecond,
    host::{
        limits::Then,
        programs::{Programs, Shaper},
    },
};
use meter_tests::{
    Context,
    links::{self, Switch},
    stall,
    topology::Party,
    traffic::{Bulk, ping},
};

use crate::{
    arena::{Guest, arena, both, ifindex},
    limits::{FRAME, MACHINE, at, is_sent, sends, under_limits},
};

/// A boundary that is reached from the start.
const NOTHING: u64 = 0;

/// The largest packet that a veth hands over, with what its segments weigh on a wire.
const LARGEST: f64 = 65_536.0 * 1.1;

/// Sends datagrams with so much payload for a time, as fast as it can.
fn flood(from: &Party, to: &Party, payload: usize, time: Duration) {
    let flood = || {
        let socket = UdpSocket::bind((from.v4, 0)).could_not(|| "bind")?;
        socket.connect((to.v4, 9)).could_not(|| "connect")?;
        let payload = vec![0; payload];
        let start = Instant::now();
        while start.elapsed() < time {
            // Dropped on the way out, or answered with an error: all the same.
            for _ in 0..50 {
                drop(socket.send(&payload));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    };
    from.namespace.run(flood).unwrap();
}

#[test]
fn each_direction_gets_the_rate_and_small_packets_a_quarter_of_it_for_sure() {
    arena(|arena| {
        let guests = [1, 2].map(|number| Guest::new(arena, number));
        let mut programs = arena.open();
        for (slot, guest) in (0..).zip(&guests) {
            under_limits(&mut programs, guest, slot);
        }
        let rate = 800_000;
        let limit = at(NOTHING, Then::Police(BitsPerSecond(8 * rate)));
        programs
            .limits_mut()
            .arm(MACHINE, [Some(limit), None])
            .unwrap();
        let each: [(&[usize], u64); 3] = [
            (&[1000], rate),
            (&[100], rate / 4),
            // What small packets take is not bulk's as well.
            (&[1000, 100], rate),
        ];
        for (payloads, share) in each {
            let flooded = || Ok(flood_both_ways(&programs, &guests, payloads));
            // Nothing of the rate was lost to senders who could not send.
            let used = |flooded: &Flooded| {
                let share = |bytes: u64| bytes as f64 / share as f64;
                let mut seconds = flooded.passed.map(share).into_iter();
                seconds.all(|seconds| seconds > 0.95 * flooded.took.as_secs_f64())
            };
            let found = stall::undisturbed("two floods", used, flooded).unwrap();
            println!("{payloads:?} bytes, of {share} bytes a second: {found:?}");
            assert!(used(&found), "{found:?}");
            for (passed, dropped) in found.passed.into_iter().zip(found.dropped) {
                // A second of it may have been saved up.
                let most = share as f64 * (found.took.as_secs_f64() + 1.1);
                assert!((passed as f64) < most, "{found:?}");
                assert!(dropped > passed, "{found:?}");
            }
        }
    });
}

/// What became of floods, received and sent.
#[derive(Debug)]
struct Flooded {
    took: Duration,
    passed: [u64; 2],
    dropped: [u64; 2],
}

/// Over all interfaces at once, both ways.
fn flood_both_ways(programs: &Programs, guests: &[Guest; 2], payloads: &[usize]) -> Flooded {
    let read = || [0, 1].map(|slot| both(programs, slot));
    let (before, start) = (read(), Instant::now());
    std::thread::scope(|scope| {
        for guest in guests {
            for [from, to] in [[&guest.party, &guest.host], [&guest.host, &guest.party]] {
                for payload in payloads {
                    scope.spawn(|| flood(from, to, *payload, Duration::from_secs(2)));
                }
            }
        }
    });
    let (took, after) = (start.elapsed(), read());
    let grown = |of: fn(&Counters) -> u64| {
        [0, 1].map(|direction| {
            let slots = before.iter().zip(&after);
            let growth =
                slots.map(|(before, after)| of(&after[direction]) - of(&before[direction]));
            growth.sum()
        })
    };
    Flooded {
        took,
        passed: grown(|counters| counters.bytes),
        dropped: grown(|counters| counters.dropped_throttled),
    }
}

#[test]
fn what_a_shaper_takes_is_not_policed() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        under_limits(&mut programs, &guest, 0);
        let limit = at(NOTHING, Then::Police(BitsPerSecond(8)));
        programs
            .limits_mut()
            .arm(MACHINE, [Some(limit), None])
            .unwrap();
        sends(&guest, 9);
        is_sent(&guest, 9);
        let frames = |counters: Counters| counters.bytes / FRAME;
        assert_eq!(both(&programs, 0).map(frames), [1, 1]);
        // Without an IFB only what the guest receives is shaped.
        let mut shaper = Shaper {
            major: 1,
            ifb_ifindex: 0,
        };
        programs.set_shaper(guest.ifindex, 0, Some(shaper)).unwrap();
        sends(&guest, 9);
        is_sent(&guest, 9);
        assert_eq!(both(&programs, 0).map(frames), [10, 1]);
        links::ifb("shaped").unwrap();
        links::up("shaped").unwrap();
        shaper.ifb_ifindex = ifindex("shaped");
        programs.set_shaper(guest.ifindex, 0, Some(shaper)).unwrap();
        sends(&guest, 9);
        is_sent(&guest, 9);
        assert_eq!(both(&programs, 0).map(frames), [19, 10]);
        // Somebody took the root: until the shaper is back there, only the IFB shapes.
        programs.lose_root(guest.ifindex, 0).unwrap();
        sends(&guest, 9);
        is_sent(&guest, 9);
        assert_eq!(both(&programs, 0).map(frames), [19, 19]);
        programs.set_shaper(guest.ifindex, 0, Some(shaper)).unwrap();
        is_sent(&guest, 9);
        assert_eq!(both(&programs, 0).map(frames), [28, 19]);
    });
}

#[test]
fn tcp_gets_through_policing_and_a_ping_beside_it_is_answered() {
    for (segmentation, receives) in [(Switch::On, true), (Switch::Off, false)] {
        arena(|arena| {
            let guest = Guest::new(arena, 1);
            let mut programs = arena.open();
            under_limits(&mut programs, &guest, 0);
            for party in [&guest.host, &guest.party] {
                party.segmentation(segmentation).unwrap();
            }
            let limit = at(NOTHING, Then::Police(BitsPerSecond(64_000)));
            programs
                .limits_mut()
                .arm(MACHINE, [Some(limit), None])
                .unwrap();
            let (from, to) = if receives {
                (&guest.host, &guest.party)
            } else {
                (&guest.party, &guest.host)
            };
            let passed = || both(&programs, 0)[usize::from(!receives)].bytes;
            let (start, before) = (Instant::now(), passed());
            let bulk = Bulk::start(from, to, 1).unwrap();
            // Past the first burst, whose debt once stopped a flow with GSO for half a minute.
            std::thread::sleep(Duration::from_secs(10));
            let goodput = bulk.goodput(Duration::from_secs(20));
            let (passed, took) = (passed() - before, start.elapsed());
            let pings = ping(&guest.party, guest.host.v4, 20, Duration::from_millis(200));
            let pings = pings.unwrap();
            let _ = bulk.stop();
            println!(
                "GSO {segmentation:?}, guest {}: {goodput:.0} bit/s, {} of {} pings answered, median {:?}",
                if receives { "receives" } else { "sends" },
                pings.answered.len(),
                pings.asked,
                pings.median(),
            );
            assert_eq!(pings.answered.len(), pings.asked);
            assert!(goodput > 40_000.0, "{goodput}");
            // The clock's law: a second of the rate saved up, and the packet that outruns it.
            // What the receiver reads obeys no such law: a hole that is filled gives it all that
            // had come behind the hole.
            let rate = 64_000.0 / 8.0;
            assert!(
                passed as f64 <= rate * (took.as_secs_f64() + 1.0) + LARGEST,
                "{passed}"
            );
        });
    }
}
