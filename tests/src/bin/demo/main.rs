//! meterd at work, on a terminal: guests and a world in network namespaces made for the
//! occasion, a shipped plan, real traffic. Every figure shown is checked; exit 0 only if all
//! of them hold. Nothing is left behind, interrupted or not.

mod checks;
mod figures;
mod plan;
mod screen;
mod stage;
mod stories;

use std::{process::ExitCode, time::Duration};

use checks::Checks;
use meter_tests::{interrupt, sandbox::Sandbox};
use screen::{Paint, Screen};
use stories::{PICTURE, Play, Story};

/// Of one story.
const AT_MOST: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut screen = Screen::new();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let plays = match select(&arguments) {
        Ok(plays) => plays,
        Err(problem) => {
            screen.plain(&format!("error: {problem}"));
            return ExitCode::from(64);
        }
    };
    if let Err(failure) = interrupt::note() {
        screen.plain(&format!("error: {failure}"));
        return ExitCode::FAILURE;
    }
    let mut results = Vec::new();
    for (story, play) in &plays {
        if !results.is_empty() {
            screen.rule();
        }
        results.push((story.plan.name, perform(*play, &mut screen)));
        if interrupt::check().is_err() {
            return ExitCode::from(130);
        }
    }
    if results.len() > 1 {
        summary(&mut screen, &results);
    }
    match results.iter().all(|(_, result)| result.holds()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What is to be played.
fn select(arguments: &[&str]) -> Result<Vec<(&'static Story, Play)>, String> {
    match arguments {
        [] => Ok(vec![PICTURE]),
        ["--all"] => Ok(stories::ALL.map(|story| (story, story.play)).to_vec()),
        ["--plan", name] => stories::ALL
            .iter()
            .find(|story| story.plan.name == *name)
            .map(|story| vec![(*story, story.play)])
            .ok_or_else(|| {
                let names = stories::ALL.map(|story| story.plan.name).join(", ");
                format!("there is no story of a plan `{name}`; there are {names}")
            }),
        _ => Err("say nothing, --plan NAME, or --all".to_owned()),
    }
}

/// What became of a story.
struct Performed {
    checks: usize,
    /// `None`: it broke off.
    failed: Option<usize>,
    took: Duration,
}

impl Performed {
    fn holds(&self) -> bool {
        self.failed == Some(0)
    }
}

fn perform(play: Play, screen: &mut Screen) -> Performed {
    screen.restart();
    let mut checks = Checks::default();
    let played = Sandbox::run(|sandbox| play(sandbox, screen, &mut checks));
    let took = screen.elapsed();
    if played.is_ok() {
        checks.note(
            "the whole demonstration",
            &format!("under {} s", AT_MOST.as_secs()),
            &format!("{:.1} s", took.as_secs_f64()),
            took < AT_MOST,
        );
    }
    screen.act("The figures");
    checks.show(screen);
    let failed = checks.failed();
    let (paint, verdict) = match (&played, failed) {
        (Err(failure), _) => (
            Paint::Red,
            format!("The demonstration broke off: {failure}"),
        ),
        (Ok(()), 0) => (Paint::Green, "All of them hold.".to_owned()),
        (Ok(()), some) => (Paint::Red, format!("{some} of them do not hold.")),
    };
    let verdict = screen.paint(paint, &verdict);
    screen.plain(&format!("\n{verdict}"));
    Performed {
        checks: checks.len(),
        failed: played.is_ok().then_some(failed),
        took,
    }
}

fn summary(screen: &mut Screen, results: &[(&str, Performed)]) {
    screen.rule();
    for (name, result) in results {
        let (mark, paint) = match result.holds() {
            true => ("✓", Paint::Green),
            false => ("✗", Paint::Red),
        };
        let mark = screen.paint(paint, mark);
        let held = match result.failed {
            Some(failed) => format!("{:>2} of {:>2} hold", result.checks - failed, result.checks),
            None => "broke off".to_owned(),
        };
        let seconds = result.took.as_secs_f64();
        screen.plain(&format!("{mark} {name:<18} {held:<15} {seconds:>5.1} s"));
    }
    let all: Duration = results.iter().map(|(_, result)| result.took).sum();
    screen.plain(&format!("  {:<34} {:>5.1} s", "", all.as_secs_f64()));
}
