//! What the specification says a history comes to, worked out the slow way: an independent
//! model of the engine, for the seeded simulation to compare it with.
//!
//! It was written from the specification, not from the engine, and shares with it the words of
//! the plan language and nothing that computes. A machine has a diary of all that ever happened
//! to it, and every figure is worked out anew from the diary's pages each time it is wanted:
//! sums are added up from the first byte of the period, how long a trigger has held is found by
//! leafing back. Nothing is carried along that could be carried wrongly.
//!
//! Left out: the circuit breaker, dry runs, `enforce = false`, reloads of the configuration,
//! `cancel`, boundaries for the kernel, the texts of notices and their offers, bills' numbers,
//! and the order of what happens to a machine in one instant, its states apart. Every rule of a plan has a name of its own, and a node has one currency.

mod calendar;
mod diary;
mod figures;
mod look;
mod orders;
mod sums;

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};

use self::diary::{Diary, Fact};
pub(super) use self::{calendar::Span, sums::Exact};
use crate::engine::{
    Observation, Sample,
    event::State,
    plan::Terms,
    units::{AccountId, Currency, MachineId, Money},
};

/// Something that happened, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Told {
    pub(super) time: Timestamp,
    pub(super) machine: Option<MachineId>,
    pub(super) word: String,
    pub(super) rule: Option<String>,
    pub(super) used: u64,
    pub(super) allowance: Option<u64>,
    pub(super) detail: String,
}

/// A bill.
#[derive(Clone, Debug)]
pub(super) struct Bill {
    pub(super) machine: MachineId,
    /// For volume that was ordered; else for what was used.
    pub(super) extra: bool,
    /// When it is due; an order lapses then, or with the period that it is for.
    pub(super) due: Timestamp,
    pub(super) volume: u64,
    pub(super) amount: Money,
    pub(super) paid: Option<Timestamp>,
    /// An order that was given up, or what is owed and late: it was said.
    done_for: bool,
}

/// What `status` should show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) state: State,
    pub(super) rule: Option<String>,
    pub(super) period: (Timestamp, Timestamp),
    pub(super) moved: (u64, u64, u64),
    pub(super) used: u64,
    pub(super) allowance: Option<u64>,
    pub(super) flagged: bool,
    pub(super) rate: Option<u64>,
    pub(super) cap_remaining: Option<u64>,
    pub(super) pool_left: Option<u64>,
    pub(super) cancellable: bool,
}

/// The model of a node.
#[derive(Clone, Debug)]
pub(super) struct Model {
    terms: Terms,
    clock: Timestamp,
    diaries: BTreeMap<MachineId, Diary>,
    pub(super) bills: Vec<Bill>,
    /// All money that ever moved, with the account and its sign.
    postings: Vec<(AccountId, Money)>,
    /// All volume that was ever taken from a pool.
    taken: Vec<(AccountId, u64)>,
    pub(super) told: Vec<Told>,
}

impl Model {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            clock: Timestamp::MIN,
            diaries: BTreeMap::new(),
            bills: Vec::new(),
            postings: Vec::new(),
            taken: Vec::new(),
            told: Vec::new(),
        }
    }

    /// What came at that instant: bytes, then what time brings, then commands. The engine's
    /// time does not run backwards.
    pub(super) fn step(&mut self, now: Timestamp, observation: &Observation) {
        self.clock = self.clock.max(now);
        let now = self.clock;
        let ids: Vec<MachineId> = self.terms.machines.keys().cloned().collect();
        for id in &ids {
            if !self.diaries.contains_key(id) {
                let (anchor, zone) = self.anchor(id);
                let span = Span::containing(now, anchor, &zone);
                self.diaries.insert(id.clone(), Diary::default());
                self.begin(id, span, zone, now);
            }
        }
        let traffic = &observation.traffic;
        let mut taken: BTreeMap<MachineId, Timestamp> = BTreeMap::new();
        // Boundary after boundary, over all machines.
        while let Some(boundary) = self.diaries.values().map(|diary| diary.period().end).min()
            && boundary <= now
        {
            let ending = |id: &&MachineId| self.diaries[*id].period().end == boundary;
            let ending: Vec<&MachineId> = ids.iter().filter(ending).collect();
            for id in ending {
                let from = taken.insert(id.clone(), boundary);
                self.arrive(id, traffic, from, Some(boundary), boundary);
                self.look(id, boundary, true);
                self.close(id, boundary);
                self.end_overrides(id, boundary);
                let (anchor, zone) = self.anchor(id);
                let before = self.diaries[id].zone().clone();
                let span = Span::following(boundary, anchor, &before, &zone);
                self.begin(id, span, zone, boundary);
                self.look(id, boundary, false);
            }
        }
        for id in &ids {
            self.arrive(id, traffic, taken.get(id).copied(), None, now);
            self.look(id, now, false);
        }
        for command in &observation.commands {
            self.obey(command, now);
            for id in &ids {
                self.look(id, now, false);
            }
        }
    }

    /// The day on which the machine's next period begins, and the zone it is counted in.
    fn anchor(&self, id: &MachineId) -> (u8, TimeZone) {
        let machine = &self.terms.machines[id];
        let diary = self.diaries.get(id);
        let settings = diary.map(Diary::settings).unwrap_or_default();
        let plan = settings.plan(machine, &self.terms);
        let renewal = settings.renewal_day.or(machine.renewal_day);
        let anchor = calendar::anchor(plan.as_deref(), renewal);
        let of_plan = plan.and_then(|plan| plan.time_zone.clone());
        let zone = machine.time_zone.clone().or(of_plan);
        (anchor, zone.unwrap_or_else(|| machine.node_zone.clone()))
    }

    fn begin(&mut self, id: &MachineId, span: Span, zone: TimeZone, at: Timestamp) {
        let rolled = self.rolled(id);
        let diary = self.diaries.get_mut(id).unwrap();
        diary.note(Fact::Began { span, zone });
        if rolled > 0 {
            diary.note(Fact::Granted(rolled));
            diary.note(Fact::Rolled(rolled));
        }
        self.tell(
            id,
            at,
            "period-started",
            None,
            format!("{} to {}", span.start, span.end),
        );
    }

    /// Bytes of the samples that arrived after `from` and up to `until`, split by time.
    fn arrive(
        &mut self,
        id: &MachineId,
        samples: &[Sample],
        from: Option<Timestamp>,
        until: Option<Timestamp>,
        at: Timestamp,
    ) {
        for sample in samples.iter().filter(|sample| sample.machine == *id) {
            let part = |bytes: u64| {
                let by = |instant: Option<Timestamp>, none: u64| {
                    instant.map_or(none, |instant| {
                        let span = (sample.from, sample.to);
                        calendar::arrived(bytes, span, instant)
                    })
                };
                by(until, bytes) - by(from, 0)
            };
            let traffic = sample.traffic;
            let fact = Fact::Arrived {
                span: (
                    from.map_or(sample.from, |from| from.max(sample.from)),
                    at.min(sample.to),
                ),
                received: part(traffic.received.0),
                sent: part(traffic.sent.0),
                exempt: part(traffic.exempt.0),
                counts: self.direction(id),
            };
            self.diaries.get_mut(id).unwrap().note(fact);
        }
    }

    /// The next instant at which something happens though nothing new comes.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.diaries.keys().filter_map(|id| self.next(id)).min()
    }

    pub(super) fn shown(&self, id: &MachineId) -> Shown {
        let diary = &self.diaries[id];
        let standing = diary.standing();
        let span = diary.period();
        let (received, sent, exempt) = diary.moved();
        let machine = &self.terms.machines[id];
        let owed = |bill: &Bill| bill.machine == *id && !bill.extra && bill.paid.is_none();
        let pool_left = machine
            .account
            .as_ref()
            .and_then(|account| self.pool_left(account));
        Shown {
            state: standing.state,
            rule: standing.rule.as_ref().map(ToString::to_string),
            period: (span.start, span.end),
            moved: (received, sent, exempt),
            used: self.used(id),
            allowance: self.allowance(id),
            flagged: diary.flagged(),
            rate: standing.rate(),
            cap_remaining: self.cap_remaining(id),
            pool_left,
            cancellable: !self.bills.iter().any(owed),
        }
    }

    pub(super) fn balance(&self, account: &AccountId) -> Option<Money> {
        let configured = self.terms.accounts.get(account)?;
        let currency = configured.currency?;
        let opening = configured
            .opening_balance
            .map_or(Exact::ZERO, |money| Exact::of(money.amount));
        let moved = self.postings.iter().filter(|(whose, _)| whose == account);
        let sum = moved.fold(opening, |sum, (_, money)| sum + Exact::of(money.amount));
        Some(sum.rounded(currency))
    }

    /// The volumes at which a rule's trigger reaches its figure.
    pub(super) fn marks(&self, id: &MachineId) -> Vec<u64> {
        let look = self.diaries[id].last_look();
        let rules = look.into_iter().flat_map(|look| &look.rules);
        rules
            .filter_map(|seen| self.mark(id, seen.rule.trigger, self.clock))
            .collect()
    }

    fn pool_left(&self, account: &AccountId) -> Option<u64> {
        let size = self.terms.accounts.get(account)?.pool?.0;
        let taken = self.taken.iter().filter(|(whose, _)| whose == account);
        Some(size.saturating_sub(taken.map(|(_, volume)| volume).sum()))
    }

    /// Moves money, where the machine has an account that keeps it in this currency.
    fn post(&mut self, account: Option<&AccountId>, money: Money) -> Option<Money> {
        let account = account?;
        let currency: Currency = self.terms.accounts.get(account)?.currency?;
        if currency != money.currency {
            return None;
        }
        self.postings.push((account.clone(), money));
        self.balance(account)
    }

    fn tell(
        &mut self,
        id: &MachineId,
        time: Timestamp,
        word: &str,
        rule: Option<String>,
        detail: String,
    ) {
        let told = Told {
            time,
            machine: Some(id.clone()),
            word: word.to_owned(),
            rule,
            used: self.used(id),
            allowance: self.allowance(id),
            detail,
        };
        self.told.push(told);
    }
}
