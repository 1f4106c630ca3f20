//! What this machine has of all that metering and shaping need, for `meterd doctor`. Asking
//! changes nothing.

use std::{fs, io, os::fd::AsFd, path::Path};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    tc::{TcAction, TcActionAttribute, TcActionMessage, TcActionMessageAttribute},
};

use super::{
    bpf,
    error::HostError,
    pins, rcu,
    tc::{self, TcMessage},
    tcx,
};

/// One thing that is needed or helps, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What.
    pub name: &'static str,
    /// Nothing goes without it.
    pub needed: bool,
    /// Whether it is there.
    pub present: bool,
    /// What was found.
    pub detail: String,
    /// What to do where it is missing, and what it costs to go without.
    pub remedy: &'static str,
}

/// A capability, its number, and a stronger one that includes it.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Refuses a process that lacks a capability which everything here needs.
pub(super) fn check_capabilities(attempted: &str) -> Result<(), HostError> {
    match missing_capability(effective_capabilities()) {
        None => Ok(()),
        Some(missing) => Err(HostError::NotAllowed {
            attempted: attempted.to_owned(),
            missing,
        }),
    }
}

fn missing_capability(effective: u64) -> Option<&'static str> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    match (has(CAP_BPF) || has(CAP_SYS_ADMIN), has(CAP_NET_ADMIN)) {
        (true, true) => None,
        (false, true) => Some("CAP_BPF"),
        (true, false) => Some("CAP_NET_ADMIN"),
        (false, false) => Some("CAP_BPF and CAP_NET_ADMIN"),
    }
}

/// Of this thread. All, where it cannot be read: the kernel has the last word anyhow.
fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective(&status)
}

/// What a process lacks, by its /proc/PID/status.
pub(super) fn missing_in(status: &str) -> Option<&'static str> {
    missing_capability(effective(status))
}

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

/// As `uname -r` prints it.
pub(super) fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Everything that metering and shaping need, in the order in which one would mend it.
#[must_use]
pub fn features(pin_directory: &Path) -> Vec<Feature> {
    vec![
        kernel(),
        capabilities(),
        bpffs(pin_directory),
        tcx(),
        from_result(
            "BTF",
            fs::metadata("/sys/kernel/btf/vmlinux").map(drop),
            "the kernel has its types",
            "a kernel with CONFIG_DEBUG_INFO_BTF makes the verifier's messages readable; metering works without",
        ),
        Feature {
            needed: true,
            ..from_result(
                "batched map look-up",
                batched_look_up(),
                "counters are read many at a time",
                "use Linux 5.13 or later",
            )
        },
        qdisc("HTB", "htb"),
        qdisc("TBF", "tbf"),
        from_result(
            "IFB",
            ifb(),
            "what a guest sends can be shaped",
            "load or build the kernel module ifb; without it a throttle is policed, not shaped",
        ),
        from_result(
            "mirred",
            mirred(),
            "without tcx, too, what a guest sends can be shaped",
            "load or build the kernel module act_mirred; on a kernel without tcx a throttle is policed, not shaped, without it",
        ),
        from_result(
            "expedited RCU",
            rcu::writable(),
            "attaching many interfaces is quick",
            "let the service write /sys/kernel/rcu_expedited (ProtectKernelTunables=no); without it each interface takes 40 ms to attach",
        ),
    ]
}

fn from_result(
    name: &'static str,
    result: io::Result<()>,
    good: &str,
    remedy: &'static str,
) -> Feature {
    Feature {
        name,
        needed: false,
        present: result.is_ok(),
        detail: match result {
            Ok(()) => good.to_owned(),
            Err(error) => error.to_string(),
        },
        remedy,
    }
}

fn kernel() -> Feature {
    let release = kernel_release();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Feature {
        name: "kernel",
        needed: true,
        present: version >= (6, 1),
        detail: format!("Linux {release}"),
        remedy: "use Linux 6.1 or later; 6.6 or later for tcx",
    }
}

fn capabilities() -> Feature {
    let missing = missing_capability(effective_capabilities());
    Feature {
        name: "capabilities",
        needed: true,
        present: missing.is_none(),
        detail: match missing {
            None => "CAP_BPF and CAP_NET_ADMIN are there".to_owned(),
            Some(missing) => format!("the process lacks {missing}"),
        },
        remedy: "run as root, or give the service CAP_BPF and CAP_NET_ADMIN",
    }
}

fn bpffs(pin_directory: &Path) -> Feature {
    let result = pins::on_bpffs(pin_directory);
    Feature {
        name: "bpffs",
        needed: true,
        present: result.is_ok(),
        detail: match result {
            Ok(()) => format!(
                "maps and links can be pinned below {}",
                pin_directory.display()
            ),
            Err(HostError::NoBpffs { found, .. }) => found,
            Err(error) => error.to_string(),
        },
        remedy: "mount -t bpf bpf /sys/fs/bpf, or set pin-directory to a folder on one",
    }
}

fn tcx() -> Feature {
    let is_there = tcx::is_there();
    Feature {
        name: "tcx",
        needed: false,
        present: matches!(is_there, Ok(true)),
        detail: match is_there {
            Ok(true) => "programs are attached by links, beside everybody's qdiscs".to_owned(),
            Ok(false) => "not in this kernel".to_owned(),
            Err(error) => error.to_string(),
        },
        remedy: "use Linux 6.6 or later; without tcx the daemon shares a clsact qdisc, and what passes before the hypervisor has set up its own goes unmetered",
    }
}

fn batched_look_up() -> io::Result<()> {
    let map = bpf::create_per_cpu_array()?;
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    bpf::read_array(map.as_fd(), cpus, 1, |_, _: &[u64]| ())
}

/// A qdisc of this kind without the options that it cannot do without: refused as invalid by
/// a kernel that has the kind, and as unknown by one that has not. Either way none is made.
fn qdisc(name: &'static str, kind: &str) -> Feature {
    const LOOPBACK: u32 = 1;
    const ROOT: u32 = u32::MAX;
    let message = TcMessage {
        kind: libc::RTM_NEWQDISC,
        ifindex: LOOPBACK,
        parent: ROOT,
        attributes: vec![(tc::TCA_KIND, tc::string(kind))],
        ..TcMessage::default()
    };
    let answer = tc::request(message, NLM_F_CREATE | NLM_F_EXCL);
    from_result(
        name,
        refused_as_invalid(answer.map(drop)),
        "what a guest receives can be shaped",
        "load or build the kernel module sch_htb or sch_tbf; without it a throttle is policed, not shaped",
    )
}

/// As with qdiscs: an IFB with an address of the wrong length.
fn ifb() -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
        LinkAttribute::Address(vec![0; 5]),
    ];
    let message = RouteNetlinkMessage::NewLink(message);
    refused_as_invalid(tc::request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop))
}

/// As with qdiscs: the action of redirecting, without saying where to.
fn mirred() -> io::Result<()> {
    let mut action = TcAction::default();
    action.attributes = vec![TcActionAttribute::Kind("mirred".to_owned())];
    let mut message = TcActionMessage::default();
    message.attributes = vec![TcActionMessageAttribute::Actions(vec![action])];
    let message = RouteNetlinkMessage::NewTrafficAction(message);
    refused_as_invalid(tc::request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop))
}

fn refused_as_invalid(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Err(io::Error::other("not in this kernel"))
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err(io::Error::other("not in this kernel"))
        }
        Err(error) => Err(error),
        Ok(()) => Err(io::Error::other(
            "the kernel took a request that makes no sense",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_capability_is_named() {
        let bit = |capability: u32| 1u64 << capability;
        let cases = [
            (0, Some("CAP_BPF and CAP_NET_ADMIN")),
            (bit(CAP_BPF), Some("CAP_NET_ADMIN")),
            (bit(CAP_SYS_ADMIN), Some("CAP_NET_ADMIN")),
            (bit(CAP_NET_ADMIN), Some("CAP_BPF")),
            (bit(CAP_NET_ADMIN) | bit(CAP_BPF), None),
            (bit(CAP_NET_ADMIN) | bit(CAP_SYS_ADMIN), None),
        ];
        for (effective, missing) in cases {
            assert_eq!(missing_capability(effective), missing, "{effective:#x}");
        }
    }
}
