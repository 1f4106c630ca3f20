//! What the stories share: the node, its guests, the world, a daemon with the story's plan,
//! and the few things that are done with them. What is found is asked of `meterd` or seen at
//! the far end, never assumed.

mod asking;
mod traffic;
mod waiting;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use meter_tests::{
    Failure, Result,
    capture::{Capture, Moved},
    inspect::{self, Inventory},
    interrupt,
    meterd::Meterd,
    sandbox::Sandbox,
    topology::{Guest, Node, Party, Port, WAN},
    zone::{self, ShortDay, Zone},
};
pub(crate) use waiting::{instant, lag};

use crate::{
    checks::Checks,
    figures::time,
    plan::Plan,
    screen::{Paint, Screen},
};

pub(crate) const MEGABYTE: u64 = 1_000_000;

pub(crate) struct Stage<'a> {
    pub(crate) screen: &'a mut Screen,
    pub(crate) checks: &'a mut Checks,
    pub(crate) meterd: Meterd<'a>,
    pub(crate) node: Node,
    guests: BTreeMap<&'static str, Guest>,
    /// What full speed is measured with.
    pub(crate) transfer: u64,
    /// How many percent lie between two lines of a climb.
    pub(crate) every: u64,
    zone: Option<Zone>,
    capture: Capture,
    before: Inventory,
    shown: BTreeMap<&'static str, usize>,
}

/// What a story begins with.
pub(crate) struct Opening<'s> {
    pub(crate) title: &'s str,
    pub(crate) guests: &'s [&'static str],
    pub(crate) plan: &'s Plan,
    /// What is worth knowing beforehand.
    pub(crate) text: &'s str,
    pub(crate) midnight: Option<Midnight>,
}

/// The midnight of the story's own time zone: when what comes before it is done.
#[derive(Clone, Copy)]
pub(crate) struct Midnight {
    /// What takes its time anywhere.
    pub(crate) after: Duration,
    /// What takes longer where the machine is busy.
    pub(crate) and_work: Duration,
    pub(crate) short: Option<ShortDay>,
}

impl<'a> Stage<'a> {
    /// Sets it. `config` follows the keys that every story has; it may need the zone.
    pub(crate) fn set(
        sandbox: &'a Sandbox,
        screen: &'a mut Screen,
        checks: &'a mut Checks,
        opening: &Opening<'_>,
        config: impl FnOnce(Option<&Zone>) -> String,
    ) -> Result<Self> {
        announce(screen, opening);
        let node = Node::new(sandbox)?;
        let mut guests = BTreeMap::new();
        for (guest, number) in opening.guests.iter().copied().zip(101..) {
            guests.insert(guest, node.plug(Port::of(number))?);
        }
        let capture = Capture::on(&node.world.namespace, WAN)?;
        let before = Inventory::take()?;
        let mut meterd = Meterd::new(sandbox, "")?;
        let zone = match opening.midnight {
            Some(midnight) => {
                let wait = midnight.after + midnight.and_work * slowness(&meterd)?;
                let directory = sandbox.root().join("zones");
                Some(Zone::write(&directory, wait, midnight.short)?)
            }
            None => None,
        };
        let named = zone
            .as_ref()
            .map(|_| format!("time-zone = \"{}\"\n", zone::NAME));
        meterd.configure(&format!(
            "poll-interval = \"1s\"\n{}{}",
            named.unwrap_or_default(),
            config(zone.as_ref())
        ))?;
        if let Some(zone) = &zone {
            meterd.in_zones_of(zone.directory());
        }
        let plan = format!("plans/{}.toml", opening.plan.name);
        meterd.write(&plan, &opening.plan.derived()?)?;
        let start = Instant::now();
        meterd.start()?;
        let programs = Inventory::take()?.programs.len() - before.programs.len();
        let text = format!(
            "in {}; {programs} programs on {} taps",
            time(start.elapsed()),
            guests.len()
        );
        screen.now("started", Paint::Cyan, &text);
        Ok(Self {
            screen,
            checks,
            meterd,
            node,
            guests,
            transfer: 10 * MEGABYTE,
            every: 25,
            zone,
            capture,
            before,
            shown: BTreeMap::new(),
        })
    }

    pub(crate) fn act(&mut self, text: &str) -> Result<()> {
        interrupt::check()?;
        self.screen.act(text);
        Ok(())
    }

    pub(crate) fn guest(&self, name: &str) -> Result<Party> {
        let guest = self.guests.get(name);
        guest
            .map(|guest| guest.party.clone())
            .ok_or_else(|| Failure::new(format!("there is no guest {name} on this stage")))
    }

    pub(crate) fn tap(&self, name: &str) -> Result<String> {
        let guest = self.guests.get(name);
        guest
            .map(|guest| guest.tap.clone())
            .ok_or_else(|| Failure::new(format!("there is no guest {name} on this stage")))
    }

    pub(crate) fn world(&self) -> Party {
        self.node.world.clone()
    }

    /// What a machine has moved, by frames that a packet socket saw at the far end.
    pub(crate) fn seen(&mut self, machine: &str) -> Result<Moved> {
        let mac = self.guest(machine)?.mac;
        self.capture.settled(mac)
    }

    /// Everything goes, and is checked to be gone.
    pub(crate) fn leave(mut self) -> Result<()> {
        self.act("Leaving")?;
        self.type_command(&["detach"])?;
        self.meterd.wait()?;
        let pins = inspect::pins(&self.meterd.pins())?;
        let same = Inventory::take()?.same_as(&self.before).is_ok() && pins.is_empty();
        let found = if same { "nothing" } else { "something" };
        self.checks
            .note("programs, pins, qdiscs left", "nothing", found, same);
        Ok(())
    }
}

/// How many times longer than on an idle machine a command takes now; at most four times.
fn slowness(meterd: &Meterd<'_>) -> Result<u32> {
    const IDLE: Duration = Duration::from_millis(15);
    let mut took = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        meterd.text(&["check"])?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    let times = took[took.len() / 2].as_micros().div_ceil(IDLE.as_micros());
    Ok(u32::try_from(times).map_or(4, |times| times.clamp(1, 4)))
}

fn announce(screen: &mut Screen, opening: &Opening<'_>) {
    screen.plain(&screen.paint(Paint::Bold, opening.title));
    screen.plain("");
    let width = opening.guests.iter().map(|guest| guest.len()).max();
    let width = width.unwrap_or(0);
    let middle = (opening.guests.len() - 1) / 2;
    for (row, (guest, number)) in opening.guests.iter().zip(101..).enumerate() {
        let corner = match row {
            0 => "┐",
            _ => "┤",
        };
        let corner = if row + 1 == opening.guests.len() && row > 0 {
            "┘"
        } else {
            corner
        };
        let rest = if row == middle {
            " vmbr0 ── uplink0 ── the world"
        } else {
            ""
        };
        let tap = Port::of(number).tap();
        screen.plain(&format!("  {guest:<width$} ── {tap} {corner}{rest}"));
    }
    screen.plain("");
    opening.plan.show(screen);
    for line in opening.text.lines() {
        screen.plain(&format!("  {}", line.trim_start()));
    }
    if opening.midnight.is_some() {
        screen.plain(
            "  Days are those of a time zone made for this: its clocks are put forward over midnight\n  \
             while you watch. The daemon, its rules and the machine's clock are what they always are.",
        );
    }
    screen.plain("");
}
