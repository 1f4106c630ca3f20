//! `detach` leaves nothing, whoever runs or does not.

use std::time::Duration;

use aya::{maps::loaded_maps, programs::loaded_programs};
use meter_daemon::host::programs::{Removed, Shaper, detach_all};
use meter_tests::{
    links,
    wait::{self, Seen},
};

use crate::arena::{Arena, Guest, NOBODY, arena, arena_with_tcx, attach, ifindex, programs_on};

fn detach(arena: &Arena<'_>) -> Removed {
    detach_all(&arena.pin_directory()).unwrap()
}

/// Waits until the kernel has freed what it still counts among its own.
fn until_none(what: &str, mut left: impl FnMut() -> Vec<u32>) {
    let ask = || {
        Ok(match left() {
            none if none.is_empty() => Seen::Yes(()),
            some => Seen::NotYet(format!("{some:?}")),
        })
    };
    let (each, at_most) = (Duration::from_millis(5), Duration::from_secs(10));
    wait::until(what, each, at_most, ask).unwrap();
}

#[test]
fn detach_removes_programs_links_maps_and_folders_and_twice_is_fine() {
    arena_with_tcx(|arena| {
        let guests = [1, 2].map(|number| Guest::new(arena, number));
        let mut programs = arena.open_tcx();
        for (slot, guest) in (0..).zip(&guests) {
            attach(&mut programs, guest.ifindex, slot);
        }
        links::ifb("shaped").unwrap();
        let shaper = Shaper {
            major: 1,
            ifb_ifindex: ifindex("shaped"),
        };
        programs
            .set_shaper(guests[0].ifindex, 0, Some(shaper))
            .unwrap();
        let ours: Vec<u32> = programs_on(guests[0].ifindex).concat();
        assert_eq!(ours.len(), 3);
        // The daemon that stands by has not noticed.
        assert_eq!(
            detach(arena),
            Removed {
                links: 5,
                filters: 0,
                maps: 12,
            }
        );
        for guest in &guests {
            assert_eq!(programs_on(guest.ifindex), NOBODY);
        }
        assert_eq!(arena.pins(), Vec::<String>::new());
        assert_eq!(detach(arena), Removed::default());
        let maps = programs_maps(&ours);
        drop(programs);
        until_none("the programs to be freed", || {
            let all = loaded_programs().flatten().map(|program| program.id());
            all.filter(|id| ours.contains(id)).collect()
        });
        until_none("the maps to be freed", || {
            let all = loaded_maps().flatten().map(|map| map.id());
            all.filter(|id| maps.contains(id)).collect()
        });
    });
}

fn programs_maps(programs: &[u32]) -> Vec<u32> {
    loaded_programs()
        .flatten()
        .filter(|program| programs.contains(&program.id()))
        .flat_map(|program| program.map_ids().unwrap().unwrap())
        .collect()
}

#[test]
fn detach_works_with_the_interface_gone_and_no_daemon() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        links::delete(guest.name()).unwrap();
        assert_eq!(detach(arena).links, 2);
        assert_eq!(arena.pins(), Vec::<String>::new());
    });
}

#[test]
fn detach_where_nothing_ever_was_does_nothing() {
    arena(|arena| {
        assert_eq!(detach(arena), Removed::default());
        let nowhere = arena.folder().join("nowhere");
        let removed = detach_all(&nowhere).unwrap();
        assert_eq!(removed, Removed::default());
    });
}

#[test]
fn detach_touches_nobody_elses_pins() {
    arena(|arena| {
        drop(arena.open());
        std::fs::create_dir(arena.pin_directory().join("theirs")).unwrap();
        detach(arena);
        assert_eq!(arena.pins(), ["meterd", "meterd/theirs"]);
    });
}
