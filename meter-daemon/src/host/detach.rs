//! Leaving: nothing of ours stays in the kernel.

use std::path::Path;

use super::{
    clsact,
    error::HostError,
    features,
    pins::{self, Hook, Pins},
    rcu, tcx,
};

/// What [`detach_all`] found and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pinned tcx links.
    pub links: usize,
    /// Filters on clsact qdiscs.
    pub filters: usize,
    /// Pinned maps.
    pub maps: usize,
}

/// Takes every program of ours, of whatever version, off every interface, and removes every
/// pin and folder below `pin_directory`. Needs no loaded program. Where there is nothing, it
/// does nothing.
///
/// # Errors
/// Where the kernel refuses; calling it again does the rest.
pub fn detach_all(pin_directory: &Path) -> Result<Removed, HostError> {
    features::check_capabilities("detach the kernel program")?;
    rcu::restore();
    let mut removed = Removed::default();
    let layouts = Pins::all(pin_directory)?;
    for pins in &layouts {
        let links = pins.links()?;
        let _expedited = rcu::Expedited::for_interfaces(links.len());
        for (ifindex, hook) in links {
            removed.links += usize::from(tcx::take(pins, ifindex, hook)?);
        }
    }
    for ifindex in clsact::interfaces()? {
        for hook in Hook::ALL {
            removed.filters += usize::from(clsact::take(ifindex, hook)?);
        }
    }
    for pins in &layouts {
        clsact::leave_qdiscs(pins)?;
        removed.maps += pins.remove()?;
    }
    pins::remove_root(pin_directory)?;
    Ok(removed)
}
