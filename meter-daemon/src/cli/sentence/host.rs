//! The host's events as sentences: interfaces that come and go, what was done to them, clocks
//! and configurations. One that is not known here (of another version) is shown field by field.

use serde_json::Value;

use crate::{cli::out::when, engine::units::Bytes};

pub(super) fn sentence(event: &Value) -> String {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let (interface, detail) = (text("interface"), text("detail"));
    match text("event") {
        "interface-attached" => attached(event, interface),
        "interface-unmetered" => format!("{interface} is not metered: {}", text("reason")),
        "interface-gone" => format!("{interface} is metered for this machine no more: {detail}"),
        "interface-renamed" => format!("{} is called {interface} now", text("from")),
        "traffic-unknown"
        | "counter-fell"
        | "counter-ended"
        | "counter-superseded"
        | "enforcement-failed"
        | "enforcement-changed" => format!("{interface}: {detail}"),
        "imported" => imported(event),
        "forgotten" => forgotten(event),
        "ledger-restored" => format!(
            "the backup {} took the ledger's place, by {}{}",
            text("file"),
            text("by"),
            because(text("reason"))
        ),
        "clock-stepped" => detail.to_owned(),
        "configuration-reloaded" => reloaded(event),
        _ => match event.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => by_field(event),
        },
    }
}

fn attached(event: &Value, interface: &str) -> String {
    if event.get("basis").and_then(Value::as_str) == Some("baseline") {
        return format!("{interface} is metered from here on; what it moved before counts nothing");
    }
    let credited = |key: &str| Bytes(event.get(key).and_then(Value::as_u64).unwrap_or_default());
    let (received, sent) = (credited("credited_received"), credited("credited_sent"));
    if received + sent == Bytes::ZERO {
        return format!("{interface} is metered from its first byte on");
    }
    format!(
        "{interface} is metered; the {received} received and {sent} sent before are counted, too, \
         by the interface's own counters"
    )
}

fn because(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    }
}

fn imported(event: &Value) -> String {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let bytes = |key: &str| Bytes(event.get(key).and_then(Value::as_u64).unwrap_or_default());
    format!(
        "{} received and {} sent from {} to {} were brought in from {}, {} of it in the running \
         period, by {}{}",
        bytes("received"),
        bytes("sent"),
        when(text("from")),
        when(text("to")),
        text("source"),
        bytes("in_period"),
        text("by"),
        because(text("reason"))
    )
}

fn forgotten(event: &Value) -> String {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let bytes = |key: &str| Bytes(event.get(key).and_then(Value::as_u64).unwrap_or_default());
    format!(
        "everything known of it, {} received and {} sent in all, by {}{}",
        bytes("received"),
        bytes("sent"),
        text("by"),
        because(text("reason"))
    )
}

fn reloaded(event: &Value) -> String {
    let changes = event.get("changes").and_then(Value::as_array);
    let changes: Vec<&str> = changes
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if changes.is_empty() {
        return "nothing is different".to_owned();
    }
    changes.join("; ")
}

fn by_field(event: &Value) -> String {
    const SHOWN: [&str; 5] = ["seq", "time", "machine", "account", "event"];
    let fields = event.as_object().into_iter().flatten();
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let fields = fields.filter(|(key, value)| !SHOWN.contains(&key.as_str()) && !empty(value));
    let fields = fields.map(|(key, value)| match value {
        Value::String(text) => format!("{key} {text}"),
        other => format!("{key} {other}"),
    });
    fields.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_host_did_is_told_in_sentences() {
        let events = [
            json!({"event": "interface-attached", "interface": "tap101i0", "ifindex": 7,
                   "basis": "interface-counters", "credited_received": 0,
                   "credited_sent": 52_100}),
            json!({"event": "interface-attached", "interface": "tap101i0", "ifindex": 7,
                   "basis": "interface-counters", "credited_received": 0, "credited_sent": 0}),
            json!({"event": "interface-attached", "interface": "tap101i0", "ifindex": 7,
                   "basis": "baseline", "credited_received": 0, "credited_sent": 0}),
            json!({"event": "interface-unmetered", "interface": "tap101i0", "reason": "no memory"}),
            json!({"event": "interface-gone", "interface": "tap101i0", "ifindex": 7,
                   "detail": "it is not there any more"}),
            json!({"event": "interface-renamed", "from": "tap101i0", "interface": "tap101i7"}),
            json!({"event": "enforcement-changed", "interface": "tap101i0",
                   "detail": "throttled to 60 kbit/s"}),
            json!({"event": "clock-stepped", "detail": "the wall clock is followed again"}),
            json!({"event": "configuration-reloaded", "changes": ["dry-run: true -> false"]}),
            json!({"event": "configuration-reloaded", "changes": []}),
            json!({"event": "of-tomorrow", "ifindex": 7, "interface": "tap101i0", "none": null}),
        ];
        let told: Vec<String> = events.iter().map(sentence).collect();
        insta::assert_snapshot!(told.join("\n"), @"
        tap101i0 is metered; the 0 B received and 52.1 kB sent before are counted, too, by the interface's own counters
        tap101i0 is metered from its first byte on
        tap101i0 is metered from here on; what it moved before counts nothing
        tap101i0 is not metered: no memory
        tap101i0 is metered for this machine no more: it is not there any more
        tap101i0 is called tap101i7 now
        tap101i0: throttled to 60 kbit/s
        the wall clock is followed again
        dry-run: true -> false
        nothing is different
        ifindex 7, interface tap101i0
        ");
    }
}
