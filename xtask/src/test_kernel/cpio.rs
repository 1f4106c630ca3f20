//! An archive that a kernel unpacks as its first file system: cpio in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources).

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under way.
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
    /// What is in it: a folder must come before what is in it, and nothing comes twice.
    paths: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            entries: 0,
            paths: BTreeSet::new(),
        }
    }

    /// A folder, with all above it.
    pub(super) fn folder(&mut self, path: &Path) -> io::Result<()> {
        for ancestor in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if ancestor.file_name().is_some() && self.paths.insert(ancestor.to_owned()) {
                self.entry(ancestor, FOLDER, (0, 0), 0)?;
            }
        }
        Ok(())
    }

    /// A character device.
    pub(super) fn device(&mut self, path: &Path, number: (u32, u32)) -> io::Result<()> {
        self.before(path)?;
        self.entry(path, CHARACTER_DEVICE, number, 0)
    }

    /// A file with these bytes.
    pub(super) fn text(&mut self, path: &Path, text: &str) -> io::Result<()> {
        self.content(path, text.as_bytes(), text.len() as u64)
    }

    /// A copy of a file; nothing if it is in there already.
    pub(super) fn copy(&mut self, from: &Path, path: &Path) -> io::Result<()> {
        if self.paths.contains(path) {
            return Ok(());
        }
        let file = File::open(from)?;
        let length = file.metadata()?.len();
        self.content(path, file, length)
    }

    fn content(&mut self, path: &Path, content: impl io::Read, length: u64) -> io::Result<()> {
        self.before(path)?;
        let size = u32::try_from(length).map_err(io::Error::other)?;
        self.entry(path, PROGRAM, (0, 0), size)?;
        let copied = io::copy(&mut content.take(length), &mut self.out)?;
        if copied != length {
            return Err(io::Error::other("the file became shorter meanwhile"));
        }
        self.pad(copied)
    }

    fn before(&mut self, path: &Path) -> io::Result<()> {
        self.folder(path.parent().unwrap_or(Path::new("/")))?;
        if self.paths.insert(path.to_owned()) {
            Ok(())
        } else {
            Err(io::Error::other("it is in the archive already"))
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), size: u32) -> io::Result<()> {
        self.entries += 1;
        let path = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
        self.header(&path, self.entries, mode, device, size)
    }

    fn header(
        &mut self,
        name: &str,
        inode: u32,
        mode: u32,
        (major, minor): (u32, u32),
        size: u32,
    ) -> io::Result<()> {
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        // Of owner, group, one link, no time, the size, no device, which device, no check sum.
        let fields = [
            inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        write!(self.out, "070701{fields}{name}\0")?;
        self.pad(6 + 13 * 8 + u64::from(name_size))
    }

    /// Up to the next four bytes.
    fn pad(&mut self, length: u64) -> io::Result<()> {
        let missing = usize::try_from(length.next_multiple_of(4) - length);
        self.out.write_all(&[0; 4][..missing.unwrap_or(0)])
    }

    /// Ends it.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 0, (0, 0), 0)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them_and_all_is_aligned() {
        let mut archive = Archive::new(Vec::new());
        archive.text(Path::new("/a/b/file"), "12345").unwrap();
        archive.text(Path::new("/a/more"), "").unwrap();
        archive.device(Path::new("/dev/console"), (5, 1)).unwrap();
        assert!(archive.text(Path::new("/a/more"), "twice").is_err());
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<&str> = text
            .split("070701")
            .skip(1)
            .map(|entry| entry[13 * 8..].split('\0').next().unwrap())
            .collect();
        let expected = [
            "a",
            "a/b",
            "a/b/file",
            "a/more",
            "dev",
            "dev/console",
            "TRAILER!!!",
        ];
        assert_eq!(names, expected);
        let file = text.split("070701").nth(3).unwrap();
        assert_eq!(&file[6 * 8..7 * 8], "00000005");
        assert!(file.ends_with("12345\0\0\0"), "{file:?}");
        assert_eq!(file.find("12345").map(|at| (at + 6) % 4), Some(0));
    }
}
