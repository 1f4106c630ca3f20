//! What hypervisors say of their guests' interfaces, from their own files. It reads and
//! changes nothing, and asks no hypervisor's daemon: that one may be waiting for us. Nor does
//! it wait for their files: what does not answer in a moment is not known in that moment.
//!
//! libvirt keeps each running domain's live definition in `/run/libvirt/<driver>/<name>.xml`
//! (`stateDir` of src/qemu/qemu_conf.c); there, and not in `/etc/libvirt`, `<target dev=…>`
//! says which `vnetN` it has at this moment. It is written after the tap is made and before
//! the guest runs (qemuProcessLaunch, "Writing early domain status to disk").
//!
//! Proxmox VE calls a guest's interfaces by its VMID (`tapVMIDiN`, `vethVMIDiN`; PVE::Network
//! takes them apart by the same names), and keeps `VMID.conf` of this node's guests in
//! `/etc/pve/qemu-server` and `/etc/pve/lxc` (pve(1), "Proxmox Cluster File System").

mod aside;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use self::aside::Aside;
use super::links::{Link, LinkKind};

/// A guest in its hypervisor's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// UUID, in lower case, or VMID.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A libvirt domain: what of its definition is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Who it is.
    pub guest: Guest,
    /// The host's ends of its interfaces.
    pub targets: Vec<Target>,
}

/// The host's end of a domain's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `<target dev=…>`.
    pub name: String,
    /// The guest's own address.
    mac: Option<[u8; 6]>,
    /// libvirt made the tap and gave it the guest's address (but for the first octet).
    managed: bool,
}

impl Target {
    /// Whether a link of this name is this one, and not an earlier or later owner of the name.
    fn is(&self, link: &Link) -> bool {
        // virNetDevTapCreateInBridgePort sets the first octet to fe (or fa). The host's end of
        // a container's veth has an address of its own.
        let by_address = self.managed && link.kind != LinkKind::Veth;
        let same = match (self.mac, link.mac) {
            (Some(ours), Some(theirs)) => ours[1..] == theirs[1..],
            _ => true,
        };
        self.name == link.name && (same || !by_address)
    }
}

/// Reads a domain's definition, or a file of libvirt's that has one inside.
///
/// # Errors
/// Says what is wrong with it.
pub fn domain(text: &str) -> Result<Domain, String> {
    // No DTD, hence no entities to blow up: roxmltree refuses one unless told otherwise.
    let document = roxmltree::Document::parse(text).map_err(|error| error.to_string())?;
    let domain = document
        .descendants()
        .find(|node| node.has_tag_name("domain"))
        .ok_or("it has no <domain>")?;
    let child = |name: &str| {
        let found = domain.children().find(|node| node.has_tag_name(name));
        let text = found.and_then(|node| node.text()).map(str::trim);
        text.filter(|text| !text.is_empty())
            .map(str::to_owned)
            .ok_or_else(|| format!("its <domain> has no <{name}>"))
    };
    let guest = Guest {
        id: child("uuid")?.to_ascii_lowercase(),
        name: child("name")?,
    };
    let devices = domain.children().find(|node| node.has_tag_name("devices"));
    let interfaces = devices
        .into_iter()
        .flat_map(|devices| devices.children())
        .filter(|node| node.has_tag_name("interface"));
    let targets = interfaces.filter_map(target).collect();
    Ok(Domain { guest, targets })
}

/// `None` where the domain is not running, or the interface is not one of this host's (a
/// passthrough VF).
fn target(interface: roxmltree::Node<'_, '_>) -> Option<Target> {
    let attribute = |element: &str, name: &str| {
        let found = interface
            .children()
            .find(|node| node.has_tag_name(element))?;
        found.attribute(name)
    };
    Some(Target {
        name: attribute("target", "dev")?.to_owned(),
        mac: attribute("mac", "address").and_then(address),
        managed: attribute("target", "managed") != Some("no"),
    })
}

fn address(text: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    octets?.try_into().ok()
}

/// The files of libvirt's drivers for guests whose wires end on this host.
const LIBVIRT: [&str; 3] = ["/run/libvirt/qemu", "/run/libvirt/lxc", "/run/libvirt/ch"];

/// libvirt's running domains, each file read anew only when it is another.
#[derive(Debug)]
pub struct Libvirt {
    directories: Arc<[PathBuf]>,
    domains: Arc<Domains>,
    files: Aside<Known, io::Result<Domains>>,
}

type Domains = BTreeMap<PathBuf, (Stamp, Option<Domain>)>;

/// Where to look, and what was found there last.
type Known = (Arc<[PathBuf]>, Arc<Domains>);

/// libvirt replaces a file as a whole (virFileRewrite): another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: [i64; 2],
}

impl Default for Libvirt {
    fn default() -> Self {
        Self::at(LIBVIRT.map(PathBuf::from).to_vec())
    }
}

impl Libvirt {
    fn at(directories: Vec<PathBuf>) -> Self {
        Self {
            directories: directories.into(),
            domains: Arc::default(),
            files: Aside::new("libvirt's files", domains),
        }
    }

    /// Takes in what has changed; says whether anything has.
    ///
    /// # Errors
    /// Where a directory is there and cannot be read: then all stays as it was.
    pub fn look(&mut self) -> io::Result<bool> {
        let known = (Arc::clone(&self.directories), Arc::clone(&self.domains));
        let found = self.files.ask(known)??;
        let changed = found != *self.domains;
        if changed {
            self.domains = Arc::new(found);
        }
        Ok(changed)
    }

    /// The running domain whose interface this is. None where none is, or two say so.
    #[must_use]
    pub fn owner(&self, link: &Link) -> Option<&Guest> {
        let mut owners = self
            .domains
            .values()
            .filter_map(|(_, domain)| domain.as_ref())
            .filter(|domain| domain.targets.iter().any(|target| target.is(link)))
            .map(|domain| &domain.guest);
        let owner = owners.next()?;
        owners.all(|other| other == owner).then_some(owner)
    }

    /// Whether libvirt gives out such names by itself (VIR_NET_GENERATED_*_PREFIX of
    /// src/util/virnetdev.h), so that one is its and nobody else's.
    #[must_use]
    pub fn gives_out(name: &str) -> bool {
        ["vnet", "macvtap", "macvlan"]
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix))
            .any(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

fn domains((directories, known): &Known) -> io::Result<Domains> {
    let mut found = Domains::new();
    for directory in directories.iter() {
        for file in files(directory)? {
            // Gone since it was listed, or no file.
            let Some(stamp) = stamp(&file) else {
                continue;
            };
            let known = known.get(&file).filter(|(known, _)| *known == stamp);
            let domain = match known {
                Some((_, domain)) => domain.clone(),
                None => read(&file),
            };
            found.insert(file, (stamp, domain));
        }
    }
    Ok(found)
}

/// None where there is no such directory: that driver does not run.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let attempt = format!("reading {}: {error}", directory.display());
            return Err(io::Error::new(error.kind(), attempt));
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "xml") {
            files.push(path);
        }
    }
    Ok(files)
}

fn stamp(file: &Path) -> Option<Stamp> {
    let data = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    Some(Stamp {
        inode: data.ino(),
        size: data.len(),
        modified: [data.mtime(), data.mtime_nsec()],
    })
}

fn read(file: &Path) -> Option<Domain> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string());
    text.and_then(|text| domain(&text))
        .inspect_err(|error| {
            tracing::warn!("libvirt's {} is not understood: {error}", file.display());
        })
        .ok()
}

/// Proxmox VE's guests of this node.
#[derive(Debug)]
pub struct Proxmox {
    directory: PathBuf,
    files: Mutex<Aside<Asked, io::Result<Option<Guest>>>>,
}

/// The directory, and an interface's name.
type Asked = (PathBuf, String);

impl Default for Proxmox {
    fn default() -> Self {
        Self::at("/etc/pve".into())
    }
}

impl Proxmox {
    fn at(directory: PathBuf) -> Self {
        Self {
            directory,
            files: Mutex::new(Aside::new("/etc/pve", guest_of)),
        }
    }

    /// The guest that an interface of this name belongs to; `None` where there is no such
    /// guest on this node.
    ///
    /// # Errors
    /// Where the files cannot be read: they are the cluster's, whose service may be down.
    pub fn owner(&self, interface: &str) -> io::Result<Option<Guest>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.ask((self.directory.clone(), interface.to_owned()))?
    }

    /// Whether Proxmox VE gives out such names.
    #[must_use]
    pub fn gives_out(name: &str) -> bool {
        proxmox_name(name).is_some()
    }

    /// The VMID in such a name.
    #[must_use]
    pub fn vmid(name: &str) -> Option<&str> {
        proxmox_name(name).map(|(_, _, vmid)| vmid)
    }
}

fn guest_of((directory, interface): &Asked) -> io::Result<Option<Guest>> {
    let Some((folder, key, vmid)) = proxmox_name(interface) else {
        return Ok(None);
    };
    // A whole /etc/pve that is empty is one that is not mounted.
    fs::metadata(directory.join(folder))?;
    match fs::read_to_string(directory.join(folder).join(format!("{vmid}.conf"))) {
        Ok(text) => Ok(Some(Guest {
            id: vmid.to_owned(),
            name: configured(&text, key).unwrap_or(vmid).to_owned(),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `tap101i0`: the folder of the guest's file, the key of its name there, its VMID.
fn proxmox_name(interface: &str) -> Option<(&'static str, &'static str, &str)> {
    let (folder, key, rest) = match (
        interface.strip_prefix("tap"),
        interface.strip_prefix("veth"),
    ) {
        (Some(rest), _) => ("qemu-server", "name", rest),
        (_, Some(rest)) => ("lxc", "hostname", rest),
        _ => return None,
    };
    let (vmid, number) = rest.split_once('i')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(vmid) && is_number(number)).then_some((folder, key, vmid))
}

/// A key's value, before the first `[section]`: those are snapshots.
fn configured<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
