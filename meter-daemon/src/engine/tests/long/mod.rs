//! A seeded simulation: months of nodes put together by lot, lived through by an engine that is
//! never disturbed, by one that restarts at any step, and by the naive model of `reference`.

mod acts;
mod lots;
mod nodes;
mod run;
mod telling;

use jiff::{SignedDuration, Timestamp};

use self::{acts::Act, lots::Lots, run::Lockstep};
use super::build::at;
use crate::engine::plan::Terms;

/// What one seed makes: a node and what happens to it.
struct History {
    terms: Terms,
    start: Timestamp,
    acts: Vec<Act>,
}

fn beginning(lots: &mut Lots) -> (Terms, Timestamp) {
    let terms = nodes::node(lots);
    let start = at("2024-01-01") + SignedDuration::from_secs(lots.seconds(0, 4 * 366 * 86_400));
    (terms, start)
}

/// Lives through the history of a seed while it is drawn.
fn live(seed: u64) -> Result<Lockstep, (History, String)> {
    let mut lots = Lots::new(seed);
    let (terms, start) = beginning(&mut lots);
    let mut history = History {
        terms: terms.clone(),
        start,
        acts: Vec::new(),
    };
    let mut lockstep = match Lockstep::new(terms.clone(), start, seed) {
        Ok(lockstep) => lockstep,
        Err(problem) => return Err((history, problem)),
    };
    let many = lots.number(8, 50);
    for _ in 0..many {
        let act = acts::draw(&mut lots, &terms, &lockstep.model);
        history.acts.push(act.clone());
        if let Err(problem) = lockstep.live(&act) {
            return Err((history, problem));
        }
    }
    match lockstep.look_alike() {
        Ok(()) => Ok(lockstep),
        Err(problem) => Err((history, problem)),
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

fn report(history: &History, problem: String, seed: u64) -> String {
    let (acts, problem) = shrink(history, problem, seed);
    format!(
        "seed {seed}: {problem}\n\n{}",
        telling::history(&history.terms, history.start, &acts)
    )
}

#[test]
fn disturbed_undisturbed_and_reference_agree() {
    let first: u64 = std::env::var("METERD_SIM_SEED").map_or(0, |text| text.parse().unwrap());
    let many: u64 = std::env::var("METERD_SIM_SEEDS").map_or(300, |text| text.parse().unwrap());
    let (mut months, mut steps, mut restarts) = (0, 0, 0);
    for seed in first..first + many {
        match live(seed) {
            Ok(lockstep) => {
                months += lockstep.months();
                steps += lockstep.steps;
                restarts += lockstep.disturbed.restarted;
            }
            Err((history, problem)) => panic!("{}", report(&history, problem, seed)),
        }
    }
    println!("{many} seeds, {months} months, {steps} steps, {restarts} restarts");
}
