//! Notices that wait to be delivered. They are queued by the transaction that decided them
//! and leave when they were delivered or expired; an id is queued once, whatever happens.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{
    query::{json, sequence},
    value::Instant,
};

/// A notice that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// Derived from machine, period, rule and arming: the same on every attempt.
    pub id: String,
    /// Of its event.
    pub sequence: u64,
    /// When it was decided.
    pub time: Timestamp,
    /// Its event's line.
    pub body: serde_json::Value,
}

/// Queues the notice of an event, unless its id ever was.
pub(super) fn queue(connection: &Connection, id: &str, event: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO outbox (id, event) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id, event])?;
    Ok(())
}

/// The oldest that wait, at most so many.
pub(super) fn pending(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Queued>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, sequence, time, body FROM outbox JOIN event ON sequence = outbox.event
         WHERE settled IS NULL ORDER BY outbox.event LIMIT ?1",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([limit], |row| {
        let Instant(time) = row.get(2)?;
        Ok(Queued {
            id: row.get(0)?,
            sequence: sequence(row.get(1)?),
            time,
            body: json(row.get(3)?)?,
        })
    })?;
    rows.collect()
}

/// How many wait.
pub(super) fn waiting(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM outbox WHERE settled IS NULL")?
        .query_row([], |row| row.get(0).map(sequence))
}

/// Takes notices out of the queue. Their ids stay, so that none is queued again.
pub(super) fn settle(
    connection: &Connection,
    ids: &[String],
    at: Timestamp,
) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare_cached("UPDATE outbox SET settled = ?2 WHERE id = ?1 AND settled IS NULL")?;
    for id in ids {
        statement.execute(params![id, Instant(at)])?;
    }
    Ok(())
}
