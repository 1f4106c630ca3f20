//! The machine that is booted, and what is heard from it on its serial console, where package
//! meter-tests' `vm-init` speaks.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::test::{
    tally::{Listener, Tally},
    watch,
};

pub(super) const QEMU: &str = "qemu-system-x86_64";

/// A machine that hangs is ended after so many seconds.
const PATIENCE: &str = "10800";

/// How many processors, and by which clock they go. KVM is not everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Processors {
    /// Its clock is of the instructions that it has executed, one a nanosecond, and leaps where
    /// there is nothing to execute. So it is a steady machine whatever else runs on this one,
    /// and bounds of time hold as they do on a real one; a test that waits costs nothing.
    #[default]
    One,
    /// By this machine's clock, for what only two can show: under the other one QEMU 7.2 does
    /// not bring up a second processor.
    Two,
}

impl Processors {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::One => &[
                "-smp",
                "1",
                "-icount",
                "shift=0,sleep=off",
                "-rtc",
                "clock=vm",
            ],
            Self::Two => &["-smp", "2"],
        }
    }
}

/// What else the machine consists of.
const MACHINE: [&str; 13] = [
    "-machine",
    "q35,accel=tcg",
    "-cpu",
    "max",
    "-m",
    "4G",
    "-nodefaults",
    "-no-reboot",
    "-display",
    "none",
    "-serial",
    "stdio",
    "-append",
];

const KERNEL: &str = "console=ttyS0 quiet panic=-1 rdinit=/init";

/// Boots, hears what the programs say, and tells how long each took.
pub(super) fn boot(
    image: &Path,
    archive: &Path,
    processors: Processors,
    tally: &mut Tally,
) -> Result<Vec<Ran>, String> {
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", PATIENCE, QEMU])
        .args(processors.arguments())
        .args(MACHINE)
        .arg(KERNEL)
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null());
    let mut console = Console::default();
    watch(&mut command, &mut |line| {
        console.hear(line.trim_end(), tally);
    })?;
    match console.end {
        Some(Ok(())) => Ok(console.ran),
        Some(Err(problem)) => Err(format!("in the machine: {problem}")),
        None => Err(format!(
            "the machine ended, or was ended after {PATIENCE} s, before its tests: its last \
             words stand above"
        )),
    }
}

/// A test program that ran.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) program: String,
    /// On this machine's clock.
    pub(super) took: Duration,
    /// In the harness's words, with the time on the other machine's clock.
    pub(super) result: String,
}

/// What has been heard so far.
#[derive(Default)]
struct Console {
    running: Option<(Listener, Ran, Instant)>,
    ran: Vec<Ran>,
    end: Option<Result<(), String>>,
}

impl Console {
    fn hear(&mut self, line: &str, tally: &mut Tally) {
        if let Some(name) = line.strip_prefix("=== run ") {
            let ran = Ran {
                program: name.to_owned(),
                took: Duration::ZERO,
                result: "no result".to_owned(),
            };
            self.running = Some((tally.listen(name), ran, Instant::now()));
        } else if let Some(how) = line.strip_prefix("=== end ") {
            if let Some((listener, mut ran, begun)) = self.running.take() {
                tally.ended(listener, how == "well");
                ran.took = begun.elapsed();
                self.ran.push(ran);
            }
        } else if let Some(problem) = line.strip_prefix("=== failed: ") {
            self.end = Some(Err(problem.to_owned()));
        } else if line == "=== done" {
            self.end = Some(Ok(()));
        } else if let Some((listener, ran, _)) = &mut self.running {
            tally.heard(listener, line);
            if let Some(result) = line.strip_prefix("test result: ") {
                result.clone_into(&mut ran.result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ended_well_and_was_tested_counts_as_passed() {
        let mut tally = Tally::default();
        let mut console = Console::default();
        let words = [
            "SeaBIOS",
            "=== run one",
            "test a ... ok",
            "needs tcx: tests/kernel/pinned.rs:75",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "=== end well",
            "=== run two",
            "=== end badly",
        ];
        for line in words {
            console.hear(line, &mut tally);
        }
        assert_eq!(console.end, None, "it is not over");
        console.hear("=== done", &mut tally);
        assert_eq!(console.end, Some(Ok(())));
        assert_eq!(
            tally.to_string(),
            "2 passed, 1 failed, 1 ignored, 1 not tested as it needs tcx, in 2 test programs"
        );
        assert_eq!(tally.failures, ["two: ended before it had a result"]);
        let programs: Vec<&str> = console.ran.iter().map(|ran| ran.program.as_str()).collect();
        assert_eq!(programs, ["one", "two"]);
        assert!(console.ran[0].result.starts_with("ok. 3 passed"));
    }
}
