//! The kernels of the tests: Debian's, fetched by apt into a folder of ours and checked by it
//! against Debian's key. Needs no root, and nothing of the machine's own apt is changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{cargo, project::Project};

/// A line of kernels that Debian 12 has, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: &'static str,
    /// The package that always depends on the newest of the line.
    package: &'static str,
}

/// The oldest that we support, which has no TCX, and one in which TCX is young.
pub(super) const LINES: [Line; 2] = [
    Line {
        name: "6.1",
        package: "linux-image-cloud-amd64",
    },
    Line {
        name: "6.12",
        package: "linux-image-6.12-cloud-amd64",
    },
];

const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What apt is to trust, and to fetch lists from: Debian 12's newest kernels are all there.
const SOURCES: &str = "http://deb.debian.org/debian-security bookworm-security main";

impl Line {
    /// The kernel's image, fetched if that was not done before.
    pub(super) fn image(self, project: &Project) -> Result<PathBuf, String> {
        let folder = project.target.join("test-kernel").join(self.name);
        let root = folder.join("root");
        if let Some(image) = image_below(&root) {
            return Ok(image);
        }
        self.fetch(&folder, &root).map_err(|problem| {
            format!(
                "could not fetch Debian's kernel {}: {problem}\nIt needs the network, and apt-get, \
                 dpkg-deb and {KEY} as Debian has them (elsewhere: packages apt, dpkg and \
                 debian-archive-keyring). Or name another kernel: --kernel VMLINUZ",
                self.name
            )
        })?;
        image_below(&root).ok_or(format!("there is no kernel in {}", root.display()))
    }

    fn fetch(self, folder: &Path, root: &Path) -> Result<(), String> {
        if !Path::new(KEY).is_file() {
            return Err(format!("there is no {KEY}"));
        }
        let apt = Apt::new(folder)?;
        cargo::run(apt.command("apt-get").arg("update"))?;
        let depends = ["depends", "--important", self.package];
        let listing = cargo::output(apt.command("apt-cache").args(depends))?;
        let package = dependency(&listing)
            .ok_or_else(|| format!("{} depends on no kernel: {listing}", self.package))?;
        cargo::run(apt.command("apt-get").args(["download", &package]))?;
        let file = fs::read_dir(folder)
            .map_err(|error| format!("cannot read {}: {error}", folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or("apt-get download left no package")?;
        // Under another name until it is whole: who is interrupted begins anew.
        let new = folder.join("new");
        cargo::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .args([&file, &new]),
        )?;
        fs::rename(&new, root)
            .and_then(|()| fs::remove_file(&file))
            .map_err(|error| format!("cannot keep {}: {error}", root.display()))
    }
}

/// apt with lists, caches and trust of its own.
struct Apt<'a> {
    folder: &'a Path,
}

impl<'a> Apt<'a> {
    fn new(folder: &'a Path) -> Result<Self, String> {
        let line = format!("deb [arch=amd64 signed-by={KEY}] {SOURCES}\n");
        let folders = ["state/lists/partial", "cache/archives/partial"];
        let made = folders
            .iter()
            .try_for_each(|name| fs::create_dir_all(folder.join(name)))
            .and_then(|()| fs::write(folder.join("sources.list"), line))
            // It asks what is installed; nothing is.
            .and_then(|()| fs::write(folder.join("status"), ""));
        made.map_err(|error| format!("cannot prepare {}: {error}", folder.display()))?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder);
        let ours = |option: &str, name: &str| {
            format!("--option={option}={}", self.folder.join(name).display())
        };
        command
            .arg(ours("Dir::Etc::SourceList", "sources.list"))
            .arg("--option=Dir::Etc::SourceParts=/dev/null")
            .arg(ours("Dir::State", "state"))
            .arg(ours("Dir::State::Status", "status"))
            .arg(ours("Dir::Cache", "cache"))
            .args(
                ["APT::Architecture", "APT::Architectures"]
                    .map(|key| format!("--option={key}=amd64")),
            )
            // Its own user may not enter the folder.
            .arg("--option=APT::Sandbox::User=");
        command
    }
}

/// The first of `  Depends: linux-image-6.1.0-56-cloud-amd64`.
fn dependency(listing: &str) -> Option<String> {
    let mut names = listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn image_below(root: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(root.join("boot")).ok()?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("vmlinuz-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_behind_a_packages_name_is_the_one_that_it_depends_on() {
        let listing = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        let expected = Some("linux-image-6.1.0-56-cloud-amd64".to_owned());
        assert_eq!(dependency(listing), expected);
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
    }
}
