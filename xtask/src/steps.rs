//! The steps of a verb: announced as they begin, timed, and listed at the end.

use std::time::{Duration, Instant};

/// What was done so far, and how long each took.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// Announces a step, does it, and remembers its time and whether it went well.
    pub(crate) fn run<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        eprintln!("\n==> {name}");
        let begin = Instant::now();
        let outcome = step();
        self.done
            .push((name.to_owned(), begin.elapsed(), outcome.is_ok()));
        outcome
    }

    /// The list, where there is more than one.
    pub(crate) fn print(&self) {
        if self.done.len() < 2 {
            return;
        }
        eprintln!();
        for (name, time, well) in &self.done {
            let word = if *well { "ok" } else { "FAILED" };
            eprintln!("{word:>8}  {:>7.1} s  {name}", time.as_secs_f64());
        }
    }
}
