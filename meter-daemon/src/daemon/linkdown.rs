//! The links of suspended machines: set down and held down, and given back as they were.
//!
//! The program drops a suspended machine's packets; beside that its interfaces are set down.
//! What a link loses by that is noted in the ledger before, so that whoever comes after us
//! can put it back: after a crash at any point there is a note for all that we may have
//! done. Only a link that we set down is set up again.

mod notes;
mod words;

use std::{collections::BTreeSet, time::Duration};

use tracing::{error, info, warn};

pub(super) use self::notes::{HeldLinks, tells_of_links};
use self::{
    notes::{Note, Phase},
    words::{given_back, to_be_put_back},
};
use super::{apply::Which, hindered::EnforceError, node::Node, records};
use crate::{
    engine::{Enforcement, units::MachineId},
    host::{
        clock,
        linkdown::{Entry, Missing},
        links::AdminState,
    },
    ledger::{EventRecord, SlotRecord},
};

/// How long what could not be put back is tried again before it is said: an address is
/// checked for duplicates for a second or two before routes may come from it.
const GRACE: Duration = Duration::from_secs(5);

/// How often `detach` tries within that time.
const AGAIN: Duration = Duration::from_millis(100);

/// What is changed between a look and its note is looked at again, so often.
const LOOKS: usize = 4;

impl Node {
    /// Whether a machine's links are to be down. They stay up where exempt traffic passes.
    fn takes_links_down(&self, machine: &MachineId) -> bool {
        let plan = self.engine.plan(machine);
        let passes = plan.is_some_and(|plan| {
            plan.exempt_when_suspended && !(plan.exempt.is_empty() && self.config.exempt.is_empty())
        });
        self.wanted(machine) == Enforcement::Suspend && !passes
    }

    /// Whether the link of an interface is to be down, whoever set it.
    fn is_to_be_down(&self, ifindex: u32) -> bool {
        let record = self.slots.of_interface(self.interfaces.id(ifindex));
        record.is_some_and(|record| {
            !self.closing.contains(&record.counter.slot) && self.takes_links_down(&record.machine)
        })
    }

    /// Whether a link is what it should be, as far as we know without looking.
    pub(super) fn link_stands(&self, ifindex: u32) -> bool {
        if self.is_to_be_down(ifindex) {
            !self.interfaces.is_up(ifindex) || self.links.kept_up.contains_key(&ifindex)
        } else {
            !self.links.holds(ifindex) && !self.links.kept_up.contains_key(&ifindex)
        }
    }

    /// Whether a change of a link is to be looked at.
    pub(super) fn minds_link(&self, ifindex: u32) -> bool {
        self.links.held.contains_key(&ifindex) || !self.link_stands(ifindex)
    }

    /// Sets the link of a suspended machine down where it is not.
    pub(super) async fn hold_link(&mut self, record: &SlotRecord) -> Result<(), EnforceError> {
        let ifindex = record.interface.ifindex;
        if !self.takes_links_down(&record.machine) || !self.interfaces.is_up(ifindex) {
            self.links.kept_up.remove(&ifindex);
            return Ok(());
        }
        if self.links.host.state(ifindex).await? != Some(AdminState::Up) {
            self.interfaces.was_set(ifindex, AdminState::Down);
            return Ok(());
        }
        let held_before = self.links.holds(ifindex);
        let now = clock::now().monotonic;
        if held_before
            && let Some(held) = self.links.held.get_mut(&ifindex)
            && !held.answers(now)
        {
            return Ok(());
        }
        if let Some(why) = self.note_what_goes(record).await? {
            self.keep_link_up(record, why);
            return Ok(());
        }
        self.links.kept_up.remove(&ifindex);
        self.links.host.set(ifindex, AdminState::Down).await?;
        self.interfaces.was_set(ifindex, AdminState::Down);
        if let Some(held) = self.links.held.get_mut(&ifindex) {
            (held.lacking, held.said) = (None, false);
        }
        if held_before {
            self.tally.drift_repairs += 1;
            if self.tally.say_once(format!("link {ifindex}")) {
                self.say_of_link(record, "somebody set the link up: down again");
            }
        }
        self.note_what_went(ifindex).await
    }

    /// Records all that the link is about to lose; or says why it must not.
    async fn note_what_goes(
        &mut self,
        record: &SlotRecord,
    ) -> Result<Option<String>, EnforceError> {
        let ifindex = record.interface.ifindex;
        for _ in 0..LOOKS {
            if let Some(vlan) = self.interfaces.vlan_on(ifindex) {
                return Ok(Some(format!("{vlan} is on it and would lose what it has")));
            }
            let found = self.links.host.at_risk(ifindex).await?;
            if !found.obstacles.is_empty() {
                return Ok(Some(found.obstacles.join("; ")));
            }
            let before = self.links.held.get(&ifindex).map(|held| &held.note);
            let mut entries = before.map_or_else(Vec::new, |note| note.entries.clone());
            let known: BTreeSet<&Entry> = before.iter().flat_map(|note| &note.entries).collect();
            entries.extend(found.entries.into_iter().filter(|it| !known.contains(it)));
            let note = Note {
                machine: record.machine.clone(),
                name: record.name.clone(),
                phase: Phase::Down,
                entries,
            };
            if before == Some(&note) {
                return Ok(None);
            }
            let mut events = Vec::new();
            if !self.links.holds(ifindex) {
                let detail = format!("link down{}", to_be_put_back(&note.entries));
                events.push(self.link_event(ifindex, &note, &detail));
            }
            self.record_link(ifindex, Some(note), events)?;
        }
        // It changes faster than it can be written down. What is missed is little.
        Ok(None)
    }

    /// What is still there is not ours to put back: whoever removes it meanwhile means it.
    async fn note_what_went(&mut self, ifindex: u32) -> Result<(), EnforceError> {
        let left = self.links.host.at_risk(ifindex).await?.entries;
        let Some(held) = self.links.held.get(&ifindex) else {
            return Ok(());
        };
        let mut note = held.note.clone();
        note.entries.retain(|entry| !left.contains(entry));
        if note != held.note {
            self.record_link(ifindex, Some(note), Vec::new())?;
        }
        Ok(())
    }

    fn keep_link_up(&mut self, record: &SlotRecord, why: String) {
        let ifindex = record.interface.ifindex;
        if let Some(held) = self.links.held.get_mut(&ifindex) {
            // Somebody set it up, and so it stays.
            held.note.phase = Phase::Returning;
        }
        if self.links.kept_up.get(&ifindex) != Some(&why) {
            let detail = format!(
                "packets are dropped, the link stays up: it would lose what cannot be put back ({why})"
            );
            self.say_of_link(record, &detail);
            self.links.kept_up.insert(ifindex, why);
        }
    }

    /// Gives back the links that are not to be down any more; those that are not within the time,
    /// which is told by the monotonic clock, wait for the next turn.
    pub(super) async fn release_links(&mut self, which: &Which, until: Duration) {
        self.forget_earlier_boots();
        let due: Vec<u32> = self
            .links
            .held
            .iter()
            .filter(|(ifindex, held)| match which {
                Which::All => true,
                Which::Changed => held.note.phase == Phase::Down,
                Which::These(these) => these.contains(*ifindex),
            })
            .map(|(ifindex, _)| *ifindex)
            .filter(|ifindex| !self.is_to_be_down(*ifindex))
            .collect();
        for ifindex in due {
            if clock::now().monotonic > until {
                self.unfinished.insert(ifindex);
                continue;
            }
            if let Err(failure) = self.give_back(ifindex).await {
                self.tally.enforcement_failures += 1;
                if self.tally.say_once(format!("link back {ifindex}")) {
                    error!(ifindex, "a link is not given back: {failure}");
                }
            }
        }
        let links = &self.links;
        let ended = links.kept_up.keys().filter(|it| !self.is_to_be_down(**it));
        for ifindex in ended.copied().collect::<Vec<_>>() {
            self.links.kept_up.remove(&ifindex);
        }
    }

    /// Sets a link up, if it was we who set it down, and puts back what it lost.
    async fn give_back(&mut self, ifindex: u32) -> Result<(), EnforceError> {
        let Some(held) = self.links.held.get(&ifindex) else {
            return Ok(());
        };
        let mut note = held.note.clone();
        let first = note.phase == Phase::Down;
        let Some(mut state) = self.links.host.state(ifindex).await? else {
            // Nothing of it goes to an interface that came in its place.
            return self.link_is_done(ifindex, Vec::new());
        };
        if first && state == AdminState::Down {
            self.links.host.set(ifindex, AdminState::Up).await?;
            self.interfaces.was_set(ifindex, AdminState::Up);
            state = AdminState::Up;
        }
        if let Some(held) = self.links.held.get_mut(&ifindex) {
            // Whatever becomes of the ledger.
            held.note.phase = Phase::Returning;
            held.waiting = false;
        }
        if state == AdminState::Down {
            // Somebody has set it down since: what it lost waits until they set it up.
            return Ok(());
        }
        let missing = self
            .links
            .host
            .put_back(ifindex, note.entries.clone())
            .await?;
        let back = note.entries.len() - missing.len();
        note.phase = Phase::Returning;
        note.entries = missing.iter().map(|it| it.entry.clone()).collect();
        let mut events = Vec::new();
        if first || back > 0 {
            let detail = given_back(first, back, &note.entries);
            events.push(self.link_event(ifindex, &note, &detail));
        }
        if missing.is_empty() {
            return self.link_is_done(ifindex, events);
        }
        events.extend(self.lacking(ifindex, &note, &missing));
        if first || !events.is_empty() {
            self.record_link(ifindex, Some(note), events)?;
        }
        Ok(())
    }

    /// Says once what is still missing when it has had time enough.
    fn lacking(&mut self, ifindex: u32, note: &Note, missing: &[Missing]) -> Option<EventRecord> {
        let now = clock::now().monotonic;
        let held = self.links.held.get_mut(&ifindex)?;
        let since = *held.lacking.get_or_insert(now);
        if held.said || now < since + GRACE {
            return None;
        }
        held.said = true;
        self.tally.enforcement_failures += 1;
        let what: Vec<&str> = missing.iter().map(|it| it.why.as_str()).collect();
        let detail = format!(
            "not all that the link had is back: {}. It is tried again at each poll",
            what.join("; ")
        );
        let name = self.name_of(ifindex, note);
        error!(interface = name, machine = %note.machine, "{detail}");
        let now = self.now();
        Some(records::enforcement_failed(
            now,
            &note.machine,
            &name,
            &detail,
        ))
    }

    /// Whether something about links is due before the next poll.
    pub(crate) fn has_links_to_mend(&self) -> bool {
        self.links.held.iter().any(|(ifindex, held)| {
            let lacks = held.note.phase == Phase::Returning && !held.said;
            held.waiting || lacks && self.interfaces.is_up(*ifindex)
        })
    }

    /// Does it.
    pub(crate) async fn mend_links(&mut self) {
        let all = self.links.held.keys().copied().collect();
        self.apply_to(Which::These(all)).await;
    }

    /// The links that `detach` would set up.
    pub(super) fn held_links(&self) -> Vec<String> {
        self.links
            .held
            .iter()
            .filter(|(_, held)| held.note.phase == Phase::Down)
            .map(|(ifindex, held)| format!("the hold on {}", self.name_of(*ifindex, &held.note)))
            .collect()
    }

    /// Gives back every link, for `detach`; returns what could not be put back.
    pub(super) async fn release_every_link(&mut self) -> Vec<String> {
        let until = clock::now().monotonic + GRACE;
        loop {
            let held: Vec<u32> = self.links.held.keys().copied().collect();
            let mut up = false;
            for ifindex in held {
                if let Err(failure) = self.give_back(ifindex).await {
                    warn!(ifindex, "a link is not given back: {failure}");
                }
                up |= self.interfaces.is_up(ifindex);
            }
            if self.links.held.is_empty() || !up || clock::now().monotonic > until {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        let left = self.links.held.iter().flat_map(|(ifindex, held)| {
            let name = self.name_of(*ifindex, &held.note);
            let entries = held.note.entries.iter();
            entries.map(move |entry| format!("NOT put back on {name}: the {entry}"))
        });
        left.collect()
    }

    fn link_is_done(&mut self, ifindex: u32, events: Vec<EventRecord>) -> Result<(), EnforceError> {
        self.record_link(ifindex, None, events)?;
        self.tally.say_again(&format!("link {ifindex}"));
        self.tally.say_again(&format!("link back {ifindex}"));
        Ok(())
    }

    fn say_of_link(&mut self, record: &SlotRecord, detail: &str) {
        info!(interface = record.name, machine = %record.machine, "{detail}");
        let now = self.now();
        let event = records::enforced(now, &record.machine, &record.name, detail);
        self.pending.push(event);
    }

    fn link_event(&mut self, ifindex: u32, note: &Note, detail: &str) -> EventRecord {
        let name = self.name_of(ifindex, note);
        info!(interface = name, machine = %note.machine, "{detail}");
        let now = self.now();
        records::enforced(now, &note.machine, &name, detail)
    }
}
