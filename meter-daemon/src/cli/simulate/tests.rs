//! A plan against histories, from texts to lines.

use std::num::NonZeroU32;

use jiff::SignedDuration;

use super::{input::*, *};
use crate::engine::{event::State, plan::*, units::*};

const GB: u64 = 1_000_000_000;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn rule(name: &str, trigger: Trigger) -> Rule {
    Rule {
        name: name.into(),
        trigger,
        after: SignedDuration::ZERO,
        action: None,
        notify: true,
        flag: false,
        lift: Lift::Automatic,
    }
}

fn percent(figure: i64) -> Percent {
    Percent(figure.into())
}

fn terms() -> Arc<Terms> {
    let used = |figure| Trigger::Used(Threshold::Percent(percent(figure)));
    let plan = Arc::new(Plan {
        name: "edis".into(),
        starts: PeriodStart::Day(DayOfMonth::FIRST),
        time_zone: None,
        direction: Direction::Sum,
        allowance: Allowance::Limited(Bytes(1_000 * GB)),
        cost_limit: None,
        daily: NonZeroU32::new(30),
        rollover: Rollover::None,
        price: None,
        rules: vec![
            rule("used 80%", used(80)),
            Rule {
                action: Some(Action::Throttle(BitsPerSecond(64_000))),
                ..rule("used 105%", used(105))
            },
        ],
        enforce: true,
        exempt: Vec::new(),
        exempt_when_suspended: false,
    });
    let machine = Machine {
        id: "m".into(),
        plan: Some(Arc::clone(&plan)),
        account: None,
        renewal_day: None,
        allowance: None,
        cost_limit: None,
        auto_unsuspend: None,
        time_zone: None,
        node_zone: jiff::tz::TimeZone::UTC,
    };
    Arc::new(Terms {
        machines: [(machine.id.clone(), machine)].into(),
        accounts: Default::default(),
        plans: [(plan.name.clone(), plan)].into(),
    })
}

fn run(usage: &str, commands: &str) -> (Vec<Event>, Ending) {
    let machine = "m".into();
    let history = parse_usage(usage).unwrap();
    let commands = parse_commands(commands, &machine, None).unwrap();
    let mut events = Vec::new();
    let ending = simulate(&terms(), &machine, &history, &commands, |event| {
        events.push(event.clone());
        Ok(())
    });
    (events, ending.unwrap())
}

fn words(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

const JUNE: &str = "time,received,sent
2026-06-10T00:00:00Z,500000000000,0
2026-06-20T00:00:00Z,500000000000,60000000000
";

#[test]
fn a_row_is_the_bytes_of_the_interval_that_ends_at_its_time_and_the_first_begins_one_gap_earlier() {
    let history = parse_usage(JUNE).unwrap();
    assert_eq!(history.rows[0].from, at("2026-05-31T00:00:00Z"));
    assert_eq!(history.rows[0].to, at("2026-06-10T00:00:00Z"));
    assert_eq!(history.rows[1].from, at("2026-06-10T00:00:00Z"));
    let (_, ending) = run(JUNE, "");
    // One of the first row's ten days was May's.
    assert_eq!(ending.status.used, Bytes(1_010 * GB));
}

#[test]
fn rows_commands_and_deadlines_are_stepped_in_order_of_time() {
    let usage = format!("{JUNE}2026-07-02T00:00:00Z,60000000000,0\n");
    let commands = r#"{"time":"2026-06-21T00:00:00Z","command":"lift"}
{"time":"2026-06-20T00:00:00Z","command":"top-up","volume":"1 TB","reason":"why not"}
"#;
    let (events, ending) = run(&usage, commands);
    assert_eq!(
        words(&events),
        [
            "period-started",
            "period-started",
            "notice",
            "topped-up",
            "refused",
            "period-started"
        ]
    );
    assert_eq!(
        events[3].used,
        Bytes(1_010 * GB),
        "after the bytes that end there"
    );
    assert_eq!(events[5].time, at("2026-07-01T00:00:00Z"));
    assert_eq!(ending.status.used, Bytes(5 * GB));
    assert_eq!(ending.status.state, State::Normal);
}

#[test]
fn an_enforced_state_does_not_change_the_history_given() {
    let usage = format!("{JUNE}2026-06-21T00:00:00Z,900000000000,0\n");
    let (events, ending) = run(&usage, "");
    assert_eq!(events.last().unwrap().state, State::Throttled);
    assert_eq!(ending.status.used, Bytes(1_910 * GB));
}

#[test]
fn the_output_is_one_object_a_line_and_last_the_end_with_all_fields_of_status() {
    let (events, ending) = run(JUNE, "");
    let mut out = Vec::new();
    for event in &events {
        output::json_line(&mut out, event).unwrap();
    }
    output::json_end(&mut out, &ending).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &lines {
        for key in ["time", "event", "rule", "used", "allowance", "state"] {
            assert!(line.get(key).is_some(), "{key} in {line}");
        }
    }
    let end = lines.last().unwrap();
    assert_eq!(end["event"], "end");
    let status = serde_json::to_value(&ending.status).unwrap();
    for (key, value) in status.as_object().unwrap() {
        assert_eq!(&end[key], value, "{key}");
    }
    assert!(end["used"].is_u64(), "bytes are plain integers");
}

#[test]
fn people_get_a_table_and_a_small_chart() {
    let (events, ending) = run(JUNE, "");
    let mut out = Vec::new();
    output::table_head(&mut out).unwrap();
    for event in &events {
        output::table_row(&mut out, event, &jiff::tz::TimeZone::UTC).unwrap();
    }
    output::table_end(&mut out, &ending).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[test]
fn what_is_wrong_with_the_usage_is_told_with_its_line() {
    for (text, line, word) in [
        ("", 1, "header"),
        (
            "time,rx,tx\n2026-06-01T00:00:00Z,1,2\n",
            1,
            "time,received,sent",
        ),
        ("time,received,sent\n", 1, "no row"),
        ("time,received,sent\n2026-06-01,1,2\n", 2, "offset"),
        (
            "time,received,sent\n2026-06-01T00:00:00Z,1\n",
            2,
            "three fields",
        ),
        (
            "time,received,sent\n2026-06-01T00:00:00Z,-1,2\n",
            2,
            "whole number",
        ),
        (
            "time,received,sent\n2026-06-02T00:00:00Z,1,2\n\n2026-06-02T00:00:00Z,1,2\n",
            4,
            "not later",
        ),
    ] {
        let problems = parse_usage(text).unwrap_err();
        assert_eq!(problems[0].line, line, "{text:?}");
        assert!(
            problems[0].message.contains(word),
            "{text:?}: {}",
            problems[0]
        );
    }
    let many = "time,received,sent\n".to_owned() + &"x\n".repeat(1_000);
    assert_eq!(parse_usage(&many).unwrap_err().len(), 20, "bounded");
}

#[test]
fn what_is_wrong_with_the_commands_is_told_with_its_line() {
    let time = r#""time":"2026-06-20T00:00:00Z""#;
    for (line, word) in [
        ("nonsense".to_owned(), "not JSON"),
        ("[1]".to_owned(), "object"),
        (r#"{"command":"lift"}"#.to_owned(), "`time` is missing"),
        (format!(r#"{{{time}}}"#), "`command` is missing"),
        (
            format!(r#"{{{time},"command":"dance"}}"#),
            "no command `dance`",
        ),
        (
            format!(r#"{{{time},"command":"top-up"}}"#),
            "`volume` is missing",
        ),
        (
            format!(r#"{{{time},"command":"top-up","volume":"1 XB"}}"#),
            "XB",
        ),
        (
            format!(r#"{{{time},"command":"lift","volume":"1 TB"}}"#),
            "no `volume`",
        ),
        (
            format!(r#"{{{time},"command":"lift","for":"1h","until":"x"}}"#),
            "not both",
        ),
        (format!(r#"{{{time},"command":"set"}}"#), "one of plan"),
        (
            format!(r#"{{{time},"command":"set","renewal-day":32}}"#),
            "1 to 31",
        ),
        (
            format!(r#"{{{time},"command":"balance","add":"1"}}"#),
            "no account",
        ),
    ] {
        let text = format!("\n{line}\n");
        let problems = parse_commands(&text, &"m".into(), None).unwrap_err();
        assert_eq!(problems[0].line, 2, "{line}");
        assert!(
            problems[0].message.contains(word),
            "{line}: {}",
            problems[0]
        );
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
#[ignore = "a measurement: release build, quiet machine"]
fn a_year_of_minutes_is_simulated_in_a_second() {
    let start = at("2026-01-01T00:00:00Z");
    let mut text = String::from("time,received,sent\n");
    for minute in 1..=525_600_i64 {
        let time = start + SignedDuration::from_mins(minute);
        text.push_str(&format!("{time},{},1000000\n", 20_000_000 + minute % 1_000));
    }
    let started = std::time::Instant::now();
    let (events, ending) = run(&text, "");
    eprintln!(
        "a year of minutes: {:?}, {} events, used {}",
        started.elapsed(),
        events.len(),
        ending.status.used
    );
}
