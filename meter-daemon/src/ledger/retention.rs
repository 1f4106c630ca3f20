//! Forgetting: minutes first, then hours, then days. Months, periods and events stay.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};

use super::{Retention, query::Table, rollup, value::Instant};

/// Rows that one call deletes of a table at most, so that a commit stays short. A full
/// node's minute is 10 000, and the daemon calls every minute.
const AT_ONCE: i64 = 50_000;

/// What a call deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows.
    pub rows: usize,
    /// There is more to delete: call again soon.
    pub more: bool,
}

/// Deletes what is older than its retention, and what is of no use any more.
pub(super) fn prune(
    connection: &Connection,
    now: Timestamp,
    retention: &Retention,
) -> rusqlite::Result<Pruned> {
    let mut pruned = Pruned::default();
    for (table, kept, horizon) in [
        (Table::Minute, retention.minutes, "minutes_from"),
        (Table::Hour, retention.hours, "hours_from"),
        (Table::Day, retention.days, "days_from"),
    ] {
        let Ok(from) = now.checked_sub(kept).map(rollup::next_minute) else {
            continue;
        };
        let end = table.from(from);
        let name = table.name();
        // The key behind the last row that goes now, if some stay for the next call.
        let stop: Option<i64> = connection
            .prepare_cached(&format!(
                "SELECT key FROM {name} WHERE key < ?1 ORDER BY key LIMIT 1 OFFSET {AT_ONCE}"
            ))?
            .query_row([end], |row| row.get(0))
            .optional()?;
        pruned.more |= stop.is_some();
        let deleted = connection
            .prepare_cached(&format!("DELETE FROM {name} WHERE key < ?1"))?
            .execute([stop.unwrap_or(end)])?;
        pruned.rows += deleted;
        if deleted > 0 {
            // Only ever forward: a clock set back brings nothing back.
            connection
                .prepare_cached(&format!(
                    "UPDATE ledger SET {horizon} = max(coalesce({horizon}, ?1), ?1)"
                ))?
                .execute([Instant(from)])?;
        }
    }
    // Maps do not outlive their boot: generations of earlier boots guard nothing once their
    // slots are free.
    pruned.rows += connection
        .prepare_cached(
            "DELETE FROM generation WHERE boot < (SELECT max(boot) FROM generation)
             AND NOT EXISTS (SELECT 1 FROM slot WHERE slot.map_set = generation.map_set)",
        )?
        .execute([])?;
    Ok(pruned)
}

/// From when on each of minutes, hours and days is still whole.
pub(super) fn horizons(connection: &Connection) -> rusqlite::Result<[Timestamp; 3]> {
    connection.query_row(
        "SELECT minutes_from, hours_from, days_from FROM ledger",
        [],
        |row| {
            let from = |column| {
                let from: Option<Instant> = row.get(column)?;
                Ok::<_, rusqlite::Error>(from.map_or(Timestamp::MIN, |Instant(from)| from))
            };
            Ok([from(0)?, from(1)?, from(2)?])
        },
    )
}
