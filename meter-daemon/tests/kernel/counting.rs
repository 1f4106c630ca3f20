//! What is counted on real interfaces, in bytes of frames on the wire. (TCP, which no two
//! kernels cut alike, is counted end to end in package `meter-tests`.)

use std::net::{Ipv4Addr, UdpSocket};

use meter_common::CountBytes;
use meter_daemon::host::programs::{Hooks, ProgramOptions, Programs};
use meter_tests::{Context, links::Mac, packet::Ends, paper::UDP4_HEADERS as HEADERS, tap::Tap};

use crate::arena::{Guest, SLOTS, arena, attach, both, ifindex, packets};

#[test]
fn every_frame_of_both_directions_counts_with_its_headers() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        assert_eq!(attach(&mut programs, guest.ifindex, 5), Hooks::Both);
        guest.exchange(100, 1000);
        for counters in both(&programs, 5) {
            assert_eq!(counters.packets, 100);
            assert_eq!(counters.bytes, 100 * (1000 + HEADERS));
            assert_eq!(counters.frame_bytes, counters.bytes);
        }
    });
}

#[test]
fn the_guests_direction_is_the_one_that_counts() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let to_a_closed_port = || {
            let socket = UdpSocket::bind("0.0.0.0:0").could_not(|| "bind")?;
            let sent = socket.send_to(b"12345678", (guest.host.v4, 9));
            sent.could_not(|| "send a datagram")
        };
        guest.party.namespace.run(to_a_closed_port).unwrap();
        let [received, sent] = both(&programs, 0);
        assert_eq!(sent.bytes, 8 + HEADERS);
        // The host's port unreachable: IPv4 and ICMP headers around the first 28 + 8 bytes.
        assert_eq!(received.bytes, 14 + 20 + 8 + 36);
    });
}

#[test]
fn the_basis_of_counting_is_the_one_that_was_asked_for() {
    for (count_bytes, per_packet) in [
        (CountBytes::Wire, 1000 + HEADERS),
        (CountBytes::Frame, 1000 + HEADERS),
        (CountBytes::Ip, 1000 + 28),
    ] {
        arena(|arena| {
            let guest = Guest::new(arena, 1);
            let options = ProgramOptions {
                count_bytes,
                ..arena.options()
            };
            let mut programs = Programs::open(&options, 1).unwrap();
            attach(&mut programs, guest.ifindex, 0);
            guest.exchange(10, 1000);
            for counters in both(&programs, 0) {
                assert_eq!(counters.bytes, 10 * per_packet, "{count_bytes:?}");
            }
        });
    }
}

#[test]
fn what_a_virtual_machine_offloads_to_its_tap_counts_as_segments() {
    arena(|arena| {
        let mut tap = Tap::new("tap9").unwrap();
        let mut programs = arena.open();
        attach(&mut programs, ifindex("tap9"), 0);
        let ends = Ends {
            macs: (Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 1])),
            ips: (Ipv4Addr::new(10, 0, 9, 2), Ipv4Addr::new(10, 0, 9, 1)),
        };
        // 10 segments of up to 600 bytes. A tap's header says how long they are, not how many.
        let frame = ends.tcp_unfinished(9, &[7; 5900]);
        tap.send_large(&frame, 600).unwrap();
        let [_, sent] = both(&programs, 0);
        assert_eq!(sent.packets, 10);
        assert_eq!(sent.bytes, 5900 + 10 * 54);
        assert_eq!(sent.frame_bytes, 5900 + 54);
    });
}

#[test]
fn an_ifindex_past_the_array_is_found_all_the_same() {
    arena(|arena| {
        let high = 70_000;
        let guest = Guest::with_ifindex(arena, 1, high);
        let mut programs = arena.open();
        attach(&mut programs, high, 3);
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 3), [10, 10]);
        drop(programs);
        let mut programs = arena.open();
        assert_eq!(programs.attached().unwrap()[0].slot, 3);
        programs.release(high, 3).unwrap();
        assert_eq!(programs.attached().unwrap(), []);
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 3), [10, 10]);
    });
}

#[test]
fn a_vlan_tag_that_lies_outside_the_packet_counts() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let ends = Ends {
            macs: (guest.party.mac, guest.host.mac),
            ips: (guest.party.v4, guest.host.v4),
        };
        let frame = ends.udp(&[7], 9, &[0; 100]);
        guest.party.inject(&frame, 1).unwrap();
        let [_, sent] = both(&programs, 0);
        // The kernel has taken the tag off by then.
        let length = 100 + HEADERS;
        assert_eq!((sent.bytes, sent.frame_bytes), (length + 4, length));
    });
}

#[test]
fn all_slots_are_read_at_once_and_each_is_its_own() {
    arena(|arena| {
        let guests = [1, 2].map(|number| Guest::new(arena, number));
        let mut programs = arena.open();
        let last = programs.slots() - 1;
        attach(&mut programs, guests[0].ifindex, 7);
        attach(&mut programs, guests[1].ifindex, last);
        guests[0].exchange(10, 100);
        guests[1].exchange(20, 100);
        let readings = programs.readings().unwrap();
        assert_eq!(readings.len(), usize::try_from(SLOTS).unwrap());
        for reading in readings {
            let packets = match reading.slot {
                7 => 10,
                slot if slot == last => 20,
                _ => 0,
            };
            assert_eq!(
                (reading.received.packets, reading.sent.packets),
                (packets, packets)
            );
            assert_eq!(reading, programs.reading(reading.slot).unwrap());
        }
    });
}
