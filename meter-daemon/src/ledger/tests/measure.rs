//! Figures, for `cargo test --release -p meter-daemon --lib ledger::tests::measure -- --ignored --nocapture`.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::*;
use crate::engine::units::MachineId;

const MACHINES: u32 = 10_000;
const MINUTES: i32 = 120;

/// A node's minute: every machine has two slots, moved 1 to 250 MB, and its sums changed.
fn minute(index: i32, slots: &mut [SlotRecord], sums: &mut [Traffic]) -> Batch {
    let start = at("2026-11-20T10:00:07.25Z");
    let to = start + SECOND * 60 * (index + 1);
    let mut step = batch(to);
    let period = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
    for (machine, pair) in slots.chunks_mut(2).enumerate() {
        let bytes = 1_000_000
            + (machine as u64 * 7_919 + index.unsigned_abs() as u64 * 104_729) % 249_000_000;
        let traffic = moved(bytes, bytes / 3, 0);
        for slot in pair.iter_mut() {
            slot.cursor.traffic += moved(bytes / 2, bytes / 6, 0);
            slot.cursor.packets[0] += bytes / 1_500;
            slot.cursor.packets[1] += bytes / 4_500;
            slot.cursor.frames[0] += Bytes(bytes / 2);
            slot.cursor.frames[1] += Bytes(bytes / 6);
        }
        sums[machine] += traffic;
        let name = pair[0].machine.clone();
        step.changes.machines.push(MachineChange {
            machine: name.clone(),
            state: (index == 0).then(|| "{\"state\":\"normal\",\"armed\":[1,2,3]}".to_owned()),
            running: running(period.0, period.1, to, sums[machine]),
        });
        step.usage.push(Usage {
            machine: name,
            zone: TimeZone::UTC,
            from: to - SECOND * 60,
            to,
            traffic,
        });
    }
    step.slots = slots.to_vec();
    step
}

/// What this thread has had of the processors, which a busy machine does not lengthen.
fn on_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn size(directory: &std::path::Path) -> u64 {
    fs::metadata(directory.join("ledger.db")).unwrap().len()
}

#[test]
#[ignore = "figures of a full node, in release mode"]
#[expect(
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "it prints figures"
)]
fn a_full_nodes_minute_is_committed_well_within_100_ms_and_takes_25_bytes_a_machine() {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (mut ledger, _) = Ledger::open(directory.path()).unwrap();
    let mut slots: Vec<_> = (0..MACHINES * 2)
        .map(|index| slot(&format!("machine-{:05}", index / 2), index))
        .collect();
    let mut sums = vec![Traffic::ZERO; slots.len() / 2];
    let (mut commits, mut checkpoints, mut first) = (Vec::new(), Vec::new(), 0);
    let mut cpu = Duration::ZERO;
    for index in 0..MINUTES {
        let step = minute(index, &mut slots, &mut sums);
        let (begun, cpu_before) = (Instant::now(), on_cpu());
        ledger.record(&step).unwrap();
        commits.push(begun.elapsed());
        cpu += on_cpu() - cpu_before;
        let begun = Instant::now();
        ledger.checkpoint().unwrap();
        checkpoints.push(begun.elapsed());
        if index == 0 {
            first = size(directory.path());
        }
    }
    let reader = ledger.reader().unwrap();
    let whole = size(directory.path());
    println!("first commit {:?}, second {:?}", commits[0], commits[1]);
    let worst = commits[1..].iter().copied().max().unwrap();
    for (what, times) in [("commit", &mut commits), ("checkpoint", &mut checkpoints)] {
        times.sort();
        println!(
            "{what}: median {:?}, 90th {:?}",
            times[times.len() / 2],
            times[times.len() * 9 / 10]
        );
    }
    println!("worst commit after the first {worst:?}");
    println!(
        "processor time a commit: {:?}",
        cpu / MINUTES.unsigned_abs()
    );
    let machine_minutes = f64::from(MACHINES) * f64::from(MINUTES);
    let (all, growth) = (
        whole as f64 / machine_minutes,
        (whole - first) as f64 / (machine_minutes - f64::from(MACHINES)),
    );
    println!("bytes a machine-minute: {all:.2} with all that stands once, {growth:.2} of growth");

    let name: MachineId = "machine-05000".into();
    for by in [Resolution::Minute, Resolution::Hour, Resolution::Day] {
        let begun = Instant::now();
        let rows = reader.usage(&name, by, None, None).unwrap().len();
        println!("{rows} rows by {by:?}: {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let verified = reader.verify().unwrap();
    println!("verify: {} rows in {:?}", verified.rows, begun.elapsed());
    drop((ledger, reader));
    let begun = Instant::now();
    let (_, remembered) = Ledger::open(directory.path()).unwrap();
    println!(
        "start: {:?}, {} slots, {} machines",
        begun.elapsed(),
        remembered.slots.len(),
        remembered.kept.machines.len()
    );
    assert!(growth <= 25.0, "{growth}");
}
