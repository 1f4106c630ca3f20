//! From one version's layout to another's: nothing ends, nothing counts twice.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use meter_common::{Interface, LAYOUT, Verdict};
use meter_daemon::{
    engine::units::Bytes,
    host::{
        limits::{ExemptWhenSuspended, Then},
        programs::{Attach, Hooks, ProgramOptions, Programs, Shaper},
    },
};
use meter_tests::traffic::Flood;

use crate::{
    arena::{Arena, Guest, SLOTS, arena, arena_with_tcx, attach, both, packets, programs_on},
    beyond::{self, CPUS, PACKET, total},
    limits::{FRAME, MACHINE, at, is_sent, sends, under_limits},
};

/// What layout 1 held of an interface.
type Interface1 = [u32; 6];

/// The folder of a layout's pins.
fn folder(arena: &Arena<'_>, layout: u32) -> PathBuf {
    arena.pin_directory().join(format!("v{layout}"))
}

/// Puts a map of another shape in the place of a pinned one.
fn replace<V: aya::Pod>(maps: &Path, name: &str, values: impl IntoIterator<Item = V>) {
    fs::remove_file(maps.join(name)).unwrap();
    let mut map = Array::<MapData, V>::create(SLOTS, 0).unwrap();
    for (index, value) in (0..).zip(values) {
        map.set(index, value, 0).unwrap();
    }
    map.pin(maps.join(name)).unwrap();
}

/// Makes what is pinned look as version 1 left it; no daemon runs.
fn as_version_1(arena: &Arena<'_>, interfaces: &[Interface1]) {
    fs::rename(folder(arena, LAYOUT), folder(arena, 1)).unwrap();
    let maps = folder(arena, 1).join("maps");
    for name in [
        "ARMINGS",
        "REACHED",
        "EXEMPT_V4",
        "EXEMPT_V6",
        "PAST_SHAPER",
    ] {
        fs::remove_file(maps.join(name)).unwrap();
    }
    replace(&maps, "INTERFACES", interfaces.iter().copied());
    replace(&maps, "MACHINES", [[7_u64; 8]; 8]);
}

/// Makes what is pinned look as a later version left it, which knows more of each interface and
/// has a map that we do not know; no daemon runs.
fn as_a_later_version(arena: &Arena<'_>) {
    fs::rename(folder(arena, LAYOUT), folder(arena, LAYOUT + 1)).unwrap();
    let maps = folder(arena, LAYOUT + 1).join("maps");
    let known = MapData::from_pin(maps.join("INTERFACES")).unwrap();
    let known = Array::<_, Interface>::try_from(Map::Array(known)).unwrap();
    let wider = known.iter().map(|interface| {
        let known = interface.unwrap();
        let mut words = [0xffff_ffff_u32; 12];
        words[..6].copy_from_slice(&[
            known.machine,
            known.generation,
            known.shaper,
            known.ifb,
            known.verdict,
            known.root_lost,
        ]);
        words
    });
    replace(&maps, "INTERFACES", wider.collect::<Vec<_>>());
    let more = Array::<MapData, u64>::create(1, 0).unwrap();
    more.pin(maps.join("MORE")).unwrap();
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
        let (former, ours) = (folder(arena, 1), folder(arena, LAYOUT));
        // Before the maps have their name: what there is of ours counts for nothing.
        fs::create_dir_all(ours.join("maps")).unwrap();
        fs::create_dir_all(ours.join("links")).unwrap();
        Array::<MapData, [u32; 4]>::create(1, 0)
            .unwrap()
            .pin(ours.join("maps/MAP_SET"))
            .unwrap();
        let programs = arena.open_tcx();
        assert_eq!(packets(&programs, 0), [10, 10]);
        drop(programs);
        // After that, and with one link of two moved.
        let link = format!("links/{}-sent", guest.ifindex);
        fs::create_dir_all(former.join("maps")).unwrap();
        fs::create_dir_all(former.join("links")).unwrap();
        fs::rename(ours.join(&link), former.join(&link)).unwrap();
        let programs = arena.open_tcx();
        guest.exchange(10, 100);
        assert_eq!(packets(&programs, 0), [20, 20]);
        assert_eq!(programs_on(guest.ifindex).map(|ids| ids.len()), [1, 1]);
        assert!(!arena.pins().iter().any(|pin| pin.contains("v1")));
    });
}

/// No daemon arms anything here: what a later version left is all there is.
#[test]
fn limits_hold_at_the_packet_while_a_later_versions_are_taken_over_under_two_floods() {
    const ROUNDS: u64 = 8;
    arena(|arena| {
        let guests = [1, 2].map(|number| Guest::new(arena, number));
        let mut programs = arena.open();
        for (slot, guest) in (0..).zip(&guests) {
            under_limits(&mut programs, guest, slot);
        }
        beyond::arm(&mut programs, 0, true);
        let floods = [0, 1].map(|n| Flood::start(&guests[n].party, &guests[n].host, n).unwrap());
        let take_over = |programs: Programs| {
            drop(programs);
            as_a_later_version(arena);
            arena.open()
        };
        // What passes meanwhile if nothing stops it: boundaries are to lie all over that.
        beyond::arm(&mut programs, 1 << 40, true);
        let before = total(programs.limits());
        programs = take_over(programs);
        let meanwhile = total(programs.limits()) - before;
        let mut found = Vec::new();
        for round in 0..ROUNDS {
            // Into the midst of a packet.
            let more = meanwhile * round / ROUNDS + 12_345;
            let limit = beyond::arm(&mut programs, more, round % 2 == 0);
            programs = take_over(programs);
            let more = beyond::stopped_beyond(&programs, &floods, limit);
            found.push(more);
            let counted: u64 = (0..2).map(|slot| both(&programs, slot)[1].bytes).sum();
            assert_eq!(counted, limit + more, "the counters");
        }
        println!(
            "{ROUNDS} takeovers, {meanwhile} bytes each if nothing stops them; beyond the \
             boundaries: {found:?}, a packet is {PACKET}"
        );
        assert!(
            found.iter().all(|beyond| *beyond < CPUS * PACKET),
            "{found:?}"
        );
    });
}

#[test]
fn what_is_exempt_stays_so_after_a_later_version_and_what_went_past_a_shaper_is_known() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        let mut programs = arena.open();
        under_limits(&mut programs, &guest, 0);
        // The guest talks to 10.0.1.1.
        let prefixes = ["10.0.1.1/32".parse().unwrap()];
        programs.set_exempt_prefixes(9, &prefixes).unwrap();
        let limits = programs.limits_mut();
        limits
            .arm(MACHINE, [Some(at(0, Then::Capped)), None])
            .unwrap();
        let stopped = ExemptWhenSuspended::Stopped;
        limits.set_exempt_group(MACHINE, 9, stopped).unwrap();
        let shaper = Shaper {
            major: 0x1234,
            ifb_ifindex: 0,
        };
        programs.set_shaper(guest.ifindex, 0, Some(shaper)).unwrap();
        is_sent(&guest, 2);
        assert_eq!(programs.past_shaper(0).unwrap(), Bytes(2 * FRAME));
        drop(programs);
        as_a_later_version(arena);
        let programs = arena.open();
        assert_eq!(programs.past_shaper(0).unwrap(), Bytes(2 * FRAME));
        sends(&guest, 5);
        is_sent(&guest, 3);
        assert_eq!(
            both(&programs, 0).map(|all| all.exempt_bytes),
            [5 * FRAME, 5 * FRAME]
        );
        assert_eq!(programs.past_shaper(0).unwrap(), Bytes(5 * FRAME));
        assert_eq!(programs.attached().unwrap()[0].machine, MACHINE);
        assert!(!arena.pins().iter().any(|pin| pin.contains("MORE")));
    });
}
