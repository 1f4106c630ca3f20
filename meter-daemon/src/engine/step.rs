//! The engine: one step after the other, each a pure function of what was and what came.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    Effect, Enforcement, EngineSettings, Observation, Sample,
    books::Books,
    desk::Desk,
    effective::{Effective, Settings},
    event::State,
    machine::Machine,
    plan::{Plan, Terms},
    record::Running,
    standing::{may_hit, would_hit},
    units::{Bytes, MachineId},
};

/// All machines in order of id, each shared with a clone of the engine until it changes.
pub(crate) type Machines = BTreeMap<MachineId, Arc<Machine>>;

/// Decides for all machines of a node.
///
/// A clone is cheap: the daemon steps a clone, records what it says, and then keeps it.
#[derive(Debug)]
pub struct Engine {
    pub(crate) terms: Arc<Terms>,
    pub(crate) settings: EngineSettings,
    pub(crate) machines: Arc<Machines>,
    pub(crate) books: Arc<Books>,
    /// The engine's time: it never goes back.
    pub(crate) clock: Timestamp,
    /// Whether the terms name machines or accounts that were never seen.
    pub(crate) unseen: bool,
    /// The earliest instant at which some machine must be judged, as of the last step.
    pub(crate) wake: Option<Timestamp>,
    /// How many periods were closed, ever, and those since this engine was made or cloned.
    pub(crate) closings: usize,
    pub(crate) closed: Vec<(MachineId, Running)>,
}

impl Clone for Engine {
    fn clone(&self) -> Self {
        Self {
            terms: Arc::clone(&self.terms),
            settings: self.settings,
            machines: Arc::clone(&self.machines),
            books: Arc::clone(&self.books),
            clock: self.clock,
            unseen: self.unseen,
            wake: self.wake,
            closings: self.closings,
            // What closed before is the original's to tell: the list would grow for ever.
            closed: Vec::new(),
        }
    }
}

impl Engine {
    /// Other terms: machines appear, change and go. What is known of them stays.
    pub fn set_terms(&mut self, now: Timestamp, terms: Arc<Terms>) -> Vec<Effect> {
        self.terms = terms;
        self.unseen = true;
        let machines = Arc::make_mut(&mut self.machines);
        for (id, machine) in machines.iter_mut() {
            let configured = self.terms.machines.get(id);
            let present = configured.is_some();
            if present != machine.present {
                Arc::make_mut(machine).come_or_go(present);
            }
            let Some(configured) = configured else {
                continue;
            };
            let terms = Effective::resolve(configured, &machine.record.settings, &self.terms);
            if *machine.terms != terms {
                Arc::make_mut(machine).retarget(terms);
            }
        }
        self.step(now, &Observation::default())
    }

    /// Takes in what is new and says what follows. The traffic comes first, then what time
    /// brings, then the commands in their order. Called with nothing new, it looks at the time.
    pub fn step(&mut self, now: Timestamp, observation: &Observation) -> Vec<Effect> {
        // A clock that was set back: time stands still until it is caught up.
        let now = now.max(self.clock);
        self.clock = now;
        let terms = Arc::clone(&self.terms);
        let mut desk = Desk {
            terms: &terms,
            settings: self.settings,
            books: &mut self.books,
            effects: Vec::new(),
            closed: Vec::new(),
        };
        let mut step = Step {
            now,
            machines: &mut self.machines,
            arrivals: Arrivals::of(&observation.traffic),
            taken: BTreeMap::new(),
            why: None,
        };
        if self.unseen {
            step.meet(&mut desk);
            self.unseen = false;
        }
        step.turn_periods(&mut desk);
        step.take_in(&mut desk);
        for command in &observation.commands {
            step.obey(command, &mut desk);
        }
        let Desk {
            effects, closed, ..
        } = desk;
        self.closings += closed.len();
        self.closed.extend(closed);
        self.wake = earliest(&self.machines);
        effects
    }

    /// The earliest instant at which a step must run though nothing new came.
    #[must_use]
    pub const fn deadline(&self) -> Option<Timestamp> {
        self.wake
    }

    /// Every machine that is configured or was discovered, and is not cancelled.
    pub fn machines(&self) -> impl Iterator<Item = &MachineId> {
        self.machines
            .values()
            .filter(|machine| machine.is_live())
            .map(|machine| &machine.id)
    }

    /// What the machine's packets should see now: a level, to be compared with what they see.
    #[must_use]
    pub fn enforcement(&self, machine: &MachineId) -> Enforcement {
        match self.machines.get(machine) {
            Some(machine) if !self.settings.dry_run && machine.is_live() => machine.enforcement(),
            _ => Enforcement::None,
        }
    }

    /// Those of whose packets not everything passes: see [`Engine::enforcement`].
    pub fn restrained(&self) -> impl Iterator<Item = (&MachineId, Enforcement)> {
        let all = (!self.settings.dry_run).then(|| self.machines.values());
        all.into_iter()
            .flatten()
            .filter(|machine| machine.is_live())
            .map(|machine| (&machine.id, machine.enforcement()))
            .filter(|(_, enforcement)| *enforcement != Enforcement::None)
    }

    /// The plan in force for the machine.
    #[must_use]
    pub fn plan(&self, machine: &MachineId) -> Option<&Plan> {
        let machine = self.machines.get(machine)?;
        machine.terms.plan.as_deref()
    }

    /// The zone of the machine's running period: its hours, days and months are counted there.
    #[must_use]
    pub fn zone(&self, machine: &MachineId) -> Option<&TimeZone> {
        let machine = self.machines.get(machine)?;
        Some(&machine.record.zone)
    }
}

/// Reckoned once a step: the loop asks for it at each of its turns.
pub(crate) fn earliest(machines: &Machines) -> Option<Timestamp> {
    machines.values().filter_map(|machine| machine.wake).min()
}

/// The traffic of a step, by machine.
struct Arrivals<'a>(Vec<&'a Sample>);

impl<'a> Arrivals<'a> {
    fn of(samples: &'a [Sample]) -> Self {
        let mut sorted: Vec<_> = samples
            .iter()
            .filter(|sample| !sample.traffic.is_zero())
            .collect();
        sorted.sort_by(|one, other| one.machine.cmp(&other.machine));
        Self(sorted)
    }

    fn to(&self, machine: &MachineId) -> &[&'a Sample] {
        let start = self.0.partition_point(|sample| sample.machine < *machine);
        let end = self.0.partition_point(|sample| sample.machine <= *machine);
        &self.0[start..end]
    }
}

/// A step in progress.
pub(crate) struct Step<'a> {
    pub(crate) now: Timestamp,
    pub(crate) machines: &'a mut Arc<Machines>,
    arrivals: Arrivals<'a>,
    /// Up to when a machine's traffic was already taken in, where a boundary divided it.
    taken: BTreeMap<MachineId, Timestamp>,
    /// What happened, for a machine that is restored by it; `None`: usage or time.
    pub(crate) why: Option<String>,
}

impl Step<'_> {
    /// Sees machines and accounts for the first time.
    fn meet(&mut self, desk: &mut Desk<'_>) {
        Books::open(desk.books, desk.terms, self.now);
        for (id, configured) in &desk.terms.machines {
            if self.machines.contains_key(id) {
                continue;
            }
            let terms = Effective::resolve(configured, &Settings::new(), desk.terms);
            let machine = Machine::appear(id.clone(), terms, self.now);
            machine.tell_period(self.now, desk);
            Arc::make_mut(self.machines).insert(id.clone(), Arc::new(machine));
        }
    }

    /// Turns every period that has ended, in the order of time and each once: judged with its
    /// last byte, closed, and the next one begun.
    fn turn_periods(&mut self, desk: &mut Desk<'_>) {
        let mut ends: BTreeMap<Timestamp, Vec<MachineId>> = BTreeMap::new();
        for machine in self.machines.values().filter(|machine| machine.is_live()) {
            let end = machine.running.period_end;
            if end <= self.now {
                ends.entry(end).or_default().push(machine.id.clone());
            }
        }
        while let Some((boundary, ids)) = ends.pop_first() {
            for id in &ids {
                self.take_in_until(id, boundary, desk);
            }
            self.settle(&ids, boundary, desk);
            for id in &ids {
                if let Some(machine) = machine_mut(self.machines, id) {
                    machine.close(boundary, desk);
                    machine.begin_next(desk);
                    machine.judge(boundary, Bytes::ZERO, desk);
                    machine.wake = machine.next_wake(boundary);
                    let end = machine.running.period_end;
                    if end <= self.now && end > boundary {
                        ends.entry(end).or_default().push(id.clone());
                    }
                }
            }
            self.why = Some("a new period began".to_owned());
            self.settle(&ids, boundary, desk);
            self.why = None;
        }
    }

    /// Takes in what arrived until then, and judges the machine at that instant.
    fn take_in_until(&mut self, id: &MachineId, until: Timestamp, desk: &mut Desk<'_>) {
        let samples = self.arrivals.to(id);
        let since = self.taken.insert(id.clone(), until);
        if let Some(machine) = machine_mut(self.machines, id) {
            let moved = machine.accrue(samples, since, until);
            machine.judge(until, moved, desk);
        }
    }

    /// Takes in all that is left, and judges every machine that has new traffic or whose time
    /// has come.
    fn take_in(&mut self, desk: &mut Desk<'_>) {
        let now = self.now;
        let mut arrivals = self.arrivals.0.iter().peekable();
        let mut touched = Vec::new();
        for machine in self.machines.values() {
            // Both are in order of id: no search for each of ten thousand.
            while arrivals
                .next_if(|sample| sample.machine < machine.id)
                .is_some()
            {}
            let moved = arrivals
                .peek()
                .is_some_and(|sample| sample.machine == machine.id);
            let due = machine.is_live()
                && (machine.stale
                    || machine.terms.forecasts
                    || machine.wake.is_some_and(|wake| wake <= now));
            if moved || due {
                touched.push(machine.id.clone());
            }
        }
        if touched.is_empty() && desk.books.node.held.is_empty() {
            return;
        }
        let mut unsettled = Vec::new();
        if !touched.is_empty() {
            let mut next = touched.iter().peekable();
            for (id, machine) in Arc::make_mut(self.machines).iter_mut() {
                if next.next_if_eq(&id).is_none() {
                    continue;
                }
                let machine = Arc::make_mut(machine);
                let samples = self.arrivals.to(id);
                let since = self.taken.get(id).copied();
                // All that is left, whatever the wall clock says of its span.
                let moved = machine.accrue(samples, since, Timestamp::MAX);
                machine.judge(now, moved, desk);
                machine.wake = machine.next_wake(now);
                if machine.wanted() == machine.record.standing.cause {
                    machine.say_enforcement(desk);
                } else {
                    unsettled.push(id.clone());
                }
            }
        }
        self.settle(&unsettled, now, desk);
    }

    /// Lets what rules want stand, on these machines and on those held back: at once what is
    /// milder, and what is harder only if it does not hit too many at a time.
    pub(crate) fn settle(&mut self, ids: &[MachineId], at: Timestamp, desk: &mut Desk<'_>) {
        let held = &desk.books.node.held;
        if ids.is_empty() && held.is_empty() {
            return;
        }
        let concerned: BTreeSet<&MachineId> = ids.iter().chain(held).collect();
        let dry_run = desk.settings.dry_run;
        let hit: BTreeSet<MachineId> = concerned
            .iter()
            .filter(|id| {
                self.machines
                    .get(**id)
                    .is_some_and(|machine| machine.is_live() && would_hit(machine, dry_run))
            })
            .map(|id| (*id).clone())
            .collect();
        let concerned: Vec<MachineId> = concerned.into_iter().cloned().collect();
        let was_held = desk.books.node.held.clone();
        let live = if hit.is_empty() { 0 } else { self.live() };
        let lately = self.hit_lately(at, desk);
        let go_ahead = may_hit(&hit, lately, live, at, desk);
        for id in concerned {
            if go_ahead || !hit.contains(&id) {
                self.stand(&id, at, was_held.contains(&id), desk);
            }
        }
    }

    /// The machines that were hit so lately that it counts as now, and are to stay so.
    fn hit_lately(&self, at: Timestamp, desk: &Desk<'_>) -> BTreeMap<MachineId, Timestamp> {
        let node = &desk.books.node;
        let within = desk.settings.breaker.within;
        let counts = |id: &MachineId, hit: Timestamp| {
            let machine = self.machines.get(id);
            let stands =
                machine.is_some_and(|it| it.is_live() && it.wanted().state() != State::Normal);
            stands && (!node.held.is_empty() || at.duration_since(hit) < within)
        };
        let lately = node.hit.iter().filter(|(id, hit)| counts(id, **hit));
        lately.map(|(id, hit)| (id.clone(), *hit)).collect()
    }

    pub(crate) fn stand(
        &mut self,
        id: &MachineId,
        at: Timestamp,
        was_held: bool,
        desk: &mut Desk<'_>,
    ) {
        let settled = self
            .machines
            .get(id)
            .is_none_or(|machine| machine.wanted() == machine.record.standing.cause);
        if settled {
            return;
        }
        if let Some(machine) = machine_mut(self.machines, id) {
            if was_held {
                machine.begin_cap_now();
            }
            machine.stand(at, self.why.as_deref(), desk);
        }
    }

    fn live(&self) -> usize {
        self.machines
            .values()
            .filter(|machine| machine.is_live())
            .count()
    }
}

pub(crate) fn machine_mut<'a>(
    machines: &'a mut Arc<Machines>,
    id: &MachineId,
) -> Option<&'a mut Machine> {
    // Looked at before the table is copied.
    machines.get(id)?;
    Arc::make_mut(machines).get_mut(id).map(Arc::make_mut)
}

impl Machine {
    /// The terms name it again, or no more.
    fn come_or_go(&mut self, present: bool) {
        self.present = present;
        self.stale = true;
        self.wake = None;
    }
}
