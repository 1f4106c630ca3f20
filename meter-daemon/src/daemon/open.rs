//! From nothing, or from what an earlier run left, to a node that meters.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use meter_common::CountBytes;
use rust_decimal::prelude::ToPrimitive as _;
use tracing::{error, info, warn};

use super::{
    adopt::Generations,
    arm::Arms,
    audit::Audit,
    drops::Drops,
    guests::Guests,
    interfaces::Interfaces,
    known::Known,
    linkdown::HeldLinks,
    node::{CycleError, Node},
    packed::pack,
    quiet::Quiet,
    records,
    shapers::Enforcer,
    slots::Slots,
    tally::Tally,
    time::{EngineClock, Mark},
};
use crate::{
    api::{self, socket::BindError},
    cli::check::refused,
    config::{self, Config, Diagnostics},
    engine::{Breaker, Engine, EngineSettings, RestoreError},
    host::{
        clock,
        error::HostError,
        identity::{self, IdentityError},
        linkdown::LinkDown,
        links::Links,
        netlink::NetlinkError,
        programs::{Attach, Hooks, Mode, ProgramOptions, Programs},
        shaping::Shaping,
    },
    ledger::{self, BootId, Ledger, LedgerError, MapSetId, Remembered, Slot, SlotRecord},
};

/// Why the daemon does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration has errors.
    #[error("{found}\n\n{}", refused(found))]
    Configuration {
        /// All of them.
        found: Diagnostics,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The kernel side cannot be used.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Links and qdiscs cannot be seen.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Who we are in this boot cannot be told.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What the ledger kept for the engine cannot be read.
    #[error("the ledger's record of machines cannot be read: {0}; restore a backup, or report it")]
    Restore(#[from] RestoreError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Door(#[from] BindError),
    /// The metrics' address cannot be listened on.
    #[error(
        "cannot listen on {address} for /metrics: {error}; set another `listen` in [metrics], \
         or \"\" to switch it off"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// Anything else that the system refuses.
    #[error("{attempt}: {error}")]
    System {
        /// What was tried.
        attempt: &'static str,
        /// Why not.
        error: io::Error,
    },
}

impl Failure {
    /// The exit status, by sysexits(3).
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        const DATAERR: u8 = 65;
        const OSERR: u8 = 71;
        const CANTCREAT: u8 = 73;
        const IOERR: u8 = 74;
        const TEMPFAIL: u8 = 75;
        const NOPERM: u8 = 77;
        const CONFIG: u8 = 78;
        match self {
            Self::Configuration { .. } => CONFIG,
            Self::Ledger(error) => match error {
                LedgerError::Held { .. } | LedgerError::Locked { .. } => TEMPFAIL,
                LedgerError::Corrupt { .. }
                | LedgerError::Newer { .. }
                | LedgerError::Differs { .. }
                | LedgerError::Key { .. }
                | LedgerError::Restoring { .. } => DATAERR,
                LedgerError::Exists { .. } => CANTCREAT,
                LedgerError::Permission { .. } => NOPERM,
                _ => IOERR,
            },
            Self::Restore(_) => DATAERR,
            Self::Host(HostError::NotAllowed { .. }) => NOPERM,
            Self::Host(error) if is_refusal(error.raw_os_error()) => NOPERM,
            Self::Host(_) | Self::Netlink(_) | Self::Identity(_) | Self::System { .. } => OSERR,
            Self::Door(BindError::Taken(_)) => TEMPFAIL,
            Self::Door(_) | Self::Listen { .. } => OSERR,
        }
    }
}

impl From<Diagnostics> for Failure {
    fn from(found: Diagnostics) -> Self {
        Self::Configuration { found }
    }
}

fn is_refusal(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EPERM | libc::EACCES))
}

impl From<CycleError> for Failure {
    fn from(error: CycleError) -> Self {
        match error {
            CycleError::Host(error) => Self::Host(error),
            CycleError::Netlink(error) => Self::Netlink(error),
            CycleError::Ledger(error) => Self::Ledger(error),
        }
    }
}

/// How long a command that does the daemon's work without it (`meterd attach` in a hook) is
/// waited for.
const COMMAND: Duration = Duration::from_secs(5);

impl Node {
    /// As [`Node::open`], for the daemon: what keeps the state directory may be a command that
    /// is done in a moment. A daemon is known by its socket.
    pub(crate) async fn open_when_free(
        config: Arc<Config>,
        links: &Links,
    ) -> Result<Self, Failure> {
        let until = tokio::time::Instant::now() + COMMAND;
        loop {
            let held = match Self::open(Arc::clone(&config), links).await {
                Err(held @ Failure::Ledger(LedgerError::Held { .. })) => held,
                outcome => return outcome,
            };
            let socket = config.runtime_directory.join(api::socket::NAME);
            let attended = tokio::net::UnixStream::connect(socket).await.is_ok();
            if attended || tokio::time::Instant::now() > until {
                return Err(held);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything is adopted and the first picture taken; nothing is changed yet on the node
    /// but programs replaced by this version's.
    pub(crate) async fn open(config: Arc<Config>, links: &Links) -> Result<Self, Failure> {
        let lock = ledger::lock(&config.state_directory)?;
        let (ledger, remembered) = Ledger::open(&config.state_directory)?;
        let reader = ledger.reader()?;
        let boot = BootId(identity::boot_id()?.into());
        let netns = identity::netns_cookie()?;
        let programs = Programs::open(&program_options(&config), random_id()?)?;
        let map_set = MapSetId(programs.map_set());

        let mark = Mark::from_notes(&remembered.notes, &boot);
        let mut clock_of_engine = EngineClock::new(remembered.last, mark);
        let moment = clock::now();
        let (now, step) = clock_of_engine.advance(super::node::clock_reading(&moment));
        let highest = remembered
            .highest
            .iter()
            .find(|highest| highest.boot == boot && highest.interface.netns == netns)
            .map(|highest| highest.interface.ifindex);
        let same_boot = remembered
            .highest
            .iter()
            .any(|highest| highest.boot == boot);
        // Not by the last record: a first start that was cut short has one, and has seen nothing.
        let has_looked = !remembered.highest.is_empty();
        let later_boot = !same_boot && has_looked;
        let mut guests = Guests::new(&boot, netns, &remembered.notes);
        guests.look(&config, moment.monotonic);
        let known = Known::from_notes(&remembered.notes);
        for record in &remembered.slots {
            let lives = record.counter.boot == boot && record.interface.netns == netns;
            if lives {
                guests.remember(
                    record.interface.ifindex,
                    known.claim(&record.machine, &config),
                );
            }
        }
        let mut interfaces = Interfaces::new(boot.clone(), netns, highest, later_boot, guests);
        interfaces.first_sight(links.dump().await?, &config, moment.monotonic);

        let enforcer = Enforcer::open(Shaping::open()?, &boot, netns, &remembered.notes).await?;
        let held = HeldLinks::open(LinkDown::open()?, &boot, netns, &remembered.notes);
        let Remembered {
            slots,
            generations,
            kept,
            last,
            ..
        } = remembered;
        let (live, ended): (Vec<_>, Vec<_>) = slots.into_iter().partition(|record| {
            record.counter.boot == boot
                && record.counter.map_set == map_set
                && record.interface.netns == netns
        });
        let generations = generations
            .into_iter()
            .filter(|(of, ..)| *of == map_set)
            .map(|(_, slot, generation)| (slot, generation))
            .collect();
        let generations = Generations::of(&programs, generations)?;
        let (superseded, live): (Vec<_>, Vec<_>) = live
            .into_iter()
            .partition(|record| generations.is_superseded(record));
        // A ledger that begins knows nothing of what was counted before it.
        let first_since = if has_looked {
            generations.first_since()
        } else {
            Vec::new()
        };
        let terms = Arc::new(known.terms(&interfaces, &config));
        let engine = Engine::new(terms, kept, engine_settings(&config))?;

        let mut node = Self {
            slots: Slots::new(
                boot.clone(),
                map_set,
                programs.slots(),
                live,
                generations.newest(),
            ),
            first_since,
            config,
            boot,
            clock: clock_of_engine,
            ledger,
            reader,
            engine,
            programs,
            interfaces,
            enforcer,
            links: held,
            arms: Arms::default(),
            known,
            audit: Audit::default(),
            drifting: BTreeSet::new(),
            drops: Drops::default(),
            attached: BTreeMap::new(),
            terms_changed: true,
            quiet: Quiet::default(),
            qdiscs_changed: BTreeSet::new(),
            links_changed: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            patience: None,
            overrun: false,
            unapplied: false,
            tidy: None,
            closing: BTreeSet::new(),
            measured_to: last.unwrap_or(now),
            pending: Vec::from_iter(step.map(|step| {
                warn!("{step}");
                records::clock(now, &step.to_string())
            })),
            tally: Tally::default(),
            _lock: lock,
        };
        node.end_counters(now, &ended)?;
        node.end_superseded(now, &superseded)?;
        Ok(node)
    }

    /// Counters that did not live on: after a reboot that is how it is, otherwise somebody
    /// removed the pins.
    fn end_counters(&mut self, now: Timestamp, ended: &[SlotRecord]) -> Result<(), LedgerError> {
        if ended.is_empty() {
            return Ok(());
        }
        info!(
            counters = ended.len(),
            "counters of an earlier boot or map set have ended"
        );
        let mut batch = self.batch(now, &self.engine, &[]);
        batch.events.extend(
            ended
                .iter()
                .map(|record| records::counter_ended(now, record)),
        );
        batch.freed = ended.iter().map(|record| record.counter.clone()).collect();
        let engine = self.engine.clone();
        self.commit(&batch, engine)
    }

    /// The first cycle: what was counted while nobody looked is recorded before anything
    /// changes, then what should be metered is, and what should stand stands.
    pub(crate) async fn start(&mut self, links: &Links) -> Result<(), Failure> {
        self.adopt_attached()?;
        self.measure().await?;
        self.discover(links).await?;
        self.poll().await?;
        Ok(())
    }

    /// What came since the last time has left tables half empty.
    pub(super) fn pack(&mut self) {
        self.slots.pack();
        self.interfaces.pack();
        self.audit.pack();
        self.drops.pack();
        self.arms.pack();
        pack(&mut self.attached);
        pack(&mut self.enforcer.verdicts);
    }

    /// Programs that stand are the ledger's, or they go.
    pub(super) fn adopt_attached(&mut self) -> Result<(), CycleError> {
        for attached in self.programs.attached()? {
            let (ifindex, slot) = (attached.ifindex, attached.slot);
            // An older slot of the interface counts on until the newer one is attached.
            let known = self.slots.get(Slot(slot)).is_some_and(|record| {
                record.interface.ifindex == ifindex
                    && record.counter.generation.0 == attached.generation
            });
            if !known && !self.take_over(&attached)? {
                warn!(
                    ifindex,
                    "letting go of programs that the ledger does not know"
                );
                self.programs.release(ifindex, slot)?;
                continue;
            }
            self.adopt_entry(Slot(slot), attached.machine)?;
            if attached.shaper.is_none() {
                // A shaper was recorded and then, before packets were sent there, came the end.
                self.slots.unshape(Slot(slot));
            }
            if attached.hooks != Hooks::Lost {
                self.attached.insert(ifindex, slot);
            }
        }
        Ok(())
    }

    /// Without tcx, programs hang on a qdisc that others may remove: what is lost is put back.
    pub(super) fn check_hooks(&mut self) -> Result<(), HostError> {
        self.mend_pins();
        if self.programs.mode() == Mode::Tcx {
            return Ok(());
        }
        for attached in self.programs.attached()? {
            if attached.hooks == Hooks::Lost && self.attached.remove(&attached.ifindex).is_some() {
                self.tally.drift_repairs += 1;
            }
        }
        Ok(())
    }

    /// What somebody removed from under our pins is put back. Where that cannot be (there is no
    /// bpf file system any more), all else goes on.
    fn mend_pins(&mut self) {
        let lost = match self.programs.mend() {
            Ok(lost) => lost,
            Err(failure) => {
                if self.tally.say_once("pins".to_owned()) {
                    error!("what was pinned is gone and cannot be put back: {failure}");
                }
                return;
            }
        };
        self.tally.say_again("pins");
        let Some(lost) = lost else {
            return;
        };
        warn!(
            interfaces = lost.len(),
            "somebody removed what was pinned under {}: it is back; what passed meanwhile was \
             not counted",
            self.config.pin_directory.display()
        );
        let now = self.now();
        for ifindex in lost {
            self.tally.drift_repairs += 1;
            if let Some(record) = self.slots.of_interface(self.interfaces.id(ifindex)) {
                const WHY: &str = "its programs had been removed from outside; they are back, \
                                   and what passed meanwhile was not counted";
                self.pending.push(records::attach_failed(now, record, WHY));
            }
        }
    }
}

pub(super) fn program_options(config: &Config) -> ProgramOptions {
    ProgramOptions {
        pin_directory: config.pin_directory.clone(),
        count_bytes: match config.count_bytes {
            config::CountBytes::Wire => CountBytes::Wire,
            config::CountBytes::Frame => CountBytes::Frame,
            config::CountBytes::Ip => CountBytes::Ip,
        },
        slots: config.max_interfaces,
        attach: match config.attach {
            config::AttachMode::Auto => Attach::Auto,
            config::AttachMode::Tcx => Attach::Tcx,
            config::AttachMode::Clsact => Attach::Clsact,
        },
    }
}

pub(super) fn engine_settings(config: &Config) -> EngineSettings {
    let breaker = config.circuit_breaker;
    EngineSettings {
        breaker: Breaker {
            machines: breaker.machines,
            // A share of more than all of them is never passed either.
            percent: breaker.share.0.to_u8().unwrap_or(100),
            // Had the kernel no limits, a poll would find all of them.
            within: SignedDuration::try_from(config.poll_interval).unwrap_or(SignedDuration::MAX),
        },
        dry_run: config.dry_run,
    }
}

/// Names a new map set. Not zero, which means "not named yet".
fn random_id() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |error| Failure::System {
            attempt: "asking the kernel for a random number",
            error: error.into(),
        },
    )?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}
