//! `export`: statements of closed periods, signed and chained, for a billing system that
//! verifies them without us; and the same verification, for who has meterd at hand.

use std::{fs, path::Path, path::PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Context, Exit, Failure, books, instant,
    out::{plain, print, print_json, write_file},
    place,
};
use crate::engine::units::{Bytes, MachineId};
use crate::ledger::{
    Reader, signing_key,
    statement::{self, Chains, Hex, Signed, Statement},
};

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Only this one's
    machine: Option<String>,
    /// Periods that start then or later; without offset in local time
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    from: Option<Timestamp>,
    /// Periods that start before this
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    to: Option<Timestamp>,
    /// Print CSV instead of JSON
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON, as without it
    #[arg(long)]
    json: bool,
    /// Write to a file instead
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the public key that statements are verified with, and nothing else
    #[arg(long, conflicts_with_all = ["machine", "from", "to", "csv", "output"])]
    public_key: bool,
}

/// The order of the columns, and of the lines in a statement's text.
const COLUMNS: [&str; 12] = [
    "ledger",
    "machine",
    "sequence",
    "start",
    "end",
    "received",
    "sent",
    "exempt",
    "previous",
    "hash",
    "signature",
    "key",
];

pub(super) fn run(args: &Export, context: &Context) -> Result<(), Failure> {
    let directory = place::state_directory(&context.config)?;
    // Before the key: where there is no ledger, none is made.
    let reader = Reader::open(&directory)?;
    let key = signing_key(&directory)?;
    if args.public_key {
        let public = Hex(key.verifying_key().to_bytes());
        return match args.json {
            true => print_json(&json!({"algorithm": "ed25519", "key": public})),
            false => print(&format!("{public}\n")),
        };
    }
    let machine = args.machine.as_deref().map(MachineId::from);
    let all = reader.statements(machine.as_ref())?;
    let wanted = all.into_iter().filter(|statement| {
        args.from.is_none_or(|from| statement.start >= from)
            && args.to.is_none_or(|to| statement.start < to)
    });
    let signed: Vec<Signed> = wanted
        .map(|statement| printable(statement).map(|statement| statement.sign(&key)))
        .collect::<Result<_, _>>()?;
    let text = match args.csv {
        true => csv(&signed),
        false => format!("{:#}\n", json!(signed)),
    };
    match &args.output {
        Some(file) => write_file(file, &text),
        None => print(&text),
    }
}

/// A name with a line break in it would make another text of the statement.
fn printable(statement: Statement) -> Result<Statement, Failure> {
    if statement.machine.as_str().chars().any(char::is_control) {
        return Err(Failure::new(
            Exit::DATA,
            format!(
                "the name of machine {:?} has control characters, which no statement can have; \
                 export the others by name",
                statement.machine.as_str()
            ),
        ));
    }
    Ok(statement)
}

fn csv(statements: &[Signed]) -> String {
    let mut text = COLUMNS.join(",") + "\n";
    for signed in statements {
        let Statement {
            ledger,
            machine,
            sequence,
            start,
            end,
            received,
            sent,
            exempt,
            previous,
        } = &signed.statement;
        let Signed {
            hash,
            signature,
            key,
            ..
        } = signed;
        let machine = quoted(machine.as_str());
        let (received, sent, exempt) = (received.0, sent.0, exempt.0);
        text += &format!(
            "{ledger},{machine},{sequence},{start},{end},{received},{sent},{exempt},{previous},\
             {hash},{signature},{key}\n"
        );
    }
    text
}

/// RFC 4180.
fn quoted(field: &str) -> String {
    match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut within = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, within) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                if let Some(field) = fields.last_mut() {
                    field.push('"');
                }
            }
            ('"', _) => within = !within,
            (',', false) => fields.push(String::new()),
            (other, _) => {
                if let Some(field) = fields.last_mut() {
                    field.push(other);
                }
            }
        }
    }
    fields
}

/// Statements as `export` wrote them, JSON or CSV.
fn read(text: &str) -> Result<Vec<Signed>, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with(['[', '{']) {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let list = match value {
            Value::Array(list) => list,
            one => vec![one],
        };
        return (1..)
            .zip(list)
            .map(|(number, one)| {
                serde_json::from_value(one).map_err(|error| format!("statement {number}: {error}"))
            })
            .collect();
    }
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r'));
    let header = COLUMNS.join(",");
    if lines.next() != Some(&header) {
        return Err(format!("neither JSON nor CSV with the header `{header}`"));
    }
    (1..)
        .zip(lines)
        .map(|(number, line)| row(line).map_err(|error| format!("statement {number}: {error}")))
        .collect()
}

fn row(line: &str) -> Result<Signed, String> {
    let fields = fields(line);
    let [
        ledger,
        machine,
        sequence,
        start,
        end,
        received,
        sent,
        exempt,
        previous,
        hash,
        signature,
        key,
    ] = &fields[..]
    else {
        return Err(format!("{} fields instead of 12", fields.len()));
    };
    let number = |text: &String| {
        text.parse::<u64>()
            .map_err(|_| format!("`{text}` is no whole number"))
    };
    let instant = |text: &String| {
        text.parse::<Timestamp>()
            .map_err(|_| format!("`{text}` is no instant"))
    };
    Ok(Signed {
        statement: Statement {
            ledger: ledger.parse()?,
            machine: machine.as_str().into(),
            sequence: number(sequence)?,
            start: instant(start)?,
            end: instant(end)?,
            received: Bytes(number(received)?),
            sent: Bytes(number(sent)?),
            exempt: Bytes(number(exempt)?),
            previous: previous.parse()?,
        },
        hash: hash.parse()?,
        signature: signature.parse()?,
        key: key.parse()?,
    })
}

/// Whether the statements of a file are as this key signed them: exit 0, or 65 with the first
/// that is not.
pub(super) fn verify(file: &Path, key: &str, json: bool) -> Result<(), Failure> {
    let key = public_key(key)?;
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::new(
            Exit::DATA,
            format!("cannot read {}: {error}", file.display()),
        )
    })?;
    let found = read(&text).and_then(|statements| statement::verify(&statements, &key));
    if json {
        print_json(&match &found {
            Ok(chains) => json!({"ok": true, "statements": chains.statements,
                                 "machines": machines(chains), "problem": null}),
            Err(problem) => json!({"ok": false, "problem": problem}),
        })?;
    }
    let shown = file.display();
    match found {
        Err(problem) => Err(Failure::new(
            Exit::DATA,
            format!("{shown} is not to be trusted: {problem}"),
        )),
        Ok(_) if json => Ok(()),
        Ok(chains) => {
            let mut said = format!(
                "{} statements are as they were signed by {key}.\n",
                chains.statements
            );
            for ((_, machine), (first, last)) in &chains.machines {
                said += &format!("{}: {first} to {last}\n", plain(machine.as_str()));
            }
            print(&said)
        }
    }
}

fn machines(chains: &Chains) -> Value {
    chains
        .machines
        .iter()
        .map(|((ledger, machine), (first, last))| {
            json!({"ledger": ledger, "machine": machine, "first": first, "last": last})
        })
        .collect()
}

/// The key's digits, or a file that has them.
fn public_key(given: &str) -> Result<Hex<32>, Failure> {
    if let Ok(key) = given.trim().parse() {
        return Ok(key);
    }
    let path = Path::new(given);
    books::given(path)?;
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().map_err(|error| {
        Failure::new(
            Exit::DATA,
            format!("{given} has no public key as `meterd export --public-key` prints it: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn what_is_exported_comes_back_from_json_and_from_csv() {
        let statement = Statement {
            ledger: Hex([1; 16]),
            machine: "web,\"1\"".into(),
            sequence: 1,
            start: "2026-10-31T23:00:00Z".parse().unwrap(),
            end: "2026-11-30T23:00:00.5Z".parse().unwrap(),
            received: Bytes(u64::MAX),
            sent: Bytes(2),
            exempt: Bytes(3),
            previous: Hex([0; 32]),
        };
        let key = SigningKey::from_bytes(&[3; 32]);
        let signed = vec![statement.sign(&key)];
        assert_eq!(read(&csv(&signed)).unwrap(), signed);
        assert_eq!(read(&json!(signed).to_string()).unwrap(), signed);
        read("time,received,sent\n").unwrap_err();
        read(&csv(&signed).replace(",2,3,", ",2,-3,")).unwrap_err();
    }
}
