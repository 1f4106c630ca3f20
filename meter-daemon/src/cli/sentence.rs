//! An event as a sentence, for people.

mod host;

use serde_json::Value;

use super::out::{plain, volume, when};
use crate::engine::event::{Event, EventKind};

/// One line: time, whom it concerns, event, sentence.
pub(super) fn line(event: &Value) -> String {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let whom = if text("machine").is_empty() {
        text("account")
    } else {
        text("machine")
    };
    let (time, whom, name) = (when(text("time")), plain(whom), plain(text("event")));
    let line = format!("{time}  {whom:<12}  {name:<14}  {}", sentence(event));
    line.trim_end().to_owned() + "\n"
}

/// The sentence alone.
pub(super) fn sentence(event: &Value) -> String {
    let sentence = match serde_json::from_value::<Event>(event.clone()) {
        Ok(event) => {
            let mut sentence = what(&event);
            if let (true, Some(rule)) = (acts(&event.kind), &event.rule) {
                let allowance = volume(event.allowance, "an unlimited allowance");
                sentence += &format!(", by the rule `{rule}`: used {} of {allowance}", event.used);
            }
            sentence
        }
        Err(_) => host::sentence(event),
    };
    plain(&sentence)
}

/// Whether it is a rule that did it, or stopped doing it.
const fn acts(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Flagged { .. }
            | EventKind::Throttled { .. }
            | EventKind::Capped { .. }
            | EventKind::Suspended { .. }
    )
}

fn what(event: &Event) -> String {
    match &event.kind {
        EventKind::PeriodStarted { start, end } => {
            format!(
                "a period began: {} to {}",
                when(&start.to_string()),
                when(&end.to_string())
            )
        }
        EventKind::Notice { message, .. } => message.clone(),
        EventKind::Flagged { excess } => format!("{excess} more used than has accrued so far"),
        EventKind::Unflagged {} => "what was used in excess is compensated".to_owned(),
        EventKind::Throttled {
            rate_limit_bits_per_second: rate,
            ..
        } => format!("to {rate}"),
        EventKind::Capped { cap_remaining, .. } => format!("{cap_remaining} more, then nothing"),
        EventKind::Suspended { by, reason, .. } => {
            let by = by
                .as_ref()
                .map(|by| format!(" by {by}"))
                .unwrap_or_default();
            format!("nothing passes{by}{}", because(reason.as_ref()))
        }
        EventKind::Restored { from, cause } => format!("no longer {}: {cause}", from.as_str()),
        EventKind::Charged {
            amount,
            volume,
            balance,
        } => {
            let balance = balance.map(|money| format!("; the balance is {money}"));
            format!("{amount} for {volume}{}", balance.unwrap_or_default())
        }
        EventKind::Invoiced {
            invoice,
            due,
            description,
            amount,
            ..
        } => {
            format!(
                "bill {invoice} over {amount}, {description}, due {}",
                when(&due.to_string())
            )
        }
        EventKind::Paid { invoice, amount } => format!("bill {invoice} over {amount}"),
        EventKind::Overdue { invoice, amount } => {
            format!("bill {invoice} over {amount} is past its due date")
        }
        EventKind::Lapsed { invoice, amount } => {
            format!("bill {invoice} over {amount} was not paid in time: nothing is owed")
        }
        EventKind::ToppedUp {
            volume,
            amount,
            from_pool,
        } => {
            let source = match (from_pool, amount) {
                (true, _) => " from the pool".to_owned(),
                (false, Some(amount)) => format!(" for {amount}"),
                (false, None) => String::new(),
            };
            format!("{volume} added{source}")
        }
        EventKind::Refused { command, reason } => format!("{command}: {reason}"),
        EventKind::Changed {
            key,
            value: Some(value),
            by,
        } => format!("{key} is {value}, by {by}"),
        EventKind::Changed {
            key,
            value: None,
            by,
        } => {
            format!("{key} is again what the files say, by {by}")
        }
        EventKind::Lifted { until, by, reason } => {
            let until = until.map_or_else(
                || "until the period ends".to_owned(),
                |until| format!("until {}", when(&until.to_string())),
            );
            format!(
                "every rule in force, {until}, by {by}{}",
                because(reason.as_ref())
            )
        }
        EventKind::OverrideEnded {} => "the rules act again".to_owned(),
        EventKind::Balance { amount, balance } => format!("{amount}; the balance is {balance}"),
        EventKind::HeldBack { machines, of } => {
            format!(
                "{machines} of {of} machines would be hit within a poll interval: what is not \
                 done yet waits for a correction, or for `meterd confirm`"
            )
        }
        EventKind::Confirmed { by } => format!("by {by}"),
        EventKind::Cancelled { by } => format!("metering ended, by {by}"),
    }
}

fn because(reason: Option<&String>) -> String {
    reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_line_says_when_whom_what_and_why() {
        let common = json!({
            "seq": 7, "time": "2026-11-20T10:00:00.5Z", "machine": "web1", "rule": "used 105%",
            "used": 1_050_000_000_000_u64, "allowance": 1_000_000_000_000_u64, "state": "throttled",
        });
        let own = [
            json!({"event": "throttled", "from": "normal", "rate_limit_bits_per_second": 64_000}),
            json!({"event": "notice", "id": "x", "message": "80 % of the traffic is used"}),
            json!({"event": "restored", "from": "throttled", "cause": "topped up"}),
            json!({"event": "topped-up", "volume": 1_000_000_000_000_u64, "from_pool": true}),
            json!({"event": "charged", "amount": "1.00 EUR", "volume": 100_000_000_000_u64,
                   "balance": "-2.50 EUR"}),
            json!({"event": "suspended", "from": "normal", "by": "alice", "reason": "abuse"}),
            json!({"event": "changed", "key": "allowance", "value": null, "by": "alice"}),
            json!({"event": "lifted", "until": "2026-12-01T00:00:00Z", "by": "root", "reason": null}),
            json!({"event": "invoiced", "invoice": "2026-7", "number": "2026-7",
                   "date": "2026-12-01", "due": "2026-12-06T00:00:00Z",
                   "description": "additional traffic", "valid_from": "2026-11-01T00:00:00Z",
                   "valid_to": "2026-12-01T00:00:00Z", "amount": "3.00 EUR", "volume": 5}),
        ];
        let lines: String = own
            .iter()
            .map(|own| {
                let mut event = common.clone();
                event
                    .as_object_mut()
                    .unwrap()
                    .extend(own.as_object().unwrap().clone());
                line(&event)
            })
            .collect();
        insta::assert_snapshot!(lines, @r#"
        2026-11-20 10:00:00Z  web1          throttled       to 64 kbit/s, by the rule `used 105%`: used 1.05 TB of 1 TB
        2026-11-20 10:00:00Z  web1          notice          80 % of the traffic is used
        2026-11-20 10:00:00Z  web1          restored        no longer throttled: topped up
        2026-11-20 10:00:00Z  web1          topped-up       1 TB added from the pool
        2026-11-20 10:00:00Z  web1          charged         1.00 EUR for 100 GB; the balance is -2.50 EUR
        2026-11-20 10:00:00Z  web1          suspended       nothing passes by alice: abuse, by the rule `used 105%`: used 1.05 TB of 1 TB
        2026-11-20 10:00:00Z  web1          changed         allowance is again what the files say, by alice
        2026-11-20 10:00:00Z  web1          lifted          every rule in force, until 2026-12-01 00:00:00Z, by root
        2026-11-20 10:00:00Z  web1          invoiced        bill 2026-7 over 3.00 EUR, additional traffic, due 2026-12-06 00:00:00Z
        "#);
    }

    #[test]
    fn an_event_of_the_hosts_has_the_same_form() {
        let gone = json!({"time": "2026-11-20T10:00:00Z", "event": "clock-stepped",
                          "detail": "the wall clock is followed again"});
        assert_eq!(
            line(&gone),
            "2026-11-20 10:00:00Z                clock-stepped   the wall clock is followed again\n"
        );
    }
}
