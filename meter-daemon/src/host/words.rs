//! What is asked of [`super::programs`] and what it answers.

use std::path::PathBuf;

use meter_common::{CountBytes, Counters, Interface};

/// How programs are to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// By tcx where the kernel has it, else by clsact.
    #[default]
    Auto,
    /// By tcx or not at all.
    Tcx,
    /// By clsact, whatever the kernel has.
    Clsact,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Pinned tcx links.
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}

/// What `Programs::open` needs to know.
#[derive(Clone, Debug)]
pub struct ProgramOptions {
    /// On a bpf file system.
    pub pin_directory: PathBuf,
    /// What a byte is.
    pub count_bytes: CountBytes,
    /// How many interfaces can be metered at once; fixed for the life of the map set. Each
    /// takes 128 bytes of kernel memory a CPU.
    pub slots: u32,
    /// How to attach.
    pub attach: Attach,
}

/// What stands on an interface's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Both directions are counted.
    Both,
    /// Only what the guest sends: its interface has an `ingress` qdisc, which has no place for
    /// the other direction, and the kernel has no tcx.
    SentOnly,
    /// Nothing, or not all there was: the interface is gone, or somebody took the programs
    /// away. What was counted still stands in the slot.
    Lost,
}

/// An interface that has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Which.
    pub ifindex: u32,
    /// Its place in the counters.
    pub slot: u32,
    /// As it was asked for.
    pub generation: u32,
    /// Whose limits it is under, as it was asked for.
    pub machine: u32,
    /// What stands there now.
    pub hooks: Hooks,
    /// Set, and its program standing where it must.
    pub shaper: Option<Shaper>,
}

/// An interface to be metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// Which, in this process's network namespace.
    pub ifindex: u32,
    /// Where it shall count.
    pub slot: u32,
    /// How often the slot has been handed out.
    pub generation: u32,
    /// The index of its machine in [`super::limits::Limits`], the same for all its interfaces;
    /// 0 for one that is only counted.
    pub machine: u32,
}

/// Where a throttled machine's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shaper {
    /// The major number of the HTB on the tap's root and of the one on the IFB.
    pub major: u16,
    /// What the guest sends passes through this IFB; 0 where it is not to be redirected.
    pub ifb_ifindex: u32,
}

impl Shaper {
    /// As the kernel program has it; `None` where none stands.
    pub(super) fn of(interface: Interface) -> Option<Self> {
        let major = u16::try_from(interface.shaper >> 16).ok()?;
        (major != 0).then_some(Self {
            major,
            ifb_ifindex: interface.ifb,
        })
    }

    pub(super) const fn redirects(self) -> bool {
        self.ifb_ifindex != 0
    }

    /// The major number as it stands in a class id.
    pub(super) fn class(self) -> u32 {
        u32::from(self.major) << 16
    }
}

/// What a slot's counters show, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotReading {
    /// Which slot.
    pub slot: u32,
    /// What its guests received.
    pub received: Counters,
    /// What its guests sent.
    pub sent: Counters,
}
