//! Machines that were discovered with a plan: they keep their period and their bills while
//! their interfaces are away, across restarts. Kept as notes in the ledger.

use std::collections::{BTreeMap, BTreeSet};

use super::interfaces::Interfaces;
use crate::{
    config::{Claim, Config},
    engine::{
        plan::Terms,
        units::{MachineId, PlanName},
    },
    ledger::HostNote,
};

const PREFIX: &str = "machine/";

/// By machine: the plan it was last discovered with.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<MachineId, PlanName>);

impl Known {
    pub(crate) fn from_notes(notes: &[(String, String)]) -> Self {
        let machine = |(key, plan): &(String, String)| {
            Some((
                MachineId::from(key.strip_prefix(PREFIX)?),
                PlanName::from(plan.as_str()),
            ))
        };
        Self(notes.iter().filter_map(machine).collect())
    }

    /// The notes that make what is discovered now known after a restart, too.
    pub(crate) fn news(&self, interfaces: &Interfaces, config: &Config) -> Vec<HostNote> {
        let mut seen = BTreeSet::new();
        interfaces
            .claims()
            .filter(|(_, claim)| !config.is_configured(&claim.machine))
            .filter_map(|(_, claim)| Some((&claim.machine, claim.plan.as_ref()?)))
            .filter(|(machine, plan)| self.0.get(*machine) != Some(*plan) && seen.insert(*machine))
            .map(|(machine, plan)| HostNote {
                key: format!("{PREFIX}{machine}"),
                value: Some(plan.to_string()),
            })
            .collect()
    }

    /// The claim of a machine that is known from before.
    pub(crate) fn claim(&self, machine: &MachineId, config: &Config) -> Claim {
        let plan = config.plan(machine).or_else(|| self.0.get(machine));
        Claim {
            machine: machine.clone(),
            plan: plan.cloned(),
        }
    }

    /// What the ledger has recorded.
    pub(crate) fn recorded(&mut self, notes: &[HostNote]) {
        for note in notes {
            let Some(machine) = note.key.strip_prefix(PREFIX) else {
                continue;
            };
            match &note.value {
                Some(plan) => self.0.insert(machine.into(), plan.as_str().into()),
                None => self.0.remove(machine),
            };
        }
    }

    /// The same without a machine.
    pub(crate) fn without(&self, machine: &MachineId) -> Self {
        let others = self.0.iter().filter(|(known, _)| *known != machine);
        Self(
            others
                .map(|(known, plan)| (known.clone(), plan.clone()))
                .collect(),
        )
    }

    /// The note that makes a machine unknown.
    pub(crate) fn note_without(machine: &MachineId) -> HostNote {
        HostNote {
            key: format!("{PREFIX}{machine}"),
            value: None,
        }
    }

    /// The terms of everybody: configured, here now, or known from before.
    pub(crate) fn terms(&self, interfaces: &Interfaces, config: &Config) -> Terms {
        let mut claims: BTreeMap<MachineId, Claim> = self
            .0
            .iter()
            .map(|(machine, plan)| {
                (
                    machine.clone(),
                    Claim {
                        machine: machine.clone(),
                        plan: Some(plan.clone()),
                    },
                )
            })
            .collect();
        for (_, claim) in interfaces.claims() {
            claims.insert(claim.machine.clone(), claim.clone());
        }
        config.terms(claims.values())
    }
}
