//! Every test, in two parts: what needs no privilege runs as the caller, what makes
//! namespaces, links and kernel programs is built as the caller and run as root.
//!
//! Cargo builds all test programs in one go and they are started from here, so that cargo
//! itself never runs as root and never builds a dependency twice.

pub(crate) mod tally;

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use self::tally::Tally;
use crate::{
    build,
    cargo::{self, TestProgram},
    kernel,
    project::Project,
    root::Root,
    steps::Steps,
};

/// The package whose every test needs root: end to end, in namespaces.
const ROOT_PACKAGE: &str = "tests";

/// The integration tests of meter-daemon that need root.
const ROOT_TARGETS: [&str; 4] = ["kernel", "links", "shaping", "throttle"];

/// Tests that need root measure times and rates; more at once would measure each other.
const ROOT_THREADS: &str = "2";

/// Those end to end say by their sandbox which may run beside others: those that mostly wait.
const END_TO_END_THREADS: &str = "6";

/// Which tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    user: bool,
    root: bool,
    filters: Vec<String>,
    extent: Extent,
}

/// How much of what has no end is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Extent {
    /// A part, each time.
    Some,
    /// Instants at which a daemon is killed, each or each so manieth, and so many at which its
    /// power is cut.
    Crashes { each: u32, cuts: u32 },
    /// So many random operations, from this seed.
    Random { seed: u64, operations: u64 },
    /// The operations in this file, which a run that broke off has left.
    Again(PathBuf),
}

impl Extent {
    /// What the tests read it from.
    fn variables(&self) -> Vec<(&'static str, OsString)> {
        match self {
            Self::Some => Vec::new(),
            Self::Crashes { each, cuts } => vec![
                ("METERD_TEST_EVERY_KILL", each.to_string().into()),
                ("METERD_TEST_POWER_CUTS", cuts.to_string().into()),
            ],
            Self::Random { seed, operations } => vec![
                ("METERD_TEST_SEED", seed.to_string().into()),
                ("METERD_TEST_OPERATIONS", operations.to_string().into()),
            ],
            Self::Again(path) => vec![("METERD_TEST_REPLAY", path.into())],
        }
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            user: true,
            root: true,
            filters: Vec::new(),
            extent: Extent::Some,
        }
    }
}

impl Selection {
    /// The tests of crashes, at every instant that they know of; reads `[--quick]`.
    pub(crate) fn crashes(arguments: &[&str]) -> Result<Self, String> {
        let (each, cuts) = match arguments {
            [] => (1, 50_000),
            ["--quick"] => (5, 10_000),
            other => {
                return Err(format!("`test-crash` does not take `{}`", other.join(" ")));
            }
        };
        Ok(Self {
            filters: vec![
                "ledger::tests::power".to_owned(),
                "a_kill_anywhere".to_owned(),
            ],
            extent: Extent::Crashes { each, cuts },
            ..Self::default()
        })
    }

    /// Reads `[--seed N] [--operations N]` of the random operations, or `--replay FILE`.
    pub(crate) fn random(arguments: &[&str]) -> Result<Self, String> {
        let (mut seed, mut operations) = (1, 10_000);
        let mut again = None;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let number = |text: Option<&&str>| {
                let number = text.and_then(|text| text.parse::<u64>().ok());
                number.ok_or_else(|| format!("`{argument}` takes a number"))
            };
            match *argument {
                "--seed" => seed = number(rest.next())?,
                "--operations" => operations = number(rest.next())?,
                "--replay" => {
                    let path = rest.next().ok_or("`--replay` takes a file")?;
                    // The tests run elsewhere.
                    let path = std::path::absolute(path);
                    again = Some(path.map_err(|problem| format!("`--replay`: {problem}"))?);
                }
                other => return Err(format!("`test-random` does not take `{other}`")),
            }
        }
        Ok(Self {
            user: false,
            filters: vec!["after_random_operations".to_owned()],
            extent: again.map_or(Extent::Random { seed, operations }, Extent::Again),
            ..Self::default()
        })
    }

    /// Reads `[--only user|root] [FILTER]`.
    pub(crate) fn read(arguments: &[&str]) -> Result<Self, String> {
        let mut selection = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--only" => match rest.next().copied() {
                    Some("user") => selection.root = false,
                    Some("root") => selection.user = false,
                    _ => return Err("`--only` takes `user` or `root`".to_owned()),
                },
                option if option.starts_with('-') => {
                    return Err(format!("`test` does not take `{option}`"));
                }
                filter if selection.filters.is_empty() => {
                    selection.filters.push(filter.to_owned());
                }
                more => return Err(format!("`test` takes one filter, `{more}` is a second")),
            }
        }
        Ok(selection)
    }
}

/// What cargo has built.
pub(crate) struct Built {
    pub(crate) meterd: PathBuf,
    programs: Vec<TestProgram>,
}

impl Built {
    /// Every test program.
    pub(crate) fn programs(&self) -> &[TestProgram] {
        &self.programs
    }
}

/// Builds and runs them, and says in one line how it went.
pub(crate) fn run(
    project: &Project,
    steps: &mut Steps,
    selection: &Selection,
) -> Result<(), String> {
    // Before the build, which takes minutes the first time.
    let root = if selection.root {
        kernel::check()?;
        let found = Root::find().map_err(|problem| {
            format!("{problem}.\nWhat needs no root: `cargo xtask test --only user`")
        })?;
        Some(found)
    } else {
        None
    };
    build::kernel_object(project, steps)?;
    let built = steps.run("build the tests", || build_tests(project))?;

    let mut tally = Tally::default();
    if selection.user {
        part(steps, "tests that need no privilege", &mut tally, |tally| {
            let mine = |program: &&TestProgram| !needs_root(project, program);
            run_programs(project, &built, mine, selection, None, tally)?;
            run_doc_tests(project, selection, tally)
        });
    }
    if let Some(root) = root {
        part(steps, "tests that need root", &mut tally, |tally| {
            let mine = |program: &&TestProgram| needs_root(project, program);
            run_programs(project, &built, mine, selection, Some(root), tally)
        });
    }
    conclude(&tally, selection)
}

/// Runs a part as a step. A failure in it is in the tally; the next part runs all the same.
fn part(
    steps: &mut Steps,
    name: &str,
    tally: &mut Tally,
    run: impl FnOnce(&mut Tally) -> Result<(), String>,
) {
    let before = tally.failures.len();
    // The step's own result is only for its line in the list of steps.
    let _: Result<(), String> = steps.run(name, || {
        if let Err(problem) = run(tally) {
            tally.failures.push(problem);
        }
        if tally.failures.len() == before {
            Ok(())
        } else {
            Err(String::new())
        }
    });
}

fn conclude(tally: &Tally, selection: &Selection) -> Result<(), String> {
    let left_out = match (selection.user, selection.root) {
        (true, false) => " (those that need root were not asked for)",
        (false, true) => " (those that need no privilege were not asked for)",
        _ => "",
    };
    println!();
    if selection.extent != Extent::Some {
        // Among all that the programs wrote they are hard to find.
        for line in &tally.shown {
            println!("{line}");
        }
    }
    if tally.failures.is_empty() {
        println!("cargo xtask test: {tally}{left_out}");
        return Ok(());
    }
    let list: String = tally
        .failures
        .iter()
        .map(|failure| format!("\n  {failure}"))
        .collect();
    Err(format!(
        "cargo xtask test: {tally}{left_out}{list}{}",
        kernel::lacking()
    ))
}

/// Whether a test program makes namespaces, links and kernel programs.
pub(crate) fn needs_root(project: &Project, program: &TestProgram) -> bool {
    program.package == project.root.join(ROOT_PACKAGE)
        || program.package == project.root.join("meter-daemon")
            && program.source.starts_with("tests/")
            && ROOT_TARGETS.contains(&program.target.as_str())
}

/// All of them, and the programs that they run.
pub(crate) fn build_tests(project: &Project) -> Result<Built, String> {
    let listing = cargo::output(project.cargo().arg("test").args(cargo::WORKSPACE).args([
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]))?;
    // meterd itself is among what cargo builds, for the integration tests.
    let meterd = listing
        .lines()
        .find_map(|line| cargo::program_in(line, "meterd"))
        .ok_or("cargo built the tests without meterd")?;
    Ok(Built {
        meterd,
        programs: listing.lines().filter_map(TestProgram::read).collect(),
    })
}

fn run_programs(
    project: &Project,
    built: &Built,
    mine: impl Fn(&&TestProgram) -> bool,
    selection: &Selection,
    root: Option<Root>,
    tally: &mut Tally,
) -> Result<(), String> {
    for program in built.programs.iter().filter(mine) {
        let shown = program
            .executable
            .strip_prefix(&project.root)
            .unwrap_or(&program.executable);
        let name = name_of(project, program);
        println!("     Running {name} ({})", shown.display());
        let mut variables: Vec<(&str, &OsStr)> = vec![
            ("METERD", built.meterd.as_os_str()),
            ("CARGO_MANIFEST_DIR", program.package.as_os_str()),
        ];
        let extent = selection.extent.variables();
        variables.extend(
            extent
                .iter()
                .map(|(name, value)| (*name, value.as_os_str())),
        );
        if root.is_some() && std::env::var_os("RUST_TEST_THREADS").is_none() {
            let end_to_end = program.package == project.root.join(ROOT_PACKAGE);
            let threads = if end_to_end {
                END_TO_END_THREADS
            } else {
                ROOT_THREADS
            };
            variables.push(("RUST_TEST_THREADS", OsStr::new(threads)));
        }
        let mut command = if let Some(root) = root {
            root.command(&program.executable, &variables)
        } else {
            let mut command = Command::new(&program.executable);
            command.envs(variables);
            command
        };
        command.current_dir(&program.package);
        add_harness_arguments(&mut command, selection);
        tally.program(&name, &mut command, watch)?;
    }
    Ok(())
}

fn run_doc_tests(
    project: &Project,
    selection: &Selection,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut command = project.cargo();
    command
        .args(["test", "--doc", "--quiet"])
        .args(cargo::WORKSPACE)
        .arg("--");
    add_harness_arguments(&mut command, selection);
    tally.program("doc tests", &mut command, watch)
}

fn add_harness_arguments(command: &mut Command, selection: &Selection) {
    // Its output goes through us, so it cannot see the terminal itself.
    if std::io::stdout().is_terminal() {
        command.args(["--color", "always"]);
    }
    if selection.extent != Extent::Some {
        // How many there were is what one asks for.
        command.arg("--nocapture");
    }
    command.args(&selection.filters);
}

/// `meter-daemon tests/kernel.rs`
fn name_of(project: &Project, program: &TestProgram) -> String {
    let package = program
        .package
        .strip_prefix(&project.root)
        .unwrap_or(Path::new(""));
    format!("{} {}", package.display(), program.source)
}

/// Runs a program and shows each line that it writes, standard output and error in the order
/// in which they come, before handing it to `each`.
pub(crate) fn watch(command: &mut Command, each: &mut dyn FnMut(&str)) -> Result<bool, String> {
    let open = |error| format!("cannot make a pipe: {error}");
    let (reader, writer) = std::io::pipe().map_err(open)?;
    command
        .stdout(Stdio::from(writer.try_clone().map_err(open)?))
        .stderr(Stdio::from(writer));
    let spawned = command.spawn();
    // The command holds both writing ends; the reader would wait for them for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.map_err(|error| cargo::cannot_start(command, &error))?;
    let mut stdout = std::io::stdout().lock();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(|error| format!("cannot read a test's output: {error}"))?;
        // Nobody looking any more is no reason to stop testing.
        let _ = stdout
            .write_all(&line)
            .and_then(|()| stdout.write_all(b"\n"));
        each(&String::from_utf8_lossy(&line));
    }
    let status = child
        .wait()
        .map_err(|error| format!("cannot wait for a test program: {error}"))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_tested_unless_less_is_asked_for() {
        let read = |words: &[&str]| Selection::read(words);
        assert_eq!(read(&[]), Ok(Selection::default()));
        let only = read(&["--only", "user", "ledger"]).unwrap();
        assert_eq!((only.user, only.root), (true, false));
        assert_eq!(only.filters, ["ledger"]);
        assert!(read(&["--only"]).is_err());
        assert!(read(&["--only", "some"]).is_err());
        assert!(read(&["--fast"]).is_err());
        assert!(read(&["a", "b"]).is_err());
    }

    #[test]
    fn both_outputs_of_a_program_are_watched_in_order() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; echo three; exit 3"]);
        let mut lines = Vec::new();
        let well = watch(&mut command, &mut |line| lines.push(line.to_owned()));
        assert_eq!(well, Ok(false));
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn end_to_end_tests_and_those_of_the_kernel_need_root() {
        let project = Project {
            root: "/w".into(),
            target: "/w/target".into(),
        };
        let program = |package: &str, source: &str, target: &str| TestProgram {
            package: Path::new("/w").join(package),
            target: target.to_owned(),
            source: source.to_owned(),
            executable: PathBuf::new(),
        };
        for (package, source, target, expected) in [
            ("tests", "src/lib.rs", "meter_tests", true),
            ("tests", "tests/counting.rs", "counting", true),
            ("meter-daemon", "tests/kernel.rs", "kernel", true),
            (
                "meter-daemon",
                "tests/architecture.rs",
                "architecture",
                false,
            ),
            ("meter-daemon", "src/lib.rs", "meter_daemon", false),
            ("meter-common", "src/lib.rs", "meter_common", false),
        ] {
            assert_eq!(
                needs_root(&project, &program(package, source, target)),
                expected,
                "{package}/{source}"
            );
        }
    }
}
