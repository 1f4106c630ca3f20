//! The memory that the daemon shares with its kernel program, and nothing else.
//!
//! Every type is `repr(C)`, made of whole `u64`s and `u32`s without padding, and of a size
//! that is asserted: both halves must read the same bytes. What a map holds is documented
//! here and nowhere else. A change that moves or reinterprets a field raises [`LAYOUT`].
#![no_std]

/// The version of everything below. Pins live in a folder of this name.
pub const LAYOUT: u32 = 1;

/// Interfaces with an ifindex below this are found by an array, those above by a hash.
pub const IFINDEX_ARRAY: u32 = 1 << 16;

/// Directions are the guest's; a slot's counters stand at `slot * 2 + direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// What the guest receives: egress of its tap.
    Received = 0,
    /// What the guest sends: ingress of its tap.
    Sent = 1,
}

/// Where the counters of a slot stand in [`Counters`]' array.
#[must_use]
pub const fn counter_index(slot: u32, direction: Direction) -> u32 {
    slot * 2 + direction as u32
}

/// What passed one interface in one direction on one CPU. Only the kernel program writes
/// it, it only ever grows, and nobody resets it. One cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes in the basis of [`CountBytes`], exempt ones not among them.
    pub bytes: u64,
    /// Packets on the wire: the segments of a GSO packet, not one.
    pub packets: u64,
    /// `skb->len` of everything that passed: the kernel's own basis, for the audit.
    pub frame_bytes: u64,
    /// Bytes to or from an exempt prefix.
    pub exempt_bytes: u64,
    /// Bytes not let through, by reason; they are in none of the above.
    pub dropped_throttled: u64,
    /// As above.
    pub dropped_capped: u64,
    /// As above.
    pub dropped_suspended: u64,
    /// Of `bytes`, those handed to a shaper of ours. What it drops was not used; the daemon
    /// takes what came through from the shaper's own figures.
    pub shaped_bytes: u64,
}

/// What the program knows of an interface: written by the daemon, read per packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Index of its [`Machine`].
    pub machine: u32,
    /// Whose slot this is by now.
    pub generation: u32,
    /// The major number of our shaper on the tap's root, in the upper 16 bits as in a
    /// class id; 0 while none stands.
    pub shaper: u32,
    /// The IFB that what the guest sends is redirected to; 0 while not throttled.
    pub ifb: u32,
    /// A [`Verdict`].
    pub verdict: u32,
    /// Zero.
    pub reserved: u32,
}

/// What becomes of an interface's packets before anything else does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// They pass.
    #[default]
    Pass = 0,
    /// They are dropped: a cap is used up.
    Capped = 1,
    /// They are dropped: the machine is suspended.
    Suspended = 2,
}

/// A machine's limits, over all its interfaces and CPUs. Spent only grows; limits are
/// absolute, so that arming one is a single store. The program does not read it yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Counted bytes since the map set was made.
    pub spent_received: u64,
    /// As above.
    pub spent_sent: u64,
    /// At this much the first boundary is reached; 0: none.
    pub limit: u64,
    /// And at this much a cap that follows it; 0: none.
    pub cap: u64,
    /// Which of the counters the limits are of, and what happens at each.
    pub basis: u32,
    /// As above.
    pub action: u32,
    /// Zero.
    pub reserved: [u64; 3],
}

/// The only entry of the map that names its set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapSet {
    /// Random, written once by the daemon that made the maps; 0 before.
    pub id: u64,
    /// Slots there is room for.
    pub slots: u32,
    /// [`LAYOUT`].
    pub layout: u32,
}

/// What a byte is: the value of the program's `COUNT_BYTES` global.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum CountBytes {
    /// Every frame on the wire, without preamble and FCS; a GSO packet as its segments.
    #[default]
    Wire = 0,
    /// `skb->len`.
    Frame = 1,
    /// IP bytes of every segment; 0 for what is not IP.
    Ip = 2,
}

const _: () = assert!(size_of::<Counters>() == 64);
const _: () = assert!(size_of::<Interface>() == 24);
const _: () = assert!(size_of::<Machine>() == 64);
const _: () = assert!(size_of::<MapSet>() == 16);

#[cfg(feature = "daemon")]
#[expect(
    unsafe_code,
    reason = "the marker trait aya asks of a map's value is unsafe to claim"
)]
mod pod {
    // SAFETY: repr(C), made of integers only, no padding (the sizes asserted above are the
    // sums of the fields), so every bit pattern is a value.
    unsafe impl aya::Pod for super::Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Interface {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Machine {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::MapSet {}
}
