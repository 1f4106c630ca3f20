//! Whose an interface is, the hypervisor's own files say; and its hooks see to it that the
//! interface is metered, and what stands against its machine stands, before the guest runs.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Result,
    hypervisor::{domain, hook, libvirt_directory, running, shipped, tap},
    links,
    meterd::{Counted, End, Meterd, binary, sample},
    needs,
    sandbox::Sandbox,
    scene::{EACH, Scene, datagrams, is_metered, until_metered},
    tap::Tap,
    topology::Port,
    wait::{self, Seen},
};
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    mount::{MountFlags, mount},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

const UUIDS: [&str; 2] = [
    "4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
    "8e0ffa2c-2c3a-4f5b-9d4e-0c9b1f3d6a77",
];

const BY_LIBVIRT: &str = r"
poll-interval = '1h'
[[discover]]
hypervisor = 'libvirt'
[[discover]]
interface = ''
[[machine]]
id = 'db1'
libvirt = 'db'
";

fn send(tap: &mut Tap, frames: usize) -> Result<()> {
    for _ in 0..frames {
        tap.send(&[2; 100])?;
    }
    Ok(())
}

/// Field notes: a tap's name was given to another guest in the same minute; libvirt's `vnet7`
/// belongs to someone else after a restart.
#[test]
fn a_vnet_is_the_guests_that_libvirts_live_definition_names_however_soon_it_is_anothers()
-> Result<()> {
    Sandbox::run(|sandbox| {
        let files = libvirt_directory()?;
        let mut meterd = Meterd::new(sandbox, BY_LIBVIRT)?;
        meterd.start()?;
        let (first, second) = (Port::of(101).mac(), Port::of(102).mac());

        // The file comes after the tap, as libvirt has it; until then it is nobody's.
        let mut one = tap("vnet7", first)?;
        send(&mut one, 5)?;
        std::thread::sleep(Duration::from_millis(300));
        assert!(
            !is_metered("vnet7")?,
            "not even by the pattern that matches all"
        );
        running(&files, "web", &domain("web", UUIDS[0], first, "vnet7"))?;
        let took = until_metered("vnet7")?;
        send(&mut one, 5)?;
        println!("metered {took:?} after libvirt's file came");
        assert_eq!(meterd.counted(UUIDS[0])?.sent, 1000);

        // The tap goes, and its name is another's before the first one's file is gone.
        drop(one);
        let mut two = tap("vnet7", second)?;
        send(&mut two, 3)?;
        running(&files, "db", &domain("db", UUIDS[1], second, "vnet7"))?;
        until_metered("vnet7")?;
        send(&mut two, 4)?;
        fs::remove_file(files.join("web.xml")).could_not(|| "remove a status file")?;
        assert_eq!(meterd.counted("db1")?.sent, 700);
        assert_eq!(meterd.counted(UUIDS[0])?.sent, 1000);

        // The same while nobody looks; and a file that is missing at a start says nothing.
        meterd.stop(End::Killed)?;
        fs::rename(files.join("db.xml"), "/run/db.xml").could_not(|| "hide a file")?;
        send(&mut two, 1)?;
        meterd.start()?;
        send(&mut two, 1)?;
        assert_eq!(meterd.counted("db1")?.sent, 900);
        let all = meterd.json(&["status"])?;
        let machines: Vec<&Value> = all
            .as_array()
            .into_iter()
            .flatten()
            .map(|m| &m["machine"])
            .collect();
        assert!(!machines.contains(&&Value::from("vnet7")), "{all}");
        Ok(())
    })
}

#[test]
fn an_interface_that_libvirt_never_explains_is_metered_for_nobody_and_that_is_said() -> Result<()> {
    Sandbox::run(|sandbox| {
        libvirt_directory()?;
        let mut meterd = Meterd::new(sandbox, BY_LIBVIRT)?;
        meterd.start()?;
        let _orphan = tap("vnet9", Port::of(109).mac())?;
        // What has no such name is anybody's as ever, at once.
        let _other = tap("other9", Port::of(108).mac())?;
        until_metered("other9")?;
        let what = "it to be said";
        wait::until(what, Duration::from_millis(100), SOON, || {
            let events = meterd.json(&["events"])?;
            let said = |event: &Value| {
                event["event"] == "interface-unmetered" && event["interface"] == "vnet9"
            };
            Ok(match events.as_array().into_iter().flatten().any(said) {
                true => Seen::Yes(()),
                false => Seen::NotYet(events.to_string()),
            })
        })?;
        assert!(!is_metered("vnet9")?);
        Ok(())
    })
}

#[test]
fn libvirts_hook_meters_every_target_before_the_guest_runs_and_never_stops_it() -> Result<()> {
    for alive in [true, false] {
        Sandbox::run(|sandbox| {
            libvirt_directory()?;
            let mut meterd = Meterd::new(sandbox, BY_LIBVIRT)?;
            meterd.start()?;
            meterd.text(&["suspend", "db1"])?;
            if !alive {
                meterd.stop(End::Killed)?;
            }
            let mac = Port::of(101).mac();
            let mut guest = tap("vnet7", mac)?;
            // At `start begin` libvirt has not written its status file yet.
            let xml = domain("db", UUIDS[1], mac, "vnet7");
            let meterd_binary = binary()?;
            let (output, journal) = hook(
                &meterd,
                &meterd_binary,
                "libvirt-qemu",
                &["db", "start", "begin", "-"],
                &xml,
            )?;
            assert!(output.status.success(), "{output:?}");
            assert_eq!(journal, "", "alive: {alive}");
            assert!(is_metered("vnet7")?);
            assert!(send(&mut guest, 9).is_err(), "its link is down");
            if !alive {
                running(Path::new("/run/libvirt/qemu"), "db", &xml)?;
                meterd.start()?;
            }
            assert_eq!(meterd.counted("db1")?, Counted::default(), "alive: {alive}");
            let status = meterd.status("db1")?;
            assert_eq!(status["interfaces"][0], "vnet7", "{status}");

            for (binary, arguments, xml, said) in [
                (
                    &*meterd_binary,
                    ["db", "started", "begin", "-"],
                    &*xml,
                    false,
                ),
                (&meterd_binary, ["db", "stopped", "end", "-"], "", false),
                (
                    &meterd_binary,
                    ["db", "start", "begin", "-"],
                    "<broken",
                    true,
                ),
                (
                    Path::new("/nonexistent/meterd"),
                    ["db", "start", "begin", "-"],
                    &xml,
                    true,
                ),
            ] {
                let (output, journal) = hook(&meterd, binary, "libvirt-qemu", &arguments, xml)?;
                assert!(output.status.success(), "{arguments:?}: {output:?}");
                assert_eq!(
                    journal.contains("guest db at start"),
                    said,
                    "{arguments:?}: {journal}"
                );
                drop(fs::remove_file(meterd.directory().join("journal")));
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn proxmoxs_hookscript_meters_a_guests_interfaces_at_post_start() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        scene.meterd.stop(End::Killed)?;
        let first = scene.node.plug(Port {
            machine: 102,
            nic: 0,
        })?;
        let second = scene.node.plug(Port {
            machine: 102,
            nic: 1,
        })?;
        let binary = binary()?;
        for phase in ["pre-start", "post-start", "pre-stop", "post-stop"] {
            let arguments = ["102", phase];
            let (output, journal) =
                hook(&scene.meterd, &binary, "proxmox-hookscript", &arguments, "")?;
            assert!(output.status.success(), "{phase}: {output:?}");
            assert_eq!(journal, "", "{phase}");
            assert_eq!(is_metered("tap102i0")?, phase != "pre-start", "{phase}");
        }
        assert!(is_metered("tap102i1")?);
        let missing = Path::new("/nonexistent/meterd");
        let arguments = ["102", "post-start"];
        let (output, journal) = hook(&scene.meterd, missing, "proxmox-hookscript", &arguments, "")?;
        assert!(output.status.success(), "{output:?}");
        assert!(journal.contains("guest 102 at post-start"), "{journal}");
        datagrams(4).run(&first.party, &scene.node.world)?;
        datagrams(2).run(&second.party, &scene.node.world)?;
        scene.meterd.start()?;
        assert_eq!(scene.meterd.counted("102")?.sent, 6 * EACH);
        Ok(())
    })
}

const PVE_BY_NAME: &str =
    "poll-interval = '1s'\n[[discover]]\nhypervisor = 'proxmox'\nmachine = 'name'\n";

/// Proxmox VE's folder of guests, as the test and the daemon see it.
fn an_empty_pve() -> Result<()> {
    mount("tmpfs", "/etc", "tmpfs", MountFlags::empty(), None)
        .could_not(|| "mount a tmpfs at /etc")?;
    fs::create_dir_all("/etc/pve/qemu-server").could_not(|| "make /etc/pve")
}

fn pve_file(vmid: &str) -> String {
    format!("/etc/pve/qemu-server/{vmid}.conf")
}

#[test]
fn a_proxmox_guest_is_known_by_its_file_on_this_node() -> Result<()> {
    Sandbox::run(|sandbox| {
        an_empty_pve()?;
        let write =
            |vmid, text| fs::write(pve_file(vmid), text).could_not(|| "write a guest's file");
        write(
            "101",
            "boot: order=scsi0\nname: web1\nnet0: virtio=52:54:00:00:00:65,bridge=vmbr0\n",
        )?;
        let mut meterd = Meterd::new(sandbox, PVE_BY_NAME)?;
        meterd.start()?;
        let mut known = tap("tap101i0", Port::of(101).mac())?;
        let _stranger = tap("tap102i0", Port::of(102).mac())?;
        until_metered("tap101i0")?;
        send(&mut known, 3)?;
        assert_eq!(meterd.counted("web1")?.sent, 300);
        assert!(!is_metered("tap102i0")?);
        // Its file comes, as after a migration.
        write("102", "name: web2\n")?;
        until_metered("tap102i0")?;
        // The cluster's file system goes away: nobody's metering does.
        fs::rename("/etc/pve", "/etc/away").could_not(|| "take /etc/pve away")?;
        meterd.stop(End::Killed)?;
        meterd.start()?;
        send(&mut known, 2)?;
        assert_eq!(meterd.counted("web1")?.sent, 500);
        Ok(())
    })
}

/// `/etc/pve` is a FUSE mount: whoever reads there while its cluster's service hangs, hangs too.
#[test]
fn files_of_a_hypervisor_that_hang_hold_up_neither_polls_nor_limits_nor_a_start() -> Result<()> {
    const PROMPT: Duration = Duration::from_secs(2);
    Sandbox::run(|sandbox| {
        an_empty_pve()?;
        fs::write(pve_file("101"), "name: web1\n").could_not(|| "write a guest's file")?;
        links::up("lo")?;
        // Whoever opens it waits until somebody writes.
        mkfifoat(CWD, pve_file("102"), Mode::RUSR).could_not(|| "make a pipe")?;
        let mut meterd = Meterd::new(sandbox, PVE_BY_NAME)?;
        meterd.start()?;
        let mut known = tap("tap101i0", Port::of(101).mac())?;
        until_metered("tap101i0")?;
        let mut newcomer = tap("tap102i0", Port::of(102).mac())?;
        send(&mut newcomer, 1)?;
        for restarts in 0..2 {
            for sent in 1..=5 {
                send(&mut known, 1)?;
                let asked = Instant::now();
                let counted = meterd.counted("web1")?.sent;
                assert_eq!(counted, (restarts * 5 + sent) * 100);
                assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
            }
            assert!(!is_metered("tap102i0")?);
            let asked = Instant::now();
            meterd.text(&["suspend", "web1"])?;
            assert!(send(&mut known, 1).is_err(), "its link is down");
            meterd.text(&["lift", "web1"])?;
            assert!(asked.elapsed() < 2 * PROMPT, "{:?}", asked.elapsed());
            let polled = || -> Result<Option<f64>> {
                let metrics = meterd.metrics(9750)?;
                Ok(sample(&metrics, "meterd_poll_duration_seconds_count", &[]))
            };
            let before = polled()?;
            wait::until("three polls", Duration::from_millis(50), SOON, || {
                let now = polled()?;
                Ok(match (before, now) {
                    (Some(before), Some(now)) if now >= before + 3.0 => Seen::Yes(()),
                    _ => Seen::NotYet(format!("{before:?}, {now:?}")),
                })
            })?;
            if restarts == 0 {
                meterd.stop(End::Killed)?;
                let began = Instant::now();
                meterd.start()?;
                assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
            }
        }
        let said = meterd.log().matches("hangs for").count();
        assert_eq!(said, 2, "once in each run: {}", meterd.log());
        // The file can be read at last.
        fs::write(pve_file("102"), "name: web2\n").could_not(|| "write into the pipe")?;
        fs::remove_file(pve_file("102")).could_not(|| "take the pipe away")?;
        fs::write(pve_file("102"), "name: web2\n").could_not(|| "write a guest's file")?;
        until_metered("tap102i0")?;
        Ok(())
    })
}

#[test]
fn the_hooks_are_sound_posix_shell() -> Result<()> {
    for script in ["libvirt-qemu", "proxmox-hookscript"] {
        let mut checks = vec![vec!["sh", "-n"]];
        if needs::program("shellcheck") {
            checks.push(vec!["shellcheck", "--shell=sh"]);
        }
        for check in checks {
            let output = std::process::Command::new(check[0])
                .args(&check[1..])
                .arg(shipped(script))
                .output()
                .could_not(|| format!("run {check:?}"))?;
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{check:?}: {said}");
        }
    }
    Ok(())
}
