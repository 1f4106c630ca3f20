//! What a reload changed, in sentences.

use std::{collections::BTreeMap, fmt::Debug, path::Path};

use super::{Config, ConfiguredAccount, ConfiguredMachine, InterfaceMatch, discover::Mac};
use crate::engine::{
    plan::{Allowance, Plan},
    units::MachineId,
};

impl Config {
    /// What `new` changes, one sentence each; nothing where both mean the same.
    #[must_use]
    pub fn difference(&self, new: &Self) -> Vec<String> {
        let mut told = Vec::new();
        self.settings(new, &mut told);
        let plans = |config: &Self| -> BTreeMap<_, _> {
            config
                .plans
                .iter()
                .map(|(name, plan)| (name.clone(), Plan::clone(plan)))
                .collect()
        };
        compare("plan", &plans(self), &plans(new), plan, &mut told);
        let machines = |config: &Self| -> BTreeMap<MachineId, ConfiguredMachine> {
            config
                .machines
                .iter()
                .map(|machine| (machine.id.clone(), machine.clone()))
                .collect()
        };
        compare(
            "machine",
            &machines(self),
            &machines(new),
            machine,
            &mut told,
        );
        compare("account", &self.accounts, &new.accounts, account, &mut told);
        told
    }

    fn settings(&self, new: &Self, told: &mut Vec<String>) {
        let mut changes = Changes::default();
        let shown = |path: &Path| path.display().to_string();
        for (key, old, new) in [
            (
                "state-directory",
                &self.state_directory,
                &new.state_directory,
            ),
            (
                "runtime-directory",
                &self.runtime_directory,
                &new.runtime_directory,
            ),
            ("pin-directory", &self.pin_directory, &new.pin_directory),
        ] {
            changes.at_start(key, &shown(old), &shown(new));
        }
        changes.at_start("max-interfaces", &self.max_interfaces, &new.max_interfaces);
        changes.at_start("attach", &word(&self.attach), &word(&new.attach));
        changes.note(
            "poll-interval",
            &self.poll_interval,
            &new.poll_interval,
            |interval| format!("{interval:?}"),
        );
        changes.note("time-zone", &self.time_zone, &new.time_zone, zone);
        changes.note("count-bytes", &self.count_bytes, &new.count_bytes, word);
        changes.note("dry-run", &self.dry_run, &new.dry_run, bool::to_string);
        changes.note("exempt", &self.exempt, &new.exempt, |list| list_of(list));
        changes.note(
            "metrics.listen",
            &self.metrics_listen,
            &new.metrics_listen,
            |listen| listen.map_or("off".to_owned(), |listen| listen.to_string()),
        );
        changes.some("[[discover]]", &self.discover, &new.discover);
        changes.some("[smtp]", &self.smtp, &new.smtp);
        changes.some("[[webhook]]", &self.webhooks, &new.webhooks);
        changes.some(
            "[circuit-breaker]",
            &self.circuit_breaker,
            &new.circuit_breaker,
        );
        changes.some("[retention]", &self.retention, &new.retention);
        told.append(&mut changes.0);
    }
}

/// `key: old -> new`, for each that differs.
#[derive(Default)]
struct Changes(Vec<String>);

impl Changes {
    fn note<T: PartialEq>(&mut self, key: &str, old: &T, new: &T, show: impl Fn(&T) -> String) {
        if old != new {
            self.0
                .push(format!("{key}: {} -> {}", show(old), show(new)));
        }
    }

    fn at_start<T: PartialEq + ToString>(&mut self, key: &str, old: &T, new: &T) {
        if old != new {
            let (old, new) = (old.to_string(), new.to_string());
            self.0.push(format!(
                "{key}: {old} -> {new} (from the daemon's next start)"
            ));
        }
    }

    /// For what is too long to be shown.
    fn some<T: PartialEq>(&mut self, key: &str, old: &T, new: &T) {
        if old != new {
            self.0.push(format!("{key} changed"));
        }
    }
}

fn compare<K: Ord + std::fmt::Display, V: PartialEq>(
    what: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    changes: impl Fn(&V, &V) -> Changes,
    told: &mut Vec<String>,
) {
    for (key, value) in new {
        match old.get(key) {
            None => told.push(format!("{what} {key} is new")),
            Some(before) if before != value => {
                let changes = changes(before, value).0.join("; ");
                told.push(format!("{what} {key} changed: {changes}"));
            }
            Some(_) => {}
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        told.push(format!("{what} {key} is gone"));
    }
}

fn plan(old: &Plan, new: &Plan) -> Changes {
    let mut changes = Changes::default();
    changes.some("period", &old.starts, &new.starts);
    changes.note("time-zone", &old.time_zone, &new.time_zone, optional(zone));
    changes.note("direction", &old.direction, &new.direction, word);
    changes.note("allowance", &old.allowance, &new.allowance, allowance);
    changes.note(
        "cost-limit",
        &old.cost_limit,
        &new.cost_limit,
        optional(ToString::to_string),
    );
    changes.note(
        "daily",
        &old.daily,
        &new.daily,
        optional(|days| format!("{days} days")),
    );
    changes.note("rollover", &old.rollover, &new.rollover, word);
    changes.some("[price]", &old.price, &new.price);
    let names =
        |plan: &Plan| -> Vec<_> { plan.rules.iter().map(|rule| rule.name.clone()).collect() };
    let (before, after) = (names(old), names(new));
    for gone in before.iter().filter(|name| !after.contains(name)) {
        changes.0.push(format!("without rule `{gone}`"));
    }
    for rule in &new.rules {
        match old.rules.iter().find(|other| other.name == rule.name) {
            None => changes.0.push(format!("new rule `{}`", rule.name)),
            Some(other) => changes.some(&format!("rule `{}`", rule.name), other, rule),
        }
    }
    if changes.0.is_empty() {
        changes.some("the order of rules", &before, &after);
    }
    changes.note("enforce", &old.enforce, &new.enforce, bool::to_string);
    changes.note("exempt", &old.exempt, &new.exempt, |list| list_of(list));
    changes.note(
        "exempt-when-suspended",
        &old.exempt_when_suspended,
        &new.exempt_when_suspended,
        bool::to_string,
    );
    changes
}

fn machine(old: &ConfiguredMachine, new: &ConfiguredMachine) -> Changes {
    let mut changes = Changes::default();
    changes.note("interfaces", &old.interfaces, &new.interfaces, interfaces);
    changes.note("plan", &old.plan, &new.plan, optional(ToString::to_string));
    changes.note(
        "account",
        &old.account,
        &new.account,
        optional(ToString::to_string),
    );
    changes.note(
        "renewal-day",
        &old.renewal_day,
        &new.renewal_day,
        optional(|day| crate::engine::plan::DayOfMonth::get(*day).to_string()),
    );
    changes.note(
        "allowance",
        &old.allowance,
        &new.allowance,
        optional(allowance),
    );
    changes.note(
        "cost-limit",
        &old.cost_limit,
        &new.cost_limit,
        optional(ToString::to_string),
    );
    let switch = optional(bool::to_string);
    changes.note(
        "auto-unsuspend",
        &old.auto_unsuspend,
        &new.auto_unsuspend,
        switch,
    );
    changes.note("time-zone", &old.time_zone, &new.time_zone, optional(zone));
    changes
}

fn account(old: &ConfiguredAccount, new: &ConfiguredAccount) -> Changes {
    let mut changes = Changes::default();
    changes.note(
        "primary",
        &old.primary,
        &new.primary,
        optional(ToString::to_string),
    );
    changes.note("admins", &old.admins, &new.admins, |list| list_of(list));
    let (old, new) = (&old.account, &new.account);
    changes.note(
        "currency",
        &old.currency,
        &new.currency,
        optional(ToString::to_string),
    );
    changes.note("autopay", &old.autopay, &new.autopay, bool::to_string);
    changes.note("pool", &old.pool, &new.pool, optional(ToString::to_string));
    let opening = (&old.opening_balance, &new.opening_balance);
    changes.note(
        "balance",
        opening.0,
        opening.1,
        optional(ToString::to_string),
    );
    changes
}

fn optional<T>(show: impl Fn(&T) -> String) -> impl Fn(&Option<T>) -> String {
    move |value| value.as_ref().map_or("none".to_owned(), &show)
}

fn list_of(list: &[impl ToString]) -> String {
    match list {
        [] => "none".to_owned(),
        list => list
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// The name of a variant, as the files write it.
fn word(value: &impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn allowance(allowance: &Allowance) -> String {
    match allowance {
        Allowance::Limited(volume) => volume.to_string(),
        Allowance::Unlimited => "unlimited".to_owned(),
    }
}

fn zone(zone: &jiff::tz::TimeZone) -> String {
    zone.iana_name()
        .unwrap_or("a zone without a name")
        .to_owned()
}

fn interfaces(interfaces: &InterfaceMatch) -> String {
    match interfaces {
        InterfaceMatch::Names(names) => list_of(names),
        InterfaceMatch::Guest(hypervisor, guest) => format!("{} {guest}", hypervisor.word()),
        InterfaceMatch::Macs(macs) => list_of(&macs.iter().map(|m| Mac(*m)).collect::<Vec<_>>()),
    }
}
