//! The node, its machines, and the daemon, as the test knows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result, http,
    inspect::{self, Inventory},
    links::{self, End, Link},
    meterd::Meterd,
    rate_limits::{self, LIBVIRT, PROXMOX, run},
    sandbox::{Namespace, Sandbox},
    stall,
    topology::{Node, UPLINK},
};
use serde_json::Value;

use crate::{
    found::{self, Found, Root},
    lots::Lots,
    port::{Attachment, EXEMPT_MAC, Kind, Plug},
    wanted::{self, Wanted},
    wire::{Total, Wire},
};

/// The machines are 101 to 106.
pub(crate) const MACHINES: std::ops::RangeInclusive<u8> = 101..=106;

pub(crate) const PLANS: [(&str, &str); 10] = [
    ("free", "allowance = 'unlimited'"),
    (
        "slow",
        "allowance = '200 kB'\n[[rule]]\nused = '100%'\nthrottle = '64 kbit/s'",
    ),
    (
        "brisk",
        "allowance = '150 kB'\n[[rule]]\nused = '100%'\nthrottle = '512 kbit/s'",
    ),
    (
        "cap",
        "allowance = '150 kB'\n[[rule]]\nused = '100%'\ncap = '30 kB'",
    ),
    (
        "hold",
        "allowance = '150 kB'\n[[rule]]\nused = '100%'\nsuspend = true",
    ),
    (
        "grace",
        "allowance = '150 kB'\n[[rule]]\nused = '100%'\nthrottle = '256 kbit/s'\n\
         [[rule]]\nused = '100%'\nafter = '2s'\nsuspend = true",
    ),
    (
        "ladder",
        "allowance = '150 kB'\n[[rule]]\nused = '100%'\nthrottle = '128 kbit/s'\n\
         [[rule]]\nused = '120%'\ncap = '20 kB'",
    ),
    (
        "watched",
        "enforce = false\nallowance = '150 kB'\n[[rule]]\nused = '100%'\nsuspend = true",
    ),
    (
        "open",
        "exempt-when-suspended = true\nallowance = '150 kB'\n[[rule]]\nused = '100%'\nsuspend = true",
    ),
    (
        "hand",
        "allowance = '150 kB'\n[[rule]]\nused = '100%'\nsuspend = true\nlift = 'by-hand'",
    ),
];

/// How the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Daemon {
    Running,
    /// By SIGSTOP.
    Stopped,
    Gone,
}

/// What others put at a root, as it stands there.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) proxmox: Root,
    pub(crate) libvirt: Root,
    pub(crate) tbf: Root,
    pub(crate) pfifo: Root,
    pub(crate) veth: Root,
    pub(crate) tap: Root,
}

pub(crate) const TBF: &str =
    "tc qdisc replace dev DEV root handle 5: tbf rate 80mbit burst 200k limit 300k";
pub(crate) const PFIFO: &str = "tc qdisc replace dev DEV root handle 6: pfifo limit 500";

/// All of it.
#[derive(Debug)]
pub(crate) struct World<'a> {
    pub(crate) node: Node,
    pub(crate) meterd: Meterd<'a>,
    pub(crate) plugs: Vec<Plug>,
    pub(crate) wire: Wire,
    pub(crate) daemon: Daemon,
    /// This machine's interfaces are nobody's, by the configuration.
    pub(crate) excluded: Option<u8>,
    pub(crate) dry_run: bool,
    pub(crate) attachment: Attachment,
    pub(crate) roots: Roots,
    /// What stood against each machine when all was last quiet.
    pub(crate) stood: BTreeMap<String, Wanted>,
    /// Their `status` then.
    pub(crate) status: BTreeMap<String, Value>,
    /// By ifindex: whose each interface was then.
    pub(crate) metered: BTreeMap<u32, String>,
    /// Whose root others changed last.
    pub(crate) touched: Option<usize>,
    /// Before meterd came.
    pub(crate) before: Inventory,
}

impl<'a> World<'a> {
    pub(crate) fn new(sandbox: &'a Sandbox, lots: &mut Lots) -> Result<Self> {
        let node = Node::new(sandbox)?;
        links::forward(UPLINK, EXEMPT_MAC)?;
        let roots = look_at_roots()?;
        let mut plugs: Vec<Plug> = [
            (101, 0, Kind::Bridged),
            (101, 1, Kind::Bridged),
            (102, 0, Kind::Bridged),
            (103, 0, Kind::Bridged),
            (103, 1, Kind::Bridged),
            (103, 2, Kind::BridgedTap),
            (104, 0, Kind::Routed),
            (105, 0, Kind::Routed),
            (105, 1, Kind::RoutedTap),
            (106, 0, Kind::BridgedTap),
        ]
        .map(|(machine, nic, kind)| Plug::new(machine, nic, kind))
        .into();
        let before = Inventory::take()?;
        for plug in &mut plugs {
            plug.create(roots.default(plug.kind))?;
            plug.furnish(lots)?;
        }
        let mut world = Self {
            wire: Wire::new(&node.world.namespace)?,
            node,
            meterd: Meterd::new(sandbox, &config(None, false))?,
            plugs,
            daemon: Daemon::Gone,
            excluded: None,
            dry_run: false,
            attachment: match inspect::has_tcx()? {
                true => Attachment::Tcx,
                false => Attachment::Clsact,
            },
            roots,
            stood: BTreeMap::new(),
            status: BTreeMap::new(),
            metered: BTreeMap::new(),
            touched: None,
            before,
        };
        for (name, plan) in PLANS {
            world.meterd.write(&format!("plans/{name}.toml"), plan)?;
        }
        world.start()?;
        // Its first reading is where the comparison begins.
        world.everything_lost();
        Ok(world)
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.meterd.start()?;
        self.daemon = Daemon::Running;
        Ok(())
    }

    /// Writes what is wanted of the configuration by now.
    pub(crate) fn configure(&self) -> Result<()> {
        self.meterd.configure(&config(self.excluded, self.dry_run))
    }

    pub(crate) fn everything_lost(&mut self) {
        let all: Vec<String> = MACHINES.map(|machine| machine.to_string()).collect();
        self.wire.everything_lost(&all);
    }

    /// Whose an interface of that name is.
    pub(crate) fn owner(&self, name: &str) -> Option<String> {
        owner(self.excluded, name)
    }

    /// Takes into account what has moved so far.
    pub(crate) fn look(&mut self) -> Result<()> {
        let excluded = self.excluded;
        self.wire
            .look(&mut self.plugs, |name| owner(excluded, name))
    }

    /// Sends a command. That it is refused is an answer; that it fails is not.
    pub(crate) fn command(&self, path: &str, body: &str) -> Result<()> {
        let answer = http::over_unix(&self.meterd.socket(), "POST", path, &[], body)?;
        match answer.status {
            500.. => Err(Failure::new(format!(
                "POST {path} {body}: {} {}",
                answer.status, answer.body
            ))),
            _ => Ok(()),
        }
    }

    fn read_status(&self) -> Result<BTreeMap<String, Value>> {
        let answer = http::over_unix(&self.meterd.socket(), "GET", "/v1/machines", &[], "")?;
        let all: Vec<Value> = serde_json::from_str(&answer.body)
            .could_not(|| format!("read {} {}", answer.status, answer.body))?;
        let named = all.into_iter().filter_map(|machine| {
            let name = machine["machine"].as_str()?.to_owned();
            Some((name, machine))
        });
        Ok(named.collect())
    }

    /// Waits until what is found is what is wanted.
    pub(crate) fn settle(&mut self) -> Result<Duration> {
        const PATIENCE: Duration = Duration::from_secs(12);
        if self.daemon != Daemon::Running {
            let found = Found::take(&self.meterd.pins())?;
            return match wanted::outlives(self, &found) {
                differences if differences.is_empty() => Ok(Duration::ZERO),
                differences => Err(Failure::new(differences.join("\n"))),
            };
        }
        let begun = Instant::now();
        let mut pause = Duration::from_millis(4);
        loop {
            let differences = self.differences()?;
            if differences.is_empty() {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > PATIENCE && !stall::of_links() {
                let status: Vec<String> = self.status.values().map(Value::to_string).collect();
                return Err(Failure::new(format!(
                    "after {PATIENCE:?}:\n{}\n{}",
                    differences.join("\n"),
                    status.join("\n")
                )));
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_millis(60));
        }
    }

    fn differences(&mut self) -> Result<Vec<String>> {
        self.look()?;
        let before: Vec<Total> = self.totals();
        // Before the ledger is read: what it took up to then may have met a link that did not
        // operate, and what it takes later is held against a link that did.
        let links = links::list()?;
        self.status = self.read_status()?;
        let found = Found::take(&self.meterd.pins())?;
        self.look()?;
        let now = self.totals();
        let status = self.status.clone();
        let mut differences = wanted::differences(self, &status, &found)?;
        if now != before {
            differences.push(format!("under way: {before:?}, then {now:?}"));
        }
        self.forget_what_drains(&status, &links);
        // What comes through a shaper is counted a moment before it arrives: who begins anew waits
        // until there is nothing.
        let mut waiting = match self.wire.is_inexact() {
            true => self.shapers_not_empty()?,
            false => BTreeSet::new(),
        };
        waiting.retain(|machine| self.wire.is_lost(machine));
        for (machine, status) in &status {
            if !waiting.contains(machine) {
                differences.extend(self.wire.difference(machine, Total::of(status)?));
            }
        }
        if differences.is_empty() {
            for (machine, status) in &status {
                if !waiting.contains(machine) {
                    self.wire.agree(machine, Total::of(status)?);
                }
            }
            self.stood = status
                .iter()
                .map(|(machine, status)| (machine.clone(), wanted::of(status, self.dry_run)))
                .collect();
            self.all_metered();
        }
        Ok(differences)
    }

    /// The machines with something that waits in one.
    fn shapers_not_empty(&self) -> Result<BTreeSet<String>> {
        let waiting = found::waiting()?;
        let there = self.plugs.iter().filter_map(|plug| plug.there.as_ref());
        Ok(there
            .filter(|it| {
                [it.name.clone(), format!("mtrd{}", it.index)]
                    .iter()
                    .any(|it| waiting.contains(it))
            })
            .filter_map(|it| self.owner(&it.name))
            .collect())
    }

    /// Whatever is somebody's is metered by now.
    pub(crate) fn all_metered(&mut self) {
        let there = self.plugs.iter().filter_map(|plug| plug.there.as_ref());
        let owned =
            there.filter_map(|there| Some((there.index, owner(self.excluded, &there.name)?)));
        self.metered = owned.collect();
    }

    /// What waits in a machine's shaper comes through later, or never. A routed guest's is known
    /// when it leaves the guest; and what comes through while the bridge forwards nothing has
    /// been sent, and arrives nowhere.
    fn forget_what_drains(&mut self, status: &BTreeMap<String, Value>, links: &[Link]) {
        for plug in &mut self.plugs {
            let routed = plug.is_routed();
            let Some(there) = &mut plug.there else {
                continue;
            };
            let link = links.iter().find(|link| link.index == there.index);
            let operates = link.is_some_and(|link| link.operates);
            let arrives = there.operated && operates;
            there.operated = operates;
            let Some(owner) = owner(self.excluded, &there.name) else {
                continue;
            };
            let now = status.get(&owner).map(|it| wanted::of(it, self.dry_run));
            let throttled = |it: Option<&Wanted>| matches!(it, Some(Wanted::Throttle(_)));
            if (routed || !arrives)
                && (throttled(now.as_ref()) || throttled(self.stood.get(&owner)))
            {
                self.wire.lost(&owner);
            }
        }
    }

    fn totals(&self) -> Vec<Total> {
        MACHINES
            .map(|machine| self.wire.total(&machine.to_string()))
            .collect()
    }

    /// Waits until nothing of ours is left, and all is as others have left it.
    pub(crate) fn until_left(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let found = Found::take(&self.meterd.pins())?;
            let mut differences = wanted::nothing(self, &found)?;
            if found.pinned {
                differences.push("something is pinned".to_owned());
            }
            if differences.is_empty() {
                return Ok(());
            }
            // Addresses that are checked for duplicates take their time.
            if begun.elapsed() > Duration::from_secs(5) {
                return Err(Failure::new(format!(
                    "after detach:\n{}",
                    differences.join("\n")
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Roots {
    pub(crate) const fn default(&self, kind: Kind) -> &Root {
        match kind {
            Kind::Bridged | Kind::Routed => &self.veth,
            Kind::BridgedTap | Kind::RoutedTap => &self.tap,
        }
    }
}

/// What each of them looks like, on interfaces that are nobody's.
fn look_at_roots() -> Result<Roots> {
    const SCRATCH: &str = "scratch0";
    let none = std::path::Path::new("/dev/shm/none");
    let end = |name| End { name, mac: None };
    let other = Namespace::new()?;
    links::veth(end(SCRATCH), end("eth0"), &other)?;
    links::up(SCRATCH)?;
    let look = || Ok::<_, Failure>(Found::take(none)?.root(SCRATCH));
    let veth = look()?;
    rate_limits::set_up(&PROXMOX, SCRATCH)?;
    let proxmox = look()?;
    rate_limits::set_up(&LIBVIRT, SCRATCH)?;
    let libvirt = look()?;
    run(&TBF.replace("DEV", SCRATCH))?;
    let tbf = look()?;
    run(&PFIFO.replace("DEV", SCRATCH))?;
    let pfifo = look()?;
    links::delete(SCRATCH)?;
    let scratch = meter_tests::tap::Tap::new(SCRATCH)?;
    let tap = look()?;
    drop(scratch);
    Ok(Roots {
        proxmox,
        libvirt,
        tbf,
        pfifo,
        veth,
        tap,
    })
}

pub(crate) fn owner(excluded: Option<u8>, name: &str) -> Option<String> {
    let (machine, _) = name.strip_prefix("tap")?.split_once('i')?;
    let number: u8 = machine.parse().ok()?;
    (MACHINES.contains(&number) && excluded != Some(number)).then(|| machine.to_owned())
}

fn config(excluded: Option<u8>, dry_run: bool) -> String {
    let digits: String = (1..=6)
        .filter(|digit| excluded != Some(100 + digit))
        .map(|digit| digit.to_string())
        .collect();
    format!(
        "poll-interval = '2s'\ndry-run = {dry_run}\nexempt = ['10.66.0.0/16']\n\
         [metrics]\nlisten = ''\n\
         [[discover]]\ninterface = '^tap(?<machine>10[{digits}])i\\d+$'\nplan = 'free'\n"
    )
}
