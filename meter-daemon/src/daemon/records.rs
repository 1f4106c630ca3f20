//! What happened, as the ledger keeps it: the engine's events and the host's, one shape.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    engine::{
        Effect,
        event::{Event, EventKind},
        units::{MachineId, Traffic},
    },
    ledger::{EventRecord, SlotRecord, cursor::Fell},
};

/// The events among a step's effects, in order.
pub(crate) fn engine_events(effects: &[Effect]) -> Vec<EventRecord> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Event(event) => Some(engine_event(event)),
            Effect::Enforce(..) => None,
        })
        .collect()
}

fn engine_event(event: &Event) -> EventRecord {
    EventRecord {
        time: event.time,
        machine: event.machine.clone(),
        account: event.account.clone(),
        name: event.kind.as_str().to_owned(),
        body: serde_json::to_value(event).unwrap_or_else(|error| {
            // Every field is a number, a string or an option of one: this cannot fail, and
            // if it did the event must still be seen.
            json!({ "time": event.time, "event": event.kind.as_str(), "error": error.to_string() })
        }),
        notice: match &event.kind {
            EventKind::Notice { id, .. } => Some(id.clone()),
            _ => None,
        },
    }
}

/// Something the host saw or did. `fields` is a JSON object.
pub(crate) fn host_event(
    time: Timestamp,
    name: &str,
    machine: Option<&MachineId>,
    fields: Value,
) -> EventRecord {
    let mut body = json!({ "time": time, "event": name });
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        if let Some(machine) = machine {
            body.insert("machine".into(), json!(machine));
        }
        body.extend(fields);
    }
    EventRecord {
        time,
        machine: machine.cloned(),
        account: None,
        name: name.to_owned(),
        body,
        notice: None,
    }
}

/// Why an interface's count begins where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// It came while we watched, or was born while we were away: its earlier bytes, from the
    /// kernel's own interface counters, are credited.
    InterfaceCounters,
    /// It is older than our first sight of it: what it moved before counts nothing.
    Baseline,
}

pub(crate) fn attached(time: Timestamp, record: &SlotRecord, basis: Basis) -> EventRecord {
    let credit = record.credit.unwrap_or(Traffic::ZERO);
    host_event(
        time,
        "interface-attached",
        Some(&record.machine),
        json!({
            "interface": record.name,
            "ifindex": record.interface.ifindex,
            "basis": match basis {
                Basis::InterfaceCounters => "interface-counters",
                Basis::Baseline => "baseline",
            },
            "credited_received": credit.received,
            "credited_sent": credit.sent,
        }),
    )
}

pub(crate) fn attach_failed(time: Timestamp, record: &SlotRecord, error: &str) -> EventRecord {
    host_event(
        time,
        "interface-unmetered",
        Some(&record.machine),
        json!({
            "interface": record.name,
            "ifindex": record.interface.ifindex,
            "reason": error,
        }),
    )
}

/// A hypervisor has made an interface and does not say for whom.
pub(crate) fn nobodys(time: Timestamp, interface: &str, ifindex: u32) -> EventRecord {
    host_event(
        time,
        "interface-unmetered",
        None,
        json!({
            "interface": interface,
            "ifindex": ifindex,
            "reason": "its name is one that the hypervisor gives out, and the hypervisor's files do \
                       not say whose it is; it is metered for nobody else: see `meterd attach`",
        }),
    )
}

/// A hook, or somebody at the command line, said whose an interface is.
pub(crate) fn assigned(
    time: Timestamp,
    machine: &MachineId,
    interface: &str,
    ifindex: u32,
    reason: Option<&str>,
) -> EventRecord {
    host_event(
        time,
        "interface-assigned",
        Some(machine),
        json!({ "interface": interface, "ifindex": ifindex, "reason": reason }),
    )
}

pub(crate) fn slots_exhausted(
    time: Timestamp,
    machine: &MachineId,
    interface: &str,
) -> EventRecord {
    host_event(
        time,
        "interface-unmetered",
        Some(machine),
        json!({
            "interface": interface,
            "reason": "every counter slot is taken; raise max-interfaces and restart meterd",
        }),
    )
}

/// `detail`: what became of it.
pub(crate) fn gone(time: Timestamp, record: &SlotRecord, detail: &str) -> EventRecord {
    host_event(
        time,
        "interface-gone",
        Some(&record.machine),
        json!({
            "interface": record.name,
            "ifindex": record.interface.ifindex,
            "detail": detail,
        }),
    )
}

/// An interface went before what it moved unmetered could be asked for.
pub(crate) fn unknown(
    time: Timestamp,
    machine: &MachineId,
    interface: &str,
    ifindex: u32,
) -> EventRecord {
    host_event(
        time,
        "traffic-unknown",
        Some(machine),
        json!({
            "interface": interface,
            "ifindex": ifindex,
            "detail": "it went before the kernel could be asked what it had moved until it was \
                       metered; nobody knows that any more",
        }),
    )
}

pub(crate) fn renamed(time: Timestamp, record: &SlotRecord, to: &str) -> EventRecord {
    host_event(
        time,
        "interface-renamed",
        Some(&record.machine),
        json!({ "from": record.name, "interface": to, "ifindex": record.interface.ifindex }),
    )
}

pub(crate) fn counter_fell(time: Timestamp, record: &SlotRecord, fell: &Fell) -> EventRecord {
    host_event(
        time,
        "counter-fell",
        Some(&record.machine),
        json!({
            "interface": record.name,
            "detail": fell.to_string(),
            "slot": record.counter.slot,
            "generation": record.counter.generation,
        }),
    )
}

/// A counter whose maps did not live on (a reboot, or pins removed by someone).
pub(crate) fn counter_ended(time: Timestamp, record: &SlotRecord) -> EventRecord {
    host_event(
        time,
        "counter-ended",
        Some(&record.machine),
        json!({
            "interface": record.name,
            "detail": "its maps are gone (a reboot, or the pins were removed); \
                       the next counter is new and counts whole",
        }),
    )
}

/// The ledger is older than the kernel's counters, and this one has counted for others since.
pub(crate) fn counter_superseded(time: Timestamp, record: &SlotRecord) -> EventRecord {
    host_event(
        time,
        "counter-superseded",
        Some(&record.machine),
        json!({
            "interface": record.name,
            "slot": record.counter.slot,
            "generation": record.counter.generation,
            "detail": "its counter was handed on since the backup that the ledger was restored from; \
                       what this machine moved by it after the backup is in the ledger that was put \
                       aside, and nobody is credited with it here",
        }),
    )
}

pub(crate) fn enforcement_failed(
    time: Timestamp,
    machine: &MachineId,
    interface: &str,
    detail: &str,
) -> EventRecord {
    host_event(
        time,
        "enforcement-failed",
        Some(machine),
        json!({ "interface": interface, "detail": detail }),
    )
}

pub(crate) fn enforced(
    time: Timestamp,
    machine: &MachineId,
    interface: &str,
    detail: &str,
) -> EventRecord {
    host_event(
        time,
        "enforcement-changed",
        Some(machine),
        json!({ "interface": interface, "detail": detail }),
    )
}

pub(crate) fn clock(time: Timestamp, detail: &str) -> EventRecord {
    host_event(time, "clock-stepped", None, json!({ "detail": detail }))
}

pub(crate) fn clock_confirmed(time: Timestamp, by: &str) -> EventRecord {
    let detail = format!("the wall clock was confirmed by {by}");
    host_event(time, "clock-confirmed", None, json!({ "detail": detail }))
}

pub(crate) fn reloaded(time: Timestamp, changes: &[String]) -> EventRecord {
    host_event(
        time,
        "configuration-reloaded",
        None,
        json!({ "changes": changes }),
    )
}
