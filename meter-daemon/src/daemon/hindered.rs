//! Why an interface is not what it should be, and how that is said: once while it lasts.

use tracing::{error, warn};

use super::{
    node::{CycleError, Node},
    records,
};
use crate::{
    host::{error::HostError, netlink::NetlinkError, shaping::ShapingError},
    ledger::{LedgerError, SlotRecord},
};

/// Why an interface is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnforceError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Shaping(#[from] ShapingError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Cycle(#[from] CycleError),
    #[error(
        "policed instead of shaped: its root qdisc is {kind}, which is not ours to replace ({why}). \
         What is above the rate is dropped instead of queued, until it is removed"
    )]
    Foreign { kind: String, why: String },
    #[error(
        "what the guest sends is policed instead of shaped: a redirect would lead it past somebody's \
         filters on the interface's ingress ({filters}). What is above the rate is dropped instead of \
         queued, until they are moved to the bridge or forward hook"
    )]
    PassesBy { filters: String },
}

impl Node {
    /// Records what is to be told, where no reading follows that would.
    pub(super) fn tell_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let now = self.now();
        let batch = self.batch(now, &self.engine, &[]);
        // Said where it is written; what is to be told waits for the next good commit.
        let _ = self.commit(&batch, self.engine.clone());
    }

    /// Says what became of an interface, and counts failures.
    pub(super) fn said(&mut self, record: &SlotRecord, outcome: Result<(), EnforceError>) {
        let what = format!("enforce {}", record.interface.ifindex);
        match outcome {
            // While somebody is at work there, nothing is over.
            Ok(()) if self.quiet.waits_for(record.interface.ifindex) => {}
            Ok(()) => self.tally.say_again(&what),
            Err(policed @ (EnforceError::Foreign { .. } | EnforceError::PassesBy { .. })) => {
                if self.tally.say_once(what) {
                    warn!(interface = record.name, machine = %record.machine, "{policed}");
                    let now = self.now();
                    let detail = policed.to_string();
                    self.pending.push(records::enforced(
                        now,
                        &record.machine,
                        &record.name,
                        &detail,
                    ));
                }
            }
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
}
