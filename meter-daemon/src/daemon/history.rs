//! Bringing a machine's history in from elsewhere, and forgetting one.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    answers::{cannot_record, unreadable},
    apply::Which,
    known::Known,
    node::Node,
    open::Failure,
    records,
};
use crate::{
    api::{Import, Problem},
    config::Config,
    engine::{
        Effect, Engine, Observation, Sample,
        span::arrived_traffic,
        units::{InvoiceNumber, MachineId, Traffic},
        unpaid_in,
    },
    host::clock,
    ledger::{self, Batch, CommandRecord, EventRecord, Holdings, Ledger, Seed},
};

/// What is said of a command that brings something in or forgets it.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) author: String,
    pub(super) reason: Option<String>,
    pub(super) key: Option<String>,
    pub(super) dry_run: bool,
}

impl Node {
    /// Takes usage in that was measured elsewhere: into the history, and what is of the
    /// running period into what the plan counts.
    pub(super) async fn import(&mut self, import: Import, said: Said) -> Result<Value, Problem> {
        let Import {
            machine,
            rows,
            source,
        } = import;
        let seed = Seed {
            zone: self.config.time_zone.clone(),
            machine,
            rows,
            source,
            author: said.author.clone(),
        };
        let request = format!(
            "import {} {} {:?}",
            seed.machine,
            seed.digest(),
            said.reason
        );
        if let Some(answer) = self.answered(said.key.as_deref(), &request)? {
            return Ok(answer);
        }
        self.freshen().await.map_err(cannot_record)?;
        let now = self.now();
        let (seed, mut next, mut effects) = self.prepare_import(now, seed)?;
        let counted = of_running_period(&next, &seed);
        effects.extend(next.step(
            now,
            &Observation {
                traffic: counted.clone(),
                commands: Vec::new(),
            },
        ));
        let in_period: Traffic = counted.iter().map(|sample| sample.traffic).sum();
        let imported = imported(now, &seed, in_period, said.reason.as_deref());
        let answer = answer(said.dry_run, &imported, &effects);
        if said.dry_run {
            return Ok(answer);
        }
        let mut batch = self.batch(now, &next, &effects);
        // First what was brought in, then what followed from it.
        batch.events.insert(self.pending.len(), imported);
        batch.commands.extend(said.key.map(|key| CommandRecord {
            key,
            request,
            status: 200,
            answer: answer.to_string(),
        }));
        let retention = self.retention();
        self.commit_by(&batch, next, |ledger, batch| {
            ledger.seed(batch, &seed, &retention)
        })
        .map_err(|error| cannot_record(error.into()))?;
        self.arm_and_apply(Which::Changed).await;
        Ok(answer)
    }

    /// The seed in the machine's own zone, and the engine as of now; or why not.
    fn prepare_import(
        &mut self,
        now: Timestamp,
        seed: Seed,
    ) -> Result<(Seed, Engine, Vec<Effect>), Problem> {
        let machine = &seed.machine;
        if !self.engine.machines().any(|known| known == machine) {
            return Err(Problem::new(
                404,
                "no such machine",
                format!(
                    "there is no machine `{machine}` that is metered; configure it first, then \
                     bring its usage in"
                ),
            ));
        }
        if let Some(row) = seed.rows.iter().find(|row| row.to > now) {
            return Err(Problem::new(
                422,
                "not a valid request",
                format!("the row up to {} ends in the future", row.to),
            ));
        }
        let refused = self
            .reader
            .refuses(&seed)
            .map_err(|error| unreadable(&error))?;
        if let Some(why) = refused {
            return Err(Problem::new(409, "refused", why));
        }
        let mut next = self.engine.clone();
        let effects = next.step(now, &Observation::default());
        let zone = next.zone(machine).unwrap_or(&seed.zone).clone();
        Ok((Seed { zone, ..seed }, next, effects))
    }

    /// Forgets a machine that is neither configured nor here.
    pub(super) async fn forget(
        &mut self,
        machine: &MachineId,
        said: Said,
    ) -> Result<Value, Problem> {
        let request = format!("forget {machine} {:?}", said.reason);
        if let Some(answer) = self.answered(said.key.as_deref(), &request)? {
            return Ok(answer);
        }
        self.freshen().await.map_err(cannot_record)?;
        let holdings = self
            .reader
            .holdings(machine)
            .map_err(|error| unreadable(&error))?;
        let here = self
            .interfaces
            .claims()
            .any(|(_, claim)| claim.machine == *machine);
        let now = self.now();
        let holdings = forgettable(machine, holdings, &self.config, here, &|_| {
            self.engine.unpaid(machine, now)
        })?;
        let mut next = self.engine.clone();
        let known = self.known.without(machine);
        let terms = known.terms(&self.interfaces, &self.config);
        let mut effects = next.set_terms(now, terms.into());
        next.forget(machine);
        effects.retain(|effect| !concerns(effect, machine));
        let forgotten = forgotten(now, machine, &holdings, &said);
        let answer = answer(said.dry_run, &forgotten, &effects);
        if said.dry_run {
            return Ok(answer);
        }
        let mut batch = self.batch(now, &next, &effects);
        batch.events.push(forgotten);
        batch.notes.push(Known::note_without(machine));
        batch.commands.extend(said.key.map(|key| CommandRecord {
            key,
            request,
            status: 200,
            answer: answer.to_string(),
        }));
        self.commit_by(&batch, next, |ledger, batch| ledger.forget(batch, machine))
            .map_err(|error| cannot_record(error.into()))?;
        Ok(answer)
    }
}

/// What of the seed arrived in the machine's running period.
fn of_running_period(engine: &Engine, seed: &Seed) -> Vec<Sample> {
    let Some(start) = engine
        .running(&seed.machine)
        .map(|running| running.period_start)
    else {
        return Vec::new();
    };
    let within = seed.rows.iter().filter(|row| row.to > start);
    within
        .map(|row| {
            let before = arrived_traffic(row.traffic(), row.from, row.to, start);
            Sample {
                machine: seed.machine.clone(),
                from: row.from.max(start),
                to: row.to,
                traffic: Traffic {
                    received: row.received.saturating_sub(before.received),
                    sent: row.sent.saturating_sub(before.sent),
                    ..Traffic::ZERO
                },
            }
        })
        .collect()
}

fn imported(now: Timestamp, seed: &Seed, in_period: Traffic, reason: Option<&str>) -> EventRecord {
    let all = seed.traffic();
    let (from, to) = seed.span().unwrap_or((now, now));
    records::host_event(
        now,
        "imported",
        Some(&seed.machine),
        json!({
            "rows": seed.rows.len(), "from": from, "to": to,
            "received": all.received, "sent": all.sent,
            "in_period": in_period.received + in_period.sent,
            "source": seed.source, "by": seed.author, "reason": reason,
        }),
    )
}

fn forgotten(now: Timestamp, machine: &MachineId, holdings: &Holdings, said: &Said) -> EventRecord {
    let mut fields = json!(holdings);
    if let Value::Object(fields) = &mut fields {
        fields.insert("by".into(), json!(said.author));
        fields.insert("reason".into(), json!(said.reason));
    }
    records::host_event(now, "forgotten", Some(machine), fields)
}

fn answer(dry_run: bool, event: &EventRecord, effects: &[Effect]) -> Value {
    let engine = effects.iter().filter_map(|effect| match effect {
        Effect::Event(event) => Some(json!(event)),
        Effect::Enforce(..) => None,
    });
    let events: Vec<Value> = std::iter::once(event.body.clone()).chain(engine).collect();
    json!({ "dry_run": dry_run, "events": events })
}

fn concerns(effect: &Effect, machine: &MachineId) -> bool {
    match effect {
        Effect::Event(event) => event.machine.as_ref() == Some(machine),
        Effect::Enforce(of, _) => of == machine,
    }
}

/// What there is of a machine that may be forgotten; or why it may not.
fn forgettable(
    machine: &MachineId,
    holdings: Option<Holdings>,
    config: &Config,
    here: bool,
    unpaid: &dyn Fn(&Holdings) -> Vec<InvoiceNumber>,
) -> Result<Holdings, Problem> {
    let Some(holdings) = holdings else {
        return Err(Problem::new(
            404,
            "no such machine",
            format!("nothing is known of a machine `{machine}`"),
        ));
    };
    let refused = |why: String| Err(Problem::new(409, "refused", why));
    if config.is_configured(machine) {
        return refused(format!(
            "{machine} is configured; take it out of the files and `meterd reload`, then forget it"
        ));
    }
    if here || holdings.slots > 0 {
        return refused(format!(
            "{machine} has interfaces on this node, or had when the daemon last looked; forget it \
             once they are gone"
        ));
    }
    let unpaid = unpaid(&holdings);
    if !unpaid.is_empty() {
        let numbers: Vec<String> = unpaid.iter().map(ToString::to_string).collect();
        return refused(format!(
            "{machine} has unpaid bills ({}); `meterd pay` them first",
            numbers.join(", ")
        ));
    }
    Ok(holdings)
}

/// `meterd forget` without a daemon: also of a machine whose state keeps one from starting.
///
/// # Errors
/// With the exit status that says why not.
pub fn forget(
    config_path: &Path,
    machine: &MachineId,
    author: &str,
    reason: Option<&str>,
    dry_run: bool,
) -> Result<Result<Value, Problem>, Failure> {
    let config = Config::load(config_path)?;
    let lock = ledger::lock(&config.state_directory)?;
    let (mut ledger, remembered) = Ledger::open(&config.state_directory)?;
    let holdings = ledger.reader()?.holdings(machine)?;
    let now = clock::now().wall;
    let unpaid = |holdings: &Holdings| {
        let state = holdings.state.as_deref().unwrap_or_default();
        unpaid_in(state, now)
    };
    let holdings = match forgettable(machine, holdings, &config, false, &unpaid) {
        Ok(holdings) => holdings,
        Err(problem) => return Ok(Err(problem)),
    };
    let said = Said {
        author: author.to_owned(),
        reason: reason.map(str::to_owned),
        key: None,
        dry_run,
    };
    let event = forgotten(now, machine, &holdings, &said);
    let answer = answer(dry_run, &event, &[]);
    if !dry_run {
        let batch = Batch {
            events: vec![event],
            notes: vec![Known::note_without(machine)],
            // Not now: what was counted since the last reading is of the time since then.
            ..Batch::empty(remembered.last.unwrap_or(now))
        };
        ledger.forget(&batch, machine)?;
    }
    drop(lock);
    Ok(Ok(answer))
}
