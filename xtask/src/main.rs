//! What people type: `cargo xtask VERB`. It does its own set-up and says what it needs.
//!
//! It has no dependencies, so that the first command on a fresh clone starts at once. It
//! runs cargo as whoever calls it and only ever starts finished programs as root.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for the terminal"
)]

mod bench;
mod build;
mod cargo;
mod demo;
mod ebpf;
mod kernel;
mod lint;
mod project;
mod root;
mod steps;
mod test;
mod test_kernel;

use std::process::ExitCode;

use project::Project;
use steps::Steps;

const HELP: &str = "\
What people type in this project.

Usage: cargo xtask VERB [OPTIONS]

  build [--release]   the kernel object, then meterd: <target>/debug/meterd or
                      <target>/release/meterd
  ebpf                only the kernel object: <target>/bpf/meter-ebpf
  demo                two guests and a world in network namespaces, a plan, real traffic;
                      exit 0 only if every figure it checks holds. Needs root (asks sudo)
  demo --plan NAME    what one of the shipped plans promises, played on real interfaces with
                      small figures: invapi, edis, caasify, calendar-suspend, cdn-limit
  demo --all          all five, in about two minutes
  test [--only user|root] [FILTER]
                      every test, or those whose name contains FILTER, in two parts:
                      what needs no privilege, as you; what makes namespaces, links and
                      kernel programs, built as you and run as root (asks sudo)
  test-crash [--quick]
                      the power cut at 50 000 instants, and a kill in every system call by which
                      the daemon changes a file or the kernel; --quick: 10 000, and each fifth
                      call. Needs root (asks sudo); slow
  test-random [--seed N] [--operations N] | --replay FILE
                      ten thousand random operations (or N) on a real node, of every kind that
                      may happen to one, drawn from a seed; after each, what stands is what
                      should. One that breaks off leaves a file to do its last ones again.
                      Needs root (asks sudo); a quarter of an hour
  test-kernel [--debian 6.1|6.12 | --kernel VMLINUZ [--modules FOLDER]]
              [--two-processors] [--only PROGRAM,…] [FILTER]
                      what needs root, on another kernel: Debian 12's 6.1, the oldest supported,
                      or its 6.12, fetched and checked by apt the first time and kept under
                      <target>/test-kernel/, or one of your own. Booted in QEMU, emulated on one
                      core and so slow, but its clock stands while it waits for this machine;
                      with two processors it does not, and only what needs two is to be run.
                      Of some test programs alone (`edis,limits`), or what is named like FILTER.
                      Needs no root
  bench [--quick] [packets] [traffic] [scale] [cap]
                      what metering costs beside nftables, iptables and a naive eBPF counter,
                      a release build: a packet, traffic, many interfaces, bytes past a cap; all
                      in about three minutes, --quick in half of one, into <target>/bench.md.
                      Needs root (asks sudo)
  bench ledger [--interfaces N]
                      what the ledger of 10 000 machines costs, a release build, against its
                      targets; the daemon itself with N real taps (20 000; 0: without it, which
                      needs no root): what its polls take, part by part, and its memory
  bench suspend [--machines N]
                      N machines (1000), each on a real veth, suspended in one step and lifted:
                      when nothing passes, when the links are down, how long others wait
                      meanwhile. Needs root (asks sudo)
  lint                rustfmt, clippy for the workspace and for the kernel program,
                      rustdoc, cargo-deny; changes nothing
  lint --install      the same, first installing the pinned cargo-deny under <target>/tools
  ci                  lint, then test, with the time of each step

It needs Rust (rust-toolchain.toml says which; rustup finds it), git, a C compiler for the
bundled SQLite and, on first use, the network: cargo fetches crates and the linker of the kernel
program, rustup toolchain components. <target> is cargo's target folder; CARGO_TARGET_DIR is
honoured.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(problem)) => {
            eprintln!("error: {problem}\n\n{HELP}");
            ExitCode::from(64)
        }
        Err(Failure::Step(problem)) => {
            eprintln!("\nerror: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Why a verb ended early.
enum Failure {
    /// It was asked for in a way that it does not understand.
    Usage(String),
    /// A step failed; its own output stands above.
    Step(String),
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Self::Step(problem)
    }
}

fn run(arguments: &[&str]) -> Result<(), Failure> {
    let Some((verb, rest)) = arguments.split_first() else {
        return Err(Failure::Usage("a verb is missing".to_owned()));
    };
    if matches!(*verb, "help" | "--help" | "-h") || rest.contains(&"--help") {
        print!("{HELP}");
        return Ok(());
    }
    // Arguments are read before anything is built: a typing error should cost no minute.
    let verb = Verb::read(verb, rest)?;
    let project = Project::find()?;
    let mut steps = Steps::default();
    let outcome = verb.run(&project, &mut steps);
    steps.print();
    Ok(outcome?)
}

enum Verb {
    Build(build::Profile),
    Ebpf,
    Demo(demo::Selection),
    Test(test::Selection),
    TestCrash(test::Selection),
    TestRandom(test::Selection),
    TestKernel(test_kernel::Selection),
    Bench(bench::Subject),
    Lint(lint::Deny),
    Ci,
}

impl Verb {
    fn read(verb: &str, rest: &[&str]) -> Result<Self, Failure> {
        match (verb, rest) {
            ("build", []) => Ok(Self::Build(build::Profile::Dev)),
            ("build", ["--release"]) => Ok(Self::Build(build::Profile::Release)),
            ("ebpf", []) => Ok(Self::Ebpf),
            ("demo", rest) => demo::Selection::read(rest)
                .map(Self::Demo)
                .map_err(Failure::Usage),
            ("test", rest) => test::Selection::read(rest)
                .map(Self::Test)
                .map_err(Failure::Usage),
            ("test-crash", rest) => test::Selection::crashes(rest)
                .map(Self::TestCrash)
                .map_err(Failure::Usage),
            ("test-random", rest) => test::Selection::random(rest)
                .map(Self::TestRandom)
                .map_err(Failure::Usage),
            ("test-kernel", rest) => test_kernel::Selection::read(rest)
                .map(Self::TestKernel)
                .map_err(Failure::Usage),
            ("bench", rest) => bench::Subject::read(rest)
                .map(Self::Bench)
                .map_err(Failure::Usage),
            ("lint", []) => Ok(Self::Lint(lint::Deny::IfInstalled)),
            ("lint", ["--install"]) => Ok(Self::Lint(lint::Deny::Install)),
            ("ci", []) => Ok(Self::Ci),
            ("build" | "ebpf" | "lint" | "ci", rest) => Err(Failure::Usage(format!(
                "`{verb}` does not take `{}`",
                rest.join(" ")
            ))),
            _ => Err(Failure::Usage(format!("there is no verb `{verb}`"))),
        }
    }

    fn run(&self, project: &Project, steps: &mut Steps) -> Result<(), String> {
        match self {
            Self::Build(profile) => {
                let meterd = build::meterd(project, steps, *profile)?;
                println!("{}", meterd.display());
                Ok(())
            }
            Self::Ebpf => {
                let object = build::kernel_object(project, steps)?;
                println!("{}", object.display());
                Ok(())
            }
            Self::Demo(selection) => demo::run(project, steps, selection),
            Self::Test(selection) => test::run(project, steps, selection),
            Self::TestCrash(selection) | Self::TestRandom(selection) => {
                test::run(project, steps, selection)
            }
            Self::TestKernel(selection) => test_kernel::run(project, steps, selection),
            Self::Bench(subject) => bench::run(project, steps, subject),
            Self::Lint(deny) => lint::run(project, steps, *deny),
            Self::Ci => {
                lint::run(project, steps, lint::Deny::IfInstalled)?;
                test::run(project, steps, &test::Selection::default())
            }
        }
    }
}
