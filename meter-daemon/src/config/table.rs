//! A TOML table read key by key: every value with its place, every problem noted and reading
//! gone on, every key that nobody asked for reported.
//!
//! serde would stop at the first error and lose the places inside flattened and untagged
//! values; a file with five mistakes should be mended in one go.

use std::{
    cell::RefCell,
    fmt::Write as _,
    ops::{Range, RangeInclusive},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::{Located, Place, Problems};
use crate::engine::quantity::{Wrong, quoted};

/// How a string becomes a value, and what to call it.
pub(super) struct Kind<T> {
    /// With its article: `a volume`.
    pub(super) what: &'static str,
    /// One that is right, without quotes.
    pub(super) example: &'static str,
    pub(super) parse: fn(&str) -> Result<T, Wrong>,
}

/// A table being read.
pub(super) struct Table<'t> {
    pub(super) problems: &'t Problems,
    /// The header, or the start of the file.
    pub(super) place: Place,
    /// What to call it in messages: `[price]`, `a plan`.
    title: &'static str,
    /// The keys of the file's top, to recognise one that slid under a header.
    top_keys: &'static [&'static str],
    entries: &'t DeTable<'t>,
    known: RefCell<Vec<&'static str>>,
}

impl<'t> Table<'t> {
    /// The whole of a file.
    pub(super) fn top(
        problems: &'t Problems,
        file: usize,
        title: &'static str,
        top_keys: &'static [&'static str],
        entries: &'t DeTable<'t>,
    ) -> Self {
        let place = Place { file, span: 0..0 };
        Self {
            problems,
            place,
            title,
            top_keys,
            entries,
            known: RefCell::default(),
        }
    }

    fn inner(&self, title: &'static str, span: Range<usize>, entries: &'t DeTable<'t>) -> Self {
        let place = Place {
            file: self.place.file,
            span,
        };
        let (problems, top_keys) = (self.problems, self.top_keys);
        Self {
            problems,
            place,
            title,
            top_keys,
            entries,
            known: RefCell::default(),
        }
    }

    /// The value of a key, which is thereby known.
    fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.borrow_mut().push(key);
        self.entries.get(key)
    }

    fn at(&self, value: &Spanned<DeValue<'_>>) -> Place {
        Place {
            file: self.place.file,
            span: value.span(),
        }
    }

    /// Whether a key is there, readable or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether a key's value is a list of nothing.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        let list = self
            .entries
            .get(key)
            .and_then(|value| value.get_ref().as_array());
        list.is_some_and(|list| list.is_empty())
    }

    /// Whether a key's value is a word, for keys that take a word or a number.
    pub(super) fn is_word(&self, key: &str) -> bool {
        let text = self
            .entries
            .get(key)
            .and_then(|value| value.get_ref().as_str());
        text.is_some_and(|text| text.trim().parse::<i64>().is_err())
    }

    /// Where a key's value stands; the table's own place where it is absent.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.entries
            .get(key)
            .map_or_else(|| self.place.clone(), |value| self.at(value))
    }

    /// A string of some kind.
    pub(super) fn read<T>(&self, key: &'static str, kind: &Kind<T>) -> Option<Located<T>> {
        let value = self.value(key)?;
        self.parse(Some(key), value, kind)
    }

    /// As [`Self::read`], of a key that must be there.
    pub(super) fn require<T>(&self, key: &'static str, kind: &Kind<T>) -> Option<Located<T>> {
        if !self.has(key) {
            self.problems.absent(
                &self.place,
                format!("{} has no `{key}`", self.title),
                format!("write: {key} = {}", in_quotes(kind.example)),
            );
        }
        self.read(key, kind)
    }

    /// A list of strings of one kind; empty where the key is absent.
    pub(super) fn list<T>(&self, key: &'static str, kind: &Kind<T>) -> Vec<Located<T>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(list) = value.get_ref().as_array() else {
            let shown = match value.get_ref() {
                DeValue::String(text) => in_quotes(text),
                _ => in_quotes(kind.example),
            };
            self.wrong_type(key, value, "a list", &format!("[{shown}]"));
            return Vec::new();
        };
        list.iter()
            .filter_map(|value| self.parse(None, value, kind))
            .collect()
    }

    fn parse<T>(
        &self,
        key: Option<&str>,
        value: &Spanned<DeValue<'_>>,
        kind: &Kind<T>,
    ) -> Option<Located<T>> {
        let place = self.at(value);
        let help = |instead: &str| match key {
            Some(key) => format!("write: {key} = {}", in_quotes(instead)),
            None => format!("write: {}", in_quotes(instead)),
        };
        let bare = match value.get_ref() {
            DeValue::String(text) => match (kind.parse)(text) {
                Ok(value) => return Some(Located { value, place }),
                Err(wrong) => {
                    self.problems
                        .error(&place, wrong.message, help(&wrong.instead));
                    return None;
                }
            },
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            other => {
                let found = type_name(other);
                let message = format!("{} is written as a string, not {found}", kind.what);
                self.problems.error(&place, message, help(kind.example));
                return None;
            }
        };
        // A bare number: most often the quotes, or the quotes and the unit, were forgotten.
        match (kind.parse)(&bare) {
            Ok(_) => {
                let message = format!("{} is written in quotes", kind.what);
                self.problems.error(&place, message, help(&bare));
            }
            Err(wrong) => {
                let message = format!("{} is written in quotes, and {}", kind.what, wrong.message);
                self.problems.error(&place, message, help(&wrong.instead));
            }
        }
        None
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<Located<T>> {
        let value = self.value(key)?;
        let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        let Some(text) = value.get_ref().as_str() else {
            let example = in_quotes(names.first().copied().unwrap_or_default());
            self.wrong_type(key, value, "a word in quotes", &example);
            return None;
        };
        if let Some((_, value_of)) = words.iter().find(|(name, _)| *name == text) {
            return Some(Located {
                value: *value_of,
                place: self.at(value),
            });
        }
        let instead = nearest(text, &names)
            .or(names.first().copied())
            .unwrap_or_default();
        self.problems.error(
            &self.at(value),
            format!("`{key}` cannot be {}", quoted(text)),
            format!(
                "write: {key} = {} (it is one of {})",
                in_quotes(instead),
                names.join(", ")
            ),
        );
        None
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            let instead = match value.get_ref().as_str() {
                Some("no" | "off" | "false" | "never") => "false",
                _ => "true",
            };
            self.wrong_type(key, value, "true or false, without quotes", instead);
        }
        found
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.value(key)?;
        let (least, most) = (range.start(), range.end());
        let DeValue::Integer(found) = value.get_ref() else {
            let what = format!("a whole number from {least} to {most}, without quotes");
            let as_number = value
                .get_ref()
                .as_str()
                .and_then(|text| text.trim().parse().ok());
            let instead = as_number
                .filter(|number| range.contains(number))
                .unwrap_or(*least);
            self.wrong_type(key, value, &what, &instead.to_string());
            return None;
        };
        let number = i128::from_str_radix(found.as_str(), found.radix()).ok();
        let inside = number.and_then(|number| u32::try_from(number).ok());
        let inside = inside.filter(|number| range.contains(number));
        if inside.is_none() {
            let nearest = if number.is_some_and(|n| n < i128::from(*least)) {
                least
            } else {
                most
            };
            self.problems.error(
                &self.at(value),
                format!("`{key}` is a whole number from {least} to {most}"),
                format!("write: {key} = {nearest}"),
            );
        }
        inside
    }

    /// A table inside, inline or under its own header.
    pub(super) fn table(&self, key: &'static str, title: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Table(entries) => Some(self.inner(title, value.span(), entries)),
            DeValue::Array(_) => {
                let message = format!("there is one {title}, not a list of them");
                self.problems.error(
                    &self.at(value),
                    message,
                    format!("write one [{key}] header"),
                );
                None
            }
            _ => {
                self.wrong_type(key, value, "a table", "{ … }");
                None
            }
        }
    }

    /// The tables under `[[key]]` headers.
    pub(super) fn tables(&self, key: &'static str, title: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let help = format!("write [[{key}]] above each, in double brackets");
        match value.get_ref() {
            DeValue::Array(list) => list
                .iter()
                .filter_map(|value| match value.get_ref() {
                    DeValue::Table(entries) => Some(self.inner(title, value.span(), entries)),
                    other => {
                        let message = format!("{title} is a table, not {}", type_name(other));
                        self.problems.error(&self.at(value), message, &help);
                        None
                    }
                })
                .collect(),
            _ => {
                let message = format!("`{key}` is a list of tables: there may be several");
                self.problems.error(&self.at(value), message, help);
                Vec::new()
            }
        }
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, what: &str, instead: &str) {
        let found = type_name(value.get_ref());
        self.problems.error(
            &self.at(value),
            format!("`{key}` is {what}; this is {found}"),
            format!("write: {key} = {instead}"),
        );
    }

    /// Reports every key that nobody asked for. The last thing done with a table.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for key in self.entries.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let help = if let Some(meant) = nearest(name, &known) {
                format!("did you mean `{meant}`?")
            } else if self.top_keys.contains(&name) {
                format!("`{name}` belongs at the top of the file: move it above the first header")
            } else {
                let mut help = format!("remove it; {} knows ", self.title);
                for (n, key) in known.iter().enumerate() {
                    let _ = write!(help, "{}{key}", if n == 0 { "" } else { ", " });
                }
                help
            };
            let place = Place {
                file: self.place.file,
                span: key.span(),
            };
            self.problems.error(
                &place,
                format!("unknown key {} in {}", quoted(name), self.title),
                help,
            );
        }
    }
}

/// The candidate that somebody who wrote `word` most likely meant, if any is near enough.
pub(super) fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    // A key in snake or camel case is the right key in the wrong case.
    let plain = |text: &str| text.to_lowercase().replace(['_', ' '], "-");
    let word = plain(word);
    let bare = word.replace('-', "");
    candidates
        .iter()
        .map(|candidate| {
            let other = plain(candidate);
            let distance = match other.replace('-', "") == bare {
                true => 0,
                false => strsim::damerau_levenshtein(&word, &other),
            };
            (distance, *candidate)
        })
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// A text as TOML writes it: in single quotes where it has backslashes, as patterns do.
fn in_quotes(text: &str) -> String {
    if text.contains(['\\', '"']) {
        format!("'{text}'")
    } else {
        format!("\"{text}\"")
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
