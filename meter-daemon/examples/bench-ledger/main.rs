//! What the ledger of a full node costs, against its targets: `cargo xtask bench ledger`.
//!
//! Ten thousand machines with two interfaces each, all of them with traffic. First in this
//! process: the same engine, cursors and ledger that the daemon's loop joins. Then, as root,
//! the daemon itself on a ledger that is a year old, with as many real taps as are asked for,
//! each of which sends something between two polls.
//! A figure that misses its target is told and fails nothing; books that do not add up do.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a measurement: it reads clocks, prints figures, and ends where something is wrong"
)]

mod node;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use meter_daemon::{
    config::Config,
    engine::{
        Engine, EngineSettings, Observation, Sample,
        plan::Terms,
        record::Kept,
        units::{Bytes, MachineId, Traffic},
    },
    ledger::{
        Batch, BootId, CounterId, Generation, InterfaceId, Ledger, MapSetId, Reading, Resolution,
        Slot, SlotOwner, SlotRecord, Usage, cursor,
    },
};
use meter_tests::table::markdown;

const MACHINES: u32 = 10_000;
const MINUTES: i64 = 120;
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const DAY: i64 = 86_400;

fn name(machine: u32) -> String {
    format!("machine-{machine:05}")
}

fn tap(slot: u32) -> String {
    format!("tap{:05}i{}", slot / 2, slot % 2)
}

/// What is in `meterd.toml`, room for so many interfaces.
fn configuration(interfaces: u32) -> String {
    let room = (interfaces + 1_000).max(4_096);
    format!("max-interfaces = {room}\npoll-interval = '5s'\n[metrics]\nlisten = '127.0.0.1:9750'\n")
}

/// The files in `machines/`, a thousand in each, all on the plan `edis`.
fn machines() -> impl Iterator<Item = (String, String)> {
    let part = |first: u32| {
        let machines = (first..first + 1_000).map(|machine| {
            format!(
                "[[machine]]\nid = '{}'\ninterfaces = ['{}', '{}']\nplan = 'edis'\n\
                 renewal-day = {}\n",
                name(machine),
                tap(machine * 2),
                tap(machine * 2 + 1),
                machine % 31 + 1
            )
        });
        (format!("machines/{first:05}.toml"), machines.collect())
    };
    (0..MACHINES).step_by(1_000).map(part)
}

const PLAN: &str = include_str!("../../../config/plans/edis.toml");

fn terms(directory: &Path) -> Arc<Terms> {
    for folder in ["plans", "machines"] {
        fs::create_dir_all(directory.join(folder)).unwrap();
    }
    fs::write(directory.join("plans/edis.toml"), PLAN).unwrap();
    for (name, text) in machines() {
        fs::write(directory.join(name), text).unwrap();
    }
    let file = directory.join("meterd.toml");
    fs::write(&file, configuration(0)).unwrap();
    let config = Config::load(&file).unwrap_or_else(|wrong| panic!("{wrong}"));
    Arc::new(config.terms([].iter()))
}

fn engine(terms: &Arc<Terms>, kept: Kept) -> Engine {
    Engine::new(Arc::clone(terms), kept, EngineSettings::default()).unwrap()
}

/// A line of the table.
struct Figure {
    what: &'static str,
    target: &'static str,
    measured: String,
}

#[derive(Default)]
struct Table(Vec<Figure>);

impl Table {
    fn add(&mut self, what: &'static str, target: &'static str, measured: String) {
        eprintln!("{what}: {measured}");
        self.0.push(Figure {
            what,
            target,
            measured,
        });
    }

    fn print(&self) {
        let row = |figure: &Figure| {
            vec![
                figure.what.to_owned(),
                figure.target.to_owned(),
                figure.measured.clone(),
            ]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        print!("{}", markdown(&["what", "target", "measured"], &rows));
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Median and worst of ten.
fn spread(times: &mut [Duration]) -> String {
    times.sort();
    format!(
        "{} median, {} 90th",
        ms(times[times.len() / 2]),
        ms(times[times.len() * 9 / 10])
    )
}

/// What this thread has had of the processors, which a busy machine does not lengthen.
fn on_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn slots() -> Vec<SlotRecord> {
    let owner = |slot: u32| SlotOwner {
        counter: CounterId {
            boot: BootId("5f0c1a52-7f0e-4f3a-9d39-bench".into()),
            map_set: MapSetId(7),
            slot: Slot(slot),
            generation: Generation(1),
        },
        machine: name(slot / 2).as_str().into(),
        interface: InterfaceId {
            netns: 1,
            ifindex: 100 + slot,
        },
        name: tap(slot),
        base: Reading::default(),
        credit: None,
        credits: false,
    };
    (0..MACHINES * 2).map(owner).map(SlotRecord::of).collect()
}

/// What every counter shows a minute later: 1 to 250 MB a machine.
fn readings(slots: &[SlotRecord], minute: i64) -> Vec<Reading> {
    let moved = |record: &SlotRecord| {
        let machine = u64::from(record.counter.slot.0 / 2);
        let bytes = 1_000_000 + (machine * 7_919 + minute.unsigned_abs() * 104_729) % 249_000_000;
        let mut reading = record.cursor;
        reading.traffic += Traffic {
            received: Bytes(bytes / 2),
            sent: Bytes(bytes / 6),
            exempt: Bytes::ZERO,
        };
        reading.packets[0] += bytes / 1_500;
        reading.packets[1] += bytes / 4_500;
        reading.frames[0] += Bytes(bytes / 2);
        reading.frames[1] += Bytes(bytes / 6);
        reading
    };
    slots.iter().map(moved).collect()
}

/// The loop's cycle but for reading the kernel: cursors, engine, one transaction.
fn cycle(
    ledger: &mut Ledger,
    engine: &mut Engine,
    slots: &mut [SlotRecord],
    readings: &[Reading],
    now: Timestamp,
) -> [Duration; 2] {
    let begun = Instant::now();
    let mut traffic: BTreeMap<MachineId, Traffic> = BTreeMap::new();
    for (record, reading) in slots.iter_mut().zip(readings) {
        let (moved, next) = cursor::advance(record, reading, None).unwrap();
        *traffic.entry(record.machine.clone()).or_default() += moved;
        *record = next;
    }
    let samples: Vec<Sample> = traffic
        .into_iter()
        .map(|(machine, traffic)| Sample {
            machine,
            from: now - MINUTE,
            to: now,
            traffic,
        })
        .collect();
    let observation = Observation {
        traffic: samples,
        commands: Vec::new(),
    };
    let mut next = engine.clone();
    next.step(now, &observation);
    let mut batch = Batch {
        changes: next.changes_since(engine),
        slots: slots.to_vec(),
        ..Batch::empty(now)
    };
    batch.usage = observation
        .traffic
        .into_iter()
        .map(|sample| Usage {
            zone: next.zone(&sample.machine).cloned().unwrap_or(TimeZone::UTC),
            machine: sample.machine,
            from: sample.from,
            to: sample.to,
            traffic: sample.traffic,
        })
        .collect();
    let decided = begun.elapsed();
    ledger.record(&batch).unwrap();
    *engine = next;
    [decided, begun.elapsed()]
}

fn size(directory: &Path) -> u64 {
    fs::metadata(directory.join("ledger.db")).unwrap().len()
}

/// Two hours of a full node.
fn full_node(table: &mut Table, directory: &Path, terms: &Arc<Terms>) {
    let (mut ledger, remembered) = Ledger::open(directory).unwrap();
    let mut engine = engine(terms, remembered.kept);
    let mut slots = slots();
    let start: Timestamp = "2026-11-20T10:00:07.25Z".parse().unwrap();
    let (mut decisions, mut cycles, mut checkpoints) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cpu, mut first) = (Duration::ZERO, 0);
    for minute in 0..MINUTES {
        let readings = readings(&slots, minute);
        let now = start + MINUTE * i32::try_from(minute + 1).unwrap();
        let before = on_cpu();
        let [decided, whole] = cycle(&mut ledger, &mut engine, &mut slots, &readings, now);
        if minute > 0 {
            cpu += on_cpu() - before;
            decisions.push(decided);
            cycles.push(whole);
        }
        let begun = Instant::now();
        ledger.checkpoint().unwrap();
        checkpoints.push(begun.elapsed());
        if minute == 0 {
            first = size(directory);
        }
    }
    let machine_minutes = f64::from(MACHINES) * (MINUTES - 1) as f64;
    let grown = (size(directory) - first) as f64 / machine_minutes;
    table.add(
        "a minute's cursors, decision and commit (without reading the kernel)",
        "with the reading 100 ms",
        spread(&mut cycles),
    );
    table.add("  of it cursors and decision", "", spread(&mut decisions));
    let each = cpu / u32::try_from(MINUTES - 1).unwrap();
    table.add("  processor time of it", "", ms(each));
    table.add(
        "the checkpoint after it, which no commit waits for",
        "",
        spread(&mut checkpoints),
    );
    table.add(
        "growth a machine-minute with traffic",
        "at most 25 B",
        format!("{grown:.1} B"),
    );

    let before = size(directory);
    let mut now = start + MINUTE * i32::try_from(MINUTES).unwrap();
    for _ in 0..60 {
        now += MINUTE;
        let mut next = engine.clone();
        next.step(now, &Observation::default());
        let batch = Batch {
            changes: next.changes_since(&engine),
            ..Batch::empty(now)
        };
        ledger.record(&batch).unwrap();
        ledger.checkpoint().unwrap();
        engine = next;
    }
    table.add(
        "growth in an hour without traffic",
        "nothing",
        format!("{} B", size(directory) - before),
    );
    let begun = Instant::now();
    let verified = ledger.reader().unwrap().verify().unwrap();
    assert_eq!(verified.difference, None, "the books do not add up");
    table.add(
        "meterd verify of these hours",
        "",
        format!("{} rows in {}", verified.rows, ms(begun.elapsed())),
    );
}

/// A ledger that is a year old: days and months whole. Of minutes and hours, which a start
/// reads the last three days of, those; their room is taken up all the same.
fn year_old(directory: &Path, terms: &Arc<Terms>, now: Timestamp) {
    let (mut ledger, remembered) = Ledger::open(directory).unwrap();
    let before = engine(terms, remembered.kept);
    let mut after = before.clone();
    after.step(now, &Observation::default());
    let each = Traffic {
        received: Bytes(1_000),
        sent: Bytes(100),
        exempt: Bytes::ZERO,
    };
    // A minute for every machine: it gives them their numbers and zones.
    let usage = |machine: &MachineId| Usage {
        machine: machine.clone(),
        zone: TimeZone::UTC,
        from: now - MINUTE,
        to: now,
        traffic: each,
    };
    let batch = Batch {
        changes: after.changes_since(&before),
        usage: terms.machines.keys().map(usage).collect(),
        ..Batch::empty(now)
    };
    ledger.record(&batch).unwrap();
    drop(ledger);
    let connection = rusqlite::Connection::open(directory.join("ledger.db")).unwrap();
    let today = now.as_second() / DAY * DAY;
    let rows = |table: &str, from: i64, step: i64, bytes: u64| {
        let sql = format!(
            "WITH RECURSIVE at (time) AS (SELECT {from} UNION ALL SELECT time + {step} FROM at
                 WHERE time + {step} < {today})
             INSERT INTO {table} SELECT time << 24 | id, {bytes}, {bytes} / 10, 0
             FROM at, machine ORDER BY time, id"
        );
        connection.execute_batch(&sql).unwrap();
    };
    let filler = "CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(600000000)),
                  (zeroblob(600000000)); DROP TABLE filler";
    connection
        .execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        .unwrap();
    rows("day", today - 365 * DAY, DAY, 1_440_000_000);
    rows("month", today - 365 * DAY, 30 * DAY, 43_200_000_000);
    rows("hour", today - 4 * DAY, 3600, 60_000_000);
    connection.execute_batch(filler).unwrap();
}

fn year(table: &mut Table, directory: &Path, terms: &Arc<Terms>, now: Timestamp) {
    year_old(directory, terms, now);
    let begun = Instant::now();
    let (ledger, remembered) = Ledger::open(directory).unwrap();
    let opened = begun.elapsed();
    let engine = engine(terms, remembered.kept);
    let whole = begun.elapsed();
    table.add(
        "start on a year-old ledger: opened, checked and read",
        "with all else 2 s",
        format!("{}, {} with the engine", ms(opened), ms(whole)),
    );
    drop(engine);
    let reader = ledger.reader().unwrap();
    let machine = name(MACHINES / 2).as_str().into();
    let from = now - SignedDuration::from_secs(30 * DAY);
    let mut times = Vec::new();
    for _ in 0..25 {
        let begun = Instant::now();
        let rows = reader
            .usage(&machine, Resolution::Day, Some(from), Some(now))
            .unwrap();
        times.push(begun.elapsed());
        assert!((29..=31).contains(&rows.len()), "{} rows", rows.len());
    }
    table.add("a month by day of one machine", "10 ms", spread(&mut times));
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let room: PathBuf = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let interfaces: u32 = arguments.next().map_or(0, |count| count.parse().unwrap());
    let directory = tempfile::tempdir_in(room).unwrap();
    let terms = terms(directory.path());
    let mut table = Table::default();
    full_node(&mut table, &directory.path().join("full"), &terms);
    let old = directory.path().join("year");
    let now = Timestamp::now();
    year(&mut table, &old, &terms, now);
    if interfaces > 0
        && let Err(failure) = node::measure(&mut table, &old, interfaces)
    {
        table.print();
        eprintln!("error: {failure}");
        std::process::exit(1);
    }
    table.print();
}
