//! Figures: what it costs, against its targets. A figure that misses its target is told and
//! fails nothing; what must hold whatever the machine does.

mod ledger;
mod traffic;

use crate::{cargo, project::Project, steps::Steps};

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Packets, beside what others count with.
    Traffic(traffic::Options),
    /// The ledger of a full node.
    Ledger(ledger::Options),
}

impl Subject {
    /// Reads `[--quick] [PART]...` or `ledger [--interfaces N]`.
    pub(crate) fn read(arguments: &[&str]) -> Result<Self, String> {
        match arguments.split_first() {
            Some((&"ledger", rest)) => ledger::Options::read(rest).map(Self::Ledger),
            _ => traffic::Options::read(arguments).map(Self::Traffic),
        }
    }
}

pub(crate) fn run(project: &Project, steps: &mut Steps, subject: &Subject) -> Result<(), String> {
    match subject {
        Subject::Traffic(options) => traffic::run(project, steps, options),
        Subject::Ledger(options) => ledger::run(project, steps, options),
    }
}

/// A measurement is an example program of meter-daemon, built for release.
fn build_measurement(project: &Project, steps: &mut Steps, name: &str) -> Result<(), String> {
    steps.run("build the measurement", || {
        let mut command = project.cargo();
        command.args(["build", "--release", "--package", "meter-daemon"]);
        cargo::run(command.args(["--example", name]))
    })
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
        for wrong in [
            &["everything"][..],
            &["--quick", "ledger"],
            &["ledger", "--interfaces"],
            &["ledger", "--interfaces", "many"],
            &["ledger", "--fast"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
