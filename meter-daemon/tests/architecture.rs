//! Keeps the shape that docs/architecture.md promises: who may import whom, who alone may
//! touch what, and files that a reader can hold in mind. It reads source text; it knows the
//! names of the parts and nothing of their insides.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The parts, and which others each may name. `daemon` joins them all and `cli` is how
/// people reach them, so these two may name every part and nobody may name them.
const MAY_NAME: [(&str, &[&str]); 6] = [
    ("engine", &[]),
    ("config", &["engine"]),
    ("ledger", &["engine"]),
    ("host", &["engine", "ledger"]),
    ("delivery", &["engine", "ledger"]),
    ("api", &["engine", "ledger"]),
];

const JOINERS: [&str; 2] = ["daemon", "cli"];

/// What only some parts may name, with the reason.
const ONLY: [(&[&str], &[&str], &str); 5] = [
    (
        &[
            "aya",
            "aya_log",
            "libc",
            "meter_common",
            "netlink_packet_core",
        ],
        &["host"],
        "host alone knows the kernel",
    ),
    (
        &["netlink_packet_route", "netlink_sys", "rtnetlink", "unsafe"],
        &["host"],
        "host alone knows the kernel",
    ),
    (
        &["rusqlite"],
        &["ledger"],
        "another store must be able to stand beside SQLite",
    ),
    (
        &["annotate_snippets", "serde_spanned", "toml"],
        &["config"],
        "the configuration's text is read in one place",
    ),
    (
        &["clap", "comfy_table"],
        &["cli"],
        "the terminal is the command line's",
    ),
];

/// The one test that may: SQLite's file systems are C, and the power has to fail beneath one.
const UNSAFE_IN_TESTS: &str = "ledger/tests/power/vfs.rs";

/// What would make the engine answer differently to the same question, or do more than
/// answer. clippy.toml bans the clock by method; this bans the ways to it, too.
const IMPURE: [&str; 21] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "rand",
    "rustix",
    "tokio",
    "tracing",
    "println",
    "eprintln",
    "dbg",
    "Timestamp::now",
    "Zoned::now",
    "thread_local",
];

/// Above this a file is more than one subject. Tests do not count: a table may be long.
const LONGEST: usize = 600;

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources(&daemon_sources()) {
        let Some((_, may)) = MAY_NAME.iter().find(|(part, _)| *part == source.part) else {
            continue;
        };
        for (line, named) in parts_named(&source.code) {
            let a_part = MAY_NAME.iter().any(|(part, _)| *part == named)
                || JOINERS.contains(&named.as_str());
            if a_part && named != source.part && !may.contains(&named.as_str()) {
                wrong.push(format!(
                    "{}:{line}: {} must not know {named}",
                    source.path.display(),
                    source.part
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kernel_the_store_the_configuration_and_the_terminal_each_have_one_owner() {
    let mut wrong = Vec::new();
    for source in sources(&daemon_sources()) {
        for (words, owners, reason) in ONLY {
            if owners.contains(&source.part.as_str()) || JOINERS.contains(&source.part.as_str()) {
                continue;
            }
            wrong.extend(words.iter().filter_map(|word| {
                let line = line_of(&source.code, word)?;
                if *word == "unsafe" && source.path.ends_with(UNSAFE_IN_TESTS) {
                    return None;
                }
                Some(format!(
                    "{}:{line}: {word}: {reason}",
                    source.path.display()
                ))
            }));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_engine_reads_no_clock_file_or_environment_draws_no_lots_and_logs_nothing() {
    let mut wrong = Vec::new();
    for source in sources(&daemon_sources()) {
        let a_test = source.path.iter().any(|folder| folder == "tests");
        if source.part != "engine" || a_test {
            continue;
        }
        let code = without_tests(&source.code);
        wrong.extend(IMPURE.iter().filter_map(|word| {
            let line = line_of(code, word)?;
            Some(format!("{}:{line}: {word}", source.path.display()))
        }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is_for_and_is_one_subject() {
    let mut wrong = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in [
        "meter-common",
        "meter-daemon",
        "meter-ebpf",
        "tests",
        "xtask",
    ] {
        files_below(&root.join(folder), &mut files);
    }
    assert!(files.len() > 10, "the walk found the sources: {files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not open with `//!`", file.display()));
        }
        let within = file.strip_prefix(root).unwrap();
        let tests = within
            .iter()
            .skip(1)
            .any(|name| name == "tests" || name == "tests.rs");
        let lines = without_tests(&text).lines().count();
        if lines > LONGEST && !tests {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file of the daemon, its comments and texts blanked out.
struct Source {
    path: PathBuf,
    /// The part that it belongs to: `engine` for `src/engine/plan.rs`.
    part: String,
    code: String,
}

fn daemon_sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    files_below(folder, &mut files);
    assert!(!files.is_empty(), "no sources in {}", folder.display());
    files
        .into_iter()
        .map(|path| {
            let within = path.strip_prefix(folder).unwrap();
            let first = within.iter().next().unwrap().to_str().unwrap();
            Source {
                part: first.strip_suffix(".rs").unwrap_or(first).to_owned(),
                code: blanked(&fs::read_to_string(&path).unwrap()),
                path,
            }
        })
        .collect()
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Everything before a test module at the end of the file.
fn without_tests(text: &str) -> &str {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    &text[..end]
}

/// The line on which a path or word first stands as whole words.
fn line_of(code: &str, word: &str) -> Option<usize> {
    let part_of_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let (start, _) = code.match_indices(word).find(|(start, _)| {
        !code[..*start].ends_with(part_of_word)
            && !code[start + word.len()..].starts_with(part_of_word)
    })?;
    Some(line_at(code, start))
}

fn line_at(code: &str, position: usize) -> usize {
    code[..position].matches('\n').count() + 1
}

/// Every module that `crate::…` (or a `super::super::…` that may reach as far) names first,
/// with its line, also where several are named in braces.
fn parts_named(code: &str) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    for root in ["crate::", "super::super::"] {
        for (position, _) in code.match_indices(root) {
            for name in heads(&code[position + root.len()..]) {
                named.push((line_at(code, position), name));
            }
        }
    }
    named
}

/// The first names of a use tree: `a::b` has one, `{a::{b, c}, d}` two.
fn heads(tree: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect()
    };
    let tree = tree.trim_start();
    let Some(inside) = tree.strip_prefix('{') else {
        return vec![name(tree)];
    };
    let mut found = vec![name(inside)];
    let mut depth = 0_u32;
    for (position, letter) in inside.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => found.push(name(&inside[position + 1..])),
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The code with comments, texts and characters blanked out; lines stay where they are.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => {
                at + text[at..].find('\n').unwrap_or(text.len() - at)
            }
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(text, at),
            b'r' if !ends_in_word(&code) && raw_text_end(text, at).is_some() => {
                raw_text_end(text, at).unwrap()
            }
            b'"' => quoted_end(bytes, at, b'"'),
            b'\'' if is_character(text, at) => quoted_end(bytes, at, b'\''),
            _ => {
                let letter = text[at..].chars().next().unwrap();
                code.push(letter);
                at += letter.len_utf8();
                continue;
            }
        };
        code.push(' ');
        code.extend(text[at..end].chars().filter(|letter| *letter == '\n'));
        at = end;
    }
    code
}

fn ends_in_word(code: &str) -> bool {
    code.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_')
}

fn block_comment_end(text: &str, start: usize) -> usize {
    let mut depth = 0_u32;
    let mut at = start;
    while at < text.len() {
        if text.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Where `r"…"` or `r#"…"#` ends, if it is one.
fn raw_text_end(text: &str, start: usize) -> Option<usize> {
    let rest = &text[start + 1..];
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    let inside = rest[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&close)?;
    Some(start + 1 + hashes + 1 + length + close.len())
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// `'x'` and `'\n'` are characters, `'static` is a lifetime.
fn is_character(text: &str, start: usize) -> bool {
    let mut letters = text[start + 1..].chars();
    match letters.next() {
        Some('\\') => true,
        Some(_) => letters.next() == Some('\''),
        None => false,
    }
}

#[test]
fn imports_are_found_in_every_way_that_they_can_be_written() {
    let code = blanked(
        "use crate::{engine::{units::Bytes, plan}, ledger::Batch,\n    host};\n\
         /// See [`crate::config`].\n\
         fn f<'a>(x: &'a crate::api::Ask) -> char { g(\"crate::daemon\", r#\"crate::cli\"#); '\"' }\n\
         use super::super::delivery::Outbox;\n",
    );
    let named = parts_named(&code);
    let names: Vec<_> = named.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["engine", "ledger", "host", "api", "delivery"]);
    assert_eq!(named[3].0, 4, "the line is the one in the file");
}

#[test]
fn a_word_is_found_whole_and_outside_comments_and_texts_only() {
    let code = blanked("// tokio\nlet tokio_like = \"tokio\"; /* tokio\n */ let a = my_tokio;\n");
    assert_eq!(line_of(&code, "tokio"), None, "{code}");
    assert_eq!(line_of("a\nuse tokio::time;", "tokio"), Some(2));
}
