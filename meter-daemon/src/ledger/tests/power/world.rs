//! A small node for the power to fail on: counters that grow, taps that are made anew, and a
//! poll that records what moved since the cursors, as the daemon's does. Everything follows
//! from the number of the step, so that what must be in the ledger is known without it.

use super::{super::*, disk::Promise};

pub(super) const MACHINES: u32 = 4;

/// A tap is made anew every so many steps, each machine's at another one.
const TAP_LIVES: u64 = 9;

/// Where the world begins: hours, days and a month end soon.
pub(super) fn time(step: u64) -> Timestamp {
    at("2026-11-30T20:00:30Z") + SignedDuration::from_secs(i64::try_from(step * 420).unwrap())
}

/// What a machine's place in the counter arrays shows after a step: never reset, whoever owns it.
fn counter(machine: u32, step: u64) -> Reading {
    let machine = u64::from(machine) + 1;
    let received = (1..=step).map(|step| step * 1_000_003 % 999_983 * machine);
    let received: u64 = received.sum();
    Reading {
        traffic: moved(received, received / 3, step * machine),
        packets: [received / 1000, received / 3000],
        frames: [Bytes(received), Bytes(received / 3)],
        shaped: [Bytes::ZERO; 2],
    }
}

/// All that a machine has moved after a step.
fn used(machine: u32, step: u64) -> Traffic {
    counter(machine, step).traffic
}

/// When the tap that a machine has at a step was made.
fn born(machine: u32, step: u64) -> u64 {
    (step + u64::from(machine) * 2) / TAP_LIVES * TAP_LIVES
}

fn birth(machine: u32, step: u64) -> u64 {
    born(machine, step).saturating_sub(u64::from(machine) * 2)
}

fn generation(machine: u32, step: u64) -> Generation {
    let lives = born(machine, step) / TAP_LIVES;
    Generation(u32::try_from(lives).unwrap() + 1)
}

fn name(machine: u32) -> String {
    format!("m{machine}")
}

/// The slot of the tap that a machine has at a step, nothing recorded of it yet.
fn new_slot(machine: u32, step: u64) -> SlotRecord {
    let mut record = slot(&name(machine), machine);
    record.counter.generation = generation(machine, step);
    let base = counter(machine, birth(machine, step));
    (record.base, record.cursor) = (base, base);
    record
}

/// What a slot's own tap moves is over when the tap is.
fn reading(record: &SlotRecord, step: u64) -> Reading {
    let machine = record.counter.slot.0;
    let mut last = step;
    while generation(machine, last) > record.counter.generation {
        last -= 1;
    }
    // The byte that the next generation begins with is the last of this one.
    let end = if last < step { last + 1 } else { step };
    counter(machine, end)
}

/// The daemon's view between two commits.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) ledger: Ledger,
    slots: Vec<SlotRecord>,
    pub(super) steps: u64,
}

impl Meter {
    pub(super) fn start(directory: &std::path::Path) -> Result<Self, LedgerError> {
        let (ledger, remembered) = Ledger::open(directory)?;
        Ok(Self {
            ledger,
            steps: steps(&remembered),
            slots: remembered.slots,
        })
    }

    /// One poll at a step: whatever moved since the cursors, however long ago they are.
    pub(super) fn poll(&self, step: u64) -> Batch {
        let mut batch = batch(time(step));
        for machine in 0..MACHINES {
            let mut records: Vec<_> = self.slots_of(machine).cloned().collect();
            let now = generation(machine, step);
            if records
                .iter()
                .all(|record| record.counter.generation != now)
            {
                records.push(new_slot(machine, step));
            }
            let mut traffic = Traffic::ZERO;
            for record in records {
                let reading = reading(&record, step);
                let (moved, record) = cursor::advance(&record, &reading, None).unwrap();
                traffic += moved;
                if record.counter.generation != now {
                    batch.freed.push(record.counter.clone());
                }
                batch.slots.push(record);
            }
            let zone = zone(["UTC", "Asia/Kolkata"][usize::from(machine == 1)]);
            let since = time(self.steps);
            batch
                .usage
                .push(usage(&name(machine), &zone, since, batch.at, traffic));
            let (start, end) = (at("2026-11-01T00:00:00Z"), at("2030-01-01T00:00:00Z"));
            let sums = running(start, end, batch.at, used(machine, step));
            let state = (step % 3 == u64::from(machine % 3)).then(|| format!("{step}"));
            let first = self.steps == 0;
            let state = state.or_else(|| first.then(|| "0".to_owned()));
            batch
                .changes
                .machines
                .push(change(&name(machine), state.as_deref(), sums));
        }
        batch.changes.node = Some(step.to_string());
        // What happened in the steps between is not made up for; each poll says one thing.
        let mut notice = event(batch.at, "m0", "notice");
        notice.notice = Some(notice_id(step));
        notice.body = serde_json::json!({ "step": step, "text": "n".repeat(300) });
        batch.events.push(notice);
        batch.commands.push(command(step));
        batch
    }

    fn slots_of(&self, machine: u32) -> impl Iterator<Item = &SlotRecord> {
        self.slots
            .iter()
            .filter(move |record| record.counter.slot.0 == machine)
    }

    /// Records a step.
    pub(super) fn step(&mut self, step: u64) -> Result<(), LedgerError> {
        let batch = self.poll(step);
        self.ledger.record(&batch)?;
        self.took(&batch, step);
        Ok(())
    }

    pub(super) fn took(&mut self, batch: &Batch, step: u64) {
        let of = |record: &SlotRecord| (record.counter.slot, record.counter.generation);
        self.slots
            .retain(|known| !batch.slots.iter().any(|new| of(new) == of(known)));
        self.slots.extend(batch.slots.iter().cloned());
        self.slots
            .retain(|record| !batch.freed.contains(&record.counter));
        self.steps = step;
    }
}

pub(super) fn notice_id(step: u64) -> String {
    format!("notice-{step}")
}

fn command(step: u64) -> CommandRecord {
    CommandRecord {
        key: format!("key-{step}"),
        request: "top-up".into(),
        status: 200,
        answer: format!("{{\"step\":{step}}}"),
    }
}

/// Up to which step a ledger has everything.
pub(super) fn steps(remembered: &Remembered) -> u64 {
    let node = remembered.kept.node.as_ref();
    node.map_or(0, |step| step.parse().unwrap())
}

/// What is wrong with a ledger after a cut, `recorded` being the polls that were made: it must
/// hold what was promised, of the step under way all or nothing, and nothing twice.
pub(super) fn check(
    directory: &std::path::Path,
    recorded: &[u64],
    promised: Promise,
) -> Result<Meter, String> {
    let refused = |error: LedgerError| format!("it is refused: {error}");
    let (ledger, remembered) = Ledger::open(directory).map_err(refused)?;
    let steps = steps(&remembered);
    let done: Vec<u64> = recorded.iter().copied().filter(|s| *s <= steps).collect();
    let under_way = recorded.iter().find(|step| **step > promised.steps);
    if steps != promised.steps && Some(&steps) != under_way {
        let promised = promised.steps;
        return Err(format!(
            "step {promised} was acknowledged, step {steps} is there"
        ));
    }
    let meter = Meter {
        ledger,
        slots: remembered.slots,
        steps,
    };
    let verified = meter.ledger.reader().and_then(|reader| reader.verify());
    if let Some(difference) = verified.map_err(refused)?.difference {
        return Err(difference.to_string());
    }
    agrees(&meter, &done, promised)?;
    Ok(meter)
}

/// Totals, cursors, notices and commands are those of the steps that are in.
fn agrees(meter: &Meter, done: &[u64], promised: Promise) -> Result<(), String> {
    let steps = meter.steps;
    let reader = meter.ledger.reader().map_err(|error| error.to_string())?;
    for machine in 0..MACHINES {
        let name = name(machine);
        let total = total(&reader, &name, Resolution::Month);
        if total != used(machine, steps) {
            return Err(format!(
                "{name}: {total:?} is booked of {:?}",
                used(machine, steps)
            ));
        }
        let slots: Vec<_> = meter.slots_of(machine).collect();
        let [slot] = slots.as_slice() else {
            if slots.is_empty() && steps == 0 {
                continue;
            }
            return Err(format!("{name} has {} slots", slots.len()));
        };
        if slot.cursor != counter(machine, steps)
            || slot.counter.generation != generation(machine, steps)
        {
            return Err(format!("{name}: the cursor is not step {steps}'s"));
        }
    }
    let waiting: Vec<String> = reader
        .outbox_pending(usize::MAX)
        .map_err(|error| error.to_string())?
        .into_iter()
        .map(|queued| queued.id)
        .collect();
    let filter = EventFilter {
        limit: usize::MAX,
        ..EventFilter::default()
    };
    let events = reader.events(&filter).map_err(|error| error.to_string())?;
    let said: Vec<_> = events
        .iter()
        .filter_map(|(_, event)| serde_json::json!(event)["step"].as_u64())
        .collect();
    if said != done {
        return Err(format!("events are of {said:?}, steps were {done:?}"));
    }
    for step in done {
        let id = notice_id(*step);
        if *step <= promised.settled && waiting.contains(&id) {
            return Err(format!("{id} was settled and waits"));
        }
        let answer = meter.ledger.answer(&command(*step).key);
        if answer.map_err(|error| error.to_string())? != Some(command(*step)) {
            return Err(format!("the command of step {step} is gone"));
        }
    }
    Ok(())
}

/// The next poll, some steps later, takes exactly what is missing.
pub(super) fn goes_on(
    meter: &mut Meter,
    recorded: &[u64],
    promised: Promise,
) -> Result<(), String> {
    let mut done: Vec<u64> = recorded
        .iter()
        .copied()
        .filter(|step| *step <= meter.steps)
        .collect();
    let next = meter.steps + 2;
    meter.step(next).map_err(|error| error.to_string())?;
    done.push(next);
    agrees(meter, &done, promised)
}
