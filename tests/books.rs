//! The books of a real daemon: verified and backed up while it works, restored without a byte
//! lost, counted twice or booked on somebody else, begun with usage from elsewhere, forgotten.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use meter_tests::{
    Context, Failure, Result, links,
    meterd::{Counted, End, Meterd, Synchronised, bytes},
    needs,
    sandbox::Sandbox,
    scene::{MACHINE, Scene, until_metered},
    topology::{Family, Guest, Party, Port},
    traffic::{Tcp, Udp},
    wait::{self, Seen},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

fn datagrams(count: u64, from: &Party, to: &Party) -> Result<()> {
    let udp = Udp {
        datagrams: count,
        each: 1000,
        family: Family::V4,
        together: 1,
    };
    udp.run(from, to)
}

fn path(meterd: &Meterd<'_>, name: &str) -> String {
    meterd.directory().join(name).display().to_string()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_adds_up(meterd: &Meterd<'_>) -> Result<()> {
    let verified = meterd.json(&["verify"])?;
    assert_eq!(verified["ok"], true, "{verified}");
    Ok(())
}

fn events(meterd: &Meterd<'_>, machine: &str, name: &str) -> Result<Vec<Value>> {
    let mut events = meterd.events(machine)?;
    events.retain(|event| event["event"] == name);
    Ok(events)
}

/// What the far end saw of a guest.
fn on_the_wire(scene: &mut Scene<'_>, guest: &Guest) -> Result<Counted> {
    let moved = scene.capture.settled(guest.party.mac)?;
    Ok(Counted {
        received: moved.received.bytes,
        sent: moved.sent.bytes,
    })
}

fn plug(scene: &Scene<'_>, machine: u8) -> Result<Guest> {
    let guest = scene.node.plug(Port::of(machine))?;
    until_metered(&guest.tap)?;
    Ok(guest)
}

fn unplug(scene: &Scene<'_>, guest: &Guest, machine: &str) -> Result<()> {
    links::delete(&guest.tap)?;
    wait::until("its last delta", Duration::from_millis(20), SOON, || {
        let status = scene.meterd.status(machine)?;
        let interfaces = status["interfaces"].as_array().map_or(0, Vec::len);
        Ok(if interfaces == 0 {
            Seen::Yes(())
        } else {
            Seen::NotYet(status.to_string())
        })
    })?;
    Ok(())
}

/// The counters go on while the ledger goes back: what they counted since is taken once, and
/// only by whose it is.
#[test]
fn after_a_restore_every_byte_since_the_backup_is_counted_once_and_on_nobody_else() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let world = scene.node.world.clone();
        let (first, second) = (scene.guest.clone(), plug(&scene, 102)?);
        Tcp::v4(3_000_000).run(&first.party, &world)?;
        datagrams(500, &second.party, &world)?;
        // Both have moved something that the backup knows, and go on while it is written.
        let at_backup = scene.meterd.counted("102")?;
        let backup = path(&scene.meterd, "copy.db");
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| Tcp::v4(20_000_000).run(&world, &first.party));
            let backed_up = scene.meterd.text(&["backup", &backup]);
            busy.join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p))?;
            backed_up
        })?;

        // 102 goes; 103 gets its slot, 104 one that was nobody's before.
        datagrams(300, &second.party, &world)?;
        unplug(&scene, &second, "102")?;
        let third = plug(&scene, 103)?;
        let fourth = plug(&scene, 104)?;
        datagrams(700, &third.party, &world)?;
        Tcp::v4(2_000_000).run(&fourth.party, &world)?;
        Tcp::v4(1_000_000).run(&first.party, &world)?;
        let known = ["101", "103", "104"].map(|machine| scene.meterd.counted(machine));
        let known = known.into_iter().collect::<Result<Vec<_>>>()?;

        let refused = scene.meterd.cli(&["restore", &backup])?;
        assert_eq!(code(&refused), 75, "{}", errors(&refused));
        scene.meterd.stop(End::Killed)?;
        // The kernel counts on, with no daemon and an older ledger.
        datagrams(200, &third.party, &world)?;
        Tcp::v4(500_000).run(&world, &first.party)?;
        let restored = scene
            .meterd
            .json(&["restore", &backup, "--reason", "disk"])?;
        let aside = PathBuf::from(restored["aside"].as_str().unwrap_or_default());
        assert!(aside.exists(), "{restored}");
        scene.meterd.start()?;
        datagrams(100, &third.party, &world)?;
        Tcp::v4(300_000).run(&world, &fourth.party)?;

        for (machine, guest) in [("101", &first), ("103", &third), ("104", &fourth)] {
            let wire = on_the_wire(&mut scene, guest)?;
            assert_eq!(
                scene.meterd.counted(machine)?,
                wire,
                "{machine}, was {known:?}"
            );
        }
        // Its counter was 103's, too: what it moved after the backup is nobody's here.
        assert_eq!(scene.meterd.counted("102")?, at_backup);
        assert_eq!(events(&scene.meterd, "102", "counter-superseded")?.len(), 1);
        let told = scene.meterd.text(&["events", "--since", "1h"])?;
        assert!(told.contains("ledger-restored"), "{told}");
        assert_adds_up(&scene.meterd)
    })
}

#[test]
fn a_backup_is_for_its_owner_verified_and_takes_nobodys_place_unasked() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        Tcp::v4(1_000_000).run(&scene.guest.party, &scene.node.world)?;
        assert_adds_up(&scene.meterd)?;
        let backup = path(&scene.meterd, "copy.db");
        scene.meterd.text(&["backup", &backup])?;
        let mode = fs::metadata(&backup).could_not(|| "look at the backup")?;
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let again = scene.meterd.cli(&["backup", &backup])?;
        assert_eq!(code(&again), 73, "{}", errors(&again));
        assert!(errors(&again).contains("--replace"), "{}", errors(&again));
        scene.meterd.text(&["backup", &backup, "--replace"])?;
        assert_eq!(scene.meterd.json(&["verify", &backup])?["ok"], true);
        fs::write(&backup, "SQLite format 3\0, and no more").could_not(|| "damage it")?;
        let damaged = scene.meterd.cli(&["verify", &backup])?;
        assert_eq!(code(&damaged), 65, "{}", errors(&damaged));
        let missing = scene.meterd.cli(&["verify", "/nonexistent/copy.db"])?;
        assert_eq!(code(&missing), 66, "{}", errors(&missing));
        let unable = scene.meterd.cli(&["backup", "/nonexistent/copy.db"])?;
        assert_eq!(code(&unable), 74, "{}", errors(&unable));
        Ok(())
    })
}

const STRICT: &str = "
allowance = '1 GB'
[[rule]]
used = '80%'
notify = true
[[rule]]
used = '105%'
throttle = '64 kbit/s'
";

const TAPS: &str = r"
poll-interval = '1s'
[[discover]]
interface = '^tap(?<machine>\d+)i\d+$'
plan = 'strict'
";

/// The hours before this one, oldest first, each with so many bytes received.
fn hours_before_now(each: &[u64]) -> Result<String> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let end = now / 3600 * 3600;
    let count = each.len() as u64;
    let mut csv = "time,received,sent\n".to_owned();
    for (position, received) in (1..).zip(each) {
        let at = end - (count - position) * 3600;
        csv += &format!("{},{received},5\n", instant(at));
    }
    Ok(csv)
}

/// RFC 3339 of seconds since 1970 (Hinnant's civil_from_days).
fn instant(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[test]
fn usage_from_elsewhere_counts_for_the_plan_once_and_only_where_nothing_is_recorded() -> Result<()>
{
    Sandbox::run(|sandbox| {
        let scene = Scene::prepare(sandbox, TAPS)?;
        scene.meterd.write("plans/strict.toml", STRICT)?;
        let scene = scene.started()?;
        Tcp::v4(1_000_000).run(&scene.guest.party, &scene.node.world)?;
        let before = bytes(&scene.meterd.status(MACHINE)?, "used")?;
        let period = &scene.meterd.status(MACHINE)?["period"]["start"];
        println!("measured {before}, in the period from {period}");

        // Three hours; on the first of a month some of them are of the month before.
        let csv = hours_before_now(&[300_000_000, 300_000_000, 600_000_000])?;
        scene.meterd.write("usage.csv", &csv)?;
        let file = path(&scene.meterd, "usage.csv");
        let import = ["import", MACHINE, "--from", &file];
        let shown = scene.meterd.json(&[&import[..], &["--dry-run"]].concat())?;
        assert_eq!(shown["events"][0]["received"], 1_200_000_000, "{shown}");
        let counted = bytes(&shown["events"][0], "in_period")?;
        assert_eq!(bytes(&scene.meterd.status(MACHINE)?, "used")?, before);

        let with_key = [&import[..], &["--key", "move-in-1"]].concat();
        let first = scene.meterd.json(&with_key)?;
        assert_eq!(first["dry_run"], false, "{first}");
        assert_eq!(scene.meterd.json(&with_key)?, first, "the same key again");
        let status = scene.meterd.status(MACHINE)?;
        assert_eq!(bytes(&status, "used")?, before + counted, "{status}");
        if counted > 1_050_000_000 {
            assert_eq!(status["state"], "throttled", "{status}");
        }
        let again = scene.meterd.cli(&import)?;
        assert_eq!(code(&again), 1, "{}", errors(&again));
        assert!(
            errors(&again).contains("imported already"),
            "{}",
            errors(&again)
        );
        scene
            .meterd
            .write("other.csv", &csv.replace(",600000000,", ",600000001,"))?;
        let other = path(&scene.meterd, "other.csv");
        let overlap = scene.meterd.cli(&["import", MACHINE, "--from", &other])?;
        assert_eq!(code(&overlap), 1, "{}", errors(&overlap));
        assert!(errors(&overlap).contains("row 1 ("), "{}", errors(&overlap));
        let nobody = scene.meterd.cli(&["import", "nobody", "--from", &file])?;
        assert_eq!(code(&nobody), 1, "{}", errors(&nobody));
        let broken = scene
            .meterd
            .cli(&["import", MACHINE, "--from", "/proc/self/status"])?;
        assert_eq!(code(&broken), 65, "{}", errors(&broken));

        let by_hour = scene.meterd.json(&["usage", MACHINE, "--by", "hour"])?;
        let sum: u64 = by_hour
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|row| Some(row["received"].as_u64()? + row["sent"].as_u64()?))
            .sum();
        assert_eq!(sum, before + 1_200_000_015);
        assert_eq!(events(&scene.meterd, MACHINE, "imported")?.len(), 1);
        assert_adds_up(&scene.meterd)
    })
}

#[test]
fn a_machine_is_forgotten_when_it_is_gone_and_its_bytes_are_then_in_one_event() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::prepare(sandbox, TAPS)?;
        scene.meterd.write("plans/strict.toml", STRICT)?;
        let mut scene = scene.started()?;
        let guest = scene.guest.clone();
        Tcp::v4(1_000_000).run(&guest.party, &scene.node.world)?;
        let forget = ["forget", MACHINE, "--yes", "--reason", "cancelled in May"];
        let here = scene.meterd.cli(&forget)?;
        assert_eq!(code(&here), 1, "{}", errors(&here));
        assert!(errors(&here).contains("interfaces"), "{}", errors(&here));
        unplug(&scene, &guest, MACHINE)?;
        let held = scene.meterd.counted(MACHINE)?;
        let unsure = scene.meterd.cli(&["forget", MACHINE])?;
        assert_eq!(code(&unsure), 64, "{}", errors(&unsure));
        let shown = scene.meterd.json(&["forget", MACHINE, "--dry-run"])?;
        assert_eq!(bytes(&shown["events"][0], "sent")?, held.sent);
        assert_eq!(scene.meterd.counted(MACHINE)?, held);

        scene.meterd.text(&forget)?;
        let gone = scene.meterd.cli(&["status", MACHINE])?;
        assert_eq!(code(&gone), 1, "{}", errors(&gone));
        let told = events(&scene.meterd, MACHINE, "forgotten")?;
        assert_eq!(told.len(), 1);
        assert_eq!(
            (bytes(&told[0], "received")?, bytes(&told[0], "sent")?),
            (held.received, held.sent)
        );
        assert_eq!(told[0]["by"], "root");
        assert_eq!(told[0]["reason"], "cancelled in May");
        assert_adds_up(&scene.meterd)?;
        // Also after a restart; and one of the same name begins at nothing.
        scene.meterd.stop(End::Asked)?;
        scene.meterd.start()?;
        let gone = scene.meterd.cli(&["status", MACHINE])?;
        assert_eq!(code(&gone), 1, "{}", errors(&gone));
        let guest = plug(&scene, 101)?;
        let wire = on_the_wire(&mut scene, &guest)?;
        Tcp::v4(10_000).run(&guest.party, &scene.node.world)?;
        let moved = on_the_wire(&mut scene, &guest)? - wire;
        let counted = scene.meterd.counted(MACHINE)?;
        assert!(
            counted.sent >= moved.sent && counted.sent < held.sent,
            "{counted:?}"
        );

        // Without a daemon, too.
        unplug(&scene, &guest, MACHINE)?;
        scene.meterd.stop(End::Asked)?;
        let unknown = scene.meterd.cli(&["forget", "nobody", "--yes"])?;
        assert_eq!(code(&unknown), 1, "{}", errors(&unknown));
        scene.meterd.text(&forget)?;
        assert_adds_up(&scene.meterd)?;
        scene.meterd.start()?;
        assert_eq!(events(&scene.meterd, MACHINE, "forgotten")?.len(), 2);
        Ok(())
    })
}

const OWING: &str = "
allowance = '1 kB'
[price]
currency = 'EUR'
overage = { per = '1 MB', price = '1.00', collect = 'invoice', due = '60d' }
";

#[test]
fn a_machine_with_an_unpaid_bill_is_not_forgotten_with_the_daemon_or_without() -> Result<()> {
    if !needs::shown_clock()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let scene = Scene::prepare(sandbox, TAPS)?;
        scene.meterd.write("plans/strict.toml", OWING)?;
        scene.meterd.shift_clock(0, Synchronised::Yes)?;
        let mut scene = scene.started()?;
        let guest = scene.guest.clone();
        Tcp::v4(1_000_000).run(&guest.party, &scene.node.world)?;
        scene.meterd.status(MACHINE)?;
        // The next month: the bill is issued.
        scene.meterd.shift_clock(32 * 86_400, Synchronised::Yes)?;
        scene.meterd.status(MACHINE)?;
        unplug(&scene, &guest, MACHINE)?;
        let bills = scene.meterd.json(&["invoices"])?;
        let number = bills[0]["invoice"].as_str().unwrap_or_default().to_owned();
        assert_eq!(bills[0]["status"], "unpaid", "{bills}");
        let forget = ["forget", MACHINE, "--yes", "--reason", "cancelled"];
        let assert_refused = |scene: &Scene<'_>| -> Result<()> {
            let refused = scene.meterd.cli(&forget)?;
            assert_eq!(code(&refused), 1, "{}", errors(&refused));
            for word in [MACHINE, number.as_str(), "unpaid", "meterd pay"] {
                assert!(errors(&refused).contains(word), "{}", errors(&refused));
            }
            Ok(())
        };
        let held = scene.meterd.counted(MACHINE)?;
        assert_refused(&scene)?;
        scene.meterd.stop(End::Asked)?;
        assert_refused(&scene)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted(MACHINE)?, held);
        scene.meterd.text(&["pay", &number])?;
        scene.meterd.text(&forget)?;
        assert_adds_up(&scene.meterd)
    })
}

#[test]
fn the_ledger_of_a_stopped_daemon_is_verified_too_and_the_key_is_made_for_its_owner() -> Result<()>
{
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        Tcp::v4(1_000_000).run(&scene.guest.party, &scene.node.world)?;
        let public = scene.meterd.text(&["export", "--public-key"])?;
        scene.meterd.stop(End::Killed)?;
        assert_adds_up(&scene.meterd)?;
        assert_eq!(scene.meterd.text(&["export", "--public-key"])?, public);
        let key = scene.meterd.directory().join("state/statement.key");
        let mode = fs::metadata(&key).could_not(|| "look at the key")?;
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert!(
            !contains(&key, public.trim())?,
            "the secret one is in the file"
        );
        let refused = scene
            .meterd
            .cli_without_privilege(&["export", "--public-key"])?;
        assert_eq!(code(&refused), 77, "{}", errors(&refused));
        Ok(())
    })
}

fn contains(file: &Path, text: &str) -> Result<bool> {
    let whole = fs::read_to_string(file).could_not(|| "read the key")?;
    if whole.trim().len() != 64 {
        return Err(Failure::new(format!("{} digits", whole.trim().len())));
    }
    Ok(whole.contains(text))
}
