//! Whose counter it is: a boot, a map set, a slot and a generation. Another one counts whole,
//! however large it is; the same one counts what it grew by.

use std::{fs, time::Duration};

use meter_tests::{
    Context, Failure, Result, inspect, links,
    meterd::{Counted, End},
    sandbox::Sandbox,
    scene::{EVERY_TAP, MACHINE, Scene, is_metered},
    topology::Port,
    traffic::ping,
    wait::{self, Seen},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn traffic(scene: &Scene<'_>, count: u16) -> Result<()> {
    let world = scene.node.world.v4;
    let pings = ping(&scene.guest.party, world, count, Duration::ZERO)?;
    assert_eq!(pings.answered.len(), usize::from(count));
    Ok(())
}

/// So many echo requests and answers, of 98 bytes each.
fn pings(count: u64) -> Counted {
    Counted {
        received: 98 * count,
        sent: 98 * count,
    }
}

/// What a reboot does to what meterd sees: no maps, no taps, and another boot's name.
fn reboot(scene: &mut Scene<'_>, sandbox: &Sandbox, name: &str) -> Result<()> {
    fs::remove_dir_all(scene.meterd.pins()).could_not(|| "remove the pins")?;
    links::delete("tap101i0")?;
    let file = sandbox.root().join("boot_id");
    fs::write(&file, format!("{name:-<36}\n")).could_not(|| "name a boot")?;
    mount_bind(&file, BOOT_ID).could_not(|| "rename the boot")?;
    scene.guest = scene.node.plug(Port::of(101))?;
    Ok(())
}

/// What a later version leaves: its layout's name on the pins, its schema's on the ledger.
fn a_later_version_ran(scene: &Scene<'_>) -> Result<()> {
    let list = || fs::read_dir(scene.meterd.pins()).could_not(|| "list the pins");
    for layout in list()?.flatten() {
        let later = scene.meterd.pins().join("v4000000000");
        fs::rename(layout.path(), later).could_not(|| "rename the pins")?;
    }
    let ledger = scene.meterd.directory().join("state/ledger.db");
    let later = rusqlite::Connection::open(ledger)
        .and_then(|ledger| ledger.pragma_update(None, "user_version", 99));
    later.map_err(|error| Failure::new(format!("give it another schema: {error}")))
}

#[test]
fn after_going_back_to_a_version_of_another_layout_and_schema_every_byte_is_there_once()
-> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        traffic(&scene, 5)?;
        let backup = sandbox.root().join("before.db").display().to_string();
        scene.meterd.text(&["backup", &backup])?;
        // The later version counts on in the same maps, and is stopped.
        traffic(&scene, 7)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(12));
        scene.meterd.stop(End::Asked)?;
        a_later_version_ran(&scene)?;
        traffic(&scene, 9)?;
        let before = scene.meterd.log().len();
        scene.meterd.launch()?;
        let status = scene.meterd.wait()?;
        let log = scene.meterd.log();
        assert_eq!(status.code(), Some(65), "{}", &log[before..]);
        for words in ["a newer meterd wrote it", "schema 99", "restore a backup"] {
            assert!(log[before..].contains(words), "{words}: {}", &log[before..]);
        }
        // It has touched nothing.
        traffic(&scene, 11)?;
        scene.meterd.text(&["restore", &backup])?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(32));
        traffic(&scene, 1)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(33));
        assert!(is_metered("tap101i0")?, "one program a hook");
        assert_eq!(scene.meterd.json(&["verify"])?["ok"], true);
        let layouts = fs::read_dir(scene.meterd.pins()).could_not(|| "list the pins")?;
        assert_eq!(layouts.count(), 1);
        Ok(())
    })
}

#[test]
fn after_a_reboot_a_counter_that_is_past_the_old_cursor_already_counts_whole() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        traffic(&scene, 5)?;
        scene.meterd.stop(End::Asked)?;
        reboot(&mut scene, sandbox, "second")?;
        // More than the old cursor, before the daemon is up, and more again behind it.
        traffic(&scene, 40)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(45));
        traffic(&scene, 7)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(52));

        // A crash, and the next boot's counter stands exactly where the old cursor did.
        scene.meterd.stop(End::Killed)?;
        reboot(&mut scene, sandbox, "third")?;
        traffic(&scene, 47)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(99));
        // And one that is far below it.
        scene.meterd.stop(End::Asked)?;
        reboot(&mut scene, sandbox, "fourth")?;
        traffic(&scene, 1)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(100));
        let events = scene.meterd.json(&["events"])?.to_string();
        assert!(events.contains("counter-ended") && !events.contains("counter-fell"));
        Ok(())
    })
}

#[test]
fn a_new_map_set_counts_from_zero_and_what_the_old_one_had_stays() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let mut counted = 0;
        for end in [End::Asked, End::Asked] {
            traffic(&scene, 9)?;
            counted += 9;
            assert_eq!(scene.meterd.counted(MACHINE)?, pings(counted));
            scene.meterd.stop(end)?;
            // Somebody removed the pins: the programs are gone with them.
            fs::remove_dir_all(scene.meterd.pins()).could_not(|| "remove the pins")?;
            scene.meterd.start()?;
            traffic(&scene, 30)?;
            counted += 30;
            assert_eq!(scene.meterd.counted(MACHINE)?, pings(counted));
        }
        let events = scene.meterd.json(&["events"])?.to_string();
        assert!(events.contains("counter-ended"), "{events}");
        Ok(())
    })
}

/// The maps have their names, and the programs stand on both hooks.
fn until_pinned(scene: &Scene<'_>) -> Result<()> {
    let wait = Duration::from_millis(20);
    wait::until("the pins", wait, Duration::from_secs(5), || {
        let there = inspect::pins(&scene.meterd.pins()).is_ok_and(|pins| pins.len() >= 12);
        Ok(match there && is_metered("tap101i0")? {
            true => Seen::Yes(()),
            false => Seen::NotYet("not yet".to_owned()),
        })
    })
    .map(|_| ())
}

#[test]
fn without_a_bpf_file_system_it_says_so_and_goes_on_and_pins_again_when_there_is_one() -> Result<()>
{
    Sandbox::run(|sandbox| {
        let mut scene = Scene::prepare(sandbox, EVERY_TAP)?.started()?;
        traffic(&scene, 9)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(9));
        let bpffs = sandbox.bpffs();
        unmount(&bpffs, UnmountFlags::DETACH).could_not(|| "unmount the bpf file system")?;
        let wait = Duration::from_millis(50);
        wait::until("a word", wait, Duration::from_secs(5), || {
            let log = scene.meterd.log();
            Ok(match log.contains("is gone and cannot be put back") {
                true => Seen::Yes(()),
                false => Seen::NotYet(log),
            })
        })?;
        // It answers, and keeps its books.
        scene.meterd.text(&["suspend", MACHINE])?;
        scene.meterd.text(&["lift", MACHINE])?;
        let flags = MountFlags::empty();
        mount("bpf", &bpffs, "bpf", flags, None).could_not(|| "mount another")?;
        until_pinned(&scene)?;
        traffic(&scene, 30)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(39));
        scene.meterd.stop(End::Asked)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(39));
        Ok(())
    })
}

/// What is pinned holds the links, and with them the programs: nothing else tells of its end.
#[test]
fn pins_that_go_under_a_running_daemon_are_back_with_the_next_poll_and_no_counter_is_another()
-> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::prepare(sandbox, EVERY_TAP)?.started()?;
        traffic(&scene, 9)?;
        fs::remove_dir_all(scene.meterd.pins()).could_not(|| "remove the pins")?;
        until_pinned(&scene)?;
        traffic(&scene, 30)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(39));
        traffic(&scene, 2)?;
        scene.meterd.stop(End::Killed)?;
        traffic(&scene, 4)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(45));
        let events = scene.meterd.json(&["events"])?.to_string();
        assert!(!events.contains("counter-ended"), "{events}");
        let said = events.contains("had been removed from outside");
        assert_eq!(said, inspect::has_tcx()?, "{events}");
        Ok(())
    })
}

#[test]
fn a_kill_and_a_new_tap_of_the_same_name_are_another_counter() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::prepare(sandbox, EVERY_TAP)?.started()?;
        traffic(&scene, 9)?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(9));
        scene.meterd.stop(End::Killed)?;
        traffic(&scene, 4)?;
        links::delete("tap101i0")?;
        scene.guest = scene.node.plug(Port::of(101))?;
        traffic(&scene, 20)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, pings(33));
        Ok(())
    })
}
