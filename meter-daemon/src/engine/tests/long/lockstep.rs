//! The model and the engines living through one history, step by step, and compared.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    super::reference::{Model, Told},
    acts::{self, Act},
    lots::Lots,
    met::Met,
    run::Run,
};
use crate::engine::{
    Observation, Sample, command::Command, event::State, plan::Terms, span::arrived_traffic,
    units::*,
};

/// The model and three engines, all living through the same.
pub(super) struct Lockstep {
    pub(super) terms: Arc<Terms>,
    pub(super) model: Model,
    steady: Run,
    pub(super) disturbed: Run,
    /// Read more often than the others, where nobody was away.
    fine: Run,
    /// The wall clock, and the latest instant it ever showed.
    wall: Timestamp,
    clock: Timestamp,
    guarded: bool,
    /// By how much more often.
    split: Lots,
    /// The machines whose states may depend on when they were looked at.
    by_steps: BTreeSet<MachineId>,
    travelling: bool,
    acts: usize,
    pub(super) met: Met,
}

impl Lockstep {
    pub(super) fn new(terms: Terms, start: Timestamp, seed: u64) -> Result<Self, String> {
        let terms = Arc::new(terms);
        let mut lockstep = Self {
            model: Model::new((*terms).clone()),
            steady: Run::new(&terms, None),
            disturbed: Run::new(&terms, Some(Lots::new(seed ^ 0x5EED))),
            fine: Run::new(&terms, None),
            split: Lots::new(seed ^ 0xF17E),
            by_steps: BTreeSet::new(),
            travelling: false,
            terms,
            wall: start,
            clock: start,
            guarded: false,
            acts: 0,
            met: Met::default(),
        };
        lockstep.step(start, Observation::default())?;
        Ok(lockstep)
    }

    /// What was met with on the way.
    pub(super) fn met(mut self) -> Met {
        self.met.add("month", self.steady.ledger.closed.len());
        self.met.add("restart", self.disturbed.restarted);
        self.met
    }

    pub(super) fn live(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::Travel { seconds, traffic } => {
                let clock = self.clock;
                let from = self.wall;
                self.travelling = true;
                self.travel(*seconds, traffic)?;
                self.travelling = false;
                self.travel_finely((from, self.wall), clock, traffic)?;
            }
            Act::Outage { seconds, traffic } => {
                let (from, to) = (self.wall, self.wall + SignedDuration::from_secs(*seconds));
                let (from, to) = (from.max(self.clock), to.max(self.clock));
                let closed = self.steady.ledger.closed.len();
                let samples = |traffic: &[(MachineId, Traffic)]| {
                    let sample = |(machine, traffic): &(MachineId, Traffic)| Sample {
                        machine: machine.clone(),
                        from,
                        to,
                        traffic: *traffic,
                    };
                    traffic.iter().map(sample).collect()
                };
                let traffic = samples(traffic);
                self.wall = to;
                self.step(
                    to,
                    Observation {
                        traffic,
                        commands: Vec::new(),
                    },
                )?;
                let crossed = self.steady.ledger.closed.len() - closed;
                self.met
                    .count(match crossed.div_ceil(self.terms.machines.len()) {
                        0 => "outage within a period",
                        1 => "outage over a boundary",
                        2 => "outage over two boundaries",
                        _ => "outage over three boundaries",
                    });
            }
            Act::Back { seconds, guarded } => {
                self.met.count("clock set back");
                self.wall -= SignedDuration::from_secs(*seconds);
                self.guarded = *guarded;
            }
            Act::Say(actions) => {
                actions
                    .iter()
                    .for_each(|action| self.met.count(acts::word(action)));
                let commands = actions.iter().map(|action| Command {
                    author: "ops".to_owned(),
                    reason: None,
                    action: action.clone(),
                });
                let commands = commands.collect();
                self.step(
                    self.shown_time(self.wall),
                    Observation {
                        traffic: Vec::new(),
                        commands,
                    },
                )?;
            }
        }
        if self.steady.ledger.states() != self.disturbed.ledger.states() {
            return Err("after restarts other things are kept".to_owned());
        }
        self.finer_agrees()?;
        self.acts += 1;
        if self.acts.is_multiple_of(8) {
            self.look_alike()?;
        }
        Ok(())
    }

    /// Whether the disturbed engine shows what the undisturbed one does, to the last word.
    pub(super) fn look_alike(&self) -> Result<(), String> {
        let now = self.clock;
        let (steady, disturbed) = (self.steady.seen(now), self.disturbed.seen(now));
        if steady == disturbed {
            return Ok(());
        }
        let pairs = steady.chars().zip(disturbed.chars());
        let same = pairs.take_while(|(one, other)| one == other).count();
        let near = |text: &str| {
            let text = text.chars().skip(same.saturating_sub(80)).take(200);
            text.collect::<String>()
        };
        Err(format!(
            "at {now} after restarts it shows\n…{}…\nand without\n…{}…",
            near(&disturbed),
            near(&steady)
        ))
    }

    /// What the daemon takes for the time when the wall clock shows this.
    fn shown_time(&self, wall: Timestamp) -> Timestamp {
        if self.guarded {
            wall.max(self.clock)
        } else {
            wall
        }
    }

    fn travel(&mut self, seconds: i64, traffic: &[(MachineId, Traffic)]) -> Result<(), String> {
        let (from, until) = (self.wall, self.wall + SignedDuration::from_secs(seconds));
        let mut before = from;
        loop {
            let deadline = [self.steady.engine.deadline(), self.model.deadline()];
            let deadline = deadline.into_iter().flatten().min();
            let next = deadline
                .filter(|deadline| *deadline < until)
                .unwrap_or(until);
            let traffic = parts(traffic, (from, until), (before, next), self.clock);
            self.wall = next;
            self.step(
                self.shown_time(next),
                Observation {
                    traffic,
                    commands: Vec::new(),
                },
            )?;
            before = next;
            if next >= until {
                return Ok(());
            }
        }
    }

    /// The same for the engine that is read more often.
    fn travel_finely(
        &mut self,
        (from, until): (Timestamp, Timestamp),
        mut clock: Timestamp,
        traffic: &[(MachineId, Traffic)],
    ) -> Result<(), String> {
        let mut before = from;
        loop {
            let left = u64::try_from(until.duration_since(before).as_secs()).unwrap();
            let cut = match left {
                0..3_600 => until,
                _ => before + SignedDuration::from_secs(self.split.seconds(left / 4, left)),
            };
            let deadline = self.fine.engine.deadline().into_iter();
            let next = deadline.chain([cut, until]).min().unwrap_or(until);
            let observation = Observation {
                traffic: parts(traffic, (from, until), (before, next), clock),
                commands: Vec::new(),
            };
            let now = if self.guarded { next.max(clock) } else { next };
            clock = clock.max(next);
            self.fine.step(now, clock, observation)?;
            self.met.count("finer step");
            before = next;
            if next >= until {
                return Ok(());
            }
        }
    }

    /// However often it is read, an engine sums, grants and charges the same; and where no time
    /// and no day decides, it is in the same state.
    fn finer_agrees(&mut self) -> Result<(), String> {
        let now = self.clock;
        for id in self.terms.machines.keys() {
            if self.model.depends_on_steps(id) {
                self.by_steps.insert(id.clone());
            }
            let (mut coarse, mut fine) = (self.steady.shown(id, now), self.fine.shown(id, now));
            if self.by_steps.contains(id) {
                for shown in [&mut coarse, &mut fine] {
                    (shown.state, shown.rule) = (State::Normal, None);
                    (shown.flagged, shown.rate, shown.cap_remaining) = (false, None, None);
                }
            }
            if coarse != fine {
                return Err(format!(
                    "at {now} {id}, read more often, shows\n  {fine:?}\nand else\n  {coarse:?}"
                ));
            }
        }
        let owed = |run: &Run| {
            let closed: Vec<_> = run
                .ledger
                .closed
                .iter()
                .map(|(id, it)| (id.clone(), it.period_end, it.traffic))
                .collect();
            let bill = |it: crate::engine::view::InvoiceView| {
                (it.machine, it.due, it.volume, it.amount, it.status)
            };
            let bills: Vec<_> = run.engine.invoices(None).into_iter().map(bill).collect();
            let accounts = self.terms.accounts.keys();
            let balances: Vec<_> = accounts
                .map(|id| run.engine.balance(id).and_then(|view| view.balance))
                .collect();
            (closed, bills, balances)
        };
        let (coarse, fine) = (owed(&self.steady), owed(&self.fine));
        if coarse != fine {
            return Err(format!(
                "at {now}, read more often, it closed, billed and has\n{fine:?}\nand else\n{coarse:?}"
            ));
        }
        Ok(())
    }

    fn step(&mut self, now: Timestamp, observation: Observation) -> Result<(), String> {
        self.met.count("step");
        self.clock = self.clock.max(now);
        let clock = self.clock;
        let steady = self.steady.step(now, clock, observation.clone())?;
        if !self.travelling {
            self.fine.step(now, clock, observation.clone())?;
        }
        let disturbed = self.disturbed.step(now, clock, observation.clone())?;
        if steady != disturbed {
            return Err(format!(
                "at {now} after restarts it says\n{disturbed:#?}\nand without\n{steady:#?}"
            ));
        }
        let known = self.model.told.len();
        self.model.step(now, &observation);
        let said: Vec<Told> = steady.iter().map(|event| self.steady.told(event)).collect();
        let expected = &self.model.told[known..];
        compare(now, &said, expected)?;
        for id in self.terms.machines.keys() {
            let (shown, expected) = (self.steady.shown(id, clock), self.model.shown(id));
            if shown != expected {
                return Err(format!(
                    "at {now} {id} shows\n  {shown:?}\nand should show\n  {expected:?}"
                ));
            }
        }
        for id in self.terms.accounts.keys() {
            let shown = self.steady.engine.balance(id).and_then(|view| view.balance);
            let expected = self.model.balance(id);
            if shown.map(|it| it.to_string()) != expected.map(|it| it.to_string()) {
                return Err(format!(
                    "at {now} {id} has {shown:?}, should have {expected:?}"
                ));
            }
        }
        let (deadline, expected) = (self.steady.engine.deadline(), self.model.deadline());
        if deadline != expected {
            return Err(format!(
                "at {now} the deadline is {deadline:?}, should be {expected:?}"
            ));
        }
        for event in steady {
            self.met.count(event.kind.as_str());
        }
        Ok(())
    }
}

/// What of traffic that comes evenly over `whole` comes in `part` of it, as the clock shows it.
fn parts(
    traffic: &[(MachineId, Traffic)],
    whole: (Timestamp, Timestamp),
    part: (Timestamp, Timestamp),
    clock: Timestamp,
) -> Vec<Sample> {
    let by = |all: Traffic, instant: Timestamp| match instant {
        instant if instant >= whole.1 => all,
        instant if instant <= whole.0 => Traffic::ZERO,
        instant => arrived_traffic(all, whole.0, whole.1, instant),
    };
    let sample = |(machine, all): &(MachineId, Traffic)| {
        let (by_then, earlier) = (by(*all, part.1), by(*all, part.0));
        let earlier = if part.0 == whole.0 {
            Traffic::ZERO
        } else {
            earlier
        };
        Sample {
            machine: machine.clone(),
            from: part.0.max(clock),
            to: part.1.max(clock),
            traffic: Traffic {
                received: by_then.received.saturating_sub(earlier.received),
                sent: by_then.sent.saturating_sub(earlier.sent),
                exempt: by_then.exempt.saturating_sub(earlier.exempt),
            },
        }
    };
    traffic.iter().map(sample).collect()
}

/// What was said in a step: the same things, in whatever order; states in the same order.
fn compare(now: Timestamp, said: &[Told], expected: &[Told]) -> Result<(), String> {
    let sorted = |told: &[Told]| {
        let mut told = told.to_vec();
        told.sort();
        told
    };
    let states = |told: &[Told]| -> Vec<Told> {
        let is_state = |one: &&Told| {
            ["throttled", "capped", "suspended", "restored"].contains(&one.word.as_str())
        };
        let mut states: Vec<Told> = told.iter().filter(is_state).cloned().collect();
        states.sort_by(|one, other| one.machine.cmp(&other.machine));
        states
    };
    if sorted(said) == sorted(expected) && states(said) == states(expected) {
        return Ok(());
    }
    let lines = |told: &[Told], others: &[Told]| -> String {
        let line = |one: &Told| {
            let mark = if others.contains(one) { " " } else { "!" };
            let of = one
                .allowance
                .map_or("unlimited".to_owned(), |it| it.to_string());
            format!(
                "\n {mark} {} {} {} {} used {} of {of}: {}",
                one.time,
                one.machine.as_ref().map_or("-", MachineId::as_str),
                one.word,
                one.rule.as_deref().unwrap_or("-"),
                one.used,
                one.detail
            )
        };
        told.iter().map(line).collect()
    };
    Err(format!(
        "at {now} it says{}\nand should say{}",
        lines(said, expected),
        lines(expected, said)
    ))
}
