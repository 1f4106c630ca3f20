//! What was recorded comes back.

use serde_json::json;

use super::*;
use crate::engine::record::KeptMachine;

/// One of everything, with figures that do not fit into SQLite's signed integers.
fn everything() -> Batch {
    let now = at("2026-11-20T10:00:30.123456789Z");
    let mut web = slot("web1", 7);
    web.cursor = Reading {
        traffic: moved(u64::MAX, 1 << 63, 3),
        packets: [u64::MAX - 1, 5],
        frames: [Bytes(6), Bytes(u64::MAX)],
        shaped: [Bytes(1 << 63), Bytes(4)],
    };
    web.base.traffic = moved(1, 2, 3);
    web.shaped = Some(Shaped {
        ifb: u32::MAX,
        through: [Bytes(u64::MAX), Bytes(0)],
    });
    web.credit = Some(moved(0, u64::MAX, 0));
    let mut db = slot("db1", 8);
    db.credits = false;
    let period = running(
        at("2026-11-01T00:00:00Z"),
        at("2026-12-01T00:00:00Z"),
        now,
        moved(u64::MAX, 12, 0),
    );
    let mut notice = event(now, "web1", "notice");
    notice.notice = Some("web1/2026-11/used 80%/1".into());
    Batch {
        slots: vec![web, db],
        usage: vec![usage(
            "web1",
            &zone("Europe/Vienna"),
            now - SECOND * 60,
            now,
            moved(u64::MAX, 12, 0),
        )],
        changes: Changes {
            machines: vec![change("web1", Some(r#"{"state":"normal"}"#), period)],
            closed: vec![(
                "web1".into(),
                running(
                    at("2026-10-01T00:00:00Z"),
                    at("2026-11-01T00:00:00Z"),
                    now,
                    moved(5, 6, 7),
                ),
            )],
            accounts: vec![("acme".into(), r#"{"balance":"1"}"#.into())],
            node: Some(r#"{"node":1}"#.into()),
        },
        events: vec![event(now, "web1", "throttled"), notice],
        commands: vec![CommandRecord {
            key: "k1".into(),
            request: "top-up".into(),
            status: 200,
            answer: "{}".into(),
        }],
        notes: vec![HostNote {
            key: "root-qdisc/1/107".into(),
            value: Some(r#"{"kind":"tbf"}"#.into()),
        }],
        highest: Some(Highest {
            boot: slot("", 0).counter.boot.clone(),
            interface: InterfaceId {
                netns: u64::MAX,
                ifindex: 108,
            },
        }),
        ..batch(now)
    }
}

#[test]
fn everything_that_was_recorded_is_remembered_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let given = everything();
    let (mut ledger, before) = Ledger::open(directory.path()).unwrap();
    assert_eq!(before, Remembered::default());
    ledger.record(&given).unwrap();
    drop(ledger);

    let (ledger, remembered) = Ledger::open(directory.path()).unwrap();
    assert_eq!(remembered.slots, given.slots);
    let map_set = MapSetId(u64::MAX - 3);
    assert_eq!(
        remembered.generations,
        [7, 8].map(|slot| (map_set, Slot(slot), Generation(1)))
    );
    let hours = [
        // The first half of the minute that it spans fell into the hour before.
        "2026-11-20T09:00:00Z",
        "2026-11-20T10:00:00Z",
    ];
    let kept = &remembered.kept.machines;
    let [
        KeptMachine {
            machine,
            state,
            running,
            recent,
        },
    ] = kept.as_slice()
    else {
        panic!("{kept:?}");
    };
    assert_eq!(machine.as_str(), "web1");
    assert_eq!(Some(state), given.changes.machines[0].state.as_ref());
    assert_eq!(*running, given.changes.machines[0].running);
    let recent = recent.figures();
    let starts: Vec<_> = recent.iter().map(|(start, _)| *start).collect();
    assert_eq!(starts, hours.map(at));
    let sum = |direction: usize| {
        recent
            .iter()
            .map(|(_, moved)| moved[direction].0)
            .sum::<u64>()
    };
    let used = given.usage[0].traffic;
    assert_eq!([0, 1].map(sum), [used.received.0, used.sent.0]);
    assert_eq!(remembered.kept.accounts, given.changes.accounts);
    assert_eq!(remembered.kept.node, given.changes.node);
    assert_eq!(
        remembered.notes,
        [(
            "root-qdisc/1/107".to_owned(),
            r#"{"kind":"tbf"}"#.to_owned()
        )]
    );
    assert_eq!(remembered.highest, Vec::from_iter(given.highest));
    assert_eq!(remembered.last, Some(given.at));

    assert_eq!(
        ledger.answer("k1").unwrap(),
        given.commands.into_iter().next()
    );
    assert_eq!(ledger.answer("k2").unwrap(), None);
    let reader = ledger.reader().unwrap();
    for by in HISTORIES {
        assert_eq!(total(&reader, "web1", by), given.usage[0].traffic, "{by:?}");
    }
    let periods = reader
        .usage(&"web1".into(), Resolution::Period, None, None)
        .unwrap();
    let sums: Vec<_> = periods.iter().map(|row| row.traffic).collect();
    assert_eq!(sums, [moved(5, 6, 7), moved(u64::MAX, 12, 0)]);
}

#[test]
fn a_slot_that_is_freed_is_gone_and_its_generation_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let given = everything();
    ledger.record(&given).unwrap();
    let mut last = given.slots[0].clone();
    last.name = "renamed".into();
    let mut next = last.clone();
    next.counter.generation = Generation(2);
    next.machine = "new".into();
    ledger
        .record(&Batch {
            slots: vec![last.clone(), next.clone()],
            freed: vec![last.counter.clone()],
            notes: vec![HostNote {
                key: "root-qdisc/1/107".into(),
                value: None,
            }],
            ..batch(given.at + SECOND)
        })
        .unwrap();
    drop(ledger);
    let (_, remembered) = Ledger::open(directory.path()).unwrap();
    assert_eq!(remembered.slots, [given.slots[1].clone(), next]);
    assert_eq!(remembered.generations[0].2, Generation(2));
    assert_eq!(remembered.notes, []);
}

#[test]
fn only_what_changed_of_a_machine_is_needed_for_it_to_come_back_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let given = everything();
    ledger.record(&given).unwrap();
    let later = given.at + SECOND * 60;
    let mut sums = given.changes.machines[0].running;
    (sums.measured_to, sums.traffic.sent) = (later, Bytes(99));
    let mut step = batch(later);
    step.changes.machines = vec![change("web1", None, sums)];
    ledger.record(&step).unwrap();
    drop(ledger);
    let (_, remembered) = Ledger::open(directory.path()).unwrap();
    let kept = &remembered.kept.machines[0];
    assert_eq!(
        (kept.state.as_str(), kept.running),
        (r#"{"state":"normal"}"#, sums)
    );
}

#[test]
fn events_are_read_oldest_first_by_machine_time_and_sequence() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let start = at("2026-11-20T10:00:00Z");
    let mut step = batch(start);
    step.events = (0..10)
        .map(|i| {
            event(
                start + SECOND * i,
                if i % 2 == 0 { "even" } else { "odd" },
                &format!("e{i}"),
            )
        })
        .collect();
    ledger.record(&step).unwrap();
    let reader = ledger.reader().unwrap();
    let names = |filter: EventFilter| -> Vec<String> {
        let events = reader.events(&filter).unwrap();
        assert!(events.is_sorted_by_key(|(sequence, _)| *sequence));
        events
            .iter()
            .map(|(_, body)| json!(body)["event"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = EventFilter {
        limit: 100,
        ..EventFilter::default()
    };
    assert_eq!(names(all.clone()).len(), 10);
    assert_eq!(
        names(EventFilter {
            limit: 2,
            ..EventFilter::default()
        }),
        ["e8", "e9"]
    );
    let odd = EventFilter {
        machine: Some("odd".into()),
        limit: 100,
        ..EventFilter::default()
    };
    assert_eq!(names(odd.clone()), ["e1", "e3", "e5", "e7", "e9"]);
    let since = EventFilter {
        since: Some(start + SECOND * 5),
        limit: 2,
        ..odd
    };
    assert_eq!(names(since), ["e5", "e7"]);
    let (fourth, _) = reader.events(&all).unwrap()[3];
    assert_eq!(
        names(EventFilter {
            after: Some(fourth),
            limit: 2,
            ..all
        }),
        ["e4", "e5"]
    );
}

#[test]
fn a_notice_is_queued_once_even_if_its_id_is_decided_again_after_it_was_sent() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let given = everything();
    ledger.record(&given).unwrap();
    let reader = ledger.reader().unwrap();
    let waiting = reader.outbox_pending(10).unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(Some(&waiting[0].id), given.events[1].notice.as_ref());
    assert_eq!(
        (waiting[0].time, &waiting[0].body),
        (given.at, &given.events[1].body)
    );
    ledger.settle(&[waiting[0].id.clone()], given.at).unwrap();
    ledger
        .record(&Batch {
            events: given.events,
            ..batch(given.at)
        })
        .unwrap();
    assert_eq!(reader.outbox_pending(10).unwrap(), []);
    assert_eq!(reader.outbox_waiting().unwrap(), 0);
}

#[test]
fn the_same_key_twice_keeps_the_first_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let given = everything();
    ledger.record(&given).unwrap();
    let mut again = batch(given.at);
    again.commands = vec![CommandRecord {
        answer: "other".into(),
        ..given.commands[0].clone()
    }];
    ledger.record(&again).unwrap();
    assert_eq!(ledger.answer("k1").unwrap().unwrap().answer, "{}");
}

#[test]
fn rows_are_chosen_by_their_start_from_inclusive_to_exclusive() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let start = at("2026-11-20T10:00:00Z");
    let mut step = batch(start);
    // A second machine with other minutes, so that seeking passes over its rows.
    step.usage = (0..5)
        .flat_map(|i| {
            let from = start + SECOND * 60 * i;
            ["a", "b"].map(|machine| {
                let until = from + SECOND * if machine == "a" { 60 } else { 30 };
                usage(machine, &TimeZone::UTC, from, until, moved(1 << i, 0, 0))
            })
        })
        .collect();
    ledger.record(&step).unwrap();
    let reader = ledger.reader().unwrap();
    let sum = |from: Option<i32>, to: Option<i32>| -> u64 {
        let bound = |seconds: Option<i32>| seconds.map(|seconds| start + SECOND * seconds);
        let rows = reader
            .usage(&"a".into(), Resolution::Minute, bound(from), bound(to))
            .unwrap();
        rows.iter().map(|row| row.traffic.received.0).sum()
    };
    assert_eq!(sum(None, None), 0b11111);
    assert_eq!(sum(Some(60), Some(180)), 0b00110);
    assert_eq!(sum(Some(61), Some(181)), 0b01100);
    assert_eq!(sum(Some(59), None), 0b11110);
    assert_eq!(
        reader
            .usage(&"nobody".into(), Resolution::Day, None, None)
            .unwrap(),
        []
    );
}
