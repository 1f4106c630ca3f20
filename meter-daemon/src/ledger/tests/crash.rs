//! `kill -9` at any instant: what was acknowledged is there, once.

#![expect(
    clippy::disallowed_methods,
    reason = "it runs itself as another process, and kills it after a while"
)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::*;

const DIRECTORY: &str = "METERD_TEST_CRASH_DIRECTORY";
const MACHINES: u32 = 20;

/// What step `n` moves on each machine: sums tell which steps are in.
fn step_bytes(step: u64) -> u64 {
    1_000 + step
}

/// The sums after `steps` steps.
fn sum_after(steps: u64) -> u64 {
    (1..=steps).map(step_bytes).sum()
}

/// The step after `done` ones: cursors, usage, sums and an event that all say the same.
fn next_step(done: u64) -> Batch {
    let number = done + 1;
    // Seven minutes a step, so that hours and days close often.
    let from =
        at("2026-11-20T10:00:00Z") + SignedDuration::from_secs(i64::try_from(done * 420).unwrap());
    let to = from + SECOND * 420;
    let mut step = batch(to);
    for machine in 0..MACHINES {
        let name = format!("m{machine}");
        let mut slot = slot(&name, machine);
        slot.cursor.traffic = moved(sum_after(number), 0, 0);
        step.slots.push(slot);
        let traffic = moved(step_bytes(number), 0, 0);
        step.usage
            .push(usage(&name, &zone("Asia/Kolkata"), from, to, traffic));
        let period = running(
            at("2026-11-01T00:00:00Z"),
            at("2030-01-01T00:00:00Z"),
            to,
            moved(sum_after(number), 0, 0),
        );
        step.changes
            .machines
            .push(change(&name, Some(&number.to_string()), period));
    }
    let mut notice = event(to, "m0", "notice");
    notice.notice = Some(format!("notice-{number}"));
    step.events.push(notice);
    step
}

/// How many steps the ledger holds, everything in it agreeing.
fn steps_in(directory: &Path) -> u64 {
    let (ledger, remembered) = Ledger::open(directory).unwrap();
    let reader = ledger.reader().unwrap();
    let Some(kept) = remembered.kept.machines.first() else {
        assert_eq!(remembered, Remembered::default());
        return 0;
    };
    let steps: u64 = kept.state.parse().unwrap();
    let sum = moved(sum_after(steps), 0, 0);
    assert_eq!(remembered.slots.len(), usize::try_from(MACHINES).unwrap());
    for slot in &remembered.slots {
        assert_eq!(slot.cursor.traffic, sum);
    }
    for kept in &remembered.kept.machines {
        assert_eq!((kept.state.parse(), kept.running.traffic), (Ok(steps), sum));
    }
    for by in HISTORIES {
        assert_eq!(total(&reader, "m7", by), sum, "{by:?}");
    }
    assert_eq!(reader.outbox_waiting().unwrap(), steps);
    assert_eq!(reader.verify().unwrap().difference, None);
    steps
}

/// The child: commits as fast as it can, and says so on its standard output.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_that_commits_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let (mut ledger, remembered) = Ledger::open(Path::new(&directory)).unwrap();
    let first = remembered.kept.machines.first();
    let mut done: u64 = first.map_or(0, |kept| kept.state.parse().unwrap());
    let mut out = std::io::stdout();
    loop {
        ledger.record(&next_step(done)).unwrap();
        done += 1;
        writeln!(out, "acknowledged {done}").unwrap();
        if done.is_multiple_of(5) {
            ledger.checkpoint().unwrap();
        }
    }
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_and_nothing_is_there_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut in_ledger = 0;
    let mut killed_busy = 0;
    for round in 0..40 {
        // xorshift: any instant from before the first commit to the midst of many.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ledger::tests::crash::child_that_commits_until_it_is_killed",
            ])
            .args(["--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        // Every second one has begun to commit, however slow the machine.
        let first = if round % 2 == 0 { lines.next() } else { None };
        std::thread::sleep(Duration::from_micros(seed % 60_000));
        child.kill().unwrap();
        let acknowledged = lines.last().or(first);
        child.wait().unwrap();
        if let Some(acknowledged) = acknowledged {
            killed_busy += 1;
            assert!(acknowledged > in_ledger);
            in_ledger = acknowledged;
        }
        if !directory.path().join("ledger.db").exists() {
            continue;
        }
        let found = steps_in(directory.path());
        // The last commit may have been done and not yet acknowledged; never more than it.
        assert!(
            found == in_ledger || found == in_ledger + 1,
            "round {round}: {found}, {in_ledger}"
        );
        in_ledger = found;
    }
    assert!(
        killed_busy >= 10,
        "only {killed_busy} rounds got as far as a commit"
    );
}
