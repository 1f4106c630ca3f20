//! What the daemon counts of its own doings, for `/metrics` and so that a lasting fault is
//! logged once and its end once, not every minute.

use std::collections::BTreeSet;

use crate::api::metrics::Durations;

/// Since the daemon started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counter_restarts: u64,
    pub(crate) enforcement_failures: u64,
    pub(crate) drift_repairs: u64,
    pub(crate) polls: Durations,
    ledger_down: bool,
    /// How the last round failed.
    round: Option<String>,
    said: BTreeSet<String>,
}

impl Tally {
    /// True the first time in a row.
    pub(crate) fn ledger_failed(&mut self) -> bool {
        !std::mem::replace(&mut self.ledger_down, true)
    }

    /// True the first time after failures.
    pub(crate) fn ledger_recovered(&mut self) -> bool {
        std::mem::replace(&mut self.ledger_down, false)
    }

    /// True when this is another failure of the round than the one before.
    pub(crate) fn round_failed(&mut self, failure: String) -> bool {
        self.round.replace(failure.clone()) != Some(failure)
    }

    /// True the first time after failures.
    pub(crate) fn round_recovered(&mut self) -> bool {
        self.round.take().is_some()
    }

    /// True the first time; then not again until [`Tally::say_again`].
    pub(crate) fn say_once(&mut self, what: String) -> bool {
        self.said.insert(what)
    }

    /// It is over: should it happen again, it is said again.
    pub(crate) fn say_again(&mut self, what: &str) {
        self.said.remove(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_fault_is_said_once_and_said_again_when_it_comes_back() {
        let mut tally = Tally::default();
        assert!(tally.round_failed("no memory".into()));
        assert!(!tally.round_failed("no memory".into()));
        assert!(tally.round_failed("no permission".into()));
        assert!(tally.round_recovered());
        assert!(!tally.round_recovered());
        assert!(tally.round_failed("no permission".into()));
    }
}
