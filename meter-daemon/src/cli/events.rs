//! `events`: what happened, a line each, and what happens, as it does.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Context, Failure, Format,
    client::{Client, path},
    instant,
    out::{print, print_json},
    sentence,
};

/// What one request brings, when all are wanted.
const PAGE: usize = 10_000;
/// What is shown of the past before following.
const RECENT: usize = 10;
/// How soon a new event is shown.
const PAUSE: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only of this one
    machine: Option<String>,
    /// Go on with what happens, until interrupted; with --json, one object a line
    #[arg(long, short)]
    follow: bool,
    /// Everything since then, or since so long ago (`2h`); the newest 1000 otherwise
    #[arg(long, value_name = "TIME", value_parser = instant::parse_since)]
    since: Option<Timestamp>,
    #[command(flatten)]
    format: Format,
}

/// Shows it.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let daemon = context.daemon()?;
    let mut reader = Reader {
        daemon: &daemon,
        args,
        after: None,
    };
    if !args.follow {
        let events = reader.past(None)?;
        return if args.format.json {
            print_json(&Value::Array(events))
        } else {
            print(&events.iter().map(sentence::line).collect::<String>())
        };
    }
    let mut events = reader.past(Some(RECENT))?;
    // Where nothing has happened yet, whatever happens is new.
    reader.after.get_or_insert(0);
    loop {
        let lines = events.iter().map(|event| {
            if args.format.json {
                format!("{event}\n")
            } else {
                sentence::line(event)
            }
        });
        print(&lines.collect::<String>())?;
        daemon.pause(PAUSE);
        events = reader.next(args.since, PAGE)?;
    }
}

struct Reader<'a> {
    daemon: &'a Client,
    args: &'a Args,
    /// The last sequence number seen.
    after: Option<u64>,
}

impl Reader<'_> {
    /// All since the instant asked for; otherwise the newest, `recent` of them where given.
    fn past(&mut self, recent: Option<usize>) -> Result<Vec<Value>, Failure> {
        let Some(since) = self.args.since else {
            return self.next(None, recent.unwrap_or(1_000));
        };
        let mut all = Vec::new();
        loop {
            let page = self.next(Some(since), PAGE)?;
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    fn next(&mut self, since: Option<Timestamp>, limit: usize) -> Result<Vec<Value>, Failure> {
        let query = [
            ("machine", self.args.machine.clone()),
            ("since", since.map(|instant| instant.to_string())),
            ("after", self.after.map(|after| after.to_string())),
            ("limit", Some(limit.to_string())),
        ];
        let Value::Array(events) = self.daemon.get(&path(&["v1", "events"], &query))? else {
            return Ok(Vec::new());
        };
        let newest = events
            .iter()
            .filter_map(|event| event.get("seq")?.as_u64())
            .max();
        self.after = newest.or(self.after);
        Ok(events)
    }
}
