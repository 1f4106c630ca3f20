//! What should stand between a machine and its traffic, against what is found to stand.
//!
//! The order is what makes it safe: what stood before is recorded, then ours is installed,
//! then the program sends packets there. Lifting goes the other way round. A crash at any
//! point leaves a note by which the next start finishes the work.

use std::collections::BTreeMap;

use tracing::{error, info, warn};

use super::{node::Node, records};
use crate::{
    engine::{
        Enforcement,
        units::{BitsPerSecond, Bytes, MachineId},
    },
    host::{
        error::HostError,
        netlink::NetlinkError,
        programs::{Shaper, Verdict},
        shaping::{self, Change, Figures, Found, Root, RootAfter, SavedRoot, Shaping},
    },
    ledger::{BootId, Generation, HostNote, LedgerError, Shaped, Slot, SlotRecord},
};

/// The shapers of this node and what stood before each.
pub(crate) struct Enforcer {
    pub(super) shaping: Shaping,
    /// By ifindex: every interface that has a note, i.e. that we may have changed.
    touched: BTreeMap<u32, Touched>,
    /// What the program was last told of each slot, under which generation.
    verdicts: BTreeMap<Slot, (Generation, Verdict)>,
}

/// An interface we may have changed.
#[derive(Clone, Debug, Default)]
struct Touched {
    /// What to put back.
    saved: Option<SavedRoot>,
    /// The shaper that stands, once it is known to, and its figures when it was made.
    standing: Option<Shaped>,
}

fn note_prefix(boot: &BootId, netns: u64) -> String {
    format!("root-qdisc/{}/{netns}/", boot.0)
}

fn note_key(record: &SlotRecord) -> String {
    let interface = record.interface;
    format!(
        "{}{}",
        note_prefix(&record.counter.boot, interface.netns),
        interface.ifindex
    )
}

impl Enforcer {
    /// With the notes an earlier run left about this boot's namespace.
    pub(crate) async fn open(
        shaping: Shaping,
        boot: &BootId,
        netns: u64,
        notes: &[(String, String)],
    ) -> Result<Self, NetlinkError> {
        let mut touched = BTreeMap::new();
        let prefix = note_prefix(boot, netns);
        for (key, value) in notes {
            let Some(ifindex) = key.strip_prefix(&prefix).and_then(|rest| rest.parse().ok()) else {
                continue;
            };
            let saved = serde_json::from_str(value).unwrap_or_else(|error| {
                warn!(
                    "the note of the root qdisc of interface {ifindex} is unreadable ({error}); \
                       lifting its throttle will leave the default qdisc"
                );
                None
            });
            // An interface that went away meanwhile has no figures and nothing to lift.
            let standing = shaping
                .figures(ifindex)
                .await
                .ok()
                .flatten()
                .map(Shaped::from);
            touched.insert(ifindex, Touched { saved, standing });
        }
        for stray in shaping.stray_ifbs().await? {
            info!(
                ifindex = stray.ifindex,
                "removing an IFB of ours whose interface is gone"
            );
            shaping.delete_stray(&stray).await?;
        }
        Ok(Self {
            shaping,
            touched,
            verdicts: BTreeMap::new(),
        })
    }

    /// Whether an interface has, or may have, a shaper of ours.
    pub(crate) fn touches(&self, ifindex: u32) -> bool {
        self.touched.contains_key(&ifindex)
    }

    /// What the program does with a slot's packets; not known before we said so.
    fn verdict(&self, record: &SlotRecord) -> Option<Verdict> {
        let (generation, verdict) = self.verdicts.get(&record.counter.slot)?;
        (*generation == record.counter.generation).then_some(*verdict)
    }

    /// What had come through the shapers of an interface when they were made, for a slot
    /// whose record does not say yet.
    pub(crate) fn shaped_at_first(&self, ifindex: u32) -> Option<Shaped> {
        self.touched.get(&ifindex)?.standing
    }

    /// What has come through the shapers of an interface up to now, while they stand.
    pub(crate) async fn shaped_now(&self, ifindex: u32) -> Option<Shaped> {
        self.touched.get(&ifindex)?.standing?;
        // Gone together with the interface: what came through since the last reading is no
        // longer known to anyone.
        self.shaping
            .figures(ifindex)
            .await
            .ok()
            .flatten()
            .map(Shaped::from)
    }
}

impl From<Figures> for Shaped {
    fn from(figures: Figures) -> Self {
        Self {
            ifb: figures.ifb,
            through: figures.traffic,
        }
    }
}

impl Node {
    /// Makes every interface what the engine wants it to be. Failures are said once, counted,
    /// and tried again with the next poll.
    pub(crate) async fn apply(&mut self) {
        let share = self.interfaces_per_machine();
        let records: Vec<SlotRecord> = self
            .slots
            .iter()
            .filter(|record| !self.closing.contains(&record.counter.slot))
            .filter(|record| {
                let ifindex = record.interface.ifindex;
                self.wanted(&record.machine) != Enforcement::None
                    || self.enforcer.touches(ifindex)
                    || self.enforcer.verdict(record) != Some(Verdict::Pass)
            })
            .cloned()
            .collect();
        for record in records {
            let interfaces = share.get(&record.machine).copied().unwrap_or(1);
            let wanted = self.wanted(&record.machine);
            let stopped = self.stop_or_pass(&record, verdict(wanted));
            let shaped = match wanted {
                Enforcement::Throttle(rate) => {
                    let rate = BitsPerSecond(shaped_to(rate).0 / interfaces);
                    self.throttle(&record, rate).await
                }
                _ if self.enforcer.touches(record.interface.ifindex) => self.lift(&record).await,
                _ => Ok(()),
            };
            self.said(&record, stopped.and(shaped));
        }
    }

    /// Before an interface is attached: what stands against its machine stands from the
    /// first packet.
    pub(super) fn stop_before_attach(&mut self, record: &SlotRecord) {
        let wanted = verdict(self.wanted(&record.machine));
        let outcome = self.stop_or_pass(record, wanted);
        self.said(record, outcome);
    }

    fn stop_or_pass(&mut self, record: &SlotRecord, wanted: Verdict) -> Result<(), EnforceError> {
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

    fn wanted(&self, machine: &MachineId) -> Enforcement {
        if self.config.dry_run {
            Enforcement::None
        } else {
            self.engine.enforcement(machine)
        }
    }

    /// A rate is the machine's, over all its interfaces.
    fn interfaces_per_machine(&self) -> BTreeMap<MachineId, u64> {
        let mut count = BTreeMap::new();
        for record in self.slots.iter() {
            if !self.closing.contains(&record.counter.slot) {
                *count.entry(record.machine.clone()).or_default() += 1;
            }
        }
        count
    }

    async fn throttle(
        &mut self,
        record: &SlotRecord,
        rate: BitsPerSecond,
    ) -> Result<(), EnforceError> {
        let ifindex = record.interface.ifindex;
        let found = self.enforcer.shaping.inspect(ifindex).await?;
        let stood = self.enforcer.shaped_at_first(ifindex).is_some();
        let ours = matches!(found.root, Root::Ours { .. });
        if !self.enforcer.touches(ifindex) || !ours {
            self.remember_root(record, &found)?;
        }
        let installed = self.enforcer.shaping.install(ifindex, rate).await?;
        let figures = self
            .enforcer
            .shaping
            .figures(ifindex)
            .await?
            .map(Shaped::from);
        let shaper = Shaper {
            major: shaping::MAJOR,
            ifb_ifindex: installed.ifb_ifindex,
        };
        self.programs
            .set_shaper(ifindex, record.counter.slot.0, Some(shaper))?;
        if installed.change == Change::Nothing && stood {
            return Ok(());
        }
        if let Some(touched) = self.enforcer.touched.get_mut(&ifindex) {
            touched.standing = figures;
        }
        if stood {
            self.tally.drift_repairs += 1;
        }
        let detail = match stood {
            false => format!("throttled to {rate}"),
            true => format!("throttle of {rate} put back after somebody changed it"),
        };
        self.enforced(record, figures, &detail)
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

    /// Writes down what stands, before it is replaced.
    fn remember_root(&mut self, record: &SlotRecord, found: &Found) -> Result<(), EnforceError> {
        let saved = match &found.root {
            Root::Foreign { kind, why } => {
                return Err(EnforceError::Foreign {
                    kind: kind.clone(),
                    why: why.clone(),
                });
            }
            Root::Restorable(saved) => Some(saved.clone()),
            Root::None | Root::Default(_) | Root::Ours { .. } => None,
        };
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

    async fn lift(&mut self, record: &SlotRecord) -> Result<(), EnforceError> {
        let ifindex = record.interface.ifindex;
        // What came through up to now, while the shapers still say so.
        if let Err(failure) = self.measure().await {
            warn!("reading before a throttle is lifted: {failure}");
        }
        self.programs
            .set_shaper(ifindex, record.counter.slot.0, None)?;
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
        self.enforcer.touched.remove(&ifindex);
        self.enforced(
            record,
            None,
            &format!("throttle lifted; {}", after(&removed.root)),
        )
    }

    /// An interface is no longer a machine's: its shaper goes, if the interface did not take
    /// it along.
    pub(super) async fn leave_shaper(&mut self, record: &SlotRecord) {
        if !self.enforcer.touches(record.interface.ifindex) {
            return;
        }
        let outcome = self.lift(record).await;
        self.said(record, outcome);
    }

    /// The record as it is by now: `record` may be older than the last commit.
    fn current(&self, record: &SlotRecord) -> SlotRecord {
        self.slots
            .get(record.counter.slot)
            .unwrap_or(record)
            .clone()
    }

    fn said(&mut self, record: &SlotRecord, outcome: Result<(), EnforceError>) {
        let what = format!("enforce {}", record.interface.ifindex);
        match outcome {
            Ok(()) => self.tally.say_again(&what),
            Err(failure) => {
                self.tally.enforcement_failures += 1;
                if self.tally.say_once(what) {
                    error!(interface = record.name, machine = %record.machine, "{failure}");
                    let now = self.now();
                    let detail = failure.to_string();
                    self.pending.push(records::enforcement_failed(
                        now,
                        &record.machine,
                        &record.name,
                        &detail,
                    ));
                }
            }
        }
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
        for record in touched {
            let outcome = self.lift(&record).await;
            self.said(&record, outcome);
        }
    }
}

/// What the program is to do with packets.
fn verdict(wanted: Enforcement) -> Verdict {
    match wanted {
        Enforcement::Suspend => Verdict::Suspended,
        Enforcement::Cap {
            remaining: Bytes::ZERO,
        } => Verdict::Capped,
        Enforcement::None | Enforcement::Throttle(_) | Enforcement::Cap { .. } => Verdict::Pass,
    }
}

/// What the shapers are set to. A TCP receiver sees data in order: where a hole fills, up to
/// three segments come at once, which over ten seconds at 64 kbit/s is 5 % more than the
/// average. A throttle promises not to be exceeded, so it aims a sixteenth lower.
fn shaped_to(rate: BitsPerSecond) -> BitsPerSecond {
    BitsPerSecond(rate.0 - rate.0 / 16)
}

fn after(root: &RootAfter) -> String {
    match root {
        RootAfter::Restored => "what stood at the root before stands again".to_owned(),
        RootAfter::DefaultBack => "the kernel's default is back at the root".to_owned(),
        RootAfter::ForeignLeftAlone(kind) => {
            format!("somebody put {kind} at the root meanwhile: it was left alone")
        }
        RootAfter::InterfaceGone => "the interface is gone".to_owned(),
    }
}

/// Why an interface is not what it should be.
#[derive(Debug, thiserror::Error)]
enum EnforceError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Shaping(#[from] shaping::ShapingError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(
        "not throttled: its root qdisc is {kind}, which is not ours to replace ({why}); \
         remove it or put it on another interface"
    )]
    Foreign { kind: String, why: String },
}
