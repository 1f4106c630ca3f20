//! The systemd unit that ships: systemd accepts it, and it says what the operator's guide
//! promises. It knows the file's text; nothing is started.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do, and systemd-analyze is a program"
)]

use std::{fs, path::Path, process::Command};

/// The score of `systemd-analyze security`, in tenths: lower is more closed. What keeps it
/// from 0 is said in the unit beside each setting.
const EXPOSURE: &str = "25";

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/systemd/meterd.service");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every value of a setting, in order, its words apart.
fn values(unit: &str, key: &str) -> Vec<String> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .flat_map(|value| value.split_whitespace().map(str::to_owned))
        .collect()
}

/// Runs systemd-analyze on the unit, with a program that exists here in meterd's place.
/// `None` where systemd-analyze is not installed.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("meterd.service");
    fs::write(&copy, unit().replace("/usr/bin/meterd", "/bin/true")).unwrap();
    let output = match Command::new("systemd-analyze")
        .args(arguments)
        .arg(&copy)
        .output()
    {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("systemd-analyze is not installed here: not asked");
            return None;
        }
        Err(error) => panic!("cannot run systemd-analyze: {error}"),
    };
    let said = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[test]
fn systemd_accepts_the_unit_without_a_word() {
    if let Some((well, said)) = analyze(&["verify"]) {
        assert!(well && said.is_empty(), "{said}");
    }
}

#[test]
fn the_unit_stays_as_closed_as_it_is() {
    let arguments = ["security", "--offline=true", "--threshold", EXPOSURE];
    if let Some((well, said)) = analyze(&arguments) {
        // Before systemd 250 it cannot judge a file.
        let too_old = said.contains("unrecognized option");
        assert!(well || too_old, "{said}");
    }
}

#[test]
fn an_orderly_reboot_stops_the_guests_before_the_last_reading() {
    // systemd stops in the reverse of the order in which it starts.
    let before = values(&unit(), "Before");
    for guests in [
        "libvirt-guests.service",
        "pve-guests.service",
        "machine.slice",
        "qemu.slice",
    ] {
        assert!(before.iter().any(|unit| unit == guests), "{before:?}");
    }
}

#[test]
fn stopping_the_service_does_not_detach() {
    let unit = unit();
    for key in ["ExecStop", "ExecStopPost"] {
        assert!(values(&unit, key).is_empty(), "{key}");
    }
}

#[test]
fn a_bad_configuration_is_not_tried_again_and_everything_else_is() {
    let unit = unit();
    assert_eq!(values(&unit, "Restart"), ["on-failure"]);
    let never = values(&unit, "RestartPreventExitStatus");
    assert!(never.contains(&"78".to_owned()), "{never:?}");
    // Another daemon that holds the state directory (75) is perhaps about to stop.
    assert!(!never.contains(&"75".to_owned()), "{never:?}");
}

#[test]
fn the_daemon_keeps_two_of_roots_capabilities() {
    assert_eq!(
        values(&unit(), "CapabilityBoundingSet"),
        ["CAP_BPF", "CAP_NET_ADMIN"]
    );
}

#[test]
fn pins_can_be_written() {
    let unit = unit();
    // With ProtectKernelTunables= bpffs is read-only whatever ReadWritePaths= says.
    assert!(values(&unit, "ProtectKernelTunables").is_empty());
    let writable = values(&unit, "ReadWritePaths");
    assert!(writable.contains(&"/sys/fs/bpf".to_owned()), "{writable:?}");
}
