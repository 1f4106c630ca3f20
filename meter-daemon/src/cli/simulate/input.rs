//! What a simulation reads: `usage.csv` and `commands.jsonl`.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use crate::engine::{
    command::{Change, Command, CommandAction, SettingKey, Until},
    plan::{Account, Allowance, DayOfMonth},
    quantity,
    units::{Bytes, MachineId, Money, Traffic},
};

/// Rows that are read: eight years of minutes.
const MOST_ROWS: usize = 4_300_000;
/// Commands that are read.
const MOST_COMMANDS: usize = 100_000;
/// Problems that are told before giving up.
const MOST_PROBLEMS: usize = 20;
/// How long the interval of an only row is taken to be.
const ONLY_ROW: SignedDuration = SignedDuration::from_mins(1);

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it, and what to write.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Bytes of the interval `(from, to]`, evenly spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its beginning: the end of the row before.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// What moved.
    pub traffic: Traffic,
}

/// A machine's history, in order of time, without gaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A command and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// When it is given.
    pub time: Timestamp,
    /// What.
    pub command: Command,
}

/// Collects what is wrong, up to a bound.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn note(&mut self, line: usize, message: impl Into<String>) {
        self.0.push(Problem {
            line,
            message: message.into(),
        });
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MOST_PROBLEMS
    }

    fn or<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self.0)
        }
    }
}

/// Reads `usage.csv`: the header `time,received,sent`, then a row an interval, each with the
/// instant at which it ends.
///
/// # Errors
/// Every line that cannot be used, up to a bound.
pub fn parse_usage(text: &str) -> Result<History, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut ends: Vec<(Timestamp, Traffic)> = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..).zip(text.lines());
    match lines.next() {
        Some((_, header)) if fields(header) == ["time", "received", "sent"] => {}
        other => problems.note(
            1,
            format!(
                "the header must be `time,received,sent`, not `{}`",
                shortened(other.map_or("", |(_, line)| line))
            ),
        ),
    }
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        match parse_row(line) {
            Ok((end, _)) if ends.last().is_some_and(|(before, _)| *before >= end) => {
                problems.note(number, format!("{end} is not later than the row before"));
            }
            Ok(row) => ends.push(row),
            Err(message) => problems.note(number, message),
        }
        if ends.len() > MOST_ROWS {
            problems.note(
                number,
                format!("more than {MOST_ROWS} rows; simulate them in parts"),
            );
        }
        if problems.is_full() || ends.len() > MOST_ROWS {
            break;
        }
    }
    if ends.is_empty() && problems.0.is_empty() {
        problems.note(1, "there is no row; write `2026-06-01T00:01:00Z,1000,500`");
    }
    problems.or(History { rows: rows(&ends) })
}

/// Each row begins where the one before ended; the first, one gap earlier.
fn rows(ends: &[(Timestamp, Traffic)]) -> Vec<Row> {
    let gap = match ends {
        [(first, _), (second, _), ..] => second.duration_since(*first),
        _ => ONLY_ROW,
    };
    let mut from = ends
        .first()
        .map(|(first, _)| first.checked_sub(gap).unwrap_or(Timestamp::MIN));
    ends.iter()
        .map(|(to, traffic)| Row {
            from: from.replace(*to).unwrap_or(*to),
            to: *to,
            traffic: *traffic,
        })
        .collect()
}

fn parse_row(line: &str) -> Result<(Timestamp, Traffic), String> {
    let fields = fields(line);
    let [time, received, sent] = fields[..] else {
        return Err(format!(
            "expected three fields, `time,received,sent`, not {}: `{}`",
            fields.len(),
            shortened(line)
        ));
    };
    let bytes = |name: &str, text: &str| {
        text.parse().map(Bytes).map_err(|_| {
            format!(
                "`{name}` must be bytes as a whole number, not `{}`",
                shortened(text)
            )
        })
    };
    Ok((
        instant(time)?,
        Traffic {
            received: bytes("received", received)?,
            sent: bytes("sent", sent)?,
            exempt: Bytes::ZERO,
        },
    ))
}

fn fields(line: &str) -> Vec<&str> {
    line.split(',').map(str::trim).collect()
}

fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        format!(
            "`{}` is no instant; write it with its offset: 2026-06-01T00:00:00Z",
            shortened(text)
        )
    })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads `commands.jsonl`: an object a line, each with `time` and `command`. They are put in
/// order of time; those of one instant keep their order.
///
/// # Errors
/// Every line that cannot be used, up to a bound.
pub fn parse_commands(
    text: &str,
    machine: &MachineId,
    account: Option<&Account>,
) -> Result<Vec<Timed>, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut commands = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = Fields::parse(line).and_then(|fields| fields.commands(machine, account));
        match parsed {
            Ok(parsed) => commands.extend(parsed),
            Err(message) => problems.note(number, message),
        }
        if commands.len() > MOST_COMMANDS {
            problems.note(number, format!("more than {MOST_COMMANDS} commands"));
        }
        if problems.is_full() || commands.len() > MOST_COMMANDS {
            break;
        }
    }
    commands.sort_by_key(|timed| timed.time);
    problems.or(commands)
}

/// A line's keys and values; each is taken once, and none may be left.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(line: &str) -> Result<Self, String> {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(format!(
                "expected an object such as {{\"time\":\"2026-06-20T00:00:00Z\",\
                 \"command\":\"top-up\",\"volume\":\"1 TB\"}}, not `{}`",
                shortened(line)
            )),
            Err(error) => Err(format!("this is not JSON: {error}")),
        }
    }

    /// A value as text: numbers and switches may be written bare.
    fn take(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.0.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(Value::Bool(true)) => Ok(Some("on".to_owned())),
            Some(Value::Bool(false)) => Ok(Some("off".to_owned())),
            Some(other) => Err(format!("`{key}` must be a text, not `{other}`")),
        }
    }

    fn need(&mut self, key: &str, example: &str) -> Result<String, String> {
        self.take(key)?
            .ok_or_else(|| format!("`{key}` is missing; write \"{key}\":\"{example}\""))
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, String> {
        match self.take(key)?.as_deref() {
            None => Ok(None),
            Some("on" | "true") => Ok(Some(true)),
            Some("off" | "false") => Ok(Some(false)),
            Some(other) => Err(format!("`{key}` is on or off, not `{}`", shortened(other))),
        }
    }

    fn until(&mut self) -> Result<Option<Until>, String> {
        let (span, end) = (self.take("for")?, self.take("until")?);
        match (span, end) {
            (None, None) => Ok(None),
            (Some(span), None) => quantity::duration(&span)
                .map_err(|wrong| wrong.to_string())
                .map(|span| Some(Until::For(span))),
            (None, Some(end)) => instant(&end).map(|end| Some(Until::At(end))),
            (Some(_), Some(_)) => Err("write `for` or `until`, not both".to_owned()),
        }
    }

    fn commands(
        mut self,
        machine: &MachineId,
        account: Option<&Account>,
    ) -> Result<Vec<Timed>, String> {
        let time = instant(&self.need("time", "2026-06-20T00:00:00Z")?)?;
        let name = self.need("command", "top-up")?;
        let reason = self.take("reason")?;
        let actions = self.actions(&name, machine, account)?;
        if let Some(left) = self.0.keys().next() {
            return Err(format!("`{name}` has no `{}`", shortened(left)));
        }
        let timed = |action| Timed {
            time,
            command: Command {
                author: "simulate".to_owned(),
                reason: reason.clone(),
                action,
            },
        };
        Ok(actions.into_iter().map(timed).collect())
    }

    fn actions(
        &mut self,
        name: &str,
        machine: &MachineId,
        account: Option<&Account>,
    ) -> Result<Vec<CommandAction>, String> {
        let machine = machine.clone();
        let action = match name {
            "top-up" => CommandAction::TopUp {
                machine,
                volume: quantity::volume(&self.need("volume", "1 TB")?)
                    .map_err(|wrong| wrong.to_string())?,
                from_pool: self.switch("from-pool")?.unwrap_or(false),
            },
            "set" => return self.changes(&machine),
            "unset" => CommandAction::Unset {
                machine,
                key: setting_key(&self.need("key", "allowance")?)?,
            },
            "suspend" => CommandAction::Suspend {
                machine,
                until: self.until()?,
            },
            "lift" => CommandAction::Lift {
                machine: Some(machine),
                until: self.until()?,
            },
            "pay" => CommandAction::Pay {
                invoice: self.need("invoice", "2026-000001")?.into(),
            },
            "balance" => self.balance(account)?,
            "cancel" => CommandAction::Cancel { machine },
            other => {
                return Err(format!(
                    "there is no command `{}`; there are top-up, set, unset, suspend, lift, pay, \
                     balance and cancel",
                    shortened(other)
                ));
            }
        };
        Ok(vec![action])
    }

    fn balance(&mut self, account: Option<&Account>) -> Result<CommandAction, String> {
        let add = self.need("add", "10.00")?;
        let account = account.ok_or("the machine has no account, so no balance")?;
        let amount: Decimal = match add.trim().parse() {
            Ok(amount) => amount,
            Err(_) => {
                let money: Money = add.parse()?;
                if account
                    .currency
                    .is_some_and(|currency| currency != money.currency)
                {
                    return Err(format!("the account is not in {}", money.currency));
                }
                money.amount
            }
        };
        Ok(CommandAction::Balance {
            account: account.id.clone(),
            add: amount,
        })
    }

    fn changes(&mut self, machine: &MachineId) -> Result<Vec<CommandAction>, String> {
        let mut changes = Vec::new();
        if let Some(plan) = self.take("plan")? {
            changes.push(Change::Plan(plan.into()));
        }
        if let Some(text) = self.take("allowance")? {
            changes.push(Change::Allowance(match text.as_str() {
                "unlimited" => Allowance::Unlimited,
                volume => {
                    Allowance::Limited(quantity::volume(volume).map_err(|wrong| wrong.to_string())?)
                }
            }));
        }
        if let Some(text) = self.take("renewal-day")? {
            let day = text.parse().ok().and_then(DayOfMonth::new);
            changes.push(Change::RenewalDay(day.ok_or_else(|| {
                format!(
                    "`renewal-day` is a day from 1 to 31, not `{}`",
                    shortened(&text)
                )
            })?));
        }
        if let Some(text) = self.take("cost-limit")? {
            changes.push(Change::CostLimit(match text.as_str() {
                "none" | "off" => None,
                money => Some(money.parse()?),
            }));
        }
        if let Some(on) = self.switch("auto-unsuspend")? {
            changes.push(Change::AutoUnsuspend(on));
        }
        if changes.is_empty() {
            return Err(
                "`set` needs one of plan, allowance, renewal-day, cost-limit, auto-unsuspend"
                    .to_owned(),
            );
        }
        let set = |change| CommandAction::Set {
            machine: machine.clone(),
            change,
        };
        Ok(changes.into_iter().map(set).collect())
    }
}

fn setting_key(text: &str) -> Result<SettingKey, String> {
    [
        SettingKey::Plan,
        SettingKey::Allowance,
        SettingKey::RenewalDay,
        SettingKey::CostLimit,
        SettingKey::AutoUnsuspend,
    ]
    .into_iter()
    .find(|key| key.as_str() == text)
    .ok_or_else(|| format!("there is no setting `{}`", shortened(text)))
}
