//! Counting goes on without the daemon, and the next one adopts it.

use std::fs;

use meter_common::LAYOUT;
use meter_daemon::host::{
    error::HostError,
    programs::{AttachRequest, Attached, Hooks, ProgramOptions, Programs},
};

use meter_tests::links;

use crate::arena::{Guest, NOBODY, arena, arena_with_tcx, attach, packets, programs_on};

#[test]
fn counting_goes_on_while_no_daemon_runs() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 4);
        drop(programs);
        guest.exchange(10, 100);
        let programs = arena.open();
        assert_eq!(packets(&programs, 4), [10, 10]);
        assert_eq!(
            programs.attached().unwrap(),
            [Attached {
                ifindex: guest.ifindex,
                slot: 4,
                generation: 1,
                machine: 4,
                hooks: Hooks::Both,
                shaper: None,
            }]
        );
    });
}

#[test]
fn the_map_set_keeps_its_name() {
    arena(|arena| {
        let first = Programs::open(&arena.options(), 11).unwrap();
        assert_eq!(first.map_set(), 11);
        drop(first);
        let second = Programs::open(&arena.options(), 12).unwrap();
        assert_eq!(second.map_set(), 11);
    });
}

#[test]
fn a_new_daemons_program_takes_the_place_of_the_old_and_stands_alone() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut first = arena.open_tcx();
        attach(&mut first, guest.ifindex, 0);
        let before = programs_on(guest.ifindex);
        let second = arena.open_tcx();
        let after = programs_on(guest.ifindex);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.len(), after.len()), (1, 1));
            assert_ne!(before, after);
        }
        guest.exchange(10, 100);
        assert_eq!(packets(&second, 0), [10, 10]);
        drop(first);
        assert_eq!(programs_on(guest.ifindex), after);
    });
}

#[test]
fn attaching_twice_changes_nothing() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        let before = (programs_on(guest.ifindex), arena.pins());
        attach(&mut programs, guest.ifindex, 0);
        assert_eq!((programs_on(guest.ifindex), arena.pins()), before);
    });
}

#[test]
fn an_interface_that_is_gone_keeps_its_counters_until_it_is_released() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        guest.exchange(10, 100);
        links::delete(guest.name()).unwrap();
        drop(programs);
        let mut programs = arena.open();
        let attached = programs.attached().unwrap();
        assert_eq!(attached.len(), 1);
        assert_eq!(attached[0].hooks, Hooks::Lost);
        assert_eq!(packets(&programs, 0), [10, 10]);
        programs.release(guest.ifindex, 0).unwrap();
        assert_eq!(programs.attached().unwrap(), []);
        assert_eq!(packets(&programs, 0), [10, 10]);
        assert!(
            !arena.pins().iter().any(|pin| pin.contains("links/")),
            "{:?}",
            arena.pins()
        );
    });
}

#[test]
fn a_released_interface_counts_no_more() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        attach(&mut programs, guest.ifindex, 0);
        guest.exchange(10, 100);
        // Of another slot: not this one.
        programs.release(guest.ifindex, 1).unwrap();
        guest.exchange(10, 100);
        programs.release(guest.ifindex, 0).unwrap();
        programs.release(guest.ifindex, 0).unwrap();
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 0), [20, 20]);
        assert_eq!(programs_on(guest.ifindex), NOBODY);
    });
}

#[test]
fn an_interface_that_is_not_there_is_refused_and_the_others_are_attached() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        let request = |ifindex, slot| AttachRequest {
            ifindex,
            slot,
            generation: 1,
            machine: 0,
        };
        let results = programs.attach(&[
            request(4000, 0),
            request(guest.ifindex, 1),
            request(guest.ifindex, 9999),
        ]);
        assert!(matches!(
            results[0],
            (4000, Err(HostError::NoInterface { ifindex: 4000, .. }))
        ));
        assert!(matches!(results[1].1, Ok(Hooks::Both)));
        assert!(matches!(
            results[2].1,
            Err(HostError::NoSlot { slot: 9999, .. })
        ));
        let attached = programs.attached().unwrap();
        assert_eq!(attached.len(), 1, "{attached:?}");
        assert_eq!((attached[0].slot, attached[0].hooks), (1, Hooks::Both));
    });
}

#[test]
fn an_attachment_that_was_interrupted_is_completed() {
    arena_with_tcx(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open_tcx();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        let links = arena.pin_directory().join(format!("v{LAYOUT}/links"));
        fs::remove_file(links.join(format!("{}-received", guest.ifindex))).unwrap();
        let programs = arena.open_tcx();
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Both);
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 0), [10, 10]);
    });
}

#[test]
fn a_namespace_with_the_same_ifindex_is_not_mistaken_for_the_one_that_is_gone() {
    arena(|arena| {
        let guest = Guest::with_ifindex(arena, 1, 50);
        let mut programs = arena.open();
        attach(&mut programs, 50, 0);
        drop(programs);
        links::delete(guest.name()).unwrap();
        // Another interface, by chance with the index that is written on the pins.
        let other = Guest::with_ifindex(arena, 2, 50);
        let programs = arena.open();
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Lost);
        assert_eq!(programs_on(other.ifindex), NOBODY);
        drop(guest);
    });
}

#[test]
fn a_map_set_of_another_size_is_refused_with_both_sizes() {
    arena(|arena| {
        drop(arena.open());
        let options = ProgramOptions {
            slots: 64,
            ..arena.options()
        };
        let error = Programs::open(&options, 1).err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, HostError::OtherMapSet { .. }), "{text}");
        assert!(text.contains("1024") && text.contains("64"), "{text}");
    });
}

#[test]
fn what_a_start_left_unfinished_is_begun_anew() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = Programs::open(&arena.options(), 11).unwrap();
        attach(&mut programs, guest.ifindex, 0);
        drop(programs);
        let maps = arena.pin_directory().join(format!("v{LAYOUT}/maps"));
        fs::remove_file(maps.join("COUNTERS")).unwrap();
        let programs = Programs::open(&arena.options(), 12).unwrap();
        assert_eq!(programs.map_set(), 12);
        assert_eq!(programs.attached().unwrap(), []);
        assert_eq!(programs_on(guest.ifindex), NOBODY);
    });
}

#[test]
fn a_folder_that_is_not_on_bpffs_is_refused_with_the_remedy() {
    arena(|arena| {
        let options = ProgramOptions {
            pin_directory: arena.folder().join("pins"),
            ..arena.options()
        };
        let error = Programs::open(&options, 1).err().unwrap();
        assert!(matches!(error, HostError::NoBpffs { .. }), "{error}");
        assert!(error.to_string().contains("mount -t bpf bpf"), "{error}");
        assert!(!arena.folder().join("pins").exists());
    });
}
