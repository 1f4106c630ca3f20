//! A history that went wrong, in words that fit a screen.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::acts::Act;
use crate::engine::{
    command::CommandAction,
    plan::{Machine, Plan, Terms},
};

pub(super) fn history(terms: &Terms, start: Timestamp, acts: &[Act]) -> String {
    let mut text = format!("it starts at {start} with\n");
    for account in terms.accounts.values() {
        let _ = writeln!(text, "  {account:?}");
    }
    for machine in terms.machines.values() {
        let plan = &machine.plan;
        let bare = Machine {
            plan: None,
            ..machine.clone()
        };
        let name = plan.as_ref().map_or("no plan", |plan| plan.name.as_str());
        let zone = machine.zone(plan.as_deref()).iana_name().unwrap_or("UTC");
        let _ = writeln!(text, "  {bare:?} under {name} in {zone}");
    }
    for plan in terms
        .plans
        .values()
        .filter(|plan| concerned(plan, terms, acts))
    {
        let bare = Plan {
            rules: Vec::new(),
            ..(**plan).clone()
        };
        let _ = writeln!(text, "  {bare:?}");
        for rule in &plan.rules {
            let _ = writeln!(text, "    {rule:?}");
        }
    }
    text.push_str("and then\n");
    for act in acts {
        let _ = writeln!(text, "  {act:?}");
    }
    text
}

fn concerned(plan: &Plan, terms: &Terms, acts: &[Act]) -> bool {
    let named = |action: &CommandAction| format!("{action:?}").contains(plan.name.as_str());
    let set = |act: &Act| matches!(act, Act::Say(actions) if actions.iter().any(named));
    let has = |machine: &Machine| machine.plan.as_ref().is_some_and(|it| it.name == plan.name);
    terms.machines.values().any(has) || acts.iter().any(set)
}
