//! From links to slots: who is metered, and since which byte. Level-triggered: each call
//! compares what should be metered with what is, so that a missed event costs nothing.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use tracing::{error, info};

use super::{
    apply::{TURN, Which},
    node::{self, CycleError, Node},
    quiet::Lost,
    records::{self, Basis},
};
use crate::{
    engine::{
        Observation, Sample,
        units::{Bytes, Traffic},
    },
    host::{
        clock,
        error::HostError,
        links::{KernelCounters, Links},
        programs::{AttachRequest, Hooks, Mode, SlotReading},
    },
    ledger::{EventRecord, Slot, SlotOwner, SlotRecord, Usage},
};

/// Whether nothing of ours stands at an interface any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Yes,
    NotYet,
}

/// Readings compared before a credit is settled; traffic that is under way between the two
/// counters passes within a few of them.
const CREDIT_READINGS: usize = 16;

impl Node {
    /// Meters what should be metered, lets go of what is gone. Called after link changes and
    /// at each poll.
    pub(crate) async fn discover(&mut self, links: &Links) -> Result<(), CycleError> {
        if self.is_settled() {
            return Ok(());
        }
        if self.is_due() {
            // A period that has ended is closed with its last byte.
            self.measure().await?;
        }
        self.lift_before_handing_over().await;
        let now = self.now();
        let opened = self.open_slots(now)?;
        let (renamed, renamings) = self.renamed(now);
        self.mark_closing(now);

        let mut next = self.engine.clone();
        let mut effects = Vec::new();
        let claims_changed = self.interfaces.take_changed() || self.terms_changed;
        if claims_changed || !opened.is_empty() {
            let terms = Arc::new(self.known.terms(&self.interfaces, &self.config));
            effects = next.set_terms(now, terms);
        }
        let mut batch = self.batch(now, &next, &effects);
        batch.slots = opened.into_iter().chain(renamed).collect();
        batch.events.extend(renamings);
        batch.highest = self.interfaces.highest_if_grown();
        // What every batch has is no reason for one.
        let of_every = batch.notes.len();
        batch
            .notes
            .extend(self.known.news(&self.interfaces, &self.config));
        batch.notes.extend(self.interfaces.guests.news());
        let news = claims_changed
            || !batch.slots.is_empty()
            || batch.notes.len() > of_every
            || batch.highest.is_some();
        if news && let Err(failure) = self.commit(&batch, next) {
            self.interfaces.still_changed();
            return Err(failure.into());
        }

        self.terms_changed = false;
        self.interfaces.looked_at();
        // Again: what came and went since the last look has a slot only now.
        let closing = self.mark_closing(now);
        let attached = self.attach_all();
        self.credit_all(links).await?;
        if closing {
            self.let_go().await?;
        }
        if attached {
            // A throttled machine's new interface is throttled at once, not at the next poll.
            self.arm_and_apply(Which::All).await;
        } else if claims_changed {
            // Another plan may have other prefixes.
            self.exempt();
        }
        if self.unapplied {
            // A period that turned, a credit, a last delta: limits follow at once, too.
            self.arm_and_apply(Which::Changed).await;
        }
        Ok(())
    }

    /// Whether each claimed interface is metered, nothing else is, and nothing is owed.
    fn is_settled(&self) -> bool {
        let owed = |record: &SlotRecord| record.credits && record.credit.is_none();
        let slots = self.slots.iter().count();
        !self.interfaces.has_changed()
            && !self.terms_changed
            && self.closing.is_empty()
            && self.attached.len() == slots
            && self.interfaces.claimed() == slots
            && self.interfaces.guests.news().is_empty()
            && !self.slots.iter().any(owed)
    }

    /// A slot for each claimed interface that has none, and for one that has a new owner.
    fn open_slots(&mut self, now: Timestamp) -> Result<Vec<SlotRecord>, CycleError> {
        let mut opened: Vec<SlotRecord> = Vec::new();
        let mut unmetered = Vec::new();
        let mut free = self.slots.free();
        for (link, claim) in self.interfaces.claims() {
            let interface = self.interfaces.id(link.ifindex);
            let owner = self.slots.of_interface(interface);
            let is_gone = self.interfaces.link(link.ifindex).is_none();
            if owner.is_some_and(|record| is_gone || record.machine == claim.machine) {
                continue;
            }
            let Some(counter) = free.next() else {
                unmetered.push((claim.machine.clone(), link.name.clone()));
                continue;
            };
            let reading = self.programs.reading(counter.slot.0)?;
            let record = SlotRecord::of(SlotOwner {
                machine: claim.machine.clone(),
                interface,
                name: link.name.clone(),
                base: node::reading(&reading),
                credit: None,
                // With an earlier owner the interface was metered all along.
                credits: owner.is_none()
                    && self
                        .interfaces
                        .is_newborn(link.ifindex, clock::now().monotonic),
                counter,
            });
            self.drops.look(&record, (&reading).into());
            opened.push(record);
        }
        for (machine, name) in unmetered {
            if self.tally.say_once(format!("slots {name}")) {
                error!(machine = %machine, interface = name, "unmetered: every counter slot is taken");
                self.pending
                    .push(records::slots_exhausted(now, &machine, &name));
            }
        }
        Ok(opened)
    }

    fn renamed(&self, now: Timestamp) -> (Vec<SlotRecord>, Vec<EventRecord>) {
        let (mut renamed, mut events) = (Vec::new(), Vec::new());
        for record in self.slots.iter() {
            let Some(link) = self.interfaces.link(record.interface.ifindex) else {
                continue;
            };
            if link.name != record.name && !self.closing.contains(&record.counter.slot) {
                info!(from = record.name, to = link.name, "interface renamed");
                events.push(records::renamed(now, record, &link.name));
                let mut record = record.clone();
                record.name.clone_from(&link.name);
                renamed.push(record);
            }
        }
        (renamed, events)
    }

    /// A shaper's figures are one machine's: it goes before the interface is another's.
    async fn lift_before_handing_over(&mut self) {
        let handed_over: Vec<SlotRecord> = self
            .slots
            .iter()
            .filter(|record| record.shaped.is_some())
            .filter(|record| {
                let claim = self.interfaces.claim(record.interface.ifindex);
                claim.is_some_and(|claim| claim.machine != record.machine)
            })
            .cloned()
            .collect();
        for record in handed_over {
            self.leave_shaper(&record).await;
        }
    }

    /// Marks the slots whose interface is gone, no longer claimed, or another machine's.
    fn mark_closing(&mut self, now: Timestamp) -> bool {
        for record in self.slots.iter() {
            let ifindex = record.interface.ifindex;
            let claim = self.interfaces.claim(ifindex);
            let ours = claim.is_some_and(|claim| claim.machine == record.machine);
            if !ours && self.closing.insert(record.counter.slot) {
                let detail = match claim {
                    Some(claim) => format!("it is {}'s now", claim.machine),
                    None if self.interfaces.link(ifindex).is_some() => {
                        "it is nobody's now".to_owned()
                    }
                    None => "it is not there any more".to_owned(),
                };
                info!(interface = record.name, machine = %record.machine, "let go of: {detail}");
                self.pending.push(records::gone(now, record, &detail));
            }
        }
        !self.closing.is_empty()
    }

    pub(super) fn is_attached(&self, record: &SlotRecord) -> bool {
        self.attached.get(&record.interface.ifindex) == Some(&record.counter.slot.0)
    }

    /// Programs on every interface that has a slot and is not attached to it; says whether
    /// there was any.
    fn attach_all(&mut self) -> bool {
        let mut records: Vec<SlotRecord> = self
            .slots
            .iter()
            .filter(|record| !self.closing.contains(&record.counter.slot))
            .filter(|record| !self.is_attached(record))
            .cloned()
            .collect();
        if self.programs.mode() == Mode::Clsact {
            // Ours stands where the qdisc of a hypervisor's rate limit will: if it came first,
            // theirs would fail, and the guest would not start.
            let now = clock::now().monotonic;
            let quiet = &mut self.quiet;
            records.retain(|it| quiet.is_ours_to_take(it.interface.ifindex, now, Lost::No));
        }
        if records.is_empty() {
            return false;
        }
        for record in &records {
            self.stop_before_attach(record);
        }
        let requests: Vec<AttachRequest> = records
            .iter()
            .map(|record| AttachRequest {
                ifindex: record.interface.ifindex,
                slot: record.counter.slot.0,
                generation: record.counter.generation.0,
                machine: self.entry_before_attach(record),
            })
            .collect();
        self.arm_before_attach();
        for (record, (_, outcome)) in records.iter().zip(self.programs.attach(&requests)) {
            self.note_attached(record, outcome);
        }
        true
    }

    fn note_attached(&mut self, record: &SlotRecord, outcome: Result<Hooks, HostError>) {
        let now = self.now();
        let ifindex = record.interface.ifindex;
        let what = format!("attach {ifindex}");
        let problem = match outcome {
            Ok(hooks) => {
                self.attached.insert(ifindex, record.counter.slot.0);
                // The slot may be another one than before.
                self.audit.forget(ifindex);
                info!(interface = record.name, machine = %record.machine, "metered");
                if !record.credits {
                    self.pending
                        .push(records::attached(now, record, Basis::Baseline));
                }
                if hooks == Hooks::Both {
                    self.tally.say_again(&what);
                    return;
                }
                "what the guest receives is not counted: an `ingress` qdisc stands in the place \
                 of clsact, and this kernel has no tcx"
                    .to_owned()
            }
            // Gone already: its deletion event is on the way.
            Err(HostError::NoInterface { .. }) => return,
            Err(failure) => failure.to_string(),
        };
        if self.tally.say_once(what) {
            error!(interface = record.name, machine = %record.machine, "unmetered: {problem}");
            self.pending
                .push(records::attach_failed(now, record, &problem));
        }
    }

    /// Settles what newborn interfaces moved before the programs stood, in one commit.
    async fn credit_all(&mut self, links: &Links) -> Result<(), CycleError> {
        let owed: Vec<SlotRecord> = self
            .slots
            .iter()
            .filter(|record| record.credits && record.credit.is_none())
            .filter(|record| {
                self.is_attached(record) || self.closing.contains(&record.counter.slot)
            })
            .cloned()
            .collect();
        if owed.is_empty() {
            return Ok(());
        }
        let mut credited = Vec::new();
        for mut record in owed {
            // None: it has vanished, and its deletion is not told yet.
            if let Some(credit) = self.earlier_traffic(links, &record).await? {
                record.credit = Some(credit);
                credited.push(record);
            }
        }
        let now = self.now();
        let samples: Vec<Sample> = credited
            .iter()
            .map(|record| Sample {
                machine: record.machine.clone(),
                // When it moved is not known; it counts where it became known.
                from: now,
                to: now,
                traffic: record.credit.unwrap_or(Traffic::ZERO),
            })
            .filter(|sample| !sample.traffic.is_zero())
            .collect();
        let mut next = self.engine.clone();
        let effects = next.step(
            now,
            &Observation {
                traffic: samples.clone(),
                commands: Vec::new(),
            },
        );
        let mut batch = self.batch(now, &next, &effects);
        batch.usage = samples
            .into_iter()
            .map(|sample| self.usage(&next, sample))
            .collect();
        batch.events.extend(
            credited
                .iter()
                .map(|record| records::attached(now, record, Basis::InterfaceCounters)),
        );
        batch.slots = credited;
        self.commit(&batch, next)?;
        Ok(())
    }

    /// What an interface moved before the program counted: the kernel's own counters less
    /// ours. The two are not read at one instant, so: `sent` is first in the kernel's
    /// counter and then in ours, hence the smallest difference seen is the true one, once
    /// nothing was under way; `received` the other way round.
    async fn earlier_traffic(
        &mut self,
        links: &Links,
        record: &SlotRecord,
    ) -> Result<Option<Traffic>, CycleError> {
        let (ifindex, slot) = (record.interface.ifindex, record.counter.slot.0);
        let mut best: Option<[Bytes; 2]> = None;
        let mut last = None;
        for _ in 0..CREDIT_READINGS {
            let before = self.programs.reading(slot)?;
            let Some(link) = links.get(ifindex).await? else {
                // Its last words are exact; what was seen so far may have been under way.
                best = None;
                break;
            };
            let after = self.programs.reading(slot)?;
            let dropped = self.drops.of_sent(record, (&before).into());
            let seen = uncounted(record, link.kernel, dropped, &before, &after);
            best = Some(best.map_or(seen, |best| [best[0].max(seen[0]), best[1].min(seen[1])]));
            if before == after && last == Some(seen) {
                break;
            }
            last = Some(seen);
        }
        if best.is_none()
            && let Some(last) = self.interfaces.last_words(ifindex)
        {
            let reading = self.programs.reading(slot)?;
            let dropped = self.drops.of_sent(record, (&reading).into());
            best = Some(uncounted(record, last.kernel, dropped, &reading, &reading));
            if !last.whole && self.tally.say_once(format!("unknown {ifindex}")) {
                let now = self.now();
                self.pending.push(records::unknown(
                    now,
                    &record.machine,
                    &record.name,
                    ifindex,
                ));
            }
        }
        Ok(best.map(|[received, sent]| Traffic {
            received,
            sent,
            exempt: Bytes::ZERO,
        }))
    }

    /// Shapers and programs of what is gone go, so that nothing is counted any more; then the
    /// last deltas are recorded, and the slots are free. What cannot be let go of now is the
    /// next call's.
    async fn let_go(&mut self) -> Result<(), CycleError> {
        let leaving: Vec<SlotRecord> = self
            .closing
            .iter()
            .filter_map(|slot| self.slots.get(*slot))
            .cloned()
            .collect();
        let mut left: BTreeSet<Slot> = BTreeSet::new();
        let mut outcome = Ok(());
        for record in &leaving {
            match self.leave(record).await {
                Ok(Left::Yes) => {
                    self.note_unasked(record);
                    left.insert(record.counter.slot);
                }
                Ok(Left::NotYet) => {}
                Err(failure) => outcome = Err(failure.into()),
            }
        }
        let until = clock::now().monotonic + TURN;
        self.release_links(&Which::Changed, until).await;
        self.measure_last(&left).await?;
        self.release_entries();
        for record in leaving {
            let ifindex = record.interface.ifindex;
            if left.contains(&record.counter.slot)
                && self.slots.of_interface(record.interface).is_none()
            {
                self.interfaces.forget(ifindex);
                self.quiet.give_up(ifindex);
                self.drifting.remove(&ifindex);
                for what in ["attach", "enforce", "unknown"] {
                    self.tally.say_again(&format!("{what} {ifindex}"));
                }
            }
        }
        outcome
    }

    /// What a newborn moved before it was metered is owed or said to be unknown: one that a list
    /// of all links lacked has gone without last words.
    fn note_unasked(&mut self, record: &SlotRecord) {
        let ifindex = record.interface.ifindex;
        let owed = record.credits && record.credit.is_none();
        if owed && self.tally.say_once(format!("unknown {ifindex}")) {
            let (now, machine) = (self.now(), &record.machine);
            self.pending
                .push(records::unknown(now, machine, &record.name, ifindex));
        }
    }

    async fn leave(&mut self, record: &SlotRecord) -> Result<Left, HostError> {
        let newest = self.slots.of_interface(record.interface);
        if newest.is_none_or(|newest| newest.counter != record.counter) {
            // The interface counts elsewhere by now.
            return Ok(Left::Yes);
        }
        let ifindex = record.interface.ifindex;
        if self.leave_shaper(record).await == Left::NotYet {
            return Ok(Left::NotYet);
        }
        self.audit.forget(ifindex);
        self.attached.remove(&ifindex);
        self.programs.release(ifindex, record.counter.slot.0)?;
        Ok(Left::Yes)
    }

    pub(super) fn usage(&self, engine: &crate::engine::Engine, sample: Sample) -> Usage {
        let zone = engine
            .zone(&sample.machine)
            .unwrap_or(&self.config.time_zone)
            .clone();
        let Sample {
            machine,
            from,
            to,
            traffic,
        } = sample;
        Usage {
            machine,
            zone,
            from,
            to,
            traffic,
        }
    }
}

/// What the kernel's counters of an interface have beyond ours: received, sent. What the
/// program dropped of `sent` is in the kernel's counter and was not used.
fn uncounted(
    record: &SlotRecord,
    kernel: KernelCounters,
    dropped: Bytes,
    before: &SlotReading,
    after: &SlotReading,
) -> [Bytes; 2] {
    let received = Bytes(after.received.frame_bytes).saturating_sub(record.base.frames[0]);
    let sent = Bytes(before.sent.frame_bytes).saturating_sub(record.base.frames[1]);
    [
        kernel.received.saturating_sub(received),
        kernel.sent.saturating_sub(sent + dropped),
    ]
}
