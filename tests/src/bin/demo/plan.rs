//! A shipped plan, with figures that fit into a minute. What is changed is listed and shown,
//! each change with its reason; whatever is not listed is the shipped file's, rules and all.

use meter_tests::{Failure, Result};

use crate::screen::{Paint, Screen};

/// A file of `config/plans`, and what a story changes in it.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) shipped: &'static str,
    pub(crate) changes: &'static [Change],
}

/// One figure.
pub(crate) struct Change {
    /// As the shipped file has it, in one place.
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) why: &'static str,
}

impl Plan {
    /// The changed text. Fails where the shipped file has not, or not only once, what is to
    /// be changed: then the story is about another plan than it says.
    pub(crate) fn derived(&self) -> Result<String> {
        let mut text = self.shipped.to_owned();
        for change in self.changes {
            let found = text.matches(change.from).count();
            if found != 1 {
                return Err(Failure::new(format!(
                    "config/plans/{}.toml has `{}` {found} times, not once: mend the list of \
                     changes in the story {0}",
                    self.name, change.from
                )));
            }
            text = text.replace(change.from, change.to);
        }
        Ok(text)
    }

    /// Shows what is changed.
    pub(crate) fn show(&self, screen: &mut Screen) {
        if self.changes.is_empty() {
            screen.plain(&format!(
                "  The plan is config/plans/{}.toml as it is.",
                self.name
            ));
            return;
        }
        screen.plain(&format!(
            "  The plan is config/plans/{}.toml, with figures that fit into a minute:",
            self.name
        ));
        for change in self.changes {
            let from = screen.paint(Paint::Red, &format!("- {}", change.from));
            let to = screen.paint(Paint::Green, &format!("+ {}", change.to));
            let why = screen.paint(Paint::Dim, change.why);
            let short = change.from.chars().count() + change.to.chars().count() < 40;
            screen.plain(&match short {
                true => format!("  {from}  {to}   {why}"),
                false => format!("  {from}\n  {to}\n      {why}"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_no_longer_matches_is_refused() {
        let plan = |shipped| Plan {
            name: "small",
            shipped,
            changes: &[Change {
                from: "24h",
                to: "10s",
                why: "",
            }],
        };
        assert_eq!(plan("after = 24h").derived(), Ok("after = 10s".to_owned()));
        assert!(plan("after = 48h").derived().is_err());
        assert!(plan("24h 24h").derived().is_err());
    }

    #[test]
    fn every_change_of_every_story_matches_the_shipped_plan() {
        for story in crate::stories::ALL {
            story.plan.derived().unwrap();
        }
    }
}
