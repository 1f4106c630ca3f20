//! Text -> checked configuration. The files are `meterd.toml`, and beside it one file a plan
//! in `plans/` and any number of files with machines and accounts in `machines/`.
//!
//! Every problem of every file is reported at once, with its place and what to write instead;
//! what comes out has nothing in it that the rest of the program would have to refuse.
//!
//! `table` reads values with their places; `kinds` and `quantity` are how strings are
//! understood; `node`, `plan`, `rule`, `machine`, `delivery` read one part of the
//! files each; `check` looks across all of them.

mod check;
mod delivery;
pub mod diagnostic;
mod difference;
mod discover;
mod hypervisor;
mod kinds;
mod load;
mod machine;
mod node;
mod plan;
mod problem;
mod rule;
mod simulation;
mod syntax;
mod table;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use jiff::{SignedDuration, tz::TimeZone};
use rust_decimal::Decimal;

pub use self::{
    delivery::{Smtp, SmtpSecurity, Webhook},
    diagnostic::{Colour, Diagnostic, Diagnostics, Severity},
    discover::{Claim, Claims, Discover, Finds, LinkFacts, LinkKind},
    hypervisor::{Guest, GuestKey, Hypervisor, Owner},
    simulation::simulation,
};
use crate::engine::{
    plan::{Account, Allowance, DayOfMonth, Machine, Percent, Plan, Terms},
    units::{AccountId, MachineId, Money, PlanName},
};

/// Everything configured, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The ledger's.
    pub state_directory: PathBuf,
    /// The control socket's and the pid file's.
    pub runtime_directory: PathBuf,
    /// On bpffs.
    pub pin_directory: PathBuf,
    /// Between two readings; a second to an hour.
    pub poll_interval: Duration,
    /// Of machines whose plan names none either.
    pub time_zone: TimeZone,
    /// What a packet weighs.
    pub count_bytes: CountBytes,
    /// Decide and record, touch nothing.
    pub dry_run: bool,
    /// How the program is attached.
    pub attach: AttachMode,
    /// How many interfaces there is room for.
    pub max_interfaces: u32,
    /// Far ends whose traffic is counted apart, for every machine.
    pub exempt: Vec<IpNet>,
    /// Where `GET /metrics` is answered.
    pub metrics_listen: Option<SocketAddr>,
    /// Patterns for taps and veths, in order.
    pub discover: Vec<Discover>,
    /// Machines that are configured, in order of file and place.
    pub machines: Vec<ConfiguredMachine>,
    /// Accounts by id.
    pub accounts: BTreeMap<AccountId, ConfiguredAccount>,
    /// Plans by name.
    pub plans: BTreeMap<PlanName, Arc<Plan>>,
    /// The mail server for notices.
    pub smtp: Option<Smtp>,
    /// Receivers of events.
    pub webhooks: Vec<Webhook>,
    /// What is held back as a likely mistake.
    pub circuit_breaker: CircuitBreaker,
    /// How long usage is kept.
    pub retention: Retention,
    /// What was taken although a part of it can have no effect.
    pub warnings: Diagnostics,
    /// `machines`, by what they claim.
    pub claims: Claims,
}

impl Default for Config {
    /// What an empty meterd.toml means.
    fn default() -> Self {
        Self {
            state_directory: "/var/lib/meterd".into(),
            runtime_directory: "/run/meterd".into(),
            pin_directory: "/sys/fs/bpf/meterd".into(),
            poll_interval: Duration::from_secs(60),
            time_zone: TimeZone::UTC,
            count_bytes: CountBytes::default(),
            dry_run: false,
            attach: AttachMode::default(),
            max_interfaces: 4096,
            exempt: Vec::new(),
            metrics_listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9750))),
            discover: Discover::everything().into_iter().collect(),
            machines: Vec::new(),
            accounts: BTreeMap::new(),
            plans: BTreeMap::new(),
            smtp: None,
            webhooks: Vec::new(),
            circuit_breaker: CircuitBreaker {
                machines: 10,
                share: Percent(Decimal::from(20)),
            },
            retention: Retention {
                minutes: days(35),
                hours: days(400),
                // Five years, of which at least one is a leap year and at most two are.
                days: days(5 * 365 + 2),
            },
            warnings: Diagnostics::default(),
            claims: Claims::default(),
        }
    }
}

const fn days(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count * 86_400)
}

/// What a packet weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CountBytes {
    /// Every frame as on the wire: a GSO packet as its segments, VLAN tags included.
    #[default]
    Wire,
    /// `skb->len`, as the kernel's interface counters.
    Frame,
    /// IP bytes of each segment.
    Ip,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX or not at all.
    Tcx,
    /// clsact, even where there is TCX.
    Clsact,
}

/// A machine of the files.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredMachine {
    /// Its name.
    pub id: MachineId,
    /// How its interfaces are known.
    pub interfaces: InterfaceMatch,
    /// Its plan; `None` leaves that to the pattern that finds it.
    pub plan: Option<PlanName>,
    /// Who pays and is told.
    pub account: Option<AccountId>,
    /// The anchor for plans that start on the renewal day.
    pub renewal_day: Option<DayOfMonth>,
    /// Instead of the plan's.
    pub allowance: Option<Allowance>,
    /// Instead of the plan's.
    pub cost_limit: Option<Money>,
    /// Instead of the rules' `lift`.
    pub auto_unsuspend: Option<bool>,
    /// Instead of the plan's.
    pub time_zone: Option<TimeZone>,
}

/// How a machine's interfaces are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceMatch {
    /// By name. None: only a pattern or a hypervisor's hook gives it any.
    Names(Vec<String>),
    /// By the guest's MAC addresses.
    Macs(Vec<[u8; 6]>),
    /// As those of a hypervisor's guest: its UUID, VMID or name.
    Guest(Hypervisor, String),
}

/// An account of the files.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredAccount {
    /// What the engine decides by.
    pub account: Account,
    /// Where its notices go.
    pub primary: Option<String>,
    /// Where copies go.
    pub admins: Vec<String>,
}

/// Nothing is done when one step would newly hit more machines than both say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// More than so many.
    pub machines: u32,
    /// And more than this share of all.
    pub share: Percent,
}

/// How long usage is kept, by resolution. Months and events are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// By minute.
    pub minutes: SignedDuration,
    /// By hour.
    pub hours: SignedDuration,
    /// By day.
    pub days: SignedDuration,
}

/// A machine's id, as the files would take it.
///
/// # Errors
/// Says what an id is made of.
pub fn machine_id(text: &str) -> Result<MachineId, String> {
    (kinds::MACHINE.parse)(text).map_err(|wrong| wrong.to_string())
}

impl Config {
    /// Whose an interface is: a machine's that names it, else one's with its MAC address or
    /// that is the guest it belongs to, else whose a hook said it is, else by the first
    /// `[[discover]]` that matches it, where it is a tap or a veth.
    #[must_use]
    pub fn claim(&self, link: &LinkFacts) -> Option<Claim> {
        self.claims.claim(link, &self.discover)
    }

    /// Whether the files want to know whose interfaces are from this hypervisor's own files.
    #[must_use]
    pub fn asks(&self, hypervisor: Hypervisor) -> bool {
        let found = |discover: &Discover| matches!(discover.finds, Finds::Guests(of, _) if of == hypervisor);
        self.claims.name_guests_of(hypervisor) || self.discover.iter().any(found)
    }

    /// Whether the files name this machine.
    #[must_use]
    pub fn is_configured(&self, machine: &MachineId) -> bool {
        self.claims.plan(machine).is_some()
    }

    /// The plan that the files name for this machine.
    #[must_use]
    pub fn plan(&self, machine: &MachineId) -> Option<&PlanName> {
        self.claims.plan(machine).flatten()
    }

    /// The terms of a machine that claims an interface.
    #[must_use]
    pub fn machine(&self, claim: &Claim) -> Machine {
        match self
            .machines
            .iter()
            .find(|machine| machine.id == claim.machine)
        {
            Some(configured) => self.configured(configured, claim.plan.as_ref()),
            None => self.discovered(claim.machine.clone(), claim.plan.as_ref()),
        }
    }

    /// Everything the engine decides by: the configured machines, and those that claim an
    /// interface. Where a machine's interfaces were found by several patterns, the plan of the
    /// first pattern stands.
    pub fn terms<'a>(&self, claimed: impl Iterator<Item = &'a Claim>) -> Terms {
        let mut plans: BTreeMap<MachineId, Option<&PlanName>> = self
            .machines
            .iter()
            .map(|machine| (machine.id.clone(), None))
            .collect();
        let rank = |plan: Option<&PlanName>| {
            let first = self
                .discover
                .iter()
                .position(|found| found.plan.as_ref() == plan);
            (plan.is_none(), first)
        };
        for claim in claimed {
            let plan = plans.entry(claim.machine.clone()).or_default();
            if rank(claim.plan.as_ref()) < rank(*plan) {
                *plan = claim.plan.as_ref();
            }
        }
        let configured: BTreeMap<_, _> = self
            .machines
            .iter()
            .map(|machine| (&machine.id, machine))
            .collect();
        let machines = plans.into_iter().map(|(id, plan)| {
            let machine = match configured.get(&id) {
                Some(machine) => self.configured(machine, plan),
                None => self.discovered(id.clone(), plan),
            };
            (id, machine)
        });
        Terms {
            machines: machines.collect(),
            accounts: self
                .accounts
                .iter()
                .map(|(id, account)| (id.clone(), account.account.clone()))
                .collect(),
            plans: self.plans.clone(),
        }
    }

    fn configured(&self, machine: &ConfiguredMachine, found: Option<&PlanName>) -> Machine {
        let plan = machine.plan.as_ref().or(found);
        let plan = plan.and_then(|name| self.plans.get(name)).cloned();
        Machine {
            id: machine.id.clone(),
            account: machine.account.clone(),
            renewal_day: machine.renewal_day,
            allowance: machine.allowance,
            cost_limit: machine.cost_limit,
            auto_unsuspend: machine.auto_unsuspend,
            time_zone: machine.time_zone.clone(),
            node_zone: self.time_zone.clone(),
            plan,
        }
    }

    fn discovered(&self, id: MachineId, plan: Option<&PlanName>) -> Machine {
        let plan = plan.and_then(|name| self.plans.get(name)).cloned();
        Machine {
            id,
            account: None,
            renewal_day: None,
            allowance: None,
            cost_limit: None,
            auto_unsuspend: None,
            time_zone: None,
            node_zone: self.time_zone.clone(),
            plan,
        }
    }
}

#[cfg(test)]
mod tests;
