//! What metering costs, beside what others do: a table for the README, too.

use std::fs;

use crate::{cargo, kernel, project::Project, root::Root, steps::Steps};

/// What can be asked for; all of it otherwise.
const PARTS: [&str; 4] = ["packets", "traffic", "scale", "cap"];

/// Which parts, and whether with one round of each: words for the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options(Vec<String>);

impl Options {
    /// Reads `[--quick] [PART]...`.
    pub(super) fn read(arguments: &[&str]) -> Result<Self, String> {
        let known = |word: &&&str| PARTS.contains(*word) || **word == "--quick";
        match arguments.iter().find(|word| !known(word)) {
            Some(other) => Err(format!("`bench` does not measure `{other}`")),
            None => Ok(Self(arguments.iter().map(ToString::to_string).collect())),
        }
    }
}

pub(super) fn run(project: &Project, steps: &mut Steps, options: &Options) -> Result<(), String> {
    // Before the build, which takes minutes the first time.
    let root = Root::find()?;
    kernel::check()?;
    let [program, meterd] = super::build_measurement(project, steps, "bench-traffic")?;
    steps.run("measure", || {
        let mut command = root.command(&program, &[("METERD", meterd.as_os_str())]);
        let table = cargo::output(command.current_dir(&project.root).args(&options.0))
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
