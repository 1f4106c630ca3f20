//! Whether what we pinned is still there. A link lives by its pin alone: who clears the bpf file
//! system under a running daemon ends all counting, and nothing else would say so. The maps we
//! hold, so that they can have their names again with all that is in them.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::SystemTime,
};

use super::{bpf, error::HostError, pins::Pins};

pub(super) struct Held {
    maps: Vec<(PathBuf, OwnedFd)>,
    /// When a name of a link last came or went, by us.
    links: Option<SystemTime>,
}

impl Held {
    pub(super) fn of(pins: &Pins) -> Result<Self, HostError> {
        let open = |path: PathBuf| {
            let map = bpf::open_pin(&path).map_err(|error| {
                HostError::system(format!("open the map {}", path.display()), error)
            })?;
            Ok((path, map))
        };
        Ok(Self {
            maps: pins
                .maps()?
                .into_iter()
                .map(open)
                .collect::<Result<_, _>>()?,
            links: pins.links_changed(),
        })
    }

    /// We have pinned links, or let go of some.
    pub(super) fn note(&mut self, pins: &Pins) {
        self.links = pins.links_changed();
    }

    /// Whether nobody else has: thirteen questions, however many links there are.
    pub(super) fn is_whole(&self, pins: &Pins) -> bool {
        let links = pins.links_changed();
        links.is_some() && links == self.links && self.maps.iter().all(|(path, _)| path.exists())
    }

    /// The maps have their names again. Says how many had not.
    pub(super) fn put_back(&self, pins: &Pins) -> Result<usize, HostError> {
        pins.make_folders()?;
        let gone = self.maps.iter().filter(|(path, _)| !path.exists());
        let put = |(path, map): &(PathBuf, OwnedFd)| {
            bpf::pin(map.as_fd(), path).map_err(|error| {
                HostError::system(format!("pin the map {}", path.display()), error)
            })
        };
        gone.map(put)
            .try_fold(0, |count, put| put.map(|()| count + 1))
    }
}
