//! Kernels without tcx: filters on a clsact qdisc that belongs to others, too.

use meter_daemon::host::programs::{Hooks, Mode, detach_all};
use meter_tests::{
    foreign::{Filter, clsact_qdisc},
    inspect::{self, Hook, Queue},
};

use crate::{
    arena::{Arena, Guest, NOBODY, arena, arena_with_tcx, attach, packets, programs_on},
    node::tc::{self, At, Then},
};

/// Of clsact and ingress.
const CLSACT: u32 = 0xffff_fff1;

/// How many programs stand on the hooks where nobody else's do: received, sent.
fn ours(guest: &Guest) -> [usize; 2] {
    [Hook::Received, Hook::Sent].map(|hook| {
        let programs = inspect::programs(guest.ifindex, hook).unwrap();
        programs.len()
    })
}

fn qdiscs(guest: &Guest) -> String {
    tc::shown(guest.name())
}

fn has_clsact(guest: &Guest) -> bool {
    qdiscs(guest).contains("clsact")
}

fn filters(guest: &Guest) -> [Vec<Queue>; 2] {
    [Hook::Received, Hook::Sent].map(|hook| inspect::filters(guest.ifindex, hook).unwrap())
}

/// Somebody else's: received, sent.
fn strangers(guest: &Guest) -> [Filter; 2] {
    [Hook::Received, Hook::Sent].map(|hook| Filter::clsact(guest.name(), hook, 2).unwrap())
}

fn seen(strangers: &[Filter; 2]) -> [u64; 2] {
    strangers
        .each_ref()
        .map(|filter| filter.seen().unwrap().packets)
}

fn detach(arena: &Arena<'_>) -> usize {
    detach_all(&arena.pin_directory()).unwrap().filters
}

#[test]
fn both_directions_count_and_go_on_counting_without_a_daemon() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_clsact();
        assert_eq!(programs.mode(), Mode::Clsact);
        assert_eq!(attach(&mut programs, guest.ifindex, 2), Hooks::Both);
        assert_eq!(programs_on(guest.ifindex), NOBODY);
        guest.exchange(10, 100);
        drop(programs);
        guest.exchange(10, 100);
        let programs = arena.open_clsact();
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Both);
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 2), [30, 30]);
        assert_eq!(ours(&guest), [1, 1]);
    });
}

#[test]
fn opening_and_attaching_again_leaves_exactly_one_filter_a_hook() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        for _ in 0..3 {
            let mut programs = arena.open_clsact();
            attach(&mut programs, guest.ifindex, 0);
            attach(&mut programs, guest.ifindex, 0);
        }
        assert_eq!(ours(&guest), [1, 1]);
    });
}

#[test]
fn a_clsact_of_others_is_shared_and_stays_with_its_filters() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        clsact_qdisc(guest.name()).unwrap();
        let strangers = strangers(&guest);
        // Of another kind, in the place that we like best; no IPv4 packet begins so.
        let never = [(0, u32::MAX, 0)];
        tc::filter(guest.name(), At::Ingress, 1, &never, Then::Class(1));
        let before = (qdiscs(&guest), filters(&guest));
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        guest.exchange(10, 100);
        assert_eq!(seen(&strangers), [10, 10]);
        assert_eq!(packets(&programs, 0), [10, 10]);
        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!((qdiscs(&guest), filters(&guest)), before);
    });
}

#[test]
fn a_clsact_of_our_own_goes_with_us_unless_somebody_else_uses_it() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let before = qdiscs(&guest);
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        assert!(has_clsact(&guest));
        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!(qdiscs(&guest), before);

        attach(&mut programs, guest.ifindex, 0);
        let strangers = strangers(&guest);
        programs.release(guest.ifindex, 0).unwrap();
        assert!(has_clsact(&guest));
        guest.exchange(10, 100);
        assert_eq!(seen(&strangers), [10, 10]);
    });
}

#[test]
fn with_an_ingress_qdisc_only_what_the_guest_sends_is_counted_and_that_is_said() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        tc::qdisc(guest.name(), CLSACT, 0xffff, "ingress", &[]);
        let before = qdiscs(&guest);
        let mut programs = arena.open_clsact();
        assert_eq!(attach(&mut programs, guest.ifindex, 0), Hooks::SentOnly);
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::SentOnly);
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 0), [0, 10]);
        assert_eq!(detach(arena), 1);
        assert_eq!(qdiscs(&guest), before);
    });
}

#[test]
fn filters_that_somebody_removed_are_missed() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        // Proxmox VE does so when a NIC is edited.
        tc::delete_qdisc(guest.name(), CLSACT);
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Lost);
        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!(attach(&mut programs, guest.ifindex, 1), Hooks::Both);
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 1), [10, 10]);
    });
}

#[test]
fn detach_leaves_nothing_with_and_without_a_daemon_and_twice() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let before = qdiscs(&guest);
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        assert_eq!(detach(arena), 2);
        assert_eq!((qdiscs(&guest), arena.pins()), (before.clone(), vec![]));
        assert_eq!(detach(arena), 0);
        drop(programs);
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        assert_eq!(detach(arena), 2);
        assert_eq!((qdiscs(&guest), arena.pins()), (before, vec![]));
    });
}

#[test]
fn changing_between_clsact_and_tcx_never_counts_twice() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let before = qdiscs(&guest);
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        let mut programs = arena.open_clsact();
        assert_eq!(programs_on(guest.ifindex), NOBODY);
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Lost);
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        let mut programs = arena.open_tcx();
        assert_eq!(qdiscs(&guest), before);
        attach(&mut programs, guest.ifindex, 0);
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 0), [10, 10]);
    });
}
