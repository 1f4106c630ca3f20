//! Figures: what it costs, against its targets. A figure that misses its target is told and
//! fails nothing; what must hold whatever the machine does.

mod ledger;

use crate::{project::Project, steps::Steps};

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The ledger of a full node.
    Ledger(ledger::Options),
}

impl Subject {
    /// Reads `ledger [--interfaces N]`.
    pub(crate) fn read(arguments: &[&str]) -> Result<Self, String> {
        match arguments.split_first() {
            Some((&"ledger", rest)) => ledger::Options::read(rest).map(Self::Ledger),
            Some((other, _)) => Err(format!("`bench` does not measure `{other}`")),
            None => Err("`bench` takes what to measure: `ledger`".to_owned()),
        }
    }
}

pub(crate) fn run(project: &Project, steps: &mut Steps, subject: &Subject) -> Result<(), String> {
    match subject {
        Subject::Ledger(options) => ledger::run(project, steps, options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_has_to_be_named() {
        let read = |words: &[&str]| Subject::read(words);
        assert!(read(&["ledger"]).is_ok());
        assert!(read(&["ledger", "--interfaces", "200"]).is_ok());
        for wrong in [
            &[][..],
            &["everything"],
            &["ledger", "--interfaces"],
            &["ledger", "--interfaces", "many"],
            &["ledger", "--fast"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
