//! The node as `meterd doctor` shows it: which interfaces would be metered, for whom, and what
//! others have put on them. It changes nothing, and needs no daemon.

use std::path::Path;

use crate::{
    config::{AttachMode, Config},
    daemon::open::Failure,
    engine::units::MachineId,
    host::{
        clock,
        conflicts::{self, Conflict},
        identity,
        links::{Link, LinkKind, Links},
        programs::Mode,
        shaping::Shaping,
    },
    ledger::BootId,
};

use super::guests::Guests;

/// An interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// Its name.
    pub interface: String,
    /// For whom it is, or would be, metered.
    pub machine: Option<MachineId>,
    /// What is in the way.
    pub conflicts: Vec<Conflict>,
    /// What could not be asked.
    pub unasked: Option<String>,
}

/// Every interface that is metered, and every tap and veth that is not.
///
/// # Errors
/// With a broken configuration, or a kernel that does not answer.
pub fn survey(config_path: &Path) -> Result<Vec<Surveyed>, Failure> {
    let config = Config::load(config_path)?;
    super::runtime()?.block_on(look(&config))
}

async fn look(config: &Config) -> Result<Vec<Surveyed>, Failure> {
    let links = Links::open()?;
    let shaping = Shaping::open()?;
    let mode = match config.attach {
        AttachMode::Tcx => Mode::Tcx,
        AttachMode::Clsact => Mode::Clsact,
        AttachMode::Auto => conflicts::mode().map_err(|error| Failure::System {
            attempt: "asking the kernel whether it has tcx",
            error,
        })?,
    };
    let mut guests = Guests::new(&BootId(identity::boot_id()?.into()), 0, &[]);
    guests.look(config, clock::now().monotonic);
    let mut found = Vec::new();
    for link in links.dump().await? {
        let machine = guests
            .claim_if(&link, config, None, None)
            .map(|claim| claim.machine);
        if machine.is_none() && !matches!(link.kind, LinkKind::Tap | LinkKind::Veth) {
            continue;
        }
        found.push(one(&link, machine, mode, &shaping, &config.pin_directory).await);
    }
    Ok(found)
}

async fn one(
    link: &Link,
    machine: Option<MachineId>,
    mode: Mode,
    shaping: &Shaping,
    pins: &Path,
) -> Surveyed {
    // On what is not metered nothing is in the way.
    let (conflicts, unasked) = match &machine {
        None => (Vec::new(), None),
        Some(_) => match conflicts::on(link, mode, shaping, pins).await {
            Ok(conflicts) => (conflicts, None),
            Err(failure) => (Vec::new(), Some(failure.to_string())),
        },
    };
    Surveyed {
        interface: link.name.clone(),
        machine,
        conflicts,
        unasked,
    }
}
