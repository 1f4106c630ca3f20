//! The ledger of a full node: an example program of meter-daemon, built for release.

use std::ffi::OsStr;

use crate::{cargo, kernel, project::Project, root::Root, steps::Steps};

/// Interfaces that the daemon is measured with, unless told otherwise: all that a node is to
/// hold. They take half a minute to make, and 2 GB of the kernel's memory.
const INTERFACES: u32 = 20_000;

/// The daemon says what its polls take.
const LOG: &str = "info,meter_daemon::daemon=debug";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// 0: only what needs no root.
    interfaces: u32,
}

impl Options {
    /// Reads `[--interfaces N]`.
    pub(super) fn read(arguments: &[&str]) -> Result<Self, String> {
        let interfaces = match arguments {
            [] => INTERFACES,
            ["--interfaces", count] => count
                .parse()
                .map_err(|_| format!("`--interfaces` takes a number, not `{count}`"))?,
            ["--interfaces"] => return Err("`--interfaces` takes a number".to_owned()),
            [other, ..] => return Err(format!("`bench ledger` does not take `{other}`")),
        };
        Ok(Self { interfaces })
    }
}

pub(super) fn run(project: &Project, steps: &mut Steps, options: &Options) -> Result<(), String> {
    // Before the build, which takes minutes the first time.
    let root = match options.interfaces {
        0 => None,
        _ => Some(Root::find().map_err(|problem| {
            format!("{problem}.\nWhat needs no root: `cargo xtask bench ledger --interfaces 0`")
        })?),
    };
    let [program, meterd] = super::build_measurement(project, steps, "bench-ledger")?;
    steps.run("measure", || {
        let mut command = match root {
            Some(root) => {
                kernel::check()?;
                let environment = [
                    ("METERD", meterd.as_os_str()),
                    ("METERD_LOG", OsStr::new(LOG)),
                ];
                root.command(&program, &environment)
            }
            None => std::process::Command::new(&program),
        };
        // On the disk that the target folder is on: a file system in memory would flatter.
        command
            .current_dir(&project.root)
            .arg(&project.target)
            .arg(options.interfaces.to_string());
        cargo::run(&mut command)
    })
}
