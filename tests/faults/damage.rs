//! A ledger whose file is damaged: at rest, and under a daemon that runs on it.

use std::{fs, os::unix::fs::FileExt as _, path::Path};

use meter_tests::{
    Context, Failure, Result,
    meterd::End,
    sandbox::Sandbox,
    scene::{Scene, is_metered},
};

use super::{
    DATA, assert_adds_up, assert_agree, assert_refuses, assert_sound, endure, ledger,
    log_of_ledger, pings, scene, somebody, suspended, traffic,
};

#[test]
fn a_damaged_ledger_is_refused_at_start_while_programs_count_and_its_copy_takes_all() -> Result<()>
{
    type Damage = fn(&fs::File, u64) -> std::io::Result<()>;
    let damages: [(&str, Damage); 3] = [
        ("its header", |file, _| file.write_all_at(b"no SQLite", 0)),
        ("a page in the middle", |file, length| {
            file.write_all_at(&[0xa5; 4096], length / 2 / 4096 * 4096)
        }),
        ("its end", |file, length| file.set_len(length / 2)),
    ];
    Sandbox::beside(|sandbox| {
        let mut scene = scene(sandbox, |_| Ok(()))?;
        let other = suspended(&scene)?;
        for (what, damage) in damages {
            traffic(&scene)?;
            scene.meterd.stop(End::Asked)?;
            assert!(!log_of_ledger(&scene).exists(), "its file alone is whole");
            let (path, copy) = (ledger(&scene), scene.meterd.directory().join("copy"));
            let rename = |from: &Path, to: &Path| fs::rename(from, to).could_not(|| "move it");
            fs::copy(&path, &copy).could_not(|| "copy the ledger")?;
            let file = fs::OpenOptions::new().write(true).open(&path);
            let file = file.could_not(|| "open the ledger")?;
            let length = file.metadata().could_not(|| "measure it")?.len();
            damage(&file, length).could_not(|| what)?;
            assert_refuses(
                &mut scene,
                DATA,
                &["is damaged", "ledger.db", "restore a backup"],
            )?;
            traffic(&scene)?;
            assert_eq!(pings(&other, &scene)?, 0, "the suspended machine");
            assert!(is_metered("tap101i0")?);
            rename(&copy, &path)?;
            scene.meterd.start()?;
            assert_agree(&mut scene)?;
        }
        assert_sound(&scene)
    })
}

/// Overwrites pages of a running daemon's ledger: the first, where a table begins that is
/// written with each reading, or an index does.
fn damage(scene: &Scene<'_>, table: Option<&str>) -> Result<()> {
    // Whoever writes something makes the daemon read its pages again: of a ledger larger than
    // its memory it does so by itself.
    let other = somebody(scene, "CREATE TABLE other (a); DROP TABLE other")?;
    let find = |name| {
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
        other.query_row(sql, [name], |row| row.get::<_, i64>(0))
    };
    let root = table.map_or(Ok(1), find);
    let root = root.and_then(|root| {
        // Into the file with it: what is in the log is read from there.
        other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        Ok(root.unsigned_abs())
    });
    let root = root.map_err(|error| Failure::new(format!("{table:?}: {error}")))?;
    let file = fs::OpenOptions::new().write(true).open(ledger(scene));
    file.and_then(|file| file.write_all_at(&[0xa5; 4096], (root - 1) * 4096))
        .could_not(|| "damage the page")
}

#[test]
fn a_page_that_is_damaged_under_the_daemon_is_said_once_and_a_backup_then_takes_all() -> Result<()>
{
    for table in [None, Some("cursor"), Some("host_note")] {
        Sandbox::beside(|sandbox| {
            let backup = sandbox.root().join("backup.db").display().to_string();
            endure(
                scene(sandbox, |_| Ok(()))?,
                &["is damaged", "ledger.db", "meterd restore"],
                |scene| {
                    scene.meterd.text(&["backup", &backup])?;
                    damage(scene, table)
                },
                |scene, ()| {
                    let found = scene.meterd.cli(&["verify"])?;
                    assert_eq!(found.status.code(), Some(DATA), "{table:?}: {found:?}");
                    let status = scene.meterd.stop(End::Asked)?;
                    assert_eq!(status.code(), Some(DATA), "{table:?}");
                    traffic(scene)?;
                    scene.meterd.text(&["restore", &backup])?;
                    scene.meterd.start()
                },
            )
        })?;
    }
    Ok(())
}

#[test]
fn a_log_that_was_damaged_when_the_daemon_was_killed_costs_no_byte() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let mut scene = scene(sandbox, |_| Ok(()))?;
        for _ in 0..3 {
            traffic(&scene)?;
            assert_agree(&mut scene)?;
            scene.meterd.stop(End::Killed)?;
            let log = log_of_ledger(&scene);
            let length = fs::metadata(&log).could_not(|| "measure the log")?.len();
            let garbage = vec![0xa5; usize::try_from(length).unwrap_or_default()];
            let file = fs::OpenOptions::new().write(true).open(&log);
            file.and_then(|file| file.write_all_at(&garbage, 0))
                .could_not(|| "overwrite the log")?;
            traffic(&scene)?;
            scene.meterd.start()?;
            assert_agree(&mut scene)?;
            assert_adds_up(&scene)?;
        }
        assert_sound(&scene)
    })
}
