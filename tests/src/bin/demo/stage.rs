//! What the stories share: the node, its guests, the world, a daemon with the story's plan,
//! and the few things that are done with them. What is found is asked of `meterd` or seen at
//! the far end, never assumed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use meter_tests::{
    Failure, Result,
    capture::{Capture, Moved},
    inspect::{self, Inventory},
    interrupt,
    meterd::{Meterd, bytes, sample},
    sandbox::Sandbox,
    topology::{Family, Guest, Node, Party, Port, WAN},
    traffic::{Tcp, Udp},
    wait::{self, Seen},
    zone::{self, ShortDay, Zone},
};
use serde_json::Value;

use crate::{
    checks::Checks,
    figures::{rate, time, volume},
    plan::Plan,
    screen::{Paint, Screen},
};

pub(crate) const MEGABYTE: u64 = 1_000_000;
/// Full speed is whatever this machine's namespaces give; less than this is none.
pub(crate) const FULL_SPEED: f64 = 100e6;
/// A full frame of UDP: its payload, and its bytes on the wire.
const PAYLOAD: u16 = 1472;
pub(crate) const FRAME: u64 = 1514;
/// What a deed may take on a busy machine; that it took no longer than it should is checked
/// where it matters.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// The midnight of the story's own time zone.
#[derive(Clone, Copy)]
pub(crate) struct Midnight {
    /// After the start.
    pub(crate) after: Duration,
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
        let zone = opening
            .midnight
            .map(|midnight| {
                let directory = sandbox.root().join("zones");
                Zone::write(&directory, midnight.after, midnight.short)
            })
            .transpose()?;
        let named = zone
            .as_ref()
            .map(|_| format!("time-zone = \"{}\"\n", zone::NAME));
        let config = format!(
            "poll-interval = \"1s\"\n{}{}",
            named.unwrap_or_default(),
            config(zone.as_ref())
        );
        let mut meterd = Meterd::new(sandbox, &config)?;
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

    /// One transfer over TCP, whole, and how fast it was.
    pub(crate) fn full_speed(&mut self, what: &str, from: &Party, to: &Party) -> Result<f64> {
        interrupt::check()?;
        let goodput = Tcp::v4(self.transfer).run(from, to)?.goodput();
        let (who, rest) = what.split_once(',').unwrap_or((what, ""));
        let text = format!("{:>11}  {rest}", rate(goodput));
        self.screen.now(who, Paint::Green, &text);
        let expected = format!("over {}", rate(FULL_SPEED));
        let holds = goodput > FULL_SPEED;
        self.checks.note(what, &expected, &rate(goodput), holds);
        Ok(goodput)
    }

    /// The machine sends until it has used so much or something stands in its way, in steps
    /// of `each`. Shows how it goes, and what the daemon says to it. Returns the status then.
    pub(crate) fn climb(&mut self, machine: &'static str, to: u64, each: u64) -> Result<Value> {
        self.rise(machine, to, each, Some(self.every))
    }

    /// As [`Self::climb`], with only its end shown.
    pub(crate) fn push(&mut self, machine: &'static str, to: u64, each: u64) -> Result<Value> {
        let status = self.rise(machine, to, each, None)?;
        let events = self.meterd.events(machine)?.len();
        self.shown.insert(machine, events);
        Ok(status)
    }

    /// `every`: how many percent lie between two lines.
    fn rise(
        &mut self,
        machine: &'static str,
        to: u64,
        each: u64,
        every: Option<u64>,
    ) -> Result<Value> {
        let (guest, world) = (self.guest(machine)?, self.world());
        let began = self.meterd.status(machine)?["state"].clone();
        let mut told = None;
        loop {
            interrupt::check()?;
            let status = self.meterd.status(machine)?;
            let (used, allowance) = (bytes(&status, "used")?, status["allowance"].as_u64());
            let percent = used * 100 / allowance.unwrap_or(used).max(1);
            let text = match allowance {
                Some(_) => format!(
                    "{} {percent:>3} %  {:>8}",
                    self.screen.bar(percent),
                    volume(used)
                ),
                None => format!("{:>8}", volume(used)),
            };
            // A moving line on a terminal; in a pipe, and for the record, one in so many percent.
            let over = used >= to || status["state"] != began;
            let step = every.map(|every| percent / every);
            if (step.is_some() && told != step) || over {
                told = step;
                self.screen.now(machine, Paint::Cyan, &text);
            } else {
                self.screen.moving(machine, Paint::Cyan, &text);
            }
            if every.is_some() {
                self.show_events(machine)?;
            }
            if over {
                return Ok(status);
            }
            frames((to - used).min(each).div_ceil(FRAME)).spray(&guest, &world)?;
        }
    }

    /// So many bytes on the wire are offered to the far end; returns how many arrived there.
    pub(crate) fn offer(&self, from: &Party, to: &Party, wire: u64) -> Result<u64> {
        interrupt::check()?;
        Ok(frames(wire.div_ceil(FRAME)).spray(from, to)? * FRAME)
    }

    /// Checks that not one of some datagrams arrives, neither way.
    pub(crate) fn nothing_passes(&mut self, machine: &str, when: &str) -> Result<()> {
        const ASKED: u64 = 100;
        let (guest, world) = (self.guest(machine)?, self.world());
        let sent = frames(ASKED).spray(&guest, &world)?;
        let received = frames(ASKED).spray(&world, &guest)?;
        let text = format!("{sent} of {ASKED} frames sent, {received} of {ASKED} received");
        self.screen.now(machine, Paint::Red, &text);
        let what = format!("{machine} passes, {when}");
        let passed = sent + received;
        let found = match passed {
            0 => "nothing".to_owned(),
            frames => format!("{frames} frames"),
        };
        self.checks.note(&what, "nothing", &found, passed == 0);
        Ok(())
    }

    /// Checks that it has full speed both ways.
    pub(crate) fn everything_passes(&mut self, machine: &str, when: &str) -> Result<()> {
        let (guest, world) = (self.guest(machine)?, self.world());
        self.full_speed(&format!("{machine} receives, {when}"), &world, &guest)?;
        self.full_speed(&format!("{machine} sends, {when}"), &guest, &world)?;
        Ok(())
    }

    /// Types a command that succeeds, and shows what it prints.
    pub(crate) fn type_command(&mut self, arguments: &[&str]) -> Result<String> {
        interrupt::check()?;
        self.screen.plain(&format!("  $ {}", typed(arguments)));
        let answer = self.meterd.text(arguments)?;
        for line in answer.lines() {
            self.screen.cut(&format!("  {line}"));
        }
        Ok(answer)
    }

    /// As [`Self::type_command`], of one that prints sentences, which are not cut.
    pub(crate) fn type_sentences(&mut self, arguments: &[&str]) -> Result<()> {
        self.screen.plain(&format!("  $ {}", typed(arguments)));
        for line in self.meterd.text(arguments)?.lines() {
            self.screen.sentence(line);
        }
        Ok(())
    }

    /// As [`Self::type_command`], of one that changes a machine and tells its events itself.
    pub(crate) fn type_change(&mut self, machine: &'static str, arguments: &[&str]) -> Result<()> {
        self.type_command(arguments)?;
        let events = self.meterd.events(machine)?.len();
        self.shown.insert(machine, events);
        Ok(())
    }

    /// Types a command that must be refused; returns why it is.
    pub(crate) fn type_refused(&mut self, arguments: &[&str]) -> Result<String> {
        self.screen.plain(&format!("  $ {}", typed(arguments)));
        let output = self.meterd.cli(arguments)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for line in text.lines() {
            self.screen.cut(&format!("  {line}"));
        }
        match output.status.success() {
            true => Err(Failure::new(format!(
                "{} was carried out",
                typed(arguments)
            ))),
            false => Ok(text),
        }
    }

    /// What `status` says its state is.
    pub(crate) fn state(&self, machine: &str) -> Result<String> {
        let status = self.meterd.status(machine)?;
        Ok(status["state"].as_str().unwrap_or_default().to_owned())
    }

    /// A machine's events of a kind, oldest first.
    pub(crate) fn events_of(&self, machine: &str, kind: &str) -> Result<Vec<Value>> {
        let mut events = self.meterd.events(machine)?;
        events.retain(|event| event["event"] == kind);
        Ok(events)
    }

    /// What the daemon has recorded of a machine since this was last called.
    pub(crate) fn show_events(&mut self, machine: &'static str) -> Result<()> {
        let events = self.meterd.events(machine)?;
        let seen = self.shown.insert(machine, events.len()).unwrap_or(0);
        if events.len() <= seen {
            return Ok(());
        }
        // The same, as sentences: time, machine, event, and what there is to say.
        let sentences = self.meterd.text(&["events", machine])?;
        for (event, line) in events.iter().zip(sentences.lines()).skip(seen) {
            let kind = event["event"].as_str().unwrap_or_default();
            let paint = match kind {
                "notice" | "flagged" | "invoiced" | "overdue" => Paint::Yellow,
                "throttled" | "capped" | "suspended" => Paint::Red,
                "restored" | "unflagged" | "paid" | "topped-up" => Paint::Green,
                _ => continue,
            };
            let (_, words) = line.split_once(kind).unwrap_or_default();
            // What acts and speaks says the same twice: once is enough here.
            let also = |other: &str| {
                words
                    .trim_start()
                    .starts_with(&format!("{machine} is {other}"))
            };
            let acts = ["throttled", "capped", "suspended", "no longer"];
            if kind == "notice" && acts.iter().any(|other| also(other)) {
                continue;
            }
            self.screen.said(kind, paint, words);
        }
        Ok(())
    }

    /// Waits until `status` says so, shows what the daemon says to it, and returns when that
    /// was.
    pub(crate) fn until_state(
        &mut self,
        machine: &'static str,
        state: &str,
        at_most: Duration,
    ) -> Result<SystemTime> {
        let (meterd, screen) = (&self.meterd, &mut *self.screen);
        let what = format!("{machine} to be {state}");
        let each = Duration::from_millis(50);
        wait::until(&what, each, at_most + PATIENCE, || {
            interrupt::check()?;
            let status = meterd.status(machine)?;
            let now = status["state"].as_str().unwrap_or_default();
            screen.moving(machine, Paint::Dim, &format!("{now}, to be {state}"));
            Ok(match now == state {
                true => Seen::Yes(()),
                false => Seen::NotYet(status.to_string()),
            })
        })?;
        let seen = SystemTime::now();
        self.show_events(machine)?;
        Ok(seen)
    }

    /// Waits for an instant, and says for what.
    pub(crate) fn wait_for(&mut self, what: &str, instant: SystemTime) -> Result<()> {
        while let Ok(left) = instant.duration_since(SystemTime::now()) {
            interrupt::check()?;
            let text = format!("in {:.1} s", left.as_secs_f64());
            self.screen.moving(what, Paint::Dim, &text);
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }

    /// Waits for midnight in the stage's zone. Fails if it struck before it was asked for.
    pub(crate) fn midnight(&mut self) -> Result<SystemTime> {
        let zone = self.zone.as_ref();
        let zone = zone.ok_or_else(|| Failure::new("this stage has no midnight"))?;
        if zone.until_midnight().is_none() {
            return Err(Failure::new(
                "midnight struck before its turn: this machine is too busy for the story",
            ));
        }
        let midnight = zone.midnight();
        self.wait_for("midnight", midnight)?;
        self.screen.now("midnight", Paint::Bold, "in Demo/Midnight");
        Ok(midnight)
    }

    /// Checks that something came within a second of its time.
    pub(crate) fn in_time(&mut self, what: &str, found: &Value, due: SystemTime) -> Result<()> {
        let late = lag(found, due)?;
        let holds = late <= Duration::from_secs(1);
        self.checks.note(what, "within 1000 ms", &time(late), holds);
        Ok(())
    }

    /// A sample of the metrics, after a fresh reading.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        self.meterd.json(&["status"])?;
        Ok(sample(&self.meterd.metrics(9750)?, name, labels))
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

fn frames(datagrams: u64) -> Udp {
    Udp {
        datagrams,
        each: PAYLOAD,
        family: Family::V4,
        together: 1,
    }
}

/// As a shell would want it.
fn typed(arguments: &[&str]) -> String {
    let word = |word: &&str| match (word.contains(' '), word.split_once('=')) {
        (false, _) => (*word).to_owned(),
        (true, Some((key, value))) => format!("{key}=\"{value}\""),
        (true, None) => format!("\"{word}\""),
    };
    let words: Vec<String> = arguments.iter().map(word).collect();
    format!("meterd {}", words.join(" "))
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

/// An instant as the daemon writes it.
pub(crate) fn instant(value: &Value) -> Result<SystemTime> {
    zone::instant(value.as_str().unwrap_or_default())
}

/// By how much the one instant is later than the other.
pub(crate) fn lag(later: &Value, than: SystemTime) -> Result<Duration> {
    instant(later)?.duration_since(than).map_err(|error| {
        let early = error.duration();
        Failure::new(format!("{later} is {early:?} too early"))
    })
}
