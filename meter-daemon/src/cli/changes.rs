//! The commands that change a machine: what is typed becomes one request, and what came of
//! it is told.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{
    Context, Failure,
    client::path,
    instant,
    out::{print, print_json},
    sentence,
};
use crate::{
    api,
    engine::{quantity, units::Bytes},
};

/// Options of every command that changes something.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct How {
    /// Makes repetitions one command: the same key twice is carried out once
    #[arg(long)]
    key: Option<String>,
    /// Why; kept with what it changes
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Show what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// When something ends.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Ending {
    /// For so long, such as `24h`
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, conflicts_with = "until")]
    duration: Option<Duration>,
    /// Until then; without offset in local time
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    until: Option<Timestamp>,
}

/// A duration as it was typed, known to be one.
#[derive(Clone, Debug)]
struct Duration(String);

fn duration(text: &str) -> Result<Duration, quantity::Wrong> {
    quantity::duration(text).map(|_: SignedDuration| Duration(text.to_owned()))
}

#[derive(Debug, clap::Args)]
pub(super) struct TopUp {
    /// Whose period
    machine: String,
    /// How much, such as `"1 TB"`
    volume: Bytes,
    /// Move it from the account's pool instead of buying it
    #[arg(long)]
    from_pool: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Whose terms
    machine: String,
    /// plan=NAME allowance=VOLUME|unlimited renewal-day=DAY cost-limit=AMOUNT|none auto-unsuspend=on|off
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Unset {
    /// Whose terms
    machine: String,
    /// Which of them
    #[arg(value_name = "KEY", value_parser = ["plan", "allowance", "renewal-day", "cost-limit", "auto-unsuspend"])]
    setting: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Suspend {
    /// Whose traffic
    machine: String,
    #[command(flatten)]
    ending: Ending,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Lift {
    /// Of this one
    #[arg(required_unless_present = "all")]
    machine: Option<String>,
    /// Of everybody
    #[arg(long, conflicts_with = "machine")]
    all: bool,
    #[command(flatten)]
    ending: Ending,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Confirm {
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Cancel {
    /// Whose metering
    machine: String,
    #[command(flatten)]
    how: How,
}

pub(super) fn top_up(args: &TopUp, context: &Context) -> Result<(), Failure> {
    // As whole bytes: what was typed is exact, what is displayed is rounded.
    let volume = format!("{} B", args.volume.0);
    let body = json!({"volume": volume, "from_pool": args.from_pool});
    command(
        context,
        &["v1", "machines", &args.machine, "top-up"],
        body,
        &args.how,
    )
}

pub(super) fn set(args: &Set, context: &Context) -> Result<(), Failure> {
    let mut body = Map::new();
    for (key, value) in &args.settings {
        if body
            .insert(key.clone(), Value::String(value.clone()))
            .is_some()
        {
            let message = format!("`{key}` is given twice");
            return Err(Failure::new(super::Exit::USAGE, message));
        }
    }
    command(
        context,
        &["v1", "machines", &args.machine, "set"],
        Value::Object(body),
        &args.how,
    )
}

pub(super) fn unset(args: &Unset, context: &Context) -> Result<(), Failure> {
    let body = json!({"key": args.setting});
    command(
        context,
        &["v1", "machines", &args.machine, "unset"],
        body,
        &args.how,
    )
}

pub(super) fn suspend(args: &Suspend, context: &Context) -> Result<(), Failure> {
    let body = args.ending.body();
    command(
        context,
        &["v1", "machines", &args.machine, "suspend"],
        body,
        &args.how,
    )
}

pub(super) fn lift(args: &Lift, context: &Context) -> Result<(), Failure> {
    let body = args.ending.body();
    match &args.machine {
        Some(machine) => command(
            context,
            &["v1", "machines", machine, "lift"],
            body,
            &args.how,
        ),
        None => command(context, &["v1", "lift"], body, &args.how),
    }
}

pub(super) fn confirm(args: &Confirm, context: &Context) -> Result<(), Failure> {
    command(context, &["v1", "confirm"], json!({}), &args.how)
}

pub(super) fn cancel(args: &Cancel, context: &Context) -> Result<(), Failure> {
    command(
        context,
        &["v1", "machines", &args.machine, "cancel"],
        json!({}),
        &args.how,
    )
}

impl Ending {
    fn body(&self) -> Value {
        let mut body = Map::new();
        if let Some(Duration(text)) = &self.duration {
            body.insert("for".to_owned(), text.as_str().into());
        }
        if let Some(until) = self.until {
            body.insert("until".to_owned(), until.to_string().into());
        }
        Value::Object(body)
    }
}

/// `key=value`, checked as the daemon will check it, so that a slip is a usage error.
fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "expected KEY=VALUE, such as allowance=2TB".to_owned())?;
    api::change(key, value)?;
    Ok((key.replace('_', "-"), value.to_owned()))
}

/// Asks for a change, and tells the events that it caused or would cause.
pub(super) fn command(
    context: &Context,
    to: &[&str],
    body: Value,
    how: &How,
) -> Result<(), Failure> {
    let answer = change(context, to, body, how)?;
    if how.json {
        print_json(&answer)
    } else {
        print(&outcome(&answer))
    }
}

/// Asks for a change.
pub(super) fn change(
    context: &Context,
    to: &[&str],
    mut body: Value,
    how: &How,
) -> Result<Value, Failure> {
    if let Value::Object(fields) = &mut body {
        if let Some(reason) = &how.reason {
            fields.insert("reason".to_owned(), reason.as_str().into());
        }
        if how.dry_run {
            fields.insert("dry_run".to_owned(), true.into());
        }
    }
    context
        .daemon()?
        .post(&path(to, &[]), &body, how.key.as_deref())
}

impl How {
    pub(super) const fn json(&self) -> bool {
        self.json
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(super) const fn dry_run(&self) -> bool {
        self.dry_run
    }
}

pub(super) fn outcome(answer: &Value) -> String {
    let dry_run = answer
        .get("dry_run")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    let events = answer
        .get("events")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    match (dry_run, events) {
        (true, []) => "Nothing would change.\n".to_owned(),
        (false, []) => "Nothing changed.\n".to_owned(),
        (true, events) => format!("Nothing was changed. What would happen:\n{}", lines(events)),
        (false, events) => lines(events),
    }
}

fn lines(events: &[Value]) -> String {
    events.iter().map(sentence::line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_that_nothing_was_changed() {
        let event = json!({
            "time": "2026-11-20T10:00:00Z", "machine": "web1", "event": "topped-up",
            "volume": 1_000_000_000, "from_pool": false, "rule": null, "used": 0,
            "allowance": 5, "state": "normal",
        });
        let told = outcome(&json!({"dry_run": true, "events": [event]}));
        insta::assert_snapshot!(told, @r#"
        Nothing was changed. What would happen:
        2026-11-20 10:00:00Z  web1          topped-up       1 GB added
        "#);
        assert_eq!(
            outcome(&json!({"dry_run": true, "events": []})),
            "Nothing would change.\n"
        );
        assert_eq!(
            outcome(&json!({"dry_run": false, "events": []})),
            "Nothing changed.\n"
        );
    }
}
