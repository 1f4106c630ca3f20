//! What is wrong with a configuration, where, and what to write instead. All problems are
//! gathered and shown together: as rustc shows its own, or as JSON for programs.
//!
//! Knows text and places in it; nothing of what the configuration means.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};
use serde::Serialize;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, but a part of it can have no effect.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it stops the configuration from being taken.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// In which file.
    pub file: PathBuf,
    /// The offending bytes of that file's text; absent where the file itself is the problem.
    pub span: Option<Range<usize>>,
}

/// Every problem of a configuration, with the text it was found in, in order of file and
/// place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<(Diagnostic, Option<Arc<str>>)>,
}

/// A [`Diagnostic`] for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<'a> {
    severity: Severity,
    file: String,
    /// From 1; absent where the file itself is the problem.
    line: Option<usize>,
    /// In characters, from 1.
    column: Option<usize>,
    /// The offending text.
    text: Option<&'a str>,
    message: &'a str,
    help: &'a str,
}

impl Diagnostics {
    /// Adds a problem found in `text`. A place beyond the text is drawn back into it.
    pub(super) fn push(&mut self, mut diagnostic: Diagnostic, text: Option<Arc<str>>) {
        diagnostic.span = match (&text, diagnostic.span) {
            (Some(text), Some(span)) => Some(on_characters(text, span)),
            _ => None,
        };
        self.list.push((diagnostic, text));
    }

    /// Puts the problems in the order in which a person would meet them.
    pub(super) fn sort(&mut self) {
        let key = |diagnostic: &Diagnostic| {
            let start = diagnostic.span.as_ref().map(|span| (span.start, span.end));
            (
                diagnostic.file.clone(),
                start,
                diagnostic.severity,
                diagnostic.message.clone(),
            )
        };
        self.list.sort_by_key(|(diagnostic, _)| key(diagnostic));
        self.list.dedup();
    }

    /// Only what stops the configuration, and only what does not.
    pub(super) fn split(self) -> (Self, Self) {
        let is_error = |(diagnostic, _): &(Diagnostic, _)| diagnostic.severity == Severity::Error;
        let (errors, warnings) = self.list.into_iter().partition(is_error);
        (Self { list: errors }, Self { list: warnings })
    }

    /// Adds another's problems.
    pub(super) fn append(&mut self, mut other: Self) {
        self.list.append(&mut other.list);
    }

    /// Every problem.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter().map(|(diagnostic, _)| diagnostic)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// How many of them stop the configuration from being taken.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .count()
    }

    /// As people read them: each with file, line, column, the offending text underlined,
    /// and what to write instead. Coloured for a terminal, or plain.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        let renderer = match colour {
            Colour::Terminal => Renderer::styled().decor_style(DecorStyle::Ascii),
            Colour::Plain => Renderer::plain().decor_style(DecorStyle::Ascii),
        };
        let shown: Vec<String> = self
            .list
            .iter()
            .map(|(problem, text)| render(&renderer, problem, text))
            .collect();
        shown.join("\n\n")
    }

    /// As programs read them.
    #[must_use]
    pub fn listed(&self) -> Vec<Listed<'_>> {
        self.list
            .iter()
            .map(|(diagnostic, text)| {
                let place = diagnostic.span.clone().zip(text.as_deref());
                let position = place
                    .as_ref()
                    .map(|(span, text)| line_and_column(text, span.start));
                Listed {
                    severity: diagnostic.severity,
                    file: diagnostic.file.display().to_string(),
                    line: position.map(|(line, _)| line),
                    column: position.map(|(_, column)| column),
                    text: place.and_then(|(span, text)| text.get(span)),
                    message: &diagnostic.message,
                    help: &diagnostic.help,
                }
            })
            .collect()
    }
}

/// Whether escape sequences for colour are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// A terminal shows them.
    Terminal,
    /// A file, a pipe or a journal keeps them: none.
    Plain,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colour::Plain))
    }
}

impl std::error::Error for Diagnostics {}

fn render(renderer: &Renderer, diagnostic: &Diagnostic, text: &Option<Arc<str>>) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&diagnostic.message);
    let help = Level::HELP.message(&diagnostic.help);
    let path = diagnostic.file.display().to_string();
    let group = match (&diagnostic.span, text) {
        (Some(span), Some(text)) => title
            .element(
                Snippet::source(&**text)
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(span.clone())),
            )
            .element(help),
        _ => title
            .element(annotate_snippets::Origin::path(path))
            .element(help),
    };
    renderer.render(&[group])
}

/// Line and column of a byte of a text, both from 1, the column in characters.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (
        line,
        before
            .get(line_start..)
            .map_or(0, |part| part.chars().count())
            + 1,
    )
}

/// The span within the text and on the borders of its characters, which a renderer needs.
fn on_characters(text: &str, span: Range<usize>) -> Range<usize> {
    let border = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (border(span.start), border(span.end));
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(span: Option<Range<usize>>) -> Diagnostics {
        let mut all = Diagnostics::default();
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            message: "no such thing".into(),
            help: "write another".into(),
            file: "a.toml".into(),
            span,
        };
        all.push(diagnostic, Some("# größe\nx = \"wörld\"\n".into()));
        all
    }

    #[test]
    fn the_list_for_programs_has_line_column_in_characters_and_the_offending_text() {
        let all = found(Some(14..22));
        let listed = serde_json::to_value(all.listed()).unwrap();
        assert_eq!(
            listed,
            serde_json::json!([{
                "severity": "error", "file": "a.toml", "line": 2, "column": 5,
                "text": "\"wörld\"", "message": "no such thing", "help": "write another",
            }])
        );
    }

    #[test]
    fn a_place_within_a_character_or_beyond_the_text_is_still_shown() {
        for (start, end) in [(0, usize::MAX), (6, 7), (7, 6), (500, 600)] {
            let shown = found(Some(Range { start, end })).to_string();
            assert!(shown.contains("a.toml:"), "{shown}");
        }
    }

    #[test]
    fn colour_is_written_for_terminals_only() {
        assert!(
            found(Some(14..22))
                .render(Colour::Terminal)
                .contains('\u{1b}')
        );
        assert!(!found(Some(14..22)).render(Colour::Plain).contains('\u{1b}'));
    }
}
