//! The ledger's disk fills up, turns read-only, is locked, taken away, deleted or damaged, under
//! a daemon with traffic. Whatever it is: it is said once, by file, cause and remedy; the kernel
//! counts on and what is stopped stays stopped; when the cause goes, the daemon goes on by
//! itself where it can, and the ledger has what the far end of the wire saw.

mod damage;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result, disk,
    meterd::{End, bytes},
    needs,
    sandbox::Sandbox,
    scene::{MACHINE, Scene, is_metered, until_metered},
    stall,
    topology::{Guest, Port},
    traffic::{Tcp, ping},
    wait::{self, Seen},
};
use rusqlite::Connection;

const DATA: i32 = 65;
const INPUT_OUTPUT: i32 = 74;
const TRY_AGAIN: i32 = 75;
const NOT_ALLOWED: i32 = 77;

const CONFIG: &str = "
poll-interval = '1s'
[metrics]
listen = '127.0.0.1:9750'
[[discover]]
interface = '^tap(?<machine>\\d+)i'
plan = 'plain'
";

/// A scene whose daemon keeps its ledger in a directory that was made by `place`.
fn scene<'a>(sandbox: &'a Sandbox, place: impl FnOnce(&Path) -> Result<()>) -> Result<Scene<'a>> {
    let scene = Scene::prepare(sandbox, CONFIG)?;
    scene
        .meterd
        .write("plans/plain.toml", "allowance = '1 TB'")?;
    place(&state(&scene))?;
    scene.started()
}

fn state(scene: &Scene<'_>) -> PathBuf {
    scene.meterd.directory().join("state")
}

fn ledger(scene: &Scene<'_>) -> PathBuf {
    state(scene).join("ledger.db")
}

fn log_of_ledger(scene: &Scene<'_>) -> PathBuf {
    state(scene).join("ledger.db-wal")
}

/// Somebody else has the ledger open, and did this.
fn somebody(scene: &Scene<'_>, sql: &str) -> Result<Connection> {
    let open = || {
        let connection = Connection::open(ledger(scene))?;
        connection.execute_batch(sql)?;
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| Failure::new(format!("{sql}: {error}")))
}

fn traffic(scene: &Scene<'_>) -> Result<()> {
    let (guest, world) = (&scene.guest.party, &scene.node.world);
    Tcp::v4(300_000).run(guest, world)?;
    Tcp::v4(500_000).run(world, guest)?;
    Ok(())
}

/// A machine that is suspended: whether the kernel still does what it was told.
fn suspended(scene: &Scene<'_>) -> Result<Guest> {
    let guest = scene.node.plug(Port::of(102))?;
    until_metered("tap102i0")?;
    scene
        .meterd
        .text(&["suspend", "102", "--reason", "abuse"])?;
    Ok(guest)
}

fn pings(guest: &Guest, scene: &Scene<'_>) -> Result<usize> {
    let pings = ping(&guest.party, scene.node.world.v4, 1, Duration::ZERO)?;
    Ok(pings.answered.len())
}

/// The ledger has what the far end saw since the daemon first started.
#[track_caller]
fn assert_agree(scene: &mut Scene<'_>) -> Result<()> {
    let (ledger, wire) = scene.both()?;
    assert_eq!(ledger, wire, "the ledger, the wire");
    Ok(())
}

fn until_logged(scene: &Scene<'_>, from: usize, words: &[&str]) -> Result<()> {
    let what = format!("the log to say {words:?}");
    let often = Duration::from_millis(20);
    wait::until(&what, often, Duration::from_secs(20), || {
        let log = scene.meterd.log();
        let new = log.get(from..).unwrap_or_default();
        Ok(
            if new
                .lines()
                .any(|line| words.iter().all(|w| line.contains(w)))
            {
                Seen::Yes(())
            } else {
                Seen::NotYet(new.to_owned())
            },
        )
    })?;
    Ok(())
}

/// What follows a fault until it is over; `cure` ends it.
fn endure<'a, Cause>(
    mut scene: Scene<'a>,
    words: &[&str],
    cause: impl FnOnce(&Scene<'_>) -> Result<Cause>,
    cure: impl FnOnce(&mut Scene<'a>, Cause) -> Result<()>,
) -> Result<()> {
    let other = suspended(&scene)?;
    traffic(&scene)?;
    assert_agree(&mut scene)?;
    let allowance = |scene: &Scene<'_>| bytes(&scene.meterd.status(MACHINE)?, "allowance");
    let before = allowance(&scene)?;
    let from = scene.meterd.log().len();

    let cause = cause(&scene)?;
    traffic(&scene)?;
    until_logged(&scene, from, words)?;
    let refused = scene
        .meterd
        .cli(&["top-up", MACHINE, "1 MB", "--key", "k"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "a command was acknowledged");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(pings(&other, &scene)?, 0, "the suspended machine");
    traffic(&scene)?;
    // Two more polls at least, of which nothing more is said.
    let begun = Instant::now();
    let last = |scene: &Scene<'_>| -> Result<String> {
        let metrics = scene.meterd.metrics(9750)?;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("meterd_last_poll_timestamp_seconds "));
        Ok(line.unwrap_or_default().to_owned())
    };
    let stood = last(&scene)?;
    while begun.elapsed() < Duration::from_millis(2200) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(last(&scene)?, stood, "the metric shows that polls fail");
    let log = scene.meterd.log();
    let complaints = log[from..]
        .lines()
        .filter(|line| line.contains("ERROR") && line.contains(words[0]));
    assert_eq!(complaints.count(), 1, "{}", &log[from..]);
    assert!(is_metered("tap101i0")?);

    cure(&mut scene, cause)?;
    assert_agree(&mut scene)?;
    assert_eq!(allowance(&scene)?, before, "what was refused was not done");
    scene
        .meterd
        .text(&["top-up", MACHINE, "1 MB", "--key", "k"])?;
    assert_eq!(allowance(&scene)?, before + 1_000_000);
    traffic(&scene)?;
    scene.meterd.stop(End::Killed)?;
    scene.meterd.start()?;
    assert_agree(&mut scene)?;
    assert_eq!(allowance(&scene)?, before + 1_000_000);
    assert_eq!(pings(&other, &scene)?, 0, "the suspended machine");
    assert_sound(&scene)
}

fn assert_adds_up(scene: &Scene<'_>) -> Result<()> {
    let verified = scene.meterd.json(&["verify"])?;
    assert_eq!(verified["ok"], true, "{verified}");
    Ok(())
}

/// The far end agreed; so do the ledger's own figures.
fn assert_sound(scene: &Scene<'_>) -> Result<()> {
    assert_adds_up(scene)?;
    let by = |by: &str| -> Result<u64> {
        let rows = scene.meterd.json(&["usage", MACHINE, "--by", by])?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| Ok(bytes(row, "received")? + bytes(row, "sent")?))
            .sum()
    };
    let months = by("month")?;
    for finer in ["minute", "hour", "day", "period"] {
        assert_eq!(by(finer)?, months, "{finer}");
    }
    Ok(())
}

fn goes_on_by_itself(scene: &Scene<'_>) -> Result<()> {
    until_logged(scene, 0, &["the ledger can be written again"])
}

#[test]
fn a_full_disk_is_said_once_and_when_there_is_room_again_nothing_was_lost() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let scene = scene(sandbox, |state| disk::small(state, 8 << 20))?;
        let cause = |scene: &Scene<'_>| -> Result<_> {
            // Somebody's shell that reads: the log cannot be used again from its start.
            let reader = somebody(scene, "BEGIN; SELECT count(*) FROM event")?;
            Ok((disk::fill(&state(scene))?, reader))
        };
        endure(
            scene,
            &["the disk is full", "ledger.db", "Make room"],
            cause,
            |scene, (filler, reader)| {
                fs::remove_file(&filler).could_not(|| "make room")?;
                goes_on_by_itself(scene)?;
                drop(reader);
                Ok(())
            },
        )
    })
}

#[test]
fn a_lock_that_somebody_holds_is_said_once_and_when_it_goes_nothing_was_lost() -> Result<()> {
    Sandbox::beside(|sandbox| {
        endure(
            scene(sandbox, |_| Ok(()))?,
            &["keeps it locked", "ledger.db", "fuser"],
            |scene| somebody(scene, "BEGIN EXCLUSIVE"),
            |scene, other| {
                drop(other);
                goes_on_by_itself(scene)
            },
        )
    })
}

#[test]
fn files_that_may_not_be_written_any_more_are_said_once_and_then_nothing_was_lost() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut ext4 = None;
        let prepared = scene(sandbox, |state| {
            ext4 = disk::ext4(state)?;
            Ok(())
        })?;
        if ext4.is_none() {
            return Ok(());
        }
        let files = |scene: &Scene<'_>| [ledger(scene), log_of_ledger(scene)];
        endure(
            prepared,
            &["it is read-only", "ledger.db", "lsattr"],
            |scene| disk::set(disk::Writable::No, &files(scene)),
            |scene, ()| {
                disk::set(disk::Writable::Yes, &files(scene))?;
                goes_on_by_itself(scene)
            },
        )
    })
}

#[test]
fn a_file_system_that_turns_read_only_is_said_once_and_after_its_repair_nothing_was_lost()
-> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut ext4 = None;
        let prepared = scene(sandbox, |state| {
            ext4 = disk::ext4(state)?;
            Ok(())
        })?;
        let Some(ext4) = ext4 else {
            return Ok(());
        };
        endure(
            prepared,
            &["it is read-only", "ledger.db", "read-write"],
            |_| ext4.give_up(),
            |scene, ()| {
                // Nobody can mend a mounted one: the daemon has to let go of it.
                let status = scene.meterd.stop(End::Asked)?;
                assert_eq!(status.code(), Some(INPUT_OUTPUT));
                traffic(scene)?;
                ext4.mend()?;
                scene.meterd.start()
            },
        )
    })
}

#[test]
fn a_state_directory_that_is_unmounted_and_comes_back_loses_nothing() -> Result<()> {
    Sandbox::beside(|sandbox| {
        endure(
            scene(sandbox, |_| Ok(()))?,
            &["was moved, replaced or deleted", "ledger.db", "Put it back"],
            |scene| disk::small(&state(scene), 1 << 20),
            |scene, ()| {
                disk::leave(&state(scene))?;
                goes_on_by_itself(scene)
            },
        )
    })
}

#[test]
fn a_ledger_that_is_moved_away_and_back_loses_nothing() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let away = |scene: &Scene<'_>| scene.meterd.directory().join("away");
        endure(
            scene(sandbox, |_| Ok(()))?,
            &["was moved, replaced or deleted", "ledger.db", "Put it back"],
            |scene| fs::rename(ledger(scene), away(scene)).could_not(|| "move the ledger"),
            |scene, ()| {
                fs::rename(away(scene), ledger(scene)).could_not(|| "move it back")?;
                goes_on_by_itself(scene)
            },
        )
    })
}

#[test]
fn a_ledger_that_is_deleted_is_written_again_by_the_daemon_and_nothing_was_lost() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = scene(sandbox, |_| Ok(()))?;
        let allowance = |scene: &Scene<'_>| bytes(&scene.meterd.status(MACHINE)?, "allowance");
        let before = allowance(&scene)?;
        for (n, names) in (1..).zip([&[""][..], &["", "-wal", "-shm"]]) {
            scene.meterd.text(&["top-up", MACHINE, "1 MB"])?;
            traffic(&scene)?;
            assert_agree(&mut scene)?;
            let from = scene.meterd.log().len();
            for suffix in names {
                let file = state(&scene).join(format!("ledger.db{suffix}"));
                fs::remove_file(file).could_not(|| "delete the ledger")?;
            }
            traffic(&scene)?;
            let words = [
                "ledger.db",
                "was deleted",
                "written there again",
                "Nothing was lost",
            ];
            until_logged(&scene, from, &words)?;
            assert_agree(&mut scene)?;
            assert_adds_up(&scene)?;
            scene.meterd.stop(End::Killed)?;
            scene.meterd.start()?;
            assert_agree(&mut scene)?;
            assert_eq!(allowance(&scene)?, before + n * 1_000_000);
        }
        assert_sound(&scene)
    })
}

#[test]
fn what_the_daemon_may_not_reach_any_more_is_said_once_and_when_it_may_again_nothing_was_lost()
-> Result<()> {
    if !needs::program("setpriv") {
        return Ok(());
    }
    const NOBODY: u32 = 65534;
    let give = |scene: &Scene<'_>, to: u32| -> Result<()> {
        let state = state(scene);
        let within = fs::read_dir(&state).could_not(|| "list the state directory")?;
        let within: Vec<PathBuf> = within.flatten().map(|entry| entry.path()).collect();
        for path in within.iter().chain([&state]) {
            chown(path, Some(to), Some(to)).could_not(|| format!("give {path:?} away"))?;
        }
        Ok(())
    };
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::prepare(sandbox, CONFIG)?;
        let plan = ("plans/plain.toml", "allowance = '1 TB'");
        scene.meterd.write(plan.0, plan.1)?;
        scene.meterd.with_the_units_privileges();
        let scene = scene.started()?;
        fs::set_permissions(state(&scene), fs::Permissions::from_mode(0o700))
            .could_not(|| "close the state directory")?;
        endure(
            scene,
            &["permission denied", "ledger.db", "must own"],
            |scene| give(scene, NOBODY),
            |scene, ()| {
                // Nor does a start.
                give(scene, 0)?;
                goes_on_by_itself(scene)?;
                assert_agree(scene)?;
                scene.meterd.stop(End::Asked)?;
                give(scene, NOBODY)?;
                let words = ["permission denied", "state", "must own"];
                assert_refuses(scene, NOT_ALLOWED, &words)?;
                give(scene, 0)?;
                scene.meterd.start()
            },
        )
    })
}

#[test]
fn a_log_that_is_deleted_is_saved_and_begun_anew_while_counting_goes_on() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = scene(sandbox, |_| Ok(()))?;
        for _ in 0..3 {
            traffic(&scene)?;
            assert_agree(&mut scene)?;
            let from = scene.meterd.log().len();
            fs::remove_file(log_of_ledger(&scene)).could_not(|| "delete the log")?;
            traffic(&scene)?;
            until_logged(
                &scene,
                from,
                &["ledger.db-wal", "was deleted", "Nothing was lost"],
            )?;
            assert_agree(&mut scene)?;
            scene.meterd.stop(End::Killed)?;
            scene.meterd.start()?;
            assert_agree(&mut scene)?;
        }
        assert_sound(&scene)
    })
}

/// A start that is refused within seconds, with that exit status and those words.
fn assert_refuses(scene: &mut Scene<'_>, code: i32, words: &[&str]) -> Result<()> {
    let from = scene.meterd.log().len();
    let (status, took) = stall::timed(|| {
        scene.meterd.launch()?;
        scene.meterd.wait()
    })?;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let log = scene.meterd.log();
    assert_eq!(status.code(), Some(code), "{}", &log[from..]);
    for word in words {
        assert!(log[from..].contains(word), "{word}: {}", &log[from..]);
    }
    Ok(())
}

#[test]
fn a_start_without_room_right_or_lock_is_refused_with_its_remedy_and_the_next_takes_all()
-> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = scene(sandbox, |_| Ok(()))?;
        traffic(&scene)?;
        scene.meterd.stop(End::Killed)?;
        traffic(&scene)?;

        let other = somebody(&scene, "BEGIN EXCLUSIVE")?;
        assert_refuses(
            &mut scene,
            TRY_AGAIN,
            &["keeps it locked", "ledger.db", "fuser"],
        )?;
        drop(other);
        traffic(&scene)?;

        disk::read_only(&state(&scene))?;
        let words = ["read-only", "state", "read-write"];
        assert_refuses(&mut scene, INPUT_OUTPUT, &words)?;
        disk::leave(&state(&scene))?;

        scene.meterd.start()?;
        assert_agree(&mut scene)
    })
}

#[test]
fn a_first_start_on_a_full_disk_is_refused_and_leaves_nothing_half_made() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = Scene::prepare(sandbox, CONFIG)?;
        scene
            .meterd
            .write("plans/plain.toml", "allowance = '1 TB'")?;
        disk::small(&state(&scene), 64 << 10)?;
        assert_refuses(&mut scene, INPUT_OUTPUT, &["the disk is full", "Make room"])?;
        assert!(!ledger(&scene).exists());
        disk::leave(&state(&scene))?;
        scene.meterd.start()?;
        traffic(&scene)?;
        assert_agree(&mut scene)
    })
}

#[test]
fn errors_of_the_disk_itself_are_said_once_and_when_they_end_nothing_was_lost() -> Result<()> {
    if !needs::program("strace") {
        return Ok(());
    }
    Sandbox::beside(|sandbox| {
        endure(
            scene(sandbox, |_| Ok(()))?,
            &["ledger.db", "disk I/O error", "kernel log"],
            |scene| meter_tests::strace::Strace::failing(scene.meterd.pid(), "EIO"),
            |scene, strace| {
                strace.detach()?;
                goes_on_by_itself(scene)
            },
        )
    })
}
