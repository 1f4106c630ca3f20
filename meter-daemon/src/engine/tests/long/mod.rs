//! A seeded simulation: months of nodes put together by lot, lived through by an engine that is
//! never disturbed, by one that restarts at any step, and by the naive model of `reference`.

mod acts;
mod lockstep;
mod lots;
mod met;
mod nodes;
mod run;
mod telling;

use jiff::{SignedDuration, Timestamp};

use self::{acts::Act, lockstep::Lockstep, lots::Lots, met::Met};
use super::build::at;
use crate::engine::plan::Terms;

/// What one seed makes: a node and what happens to it.
struct History {
    terms: Terms,
    start: Timestamp,
    acts: Vec<Act>,
}

/// A history, and what went wrong in it.
type Wrong = Box<(History, String)>;

fn beginning(lots: &mut Lots) -> (Terms, Timestamp) {
    let terms = nodes::node(lots);
    let start = at("2024-01-01") + SignedDuration::from_secs(lots.seconds(0, 4 * 366 * 86_400));
    (terms, start)
}

/// Lives through the history of a seed while it is drawn.
fn live(seed: u64) -> Result<Lockstep, Wrong> {
    let mut lots = Lots::new(seed);
    let (terms, start) = beginning(&mut lots);
    let mut history = History {
        terms: terms.clone(),
        start,
        acts: Vec::new(),
    };
    let mut lockstep = match Lockstep::new(terms.clone(), start, seed) {
        Ok(lockstep) => lockstep,
        Err(problem) => return Err(Box::new((history, problem))),
    };
    let many = lots.number(8, 50);
    for _ in 0..many {
        let act = acts::draw(&mut lots, &terms, &lockstep.model);
        history.acts.push(act.clone());
        if let Err(problem) = lockstep.live(&act) {
            return Err(Box::new((history, problem)));
        }
    }
    match lockstep.look_alike() {
        Ok(()) => Ok(lockstep),
        Err(problem) => Err(Box::new((history, problem))),
    }
}

/// Lives through a history that was drawn before.
fn relive(history: &History, acts: &[Act], seed: u64) -> Option<String> {
    let start = Lockstep::new(history.terms.clone(), history.start, seed);
    let mut lockstep = match start {
        Ok(lockstep) => lockstep,
        Err(problem) => return Some(problem),
    };
    let wrong = acts.iter().find_map(|act| lockstep.live(act).err());
    wrong.or_else(|| lockstep.look_alike().err())
}

/// The shortest history found that still goes wrong, and how.
fn shrink(history: &History, problem: String, seed: u64) -> (Vec<Act>, String) {
    let (mut acts, mut problem) = (history.acts.clone(), problem);
    let mut part = acts.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < acts.len() {
            let mut fewer = acts.clone();
            fewer.drain(from..(from + part).min(acts.len()));
            match relive(history, &fewer, seed) {
                Some(why) => (acts, problem) = (fewer, why),
                None => from += part,
            }
        }
        part /= 2;
    }
    (acts, problem)
}

fn again(seed: u64) -> String {
    format!(
        "again: METERD_SEED={seed} METERD_SEEDS=1 cargo test -p meter-daemon --lib engine::tests::long"
    )
}

fn report(history: &History, problem: String, seed: u64) -> String {
    let (acts, problem) = shrink(history, problem, seed);
    format!(
        "seed {seed}: {problem}\n\n{}\n\nat its shortest {}",
        again(seed),
        telling::history(&history.terms, history.start, &acts)
    )
}

/// So many seeds in an ordinary run of the tests.
const SEEDS: u64 = 450;

/// What so many must have met with, at least: about half of what they do.
const LEAST: &[(&str, usize)] = &[
    ("month", 1_300),
    ("step", 13_000),
    ("finer step", 20_000),
    ("restart", 4_000),
    ("outage within a period", 150),
    ("outage over a boundary", 80),
    ("outage over two boundaries", 30),
    ("outage over three boundaries", 40),
    ("clock set back", 200),
    ("top-up", 600),
    ("top-up from the pool", 250),
    ("set plan", 300),
    ("set allowance", 170),
    ("set renewal-day", 75),
    ("set cost-limit", 80),
    ("set auto-unsuspend", 150),
    ("unset", 250),
    ("suspend", 100),
    ("suspend for a time", 120),
    ("lift", 230),
    ("lift for a time", 240),
    ("lift --all", 80),
    ("pay", 100),
    ("balance --add", 450),
    ("period-started", 1_800),
    ("notice", 1_900),
    ("flagged", 250),
    ("unflagged", 200),
    ("throttled", 230),
    ("capped", 100),
    ("suspended", 450),
    ("restored", 450),
    ("charged", 650),
    ("invoiced", 150),
    ("paid", 60),
    ("overdue", 50),
    ("lapsed", 50),
    ("topped-up", 450),
    ("lifted", 180),
    ("override-ended", 90),
    ("refused", 1_000),
];

#[expect(
    clippy::disallowed_methods,
    reason = "how many seeds is asked of the test, not of meterd"
)]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// What the seeds from `first` on meet with, every second of them.
fn every_second(first: u64, end: u64) -> Met {
    let mut met = Met::default();
    for seed in (first..end).step_by(2) {
        match std::panic::catch_unwind(|| live(seed)) {
            Ok(Ok(lockstep)) => met.join(lockstep.met()),
            Ok(Err(wrong)) => panic!("{}", report(&wrong.0, wrong.1, seed)),
            Err(_) => panic!("seed {seed}: {}", again(seed)),
        }
    }
    met
}

/// METERD_SEEDS: how many; METERD_SEED: from which on.
#[test]
fn months_with_restarts_at_any_step_end_as_undisturbed_ones_and_as_the_reference_says() {
    let first = number("METERD_SEED").unwrap_or(0);
    let many = number("METERD_SEEDS").unwrap_or(SEEDS);
    let end = first.saturating_add(many);
    let mut met = Met::default();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| every_second(first + 1, end));
        met.join(every_second(first, end));
        met.join(other.join().unwrap());
    });
    println!("{many} seeds from {first} met with\n{met}");
    if many >= SEEDS {
        let missing = met.missing(LEAST);
        assert_eq!(missing, [""; 0], "no longer covered");
    }
}
