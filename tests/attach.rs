//! `meterd attach` and the hooks that call it: with the daemon alive, dead, starting and
//! stopped, an interface is metered once, and what stands against its machine stands on it
//! before the guest's first packet. Whose it is, the hypervisor's own files say.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result,
    inspect::Inventory,
    links::{self, Mac},
    meterd::{Counted, End, Meterd, binary},
    sandbox::Sandbox,
    scene::{MACHINE, Scene, is_metered, until_metered},
    tap::Tap,
    topology::{Family, Node, Port},
    traffic::Udp,
    wait::{self, Seen},
};
use rustix::{
    mount::{MountFlags, mount},
    process::Signal,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// 1000 bytes and headers each, one way.
const EACH: u64 = 1042;

/// Only what a machine names is metered: `vnet7` is nobody's.
const ONE: &str = "
poll-interval = '1h'
[[machine]]
id = '101'
interfaces = ['tap101i0']
[[machine]]
id = 'web1'
";

fn datagrams(count: u64) -> Udp {
    Udp {
        datagrams: count,
        each: 1000,
        family: Family::V4,
        together: 1,
    }
}

fn sent(datagrams: u64) -> Counted {
    Counted {
        received: 0,
        sent: datagrams * EACH,
    }
}

/// What `attach --json` says of its only interface.
fn attached(meterd: &Meterd<'_>, arguments: &[&str]) -> Result<Value> {
    let all = meterd.json(&[&["attach"], arguments].concat())?;
    Ok(all[0].clone())
}

fn count_of(meterd: &Meterd<'_>, machine: &str, event: &str) -> Result<usize> {
    let events = meterd.events(machine)?;
    Ok(events
        .iter()
        .filter(|found| found["event"] == event)
        .count())
}

#[test]
fn a_suspended_machines_new_interface_lets_no_packet_pass_when_attach_returns() -> Result<()> {
    for alive in [true, false] {
        Sandbox::run(|sandbox| {
            let mut scene = Scene::prepare(sandbox, ONE)?.started()?;
            scene.meterd.text(&["suspend", "web1"])?;
            if !alive {
                scene.meterd.stop(End::Killed)?;
            }
            let guest = scene.node.plug_named(Port::of(102), "vnet7")?;
            let told = attached(&scene.meterd, &["vnet7", "--machine", "web1"])?;
            assert_eq!(told["machine"], "web1", "{told}");
            assert_eq!(told["metered"], true, "{told}");
            assert_eq!(told["stands"], true, "{told}");
            assert_eq!(told["enforcement"], "suspended", "{told}");
            assert_eq!(told["by"], if alive { "daemon" } else { "command" });
            assert!(is_metered("vnet7")?);
            let before = scene.capture.settled(guest.party.mac)?;
            drop(datagrams(20).run(&guest.party, &scene.node.world));
            let passed = scene.capture.settled(guest.party.mac)? - before;
            assert_eq!(passed.sent.frames, 0, "alive: {alive}");
            if !alive {
                scene.meterd.start()?;
            }
            assert_eq!(scene.meterd.counted("web1")?, Counted::default());
            assert_eq!(count_of(&scene.meterd, "web1", "interface-assigned")?, 1);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn without_a_daemon_it_is_attached_once_and_the_next_start_takes_it_over() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::prepare(sandbox, ONE)?.started()?;
        scene.meterd.stop(End::Killed)?;
        let guest = scene.node.plug_named(Port::of(102), "vnet7")?;
        datagrams(7).run(&guest.party, &scene.node.world)?;
        for _ in 0..2 {
            let told = attached(&scene.meterd, &["vnet7", "--machine", "web1"])?;
            assert_eq!(told["by"], "command", "{told}");
            assert!(is_metered("vnet7")?, "one program a hook");
        }
        datagrams(10).run(&guest.party, &scene.node.world)?;
        datagrams(3).run(&scene.guest.party, &scene.node.world)?;
        scene.meterd.start()?;
        assert!(is_metered("vnet7")?);
        datagrams(5).run(&guest.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("web1")?, sent(22));
        assert_eq!(scene.meterd.counted(MACHINE)?, sent(3));
        assert_eq!(count_of(&scene.meterd, "web1", "interface-attached")?, 1);
        // Whose it is outlives further starts, and not the interface.
        scene.meterd.stop(End::Asked)?;
        scene.meterd.start()?;
        datagrams(1).run(&guest.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("web1")?, sent(23));
        links::delete("vnet7")?;
        let again = scene.node.plug_named(Port::of(103), "vnet7")?;
        datagrams(1).run(&again.party, &scene.node.world)?;
        assert_eq!(scene.meterd.counted("web1")?, sent(23));
        assert!(!is_metered("vnet7")?, "that was another interface");
        drop(guest);
        Ok(())
    })
}

#[test]
fn where_nothing_was_ever_started_it_loads_and_pins() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let mut meterd = Meterd::new(sandbox, ONE)?;
        let guest = node.plug_named(Port::of(102), "vnet7")?;
        let untouched = Inventory::take()?;
        let told = attached(&meterd, &["vnet7", "--machine", "web1", "--dry-run"])?;
        assert_eq!(
            (&told["machine"], &told["metered"]),
            (&"web1".into(), &false.into())
        );
        Inventory::take()?.same_as(&untouched)?;
        attached(&meterd, &["vnet7", "--machine", "web1"])?;
        datagrams(10).run(&guest.party, &node.world)?;
        meterd.start()?;
        assert_eq!(meterd.counted("web1")?, sent(10));
        meterd.text(&["detach"])?;
        meterd.wait()?;
        Inventory::take()?.same_as(&untouched)
    })
}

#[test]
fn a_race_with_a_daemon_that_is_just_starting_is_won_by_both() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let mut meterd = Meterd::new(sandbox, ONE)?;
        let mut by = std::collections::BTreeMap::new();
        let mut expected = 0;
        for round in 0..12_u64 {
            let guest = node.plug_named(Port::of(102), "vnet7")?;
            // From before the daemon has begun to after it attends its socket.
            let mut hook = meterd.command(&["attach", "vnet7", "--machine", "web1", "--json"])?;
            hook.stdout(Stdio::piped()).stderr(Stdio::piped());
            let early = round % 2 == 0;
            let wait = Duration::from_millis(round * 15);
            let child = if early {
                let child = hook.spawn().could_not(|| "start the hook")?;
                std::thread::sleep(wait);
                meterd.launch()?;
                child
            } else {
                meterd.launch()?;
                std::thread::sleep(wait);
                hook.spawn().could_not(|| "start the hook")?
            };
            let output = child.wait_with_output().could_not(|| "wait for the hook")?;
            let told = read(&output)?;
            *by.entry(told[0]["by"].to_string()).or_insert(0) += 1;
            assert!(is_metered("vnet7")?, "{told}");
            datagrams(3).run(&guest.party, &node.world)?;
            expected += 3;
            let counted = wait::until("a count", Duration::from_millis(20), SOON, || {
                assert_eq!(meterd.ended()?, None, "the daemon waits for the hook");
                Ok(match meterd.counted("web1") {
                    Ok(counted) => Seen::Yes(counted),
                    Err(failure) => Seen::NotYet(failure.to_string()),
                })
            })?;
            assert_eq!(counted.0, sent(expected), "round {round}");
            assert!(is_metered("vnet7")?, "one program a hook");
            links::delete("vnet7")?;
            meterd.stop(End::Killed)?;
        }
        println!("attached by {by:?}");
        Ok(())
    })
}

fn read(output: &Output) -> Result<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure::new(format!("{}: {errors}", output.status)));
    }
    serde_json::from_slice(&output.stdout).could_not(|| format!("read the answer; {errors}"))
}

#[test]
fn what_cannot_be_attached_says_why_with_a_status_and_within_its_time() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::prepare(sandbox, ONE)?.started()?;
        let _guest = scene.node.plug_named(Port::of(102), "vnet7")?;
        for alive in [true, false] {
            if !alive {
                scene.meterd.stop(End::Killed)?;
            }
            for (arguments, status, why) in [
                (&["nix0", "--machine", "web1"][..], 1, "no interface nix0"),
                (&["vnet7"], 1, "no machine's"),
                (
                    &["tap101i0", "--machine", "web1"],
                    1,
                    "is 101's by the configuration",
                ),
                (&["vnet7", "--machine", "a/b"], 64, "a machine's id"),
                (&[], 64, "IFACE"),
            ] {
                let output = scene.meterd.cli(&[&["attach"], arguments].concat())?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let found = output.status.code();
                assert_eq!(found, Some(status), "{arguments:?}, alive {alive}: {said}");
                assert!(said.contains(why), "{arguments:?}, alive {alive}: {said}");
            }
            assert!(!is_metered("vnet7")?);
        }
        scene.meterd.start()?;
        let told = attached(&scene.meterd, &["tap101i0"])?;
        assert_eq!(
            told["machine"], "101",
            "the configuration says whose: {told}"
        );
        let refused =
            scene
                .meterd
                .cli_without_privilege(&["attach", "vnet7", "--machine", "web1"])?;
        assert_eq!(refused.status.code(), Some(77), "{refused:?}");

        // A daemon that does not answer holds nobody up for long.
        scene.meterd.signal(Signal::STOP)?;
        let start = Instant::now();
        let arguments = ["attach", "vnet7", "--machine", "web1", "--timeout", "500ms"];
        let output = scene.meterd.cli(&arguments)?;
        assert_eq!(output.status.code(), Some(75), "{output:?}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
        scene.meterd.signal(Signal::CONT)?;
        Ok(())
    })
}

const UUIDS: [&str; 2] = [
    "4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
    "8e0ffa2c-2c3a-4f5b-9d4e-0c9b1f3d6a77",
];

/// A domain with one bridged interface, as libvirt hands it to its hooks.
fn domain(name: &str, uuid: &str, mac: Mac, target: &str) -> String {
    let Mac([a, b, c, d, e, f]) = mac;
    format!(
        "<domain type='kvm' id='1'>\n  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n  <devices>\n    \
         <interface type='bridge'>\n      \
         <mac address='{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}'/>\n      \
         <source bridge='vmbr0'/>\n      <target dev='{target}'/>\n      \
         <model type='virtio'/>\n    </interface>\n  </devices>\n</domain>\n"
    )
}

/// A private `/run` with libvirt's directory of running domains.
fn libvirt() -> Result<PathBuf> {
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)
        .could_not(|| "mount a tmpfs at /run")?;
    let directory = PathBuf::from("/run/libvirt/qemu");
    fs::create_dir_all(&directory).could_not(|| "make libvirt's directory")?;
    Ok(directory)
}

/// As libvirt replaces a status file: whole.
fn running(directory: &Path, name: &str, domain: &str) -> Result<()> {
    let text =
        format!("<domstatus state='running' reason='booted' pid='1'>\n{domain}</domstatus>\n");
    let new = directory.join(format!("{name}.xml.new"));
    fs::write(&new, text).could_not(|| "write a status file")?;
    fs::rename(&new, directory.join(format!("{name}.xml"))).could_not(|| "put it there")
}

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

/// A real tap with the address that libvirt gives it, and a guest that sends frames.
fn tap(name: &str, mac: Mac) -> Result<Tap> {
    let tap = Tap::new(name)?;
    let Mac([_, b, c, d, e, f]) = mac;
    links::set_mac(name, Mac([0xfe, b, c, d, e, f]))?;
    Ok(tap)
}

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
        let files = libvirt()?;
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
        libvirt()?;
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

/// `meterd` as a hook finds it: a program of one word.
fn installed(meterd: &Meterd<'_>, binary: &Path) -> Result<PathBuf> {
    let path = meterd.directory().join("meterd");
    let config = meterd.directory().join("meterd.toml");
    let text = format!(
        "#!/bin/sh\nexec {} --config {} \"$@\"\n",
        binary.display(),
        config.display()
    );
    fs::write(&path, text).could_not(|| "write a wrapper")?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, mode).could_not(|| "make it executable")?;
    Ok(path)
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config/hooks")
        .join(name)
}

/// Runs a hook by sh, as its hypervisor would; what it says goes to a logger of the test's.
fn hook(
    meterd: &Meterd<'_>,
    binary: &Path,
    name: &str,
    arguments: &[&str],
    xml: &str,
) -> Result<(Output, String)> {
    let tools = meterd.directory().join("tools");
    let journal = meterd.directory().join("journal");
    fs::create_dir_all(&tools).could_not(|| "make a folder")?;
    let logger = format!("#!/bin/sh\necho \"$@\" >>{}\n", journal.display());
    fs::write(tools.join("logger"), logger).could_not(|| "write a logger")?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(tools.join("logger"), mode).could_not(|| "make it executable")?;
    let mut child = Command::new("sh")
        .arg(shipped(name))
        .args(arguments)
        .env("METERD", installed(meterd, binary)?)
        .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .could_not(|| "run the hook")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that is not interested does not read.
        drop(std::io::Write::write_all(&mut stdin, xml.as_bytes()));
    }
    let output = child.wait_with_output().could_not(|| "wait for the hook")?;
    Ok((output, fs::read_to_string(journal).unwrap_or_default()))
}

#[test]
fn libvirts_hook_meters_every_target_before_the_guest_runs_and_never_stops_it() -> Result<()> {
    for alive in [true, false] {
        Sandbox::run(|sandbox| {
            libvirt()?;
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
            send(&mut guest, 9)?;
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
        assert_eq!(scene.meterd.counted("102")?, sent(6));
        Ok(())
    })
}

#[test]
fn a_proxmox_guest_is_known_by_its_file_on_this_node() -> Result<()> {
    Sandbox::run(|sandbox| {
        mount("tmpfs", "/etc", "tmpfs", MountFlags::empty(), None)
            .could_not(|| "mount a tmpfs at /etc")?;
        fs::create_dir_all("/etc/pve/qemu-server").could_not(|| "make /etc/pve")?;
        let write = |vmid: &str, text: &str| {
            fs::write(format!("/etc/pve/qemu-server/{vmid}.conf"), text)
                .could_not(|| "write a guest's file")
        };
        write(
            "101",
            "boot: order=scsi0\nname: web1\nnet0: virtio=52:54:00:00:00:65,bridge=vmbr0\n",
        )?;
        let mut meterd = Meterd::new(
            sandbox,
            "poll-interval = '1s'\n[[discover]]\nhypervisor = 'proxmox'\nmachine = 'name'\n",
        )?;
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
