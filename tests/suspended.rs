//! A suspended machine's links: down while it is suspended, whoever sets them up, and
//! afterwards with everything that they had.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result, inspect,
    links::{self, End, Mac},
    meterd::{End as Stop, Meterd, sample},
    packet::Ends,
    routed::{
        OTHER, TAP, far4, furnish, is_down, out, routed, until_down, v4, v6, wait_for,
        wait_for_picture,
    },
    routing::{self, Picture, Route},
    sandbox::Sandbox,
    scene::until_metered,
    stall,
    tap::Tap,
    topology::{BRIDGE, Node, Party, Port},
};
use rustix::mount::MountFlags;

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 9750;
const MACHINE: &str = "201";

const CONFIG: &str = r"
poll-interval = '1s'
[metrics]
listen = '127.0.0.1:9750'
[[discover]]
interface = '^tap(?<machine>\d+)i'
plan = 'small'
";

const PLAN: &str = "
allowance = '1 MB'
[[rule]]
used = '100%'
suspend = true
";

fn daemon(sandbox: &Sandbox) -> Result<Meterd<'_>> {
    let mut meterd = Meterd::new(sandbox, CONFIG)?;
    meterd.write("plans/small.toml", PLAN)?;
    meterd.start()?;
    Ok(meterd)
}

/// A routed container with all that there is, its picture, and a daemon.
fn scene(sandbox: &Sandbox) -> Result<(Party, Picture, Meterd<'_>)> {
    let guest = routed()?;
    furnish(TAP)?;
    let picture = routing::picture(TAP)?;
    Ok((guest, picture, daemon(sandbox)?))
}

/// A frame of the guest's.
fn frame(guest: &Party, to: Mac) -> Vec<u8> {
    let ends = Ends {
        macs: (guest.mac, to),
        ips: (guest.v4, Ipv4Addr::new(10, 77, 0, 1)),
    };
    ends.udp(&[], 9, &[0; 1400])
}

fn use_up(guest: &Party) -> Result<()> {
    guest.inject(&frame(guest, Mac([2, 0, 0, 0, 0, 1])), 800)
}

fn details(meterd: &Meterd<'_>, event: &str) -> Result<Vec<String>> {
    let events = meterd.events(MACHINE)?;
    let of = events.iter().filter(|it| it["event"] == event);
    Ok(of
        .filter_map(|it| it["detail"].as_str().map(str::to_owned))
        .collect())
}

#[test]
fn whatever_ends_a_suspension_the_link_has_again_all_that_it_had() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (guest, before, meterd) = scene(sandbox)?;
        let lifted = |how: &str, lift: &dyn Fn() -> Result<()>| -> Result<()> {
            until_down(TAP)?;
            let lost = routing::picture(TAP)?;
            assert_ne!(lost, before, "a link that is down has lost what it had");
            assert!(lost["neighbours 4"].is_empty(), "{lost:?}");
            lift()?;
            let waited = wait_for_picture(TAP, &before)?;
            println!("{how}: all is back after {waited:?}");
            Ok(())
        };
        let ask = |arguments: &[&str]| meterd.text(arguments).map(drop);
        let stop = || ask(&["suspend", MACHINE, "--reason", "abuse"]);

        stop()?;
        lifted("lifted by hand", &|| ask(&["lift", MACHINE]))?;

        use_up(&guest)?;
        meterd.wait_for_state(MACHINE, "suspended", SOON)?;
        lifted("volume added", &|| ask(&["top-up", MACHINE, "3 MB"]))?;

        use_up(&guest)?;
        use_up(&guest)?;
        use_up(&guest)?;
        meterd.wait_for_state(MACHINE, "suspended", SOON)?;
        lifted("upgraded", &|| ask(&["set", MACHINE, "allowance=1 TB"]))?;

        stop()?;
        lifted("a dry run", &|| {
            meterd.configure(&format!("dry-run = true\n{CONFIG}"))?;
            ask(&["reload"])
        })?;
        meterd.configure(CONFIG)?;
        ask(&["reload"])?;
        lifted("nobody's any more", &|| {
            meterd.configure(&CONFIG.replace("^tap", "^vnet"))?;
            ask(&["reload"])
        })?;
        Ok(())
    })
}

#[test]
fn detaching_gives_the_link_back_with_the_daemon_running_stopped_or_dead() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (_guest, before, mut meterd) = scene(sandbox)?;
        for how in [None, Some(Stop::Asked), Some(Stop::Killed)] {
            meterd.text(&["suspend", MACHINE])?;
            until_down(TAP)?;
            if let Some(how) = how {
                meterd.stop(how)?;
                std::thread::sleep(Duration::from_millis(100));
                assert!(is_down(TAP)?, "stopping does not release");
            }
            let said = meterd.text(&["detach"])?;
            assert!(said.contains("the hold on tap201i0"), "{said}");
            assert!(!said.contains("NOT"), "{said}");
            wait_for_picture(TAP, &before)?;
            if how.is_none() {
                meterd.wait()?;
            }
            assert!(!meterd.text(&["detach"])?.contains("hold on"));
            assert_eq!(routing::picture(TAP)?, before);
            assert_eq!(
                inspect::pins(&meterd.pins())?,
                Vec::<std::path::PathBuf>::new()
            );
            // The suspension itself is in the ledger, and so is carried out again.
            meterd.start()?;
            until_down(TAP)?;
            meterd.text(&["lift", MACHINE])?;
            wait_for_picture(TAP, &before)?;
        }
        Ok(())
    })
}

#[test]
fn a_kill_at_any_point_of_a_suspension_or_a_release_loses_nothing_of_the_link() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (_guest, before, mut meterd) = scene(sandbox)?;
        let mut seed = 0x5eed_u64;
        let mut halfway = 0;
        for round in 0..24 {
            // Odd steps through the first milliseconds after the command.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let delay = Duration::from_micros((seed >> 33) % 12_000);
            let (command, state) = match round % 2 {
                0 => ("suspend", "suspended"),
                _ => ("lift", "normal"),
            };
            let mut asked = meterd.command(&[command, MACHINE])?;
            let asked = asked.stdout(Stdio::null()).stderr(Stdio::null());
            let mut asked = asked.spawn().could_not(|| "run meterd")?;
            std::thread::sleep(Duration::from_millis(3) + delay);
            meterd.stop(Stop::Killed)?;
            drop(asked.wait());
            let link = links::get(TAP)?.up;
            let now = routing::picture(TAP)?;
            halfway += u32::from(link && now != before);
            meterd.start()?;
            if meterd.status(MACHINE)?["state"] != state {
                meterd.text(&[command, MACHINE])?;
            }
            match round % 2 {
                0 => drop(until_down(TAP)?),
                _ => drop(wait_for_picture(TAP, &before)?),
            }
        }
        println!("24 kills, {halfway} of them with the link up and something missing");
        Ok(())
    })
}

#[test]
fn a_link_that_somebody_sets_up_is_down_again_at_once_and_without_a_fight() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (_guest, before, meterd) = scene(sandbox)?;
        meterd.text(&["suspend", MACHINE])?;
        until_down(TAP)?;
        links::up(TAP)?;
        let (_, waited) = stall::timed(|| until_down(TAP))?;
        println!("down again after {waited:?}");
        assert!(waited < Duration::from_secs(2), "{waited:?}");
        let repairs = || -> Result<f64> {
            let metrics = meterd.metrics(PORT)?;
            sample(&metrics, "meterd_drift_repairs_total", &[]).ok_or_else(|| Failure::new(metrics))
        };
        let one = repairs()?;
        assert!(one >= 1.0, "{one}");

        let begun = Instant::now();
        let (mut times, mut longest) = (0, Duration::ZERO);
        while begun.elapsed() < Duration::from_secs(4) {
            links::up(TAP)?;
            times += 1;
            longest = longest.max(stall::timed(|| until_down(TAP))?.1);
        }
        let answered = repairs()? - one;
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "set up {times} times in {seconds:.1} s, {answered} answers, the longest after {longest:?}"
        );
        assert!(answered <= 2.0 * seconds, "{answered} in {seconds} s");
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        let said = details(&meterd, "enforcement-changed")?;
        let fights = said.iter().filter(|it| it.contains("down again")).count();
        assert_eq!(fights, 1, "{said:?}");

        // What somebody adds meanwhile is not lost either.
        let direct = [out(TAP)];
        let added = Route::host(far4(200), &direct);
        links::up(TAP)?;
        added.add()?;
        until_down(TAP)?;
        meterd.text(&["lift", MACHINE])?;
        wait_for("the added route", || {
            Ok(routing::picture(TAP)?["routes 4"].len() == before["routes 4"].len() + 1)
        })?;
        added.remove()?;
        wait_for_picture(TAP, &before)?;
        Ok(())
    })
}

#[test]
fn an_interface_made_anew_or_renamed_is_held_and_gets_nothing_of_the_old_one() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (guest, before, meterd) = scene(sandbox)?;
        meterd.text(&["suspend", MACHINE])?;
        until_down(TAP)?;
        links::rename(TAP, "tap201i7")?;
        std::thread::sleep(Duration::from_millis(300));
        until_down("tap201i7")?;
        meterd.text(&["lift", MACHINE])?;
        wait_for_picture("tap201i7", &before)?;

        meterd.text(&["suspend", MACHINE])?;
        until_down("tap201i7")?;
        links::delete("tap201i7")?;
        let end = |name| End { name, mac: None };
        links::veth(end(TAP), end("eth0"), &guest.namespace)?;
        links::silence(TAP)?;
        let fresh = routing::picture(TAP)?;
        links::up(TAP)?;
        until_metered(TAP)?;
        until_down(TAP)?;
        meterd.text(&["lift", MACHINE])?;
        wait_for_picture(TAP, &fresh)?;
        Ok(())
    })
}

#[test]
fn a_link_that_was_down_before_stays_down() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (_guest, _before, meterd) = scene(sandbox)?;
        links::down(TAP)?;
        let before = routing::picture(TAP)?;
        meterd.text(&["suspend", MACHINE])?;
        let explained = meterd.text(&["explain", MACHINE])?;
        assert!(explained.contains("not by meterd"), "{explained}");
        meterd.text(&["lift", MACHINE])?;
        std::thread::sleep(Duration::from_millis(1500));
        assert!(is_down(TAP)?);
        assert_eq!(routing::picture(TAP)?, before);
        Ok(())
    })
}

#[test]
fn what_cannot_be_put_back_is_said_and_tried_until_it_can() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (_guest, before, meterd) = scene(sandbox)?;
        meterd.text(&["suspend", MACHINE])?;
        until_down(TAP)?;
        // Somebody leads one of the destinations elsewhere, in the same table and metric.
        let elsewhere = [out(OTHER)];
        let foreign = Route {
            metric: 50,
            ..Route::host(far4(5), &elsewhere)
        };
        foreign.add()?;
        meterd.text(&["lift", MACHINE])?;
        wait_for("the failure to be said", || {
            let said = details(&meterd, "enforcement-failed")?;
            Ok(said
                .iter()
                .any(|it| it.contains("203.0.113.5/32") && it.contains("metric 50")))
        })?;
        let now = routing::picture(TAP)?;
        assert_eq!(
            now["routes 4"].len() + 1,
            before["routes 4"].len(),
            "only that one lacks"
        );
        assert_eq!(
            routing::picture(OTHER)?["routes 4"].len(),
            5,
            "theirs stays"
        );
        let explained = meterd.text(&["explain", MACHINE])?;
        assert!(
            explained.contains("not put back yet: route 203.0.113.5/32"),
            "{explained}"
        );
        foreign.remove()?;
        wait_for_picture(TAP, &before)?;
        Ok(())
    })
}

#[test]
fn a_link_with_something_that_could_not_be_put_back_stays_up_and_nothing_passes() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let (guest, before, meterd) = scene(sandbox)?;
        let direct = [out(TAP)];
        let expiring = Route {
            expires: 600,
            ..Route::host(v6(0xf, 0x77), &direct)
        };
        routing::nexthop(5, TAP, v4(9))?;
        expiring.add()?;
        let all = routing::picture(TAP)?;
        meterd.text(&["suspend", MACHINE])?;
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!is_down(TAP)?);
        assert_eq!(routing::picture(TAP)?, all);
        let used = meterd.counted(MACHINE)?;
        use_up(&guest)?;
        assert_eq!(meterd.counted(MACHINE)?, used, "nothing passes");
        let labels = [("reason", "suspended"), ("direction", "sent")];
        let dropped = sample(
            &meterd.metrics(PORT)?,
            "meterd_dropped_bytes_total",
            &labels,
        );
        assert!(dropped.is_some_and(|bytes| bytes > 1e6), "{dropped:?}");
        for said in [
            meterd.text(&["explain", MACHINE])?,
            meterd.text(&["status", MACHINE])?,
            details(&meterd, "enforcement-changed")?.join("\n"),
        ] {
            assert!(said.contains("the link stays up"), "{said}");
            assert!(said.contains("nexthop object 5"), "{said}");
            assert!(said.contains("it expires by itself"), "{said}");
        }
        // When that is gone, the link follows with the next poll.
        routing::remove_nexthop(5)?;
        expiring.remove()?;
        until_down(TAP)?;
        assert!(meterd.text(&["explain", MACHINE])?.contains("link down"));
        meterd.text(&["lift", MACHINE])?;
        wait_for_picture(TAP, &before)?;
        Ok(())
    })
}

#[test]
fn a_bridge_port_and_a_plain_tap_come_back_as_they_were_and_let_nothing_through() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(201))?;
        let mut plain = Tap::new("tap201i1")?;
        let port = Tap::new("tap201i2")?;
        links::join(port.name(), BRIDGE)?;
        links::forward(port.name(), Mac([2, 0, 0, 0, 2, 2]))?;
        routing::take_in(port.name(), Mac([2, 0, 0, 0, 2, 3]))?;
        links::address(plain.name(), v4(1), 24)?;
        links::neighbour(plain.name(), v4(9), Mac([2, 0, 0, 0, 0, 9]))?;
        Route::host(far4(5), &[out(plain.name())]).add()?;
        let names = [TAP, plain.name(), port.name()].map(str::to_owned);
        let before: Vec<Picture> = names
            .iter()
            .map(|it| routing::picture(it))
            .collect::<Result<_>>()?;
        let meterd = daemon(sandbox)?;
        meterd.text(&["set", MACHINE, "allowance=1 TB"])?;
        meterd.text(&["suspend", MACHINE])?;
        for name in &names {
            until_down(name)?;
        }
        let mut capture = meter_tests::capture::Capture::on(&node.world.namespace, "wan0")?;
        let frame = frame(&guest.party, node.world.mac);
        for _ in 0..20 {
            links::up(TAP)?;
            // It drops what comes while the link is down by itself.
            for _ in 0..50 {
                drop(guest.party.inject(&frame, 1));
            }
        }
        plain.send(&frame).ok();
        let passed = capture.settled(guest.party.mac)?;
        assert_eq!(passed.sent.frames, 0, "{passed:?}");
        until_down(TAP)?;
        meterd.text(&["lift", MACHINE])?;
        for (name, before) in names.iter().zip(&before) {
            wait_for_picture(name, before)?;
        }
        links::until_operating(TAP)?;
        guest.party.inject(&frame, 3)?;
        assert_eq!(capture.settled(guest.party.mac)?.sent.frames, 3);
        Ok(())
    })
}

#[test]
fn what_cannot_be_noted_is_not_taken_down_until_it_can() -> Result<()> {
    Sandbox::beside(|sandbox| {
        let _guest = routed()?;
        furnish(TAP)?;
        let before = routing::picture(TAP)?;
        let mut meterd = Meterd::new(sandbox, CONFIG)?;
        meterd.write("plans/small.toml", PLAN)?;
        // A disk of its own for the ledger.
        let state = meterd.directory().join("state");
        fs::create_dir(&state).could_not(|| "make the state directory")?;
        let size = c"size=4m";
        rustix::mount::mount("tmpfs", &state, "tmpfs", MountFlags::empty(), size)
            .could_not(|| "mount a small tmpfs")?;
        meterd.start()?;
        meterd.text(&["suspend", MACHINE])?;
        until_down(TAP)?;
        let filler = state.join("filler");
        fill(&filler);
        let added = Route::host(far4(200), &[out(TAP)]).add();
        assert!(added.is_err(), "it is down");
        links::up(TAP)?;
        Route::host(far4(200), &[out(TAP)]).add()?;
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!is_down(TAP)?, "the route would be lost: {}", meterd.log());
        fs::remove_file(&filler).could_not(|| "make room")?;
        until_down(TAP)?;
        meterd.text(&["lift", MACHINE])?;
        wait_for("the route", || {
            Ok(routing::picture(TAP)?["routes 4"].len() == before["routes 4"].len() + 1)
        })?;
        Route::host(far4(200), &[out(TAP)]).remove()?;
        wait_for_picture(TAP, &before)?;
        meterd.stop(Stop::Asked)?;
        Ok(())
    })
}

/// To the last byte.
fn fill(path: &Path) {
    use std::io::Write;
    let Ok(mut file) = fs::File::create(path) else {
        return;
    };
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0]).is_ok() {}
}
