//! The tests on another kernel than the machine's: booted in QEMU from an image, with the
//! test programs as its first and only file system, and judged by what they say on the serial
//! console. Nothing is emulated but the machine; the kernel is a distribution's own.

mod contents;
mod cpio;
mod debian;
mod machine;
mod needed;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use self::{
    contents::Wanted,
    debian::LINES,
    machine::{Processors, QEMU, Ran},
};
use crate::{
    build, cargo,
    project::Project,
    steps::Steps,
    test::{self, tally::Tally},
};

/// Which kernel, and which tests of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    kernel: Kernel,
    processors: Processors,
    programs: Vec<String>,
    filter: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kernel {
    /// Of a line of Debian's.
    Debian(debian::Line),
    /// Somebody's, with its modules where they are not beside it.
    At {
        image: PathBuf,
        modules: Option<PathBuf>,
    },
}

impl Selection {
    /// Reads `[--debian LINE | --kernel VMLINUZ [--modules FOLDER]] [--two-processors]
    /// [--only PROGRAM,…] [FILTER]`.
    pub(crate) fn read(arguments: &[&str]) -> Result<Self, String> {
        let (mut line, mut image, mut modules) = (None, None, None);
        let (mut programs, mut filter): (Option<String>, _) = (None, None);
        let mut processors = Processors::One;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let place = match *argument {
                "--debian" => &mut line,
                "--kernel" => &mut image,
                "--modules" => &mut modules,
                "--only" => &mut programs,
                "--two-processors" => {
                    processors = Processors::Two;
                    continue;
                }
                option if option.starts_with('-') => {
                    return Err(format!("`test-kernel` does not take `{option}`"));
                }
                one if filter.is_none() => {
                    filter = Some(one.to_owned());
                    continue;
                }
                more => {
                    return Err(format!(
                        "`test-kernel` takes one filter, `{more}` is a second"
                    ));
                }
            };
            let word = rest.next().ok_or(format!("`{argument}` takes a word"))?;
            *place = Some((*word).to_owned());
        }
        let kernel = match (line, image) {
            (Some(_), Some(_)) => return Err("one of `--debian` and `--kernel`".to_owned()),
            (None, Some(image)) => Kernel::At {
                image: image.into(),
                modules: modules.map(PathBuf::from),
            },
            _ if modules.is_some() => return Err("`--modules` goes with `--kernel`".to_owned()),
            (line, None) => {
                let name = line.as_deref().unwrap_or(LINES[0].name);
                let known = LINES.into_iter().find(|known| known.name == name);
                Kernel::Debian(known.ok_or(format!(
                    "`--debian` takes {}",
                    LINES.map(|line| line.name).join(" or ")
                ))?)
            }
        };
        Ok(Self {
            kernel,
            processors,
            programs: programs.map_or(Vec::new(), |names| {
                names.split(',').map(str::to_owned).collect()
            }),
            filter,
        })
    }
}

/// Fetches the kernel, builds, packs, boots, and says how it went.
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
        return Err(format!(
            "there is no {QEMU}: on Debian, `apt-get install qemu-system-x86`"
        ));
    }
    let (image, modules) = steps.run("find the kernel", || kernel(project, selection))?;
    build::kernel_object(project, steps)?;
    let built = steps.run("build the tests", || test::build_tests(project))?;
    let wanted = Wanted {
        programs: &selection.programs,
        filter: selection.filter.as_deref(),
    };
    let archive = steps.run("pack them", || {
        contents::pack(project, &built, &modules, &wanted)
    })?;
    let mut tally = Tally::default();
    let boot = || machine::boot(&image, &archive, selection.processors, &mut tally);
    let ran = steps.run(&format!("run them on {}", image.display()), boot)?;
    show(&ran);
    if tally.failures.is_empty() {
        println!("\ncargo xtask test-kernel: {tally}");
        return Ok(());
    }
    let failures: String = tally.failures.iter().map(|f| format!("\n  {f}")).collect();
    Err(format!("cargo xtask test-kernel: {tally}{failures}"))
}

fn show(ran: &[Ran]) {
    println!("\n  here, s  program     there");
    for Ran {
        program,
        took,
        result,
    } in ran
    {
        println!("{:>9.1}  {program:<10}  {result}", took.as_secs_f64());
    }
}

/// The image, and the folder of its modules.
fn kernel(project: &Project, selection: &Selection) -> Result<(PathBuf, PathBuf), String> {
    let (image, modules) = match &selection.kernel {
        Kernel::Debian(line) => (line.image(project)?, None),
        Kernel::At { image, modules } => (image.clone(), modules.clone()),
    };
    if !image.is_file() {
        return Err(format!("there is no kernel at {}", image.display()));
    }
    let modules = modules.or_else(|| modules_beside(&image)).ok_or(format!(
        "the modules of {} were not found: name their folder with --modules",
        image.display()
    ))?;
    Ok((image, modules))
}

/// Beside a kernel at `…/boot/vmlinuz-RELEASE` the modules lie at `…/lib/modules/RELEASE`.
fn modules_beside(image: &Path) -> Option<PathBuf> {
    let release = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
    let folder = image.parent()?.parent()?.join("lib/modules").join(release);
    folder.is_dir().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_its_modules_a_program_and_a_filter_can_be_named() {
        let read = |words: &[&str]| Selection::read(words);
        let kernel = |words: &[&str]| read(words).unwrap().kernel;
        assert_eq!(kernel(&[]), Kernel::Debian(LINES[0]), "the oldest");
        assert_eq!(kernel(&["--debian", "6.12"]), Kernel::Debian(LINES[1]));
        let own = Kernel::At {
            image: "/k".into(),
            modules: Some("/m".into()),
        };
        assert_eq!(kernel(&["--kernel", "/k", "--modules", "/m"]), own);
        let some = read(&["--only", "edis,limits", "detach"]).unwrap();
        assert_eq!(some.programs, ["edis", "limits"]);
        assert_eq!(some.filter.as_deref(), Some("detach"));
        assert_eq!(some.processors, Processors::One);
        let two = read(&["--two-processors", "beyond"]).unwrap();
        assert_eq!(two.processors, Processors::Two);
        for wrong in [
            &["--kernel"][..],
            &["--debian", "5.10"],
            &["--debian", "6.1", "--kernel", "/k"],
            &["--modules", "/m"],
            &["--fast"],
            &["a", "b"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
