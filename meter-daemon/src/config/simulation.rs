//! What `simulate` runs on: one machine under one plan, and what surrounds them.

use std::{fs, path::Path, sync::Arc};

use super::{
    Config, ConfiguredMachine, Diagnostics, InterfaceMatch,
    check::{self, Files},
    load::{self, Role, Source},
    problem::{Place, Problems},
};
use crate::engine::{
    plan::{Plan, Terms},
    units::{MachineId, PlanName},
};

/// The terms of a simulation of `plan`, and the machine that is simulated: the one of the
/// `machine` file, or one called like the plan. The plans beside the first are there for
/// `set plan`; `config` gives the node's zone, further accounts and plans.
///
/// # Errors
/// Every problem of these files. A file beside the plan that is no good plan is left out.
pub fn simulation(
    plan: &Path,
    machine: Option<&Path>,
    config: Option<&Path>,
) -> Result<(Terms, MachineId), Diagnostics> {
    let mut around = match config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    let mut sources = vec![Source::read(plan, Role::Plan)];
    sources.extend(machine.map(|path| Source::read(path, Role::Machines)));
    let problems = Problems::default();
    let mut files = load::read(&sources, &problems);
    let simulated = files.plans.values().next().cloned();
    check_machine(
        &files,
        machine.is_some(),
        &around,
        simulated.as_deref(),
        &problems,
    );
    check::twins(&files, &sources, &problems);
    let (errors, _) = load::diagnostics(&sources, problems).split();
    // No problem and yet no plan cannot be; if it were, there would be nothing to simulate.
    let Some(simulated) = simulated.filter(|_| errors.is_empty()) else {
        return Err(errors);
    };

    for (name, sibling) in siblings(plan, machine) {
        around.plans.entry(name).or_insert(sibling);
    }
    around
        .plans
        .insert(simulated.name.clone(), Arc::clone(&simulated));
    let accounts = files.accounts.drain(..).map(|account| account.checked);
    around
        .accounts
        .extend(accounts.map(|account| (account.account.id.clone(), account)));
    let own = files
        .machines
        .drain(..)
        .next()
        .map(|machine| machine.checked);
    let mut own = own.unwrap_or_else(|| called_like(&simulated.name));
    // What is simulated is the plan that was asked for, whatever the machine's file says.
    own.plan = Some(simulated.name.clone());
    let id = own.id.clone();
    around.machines = vec![own];
    Ok((around.terms(std::iter::empty()), id))
}

fn called_like(plan: &PlanName) -> ConfiguredMachine {
    ConfiguredMachine {
        id: plan.as_str().into(),
        interfaces: InterfaceMatch::Names(Vec::new()),
        plan: None,
        account: None,
        renewal_day: None,
        allowance: None,
        cost_limit: None,
        auto_unsuspend: None,
        time_zone: None,
    }
}

fn check_machine(
    files: &Files,
    is_named: bool,
    around: &Config,
    plan: Option<&Plan>,
    problems: &Problems,
) {
    // The plan is the first source, the machine's file the second.
    let start = Place {
        file: 1,
        span: 0..0,
    };
    match files.machines.as_slice() {
        [] if is_named => problems.absent(
            &start,
            "this file has no [[machine]]",
            "write: [[machine]] and below it id = \"web1\"",
        ),
        [] => {}
        [machine, others @ ..] => {
            if let Some(second) = others.first() {
                problems.error(
                    &second.id,
                    "one machine is simulated, and this is a second",
                    "put it into a file of its own",
                );
            }
            if let Some(plan) = plan {
                check::fits_plan(machine, plan, problems);
            }
            let Some(named) = &machine.account else {
                return;
            };
            let of_file = files.accounts.iter().map(|account| &account.checked);
            let mut accounts = of_file.chain(around.accounts.values());
            match accounts.find(|account| account.account.id == named.value) {
                Some(account) => {
                    if let Some(plan) = plan {
                        check::fits_account(named, account, plan, problems);
                    }
                }
                None => problems.error(
                    &named.place,
                    format!("there is no account `{}`", named.value),
                    format!(
                        "add to this file: [[account]] with id = \"{}\"",
                        named.value
                    ),
                ),
            }
        }
    }
}

/// The plans beside the simulated one, as far as they are good ones: a folder may hold the
/// machine's file and anything else, too.
fn siblings(plan: &Path, machine: Option<&Path>) -> Vec<(PlanName, Arc<Plan>)> {
    let same = |one: &Path, other: &Path| match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    };
    let beside = load::toml_files(plan.parent().unwrap_or(Path::new(""))).unwrap_or_default();
    beside
        .into_iter()
        .filter(|path| !same(path, plan) && machine.is_none_or(|machine| !same(path, machine)))
        .filter_map(|path| {
            let source = [Source::read(&path, Role::Plan)];
            let problems = Problems::default();
            let files = load::read(&source, &problems);
            let (errors, _) = load::diagnostics(&source, problems).split();
            if errors.is_empty() {
                files.plans.into_iter().next()
            } else {
                None
            }
        })
        .collect()
}
