//! What is stopped moves nothing, either way, and spends nothing; what is lifted moves again.
//! At the poll, for now: the kernel's own limits come later.

use std::time::Duration;

use meter_tests::{
    Result,
    links::{self, End},
    meterd::{End as Stop, bytes},
    sandbox::Sandbox,
    scene::{MACHINE, Scene, until_metered},
    topology::{BRIDGE, Family},
    traffic::{Tcp, Udp, ping},
};

const SOON: Duration = Duration::from_secs(10);

const CAPPED: &str = "
allowance = '2 MB'
[[rule]]
used = '100%'
cap = '3 MB'
notify = true
";

fn scene<'a>(sandbox: &'a Sandbox, plan: &str) -> Result<Scene<'a>> {
    let scene = Scene::prepare(
        sandbox,
        "
poll-interval = '1s'
[metrics]
listen = '127.0.0.1:9750'
[[discover]]
interface = '^tap(?<machine>\\d+)i'
plan = 'small'
",
    )?;
    scene.meterd.write("plans/small.toml", plan)?;
    scene.started()
}

fn answered(scene: &Scene<'_>) -> Result<usize> {
    let pings = ping(&scene.guest.party, scene.node.world.v4, 1, Duration::ZERO)?;
    Ok(pings.answered.len())
}

#[test]
fn a_suspension_by_staff_drops_everything_until_it_is_lifted_and_is_not_usage() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = scene(sandbox, "allowance = '1 TB'")?;
        let meterd = &scene.meterd;
        assert_eq!(answered(&scene)?, 1);
        let before = meterd.counted(MACHINE)?;
        meterd.text(&["suspend", MACHINE, "--reason", "abuse"])?;
        assert_eq!(meterd.status(MACHINE)?["state"], "suspended");
        assert_eq!(answered(&scene)?, 0);
        assert_eq!(
            meterd.counted(MACHINE)?,
            before,
            "what is dropped is not used"
        );
        assert!(!links::get("tap101i0")?.up);
        meterd.text(&["lift", MACHINE])?;
        assert_eq!(meterd.status(MACHINE)?["state"], "normal");
        links::until_operating("tap101i0")?;
        assert_eq!(answered(&scene)?, 1);
        Ok(())
    })
}

#[test]
fn a_suspended_machines_new_tap_passes_nothing_and_so_it_is_after_a_crash() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = scene(sandbox, "allowance = '1 TB'")?;
        scene.meterd.text(&["suspend", MACHINE])?;
        links::delete("tap101i0")?;
        // By hand: it is taken down before it operates.
        let guest = scene.guest.party.clone();
        let end = |name, mac| End { name, mac };
        let there = end("eth0", Some(guest.mac));
        links::veth(end("tap101i0", None), there, &guest.namespace)?;
        links::silence("tap101i0")?;
        links::join("tap101i0", BRIDGE)?;
        guest.namespace.run(|| {
            links::silence("eth0")?;
            links::address("eth0", guest.v4.into(), 16)?;
            links::up("eth0")
        })?;
        guest.knows(&scene.node.world)?;
        links::up("tap101i0")?;
        until_metered("tap101i0")?;
        assert_eq!(answered(&scene)?, 0, "the new tap");
        scene.meterd.stop(Stop::Killed)?;
        assert_eq!(answered(&scene)?, 0, "the daemon dead");
        scene.meterd.start()?;
        assert_eq!(answered(&scene)?, 0, "the daemon back");
        scene.meterd.text(&["lift", MACHINE])?;
        links::until_operating("tap101i0")?;
        assert_eq!(answered(&scene)?, 1);
        Ok(())
    })
}

#[test]
fn a_cap_lets_its_volume_pass_and_then_nothing_until_volume_is_added() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = scene(sandbox, CAPPED)?;
        let meterd = &scene.meterd;
        let (guest, world) = (&scene.guest.party, &scene.node.world);
        Tcp::v4(2_000_000).run(world, guest)?;
        meterd.wait_for_state(MACHINE, "capped", SOON)?;
        let left = bytes(&meterd.status(MACHINE)?, "cap_remaining")?;
        assert!((2_500_000..=3_000_000).contains(&left), "{left}");
        assert_eq!(answered(&scene)?, 1, "within the cap");
        // More than is left: the transfer stalls where the cap ends.
        let rest = Udp {
            datagrams: 2_500,
            each: 1_200,
            family: Family::V4,
            together: 1,
        };
        let arrived = rest.spray(world, guest)?;
        assert!(arrived < 2_500, "{arrived} datagrams passed");
        assert_eq!(bytes(&meterd.status(MACHINE)?, "cap_remaining")?, 0);
        assert_eq!(answered(&scene)?, 0, "the cap is used up");
        meterd.text(&["top-up", MACHINE, "10 MB"])?;
        assert_eq!(meterd.status(MACHINE)?["state"], "normal");
        assert_eq!(answered(&scene)?, 1);
        Ok(())
    })
}
