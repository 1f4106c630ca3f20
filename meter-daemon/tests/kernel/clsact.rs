//! Kernels without tcx: filters on a clsact qdisc that belongs to others, too.

use meter_daemon::host::programs::{Hooks, Mode, detach_all};

use crate::{
    arena::{Arena, Guest, arena, attach, both, run},
    neighbours::{Stranger, filters},
    pinned::{NOBODY, programs_on},
};

fn ours(name: &str, hook: &str) -> usize {
    run(&format!("tc filter show dev {name} {hook}"))
        .matches("meterd_")
        .count()
}

fn qdiscs() -> String {
    run("tc qdisc show dev tap1")
}

fn detach(arena: &Arena) -> usize {
    detach_all(&arena.pin_directory(), &arena.runtime_directory())
        .unwrap()
        .filters
}

#[test]
fn both_directions_count_and_go_on_counting_without_a_daemon() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open_clsact();
        assert_eq!(programs.mode(), Mode::Clsact);
        assert_eq!(attach(&mut programs, guest.ifindex, 2), Hooks::Both);
        assert_eq!(programs_on("tap1"), NOBODY);
        guest.exchange(10, 100);
        drop(programs);
        guest.exchange(10, 100);
        let programs = arena.open_clsact();
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Both);
        guest.exchange(10, 100);
        assert_eq!(
            both(&programs, 2).map(|counters| counters.packets),
            [30, 30]
        );
        assert_eq!((ours("tap1", "ingress"), ours("tap1", "egress")), (1, 1));
    });
}

#[test]
fn opening_and_attaching_again_leaves_exactly_one_filter_a_hook() {
    arena(|arena| {
        let guest = Guest::new(1);
        for _ in 0..3 {
            let mut programs = arena.open_clsact();
            attach(&mut programs, guest.ifindex, 0);
            attach(&mut programs, guest.ifindex, 0);
        }
        assert_eq!((ours("tap1", "ingress"), ours("tap1", "egress")), (1, 1));
    });
}

#[test]
fn a_clsact_of_others_is_shared_and_stays_with_its_filters() {
    arena(|arena| {
        let guest = Guest::new(1);
        run("tc qdisc add dev tap1 clsact");
        let mut stranger = Stranger::new(guest.ifindex);
        stranger.stand_on("tap1", filters);
        // Of another kind, in the place that we like best.
        run("tc filter add dev tap1 ingress pref 1 protocol all u32 match u32 0 0");
        let before = (qdiscs(), run("tc filter show dev tap1 egress"));
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        guest.exchange(10, 100);
        assert_eq!(stranger.packets(), [10, 10]);
        assert_eq!(
            both(&programs, 0).map(|counters| counters.packets),
            [10, 10]
        );
        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!((qdiscs(), run("tc filter show dev tap1 egress")), before);
        assert_eq!(ours("tap1", "ingress"), 0);
    });
}

#[test]
fn a_clsact_of_our_own_goes_with_us_unless_somebody_else_uses_it() {
    arena(|arena| {
        let guest = Guest::new(1);
        let before = qdiscs();
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        assert!(qdiscs().contains("clsact"));
        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!(qdiscs(), before);

        attach(&mut programs, guest.ifindex, 0);
        let mut stranger = Stranger::new(guest.ifindex);
        stranger.stand_on("tap1", filters);
        programs.release(guest.ifindex, 0).unwrap();
        assert!(qdiscs().contains("clsact"));
        guest.exchange(10, 100);
        assert_eq!(stranger.packets(), [10, 10]);
    });
}

#[test]
fn with_an_ingress_qdisc_only_what_the_guest_sends_is_counted_and_that_is_said() {
    arena(|arena| {
        let guest = Guest::new(1);
        run("tc qdisc add dev tap1 handle ffff: ingress");
        let before = qdiscs();
        let mut programs = arena.open_clsact();
        assert_eq!(attach(&mut programs, guest.ifindex, 0), Hooks::SentOnly);
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::SentOnly);
        guest.exchange(10, 100);
        assert_eq!(both(&programs, 0).map(|counters| counters.packets), [0, 10]);
        assert_eq!(detach(arena), 1);
        assert_eq!(qdiscs(), before);
    });
}

#[test]
fn filters_that_somebody_removed_are_missed() {
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        // Proxmox VE does so when a NIC is edited.
        run("tc qdisc del dev tap1 clsact");
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Lost);
        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!(attach(&mut programs, guest.ifindex, 1), Hooks::Both);
        guest.exchange(10, 100);
        assert_eq!(
            both(&programs, 1).map(|counters| counters.packets),
            [10, 10]
        );
    });
}

#[test]
fn detach_leaves_nothing_with_and_without_a_daemon_and_twice() {
    arena(|arena| {
        let guest = Guest::new(1);
        let before = qdiscs();
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        assert_eq!(detach(arena), 2);
        assert_eq!((qdiscs(), arena.pins()), (before.clone(), vec![]));
        assert_eq!(detach(arena), 0);
        drop(programs);
        let mut programs = arena.open_clsact();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        assert_eq!(detach(arena), 2);
        assert_eq!((qdiscs(), arena.pins()), (before, vec![]));
    });
}

#[test]
fn changing_between_clsact_and_tcx_never_counts_twice() {
    arena(|arena| {
        let guest = Guest::new(1);
        let before = qdiscs();
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        let mut programs = arena.open_clsact();
        assert_eq!(programs_on("tap1"), NOBODY);
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Lost);
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        let mut programs = arena.open();
        assert_eq!(qdiscs(), before);
        attach(&mut programs, guest.ifindex, 0);
        guest.exchange(10, 100);
        assert_eq!(
            both(&programs, 0).map(|counters| counters.packets),
            [10, 10]
        );
    });
}
