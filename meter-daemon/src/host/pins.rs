//! Where our maps and links have their names on the bpf file system, so that they outlive
//! the daemon: `<pin-directory>/v<LAYOUT>/{maps,links,clsact}/…`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use meter_common::LAYOUT;

use super::{bpf::AttachType, error::HostError};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// One of our programs' places on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Hook {
    Received,
    Sent,
    Shape,
}

impl Hook {
    /// Those of every metered interface.
    pub(super) const METERS: [Self; 2] = [Self::Received, Self::Sent];
    pub(super) const ALL: [Self; 3] = [Self::Received, Self::Sent, Self::Shape];

    /// What the guest receives leaves the host's end of its interface.
    pub(super) const fn attach_type(self) -> AttachType {
        match self {
            Self::Received => AttachType::Egress,
            Self::Sent | Self::Shape => AttachType::Ingress,
        }
    }

    /// The word in a pin's name and in messages.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
            Self::Shape => "shape",
        }
    }
}

/// The folder of one layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The folder of this program's layout, made if need be.
    pub(super) fn create(pin_directory: &Path) -> Result<Self, HostError> {
        on_bpffs(pin_directory)?;
        let pins = Self::of_layout(pin_directory);
        pins.make_folders()?;
        Ok(pins)
    }

    pub(super) fn make_folders(&self) -> Result<(), HostError> {
        for folder in ["maps", "links"] {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).map_err(|error| {
                HostError::system(format!("make the folder {}", folder.display()), error)
            })?;
        }
        Ok(())
    }

    fn of_layout(pin_directory: &Path) -> Self {
        Self {
            root: pin_directory.join(format!("v{LAYOUT}")),
        }
    }

    /// The folders of every layout that is there.
    pub(super) fn all(pin_directory: &Path) -> Result<Vec<Self>, HostError> {
        let folders = list(pin_directory)?.into_iter();
        Ok(folders
            .filter(|name| {
                name.strip_prefix('v')
                    .is_some_and(|layout| layout.parse::<u32>().is_ok())
            })
            .map(|name| Self {
                root: pin_directory.join(name),
            })
            .collect())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Every pinned map.
    pub(super) fn maps(&self) -> Result<Vec<PathBuf>, HostError> {
        let names = list(&self.root.join("maps"))?;
        Ok(names.iter().map(|name| self.map(name)).collect())
    }

    /// When a link's name last came or went; none where there is no folder of them.
    pub(super) fn links_changed(&self) -> Option<SystemTime> {
        fs::metadata(self.root.join("links")).ok()?.modified().ok()
    }

    pub(super) fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        let name = format!("{ifindex}-{}", hook.as_str());
        self.root.join("links").join(name)
    }

    /// Every pinned link.
    pub(super) fn links(&self) -> Result<Vec<(u32, Hook)>, HostError> {
        Ok(list(&self.root.join("links"))?
            .iter()
            .filter_map(|name| {
                let (ifindex, suffix) = name.split_once('-')?;
                let hook = Hook::ALL.into_iter().find(|hook| hook.as_str() == suffix)?;
                Some((ifindex.parse().ok()?, hook))
            })
            .collect())
    }

    /// Remembers that the interface's clsact qdisc is our making.
    pub(super) fn mark_clsact(&self, ifindex: u32) -> Result<(), HostError> {
        let mark = self.clsact(ifindex);
        fs::create_dir_all(&mark)
            .map_err(|error| HostError::system(format!("make the mark {}", mark.display()), error))
    }

    /// Whether the interface's clsact qdisc is our making.
    pub(super) fn clsact_is_ours(&self, ifindex: u32) -> bool {
        self.clsact(ifindex).is_dir()
    }

    /// Whether we have put anything on a clsact qdisc since these pins were made: a mark is made
    /// each time, be it for a moment, and leaves its folder.
    pub(super) fn were_on_clsact(&self) -> bool {
        self.root.join("clsact").is_dir()
    }

    pub(super) fn unmark_clsact(&self, ifindex: u32) -> Result<(), HostError> {
        remove_folder(&self.clsact(ifindex)).map(drop)
    }

    /// Every interface whose clsact qdisc is our making.
    pub(super) fn clsact_marks(&self) -> Result<Vec<u32>, HostError> {
        let marks = list(&self.root.join("clsact"))?;
        Ok(marks.iter().filter_map(|mark| mark.parse().ok()).collect())
    }

    fn clsact(&self, ifindex: u32) -> PathBuf {
        self.root.join("clsact").join(ifindex.to_string())
    }

    /// Removes what there is besides links: maps, marks, folders. Says how many maps.
    pub(super) fn remove(&self) -> Result<usize, HostError> {
        let mut maps = 0;
        for name in list(&self.root.join("maps"))? {
            maps += usize::from(remove_file(&self.map(&name))?);
        }
        for ifindex in list(&self.root.join("clsact"))? {
            remove_folder(&self.root.join("clsact").join(ifindex))?;
        }
        for folder in ["maps", "links", "clsact"] {
            remove_folder(&self.root.join(folder))?;
        }
        remove_folder(&self.root)?;
        Ok(maps)
    }
}

/// The names in a folder; none where there is no such folder.
fn list(folder: &Path) -> Result<Vec<String>, HostError> {
    let read = || -> io::Result<Vec<String>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| {
            HostError::system(format!("list the folder {}", folder.display()), error)
        }),
    }
}

/// Removes a pin; false where there was none.
pub(super) fn remove_file(path: &Path) -> Result<bool, HostError> {
    removed(path, fs::remove_file(path))
}

/// Removes the folder of all layouts, unless somebody else has something in it, or it is the
/// file system itself or not on one.
pub(super) fn remove_root(pin_directory: &Path) -> Result<(), HostError> {
    if !pin_directory.exists() || on_bpffs(pin_directory).is_err() {
        return Ok(());
    }
    match fs::remove_dir(pin_directory) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        result => removed(pin_directory, result).map(drop),
    }
}

/// Removes an empty folder; false where there was none.
fn remove_folder(path: &Path) -> Result<bool, HostError> {
    removed(path, fs::remove_dir(path))
}

fn removed(path: &Path, result: io::Result<()>) -> Result<bool, HostError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(HostError::system(
            format!("remove {}", path.display()),
            error,
        )),
    }
}

/// Refuses a folder where nothing can be pinned.
pub(super) fn on_bpffs(path: &Path) -> Result<(), HostError> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    let refuse = |found: String| {
        Err(HostError::NoBpffs {
            path: path.to_owned(),
            found,
        })
    };
    let Some(existing) = existing else {
        return refuse("no part of that path exists".to_owned());
    };
    match rustix::fs::statfs(existing) {
        Ok(statistics) if u64::try_from(statistics.f_type).ok() == Some(BPF_FS_MAGIC) => Ok(()),
        Ok(statistics) => refuse(format!(
            "{} is on a file system of another type ({:#x})",
            existing.display(),
            statistics.f_type
        )),
        Err(error) => refuse(format!("{}: {error}", existing.display())),
    }
}
