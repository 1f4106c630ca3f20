//! How far beyond a boundary two CPUs get that send packets of 64 KB as fast as they can,
//! while the limits are armed anew again and again: one packet each.

use std::time::Duration;

use meter_daemon::{
    engine::units::Bytes,
    host::{
        limits::{ArmedBoundary, Limits, Then},
        programs::Programs,
    },
};
use meter_tests::{
    cost::Packet,
    inspect::{self, Hook},
    needs,
    paper::UDP4_HEADERS,
    traffic::Flood,
    wait::{self, Seen},
};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    arena::{Guest, arena, both},
    limits::{MACHINE, at, under_limits},
    weight::tcp,
};

pub(crate) const CPUS: u64 = 2;

/// What a flood's packet is on the wire.
pub(crate) const PACKET: u64 = Flood::TOGETHER as u64 * (Flood::EACH as u64 + UDP4_HEADERS);

/// Bytes of floods, as their receivers count.
pub(crate) fn arrived(floods: &[Flood]) -> u64 {
    let arrived: u64 = floods.iter().map(Flood::arrived).sum();
    arrived * (Flood::EACH as u64 + UDP4_HEADERS)
}

pub(crate) fn total(limits: &Limits) -> u64 {
    let spent = limits.spent(MACHINE).unwrap();
    (spent.received + spent.sent).0
}

pub(crate) fn until(what: &str, mut there: impl FnMut() -> bool) {
    let ask = || {
        Ok(if there() {
            Seen::Yes(())
        } else {
            Seen::NotYet(String::new())
        })
    };
    wait::until(what, Duration::from_millis(1), Duration::from_secs(20), ask).unwrap();
}

/// Arms so much more, sum or one direction; what the boundary is then.
pub(crate) fn arm(programs: &mut Programs, more: u64, sum: bool) -> u64 {
    let spent = programs.limits().spent(MACHINE).unwrap();
    let limit = total(programs.limits()) + more;
    // In one direction, only what is sent is to reach it.
    let boundary = if sum {
        at(limit, Then::Capped)
    } else {
        ArmedBoundary {
            sum: None,
            received: None,
            sent: Some(spent.sent + Bytes(more)),
            then: Then::Capped,
        }
    };
    programs
        .limits_mut()
        .arm(MACHINE, [Some(boundary), None])
        .unwrap();
    limit
}

/// How far beyond the limit the floods got over slots 0 and 1, which go on: nothing of them comes
/// through any more, and the receiver has what was spent.
pub(crate) fn stopped_beyond(programs: &Programs, floods: &[Flood; 2], limit: u64) -> u64 {
    until("the boundary to be reached", || {
        total(programs.limits()) >= limit
    });
    let dropped = || {
        let [first, second] = [0, 1].map(|slot| both(programs, slot)[1].dropped_capped);
        first.min(second)
    };
    let before = dropped();
    until("packets of both to be dropped", || {
        dropped() > before + 10 * PACKET
    });
    let spent = total(programs.limits());
    until("what passed to arrive", || arrived(floods) >= spent);
    assert_eq!(arrived(floods), spent, "the receiver counts what was spent");
    spent - limit
}

#[test]
fn at_most_one_packet_a_cpu_goes_beyond_as_the_receiver_counts() {
    if !needs::two_processors() {
        return;
    }
    arena(|arena| {
        let guests = [1, 2].map(|number| Guest::new(arena, number));
        let mut programs = arena.open();
        for (slot, guest) in (0..).zip(&guests) {
            under_limits(&mut programs, guest, slot);
        }
        arm(&mut programs, 0, true);
        // Two interfaces of one machine, a CPU each.
        let floods = [0, 1].map(|n| Flood::start(&guests[n].party, &guests[n].host, n).unwrap());
        let mut beyond = Vec::new();
        for round in 0..40 {
            // A step that falls into the midst of a packet.
            let more = 3_000_000 + round * 12_345;
            let limit = arm(&mut programs, more, round % 2 == 0);
            beyond.push(stopped_beyond(&programs, &floods, limit));
        }
        beyond.sort_unstable();
        println!(
            "bytes beyond the boundary: median {}, most {}, a packet is {PACKET}",
            beyond[beyond.len() / 2],
            beyond.last().unwrap()
        );
        assert!(
            beyond.iter().all(|beyond| *beyond < CPUS * PACKET),
            "{beyond:?}"
        );
    });
}

#[test]
fn at_most_one_packet_a_cpu_goes_beyond_at_the_programs_own_speed() {
    if !needs::two_processors() {
        return;
    }
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        // On the loopback, where nothing but the test run is.
        let loopback = Guest {
            ifindex: 1,
            ..guest
        };
        under_limits(&mut programs, &loopback, 0);
        arm(&mut programs, 0, true);
        let hook = inspect::programs(1, Hook::Sent).unwrap();
        let program = inspect::open_program(hook[0].id).unwrap();
        let frame = tcp(3000);
        let packet = Packet {
            frame: &frame,
            segment: 400,
        };
        let weight = 3000 + 8 * 66;
        let stop = std::sync::atomic::AtomicBool::new(false);
        let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
        let mut beyond = Vec::new();
        std::thread::scope(|scope| {
            for cpu in 0..2 {
                let program = &program;
                scope.spawn(move || {
                    let mut one = CpuSet::new();
                    one.set(cpu);
                    sched_setaffinity(None, &one).unwrap();
                    while !stopped() {
                        packet.cost(program).unwrap();
                    }
                });
            }
            for round in 0..300 {
                let limit = arm(&mut programs, 1_000_000 + round * 77, true);
                until("the boundary to be reached", || {
                    total(programs.limits()) >= limit
                });
                let dropped = || both(&programs, 0)[1].dropped_capped;
                let before = dropped();
                until("packets to be dropped", || dropped() > before + 1_000_000);
                beyond.push(total(programs.limits()) - limit);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        beyond.sort_unstable();
        println!(
            "bytes beyond the boundary: median {}, most {}, a packet is {weight}",
            beyond[beyond.len() / 2],
            beyond.last().unwrap()
        );
        let [_, sent] = both(&programs, 0);
        assert_eq!(sent.bytes, total(programs.limits()));
        assert!(
            beyond.iter().all(|beyond| *beyond < CPUS * weight),
            "{beyond:?}"
        );
    });
}
