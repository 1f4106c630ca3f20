//! What survives a restart: what changed goes out as text, and comes back as state.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Enforcement, EngineSettings,
    books::{Books, Node},
    effective::Effective,
    kept::Record,
    machine::Machine,
    period::Period,
    plan::Terms,
    record::{Changes, Kept, KeptMachine, MachineChange},
    step::{Engine, Machines, earliest},
    units::{AccountId, MachineId},
};

/// Why the engine cannot go on from what was kept.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A machine's state.
    #[error(
        "cannot read the kept state of machine {machine}: {why}; it was written by a newer meterd \
         or damaged: restore a backup of the ledger, or `meterd forget {machine}`"
    )]
    Machine {
        /// Whose.
        machine: MachineId,
        /// What is wrong with its text.
        why: serde_json::Error,
    },
    /// An account's state.
    #[error(
        "cannot read the kept state of account {account}: {why}; it was written by a newer meterd \
         or damaged: restore a backup of the ledger"
    )]
    Account {
        /// Whose.
        account: AccountId,
        /// What is wrong with its text.
        why: serde_json::Error,
    },
    /// The node's own state.
    #[error(
        "cannot read the node's kept state: {0}; it was written by a newer meterd or damaged: \
         restore a backup of the ledger"
    )]
    Node(serde_json::Error),
}

impl Engine {
    /// An engine that goes on from what was kept; from nothing, it begins.
    ///
    /// # Errors
    /// Where what was kept cannot be read: nothing is guessed.
    pub fn new(
        terms: Arc<Terms>,
        kept: Kept,
        settings: EngineSettings,
    ) -> Result<Self, RestoreError> {
        let mut books = Books::default();
        if let Some(text) = &kept.node {
            books.node = serde_json::from_str::<Node>(text).map_err(RestoreError::Node)?;
        }
        for (account, text) in kept.accounts {
            let known = serde_json::from_str(&text).map_err(|why| RestoreError::Account {
                account: account.clone(),
                why,
            })?;
            books.accounts.insert(account, Arc::new(known));
        }
        let mut machines = Machines::new();
        // The engine's time is not kept as such: the last instant that left a trace is as
        // good, because nothing that happened after it was recorded.
        let mut clock = Timestamp::MIN;
        for kept in kept.machines {
            let mut machine = Machine::restore(kept, &terms)?;
            // A start looks at every machine's level; only what changes after it is said.
            machine.said = match settings.dry_run {
                true => Enforcement::None,
                false => machine.enforcement(),
            };
            let seen = machine.running.measured_to;
            clock = clock.max(seen).max(machine.record.standing.since);
            machines.insert(machine.id.clone(), Arc::new(machine));
        }
        Ok(Self {
            terms,
            settings,
            wake: earliest(&machines),
            machines: Arc::new(machines),
            books: Arc::new(books),
            clock,
            unseen: true,
            closings: 0,
            closed: Vec::new(),
        })
    }

    /// What the ledger must write to get from `before`, an earlier state of this engine, to
    /// this one.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Changes {
        let mut machines = Vec::new();
        if !Arc::ptr_eq(&self.machines, &before.machines) {
            let mut earlier = before.machines.iter().peekable();
            for (id, machine) in self.machines.iter() {
                while earlier.next_if(|(other, _)| *other < id).is_some() {}
                let old = earlier
                    .next_if(|(other, _)| *other == id)
                    .map(|(_, old)| old);
                if old.is_none_or(|old| !Arc::ptr_eq(old, machine)) {
                    machines.extend(machine.change_since(old.map(Arc::as_ref)));
                }
            }
        }
        let closed = self.closings.saturating_sub(before.closings);
        let closed = self.closed.len().saturating_sub(closed);
        Changes {
            machines,
            closed: self.closed[closed..].to_vec(),
            accounts: self.account_changes(before),
            node: (self.books.node != before.books.node).then(|| json(&self.books.node)),
        }
    }

    fn account_changes(&self, before: &Self) -> Vec<(AccountId, String)> {
        if Arc::ptr_eq(&self.books, &before.books) {
            return Vec::new();
        }
        let changed = |(id, account): &(&AccountId, &Arc<super::books::Account>)| {
            before.books.accounts.get(*id) != Some(*account)
        };
        self.books
            .accounts
            .iter()
            .filter(changed)
            .map(|(id, account)| (id.clone(), json(account.as_ref())))
            .collect()
    }
}

impl Machine {
    fn restore(kept: KeptMachine, terms: &Terms) -> Result<Self, RestoreError> {
        let mut record: Record =
            serde_json::from_str(&kept.state).map_err(|why| RestoreError::Machine {
                machine: kept.machine.clone(),
                why,
            })?;
        let configured = terms.machines.get(&kept.machine);
        let effective = match configured {
            Some(configured) => Effective::resolve(configured, &record.settings, terms),
            None => Effective::gone(record.zone.clone()),
        };
        for state in &mut record.rules {
            let same = effective
                .rules()
                .iter()
                .find(|rule| rule.name == state.rule);
            if let Some(rule) = same {
                // One text for all machines.
                state.rule = rule.name.clone();
            }
        }
        let period = Period {
            start: kept.running.period_start,
            end: kept.running.period_end,
            zone: record.zone.clone(),
        };
        let mut machine = Self {
            id: kept.machine,
            terms: Arc::new(effective),
            record: Arc::new(record),
            running: kept.running,
            hours: kept.recent.within(&period),
            present: configured.is_some(),
            stale: true,
            wake: None,
            said: Enforcement::None,
        };
        // Of a machine that is gone, the rules wait as they are for its return.
        if machine.present {
            machine.align_rules();
        }
        machine.wake = machine.next_wake(machine.running.measured_to);
        Ok(machine)
    }

    /// What the ledger must write of it.
    fn change_since(&self, old: Option<&Self>) -> Option<MachineChange> {
        let same_record = old
            .is_some_and(|old| Arc::ptr_eq(&old.record, &self.record) || old.record == self.record);
        let same_sums = old.is_some_and(|old| old.running == self.running);
        if same_record && same_sums {
            return None;
        }
        Some(MachineChange {
            machine: self.id.clone(),
            state: (!same_record).then(|| json(self.record.as_ref())),
            running: self.running,
        })
    }
}

/// The engine's own types have names for keys and no maps of anything else: they always have
/// a text.
fn json<T: serde::Serialize>(value: &T) -> String {
    #[expect(
        clippy::expect_used,
        reason = "zones of a checked configuration have names, and every other part is plain data"
    )]
    serde_json::to_string(value).expect("plain data has a text")
}
