//! What can go wrong between us and the kernel, said so that an operator can act on it.

use std::{io, path::PathBuf};

use thiserror::Error;

/// What was attempted, on what, why it failed, and what to do about it.
#[derive(Debug, Error)]
pub enum HostError {
    /// The process may not do this.
    #[error(
        "cannot {attempted}: the process lacks {missing}\n  \
         what to do: run as root, or give the service CAP_BPF and CAP_NET_ADMIN"
    )]
    NotAllowed {
        /// What it wanted.
        attempted: String,
        /// The capability by name.
        missing: &'static str,
    },
    /// Nothing would outlive the daemon there.
    #[error(
        "cannot pin maps and links below {}: {found}\n  \
         what to do: mount -t bpf bpf /sys/fs/bpf, or set pin-directory to a folder on a bpf file system",
        path.display()
    )]
    NoBpffs {
        /// Where pins should go.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// It was asked for by name, and this kernel has none.
    #[error(
        "cannot attach by tcx: this kernel ({release}) has none\n  \
         what to do: use Linux 6.6 or later, or let the daemon share a clsact qdisc instead"
    )]
    NoTcx {
        /// The kernel's release.
        release: String,
    },
    /// The pinned maps were made with other sizes than are wanted now.
    #[error(
        "cannot adopt the pinned map {}: it was made with {found}, and {wanted} are wanted\n  \
         what to do: run with the former size, or `meterd detach` once and start anew (what is in the ledger stays)",
        path.display()
    )]
    OtherMapSet {
        /// The pinned map.
        path: PathBuf,
        /// Its shape.
        found: String,
        /// Ours.
        wanted: String,
    },
    /// The kernel program does not load.
    #[error(
        "cannot load the kernel program: {reason}\n  \
         what to do: see `meterd doctor`; if it finds nothing, this kernel's verifier refuses the program: please report the text above"
    )]
    Load {
        /// The loader's or the verifier's words.
        reason: String,
    },
    /// An interface that is to be metered is not there (any more).
    #[error("cannot {attempted} the interface with index {ifindex}: it is gone")]
    NoInterface {
        /// What was to be done.
        attempted: &'static str,
        /// Which.
        ifindex: u32,
    },
    /// The slot is not one of ours.
    #[error("cannot use slot {slot}: there are {slots}")]
    NoSlot {
        /// Which.
        slot: u32,
        /// How many there are.
        slots: u32,
    },
    /// The index is not a machine's.
    #[error(
        "cannot use index {machine} for a machine: there are those from 1 up to {machines}, not included"
    )]
    NoMachine {
        /// Which.
        machine: u32,
        /// The first that there is not.
        machines: u32,
    },
    /// Something was asked of an interface in a slot that it is not in.
    #[error(
        "cannot {attempted} the interface with index {ifindex}: it is not metered in slot {slot}"
    )]
    NotMetered {
        /// What was to be done.
        attempted: &'static str,
        /// Which interface.
        ifindex: u32,
        /// Which slot.
        slot: u32,
    },
    /// A system call failed.
    #[error("cannot {attempted}: {source}{}", remedy(source))]
    System {
        /// What was to be done, on what.
        attempted: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl HostError {
    /// An attempt that the kernel refused.
    pub(super) fn system(attempted: impl Into<String>, source: io::Error) -> Self {
        Self::System {
            attempted: attempted.into(),
            source,
        }
    }

    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "\n  what to do: run as root, or give the service CAP_BPF and CAP_NET_ADMIN"
        }
        Some(libc::ENOMEM | libc::ENOSPC) => "\n  what to do: free memory on the node",
        Some(libc::EMFILE | libc::ENFILE) => {
            "\n  what to do: raise the service's limit of open files (LimitNOFILE)"
        }
        Some(libc::ERANGE) => {
            "\n  what to do: 64 programs stand on this hook already; take one away"
        }
        _ => "",
    }
}
