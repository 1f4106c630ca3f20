//! Other people's programs and filters on the same hooks.

use meter_daemon::host::programs::Shaper;
use meter_tests::{
    foreign::{Filter, Place},
    inspect::{self, Hook},
    links,
};

use crate::{
    arena::{Guest, arena_with_tcx, attach, ifindex, packets, programs_on},
    node::tc,
};

const HOOKS: [Hook; 2] = [Hook::Received, Hook::Sent];

#[test]
fn programs_of_others_keep_their_order_and_see_every_packet() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut strangers = Vec::new();
        for hook in HOOKS {
            strangers.push(Filter::tcx(guest.name(), hook, Place::Last).unwrap());
            strangers.push(Filter::tcx(guest.name(), hook, Place::Last).unwrap());
            strangers.push(Filter::clsact(guest.name(), hook, 1).unwrap());
        }
        let filters = || HOOKS.map(|hook| inspect::filters(guest.ifindex, hook).unwrap());
        let before = (programs_on(guest.ifindex), filters());

        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        for (ids, theirs) in programs_on(guest.ifindex).iter().zip(&before.0) {
            assert_eq!((ids.len(), &ids[1..]), (3, &theirs[..]));
        }
        guest.exchange(25, 100);
        for stranger in &strangers {
            assert_eq!(stranger.seen().unwrap().packets, 25);
        }
        assert_eq!(packets(&programs, 0), [25, 25]);

        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!((programs_on(guest.ifindex), filters()), before);
    });
}

#[test]
fn no_qdisc_is_added_where_the_kernel_has_tcx() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let before = tc::shown(guest.name());
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        assert_eq!(tc::shown(guest.name()), before);
        // What Proxmox VE and libvirt do next.
        tc::qdisc(guest.name(), 0xffff_fff1, 0xffff, "ingress", &[]);
        tc::qdisc(guest.name(), tc::ROOT, 1, "htb", &tc::htb(1));
    });
}

#[test]
fn the_shaper_moves_behind_a_program_that_came_after_it() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        links::ifb("shaped").unwrap();
        let shaper = Some(Shaper {
            major: 1,
            ifb_ifindex: ifindex("shaped"),
        });
        programs.set_shaper(guest.ifindex, 0, shaper).unwrap();
        assert_eq!(programs.attached().unwrap()[0].shaper, shaper);
        let _stranger = Filter::tcx(guest.name(), Hook::Sent, Place::Last).unwrap();
        let [_, before] = programs_on(guest.ifindex);
        assert_eq!(programs.attached().unwrap()[0].shaper, None);
        programs.set_shaper(guest.ifindex, 0, shaper).unwrap();
        assert_eq!(programs.attached().unwrap()[0].shaper, shaper);
        let [_, after] = programs_on(guest.ifindex);
        let (theirs, shaper) = (before[2], before[1]);
        assert_eq!(after[..2], [before[0], theirs]);
        assert_eq!((after.len(), after[2]), (3, shaper), "it moved to the end");
    });
}
