//! What the files mean, and what is said of those that mean nothing.

use std::path::PathBuf;

use super::*;

mod claims;
mod diagnostics;
mod loading;
mod reload;
mod shipped;
mod simulated;

/// Checks texts by their paths. The indentation that all of a text's lines share is taken off.
fn checked(files: &[(&str, &str)]) -> Result<Config, Diagnostics> {
    let files: Vec<(PathBuf, String)> = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), dedented(text)))
        .collect();
    Config::check_texts(&files)
}

/// A configuration that must be good.
fn good(files: &[(&str, &str)]) -> Config {
    checked(files).unwrap_or_else(|problems| panic!("{problems}"))
}

/// All that is said of files: errors, or the warnings of a good configuration.
fn said(files: &[(&str, &str)]) -> String {
    match checked(files) {
        Ok(config) => config.warnings.to_string(),
        Err(problems) => problems.to_string(),
    }
}

/// What is said of a plan, with a main file that is empty.
fn said_of_plan(plan: &str) -> String {
    said(&[("plans/p.toml", plan)])
}

/// The only plan of a configuration that must be good.
fn plan(text: &str) -> Plan {
    let config = good(&[("plans/p.toml", text)]);
    assert_eq!(config.warnings.to_string(), "");
    Plan::clone(config.plans.get("p").unwrap())
}

fn dedented(text: &str) -> String {
    let text = text.strip_prefix('\n').unwrap_or(text);
    let indented = text.lines().filter(|line| !line.trim().is_empty());
    let shared = indented
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    let lines = text
        .lines()
        .map(|line| line.get(shared..).unwrap_or_default());
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_key_of_a_plan_has_its_meaning() {
    use crate::engine::plan::{Direction, PeriodStart, Rollover};
    let plan = plan(
        "period = { starts = 31, time-zone = \"Europe/Vienna\" }\ndirection = \"larger\"\n\
         allowance = \"1.5 TiB\"\nrollover = \"unused\"\nenforce = false\nexempt = [\"10.0.0.0/8\"]\n\
         [[rule]]\nover = \"100GB\"\nafter = \"1h 30m\"\ncap = \"5 GB\"\nlift = \"by-hand\"\n\
         [[rule]]\nused = \"1000 GB\"\nnotify = true\n",
    );
    assert_eq!(plan.starts, PeriodStart::Day(DayOfMonth::new(31).unwrap()));
    assert_eq!(plan.time_zone.unwrap().iana_name(), Some("Europe/Vienna"));
    assert_eq!(
        (plan.direction, plan.rollover),
        (Direction::Larger, Rollover::Unused)
    );
    assert!(!plan.enforce);
    assert_eq!(plan.exempt.len(), 1);
    let names: Vec<_> = plan.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["over 100 GB after 1h 30m", "used 1000 GB"]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_checker_panic(
        main in "([a-z-]{1,12} = [\"0-9a-z% ]{0,9}\n|\\[{1,2}(metrics|machine|account|smtp|x)\\]{0,2}\n|.{0,9}\n){0,9}",
        plan in "((period|daily|price|allowance|used|cost|due) ?= ?(\"[0-9]{1,22} ?[a-zA-Z%]{0,3}\"|\\{[a-z=1\" ,]{0,12}\\}|[0-9.-]{1,4})\n|\\[\\[rule\\]\\]\n|[\\p{L}\"\\[=]{0,5}\n){0,9}",
    ) {
        let files = [("meterd.toml".into(), main.clone()), ("plans/p.toml".into(), plan),
            ("machines/m.toml".into(), main)];
        if let Err(problems) = Config::check_texts(&files) {
            let _ = (problems.to_string(), serde_json::to_string(&problems.listed()));
        }
    }
}
