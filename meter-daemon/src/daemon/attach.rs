//! `meterd attach`: an interface that a hypervisor has just made is metered, and what stands
//! against its machine stands, before the guest runs. Through the daemon; without one, what
//! its next start would do is done now, and that start finds it done.

use std::{path::Path, sync::Arc};

use serde::Serialize;
use tracing::error;

use super::{
    apply::Which,
    node::{CycleError, Node},
    open::Failure,
    records,
};
use crate::{
    api::Problem,
    config::{self, Config},
    engine::{
        Enforcement,
        units::{Bytes, MachineId},
    },
    host::{clock, links::Links},
    ledger::SlotRecord,
};

/// What is to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// By its name now.
    pub interface: String,
    /// Whose it is; else the configuration says.
    pub machine: Option<MachineId>,
    /// Which guest's, where its hypervisor has not written that down yet.
    pub guest: Option<config::Guest>,
    /// Why.
    pub reason: Option<String>,
}

/// An interface that is metered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// What the kernel knows it by.
    pub ifindex: u32,
    /// Whose it is.
    pub machine: MachineId,
    /// Both directions are counted from here on.
    pub metered: bool,
    /// What is in force: `none`, `throttled to 64 kbit/s`, `capped`, `suspended`.
    pub enforcement: String,
    /// It stands on this interface.
    pub stands: bool,
}

/// `meterd attach` without a daemon. What could not be attached says so in its place.
///
/// # Errors
/// When nothing could be attached: [`Failure::Ledger`] with `Held` while a daemon, or another
/// such command, is at work.
pub fn attach(
    config_path: &Path,
    wanted: &[Wanted],
    dry_run: bool,
) -> Result<Vec<Result<Attached, Problem>>, Failure> {
    let config = Arc::new(Config::load(config_path)?);
    super::runtime()?.block_on(async {
        let links = Links::open()?;
        if dry_run {
            // Opening would load programs and make pins.
            return would_attach(&config, &links, wanted).await;
        }
        let mut node = Node::open(config, &links).await?;
        let ours: Vec<_> = wanted.iter().map(|wanted| node.accept(wanted)).collect();
        node.start(&links).await?;
        let mut attached = Vec::new();
        for ifindex in ours {
            attached.push(match ifindex {
                Ok(ifindex) => node.shown_attached(ifindex).await,
                Err(problem) => Err(problem),
            });
        }
        Ok(attached)
    })
}

async fn would_attach(
    config: &Arc<Config>,
    links: &Links,
    wanted: &[Wanted],
) -> Result<Vec<Result<Attached, Problem>>, Failure> {
    let found = links.dump().await?;
    let boot = crate::ledger::BootId(crate::host::identity::boot_id()?.into());
    let mut guests = super::guests::Guests::new(&boot, 0, &[]);
    guests.look(config, clock::now().monotonic);
    Ok(wanted
        .iter()
        .map(|wanted| {
            let link = found.iter().find(|link| link.name == wanted.interface);
            let link = link.ok_or_else(|| no_interface(wanted))?;
            let claim = guests.claim_if(link, config, wanted.guest.clone(), wanted.machine.clone());
            let machine = fitting(wanted, claim)?;
            Ok(Attached {
                interface: link.name.clone(),
                ifindex: link.ifindex,
                machine,
                metered: false,
                enforcement: "not known without the daemon".to_owned(),
                stands: false,
            })
        })
        .collect())
}

impl Node {
    /// An interface is metered, and what stands against its machine stands, or it is said why
    /// not.
    pub(super) async fn attach_asked(
        &mut self,
        wanted: &Wanted,
        links: &Links,
        dry_run: bool,
    ) -> Result<Attached, Problem> {
        if self.interfaces.named(&wanted.interface).is_none() {
            // The kernel's news of it may have been lost.
            let dump = links.dump().await.map_err(|error| failed(&error.into()))?;
            self.see_all(dump);
        }
        if dry_run {
            return self.would_attach(wanted);
        }
        let ifindex = self.accept(wanted)?;
        // Its hypervisor is done with it, else it would not ask.
        self.quiet.set_up(ifindex);
        self.discover(links)
            .await
            .map_err(|failure| failed(&failure))?;
        // Where it was metered all along, what it found standing is looked at, too.
        self.apply_to(Which::These([ifindex].into())).await;
        self.shown_attached(ifindex).await
    }

    fn would_attach(&self, wanted: &Wanted) -> Result<Attached, Problem> {
        let link = self.interfaces.named(&wanted.interface);
        let link = link.ok_or_else(|| no_interface(wanted))?;
        let (guest, machine) = (wanted.guest.clone(), wanted.machine.clone());
        let claim = self
            .interfaces
            .guests
            .claim_if(link, &self.config, guest, machine);
        let machine = fitting(wanted, claim)?;
        Ok(Attached {
            interface: link.name.clone(),
            ifindex: link.ifindex,
            metered: self.attached_record(link.ifindex, &machine).is_some(),
            enforcement: in_force(self.wanted(&machine)),
            stands: false,
            machine,
        })
    }

    /// Takes in what is said of an interface; [`Node::discover`] does the rest.
    fn accept(&mut self, wanted: &Wanted) -> Result<u32, Problem> {
        let link = self.interfaces.named(&wanted.interface);
        let ifindex = link.ok_or_else(|| no_interface(wanted))?.ifindex;
        let config = Arc::clone(&self.config);
        let now = clock::now().monotonic;
        let guests = &mut self.interfaces.guests;
        let before = guests.assigned(ifindex).cloned();
        if let Some(guest) = &wanted.guest {
            guests.tell(ifindex, guest.clone());
        }
        if let Some(machine) = &wanted.machine {
            guests.assign(ifindex, machine.clone());
        }
        self.interfaces.judge(ifindex, &config, now);
        let claim = self.interfaces.claim(ifindex).cloned();
        let machine = fitting(wanted, claim).inspect_err(|_| {
            self.interfaces.guests.assign_again(ifindex, before.clone());
            self.interfaces.judge(ifindex, &config, now);
        })?;
        if wanted.machine.is_some() && before.as_ref() != Some(&machine) {
            let (name, reason) = (&wanted.interface, wanted.reason.as_deref());
            let now = self.now();
            let event = records::assigned(now, &machine, name, ifindex, reason);
            self.pending.push(event);
        }
        Ok(ifindex)
    }

    fn attached_record(&self, ifindex: u32, machine: &MachineId) -> Option<&SlotRecord> {
        self.slots
            .of_interface(self.interfaces.id(ifindex))
            .filter(|record| record.machine == *machine && self.is_attached(record))
    }

    async fn shown_attached(&self, ifindex: u32) -> Result<Attached, Problem> {
        let claim = self.interfaces.claim(ifindex);
        let record = claim.and_then(|claim| self.attached_record(ifindex, &claim.machine));
        let Some(record) = record else {
            return Err(Problem::new(
                503,
                "not metered",
                format!(
                    "interface {ifindex} could not be attached to; `meterd events` and the log \
                     say why"
                ),
            ));
        };
        Ok(Attached {
            interface: record.name.clone(),
            ifindex,
            machine: record.machine.clone(),
            metered: true,
            enforcement: in_force(self.wanted(&record.machine)),
            stands: self.stands(record) || self.polices(record).await,
        })
    }

    /// Asks hypervisors again whose the interfaces are that they have made.
    pub(super) fn ask_hypervisors(&mut self) {
        let config = Arc::clone(&self.config);
        let monotonic = clock::now().monotonic;
        self.interfaces.ask_again(&config, monotonic);
        for ifindex in self.interfaces.guests.given_up(monotonic) {
            let Some(link) = self.interfaces.link(ifindex) else {
                continue;
            };
            let name = link.name.clone();
            error!(
                interface = name,
                "unmetered: its hypervisor's files do not say whose it is"
            );
            let now = self.now();
            self.pending.push(records::nobodys(now, &name, ifindex));
        }
    }

    /// How long the loop may sleep before hypervisors' files must be looked at again.
    pub(super) fn until_hypervisors(&self) -> Option<std::time::Duration> {
        self.interfaces.guests.next_look(clock::now().monotonic)
    }
}

/// The machine of a claim, if it is the one that was asked for.
fn fitting(wanted: &Wanted, claim: Option<config::Claim>) -> Result<MachineId, Problem> {
    let interface = &wanted.interface;
    if let Some(machine) = &wanted.machine {
        config::machine_id(machine.as_str())
            .map_err(|wrong| Problem::new(422, "no machine's id", wrong))?;
    }
    match (claim, &wanted.machine) {
        (Some(claim), Some(machine)) if claim.machine != *machine => Err(Problem::new(
            409,
            "another machine's",
            format!(
                "{interface} is {}'s by the configuration, not {machine}'s: remove one of the two",
                claim.machine
            ),
        )),
        (Some(claim), _) => Ok(claim.machine),
        (None, _) => Err(Problem::new(
            409,
            "nobody's",
            format!(
                "{interface} is no machine's: the configuration gives it to nobody; say whose it \
                 is with --machine, or add a [[discover]] that finds it"
            ),
        )),
    }
}

fn no_interface(wanted: &Wanted) -> Problem {
    Problem::new(
        404,
        "no such interface",
        format!(
            "there is no interface {} in the node's network namespace; `ip link` lists what there is",
            wanted.interface
        ),
    )
}

fn failed(failure: &CycleError) -> Problem {
    Problem::new(503, "not attached", failure)
}

fn in_force(enforcement: Enforcement) -> String {
    match enforcement {
        Enforcement::None => "none".to_owned(),
        Enforcement::Throttle(rate) => format!("throttled to {rate}"),
        Enforcement::Cap {
            remaining: Bytes::ZERO,
        } => "capped".to_owned(),
        Enforcement::Cap { remaining } => format!("capped, {remaining} left"),
        Enforcement::Suspend => "suspended".to_owned(),
    }
}
