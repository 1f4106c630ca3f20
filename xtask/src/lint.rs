//! Everything that reads the code without running it. It changes no file.

use std::{path::PathBuf, process::Command};

use crate::{
    build,
    cargo::{self, Component},
    project::Project,
    steps::Steps,
};

/// The cargo-deny whose configuration `deny.toml` is.
const CARGO_DENY: &str = "0.20.2";

const RUSTFMT: Component = Component {
    name: "rustfmt",
    subcommand: "fmt",
};

const CLIPPY: Component = Component {
    name: "clippy",
    subcommand: "clippy",
};

/// What to do where cargo-deny is not installed: it takes minutes to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deny {
    /// Leave it out and say so.
    IfInstalled,
    /// Build it under the target folder.
    Install,
}

/// Runs them all, in order of how fast they fail.
pub(crate) fn run(project: &Project, steps: &mut Steps, deny: Deny) -> Result<(), String> {
    steps.run("rustfmt", || {
        cargo::need(&RUSTFMT)?;
        cargo::run(project.cargo().args(["fmt", "--all", "--", "--check"]))
            .map_err(|problem| format!("{problem}: run `cargo fmt --all`"))
    })?;
    // meterd has the kernel object inside, so even looking at its code needs one.
    build::kernel_object(project, steps)?;
    steps.run("clippy", || {
        cargo::need(&CLIPPY)?;
        cargo::run(project.cargo().arg("clippy").args(cargo::WORKSPACE).args([
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    steps.run("clippy for the kernel program", || {
        cargo::run(
            project
                .cargo()
                // The kernel's target is not among those with a ready-made core library, and
                // building one is still a nightly option.
                .env("RUSTC_BOOTSTRAP", "1")
                // aya-ebpf's bindings differ by the kernel's own architecture.
                .env(
                    "RUSTFLAGS",
                    format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
                )
                .arg("clippy")
                .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"])
                .args(["--package", "meter-ebpf", "--target-dir"])
                // Its own folder: other flags would make cargo build the rest again.
                .arg(project.target.join("bpf-lint"))
                .args(["--", "-D", "warnings"]),
        )
    })?;
    steps.run("rustdoc", || {
        cargo::run(
            project
                .cargo()
                .env("RUSTDOCFLAGS", "-D warnings")
                .arg("doc")
                .args(cargo::WORKSPACE)
                .args(["--no-deps", "--document-private-items"]),
        )
    })?;
    steps.run("cargo-deny", || check_dependencies(project, deny))
}

fn check_dependencies(project: &Project, deny: Deny) -> Result<(), String> {
    let program = match (find_cargo_deny(project), deny) {
        (Some(program), _) => program,
        (None, Deny::Install) => install_cargo_deny(project)?,
        (None, Deny::IfInstalled) => {
            eprintln!(
                "not installed, so licences, advisories and sources of the dependencies were NOT \
                 checked; `cargo xtask lint --install` builds it once, which takes minutes"
            );
            return Ok(());
        }
    };
    let deny = || {
        let mut command = Command::new(&program);
        command.current_dir(&project.root);
        command
    };
    let check = ["check", "--hide-inclusion-graph"];
    cargo::run(deny().args(check).args(["bans", "licenses", "sources"]))?;
    if let Err(problem) = cargo::run(deny().args(["fetch", "db"])) {
        // Somebody else's server being away says nothing about this code.
        eprintln!("{problem}, so known vulnerabilities of the dependencies were NOT checked");
        return Ok(());
    }
    cargo::run(deny().args(check).args(["--disable-fetch", "advisories"]))
}

fn tools(project: &Project) -> PathBuf {
    project.target.join("tools")
}

fn find_cargo_deny(project: &Project) -> Option<PathBuf> {
    [
        tools(project).join("bin/cargo-deny"),
        PathBuf::from("cargo-deny"),
    ]
    .into_iter()
    .find(|program| cargo::answers(Command::new(program).arg("--version")))
}

fn install_cargo_deny(project: &Project) -> Result<PathBuf, String> {
    cargo::run(
        Command::new(cargo::program())
            .args(["install", "cargo-deny", "--locked"])
            .args(["--version", CARGO_DENY, "--root"])
            .arg(tools(project)),
    )?;
    Ok(tools(project).join("bin/cargo-deny"))
}
