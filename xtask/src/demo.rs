//! The demonstration: the picture in the README. It is a program of package `meter-tests`.

use crate::{
    build::{self, Profile},
    cargo, kernel,
    project::Project,
    root::Root,
    steps::Steps,
};

/// Builds what it needs as the caller and runs it as root.
pub(crate) fn run(
    project: &Project,
    steps: &mut Steps,
    arguments: &[String],
) -> Result<(), String> {
    // Before the build, which takes minutes the first time.
    let root = Root::find()?;
    kernel::check()?;
    let meterd = build::meterd(project, steps, Profile::Release)?;
    build::programs(project, steps, Profile::Release, &["demo"])?;
    steps.run("demo", || {
        let program = meterd.with_file_name("demo");
        let mut command = root.command(&program, &[("METERD", meterd.as_os_str())]);
        cargo::run(command.current_dir(&project.root).args(arguments))
            .map_err(|problem| format!("{problem}{}", kernel::lacking()))
    })
}
