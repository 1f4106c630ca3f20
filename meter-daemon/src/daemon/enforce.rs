//! What should stand between a machine and its traffic, against what is found to stand.
//!
//! The order is what makes it safe: what stood before is recorded, then ours is installed,
//! then the program sends packets there. Lifting goes the other way round. A crash at any
//! point leaves a note by which the next start finishes the work.

use std::{collections::BTreeMap, time::Duration};

use tracing::{info, warn};

use super::{
    apply::Which,
    discover::Left,
    hindered::EnforceError,
    node::Node,
    quiet::Lost,
    records,
    shapers::{after, counted_on, note_key, shaped},
    share::equal_share,
};
use crate::{
    engine::{
        Enforcement,
        units::{BitsPerSecond, Bytes, MachineId},
    },
    host::{
        clock,
        error::HostError,
        links::Links,
        programs::{Shaper, Verdict},
        shaping::{self, Change, Root, RootAfter, SavedRoot},
    },
    ledger::{HostNote, Shaped, SlotRecord},
};

impl Node {
    /// What an interface is to be shaped to, if it is.
    pub(super) fn rate(
        &self,
        record: &SlotRecord,
        interfaces: &BTreeMap<MachineId, u64>,
    ) -> Option<BitsPerSecond> {
        let Enforcement::Throttle(rate) = self.wanted(&record.machine) else {
            return None;
        };
        let count = interfaces.get(&record.machine).copied().unwrap_or(1);
        let share = self.enforcer.shares.get(&record.counter.slot).copied();
        Some(
            share
                .filter(|_| count > 1)
                .unwrap_or(equal_share(rate, count)),
        )
    }

    /// Before an interface is attached: what stands against its machine stands from the
    /// first packet.
    pub(super) fn stop_before_attach(&mut self, record: &SlotRecord) {
        let wanted = verdict(self.wanted(&record.machine));
        let outcome = self.stop_or_pass(record, wanted);
        self.said(record, outcome);
    }

    pub(super) fn stop_or_pass(
        &mut self,
        record: &SlotRecord,
        wanted: Verdict,
    ) -> Result<(), EnforceError> {
        if self.enforcer.verdict(record) == Some(wanted) {
            return Ok(());
        }
        let slot = record.counter.slot;
        self.programs.set_verdict(slot.0, wanted)?;
        let before = self
            .enforcer
            .verdicts
            .insert(slot, (record.counter.generation, wanted));
        let detail = match (before, wanted) {
            (_, Verdict::Capped) => "stopped: the cap is used up",
            (_, Verdict::Suspended) => "stopped: the machine is suspended",
            // The first look after a start, at what was never stopped.
            (None, Verdict::Pass) => return Ok(()),
            (Some(_), Verdict::Pass) => "passes again",
        };
        info!(interface = record.name, machine = %record.machine, "{detail}");
        let now = self.now();
        self.pending.push(records::enforced(
            now,
            &record.machine,
            &record.name,
            detail,
        ));
        Ok(())
    }

    pub(super) fn wanted(&self, machine: &MachineId) -> Enforcement {
        self.engine.enforcement(machine)
    }

    pub(super) async fn throttle(
        &mut self,
        record: &SlotRecord,
        rate: BitsPerSecond,
    ) -> Result<(), EnforceError> {
        let ifindex = record.interface.ifindex;
        let found = self.enforcer.shaping.inspect(ifindex).await?;
        let before = self.current(record).shaped;
        let ours = matches!(found.root, Root::Ours { .. });
        let now = clock::now().monotonic;
        let lost = match before {
            Some(_) => Lost::Yes,
            None => Lost::No,
        };
        if !ours && !self.quiet.is_ours_to_take(ifindex, now, lost) {
            return self.leave_alone(record, before);
        }
        self.quiet.give_up(ifindex);
        if let Root::Foreign { kind, why } = &found.root {
            // A program that takes a shaper for standing polices nothing.
            if self.enforcer.touches(ifindex) {
                self.measure_one(record.counter.slot).await?;
                self.take_down(record, "the shaper's place is taken")
                    .await?;
            }
            return Err(EnforceError::Foreign {
                kind: kind.clone(),
                why: why.clone(),
            });
        }
        if !self.enforcer.touches(ifindex) || !ours {
            let saved = match &found.root {
                Root::Restorable(saved) => Some(saved.clone()),
                Root::None | Root::Default(_) | Root::Ours { .. } | Root::Foreign { .. } => None,
            };
            self.remember_root(record, saved)?;
        }
        if before.is_none() {
            self.begin_figures(record, rate).await?;
        }
        let installed = match self
            .enforcer
            .shaping
            .install(ifindex, rate, &found.root)
            .await
        {
            Err(shaping::ShapingError::Disturbed { .. }) => {
                let now = clock::now().monotonic;
                self.quiet.disturbed(ifindex, now);
                self.quiet.is_ours_to_take(ifindex, now, Lost::No);
                return self.leave_alone(record, before);
            }
            outcome => outcome?,
        };
        // What an IFB gives back skips filters and chains of the interface's ingress: an
        // anti-spoofing rule there would be of no use any more.
        let bypassed = found.bypassed_by(self.programs.mode());
        let shaper = Shaper {
            major: shaping::MAJOR,
            ifb_ifindex: if bypassed.is_empty() {
                installed.ifb_ifindex
            } else {
                0
            },
        };
        self.programs
            .set_shaper(ifindex, record.counter.slot.0, Some(shaper))?;
        // From when the program sends packets there: what it had counted is counted.
        let past = self.programs.past_shaper(record.counter.slot.0)?;
        let figures = self.enforcer.shaping.figures(ifindex).await?;
        let (Some(now), Some(touched)) = (
            figures.map(|figures| shaped(figures, past)),
            self.enforcer.touched.get_mut(&ifindex),
        ) else {
            return Err(shaping::ShapingError::Gone { ifindex }.into());
        };
        let redirects = bypassed.is_empty();
        let redirects_again = redirects && !touched.redirects && touched.rate.is_some();
        touched.redirects = redirects;
        let ours_to_change = touched.rate.replace(rate) != Some(rate);
        let stands = Some(counted_on(before, now));
        let drifted =
            before.is_some() && installed.change != Change::Nothing && !(ours_to_change && ours);
        if drifted {
            self.tally.drift_repairs += 1;
        }
        if stands != before || drifted {
            // As the rule says it: the shaper is set a little lower, or to a share.
            let rate = match self.wanted(&record.machine) {
                Enforcement::Throttle(rule) => rule,
                _ => rate,
            };
            let detail = if before.is_some() {
                format!("throttle of {rate} put back after somebody changed it")
            } else {
                format!("throttled to {rate}")
            };
            self.enforced(record, stands, &detail)?;
        }
        if redirects_again && before.is_some() && ours {
            self.enforced(record, stands, "what the guest sends is shaped again")?;
        }
        if !bypassed.is_empty() {
            let filters = bypassed.join(", ");
            return Err(EnforceError::PassesBy { filters });
        }
        Ok(())
    }

    /// Somebody is at work there: see `quiet`. Until they are done what stands stays, and what
    /// does not any more is made up for by policing. What stood before ours they have taken away:
    /// should we lift before they are done, it is not ours to put back.
    fn leave_alone(
        &mut self,
        record: &SlotRecord,
        before: Option<Shaped>,
    ) -> Result<(), EnforceError> {
        let ifindex = record.interface.ifindex;
        let touched = self.enforcer.touched.get(&ifindex);
        if touched.is_some_and(|touched| touched.saved.is_some()) {
            self.remember_root(record, None)?;
        }
        if before.is_some() {
            self.programs.lose_root(ifindex, record.counter.slot.0)?;
        }
        Ok(())
    }

    /// Should we end while the shaper is put up, what comes through it until the next start
    /// is found all the same.
    async fn begin_figures(
        &mut self,
        record: &SlotRecord,
        rate: BitsPerSecond,
    ) -> Result<(), EnforceError> {
        let ifindex = record.interface.ifindex;
        let figures = self.enforcer.shaping.prepare(ifindex, rate).await?;
        let past = self.programs.past_shaper(record.counter.slot.0)?;
        let now = self.now();
        let mut batch = self.batch(now, &self.engine, &[]);
        batch.slots.push(SlotRecord {
            shaped: Some(shaped(figures, past)),
            ..self.current(record)
        });
        let engine = self.engine.clone();
        Ok(self.commit(&batch, engine)?)
    }

    /// Records that an interface's shaper is another by now, and says so.
    fn enforced(
        &mut self,
        record: &SlotRecord,
        shaped: Option<Shaped>,
        detail: &str,
    ) -> Result<(), EnforceError> {
        info!(interface = record.name, machine = %record.machine, "{detail}");
        let now = self.now();
        let mut batch = self.batch(now, &self.engine, &[]);
        batch.events.push(records::enforced(
            now,
            &record.machine,
            &record.name,
            detail,
        ));
        batch.slots.push(SlotRecord {
            shaped,
            ..self.current(record)
        });
        if shaped.is_none() {
            batch.notes.push(HostNote {
                key: note_key(record),
                value: None,
            });
        }
        let engine = self.engine.clone();
        Ok(self.commit(&batch, engine)?)
    }

    /// Puts up what had to wait for others to be done.
    pub(super) async fn take_what_is_quiet(&mut self, links: &Links) {
        let due = self.quiet.due(clock::now().monotonic);
        if due.iter().any(|it| !self.attached.contains_key(it))
            && let Err(failure) = self.discover(links).await
        {
            self.failed(&failure);
        }
        self.apply_to(Which::These(due.clone())).await;
        for ifindex in due {
            self.quiet.give_up(ifindex);
        }
        self.tell_pending();
    }

    /// Looks whether what our shapers lead what guests send past is still nothing.
    pub(super) async fn look_at_shapers(&mut self) {
        let touched = self.enforcer.touched.keys().copied().collect();
        self.apply_to(Which::These(touched)).await;
        self.tell_pending();
    }

    /// How long the loop may sleep before then.
    pub(super) fn until_quiet(&self) -> Option<Duration> {
        self.quiet.next(clock::now().monotonic)
    }

    /// Writes down what is to be put back one day, before it is replaced.
    fn remember_root(
        &mut self,
        record: &SlotRecord,
        saved: Option<SavedRoot>,
    ) -> Result<(), EnforceError> {
        let now = self.now();
        let mut batch = self.batch(now, &self.engine, &[]);
        batch.notes.push(HostNote {
            key: note_key(record),
            value: Some(serde_json::to_string(&saved).unwrap_or_else(|_| "null".into())),
        });
        let engine = self.engine.clone();
        self.commit(&batch, engine)?;
        let touched = self
            .enforcer
            .touched
            .entry(record.interface.ifindex)
            .or_default();
        touched.saved = saved;
        Ok(())
    }

    pub(super) async fn lift(&mut self, record: &SlotRecord) -> Result<(), EnforceError> {
        // What came through up to now, while the shapers still say so.
        self.measure_one(record.counter.slot).await?;
        self.take_down(record, LIFTED).await
    }

    async fn take_down(&mut self, record: &SlotRecord, why: &str) -> Result<(), EnforceError> {
        let ifindex = record.interface.ifindex;
        match self
            .programs
            .set_shaper(ifindex, record.counter.slot.0, None)
        {
            // No program of ours stands there: nothing is sent anywhere.
            Ok(()) | Err(HostError::NotMetered { .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
        let saved = self
            .enforcer
            .touched
            .get(&ifindex)
            .and_then(|t| t.saved.clone());
        let removed = self
            .enforcer
            .shaping
            .remove(ifindex, saved.as_ref())
            .await?;
        let detail = format!("{why}; {}", after(&removed.root));
        if matches!(removed.root, RootAfter::Restored | RootAfter::DefaultBack) {
            self.quiet.changed_by_us(ifindex, clock::now().monotonic);
        }
        // The IFB let packets through until it went.
        if let Some(touched) = self.enforcer.touched.get_mut(&ifindex) {
            touched.last_sent = removed.figures.map(|last| last.traffic[1]);
        }
        self.measure_one(record.counter.slot).await?;
        self.enforced(record, None, &detail)?;
        // Only now: until the note is gone, too, this is not done.
        self.enforcer.touched.remove(&ifindex);
        Ok(())
    }

    /// An interface is no longer a machine's: its shaper goes, if the interface did not take
    /// it along.
    pub(super) async fn leave_shaper(&mut self, record: &SlotRecord) -> Left {
        if !self.enforcer.touches(record.interface.ifindex) {
            return Left::Yes;
        }
        let outcome = self.lift(record).await;
        let left = match &outcome {
            Ok(()) => Left::Yes,
            Err(_) => Left::NotYet,
        };
        self.said(record, outcome);
        left
    }

    /// The record as it is by now: `record` may be older than the last commit.
    fn current(&self, record: &SlotRecord) -> SlotRecord {
        self.slots
            .get(record.counter.slot)
            .unwrap_or(record)
            .clone()
    }

    /// The interfaces that have, or may have, a shaper of ours.
    pub(super) fn shaped_interfaces(&self) -> Vec<String> {
        self.slots
            .iter()
            .filter(|record| self.enforcer.touches(record.interface.ifindex))
            .map(|record| format!("the shaper of {}", record.name))
            .collect()
    }

    /// Removes every shaper and puts back what stood, for `detach`.
    pub(super) async fn lift_everything(&mut self) {
        let touched: Vec<SlotRecord> = self
            .slots
            .iter()
            .filter(|record| self.enforcer.touches(record.interface.ifindex))
            .cloned()
            .collect();
        // In the ledger if it can be; what was asked for is to leave, come what may.
        if let Err(failure) = self.measure().await {
            warn!("reading before throttles are lifted: {failure}");
        }
        for record in touched {
            let outcome = self.take_down(&record, LIFTED).await;
            self.said(&record, outcome);
        }
        // Of interfaces that no slot has any more.
        for (ifindex, touched) in &self.enforcer.touched {
            let removed = self
                .enforcer
                .shaping
                .remove(*ifindex, touched.saved.as_ref());
            if let Err(failure) = removed.await {
                warn!("{failure}");
            }
        }
    }
}

const LIFTED: &str = "throttle lifted";

/// What the program is to do with packets.
pub(super) fn verdict(wanted: Enforcement) -> Verdict {
    match wanted {
        Enforcement::Suspend => Verdict::Suspended,
        Enforcement::Cap {
            remaining: Bytes::ZERO,
        } => Verdict::Capped,
        Enforcement::None | Enforcement::Throttle(_) | Enforcement::Cap { .. } => Verdict::Pass,
    }
}
