//! The rate limits that hypervisors put on their guests' interfaces by `tc`, in the order of the field.

use std::process::Command;

use crate::{Context, Failure, Result};

/// Runs somebody's command in the node's namespace: what it prints, if it succeeds.
pub fn run(words: &str) -> Result<String> {
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

/// One command of somebody's, and what stands in for it where this kernel lacks a part of it.
#[derive(Debug)]
pub struct Step {
    /// `DEV` stands for the interface.
    pub command: &'static str,
    /// Whether it is an error of theirs when it fails: what is taken away may not be there.
    must: bool,
    instead: Option<&'static str>,
}

const fn may(command: &'static str) -> Step {
    Step {
        command,
        must: false,
        instead: None,
    }
}

const fn must(command: &'static str) -> Step {
    Step {
        must: true,
        ..may(command)
    }
}

const fn or(command: &'static str, instead: &'static str) -> Step {
    Step {
        instead: Some(instead),
        ..must(command)
    }
}

/// Proxmox VE, `setup_tc_rate_limit` of PVE::Network (pve-common): whenever a NIC is plugged or
/// edited; the second half only where it has a rate limit.
pub const PROXMOX: [Step; 8] = [
    may("tc class del dev DEV parent 1: classid 1:1"),
    may("tc filter del dev DEV parent ffff: protocol all pref 50 u32"),
    may("tc qdisc del dev DEV ingress"),
    may("tc qdisc del dev DEV root"),
    must("tc qdisc add dev DEV root handle 1: htb default 1"),
    must("tc class add dev DEV parent 1: classid 1:1 htb rate 10485760bps burst 1048576b"),
    must("tc qdisc add dev DEV handle ffff: ingress"),
    or(
        "tc filter add dev DEV parent ffff: prio 50 basic police rate 10485760bps burst 1048576b \
         mtu 64kb drop",
        "tc filter add dev DEV parent ffff: prio 50 protocol ip u32 match u32 0 0 flowid :1",
    ),
];

/// libvirt, `virNetDevBandwidthSet` of src/util/virnetdevbandwidth.c: at a guest's start, and
/// by `virsh domiftune`.
pub const LIBVIRT: [Step; 8] = [
    may("tc qdisc del dev DEV root"),
    may("tc qdisc del dev DEV ingress"),
    must("tc qdisc add dev DEV root handle 1: htb default 1"),
    must("tc class add dev DEV parent 1: classid 1:1 htb rate 10240kbps quantum 873"),
    or(
        "tc qdisc add dev DEV parent 1:1 handle 2: sfq perturb 10",
        "tc qdisc add dev DEV parent 1:1 handle 2: pfifo limit 127",
    ),
    or(
        "tc filter add dev DEV parent 1:0 protocol all prio 1 handle 1 fw flowid 1",
        "tc filter add dev DEV parent 1:0 protocol ip prio 1 u32 match mark 1 0xff flowid 1:1",
    ),
    must("tc qdisc add dev DEV ingress"),
    or(
        "tc filter add dev DEV parent ffff: protocol all u32 match u32 0 0 police rate 10240kbps \
         burst 10240kb mtu 64kb drop flowid :1",
        "tc filter add dev DEV parent ffff: protocol ip u32 match u32 0 0 flowid :1",
    ),
];

/// Runs a sequence as its owner would, with stand-ins for what this kernel lacks.
pub fn set_up(steps: &[Step], device: &str) -> Result<()> {
    for step in steps {
        let on = |command: &str| run(&command.replace("DEV", device));
        let lacks = ["not found", "unknown", "Failed to load"];
        let outcome = match (on(step.command), step.instead) {
            (Err(failure), Some(instead))
                if lacks
                    .iter()
                    .any(|words| failure.to_string().contains(words)) =>
            {
                on(instead)
            }
            (outcome, _) => outcome,
        };
        if step.must {
            outcome?;
        }
    }
    Ok(())
}
