//! What others do to the interfaces that meterd meters, by their own programs and in the
//! order of the field: nftables rules on a tap, Proxmox VE's and libvirt's rate limits.

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    time::Duration,
};

use meter_tests::{
    Context, Failure, Result, links,
    meterd::Meterd,
    needs,
    sandbox::Sandbox,
    scene::{MACHINE, Scene},
    topology::{ETH, Party},
    traffic::{Bulk, Tcp, ping},
    wait::{self, Seen},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(6);

/// What moves at all is throttled.
const STRICT: &str = "
allowance = '1 kB'
[[rule]]
used = '105%'
throttle = '64 kbit/s'
";

/// No poll comes to anybody's help while a test looks on.
const TAPS: &str = r"
poll-interval = '1h'
[[discover]]
interface = '^tap(?<machine>\d+)i\d+$'
plan = 'strict'
";

fn metered(sandbox: &Sandbox) -> Result<Scene<'_>> {
    let scene = Scene::prepare(sandbox, TAPS)?;
    scene.meterd.write("plans/strict.toml", STRICT)?;
    scene.started()
}

fn throttle(scene: &Scene<'_>) -> Result<()> {
    Tcp::v4(10_000).run(&scene.guest.party, &scene.node.world)?;
    scene
        .meterd
        .wait_for_state(MACHINE, "throttled", SOON)
        .map(|_| ())
}

/// Runs somebody's command in the node's namespace: what it prints, if it succeeds.
fn run(words: &str) -> Result<String> {
    let mut parts = words.split_whitespace();
    let program = parts.next().unwrap_or_default();
    let output = Command::new(program)
        .args(parts)
        .output()
        .could_not(|| format!("run {program}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    let errors = said(&output.stderr);
    Err(Failure::new(format!("`{words}` failed: {errors}")))
}

fn until_said(meterd: &Meterd<'_>, event: &str, about: &str) -> Result<()> {
    let said = |found: &Value| {
        let detail = found["detail"].as_str().unwrap_or_default();
        found["event"] == event && detail.contains(about)
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

/// spec: an anti-spoofing rule at nftables' `netdev` ingress must not be bypassed.
#[test]
fn an_nftables_rule_on_the_tap_stays_effective_under_a_throttle() -> Result<()> {
    if !needs::program("nft") {
        return Ok(());
    }
    for family in ["netdev", "inet"] {
        Sandbox::run(|sandbox| {
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

            throttle(&scene)?;
            until_said(
                &scene.meterd,
                "enforcement-failed",
                &format!("nftables chain {chain}"),
            )?;
            let before = scene.capture.settled(guest.mac)?;
            spoof(&guest, &scene.node.world, 20)?;
            let passed = scene.capture.settled(guest.mac)? - before;
            assert_eq!(
                passed.sent.frames, 0,
                "{family}: spoofed packets on the wire"
            );
            assert_eq!(dropped(&chain)?, 20, "{family}");

            // The rest of the throttle stands.
            ping(&guest, scene.node.world.v4, 3, Duration::ZERO)?;
            let down = Bulk::start(&scene.node.world, &guest, 1)?;
            let goodput = down.steady_goodput(WINDOW)?;
            assert!(goodput < 64_000.0, "{family}: {goodput} bit/s");
            Ok(())
        })?;
    }
    Ok(())
}
