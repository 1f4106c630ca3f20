//! What is said of links: in events, in the log, and to those who ask.

use super::notes::{Note, Phase};
use crate::{daemon::node::Node, host::linkdown::Entry, ledger::SlotRecord};

impl Node {
    /// What stands on the link of a machine's interface, if there is anything to say.
    pub(crate) fn link_sentence(&self, record: &SlotRecord) -> Option<String> {
        let ifindex = record.interface.ifindex;
        let said = match self.links.held.get(&ifindex) {
            _ if !self.is_to_be_down(ifindex) => {
                let missing = self.links.held.get(&ifindex)?.note.entries.as_slice();
                format!("link up, not put back yet: {}", listed(missing))
            }
            _ if self.interfaces.is_up(ifindex) => {
                let why = self
                    .links
                    .kept_up
                    .get(&ifindex)
                    .map_or("not down yet", |it| it);
                format!("packets are dropped, the link stays up: {why}")
            }
            Some(held) if held.note.phase == Phase::Down => "link down".to_owned(),
            _ => "link down, and not by meterd: it will stay down".to_owned(),
        };
        Some(format!("{}: {said}", record.name))
    }

    /// It may have been renamed meanwhile.
    pub(super) fn name_of(&self, ifindex: u32, note: &Note) -> String {
        let link = self.interfaces.link(ifindex);
        link.map_or_else(|| note.name.clone(), |link| link.name.clone())
    }
}

pub(super) fn to_be_put_back(entries: &[Entry]) -> String {
    match entries.len() {
        0 => String::new(),
        count => format!(
            "; {count} of what it has is recorded, to be put back: {}",
            listed(entries)
        ),
    }
}

pub(super) fn given_back(first: bool, back: usize, missing: &[Entry]) -> String {
    let mut said = Vec::new();
    if first {
        said.push("link up again".to_owned());
    }
    if back > 0 {
        said.push(format!("{back} of what it lost put back"));
    }
    if !missing.is_empty() {
        said.push(format!("not yet: {}", listed(missing)));
    }
    said.join("; ")
}

/// The first few by name: there may be thousands.
fn listed(entries: &[Entry]) -> String {
    const FEW: usize = 8;
    let named: Vec<String> = entries.iter().take(FEW).map(ToString::to_string).collect();
    let more = match entries.len().saturating_sub(FEW) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    named.join(", ") + &more
}
