//! What metering costs, beside what others do: a table for the README, too.

use std::fs;

use crate::{
    build::{self, Profile},
    cargo, kernel,
    project::Project,
    root::Root,
    steps::Steps,
};

/// How often each is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounds {
    /// As often as a few percent take to be told apart.
    All,
    /// Once.
    One,
}

pub(super) fn run(project: &Project, steps: &mut Steps, rounds: Rounds) -> Result<(), String> {
    // Before the build, which takes minutes the first time.
    let root = Root::find()?;
    kernel::check()?;
    let meterd = build::meterd(project, steps, Profile::Release)?;
    super::build_measurement(project, steps, "bench-traffic")?;
    steps.run("measure", || {
        let program = meterd.with_file_name("examples").join("bench-traffic");
        let mut command = root.command(&program, &[("METERD", meterd.as_os_str())]);
        if rounds == Rounds::One {
            command.arg("--quick");
        }
        let table = cargo::output(command.current_dir(&project.root))
            .map_err(|problem| format!("{problem}{}", kernel::lacking()))?;
        print!("{table}");
        let file = project.target.join("bench.md");
        // As whoever called, not as root.
        fs::write(&file, table)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        println!("It is in {}, too.", file.display());
        Ok(())
    })
}
