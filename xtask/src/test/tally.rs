//! What the test programs said of themselves, added up.

use std::{collections::BTreeMap, fmt, process::Command};

/// The figures of all programs so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Said what they need and this machine lacks, and passed by doing nothing more.
    needed: BTreeMap<String, u64>,
    programs: u64,
    /// What failed, by name, for the end.
    pub(crate) failures: Vec<String>,
    /// What tests say that they have shown, a line each.
    pub(crate) shown: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} ignored",
            self.passed.saturating_sub(self.needed.values().sum()),
            self.failed,
            self.ignored
        )?;
        for (what, tests) in &self.needed {
            match tests {
                1 => write!(formatter, ", 1 not tested as it needs {what}")?,
                more => write!(formatter, ", {more} not tested as they need {what}")?,
            }
        }
        write!(formatter, ", in {} test programs", self.programs)
    }
}

/// Runs a command, hands each line of its output on, and says whether it ended well.
type Watch = fn(&mut Command, &mut dyn FnMut(&str)) -> Result<bool, String>;

impl Tally {
    /// Runs a test program through `watch` and adds what it says.
    pub(super) fn program(
        &mut self,
        name: &str,
        command: &mut Command,
        watch: Watch,
    ) -> Result<(), String> {
        let mut listener = self.listen(name);
        let well = watch(command, &mut |line| self.heard(&mut listener, line))?;
        self.ended(listener, well);
        Ok(())
    }

    /// A test program begins to speak.
    pub(crate) fn listen(&self, name: &str) -> Listener {
        Listener {
            name: name.to_owned(),
            names: Names::default(),
            failed_before: self.failed,
        }
    }

    /// It said this.
    pub(crate) fn heard(&mut self, listener: &mut Listener, line: &str) {
        listener.names.read(line);
        if let Some(result) = line.strip_prefix("test result: ") {
            self.add(result);
        }
        if let Some(shown) = line.strip_prefix("shown: ") {
            self.shown.push(shown.to_owned());
        }
        // Package meter-tests' words, in `needs`.
        if let Some((what, place)) = line.strip_prefix("needs ").and_then(|l| l.split_once(": "))
            && place.contains(".rs:")
        {
            *self.needed.entry(what.to_owned()).or_default() += 1;
        }
    }

    /// It is over.
    pub(crate) fn ended(&mut self, listener: Listener, well: bool) {
        let Listener {
            name,
            names,
            failed_before,
        } = listener;
        self.programs += 1;
        self.failures
            .extend(names.0.into_iter().map(|test| format!("{name}: {test}")));
        if !well && self.failed == failed_before {
            // It did not live to count: a crash, an abort, a program that cannot start.
            self.failed += 1;
            self.failures
                .push(format!("{name}: ended before it had a result"));
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; …`
    fn add(&mut self, result: &str) {
        for piece in result.split(';') {
            let mut words = piece.split_whitespace().rev();
            let (Some(word), Some(Ok(figure))) =
                (words.next(), words.next().map(str::parse::<u64>))
            else {
                continue;
            };
            match word {
                "passed" => self.passed += figure,
                "failed" => self.failed += figure,
                "ignored" => self.ignored += figure,
                _ => {}
            }
        }
    }
}

/// What has been heard of one program so far.
pub(crate) struct Listener {
    name: String,
    names: Names,
    failed_before: u64,
}

/// The names under the last `failures:` of a program's output: the first such heading is
/// followed by what the failed tests wrote, the second by their names alone.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn read(&mut self, line: &str) {
        if line == "failures:" {
            self.0.clear();
        } else if let Some(name) = line.strip_prefix("    ")
            && !name.starts_with(' ')
        {
            self.0.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &'static str, well: bool) -> Tally {
        // A function pointer cannot capture: the text goes through the command.
        let watch: Watch = |command, each| {
            let text = command.get_program().to_string_lossy().into_owned();
            text.lines().for_each(each);
            Ok(command.get_args().next().is_none())
        };
        let mut tally = Tally::default();
        let mut command = Command::new(text);
        if !well {
            command.arg("badly");
        }
        tally.program("p", &mut command, watch).unwrap();
        tally
    }

    #[test]
    fn what_programs_say_is_added_up_with_and_without_colour() {
        let text = "shown: poll: killed at 3 instants\n\
                    test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
                    test result: \u{1b}[32mok\u{1b}(B\u{1b}[m. 12 passed; 0 failed; 0 ignored; \
                    0 measured; 2 filtered out; finished in 0.01s";
        let tally = tally(text, true);
        assert_eq!(
            tally.to_string(),
            "15 passed, 0 failed, 1 ignored, in 1 test programs"
        );
        assert_eq!(tally.failures, Vec::<String>::new());
        assert_eq!(tally.shown, ["poll: killed at 3 instants"]);
    }

    #[test]
    fn failed_tests_are_named_and_their_output_is_not_taken_for_names() {
        let text = "\
failures:

---- bytes::are_exact stdout ----
    left: 1

failures:
    bytes::are_exact
    polls::are_late

test result: FAILED. 5 passed; 2 failed; 0 ignored";
        let tally = tally(text, false);
        assert_eq!(
            tally.failures,
            ["p: bytes::are_exact", "p: polls::are_late"]
        );
        assert_eq!((tally.passed, tally.failed), (5, 2));
    }

    #[test]
    fn a_program_that_dies_without_a_result_has_failed() {
        let tally = tally("running 3 tests\n", false);
        assert_eq!(tally.failed, 1);
        assert_eq!(tally.failures.len(), 1);
    }
}
