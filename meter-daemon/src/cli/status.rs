//! `status`: all machines in a table, or one on a card.

use std::fmt::Write;

use jiff::{
    Timestamp,
    fmt::temporal::Pieces,
    tz::{Offset, TimeZone},
};
use serde_json::Value;

use super::{
    Context, Failure, Format,
    client::{path, understood},
    out::{self, Side, Style, Table, plain, when},
};
use crate::engine::{
    status::{NextRule, Status},
    units::Bytes,
};

/// The bar's characters.
const BAR: usize = 40;

/// What is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this one, in detail
    machine: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// Shows it.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let daemon = context.daemon()?;
    let found = match &args.machine {
        Some(machine) => Value::Array(vec![daemon.get(&path(&["v1", "machines", machine], &[]))?]),
        None => daemon.get("/v1/machines")?,
    };
    if args.format.json {
        return out::print_json(&found);
    }
    let machines: Vec<Status> = understood(found, "status")?;
    match (args.machine.is_some(), machines.as_slice()) {
        (true, [machine]) => out::print(&card(machine, context.style)),
        (_, []) => {
            out::print("No machines yet: no interface on this node matches the configuration.\n")
        }
        (_, machines) => out::print(&table(machines, context.style)),
    }
}

fn table(machines: &[Status], style: Style) -> String {
    let columns = [
        ("MACHINE", Side::Left),
        ("PLAN", Side::Left),
        ("STATE", Side::Left),
        ("USED", Side::Right),
        ("ALLOWANCE", Side::Right),
        ("USED %", Side::Right),
        ("REMAINING", Side::Right),
        ("FORECAST", Side::Right),
        ("DAYS LEFT", Side::Right),
        ("INTERFACES", Side::Left),
    ];
    let mut table = Table::new(&columns, style);
    for machine in machines {
        let flag = if machine.flagged { " (flagged)" } else { "" };
        let interfaces = match machine.interfaces.as_slice() {
            [] => "-".to_owned(),
            names => names.join(" "),
        };
        let cells = [
            machine.machine.to_string(),
            machine
                .plan
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string),
            format!("{}{flag}", machine.state.as_str()),
            machine.used.to_string(),
            out::volume(machine.allowance, "unlimited"),
            machine
                .allowance
                .map(|all| out::percent(machine.used, all))
                .unwrap_or_default(),
            out::volume(machine.remaining, "-"),
            out::volume(machine.forecast, "-"),
            machine.period.days_left.to_string(),
            interfaces,
        ];
        table.row_with_state(cells, 2, machine.state);
    }
    table.render()
}

/// Everything about one machine, times with its own offset.
fn card(machine: &Status, style: Style) -> String {
    let mut card = String::new();
    let since = local(machine.since, &machine.period.start);
    let rule = machine
        .rule
        .as_ref()
        .map(|rule| format!(", by the rule `{}`", plain(rule.as_str())));
    let _ = writeln!(
        card,
        "{}  {} since {since}{}\n",
        plain(machine.machine.as_str()),
        style.state(machine.state),
        rule.unwrap_or_default()
    );
    for (name, text) in lines(machine) {
        let _ = writeln!(card, "{name:>12}  {text}");
    }
    card
}

fn lines(machine: &Status) -> Vec<(&'static str, String)> {
    let named = |name: Option<&str>| name.map_or_else(|| "none".to_owned(), plain);
    let interfaces = match machine.interfaces.as_slice() {
        [] => "none on this node".to_owned(),
        names => plain(&names.join(", ")),
    };
    let period = &machine.period;
    let mut lines = vec![
        (
            "plan",
            named(machine.plan.as_ref().map(|plan| plan.as_str())),
        ),
        (
            "account",
            named(machine.account.as_ref().map(|account| account.as_str())),
        ),
        ("interfaces", interfaces),
    ];
    lines.extend(machine.links.iter().map(|link| ("", plain(link))));
    lines.extend([
        (
            "period",
            format!("{} to {}", when(&period.start), when(&period.end)),
        ),
        ("refill", days(period.days_left)),
    ]);
    match machine.allowance {
        Some(allowance) => {
            let percent = out::percent(machine.used, allowance);
            let share = if percent.is_empty() {
                percent
            } else {
                format!(", {percent}")
            };
            lines.push(("used", format!("{} of {allowance}{share}", machine.used)));
            lines.push(("", out::bar(machine.used, allowance, BAR)));
        }
        None => lines.push((
            "used",
            format!("{} of an unlimited allowance", machine.used),
        )),
    }
    lines.push(("received", machine.received.to_string()));
    lines.push(("sent", machine.sent.to_string()));
    if machine.exempt > Bytes::ZERO {
        lines.push(("exempt", machine.exempt.to_string()));
    }
    if let Some(remaining) = machine.remaining {
        lines.push(("remaining", remaining.to_string()));
    }
    if let Some(rate) = machine.rate_limit_bits_per_second {
        lines.push(("rate limit", format!("{rate} each way")));
    }
    if let Some(left) = machine.cap_remaining {
        lines.push(("cap", format!("{left} left")));
    }
    if machine.flagged {
        lines.push((
            "flagged",
            "yes: more used than has accrued so far".to_owned(),
        ));
    }
    if let Some(forecast) = machine.forecast {
        let share = machine
            .allowance
            .map(|allowance| out::percent(forecast, allowance));
        let share = share
            .filter(|share| !share.is_empty())
            .map(|share| format!(", {share}"));
        let share = share.unwrap_or_default();
        lines.push(("forecast", format!("{forecast} at the period's end{share}")));
    }
    if let Some(pool) = &machine.pool {
        let percent = out::percent(pool.left, pool.size);
        let share = if percent.is_empty() {
            percent
        } else {
            format!(", {percent}")
        };
        lines.push((
            "pool",
            format!("{} left of {}{share}", pool.left, pool.size),
        ));
    }
    if let Some(next) = &machine.next {
        lines.push(("next", coming(next, &period.start)));
    }
    if !machine.cancellable {
        lines.push((
            "cancellable",
            "no: a bill is unpaid (`meterd invoices`)".to_owned(),
        ));
    }
    lines
}

fn coming(next: &NextRule, offset_of: &str) -> String {
    let at_bytes = next.at_bytes.map(|volume| format!(" at {volume}"));
    let at_time = next
        .at_time
        .map(|instant| format!(", {}", local(instant, offset_of)));
    format!(
        "`{}`{}{}",
        plain(next.rule.as_str()),
        at_bytes.unwrap_or_default(),
        at_time.unwrap_or_default()
    )
}

fn days(days: i64) -> String {
    match days {
        1 => "in 1 day".to_owned(),
        days => format!("in {days} days"),
    }
}

/// An instant in the machine's own time: the offset that another of its instants came with.
fn local(instant: Timestamp, like: &str) -> String {
    let offset = Pieces::parse(like)
        .ok()
        .and_then(|pieces| pieces.to_numeric_offset())
        .filter(|offset| *offset != Offset::UTC);
    match offset {
        None => when(&instant.to_string()),
        Some(offset) => {
            let zoned = instant.to_zoned(TimeZone::fixed(offset));
            zoned.strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::cli) fn throttled() -> Status {
        serde_json::from_value(json!({
            "machine": "web1", "account": "acme", "plan": "edis", "interfaces": ["tap101i0", "tap101i1"],
            "state": "throttled", "since": "2026-11-20T09:00:00Z", "rule": "used 105%",
            "period": {
                "start": "2026-11-01T00:00:00+01:00", "end": "2026-12-01T00:00:00+01:00", "days_left": 11,
            },
            "direction": "sum", "used": 1_050_000_000_000_u64, "received": 700_000_000_000_u64,
            "sent": 350_000_000_000_u64, "exempt": 0,
            "allowance": 1_000_000_000_000_u64, "remaining": 0, "ratio": 1.05,
            "forecast": 1_400_000_000_000_u64, "flagged": false, "cancellable": true,
            "rate_limit_bits_per_second": 64_000, "cap_remaining": null,
            "next": {"rule": "used 110%", "at_bytes": 1_100_000_000_000_u64,
                     "at_time": "2026-11-22T09:00:00Z"},
            "pool": {"size": 10_000_000_000_000_u64, "left": 8_000_000_000_000_u64},
        }))
        .unwrap()
    }

    pub(in crate::cli) fn unlimited() -> Status {
        serde_json::from_value(json!({
            "machine": "db1", "account": null, "plan": null, "interfaces": [],
            "state": "normal", "since": "2026-11-01T00:00:00Z", "rule": null,
            "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z", "days_left": 1},
            "direction": "sum", "used": 999, "received": 999, "sent": 0, "exempt": 5, "allowance": null,
            "remaining": null, "ratio": null, "forecast": null, "flagged": true,
            "cancellable": false, "rate_limit_bits_per_second": null, "cap_remaining": null,
            "next": null,
        }))
        .unwrap()
    }

    #[test]
    fn the_table_aligns_figures_and_shows_what_is_not_there() {
        insta::assert_snapshot!(table(&[throttled(), unlimited()], Style::default()), @r#"
        MACHINE  PLAN  STATE                USED  ALLOWANCE  USED %  REMAINING  FORECAST  DAYS LEFT  INTERFACES
        web1     edis  throttled         1.05 TB       1 TB   105 %        0 B    1.4 TB         11  tap101i0 tap101i1
        db1      -     normal (flagged)    999 B  unlimited                  -         -          1  -
        "#);
    }

    #[test]
    fn a_terminal_gets_the_state_in_its_colour_and_a_pipe_does_not() {
        let coloured = table(&[throttled()], Style { colour: true });
        assert!(coloured.contains("\x1b["), "{coloured:?}");
        assert!(!table(&[throttled()], Style::default()).contains('\x1b'));
        assert!(!card(&throttled(), Style::default()).contains('\x1b'));
    }

    #[test]
    fn the_card_says_all_there_is_to_say_of_a_throttled_machine() {
        insta::assert_snapshot!(card(&throttled(), Style::default()), @r#"
        web1  throttled since 2026-11-20 10:00:00+01:00, by the rule `used 105%`

                plan  edis
             account  acme
          interfaces  tap101i0, tap101i1
              period  2026-11-01 00:00:00+01:00 to 2026-12-01 00:00:00+01:00
              refill  in 11 days
                used  1.05 TB of 1 TB, 105 %
                      [########################################]
            received  700 GB
                sent  350 GB
           remaining  0 B
          rate limit  64 kbit/s each way
            forecast  1.4 TB at the period's end, 140 %
                pool  8 TB left of 10 TB, 80 %
                next  `used 110%` at 1.1 TB, 2026-11-22 10:00:00+01:00
        "#);
    }

    #[test]
    fn the_card_of_an_unlimited_machine_has_no_bar() {
        insta::assert_snapshot!(card(&unlimited(), Style::default()), @r#"
        db1  normal since 2026-11-01 00:00:00Z

                plan  none
             account  none
          interfaces  none on this node
              period  2026-11-01 00:00:00Z to 2026-12-01 00:00:00Z
              refill  in 1 day
                used  999 B of an unlimited allowance
            received  999 B
                sent  0 B
              exempt  5 B
             flagged  yes: more used than has accrued so far
         cancellable  no: a bill is unpaid (`meterd invoices`)
        "#);
    }
}
