//! One engine with its ledger, run as the daemon runs it, with or without restarts.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    super::{
        reference::{Shown, Told},
        world::Ledger,
    },
    lots::Lots,
};
use crate::engine::{
    Effect, Engine, EngineSettings, Observation,
    command::CommandAction,
    event::{Event, EventKind},
    plan::Terms,
    record::Kept,
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
    pub(super) fn new(terms: &Arc<Terms>, restarts: Option<Lots>) -> Self {
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

    pub(super) fn step(
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
    pub(super) fn told(&self, event: &Event) -> Told {
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
            EventKind::Paid { invoice, amount }
            | EventKind::Lapsed { invoice, amount }
            | EventKind::Overdue { invoice, amount } => {
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

    pub(super) fn shown(&self, id: &MachineId, now: Timestamp) -> Shown {
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
            cancellable: status.cancellable,
        }
    }

    /// All that can be seen of it, as text.
    pub(super) fn seen(&self, now: Timestamp) -> String {
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
