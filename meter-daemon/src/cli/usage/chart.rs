//! `usage --chart`: the running period from refill to refill, a day a column.

use jiff::{Timestamp, civil::Date, fmt::temporal::Pieces, tz::TimeZone};
use serde_json::Value;

use super::Row;
use crate::{
    cli::{
        Failure,
        chart::{Axis, Column, MARGIN, draw},
        client::{Client, path, understood},
        failure::Exit,
        out::{self, Side, Style, Table},
    },
    engine::{
        status::Status,
        units::{Bytes, Traffic},
    },
};

/// Characters a day.
const WIDTH: usize = 2;

/// Events that one question brings.
const PAGE: usize = 10_000;

/// The running period of a machine, as its chart shows it.
struct Period<'a> {
    status: &'a Status,
    /// The first day, and how many there are.
    first: Date,
    days: usize,
    /// Which of them is today's.
    today: usize,
    /// What was moved on each day that is not yet to come.
    moved: Vec<Traffic>,
    /// What there was to be used at the end of each day; None where that is not limited.
    available: Vec<Option<Bytes>>,
}

/// Asks the daemon for all that the chart shows, and draws it.
pub(super) fn chart(daemon: &Client, machine: &str, style: Style) -> Result<String, Failure> {
    let status = daemon.get(&path(&["v1", "machines", machine], &[]))?;
    let status: Status = understood(status, "status")?;
    let query = [
        ("by", Some("day".to_owned())),
        ("from", Some(status.period.start.clone())),
        ("to", Some(status.period.end.clone())),
    ];
    let rows = daemon.get(&path(&["v1", "machines", machine, "usage"], &query))?;
    let rows: Vec<Row> = understood(rows, "usage")?;
    let query = [
        ("machine", Some(machine.to_owned())),
        ("since", Some(status.period.start.clone())),
        ("limit", Some(PAGE.to_string())),
    ];
    let events = daemon.get(&path(&["v1", "events"], &query))?;
    let period = Period::new(&status, &rows, events.as_array().map_or(&[], Vec::as_slice));
    let period = period.ok_or_else(|| {
        Failure::new(
            Exit::SOFTWARE,
            "the daemon's answer is not understood: a period without days",
        )
    })?;
    Ok(period.render(style))
}

impl<'a> Period<'a> {
    fn new(status: &'a Status, rows: &[Row], events: &[Value]) -> Option<Self> {
        let (first, zone) = day_and_zone(&status.period.start)?;
        let (end, _) = day_and_zone(&status.period.end)?;
        let number = |day: Date| usize::try_from((day - first).get_days()).ok();
        let days = number(end)?.max(1);
        let left = usize::try_from(status.period.days_left).unwrap_or(0);
        let today = days.saturating_sub(left.max(1));
        let mut moved = vec![Traffic::default(); today + 1];
        for row in rows {
            let day = day_and_zone(&row.start).and_then(|(day, _)| number(day))?;
            if let Some(moved) = moved.get_mut(day) {
                *moved += row.traffic;
            }
        }
        // Every event of a machine says what there was to be used then.
        let told: Vec<_> = events
            .iter()
            .filter_map(|event| {
                let time: Timestamp = event.get("time")?.as_str()?.parse().ok()?;
                let volume = event.get("allowance")?.as_u64().map(Bytes);
                Some((number(time.to_zoned(zone.clone()).date())?, volume))
            })
            .collect();
        let at = |day| {
            told.iter()
                .rfind(|(when, _)| *when <= day)
                .map(|(_, volume)| *volume)
        };
        let begins = told.first().map_or(status.allowance, |(_, volume)| *volume);
        let available = (0..days).map(|day| {
            if day >= today {
                status.allowance
            } else {
                at(day).unwrap_or(begins)
            }
        });
        Some(Self {
            status,
            first,
            days,
            today,
            moved,
            available: available.collect(),
        })
    }

    /// What was used by the end of each day, as the plan counts it.
    fn used(&self) -> Vec<Bytes> {
        let mut all = Traffic::default();
        let by_then = self.moved.iter().map(|moved| {
            all += *moved;
            self.status.direction.counted(&all)
        });
        by_then.collect()
    }

    fn render(&self, style: Style) -> String {
        let used = self.used();
        let columns: Vec<_> = self
            .available
            .iter()
            .enumerate()
            .map(|(day, available)| Column {
                used: used.get(day).copied(),
                available: *available,
            })
            .collect();
        format!(
            "{} since {}, in {}\n\n{}{}\n{}",
            out::plain(self.status.machine.as_str()),
            self.first,
            "steps that double: █ used, ─ available",
            draw(&columns, Axis::Exponential, WIDTH),
            self.marker(),
            self.table(&used, style)
        )
    }

    /// Under the time axis: today, and how long the refill is off.
    fn marker(&self) -> String {
        let left = self.status.period.days_left;
        let text = format!(
            "{left} day{} to the refill",
            if left == 1 { "" } else { "s" }
        );
        let before = self.today * WIDTH;
        let room = self.days * WIDTH;
        if before + 2 + text.len() <= room {
            format!("{:>1$} {text}\n", '▲', MARGIN + before + 1)
        } else {
            format!("{:>1$} ▲\n", text, MARGIN + before - 1)
        }
    }

    /// A reading a day.
    fn table(&self, used: &[Bytes], style: Style) -> String {
        let columns = [
            ("DAY", Side::Left),
            ("RECEIVED", Side::Right),
            ("SENT", Side::Right),
            ("USED", Side::Right),
            ("AVAILABLE", Side::Right),
            ("USED %", Side::Right),
        ];
        let mut table = Table::new(&columns, style);
        let mut day = self.first;
        for ((moved, used), available) in self.moved.iter().zip(used).zip(&self.available) {
            table.row([
                day.to_string(),
                moved.received.to_string(),
                moved.sent.to_string(),
                used.to_string(),
                out::volume(*available, "unlimited"),
                available
                    .map(|all| out::percent(*used, all))
                    .unwrap_or_default(),
            ]);
            day = day.tomorrow().unwrap_or(day);
        }
        table.render()
    }
}

/// The civil day of an instant by its own offset, and that offset.
fn day_and_zone(instant: &str) -> Option<(Date, TimeZone)> {
    let pieces = Pieces::parse(instant).ok()?;
    let offset = pieces.to_numeric_offset()?;
    Some((pieces.date(), TimeZone::fixed(offset)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::status::tests::throttled;

    fn row(day: u64) -> Row {
        serde_json::from_value(json!({
            "start": format!("2026-11-{day:02}T00:00:00+01:00"),
            "end": format!("2026-11-{:02}T00:00:00+01:00", day + 1),
            "received": 40_000_000_000_u64, "sent": 18_000_000_000_u64, "exempt": 0,
        }))
        .unwrap()
    }

    /// Topped up in the last minute of the 14th, by the machine's own offset.
    fn events() -> Vec<Value> {
        vec![
            json!({"time": "2026-10-31T23:00:00Z", "allowance": 700_000_000_000_u64}),
            json!({"time": "2026-11-05T12:00:00Z", "event": "link-down"}),
            json!({"time": "2026-11-14T22:59:00Z", "allowance": 1_000_000_000_000_u64}),
        ]
    }

    #[test]
    fn the_running_period_is_shown_from_refill_to_refill_with_a_reading_a_day() {
        let status = throttled();
        let rows: Vec<_> = [1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20]
            .map(row)
            .into();
        let period = Period::new(&status, &rows, &events()).unwrap();
        insta::assert_snapshot!(period.render(Style::default()), @r"
        web1 since 2026-11-01, in steps that double: █ used, ─ available

             1 TB │                          ──────────────────────────────────
        707.03 GB │──────────────────────────██████████████
           500 GB │                    ████████████████████
        353.51 GB │                ████████████████████████
           250 GB │        ████████████████████████████████
        176.75 GB │    ████████████████████████████████████
           125 GB │  ██████████████████████████████████████
         88.37 GB │  ██████████████████████████████████████
          62.5 GB │████████████████████████████████████████
         44.18 GB │████████████████████████████████████████
         31.25 GB │████████████████████████████████████████
         22.09 GB │████████████████████████████████████████
              0 B └────────────────────────────────────────────────────────────
                                   11 days to the refill ▲

        DAY         RECEIVED   SENT    USED  AVAILABLE  USED %
        2026-11-01     40 GB  18 GB   58 GB     700 GB   8.2 %
        2026-11-02     40 GB  18 GB  116 GB     700 GB  16.5 %
        2026-11-03     40 GB  18 GB  174 GB     700 GB  24.8 %
        2026-11-04       0 B    0 B  174 GB     700 GB  24.8 %
        2026-11-05     40 GB  18 GB  232 GB     700 GB  33.1 %
        2026-11-06       0 B    0 B  232 GB     700 GB  33.1 %
        2026-11-07       0 B    0 B  232 GB     700 GB  33.1 %
        2026-11-08     40 GB  18 GB  290 GB     700 GB  41.4 %
        2026-11-09     40 GB  18 GB  348 GB     700 GB  49.7 %
        2026-11-10     40 GB  18 GB  406 GB     700 GB    58 %
        2026-11-11     40 GB  18 GB  464 GB     700 GB  66.2 %
        2026-11-12     40 GB  18 GB  522 GB     700 GB  74.5 %
        2026-11-13     40 GB  18 GB  580 GB     700 GB  82.8 %
        2026-11-14     40 GB  18 GB  638 GB       1 TB  63.8 %
        2026-11-15     40 GB  18 GB  696 GB       1 TB  69.6 %
        2026-11-16     40 GB  18 GB  754 GB       1 TB  75.4 %
        2026-11-17     40 GB  18 GB  812 GB       1 TB  81.2 %
        2026-11-18       0 B    0 B  812 GB       1 TB  81.2 %
        2026-11-19     40 GB  18 GB  870 GB       1 TB    87 %
        2026-11-20     40 GB  18 GB  928 GB       1 TB  92.8 %
        ");
    }

    #[test]
    fn near_the_refill_the_marker_stands_behind_its_words() {
        let mut status = throttled();
        status.period.days_left = 1;
        let period = Period::new(&status, &[], &[]).unwrap();
        assert_eq!(period.today, 29);
        assert_eq!(
            period.marker().trim_end().chars().count(),
            MARGIN + 29 * WIDTH + 1
        );
        assert!(period.marker().contains("1 day to the refill ▲"));
    }

    #[test]
    fn without_events_what_is_available_now_always_was() {
        let status = throttled();
        let period = Period::new(&status, &[], &[]).unwrap();
        assert_eq!(period.available, [status.allowance; 30]);
        assert_eq!(period.used(), [Bytes::ZERO; 20]);
    }
}
