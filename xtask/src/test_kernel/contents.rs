//! The machine's first and only file system: the test programs, what they need, and in which
//! order all is to be done.

use std::{
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    cpio::Archive,
    needed::{Modules, libraries},
};
use crate::{
    cargo::{self, TestProgram},
    project::Project,
    test::{Built, needs_root},
};

/// What the tests need of a kernel that comes in modules.
const MODULES: [&str; 10] = [
    "veth",
    "ifb",
    "tun",
    "bridge",
    "sch_htb",
    "sch_tbf",
    "sch_ingress",
    "cls_bpf",
    "cls_u32",
    "act_mirred",
];

/// What some of them use where it is there: others' rules and rate limits, a disk that fails.
const WELCOME: [&str; 10] = [
    "nf_tables",
    "sch_sfq",
    "sch_fq_codel",
    "cls_basic",
    "cls_fw",
    "cls_matchall",
    "act_police",
    "loop",
    "crc32c_generic",
    "ext4",
];

/// Programs of this machine that some tests run. One that is not here is missed by name there.
const TOOLS: [&str; 10] = [
    "sh",
    "ip",
    "tc",
    "bridge",
    "nft",
    "strace",
    "mkfs.ext4",
    "fsck.ext4",
    "mount",
    "chattr",
];

/// Tests that make no sense there: the program, the beginning of their names or nothing for all of
/// them, and why. Every other one that needs root is run.
const LEFT_OUT: [(&str, &str, &str); 3] = [
    ("kernel", "cost::", "nanoseconds of an emulated processor"),
    ("kernel", "speed::", "the same"),
    ("scale", "", "500 interfaces in so many seconds: the same"),
];

/// Packs what `wanted` says of the tests of `built`.
pub(super) fn pack(
    project: &Project,
    built: &Built,
    modules: &Path,
    wanted: &Wanted<'_>,
) -> Result<PathBuf, String> {
    let folder = project.target.join("test-kernel");
    let path = folder.join("initramfs.cpio");
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let file = fs::File::create(&path).map_err(failed)?;
    let mut contents = Contents {
        archive: Archive::new(BufWriter::new(file)),
        folder: &folder,
    };
    contents.add_tests(project, built, wanted)?;
    contents.add_tools()?;
    contents.add_modules(modules)?;
    // Tests read shipped plans and hooks by their paths from their own package.
    contents.add_folder(&project.root.join("config"))?;
    let tests = project.root.join("tests");
    contents.archive.folder(&tests).map_err(failed)?;
    // Some show the daemon an /etc of their own.
    contents.archive.folder(Path::new("/etc")).map_err(failed)?;
    contents.archive.finish().map_err(failed)?;
    Ok(path)
}

/// Which tests.
pub(super) struct Wanted<'a> {
    /// Of these programs alone, or of all where there are none.
    pub(super) programs: &'a [String],
    /// Those whose name contains it.
    pub(super) filter: Option<&'a str>,
}

impl Wanted<'_> {
    fn program(&self, project: &Project, program: &TestProgram) -> bool {
        // What lies under `src` tests the fixtures' own arithmetic, for which any kernel will do.
        needs_root(project, program)
            && !program.source.starts_with("src/")
            && !LEFT_OUT
                .iter()
                .any(|(of, test, _)| *of == program.target && test.is_empty())
            && (self.programs.is_empty() || self.programs.contains(&program.target))
    }

    /// `edis --test-threads 1 --skip this one`
    fn line(&self, program: &str) -> String {
        let mut line = format!("{program} --test-threads 1");
        for (_, test, _) in LEFT_OUT.iter().filter(|(of, ..)| *of == program) {
            line += &format!(" --skip {test}");
        }
        line + &self
            .filter
            .map_or(String::new(), |filter| format!(" {filter}"))
            + "\n"
    }
}

struct Contents<'a> {
    archive: Archive<BufWriter<fs::File>>,
    /// For what is made on the way.
    folder: &'a Path,
}

impl Contents<'_> {
    fn add_tests(
        &mut self,
        project: &Project,
        built: &Built,
        wanted: &Wanted<'_>,
    ) -> Result<(), String> {
        let device = self.archive.device(Path::new("/dev/console"), (5, 1));
        // Without it the first process would have nowhere to speak to.
        device.map_err(|error| format!("cannot make /dev/console: {error}"))?;
        let init = built.meterd.with_file_name("vm-init");
        self.add_built(&init, Path::new("/init"))?;
        self.add_built(&built.meterd, Path::new("/tests/meterd"))?;
        let mut order = String::new();
        let programs = built.programs().iter();
        for program in programs.filter(|program| wanted.program(project, program)) {
            let place = Path::new("/tests").join(&program.target);
            self.add_built(&program.executable, &place)?;
            order += &wanted.line(&program.target);
        }
        if order.is_empty() {
            let named = wanted.programs.join(",");
            return Err(format!("there is nothing to run there in `{named}`"));
        }
        self.add_text("/order", &order)
    }

    /// A program of ours, without what only a debugger reads: four fifths of it, which would
    /// have to be unpacked by an emulated machine.
    fn add_built(&mut self, program: &Path, place: &Path) -> Result<(), String> {
        let bare = self.folder.join("bare");
        cargo::run(
            Command::new("strip")
                .args(["--strip-debug", "-o"])
                .args([bare.as_path(), program]),
        )?;
        self.add_program(&bare, place)
    }

    fn add_program(&mut self, program: &Path, place: &Path) -> Result<(), String> {
        for library in libraries(program)? {
            self.add(&library, &library)?;
        }
        self.add(program, place)
    }

    fn add_tools(&mut self) -> Result<(), String> {
        let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
        for tool in TOOLS {
            let mut paths = folders.iter().map(|folder| folder.join(tool));
            if let Some(path) = paths.find(|path| path.is_file()) {
                self.add_program(&path, &path)?;
                // For scripts, wherever it lies here.
                if tool == "sh" {
                    self.add_program(&path, Path::new("/bin/sh"))?;
                }
            }
        }
        Ok(())
    }

    fn add_modules(&mut self, folder: &Path) -> Result<(), String> {
        let modules = Modules::below(folder)?;
        let unpacked = self.folder.join("modules");
        let mut order = String::new();
        for module in modules.in_order(&MODULES, &WELCOME, &unpacked)? {
            let name = module.file_name().unwrap_or_default();
            self.add(&module, &Path::new("/modules").join(name))?;
            order += &format!("{}\n", name.display());
        }
        self.add_text("/modules/order", &order)
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), String> {
        let cannot = |error| super::needed::cannot_read(folder, &error);
        for entry in fs::read_dir(folder).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            if path.is_dir() {
                self.add_folder(&path)?;
            } else {
                self.add(&path, &path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, from: &Path, place: &Path) -> Result<(), String> {
        let added = self.archive.copy(from, place);
        added.map_err(|error| format!("cannot pack {}: {error}", from.display()))
    }

    fn add_text(&mut self, place: &str, text: &str) -> Result<(), String> {
        let added = self.archive.text(Path::new(place), text);
        added.map_err(|error| format!("cannot pack {place}: {error}"))
    }
}
