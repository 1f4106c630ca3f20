//! File systems that go wrong when they are told to: small ones, read-only ones, and an ext4 of
//! our own that can be made to refuse what is already open. All of them vanish with the sandbox.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use crate::{Context, Failure, Result, needs};

/// A tmpfs of so many bytes.
pub fn small(at: &Path, bytes: u64) -> Result<()> {
    make(at)?;
    let size = std::ffi::CString::new(format!("size={bytes}"))
        .map_err(|error| Failure::new(error.to_string()))?;
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(&*size))
        .could_not(|| format!("mount a tmpfs at {}", at.display()))
}

/// What is there, from now on read-only: for files that are opened later.
pub fn read_only(at: &Path) -> Result<()> {
    let what = || format!("make {} read-only", at.display());
    make(at)?;
    mount_bind(at, at).could_not(what)?;
    mount_remount(at, MountFlags::BIND | MountFlags::RDONLY, "").could_not(what)
}

/// Takes the topmost file system away, whoever uses it.
pub fn leave(at: &Path) -> Result<()> {
    unmount(at, UnmountFlags::DETACH).could_not(|| format!("unmount {}", at.display()))
}

/// An ext4 in a file; `None` where this machine cannot have one, which is said.
#[track_caller]
pub fn ext4(at: &Path) -> Result<Option<Ext4>> {
    if !needs::program("mkfs.ext4") || !needs::program("chattr") || !needs::program("mount") {
        return Ok(None);
    }
    if !Path::new("/dev/loop-control").exists() {
        needs::say("loop devices");
        return Ok(None);
    }
    make(at)?;
    let image = at.with_extension("ext4");
    fs::File::create(&image)
        .and_then(|file| file.set_len(64 << 20))
        .could_not(|| format!("make {}", image.display()))?;
    run("mkfs.ext4", &["-q".as_ref(), image.as_ref()])?;
    let ext4 = Ext4 {
        image,
        at: at.to_owned(),
    };
    ext4.mount()?;
    Ok(Some(ext4))
}

/// See [`ext4`].
#[derive(Debug)]
pub struct Ext4 {
    image: PathBuf,
    at: PathBuf,
}

impl Ext4 {
    /// As after a fault of the disk: nothing is written any more, open or not.
    pub fn give_up(&self) -> Result<()> {
        run(
            "mount",
            &["-o".as_ref(), "remount,abort".as_ref(), self.at.as_ref()],
        )
    }

    /// Sound again, as after a look at it by fsck; nobody may use it meanwhile.
    pub fn mend(&self) -> Result<()> {
        unmount(&self.at, UnmountFlags::empty())
            .could_not(|| format!("unmount {}", self.at.display()))?;
        // It exits with 1 where it mended something.
        let checked = Command::new("/usr/sbin/fsck.ext4")
            .args(["-y", "-f"])
            .arg(&self.image)
            .output()
            .could_not(|| "run fsck.ext4")?;
        if checked.status.code().is_none_or(|code| code > 1) {
            return Err(Failure::new(format!("fsck.ext4: {checked:?}")));
        }
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let (image, at) = (self.image.as_ref(), self.at.as_ref());
        run("mount", &["-o".as_ref(), "loop".as_ref(), image, at])
    }
}

/// Whether a file takes writes, even by those who have it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    /// It does.
    Yes,
    /// It is immutable.
    No,
}

/// chattr(1).
pub fn set(writable: Writable, files: &[PathBuf]) -> Result<()> {
    let flag = match writable {
        Writable::Yes => "-i",
        Writable::No => "+i",
    };
    for file in files {
        run("chattr", &[flag.as_ref(), file.as_ref()])?;
    }
    Ok(())
}

/// Fills what room is left, until the file is deleted.
pub fn fill(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("filler");
    let mut file = fs::File::create(&path).could_not(|| format!("make {}", path.display()))?;
    for size in [1 << 16, 1 << 12, 1 << 9, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(path)
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).could_not(|| format!("make {}", directory.display()))
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .could_not(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    )))
}
