//! The node as the daemon knows it, and its one cycle: observe, step, record, apply.
//!
//! Nothing is applied before it is recorded: the engine steps on a clone, the batch is
//! committed, and only then do the clone and the new cursors become the truth. When the
//! commit fails, everything stays as it was and the next good one takes all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::{
    apply::Which,
    arm::Arms,
    audit::Audit,
    drops::Drops,
    interfaces::Interfaces,
    known::Known,
    linkdown::HeldLinks,
    quiet::Quiet,
    records,
    shapers::Enforcer,
    slots::Slots,
    tally::Tally,
    time::{EngineClock, Reading as ClockReading},
};
use crate::{
    config::Config,
    delivery,
    engine::{
        Effect, Engine, Observation, Sample,
        command::Command,
        event::EventKind,
        record::Changes,
        units::{Bytes, MachineId, Traffic},
    },
    host::{
        clock::{self, Moment},
        error::HostError,
        links::KernelCounters,
        netlink::NetlinkError,
        programs::{Programs, SlotReading},
    },
    ledger::{
        Batch, BootId, CommandRecord, CounterId, EventRecord, Ledger, LedgerError, Lock, Reader,
        Reading, Slot, SlotRecord, cursor,
    },
};

/// Everything the loop holds.
pub(crate) struct Node {
    pub(super) config: Arc<Config>,
    pub(super) boot: BootId,
    pub(super) clock: EngineClock,
    /// Before the ledger, so that the ledger's is the last connection to close: a reader could
    /// not empty the log, and a copy of the file alone would lack what is in it.
    pub(super) reader: Reader,
    pub(super) ledger: Ledger,
    pub(super) engine: Engine,
    pub(super) programs: Programs,
    pub(super) interfaces: Interfaces,
    pub(super) enforcer: Enforcer,
    pub(super) links: HeldLinks,
    pub(super) arms: Arms,
    pub(super) slots: Slots,
    /// Handed out for the first time since the ledger's last record, when that was opened.
    pub(super) first_since: Vec<Slot>,
    pub(super) known: Known,
    pub(super) audit: Audit,
    /// Interfaces of which it was said that the counts differ.
    pub(super) drifting: BTreeSet<u32>,
    pub(super) drops: Drops,
    /// Slot by ifindex, where our programs stand.
    pub(super) attached: BTreeMap<u32, u32>,
    /// Who is metered, or how, is other than the engine was told.
    pub(super) terms_changed: bool,
    /// Interfaces that somebody is setting up.
    pub(super) quiet: Quiet,
    /// Interfaces that have a shaper of ours, on which a qdisc changed.
    pub(super) qdiscs_changed: BTreeSet<u32>,
    /// Interfaces whose link is not what it should be.
    pub(super) links_changed: BTreeSet<u32>,
    /// Interfaces that had to wait for another turn of the loop.
    pub(super) unfinished: BTreeSet<u32>,
    /// The last round failed: time alone brings no other before then, by the monotonic clock.
    pub(super) patience: Option<Duration>,
    /// Link events were lost.
    pub(super) overrun: bool,
    /// Something was recorded, or a limit reached, and what follows from it was not done yet.
    pub(super) unapplied: bool,
    /// Answered at length: what that took of memory is given back then, by the monotonic clock.
    pub(super) tidy: Option<Duration>,
    /// Slots whose interface is gone or has another owner: their next delta is the last.
    pub(super) closing: BTreeSet<Slot>,
    /// Up to when everything is in the ledger.
    pub(super) measured_to: Timestamp,
    /// Host events that go with the next commit.
    pub(super) pending: Vec<EventRecord>,
    pub(super) tally: Tally,
    /// Nobody else uses this state directory while we hold it.
    pub(super) _lock: Lock,
}

/// Why a cycle came to nothing. Whatever it is, nothing was lost: the kernel counts on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CycleError {
    /// The counters could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Links could not be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The ledger could not be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// One reading of everything, not recorded yet.
#[derive(Default)]
struct Observed {
    records: Vec<SlotRecord>,
    traffic: BTreeMap<MachineId, Traffic>,
    events: Vec<EventRecord>,
    fell: Vec<CounterId>,
}

impl Node {
    /// Reads the counters and does all that follows.
    pub(crate) async fn poll(&mut self) -> Result<(), CycleError> {
        self.measure().await?;
        self.arm_and_apply(Which::All).await;
        Ok(())
    }

    /// Reads the counters for somebody who asks.
    pub(crate) async fn freshen(&mut self) -> Result<(), CycleError> {
        self.measure().await?;
        self.arm_and_apply(Which::Changed).await;
        Ok(())
    }

    /// A fresh reading and, with it in the ledger, the commands by themselves: the effects
    /// are what they caused and nothing else. All are carried out, or none; what `finish`
    /// says of the effects is what is kept under the idempotency key.
    pub(crate) async fn command(
        &mut self,
        commands: Vec<Command>,
        finish: impl FnOnce(&[Effect]) -> Option<CommandRecord>,
    ) -> Result<Vec<Effect>, CycleError> {
        self.measure().await?;
        let now = self.now();
        let mut next = self.engine.clone();
        let effects = next.step(
            now,
            &Observation {
                traffic: Vec::new(),
                commands,
            },
        );
        if effects.iter().any(is_refusal) {
            self.pending
                .extend(records::engine_events(&refusals(&effects)));
            return Ok(effects);
        }
        let mut batch = self.batch(now, &next, &effects);
        batch.commands.extend(finish(&effects));
        self.commit(&batch, next)?;
        // Another plan may have other prefixes.
        self.exempt();
        self.arm_and_apply(Which::Changed).await;
        Ok(effects)
    }

    /// An operator answers for a wall clock that jumped ahead: it is believed from now on.
    pub(crate) async fn confirm_clock(
        &mut self,
        by: &str,
        finish: impl FnOnce(&EventRecord) -> Option<CommandRecord>,
    ) -> Result<EventRecord, CycleError> {
        // What moved so far is of the time before.
        self.measure().await?;
        let before = self.clock;
        self.clock.confirm();
        let now = self.now();
        let event = records::clock_confirmed(now, by);
        let engine = self.engine.clone();
        let mut batch = self.batch(now, &engine, &[]);
        batch.events.push(event.clone());
        batch.commands.extend(finish(&event));
        if let Err(failure) = self.commit(&batch, engine) {
            self.clock = before;
            return Err(failure.into());
        }
        // What it brings: periods that ended.
        self.poll().await?;
        Ok(event)
    }

    /// What commands would do: the same step, on a clone that is thrown away.
    pub(crate) fn rehearse(&mut self, commands: Vec<Command>) -> Vec<Effect> {
        let now = self.now();
        self.engine.clone().step(
            now,
            &Observation {
                traffic: Vec::new(),
                commands,
            },
        )
    }

    /// Observe, step, record: everything up to now is in the ledger, or nothing changed.
    pub(super) async fn measure(&mut self) -> Result<(), CycleError> {
        self.take_in(None, &BTreeSet::new()).await
    }

    /// The same, and our counts are compared with the kernel's own, which were read just before.
    pub(super) async fn measure_against(
        &mut self,
        kernel: &BTreeMap<u32, KernelCounters>,
    ) -> Result<(), CycleError> {
        self.take_in(Some(kernel), &BTreeSet::new()).await
    }

    /// The same, and slots that no program counts in any more are free from now on.
    pub(super) async fn measure_last(&mut self, left: &BTreeSet<Slot>) -> Result<(), CycleError> {
        self.take_in(None, left).await
    }

    async fn take_in(
        &mut self,
        kernel: Option<&BTreeMap<u32, KernelCounters>>,
        left: &BTreeSet<Slot>,
    ) -> Result<(), CycleError> {
        let spent = self.spent();
        let readings = self.programs.readings()?;
        if let Some(kernel) = kernel {
            self.audit(kernel, &readings);
        }
        let now = self.now();
        let mut observed = Observed::default();
        for record in self.slots.iter() {
            let reading = match readings.get(record.counter.slot.0 as usize) {
                Some(reading) => *reading,
                // Past the last slot that is in use, as far as the maps know: its interface
                // was let go of, but not recorded, by a daemon that was killed.
                None => self.programs.reading(record.counter.slot.0)?,
            };
            self.drops.look(record, (&reading).into());
            self.observe(now, record, &reading, &mut observed).await;
        }
        self.record(now, observed, left)?;
        self.compare_spent(&spent);
        self.measured_to = now;
        Ok(())
    }

    /// One slot's traffic up to now into the ledger.
    pub(super) async fn measure_one(&mut self, slot: Slot) -> Result<(), CycleError> {
        if self.is_due() {
            // What time brings is judged with everybody's last byte.
            return self.measure().await;
        }
        let now = self.now();
        let mut observed = Observed::default();
        if let Some(record) = self.slots.get(slot) {
            let reading = self.programs.reading(slot.0)?;
            self.observe(now, record, &reading, &mut observed).await;
        }
        self.record(now, observed, &BTreeSet::new())?;
        Ok(())
    }

    /// Whether time alone changes something by now: a period has ended, a grace is over.
    pub(super) fn is_due(&mut self) -> bool {
        let now = self.now();
        self.engine
            .deadline()
            .is_some_and(|deadline| deadline <= now)
    }

    fn record(
        &mut self,
        now: Timestamp,
        observed: Observed,
        left: &BTreeSet<Slot>,
    ) -> Result<(), LedgerError> {
        let from = self.measured_to.min(now);
        let samples = observed.traffic.iter().map(|(machine, traffic)| Sample {
            machine: machine.clone(),
            from,
            to: now,
            traffic: *traffic,
        });
        let observation = Observation {
            traffic: samples.collect(),
            commands: Vec::new(),
        };
        let mut next = self.engine.clone();
        let effects = next.step(now, &observation);

        let mut batch = self.batch(now, &next, &effects);
        batch.usage = observation
            .traffic
            .into_iter()
            .map(|sample| self.usage(&next, sample))
            .collect();
        batch.freed = left
            .iter()
            .filter_map(|slot| Some(self.slots.get(*slot)?.counter.clone()))
            .collect();
        batch.slots = observed.records;
        batch.anew = observed.fell;
        batch.events.extend(observed.events);
        // What is new and not looked at yet would be taken for old after a crash.
        if !self.interfaces.has_changed() {
            batch.highest = self.interfaces.highest_if_grown();
        }
        self.commit(&batch, next)?;

        self.arms.took(&observed.traffic);
        self.tally.counter_restarts += batch.anew.len() as u64;
        for record in &batch.slots {
            self.drops.recorded(record);
        }
        for slot in left {
            self.closing.remove(slot);
        }
        Ok(())
    }

    /// A slot's counters against its cursor.
    async fn observe(
        &self,
        now: Timestamp,
        record: &SlotRecord,
        reading: &SlotReading,
        observed: &mut Observed,
    ) {
        let reading = self::reading(reading);
        let past = record
            .shaped
            .and_then(|_| self.programs.past_shaper(record.counter.slot.0).ok());
        let shaped = self
            .enforcer
            .shaped_now(record, &self.interfaces, past)
            .await;
        let moved = match cursor::advance(record, &reading, shaped) {
            Ok((delta, moved)) => {
                if !delta.is_zero() {
                    *observed.traffic.entry(record.machine.clone()).or_default() += delta;
                }
                moved
            }
            Err(fell) => {
                error!(interface = record.name, "{fell}");
                observed
                    .events
                    .push(records::counter_fell(now, record, &fell));
                observed.fell.push(record.counter.clone());
                cursor::begun_anew(record, &reading, shaped)
            }
        };
        if moved != *record {
            observed.records.push(moved);
        }
    }

    /// A batch with what the engine changed and said, and what the host has to say.
    pub(super) fn batch(&self, now: Timestamp, next: &Engine, effects: &[Effect]) -> Batch {
        let mut events = self.pending.clone();
        events.extend(records::engine_events(effects));
        Batch {
            at: now,
            slots: Vec::new(),
            freed: Vec::new(),
            anew: Vec::new(),
            usage: Vec::new(),
            changes: next.changes_since(&self.engine),
            events,
            commands: Vec::new(),
            // A restart within this boot compares the clocks with it.
            notes: Vec::from_iter(self.clock.mark().map(|mark| mark.note(&self.boot))),
            highest: None,
        }
    }

    /// One transaction; with it the engine's new state and the cursors become the truth.
    pub(super) fn commit(&mut self, batch: &Batch, next: Engine) -> Result<(), LedgerError> {
        self.commit_by(batch, next, Ledger::record)
    }

    /// The same, with something else in the transaction.
    pub(super) fn commit_by(
        &mut self,
        batch: &Batch,
        next: Engine,
        write: impl FnOnce(&mut Ledger, &Batch) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        if let Err(failure) = write(&mut self.ledger, batch) {
            if self.tally.ledger_failed() {
                error!("{failure}; the kernel counts on, and the next good commit takes all");
            }
            return Err(failure);
        }
        if self.ledger.was_reopened() {
            self.reader = self.ledger.reader()?;
        }
        if self.tally.ledger_recovered() {
            info!("the ledger can be written again; nothing was lost");
        }
        self.unapplied |= batch.changes != Changes::default();
        self.engine = next;
        // A start's are many; their room would stay.
        self.pending = Vec::new();
        self.slots.commit(&batch.slots, &batch.freed);
        self.interfaces.highest_recorded(batch.highest.as_ref());
        self.known.recorded(&batch.notes);
        self.interfaces.guests.recorded(&batch.notes);
        if batch.events.iter().any(|event| event.notice.is_some()) {
            self.deliver(batch.at);
        }
        Ok(())
    }

    /// What waits in the outbox goes out. Failing to is no reason to stop.
    pub(super) fn deliver(&mut self, now: Timestamp) {
        let outcome = self
            .reader
            .outbox_pending(usize::MAX)
            .and_then(|waiting| delivery::journal(&mut self.ledger, waiting, now));
        if let Err(failure) = outcome {
            warn!("notices wait in the outbox: {failure}");
        }
    }

    /// The machines that are configured or have an interface here.
    pub(super) fn shown(&self) -> impl Iterator<Item = &MachineId> {
        let here: BTreeSet<&MachineId> = self
            .interfaces
            .claims()
            .map(|(_, claim)| &claim.machine)
            .collect();
        self.engine
            .machines()
            .filter(move |machine| here.contains(machine) || self.config.is_configured(machine))
    }

    /// How many interfaces are metered.
    pub(super) fn metered(&self) -> usize {
        self.attached.len()
    }

    /// Our counts against the kernel's, on the same basis.
    fn audit(&mut self, kernel: &BTreeMap<u32, KernelCounters>, readings: &[SlotReading]) {
        for (ifindex, slot) in &self.attached {
            let (Some(kernel), Some(reading)) = (kernel.get(ifindex), readings.get(*slot as usize))
            else {
                continue;
            };
            let kernel = [kernel.received, kernel.sent];
            let shaped = self.enforcer.interferes(*ifindex, *slot);
            let found = self.audit.look(
                *ifindex,
                &self::reading(reading),
                kernel,
                shaped,
                dropped(reading),
            );
            match found {
                None => {
                    self.drifting.remove(ifindex);
                }
                Some((direction, moved, drift)) if self.drifting.insert(*ifindex) => warn!(
                    interface = self.interfaces.link(*ifindex).map(|link| &link.name),
                    direction = ["received", "sent"][direction],
                    kernel = moved.0,
                    drift,
                    "the program's count differs from the kernel's by more than 0.1 %"
                ),
                Some(_) => {}
            }
        }
    }

    /// The engine's time now.
    pub(super) fn now(&mut self) -> Timestamp {
        let (now, step) = self.clock.advance(clock_reading(&clock::now()));
        if let Some(step) = step {
            warn!("{step}");
            self.pending.push(records::clock(now, &step.to_string()));
        }
        now
    }

    /// How long the loop may sleep before the engine must be asked again.
    pub(crate) fn until_deadline(&mut self) -> Option<Duration> {
        let now = self.now();
        let wait = if self.unapplied {
            // Whoever recorded it was kept from doing the rest.
            Duration::ZERO
        } else {
            let deadline = self.engine.deadline()?;
            Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO)
        };
        let patience = self.patience.unwrap_or_default();
        Some(wait.max(patience.saturating_sub(clock::now().monotonic)))
    }
}

pub(super) fn clock_reading(moment: &Moment) -> ClockReading {
    ClockReading {
        wall: moment.wall,
        boot: moment.since_boot,
        // A kernel that does not say is one that nobody has synchronised.
        synchronised: clock::synchronised().unwrap_or(false),
    }
}

/// What our program itself kept back, both ways.
fn dropped(slot: &SlotReading) -> Bytes {
    let all = [&slot.received, &slot.sent].map(|counters| {
        counters.dropped_throttled + counters.dropped_capped + counters.dropped_suspended
    });
    Bytes(all[0] + all[1])
}

/// A slot's counters in the ledger's words.
pub(super) fn reading(slot: &SlotReading) -> Reading {
    let (received, sent) = (&slot.received, &slot.sent);
    Reading {
        traffic: Traffic {
            received: Bytes(received.bytes),
            sent: Bytes(sent.bytes),
            exempt: Bytes(received.exempt_bytes) + Bytes(sent.exempt_bytes),
        },
        packets: [received.packets, sent.packets],
        frames: [Bytes(received.frame_bytes), Bytes(sent.frame_bytes)],
        shaped: [Bytes(received.shaped_bytes), Bytes(sent.shaped_bytes)],
    }
}

pub(crate) fn is_refusal(effect: &Effect) -> bool {
    matches!(effect, Effect::Event(event) if matches!(event.kind, EventKind::Refused { .. }))
}

fn refusals(effects: &[Effect]) -> Vec<Effect> {
    effects
        .iter()
        .filter(|effect| is_refusal(effect))
        .cloned()
        .collect()
}
