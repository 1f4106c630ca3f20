//! What we know of our own shapers: where they stand, what stood before them, and what came
//! through. `enforce` puts them up and takes them away.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::{interfaces::Interfaces, share::Demand};
use crate::{
    engine::units::{BitsPerSecond, Bytes},
    host::{
        netlink::NetlinkError,
        programs::Verdict,
        shaping::{Figures, RootAfter, SavedRoot, Shaping},
    },
    ledger::{BootId, Generation, Shaped, Slot, SlotRecord},
};

/// The shapers of this node and what stood before each.
pub(crate) struct Enforcer {
    pub(super) shaping: Shaping,
    /// By ifindex: every interface that has a note, i.e. that we may have changed.
    pub(super) touched: BTreeMap<u32, Touched>,
    /// The shares of the interfaces of throttled machines that have several.
    pub(super) shares: BTreeMap<Slot, BitsPerSecond>,
    /// What each of them demands.
    pub(super) demands: BTreeMap<Slot, Demand>,
    /// What the program was last told of each slot, under which generation.
    pub(super) verdicts: BTreeMap<Slot, (Generation, Verdict)>,
}

/// An interface we may have changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    /// What to put back.
    pub(super) saved: Option<SavedRoot>,
    /// What we last set its shaper to.
    pub(super) rate: Option<BitsPerSecond>,
    /// What the guest sends goes there, too.
    pub(super) redirects: bool,
    /// What its IFB had let through when it went, until that is recorded.
    pub(super) last_sent: Option<Bytes>,
}

fn note_prefix(boot: &BootId, netns: u64) -> String {
    format!("root-qdisc/{}/{netns}/", boot.0)
}

pub(super) fn note_key(record: &SlotRecord) -> String {
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
            touched.insert(
                ifindex,
                Touched {
                    saved,
                    ..Touched::default()
                },
            );
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
            shares: BTreeMap::new(),
            demands: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        })
    }

    /// Whether an interface has, or may have, a shaper of ours.
    pub(crate) fn touches(&self, ifindex: u32) -> bool {
        self.touched.contains_key(&ifindex)
    }

    /// Whether what the guest sends is led into our shaper; `None` where there is none.
    pub(crate) fn redirects(&self, ifindex: u32) -> Option<bool> {
        self.touched.get(&ifindex).map(|touched| touched.redirects)
    }

    /// Whether an interface's traffic is shaped both ways: none of it is policed.
    pub(crate) fn shapes(&self, record: &SlotRecord) -> bool {
        let touched = self.touched.get(&record.interface.ifindex);
        record.shaped.is_some() && touched.is_some_and(|it| it.rate.is_some() && it.redirects)
    }

    /// Whether we keep packets from an interface, so that the kernel's counters rightly differ
    /// from the program's.
    pub(crate) fn interferes(&self, ifindex: u32, slot: u32) -> bool {
        let verdict = self.verdicts.get(&Slot(slot));
        self.touches(ifindex) || verdict.is_some_and(|(_, verdict)| *verdict != Verdict::Pass)
    }

    /// What the program does with a slot's packets; not known before we said so.
    pub(super) fn verdict(&self, record: &SlotRecord) -> Option<Verdict> {
        let (generation, verdict) = self.verdicts.get(&record.counter.slot)?;
        (*generation == record.counter.generation).then_some(*verdict)
    }

    /// What has come through the shapers of a slot up to now, while they stand.
    /// `past` went past the root's shaper meanwhile, if that could be read.
    pub(crate) async fn shaped_now(
        &self,
        record: &SlotRecord,
        interfaces: &Interfaces,
        past: Option<Bytes>,
    ) -> Option<Shaped> {
        let before = record.shaped?;
        let Some(past) = past else {
            return Some(before);
        };
        let ifindex = record.interface.ifindex;
        if let Some(last) = interfaces.last_words(ifindex) {
            let sent = self.shaping.through_ifb(ifindex).await.ok().flatten();
            return Some(Shaped {
                ifb: before.ifb,
                through: [
                    before.through[0].max(last.kernel.received.saturating_sub(past)),
                    before.through[1].max(sent.unwrap_or_default()),
                ],
            });
        }
        match self.shaping.figures(ifindex).await {
            Ok(Some(figures)) if figures.ifb == before.ifb => {
                let mut now = shaped(figures, past);
                // What goes past may be counted there before the interface has counted it.
                now.through[0] = now.through[0].max(before.through[0]);
                Some(now)
            }
            // Not known at this moment, or somebody has removed the IFB: what came through is
            // found with the next figures; of one that we removed we know its last.
            _ => {
                let last = self.touched.get(&ifindex).and_then(|it| it.last_sent);
                let sent = last.unwrap_or_default().max(before.through[1]);
                Some(Shaped {
                    through: [before.through[0], sent],
                    ..before
                })
            }
        }
    }
}

/// Where to count on from: what the interface gave out is one counter, whatever becomes of
/// the IFB, and a new IFB counts from zero.
pub(super) fn counted_on(before: Option<Shaped>, now: Shaped) -> Shaped {
    match before {
        None => now,
        Some(before) if before.ifb == now.ifb => before,
        Some(before) => Shaped {
            ifb: now.ifb,
            through: [before.through[0], Bytes::ZERO],
        },
    }
}

/// What came through the shapers: what the interface gave out, less what went past its root's.
pub(super) fn shaped(figures: Figures, past: Bytes) -> Shaped {
    let [received, sent] = figures.traffic;
    Shaped {
        ifb: figures.ifb,
        through: [received.saturating_sub(past), sent],
    }
}

/// What became of the root, in words.
pub(super) fn after(root: &RootAfter) -> String {
    match root {
        RootAfter::Restored => "what stood at the root before stands again".to_owned(),
        RootAfter::DefaultBack => "the kernel's default is back at the root".to_owned(),
        RootAfter::ForeignLeftAlone(kind) => {
            format!("somebody put {kind} at the root meanwhile: it was left alone")
        }
        RootAfter::InterfaceGone => "the interface is gone".to_owned(),
    }
}
