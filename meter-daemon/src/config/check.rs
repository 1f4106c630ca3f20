//! What must fit together across files: plans and accounts that are named exist, nothing is
//! claimed twice, money is in one currency.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

use super::{
    Config, ConfiguredAccount, ConfiguredMachine,
    discover::{Claims, Discover, Mac},
    load::Source,
    machine::{LocatedAccount, Machine},
    node::Node,
    problem::{Located, Place, Problems},
    table::nearest,
};
use crate::engine::{
    plan::{Allowance, CollectExtra, PeriodStart, Plan, Price},
    units::{Money, PlanName},
};

/// What the files say, each read by itself.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) node: Option<Node>,
    pub(super) machines: Vec<Machine>,
    pub(super) accounts: Vec<LocatedAccount>,
    pub(super) plans: BTreeMap<PlanName, Arc<Plan>>,
    /// Of files that could not be read: to name one is no further mistake.
    pub(super) broken_plans: Vec<PlanName>,
}

impl Files {
    /// Machines of every file, those of the main file first.
    pub(super) fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.node
            .iter()
            .flat_map(|node| &node.machines)
            .chain(&self.machines)
    }

    /// Accounts of every file, those of the main file first.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &LocatedAccount> {
        self.node
            .iter()
            .flat_map(|node| &node.accounts)
            .chain(&self.accounts)
    }
}

/// Notes every problem between the files.
pub(super) fn across(files: &Files, sources: &[Source], problems: &Problems) {
    let check = Across {
        files,
        sources,
        problems,
    };
    check.nothing_is_there_twice();
    check.plans_exist();
    check.accounts();
    let is_found_by_pattern = files
        .node
        .as_ref()
        .is_some_and(|node| !node.patterns.is_empty());
    for machine in files.machines() {
        let plan = machine.checked.plan.as_ref();
        match (
            plan.and_then(|name| files.plans.get(name)),
            &machine.cost_limit,
        ) {
            (Some(plan), _) => fits_plan(machine, plan, problems),
            (None, Some(limit)) if plan.is_none() && !is_found_by_pattern => problems.warning(
                &limit.place,
                "without a plan nothing has a price, so this limit is never reached",
                "give this machine a plan with a price of usage",
            ),
            _ => {}
        }
    }
}

/// Notes what is there twice.
pub(super) fn twins(files: &Files, sources: &[Source], problems: &Problems) {
    Across {
        files,
        sources,
        problems,
    }
    .nothing_is_there_twice();
}

struct Across<'a> {
    files: &'a Files,
    sources: &'a [Source],
    problems: &'a Problems,
}

impl Across<'_> {
    /// `file:line`, for a message about another place.
    fn shown(&self, place: &Place) -> String {
        let Some(source) = self.sources.get(place.file) else {
            return String::new();
        };
        let before = source
            .text
            .as_ref()
            .ok()
            .and_then(|text| text.get(..place.span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        format!("{}:{line}", source.path.display())
    }

    fn refuse_twins<'b, K: Eq + Hash>(
        &self,
        found: impl Iterator<Item = (K, &'b Place)>,
        message: impl Fn(&K) -> String,
        help: &str,
    ) {
        let mut first: HashMap<K, &Place> = HashMap::new();
        for (key, place) in found {
            if let Some(other) = first.get(&key) {
                let message = format!("{}, also at {}", message(&key), self.shown(other));
                self.problems.error(place, message, help);
            } else {
                first.insert(key, place);
            }
        }
    }

    fn nothing_is_there_twice(&self) {
        self.refuse_twins(
            self.files
                .machines()
                .map(|machine| (&machine.checked.id, &machine.id)),
            |id| format!("there are two machines `{id}`"),
            "give one of them another id, or remove it",
        );
        self.refuse_twins(
            self.files
                .accounts()
                .map(|account| (&account.checked.account.id, &account.id)),
            |id| format!("there are two accounts `{id}`"),
            "give one of them another id, or remove it",
        );
        self.refuse_twins(
            self.files
                .machines()
                .flat_map(|machine| &machine.names)
                .map(|n| (&n.value, &n.place)),
            |name| format!("the interface `{name}` is claimed twice"),
            "an interface belongs to one machine, and is named once: remove it here or there",
        );
        self.refuse_twins(
            self.files
                .machines()
                .filter_map(|machine| machine.guest.as_ref())
                .map(|guest| (&guest.value, &guest.place)),
            |(hypervisor, guest)| {
                format!("the {} guest `{guest}` is claimed twice", hypervisor.word())
            },
            "a guest is one machine: remove it here or there",
        );
        self.refuse_twin_macs();
    }

    /// Two addresses that differ only in the first octet are one to a tap of libvirt's.
    fn refuse_twin_macs(&self) {
        let mut by_tail: HashMap<[u8; 5], &Located<Mac>> = HashMap::new();
        for mac in self.files.machines().flat_map(|machine| &machine.macs) {
            let Some(other) = by_tail.get(&mac.value.tail()) else {
                by_tail.insert(mac.value.tail(), mac);
                continue;
            };
            let at = self.shown(&other.place);
            let message = if other.value == mac.value {
                format!(
                    "the MAC address {} is claimed twice, also at {at}",
                    mac.value
                )
            } else {
                format!(
                    "a tap with the first octet fe, as libvirt makes it, would match {} and \
                     also {} at {at}",
                    mac.value, other.value
                )
            };
            let help = "a MAC address belongs to one machine: remove or change it here or there";
            self.problems.error(&mac.place, message, help);
        }
    }

    fn plans_exist(&self) {
        let patterns = self.files.node.iter().flat_map(|node| &node.patterns);
        let named = patterns.filter_map(|(_, plan)| plan.as_ref());
        for plan in named.chain(self.files.machines().filter_map(|m| m.plan.as_ref())) {
            if self.files.plans.contains_key(&plan.value)
                || self.files.broken_plans.contains(&plan.value)
            {
                continue;
            }
            let names: Vec<&str> = self.files.plans.keys().map(PlanName::as_str).collect();
            let help = match (nearest(plan.value.as_str(), &names), names.as_slice()) {
                (Some(meant), _) => format!("did you mean \"{meant}\"?"),
                (None, []) => format!("create plans/{}.toml beside meterd.toml", plan.value),
                (None, names) => format!(
                    "create plans/{}.toml, or name one of {}",
                    plan.value,
                    names.join(", ")
                ),
            };
            self.problems.error(
                &plan.place,
                format!("there is no plan `{}`", plan.value),
                help,
            );
        }
    }

    fn accounts(&self) {
        let accounts: BTreeMap<&str, &LocatedAccount> = self
            .files
            .accounts()
            .map(|account| (account.checked.account.id.as_str(), account))
            .collect();
        for machine in self.files.machines() {
            let Some(named) = &machine.account else {
                continue;
            };
            let Some(account) = accounts.get(named.value.as_str()) else {
                let names: Vec<&str> = accounts.keys().copied().collect();
                let help = match nearest(named.value.as_str(), &names) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("add it: [[account]] with id = \"{}\"", named.value),
                };
                let message = format!("there is no account `{}`", named.value);
                self.problems.error(&named.place, message, help);
                continue;
            };
            let plan = machine
                .checked
                .plan
                .as_ref()
                .and_then(|name| self.files.plans.get(name));
            if let Some(plan) = plan {
                fits_account(named, &account.checked, plan, self.problems);
            }
        }
    }
}

/// The account's money and the plan's prices are in one currency.
pub(super) fn fits_account(
    named: &Located<impl Sized>,
    account: &ConfiguredAccount,
    plan: &Plan,
    problems: &Problems,
) {
    let Some(price) = &plan.price else {
        return;
    };
    let id = &account.account.id;
    match account.account.currency {
        Some(own) if own != price.currency => problems.error(
            &named.place,
            format!(
                "the account `{id}` is in {own}, the prices of the plan `{}` in {}",
                plan.name, price.currency
            ),
            format!(
                "name an account in {}, or give the plan prices in {own}",
                price.currency
            ),
        ),
        None if collects(price) => problems.warning(
            &named.place,
            format!(
                "the account `{id}` has no currency, so what the plan `{}` charges moves no \
                 balance",
                plan.name
            ),
            format!(
                "write in that [[account]]: currency = \"{}\"",
                price.currency
            ),
        ),
        _ => {}
    }
}

fn collects(price: &Price) -> bool {
    let extra = price.extra.map(|extra| extra.collect);
    price.overage.is_some() || extra.is_some_and(|collect| collect != CollectExtra::None)
}

/// What a machine sets for itself has a meaning under its plan.
pub(super) fn fits_plan(machine: &Machine, plan: &Plan, problems: &Problems) {
    if let Some(limit) = &machine.cost_limit {
        cost_limit_fits(limit, plan, problems);
    }
    if let (Some(place), PeriodStart::Day(day)) = (&machine.renewal_day, plan.starts) {
        let day = day.get();
        problems.warning(
            place,
            format!(
                "the plan `{}` starts on day {day} for everybody, whatever this says",
                plan.name
            ),
            "remove it, or write in the plan: period = { starts = \"renewal-day\" }",
        );
    }
    if machine.checked.allowance == Some(Allowance::Unlimited) && plan.daily.is_some() {
        let plan = &plan.name;
        problems.warning(
            &machine.id,
            format!("an unlimited allowance is not granted day by day, as the plan `{plan}` asks"),
            "give this machine a volume, or a plan without `daily`",
        );
    }
}

fn cost_limit_fits(limit: &Located<Money>, plan: &Plan, problems: &Problems) {
    let (amount, own) = (limit.value.amount, limit.value.currency);
    let name = &plan.name;
    let price = plan.price.as_ref();
    if let Some(currency) = price.map(|price| price.currency)
        && currency != own
    {
        problems.error(
            &limit.place,
            format!("this is in {own}, the prices of the plan `{name}` are in {currency}"),
            format!("write: cost-limit = \"{amount} {currency}\""),
        );
    }
    if price.is_none_or(|price| price.usage.is_none()) {
        problems.error(
            &limit.place,
            format!("the plan `{name}` has no price of usage: nothing ever costs anything"),
            format!(
                "remove this limit, or write in plans/{name}.toml under [price]: \
                 usage = {{ per = \"1 GB\", price = \"0.02\" }}"
            ),
        );
    }
}

/// The configuration that files without errors make.
pub(super) fn config(files: Files) -> Config {
    let Files {
        node,
        machines,
        accounts,
        plans,
        ..
    } = files;
    let (mut config, patterns, mut all_machines, mut all_accounts) = match node {
        Some(node) => (node.settings, node.patterns, node.machines, node.accounts),
        None => (Config::default(), Vec::new(), Vec::new(), Vec::new()),
    };
    all_machines.extend(machines);
    all_accounts.extend(accounts);
    config.machines = all_machines
        .into_iter()
        .map(|machine| machine.checked)
        .collect();
    // They were collected where they stood, places and all.
    config.machines.shrink_to_fit();
    config.accounts = all_accounts
        .into_iter()
        .map(|account| (account.checked.account.id.clone(), account.checked))
        .collect();
    config.plans = plans;
    config.discover = discover(patterns, &config.machines);
    config.claims = Claims::of(&config.machines);
    config
}

fn discover(
    patterns: Vec<(Discover, Option<Located<PlanName>>)>,
    machines: &[ConfiguredMachine],
) -> Vec<Discover> {
    if patterns.is_empty() && machines.is_empty() {
        return Discover::everything().into_iter().collect();
    }
    patterns.into_iter().map(|(discover, _)| discover).collect()
}
