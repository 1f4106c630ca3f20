//! What the writer knows of the tables without asking them: ids, zones, and the minute,
//! hour, day and month that each machine is in. Read at start, and again after a failure.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use rusqlite::{Connection, Row};

use super::{
    BootId, SlotOwner,
    error::UnknownZone,
    query::Table,
    rollup::{self, Span, Zones},
    slots::SlotKey,
    value,
};
use crate::engine::units::{MachineId, Traffic};

/// A machine by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct MachineKey(pub(super) i64);

/// The newest bucket of a resolution, which still grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) span: Span,
    pub(super) traffic: Traffic,
}

/// What is known of a machine.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) key: MachineKey,
    pub(super) zones: Zones,
    /// One of each of [`Table::HISTORIES`]; absent until the first traffic.
    /// Apart, as a table of them has many free places.
    pub(super) open: Option<Box<[Open; 4]>>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) machines: HashMap<MachineId, Known>,
    pub(super) boots: Vec<(BootId, i64)>,
    pub(super) slots: HashMap<SlotKey, (i64, Arc<SlotOwner>)>,
    /// Machines whose open row is to be written at the end of the batch, in order of their
    /// numbers so that the pages are visited in order.
    pub(super) touched: BTreeSet<(MachineKey, MachineId)>,
}

impl Memory {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut boots = connection.prepare("SELECT boot_id, id FROM boot")?;
        let boots = boots.query_map([], |row| {
            Ok((BootId(row.get::<_, String>(0)?.into()), row.get(1)?))
        })?;
        let boots: Vec<_> = boots.collect::<Result<_, _>>()?;
        Ok(Self {
            machines: machines(connection)?.into_iter().collect(),
            slots: super::slots::known(connection, &boots)?,
            boots,
            touched: BTreeSet::new(),
        })
    }
}

/// Every machine with its zones and open buckets, in order of their numbers.
pub(super) fn machines(connection: &Connection) -> rusqlite::Result<Vec<(MachineId, Known)>> {
    let mut zones: HashMap<i64, Zones> = HashMap::new();
    let mut statement =
        connection.prepare("SELECT machine, since, name FROM zone ORDER BY machine, since")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (since, zone) = zone(row, 1)?;
        zones.entry(row.get(0)?).or_default().push(since, zone);
    }
    let mut statement = connection.prepare(
        "SELECT id, name, open.* FROM machine LEFT JOIN open ON open.machine = machine.id
         ORDER BY id",
    )?;
    statement
        .query_map([], |row| {
            let key = row.get(0)?;
            let zones = zones.remove(&key).unwrap_or_default();
            let known = Known {
                key: MachineKey(key),
                open: open(row, 3, &zones)?,
                zones,
            };
            Ok((MachineId::from(row.get::<_, String>(1)?), known))
        })?
        .collect()
}

/// One machine, if it is known.
pub(super) fn machine(
    connection: &Connection,
    name: &MachineId,
) -> rusqlite::Result<Option<Known>> {
    use rusqlite::OptionalExtension as _;
    let id: Option<i64> = connection
        .prepare_cached("SELECT id FROM machine WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    let Some(id) = id else {
        return Ok(None);
    };
    let mut zones = Zones::default();
    let mut statement = connection.prepare_cached(
        "SELECT machine, since, name FROM zone WHERE machine = ?1 ORDER BY since",
    )?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        let (since, zone) = zone(row, 1)?;
        zones.push(since, zone);
    }
    let open = connection
        .prepare_cached("SELECT * FROM open WHERE machine = ?1")?
        .query_row([id], |row| open(row, 1, &zones))
        .optional()?
        .flatten();
    Ok(Some(Known {
        key: MachineKey(id),
        zones,
        open,
    }))
}

fn zone(row: &Row<'_>, column: usize) -> rusqlite::Result<(Timestamp, jiff::tz::TimeZone)> {
    let since = rollup::second(row.get(column)?);
    let zone =
        rollup::zone_from(&row.get::<_, String>(column + 1)?).map_err(|unknown: UnknownZone| {
            let text = rusqlite::types::Type::Text;
            rusqlite::Error::FromSqlConversionFailure(column + 1, text, Box::new(unknown))
        })?;
    Ok((since, zone))
}

/// Of each history a start and a traffic, from `column` on; NULL where nothing is open.
fn open(row: &Row<'_>, column: usize, zones: &Zones) -> rusqlite::Result<Option<Box<[Open; 4]>>> {
    if row.get::<_, Option<i64>>(column)?.is_none() {
        return Ok(None);
    }
    let one = |index: usize| {
        let column = column + index * 4;
        let start = rollup::second(row.get(column)?);
        Ok::<_, rusqlite::Error>(Open {
            span: zones.row(Table::HISTORIES[index].resolution(), start),
            traffic: value::traffic(row, column + 1)?,
        })
    };
    Ok(Some(Box::new([one(0)?, one(1)?, one(2)?, one(3)?])))
}
