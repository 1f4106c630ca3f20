//! `meterd simulate` as it is typed: files in, lines or a table out.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::tz::TimeZone;

use super::{
    SimulateError,
    input::{Problem, parse_commands, parse_usage},
    output, simulate,
};
use crate::{
    cli::{Exit, Failure},
    config,
};

/// The largest history that is read: a year of minutes is 30 MB.
const LARGEST: u64 = 1 << 30;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The plan; `set plan` finds others beside it
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The history: `time,received,sent`, a row's bytes are those of the interval that ends at
    /// its time
    #[arg(long, value_name = "FILE")]
    usage: PathBuf,
    /// The machine and its account, written like a file in machines/
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// Commands, a JSON object a line, such as
    /// {"time":"2026-06-20T00:00:00Z","command":"top-up","volume":"1 TB"}
    #[arg(long, value_name = "FILE")]
    commands: Option<PathBuf>,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(in crate::cli) fn run(args: &Args, config: Option<&Path>) -> Result<(), Failure> {
    let (terms, machine) = config::simulation(&args.plan, args.machine.as_deref(), config)
        .map_err(|found| {
            Failure::new(Exit::CONFIG, format!("what is to be simulated:\n{found}"))
        })?;
    let terms = Arc::new(terms);
    let about = terms.machines.get(&machine);
    let account = about
        .and_then(|m| m.account.as_ref())
        .and_then(|id| terms.accounts.get(id));
    let history = parse_usage(&read(&args.usage)?).map_err(|found| wrong(&args.usage, &found))?;
    let commands = match &args.commands {
        Some(path) => {
            parse_commands(&read(path)?, &machine, account).map_err(|found| wrong(path, &found))?
        }
        None => Vec::new(),
    };
    let zone = about
        .map(|machine| machine.zone(machine.plan.as_deref()).clone())
        .unwrap_or(TimeZone::UTC);

    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = (|| {
        if !args.json {
            output::table_head(&mut out)?;
        }
        let ending = simulate(&terms, &machine, &history, &commands, |event| {
            match args.json {
                true => output::json_line(&mut out, event),
                false => output::table_row(&mut out, event, &zone),
            }
        })?;
        match args.json {
            true => output::json_end(&mut out, &ending)?,
            false => output::table_end(&mut out, &ending)?,
        }
        Ok(out.flush()?)
    })();
    outcome.map_err(|failure| match failure {
        SimulateError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Failure::NOBODY_READS
        }
        SimulateError::Output(_) => Failure::new(Exit::IO, failure),
        _ => Failure::new(Exit::USAGE, failure),
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = match fs::metadata(path) {
        Ok(file) if file.len() > LARGEST => Err(format!("it is larger than {LARGEST} bytes")),
        _ => fs::read_to_string(path).map_err(|error| error.to_string()),
    };
    text.map_err(|why| {
        Failure::new(
            Exit::NO_INPUT,
            format!("cannot read {}: {why}", path.display()),
        )
    })
}

fn wrong(path: &Path, found: &[Problem]) -> Failure {
    let lines: Vec<String> = found
        .iter()
        .map(|problem| format!("{}: {problem}", path.display()))
        .collect();
    Failure::new(Exit::NO_INPUT, lines.join("\n"))
}
