//! What ten thousand machines cost. Run with
//! `cargo test --release -p meter-daemon --lib engine::tests::scale -- --ignored --nocapture`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::SignedDuration;

use super::build::*;
use crate::engine::{Engine, EngineSettings, Observation, Sample, plan::Terms, units::*};

const MACHINES: usize = 10_000;

fn engine(plan: fn() -> crate::engine::plan::Plan) -> (Engine, Vec<MachineId>) {
    let shared = Arc::new(plan());
    let machines = (0..MACHINES).map(|index| crate::engine::plan::Machine {
        plan: Some(Arc::clone(&shared)),
        ..machine(&format!("machine-{index:05}"), plan())
    });
    let terms: Terms = terms(machines.collect(), Vec::new());
    let ids = terms.machines.keys().cloned().collect();
    let settings = EngineSettings::default();
    let mut engine = Engine::new(Arc::new(terms), Default::default(), settings).unwrap();
    engine.step(at("2026-06-01"), &Observation::default());
    (engine, ids)
}

fn minute(ids: &[MachineId], number: i64) -> Observation {
    let from = at("2026-06-01") + SignedDuration::from_mins(number);
    let traffic = ids.iter().map(|machine| Sample {
        machine: machine.clone(),
        from,
        to: from + SignedDuration::from_mins(1),
        traffic: Traffic {
            received: Bytes(1_000_000),
            sent: Bytes(500_000),
            exempt: Bytes::ZERO,
        },
    });
    Observation {
        traffic: traffic.collect(),
        commands: Vec::new(),
    }
}

/// The fastest of several: what it costs when nobody else uses the processor.
fn fastest(mut work: impl FnMut() -> Duration) -> Duration {
    (0..15).map(|_| work()).min().unwrap()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
#[ignore = "a measurement: release build, quiet machine"]
fn ten_thousand_machines_are_decided_in_20_ms_and_an_idle_one_in_a_microsecond() {
    for plan in [edis, calendar_suspend] {
        let (mut engine, ids) = engine(plan);
        let mut number = 0;
        let mut next_minute = |engine: &mut Engine| {
            let observation = minute(&ids, number);
            number += 1;
            let now = at("2026-06-01") + SignedDuration::from_mins(number);
            let mut times = [Duration::ZERO; 3];
            let started = Instant::now();
            let mut next = engine.clone();
            times[0] = started.elapsed();
            let started = Instant::now();
            next.step(now, &observation);
            times[1] = started.elapsed();
            let started = Instant::now();
            let changes = next.changes_since(engine);
            times[2] = started.elapsed();
            assert_eq!(changes.machines.len(), MACHINES);
            *engine = next;
            times
        };
        let busy = fastest(|| next_minute(&mut engine)[1]);
        let clone = fastest(|| next_minute(&mut engine)[0]);
        let changes = fastest(|| next_minute(&mut engine)[2]);
        let now = at("2026-06-01T23:00:00");
        let idle = fastest(|| {
            let started = Instant::now();
            let effects = engine.step(now, &Observation::default());
            assert!(effects.is_empty());
            started.elapsed()
        });
        let deadline = fastest(|| {
            let started = Instant::now();
            assert!(engine.deadline().is_some());
            started.elapsed()
        });
        eprintln!(
            "{}: {MACHINES} machines: clone {clone:?}, step with traffic for all {busy:?}, \
             changes {changes:?}, idle step {idle:?}, deadline {deadline:?}",
            plan().name
        );
        if cfg!(not(debug_assertions)) {
            assert!(clone < Duration::from_millis(1), "{clone:?}");
            assert!(busy < Duration::from_millis(20), "{busy:?}");
            assert!(idle < Duration::from_millis(10), "{idle:?}");
        }
    }
}
