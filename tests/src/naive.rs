//! The counter that most eBPF tutorials end with, to compare with: a hash map by ifindex, two
//! additions, a packet as long as `skb->len` says.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::{Context, Result, inspect::Hook, links, sys};

/// Whose counters an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All CPUs', added to by atomic operations.
    Shared,
    /// Each CPU's own.
    PerCpu,
    /// Nobody's: it counts nothing, which is what a hook by itself costs.
    Nothing,
}

/// The program, its map, and where it is attached until this is dropped.
#[derive(Debug)]
pub struct Naive {
    map: OwnedFd,
    program: OwnedFd,
    links: Vec<OwnedFd>,
}

/// Packets and bytes.
const VALUE: u32 = 16;

impl Naive {
    /// Loads it, with entries for these interfaces.
    pub fn load(kind: Kind, interfaces: impl IntoIterator<Item = u32>) -> Result<Self> {
        const HASH: u32 = 1;
        const PER_CPU_HASH: u32 = 5;
        const ENTRIES: u32 = 16_384;
        let of = match kind {
            Kind::Shared | Kind::Nothing => HASH,
            Kind::PerCpu => PER_CPU_HASH,
        };
        let map = sys::bpf::map(of, VALUE, ENTRIES).could_not(|| "make a hash map")?;
        for ifindex in interfaces {
            sys::bpf::insert_zero(&map, ifindex)
                .could_not(|| format!("enter ifindex {ifindex}"))?;
        }
        let code = count_by_ifindex(&map, kind);
        let program =
            sys::bpf::load(&code, Hook::Sent.attach_type()).could_not(|| "load a naive counter")?;
        Ok(Self {
            map,
            program,
            links: Vec::new(),
        })
    }

    /// Puts it on both hooks of an interface of this thread's namespace.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        let ifindex = links::get(interface)?.index;
        for hook in Hook::BOTH {
            let link = sys::bpf::tcx_link(&self.program, ifindex, hook.attach_type(), 0)
                .could_not(|| format!("attach a naive counter to {interface}"))?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Bytes of both directions, as it has counted them (with shared counters).
    pub fn bytes(&self, ifindex: u32) -> Result<u64> {
        let mut value = [0; VALUE as usize];
        sys::bpf::lookup(&self.map, &ifindex.to_ne_bytes(), &mut value)
            .could_not(|| "read a naive counter")?;
        Ok(value[8..].try_into().map_or(0, u64::from_ne_bytes))
    }
}

impl AsFd for Naive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

fn count_by_ifindex(map: &OwnedFd, kind: Kind) -> Vec<u64> {
    let op = sys::bpf::instruction;
    let pass = [op(0xb7, 0x00, 0, -1), op(0x95, 0x00, 0, 0)]; // return TCX_NEXT
    let add = |at: i16| match kind {
        Kind::Nothing => vec![],
        // lock *(u64 *)(r0 + at) += r1
        Kind::Shared => vec![op(0xdb, 0x10, at, 0)],
        // r2 = *(u64 *)(r0 + at); r2 += r1; *(u64 *)(r0 + at) = r2
        Kind::PerCpu => vec![
            op(0x79, 0x02, at, 0),
            op(0x0f, 0x12, 0, 0),
            op(0x7b, 0x20, at, 0),
        ],
    };
    if kind == Kind::Nothing {
        return pass.to_vec();
    }
    let mut count = vec![op(0xb7, 0x01, 0, 1)]; // r1 = 1
    count.extend(add(0));
    count.push(op(0x61, 0x61, 0, 0)); // r1 = skb->len
    count.extend(add(8));
    let past = i16::try_from(count.len()).unwrap_or_default();
    let mut code = vec![
        op(0xbf, 0x16, 0, 0),               // r6 = r1, the skb
        op(0x61, 0x61, 40, 0),              // r1 = skb->ifindex
        op(0x63, 0x1a, -4, 0),              // *(u32 *)(r10 - 4) = r1, the key
        op(0xbf, 0xa2, 0, 0),               // r2 = r10
        op(0x07, 0x02, 0, -4),              // r2 -= 4
        op(0x18, 0x11, 0, map.as_raw_fd()), // r1 = map
        op(0, 0, 0, 0),                     // (its upper half)
        op(0x85, 0x00, 0, 1),               // r0 = map_lookup_elem(r1, r2)
        op(0x15, 0x00, past, 0),            // if r0 == 0 skip to the end
    ];
    code.extend(count);
    code.extend(pass);
    code
}
