//! What is typed, and what the daemon says to it.

use meter_tests::{Failure, Result, interrupt, meterd::sample};
use serde_json::Value;

use super::Stage;
use crate::screen::Paint;

impl Stage<'_> {
    /// Types a command that succeeds, and shows what it prints.
    pub(crate) fn type_command(&mut self, arguments: &[&str]) -> Result<String> {
        interrupt::check()?;
        self.screen.plain(&format!("  $ {}", typed(arguments)));
        let answer = self.meterd.text(arguments)?;
        for line in answer.lines() {
            self.screen.cut(&format!("  {line}"));
        }
        Ok(answer)
    }

    /// As [`Self::type_command`], of one that prints sentences, which are not cut.
    pub(crate) fn type_sentences(&mut self, arguments: &[&str]) -> Result<()> {
        self.screen.plain(&format!("  $ {}", typed(arguments)));
        for line in self.meterd.text(arguments)?.lines() {
            self.screen.sentence(line);
        }
        Ok(())
    }

    /// As [`Self::type_command`], of one that changes a machine and tells its events itself.
    pub(crate) fn type_change(&mut self, machine: &'static str, arguments: &[&str]) -> Result<()> {
        self.type_command(arguments)?;
        let events = self.meterd.events(machine)?.len();
        self.shown.insert(machine, events);
        Ok(())
    }

    /// Types a command that must be refused; returns why it is.
    pub(crate) fn type_refused(&mut self, arguments: &[&str]) -> Result<String> {
        self.screen.plain(&format!("  $ {}", typed(arguments)));
        let output = self.meterd.cli(arguments)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for line in text.lines() {
            self.screen.cut(&format!("  {line}"));
        }
        match output.status.success() {
            true => Err(Failure::new(format!(
                "{} was carried out",
                typed(arguments)
            ))),
            false => Ok(text),
        }
    }

    /// What `status` says its state is.
    pub(crate) fn state(&self, machine: &str) -> Result<String> {
        let status = self.meterd.status(machine)?;
        Ok(status["state"].as_str().unwrap_or_default().to_owned())
    }

    /// A machine's events of a kind, oldest first.
    pub(crate) fn events_of(&self, machine: &str, kind: &str) -> Result<Vec<Value>> {
        let mut events = self.meterd.events(machine)?;
        events.retain(|event| event["event"] == kind);
        Ok(events)
    }

    /// What the daemon has recorded of a machine since this was last called.
    pub(crate) fn show_events(&mut self, machine: &'static str) -> Result<()> {
        let events = self.meterd.events(machine)?;
        let seen = self.shown.insert(machine, events.len()).unwrap_or(0);
        if events.len() <= seen {
            return Ok(());
        }
        // The same, as sentences: time, machine, event, and what there is to say.
        let sentences = self.meterd.text(&["events", machine])?;
        for (event, line) in events.iter().zip(sentences.lines()).skip(seen) {
            let kind = event["event"].as_str().unwrap_or_default();
            let paint = match kind {
                "notice" | "flagged" | "invoiced" | "overdue" => Paint::Yellow,
                "throttled" | "capped" | "suspended" => Paint::Red,
                "restored" | "unflagged" | "paid" | "topped-up" => Paint::Green,
                _ => continue,
            };
            let (_, words) = line.split_once(kind).unwrap_or_default();
            // What acts and speaks says the same twice: once is enough here.
            let also = |other: &str| {
                words
                    .trim_start()
                    .starts_with(&format!("{machine} is {other}"))
            };
            let acts = ["throttled", "capped", "suspended", "no longer"];
            if kind == "notice" && acts.iter().any(|other| also(other)) {
                continue;
            }
            self.screen.said(kind, paint, words);
        }
        Ok(())
    }

    /// A sample of the metrics, after a fresh reading.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        self.meterd.json(&["status"])?;
        Ok(sample(&self.meterd.metrics(9750)?, name, labels))
    }
}

/// As a shell would want it.
fn typed(arguments: &[&str]) -> String {
    let word = |word: &&str| match (word.contains(' '), word.split_once('=')) {
        (false, _) => (*word).to_owned(),
        (true, Some((key, value))) => format!("{key}=\"{value}\""),
        (true, None) => format!("\"{word}\""),
    };
    let words: Vec<String> = arguments.iter().map(word).collect();
    format!("meterd {}", words.join(" "))
}
