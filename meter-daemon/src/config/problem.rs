//! What is wrong and where, gathered while files are read and compared.

use std::{cell::RefCell, ops::Range};

use super::diagnostic::Severity;

/// A place: which of the files read, and which bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) span: Range<usize>,
}

/// A value and where it stands, for checks that compare it with others later.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// One problem, before the files' texts are put beside it.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) help: String,
    /// That something is missing: not to be believed where part of the file was unreadable.
    pub(super) absence: bool,
}

/// Where problems gather. Shared by everything that reads.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn error(&self, at: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Error, at, message.into(), help.into(), false);
    }

    pub(super) fn warning(&self, at: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Warning, at, message.into(), help.into(), false);
    }

    pub(super) fn absent(&self, at: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Error, at, message.into(), help.into(), true);
    }

    fn note(&self, severity: Severity, at: &Place, message: String, help: String, absence: bool) {
        let place = at.clone();
        self.0.borrow_mut().push(Problem {
            severity,
            place,
            message,
            help,
            absence,
        });
    }

    pub(super) fn retain(&self, keep: impl FnMut(&Problem) -> bool) {
        self.0.borrow_mut().retain(keep);
    }

    pub(super) fn is_noted_at(&self, place: &Place) -> bool {
        self.0
            .borrow()
            .iter()
            .any(|problem| problem.place == *place)
    }

    /// Takes over another's problems.
    pub(super) fn absorb(&self, other: Self) {
        self.0.borrow_mut().extend(other.into_list());
    }

    pub(super) fn into_list(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}
