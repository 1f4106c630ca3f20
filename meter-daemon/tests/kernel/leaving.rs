//! `detach` leaves nothing, whoever runs or does not.

use aya::{maps::loaded_maps, programs::loaded_programs};
use meter_daemon::host::programs::{Removed, Shaper, detach_all};

use crate::{
    arena::{Arena, Guest, arena, attach, ifindex, run, wait_until},
    pinned::{NOBODY, programs_on},
};

fn detach(arena: &Arena) -> Removed {
    detach_all(&arena.pin_directory(), &arena.runtime_directory()).unwrap()
}

#[test]
fn detach_removes_programs_links_maps_and_folders_and_twice_is_fine() {
    arena(|arena| {
        let guests = [Guest::new(1), Guest::new(2)];
        let mut programs = arena.open();
        for (slot, guest) in (0..).zip(&guests) {
            attach(&mut programs, guest.ifindex, slot);
        }
        run("ip link add shaped type ifb");
        let shaper = Shaper {
            major: 1,
            ifb_ifindex: ifindex("shaped"),
        };
        programs
            .set_shaper(guests[0].ifindex, 0, Some(shaper))
            .unwrap();
        let ours: Vec<u32> = programs_on("tap1").concat();
        assert_eq!(ours.len(), 3);
        // The daemon that stands by has not noticed.
        assert_eq!(
            detach(arena),
            Removed {
                links: 5,
                filters: 0,
                maps: 6,
            }
        );
        for name in ["tap1", "tap2"] {
            assert_eq!(programs_on(name), NOBODY);
        }
        assert_eq!(arena.pins(), Vec::<String>::new());
        assert_eq!(detach(arena), Removed::default());
        let maps = programs_maps(&ours);
        drop(programs);
        wait_until("the kernel has freed the programs", || {
            !loaded_programs()
                .flatten()
                .any(|program| ours.contains(&program.id()))
        });
        wait_until("the kernel has freed the maps", || {
            !loaded_maps().flatten().any(|map| maps.contains(&map.id()))
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
    arena(|arena| {
        let guest = Guest::new(1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        run("ip link delete tap1");
        assert_eq!(detach(arena).links, 2);
        assert_eq!(arena.pins(), Vec::<String>::new());
    });
}

#[test]
fn detach_where_nothing_ever_was_does_nothing() {
    arena(|arena| {
        assert_eq!(detach(arena), Removed::default());
        let nowhere = arena.folder().join("nowhere");
        let removed = detach_all(&nowhere, &arena.runtime_directory()).unwrap();
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
