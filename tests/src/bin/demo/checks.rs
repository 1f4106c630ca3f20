//! The figures that must hold, and the table at the end.

use crate::screen::{Paint, Screen};

/// One of them.
struct Check {
    what: String,
    expected: String,
    found: String,
    holds: bool,
}

/// All of them, in the order of the play.
#[derive(Default)]
pub(crate) struct Checks(Vec<Check>);

impl Checks {
    /// Notes one.
    pub(crate) fn note(&mut self, what: &str, expected: &str, found: &str, holds: bool) {
        self.0.push(Check {
            what: what.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
            holds,
        });
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many do not hold.
    pub(crate) fn failed(&self) -> usize {
        self.0.iter().filter(|check| !check.holds).count()
    }

    /// Notes that one figure is exactly the other.
    pub(crate) fn same<T: PartialEq + ToString>(&mut self, what: &str, expected: T, found: T) {
        let holds = expected == found;
        self.note(what, &expected.to_string(), &found.to_string(), holds);
    }

    /// Shows them.
    pub(crate) fn show(&self, screen: &mut Screen) {
        let width = |text: fn(&Check) -> &str| {
            self.0
                .iter()
                .map(|check| text(check).chars().count())
                .max()
                .unwrap_or(0)
        };
        let (first, second) = (width(|c| &c.what), width(|c| &c.expected).max(8));
        let head = format!(
            "  {:<first$}   {:<second$}   {}",
            "checked", "expected", "measured"
        );
        let head = screen.paint(Paint::Dim, &head);
        screen.plain(&head);
        for check in &self.0 {
            let (mark, paint) = if check.holds {
                ("✓", Paint::Green)
            } else {
                ("✗", Paint::Red)
            };
            let line = format!(
                "{} {:<first$}   {:<second$}   {}",
                screen.paint(paint, mark),
                check.what,
                check.expected,
                screen.paint(
                    if check.holds { Paint::Bold } else { Paint::Red },
                    &check.found
                ),
            );
            screen.plain(&line);
        }
    }
}
