//! What a simulation writes: a JSON object a line, or a table and a small chart.

use std::io::{self, Write};

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{Chart, Ending};
use crate::{
    cli::chart::{Axis, Column, MARGIN, draw},
    engine::{
        event::{Event, EventKind},
        status::Status,
        units::Bytes,
    },
};

/// Writes an event as a line of JSON.
///
/// # Errors
/// What `out` says.
pub fn json_line(out: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    out.write_all(b"\n")
}

/// Writes the last line of JSON: `end`, with all fields of the status.
///
/// # Errors
/// What `out` says.
pub fn json_end(out: &mut impl Write, ending: &Ending) -> io::Result<()> {
    #[derive(Serialize)]
    struct End<'a> {
        time: Timestamp,
        event: &'static str,
        #[serde(flatten)]
        status: &'a Status,
    }
    let end = End {
        time: ending.time,
        event: "end",
        status: &ending.status,
    };
    serde_json::to_writer(&mut *out, &end)?;
    out.write_all(b"\n")
}

/// Writes the table's head.
///
/// # Errors
/// What `out` says.
pub fn table_head(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<25}  {:<14}  {:<22}  {:>9}  {:>9}  {:<9}  DETAILS",
        "TIME", "EVENT", "RULE", "USED", "OF", "STATE"
    )
}

/// Writes an event as a row of the table, its time in `zone`.
///
/// # Errors
/// What `out` says.
pub fn table_row(out: &mut impl Write, event: &Event, zone: &TimeZone) -> io::Result<()> {
    let time = event.time.display_with_offset(zone.to_offset(event.time));
    let row = format!(
        "{:<25}  {:<14}  {:<22}  {:>9}  {:>9}  {:<9}  {}",
        time.to_string(),
        event.kind.as_str(),
        event.rule.as_ref().map_or("", |rule| rule.as_str()),
        event.used,
        event
            .allowance
            .map_or_else(|| "unlimited".to_owned(), |volume| volume.to_string()),
        event.state.as_str(),
        details(&event.kind)
    );
    writeln!(out, "{}", row.trim_end())
}

fn details(kind: &EventKind) -> String {
    match kind {
        EventKind::PeriodStarted { start, end } => format!("{start} to {end}"),
        EventKind::Notice { message, .. } => message.clone(),
        EventKind::Flagged { excess } => format!("{excess} too much so far"),
        EventKind::Throttled {
            from,
            rate_limit_bits_per_second,
        } => format!("from {} to {rate_limit_bits_per_second}", from.as_str()),
        EventKind::Capped {
            from,
            cap_remaining,
        } => format!("from {}, {cap_remaining} left", from.as_str()),
        EventKind::Suspended { from, by, .. } => match by {
            Some(by) => format!("from {} by {by}", from.as_str()),
            None => format!("from {}", from.as_str()),
        },
        EventKind::Restored { from, cause } => format!("from {}: {cause}", from.as_str()),
        EventKind::Charged {
            amount,
            volume,
            balance,
        } => match balance {
            Some(balance) => format!("{amount} for {volume}; balance {balance}"),
            None => format!("{amount} for {volume}"),
        },
        EventKind::Invoiced {
            number,
            amount,
            description,
            due,
            ..
        } => format!("{number}: {amount} for {description}, due {due}"),
        EventKind::Paid { invoice, amount }
        | EventKind::Overdue { invoice, amount }
        | EventKind::Lapsed { invoice, amount } => {
            format!("{invoice}: {amount}")
        }
        EventKind::ToppedUp {
            volume,
            amount,
            from_pool,
        } => {
            let price = amount.map_or_else(String::new, |amount| format!(" for {amount}"));
            let pool = if *from_pool { " from the pool" } else { "" };
            format!("{volume}{price}{pool}")
        }
        EventKind::Refused { command, reason } => format!("{command}: {reason}"),
        EventKind::Changed { key, value, by } => match value {
            Some(value) => format!("{key} = {value}, by {by}"),
            None => format!("{key} as in the files, by {by}"),
        },
        EventKind::Lifted { until, by, .. } => match until {
            Some(until) => format!("until {until}, by {by}"),
            None => format!("by {by}"),
        },
        EventKind::Balance { amount, balance } => format!("{amount}; balance {balance}"),
        EventKind::HeldBack { machines, of } => format!("{machines} of {of} machines"),
        EventKind::Confirmed { by } | EventKind::Cancelled { by } => format!("by {by}"),
        EventKind::Unflagged {} | EventKind::OverrideEnded {} => String::new(),
    }
}

/// Writes how it ended: a line of figures, and the chart.
///
/// # Errors
/// What `out` says.
pub fn table_end(out: &mut impl Write, ending: &Ending) -> io::Result<()> {
    let status = &ending.status;
    write!(
        out,
        "\nAt {} {} is {}; used {}",
        ending.time,
        status.machine,
        status.state.as_str(),
        status.used
    )?;
    match status.allowance {
        Some(allowance) => write!(out, " of {allowance}")?,
        None => write!(out, ", unlimited")?,
    }
    if let Some(forecast) = status.forecast {
        write!(out, "; forecast {forecast}")?;
    }
    writeln!(out, "; {} days left.\n", status.period.days_left)?;
    chart(out, &ending.chart)
}

/// Writes what was used over time, with a line at the allowance.
fn chart(out: &mut impl Write, chart: &Chart) -> io::Result<()> {
    let columns = filled(&chart.columns);
    write!(out, "{}", draw(&columns, Axis::Linear, 1))?;
    let (start, end) = (chart.start.to_string(), chart.end.to_string());
    let gap = columns.len().saturating_sub(start.len() + end.len()).max(2);
    writeln!(out, "{:MARGIN$}{start}{:gap$}{end}", "", "")
}

/// Columns in which nothing was noted show what stood before.
fn filled(columns: &[Option<(Bytes, Option<Bytes>)>]) -> Vec<Column> {
    let mut last = Column::default();
    let column = |column: &Option<(Bytes, Option<Bytes>)>| {
        if let Some((used, available)) = *column {
            let used = Some(used);
            last = Column { used, available };
        }
        last
    };
    columns.iter().map(column).collect()
}
