//! Prefixes that count against no allowance, by the far end's address.

use meter_common::{Counters, Interface, Verdict};
use meter_daemon::host::{
    limits::{ExemptWhenSuspended, Then},
    programs::Programs,
};

use crate::{
    arena::{Guest, arena, both},
    limits::{FRAME, MACHINE, at, is_sent, sends, under_limits},
    weight::{Bench, Frame},
};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// From 10.0.0.1 to 10.0.0.2.
fn v4() -> Frame {
    Frame::ethernet(IPV4)
}

/// From 0100:: to 0200:: and so on: an address by its first byte.
fn v6() -> Vec<u8> {
    let mut frame = Frame::ethernet(IPV6).ipv6(17).udp(1).payload(100);
    frame[14 + 8..14 + 12].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    frame[14 + 24..14 + 28].copy_from_slice(&[0x2a, 0, 0, 1]);
    frame
}

#[test]
fn the_far_ends_address_decides_whatever_the_family_and_behind_tags() {
    arena(|_| {
        let plain = v4().ipv4(17, 0).udp(1).payload(100);
        let tag = v4().tag(IPV4).ipv4(17, 0).udp(1).payload(100);
        let tags = v4().tag(IPV4).tag(IPV4).ipv4(17, 0).udp(1).payload(100);
        let arp = Frame::ethernet(0x0806).payload(46);
        // Its frames, and whether they are exempt: sent to 10.0.0.2 or 2a00:1::, received from
        // 10.0.0.1 or 2001:db8::.
        let table = [
            ("IPv4", plain, [true, false]),
            ("a tag", tag, [true, false]),
            ("two tags", tags, [true, false]),
            ("IPv6", v6(), [false, true]),
            ("ARP", arp, [false, false]),
        ];
        for (name, frame, exempt) in table {
            let mut bench = Bench::of_machine(Interface::default(), 1, 7);
            bench.exempt_v4(7, [10, 0, 0, 2], 31);
            bench.exempt_v6(7, [0x20, 1, 0xd, 0xb8], 32);
            // Another plan's.
            bench.exempt_v4(8, [0, 0, 0, 0], 0);
            bench.exempt_v6(8, [0, 0, 0, 0], 0);
            for program in ["meter_sent", "meter_received"] {
                assert_eq!(bench.pass(program, &frame, 0, 0), (-1, 0), "{name}");
            }
            let bytes = frame.len() as u64;
            for (counters, exempt) in [bench.sent(), bench.received()].into_iter().zip(exempt) {
                let expected = Counters {
                    bytes: if exempt { 0 } else { bytes },
                    exempt_bytes: if exempt { bytes } else { 0 },
                    packets: 1,
                    frame_bytes: bytes,
                    ..Counters::default()
                };
                assert_eq!(counters, expected, "{name}");
            }
        }
    });
}

#[test]
fn while_throttled_exempt_traffic_goes_past_the_shaper() {
    arena(|_| {
        let shaper = Interface {
            shaper: 0x00ab_0000,
            ifb: 1,
            ..Interface::default()
        };
        let mut bench = Bench::of_machine(shaper, 1, 7);
        bench.exempt_v4(7, [10, 0, 0, 0], 8);
        let frame = v4().ipv4(6, 0).tcp(0, 1).payload(1000);
        // The root's own handle: HTB's queue that no class holds back.
        let received = bench.pass("meter_received", &frame, 0, 0);
        assert_eq!(received, (-1, 0x00ab_0000));
        assert_eq!(bench.received().shaped_bytes, 0);
        // Neither redirected nor, without tcx, matched.
        assert_eq!(bench.pass("shape_sent", &frame, 0, 0), (-1, 0));
        assert_eq!(bench.pass("mark_sent", &frame, 0, 0), (0, 0));
        assert_eq!(bench.sent().shaped_bytes, 0);
    });
}

fn exempting(programs: &mut Programs, prefixes: &[&str]) {
    let prefixes: Vec<_> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
    programs.set_exempt_prefixes(9, &prefixes).unwrap();
}

#[test]
fn exempt_traffic_spends_nothing_and_neither_cap_nor_policing_stops_it() {
    use meter_daemon::engine::units::BitsPerSecond;
    for then in [Then::Capped, Then::Police(BitsPerSecond(8))] {
        arena(|arena| {
            let guest = Guest::new(arena, 1);
            let mut programs = arena.open();
            under_limits(&mut programs, &guest, 0);
            // The guest talks to 10.0.1.1.
            exempting(
                &mut programs,
                &["192.0.2.0/24", "2001:db8::/32", "10.0.1.1/32"],
            );
            let limits = programs.limits_mut();
            limits
                .arm(MACHINE, [Some(at(2 * FRAME, then)), None])
                .unwrap();
            let stopped = ExemptWhenSuspended::Stopped;
            limits.set_exempt_group(MACHINE, 9, stopped).unwrap();
            sends(&guest, 50);
            is_sent(&guest, 50);
            for counters in both(&programs, 0) {
                assert_eq!(counters.exempt_bytes, 50 * FRAME);
                assert_eq!((counters.bytes, counters.packets), (0, 50));
            }
            // Other prefixes take the place of these, and those of another group do nothing.
            let other = ["0.0.0.0/0".parse().unwrap()];
            programs.set_exempt_prefixes(10, &other).unwrap();
            exempting(&mut programs, &["192.0.2.0/24"]);
            sends(&guest, 50);
            let [_, sent] = both(&programs, 0);
            assert_eq!(sent.exempt_bytes, 50 * FRAME);
            // Two up to the boundary, and one that policing lets through.
            let policed = u64::from(then != Then::Capped);
            assert_eq!(sent.bytes, (2 + policed) * FRAME);
        });
    }
}

#[test]
fn a_suspension_stops_exempt_traffic_unless_the_plan_lets_it_pass() {
    for by_the_daemon in [false, true] {
        arena(|arena| {
            let guest = Guest::new(arena, 1);
            let mut programs = arena.open();
            under_limits(&mut programs, &guest, 0);
            exempting(&mut programs, &["10.0.1.1/32"]);
            if by_the_daemon {
                programs.set_verdict(0, Verdict::Suspended).unwrap();
            } else {
                let suspended = at(0, Then::Suspended);
                let limits = programs.limits_mut();
                limits.arm(MACHINE, [Some(suspended), None]).unwrap();
            }
            for (when_suspended, exempt, dropped) in [
                (ExemptWhenSuspended::Stopped, 0, 10),
                (ExemptWhenSuspended::Passes, 10, 10),
            ] {
                let limits = programs.limits_mut();
                limits.set_exempt_group(MACHINE, 9, when_suspended).unwrap();
                sends(&guest, 10);
                let [_, sent] = both(&programs, 0);
                assert_eq!(sent.exempt_bytes, exempt * FRAME);
                assert_eq!(sent.dropped_suspended, dropped * FRAME);
            }
            // And the rest is dropped.
            programs.set_exempt_prefixes(9, &[]).unwrap();
            sends(&guest, 10);
            assert_eq!(both(&programs, 0)[1].dropped_suspended, 20 * FRAME);
        });
    }
}
