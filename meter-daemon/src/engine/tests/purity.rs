//! The engine reads no clock, environment, file or random number, and says nothing itself.

use std::path::Path;

/// What would make a step depend on more than its arguments, or do more than return.
const IMPURE: &[&str] = &[
    "std::time",
    "SystemTime",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "TimeZone::system",
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "std::io",
    "HashMap",
    "HashSet",
    "thread_rng",
    "rand::",
    "tokio",
    "tracing",
    "println!",
    "eprintln!",
    "print!",
    "dbg!",
    "static mut",
    "thread_local!",
    "crate::config",
    "crate::ledger",
    "crate::host",
    "crate::delivery",
    "crate::api",
    "crate::daemon",
    "crate::cli",
];

#[test]
fn the_engine_is_pure_and_knows_nobody() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE {
                assert!(
                    !code.contains(word),
                    "{}:{}: the engine must not use `{word}`: {line}",
                    path.display(),
                    number + 1,
                );
            }
        }
    }
    assert!(seen > 20, "only {seen} files found in {}", folder.display());
}
