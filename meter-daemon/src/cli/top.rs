//! `top`: who moves most just now. Two readings of the counters, and what lies between them.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::{
    Context, Failure, Format,
    client::{Client, understood},
    failure::Exit,
    out::{self, Side, Style, Table},
};
use crate::engine::{
    event::State,
    quantity,
    status::Status,
    units::{BitsPerSecond, Bytes, MachineId},
};

/// What is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// From one reading to the next; at least 1s
    #[arg(long, short, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// So many times; until interrupted otherwise
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    format: Format,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = quantity::duration(text).map_err(|error| error.to_string())?;
    Duration::try_from(interval)
        .ok()
        .filter(|interval| *interval >= Duration::from_secs(1))
        .ok_or_else(|| "less than a second: write `1s` or more".to_owned())
}

/// A machine between two readings, as `--json` writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    machine: MachineId,
    state: State,
    received_bits_per_second: BitsPerSecond,
    sent_bits_per_second: BitsPerSecond,
    used: Bytes,
    allowance: Option<Bytes>,
    interfaces: Vec<String>,
}

/// Shows it, again and again. JSON is an array a line.
#[expect(
    clippy::disallowed_methods,
    reason = "a rate is by the time that passed from one answer to the next"
)]
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let daemon = context.daemon()?;
    let mut before = (read(&daemon)?, Instant::now());
    let mut left = args.count;
    while left != Some(0) {
        daemon.pause(args.interval);
        let now = (read(&daemon)?, Instant::now());
        let rows = rows(&before.0, &now.0, now.1 - before.1);
        if args.format.json {
            let line = serde_json::to_string(&rows).map_err(|error| {
                Failure::new(Exit::SOFTWARE, format!("this is not JSON: {error}"))
            })?;
            out::print(&format!("{line}\n"))?;
        } else {
            out::print(&screen(&rows, context.style))?;
        }
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn read(daemon: &Client) -> Result<Vec<Status>, Failure> {
    understood(daemon.get("/v1/machines")?, "status")
}

/// The busiest first.
fn rows(before: &[Status], now: &[Status], took: Duration) -> Vec<Row> {
    let before: BTreeMap<_, _> = before.iter().map(|was| (&was.machine, was)).collect();
    let mut rows: Vec<_> = now
        .iter()
        .map(|now| {
            let was = before.get(&now.machine);
            // What is read are the period's sums. Where a period has begun since, all of it
            // has moved since; a machine that was not there before has no rate yet.
            let rate = |sum: fn(&Status) -> Bytes| {
                let moved = was.map_or(Bytes::ZERO, |was| {
                    if was.period.start == now.period.start {
                        sum(now).saturating_sub(sum(was))
                    } else {
                        sum(now)
                    }
                });
                rate(moved, took)
            };
            Row {
                machine: now.machine.clone(),
                state: now.state,
                received_bits_per_second: rate(|status| status.received),
                sent_bits_per_second: rate(|status| status.sent),
                used: now.used,
                allowance: now.allowance,
                interfaces: now.interfaces.clone(),
            }
        })
        .collect();
    rows.sort_by_key(|row| {
        let both = row.received_bits_per_second.0 + row.sent_bits_per_second.0;
        (std::cmp::Reverse(both), row.machine.clone())
    });
    rows
}

fn rate(moved: Bytes, took: Duration) -> BitsPerSecond {
    let bits = u128::from(moved.0) * 8 * 1_000_000_000;
    let rate = bits.checked_div(took.as_nanos()).unwrap_or(0);
    BitsPerSecond(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// On a terminal, over what was shown before and no longer than it has lines.
fn screen(rows: &[Row], style: Style) -> String {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return format!("{}\n", table(rows, style));
    }
    let lines = tcgetwinsize(&stdout).map_or(24, |size| usize::from(size.ws_row));
    // Two lines of heads, and the one that the cursor stands in.
    let room = lines.saturating_sub(3).max(1);
    format!(
        "\x1b[H\x1b[J{}",
        table(&rows[..rows.len().min(room)], style)
    )
}

fn table(rows: &[Row], style: Style) -> String {
    let columns = [
        ("MACHINE", Side::Left),
        ("STATE", Side::Left),
        ("RECEIVES", Side::Right),
        ("SENDS", Side::Right),
        ("USED", Side::Right),
        ("ALLOWANCE", Side::Right),
        ("USED %", Side::Right),
        ("INTERFACES", Side::Left),
    ];
    let mut table = Table::new(&columns, style);
    for row in rows {
        let cells = [
            row.machine.to_string(),
            row.state.as_str().to_owned(),
            row.received_bits_per_second.to_string(),
            row.sent_bits_per_second.to_string(),
            row.used.to_string(),
            out::volume(row.allowance, "unlimited"),
            row.allowance
                .map(|all| out::percent(row.used, all))
                .unwrap_or_default(),
            row.interfaces.join(" "),
        ];
        table.row_with_state(cells, 1, row.state);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::{throttled, unlimited};

    #[test]
    fn the_busiest_is_first_and_what_moved_is_by_the_time_it_took() {
        let before = [throttled(), unlimited()];
        let mut now = before.clone();
        now[1].received = Bytes(now[1].received.0 + 2_500_000);
        now[0].sent = Bytes(now[0].sent.0 + 16_000);
        let rows = rows(&before, &now, Duration::from_secs(2));
        insta::assert_snapshot!(table(&rows, Style::default()), @r"
        MACHINE  STATE       RECEIVES      SENDS     USED  ALLOWANCE  USED %  INTERFACES
        db1      normal     10 Mbit/s    0 bit/s    999 B  unlimited
        web1     throttled    0 bit/s  64 kbit/s  1.05 TB       1 TB   105 %  tap101i0 tap101i1
        ");
    }

    #[test]
    fn a_period_that_has_begun_since_is_counted_from_its_beginning() {
        let before = throttled();
        let mut now = before.clone();
        "2026-12-01T00:00:00+01:00".clone_into(&mut now.period.start);
        (now.received, now.sent) = (Bytes(1000), Bytes(0));
        let rows = rows(&[before], &[now], Duration::from_secs(1));
        assert_eq!(rows[0].received_bits_per_second, BitsPerSecond(8000));
        assert_eq!(rows[0].sent_bits_per_second, BitsPerSecond(0));
    }

    #[test]
    fn who_was_not_there_before_has_no_rate_yet() {
        let rows = rows(&[], &[throttled()], Duration::from_secs(1));
        assert_eq!(rows[0].received_bits_per_second, BitsPerSecond(0));
    }

    #[test]
    fn an_interval_is_a_second_or_more() {
        assert_eq!(interval("5s"), Ok(Duration::from_secs(5)));
        for text in ["0s", "-1s", "soon", "500ms"] {
            interval(text).unwrap_err();
        }
    }
}
