//! The daemon itself: run, check, reload, detach, completions.

use std::io::{self, IsTerminal};

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::{Value, json};

use tracing_subscriber::EnvFilter;

use super::{
    Cli, Context, Exit, Failure, Format,
    changes::{How, change},
    check,
    out::{plain, print, print_json},
};
use crate::daemon;

#[derive(Debug, clap::Args)]
pub(super) struct Reload {
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Detach {
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// What is logged: a level, or levels by part, such as `info,meter_daemon::host=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "METERD_LOG", value_parser = filter)]
    log: String,
}

fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; write a level: error, warn, info, debug or trace"
        )),
    }
}

pub(super) fn run(args: &Run, context: &Context) -> Result<(), Failure> {
    log_to_stderr(&args.log);
    Ok(daemon::run(&context.config)?)
}

/// The same for a command that does the daemon's work, and may begin it more than once.
pub(super) fn log_to_stderr_once(filter: &str) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| log_to_stderr(filter));
}

/// What the daemon has to say: all of it to standard error, as systemd wants it.
#[expect(
    clippy::disallowed_methods,
    reason = "JOURNAL_STREAM is how systemd says that the journal listens"
)]
fn log_to_stderr(filter: &str) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // The journal has its own clock.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}

pub(super) fn check(args: Check, context: &Context) -> Result<(), Failure> {
    let format = if args.format.json {
        check::Format::Json
    } else {
        check::Format::Text
    };
    match check::run(&context.config, format) {
        Ok(0) => Ok(()),
        // It has said why.
        Ok(status) => Err(Failure::new(Exit(status), "")),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::NOBODY_READS),
        Err(error) => Err(Failure::new(
            Exit::IO,
            format!("cannot write the answer: {error}"),
        )),
    }
}

pub(super) fn reload(args: &Reload, context: &Context) -> Result<(), Failure> {
    let answer = change(context, &["v1", "reload"], json!({}), &args.how);
    // The daemon refuses a configuration for one reason: that it is not valid.
    let answer = answer.map_err(|failure| match failure.exit {
        Exit::REFUSED => Failure {
            exit: Exit::CONFIG,
            ..failure
        },
        _ => failure,
    })?;
    if args.how.json() {
        return print_json(&answer);
    }
    print(&listed(&answer, "changes", "Nothing changed."))
}

/// Through the daemon where it runs, so that its last reading is recorded; without it where
/// it is stopped or dead.
pub(super) fn detach(args: &Detach, context: &Context) -> Result<(), Failure> {
    let answer = match change(context, &["v1", "detach"], json!({}), &args.how) {
        Err(failure) if failure.exit == Exit::UNAVAILABLE => {
            log_to_stderr("warn");
            let dry_run = args.how.dry_run();
            json!({"dry_run": dry_run, "removed": daemon::detach(&context.config, dry_run)?})
        }
        answer => answer?,
    };
    if args.how.json() {
        return print_json(&answer);
    }
    print(&listed(&answer, "removed", "There was nothing to remove."))
}

fn listed(answer: &Value, key: &str, nothing: &str) -> String {
    let lines = answer
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let lines: String = lines
        .filter_map(Value::as_str)
        .map(|line| plain(line) + "\n")
        .collect();
    match (answer.get("dry_run"), lines.is_empty()) {
        (_, true) => format!("{nothing}\n"),
        (Some(Value::Bool(true)), false) => format!("Not done, only shown:\n{lines}"),
        (_, false) => lines,
    }
}

pub(super) fn completions(args: Completions) -> Result<(), Failure> {
    // Into memory first: clap_complete panics where its output is closed early.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "meterd", &mut text);
    print(&String::from_utf8_lossy(&text))
}
