//! What others do to the interfaces that meterd meters, by their own programs and in the
//! order of the field: nftables rules on a tap, Proxmox VE's and libvirt's rate limits.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result,
    foreign::{Filter, Place},
    inspect::{self, Hook},
    links,
    meterd::{End, Meterd},
    needs,
    rate_limits::{LIBVIRT, PROXMOX, run, set_up},
    sandbox::{Namespace, Sandbox},
    scene::{EVERY_TAP, MACHINE, Scene, until_metered},
    topology::{ETH, Party, Port},
    traffic::{Bulk, ping},
    wait::{self, Seen},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(10);

/// No poll comes to anybody's help while a test looks on.
fn metered(sandbox: &Sandbox) -> Result<Scene<'_>> {
    Scene::strict(sandbox, "poll-interval = '1h'\n")?.started()
}

fn until_said(meterd: &Meterd<'_>, event: &str, about: &str) -> Result<()> {
    let said = |found: &Value| {
        let words = ["detail", "reason"].map(|key| found[key].as_str().unwrap_or_default());
        found["event"] == event && words.iter().any(|words| words.contains(about))
    };
    let what = format!("an event {event} about {about}");
    let seen = wait::until(&what, Duration::from_millis(50), SOON, || {
        let events = meterd.events(MACHINE)?;
        Ok(match events.iter().any(said) {
            true => Seen::Yes(()),
            false => Seen::NotYet(format!("{events:#?}")),
        })
    });
    seen.map(|_| ())
}

const SPOOFED: Ipv4Addr = Ipv4Addr::new(10, 9, 66, 66);

/// Small datagrams from an address that is not the guest's, slowly enough for a throttle.
fn spoof(guest: &Party, world: &Party, datagrams: u32) -> Result<()> {
    guest.namespace.run(|| {
        let socket = UdpSocket::bind((SPOOFED, 0)).could_not(|| "bind")?;
        for _ in 0..datagrams {
            let sent = socket.send_to(&[0x5a; 40], (world.v4, 9));
            sent.could_not(|| "send a datagram")?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })
}

/// How many packets the only rule with a counter has dropped.
fn dropped(chain: &str) -> Result<u64> {
    let text = run(&format!("nft list chain {chain}"))?;
    let after = text.split("counter packets ").nth(1).unwrap_or_default();
    let number = after.split_whitespace().next().unwrap_or_default();
    number
        .parse()
        .map_err(|_| Failure::new(format!("no counter in {text}")))
}

/// What tc shows of an interface, without its figures.
fn shown(device: &str) -> Result<String> {
    let all = ["qdisc", "class"].map(|what| run(&format!("tc {what} show dev {device}")));
    let [qdiscs, classes] = all;
    // How often a qdisc is referred to is no part of its settings.
    Ok((qdiscs? + &classes?).replace("refcnt 2 ", ""))
}

const OURS: &str = "htb 6d74:";

fn until_shown(device: &str, what: &str, holds: impl Fn(&str) -> bool) -> Result<Duration> {
    let (_, took) = wait::until(what, Duration::from_millis(5), SOON, || {
        let now = shown(device)?;
        Ok(match holds(&now) {
            true => Seen::Yes(()),
            false => Seen::NotYet(now),
        })
    })?;
    Ok(took)
}

/// spec: nothing of theirs fails before, during and after a throttle; ours is back when they
/// are done, and what stands when we go is theirs as they left it.
#[test]
fn proxmoxs_and_libvirts_rate_limits_are_set_up_before_during_and_after_a_throttle() -> Result<()> {
    // By clsact their sequences differ: see below.
    if !needs::program("tc") || !needs::tcx()? {
        return Ok(());
    }
    for (who, steps, restorable) in [("Proxmox VE", &PROXMOX, true), ("libvirt", &LIBVIRT, false)] {
        Sandbox::beside(|sandbox| {
            let device = "tap101i0";
            let scene = metered(sandbox)?;
            let said = |failure: Failure| Failure::new(format!("{who}: {failure}"));
            // Before: on a metered interface, as often as they like.
            for _ in 0..3 {
                set_up(steps, device).map_err(said)?;
            }
            let theirs = shown(device)?;
            scene.throttle()?;
            if restorable {
                until_shown(device, "our shaper", |shown| shown.contains(OURS))?;
            }
            // During: the NIC is edited, with a limit and without one.
            for round in 0..10 {
                set_up(steps, device)
                    .map_err(|failure| Failure::new(format!("{who}, round {round}: {failure}")))?;
                std::thread::sleep(Duration::from_millis(37 * round));
            }
            if restorable {
                let took = until_shown(device, "our shaper again", |shown| shown.contains(OURS))?;
                println!("{who}: our shaper is back {took:?} after their last command");
                for step in &steps[..4] {
                    drop(run(&step.command.replace("DEV", device)));
                }
                until_shown(device, "our shaper again", |shown| shown.contains(OURS))?;
                set_up(steps, device).map_err(said)?;
                until_shown(device, "our shaper again", |shown| shown.contains(OURS))?;
            }
            scene.meterd.text(&["lift", MACHINE])?;
            // After: theirs, as they left it, and theirs to change.
            until_shown(device, "theirs again", |shown| shown == theirs)?;
            set_up(steps, device).map_err(said)?;
            assert_eq!(shown(device)?, theirs, "{who}");
            Ok(())
        })?;
    }
    Ok(())
}

/// spec: if someone changed the root qdisc meanwhile, theirs wins on lifting; be it that they
/// have just taken it away, and that ours was not back yet.
#[test]
fn a_rate_limit_that_somebody_takes_away_does_not_come_back_with_a_lift_at_once() -> Result<()> {
    // By clsact their sequences differ: see below.
    if !needs::program("tc") || !needs::tcx()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let device = "tap101i0";
        let scene = metered(sandbox)?;
        let none = shown(device)?;
        set_up(&PROXMOX, device)?;
        scene.throttle()?;
        until_shown(device, "our shaper", |shown| shown.contains(OURS))?;
        for step in &PROXMOX[..4] {
            drop(run(&step.command.replace("DEV", device)));
        }
        scene.meterd.text(&["lift", MACHINE])?;
        let ours_gone = |shown: &str| !shown.contains(OURS);
        until_shown(device, "no shaper", ours_gone)?;
        assert_eq!(shown(device)?, none);
        Ok(())
    })
}

/// A guest's new interface as its hypervisor sets it up: the two take turns, and their time.
fn plugged(round: u8, guests: &Namespace) -> Result<String> {
    let device = format!("tap101i{}", round + 1);
    let end = |name| links::End { name, mac: None };
    links::veth(end(&device), end("eth0"), guests)?;
    std::thread::sleep(Duration::from_millis(20 * u64::from(round % 5)));
    links::up(&device)?;
    let steps = [&PROXMOX, &LIBVIRT][usize::from(round % 2)];
    set_up(steps, &device).map_err(|failure| Failure::new(format!("round {round}: {failure}")))?;
    Ok(device)
}

/// A guest that is throttled already is started: its hypervisor sets its interface up while
/// we throttle it.
#[test]
fn a_throttled_machines_new_interface_is_set_up_by_its_hypervisor_undisturbed() -> Result<()> {
    // By clsact their sequences differ: see below.
    if !needs::program("tc") || !needs::tcx()? {
        return Ok(());
    }
    Sandbox::beside(|sandbox| {
        let scene = metered(sandbox)?;
        scene.throttle()?;
        let guests = Namespace::new()?;
        for round in 0..10 {
            let device = plugged(round, &guests)?;
            if round % 2 == 0 {
                until_shown(&device, "our shaper", |shown| shown.contains(OURS))?;
            }
            links::delete(&device)?;
        }
        Ok(())
    })
}

/// By `clsact`, on any kernel.
fn by_clsact(sandbox: &Sandbox) -> Result<Scene<'_>> {
    Scene::prepare(sandbox, &format!("attach = 'clsact'\n{EVERY_TAP}"))
}

/// spec: without TCX their qdisc is shared, and what they have put up first stands as they left it.
/// An `ingress` qdisc has no hook for what the guest receives, which is said.
#[test]
fn by_clsact_a_rate_limit_that_stood_first_is_kept_and_what_goes_uncounted_is_said() -> Result<()> {
    if !needs::program("tc") {
        return Ok(());
    }
    for steps in [&PROXMOX, &LIBVIRT] {
        Sandbox::run(|sandbox| {
            let scene = by_clsact(sandbox)?;
            set_up(steps, "tap101i0")?;
            let theirs = shown("tap101i0")?;
            let mut scene = scene.started()?;
            let about = "what the guest receives is not counted";
            until_said(&scene.meterd, "interface-unmetered", about)?;
            assert_eq!(shown("tap101i0")?, theirs);
            let moved = scene.watch(|guest, world| ping(guest, world.v4, 3, Duration::ZERO))?;
            assert_eq!((moved.wire.sent.bytes, moved.ledger.sent), (294, 294));
            assert_eq!((moved.wire.received.bytes, moved.ledger.received), (294, 0));
            scene.meterd.text(&["detach"])?;
            assert_eq!(shown("tap101i0")?, theirs);
            set_up(steps, "tap101i0")
        })?;
    }
    Ok(())
}

/// spec: without TCX we attach after the hypervisor's own set-up: a guest with a rate limit starts,
/// and one without is metered a moment later, with all that it moved before.
#[test]
fn by_clsact_a_guest_is_set_up_by_its_hypervisor_before_we_attach() -> Result<()> {
    if !needs::program("tc") {
        return Ok(());
    }
    Sandbox::beside(|sandbox| {
        let scene = by_clsact(sandbox)?.started()?;
        let guests = Namespace::new()?;
        for round in 0..10 {
            let device = plugged(round, &guests)?;
            let theirs = shown(&device)?;
            let tap = links::find(&device)?
                .ok_or_else(|| Failure::new("no tap"))?
                .index;
            wait::until("our program", Duration::from_millis(20), SOON, || {
                Ok(match inspect::programs(tap, Hook::Sent)?.len() {
                    0 => Seen::NotYet("none".to_owned()),
                    _ => Seen::Yes(()),
                })
            })?;
            assert_eq!(shown(&device)?, theirs, "round {round}");
            links::delete(&device)?;
        }
        let guest = scene.node.plug(Port::of(102))?;
        ping(&guest.party, scene.node.world.v4, 3, Duration::ZERO)?;
        until_metered(&guest.tap)?;
        assert_eq!(scene.meterd.counted("102")?.sent, 294);
        Ok(())
    })
}

/// What the operator's guide says of kernels without TCX, and why it is no attachment for nodes
/// where rate limits are changed in the panel.
#[test]
fn by_clsact_a_rate_limit_of_a_guest_that_runs_fails_and_counting_goes_on_until_detach()
-> Result<()> {
    if !needs::program("tc") {
        return Ok(());
    }
    for (who, steps) in [("Proxmox VE", &PROXMOX), ("libvirt", &LIBVIRT)] {
        Sandbox::run(|sandbox| {
            let mut scene = by_clsact(sandbox)?.started()?;
            let refused = set_up(steps, "tap101i0").expect_err("clsact stands");
            let refused = refused.to_string();
            assert!(refused.contains("ingress"), "{who}: {refused}");
            let moved = scene.watch(|guest, world| ping(guest, world.v4, 3, Duration::ZERO))?;
            assert_eq!(
                (moved.ledger.sent, moved.ledger.received),
                (294, 294),
                "{who}"
            );
            scene.meterd.text(&["detach"])?;
            set_up(steps, "tap101i0")
        })?;
    }
    Ok(())
}

/// What `doctor --json` says is on an interface.
fn conflicts(meterd: &Meterd<'_>, interface: &str) -> Result<String> {
    let all = meterd.json(&["doctor"])?;
    let found = all["interfaces"].as_array().into_iter().flatten();
    let one = found.into_iter().find(|one| one["interface"] == interface);
    one.map(|one| one["conflicts"].to_string())
        .ok_or_else(|| Failure::new(format!("doctor does not know {interface}: {all}")))
}

#[test]
fn doctor_shows_what_others_have_put_on_interfaces_and_what_becomes_of_it() -> Result<()> {
    if !needs::program("tc") || !needs::program("nft") || !needs::tcx()? {
        return Ok(());
    }
    Sandbox::beside(|sandbox| {
        let mut scene = metered(sandbox)?;
        assert_eq!(conflicts(&scene.meterd, "tap101i0")?, "[]");
        let first = Filter::tcx("tap101i0", Hook::Sent, Place::First)?;
        let last = Filter::tcx("tap101i0", Hook::Received, Place::Last)?;
        run("nft add table netdev spoof")?;
        run(
            "nft add chain netdev spoof a { type filter hook ingress device tap101i0 priority 0 ; }",
        )?;
        run("tc qdisc add dev tap101i0 root handle 1: htb default 1")?;
        run("tc class add dev tap101i0 parent 1: classid 1:1 htb rate 10mbit")?;
        let found = conflicts(&scene.meterd, "tap101i0")?;
        for part in [
            "a root qdisc htb",
            "put back as it was",
            "nftables chain netdev spoof a",
            "1 other tcx program(s) on what the guest sends, 1 of them before ours",
            "1 other tcx program(s) on what the guest receives",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
        set_up(&LIBVIRT, "tap101i0")?;
        let found = conflicts(&scene.meterd, "tap101i0")?;
        assert!(found.contains("could not be put back"), "{found}");
        drop((first, last));

        // The daemon's own circumstances, and those of the whole node.
        let all = scene.meterd.json(&["doctor"])?;
        let feature = |name: &str| {
            let features = all["features"].as_array().into_iter().flatten();
            let found = features.into_iter().find(|it| it["name"] == name);
            found.map(|it| it["present"] == true)
        };
        for name in ["its capabilities", "its network", "its pins"] {
            assert_eq!(feature(name), Some(true), "{name}: {all}");
        }
        assert_eq!(all["daemon"]["present"], true, "{all}");
        let text = scene.meterd.text(&["doctor"])?;
        assert!(text.contains("taps and veths are nobody's"), "{text}");

        let status = |meterd: &Meterd<'_>| Ok::<_, Failure>(meterd.cli(&["doctor"])?.status.code());
        assert_eq!(status(&scene.meterd)?, Some(0));
        let nobody = scene.meterd.cli_without_privilege(&["doctor"])?;
        assert_eq!(nobody.status.code(), Some(77), "{nobody:?}");
        scene.meterd.stop(End::Killed)?;
        assert_eq!(status(&scene.meterd)?, Some(0), "it needs no daemon");
        scene.meterd.configure("poll-interval = 'soon'\n")?;
        assert_eq!(status(&scene.meterd)?, Some(78));
        let directory = scene.meterd.directory().display().to_string();
        scene.meterd.configure(&format!(
            "state-directory = '{directory}/state'\nruntime-directory = '{directory}/run'\n\
             pin-directory = '{directory}/pins'\n"
        ))?;
        assert_eq!(
            status(&scene.meterd)?,
            Some(71),
            "nothing can be pinned there"
        );
        Ok(())
    })
}

/// spec: an anti-spoofing rule at nftables' `netdev` ingress must not be bypassed.
#[test]
fn an_nftables_rule_on_the_tap_stays_effective_under_a_throttle() -> Result<()> {
    if !needs::program("nft") {
        return Ok(());
    }
    for family in ["netdev", "inet"] {
        Sandbox::beside(|sandbox| {
            let mut scene = metered(sandbox)?;
            let chain = format!("{family} spoof tap101");
            run(&format!("nft add table {family} spoof"))?;
            run(&format!(
                "nft add chain {chain} {{ type filter hook ingress device tap101i0 priority 0 ; }}"
            ))?;
            run(&format!(
                "nft add rule {chain} ip saddr {SPOOFED} counter drop"
            ))?;
            let guest = scene.guest.party.clone();
            guest
                .namespace
                .run(|| links::address(ETH, SPOOFED.into(), 32))?;

            scene.throttle()?;
            until_said(
                &scene.meterd,
                "enforcement-changed",
                &format!("nftables chain {chain}"),
            )?;
            let before = scene.capture.settled(guest.mac)?;
            spoof(&guest, &scene.node.world, 20)?;
            let passed = scene.capture.settled(guest.mac)? - before;
            assert_eq!(
                passed.sent.frames, 0,
                "{family}: spoofed packets on the wire"
            );
            let dropped = dropped(&chain)?;
            // The program polices before the rule looks.
            assert!((1..=20).contains(&dropped), "{family}: {dropped}");

            // The rest of the throttle stands.
            ping(&guest, scene.node.world.v4, 3, Duration::ZERO)?;
            let down = Bulk::start(&scene.node.world, &guest, 1)?;
            let found = down.sustained(WINDOW, 50e3)?;
            println!("{family}: {found}");
            assert!(
                found.best >= 50e3 && found.overall <= 64e3,
                "{family}: {found}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// How many packets of a guest's were led into the IFB of its interface.
fn redirected(ifindex: u32) -> Result<u32> {
    const ALL: u32 = 0x6d74_0001;
    let ifb = links::get(&format!("mtrd{ifindex}"))?;
    inspect::class_packets(ifb.index, ALL)
}

/// Sends from the guest until what it sends is led into the IFB, or is not.
fn until_redirected(scene: &Scene<'_>, ifindex: u32, is: bool) -> Result<Duration> {
    let what = format!("what the guest sends redirected: {is}");
    // No more often than pings pass where they are policed.
    let (_, took) = wait::until(&what, Duration::from_millis(60), SOON, || {
        let before = redirected(ifindex)?;
        ping(&scene.guest.party, scene.node.world.v4, 1, Duration::ZERO)?;
        Ok(match (redirected(ifindex)? > before) == is {
            true => Seen::Yes(()),
            false => Seen::NotYet(format!("{before} packets before")),
        })
    })?;
    Ok(took)
}

/// spec: ours is back within one event, not one poll; and what a redirect would lead past is
/// seen when it comes.
#[test]
fn what_stands_in_the_way_of_a_shaper_is_noticed_as_it_comes_and_as_it_goes() -> Result<()> {
    if !needs::program("tc") || !needs::program("nft") || !needs::tcx()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let device = "tap101i0";
        let scene = metered(sandbox)?;
        let ifindex = links::get(device)?.index;

        // Somebody's root, from before the throttle: the machine is policed until it goes.
        set_up(&LIBVIRT, device)?;
        scene.throttle()?;
        until_said(&scene.meterd, "enforcement-changed", "policed instead")?;
        assert!(!shown(device)?.contains(OURS));
        let gone = Instant::now();
        run(&format!("tc qdisc del dev {device} root"))?;
        until_shown(device, "our shaper", |shown| shown.contains(OURS))?;
        let took = gone.elapsed();
        println!("our shaper stands {took:?} after the foreign root went");
        assert!(
            took >= Duration::from_millis(500),
            "they were left in peace"
        );

        // A filter at its ingress, then a chain of nftables: neither is led past.
        let filter = "parent ffff: prio 7 protocol ip u32 match u32 0 0 flowid :1";
        run(&format!("tc qdisc del dev {device} ingress"))?;
        let took = until_redirected(&scene, ifindex, true)?;
        println!("redirected {took:?} after the foreign filter went");
        run(&format!("tc qdisc add dev {device} ingress"))?;
        run(&format!("tc filter add dev {device} {filter}"))?;
        let took = until_redirected(&scene, ifindex, false)?;
        println!("not redirected {took:?} after a filter came");
        run(&format!("tc filter del dev {device} parent ffff: prio 7"))?;
        let took = until_redirected(&scene, ifindex, true)?;
        println!("redirected {took:?} after the filter went");
        for family in ["netdev", "inet"] {
            run(&format!("nft add table {family} spoof"))?;
            run(&format!(
                "nft add chain {family} spoof a {{ type filter hook ingress device {device} priority 0 ; }}"
            ))?;
            let took = until_redirected(&scene, ifindex, false)?;
            println!("not redirected {took:?} after a chain of {family} came");
            until_said(
                &scene.meterd,
                "enforcement-changed",
                &format!("chain {family} spoof"),
            )?;
            run(&format!("nft delete table {family} spoof"))?;
            let took = until_redirected(&scene, ifindex, true)?;
            println!("redirected {took:?} after it went");
        }
        until_said(&scene.meterd, "enforcement-changed", "shaped again")?;
        Ok(())
    })
}

/// Somebody who goes on at it is waited for, and told of once.
#[test]
fn a_foreign_root_that_is_edited_again_and_again_is_told_of_once() -> Result<()> {
    // By clsact their sequences differ: see below.
    if !needs::program("tc") || !needs::tcx()? {
        return Ok(());
    }
    Sandbox::run(|sandbox| {
        let device = "tap101i0";
        let scene = metered(sandbox)?;
        set_up(&LIBVIRT, device)?;
        scene.throttle()?;
        until_said(&scene.meterd, "enforcement-changed", "policed instead")?;
        for _ in 0..4 {
            set_up(&LIBVIRT, device)?;
            // Somebody asks in the midst of it.
            scene.meterd.events(MACHINE)?;
            std::thread::sleep(Duration::from_millis(700));
        }
        let events = scene.meterd.events(MACHINE)?;
        let policed = |event: &&Value| event.to_string().contains("policed instead");
        assert_eq!(events.iter().filter(policed).count(), 1, "{events:#?}");
        assert!(!shown(device)?.contains(OURS));
        Ok(())
    })
}
