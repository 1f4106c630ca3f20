//! `usage`: what a machine moved, row by row.

mod chart;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Context, Failure, Format,
    client::{path, understood},
    instant,
    out::{self, Side, Style, Table, when},
};
use crate::engine::units::{Bytes, Traffic};

/// What is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose
    machine: String,
    /// Length of a row
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// First row's start, inclusive; without offset in local time
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    from: Option<Timestamp>,
    /// Rows that start before this
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    to: Option<Timestamp>,
    /// Draw the running period instead: what was used since the refill, a day a column, and a
    /// line at what is available
    #[arg(long, conflicts_with_all = ["by", "from", "to", "json"])]
    chart: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Minute,
    Hour,
    Day,
    Month,
    Period,
}

impl By {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Period => "period",
        }
    }
}

#[derive(Debug, Deserialize)]
struct Row {
    start: String,
    end: String,
    #[serde(flatten)]
    traffic: Traffic,
}

/// Shows it.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    if args.chart {
        return out::print(&chart::chart(
            &context.daemon()?,
            &args.machine,
            context.style,
        )?);
    }
    let query = [
        ("by", Some(args.by.as_str().to_owned())),
        ("from", args.from.map(|instant| instant.to_string())),
        ("to", args.to.map(|instant| instant.to_string())),
    ];
    let found = context
        .daemon()?
        .get(&path(&["v1", "machines", &args.machine, "usage"], &query))?;
    if args.format.json {
        return out::print_json(&found);
    }
    out::print(&table(found, args.by, context.style)?)
}

fn table(found: Value, by: By, style: Style) -> Result<String, Failure> {
    let rows: Vec<Row> = understood(found, "usage")?;
    if rows.is_empty() {
        return Ok("No traffic is recorded there.\n".to_owned());
    }
    let columns = [
        ("FROM", Side::Left),
        ("TO", Side::Left),
        ("RECEIVED", Side::Right),
        ("SENT", Side::Right),
        ("TOTAL", Side::Right),
        ("EXEMPT", Side::Right),
    ];
    let mut table = Table::new(&columns, style);
    for row in &rows {
        table.row(figures(when(&row.start), when(&row.end), row.traffic));
    }
    if rows.len() > 1 {
        let all = rows.iter().map(|row| row.traffic).sum();
        table.row(figures(
            format!("{} {}s", rows.len(), by.as_str()),
            String::new(),
            all,
        ));
    }
    Ok(table.render())
}

fn figures(from: String, to: String, traffic: Traffic) -> [String; 6] {
    let total: Bytes = traffic.received + traffic.sent;
    [
        from,
        to,
        traffic.received.to_string(),
        traffic.sent.to_string(),
        total.to_string(),
        traffic.exempt.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_stand_under_each_other_and_are_summed() {
        let found = json!([
            {"start": "2026-11-01T00:00:00+01:00", "end": "2026-11-02T00:00:00+01:00",
             "received": 1_500_000_000_u64, "sent": 20_000, "exempt": 0},
            {"start": "2026-11-02T00:00:00+01:00", "end": "2026-11-03T00:00:00+01:00",
             "received": 999, "sent": 1, "exempt": 7},
        ]);
        insta::assert_snapshot!(table(found, By::Day, Style::default()).unwrap(), @r#"
        FROM                       TO                         RECEIVED   SENT   TOTAL  EXEMPT
        2026-11-01 00:00:00+01:00  2026-11-02 00:00:00+01:00    1.5 GB  20 kB  1.5 GB     0 B
        2026-11-02 00:00:00+01:00  2026-11-03 00:00:00+01:00     999 B    1 B    1 kB     7 B
        2 days                                                  1.5 GB  20 kB  1.5 GB     7 B
        "#);
    }

    #[test]
    fn no_rows_is_an_answer() {
        assert!(
            table(json!([]), By::Day, Style::default())
                .unwrap()
                .starts_with("No traffic")
        );
    }
}
