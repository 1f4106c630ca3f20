//! From one version's layout to another's: nothing ends, nothing counts twice.

use std::fs;

use aya::maps::{Array, MapData};
use meter_common::Verdict;
use meter_daemon::host::programs::{Attach, Hooks, ProgramOptions, Programs};

use crate::{
    arena::{Arena, Guest, SLOTS, arena, arena_with_tcx, attach, packets, programs_on},
    limits::{FRAME, sends},
};

/// What layout 1 held of an interface.
type Interface1 = [u32; 6];

/// Makes what is pinned look as version 1 left it; no daemon runs.
fn as_version_1(arena: &Arena<'_>, interfaces: &[Interface1]) {
    let folder = |layout| arena.pin_directory().join(layout);
    fs::rename(folder("v2"), folder("v1")).unwrap();
    let maps = folder("v1").join("maps");
    for name in ["ARMINGS", "REACHED", "EXEMPT_V4", "EXEMPT_V6", "INTERFACES"] {
        fs::remove_file(maps.join(name)).unwrap();
    }
    let mut map = Array::<MapData, Interface1>::create(SLOTS, 0).unwrap();
    for (slot, interface) in (0..).zip(interfaces) {
        map.set(slot, *interface, 0).unwrap();
    }
    map.pin(maps.join("INTERFACES")).unwrap();
}

fn both_ways(attachment: Attach) {
    arena(|arena| {
        let guests = [1, 2].map(|number| Guest::new(arena, number));
        let mut programs = arena.open_by(attachment);
        for (slot, guest) in (0..).zip(&guests) {
            attach(&mut programs, guest.ifindex, slot);
            guest.exchange(10, 100);
        }
        programs.set_verdict(1, Verdict::Suspended).unwrap();
        drop(programs);
        // Machine, generation, shaper, IFB, verdict.
        as_version_1(arena, &[[0, 1, 0, 0, 0, 0], [0, 5, 0, 0, 2, 0]]);
        guests[0].exchange(10, 100);

        let options = ProgramOptions {
            attach: attachment,
            ..arena.options()
        };
        let programs = Programs::open(&options, 99).unwrap();
        assert_eq!(
            programs.map_set(),
            7,
            "the counters are known by their old name"
        );
        let attached = programs.attached().unwrap();
        assert!(attached.iter().all(|one| one.hooks == Hooks::Both));
        let generations = attached.iter().map(|one| one.generation);
        assert!(generations.eq([1, 5]));
        guests[0].exchange(10, 100);
        assert_eq!(packets(&programs, 0), [30, 30]);
        assert_eq!(packets(&programs, 1), [10, 10]);
        // Still suspended.
        let before = programs.reading(1).unwrap().sent.dropped_suspended;
        sends(&guests[1], 3);
        let after = programs.reading(1).unwrap().sent.dropped_suspended;
        assert_eq!(after - before, 3 * FRAME);
        assert!(!arena.pins().iter().any(|pin| pin.contains("v1")));
        drop(programs);
        let programs = Programs::open(&options, 99).unwrap();
        assert_eq!(packets(&programs, 0), [30, 30]);
    });
}

#[test]
fn version_1_is_taken_over_with_all_that_it_counted() {
    both_ways(Attach::Auto);
}

#[test]
fn on_clsact_too() {
    both_ways(Attach::Clsact);
}

#[test]
fn a_takeover_that_was_cut_short_is_completed() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        guest.exchange(10, 100);
        drop(programs);
        as_version_1(arena, &[[0, 1, 0, 0, 0, 0]]);
        let pins = |layout: &str| arena.pin_directory().join(layout);
        // Before the maps have their name: what there is of ours counts for nothing.
        fs::create_dir_all(pins("v2/maps")).unwrap();
        fs::create_dir_all(pins("v2/links")).unwrap();
        Array::<MapData, [u32; 4]>::create(1, 0)
            .unwrap()
            .pin(pins("v2/maps/MAP_SET"))
            .unwrap();
        let programs = arena.open_tcx();
        assert_eq!(packets(&programs, 0), [10, 10]);
        drop(programs);
        // After that, and with one link of two moved.
        let link = format!("links/{}-sent", guest.ifindex);
        fs::create_dir_all(pins("v1/maps")).unwrap();
        fs::create_dir_all(pins("v1/links")).unwrap();
        fs::rename(pins("v2").join(&link), pins("v1").join(&link)).unwrap();
        let programs = arena.open_tcx();
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 0), [20, 20]);
        assert_eq!(programs_on(guest.ifindex).map(|ids| ids.len()), [1, 1]);
        assert!(!arena.pins().iter().any(|pin| pin.contains("v1")));
    });
}
