//! The memory that the daemon shares with its kernel program, and nothing else.
//!
//! Every type is `repr(C)`, made of whole `u64`s and `u32`s without padding, and of a size
//! that is asserted: both halves must read the same bytes. What a map holds is documented
//! here and nowhere else. A change that moves or reinterprets a field raises [`LAYOUT`].
#![no_std]

use core::sync::atomic::AtomicU64;

/// The version of everything below. Pins live in a folder of this name.
///
/// Every version takes over what another has pinned, an older one's and, so that going back
/// works, a newer one's. So that it can, the tables of slots and [`Counters`] have been the same
/// since layout 1; and since layout 2 so have [`Machine`], [`Arming`], [`Reached`], the exempt
/// prefixes and what went past a shaper: what must be new about them gets a map of its own beside
/// them. Whoever changes what one of them means all the same changes its size, and gives up that
/// limits hold from one version to the other. The fields of [`Interface`] keep their places, new
/// ones come behind them.
pub const LAYOUT: u32 = 2;

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
    /// Index of its [`Machine`]; [`NO_MACHINE`] where only counting is asked for.
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
    /// 1 while somebody else's qdisc, or none, stands at the root in the place of our shaper,
    /// whose figures count on: what the guest receives is policed meanwhile.
    pub root_lost: u32,
    /// Zero: found by a shift, an element takes less time than by a multiplication.
    pub reserved: [u32; 2],
}

/// How an interface's packets are counted and held to limits where nothing is out of the
/// ordinary: what the program needs for it, found by the ifindex. It follows from the table of
/// slots and from [`Interface`], and is made anew whenever a daemon starts; all the rest goes
/// the long way, through those.
///
/// The program hands these words to its look-ups where they stand: a key of its own would have
/// to be written to the stack, and behind that the verifier puts a barrier that takes longer
/// than a look-up where the daemon is without `CAP_PERFMON`.
#[repr(C)]
#[derive(Debug)]
pub struct ShortWay {
    /// Where its counters stand: [`ShortWay::counters`], or [`ShortWay::CLOSED`].
    pub counters: AtomicU64,
    /// Index of its [`Machine`].
    pub machine: AtomicU64,
}

impl ShortWay {
    /// Indexes that no map has: the packets go the long way.
    pub const CLOSED: u64 = u64::MAX;

    /// The index of a slot's received in the lower half, that of its sent in the upper.
    #[must_use]
    pub const fn counters(slot: u32) -> u64 {
        counter_index(slot, Direction::Received) as u64
            | (counter_index(slot, Direction::Sent) as u64) << 32
    }
}

impl Interface {
    /// Whether its packets need nothing but what a [`ShortWay`] has.
    #[must_use]
    pub const fn is_ordinary(&self) -> bool {
        self.verdict == Verdict::Pass as u32 && self.shaper == 0
    }
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

/// The machine of an interface that has none: neither limits nor exempt prefixes.
pub const NO_MACHINE: u32 = 0;

/// The group that has no exempt prefixes.
pub const NO_GROUP: u32 = 0;

/// What a limit is where there is none. (2^64 bytes take a century at 40 Gbit/s.)
pub const NO_LIMIT: u64 = u64::MAX;

/// A machine over all its interfaces and CPUs: one entry of an array that the daemon has
/// mapped into its memory, so that each of its words is read and written whole. (All are of 64
/// bits, since a BPF program has no other atomics.)
///
/// The first cache line is all that a packet of a machine within its limits needs.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Machine {
    /// Bytes that passed and were not exempt, since [`Machine::counts`] was set. They only
    /// grow; the kernel program alone writes them, and nobody resets them.
    pub spent_received: AtomicU64,
    /// As above.
    pub spent_sent: AtomicU64,
    /// Below all three of these no boundary is reached, and the program looks no further. They
    /// may be lower than the limits that are armed, but never higher.
    pub nearest_received: AtomicU64,
    /// As above.
    pub nearest_sent: AtomicU64,
    /// As above, of both directions together.
    pub nearest_sum: AtomicU64,
    /// 1 once the machine has limits: what is only metered need not pay for the sums above.
    pub counts: AtomicU64,
    /// Whose prefixes are exempt, a `u32`; [`NO_GROUP`]: none.
    pub exempt_group: AtomicU64,
    /// How often limits have been armed. The [`Arming`] in force is the one at
    /// [`arming_index`]: to store this word is to arm.
    pub arming: AtomicU64,
    /// Of which arming the daemon has been told that a boundary is reached; written by the
    /// kernel program.
    pub told: [AtomicU64; 2],
    /// When the next packet conforms to the rate of policing, in nanoseconds since boot: one
    /// clock for bulk and one for small packets, each by [`Direction`].
    pub bulk_clock: [AtomicU64; 2],
    /// As above.
    pub small_clock: [AtomicU64; 2],
    /// 1 where exempt traffic passes a suspension, too.
    pub exempt_when_suspended: AtomicU64,
    /// Bit n is set where none of the group's prefixes has an address whose first byte is n,
    /// modulo 64: [`first_byte_bit`]. Then there is nothing to look up.
    pub never_exempt: AtomicU64,
}

/// The bit of [`Machine::never_exempt`] for addresses that begin so.
#[must_use]
pub const fn first_byte_bit(first: u8) -> u64 {
    1 << (first % 64)
}

/// Where the limits of a machine stand that were armed as its `arming`th: each machine has
/// two places, so that the next ones are written beside those in force.
#[must_use]
pub const fn arming_index(machine: u32, arming: u64) -> u32 {
    machine * 2 + (arming & 1) as u32
}

/// The limits of a machine: what happens at two boundaries. Once the second is reached, what
/// it says goes before what the first says.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Arming {
    /// In order.
    pub boundaries: [Boundary; 2],
}

/// It is reached when as much has been spent as any of its limits says. All zero it says
/// nothing.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Boundary {
    /// In terms of [`Machine::spent_received`]; [`NO_LIMIT`]: none.
    pub received: AtomicU64,
    /// In terms of [`Machine::spent_sent`].
    pub sent: AtomicU64,
    /// Of both together.
    pub sum: AtomicU64,
    /// Bytes a second that policing lets through in each direction.
    pub rate: AtomicU64,
    /// An [`Action`].
    pub action: AtomicU64,
}

/// What becomes of a machine's packets behind a boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// They pass: there is no boundary.
    #[default]
    None = 0,
    /// They are dropped: a cap is used up.
    Capped = 1,
    /// They are dropped: the machine is suspended.
    Suspended = 2,
    /// What is above the rate is dropped, unless a shaper of ours slows it down.
    Police = 3,
}

/// Room for so many bytes of [`Reached`] that the daemon has yet to read, some hundreds of
/// records: a power of two.
pub const REACHED_BYTES: u32 = 1 << 16;

/// `BPF_F_MMAPABLE`: a map that the daemon has mapped into its memory.
pub const MAPPED: u32 = 1 << 10;

/// A record of the ring buffer: a machine has reached a boundary. Of one arming there may be
/// several of them; there is at least one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// [`Machine::arming`] at that moment.
    pub arming: u64,
    /// The index of the [`Machine`].
    pub machine: u32,
    /// 0 or 1: which of the boundaries.
    pub boundary: u32,
    /// What had been spent.
    pub spent_received: u64,
    /// As above.
    pub spent_sent: u64,
    /// Nanoseconds since boot, the time asleep among them.
    pub at: u64,
}

/// Prefixes there is room for, of each family.
pub const EXEMPT_PREFIXES: u32 = 1 << 16;

/// What of a prefix's length is the group's part.
pub const GROUP_BITS: u32 = 32;

/// The key of an exempt IPv4 prefix behind its length in bits, which covers the group whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExemptV4 {
    /// Not [`NO_GROUP`].
    pub group: u32,
    /// As it stands in a packet.
    pub address: [u8; 4],
}

/// The same for IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExemptV6 {
    /// As above.
    pub group: u32,
    /// As above.
    pub address: [u8; 16],
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
const _: () = assert!(size_of::<Interface>() == 32);
const _: () = assert!(size_of::<ShortWay>() == 16);
const _: () = assert!(cfg!(target_endian = "little"));
const _: () = assert!(size_of::<Machine>() == 128);
const _: () = assert!(core::mem::offset_of!(Machine, told) == 64);
const _: () = assert!(size_of::<Boundary>() == 40);
const _: () = assert!(size_of::<Arming>() == 80);
const _: () = assert!(size_of::<Reached>() == 40);
const _: () = assert!(size_of::<ExemptV4>() == 8);
const _: () = assert!(size_of::<ExemptV6>() == 20);
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
    unsafe impl aya::Pod for super::Reached {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ExemptV4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ExemptV6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::MapSet {}
}
