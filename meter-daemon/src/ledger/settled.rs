//! What slots had counted that count no more. With it, what the counters ever gave a machine
//! can be added up again, long after the slots are somebody else's: see [`super::verify`].

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::{
    CounterId,
    memory::{self, MachineKey, Memory},
    query::{Table, open},
    record,
    slots::{self, Used},
    value,
};
use crate::engine::units::{Bytes, Traffic};

/// Which slots are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Those that are let go of.
    Freed,
    /// Those whose counters fell: the credit stays with the slot.
    BegunAnew,
}

/// Adds what these slots had counted to what their owners have settled.
pub(super) fn settle(
    connection: &Connection,
    memory: &Memory,
    counters: &[CounterId],
    of: Of,
) -> rusqlite::Result<()> {
    for counter in counters {
        let Some(row) = slots::row(memory, counter) else {
            continue;
        };
        for Used {
            machine,
            counted,
            credit,
        } in slots::used(connection, Some(row))?
        {
            let used = match of {
                Of::Freed => counted + credit,
                Of::BegunAnew => counted,
            };
            add(connection, machine, used)?;
        }
    }
    Ok(())
}

fn add(
    connection: &Connection,
    MachineKey(machine): MachineKey,
    used: Traffic,
) -> rusqlite::Result<()> {
    if used.is_zero() {
        return Ok(());
    }
    let [received, sent, exempt] = value::columns(used);
    connection
        .prepare_cached(
            "INSERT INTO settled VALUES (?1, ?2, ?3, ?4) ON CONFLICT (machine) DO UPDATE SET
                 received = add_bytes(received, excluded.received),
                 sent = add_bytes(sent, excluded.sent),
                 exempt = add_bytes(exempt, excluded.exempt)",
        )?
        .execute(params![machine, received, sent, exempt])?;
    Ok(())
}

/// Sums by machine.
pub(super) type Sums = HashMap<MachineKey, Traffic>;

/// What the counters ever gave each machine, and what was brought in from elsewhere.
pub(super) fn credited(connection: &Connection) -> rusqlite::Result<Sums> {
    let mut sums = by_slots(connection)?;
    for table in ["settled", "seed"] {
        let mut statement = connection.prepare(&format!(
            "SELECT machine, received, sent, exempt FROM {table}"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            *sums.entry(MachineKey(row.get(0)?)).or_default() += value::traffic(row, 1)?;
        }
    }
    Ok(sums)
}

fn by_slots(connection: &Connection) -> rusqlite::Result<Sums> {
    let mut sums = Sums::new();
    for used in slots::used(connection, None)? {
        *sums.entry(used.machine).or_default() += used.counted + used.credit;
    }
    Ok(sums)
}

/// What each machine's months hold. They are kept for ever.
pub(super) fn months(connection: &Connection) -> rusqlite::Result<Sums> {
    let mut sums = Sums::new();
    let mut statement = connection.prepare("SELECT key, received, sent, exempt FROM month")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (_, key) = Table::Month.parts(row.get(0)?);
        *sums.entry(key).or_default() += value::traffic(row, 1)?;
    }
    for (_, known) in memory::machines(connection)? {
        if let Some(found) = open(Table::Month, &known) {
            *sums.entry(known.key).or_default() += found.traffic;
        }
    }
    Ok(sums)
}

/// For a ledger of version 1, which did not keep what freed slots had counted: whatever the
/// months hold that no slot accounts for is taken to be theirs.
pub(super) fn open_accounts(connection: &Connection) -> rusqlite::Result<()> {
    record::add_bytes(connection)?;
    let slots = by_slots(connection)?;
    for (machine, months) in months(connection)? {
        let slots = slots.get(&machine).copied().unwrap_or(Traffic::ZERO);
        let rest = |all: Bytes, part| all.saturating_sub(part);
        let settled = Traffic {
            received: rest(months.received, slots.received),
            sent: rest(months.sent, slots.sent),
            exempt: rest(months.exempt, slots.exempt),
        };
        add(connection, machine, settled)?;
    }
    Ok(())
}
