//! Forgetting a machine: its history and state go; events, bills and transactions stay.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::{
    memory::{self, Known, Memory},
    query::{Table, periods, rows},
    statement,
};
use crate::engine::units::{MachineId, Traffic};

/// What a ledger holds of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holdings {
    /// In all its months.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// When its first month begins.
    pub first: Option<Timestamp>,
    /// When its last period ends.
    pub last: Option<Timestamp>,
    /// Closed periods and the running one.
    pub periods: u64,
    /// Interfaces whose counters are not closed.
    #[serde(skip)]
    pub slots: u64,
    /// What the engine kept.
    #[serde(skip)]
    pub state: Option<String>,
}

/// What there is; `None` where the machine is not known.
pub(super) fn holdings(
    connection: &Connection,
    machine: &MachineId,
) -> rusqlite::Result<Option<Holdings>> {
    let Some(known) = memory::machine(connection, machine)? else {
        return Ok(None);
    };
    let months = rows(connection, Table::Month, &known, None, None)?;
    let periods = periods(connection, known.key, None, None)?;
    let count = |sql: &str| connection.query_row(sql, [known.key.0], |row| row.get::<_, i64>(0));
    let state = connection
        .prepare_cached("SELECT state FROM machine_state WHERE machine = ?1")?
        .query_row([known.key.0], |row| row.get(0))
        .optional()?;
    Ok(Some(Holdings {
        traffic: months.iter().map(|month| month.traffic).sum(),
        first: months.first().map(|month| month.span.start),
        last: periods.last().map(|period| period.end),
        periods: periods.len() as u64,
        slots: count("SELECT count(*) FROM slot WHERE machine = ?1")?.unsigned_abs(),
        state,
    }))
}

/// Deletes it all, within a transaction of the caller's.
pub(super) fn forget(
    connection: &Connection,
    memory: &mut Memory,
    machine: &MachineId,
) -> rusqlite::Result<()> {
    let Some(known) = memory::machine(connection, machine)? else {
        return Ok(());
    };
    statement::keep_end(connection, known.key, machine)?;
    for table in Table::HISTORIES {
        delete_rows(connection, table, &known)?;
    }
    for table in [
        "zone",
        "open",
        "running",
        "period",
        "machine_state",
        "settled",
        "seed",
    ] {
        connection.execute(
            &format!("DELETE FROM {table} WHERE machine = ?1"),
            [known.key.0],
        )?;
    }
    connection.execute("DELETE FROM machine WHERE id = ?1", [known.key.0])?;
    memory.machines.remove(machine);
    memory.touched.retain(|(key, _)| *key != known.key);
    Ok(())
}

/// By key, as they are found: a statement over all would read every machine's rows.
fn delete_rows(connection: &Connection, table: Table, known: &Known) -> rusqlite::Result<()> {
    let mut delete =
        connection.prepare_cached(&format!("DELETE FROM {} WHERE key = ?1", table.name()))?;
    for found in rows(connection, table, known, None, None)? {
        delete.execute(params![table.key(found.span.start, known.key)])?;
    }
    Ok(())
}
