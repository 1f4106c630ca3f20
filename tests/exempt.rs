//! Exempt prefixes, on real interfaces: counted apart, against no allowance, and stopped by
//! nothing that the plan does not stop.

use std::time::Duration;

use meter_tests::{
    Result,
    meterd::{End, bytes},
    sandbox::Sandbox,
    scene::{MACHINE, Scene},
    topology::Family,
    traffic::{Tcp, Udp, ping},
};

/// IPv4 to and from the world is exempt, IPv6 is not.
fn set<'a>(sandbox: &'a Sandbox, rule: &str) -> Result<Scene<'a>> {
    let config = "poll-interval = '1s'\n[[discover]]\n\
                  interface = '^tap(?<machine>\\d+)i\\d+$'\nplan = 'small'\n";
    let scene = Scene::prepare(sandbox, config)?;
    let (guest, world) = (&scene.guest.party, &scene.node.world);
    guest.speak_v6_with(world)?;
    world.speak_v6_with(guest)?;
    let far_end = world.address(Family::V4);
    let plan = format!(
        "period = {{ starts = 1 }}\nallowance = '5 MB'\nexempt = ['{far_end}', '192.0.2.0/24']\n{rule}\n"
    );
    scene.meterd.write("plans/small.toml", &plan)?;
    scene.started()
}

/// Uses the allowance up over IPv6, which is not exempt, until the machine is in `state`.
fn use_up(scene: &Scene<'_>, state: &str) -> Result<()> {
    let datagrams = Udp {
        datagrams: 5_000,
        each: 1_200,
        family: Family::V6,
        together: 1,
    };
    datagrams.spray(&scene.guest.party, &scene.node.world)?;
    scene
        .meterd
        .wait_for_state(MACHINE, state, Duration::from_secs(5))?;
    Ok(())
}

#[test]
fn exempt_traffic_is_counted_apart_and_against_no_allowance() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = set(sandbox, "[[rule]]\nused = '100%'\nsuspend = true")?;
        let watched = scene.watch(|guest, world| {
            Tcp::v4(20_000_000).run(world, guest)?;
            Tcp::v4(20_000_000).run(guest, world)
        })?;
        let status = scene.meterd.status(MACHINE)?;
        let wire = watched.wire.received.bytes + watched.wire.sent.bytes;
        // ARP and neighbour discovery are nobody's prefix.
        let others = bytes(&status, "used")?;
        assert!(others < 10_000, "{status}");
        assert!(
            bytes(&status, "exempt")?.abs_diff(wire) <= others + wire / 1_000,
            "{wire} on the wire: {status}"
        );
        assert_eq!(status["state"], "normal");
        Ok(())
    })
}

#[test]
fn exempt_traffic_goes_past_a_throttle_and_what_goes_past_is_not_used() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = set(sandbox, "[[rule]]\nused = '100%'\nthrottle = '64 kbit/s'")?;
        use_up(&scene, "throttled")?;
        let before = bytes(&scene.meterd.status(MACHINE)?, "used")?;
        let watched = scene.watch(|guest, world| {
            let receives = Tcp::v4(50_000_000).run(world, guest)?;
            let sends = Tcp::v4(50_000_000).run(guest, world)?;
            Ok([receives.goodput(), sends.goodput()])
        })?;
        for rate in watched.outcome {
            assert!(rate > 50e6, "{rate} bit/s");
        }
        let used = bytes(&scene.meterd.status(MACHINE)?, "used")? - before;
        // What waited in the shapers, and some neighbour discovery.
        assert!(used < 50_000, "{used} used by 100 MB of exempt traffic");
        Ok(())
    })
}

#[test]
fn exempt_traffic_passes_a_cap_that_is_used_up() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = set(sandbox, "[[rule]]\nused = '100%'\ncap = '10 kB'")?;
        use_up(&scene, "capped")?;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        Tcp::v4(5_000_000).run(guest, world)?;
        Tcp::v4(5_000_000).run(world, guest)?;
        let status = scene.meterd.status(MACHINE)?;
        assert_eq!(status["cap_remaining"], 0, "{status}");
        Ok(())
    })
}

#[test]
fn a_suspension_stops_exempt_traffic_unless_the_plan_lets_it_pass() -> Result<()> {
    for (key, passes) in [("", false), ("exempt-when-suspended = true\n", true)] {
        Sandbox::run(|sandbox| {
            let rule = format!("{key}[[rule]]\nused = '100%'\nsuspend = true");
            let scene = set(sandbox, &rule)?;
            use_up(&scene, "suspended")?;
            let (guest, world) = (&scene.guest.party, &scene.node.world);
            let pings = ping(guest, world.v4, 3, Duration::from_millis(50))?;
            assert_eq!(pings.answered.len(), if passes { 3 } else { 0 }, "{key}");
            if passes {
                Tcp::v4(1_000_000).run(guest, world)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn prefixes_that_a_reload_or_a_restart_brings_are_in_force_at_once() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = set(sandbox, "[[rule]]\nused = '100%'\nsuspend = true")?;
        let far_end = scene.node.world.address(Family::V4);
        let exempts = |scene: &Scene<'_>| -> Result<bool> {
            let before = bytes(&scene.meterd.status(MACHINE)?, "exempt")?;
            Tcp::v4(300_000).run(&scene.guest.party, &scene.node.world)?;
            Ok(bytes(&scene.meterd.status(MACHINE)?, "exempt")? > before + 300_000)
        };
        let with = |prefix: &str| {
            format!(
                "period = {{ starts = 1 }}\nallowance = '5 MB'\nexempt = ['{prefix}']\n\
                 [[rule]]\nused = '100%'\nsuspend = true\n"
            )
        };
        assert!(exempts(&scene)?);
        let write =
            |scene: &Scene<'_>, prefix| scene.meterd.write("plans/small.toml", &with(prefix));
        write(&scene, "192.0.2.0/24")?;
        scene.meterd.text(&["reload"])?;
        assert!(!exempts(&scene)?, "after the reload");
        let far_end = far_end.to_string();
        write(&scene, &far_end)?;
        scene.meterd.stop(End::Killed)?;
        scene.meterd.start()?;
        assert!(exempts(&scene)?, "after the restart");
        Ok(())
    })
}
