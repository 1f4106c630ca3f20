//! A batch into the tables, within one transaction of the caller's.

use jiff::{Timestamp, tz::TimeZone};
use rusqlite::{CachedStatement, Connection, params};

use super::{
    Batch, Usage,
    memory::{Known, MachineKey, Memory, Open},
    query::{Table, rows},
    rollup::{self, Zones},
    settled, slots,
    value::{Instant, Unsigned, columns},
};
use crate::engine::{
    record::{Changes, Running},
    units::{Bytes, MachineId, Traffic},
};

/// Everything of the batch.
pub(super) fn batch(
    connection: &Connection,
    memory: &mut Memory,
    batch: &Batch,
) -> rusqlite::Result<()> {
    settled::settle(connection, memory, &batch.anew, settled::Of::BegunAnew)?;
    // A slot's last cursor may come with its release.
    slots::record(connection, memory, &batch.slots)?;
    slots::free(connection, memory, &batch.freed)?;
    usage(connection, memory, &batch.usage)?;
    changes(connection, memory, &batch.changes)?;
    happened(connection, batch)?;
    noted(connection, memory, batch)?;
    connection
        .prepare_cached("UPDATE ledger SET recorded = ?1")?
        .execute([Instant(batch.at)])?;
    Ok(())
}

/// A machine's number, given to it here where it has none.
pub(super) fn machine(
    connection: &Connection,
    memory: &mut Memory,
    name: &MachineId,
) -> rusqlite::Result<MachineKey> {
    if let Some(known) = memory.machines.get(name) {
        return Ok(known.key);
    }
    connection
        .prepare_cached("INSERT INTO machine (name) VALUES (?1)")?
        .execute([name.as_str()])?;
    let key = MachineKey(connection.last_insert_rowid());
    let known = Known {
        key,
        zones: Zones::default(),
        open: None,
    };
    memory.machines.insert(name.clone(), known);
    Ok(key)
}

/// Adds to the histories' rows; sums are made by our own function, because SQLite's would
/// turn what is above `i64::MAX` into a float.
struct Adder<'connection>(CachedStatement<'connection>);

impl<'connection> Adder<'connection> {
    fn new(connection: &'connection Connection, table: Table) -> rusqlite::Result<Self> {
        let name = table.name();
        connection
            .prepare_cached(&format!(
                "INSERT INTO {name} VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET
                     received = add_bytes(received, excluded.received),
                     sent = add_bytes(sent, excluded.sent),
                     exempt = add_bytes(exempt, excluded.exempt)"
            ))
            .map(Self)
    }

    fn add(&mut self, key: i64, traffic: Traffic) -> rusqlite::Result<()> {
        let [received, sent, exempt] = columns(traffic);
        self.0.execute(params![key, received, sent, exempt])?;
        Ok(())
    }
}

/// The function that [`Adder`] uses.
pub(super) fn add_bytes(connection: &Connection) -> rusqlite::Result<()> {
    use rusqlite::functions::FunctionFlags;
    let flags = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_UTF8;
    connection.create_scalar_function("add_bytes", 2, flags, |context| {
        let (Unsigned(one), Unsigned(other)) = (context.get(0)?, context.get(1)?);
        Ok(Unsigned((Bytes(one) + Bytes(other)).0))
    })
}

/// New traffic into the open minute, hour, day and month of each machine.
fn usage(connection: &Connection, memory: &mut Memory, usage: &[Usage]) -> rusqlite::Result<()> {
    let mut over = Over::default();
    for usage in usage.iter().filter(|usage| !usage.traffic.is_zero()) {
        let key = machine(connection, memory, &usage.machine)?;
        if let Some(known) = memory.machines.get_mut(&usage.machine) {
            keep_zone(connection, known, usage)?;
            roll_up(known, usage, &mut over);
        }
        memory.touched.insert((key, usage.machine.clone()));
    }
    write(connection, memory, over)
}

/// Usage of the past, from elsewhere: as [`usage`], but in whatever zones the machine was,
/// and rows that begin before their resolution's horizon are left out. Where some were, the
/// horizon is theirs from now on.
pub(super) fn seeded(
    connection: &Connection,
    memory: &mut Memory,
    usage: &[Usage],
    horizons: [Timestamp; 3],
) -> rusqlite::Result<()> {
    let mut over = Over::default();
    for usage in usage {
        let key = machine(connection, memory, &usage.machine)?;
        if let Some(known) = memory.machines.get_mut(&usage.machine) {
            if known.zones.last().is_none() {
                keep_zone(connection, known, usage)?;
            }
            roll_up(known, usage, &mut over);
        }
        memory.touched.insert((key, usage.machine.clone()));
    }
    let columns = ["minutes_from", "hours_from", "days_from"];
    for (index, (horizon, column)) in horizons.into_iter().zip(columns).enumerate() {
        let (table, all) = (Table::HISTORIES[index], over[index].len());
        over[index].retain(|(key, _)| table.parts(*key).0 >= horizon);
        if over[index].len() < all {
            connection.execute(
                &format!("UPDATE ledger SET {column} = max(coalesce({column}, ?1), ?1)"),
                [Instant(horizon)],
            )?;
        }
    }
    write(connection, memory, over)
}

/// Rows that are over into their tables, and the open ones.
fn write(connection: &Connection, memory: &mut Memory, over: Over) -> rusqlite::Result<()> {
    for (table, mut rows) in Table::HISTORIES.into_iter().zip(over) {
        // In the order of the keys: rows of a new minute are then appended, which packs
        // pages full, instead of splitting them in half.
        rows.sort_unstable_by_key(|(key, _)| *key);
        let mut adder = Adder::new(connection, table)?;
        for (key, traffic) in rows {
            adder.add(key, traffic)?;
        }
    }
    write_open(connection, memory)
}

/// What no open bucket holds any more: keys and traffic for each history's table.
type Over = [Vec<(i64, Traffic)>; 4];

/// Into the open buckets; what is over, by a later bucket or in an earlier one, goes `over`.
fn roll_up(known: &mut Known, usage: &Usage, over: &mut Over) {
    let mut open = known
        .open
        .as_ref()
        .map(|open| open.map(Some))
        .unwrap_or_default();
    for (table, (open, over)) in Table::HISTORIES.into_iter().zip(open.iter_mut().zip(over)) {
        let current = *open;
        let bucket = |at| match current {
            Some(Open { span, .. }) if span.holds(at) => span,
            _ => known.zones.bucket(table.resolution(), at),
        };
        let key = known.key;
        rollup::split(usage, bucket, |span, traffic| match open {
            Some(current) if current.span.start == span.start => current.traffic += traffic,
            Some(current) if current.span.start > span.start => {
                over.push((table.key(span.start, key), traffic));
            }
            _ => {
                if let Some(done) = open.replace(Open { span, traffic }) {
                    over.push((table.key(done.span.start, key), done.traffic));
                }
            }
        });
    }
    if let [Some(minute), Some(hour), Some(day), Some(month)] = open {
        let now = [minute, hour, day, month];
        match &mut known.open {
            Some(open) => **open = now,
            none => *none = Some(Box::new(now)),
        }
    }
}

fn write_open(connection: &Connection, memory: &mut Memory) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO open VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,
             ?13, ?14, ?15, ?16, ?17)",
    )?;
    for (key, name) in std::mem::take(&mut memory.touched) {
        let Some(open) = memory
            .machines
            .get(&name)
            .and_then(|known| known.open.as_deref())
        else {
            continue;
        };
        statement.raw_bind_parameter(1, key.0)?;
        for (bucket, column) in open.iter().zip((2..).step_by(4)) {
            statement.raw_bind_parameter(column, bucket.span.start.as_second())?;
            for (bytes, column) in columns(bucket.traffic).into_iter().zip(column + 1..) {
                statement.raw_bind_parameter(column, bytes)?;
            }
        }
        statement.raw_execute()?;
    }
    Ok(())
}

/// Takes up the zone that a machine's buckets are in from now on, where it is another.
///
/// The change is cut at a whole minute behind everything recorded, so that rows of the old
/// zone and of the new one never overlap.
fn keep_zone(connection: &Connection, known: &mut Known, usage: &Usage) -> rusqlite::Result<()> {
    let since = match known.zones.last() {
        Some((_, zone)) if same(zone, &usage.zone) => return Ok(()),
        None => rollup::next_minute(usage.from.min(usage.to)),
        Some((earlier, _)) => {
            let recorded = rows(connection, Table::Minute, known, Some(usage.from), None)?;
            let behind = recorded.last().map_or(usage.from, |row| row.span.end);
            let since = rollup::next_minute(usage.from.max(behind));
            if since <= *earlier {
                // The clock was set back behind the last change: not before that is reached again.
                return Ok(());
            }
            since
        }
    };
    let text = rollup::zone_text(&usage.zone)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    connection
        .prepare_cached("INSERT INTO zone VALUES (?1, ?2, ?3)")?
        .execute(params![known.key.0, since.as_second(), text])?;
    known.zones.push(since, usage.zone.clone());
    // The change may cut the open buckets short.
    for (table, open) in Table::HISTORIES
        .into_iter()
        .zip(known.open.iter_mut().flat_map(|open| open.iter_mut()))
    {
        open.span = known.zones.row(table.resolution(), open.span.start);
    }
    Ok(())
}

/// Whether two zones are one: by name where they have one, because newer rules for a name
/// are no other zone.
fn same(one: &TimeZone, other: &TimeZone) -> bool {
    match (one.iana_name(), other.iana_name()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// The engine's state.
fn changes(
    connection: &Connection,
    memory: &mut Memory,
    changes: &Changes,
) -> rusqlite::Result<()> {
    let mut running = connection
        .prepare_cached("INSERT OR REPLACE INTO running VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    let mut state =
        connection.prepare_cached("INSERT OR REPLACE INTO machine_state VALUES (?1, ?2)")?;
    for change in &changes.machines {
        let key = machine(connection, memory, &change.machine)?;
        let Running {
            period_start,
            period_end,
            traffic,
            measured_to,
        } = change.running;
        let [received, sent, exempt] = columns(traffic);
        running.execute(params![
            key.0,
            Instant(period_start),
            Instant(period_end),
            Instant(measured_to),
            received,
            sent,
            exempt
        ])?;
        if let Some(text) = &change.state {
            state.execute(params![key.0, text])?;
        }
    }
    for (name, period) in &changes.closed {
        let key = machine(connection, memory, name)?;
        let [received, sent, exempt] = columns(period.traffic);
        connection
            .prepare_cached("INSERT OR REPLACE INTO period VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                key.0,
                Instant(period.period_start),
                Instant(period.period_end),
                received,
                sent,
                exempt
            ])?;
    }
    for (account, state) in &changes.accounts {
        connection
            .prepare_cached("INSERT OR REPLACE INTO account_state VALUES (?1, ?2)")?
            .execute(params![account.as_str(), state])?;
    }
    if let Some(state) = &changes.node {
        connection.execute("UPDATE ledger SET node_state = ?1", [state])?;
    }
    Ok(())
}

/// Events, their notices, and commands.
fn happened(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    for event in &batch.events {
        connection
            .prepare_cached(
                "INSERT INTO event (time, machine, account, name, body) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                Instant(event.time),
                event.machine.as_ref().map(MachineId::as_str),
                event.account.as_ref().map(|account| account.as_str()),
                event.name,
                event.body.to_string(),
            ])?;
        if let Some(id) = &event.notice {
            super::outbox::queue(connection, id, connection.last_insert_rowid())?;
        }
    }
    for command in &batch.commands {
        // The first answer stands: a batch that could never be recorded would be worse.
        connection
            .prepare_cached(
                "INSERT INTO command VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (key) DO NOTHING",
            )?
            .execute(params![
                command.key,
                command.request,
                command.status,
                command.answer,
                Instant(batch.at),
            ])?;
    }
    Ok(())
}

/// What the host wants to know again.
fn noted(connection: &Connection, memory: &mut Memory, batch: &Batch) -> rusqlite::Result<()> {
    for note in &batch.notes {
        match &note.value {
            Some(value) => connection
                .prepare_cached("INSERT OR REPLACE INTO host_note VALUES (?1, ?2)")?
                .execute([&note.key, value])?,
            None => connection
                .prepare_cached("DELETE FROM host_note WHERE key = ?1")?
                .execute([&note.key])?,
        };
    }
    if let Some(highest) = &batch.highest {
        let boot = slots::boot(connection, memory, &highest.boot)?;
        connection
            .prepare_cached(
                "INSERT INTO highest_ifindex VALUES (?1, ?2, ?3) ON CONFLICT (boot, netns)
                 DO UPDATE SET ifindex = max(ifindex, excluded.ifindex)",
            )?
            .execute(params![
                boot,
                Unsigned(highest.interface.netns),
                highest.interface.ifindex
            ])?;
    }
    Ok(())
}
