//! Running cargo and other programs, and reading the little of cargo's JSON that we need.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
};

/// The cargo that started us, else the one in the path.
pub(crate) fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Every crate that builds for this machine. Always the same selection: another would unify
/// the features of the dependencies differently and build them all again.
pub(crate) const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "meter-ebpf"];

/// Runs to the end with the terminal as it is.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} ended with {status}", shown(command)))
    }
}

/// Runs to the end and hands back what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{} ended with {}", shown(command), output.status))
    }
}

/// Whether a program is there and answers.
pub(crate) fn answers(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Why a program could not even be started.
pub(crate) fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!(
        "cannot start `{}`: {error}; is it installed and in the path?",
        command.get_program().to_string_lossy()
    )
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    format!("`{}`", words.join(" "))
}

/// A toolchain component and a command that answers where it is installed.
pub(crate) struct Component {
    /// As rustup names it.
    pub(crate) name: &'static str,
    /// What only it makes possible: a cargo subcommand.
    pub(crate) subcommand: &'static str,
}

/// Adds a component where it is missing. `rust-toolchain.toml` does not list it, because
/// rustup would then fetch it before any command at all, also where nobody needs it.
pub(crate) fn need(component: &Component) -> Result<(), String> {
    if answers(Command::new(program()).args([component.subcommand, "--version"])) {
        return Ok(());
    }
    run(Command::new("rustup").args(["component", "add", component.name])).map_err(|problem| {
        format!(
            "the toolchain has no {name} and rustup could not add it: {problem}. Add it with \
             `rustup component add {name}`, or install your distribution's package of it",
            name = component.name
        )
    })
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// Of which package.
    pub(crate) package: PathBuf,
    /// The target's name: `kernel` for `tests/kernel.rs`.
    pub(crate) target: String,
    /// `src/lib.rs`, `tests/kernel.rs`: within the package.
    pub(crate) source: String,
    /// Where it was built.
    pub(crate) executable: PathBuf,
}

impl TestProgram {
    /// Reads one line of `cargo test --no-run --message-format json`; none where the line is
    /// not about a test program.
    pub(crate) fn read(line: &str) -> Option<Self> {
        if !is_test(line)? {
            return None;
        }
        let target = &line[line.find(r#""target":{"#)?..];
        let package = PathBuf::from(field(line, "manifest_path")?)
            .parent()?
            .to_owned();
        let source = PathBuf::from(field(target, "src_path")?);
        Some(Self {
            target: field(target, "name")?,
            source: source
                .strip_prefix(&package)
                .unwrap_or(&source)
                .display()
                .to_string(),
            executable: PathBuf::from(field(line, "executable")?),
            package,
        })
    }
}

/// The path of a program of this name, if the line is about it and it is no test program.
pub(crate) fn program_in(line: &str, name: &str) -> Option<PathBuf> {
    let target = &line[line.find(r#""target":{"kind":["bin"]"#)?..];
    (!is_test(line)? && field(target, "name")? == name)
        .then(|| field(line, "executable"))?
        .map(PathBuf::from)
}

/// Whether a line about something built is about a test program. The target, too, has a
/// `test` (whether it has any); the profile's is what counts.
fn is_test(line: &str) -> Option<bool> {
    let profile = &line[line.find(r#""profile":{"#)?..];
    Some(profile[..profile.find('}')?].ends_with(r#""test":true"#))
}

/// The first string field of this name in a piece of cargo's JSON, which is written without
/// spaces. Enough for names and paths; no parser, so that xtask needs no dependency.
pub(crate) fn field(json: &str, name: &str) -> Option<String> {
    let key = format!("\"{name}\":\"");
    let mut rest = json[json.find(&key)? + key.len()..].chars();
    let mut value = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(value),
            '\\' => value.push(rest.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_whole_and_unescaped() {
        let json = r#"{"a":"x","target_directory":"/tmp/odd \"name\\","z":"y"}"#;
        assert_eq!(
            field(json, "target_directory").as_deref(),
            Some(r#"/tmp/odd "name\"#)
        );
        assert_eq!(field(json, "absent"), None);
        assert_eq!(field(r#"{"a":"cut"#, "a"), None);
    }

    #[test]
    fn a_test_program_is_told_from_what_is_only_built() {
        let line = |test: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///w/d#meter-daemon@0.1.0","manifest_path":"/w/d/Cargo.toml","target":{{"kind":["test"],"crate_types":["bin"],"name":"kernel","src_path":"/w/d/tests/kernel.rs","edition":"2024","doc":false,"doctest":false,"test":true}},"profile":{{"opt_level":"0","debuginfo":1,"debug_assertions":true,"overflow_checks":true,"test":{test}}},"features":[],"filenames":["/w/t/kernel-1"],"executable":"/w/t/kernel-1","fresh":true}}"#
            )
        };
        assert_eq!(
            TestProgram::read(&line("true")),
            Some(TestProgram {
                package: "/w/d".into(),
                target: "kernel".to_owned(),
                source: "tests/kernel.rs".to_owned(),
                executable: "/w/t/kernel-1".into(),
            })
        );
        assert_eq!(TestProgram::read(&line("false")), None);
        assert_eq!(TestProgram::read(r#"{"reason":"build-finished"}"#), None);
    }
}
