//! What a simulation met with, so that it can not stop covering something unnoticed.

use std::{collections::BTreeMap, fmt};

#[derive(Debug, Default)]
pub(super) struct Met(BTreeMap<&'static str, usize>);

impl Met {
    pub(super) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn add(&mut self, what: &'static str, times: usize) {
        *self.0.entry(what).or_default() += times;
    }

    pub(super) fn join(&mut self, other: Self) {
        for (what, times) in other.0 {
            self.add(what, times);
        }
    }

    /// Of what was to be met with, all that was met with less often than it should be.
    pub(super) fn missing(&self, least: &[(&'static str, usize)]) -> Vec<String> {
        let times = |what| self.0.get(what).copied().unwrap_or(0);
        let rare = least.iter().filter(|(what, least)| times(what) < *least);
        rare.map(|(what, least)| format!("{what}: {} of {least}", times(what)))
            .collect()
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(what, times)| writeln!(f, "{times:>8} {what}"))
    }
}
