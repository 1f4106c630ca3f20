//! Reading histories and events.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter, types::Value};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{
    CommandRecord, Resolution, UsageRow,
    memory::{Known, MachineKey, Open},
    rollup::{self, Span},
    value::{self, Instant},
};
use crate::engine::units::{MachineId, Traffic};

/// A history's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Minute,
    Hour,
    Day,
    Month,
}

/// Bits of a key that name the machine.
const MACHINE_BITS: u32 = 24;

impl Table {
    /// Finest first, in the order of their numbers.
    pub(super) const HISTORIES: [Self; 4] = [Self::Minute, Self::Hour, Self::Day, Self::Month];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    pub(super) const fn resolution(self) -> Resolution {
        match self {
            Self::Minute => Resolution::Minute,
            Self::Hour => Resolution::Hour,
            Self::Day => Resolution::Day,
            Self::Month => Resolution::Month,
        }
    }

    /// Seconds to one step of the key's time.
    const fn unit(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour | Self::Day | Self::Month => 1,
        }
    }

    /// The key of the row that starts then.
    pub(super) fn key(self, start: Timestamp, MachineKey(machine): MachineKey) -> i64 {
        pack(start.as_second().div_euclid(self.unit()), machine)
    }

    /// The least key of the rows that start at or after `at`.
    pub(super) fn from(self, at: Timestamp) -> i64 {
        let past = i64::from(at.subsec_nanosecond() > 0);
        let seconds = at.as_second() + past;
        pack(-(-seconds).div_euclid(self.unit()), 0)
    }

    /// A key's start and machine.
    pub(super) fn parts(self, key: i64) -> (Timestamp, MachineKey) {
        let (time, machine) = unpack(key);
        (rollup::second(time * self.unit()), MachineKey(machine))
    }
}

/// Years to 9999 in seconds take 38 bits of the 40 that a key has for them.
fn pack(time: i64, machine: i64) -> i64 {
    (time << MACHINE_BITS) | machine
}

fn unpack(key: i64) -> (i64, i64) {
    (key >> MACHINE_BITS, key & ((1 << MACHINE_BITS) - 1))
}

/// A row of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) span: Span,
    pub(super) traffic: Traffic,
}

/// A machine's rows that start in `[from, to)`, in order.
///
/// The keys begin with the time, so each step seeks the next time that any machine has a
/// row at: a month by day is some thirty seeks, whatever the number of machines.
pub(super) fn rows(
    connection: &Connection,
    table: Table,
    known: &Known,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> rusqlite::Result<Vec<Found>> {
    let MachineKey(wanted) = known.key;
    let end = to.map_or(i64::MAX, |to| table.from(to));
    let mut key = from.map_or(i64::MIN, |from| table.from(from));
    let mut next = connection.prepare_cached(&format!(
        "SELECT key, received, sent, exempt FROM {} WHERE key >= ?1 AND key < ?2
         ORDER BY key LIMIT 1",
        table.name()
    ))?;
    let mut found = Vec::new();
    loop {
        let row = next
            .query_row(params![key, end], |row| {
                Ok((row.get::<_, i64>(0)?, value::traffic(row, 1)?))
            })
            .optional()?;
        let Some((at, traffic)) = row else { break };
        let (time, machine) = unpack(at);
        key = if machine < wanted {
            pack(time, wanted)
        } else {
            pack(time + 1, wanted)
        };
        if machine == wanted {
            let (start, _) = table.parts(at);
            let span = known.zones.row(table.resolution(), start);
            found.push(Found { span, traffic });
        }
    }
    found.extend(open(table, known).filter(|row| {
        from.is_none_or(|from| row.span.start >= from) && to.is_none_or(|to| row.span.start < to)
    }));
    Ok(found)
}

/// The open bucket of a history, later than every row of its table.
pub(super) fn open(table: Table, known: &Known) -> Option<Found> {
    let Open { span, traffic } = known.open.as_ref()?[table as usize];
    Some(Found { span, traffic })
}

/// A machine's history at a resolution.
pub(super) fn usage(
    connection: &Connection,
    machine: &MachineId,
    by: Resolution,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> rusqlite::Result<Vec<UsageRow>> {
    let Some(known) = super::memory::machine(connection, machine)? else {
        return Ok(Vec::new());
    };
    let table = match by {
        Resolution::Minute => Table::Minute,
        Resolution::Hour => Table::Hour,
        Resolution::Day => Table::Day,
        Resolution::Month => Table::Month,
        Resolution::Period => return periods(connection, known.key, from, to),
    };
    let rows = rows(connection, table, &known, from, to)?;
    Ok(rows
        .into_iter()
        .map(|row| UsageRow {
            start: row.span.start,
            end: row.span.end,
            traffic: row.traffic,
        })
        .collect())
}

/// Periods that closed, and the one that runs.
pub(super) fn periods(
    connection: &Connection,
    MachineKey(machine): MachineKey,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> rusqlite::Result<Vec<UsageRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT period_start, period_end, received, sent, exempt FROM period WHERE machine = ?1
         UNION ALL
         SELECT period_start, period_end, received, sent, exempt FROM running WHERE machine = ?1
         ORDER BY period_start",
    )?;
    let rows = statement.query_map([machine], |row| {
        let (Instant(start), Instant(end)) = (row.get(0)?, row.get(1)?);
        let traffic = value::traffic(row, 2)?;
        Ok(UsageRow {
            start,
            end,
            traffic,
        })
    })?;
    rows.filter(|row| {
        row.as_ref().map_or(true, |row| {
            from.is_none_or(|from| row.start >= from) && to.is_none_or(|to| row.start < to)
        })
    })
    .collect()
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of one machine, or all.
    pub machine: Option<MachineId>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// With a sequence number above this (for following).
    pub after: Option<u64>,
    /// At most so many: the first ones from `since` or `after`; the newest where neither
    /// is given.
    pub limit: usize,
}

/// The events' lines with their sequence numbers, oldest first.
pub(super) fn events(
    connection: &Connection,
    filter: &EventFilter,
) -> rusqlite::Result<Vec<(u64, Box<RawValue>)>> {
    let mut conditions = vec!["1"];
    let mut values: Vec<Value> = Vec::new();
    if let Some(machine) = &filter.machine {
        conditions.push("machine = ?");
        values.push(machine.as_str().to_owned().into());
    }
    if let Some(since) = filter.since {
        conditions.push("time >= ?");
        // An instant beyond what is kept is after every event.
        let since = i64::try_from(since.as_nanosecond()).unwrap_or(i64::MAX);
        values.push(since.into());
    }
    if let Some(after) = filter.after {
        conditions.push("sequence > ?");
        values.push(i64::try_from(after).unwrap_or(i64::MAX).into());
    }
    values.push(i64::try_from(filter.limit).unwrap_or(i64::MAX).into());
    let newest = filter.since.is_none() && filter.after.is_none();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT sequence, body FROM event WHERE {} ORDER BY sequence {} LIMIT ?",
        conditions.join(" AND "),
        if newest { "DESC" } else { "ASC" },
    ))?;
    let rows = statement.query_map(params_from_iter(values), |row| {
        Ok((sequence(row.get(0)?), json(row.get(1)?)?))
    })?;
    let mut events: Vec<_> = rows.collect::<Result<_, _>>()?;
    if newest {
        events.reverse();
    }
    Ok(events)
}

/// Row ids of ours are never negative.
pub(super) fn sequence(row: i64) -> u64 {
    row.unsigned_abs()
}

/// What a text column holds.
pub(super) fn json<T: DeserializeOwned>(text: String) -> rusqlite::Result<T> {
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// What a command under this key was answered.
pub(super) fn answer(
    connection: &Connection,
    key: &str,
) -> rusqlite::Result<Option<CommandRecord>> {
    connection
        .prepare_cached("SELECT key, request, status, answer FROM command WHERE key = ?1")?
        .query_row([key], |row| {
            Ok(CommandRecord {
                key: row.get(0)?,
                request: row.get(1)?,
                status: row.get(2)?,
                answer: row.get(3)?,
            })
        })
        .optional()
}
