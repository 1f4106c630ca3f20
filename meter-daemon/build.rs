//! Hands the kernel program to the daemon, which carries it inside. It is built by
//! `cargo xtask build`, not from here: a cargo inside a cargo fights over locks, and an old
//! kernel program in a new daemon must be an error.
#![expect(
    clippy::disallowed_methods,
    reason = "cargo talks to build scripts through the environment"
)]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

const SOURCES: [&str; 2] = ["../meter-ebpf/src", "../meter-common/src"];

fn main() -> Result<(), String> {
    for folder in SOURCES {
        println!("cargo:rerun-if-changed={folder}");
    }
    let object = object()?;
    println!("cargo:rerun-if-changed={}", object.display());
    let built = modified(&object).map_err(|error| format!("{}: {error}", object.display()))?;
    for folder in SOURCES {
        let newest = newest(Path::new(folder)).map_err(|error| format!("{folder}: {error}"))?;
        if built < newest {
            return Err(format!(
                "the kernel program {} is older than its sources in {folder}: run `cargo xtask build`",
                object.display()
            ));
        }
    }
    println!("cargo:rustc-env=METER_EBPF={}", object.display());
    Ok(())
}

/// The object in the target folder, which is one of those around our own output.
fn object() -> Result<PathBuf, String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("run by cargo only: no OUT_DIR")?);
    out.ancestors()
        .map(|folder| folder.join("bpf").join("meter-ebpf"))
        .find(|object| object.is_file())
        .ok_or_else(|| "the kernel program has not been built: run `cargo xtask build`".to_owned())
}

fn newest(folder: &Path) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(folder)? {
        newest = newest.max(modified(&entry?.path())?);
    }
    Ok(newest)
}

fn modified(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}
