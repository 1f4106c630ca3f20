//! The loop: observe, step, record, apply. It joins the parts and decides nothing itself.

mod adopt;
mod answers;
mod apply;
mod arm;
mod attach;
mod audit;
mod discover;
mod divide;
mod drops;
mod enforce;
mod figures;
mod guests;
mod hindered;
mod history;
mod interfaces;
mod known;
mod leave;
mod limits;
mod linkdown;
mod node;
mod open;
mod packed;
mod quiet;
mod records;
mod shapers;
mod share;
mod slots;
mod survey;
mod tally;
mod time;
mod timers;

use std::{future, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};
use tracing::{error, info, warn};

use self::{
    answers::Then,
    apply::Which,
    node::Node,
    timers::{Timers, watchdog},
};
pub use self::{
    attach::{Attached, Wanted, attach},
    history::forget,
    leave::detach,
    open::Failure,
    survey::{Surveyed, survey},
};
use crate::{
    api::{self, Call, access::Access},
    config::Config,
    engine::Enforcement,
    host::{
        clock,
        links::{Link, LinkChange, Links},
        memory,
        netfilter::ChainChanges,
        reached::{LimitEvent, LimitEvents},
    },
    ledger::Retention,
};

/// Link events that come in a burst are taken together, this much later at most.
const SETTLE: Duration = Duration::from_millis(2);

/// What is due and cannot be done (the disk is full, say) is tried again so much later.
const RETRY: Duration = Duration::from_secs(1);

/// What a large answer took is given back so much later.
const TIDY: Duration = Duration::from_secs(1);

/// Questions that may wait for the loop at once.
const CALLS: usize = 256;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start, or cannot go on: with the exit status that says which.
pub fn run(config_path: &Path) -> Result<(), Failure> {
    memory::share_one_heap();
    let began = monotonic();
    let config = Config::load(config_path)?;
    runtime()?.block_on(serve(config_path, config, began))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::System {
            attempt: "starting threads",
            error,
        })
}

fn monotonic() -> Duration {
    clock::now().monotonic
}

fn micros(from: Duration, to: Duration) -> u128 {
    to.saturating_sub(from).as_micros()
}

async fn serve(config_path: &Path, config: Config, began: Duration) -> Result<(), Failure> {
    let configured = monotonic();
    warn_of_gaps(&config);
    let mut signals = Signals::new()?;
    // Subscribed before the first dump: no change falls in between.
    let mut links = Links::open()?;
    let mut chains = chain_changes();
    let mut node = Node::open_when_free(Arc::new(config), &links).await?;
    let opened = monotonic();
    let (calls, mut asked) = mpsc::channel(CALLS);
    let doors = Doors::open(&node.config, &calls).await?;
    drop(calls);
    let mut reached = node.limit_events()?;
    node.start(&links).await?;
    // A log that is damaged costs at most what came since: the slots are in the ledger itself.
    node.checkpoint();
    memory::give_back();
    tracing::debug!(
        configuration = micros(began, configured),
        ledger = micros(configured, opened),
        interfaces = micros(opened, monotonic()),
        "started"
    );
    notify(&[sd_notify::NotifyState::Ready]);
    info!(
        machines = node.shown().count(),
        interfaces = node.metered(),
        "metering"
    );

    let mut timers = Timers::new(&node);
    let mut rest = Instant::now();
    let outcome = loop {
        let deadline = node.until_deadline().map(|wait| Instant::now() + wait);
        let quiet = node.until_quiet().map(|wait| Instant::now() + wait);
        let hypervisors = node.until_hypervisors().map(|wait| Instant::now() + wait);
        let tidy = node.until_tidy().map(|wait| Instant::now() + wait);
        // In no order: whatever comes all the time must not keep the others from their turn.
        tokio::select! {
            _ = signals.term.recv() => break Stop::Signal,
            _ = signals.int.recv() => break Stop::Signal,
            _ = signals.hup.recv() => {
                node.reload(config_path, &links).await;
                timers.follow(&node);
            }
            change = links.next() => {
                node.see(change);
                settle(&mut node, &mut links, SETTLE).await;
            }
            () = changed(&mut chains) => {
                settle(&mut node, &mut links, Duration::ZERO).await;
                node.look_at_shapers().await;
            }
            event = rested(rest, &mut reached) => {
                let began = Instant::now();
                let mut events = vec![event.map_err(arm::listening)?];
                events.extend(std::iter::from_fn(|| reached.try_next()));
                // Who sets up an interface at this moment is known before its root is taken.
                settle(&mut node, &mut links, Duration::ZERO).await;
                node.reached(&events).await;
                rest = Instant::now() + began.elapsed();
            }
            Some(call) = asked.recv() => {
                // What happened before the question belongs into the answer.
                settle(&mut node, &mut links, Duration::ZERO).await;
                let reload = matches!(call.ask, api::Ask::Reload { .. });
                if node.answer(call, config_path, &links).await == Then::Stop {
                    break Stop::Detached;
                }
                if reload {
                    timers.follow(&node);
                }
            }
            () = until(deadline) => node.tick(&links).await,
            () = until(quiet) => {
                settle(&mut node, &mut links, Duration::ZERO).await;
                node.take_what_is_quiet(&links).await;
            }
            () = until(hypervisors) => {
                node.ask_hypervisors();
                node.act_on_links(&links).await;
            }
            () = until(tidy) => node.tidy(),
            () = future::ready(()), if node.is_unfinished() => node.finish().await,
            _ = timers.poll.tick() => node.tick(&links).await,
            _ = timers.share.tick(), if node.has_shares() => node.share().await,
            _ = timers.mend.tick(), if node.has_links_to_mend() => node.mend_links().await,
            _ = timers.prune.tick() => node.prune(),
            () = watchdog(&mut timers.watchdog) => notify(&[sd_notify::NotifyState::Watchdog]),
        }
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    let last = match outcome {
        Stop::Detached => Ok(()),
        Stop::Signal => {
            info!("a last reading, then the end; programs stay attached and count on");
            node.poll().await.map_err(Failure::from)
        }
    };
    drop(asked);
    doors.close().await;
    last
}

enum Stop {
    Signal,
    Detached,
}

/// Takes in what else comes within `patience`, then acts on all of it. What comes faster than
/// it is taken in does not hold up the rest.
async fn settle(node: &mut Node, links: &mut Links, patience: Duration) {
    let until = Instant::now() + patience;
    while let Ok(change) = tokio::time::timeout_at(until, links.next()).await {
        node.see(change);
        if Instant::now() > until + SETTLE {
            break;
        }
    }
    node.act_on_links(links).await;
}

/// Says at start and reload what the files ask for and this version does not do: nobody
/// should believe in it on the strength of a configuration that was accepted.
fn warn_of_gaps(config: &Config) {
    if config.smtp.is_some() || !config.webhooks.is_empty() {
        warn!(
            "this version sends neither mail nor webhooks: notices are in this log and in \
             `meterd events`"
        );
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("telling the service manager how we are: {error}");
    }
}

/// The next limit that is reached, not before then: each is a reading of all counters, and
/// however many a guest brings about, half of the time is left.
async fn rested(until: Instant, reached: &mut LimitEvents) -> io::Result<LimitEvent> {
    tokio::time::sleep_until(until).await;
    reached.next().await
}

/// Of nftables; where the kernel does not tell us of them, each poll looks.
fn chain_changes() -> Option<ChainChanges> {
    ChainChanges::open().unwrap_or_else(|failure| {
        warn!("{failure}; chains at an interface's ingress are noticed by the poll");
        None
    })
}

/// Waits for a change; for ever where nobody tells of any.
async fn changed(chains: &mut Option<ChainChanges>) {
    match chains {
        Some(chains) => chains.next().await,
        None => future::pending().await,
    }
}

/// Sleeps until then; for ever where there is no then.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}

/// SIGTERM and SIGINT end the daemon, SIGHUP reloads its configuration.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| Failure::System {
                attempt: "handling signals",
                error,
            })
        };
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
            hup: on(SignalKind::hangup())?,
        })
    }
}

/// The control socket and the metrics.
struct Doors(Vec<JoinHandle<()>>);

impl Doors {
    async fn open(config: &Config, calls: &mpsc::Sender<Call>) -> Result<Self, Failure> {
        let access = Access::default();
        let socket = api::socket::bind(&config.runtime_directory, &access)?;
        let limits = api::Limits::default();
        let mut doors = vec![tokio::spawn(api::serve(
            socket,
            calls.clone(),
            access,
            limits,
        ))];
        if let Some(address) = config.metrics_listen {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| Failure::Listen { address, error })?;
            doors.push(tokio::spawn(api::metrics::serve(listener, calls.clone())));
        }
        Ok(Self(doors))
    }

    /// Waits for the answers under way: the doors close when nobody receives their calls.
    async fn close(self) {
        for door in self.0 {
            if let Err(error) = door.await {
                error!("a door ended badly: {error}");
            }
        }
    }
}

impl Node {
    /// Takes in one change of the world; [`Node::act_on_links`] follows.
    fn see(&mut self, change: LinkChange) {
        let now = monotonic();
        let config = Arc::clone(&self.config);
        match change {
            LinkChange::Present(link) => {
                let ifindex = link.ifindex;
                self.interfaces.present(link, &config, now);
                if self.minds_link(ifindex) {
                    self.links_changed.insert(ifindex);
                }
                if self.interfaces.is_newborn(ifindex, now) {
                    self.quiet.disturbed(ifindex, now);
                }
            }
            LinkChange::Gone(link) => {
                self.mourn(&link);
                self.interfaces.departed(&link);
            }
            LinkChange::QdiscChanged { ifindex } => {
                self.quiet.disturbed(ifindex, now);
                if self.enforcer.touches(ifindex) {
                    self.qdiscs_changed.insert(ifindex);
                } else if self.is_throttled(ifindex) {
                    // Policed, since its root is somebody's, who may have taken it away.
                    self.quiet.wait_for(ifindex);
                }
            }
            LinkChange::FiltersChanged { ifindex } => match self.enforcer.redirects(ifindex) {
                // What stands there now is not to be led past, from now on.
                Some(true) => {
                    self.qdiscs_changed.insert(ifindex);
                }
                Some(false) => {
                    self.quiet.disturbed(ifindex, now);
                    self.quiet.wait_for(ifindex);
                }
                None => {}
            },
            LinkChange::Overrun => self.overrun = true,
        }
    }

    /// Takes in all that there is.
    fn see_all(&mut self, dump: Vec<Link>) {
        let now = monotonic();
        let config = Arc::clone(&self.config);
        for ifindex in self.interfaces.replace(dump, &config, now) {
            // Its own news is on the way, and who made it at work.
            self.quiet.disturbed(ifindex, now);
        }
    }

    fn is_throttled(&self, ifindex: u32) -> bool {
        let claim = self.interfaces.claim(ifindex);
        claim.is_some_and(|claim| matches!(self.wanted(&claim.machine), Enforcement::Throttle(_)))
    }

    /// A machine's interface that came and went before it could be metered is at least told of.
    fn mourn(&mut self, link: &Link) {
        let Some(machine) = self
            .interfaces
            .claim(link.ifindex)
            .map(|c| c.machine.clone())
        else {
            return;
        };
        if self
            .slots
            .of_interface(self.interfaces.id(link.ifindex))
            .is_none()
        {
            let now = self.now();
            let event = records::unknown(now, &machine, &link.name, link.ifindex);
            self.pending.push(event);
        }
    }

    async fn act_on_links(&mut self, links: &Links) {
        if std::mem::take(&mut self.overrun) {
            self.interfaces.list_again();
            self.tick(links).await;
            return;
        }
        if self.interfaces.has_changed()
            && let Err(failure) = self.discover(links).await
        {
            self.failed(&failure);
        }
        let mut changed = std::mem::take(&mut self.qdiscs_changed);
        changed.append(&mut self.links_changed);
        if !changed.is_empty() {
            self.apply_to(Which::These(changed)).await;
            self.tell_pending();
        }
    }

    /// The regular round: what is there, what moved, what follows.
    async fn tick(&mut self, links: &Links) {
        match self.round(links).await {
            Ok(()) => {
                self.patience = None;
                if self.tally.round_recovered() {
                    info!("interfaces and counters can be read again");
                }
            }
            Err(failure) => {
                self.patience = Some(monotonic() + RETRY);
                self.failed(&failure);
            }
        }
        // Of the step, and of answers since the last one: all machines' are as large as all that
        // is known of them.
        memory::give_back();
    }

    async fn round(&mut self, links: &Links) -> Result<(), node::CycleError> {
        let began = monotonic();
        let counters = links.counters().await?;
        let dumped = monotonic();
        let outcome = self.measure_against(&counters).await;
        let measured = monotonic();
        let listed = !self.interfaces.counted(&counters, began);
        if listed {
            self.see_all(links.dump().await?);
        }
        self.ask_hypervisors();
        self.check_hooks()?;
        self.discover(links).await?;
        let discovered = monotonic();
        // A ledger that cannot be written keeps nobody from being metered.
        outcome?;
        self.arm_and_apply(Which::All).await;
        let applied = monotonic();
        self.checkpoint();
        if listed {
            self.pack();
        }
        let ended = monotonic();
        self.tally.polls.observe(ended.saturating_sub(began));
        tracing::debug!(
            links = micros(began, dumped),
            bytes = micros(dumped, measured),
            whose = micros(measured, discovered),
            applied = micros(discovered, applied),
            checkpoint = micros(applied, ended),
            "polled"
        );
        Ok(())
    }

    /// After an answer that was large, once it has been read in all likelihood: what it took goes
    /// back to the system.
    fn until_tidy(&self) -> Option<Duration> {
        let now = monotonic();
        self.tidy.map(|at| at.saturating_sub(now))
    }

    fn tidy(&mut self) {
        self.tidy = None;
        memory::give_back();
    }

    /// The log would grow without end, and then be worked off in one long commit.
    fn checkpoint(&mut self) {
        match self.ledger.checkpoint() {
            Ok(()) => self.tally.say_again("checkpoint"),
            Err(failure) if self.tally.say_once("checkpoint".to_owned()) => warn!("{failure}"),
            Err(_) => {}
        }
    }

    fn failed(&mut self, failure: &node::CycleError) {
        // The ledger's failures are said where it is written.
        if !matches!(failure, node::CycleError::Ledger(_))
            && self.tally.round_failed(failure.to_string())
        {
            error!("{failure}; tried again with the next poll");
        }
    }

    fn retention(&self) -> Retention {
        let kept = &self.config.retention;
        Retention {
            minutes: kept.minutes,
            hours: kept.hours,
            days: kept.days,
        }
    }

    fn prune(&mut self) {
        let now = self.now();
        let retention = self.retention();
        match self.ledger.prune(now, &retention) {
            Ok(pruned) => tracing::debug!(?pruned, "rows past their retention removed"),
            Err(failure) => warn!("removing rows past their retention: {failure}"),
        }
    }

    async fn reload(&mut self, path: &Path, links: &Links) {
        match Config::load(path) {
            Ok(new) => {
                let changes = self.config.difference(&new);
                if let Err(failure) = self.reconfigure(new, &changes, links).await {
                    error!("the configuration was read but not taken: {failure}");
                }
            }
            Err(diagnostics) => {
                error!("the configuration stays as it was:\n{}", diagnostics);
            }
        }
    }

    /// Takes another configuration. Where things are kept stays as it was at start.
    async fn reconfigure(
        &mut self,
        new: Config,
        changes: &[String],
        links: &Links,
    ) -> Result<(), node::CycleError> {
        let now = self.now();
        for change in changes {
            info!("reloaded: {change}");
        }
        warn_of_gaps(&new);
        self.engine.settings = open::engine_settings(&new);
        self.config = Arc::new(as_at_start(new, &self.config));
        let clock = monotonic();
        let config = Arc::clone(&self.config);
        self.interfaces.claim_again(&config, clock);
        self.terms_changed = true;
        self.pending.push(records::reloaded(now, changes));
        self.discover(links).await?;
        self.poll().await
    }
}

/// Where things are kept, and how programs are loaded, is settled at the start.
fn as_at_start(new: Config, old: &Config) -> Config {
    Config {
        state_directory: old.state_directory.clone(),
        runtime_directory: old.runtime_directory.clone(),
        pin_directory: old.pin_directory.clone(),
        max_interfaces: old.max_interfaces,
        attach: old.attach,
        count_bytes: old.count_bytes,
        metrics_listen: old.metrics_listen,
        ..new
    }
}
