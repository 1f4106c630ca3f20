//! Builds the kernel program, and what it needs to be built with.
//!
//! Cargo alone can do it: the pinned toolchain's own LLVM makes BPF code through
//! `bpf-linker`, and `core` is built from the toolchain's sources. Both are fetched on first
//! use. The result lies in `<target>/bpf/meter-ebpf`, where `meter-daemon`'s build script
//! takes it from.
#![expect(
    clippy::print_stderr,
    reason = "this runs cargo and rustup, and says what it waits for"
)]

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// 0.10.4 takes LLVM 22 out of Rust 1.95's own libraries, so that no LLVM need be installed.
const LINKER_VERSION: &str = "0.10.4";
const TARGET: &str = "bpfel-unknown-none";

/// Builds the kernel program and says where it lies.
///
/// # Errors
/// A text for the person at the terminal: what failed, and what to do.
pub(crate) fn build(workspace: &Path) -> Result<PathBuf, String> {
    let target = target_directory(workspace);
    standard_library_sources(workspace)?;
    let linker = linker(workspace, &target)?;
    // Its own folder: an outer cargo may hold the lock of the other.
    let directory = target.join("bpf-build");
    run(
        cargo(workspace)
            .args(["build", "--release", "--package", "meter-ebpf"])
            .args(["-Z", "build-std=core", "--target", TARGET])
            .arg("--target-dir")
            .arg(&directory)
            // `-Z` on a stable toolchain. The program must build with the compiler that
            // builds the daemon; `core` for this target comes with none.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker)?)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
        "build the kernel program",
        "read the compiler's message above; it is built with the toolchain that rust-toolchain.toml names",
    )?;
    let built = directory.join(TARGET).join("release").join("meter-ebpf");
    let object = target.join("bpf").join("meter-ebpf");
    publish(&built, &object)?;
    Ok(object)
}

/// Where cargo puts what it builds.
fn target_directory(workspace: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace.join(directory),
        None => workspace.join("target"),
    }
}

fn rustflags(linker: &Path) -> Result<String, String> {
    let linker = linker.to_str().ok_or_else(|| {
        format!(
            "the path {} is not UTF-8: cargo cannot be told of it",
            linker.display()
        )
    })?;
    Ok([
        "-Clinker=".to_owned() + linker,
        // BTF, for the maps' types and for source lines in the verifier's complaints.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
    ]
    .join("\x1f"))
}

/// The linker, installed below the target folder if it is not there yet.
fn linker(workspace: &Path, target: &Path) -> Result<PathBuf, String> {
    let root = target
        .join("tools")
        .join(format!("bpf-linker-{LINKER_VERSION}"));
    let linker = root.join("bin").join("bpf-linker");
    if linker.is_file() {
        return Ok(linker);
    }
    eprintln!(
        "xtask: installing bpf-linker {LINKER_VERSION} below {}, once",
        root.display()
    );
    run(
        cargo(workspace)
            .args([
                "install",
                "bpf-linker",
                "--version",
                LINKER_VERSION,
                "--locked",
            ])
            .arg("--root")
            .arg(&root)
            .arg("--target-dir")
            .arg(target.join("tools").join("build")),
        &format!("install bpf-linker {LINKER_VERSION}"),
        &format!(
            "it needs a C++ compiler and access to cargo's registry; where there is none, put a bpf-linker {LINKER_VERSION} at {}",
            linker.display()
        ),
    )?;
    Ok(linker)
}

/// The sources of `core`: a component of the toolchain, which rustup adds.
fn standard_library_sources(workspace: &Path) -> Result<(), String> {
    let attempt = "find the toolchain's own sources (component rust-src)";
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "sysroot"])
        .current_dir(workspace)
        .output()
        .map_err(|error| failed(attempt, &error.to_string(), "install Rust with rustup"))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(());
    }
    eprintln!("xtask: adding the toolchain's component rust-src, once");
    run(
        Command::new("rustup")
            .args(["component", "add", "rust-src"])
            .current_dir(workspace),
        "add the toolchain's component rust-src",
        "run `rustup component add rust-src` in this folder, or install your distribution's package of Rust's sources",
    )
}

fn cargo(workspace: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    // What an outer cargo or a wrapper such as clippy set is meant for the host's code.
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(variable);
    }
    cargo
}

/// Copies the object if it changed. If it did not, its time still follows the build's,
/// which is what the daemon's build script judges it by.
fn publish(built: &Path, object: &Path) -> Result<(), String> {
    let publish = || -> io::Result<()> {
        let code = fs::read(built)?;
        if fs::read(object).is_ok_and(|there| there == code) {
            let time = fs::metadata(built)?.modified()?;
            if fs::metadata(object)?.modified()? < time {
                fs::File::options()
                    .write(true)
                    .open(object)?
                    .set_modified(time)?;
            }
            return Ok(());
        }
        if let Some(folder) = object.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(object, code)
    };
    publish().map_err(|error| {
        failed(
            &format!("copy the kernel program to {}", object.display()),
            &error.to_string(),
            "see that the folder can be written",
        )
    })
}

fn run(command: &mut Command, attempt: &str, remedy: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(
            attempt,
            &format!("{}: {status}", line(command)),
            remedy,
        )),
        Err(error) => Err(failed(
            attempt,
            &format!("{}: {error}", line(command)),
            remedy,
        )),
    }
}

fn line(command: &Command) -> String {
    let words: Vec<OsString> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(ToOwned::to_owned)
        .collect();
    words.join(" ".as_ref()).to_string_lossy().into_owned()
}

fn failed(attempt: &str, reason: &str, remedy: &str) -> String {
    format!("cannot {attempt}: {reason}\n  what to do: {remedy}")
}
