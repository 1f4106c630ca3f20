//! The daemon itself: reload, detach, completions.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::{Value, json};

use super::{
    Cli, Context, Exit, Failure,
    changes::{How, change},
    out::{plain, print, print_json},
};

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

pub(super) fn reload(args: &Reload, context: &Context) -> Result<(), Failure> {
    let answer = change(context, &["v1", "reload"], json!({}), &args.how);
    // The daemon refuses a configuration for one reason: that it is not valid.
    let answer = answer.map_err(|failure| match failure.exit {
        Exit::Refused => Failure {
            exit: Exit::Config,
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
        Err(failure) if failure.exit == Exit::Unavailable => {
            let removed = crate::daemon::detach(&context.config, args.how.dry_run())?;
            json!({"dry_run": args.how.dry_run(), "removed": removed})
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
