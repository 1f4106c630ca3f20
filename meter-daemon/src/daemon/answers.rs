//! What the loop answers to those who ask. Reading questions read the counters first.

use std::{collections::BTreeMap, path::Path};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::{
    TIDY,
    attach::Wanted,
    figures,
    history::Said,
    node::{CycleError, Node, is_refusal},
    records,
};
use crate::{
    api::{Answer, Ask, Call, Problem, Rows},
    config::{Config, Guest, Hypervisor},
    engine::{
        Effect, Engine,
        command::{Command, CommandAction},
        event::{Event, EventKind},
        status::Status,
        units::MachineId,
    },
    host::{clock, links::Links},
    ledger::{
        CommandRecord, EventFilter, EventRecord, LedgerError, Resolution, SlotRecord, UsageRow,
    },
};

/// Whether the loop goes on after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It does.
    GoOn,
    /// Everything is detached: there is nothing left to do.
    Stop,
}

impl Node {
    /// Answers one question. Whoever no longer waits for it costs nothing.
    pub(crate) async fn answer(&mut self, call: Call, config_path: &Path, links: &Links) -> Then {
        let Call { ask, peer, answer } = call;
        let mut then = Then::GoOn;
        let said = match ask {
            Ask::Status { machine: None } => self.fresh(|node| Ok(node.all_statuses())).await,
            Ask::Status {
                machine: Some(machine),
            } => self.fresh(|node| node.status(&machine)).await,
            Ask::Usage {
                machine,
                by,
                from,
                to,
            } => {
                self.fresh(|node| node.usage_rows(machine, by, from, to))
                    .await
            }
            Ask::Explain { machine } => self.fresh(|node| node.explain(&machine)).await,
            Ask::Offer { machine } => self.fresh(|node| node.offer(&machine)).await,
            Ask::Invoices { account } => {
                self.fresh(|node| {
                    let engine = node.engine.clone();
                    Ok(Rows::new(move || Ok(engine.invoices(account.as_ref()))))
                })
                .await
            }
            Ask::Balance { account } => {
                self.fresh(|node| {
                    let balance = node.engine.balance(&account);
                    balance
                        .map(|balance| json!(balance))
                        .ok_or_else(|| unknown("account", &account))
                })
                .await
            }
            Ask::Events {
                machine,
                since,
                after,
                limit,
            } => {
                self.fresh(|node| {
                    node.events(EventFilter {
                        machine,
                        since,
                        after,
                        limit,
                    })
                })
                .await
            }
            Ask::Command {
                actions,
                reason,
                key,
                dry_run,
            } => {
                let commands = actions
                    .into_iter()
                    .map(|action| Command {
                        author: peer.name.clone(),
                        reason: reason.clone(),
                        action,
                    })
                    .collect();
                self.change(commands, key, dry_run).await.map(Answer::Json)
            }
            Ask::Import {
                import,
                reason,
                key,
                dry_run,
            } => {
                let said = Said {
                    author: peer.name,
                    reason,
                    key,
                    dry_run,
                };
                self.import(import, said).await.map(Answer::Json)
            }
            Ask::Forget {
                machine,
                reason,
                key,
                dry_run,
            } => {
                let said = Said {
                    author: peer.name,
                    reason,
                    key,
                    dry_run,
                };
                self.forget(&machine, said).await.map(Answer::Json)
            }
            Ask::Reload { dry_run, .. } => {
                let reloaded = self.reload_asked(config_path, links, dry_run).await;
                reloaded.map(Answer::Json)
            }
            Ask::Detach { dry_run, .. } => {
                let outcome = self.detach_asked(dry_run).await;
                if outcome.is_ok() && !dry_run {
                    then = Then::Stop;
                }
                outcome.map(Answer::Json)
            }
            Ask::Attach {
                interface,
                machine,
                libvirt,
                reason,
                dry_run,
            } => {
                let wanted = Wanted {
                    interface,
                    machine,
                    guest: libvirt.map(|(id, name)| Guest {
                        hypervisor: Hypervisor::Libvirt,
                        id,
                        name,
                    }),
                    reason,
                };
                let attached = self.attach_asked(&wanted, links, dry_run).await;
                attached.map(|attached| Answer::Json(json!(attached)))
            }
            Ask::Metrics => {
                // A scrape sees the counters as they are now; if they cannot be recorded, it
                // sees that, too.
                let _recorded = self.freshen().await;
                let figures = Box::new(figures::collect(self));
                Ok(Answer::Metrics(figures))
            }
        };
        if matches!(said, Ok(Answer::Rows(_) | Answer::Metrics(_))) {
            self.tidy = Some(clock::now().monotonic + TIDY);
        }
        answer.send(said.unwrap_or_else(Answer::Problem)).ok();
        then
    }

    /// A reading first, so that the answer is of now.
    async fn fresh<T: Into<Answer>>(
        &mut self,
        answer: impl FnOnce(&mut Self) -> Result<T, Problem>,
    ) -> Result<Answer, Problem> {
        self.freshen().await.map_err(cannot_record)?;
        answer(self).map(Into::into)
    }

    fn status(&mut self, machine: &MachineId) -> Result<Value, Problem> {
        let now = self.now();
        let mut ends = Ends::default();
        for record in self.slots_of(machine) {
            self.add_end(record, &mut ends);
        }
        let status = ends.status(&self.engine, machine, now);
        let status = status.ok_or_else(|| unknown("machine", machine))?;
        Ok(json!([status]))
    }

    /// All machines as they are at this moment, however long it takes to read: the engine's
    /// clone shares everything with it, and what polls change meanwhile is not in the clone.
    fn all_statuses(&mut self) -> Rows {
        let now = self.now();
        let machines: Vec<MachineId> = self.shown().cloned().collect();
        let engine = self.engine.clone();
        // By machine, as ten thousand walks along all slots would take a second.
        let mut ends: BTreeMap<MachineId, Ends> = BTreeMap::new();
        for record in self.slots.iter() {
            if !self.closing.contains(&record.counter.slot) {
                self.add_end(record, ends.entry(record.machine.clone()).or_default());
            }
        }
        Rows::new(move || {
            Ok(machines.into_iter().filter_map(move |machine| {
                let ends = ends.remove(&machine).unwrap_or_default();
                ends.status(&engine, &machine, now)
            }))
        })
    }

    fn slots_of(&self, machine: &MachineId) -> impl Iterator<Item = &SlotRecord> {
        self.slots.iter().filter(move |record| {
            record.machine == *machine && !self.closing.contains(&record.counter.slot)
        })
    }

    fn add_end(&self, record: &SlotRecord, ends: &mut Ends) {
        ends.interfaces.push(record.name.clone());
        ends.links.extend(self.link_sentence(record));
    }

    fn usage_rows(
        &mut self,
        machine: MachineId,
        by: Resolution,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Rows, Problem> {
        let zone = self.engine.zone(&machine);
        let zone = zone.ok_or_else(|| unknown("machine", &machine))?.clone();
        // Of its own and not by the loop: a month of minutes lies in as many places of the file.
        let reader = self.ledger.reader().map_err(|error| unreadable(&error))?;
        Ok(Rows::new(move || {
            let rows = reader
                .usage(&machine, by, from, to)
                .map_err(|error| unreadable(&error))?;
            Ok(rows.into_iter().map(move |row| usage_row(&row, &zone)))
        }))
    }

    fn explain(&mut self, machine: &MachineId) -> Result<Value, Problem> {
        let now = self.now();
        let explanation = self
            .engine
            .explain(machine, now)
            .ok_or_else(|| unknown("machine", machine))?;
        let mut value = json!(explanation);
        if let Value::Object(object) = &mut value {
            let mut sentences: Vec<String> =
                explanation.to_string().lines().map(str::to_owned).collect();
            sentences.extend(
                self.slots_of(machine)
                    .filter_map(|record| self.link_sentence(record)),
            );
            object.insert("sentences".into(), json!(sentences));
        }
        Ok(value)
    }

    fn offer(&mut self, machine: &MachineId) -> Result<Value, Problem> {
        let now = self.now();
        let offer = self
            .engine
            .offer(machine, now)
            .ok_or_else(|| unknown("machine", machine))?;
        Ok(json!(offer))
    }

    fn events(&mut self, filter: EventFilter) -> Result<Rows, Problem> {
        let reader = self.ledger.reader().map_err(|error| unreadable(&error))?;
        Ok(Rows::new(move || {
            let events = reader.events(&filter).map_err(|error| unreadable(&error))?;
            Ok(events.into_iter().map(|(sequence, text)| {
                let mut event = json!(text);
                if let Value::Object(fields) = &mut event {
                    fields.insert("seq".into(), json!(sequence));
                }
                event
            }))
        }))
    }

    async fn change(
        &mut self,
        commands: Vec<Command>,
        key: Option<String>,
        dry_run: bool,
    ) -> Result<Value, Problem> {
        let confirms_clock = self.confirms_clock(&commands);
        if dry_run {
            if let Some(author) = confirms_clock {
                let event = records::clock_confirmed(self.now(), &author);
                return Ok(json!({ "dry_run": true, "events": [event.body] }));
            }
            self.freshen().await.map_err(cannot_record)?;
            let effects = self.rehearse(commands);
            return command_answer(&effects, true);
        }
        let request = canonical(&commands);
        if let Some(answer) = self.answered(key.as_deref(), &request)? {
            return Ok(answer);
        }
        if let Some(author) = confirms_clock {
            return self.clock_confirmed(&author, key, request).await;
        }
        let finish = |effects: &[Effect]| {
            let key = key?;
            let answer = command_answer(effects, false).ok()?.to_string();
            Some(CommandRecord {
                key,
                request,
                status: 200,
                answer,
            })
        };
        let effects = self
            .command(commands, finish)
            .await
            .map_err(cannot_record)?;
        command_answer(&effects, false)
    }

    /// What was answered when this was asked under this key before.
    pub(super) fn answered(
        &self,
        key: Option<&str>,
        request: &str,
    ) -> Result<Option<Value>, Problem> {
        let Some(key) = key else { return Ok(None) };
        let known = self
            .ledger
            .answer(key)
            .map_err(|error| unreadable(&error))?;
        known.map(|known| repeated(&known, request)).transpose()
    }

    /// Who confirms, while the wall clock waits for it. What the circuit breaker holds back is
    /// confirmed by the next one.
    fn confirms_clock(&mut self, commands: &[Command]) -> Option<String> {
        self.now();
        self.clock.waits()?;
        let confirm = |command: &&Command| matches!(command.action, CommandAction::Confirm);
        Some(commands.iter().find(confirm)?.author.clone())
    }

    async fn clock_confirmed(
        &mut self,
        author: &str,
        key: Option<String>,
        request: String,
    ) -> Result<Value, Problem> {
        let answer = |event: &EventRecord| json!({ "dry_run": false, "events": [event.body] });
        let finish = |event: &EventRecord| {
            Some(CommandRecord {
                key: key?,
                request,
                status: 200,
                answer: answer(event).to_string(),
            })
        };
        let event = self
            .confirm_clock(author, finish)
            .await
            .map_err(cannot_record)?;
        Ok(answer(&event))
    }

    async fn reload_asked(
        &mut self,
        path: &Path,
        links: &Links,
        dry_run: bool,
    ) -> Result<Value, Problem> {
        let new = Config::load(path).map_err(|diagnostics| {
            Problem::new(422, "the configuration was not taken", diagnostics)
        })?;
        let changes = self.config.difference(&new);
        if !dry_run {
            self.reconfigure(new, &changes, links)
                .await
                .map_err(cannot_record)?;
        }
        Ok(json!({ "dry_run": dry_run, "changes": changes }))
    }

    async fn detach_asked(&mut self, dry_run: bool) -> Result<Value, Problem> {
        let removed = if dry_run {
            Ok(self.would_detach())
        } else {
            self.detach().await
        };
        removed
            .map(|removed| json!({ "dry_run": dry_run, "removed": removed }))
            .map_err(|failure| Problem::new(500, "not everything was removed", failure))
    }
}

/// What is known of a machine's interfaces on this node.
#[derive(Default)]
struct Ends {
    interfaces: Vec<String>,
    links: Vec<String>,
}

impl Ends {
    /// The machine's status with them.
    fn status(mut self, engine: &Engine, machine: &MachineId, now: Timestamp) -> Option<Status> {
        self.interfaces.sort();
        Some(Status {
            interfaces: self.interfaces,
            links: self.links,
            ..engine.status(machine, now)?
        })
    }
}

/// The events that a command caused, or why it was refused.
fn command_answer(effects: &[Effect], dry_run: bool) -> Result<Value, Problem> {
    if let Some(Effect::Event(Event {
        kind: EventKind::Refused { reason, .. },
        ..
    })) = effects.iter().find(|effect| is_refusal(effect))
    {
        return Err(Problem::new(409, "refused", reason));
    }
    let events: Vec<&Event> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Event(event) => Some(event),
            Effect::Enforce(..) => None,
        })
        .collect();
    Ok(json!({ "dry_run": dry_run, "events": events }))
}

/// What is compared when a key comes again: what was asked and why, not who asked.
fn canonical(commands: &[Command]) -> String {
    let asked: Vec<(&CommandAction, &Option<String>)> = commands
        .iter()
        .map(|command| (&command.action, &command.reason))
        .collect();
    json!(asked).to_string()
}

fn repeated(known: &CommandRecord, request: &str) -> Result<Value, Problem> {
    if known.request != request {
        return Err(Problem::new(
            422,
            "this idempotency key was used for something else",
            format!(
                "`{}` stands for another command; take a new key for a new command",
                known.key
            ),
        ));
    }
    serde_json::from_str(&known.answer)
        .map_err(|error| Problem::new(500, "the recorded answer is unreadable", error))
}

fn usage_row(row: &UsageRow, zone: &TimeZone) -> Value {
    let local = |instant: Timestamp| {
        instant
            .display_with_offset(zone.to_offset(instant))
            .to_string()
    };
    json!({
        "start": local(row.start),
        "end": local(row.end),
        "received": row.traffic.received,
        "sent": row.traffic.sent,
        "exempt": row.traffic.exempt,
    })
}

fn unknown(what: &str, name: &impl std::fmt::Display) -> Problem {
    Problem::new(
        404,
        format!("no such {what}"),
        format!("there is no {what} `{name}`; `meterd status` lists what there is"),
    )
}

pub(super) fn unreadable(error: &LedgerError) -> Problem {
    Problem::new(503, "the ledger cannot be read", error)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
pub(super) fn cannot_record(error: CycleError) -> Problem {
    let title = match error {
        CycleError::Host(_) | CycleError::Netlink(_) => "the counters cannot be read",
        CycleError::Ledger(_) => "the ledger cannot be written",
    };
    Problem::new(
        503,
        title,
        format!("{error}; nothing was changed and nothing is lost"),
    )
}
