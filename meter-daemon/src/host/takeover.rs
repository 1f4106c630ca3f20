//! What another version of the program has pinned, older or newer, becomes ours.
//!
//! Where traffic is counted has stayed the same through all layouts (see `meter_common::LAYOUT`):
//! those maps go on under our name, with all that was counted and under the set's own name, so
//! that nothing ends and the ledger's cursors go on. So do, since layout 2, the machines' limits
//! and what they have spent: while links move, the old program and the new one add to the same
//! sum and compare it with the same boundary, and no packet more gets past it than otherwise. A
//! link is given to us as it stands and then gets our program between two packets.
//!
//! Each step leaves what the next start, of either version, can go on from: the other's maps
//! keep their pins until every link is ours.

use std::{fs, os::fd::AsFd, path::Path};

use aya::maps::{MapData, MapInfo};
use meter_common::{Interface, NO_MACHINE};

use super::{
    bpf,
    error::HostError,
    maps::{self, COUNTED, INTERFACES, LIMITED},
    pins::Pins,
    tcx,
};

/// What goes on under our name.
pub(super) struct Carried {
    /// The name of the set.
    pub(super) id: u64,
    /// By slot.
    pub(super) interfaces: Vec<Interface>,
}

/// Takes over the maps of another layout, unless we have a set already.
pub(super) fn carry_maps(
    others: &[Pins],
    ours: &Pins,
    slots: u32,
) -> Result<Option<Carried>, HostError> {
    if maps::name(ours)?.is_some() {
        return Ok(None);
    }
    for other in others {
        let Some(id) = maps::name(other)? else {
            continue;
        };
        maps::check_those(other, slots, &COUNTED)?;
        let mut names = COUNTED.to_vec();
        let mut interfaces = interfaces(other, slots)?;
        if maps::check_those(other, slots, &LIMITED).is_ok() {
            names.extend(LIMITED);
        } else {
            tracing::info!(
                "that version's limits are none of ours: they hold from the first reading on"
            );
            for interface in &mut interfaces {
                interface.machine = NO_MACHINE;
            }
        }
        for name in names {
            let failed = |error| HostError::system(format!("take over the map {name}"), error);
            let map = bpf::open_pin(&other.map(name)).map_err(failed)?;
            bpf::pin(map.as_fd(), &ours.map(name)).map_err(failed)?;
        }
        tracing::info!("taking over what another version of this program has counted");
        return Ok(Some(Carried { id, interfaces }));
    }
    Ok(None)
}

/// The fields that every layout has, of every slot.
fn interfaces(other: &Pins, slots: u32) -> Result<Vec<Interface>, HostError> {
    let path = other.map(INTERFACES);
    let failed =
        |error| HostError::system(format!("read the former map {}", path.display()), error);
    let open = || -> Result<(MapData, MapInfo), aya::maps::MapError> {
        Ok((MapData::from_pin(&path)?, MapInfo::from_pin(&path)?))
    };
    let (map, info) = open().map_err(|error| failed(maps::io_error(error)))?;
    let words = usize::try_from(info.value_size() / 4).unwrap_or_default();
    let mut interfaces = Vec::new();
    bpf::read_array(map.fd().as_fd(), words, slots, |_, words: &[u32]| {
        interfaces.push(interface(words));
    })
    .map_err(failed)?;
    Ok(interfaces)
}

fn interface(words: &[u32]) -> Interface {
    // Layout 1 had as many, and 0 in the last.
    let &[machine, generation, shaper, ifb, verdict, root_lost, ..] = words else {
        return Interface::default();
    };
    Interface {
        machine,
        generation,
        shaper,
        ifb,
        verdict,
        root_lost,
        ..Interface::default()
    }
}

/// Gives us the links of other layouts, and what they remember of qdiscs. Their programs stay
/// until they are renewed.
pub(super) fn move_links(others: &[Pins], ours: &Pins) -> Result<(), HostError> {
    for other in others {
        for (ifindex, hook) in other.links()? {
            let (from, to) = (other.link(ifindex, hook), ours.link(ifindex, hook));
            if to.exists() {
                // Two on one hook would count twice.
                tcx::take(other, ifindex, hook)?;
            } else {
                rename(&from, &to)?;
            }
        }
        for ifindex in other.clsact_marks()? {
            ours.mark_clsact(ifindex)?;
            other.unmark_clsact(ifindex)?;
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), HostError> {
    fs::rename(from, to)
        .map_err(|error| HostError::system(format!("move the pin {}", from.display()), error))
}

/// Removes what is left of other layouts, once nothing of theirs is attached.
pub(super) fn remove(others: &[Pins]) -> Result<(), HostError> {
    for other in others {
        let maps = other.remove()?;
        tracing::info!(maps, "removed the pins of another version of this program");
    }
    Ok(())
}

/// The folders of other layouts.
pub(super) fn others(pin_directory: &Path, ours: &Pins) -> Result<Vec<Pins>, HostError> {
    let mut all = Pins::all(pin_directory)?;
    all.retain(|pins| pins != ours);
    Ok(all)
}
