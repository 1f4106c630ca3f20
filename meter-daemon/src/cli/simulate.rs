//! `meterd simulate`: a plan against a history, without a kernel.
//!
//! The daemon's own engine, stepped at every row, command and deadline. Open loop: what the
//! engine would have stopped has moved all the same. Texts come in, lines go out; `command`
//! says which files they are, and what a machine's terms are.

mod command;
pub mod input;
pub mod output;

use std::{io, sync::Arc};

use jiff::Timestamp;

pub(super) use self::command::{Args, run};
use self::input::{History, Timed};
use crate::engine::{
    Effect, Engine, EngineSettings, Observation, Sample,
    event::Event,
    plan::Terms,
    record::Kept,
    span::arrived_traffic,
    status::Status,
    units::{Bytes, MachineId, Traffic},
};

/// Columns of the chart.
const COLUMNS: usize = 72;

/// Why a simulation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The terms do not have the machine.
    #[error("machine {0} is not among the terms to simulate")]
    NoMachine(MachineId),
    /// There is nothing to simulate.
    #[error("the usage has no rows: write a header `time,received,sent` and a row an interval")]
    NoHistory,
    /// The output was not taken.
    #[error("cannot write the simulation's output: {0}")]
    Output(#[from] io::Error),
    /// Never with an engine that begins.
    #[error(transparent)]
    Restore(#[from] crate::engine::RestoreError),
}

/// How a simulation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The last row or command.
    pub time: Timestamp,
    /// The machine's status then.
    pub status: Status,
    /// What was used over time.
    pub chart: Chart,
}

/// Usage and allowance in equal parts of the simulated time.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    start: Timestamp,
    end: Timestamp,
    columns: Vec<Option<(Bytes, Option<Bytes>)>>,
}

impl Chart {
    fn new(start: Timestamp, end: Timestamp) -> Self {
        Self {
            start,
            end,
            columns: vec![None; COLUMNS],
        }
    }

    /// Notes what stands at `now`: the most of each column is shown.
    fn note(&mut self, now: Timestamp, used: Bytes, allowance: Option<Bytes>) {
        let nanoseconds = |from: Timestamp, to: Timestamp| {
            usize::try_from(to.as_nanosecond() - from.as_nanosecond()).unwrap_or(0)
        };
        let whole = nanoseconds(self.start, self.end) / COLUMNS + 1;
        let column = nanoseconds(self.start, now) / whole;
        if let Some(place) = self.columns.get_mut(column) {
            let before = place.map_or(Bytes::ZERO, |(used, _)| used);
            *place = Some((used.max(before), allowance));
        }
    }
}

/// Runs `history` and `commands` past `machine` and hands every event to `each`, in order.
///
/// # Errors
/// No such machine, no history, or an event that `each` could not write.
pub fn simulate(
    terms: &Arc<Terms>,
    machine: &MachineId,
    history: &History,
    commands: &[Timed],
    mut each: impl FnMut(&Event) -> io::Result<()>,
) -> Result<Ending, SimulateError> {
    if !terms.machines.contains_key(machine) {
        return Err(SimulateError::NoMachine(machine.clone()));
    }
    let (Some(first), Some(last)) = (history.rows.first(), history.rows.last()) else {
        return Err(SimulateError::NoHistory);
    };
    let start = commands
        .first()
        .map_or(first.from, |command| command.time.min(first.from));
    let end = commands
        .last()
        .map_or(last.to, |command| command.time.max(last.to));
    let mut run = Run {
        engine: Engine::new(
            Arc::clone(terms),
            Kept::default(),
            EngineSettings::default(),
        )?,
        machine,
        now: start,
        rows: &history.rows,
        commands,
    };
    let mut chart = Chart::new(start, end);
    let mut effects = run.engine.step(start, &Observation::default());
    loop {
        for effect in &effects {
            if let Effect::Event(event) = effect {
                each(event)?;
            }
        }
        if let Some((used, allowance)) = run.engine.used(machine) {
            chart.note(run.now, used, allowance);
        }
        match run.next() {
            Some(next) => effects = next,
            None => break,
        }
    }
    let status = run
        .engine
        .status(machine, run.now)
        .ok_or_else(|| SimulateError::NoMachine(machine.clone()))?;
    Ok(Ending {
        time: run.now,
        status,
        chart,
    })
}

struct Run<'a> {
    engine: Engine,
    machine: &'a MachineId,
    now: Timestamp,
    /// What is still to come, the row under way included.
    rows: &'a [input::Row],
    commands: &'a [Timed],
}

impl Run<'_> {
    /// Steps at the next row's end, command or deadline; `None` when there is none to come.
    fn next(&mut self) -> Option<Vec<Effect>> {
        let row = self.rows.first();
        let command = self.commands.first().map(|command| command.time);
        let target = row.map(|row| row.to).into_iter().chain(command).min()?;
        let deadline = self.engine.deadline().filter(|at| *at > self.now);
        let next = deadline.map_or(target, |deadline| deadline.min(target));
        let mut observation = Observation::default();
        if let Some(row) = row {
            let arrived = |at| arrived_traffic(row.traffic, row.from, row.to, at);
            let (before, by_then) = (arrived(self.now), arrived(next));
            observation.traffic.push(Sample {
                machine: self.machine.clone(),
                from: self.now.max(row.from),
                to: next,
                traffic: Traffic {
                    received: by_then.received.saturating_sub(before.received),
                    sent: by_then.sent.saturating_sub(before.sent),
                    exempt: Bytes::ZERO,
                },
            });
            if row.to <= next {
                self.rows = &self.rows[1..];
            }
        }
        // They come after the bytes that end at the same instant.
        let due = self
            .commands
            .partition_point(|command| command.time <= next);
        let (now, later) = self.commands.split_at(due);
        observation
            .commands
            .extend(now.iter().map(|timed| timed.command.clone()));
        self.commands = later;
        self.now = next;
        Some(self.engine.step(next, &observation))
    }
}

#[cfg(test)]
mod tests;
