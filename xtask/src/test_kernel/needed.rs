//! What programs and modules need beside themselves: read from the files, and asked of the
//! dynamic loader.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::cargo;

/// The dynamic loader of a program and every library that it would load.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let bytes = fs::read(program).map_err(|error| cannot_read(program, &error))?;
    let Some(loader) = interpreter(&bytes) else {
        return Ok(Vec::new());
    };
    let listing = cargo::output(Command::new(&loader).arg("--list").arg(program))?;
    let mut found = listed(&listing);
    found.push(loader);
    Ok(found)
}

pub(super) fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// The paths in what a dynamic loader lists: `libc.so.6 => /lib/libc.so.6 (0x…)`, or the path
/// alone; the kernel's own library has none.
fn listed(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            let path = line.split(" => ").last()?.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

/// `PT_INTERP` of a 64-bit little-endian ELF file; a static program has none.
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: usize = 3;
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length)?.iter().rev();
        Some(bytes.fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let header = (0..count)
        .map(|index| table + index * size)
        .find(|at| number(*at, 4) == Some(PT_INTERP))?;
    let (at, length) = (number(header + 8, 8)?, number(header + 32, 8)?);
    let path = elf.get(at..at + length)?.strip_suffix(&[0])?;
    Some(PathBuf::from(std::str::from_utf8(path).ok()?))
}

/// A kernel's modules.
pub(super) struct Modules {
    /// By name, as `lsmod` shows it.
    files: BTreeMap<String, PathBuf>,
    /// The paths of those that are part of the kernel itself.
    builtin: String,
}

impl Modules {
    /// Those below a folder.
    pub(super) fn below(folder: &Path) -> Result<Self, String> {
        let list = folder.join("modules.builtin");
        let builtin = fs::read_to_string(&list).map_err(|error| cannot_read(&list, &error))?;
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).map_err(|error| cannot_read(&folder, &error))?;
            for entry in entries {
                let entry = entry.map_err(|error| cannot_read(&folder, &error))?;
                let path = entry.path();
                // Not links: `build` leads to the kernel's sources.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if let Some(name) = name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files, builtin })
    }

    /// The files to load for these modules, each behind those that it depends on; of those that
    /// are only welcome, what there is. Compressed ones are unpacked into a folder.
    pub(super) fn in_order(
        &self,
        names: &[&str],
        welcome: &[&str],
        unpacked: &Path,
    ) -> Result<Vec<PathBuf>, String> {
        let mut order = Vec::new();
        for name in names {
            self.add(name, unpacked, &mut order)?;
        }
        for name in welcome
            .iter()
            .filter(|name| self.files.contains_key(**name))
        {
            self.add(name, unpacked, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, unpacked: &Path, order: &mut Vec<PathBuf>) -> Result<(), String> {
        let Some(path) = self.files.get(name) else {
            let mut builtin = self.builtin.lines();
            return if builtin.any(|line| self::name(Path::new(line)).as_deref() == Some(name)) {
                Ok(())
            } else {
                Err(format!("this kernel has no module {name}"))
            };
        };
        let path = plain(path, unpacked)?;
        if order.contains(&path) {
            return Ok(());
        }
        let bytes = fs::read(&path).map_err(|error| cannot_read(&path, &error))?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency, unpacked, order)?;
        }
        order.push(path);
        Ok(())
    }
}

/// A module as the kernel takes it, of one that a distribution has compressed.
fn plain(module: &Path, unpacked: &Path) -> Result<PathBuf, String> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(module.to_owned()),
    };
    let path = unpacked.join(module.file_stem().unwrap_or_default());
    let cannot = |error| format!("cannot write {}: {error}", path.display());
    fs::create_dir_all(unpacked).map_err(cannot)?;
    let file = fs::File::create(&path).map_err(cannot)?;
    let mut command = Command::new(program);
    cargo::run(command.args(["-dc"]).arg(module).stdout(file))?;
    Ok(path)
}

/// `sch_htb` of `…/sch-htb.ko` or `sch_htb.ko.xz`.
fn name(path: &Path) -> Option<String> {
    let (stem, rest) = path.file_name()?.to_str()?.split_once('.')?;
    rest.starts_with("ko").then(|| stem.replace('-', "_"))
}

/// What a module says of itself in section `.modinfo`: `depends=llc,stp`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next();
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    let names = value.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_list_is_read_with_and_without_names() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f08)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f09)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(listed(listing), expected.map(PathBuf::from));
    }

    #[test]
    fn a_programs_loader_is_read_from_its_file() {
        let own = std::env::current_exe().unwrap();
        let loader = interpreter(&fs::read(own).unwrap());
        assert!(loader.is_none_or(|loader| loader.is_absolute() && loader.exists()));
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn a_module_names_what_it_depends_on() {
        assert_eq!(
            dependencies(b"\x7fELF..\0license=GPL\0depends=stp,nf-x\0name=b\0"),
            ["stp", "nf_x"]
        );
        assert!(dependencies(b"\0depends=\0name=veth\0").is_empty());
        assert_eq!(name(Path::new("a/sch-htb.ko")).as_deref(), Some("sch_htb"));
        assert_eq!(name(Path::new("a/tun.ko.xz")).as_deref(), Some("tun"));
        assert_eq!(name(Path::new("a/modules.order")), None);
    }
}
