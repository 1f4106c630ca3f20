//! Packets of a throttled machine go through the classes of the shaper that stands.

use std::time::Duration;

use meter_daemon::host::{
    error::HostError,
    programs::{Attach, Programs, Shaper},
};
use meter_tests::{
    inspect, links,
    wait::{self, Seen},
};

use crate::{
    arena::{Guest, arena, arena_with_tcx, attach, ifindex, packets, programs_on},
    node::tc::{self, Class, ROOT, htb, id},
};

const MAJOR: u16 = 0xab;
const IFB: &str = "shaped";

/// An HTB with a class for bulk and those for small packets.
fn tree(device: &str) {
    tc::qdisc(device, ROOT, MAJOR, "htb", &htb(0x99));
    for minor in [2].into_iter().chain(0x10..0x18) {
        let gigabit = Class::of(125_000_000);
        tc::class(device, id(MAJOR, 0), id(MAJOR, minor), &gigabit);
    }
}

/// Waits until so many packets have gone through these classes, and no more: what an IFB has
/// taken it passes on a moment later.
fn until_passed(device: &str, minors: std::ops::Range<u16>, packets: u32) {
    let ifindex = ifindex(device);
    let ask = || {
        let each = minors
            .clone()
            .map(|minor| inspect::class_packets(ifindex, id(MAJOR, minor)));
        Ok(match each.sum::<Result<u32, _>>()? {
            seen if seen == packets => Seen::Yes(()),
            seen => Seen::NotYet(format!("{seen} of {packets}")),
        })
    };
    let (each, at_most) = (Duration::from_millis(5), Duration::from_secs(5));
    wait::until(device, each, at_most, ask).unwrap();
}

const BULK: std::ops::Range<u16> = 2..3;
/// Small packets of UDP.
const SMALL: std::ops::Range<u16> = 0x15..0x18;

fn throttle(programs: &mut Programs, guest: &Guest) {
    links::ifb(IFB).unwrap();
    links::up(IFB).unwrap();
    tree(IFB);
    tree(guest.name());
    let shaper = Shaper {
        major: MAJOR,
        ifb_ifindex: ifindex(IFB),
    };
    programs.set_shaper(guest.ifindex, 0, Some(shaper)).unwrap();
}

fn in_the_mode_of(attachment: Attach) {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let devices = [guest.name(), IFB];
        let mut programs = arena.open_by(attachment);
        attach(&mut programs, guest.ifindex, 0);
        throttle(&mut programs, &guest);
        // They arrive, those from the IFB, too.
        guest.exchange(30, 1000);
        devices
            .iter()
            .for_each(|device| until_passed(device, BULK, 30));
        guest.exchange(20, 100);
        devices
            .iter()
            .for_each(|device| until_passed(device, SMALL, 20));
        // Once each, though what the guest sends comes by a second time from the IFB.
        assert_eq!(packets(&programs, 0), [50, 50]);

        // And the next daemon finds it so.
        drop(programs);
        let mut programs = arena.open_by(attachment);
        assert!(programs.attached().unwrap()[0].shaper.is_some());
        guest.exchange(10, 1000);
        devices
            .iter()
            .for_each(|device| until_passed(device, BULK, 40));

        programs.set_shaper(guest.ifindex, 0, None).unwrap();
        guest.exchange(10, 1000);
        devices
            .iter()
            .for_each(|device| until_passed(device, BULK, 40));
        assert_eq!(programs.attached().unwrap()[0].shaper, None);
    });
}

#[test]
fn bulk_and_small_packets_go_to_their_classes_both_ways() {
    in_the_mode_of(Attach::Auto);
}

#[test]
fn on_clsact_too() {
    in_the_mode_of(Attach::Clsact);
}

#[test]
fn the_redirecting_program_stands_last_and_only_while_it_is_needed() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        let [received, sent] = programs_on(guest.ifindex);
        throttle(&mut programs, &guest);
        let [received_now, sent_now] = programs_on(guest.ifindex);
        assert_eq!(received_now, received);
        assert_eq!(sent_now[..1], sent);
        assert_eq!(sent_now.len(), 2);
        programs.set_shaper(guest.ifindex, 0, None).unwrap();
        assert_eq!(programs_on(guest.ifindex), [received, sent]);
    });
}

#[test]
fn an_interface_in_another_slot_is_not_shaped() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        let error = programs.set_shaper(guest.ifindex, 1, None).unwrap_err();
        assert!(
            matches!(error, HostError::NotMetered { slot: 1, .. }),
            "{error}"
        );
    });
}
