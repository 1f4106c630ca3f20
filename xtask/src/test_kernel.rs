//! The tests on another kernel than the machine's: booted in QEMU from an image, with the
//! test programs as its first and only file system, and judged by what they say on the serial
//! console. Nothing is emulated but the machine; the kernel is a distribution's own.

mod cpio;
mod needed;

use std::{
    env, fs,
    io::BufWriter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use self::{
    cpio::Archive,
    needed::{Modules, cannot_read, libraries},
};
use crate::{
    build, cargo,
    project::Project,
    steps::Steps,
    test::{
        self, Built,
        tally::{Listener, Tally},
        watch,
    },
};

/// Which kernel: the oldest that we support, as Debian 12 has it.
const DEFAULT: &str = "vmlinuz-6.1";

const PACKAGES: &str = "On Debian: `apt-get install qemu-system-x86`, and for the kernel of \
                        Debian 12 `apt-get install linux-image-cloud-amd64`, or `apt-get download` \
                        and `dpkg-deb --extract` with the package that it depends on, and --kernel";

const QEMU: &str = "qemu-system-x86_64";

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

/// The test programs that make sense there, and what of each does not: an emulated machine is
/// slow. It does not meet bounds of time, sends segments again that are only late, and fills
/// the captures of tests that go on for a time, which is why `crash` and `scale` are not here.
const PROGRAMS: [(&str, &[&str]); 10] = [
    ("fixtures", &[]),
    ("kernel", &[]),
    ("links", &[]),
    (
        "shaping",
        &["what_stands_is_found_without_a_list_of_all_other_interfaces"],
    ),
    ("throttle", &[]),
    (
        "counting",
        &[
            "tcp_without_gso_counts_to_the_byte",
            "tcp_over_ipv6_without_gso_counts_to_the_byte",
        ],
    ),
    (
        "discovery",
        &["a_tap_that_appears_is_metered_within_100_ms"],
    ),
    ("operations", &[]),
    ("edis", &[]),
    ("stopped", &[]),
];

/// A machine that hangs is ended after so many seconds.
const PATIENCE: &str = "5400";

/// Which kernel, and which tests of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    kernel: Option<PathBuf>,
    modules: Option<PathBuf>,
    filter: Option<String>,
}

impl Selection {
    /// Reads `[--kernel VMLINUZ] [--modules FOLDER] [FILTER]`.
    pub(crate) fn read(arguments: &[&str]) -> Result<Self, String> {
        let mut selection = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let place = match *argument {
                "--kernel" => &mut selection.kernel,
                "--modules" => &mut selection.modules,
                option if option.starts_with('-') => {
                    return Err(format!("`test-kernel` does not take `{option}`"));
                }
                filter if selection.filter.is_none() => {
                    selection.filter = Some(filter.to_owned());
                    continue;
                }
                more => {
                    return Err(format!(
                        "`test-kernel` takes one filter, `{more}` is a second"
                    ));
                }
            };
            let path = rest.next().ok_or(format!("`{argument}` takes a path"))?;
            *place = Some(PathBuf::from(path));
        }
        Ok(selection)
    }
}

/// Builds, packs, boots, and says in one line how it went.
pub(crate) fn run(
    project: &Project,
    steps: &mut Steps,
    selection: &Selection,
) -> Result<(), String> {
    // Before the build, which takes minutes the first time.
    if env::consts::ARCH != "x86_64" {
        return Err("the tests on another kernel know only how to boot x86-64".to_owned());
    }
    if !cargo::answers(Command::new(QEMU).arg("--version")) {
        return Err(format!("there is no {QEMU}. {PACKAGES}"));
    }
    let image = image(selection)?;
    let modules = Modules::below(&modules_folder(selection, &image)?)?.in_order(&MODULES)?;
    build::kernel_object(project, steps)?;
    let built = steps.run("build the tests", || test::build_tests(project))?;
    let archive = steps.run("pack them", || {
        pack(project, &built, &modules, selection.filter.as_deref())
    })?;
    let mut tally = Tally::default();
    let boot = || boot(&image, &archive, &mut tally);
    steps.run(&format!("run them on {}", image.display()), boot)?;
    if tally.failures.is_empty() {
        println!("\ncargo xtask test-kernel: {tally}");
        return Ok(());
    }
    let failures: String = tally.failures.iter().map(|f| format!("\n  {f}")).collect();
    Err(format!("cargo xtask test-kernel: {tally}{failures}"))
}

fn image(selection: &Selection) -> Result<PathBuf, String> {
    if let Some(path) = selection
        .kernel
        .clone()
        .or(env::var_os("METER_KERNEL").map(PathBuf::from))
    {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!(
                "there is no kernel at {}. {PACKAGES}",
                path.display()
            ))
        };
    }
    let boot = Path::new("/boot");
    let entries = fs::read_dir(boot).map_err(|error| cannot_read(boot, &error))?;
    let newest = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(DEFAULT))
        .max_by_key(|name| numbers(name));
    newest.map(|name| boot.join(name)).ok_or(format!(
        "there is no /boot/{DEFAULT}*, and no other kernel was named with --kernel or in \
         METER_KERNEL. {PACKAGES}"
    ))
}

/// 6.1.0-9 is older than 6.1.0-53.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Beside a kernel at `…/boot/vmlinuz-RELEASE` the modules lie at `…/lib/modules/RELEASE`.
fn modules_folder(selection: &Selection, image: &Path) -> Result<PathBuf, String> {
    if let Some(folder) = selection
        .modules
        .clone()
        .or(env::var_os("METER_KERNEL_MODULES").map(PathBuf::from))
    {
        return Ok(folder);
    }
    let name = image.file_name().and_then(|name| name.to_str());
    let release = name.and_then(|name| name.strip_prefix("vmlinuz-"));
    release
        .zip(image.parent().and_then(Path::parent))
        .map(|(release, root)| root.join("lib/modules").join(release))
        .filter(|folder| folder.is_dir())
        .ok_or(format!(
            "the modules of {} were not found: name their folder with --modules or in \
             METER_KERNEL_MODULES",
            image.display()
        ))
}

/// The first file system: the programs, what they need, and in which order all is to be done.
fn pack(
    project: &Project,
    built: &Built,
    modules: &[PathBuf],
    filter: Option<&str>,
) -> Result<PathBuf, String> {
    let folder = project.target.join("test-kernel");
    let path = folder.join("initramfs.cpio");
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let file = fs::File::create(&path).map_err(failed)?;
    let mut archive = Archive::new(BufWriter::new(file));
    // Without it the first process would have nowhere to speak to.
    archive
        .device(Path::new("/dev/console"), (5, 1))
        .map_err(failed)?;

    let mut programs = vec![
        (
            built.meterd.with_file_name("vm-init"),
            PathBuf::from("/init"),
        ),
        (built.meterd.clone(), PathBuf::from("/tests/meterd")),
    ];
    let mut order = String::new();
    for (name, left_out) in PROGRAMS {
        let program = built
            .test_program(name)
            .ok_or_else(|| format!("cargo built no test program {name}"))?;
        programs.push((program.to_owned(), Path::new("/tests").join(name)));
        let left_out: String = left_out
            .iter()
            .map(|test| format!(" --skip {test}"))
            .collect();
        let filter = filter.map_or(String::new(), |filter| format!(" {filter}"));
        order += &format!("{name} --test-threads 1{left_out}{filter}\n");
    }
    for (program, place) in &programs {
        for library in libraries(program)? {
            archive.copy(&library, &library).map_err(failed)?;
        }
        archive.copy(program, place).map_err(failed)?;
    }
    archive
        .text(Path::new("/tests/order"), &order)
        .map_err(failed)?;

    let mut order = String::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default();
        archive
            .copy(module, &Path::new("/modules").join(name))
            .map_err(failed)?;
        order += &format!("{}\n", name.display());
    }
    archive
        .text(Path::new("/modules/order"), &order)
        .map_err(failed)?;
    // A test reads the shipped plan by its path from its own package.
    let plan = project.root.join("config/plans/edis.toml");
    archive.copy(&plan, &plan).map_err(failed)?;
    archive
        .folder(&project.root.join("tests"))
        .map_err(failed)?;
    archive.finish().map_err(failed)?;
    Ok(path)
}

/// Boots, and hears what the programs say.
fn boot(image: &Path, archive: &Path, tally: &mut Tally) -> Result<(), String> {
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", PATIENCE, QEMU])
        .args([
            "-machine",
            "q35,accel=tcg",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "4G",
        ])
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .stdin(Stdio::null());
    let mut console = Console::default();
    watch(&mut command, &mut |line| {
        console.hear(line.trim_end(), tally);
    })?;
    match console.end {
        Some(Ok(())) => Ok(()),
        Some(Err(problem)) => Err(format!("in the machine: {problem}")),
        None => Err(format!(
            "the machine ended, or was ended after {PATIENCE} s, before its tests: its last \
             words stand above"
        )),
    }
}

/// What has been heard on the serial console; package meter-tests' `vm-init` speaks there.
#[derive(Default)]
struct Console {
    running: Option<Listener>,
    end: Option<Result<(), String>>,
}

impl Console {
    fn hear(&mut self, line: &str, tally: &mut Tally) {
        if let Some(name) = line.strip_prefix("=== run ") {
            self.running = Some(tally.listen(name));
        } else if let Some(how) = line.strip_prefix("=== end ") {
            if let Some(listener) = self.running.take() {
                tally.ended(listener, how == "well");
            }
        } else if let Some(problem) = line.strip_prefix("=== failed: ") {
            self.end = Some(Err(problem.to_owned()));
        } else if line == "=== done" {
            self.end = Some(Ok(()));
        } else if let Some(listener) = &mut self.running {
            tally.heard(listener, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_its_modules_and_a_filter_can_be_named() {
        let read = |words: &[&str]| Selection::read(words);
        assert_eq!(read(&[]), Ok(Selection::default()));
        let all = read(&["--kernel", "/k", "--modules", "/m", "detach"]).unwrap();
        assert_eq!(all.kernel.as_deref(), Some(Path::new("/k")));
        assert_eq!(all.modules.as_deref(), Some(Path::new("/m")));
        assert_eq!(all.filter.as_deref(), Some("detach"));
        assert!(read(&["--kernel"]).is_err());
        assert!(read(&["--fast"]).is_err());
        assert!(read(&["a", "b"]).is_err());
    }

    #[test]
    fn the_newest_kernel_is_newest_by_its_numbers() {
        assert!(numbers("vmlinuz-6.1.0-9-amd64") < numbers("vmlinuz-6.1.0-53-cloud-amd64"));
    }

    #[test]
    fn only_what_ended_well_and_was_tested_counts_as_passed() {
        let mut tally = Tally::default();
        let mut console = Console::default();
        let words = [
            "SeaBIOS",
            "=== run one",
            "test a ... ok",
            "needs tcx: tests/kernel/pinned.rs:75",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "=== end well",
            "=== run two",
            "=== end badly",
        ];
        for line in words {
            console.hear(line, &mut tally);
        }
        assert_eq!(console.end, None, "it is not over");
        console.hear("=== done", &mut tally);
        assert_eq!(console.end, Some(Ok(())));
        assert_eq!(
            tally.to_string(),
            "2 passed, 1 failed, 1 ignored, 1 not tested as it needs tcx, in 2 test programs"
        );
        assert_eq!(tally.failures, ["two: ended before it had a result"]);
    }
}
