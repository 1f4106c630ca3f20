//! What metering costs, beside what others do, in one run: `cargo xtask bench`.
//!
//! All of it happens in network namespaces of its own, as root. A figure is told and fails
//! nothing; what must hold whatever the machine does fails the run: that bytes counted are bytes
//! sent, that a rival really stood in the way, and that nothing is left behind.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a measurement: it reads clocks, prints figures, and turns them into ratios"
)]

mod beyond;
mod lanes;
mod meters;
mod packets;
mod report;
mod rivals;
mod scale;
mod spread;
mod traffic;

use std::{
    fs,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result, inspect, interrupt,
    sandbox::Sandbox,
    wait::{self, Seen},
};

use report::Report;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effort {
    /// A round of everything: that it works.
    Quick,
    /// Enough rounds to tell a few percent apart.
    Full,
}

impl Effort {
    /// So many, or what stands for it in a quick run.
    pub(crate) const fn or<T: Copy>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

type Part = fn(&Sandbox, Effort, &mut Report) -> Result<()>;

/// As they are asked for.
const PARTS: [(&str, Part); 4] = [
    ("packets", packets::measure),
    ("traffic", traffic::measure),
    ("scale", scale::measure),
    ("cap", beyond::measure),
];

fn main() -> ExitCode {
    let mut effort = Effort::Full;
    let mut asked = Vec::new();
    for word in std::env::args().skip(1) {
        match PARTS.iter().find(|(name, _)| *name == word) {
            Some(part) => asked.push(*part),
            None if word == "--quick" => effort = Effort::Quick,
            None => {
                eprintln!(
                    "error: there is no `{word}`: [--quick] [packets] [traffic] [scale] [cap]"
                );
                return ExitCode::from(64);
            }
        }
    }
    if asked.is_empty() {
        asked.extend(PARTS);
    }
    match measure(effort, &asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(effort: Effort, parts: &[(&str, Part)]) -> Result<()> {
    interrupt::note()?;
    if !inspect::has_tcx()? {
        return Err(Failure::new(
            "the comparison is by TCX, which came with Linux 6.6: run it on a newer kernel",
        ));
    }
    let switch = grace_periods()?;
    let begun = Instant::now();
    let before = others();
    let mut report = Report::default();
    for (what, part) in parts {
        interrupt::check()?;
        let start = Instant::now();
        Sandbox::run(|sandbox| part(sandbox, effort, &mut report))?;
        eprintln!("bench: {what}: {:.1} s", start.elapsed().as_secs_f64());
    }
    // Another meterd on this machine may be attaching at this instant.
    let often = Duration::from_millis(50);
    wait::until("short grace periods to end", often, often * 100, || {
        Ok(match grace_periods()? == switch {
            true => Seen::Yes(()),
            false => Seen::NotYet(format!("{SWITCH} is not {}", switch.trim())),
        })
    })?;
    println!(
        "Linux {}, {} CPUs, of which others had {before} before and {} after; {:.0} s in all.\n",
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim(),
        thread::available_parallelism().map_or(1, usize::from),
        others(),
        begun.elapsed().as_secs_f64()
    );
    print!("{report}");
    Ok(())
}

/// The machine's own, the only thing outside of the namespaces that attaching changes.
const SWITCH: &str = "/sys/kernel/rcu_expedited";

fn grace_periods() -> Result<String> {
    fs::read_to_string(SWITCH).could_not(|| format!("read {SWITCH}"))
}

/// What share of the processors others have had over a second while we did nothing, in percent:
/// whose figures these are depends on it. (The load would count who only waits.)
fn others() -> String {
    let read = || -> Option<[f64; 2]> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<f64> = line
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .take(8)
            .collect();
        // User, nice, system, idle, waiting for a disk, interrupts of both kinds, stolen.
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some([ticks.iter().sum(), idle])
    };
    let before = read();
    thread::sleep(Duration::from_secs(1));
    match (before, read()) {
        (Some([all, idle]), Some([all_now, idle_now])) => {
            let share = 1.0 - (idle_now - idle) / (all_now - all);
            format!("{:.0} %", share * 100.0)
        }
        _ => "unknown".to_owned(),
    }
}
