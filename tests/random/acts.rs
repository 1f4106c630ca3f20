//! What may happen, drawn by lot from what is possible at that moment.

use meter_tests::{foreign::Place, inspect::Hook};
use serde::{Deserialize, Serialize};

use crate::{
    lots::Lots,
    port::{Attachment, Ingress, There},
    wanted::Wanted,
    world::{Daemon, MACHINES, PLANS, World},
};

/// One operation. A number is a plug's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Act {
    Traffic(usize, Traffic),
    Suspend(u8),
    Lift(u8),
    LiftAll,
    TopUp(u8, u64),
    SetPlan(u8, String),
    /// To so much more than it has used.
    SetAllowance(u8, u64),
    UnsetAllowance(u8),
    Create(usize),
    Delete(usize),
    /// Under the same name, at once.
    CreateAnew(usize),
    Rename(usize, String),
    Up(usize),
    Down(usize),
    /// With or without a rate limit.
    Proxmox(usize, Limit),
    Libvirt(usize),
    Tbf(usize),
    Pfifo(usize),
    DeleteRoot(usize),
    Clsact(usize, Hook),
    DropClsact(usize),
    Tcx(usize, Hook, Place),
    DropTcx(usize),
    Route(usize, Change, u64),
    Address(usize, Change, u64),
    Neighbour(usize, Change, u64),
    Fdb(usize, Change, u64),
    Obstacle(usize),
    Exclude(Option<u8>),
    DryRun(bool),
    Reload,
    BadReload,
    Freeze,
    Thaw,
    Kill,
    Stop,
    Start,
    /// With the daemon as it is; then a start.
    Detach,
    /// As a hypervisor's hook does.
    Attach(usize),
    /// Time goes by.
    Pause(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Limit {
    Some,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Add,
    Remove,
}

/// Frames one way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) sent: bool,
    pub(crate) exempt: bool,
    pub(crate) frames: u64,
    pub(crate) payload: u64,
}

impl Act {
    /// For the list of what took how long.
    pub(crate) fn name(&self) -> String {
        let all = format!("{self:?}");
        let end = all.find(['(', ' ']).unwrap_or(all.len());
        all[..end].to_owned()
    }
}

pub(crate) fn draw(lots: &mut Lots, world: &World<'_>) -> Act {
    if world.daemon != Daemon::Running && lots.percent(40) {
        return match world.daemon {
            Daemon::Stopped if lots.percent(70) => Act::Thaw,
            Daemon::Stopped => Act::Kill,
            _ if lots.percent(10) => Act::Detach,
            _ => Act::Start,
        };
    }
    loop {
        let plug = usize::try_from(lots.number(0, world.plugs.len() as u64 - 1)).unwrap_or(0);
        let plug = match lots.number(1, 100) {
            1..=40 => one_where(lots, world, |it| matches!(it, Wanted::Throttle(_))),
            41..=60 => one_where(lots, world, |it| *it != Wanted::Pass),
            61..=70 => world
                .touched
                .filter(|plug| world.plugs[*plug].there.is_some()),
            _ => None,
        }
        .unwrap_or(plug);
        let drawn = match lots.number(1, 100) {
            1..=30 => traffic(lots, plug, world),
            31..=52 if world.daemon == Daemon::Running => Some(command(lots, world)),
            53..=68 => hypervisor(lots, plug, world),
            69..=82 => foreign(lots, plug, world),
            83..=91 => routing(lots, plug, world),
            92..=100 => daemon(lots, plug, world),
            _ => None,
        };
        if let Some(act) = drawn {
            return act;
        }
    }
}

/// Where something of ours stands, most is to be disturbed.
fn one_where(
    lots: &mut Lots,
    world: &World<'_>,
    stands: impl Fn(&Wanted) -> bool,
) -> Option<usize> {
    let such = |plug: &usize| {
        let there = world.plugs[*plug].there.as_ref();
        let owner = there.and_then(|there| world.owner(&there.name));
        let stood = owner.and_then(|owner| world.stood.get(&owner));
        stood.is_some_and(&stands)
    };
    let such: Vec<usize> = (0..world.plugs.len()).filter(such).collect();
    (!such.is_empty()).then(|| lots.one(&such))
}

fn traffic(lots: &mut Lots, plug: usize, world: &World<'_>) -> Option<Act> {
    world.plugs[plug].there.as_ref()?;
    let (frames, payload) = match lots.number(1, 10) {
        1..=4 => (lots.number(1, 20), lots.number(20, 1470)),
        5..=7 => (lots.number(20, 120), lots.number(800, 1470)),
        _ => (lots.number(120, 250), 1470),
    };
    Some(Act::Traffic(
        plug,
        Traffic {
            sent: lots.percent(50),
            exempt: lots.percent(15),
            frames,
            payload,
        },
    ))
}

fn command(lots: &mut Lots, world: &World<'_>) -> Act {
    let all: Vec<u8> = MACHINES.collect();
    let machine = lots.one(&all);
    let stood = world.stood.get(&machine.to_string());
    // Most of the time most of them are to move.
    if stood == Some(&Wanted::Hold) && lots.percent(60) {
        return match lots.number(1, 3) {
            1 => Act::SetPlan(
                machine,
                lots.one(&["slow", "brisk", "cap", "cap", "ladder", "grace"])
                    .to_owned(),
            ),
            2 => Act::SetAllowance(machine, lots.number(1, 60_000)),
            _ => Act::Lift(machine),
        };
    }
    match lots.number(1, 100) {
        1..=10 => Act::Suspend(machine),
        11..=32 => Act::Lift(machine),
        33 => Act::LiftAll,
        34..=48 => Act::TopUp(machine, lots.number(10_000, 400_000)),
        49..=60 => Act::SetPlan(machine, lots.one(&PLANS.map(|(name, _)| name)).to_owned()),
        61..=72 => Act::SetPlan(
            machine,
            lots.one(&["slow", "brisk", "cap", "ladder"]).to_owned(),
        ),
        73..=93 => Act::SetAllowance(machine, lots.number(1, 120_000)),
        _ => Act::UnsetAllowance(machine),
    }
}

fn hypervisor(lots: &mut Lots, plug: usize, world: &World<'_>) -> Option<Act> {
    let of = &world.plugs[plug];
    let taken = |name: &str| {
        let mut there = world.plugs.iter().filter_map(|plug| plug.there.as_ref());
        there.any(|there| there.name == name)
    };
    let Some(there) = &of.there else {
        return (!taken(&of.port.tap())).then_some(Act::Create(plug));
    };
    let own = there.name == of.port.tap();
    match lots.number(1, 100) {
        1..=20 => Some(Act::Delete(plug)),
        21..=45 => (own || !taken(&of.port.tap())).then_some(Act::CreateAnew(plug)),
        46..=70 => {
            let machine = match lots.percent(60) {
                true => u64::from(of.port.machine),
                false => lots.number(101, 107),
            };
            let name = match lots.percent(40) {
                true => of.port.tap(),
                false => format!("tap{machine}i{}", lots.number(3, 9)),
            };
            (!taken(&name)).then_some(Act::Rename(plug, name))
        }
        71..=86 => Some(Act::Up(plug)),
        _ => Some(Act::Down(plug)),
    }
}

fn foreign(lots: &mut Lots, plug: usize, world: &World<'_>) -> Option<Act> {
    let there = world.plugs[plug].there.as_ref()?;
    let hook = lots.one(&Hook::BOTH);
    let kind = lots.number(1, 100);
    if world.attachment == Attachment::Clsact {
        return match kind {
            1..=15 => Some(Act::Tbf(plug)),
            16..=33 => Some(Act::Proxmox(plug, Limit::None)),
            34..=56 => Some(Act::Pfifo(plug)),
            57..=70 => Some(Act::DeleteRoot(plug)),
            _ => (there.filters.len() < 3).then_some(Act::Clsact(plug, hook)),
        };
    }
    match kind {
        // Theirs fail where somebody's clsact stands.
        1..=15 | 34..=42 if there.ingress == Ingress::Clsact => Some(Act::DropClsact(plug)),
        1..=15 => Some(Act::Proxmox(plug, Limit::Some)),
        16..=33 => Some(Act::Proxmox(plug, Limit::None)),
        34..=42 => Some(Act::Libvirt(plug)),
        43..=51 => Some(Act::Tbf(plug)),
        52..=56 => Some(Act::Pfifo(plug)),
        57..=70 => Some(Act::DeleteRoot(plug)),
        71..=78 => (there.ingress != Ingress::Police).then_some(Act::Clsact(plug, hook)),
        79..=89 => {
            let place = lots.one(&[Place::First, Place::Last]);
            (there.tcx.len() < 4).then_some(Act::Tcx(plug, hook, place))
        }
        _ => (!there.tcx.is_empty()).then_some(Act::DropTcx(plug)),
    }
}

fn routing(lots: &mut Lots, plug: usize, world: &World<'_>) -> Option<Act> {
    let of = &world.plugs[plug];
    let there = of.there.as_ref()?;
    let change = lots.one(&[Change::Add, Change::Add, Change::Remove]);
    let n = lots.number(1, 8);
    if !is_free(there, world) {
        return None;
    }
    if !of.is_routed() {
        return Some(Act::Fdb(plug, change, n));
    }
    Some(match lots.number(1, 100) {
        1..=40 => Act::Route(plug, change, n),
        41..=65 => Act::Address(plug, change, n),
        66..=90 => Act::Neighbour(plug, change, n),
        _ => Act::Obstacle(plug),
    })
}

/// Nobody holds it, so that what is put there stays.
fn is_free(there: &There, world: &World<'_>) -> bool {
    let held = world.owner(&there.name).is_some_and(|owner| {
        world
            .status
            .get(&owner)
            .is_none_or(|status| status["state"] == "suspended")
    });
    there.up == Some(true) && there.picture.is_some() && !held
}

fn daemon(lots: &mut Lots, plug: usize, world: &World<'_>) -> Option<Act> {
    let running = world.daemon == Daemon::Running;
    let gone = world.daemon == Daemon::Gone;
    let draw = match lots.number(1, 100) {
        1..=18 => Act::Kill,
        19..=26 => Act::Stop,
        27..=38 => Act::Freeze,
        39..=46 => Act::Detach,
        47..=54 => Act::Exclude(match world.excluded {
            Some(_) => None,
            None => u8::try_from(lots.number(101, 106)).ok(),
        }),
        55..=60 => Act::DryRun(!world.dry_run && lots.percent(50)),
        61..=72 => Act::Reload,
        73..=77 => Act::BadReload,
        78..=87 => Act::Attach(plug),
        _ => Act::Pause(lots.number(10, 2500)),
    };
    let possible = match &draw {
        Act::Detach => world.daemon != Daemon::Stopped,
        Act::Attach(plug) => {
            let there = world.plugs[*plug].there.as_ref();
            let owned = there.is_some_and(|there| world.owner(&there.name).is_some());
            owned && (running || gone)
        }
        Act::Pause(_) => true,
        _ => running,
    };
    possible.then_some(draw)
}
