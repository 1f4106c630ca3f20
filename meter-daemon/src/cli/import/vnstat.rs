//! What `vnstat --json` prints (version 2; version 1 counts in KiB), as rows that do not
//! overlap: the finest that there are, and what they lack of the coarser ones before them.

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use serde::Deserialize;

use crate::{engine::units::Bytes, ledger::SeedRow};

#[derive(Debug, Deserialize)]
struct File {
    jsonversion: String,
    interfaces: Vec<Interface>,
}

/// One interface's history.
#[derive(Debug, Deserialize)]
pub(super) struct Interface {
    pub(super) name: String,
    created: Instant,
    updated: Instant,
    traffic: Lists,
    /// Bytes of what it counts in.
    #[serde(skip)]
    unit: u64,
}

/// vnStat leaves out a list that is switched off.
#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Lists {
    year: Vec<Entry>,
    month: Vec<Entry>,
    day: Vec<Entry>,
    hour: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Entry {
    #[serde(flatten)]
    start: Instant,
    rx: u64,
    tx: u64,
}

/// A local date and time, and since 2.7 the instant.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Instant {
    date: Date,
    time: Option<Time>,
    timestamp: Option<i64>,
}

/// Years have no month, months no day.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Date {
    year: i16,
    month: Option<i8>,
    day: Option<i8>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Time {
    hour: i8,
    minute: i8,
}

impl Instant {
    fn civil(&self) -> Result<civil::DateTime, String> {
        let Date { year, month, day } = self.date;
        let time = self.time.unwrap_or(Time { hour: 0, minute: 0 });
        civil::DateTime::new(
            year,
            month.unwrap_or(1),
            day.unwrap_or(1),
            time.hour,
            time.minute,
            0,
            0,
        )
        .map_err(|error| format!("no date: {error}"))
    }

    /// When that is.
    fn at(&self, zone: &TimeZone) -> Result<Timestamp, String> {
        match self.timestamp.map(Timestamp::from_second) {
            Some(said) => said.map_err(|error| error.to_string()),
            None => zone
                .to_timestamp(self.civil()?)
                .map_err(|error| error.to_string()),
        }
    }

    /// When a row begins. Where vnStat says so itself, the zone must agree.
    fn beginning(&self, zone: &TimeZone) -> Result<Timestamp, String> {
        let (at, civil) = (self.at(zone)?, self.civil()?);
        if zone.to_datetime(at) == civil {
            return Ok(at);
        }
        let name = zone.iana_name().unwrap_or("given");
        Err(format!(
            "its row of {civil} began at {at}, which it did not in the zone {name}; give vnStat's \
             own with --time-zone"
        ))
    }
}

/// A list's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Year,
    Month,
    Day,
    Hour,
}

impl Interface {
    /// The one of that name, or the only one.
    pub(super) fn read(text: &str, wanted: Option<&str>) -> Result<Self, String> {
        let file: File = serde_json::from_str(text)
            .map_err(|error| format!("not what `vnstat --json` prints: {error}"))?;
        let unit = match file.jsonversion.as_str() {
            "1" => 1024,
            "2" => 1,
            other => {
                return Err(format!(
                    "version {other} of vnStat's JSON is not known here"
                ));
            }
        };
        let names: Vec<_> = file.interfaces.iter().map(|it| it.name.clone()).collect();
        let mut found: Vec<_> = file
            .interfaces
            .into_iter()
            .filter(|interface| wanted.is_none_or(|wanted| interface.name == wanted))
            .collect();
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(Self { unit, ..one }),
            _ => Err(format!(
                "it has the interfaces {}; choose one with --interface",
                names.join(", ")
            )),
        }
    }

    /// Whether its name is one that hypervisors give to their end.
    pub(super) fn is_hosts_end(&self) -> bool {
        ["tap", "vnet", "veth", "fwpr", "fwln"]
            .iter()
            .any(|prefix| self.name.starts_with(prefix))
    }

    /// Everything it knows, as rows in order.
    pub(super) fn rows(&self, zone: Option<&TimeZone>) -> Result<Vec<SeedRow>, String> {
        let zone = match (zone, self.updated.timestamp) {
            (Some(zone), _) => zone.clone(),
            // Checked against every instant that it says.
            (None, Some(_)) => TimeZone::UTC,
            (None, None) => {
                return Err("give the zone of its days with --time-zone".to_owned());
            }
        };
        let lists = [
            self.list(&self.traffic.year, Step::Year, &zone)?,
            self.list(&self.traffic.month, Step::Month, &zone)?,
            self.list(&self.traffic.day, Step::Day, &zone)?,
            self.list(&self.traffic.hour, Step::Hour, &zone)?,
        ];
        let mut rows = Vec::new();
        let Some(coarsest) = lists.iter().position(|list| !list.is_empty()) else {
            return Err(format!("it has no history of {}", self.name));
        };
        // What is before the coarsest list's first entry is in no list.
        for row in &lists[coarsest] {
            expand(row, &lists[coarsest + 1..], &mut rows);
        }
        rows.retain(|row| !row.traffic().is_zero());
        Ok(rows)
    }

    fn list(&self, entries: &[Entry], step: Step, zone: &TimeZone) -> Result<Vec<SeedRow>, String> {
        let (created, updated) = (self.created.at(zone)?, self.updated.at(zone)?);
        let mut rows = Vec::new();
        for entry in entries {
            let from = entry.start.beginning(zone)?;
            let to = end(from, step, zone)?.min(updated);
            // What is before is nobody's: the first month and year begin with the interface.
            let from = match step {
                Step::Year | Step::Month => from.max(created.min(to)),
                Step::Day | Step::Hour => from,
            };
            if from < to {
                rows.push(SeedRow {
                    from,
                    to,
                    received: Bytes(entry.rx.saturating_mul(self.unit)),
                    sent: Bytes(entry.tx.saturating_mul(self.unit)),
                });
            }
        }
        rows.sort_by_key(|row| row.from);
        Ok(rows)
    }
}

fn end(start: Timestamp, step: Step, zone: &TimeZone) -> Result<Timestamp, String> {
    let wrong = |error: jiff::Error| error.to_string();
    let local = start.to_zoned(zone.clone());
    let next = match step {
        Step::Hour => return Ok(start + SignedDuration::from_hours(1)),
        Step::Day => local.date().tomorrow(),
        Step::Month => local.date().last_of_month().tomorrow(),
        Step::Year => local.date().last_of_year().tomorrow(),
    };
    let next = next.and_then(|date| date.to_zoned(zone.clone()));
    Ok(next.map_err(wrong)?.timestamp())
}

/// A row as its finer parts, where they and what is before them are the whole of it.
fn expand(row: &SeedRow, finer: &[Vec<SeedRow>], rows: &mut Vec<SeedRow>) {
    let Some((next, rest)) = finer.split_first() else {
        rows.push(*row);
        return;
    };
    let parts: Vec<SeedRow> = next
        .iter()
        .filter(|part| part.from >= row.from && part.to <= row.to)
        .copied()
        .collect();
    let sum = |of: fn(&SeedRow) -> Bytes| parts.iter().map(of).sum::<Bytes>();
    let lacking = row
        .received
        .checked_sub(sum(|part| part.received))
        .zip(row.sent.checked_sub(sum(|part| part.sent)));
    match (parts.first(), lacking) {
        (Some(_), Some((Bytes(0), Bytes(0)))) => {}
        (Some(first), Some((received, sent))) if first.from > row.from => rows.push(SeedRow {
            from: row.from,
            to: first.from,
            received,
            sent,
        }),
        _ => {
            rows.push(*row);
            return;
        }
    }
    for part in &parts {
        expand(part, rest, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::units::Traffic;

    /// Printed by vnStat 2.10.
    const PRINTED: &str = include_str!("vnstat-2.10.json");

    #[test]
    fn rows_do_not_overlap_and_are_what_vnstat_says_in_total() {
        let interface = Interface::read(PRINTED, Some("vnsrc")).unwrap();
        let rows = interface.rows(None).unwrap();
        for pair in rows.windows(2) {
            assert!(pair[0].to <= pair[1].from, "{pair:?}");
        }
        let file: serde_json::Value = serde_json::from_str(PRINTED).unwrap();
        let total = &file["interfaces"][0]["traffic"]["total"];
        let sum: Traffic = rows.iter().map(SeedRow::traffic).sum();
        assert_eq!(total["rx"].as_u64(), Some(sum.received.0));
        assert_eq!(total["tx"].as_u64(), Some(sum.sent.0));
    }

    #[test]
    fn another_zone_than_vnstats_is_noticed() {
        let interface = Interface::read(PRINTED, None).unwrap();
        let vienna = TimeZone::get("Europe/Vienna").unwrap();
        let error = interface.rows(Some(&vienna)).unwrap_err();
        assert!(error.contains("--time-zone"), "{error}");
    }

    #[test]
    fn what_finer_rows_lack_of_a_coarser_one_lies_before_them() {
        let row = |from: &str, to: &str, received| SeedRow {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            received: Bytes(received),
            sent: Bytes(1),
        };
        let month = row("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z", 100);
        let days = vec![
            row("2026-10-30T00:00:00Z", "2026-10-31T00:00:00Z", 30),
            row("2026-10-31T00:00:00Z", "2026-11-01T00:00:00Z", 20),
        ];
        let expanded = |month: SeedRow, days: Vec<SeedRow>| {
            let mut rows = Vec::new();
            expand(&month, &[days], &mut rows);
            rows
        };
        let month_of_three = SeedRow {
            sent: Bytes(3),
            ..month
        };
        let before = row("2026-10-01T00:00:00Z", "2026-10-30T00:00:00Z", 50);
        assert_eq!(
            expanded(month_of_three, days.clone()),
            [before, days[0], days[1]]
        );
        // More in the days than in the month: the month it is.
        assert_eq!(expanded(month, days), [month]);
        assert_eq!(expanded(month, Vec::new()), [month]);
    }
}
