//! Very many machines suspended at once: an example program of meter-daemon, built for release.

use crate::{cargo, kernel, project::Project, root::Root, steps::Steps};

/// More leave thousands of the kernel's workers waiting when their veths are removed.
const MACHINES: u32 = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    machines: u32,
}

impl Options {
    /// Reads `[--machines N]`.
    pub(super) fn read(arguments: &[&str]) -> Result<Self, String> {
        let machines = match arguments {
            [] => MACHINES,
            ["--machines", count] => count
                .parse()
                .map_err(|_| format!("`--machines` takes a number, not `{count}`"))?,
            ["--machines"] => return Err("`--machines` takes a number".to_owned()),
            [other, ..] => return Err(format!("`bench suspend` does not take `{other}`")),
        };
        Ok(Self { machines })
    }
}

pub(super) fn run(project: &Project, steps: &mut Steps, options: &Options) -> Result<(), String> {
    let root = Root::find().map_err(|problem| format!("{problem}."))?;
    let [program, meterd] = super::build_measurement(project, steps, "bench-suspend")?;
    steps.run("measure", || {
        kernel::check()?;
        let mut command = root.command(&program, &[("METERD", meterd.as_os_str())]);
        command
            .current_dir(&project.root)
            .arg(options.machines.to_string());
        cargo::run(&mut command)
    })
}
