//! What a start finds.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _};

use super::{
    BootId, Highest, InterfaceId, Remembered,
    memory::{Known, MachineKey, Memory},
    query::{self, Table},
    slots,
    value::{self, Instant, Unsigned},
};
use crate::engine::{
    record::{Hours, Kept, KeptMachine, Running},
    units::{AccountId, MachineId},
};

/// How far back the engine's forecast looks.
const RECENT: SignedDuration = SignedDuration::from_hours(72);

/// The machines in order of their numbers.
pub(super) type Machines<'a> = BTreeMap<MachineKey, (&'a MachineId, &'a Known)>;

/// Everything, some of which the writer knows already.
pub(super) fn all(connection: &Connection, memory: &Memory) -> rusqlite::Result<Remembered> {
    let (last, node) =
        connection.query_row("SELECT recorded, node_state FROM ledger", [], |row| {
            let recorded: Option<Instant> = row.get(0)?;
            Ok((recorded.map(|Instant(at)| at), row.get(1)?))
        })?;
    let machines: Machines<'_> = memory
        .machines
        .iter()
        .map(|(name, known)| (known.key, (name, known)))
        .collect();
    Ok(Remembered {
        slots: slots::all(connection, memory)?,
        generations: slots::generations(connection)?,
        highest: highest(connection, &memory.boots)?,
        notes: notes(connection)?,
        kept: Kept {
            machines: kept(connection, &machines, last)?,
            accounts: pairs(
                connection,
                "SELECT account, state FROM account_state ORDER BY account",
            )?
            .into_iter()
            .map(|(account, state)| (AccountId::from(account), state))
            .collect(),
            node,
        },
        last,
    })
}

pub(super) fn notes(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    pairs(connection, "SELECT key, value FROM host_note ORDER BY key")
}

fn pairs(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection.prepare(sql)?;
    statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn highest(connection: &Connection, boots: &[(BootId, i64)]) -> rusqlite::Result<Vec<Highest>> {
    let mut found = Vec::new();
    let mut statement = connection.prepare("SELECT boot, netns, ifindex FROM highest_ifindex")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let Unsigned(netns) = row.get(1)?;
        let ifindex = row.get(2)?;
        found.extend(
            boots
                .iter()
                .find(|(_, boot)| *boot == id)
                .map(|(boot, _)| Highest {
                    boot: boot.clone(),
                    interface: InterfaceId { netns, ifindex },
                }),
        );
    }
    Ok(found)
}

/// The engine's machines: those that it gave a state.
fn kept(
    connection: &Connection,
    machines: &Machines<'_>,
    last: Option<Timestamp>,
) -> rusqlite::Result<Vec<KeptMachine>> {
    let mut recent = recent(connection, machines, last)?;
    let mut statement = connection.prepare(
        "SELECT state, period_start, period_end, measured_to, received, sent, exempt
         FROM machine_state JOIN running USING (machine) WHERE machine = ?1",
    )?;
    let mut kept = Vec::new();
    for (key, (machine, _)) in machines {
        let row = statement.query_row([key.0], |row| {
            let (Instant(period_start), Instant(period_end)) = (row.get(1)?, row.get(2)?);
            let Instant(measured_to) = row.get(3)?;
            let running = Running {
                period_start,
                period_end,
                traffic: value::traffic(row, 4)?,
                measured_to,
            };
            Ok((row.get(0)?, running))
        });
        if let Some((state, running)) = row.optional()? {
            kept.push(KeptMachine {
                machine: (*machine).clone(),
                state,
                running,
                recent: recent.remove(key).unwrap_or_default(),
            });
        }
    }
    Ok(kept)
}

/// Each machine's hours of the last three days before the last batch.
fn recent(
    connection: &Connection,
    machines: &Machines<'_>,
    last: Option<Timestamp>,
) -> rusqlite::Result<HashMap<MachineKey, Hours>> {
    let mut recent: HashMap<MachineKey, Hours> = HashMap::new();
    let Some(since) = last.and_then(|last| last.checked_sub(RECENT).ok()) else {
        return Ok(recent);
    };
    // An hour that began before may reach into them.
    let from = since
        .saturating_sub(SignedDuration::from_hours(1))
        .unwrap_or(since);
    let mut statement = connection
        .prepare("SELECT key, received, sent, exempt FROM hour WHERE key >= ?1 ORDER BY key")?;
    let mut rows = statement.query([Table::Hour.from(from)])?;
    while let Some(row) = rows.next()? {
        let (start, key) = Table::Hour.parts(row.get(0)?);
        let Some((_, known)) = machines.get(&key) else {
            continue;
        };
        let span = known.zones.row(super::Resolution::Hour, start);
        if span.end > since {
            let traffic = value::traffic(row, 1)?;
            let hours = recent.entry(key).or_default();
            hours.push(span.start, span.end, &traffic);
        }
    }
    for (key, (_, known)) in machines {
        let open = query::open(Table::Hour, known).filter(|open| open.span.end > since);
        if let Some(open) = open {
            let hours = recent.entry(*key).or_default();
            hours.push(open.span.start, open.span.end, &open.traffic);
        }
    }
    Ok(recent)
}
