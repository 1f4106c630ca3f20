//! What is counted on real interfaces, in bytes of frames on the wire.

use meter_common::CountBytes;
use meter_daemon::host::programs::{Hooks, ProgramOptions, Programs};

use crate::{
    arena::{Guest, Tap, arena, attach, both, ifindex, run},
    weight::tcp,
};

/// Ethernet, IPv4 and UDP headers.
const HEADERS: u64 = 14 + 20 + 8;

#[test]
fn every_frame_of_both_directions_counts_with_its_headers() {
    arena(|arena| {
        let guest = Guest::new(1);
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
        let guest = Guest::new(1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let target = (guest.host(), 9);
        guest.run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"12345678", target).unwrap();
        });
        let [received, sent] = both(&programs, 0);
        assert_eq!(sent.bytes, 8 + HEADERS);
        // The host's port unreachable: IPv4 and ICMP headers around the first 28 + 8 bytes.
        assert_eq!(received.bytes, 14 + 20 + 8 + 36);
    });
}

#[test]
fn an_offloaded_tcp_packet_counts_as_the_segments_it_becomes() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let (frames, [received, sent]) = guest.upload(20_000_000, || both(&programs, 0));
        assert_eq!([received.bytes, sent.bytes], frames);
        assert!(
            sent.frame_bytes < sent.bytes - 500_000,
            "segmentation was not offloaded: nothing was tested"
        );
    });
}

#[test]
fn without_offload_a_tcp_packet_counts_the_same() {
    arena(|arena| {
        let guest = Guest::new(1);
        guest.run(|| run("ip link set eth0 gso_max_segs 1"));
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let (frames, [received, sent]) = guest.upload(2_000_000, || both(&programs, 0));
        assert_eq!([received.bytes, sent.bytes], frames);
        assert_eq!(sent.frame_bytes, sent.bytes);
    });
}

#[test]
fn the_basis_of_counting_is_the_one_that_was_asked_for() {
    for (count_bytes, per_packet) in [
        (CountBytes::Wire, 1000 + HEADERS),
        (CountBytes::Frame, 1000 + HEADERS),
        (CountBytes::Ip, 1000 + 28),
    ] {
        arena(move |arena| {
            let guest = Guest::new(1);
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
        let tap = Tap::new("tap9");
        let mut programs = arena.open();
        attach(&mut programs, ifindex("tap9"), 0);
        // 10 segments of 600 bytes. A tap's header says how long they are, not how many.
        tap.send_offloaded(&tcp(5900), 600);
        let [_, sent] = both(&programs, 0);
        assert_eq!(sent.packets, 10);
        assert_eq!(sent.bytes, 5900 + 10 * 66);
        assert_eq!(sent.frame_bytes, 5900 + 66);
    });
}

#[test]
fn an_ifindex_past_the_array_is_found_all_the_same() {
    arena(|arena| {
        let high = 70_000;
        let guest = Guest::with_ifindex(1, high);
        let mut programs = arena.open();
        attach(&mut programs, high, 3);
        guest.exchange(10, 100);
        for counters in both(&programs, 3) {
            assert_eq!(counters.packets, 10);
        }
        drop(programs);
        let mut programs = arena.open();
        assert_eq!(programs.attached().unwrap()[0].slot, 3);
        programs.release(high, 3).unwrap();
        assert_eq!(programs.attached().unwrap(), []);
        guest.exchange(10, 100);
        assert_eq!(both(&programs, 3)[0].packets, 10);
    });
}

#[test]
fn a_vlan_tag_that_lies_outside_the_packet_counts() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        guest.run(|| {
            let mut frame = vec![0u8; 100];
            frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            // A tag for VLAN 7 around an experimental Ethertype.
            frame[12..18].copy_from_slice(&[0x81, 0, 0, 7, 0x88, 0xb5]);
            crate::arena::send_frame("eth0", &frame);
        });
        let [_, sent] = both(&programs, 0);
        // The kernel has taken the tag off by then: 96 bytes are left in the packet.
        assert_eq!((sent.bytes, sent.frame_bytes), (100, 96));
    });
}

#[test]
fn all_slots_are_read_at_once_and_each_is_its_own() {
    arena(|arena| {
        let guests = [Guest::new(1), Guest::new(2)];
        let mut programs = arena.open();
        let last = programs.slots() - 1;
        attach(&mut programs, guests[0].ifindex, 7);
        attach(&mut programs, guests[1].ifindex, last);
        guests[0].exchange(10, 100);
        guests[1].exchange(20, 100);
        let readings = programs.readings().unwrap();
        assert_eq!(readings.len(), 1024);
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
