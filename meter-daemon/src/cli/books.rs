//! The ledger as a file: `verify`, `backup`, `restore`. They work beside a running daemon or
//! without one, on the state directory that the configuration names.

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Context, Exit, Failure, Format,
    changes::How,
    export,
    out::{print, print_json, when},
    place,
};
use crate::{
    api::access::Access,
    daemon,
    engine::units::Traffic,
    host::clock,
    ledger::{
        self, CommandRecord, Difference, EventRecord, Existing, LedgerError, Reader, Verified,
    },
};

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// A backup, or statements that `meterd export` wrote; the ledger where left out
    file: Option<PathBuf>,
    /// The public key that statements must be signed by: its 64 digits, or a file that has them
    #[arg(long, value_name = "KEY")]
    public_key: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// Where to
    file: PathBuf,
    /// Take the place of what is there already
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// A backup that `meterd backup` wrote
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        daemon::Failure::Ledger(error).into()
    }
}

/// What is given as FILE has to be there.
pub(super) fn given(file: &std::path::Path) -> Result<(), Failure> {
    fs::File::open(file).map(drop).map_err(|error| {
        let file = file.display();
        Failure::new(Exit::NO_INPUT, format!("cannot read {file}: {error}"))
    })
}

pub(super) fn verify(args: &Verify, context: &Context) -> Result<(), Failure> {
    let json = args.format.json;
    match (&args.file, &args.public_key) {
        (None, None) => {
            let directory = place::state_directory(&context.config)?;
            let verified = Reader::open(&directory)?.verify()?;
            tell("the ledger", &verified, json)
        }
        (None, Some(_)) => Err(Failure::new(
            Exit::USAGE,
            "--public-key is for statements: give the file that has them, too",
        )),
        (Some(file), key) => {
            given(file)?;
            let unreadable = |error| {
                let file = file.display();
                Failure::new(Exit::IO, format!("cannot read {file}: {error}"))
            };
            let is_database = ledger::is_database(file).map_err(unreadable)?;
            match (is_database, key) {
                (true, None) => tell("the backup", &ledger::verify_file(file)?, json),
                (true, Some(_)) => Err(Failure::new(
                    Exit::USAGE,
                    format!(
                        "{} is a backup, which has no signature: leave out --public-key",
                        file.display()
                    ),
                )),
                (false, Some(key)) => export::verify(file, key, json),
                (false, None) => Err(Failure::new(
                    Exit::USAGE,
                    format!(
                        "{} is no backup; to verify statements, give the key that they must be \
                         signed by with --public-key (`meterd export --public-key` prints this node's)",
                        file.display()
                    ),
                )),
            }
        }
    }
}

/// Says whether it adds up: exit 0, or 65 with the first row that differs.
fn tell(what: &str, verified: &Verified, json: bool) -> Result<(), Failure> {
    let Verified { rows, difference } = verified;
    if json {
        print_json(&json!({
            "ok": difference.is_none(),
            "rows": rows,
            "difference": difference.as_ref().map(difference_json),
        }))?;
    }
    match difference {
        Some(difference) => Err(Failure::new(
            Exit::DATA,
            format!(
                "{what} does not add up: {difference}. It was left as it is; counting goes on. Keep \
                 a copy for the report, and restore a backup from before"
            ),
        )),
        None if json => Ok(()),
        None => print(&format!(
            "{what} adds up: {rows} rows are the sum of their parts, to the byte.\n"
        )),
    }
}

fn difference_json(difference: &Difference) -> Value {
    let figures = |traffic: Traffic| json!(traffic);
    json!({
        "machine": difference.machine,
        "resolution": difference.resolution,
        "start": difference.start,
        "end": difference.end,
        "row": figures(difference.row),
        "of": difference.of.as_str(),
        "parts": figures(difference.parts),
    })
}

pub(super) fn backup(args: &Backup, context: &Context) -> Result<(), Failure> {
    let directory = place::state_directory(&context.config)?;
    let existing = match args.replace {
        true => Existing::Replace,
        false => Existing::Keep,
    };
    let written = ledger::backup(&directory, &args.file, existing)?;
    let file = args.file.display();
    if args.format.json {
        return print_json(&json!({
            "file": file.to_string(),
            "bytes": written.size,
            "last": written.last,
            "rows": written.verified.rows,
        }));
    }
    let last = written.last.map_or_else(
        || "nothing is in it yet".to_owned(),
        |last| format!("it holds everything up to {}", when(&last.to_string())),
    );
    print(&format!("Wrote {file} and verified it: {last}.\n"))
}

pub(super) fn restore(args: &Restore, context: &Context) -> Result<(), Failure> {
    given(&args.file)?;
    let directory = place::state_directory(&context.config)?;
    if args.how.dry_run() {
        let verified = ledger::verify_file(&args.file)?;
        return tell("the backup", &verified, args.how.json());
    }
    // Held by a daemon while it runs: exit 75.
    let lock = ledger::lock(&directory)?;
    let file = fs::canonicalize(&args.file).unwrap_or_else(|_| args.file.clone());
    let request = format!("restore {}", file.display());
    if let Some(answer) = answered(&directory, args.how.key(), &request)? {
        return told(&answer, args.how.json());
    }
    let now = clock::now().wall;
    let author = author();
    let finish = |last: Option<Timestamp>| {
        let body = json!({
            "time": now, "event": "ledger-restored", "file": file.display().to_string(),
            "last": last, "by": author, "reason": args.how.reason(),
        });
        let command = args.how.key().map(|key| CommandRecord {
            key: key.to_owned(),
            request: request.clone(),
            status: 200,
            answer: answer(last, None).to_string(),
        });
        (event(now, "ledger-restored", body), command)
    };
    let restored = ledger::restore(&directory, &args.file, now, finish, &lock)?;
    let aside = restored.aside.map(|aside| aside.display().to_string());
    told(&answer(restored.last, aside), args.how.json())
}

/// Who types: for what is recorded without the daemon.
pub(super) fn author() -> String {
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    Access::default().peer(user.as_raw(), group.as_raw()).name
}

/// What was answered when this was asked under this key before.
fn answered(
    directory: &std::path::Path,
    key: Option<&str>,
    request: &str,
) -> Result<Option<Value>, Failure> {
    let Some(key) = key else { return Ok(None) };
    // A ledger that cannot be read is what one restores for.
    let known = Reader::open(directory).and_then(|reader| reader.answer(key));
    let Ok(Some(known)) = known else {
        return Ok(None);
    };
    if known.request != request {
        return Err(Failure::new(
            Exit::REFUSED,
            format!("`{key}` stands for another command; take a new key for a new command"),
        ));
    }
    Ok(serde_json::from_str(&known.answer).ok())
}

fn event(time: Timestamp, name: &str, body: Value) -> EventRecord {
    EventRecord {
        time,
        machine: None,
        account: None,
        name: name.to_owned(),
        body,
        notice: None,
    }
}

fn answer(last: Option<Timestamp>, aside: Option<String>) -> Value {
    json!({"restored": true, "last": last, "aside": aside})
}

fn told(answer: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(answer);
    }
    let text = |key: &str| answer.get(key).and_then(Value::as_str);
    let last = text("last").map_or_else(
        || "It has recorded nothing yet.".to_owned(),
        |last| {
            let last = when(last);
            format!("It knows everything up to {last}; what was counted since is taken from the kernel at the next start.")
        },
    );
    let aside = text("aside").map(|aside| format!("The ledger that stood there is now {aside}.\n"));
    print(&format!(
        "Restored. {last}\n{}Start the daemon: `systemctl start meterd`.\n",
        aside.unwrap_or_default()
    ))
}
