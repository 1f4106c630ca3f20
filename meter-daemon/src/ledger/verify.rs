//! Conservation: every hour is the sum of its minutes, every day of its hours, every month
//! of its days, and every period of its days, to the byte, wherever all parts are still kept;
//! and all of a machine's months are what its counters gave and what was brought in.

use std::{collections::HashMap, fmt};

use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    Resolution,
    memory::{Known, MachineKey, machines},
    query::{Found, Table, open, periods, rows},
    retention::horizons,
    rollup::Span,
    settled, value,
};
use crate::engine::units::{MachineId, Traffic};

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Rows that were compared with the sum of their parts.
    pub rows: u64,
    /// The first that differed; nothing behind it was compared.
    pub difference: Option<Difference>,
}

/// A row that is not the sum of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whose.
    pub machine: MachineId,
    /// Which history's.
    pub resolution: Resolution,
    /// The row's first instant.
    pub start: Timestamp,
    /// The next row's.
    pub end: Timestamp,
    /// What it says.
    pub row: Traffic,
    /// What its parts are.
    pub of: Parts,
    /// What they add up to.
    pub parts: Traffic,
}

/// What a row is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The rows of a finer history.
    Rows(Resolution),
    /// Everything that the machine's counters ever gave, and what was brought in.
    Counters,
}

impl Parts {
    /// The word used in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rows(resolution) => resolution.as_str(),
            Self::Counters => "counters",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = |traffic: Traffic| {
            let [received, sent, exempt] =
                [traffic.received, traffic.sent, traffic.exempt].map(|bytes| bytes.0);
            format!("{received} B received, {sent} B sent, {exempt} B exempt")
        };
        let (all, parts) = match self.of {
            Parts::Rows(resolution) => ("", format!("its {}s", resolution.as_str())),
            Parts::Counters => (
                " and before",
                "its counters and what was imported".to_owned(),
            ),
        };
        write!(
            f,
            "the {} of {} from {} to {}{all} holds {}, and {parts} hold {}",
            self.resolution.as_str(),
            self.machine,
            self.start,
            self.end,
            figures(self.row),
            figures(self.parts)
        )
    }
}

/// Compares everything, until something differs.
pub(super) fn verify(connection: &Connection, version: i64) -> rusqlite::Result<Verified> {
    let machines: Machines = machines(connection)?
        .into_iter()
        .map(|(name, known)| (known.key, (name, known)))
        .collect();
    let horizons = horizons(connection)?;
    let mut verified = Verified::default();
    for (pair, horizon) in Table::HISTORIES.windows(2).zip(horizons) {
        let comparison = Comparison {
            connection,
            machines: &machines,
            fine: pair[0],
            coarse: pair[1],
            horizon,
        };
        comparison.run(&mut verified)?;
        if verified.difference.is_some() {
            return Ok(verified);
        }
    }
    let mut names: Vec<_> = machines.values().collect();
    names.sort_by_key(|(_, known)| known.key);
    for (name, known) in names {
        compare_periods(connection, name, known, horizons, &mut verified)?;
        if verified.difference.is_some() {
            return Ok(verified);
        }
    }
    if version >= SETTLED {
        compare_counters(connection, &machines, &mut verified)?;
    }
    Ok(verified)
}

/// The first version whose ledgers know what freed slots had counted.
const SETTLED: i64 = 2;

/// Every machine's months against what its counters gave and what was brought in.
fn compare_counters(
    connection: &Connection,
    machines: &Machines,
    verified: &mut Verified,
) -> rusqlite::Result<()> {
    let (months, credited) = (settled::months(connection)?, settled::credited(connection)?);
    let sum = |sums: &settled::Sums, key| sums.get(&key).copied().unwrap_or(Traffic::ZERO);
    let mut keys: Vec<_> = machines.keys().copied().collect();
    keys.sort();
    for key in keys {
        let (row, parts) = (sum(&months, key), sum(&credited, key));
        verified.rows += 1;
        if row == parts {
            continue;
        }
        let (name, known) = &machines[&key];
        let all = rows(connection, Table::Month, known, None, None)?;
        let last = all.last().map_or(
            Span {
                start: Timestamp::MIN,
                end: Timestamp::MAX,
            },
            |row| row.span,
        );
        verified.difference = Some(Difference {
            machine: name.clone(),
            resolution: Resolution::Month,
            start: last.start,
            end: last.end,
            row,
            of: Parts::Counters,
            parts,
        });
        return Ok(());
    }
    Ok(())
}

type Machines = HashMap<MachineKey, (MachineId, Known)>;

/// One history against the next coarser one.
struct Comparison<'a> {
    connection: &'a Connection,
    machines: &'a Machines,
    fine: Table,
    coarse: Table,
    /// Fine rows before are not all kept.
    horizon: Timestamp,
}

/// A coarse row's parts, as far as they were seen.
struct Sum {
    span: Span,
    traffic: Traffic,
    /// A part reaches beyond the row: an hour that does not begin on a whole minute.
    straddled: bool,
}

impl Sum {
    const fn begun(span: Span) -> Self {
        Self {
            span,
            traffic: Traffic::ZERO,
            straddled: false,
        }
    }
}

impl Comparison<'_> {
    /// Reads the fine history once, in order of time, and settles each coarse row when its
    /// machine's next one begins.
    fn run(&self, verified: &mut Verified) -> rusqlite::Result<()> {
        let mut sums: HashMap<MachineKey, Sum> = HashMap::new();
        let mut settled = 0_u64;
        self.each(self.fine, |name, known, found| {
            let span = known
                .zones
                .bucket(self.coarse.resolution(), found.span.start);
            let sum = sums.entry(known.key).or_insert(Sum::begun(span));
            if sum.span != span {
                settled += self.settle(name, known, sum, verified)?;
                *sum = Sum::begun(span);
            }
            sum.traffic += found.traffic;
            sum.straddled |= found.span.end > span.end;
            Ok(verified.difference.is_none())
        })?;
        for (key, sum) in &sums {
            let (name, known) = &self.machines[key];
            settled += self.settle(name, known, sum, verified)?;
        }
        if verified.difference.is_some() {
            return Ok(());
        }
        let mut stored = 0_u64;
        self.each(self.coarse, |_, _, found| {
            stored += u64::from(found.span.start >= self.horizon);
            Ok(true)
        })?;
        // Each settled row was found; so what is more has no parts at all.
        if stored != settled {
            self.name_one_without_parts(verified)?;
        }
        Ok(())
    }

    /// Compares a row with its parts; 1 if it is to be compared.
    fn settle(
        &self,
        name: &MachineId,
        known: &Known,
        sum: &Sum,
        verified: &mut Verified,
    ) -> rusqlite::Result<u64> {
        if sum.span.start < self.horizon || verified.difference.is_some() {
            return Ok(0);
        }
        if !sum.straddled {
            verified.rows += 1;
            let row = self.coarse_row(known, sum.span)?;
            if row.traffic != sum.traffic {
                verified.difference = Some(self.difference(name, row, sum.traffic));
            }
        }
        Ok(1)
    }

    fn name_one_without_parts(&self, verified: &mut Verified) -> rusqlite::Result<()> {
        self.each(self.coarse, |name, known, found| {
            let (from, to) = (Some(found.span.start), Some(found.span.end));
            if found.span.start >= self.horizon
                && rows(self.connection, self.fine, known, from, to)?.is_empty()
            {
                verified.difference = Some(self.difference(name, found, Traffic::ZERO));
            }
            Ok(verified.difference.is_none())
        })
    }

    fn coarse_row(&self, known: &Known, span: Span) -> rusqlite::Result<Found> {
        let next = span
            .start
            .saturating_add(jiff::SignedDuration::from_nanos(1));
        let (from, to) = (Some(span.start), Some(next.unwrap_or(span.end)));
        let found = rows(self.connection, self.coarse, known, from, to)?;
        let nothing = Found {
            span,
            traffic: Traffic::ZERO,
        };
        Ok(found.first().copied().unwrap_or(nothing))
    }

    fn difference(&self, name: &MachineId, row: Found, parts: Traffic) -> Difference {
        Difference {
            machine: name.clone(),
            resolution: self.coarse.resolution(),
            start: row.span.start,
            end: row.span.end,
            row: row.traffic,
            of: Parts::Rows(self.fine.resolution()),
            parts,
        }
    }

    /// Every row of a history, each machine's in order of time, until told to stop.
    fn each(
        &self,
        table: Table,
        mut visit: impl FnMut(&MachineId, &Known, Found) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!(
            "SELECT key, received, sent, exempt FROM {} WHERE key >= ?1 ORDER BY key",
            table.name()
        ))?;
        // Coarse rows that begin before the horizon are not compared, and need no parts.
        let mut stored = statement.query([table.from(self.horizon)])?;
        while let Some(row) = stored.next()? {
            let (start, key) = table.parts(row.get(0)?);
            let Some((name, known)) = self.machines.get(&key) else {
                continue;
            };
            let span = known.zones.row(table.resolution(), start);
            let traffic = value::traffic(row, 1)?;
            if !visit(name, known, Found { span, traffic })? {
                return Ok(());
            }
        }
        for (name, known) in self.machines.values() {
            if let Some(found) = open(table, known)
                && !visit(name, known, found)?
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A machine's periods against the coarsest history whose rows fit into them.
fn compare_periods(
    connection: &Connection,
    name: &MachineId,
    known: &Known,
    [minutes, hours, days]: [Timestamp; 3],
    verified: &mut Verified,
) -> rusqlite::Result<()> {
    let fine = [
        (Table::Day, days),
        (Table::Hour, hours),
        (Table::Minute, minutes),
    ];
    for period in periods(connection, known.key, None, None)? {
        for (table, horizon) in fine {
            let fits = |at| known.zones.bucket(table.resolution(), at).start == at;
            if period.start < horizon || !fits(period.start) || !fits(period.end) {
                continue;
            }
            let parts = rows(
                connection,
                table,
                known,
                Some(period.start),
                Some(period.end),
            )?;
            let parts = parts.iter().map(|part| part.traffic).sum();
            verified.rows += 1;
            if parts != period.traffic {
                verified.difference = Some(Difference {
                    machine: name.clone(),
                    resolution: Resolution::Period,
                    start: period.start,
                    end: period.end,
                    row: period.traffic,
                    of: Parts::Rows(table.resolution()),
                    parts,
                });
                return Ok(());
            }
            break;
        }
    }
    Ok(())
}
