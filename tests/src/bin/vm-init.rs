//! The first process of the machine that `cargo xtask test-kernel` boots: it makes what tests
//! find on any machine, loads the kernel's modules, runs the test programs one after the
//! other, and switches the machine off. All that it says goes to the serial console, where
//! xtask reads it.
#![allow(clippy::print_stdout, reason = "it is read by xtask and by people")]

use std::{
    fs,
    process::{Command, ExitCode},
};

use meter_tests::{Context, Failure, Result};
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, finit_module, reboot},
};

/// File system and where it belongs. All else is in memory anyhow.
const MOUNTS: [(&str, &str); 4] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("bpf", "/sys/fs/bpf"),
];

/// Folders that programs take for granted.
const FOLDERS: [&str; 3] = ["/dev/shm", "/tmp", "/run"];

fn main() -> ExitCode {
    if std::process::id() != 1 {
        println!("vm-init is the first process of a machine of its own, and nothing else");
        return ExitCode::FAILURE;
    }
    match work() {
        Ok(()) => println!("=== done"),
        Err(failure) => println!("=== failed: {failure}"),
    }
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("could not switch the machine off: {error}");
    }
    // The end of this process is the kernel's panic, upon which QEMU ends, too.
    ExitCode::FAILURE
}

fn work() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).could_not(|| format!("make {place}"))?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .could_not(|| format!("mount {kind} at {place}"))?;
    }
    for folder in FOLDERS {
        fs::create_dir_all(folder).could_not(|| format!("make {folder}"))?;
    }
    for module in lines("/modules/order")? {
        let file = fs::File::open(format!("/modules/{module}"))
            .could_not(|| format!("open the module {module}"))?;
        finit_module(&file, c"", 0).could_not(|| format!("load the module {module}"))?;
    }
    for line in lines("/order")? {
        let words: Vec<&str> = line.split(' ').collect();
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::new("an empty line among the tests"));
        };
        println!("=== run {program}");
        let status = Command::new(format!("/tests/{program}"))
            .args(arguments)
            .env("METERD", "/tests/meterd")
            .env("TMPDIR", "/tmp")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/tmp")
            .status()
            .could_not(|| format!("run {program}"))?;
        println!(
            "=== end {}",
            if status.success() { "well" } else { "badly" }
        );
    }
    Ok(())
}

fn lines(path: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).could_not(|| format!("read {path}"))?;
    Ok(text.lines().map(str::to_owned).collect())
}
