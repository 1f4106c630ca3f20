//! What is no TOML, and what is still to be believed of a file that has such places.

use std::ops::Range;

use toml::de::Error;

use super::problem::{Place, Problems};
use crate::engine::quantity::quoted;

/// Notes what the parser stumbled over, beside the problems of what it could still read.
pub(super) fn note(problems: &Problems, file: usize, text: &str, errors: &[Error]) {
    drop_doubtful(problems, errors);
    for error in errors {
        let place = Place {
            file,
            span: error.span().unwrap_or(0..0),
        };
        // What is wrong with the string itself says how to write it, quotes and all.
        if !(is_unquoted(error) && problems.is_noted_at(&place)) {
            note_one(problems, place, text, error);
        }
    }
}

/// After a syntax error the parser guesses; problems that may be born of a guess are not told.
/// A string without quotes is no guess.
fn drop_doubtful(problems: &Problems, errors: &[Error]) {
    let structural = |error: &&Error| !is_unquoted(error) && !is_double(error);
    let spans = |keep: &dyn Fn(&&Error) -> bool| -> Vec<Range<usize>> {
        errors.iter().filter(keep).filter_map(Error::span).collect()
    };
    let certain_until = spans(&structural).iter().map(|span| span.start).min();
    let doubtful = spans(&|error| !is_unquoted(error));
    problems.retain(|problem| {
        let own = &problem.place.span;
        let touched = doubtful
            .iter()
            .any(|span| span.start <= own.end && own.start <= span.end);
        let certain = certain_until.is_none_or(|until| own.start < until);
        !touched && certain && (!problem.absence || errors.is_empty())
    });
}

fn is_unquoted(error: &Error) -> bool {
    error.message().starts_with("string values must be quoted")
}

fn is_double(error: &Error) -> bool {
    error.message().starts_with("duplicate key")
}

fn note_one(problems: &Problems, mut place: Place, text: &str, error: &Error) {
    let span = place.span.clone();
    let found = text.get(span.clone()).unwrap_or_default();
    // An empty place at the start would stand for the whole file.
    place.span.end = span.end.max(1);
    if is_double(error) {
        problems.error(
            &place,
            format!("{} is there twice", quoted(found)),
            "remove one of them",
        );
        return;
    }
    if is_unquoted(error) {
        let line = text
            .get(..span.start)
            .and_then(|before| before.lines().last());
        let before = line.unwrap_or_default().trim_start();
        let before = if before.ends_with(['=', ' ']) {
            before
        } else {
            ""
        };
        let help = format!("write: {before}\"{found}\"");
        problems.error(&place, format!("{} needs quotes", quoted(found)), help);
        return;
    }
    let (message, expected) = error.message().split_once(", expected ").unwrap_or((
        error.message(),
        "something else here; each line is `key = value`, `[table]` or `[[list]]`",
    ));
    problems.error(
        &place,
        format!("this is not TOML: {message}"),
        format!("write {expected}"),
    );
}
