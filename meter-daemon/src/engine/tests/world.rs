//! A world of one or more machines that moves traffic, waits and gives commands, with the
//! engine stepped as the daemon steps it: at what is new, and at every deadline.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::build::*;
use crate::engine::{
    Effect, Enforcement, Engine, EngineSettings, Observation, Sample,
    command::{Change, Command, CommandAction, Until},
    event::{Event, EventKind, State},
    plan::{Account, Machine, Plan, Terms},
    record::{Changes, Hours, Kept, KeptMachine, Running},
    span::arrived_traffic,
    status::Status,
    units::*,
};

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) terms: Terms,
    pub(super) settings: EngineSettings,
    pub(super) now: Timestamp,
    pub(super) events: Vec<Event>,
    pub(super) effects: Vec<Effect>,
    pub(super) ledger: Ledger,
    /// Restarts after every step: what is not kept is lost.
    pub(super) restarts: bool,
}

impl World {
    /// One machine `m` under `plan`, of no account.
    pub(super) fn of(plan: Plan, start: &str) -> Self {
        Self::with(vec![machine("m", plan)], Vec::new(), start)
    }

    /// One machine `m` under `plan`, of account `acme`.
    pub(super) fn with_account(plan: Plan, account: Account, start: &str) -> Self {
        let machine = Machine {
            account: Some(account.id.clone()),
            ..machine("m", plan)
        };
        Self::with(vec![machine], vec![account], start)
    }

    pub(super) fn with(machines: Vec<Machine>, accounts: Vec<Account>, start: &str) -> Self {
        Self::from_terms(terms(machines, accounts), EngineSettings::default(), start)
    }

    pub(super) fn from_terms(terms: Terms, settings: EngineSettings, start: &str) -> Self {
        let engine = Engine::new(Arc::new(terms.clone()), Kept::default(), settings).unwrap();
        let mut world = Self {
            engine,
            terms,
            settings,
            now: at(start),
            events: Vec::new(),
            effects: Vec::new(),
            ledger: Ledger::default(),
            restarts: false,
        };
        world.step(Observation::default());
        world
    }

    /// Steps a clone, records, and keeps it, as the daemon does.
    pub(super) fn step(&mut self, observation: Observation) {
        let mut next = self.engine.clone();
        let effects = next.step(self.now, &observation);
        let changes = next.changes_since(&self.engine);
        self.ledger.record(&next, &observation, changes);
        self.engine = next;
        self.note(effects);
        if self.restarts {
            self.restart();
        }
    }

    fn note(&mut self, effects: Vec<Effect>) {
        for effect in &effects {
            if let Effect::Event(event) = effect {
                self.events.push(event.clone());
            }
        }
        self.effects.extend(effects);
    }

    /// Starts again from what the ledger has. The first step, at which the daemon learns what
    /// time it is, finds nothing to do.
    pub(super) fn restart(&mut self) {
        let terms = Arc::new(self.terms.clone());
        self.engine = Engine::new(terms, self.ledger.kept(), self.settings).unwrap();
        let effects = self.engine.step(self.now, &Observation::default());
        assert_eq!(effects, [], "a restart is no event");
    }

    pub(super) fn set_terms(&mut self, terms: Terms) {
        self.terms = terms.clone();
        let mut next = self.engine.clone();
        let effects = next.set_terms(self.now, Arc::new(terms));
        let changes = next.changes_since(&self.engine);
        self.ledger.record(&next, &Observation::default(), changes);
        self.engine = next;
        self.note(effects);
    }

    /// `m` receives so much, evenly from now until then.
    pub(super) fn moves(&mut self, until: &str, bytes: u64) -> &mut Self {
        self.receive(at(until), bytes)
    }

    pub(super) fn receive(&mut self, until: Timestamp, bytes: u64) -> &mut Self {
        let traffic = Traffic {
            received: Bytes(bytes),
            ..Traffic::ZERO
        };
        self.travel(until, &[("m", traffic)])
    }

    /// Moves traffic evenly from now until then, stepping at every deadline between.
    pub(super) fn travel(&mut self, until: Timestamp, traffic: &[(&str, Traffic)]) -> &mut Self {
        let from = self.now;
        loop {
            let deadline = self.engine.deadline().filter(|deadline| *deadline < until);
            let next = deadline.unwrap_or(until);
            let before = self.now;
            let samples = traffic.iter().map(|(machine, whole)| {
                let by = |instant| arrived_traffic(*whole, from, until, instant);
                let (earlier, by_then) = if from == until {
                    (Traffic::ZERO, *whole)
                } else {
                    (by(before), by(next))
                };
                Sample {
                    machine: (*machine).into(),
                    from: before,
                    to: next,
                    traffic: Traffic {
                        received: by_then.received.saturating_sub(earlier.received),
                        sent: by_then.sent.saturating_sub(earlier.sent),
                        exempt: by_then.exempt.saturating_sub(earlier.exempt),
                    },
                }
            });
            let observation = Observation {
                traffic: samples.collect(),
                commands: Vec::new(),
            };
            self.now = next;
            self.step(observation);
            if next >= until {
                return self;
            }
        }
    }

    pub(super) fn wait(&mut self, until: &str) -> &mut Self {
        self.travel(at(until), &[])
    }

    /// `m` receives so much in the next minute.
    pub(super) fn uses(&mut self, bytes: u64) -> &mut Self {
        let until = self.now + SignedDuration::from_mins(1);
        self.receive(until, bytes)
    }

    pub(super) fn says(&mut self, action: CommandAction) -> &mut Self {
        self.step(Observation {
            traffic: Vec::new(),
            commands: vec![Command {
                author: "ops".to_owned(),
                reason: Some("because".to_owned()),
                action,
            }],
        });
        self
    }

    pub(super) fn top_up(&mut self, volume: u64) -> &mut Self {
        self.says(CommandAction::TopUp {
            machine: m(),
            volume: Bytes(volume),
            from_pool: false,
        })
    }

    pub(super) fn hydrate(&mut self, volume: u64) -> &mut Self {
        self.says(CommandAction::TopUp {
            machine: m(),
            volume: Bytes(volume),
            from_pool: true,
        })
    }

    pub(super) fn set(&mut self, change: Change) -> &mut Self {
        self.says(CommandAction::Set {
            machine: m(),
            change,
        })
    }

    pub(super) fn lift(&mut self, until: Option<Until>) -> &mut Self {
        self.says(CommandAction::Lift {
            machine: Some(m()),
            until,
        })
    }

    pub(super) fn pay(&mut self, invoice: &InvoiceNumber) -> &mut Self {
        self.says(CommandAction::Pay {
            invoice: invoice.clone(),
        })
    }

    pub(super) fn status(&self) -> Status {
        self.engine.status(&m(), self.now).unwrap()
    }

    pub(super) fn state(&self) -> State {
        self.status().state
    }

    pub(super) fn enforcement(&self) -> Enforcement {
        self.engine.enforcement(&m())
    }

    /// Events of that word.
    pub(super) fn told(&self, word: &str) -> Vec<&Event> {
        self.events
            .iter()
            .filter(|event| event.kind.as_str() == word)
            .collect()
    }

    /// Their times.
    pub(super) fn times(&self, word: &str) -> Vec<String> {
        let told = self.told(word);
        told.iter().map(|event| event.time.to_string()).collect()
    }

    /// The rules that gave notice, in order.
    pub(super) fn notices(&self) -> Vec<String> {
        self.told("notice")
            .iter()
            .map(|event| event.rule.as_ref().unwrap().to_string())
            .collect()
    }

    /// The words of all events, in order.
    pub(super) fn words(&self) -> Vec<&'static str> {
        self.events
            .iter()
            .map(|event| event.kind.as_str())
            .collect()
    }

    pub(super) fn forget_events(&mut self) -> &mut Self {
        self.events.clear();
        self.effects.clear();
        self
    }

    /// The amounts of `charged`, added up.
    pub(super) fn charged(&self) -> rust_decimal::Decimal {
        let amount = |event: &Event| match &event.kind {
            EventKind::Charged { amount, .. } => Some(amount.amount),
            _ => None,
        };
        self.events.iter().filter_map(amount).sum()
    }

    pub(super) fn last_bill(&self) -> InvoiceNumber {
        self.engine.invoices(None).last().unwrap().invoice.clone()
    }
}

pub(super) fn m() -> MachineId {
    "m".into()
}

const KEPT_HOURS: SignedDuration = SignedDuration::from_hours(80);

/// What the ledger would keep, and give back at a start.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    machines: BTreeMap<MachineId, (String, Running)>,
    accounts: BTreeMap<AccountId, String>,
    node: Option<String>,
    pub(super) closed: Vec<(MachineId, Running)>,
    hours: BTreeMap<(MachineId, Timestamp), Traffic>,
}

impl Ledger {
    pub(super) fn record(&mut self, engine: &Engine, observation: &Observation, changes: Changes) {
        for change in changes.machines {
            let known = self.machines.remove(&change.machine);
            let state = change.state.or(known.map(|(state, _)| state));
            let state = state.expect("a machine is written whole the first time");
            self.machines
                .insert(change.machine, (state, change.running));
        }
        self.accounts.extend(changes.accounts);
        self.node = changes.node.or(self.node.take());
        self.closed.extend(changes.closed);
        for sample in &observation.traffic {
            self.roll_up(engine, sample);
        }
    }

    /// By hours of the machine's zone, minute for minute.
    fn roll_up(&mut self, engine: &Engine, sample: &Sample) {
        let Some(zone) = engine.zone(&sample.machine) else {
            return;
        };
        if sample.traffic.is_zero() {
            return;
        }
        // Nobody asks for hours before those that `kept` gives back.
        let oldest = sample.from.max(sample.to - KEPT_HOURS);
        let before = arrived_traffic(sample.traffic, sample.from, sample.to, oldest);
        let (mut cut, mut before) = match oldest > sample.from {
            true => (oldest, before),
            false => (sample.from, Traffic::ZERO),
        };
        loop {
            let offset = i64::from(zone.to_offset(cut).seconds());
            let second = cut.as_second();
            let start = second - (second + offset).rem_euclid(3_600);
            let end = Timestamp::from_second(start + 3_600)
                .unwrap()
                .min(sample.to);
            let by_then = arrived_traffic(sample.traffic, sample.from, sample.to, end);
            let key = (
                sample.machine.clone(),
                Timestamp::from_second(start).unwrap(),
            );
            *self.hours.entry(key).or_default() += Traffic {
                received: by_then.received.saturating_sub(before.received),
                sent: by_then.sent.saturating_sub(before.sent),
                exempt: by_then.exempt.saturating_sub(before.exempt),
            };
            if end >= sample.to {
                return;
            }
            (cut, before) = (end, by_then);
        }
    }

    /// All but the hours, for comparing two runs of one history.
    pub(super) fn states(&self) -> impl PartialEq + '_ {
        (&self.machines, &self.accounts, &self.node, &self.closed)
    }

    pub(super) fn kept(&self) -> Kept {
        let machines = self.machines.iter().map(|(machine, (state, running))| {
            let oldest = running.measured_to - KEPT_HOURS;
            let span = (machine.clone(), oldest)..=(machine.clone(), Timestamp::MAX);
            let hours = self.hours.range(span);
            let hours = hours.filter(|(_, traffic)| !traffic.is_zero());
            let mut recent = Hours::default();
            for ((_, start), traffic) in hours {
                recent.push(*start, *start + SignedDuration::from_hours(1), traffic);
            }
            KeptMachine {
                machine: machine.clone(),
                state: state.clone(),
                running: *running,
                recent,
            }
        });
        Kept {
            machines: machines.collect(),
            accounts: self.accounts.clone().into_iter().collect(),
            node: self.node.clone(),
        }
    }
}
