//! `meterd check`: is the configuration good? All problems at once, for people or programs.

use std::{
    io::{self, IsTerminal as _, Write},
    path::Path,
};

use crate::config::{Colour, Config, Diagnostics};

/// sysexits' EX_CONFIG.
const EX_CONFIG: u8 = 78;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Sentences to standard output, problems to standard error.
    Text,
    /// One JSON object to standard output, good or not.
    Json,
}

/// Checks the configuration at `path` and says so. The answer is the exit code.
///
/// # Errors
/// When standard output or standard error cannot be written to.
pub fn run(path: &Path, format: Format) -> io::Result<u8> {
    #[expect(
        clippy::disallowed_methods,
        reason = "NO_COLOR is everybody's convention, see no-color.org"
    )]
    let colour = match io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        true => Colour::Terminal,
        false => Colour::Plain,
    };
    answer(
        Config::load(path),
        format,
        colour,
        &mut io::stdout(),
        &mut io::stderr(),
    )
}

fn answer(
    checked: Result<Config, Diagnostics>,
    format: Format,
    colour: Colour,
    out: &mut dyn Write,
    problems: &mut dyn Write,
) -> io::Result<u8> {
    let found = match &checked {
        Ok(config) => &config.warnings,
        Err(errors) => errors,
    };
    match format {
        Format::Json => {
            let object = serde_json::json!({
                "good": checked.is_ok(),
                "plans": checked.as_ref().ok().map(|config| config.plans.len()),
                "machines": checked.as_ref().ok().map(|config| config.machines.len()),
                "accounts": checked.as_ref().ok().map(|config| config.accounts.len()),
                "problems": found.listed(),
            });
            writeln!(out, "{object}")?;
        }
        Format::Text => {
            if !found.is_empty() {
                writeln!(problems, "{}\n", found.render(colour))?;
            }
            match &checked {
                Ok(config) => writeln!(out, "{}", good(config))?,
                Err(errors) => writeln!(problems, "{}", refused(errors))?,
            }
        }
    }
    Ok(if checked.is_ok() { 0 } else { EX_CONFIG })
}

fn good(config: &Config) -> String {
    let mut text = format!(
        "configuration is good: {}, {}, {}, {}",
        count(config.plans.len(), "plan"),
        count(config.machines.len(), "machine"),
        count(config.accounts.len(), "account"),
        count(config.discover.len(), "discovery pattern"),
    );
    if !config.warnings.is_empty() {
        text = format!("{text}; {}", count(config.warnings.len(), "warning"));
    }
    text
}

/// The last line of a refusal, also of `reload` and of a start.
pub(crate) fn refused(problems: &Diagnostics) -> String {
    let errors = problems.errors();
    format!("configuration is refused: {}", count(errors, "error"))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, format: Format) -> (u8, String, String) {
        let files = [
            ("meterd.toml".into(), text.to_owned()),
            ("plans/small.toml".into(), "allowance = \"1 GB\"".to_owned()),
        ];
        let (mut out, mut problems) = (Vec::new(), Vec::new());
        let code = answer(
            Config::check_texts(&files),
            format,
            Colour::Plain,
            &mut out,
            &mut problems,
        );
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code.unwrap(), text(out), text(problems))
    }

    #[test]
    fn a_good_configuration_is_counted_and_exits_with_0() {
        let (code, out, problems) = said("", Format::Text);
        assert_eq!(code, 0);
        assert_eq!(
            out,
            "configuration is good: 1 plan, 0 machines, 0 accounts, 1 discovery pattern\n"
        );
        assert_eq!(problems, "");
    }

    #[test]
    fn a_bad_configuration_exits_with_78_and_says_all_that_is_wrong() {
        let (code, out, problems) = said("dry-run = 1\npoll = \"1s\"\n", Format::Text);
        assert_eq!((code, out.as_str()), (78, ""));
        assert!(problems.contains("meterd.toml:1:11"), "{problems}");
        assert!(problems.contains("meterd.toml:2:1"), "{problems}");
        assert!(
            problems.ends_with("configuration is refused: 2 errors\n"),
            "{problems}"
        );
    }

    #[test]
    fn with_json_good_or_bad_is_one_object_on_standard_output() {
        let (code, out, problems) = said("dry-run = 1", Format::Json);
        assert_eq!((code, problems.as_str()), (78, ""));
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(object["good"], false);
        assert_eq!(object["problems"][0]["line"], 1);
        let (code, out, _) = said("", Format::Json);
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &object["good"], &object["plans"]),
            (0, &true.into(), &1.into())
        );
    }
}
