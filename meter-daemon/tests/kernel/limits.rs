//! Limits in the kernel: what passes up to a boundary and what happens there, with nobody but
//! the kernel program to see to it.

use meter_daemon::{
    engine::units::{BitsPerSecond, Bytes},
    host::{
        error::HostError,
        limits::{ArmedBoundary, Spent, Then},
        programs::{AttachRequest, Programs},
        reached::LimitEvents,
    },
};
use meter_tests::{links::Mac, packet::Ends, paper::UDP4_HEADERS, topology::Party};

use crate::arena::{Arena, Guest, arena, both};

/// A frame of so many bytes is what each packet here is.
pub(crate) const FRAME: u64 = 1000;
/// The index of the machine.
pub(crate) const MACHINE: u32 = 3;

pub(crate) fn under_limits(programs: &mut Programs, guest: &Guest, slot: u32) {
    let request = AttachRequest {
        ifindex: guest.ifindex,
        slot,
        generation: 1,
        machine: MACHINE,
    };
    let results = programs.attach(&[request]);
    assert!(results.iter().all(|(_, result)| result.is_ok()));
}

/// The guest sends so many frames.
pub(crate) fn sends(guest: &Guest, frames: usize) {
    pass(frames, [&guest.party, &guest.host]);
}

/// The guest is sent so many frames.
pub(crate) fn is_sent(guest: &Guest, frames: usize) {
    pass(frames, [&guest.host, &guest.party]);
}

fn pass(frames: usize, [from, to]: [&Party; 2]) {
    let ends = Ends {
        // Nobody's, so that nobody answers.
        macs: (from.mac, Mac([2, 0, 0, 0, 0xff, 0xff])),
        ips: (from.v4, to.v4),
    };
    let payload = vec![0; usize::try_from(FRAME - UDP4_HEADERS).unwrap()];
    let frame = ends.udp(&[], 9, &payload);
    for _ in 0..frames {
        // Dropped on the way out, it is no success for who sent it.
        drop(from.inject(&frame, 1));
    }
}

pub(crate) const fn at(sum: u64, then: Then) -> ArmedBoundary {
    ArmedBoundary {
        sum: Some(Bytes(sum)),
        received: None,
        sent: None,
        then,
    }
}

fn only(boundary: ArmedBoundary) -> [Option<ArmedBoundary>; 2] {
    [Some(boundary), None]
}

/// Frames that passed: received, sent.
fn frames(programs: &Programs, slot: u32) -> [u64; 2] {
    both(programs, slot).map(|counters| counters.bytes / FRAME)
}

fn spent(received: u64, sent: u64) -> Spent {
    Spent {
        received: Bytes(received * FRAME),
        sent: Bytes(sent * FRAME),
    }
}

#[test]
fn the_packet_that_reaches_the_limit_passes_and_the_next_does_not_and_spends_nothing() {
    for (then, dropped) in [
        (Then::Capped, [0, 7 * FRAME, 0]),
        (Then::Suspended, [0, 0, 7 * FRAME]),
        (Then::Police(BitsPerSecond(0)), [7 * FRAME, 0, 0]),
    ] {
        arena(|arena| {
            let guest = Guest::new(arena, 1);
            let mut programs = arena.open();
            under_limits(&mut programs, &guest, 0);
            let limit = at(5 * FRAME - 1, then);
            programs.limits_mut().arm(MACHINE, only(limit)).unwrap();
            sends(&guest, 2);
            is_sent(&guest, 10);
            assert_eq!(frames(&programs, 0), [3, 2], "{then:?}");
            assert_eq!(programs.limits().spent(MACHINE).unwrap(), spent(3, 2));
            let [received, sent] = both(&programs, 0);
            let by_reason = [
                received.dropped_throttled,
                received.dropped_capped,
                received.dropped_suspended,
            ];
            assert_eq!(by_reason, dropped, "{then:?}");
            assert_eq!((received.packets, received.frame_bytes), (3, 3 * FRAME));
            assert_eq!(sent.dropped_capped, 0);
            sends(&guest, 1);
            assert_eq!(frames(&programs, 0), [3, 2], "{then:?}");
        });
    }
}

#[test]
fn a_limit_is_of_what_the_plan_counts_and_stops_both_directions() {
    let limit = |frames: Option<u64>| frames.map(|frames| Bytes(frames * FRAME));
    let table = [
        // Sum, received, sent: what passes of four sent, then eight received, then four sent.
        ("sum", [Some(6), None, None], [2, 4]),
        ("received", [None, Some(3), None], [3, 4]),
        ("sent", [None, None, Some(2)], [0, 2]),
        ("larger, received", [None, Some(5), Some(5)], [5, 4]),
        ("larger, sent", [None, Some(9), Some(5)], [8, 5]),
    ];
    for (name, [sum, received, sent], passed) in table {
        arena(|arena| {
            let guest = Guest::new(arena, 1);
            let mut programs = arena.open();
            under_limits(&mut programs, &guest, 0);
            let boundary = ArmedBoundary {
                sum: limit(sum),
                received: limit(received),
                sent: limit(sent),
                then: Then::Capped,
            };
            programs.limits_mut().arm(MACHINE, only(boundary)).unwrap();
            sends(&guest, 4);
            is_sent(&guest, 8);
            sends(&guest, 4);
            assert_eq!(frames(&programs, 0), passed, "{name}");
        });
    }
}

#[test]
fn two_boundaries_are_met_one_after_the_other_with_no_daemon() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        under_limits(&mut programs, &guest, 0);
        // So fast that a frame takes no time.
        let throttle = at(3 * FRAME, Then::Police(BitsPerSecond(1 << 50)));
        let suspend = at(6 * FRAME, Then::Suspended);
        let limits = [Some(throttle), Some(suspend)];
        programs.limits_mut().arm(MACHINE, limits).unwrap();
        drop(programs);
        sends(&guest, 10);
        let programs = arena.open();
        assert_eq!(frames(&programs, 0), [0, 6]);
        assert_eq!(both(&programs, 0)[1].dropped_suspended, 4 * FRAME);
    });
}

#[test]
fn the_second_boundary_counts_though_the_first_is_far() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        under_limits(&mut programs, &guest, 0);
        let far = at(100 * FRAME, Then::Capped);
        let near = at(2 * FRAME, Then::Suspended);
        let limits = [Some(far), Some(near)];
        programs.limits_mut().arm(MACHINE, limits).unwrap();
        sends(&guest, 5);
        assert_eq!(both(&programs, 0)[1].dropped_suspended, 3 * FRAME);
    });
}

#[test]
fn limits_are_the_machines_over_all_its_interfaces() {
    arena(|arena| {
        let guests = [1, 2].map(|number| Guest::new(arena, number));
        let mut programs = arena.open();
        for (slot, guest) in (0..).zip(&guests) {
            under_limits(&mut programs, guest, slot);
        }
        let limit = at(5 * FRAME, Then::Capped);
        programs.limits_mut().arm(MACHINE, only(limit)).unwrap();
        sends(&guests[0], 4);
        is_sent(&guests[1], 4);
        sends(&guests[0], 4);
        assert_eq!(frames(&programs, 0), [0, 4]);
        assert_eq!(frames(&programs, 1), [1, 0]);
        assert_eq!(programs.limits().spent(MACHINE).unwrap(), spent(1, 4));
        let machines = programs.attached().unwrap();
        assert!(machines.iter().all(|attached| attached.machine == MACHINE));
    });
}

#[test]
fn a_top_up_reopens_at_once_and_so_does_an_end_of_all_limits() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        under_limits(&mut programs, &guest, 0);
        let limit = |frames| only(at(frames * FRAME, Then::Capped));
        programs.limits_mut().arm(MACHINE, limit(2)).unwrap();
        sends(&guest, 5);
        assert_eq!(frames(&programs, 0), [0, 2]);
        programs.limits_mut().arm(MACHINE, limit(4)).unwrap();
        sends(&guest, 5);
        assert_eq!(frames(&programs, 0), [0, 4]);
        // Lowered below what is spent: nothing passes from the next packet on.
        programs.limits_mut().arm(MACHINE, limit(9)).unwrap();
        programs.limits_mut().arm(MACHINE, limit(1)).unwrap();
        sends(&guest, 5);
        assert_eq!(frames(&programs, 0), [0, 4]);
        programs.limits_mut().arm(MACHINE, [None, None]).unwrap();
        sends(&guest, 5);
        assert_eq!(frames(&programs, 0), [0, 9]);
    });
}

#[test]
fn what_was_spent_before_counting_began_is_not_asked_for_and_other_machines_are_not_stopped() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        under_limits(&mut programs, &guest, 0);
        sends(&guest, 3);
        assert_eq!(programs.limits().spent(MACHINE).unwrap(), Spent::default());
        programs.limits_mut().start_counting(MACHINE).unwrap();
        sends(&guest, 3);
        assert_eq!(programs.limits().spent(MACHINE).unwrap(), spent(0, 3));
        let other = MACHINE + 1;
        let limit = only(at(0, Then::Suspended));
        programs.limits_mut().arm(other, limit).unwrap();
        sends(&guest, 3);
        assert_eq!(frames(&programs, 0), [0, 9]);
        programs.set_machine(0, other).unwrap();
        sends(&guest, 3);
        assert_eq!(frames(&programs, 0), [0, 9]);
        // It gets another owner.
        programs.limits_mut().reset(other).unwrap();
        sends(&guest, 3);
        assert_eq!(frames(&programs, 0), [0, 12]);
        assert_eq!(programs.limits().spent(other).unwrap(), spent(0, 0));
    });
}

#[test]
fn an_index_that_no_machine_has_is_refused() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        let last = programs.limits().machines() - 1;
        programs.limits_mut().start_counting(last).unwrap();
        for none in [0, last + 1] {
            let error = programs.limits_mut().start_counting(none).unwrap_err();
            assert!(matches!(error, HostError::NoMachine { .. }), "{error}");
        }
        let request = AttachRequest {
            ifindex: guest.ifindex,
            slot: 0,
            generation: 1,
            machine: last + 1,
        };
        let results = programs.attach(&[request]);
        assert!(matches!(results[0].1, Err(HostError::NoMachine { .. })));
    });
}

/// Opens within a runtime, as listening needs one.
fn listening(arena: &Arena<'_>, test: impl FnOnce(&mut Programs, &mut LimitEvents)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut programs = arena.open();
        let mut events = programs.limit_events().unwrap().unwrap();
        assert!(programs.limit_events().unwrap().is_none());
        test(&mut programs, &mut events);
    });
}

fn all(events: &mut LimitEvents) -> Vec<(u64, u32, Spent)> {
    std::iter::from_fn(|| events.try_next())
        .map(|event| {
            assert_eq!(event.machine, MACHINE);
            (event.arming, event.boundary, event.spent)
        })
        .collect()
}

#[test]
fn the_daemon_is_told_once_an_arming_by_the_packet_that_reached_the_boundary() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        listening(arena, |programs, events| {
            under_limits(programs, &guest, 0);
            let throttle = at(2 * FRAME, Then::Police(BitsPerSecond(1 << 50)));
            let limit = |frames| [Some(throttle), Some(at(frames * FRAME, Then::Capped))];
            let first = programs.limits_mut().arm(MACHINE, limit(4)).unwrap();
            sends(&guest, 1);
            assert_eq!(all(events), []);
            sends(&guest, 1);
            assert_eq!(all(events), [(first, 0, spent(0, 2))]);
            is_sent(&guest, 9);
            assert_eq!(all(events), [(first, 1, spent(2, 2))]);
            // The same again is no news.
            assert_eq!(programs.limits_mut().arm(MACHINE, limit(4)).unwrap(), first);
            sends(&guest, 3);
            assert_eq!(all(events), []);
            let second = programs.limits_mut().arm(MACHINE, limit(6)).unwrap();
            assert_ne!(first, second);
            assert_eq!(programs.limits().arming(MACHINE).unwrap(), second);
            sends(&guest, 9);
            let told = [(second, 0, spent(2, 2)), (second, 1, spent(2, 4))];
            assert_eq!(all(events), told);
        });
        // What is said while no daemon runs, the next one hears, and nothing twice.
        let mut programs = arena.open();
        let limit = only(at(7 * FRAME, Then::Capped));
        let third = programs.limits_mut().arm(MACHINE, limit).unwrap();
        drop(programs);
        sends(&guest, 9);
        listening(arena, |_, events| {
            assert_eq!(all(events), [(third, 0, spent(2, 5))]);
        });
        listening(arena, |_, events| assert_eq!(all(events), []));
    });
}

#[test]
fn who_waits_is_woken_and_knows_when_it_was() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut programs = runtime.block_on(async { arena.open() });
        let events = runtime.block_on(async { programs.limit_events() });
        let mut events = events.unwrap().unwrap();
        under_limits(&mut programs, &guest, 0);
        let before = meter_daemon::host::clock::now().since_boot;
        for frames in 1..=3 {
            let limit = only(at(frames * FRAME, Then::Capped));
            programs.limits_mut().arm(MACHINE, limit).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    sends(&guest, 1);
                });
                let event = runtime.block_on(async {
                    let patience = std::time::Duration::from_secs(10);
                    tokio::time::timeout(patience, events.next()).await
                });
                let event = event.unwrap().unwrap();
                assert_eq!(event.spent, spent(0, frames));
                let after = meter_daemon::host::clock::now().since_boot;
                assert!(before <= event.at && event.at <= after, "{event:?}");
            });
        }
    });
}

#[test]
fn when_the_ring_is_full_the_daemon_is_told_as_soon_as_there_is_room() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        listening(arena, |programs, events| {
            under_limits(programs, &guest, 0);
            // A record takes 48 bytes of it.
            let fit = meter_common::REACHED_BYTES as usize / 48;
            let mut last = 0;
            for n in 0..fit + 10 {
                let then = [Then::Capped, Then::Suspended][n % 2];
                last = programs
                    .limits_mut()
                    .arm(MACHINE, only(at(0, then)))
                    .unwrap();
                sends(&guest, 1);
            }
            let told = all(events);
            assert!(told.len() <= fit && told.len() + 10 > fit, "{}", told.len());
            assert!(told.iter().all(|(arming, ..)| *arming != last));
            assert_eq!(frames(programs, 0), [0, 0]);
            sends(&guest, 3);
            assert_eq!(all(events), [(last, 0, Spent::default())]);
        });
    });
}
