//! The kernel object and meterd.

use std::path::PathBuf;

use crate::{cargo, ebpf, project::Project, steps::Steps};

/// Which of cargo's profiles.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// The name of its folder below the target folder.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }

    /// What cargo is told.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }
}

/// The kernel program; its toolchain parts and its linker are fetched on first use.
pub(crate) fn kernel_object(project: &Project, steps: &mut Steps) -> Result<PathBuf, String> {
    steps.run("build the kernel object", || ebpf::build(&project.root))
}

/// meterd, with the kernel object inside.
pub(crate) fn meterd(
    project: &Project,
    steps: &mut Steps,
    profile: Profile,
) -> Result<PathBuf, String> {
    kernel_object(project, steps)?;
    programs(project, steps, profile, &["meterd"])?;
    Ok(project.target.join(profile.folder()).join("meterd"))
}

/// Some programs of the workspace; the kernel object must be there.
pub(crate) fn programs(
    project: &Project,
    steps: &mut Steps,
    profile: Profile,
    names: &[&str],
) -> Result<(), String> {
    steps.run(&format!("build {}", names.join(" and ")), || {
        let mut command = project.cargo();
        command
            .arg("build")
            .args(cargo::WORKSPACE)
            .args(profile.arguments());
        for name in names {
            command.args(["--bin", name]);
        }
        cargo::run(&mut command)
    })
}
