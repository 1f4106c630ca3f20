//! Figures: what it costs, against its targets. A figure that misses its target is told and
//! fails nothing; what must hold whatever the machine does.

mod ledger;
mod suspend;
mod traffic;

use std::path::PathBuf;

use crate::{build, cargo, project::Project, steps::Steps};

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Packets, beside what others count with.
    Traffic(traffic::Options),
    /// The ledger of a full node.
    Ledger(ledger::Options),
    /// Very many machines suspended at once.
    Suspend(suspend::Options),
}

impl Subject {
    /// Reads `[--quick] [PART]...`, `ledger [--interfaces N]` or `suspend [--machines N]`.
    pub(crate) fn read(arguments: &[&str]) -> Result<Self, String> {
        match arguments.split_first() {
            Some((&"ledger", rest)) => ledger::Options::read(rest).map(Self::Ledger),
            Some((&"suspend", rest)) => suspend::Options::read(rest).map(Self::Suspend),
            _ => traffic::Options::read(arguments).map(Self::Traffic),
        }
    }
}

pub(crate) fn run(project: &Project, steps: &mut Steps, subject: &Subject) -> Result<(), String> {
    match subject {
        Subject::Traffic(options) => traffic::run(project, steps, options),
        Subject::Ledger(options) => ledger::run(project, steps, options),
        Subject::Suspend(options) => suspend::run(project, steps, options),
    }
}

/// A measurement, which is an example program of meter-daemon, and the meterd that it measures,
/// built for release: the paths of both.
fn build_measurement(
    project: &Project,
    steps: &mut Steps,
    name: &str,
) -> Result<[PathBuf; 2], String> {
    build::kernel_object(project, steps)?;
    // In one go: by itself each would ask for other features of what they share.
    steps.run(&format!("build {name} and meterd"), || {
        let mut command = project.cargo();
        command.arg("build").args(cargo::WORKSPACE);
        cargo::run(command.args(["--release", "--bin", "meterd", "--example", name]))
    })?;
    let folder = project.target.join("release");
    Ok([folder.join("examples").join(name), folder.join("meterd")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_measurement_is_refused_before_anything_is_built() {
        let read = |words: &[&str]| Subject::read(words);
        assert!(read(&[]).is_ok());
        assert!(read(&["--quick", "packets"]).is_ok());
        assert!(read(&["ledger"]).is_ok());
        assert!(read(&["ledger", "--interfaces", "200"]).is_ok());
        assert!(read(&["suspend"]).is_ok());
        assert!(read(&["suspend", "--machines", "50"]).is_ok());
        for wrong in [
            &["everything"][..],
            &["--quick", "ledger"],
            &["ledger", "--interfaces"],
            &["ledger", "--interfaces", "many"],
            &["ledger", "--fast"],
            &["suspend", "--interfaces", "50"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
