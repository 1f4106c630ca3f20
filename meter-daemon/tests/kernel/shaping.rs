//! Packets of a throttled machine go through the classes of the shaper that stands.

use std::net::UdpSocket;

use meter_daemon::host::{
    error::HostError,
    programs::{Programs, Shaper},
};

use crate::{
    arena::{Arena, Guest, arena, attach, both, ifindex, run, wait_until},
    pinned::programs_on,
};

/// An HTB with a class for bulk and those for small packets.
fn tree(device: &str) {
    run(&format!(
        "tc qdisc add dev {device} root handle ab: htb default 99"
    ));
    for minor in ["2", "10", "11", "12", "13", "14", "15", "16", "17"] {
        run(&format!(
            "tc class add dev {device} parent ab: classid ab:{minor} htb rate 1gbit"
        ));
    }
}

/// Packets that went through a class.
fn passed(device: &str, minor: &str) -> u64 {
    let text = run(&format!("tc -s class show dev {device}"));
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != format!("ab:{minor}"))
        .skip_while(|word| *word != "bytes");
    words.nth(1).unwrap().parse().unwrap()
}

fn throttle(programs: &mut Programs, guest: &Guest) {
    run("ip link add shaped type ifb");
    run("ip link set shaped up");
    tree("shaped");
    tree(&guest.name);
    let shaper = Shaper {
        major: 0xab,
        ifb_ifindex: ifindex("shaped"),
    };
    programs.set_shaper(guest.ifindex, 0, Some(shaper)).unwrap();
}

fn whatever_the_mode(open: impl Fn(&Arena) -> Programs + Send + Copy + 'static) {
    arena(move |arena| {
        let guest = Guest::new(1);
        let mut programs = open(arena);
        attach(&mut programs, guest.ifindex, 0);
        throttle(&mut programs, &guest);
        let listener = UdpSocket::bind((guest.host(), 7777)).unwrap();
        guest.exchange(30, 1000);
        for device in ["tap1", "shaped"] {
            assert_eq!(passed(device, "2"), 30, "{device}");
        }
        guest.exchange(20, 100);
        let small = |device| {
            ["15", "16", "17"]
                .map(|minor| passed(device, minor))
                .iter()
                .sum::<u64>()
        };
        for device in ["tap1", "shaped"] {
            assert_eq!(small(device), 20, "{device}");
        }
        // Once each, though what the guest sends comes by a second time from the IFB.
        assert_eq!(
            both(&programs, 0).map(|counters| counters.packets),
            [50, 50]
        );

        // What went through the IFB arrives.
        let target = (guest.host(), 7777);
        guest.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"hello", target).unwrap();
        });
        let mut word = [0; 5];
        listener
            .set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .unwrap();
        listener.recv_from(&mut word).unwrap();
        assert_eq!(&word, b"hello");

        // And the next daemon finds it so.
        drop(programs);
        let mut programs = open(arena);
        assert!(programs.attached().unwrap()[0].shaper.is_some());
        guest.exchange(10, 1000);
        wait_until("the IFB has passed them on", || passed("shaped", "2") == 40);

        programs.set_shaper(guest.ifindex, 0, None).unwrap();
        guest.exchange(10, 1000);
        assert_eq!(passed("shaped", "2"), 40);
        assert_eq!(passed("tap1", "2"), 40);
        assert_eq!(programs.attached().unwrap()[0].shaper, None);
    });
}

#[test]
fn bulk_and_small_packets_go_to_their_classes_both_ways() {
    whatever_the_mode(Arena::open);
}

#[test]
fn on_clsact_too() {
    whatever_the_mode(Arena::open_clsact);
}

#[test]
fn the_redirecting_program_stands_last_and_only_while_it_is_needed() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let [egress, ingress] = programs_on("tap1");
        throttle(&mut programs, &guest);
        let [egress_now, ingress_now] = programs_on("tap1");
        assert_eq!(egress_now, egress);
        assert_eq!(ingress_now[..1], ingress);
        assert_eq!(ingress_now.len(), 2);
        programs.set_shaper(guest.ifindex, 0, None).unwrap();
        assert_eq!(programs_on("tap1"), [egress, ingress]);
    });
}

#[test]
fn an_interface_in_another_slot_is_not_shaped() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let error = programs.set_shaper(guest.ifindex, 1, None).unwrap_err();
        assert!(
            matches!(error, HostError::NotMetered { slot: 1, .. }),
            "{error}"
        );
    });
}
