//! What is on the node, asked of the kernel a second time: qdiscs, classes, programs on the
//! hooks, pins. Everything happens in the namespace of the calling thread.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Context, Failure, Result, links,
    netlink::{Attributes, Message, Netlink},
    sys,
};

const RTM_GETQDISC: u16 = 38;
const RTM_GETTCLASS: u16 = 42;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;

/// A hook of an interface. Directions are the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hook {
    /// Ingress of the host end: what the guest sends.
    Sent,
    /// Egress of the host end: what the guest receives.
    Received,
}

impl Hook {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Sent, Self::Received];

    pub(crate) const fn attach_type(self) -> u32 {
        match self {
            Self::Sent => 46,
            Self::Received => 47,
        }
    }

    /// The parent of `clsact` filters.
    pub(crate) const fn parent(self) -> u32 {
        match self {
            Self::Sent => 0xffff_fff2,
            Self::Received => 0xffff_fff3,
        }
    }
}

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name, 15 bytes of it.
    pub name: String,
}

/// The programs on a TCX hook, in the order they run. A kernel without TCX has none.
pub fn tcx(ifindex: u32, hook: Hook) -> Result<Vec<Program>> {
    let ids = query(ifindex, hook)?.unwrap_or_default();
    ids.into_iter().map(program).collect()
}

/// Whether this kernel has TCX (6.6 and newer).
pub fn has_tcx() -> Result<bool> {
    Ok(query(links::get("lo")?.index, Hook::Sent)?.is_some())
}

fn query(ifindex: u32, hook: Hook) -> Result<Option<Vec<u32>>> {
    match sys::bpf::query(ifindex, hook.attach_type()) {
        Ok(ids) => Ok(Some(ids)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) => Err(error).could_not(|| format!("list the programs on ifindex {ifindex}")),
    }
}

/// Every program on a hook, in the order they run: TCX first, then the filters of `clsact`.
pub fn programs(ifindex: u32, hook: Hook) -> Result<Vec<Program>> {
    let mut all = tcx(ifindex, hook)?;
    for filter in filters(ifindex, hook)? {
        all.extend(filter.program.map(program).transpose()?);
    }
    Ok(all)
}

/// A program by its number.
pub fn open_program(id: u32) -> Result<OwnedFd> {
    sys::bpf::program(id).could_not(|| format!("open program {id}"))
}

fn program(id: u32) -> Result<Program> {
    let fd = open_program(id)?;
    let info = sys::bpf::info(&fd).could_not(|| format!("look at program {id}"))?;
    Ok(Program {
        id,
        name: text(&info[64..80]),
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A queueing discipline or a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Of which interface.
    pub ifindex: u32,
    /// `htb`, `tbf`, `noqueue`, `clsact`, …
    pub kind: String,
    /// Major in the upper 16 bits.
    pub handle: u32,
    /// What it hangs on; 0xffff_ffff is the root.
    pub parent: u32,
    /// Of a `bpf` filter: the kernel's number of its program.
    pub program: Option<u32>,
}

/// The qdiscs of every interface. `noqueue` and the defaults of physical ones included.
pub fn qdiscs() -> Result<Vec<Queue>> {
    tc_dump(RTM_GETQDISC, 0, 0)
}

/// The classes of an interface.
pub fn classes(ifindex: u32) -> Result<Vec<Queue>> {
    tc_dump(RTM_GETTCLASS, ifindex, 0)
}

/// Packets that have gone through a class of an interface.
pub fn class_packets(ifindex: u32, class: u32) -> Result<u32> {
    const TCA_STATS2: u16 = 7;
    const TCA_STATS_BASIC: u16 = 1;
    let message = Message::new(RTM_GETTCLASS, 0).bytes(&tcmsg(ifindex, 0, 0, 0));
    let all = Netlink::open()?.dump(message, "list classes")?;
    let packets = all
        .iter()
        .filter(|(_, body)| body.get(8..12) == Some(&class.to_ne_bytes()))
        .find_map(|(_, body)| {
            let figures = Attributes(Attributes(body.get(20..)?).get(TCA_STATS2)?);
            // struct gnet_stats_basic: bytes, then packets.
            let packets = figures.get(TCA_STATS_BASIC)?.get(8..12)?;
            Some(u32::from_ne_bytes(packets.try_into().ok()?))
        });
    packets.ok_or_else(|| Failure::new(format!("ifindex {ifindex} has no class {class:#x}")))
}

/// The filters on one hook of an interface's `clsact`, in order. The kernel lists each chain
/// and each filter: `parent` is the hook's.
pub fn filters(ifindex: u32, hook: Hook) -> Result<Vec<Queue>> {
    tc_dump(RTM_GETTFILTER, ifindex, hook.parent())
}

fn tc_dump(kind: u16, ifindex: u32, parent: u32) -> Result<Vec<Queue>> {
    let message = Message::new(kind, 0).bytes(&tcmsg(ifindex, 0, parent, 0));
    let all = Netlink::open()?.dump(message, "list qdiscs, classes or filters")?;
    let read = |body: &[u8]| {
        let number = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let attributes = Attributes(body.get(20..)?);
        let kind = attributes.string(TCA_KIND)?;
        let options = attributes
            .get(TCA_OPTIONS)
            .filter(|_| kind == "bpf")
            .map(Attributes);
        Some(Queue {
            ifindex: number(4)?,
            kind,
            handle: number(8)?,
            parent: number(12)?,
            program: options.and_then(|options| options.number(TCA_BPF_ID)),
        })
    };
    Ok(all.iter().filter_map(|(_, body)| read(body)).collect())
}

/// What Proxmox does when a NIC is edited.
pub fn delete_root_qdisc(interface: &str) -> Result<()> {
    const RTM_DELQDISC: u16 = 37;
    const ROOT: u32 = u32::MAX;
    let ifindex = links::get(interface)?.index;
    let message = Message::new(RTM_DELQDISC, 0).bytes(&tcmsg(ifindex, 0, ROOT, 0));
    Netlink::open()?.request(message, &format!("delete the root qdisc of {interface}"))
}

pub(crate) fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, ifindex, handle, parent, info]
        .iter()
        .flat_map(|n| n.to_ne_bytes())
        .collect()
}

/// Everything below a directory, relative to it; empty where there is none.
pub fn pins(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(here) = open.pop() {
        let entries = match std::fs::read_dir(&here) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).could_not(|| format!("list {}", here.display())),
        };
        for entry in entries {
            let path = entry
                .could_not(|| format!("list {}", here.display()))?
                .path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path.strip_prefix(directory).unwrap_or(&path).to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// A pinned map's value under `key`: for a per-CPU map one after the other, each rounded up
/// to 8 bytes.
pub fn pinned_value(path: &Path, key: &[u8], value_size: usize) -> Result<Vec<u8>> {
    let what = || format!("read the map at {}", path.display());
    let fd = open_pin(path).could_not(what)?;
    let cpus = sys::bpf::possible_cpus().could_not(what)?;
    let mut value = vec![0; value_size.next_multiple_of(8) * cpus];
    sys::bpf::lookup(&fd, key, &mut value).could_not(what)?;
    Ok(value)
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    sys::bpf::pinned(&path)
}

/// Everything of the node that a meter could have changed: to be compared before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Links by name: kind and whether they are up.
    pub links: BTreeMap<String, (String, bool)>,
    /// Qdiscs: interface, kind, parent.
    pub qdiscs: Vec<(String, String, u32)>,
    /// Programs: interface, hook, name.
    pub programs: Vec<(String, Hook, String)>,
}

impl Inventory {
    /// As it is now.
    pub fn take() -> Result<Self> {
        let list = links::list()?;
        let name_of = |index: u32| {
            list.iter()
                .find(|link| link.index == index)
                .map_or_else(|| format!("#{index}"), |link| link.name.clone())
        };
        let mut programs = Vec::new();
        for link in &list {
            for hook in Hook::BOTH {
                for program in self::programs(link.index, hook)? {
                    programs.push((link.name.clone(), hook, program.name));
                }
            }
        }
        let mut qdiscs: Vec<_> = qdiscs()?
            .into_iter()
            .map(|q| (name_of(q.ifindex), q.kind, q.parent))
            .collect();
        qdiscs.sort();
        programs.sort();
        Ok(Self {
            links: list
                .into_iter()
                .map(|link| (link.name, (link.kind, link.up)))
                .collect(),
            qdiscs,
            programs,
        })
    }

    /// Fails with the difference.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        if self == before {
            return Ok(());
        }
        Err(Failure::new(format!(
            "something is left.\nbefore: {before:#?}\nnow: {self:#?}"
        )))
    }
}
