//! Leaving: everything of ours removed from the node, its bytes in the ledger first.

use std::{path::Path, sync::Arc};

use tracing::warn;

use super::{linkdown, node::Node, open::Failure};
use crate::{
    config::Config,
    host::{
        identity,
        links::Links,
        programs::{Removed, detach_all},
        shaping::{Root, Shaping},
    },
    ledger::{BootId, LedgerError, Reader},
};

/// `meterd detach` without a daemon: does what the daemon would have done.
///
/// # Errors
/// When something of ours may still be there.
pub fn detach(config_path: &Path, dry_run: bool) -> Result<Vec<String>, Failure> {
    let config = Config::load(config_path)?;
    super::runtime()?.block_on(async {
        let links = Links::open()?;
        let pins = config.pin_directory.clone();
        if !is_pinned(&pins) && !holds_links(&config) {
            // Nothing to read and nothing to adopt: opening would only make what must go.
            return if dry_run {
                Ok(Vec::new())
            } else {
                leave_behind(&links, &pins).await
            };
        }
        match Node::open(Arc::new(config), &links).await {
            Ok(mut node) => {
                node.adopt_attached()?;
                if dry_run {
                    Ok(node.would_detach())
                } else {
                    node.detach().await
                }
            }
            // Whoever holds the state directory does the detaching, or is asked to end.
            Err(failure @ Failure::Ledger(LedgerError::Held { .. })) => Err(failure),
            // The kernel's side can be left whatever became of the ledger.
            Err(failure) if dry_run => Err(failure),
            Err(failure) => {
                warn!(
                    "leaving without a last reading: {failure}; nor is it known without the \
                     ledger which links meterd has set down: see `ip link`"
                );
                leave_behind(&links, &pins).await
            }
        }
    })
}

/// Whether a daemon has left maps or links here.
fn is_pinned(pins: &Path) -> bool {
    std::fs::read_dir(pins).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether the ledger tells of links that we have set down in this boot.
fn holds_links(config: &Config) -> bool {
    let notes = Reader::open(&config.state_directory).and_then(|reader| reader.notes());
    // A ledger that is not there, or cannot be read, tells of none.
    match (notes, identity::boot_id()) {
        (Ok(notes), Ok(boot)) => linkdown::tells_of_links(&notes, &BootId(boot.into())),
        _ => false,
    }
}

async fn leave_behind(links: &Links, pins: &Path) -> Result<Vec<String>, Failure> {
    let mut removed = remove_shapers(links).await?;
    removed.extend(remove_programs(pins)?);
    Ok(removed)
}

impl Node {
    /// A last reading, shapers lifted, programs, pins and qdiscs gone, the slots free.
    pub(super) async fn detach(&mut self) -> Result<Vec<String>, Failure> {
        let mut removed = self.shaped_interfaces();
        removed.extend(self.held_links());
        self.lift_everything().await;
        // The program drops until it goes, and as long as pins are there a second attempt finds
        // the notes.
        removed.extend(self.release_every_link().await);
        let interfaces = self.metered();
        if interfaces > 0 {
            removed.push(format!("programs on {interfaces} interfaces"));
        }
        removed.extend(remove_programs(&self.config.pin_directory)?);
        // Nothing counts any more; our own descriptors still hold the maps for a last reading.
        self.attached.clear();
        let all = self
            .slots
            .iter()
            .map(|record| record.counter.slot)
            .collect();
        if let Err(failure) = self.measure_last(&all).await {
            warn!("the last reading could not be recorded: {failure}");
        }
        Ok(removed)
    }

    /// What [`Node::detach`] would remove.
    pub(super) fn would_detach(&self) -> Vec<String> {
        let mut removed = self.shaped_interfaces();
        removed.extend(self.held_links());
        removed.push(format!("programs on {} interfaces", self.metered()));
        removed.push(format!(
            "the pins below {}",
            self.config.pin_directory.display()
        ));
        removed
    }
}

fn remove_programs(pins: &Path) -> Result<Vec<String>, Failure> {
    let Removed {
        links,
        filters,
        maps,
    } = detach_all(pins)?;
    let found = [
        (links, "pinned links"),
        (filters, "filters"),
        (maps, "pinned maps"),
    ];
    let some = found.into_iter().filter(|(count, _)| *count > 0);
    Ok(some
        .map(|(count, what)| format!("{count} {what}"))
        .collect())
}

/// Every shaper of ours that can be found without the ledger. What stood before is not known
/// then: the kernel's default takes its place.
async fn remove_shapers(links: &Links) -> Result<Vec<String>, Failure> {
    let shaping = Shaping::open()?;
    let mut removed = Vec::new();
    for link in links.dump().await? {
        let found = match shaping.inspect(link.ifindex).await {
            Ok(found) => found,
            Err(failure) => {
                warn!(interface = link.name, "{failure}");
                continue;
            }
        };
        if found.ifb.is_some() || matches!(found.root, Root::Ours { .. }) {
            match shaping.remove(link.ifindex, None).await {
                Ok(_) => removed.push(format!("the shaper of {}", link.name)),
                Err(failure) => warn!(interface = link.name, "{failure}"),
            }
        }
    }
    for stray in shaping.stray_ifbs().await? {
        shaping.delete_stray(&stray).await?;
        removed.push(format!("an IFB whose interface {} is gone", stray.owner));
    }
    Ok(removed)
}
