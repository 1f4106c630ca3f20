//! Whether the machine itself stood still while something was timed: its processors were
//! somebody else's, or had more to do than there is time. What was timed meanwhile says
//! nothing about meterd, and is measured again, out loud.

use std::{
    fmt, fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Result, links};

/// A sleeper that wakes later than this found no processor.
const LATE: Duration = Duration::from_millis(10);

/// So much of that in all spoils what was timed.
const LONG: Duration = Duration::from_millis(30);

/// A share of the time in which somebody waited for a processor.
const BUSY: f64 = 0.5;

/// A change of a link that takes longer than this waited for somebody else's.
const STILL: Duration = Duration::from_millis(500);

/// How often something is measured, at most.
const ROUNDS: usize = 6;

/// Measures anew while the outcome is not `good` and the machine is what held it up; the last
/// outcome otherwise, for the caller to judge.
#[expect(
    clippy::print_stdout,
    reason = "that a test took a second look is shown"
)]
pub fn undisturbed<T>(
    what: &str,
    good: impl Fn(&T) -> bool,
    mut measure: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut round = 1;
    loop {
        let heart = Heart::beating();
        let outcome = measure()?;
        let disturbance = heart.stop();
        if good(&outcome) || round == ROUNDS || !disturbance.matters() {
            return Ok(outcome);
        }
        println!("{what}: {disturbance}; measured again");
        round += 1;
    }
}

/// What `work` gives, and how long it took without the time in which the machine stood still.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let heart = Heart::beating();
    let start = Instant::now();
    let outcome = work()?;
    let took = start.elapsed();
    Ok((outcome, took.saturating_sub(heart.stop().late)))
}

/// Whether the machine's links stand still: the kernel has one at a time change any of them, in
/// whatever namespace, and one with thousands that ends holds up all others for seconds.
#[must_use]
pub fn of_links() -> bool {
    let begun = Instant::now();
    links::up("lo").is_ok() && begun.elapsed() > STILL
}

/// For how long the calling thread and a process have wanted to run and found no processor so
/// far: what passes of that while something is awaited is no time of theirs.
#[must_use]
pub fn kept_waiting(pid: Option<u32>) -> Duration {
    let threads = pid.and_then(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
    let threads = threads.into_iter().flatten().flatten();
    let paths = threads
        .map(|thread| thread.path())
        .chain(["/proc/thread-self".into()]);
    paths.map(|path| waited(&path)).sum()
}

/// The second of its three figures; nothing where the kernel keeps none.
fn waited(thread: &Path) -> Duration {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = text.split(' ').nth(1).and_then(|it| it.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// What the machine did to whoever wanted to run.
#[derive(Clone, Copy, Debug)]
struct Disturbance {
    /// By how much sleeps were too long, those that were by more than a moment.
    late: Duration,
    /// In this share of the time somebody waited for a processor, where the kernel tells.
    waited: Option<f64>,
}

impl Disturbance {
    fn matters(self) -> bool {
        self.late > LONG || self.waited.is_some_and(|share| share > BUSY)
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the machine woke sleepers {:?} late", self.late)?;
        match self.waited {
            Some(share) => write!(
                f,
                " and had somebody wait for a processor {:.0} % of the time",
                share * 100.0
            ),
            None => Ok(()),
        }
    }
}

/// A thread that sleeps ten milliseconds at a time and notes by how much it overslept.
struct Heart {
    begun: Instant,
    pressure: Option<Duration>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Heart {
    fn beating() -> Self {
        const BEAT: Duration = Duration::from_millis(10);
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut late = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                thread::sleep(BEAT);
                let over = start.elapsed().saturating_sub(BEAT);
                if over > LATE {
                    late += over;
                }
            }
            late
        });
        Self {
            begun: Instant::now(),
            pressure: pressure(),
            stop,
            thread,
        }
    }

    fn stop(self) -> Disturbance {
        let waited = pressure()
            .zip(self.pressure)
            .map(|(after, before)| after.saturating_sub(before));
        let share = waited.map(|waited| waited.div_duration_f64(self.begun.elapsed()));
        self.stop.store(true, Ordering::Relaxed);
        let late = self.thread.join();
        Disturbance {
            late: late.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            waited: share,
        }
    }
}

/// For how long somebody has waited for a processor since the machine started.
fn pressure() -> Option<Duration> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = text.lines().find(|line| line.starts_with("some"))?;
    let (_, total) = some.split_once("total=")?;
    total.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_is_measured_once_and_what_is_not_on_a_calm_machine_neither() {
        let mut rounds = 0;
        let outcome = undisturbed(
            "nothing",
            |_| true,
            || {
                rounds += 1;
                Ok(rounds)
            },
        );
        assert_eq!(outcome, Ok(1));
        let calm = Disturbance {
            late: Duration::from_millis(2),
            waited: Some(0.1),
        };
        assert!(!calm.matters());
        assert!(
            Disturbance {
                late: Duration::from_secs(2),
                ..calm
            }
            .matters()
        );
        assert!(
            Disturbance {
                waited: Some(0.9),
                ..calm
            }
            .matters()
        );
    }

    #[test]
    fn what_is_never_good_is_measured_a_few_times_at_most() {
        let mut rounds = 0;
        let outcome = undisturbed(
            "a long sleep",
            |_| false,
            || {
                rounds += 1;
                Ok(rounds)
            },
        );
        assert!(outcome.is_ok_and(|last| last <= ROUNDS));
    }
}
