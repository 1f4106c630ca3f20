//! What is said of links: in events, in the log, and to those who ask.

use super::notes::{Note, Phase};
use crate::{daemon::node::Node, engine::units::MachineId, host::linkdown::Entry};

impl Node {
    /// What stands on the links of a machine, in a sentence each.
    pub(crate) fn link_sentences(&self, machine: &MachineId) -> Vec<String> {
        let records = self.slots.iter().filter(|record| {
            record.machine == *machine && !self.closing.contains(&record.counter.slot)
        });
        records
            .filter_map(|record| {
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
            })
            .collect()
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
