//! Slots, their owners and their cursors.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, Row, params};

use super::{
    BootId, CounterId, Generation, InterfaceId, MapSetId, Reading, Shaped, Slot, SlotOwner,
    SlotRecord, cursor,
    memory::{MachineKey, Memory},
    settled,
    value::{self, Unsigned},
};
use crate::engine::units::Traffic;

/// A [`CounterId`] with the number of its boot instead of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SlotKey {
    boot: i64,
    map_set: MapSetId,
    slot: Slot,
    generation: Generation,
}

impl SlotKey {
    fn of(counter: &CounterId, boot: i64) -> Self {
        Self {
            boot,
            map_set: counter.map_set,
            slot: counter.slot,
            generation: counter.generation,
        }
    }
}

const COLUMNS: &str = "slot.id, slot.boot, slot.map_set, slot.slot, slot.generation, \
     machine.name, slot.netns, slot.ifindex, slot.name, \
     base_received, base_sent, base_exempt, base_packets_received, base_packets_sent, \
     base_frames_received, base_frames_sent, base_shaped_received, base_shaped_sent, \
     credit_received, credit_sent, credit_exempt, credits";

/// Rows of slots, with their owners.
const FROM: &str = "FROM slot JOIN machine ON machine.id = slot.machine";

/// A slot's row id, and whose it is.
fn owner(row: &Row<'_>, boots: &[(BootId, i64)]) -> rusqlite::Result<(i64, SlotKey, SlotOwner)> {
    let key = SlotKey {
        boot: row.get(1)?,
        map_set: MapSetId(unsigned(row, 2)?),
        slot: Slot(row.get(3)?),
        generation: Generation(row.get(4)?),
    };
    let boot = boots.iter().find(|(_, id)| *id == key.boot);
    let credit = row.get::<_, Option<Unsigned>>(18)?;
    let owner = SlotOwner {
        counter: CounterId {
            boot: boot
                .map(|(boot, _)| boot.clone())
                .ok_or_else(|| missing("boot"))?,
            map_set: key.map_set,
            slot: key.slot,
            generation: key.generation,
        },
        machine: row.get::<_, String>(5)?.as_str().into(),
        interface: InterfaceId {
            netns: unsigned(row, 6)?,
            ifindex: row.get(7)?,
        },
        name: row.get(8)?,
        base: reading(row, 9)?,
        credit: credit.map(|_| value::traffic(row, 18)).transpose()?,
        credits: row.get(21)?,
    };
    Ok((row.get(0)?, key, owner))
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(|Unsigned(number)| number)
}

fn reading(row: &Row<'_>, first: usize) -> rusqlite::Result<Reading> {
    Ok(Reading {
        traffic: value::traffic(row, first)?,
        packets: [unsigned(row, first + 3)?, unsigned(row, first + 4)?],
        frames: [value::bytes(row, first + 5)?, value::bytes(row, first + 6)?],
        shaped: [value::bytes(row, first + 7)?, value::bytes(row, first + 8)?],
    })
}

/// What the writer remembers of every slot.
pub(super) fn known(
    connection: &Connection,
    boots: &[(BootId, i64)],
) -> rusqlite::Result<HashMap<SlotKey, (i64, Arc<SlotOwner>)>> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} {FROM}"))?;
    statement
        .query_map([], |row| {
            let (id, key, owner) = owner(row, boots)?;
            Ok((key, (id, Arc::new(owner))))
        })?
        .collect()
}

/// Every slot that is not free, in the order in which they were handed out.
pub(super) fn all(connection: &Connection, memory: &Memory) -> rusqlite::Result<Vec<SlotRecord>> {
    let mut owners: HashMap<i64, &Arc<SlotOwner>> = HashMap::new();
    owners.extend(memory.slots.values().map(|(id, owner)| (*id, owner)));
    let mut statement = connection.prepare(
        "SELECT slot, received, sent, exempt, packets_received, packets_sent,
             frames_received, frames_sent, shaped_received, shaped_sent,
             ifb, through_received, through_sent
         FROM cursor ORDER BY slot",
    )?;
    statement
        .query_map([], |row| {
            let owner = owners.get(&row.get(0)?).ok_or_else(|| missing("owner"))?;
            let shaped = match row.get(10)? {
                Some(ifb) => Some(Shaped {
                    ifb,
                    through: [value::bytes(row, 11)?, value::bytes(row, 12)?],
                }),
                None => None,
            };
            Ok(SlotRecord {
                owner: Arc::clone(owner),
                cursor: reading(row, 1)?,
                shaped,
            })
        })?
        .collect()
}

fn missing(what: &str) -> rusqlite::Error {
    let cause = format!("a slot's {what} has no row");
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Integer, cause.into())
}

/// The newest generation of every slot of a map set.
pub(super) fn generations(
    connection: &Connection,
) -> rusqlite::Result<Vec<(MapSetId, Slot, Generation)>> {
    let mut statement = connection
        .prepare("SELECT map_set, slot, generation FROM generation ORDER BY map_set, slot")?;
    statement
        .query_map([], |row| {
            Ok((
                MapSetId(unsigned(row, 0)?),
                Slot(row.get(1)?),
                Generation(row.get(2)?),
            ))
        })?
        .collect()
}

/// A boot's number, given to it here where it has none.
pub(super) fn boot(
    connection: &Connection,
    memory: &mut Memory,
    boot: &BootId,
) -> rusqlite::Result<i64> {
    if let Some((_, id)) = memory.boots.iter().find(|(known, _)| known == boot) {
        return Ok(*id);
    }
    connection.execute("INSERT INTO boot (boot_id) VALUES (?1)", [&*boot.0])?;
    let id = connection.last_insert_rowid();
    memory.boots.push((boot.clone(), id));
    Ok(id)
}

/// Records where slots stand now.
pub(super) fn record(
    connection: &Connection,
    memory: &mut Memory,
    slots: &[SlotRecord],
) -> rusqlite::Result<()> {
    let mut cursor = connection.prepare_cached(
        "INSERT OR REPLACE INTO cursor VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
             ?11, ?12, ?13)",
    )?;
    for slot in slots {
        let id = fix(connection, memory, slot)?;
        let [received, sent, exempt] = value::columns(slot.cursor.traffic);
        cursor.execute(params![
            id,
            received,
            sent,
            exempt,
            Unsigned(slot.cursor.packets[0]),
            Unsigned(slot.cursor.packets[1]),
            Unsigned(slot.cursor.frames[0].0),
            Unsigned(slot.cursor.frames[1].0),
            Unsigned(slot.cursor.shaped[0].0),
            Unsigned(slot.cursor.shaped[1].0),
            slot.shaped.map(|shaped| shaped.ifb),
            slot.shaped.map(|shaped| Unsigned(shaped.through[0].0)),
            slot.shaped.map(|shaped| Unsigned(shaped.through[1].0)),
        ])?;
    }
    Ok(())
}

/// Writes whose it is where that changed; the slot's row id.
fn fix(connection: &Connection, memory: &mut Memory, slot: &SlotRecord) -> rusqlite::Result<i64> {
    let boot = boot(connection, memory, &slot.counter.boot)?;
    let key = SlotKey::of(&slot.counter, boot);
    let id = match memory.slots.get(&key) {
        Some((id, known)) if Arc::ptr_eq(known, &slot.owner) || **known == **slot => {
            return Ok(*id);
        }
        Some((id, _)) => Some(*id),
        None => None,
    };
    let machine = super::record::machine(connection, memory, &slot.machine)?;
    let [received, sent, exempt] = value::columns(slot.base.traffic);
    let credit = slot.credit.map(value::columns);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO slot VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
                 ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
        )?
        .execute(params![
            id,
            key.boot,
            Unsigned(key.map_set.0),
            key.slot.0,
            key.generation.0,
            machine.0,
            Unsigned(slot.interface.netns),
            slot.interface.ifindex,
            slot.name,
            received,
            sent,
            exempt,
            Unsigned(slot.base.packets[0]),
            Unsigned(slot.base.packets[1]),
            Unsigned(slot.base.frames[0].0),
            Unsigned(slot.base.frames[1].0),
            Unsigned(slot.base.shaped[0].0),
            Unsigned(slot.base.shaped[1].0),
            credit.map(|[received, _, _]| received),
            credit.map(|[_, sent, _]| sent),
            credit.map(|[_, _, exempt]| exempt),
            slot.credits,
        ])?;
    let id = match id {
        Some(id) => id,
        None => {
            let id = connection.last_insert_rowid();
            handed_out(connection, key)?;
            id
        }
    };
    memory.slots.insert(key, (id, Arc::clone(&slot.owner)));
    Ok(id)
}

/// Remembers the generation, so that it is not handed out again when the slot is free.
fn handed_out(connection: &Connection, key: SlotKey) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO generation VALUES (?1, ?2, ?3, ?4) ON CONFLICT (map_set, slot) DO UPDATE
             SET generation = max(generation, excluded.generation), boot = excluded.boot",
        )?
        .execute(params![
            Unsigned(key.map_set.0),
            key.slot.0,
            key.generation.0,
            key.boot,
        ])?;
    Ok(())
}

/// The row of a counter, where it is known.
pub(super) fn row(memory: &Memory, counter: &CounterId) -> Option<i64> {
    let (_, boot) = memory
        .boots
        .iter()
        .find(|(boot, _)| *boot == counter.boot)?;
    let (id, _) = memory.slots.get(&SlotKey::of(counter, *boot))?;
    Some(*id)
}

/// What a slot has counted since its base, and the credit: what its owner used by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) machine: MachineKey,
    pub(super) counted: Traffic,
    pub(super) credit: Traffic,
}

/// That of every slot, or of the one with a row id.
pub(super) fn used(connection: &Connection, only: Option<i64>) -> rusqlite::Result<Vec<Used>> {
    let mut statement = connection.prepare_cached(
        "SELECT slot.machine, credit_received, credit_sent, credit_exempt,
             base_received, base_sent, base_exempt, base_packets_received, base_packets_sent,
             base_frames_received, base_frames_sent, base_shaped_received, base_shaped_sent,
             received, sent, exempt, packets_received, packets_sent,
             frames_received, frames_sent, shaped_received, shaped_sent
         FROM slot JOIN cursor ON cursor.slot = slot.id WHERE ?1 IS NULL OR slot.id = ?1",
    )?;
    statement
        .query_map([only], |row| {
            let credit = row.get::<_, Option<Unsigned>>(1)?;
            let credit = credit.map(|_| value::traffic(row, 1)).transpose()?;
            let counted = cursor::counted(&reading(row, 4)?, &reading(row, 13)?);
            Ok(Used {
                machine: MachineKey(row.get(0)?),
                // Figures that contradict each other are nobody's: `verify` finds what lacks.
                counted: counted.unwrap_or(Traffic::ZERO),
                credit: credit.unwrap_or(Traffic::ZERO),
            })
        })?
        .collect()
}

/// Lets go of slots. One that is not known is free already.
pub(super) fn free(
    connection: &Connection,
    memory: &mut Memory,
    freed: &[CounterId],
) -> rusqlite::Result<()> {
    settled::settle(connection, memory, freed, settled::Of::Freed)?;
    for counter in freed {
        let boot = boot(connection, memory, &counter.boot)?;
        let key = SlotKey::of(counter, boot);
        if let Some((id, _)) = memory.slots.remove(&key) {
            for sql in [
                "DELETE FROM cursor WHERE slot = ?1",
                "DELETE FROM slot WHERE id = ?1",
            ] {
                connection.prepare_cached(sql)?.execute([id])?;
            }
        }
    }
    Ok(())
}
