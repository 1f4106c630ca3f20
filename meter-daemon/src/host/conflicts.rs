//! What others have put on an interface that stands in the way of metering or enforcing, for
//! `meterd doctor`. Asking changes nothing.

use std::{fs, io, path::Path};

use aya::programs::links::{FdLink, PinnedLink};

use super::{
    bpf, clsact,
    error::HostError,
    links::Link,
    pins::{Hook, Pins},
    shaping::{Root, Shaping, ShapingError},
    tcx,
    words::Mode,
};

/// Something of somebody else's on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What stands there.
    pub found: String,
    /// What meterd does about it.
    pub handling: String,
    /// Something that was asked for does not happen because of it.
    pub hinders: bool,
}

impl Conflict {
    fn harmless(found: impl Into<String>, handling: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            handling: handling.into(),
            hinders: false,
        }
    }

    fn hindering(found: impl Into<String>, handling: impl Into<String>) -> Self {
        Self {
            hinders: true,
            ..Self::harmless(found, handling)
        }
    }
}

/// How programs would be attached on this kernel, unless the configuration says otherwise.
///
/// # Errors
/// Where the kernel does not say.
pub fn mode() -> io::Result<Mode> {
    Ok(match tcx::is_there()? {
        true => Mode::Tcx,
        false => Mode::Clsact,
    })
}

/// Everything on an interface that is not ours and concerns us.
///
/// # Errors
/// Where the kernel does not say.
pub async fn on(
    link: &Link,
    mode: Mode,
    shaping: &Shaping,
    pin_directory: &Path,
) -> Result<Vec<Conflict>, ConflictError> {
    let found = shaping.inspect(link.ifindex).await?;
    let mut conflicts = Vec::new();
    match &found.root {
        Root::None | Root::Default(_) | Root::Ours { .. } => {}
        Root::Restorable(saved) => conflicts.push(Conflict::harmless(
            format!(
                "a root qdisc {} (a rate limit of Proxmox VE's, libvirt's or your own)",
                saved.kind()
            ),
            "kept aside during a throttle, and put back as it was on lifting",
        )),
        Root::Foreign { kind, why } => conflicts.push(Conflict::hindering(
            format!("a root qdisc {kind} that could not be put back ({why})"),
            "left alone: a throttle drops what the guest receives above the rate instead of \
             queueing it, and what it sends likewise. To have it shaped, take the NIC's rate limit \
             away in the hypervisor; meterd notices",
        )),
    }
    let bypassed = found.bypassed_by(mode);
    if !bypassed.is_empty() {
        conflicts.push(Conflict::hindering(
            format!("filters at its ingress: {}", bypassed.join(", ")),
            "not led past: a throttle drops what the guest sends above the rate instead of \
             queueing it. To have it shaped, put anti-spoofing rules into the bridge or forward \
             hook, and take the NIC's rate limit away; meterd notices",
        ));
    }
    match mode {
        Mode::Tcx => conflicts.extend(other_programs(link.ifindex, pin_directory)?),
        Mode::Clsact => {
            let lacks_egress = !clsact::has_egress(link.ifindex)?;
            if lacks_egress && !found.ingress_filters.is_empty() {
                conflicts.push(Conflict::hindering(
                    "an `ingress` qdisc in the place of clsact, on a kernel without tcx",
                    "what the guest receives is not counted: use Linux 6.6 or later",
                ));
            }
        }
    }
    Ok(conflicts)
}

/// Other tcx programs that see packets before ours, or behind.
fn other_programs(ifindex: u32, pin_directory: &Path) -> Result<Vec<Conflict>, HostError> {
    let ours = our_programs(ifindex, pin_directory)?;
    let mut conflicts = Vec::new();
    for (hook, what) in [(Hook::Sent, "sends"), (Hook::Received, "receives")] {
        let ids = bpf::programs_on(ifindex, hook.attach_type()).map_err(|error| {
            HostError::system(format!("list the programs of interface {ifindex}"), error)
        })?;
        let others = ids.iter().filter(|id| !ours.contains(id)).count();
        if others == 0 {
            continue;
        }
        let before = ids.iter().take_while(|id| !ours.contains(id)).count();
        let found = format!("{others} other tcx program(s) on what the guest {what}");
        conflicts.push(match before {
            0 => Conflict::harmless(found, "they run behind ours and see what we let pass"),
            _ if ours.is_empty() => Conflict::harmless(found, "ours will run before them"),
            before => Conflict::hindering(
                format!("{found}, {before} of them before ours"),
                "what those drop is not counted; let them attach behind us, or restart meterd",
            ),
        });
    }
    Ok(conflicts)
}

/// By the pinned links, of every layout.
fn our_programs(ifindex: u32, pin_directory: &Path) -> Result<Vec<u32>, HostError> {
    let mut ids = Vec::new();
    for pins in Pins::all(pin_directory)? {
        for hook in Hook::ALL {
            let path = pins.link(ifindex, hook);
            if !path.exists() {
                continue;
            }
            let link = PinnedLink::from_pin(&path).and_then(|link| FdLink::from(link).info());
            let link = link.map_err(|error| {
                let attempt = format!("look at the link {}", path.display());
                HostError::system(attempt, io::Error::other(error))
            })?;
            ids.push(link.program_id());
        }
    }
    Ok(ids)
}

/// Network cards that a guest has to itself: what passes them, the host never sees.
#[must_use]
pub fn passthrough() -> Vec<String> {
    bound_to(Path::new("/sys/bus/pci/drivers/vfio-pci"))
}

/// The network devices (PCI class 02) that a driver has, and whether each is a VF.
fn bound_to(driver: &Path) -> Vec<String> {
    // No such driver: nothing is passed through.
    let entries = fs::read_dir(driver).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter(|entry| {
            let class = fs::read_to_string(entry.path().join("class"));
            class.is_ok_and(|class| class.starts_with("0x02"))
        })
        .map(|entry| {
            let address = entry.file_name().to_string_lossy().into_owned();
            match entry.path().join("physfn").exists() {
                true => format!("VF {address}"),
                false => format!("NIC {address}"),
            }
        })
        .collect();
    found.sort();
    found
}

/// What stands there could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConflictError {
    /// Qdiscs.
    #[error(transparent)]
    Shaping(#[from] ShapingError),
    /// Programs.
    #[error(transparent)]
    Host(#[from] HostError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_cards_that_are_passed_through_are_named() {
        let driver = tempfile::tempdir().unwrap();
        for (address, class, is_vf) in [
            ("0000:01:10.0", "0x020000\n", true),
            ("0000:02:00.0", "0x020000\n", false),
            ("0000:03:00.0", "0x030000\n", false),
        ] {
            let device = driver.path().join(address);
            fs::create_dir(&device).unwrap();
            fs::write(device.join("class"), class).unwrap();
            if is_vf {
                fs::create_dir(device.join("physfn")).unwrap();
            }
        }
        fs::write(driver.path().join("new_id"), "").unwrap();
        assert_eq!(
            bound_to(driver.path()),
            ["NIC 0000:02:00.0", "VF 0000:01:10.0"]
        );
        assert!(bound_to(Path::new("/nonexistent")).is_empty());
    }
}
