//! Runs of the engine as the daemon runs it, with and without restarts, beside the model.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        reference::{Model, Shown, Told},
        world::Ledger,
    },
    acts::Act,
    lots::Lots,
};
use crate::engine::{
    Effect, Engine, EngineSettings, Observation, Sample,
    command::{Command, CommandAction},
    event::{Event, EventKind},
    plan::Terms,
    record::Kept,
    span::arrived_traffic,
    units::*,
};

/// One engine with its ledger.
pub(super) struct Run {
    pub(super) engine: Engine,
    pub(super) ledger: Ledger,
    terms: Arc<Terms>,
    /// In order of issue.
    numbers: Vec<InvoiceNumber>,
    /// When it restarts; never where absent.
    restarts: Option<Lots>,
    pub(super) restarted: usize,
}

impl Run {
    fn new(terms: &Arc<Terms>, restarts: Option<Lots>) -> Self {
        let settings = EngineSettings::default();
        Self {
            engine: Engine::new(Arc::clone(terms), Kept::default(), settings).unwrap(),
            ledger: Ledger::default(),
            terms: Arc::clone(terms),
            numbers: Vec::new(),
            restarts,
            restarted: 0,
        }
    }

    fn step(
        &mut self,
        now: Timestamp,
        clock: Timestamp,
        mut observation: Observation,
    ) -> Result<Vec<Event>, String> {
        for command in &mut observation.commands {
            if let CommandAction::Pay { invoice } = &mut command.action {
                let place: usize = invoice.as_str().parse().unwrap();
                let known = self.numbers.get(place);
                *invoice = known.cloned().unwrap_or_else(|| "unknown".into());
            }
        }
        let mut next = self.engine.clone();
        let effects = next.step(now, &observation);
        let changes = next.changes_since(&self.engine);
        self.ledger.record(&next, &observation, changes);
        self.engine = next;
        let events: Vec<Event> = effects
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Event(event) => Some(event),
                Effect::Enforce(..) => None,
            })
            .collect();
        for event in &events {
            if let EventKind::Invoiced { number, .. } = &event.kind {
                self.numbers.push(number.clone());
            }
        }
        if self.restarts.as_mut().is_some_and(|lots| lots.percent(30)) {
            self.restart(clock)?;
        }
        Ok(events)
    }

    /// Starts again from what the ledger has, at an instant not before any that was recorded.
    fn restart(&mut self, clock: Timestamp) -> Result<(), String> {
        self.restarted += 1;
        let terms = Arc::clone(&self.terms);
        let kept = self.ledger.kept();
        self.engine = Engine::new(terms, kept, EngineSettings::default()).unwrap();
        match self.engine.step(clock, &Observation::default()) {
            effects if effects.is_empty() => Ok(()),
            effects => Err(format!("a restart is no event, but: {effects:?}")),
        }
    }

    /// What happened, in the model's words.
    fn told(&self, event: &Event) -> Told {
        let place = |number: &InvoiceNumber| {
            let place = self.numbers.iter().position(|known| known == number);
            place.map_or("unknown".to_owned(), |place| format!("#{place}"))
        };
        let or_none = |money: &Option<Money>| money.map_or("none".to_owned(), |it| it.to_string());
        let detail = match &event.kind {
            EventKind::PeriodStarted { start, end } => format!("{start} to {end}"),
            EventKind::Throttled {
                from,
                rate_limit_bits_per_second: rate,
            } => {
                format!("from {} to {rate}", from.as_str())
            }
            EventKind::Capped {
                from,
                cap_remaining,
            } => {
                format!("from {}, {} left", from.as_str(), cap_remaining.0)
            }
            EventKind::Suspended { from, by, .. } => {
                let by = if by.is_some() { " by staff" } else { "" };
                format!("from {}{by}", from.as_str())
            }
            EventKind::Restored { from, .. } => format!("from {}", from.as_str()),
            EventKind::Charged {
                amount,
                volume,
                balance,
            } => {
                format!("{} {amount} {}", volume.0, or_none(balance))
            }
            EventKind::Invoiced {
                invoice,
                due,
                valid_from,
                valid_to,
                amount,
                volume,
                ..
            } => {
                let invoice = place(invoice);
                format!(
                    "{invoice} {} {amount} due {due} for {valid_from} to {valid_to}",
                    volume.0
                )
            }
            EventKind::Paid { invoice, amount } | EventKind::Overdue { invoice, amount } => {
                format!("{} {amount}", place(invoice))
            }
            EventKind::ToppedUp {
                volume,
                amount,
                from_pool,
            } => {
                format!("{} {} {from_pool}", volume.0, or_none(amount))
            }
            EventKind::Changed { key, .. } => key.clone(),
            EventKind::Lifted { until, .. } => {
                until.map_or("none".to_owned(), |until| until.to_string())
            }
            EventKind::Balance { amount, balance } => format!("{amount} {balance}"),
            _ => String::new(),
        };
        Told {
            time: event.time,
            machine: event.machine.clone(),
            word: event.kind.as_str().to_owned(),
            rule: event.rule.as_ref().map(ToString::to_string),
            used: event.used.0,
            allowance: event.allowance.map(|allowance| allowance.0),
            detail,
        }
    }

    fn shown(&self, id: &MachineId, now: Timestamp) -> Shown {
        let status = self.engine.status(id, now).unwrap();
        let instant = |text: &str| text.parse::<Timestamp>().unwrap();
        Shown {
            state: status.state,
            rule: status.rule.map(|rule| rule.to_string()),
            period: (instant(&status.period.start), instant(&status.period.end)),
            moved: (status.received.0, status.sent.0, status.exempt.0),
            used: status.used.0,
            allowance: status.allowance.map(|allowance| allowance.0),
            flagged: status.flagged,
            rate: status.rate_limit_bits_per_second.map(|rate| rate.0),
            cap_remaining: status.cap_remaining.map(|left| left.0),
            pool_left: status.pool.map(|pool| pool.left.0),
        }
    }

    /// All that can be seen of it, as text.
    fn seen(&self, now: Timestamp) -> String {
        let engine = &self.engine;
        let machines: Vec<_> = self
            .terms
            .machines
            .keys()
            .map(|id| {
                serde_json::json!([
                    engine.status(id, now),
                    engine.explain(id, now),
                    engine.enforcement(id),
                    engine.offer(id, now),
                ])
            })
            .collect();
        let accounts = self.terms.accounts.keys();
        let balances: Vec<_> = accounts.map(|id| engine.balance(id)).collect();
        let invoices = engine.invoices(None);
        serde_json::json!([machines, invoices, balances, engine.deadline()]).to_string()
    }
}

/// The model and three engines, all living through the same.
pub(super) struct Lockstep {
    pub(super) terms: Arc<Terms>,
    pub(super) model: Model,
    steady: Run,
    pub(super) disturbed: Run,
    /// The wall clock, and the latest instant it ever showed.
    wall: Timestamp,
    pub(super) clock: Timestamp,
    guarded: bool,
    acts: usize,
    pub(super) steps: usize,
    pub(super) events: Vec<Event>,
}

impl Lockstep {
    pub(super) fn new(terms: Terms, start: Timestamp, seed: u64) -> Result<Self, String> {
        let terms = Arc::new(terms);
        let mut lockstep = Self {
            model: Model::new((*terms).clone()),
            steady: Run::new(&terms, None),
            disturbed: Run::new(&terms, Some(Lots::new(seed ^ 0x5EED))),
            terms,
            wall: start,
            clock: start,
            guarded: false,
            acts: 0,
            steps: 0,
            events: Vec::new(),
        };
        lockstep.step(start, Observation::default())?;
        Ok(lockstep)
    }

    pub(super) fn months(&self) -> usize {
        self.steady.ledger.closed.len()
    }

    pub(super) fn live(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::Travel { seconds, traffic } => self.travel(*seconds, traffic)?,
            Act::Outage { seconds, traffic } => {
                let (from, to) = (self.wall, self.wall + SignedDuration::from_secs(*seconds));
                let (from, to) = (from.max(self.clock), to.max(self.clock));
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
            }
            Act::Back { seconds, guarded } => {
                self.wall -= SignedDuration::from_secs(*seconds);
                self.guarded = *guarded;
            }
            Act::Say(actions) => {
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
            let sample = |(machine, whole): &(MachineId, Traffic)| {
                let by = |instant| {
                    if from == until {
                        *whole
                    } else {
                        arrived_traffic(*whole, from, until, instant)
                    }
                };
                let (by_then, earlier) = match before == from {
                    true => (by(next), Traffic::ZERO),
                    false => (by(next), by(before)),
                };
                Sample {
                    machine: machine.clone(),
                    from: before.max(self.clock),
                    to: next.max(self.clock),
                    traffic: Traffic {
                        received: by_then.received.saturating_sub(earlier.received),
                        sent: by_then.sent.saturating_sub(earlier.sent),
                        exempt: by_then.exempt.saturating_sub(earlier.exempt),
                    },
                }
            };
            let traffic = traffic.iter().map(sample).collect();
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

    fn step(&mut self, now: Timestamp, observation: Observation) -> Result<(), String> {
        self.steps += 1;
        self.clock = self.clock.max(now);
        let clock = self.clock;
        let steady = self.steady.step(now, clock, observation.clone())?;
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
        self.events.extend(steady);
        Ok(())
    }
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
