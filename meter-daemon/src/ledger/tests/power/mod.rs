//! The power fails. Every write, truncation, sync and renaming that a run of the ledger makes
//! is recorded; for each of these instants, what a disk could hold then is laid out, opened,
//! and held against what had been acknowledged. The same for power that fails again while the
//! ledger recovers. Variants that break a rule on purpose show that the harness would see it.

mod disk;
mod vfs;
mod world;

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use self::{
    disk::{Dice, Disk, Image, Operation, Promise},
    vfs::{Recorded, Syncs},
    world::{Meter, check, goes_on, notice_id, time},
};
use super::*;

/// How many instants are tried, unless the environment asks for another number.
const CUTS: u64 = 2_000;
const CUTS_VARIABLE: &str = "METERD_TEST_POWER_CUTS";

/// Steps of a run.
const STEPS: u64 = 24;

/// What is done differently than the ledger does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    AsItIs,
    /// Cursors are committed on their own, after what they stand for.
    CursorApart,
    /// Syncs are acknowledged and not done.
    SyncsIgnored,
    /// SQLite does not ask for any.
    SynchronousOff,
    /// The log is synced at checkpoints only.
    SynchronousNormal,
}

/// A run: what was on the disk before, what was done to it, and the steps that were begun.
struct Run {
    before: Disk,
    operations: Vec<Operation>,
    steps: Vec<u64>,
}

/// A directory in memory where there is one: nothing here is really synced anyway.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Everything that the daemon does with its ledger, again and again: steps, checkpoints,
/// notices that go out, rows that are past their retention, an end and a new start.
fn run(
    directory: &Path,
    variant: Variant,
    mut promise: Promise,
    so_far: &[u64],
    count: u64,
) -> Run {
    let syncs = match variant {
        Variant::SyncsIgnored => Syncs::Ignored,
        _ => Syncs::Kept,
    };
    let mut recorded = Recorded::new(directory, syncs);
    let before = Disk::holding(std::mem::take(&mut recorded.found));
    let mut steps = so_far.to_vec();
    let mut meter = begin(directory, variant);
    recorded.acknowledged(promise);
    for index in 1..=count {
        let step = meter.steps + 1;
        steps.push(step);
        record(&mut meter, variant, step);
        promise.steps = step;
        recorded.acknowledged(promise);
        match index % 12 {
            3 | 7 => meter.ledger.checkpoint().unwrap(),
            5 => {
                let ids: Vec<_> = (1..=step).map(notice_id).collect();
                meter.ledger.settle(&ids, time(step)).unwrap();
                promise.settled = step;
                recorded.acknowledged(promise);
            }
            9 => {
                let retention = Retention {
                    minutes: SignedDuration::from_mins(60),
                    hours: SignedDuration::from_hours(6),
                    ..Retention::default()
                };
                meter.ledger.prune(time(step), &retention).unwrap();
            }
            0 => {
                drop(meter);
                meter = begin(directory, variant);
            }
            _ => {}
        }
    }
    // Not closed: the power fails while it runs.
    let operations = recorded.operations();
    drop(meter);
    Run {
        before,
        operations,
        steps,
    }
}

fn begin(directory: &Path, variant: Variant) -> Meter {
    let meter = Meter::start(directory).unwrap();
    let level = match variant {
        Variant::SynchronousOff => "OFF",
        Variant::SynchronousNormal => "NORMAL",
        _ => return meter,
    };
    let connection = &meter.ledger.connection;
    connection
        .pragma_update(None, "synchronous", level)
        .unwrap();
    meter
}

fn record(meter: &mut Meter, variant: Variant, step: u64) {
    if variant != Variant::CursorApart {
        return meter.step(step).unwrap();
    }
    let batch = meter.poll(step);
    let cursors = Batch {
        slots: batch.slots.clone(),
        freed: batch.freed.clone(),
        ..super::batch(batch.at)
    };
    let rest = Batch {
        slots: Vec::new(),
        freed: Vec::new(),
        ..batch.clone()
    };
    meter.ledger.record(&rest).unwrap();
    meter.ledger.record(&cursors).unwrap();
    meter.took(&batch, step);
}

/// What came of the cuts.
#[derive(Debug, Default)]
struct Found {
    cuts: AtomicU64,
    again: AtomicU64,
    broken: std::sync::Mutex<Vec<String>>,
}

impl Found {
    fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }
}

fn lay_out(image: &Image) -> tempfile::TempDir {
    let directory = directory();
    for (name, bytes) in image {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

/// Cuts the power at each of a run's operations, or at a share of them, and at some of those
/// again while the ledger recovers.
fn cut_everywhere(run: &Run, variant: Variant, seed: u64, one_in: u64, again: bool, found: &Found) {
    let mut dice = Dice::new(seed);
    let mut disk = run.before.clone();
    for (at, operation) in run.operations.iter().enumerate() {
        disk.take(operation);
        if dice.below(one_in) != 0 {
            continue;
        }
        let image = disk.cut(&mut dice);
        let directory = lay_out(&image);
        let outcome = after_cut(directory.path(), run, disk.promised);
        found.cuts.fetch_add(1, Ordering::Relaxed);
        if let Err(broken) = outcome {
            let line = format!("seed {seed}, operation {at} ({operation}): {broken}");
            found.broken.lock().unwrap().push(line);
            continue;
        }
        if again && dice.below(60) == 0 {
            cut_again(&image, run, disk.promised, variant, dice.next(), found);
        }
    }
}

fn after_cut(directory: &Path, run: &Run, promised: Promise) -> Result<(), String> {
    let mut meter = check(directory, &run.steps, promised)?;
    goes_on(&mut meter, &run.steps, promised)
}

/// The power fails again, some operations into what comes after the first time.
fn cut_again(
    image: &Image,
    run: &Run,
    promised: Promise,
    variant: Variant,
    seed: u64,
    found: &Found,
) {
    let directory = lay_out(image);
    let meter = Meter::start(directory.path()).unwrap();
    let there = meter.steps;
    drop(meter);
    // From the same image: the look itself has recovered the other one.
    drop(directory);
    let directory = lay_out(image);
    let so_far: Vec<u64> = run
        .steps
        .iter()
        .copied()
        .filter(|step| *step <= there)
        .collect();
    let promised = Promise {
        steps: there,
        ..promised
    };
    let next = self::run(directory.path(), variant, promised, &so_far, 4);
    let before = found.cuts.load(Ordering::Relaxed);
    cut_everywhere(&next, variant, seed, 10, false, found);
    let cuts = found.cuts.load(Ordering::Relaxed) - before;
    found.again.fetch_add(cuts, Ordering::Relaxed);
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to search is the caller's choice"
)]
fn wanted() -> u64 {
    std::env::var(CUTS_VARIABLE).map_or(CUTS, |text| text.parse().expect(CUTS_VARIABLE))
}

/// Two threads, each with runs of its own, until enough has been tried.
#[expect(clippy::disallowed_methods, reason = "it says how long it took")]
fn search(variant: Variant, cuts: u64) -> Found {
    let found = Found::default();
    let begun = Instant::now();
    let directory = directory();
    let run = run(directory.path(), variant, Promise::default(), &[], STEPS);
    let seeds = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while found.cuts.load(Ordering::Relaxed) < cuts {
                    let seed = seeds.fetch_add(1, Ordering::Relaxed);
                    cut_everywhere(&run, variant, seed, 8, true, &found);
                }
            });
        }
    });
    // Past the harness, which keeps what passing tests print: the number is part of the proof.
    let line = format!(
        "\nshown: {variant:?}: {} operations in {STEPS} steps; the power cut at {} instants, {} of them \
         while recovering: {} broke a promise ({:.1?})\n",
        run.operations.len(),
        found.cuts.load(Ordering::Relaxed),
        found.again.load(Ordering::Relaxed),
        found.broken().len(),
        begun.elapsed(),
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    found
}

#[test]
fn whenever_the_power_fails_what_was_acknowledged_is_there_once_and_the_next_poll_takes_the_rest() {
    let found = search(Variant::AsItIs, wanted());
    let broken = found.broken();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Whether the harness would notice, and by which words.
fn caught(variant: Variant, words: &[&str]) {
    let broken = search(variant, 300).broken();
    for word in words {
        let line = broken.iter().find(|line| line.contains(word));
        println!(
            "  {}",
            line.unwrap_or_else(|| panic!("nothing is {word}: {broken:#?}"))
        );
    }
}

#[test]
fn the_harness_catches_a_cursor_outside_the_transaction() {
    // By the law that `verify` checks, before the harness compares the cursors itself.
    caught(
        Variant::CursorApart,
        &["its counters and what was imported"],
    );
}

#[test]
fn the_harness_catches_syncs_that_are_not_done() {
    caught(Variant::SyncsIgnored, &["was acknowledged"]);
}

#[test]
fn the_harness_catches_syncs_that_are_not_asked_for() {
    caught(Variant::SynchronousOff, &["was acknowledged"]);
}

#[test]
fn the_harness_catches_a_commit_that_is_acknowledged_before_its_sync() {
    caught(Variant::SynchronousNormal, &["was acknowledged"]);
}
