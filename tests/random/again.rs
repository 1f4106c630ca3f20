//! A run that broke off, to be done again: its last operations, and before them others that
//! lead a fresh node to about where those began.
//!
//! The seed alone takes all the way, and what is drawn depends on what has passed a shaper by
//! then. This takes seconds, and is the same each time.

use std::path::{Path, PathBuf};

use meter_tests::{Context, Result};

use crate::{
    acts::{Act, Limit, Traffic},
    port::{Ingress, There},
    wanted,
    world::{Daemon, MACHINES, World},
};

/// Where the build may leave what tests write.
const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// Writes them down.
pub(crate) fn write(seed: u64, number: u64, acts: &[Act]) -> Result<PathBuf> {
    let path = Path::new(FOLDER).join(format!("random-{seed}-{number}.json"));
    let lines: Result<Vec<String>> = acts
        .iter()
        .map(|act| serde_json::to_string(act).could_not(|| format!("write {act:?} down")))
        .collect();
    std::fs::create_dir_all(FOLDER).could_not(|| format!("make {FOLDER}"))?;
    std::fs::write(&path, format!("[\n{}\n]\n", lines?.join(",\n")))
        .could_not(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Reads them.
pub(crate) fn read(path: &Path) -> Result<Vec<Act>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).could_not(|| format!("read {shown}"))?;
    serde_json::from_str(&text).could_not(|| format!("read operations from {shown}"))
}

/// What leads a fresh node to about where this one is. What was used is less, in the same
/// proportion to the allowance; routes and forwarding entries are a new interface's.
pub(crate) fn way_to(world: &World<'_>) -> Vec<Act> {
    let mut way: Vec<Act> = MACHINES
        .flat_map(|machine| machine_way(world, machine))
        .collect();
    let plugs = || {
        let all = world.plugs.iter().enumerate();
        all.map(|(number, plug)| (number, plug.port.tap(), plug.there.as_ref()))
    };
    way.extend(
        plugs()
            .filter(|(.., there)| there.is_none())
            .map(|(number, ..)| Act::Delete(number)),
    );
    let renamed: Vec<(usize, &str)> = plugs()
        .filter_map(|(number, own, there)| Some((number, own, there?.name.as_str())))
        .filter(|(_, own, name)| own != name)
        .map(|(number, _, name)| (number, name))
        .collect();
    // One may have another's old name.
    let aside = renamed
        .iter()
        .map(|(number, _)| Act::Rename(*number, format!("aside{number}")));
    way.extend(aside);
    let names = renamed
        .iter()
        .map(|(number, name)| Act::Rename(*number, (*name).to_owned()));
    way.extend(names);
    for (number, _, there) in plugs() {
        way.extend(
            there
                .into_iter()
                .flat_map(|it| others_way(world, number, it)),
        );
    }
    way.extend(world.excluded.map(|machine| Act::Exclude(Some(machine))));
    way.extend(world.dry_run.then_some(Act::DryRun(true)));
    match world.daemon {
        Daemon::Running => {}
        Daemon::Stopped => way.push(Act::Freeze),
        Daemon::Gone => way.push(Act::Kill),
    }
    way
}

fn machine_way(world: &World<'_>, machine: u8) -> Vec<Act> {
    const FRAMES: u64 = 10;
    const PAYLOAD: u64 = 1470;
    let mut way = Vec::new();
    let Some(status) = world.status.get(&machine.to_string()) else {
        return way;
    };
    if let Some(plan) = status["plan"].as_str() {
        way.push(Act::SetPlan(machine, plan.to_owned()));
    }
    let used = status["used"].as_u64().unwrap_or(0);
    if let Some(allowance) = status["allowance"].as_u64() {
        if used > 0 {
            let share = u128::from(FRAMES * PAYLOAD) * u128::from(allowance) / u128::from(used);
            let share = u64::try_from(share).unwrap_or(u64::MAX).max(1);
            way.push(Act::SetAllowance(machine, share));
            let plug = world.plugs.iter().position(|it| it.port.machine == machine);
            let traffic = Traffic {
                sent: true,
                exempt: false,
                frames: FRAMES,
                payload: PAYLOAD,
            };
            way.extend(plug.map(|plug| Act::Traffic(plug, traffic)));
        }
        if allowance > used {
            way.push(Act::SetAllowance(machine, allowance - used));
        }
    }
    if status["state"] == "suspended" && !wanted::is_by_rule(status) {
        way.push(Act::Suspend(machine));
    }
    way
}

/// What others have done to an interface.
fn others_way(world: &World<'_>, number: usize, there: &There) -> Vec<Act> {
    let mut way = Vec::new();
    let root = &there.roots[0];
    let roots = &world.roots;
    if there.ingress == Ingress::Police || *root == roots.proxmox {
        way.push(Act::Proxmox(number, Limit::Some));
        if *root == there.default {
            way.push(Act::DeleteRoot(number));
        }
    }
    let theirs = [
        (&roots.libvirt, Act::Libvirt(number)),
        (&roots.tbf, Act::Tbf(number)),
        (&roots.pfifo, Act::Pfifo(number)),
    ];
    way.extend(
        theirs
            .into_iter()
            .find(|(it, _)| *it == root)
            .map(|it| it.1),
    );
    let filters = there.filters.iter();
    way.extend(filters.map(|(hook, _)| Act::Clsact(number, *hook)));
    let programs = there.tcx.iter();
    way.extend(programs.map(|(hook, place, _)| Act::Tcx(number, *hook, *place)));
    way.extend(there.obstacle.then_some(Act::Obstacle(number)));
    way.extend((there.up == Some(false)).then_some(Act::Down(number)));
    way
}
