//! Usage that was measured elsewhere, before a machine moved in: part of its history, and of
//! the law that the history adds up.

use jiff::{Timestamp, tz::TimeZone};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::{
    Retention, Usage,
    memory::{self, Known, Memory},
    query::{Found, Table, periods, rows},
    record,
    retention::horizons,
    rollup,
    statement::{Hash, Hex, digest},
    value::{Instant, columns},
};
use crate::engine::units::{Bytes, MachineId, Traffic};

/// Bytes of a span `(from, to]`, evenly spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedRow {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// By the guest.
    pub received: Bytes,
    /// By the guest.
    pub sent: Bytes,
}

impl SeedRow {
    /// What moved.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        Traffic {
            received: self.received,
            sent: self.sent,
            exempt: Bytes::ZERO,
        }
    }
}

/// What is brought in.
#[derive(Clone, Debug, PartialEq)]
pub struct Seed {
    /// Whose.
    pub machine: MachineId,
    /// Whose hours, days and months they are, where the machine has none yet.
    pub zone: TimeZone,
    /// In order, not overlapping, each with traffic.
    pub rows: Vec<SeedRow>,
    /// Where it is from: a file's name.
    pub source: String,
    /// Who brought it in.
    pub author: String,
}

impl Seed {
    /// All of it.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.rows.iter().map(SeedRow::traffic).sum()
    }

    /// Names the rows, whatever file they came in.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let mut text = String::new();
        for row in &self.rows {
            let SeedRow {
                from,
                to,
                received: Bytes(received),
                sent: Bytes(sent),
            } = row;
            text += &format!("{from} {to} {received} {sent}\n");
        }
        Hex(digest(text.as_bytes()))
    }

    /// From where to where it reaches.
    #[must_use]
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.rows.first()?.from, self.rows.last()?.to))
    }
}

/// Overlaps that are told.
const TOLD: usize = 5;

/// Why a seed cannot be taken, if it cannot.
pub(super) fn refusal(connection: &Connection, seed: &Seed) -> rusqlite::Result<Option<String>> {
    let Some(known) = memory::machine(connection, &seed.machine)? else {
        return Ok(None);
    };
    if let Some((time, author, source)) = earlier(connection, &known, seed)? {
        return Ok(Some(format!(
            "the same rows were imported already, at {time} by {author} from {source}; nothing was \
             changed"
        )));
    }
    let Some((from, to)) = seed.span() else {
        return Ok(None);
    };
    for period in periods(connection, known.key, None, Some(to))? {
        let is_closed = is_closed(connection, &known, period.start)?;
        let within = |row: &&SeedRow| row.from < period.end && row.to > period.start;
        if is_closed && let Some(row) = seed.rows.iter().find(within) {
            return Ok(Some(format!(
                "the row from {} to {} reaches into the period from {} to {}, which is closed: its \
                 statement stands. Leave out what is in it",
                row.from, row.to, period.start, period.end
            )));
        }
    }
    overlaps(connection, &known, seed, from, to)
}

fn earlier(
    connection: &Connection,
    known: &Known,
    seed: &Seed,
) -> rusqlite::Result<Option<(Timestamp, String, String)>> {
    connection
        .query_row(
            "SELECT time, author, source FROM seed WHERE machine = ?1 AND digest = ?2",
            params![known.key.0, seed.digest().to_string()],
            |row| {
                let Instant(time) = row.get(0)?;
                Ok((time, row.get(1)?, row.get(2)?))
            },
        )
        .optional()
}

fn is_closed(connection: &Connection, known: &Known, start: Timestamp) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM period WHERE machine = ?1 AND period_start = ?2")?
        .exists(params![known.key.0, Instant(start)])
}

/// Rows that reach into time of which something is recorded.
fn overlaps(
    connection: &Connection,
    known: &Known,
    seed: &Seed,
    from: Timestamp,
    to: Timestamp,
) -> rusqlite::Result<Option<String>> {
    let recorded = recorded(connection, known, from, to)?;
    let mut told = Vec::new();
    let mut count = 0;
    for (number, row) in (1..).zip(&seed.rows) {
        // Both in order, none overlapping: the first that ends behind the row's beginning.
        let next = recorded.partition_point(|found| found.span.end <= row.from);
        let Some(found) = recorded.get(next).filter(|found| found.span.start < row.to) else {
            continue;
        };
        count += 1;
        if told.len() < TOLD {
            let (received, sent) = (found.traffic.received.0, found.traffic.sent.0);
            told.push(format!(
                "row {number} ({} to {}): {received} B received and {sent} B sent are recorded from \
                 {} to {}",
                row.from, row.to, found.span.start, found.span.end
            ));
        }
    }
    if count == 0 {
        return Ok(None);
    }
    let more = match count - told.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Ok(Some(format!(
        "{count} of {} rows are of time that is recorded already, and would count twice: {}{more}. \
         Leave them out",
        seed.rows.len(),
        told.join("; ")
    )))
}

/// What is recorded between two instants, each part in the finest rows that are still whole.
fn recorded(
    connection: &Connection,
    known: &Known,
    from: Timestamp,
    to: Timestamp,
) -> rusqlite::Result<Vec<Found>> {
    let [minutes, hours, days] = horizons(connection)?;
    let mut all = Vec::new();
    for (table, since, until) in [
        (Table::Month, Timestamp::MIN, days),
        (Table::Day, days, hours),
        (Table::Hour, hours, minutes),
        (Table::Minute, minutes, Timestamp::MAX),
    ] {
        // The row that `from` falls into began before it.
        let first = known
            .zones
            .bucket(table.resolution(), from)
            .start
            .max(since);
        let end = to.min(until);
        if first < end {
            all.extend(rows(connection, table, known, Some(first), Some(end))?);
        }
    }
    Ok(all)
}

/// Writes it, within a transaction of the caller's. Rows of a resolution that are past their
/// retention are left out: they would be deleted at once.
pub(super) fn record(
    connection: &Connection,
    memory: &mut Memory,
    seed: &Seed,
    at: Timestamp,
    retention: &Retention,
) -> rusqlite::Result<()> {
    let Some((first, last)) = seed.span() else {
        return Ok(());
    };
    let usage: Vec<Usage> = seed
        .rows
        .iter()
        .map(|row| Usage {
            machine: seed.machine.clone(),
            zone: seed.zone.clone(),
            from: row.from,
            to: row.to,
            traffic: row.traffic(),
        })
        .collect();
    let kept = [retention.minutes, retention.hours, retention.days];
    let kept = kept.map(|kept| {
        at.checked_sub(kept)
            .map_or(Timestamp::MIN, rollup::next_minute)
    });
    let known = horizons(connection)?;
    let horizons = [0, 1, 2].map(|index| known[index].max(kept[index]));
    record::seeded(connection, memory, &usage, horizons)?;
    let key = record::machine(connection, memory, &seed.machine)?;
    let [received, sent, exempt] = columns(seed.traffic());
    connection.execute(
        "INSERT INTO seed (machine, digest, time, author, source, first, last, received, sent, exempt)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            key.0,
            seed.digest().to_string(),
            Instant(at),
            seed.author,
            seed.source,
            Instant(first),
            Instant(last),
            received,
            sent,
            exempt
        ],
    )?;
    Ok(())
}
