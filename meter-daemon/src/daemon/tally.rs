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

    /// True the first time; then not again until [`Tally::say_again`].
    pub(crate) fn say_once(&mut self, what: String) -> bool {
        self.said.insert(what)
    }

    /// It is over: should it happen again, it is said again.
    pub(crate) fn say_again(&mut self, what: &str) {
        self.said.remove(what);
    }
}
