//! The daemon itself, with real taps: what a minute of it takes, and its memory.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result, http,
    meterd::{End, Meterd, sample},
    sandbox::Sandbox,
    tap::Tap,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{MACHINES, PLAN, Table, configuration, machines, ms, name, tap};

/// Polls that are measured.
const POLLS: usize = 8;
/// The interval between them, as configured, and a little more.
const INTERVAL: Duration = Duration::from_millis(5_200);

/// In bytes, of `/proc/PID/status`.
fn memory(pid: u32, key: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).could_not(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    let kilobytes = kilobytes.ok_or_else(|| Failure::new(format!("no {key} in {path}")))?;
    Ok(kilobytes * 1024.0)
}

fn mb(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

/// From now on the most that is resident is reckoned anew.
fn forget_the_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").could_not(|| "reset the peak of memory")
}

/// What the daemon logged of its polls, each of them in parts, in microseconds.
fn polls(log: &str) -> Vec<Vec<(String, u64)>> {
    let part = |word: &str| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.parse().ok()?))
    };
    log.lines()
        .filter_map(|line| line.split_once(" polled "))
        .map(|(_, parts)| parts.split(' ').filter_map(part).collect())
        .collect()
}

fn median(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let at = |per_cent: usize| values.get(values.len() * per_cent / 100).copied();
    match (at(50), at(90)) {
        (Some(median), Some(late)) => format!(
            "{} median, {} 90th, of {}",
            ms(Duration::from_micros(median)),
            ms(Duration::from_micros(late)),
            values.len()
        ),
        _ => "not measured: METERD_LOG does not show them".to_owned(),
    }
}

/// How many of so many taps have a guest who holds them open, as far as this process may.
fn senders(interfaces: u32) -> Result<u32> {
    let files = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: files,
        maximum: files,
    };
    setrlimit(Resource::Nofile, limit).could_not(|| "ask for more open files")?;
    let room = files.map_or(interfaces, |files| {
        u32::try_from(files).unwrap_or(interfaces)
    });
    Ok(interfaces.min(room.saturating_sub(100)))
}

/// The daemon on that ledger, with so many taps.
pub(super) fn measure(table: &mut Table, ledger: &Path, interfaces: u32) -> Result<()> {
    let senders = senders(interfaces)?;
    Sandbox::run(|sandbox| {
        meter_tests::links::up("lo")?;
        let begun = Instant::now();
        let mut taps = Vec::new();
        for slot in 0..interfaces {
            let tap = Tap::new(&tap(slot))?.lasting()?;
            if slot < senders {
                taps.push(tap);
            }
        }
        eprintln!(
            "{interfaces} taps made in {:?}; {senders} of them send",
            begun.elapsed()
        );
        let mut meterd = Meterd::new(sandbox, &configuration(interfaces))?;
        meterd.write("plans/edis.toml", PLAN)?;
        for (name, text) in machines() {
            meterd.write(&name, &text)?;
        }
        let state = meterd.directory().join("state");
        fs::create_dir_all(&state)
            .and_then(|()| fs::copy(ledger.join("ledger.db"), state.join("ledger.db")))
            .could_not(|| "copy the year-old ledger")?;
        let begun = Instant::now();
        meterd.start()?;
        let started = begun.elapsed();
        table.add(
            "start of the daemon on it, until it answers",
            "2 s",
            format!("{} with {interfaces} interfaces", ms(started)),
        );
        let pid = meterd.pid().ok_or_else(|| Failure::new("no meterd"))?;
        table.add(
            "  resident at most until then",
            "",
            mb(memory(pid, "VmHWM:")?),
        );
        let before = polls(&meterd.log()).len();
        sleep(INTERVAL);
        forget_the_peak(pid)?;
        for _ in 0..POLLS {
            for tap in &mut taps {
                tap.send(&[2; 1_000])?;
            }
            sleep(INTERVAL);
        }
        the_minute(table, &polls(&meterd.log())[before..]);
        at_rest(table, pid, interfaces)?;
        answering(table, &meterd, pid)?;
        the_start_again(table, &mut meterd)?;
        // First: links that nobody takes leave thousands of the kernel's workers behind.
        let begun = Instant::now();
        let detached = meterd.command(&["detach"])?.status();
        if !detached.could_not(|| "run meterd detach")?.success() {
            return Err(Failure::new("meterd could not detach"));
        }
        eprintln!("detached in {:?}", begun.elapsed());
        Ok(())
    })
}

/// Everything is attached: what a restart takes, and an upgrade.
fn the_start_again(table: &mut Table, meterd: &mut Meterd<'_>) -> Result<()> {
    meterd.stop(End::Asked)?;
    let begun = Instant::now();
    meterd.start()?;
    table.add(
        "start again, where all are metered already",
        "2 s",
        ms(begun.elapsed()),
    );
    for line in meterd
        .log()
        .lines()
        .filter(|line| line.contains(" started "))
    {
        eprintln!("{line}");
    }
    Ok(())
}

fn the_minute(table: &mut Table, polls: &[Vec<(String, u64)>]) {
    let of = |wanted: &[&str]| -> String {
        let sums = polls.iter().map(|parts| {
            let parts = parts
                .iter()
                .filter(|(key, _)| wanted.contains(&key.as_str()));
            parts.map(|(_, micros)| micros).sum()
        });
        median(sums.collect())
    };
    for (what, target, parts) in [
        (
            "a minute in the daemon, all of it: what follows",
            "100 ms",
            &["links", "whose", "bytes", "applied", "checkpoint"][..],
        ),
        ("  the kernel's list of interfaces", "", &["links"]),
        (
            "  whose they are, and our counts against its",
            "",
            &["whose"],
        ),
        ("  counters, cursors, decision, commit", "", &["bytes"]),
        ("  limits armed, what stands compared", "", &["applied"]),
        ("  checkpoint", "", &["checkpoint"]),
    ] {
        table.add(what, target, of(parts));
    }
}

fn at_rest(table: &mut Table, pid: u32, interfaces: u32) -> Result<()> {
    let (now, most) = (memory(pid, "VmRSS:")?, memory(pid, "VmHWM:")?);
    table.add(
        "resident memory between polls, and at most during them",
        "64 MB",
        format!(
            "{}, {} ({MACHINES} machines, {interfaces} interfaces)",
            mb(now),
            mb(most)
        ),
    );
    for part in ["RssAnon:", "RssFile:", "RssShmem:"] {
        eprintln!("{part} {}", mb(memory(pid, part)?));
    }
    Ok(())
}

fn answering(table: &mut Table, meterd: &Meterd<'_>, pid: u32) -> Result<()> {
    let one = format!("/v1/machines/{}/usage?by=hour", name(MACHINES / 2));
    for (what, path) in [
        ("GET /v1/machines", "/v1/machines"),
        ("GET /metrics", "/metrics"),
        ("GET /v1/events, 10 000 of them", "/v1/events?limit=10000"),
        ("GET /v1/invoices", "/v1/invoices"),
        ("a machine's usage by hour", one.as_str()),
    ] {
        forget_the_peak(pid)?;
        let begun = Instant::now();
        let answer = match path {
            "/metrics" => http::get(9750, path, &[]),
            _ => http::over_unix(&meterd.socket(), "GET", path, &[], ""),
        }?;
        let took = begun.elapsed();
        if answer.status != 200 {
            return Err(Failure::new(format!("{path}: {}", answer.body)));
        }
        let most = memory(pid, "VmHWM:")?;
        sleep(Duration::from_millis(1_500));
        table.add(
            "resident at most while it answers, and soon after",
            "64 MB",
            format!(
                "{}, {} ({what}, {} in {})",
                mb(most),
                mb(memory(pid, "VmRSS:")?),
                mb(answer.body.len() as f64),
                ms(took)
            ),
        );
    }
    let metrics = meterd.metrics(9750)?;
    let of = |name| sample(&metrics, name, &[]).unwrap_or(f64::NAN);
    let (sum, count) = (
        of("meterd_poll_duration_seconds_sum"),
        of("meterd_poll_duration_seconds_count"),
    );
    eprintln!("by the metrics a poll took {:.1} ms", sum / count * 1e3);
    Ok(())
}
