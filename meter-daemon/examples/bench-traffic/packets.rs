//! Nanoseconds a packet, by the kernel's own test run of a program.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Barrier,
    thread,
};

use meter_tests::{
    Context, Failure, Result,
    cost::{Packet, empty_program},
    inspect::{self, Hook},
    naive::{self, Naive},
    sandbox::Sandbox,
};
use rustix::thread::{CapabilitySet, CpuSet, capabilities, sched_setaffinity, set_capabilities};

use crate::{
    Effort,
    meters::{Form, Meter},
    report::Report,
    spread::{Spread, paired},
};

const LOOPBACK: u32 = 1;
const SLOTS: u32 = 1_000;

/// What is compared: all with an empty program on the same packet, in the same round.
struct Subject {
    name: &'static str,
    program: OwnedFd,
    packet: Kind,
    on: On,
    base: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Offloaded,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    One,
    Two,
}

pub(crate) fn measure(sandbox: &Sandbox, effort: Effort, report: &mut Report) -> Result<()> {
    let rounds = effort.or(101, 5);
    let times = effort.or(200_000, 50_000);
    let meters = [
        Meter::new(sandbox, "count", Form::Count, SLOTS),
        Meter::new(sandbox, "limits", Form::Limits, SLOTS),
        Meter::new(sandbox, "exempt", Form::Exempt, SLOTS),
        Meter::new(sandbox, "unit-count", Form::Count, SLOTS),
        Meter::new(sandbox, "unit-limits", Form::Limits, SLOTS),
    ];
    let subjects = subjects(&meters)?;
    let frames = Frames::new();
    let mut figures: Vec<Vec<f64>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (subject, figures) in subjects.iter().zip(&mut figures) {
            figures.push(subject.cost(&frames, times)?);
        }
    }
    report.section(
        "A packet in the program",
        &["program", "ns a packet", "above the empty program"],
        format!(
            "BPF test-run, {times} packets a figure, {rounds} rounds in turn, processor time; \
             median and its 95 % interval, the second column of the differences within a round. \
             Maps of {SLOTS} machines and interfaces. The offloaded packet stands for 8 frames."
        ),
    );
    for (subject, ours) in subjects.iter().zip(&figures) {
        let above = match figures.get(subject.base) {
            Some(base) if !std::ptr::eq(base, ours) => paired(ours, base, |a, b| a - b).show(1),
            _ => "–".to_owned(),
        };
        report.row([
            subject.name.to_owned(),
            Spread::of(ours.iter().copied()).show(1),
            above,
        ]);
    }
    meters.iter().try_for_each(Meter::detach)
}

fn subjects(meters: &[Meter; 5]) -> Result<Vec<Subject>> {
    let [count, limits, exempt, unit_count, unit_limits] = meters;
    let [count_sent, _] = attach(count)?;
    let [limits_sent, limits_received] = attach(limits)?;
    let [exempt_sent, _] = attach(exempt)?;
    let [unit_count_sent, _] = attach_as_the_unit(unit_count)?;
    let [unit_limits_sent, _] = attach_as_the_unit(unit_limits)?;
    let shared = Naive::load(naive::Kind::Shared, 1..=SLOTS)?;
    let per_cpu = Naive::load(naive::Kind::PerCpu, 1..=SLOTS)?;
    let mut all: Vec<Subject> = Vec::new();
    let mut base = 0;
    let mut add = |name, program: &dyn AsFd, packet, on| -> Result<()> {
        let program = program.as_fd().try_clone_to_owned();
        // An empty program begins each group.
        if name == "empty" || name == "offloaded packet: empty" || name == "two CPUs: empty" {
            base = all.len();
        }
        all.push(Subject {
            name,
            program: program.could_not(|| "keep a program")?,
            packet,
            on,
            base,
        });
        Ok(())
    };
    let empty = empty_program()?;
    let (small, offloaded) = (Kind::Small, Kind::Offloaded);
    add("empty", &empty, small, On::One)?;
    add("ours: count only", &count_sent, small, On::One)?;
    add("ours: count and limits, sent", &limits_sent, small, On::One)?;
    add(
        "ours: count and limits, received",
        &limits_received,
        small,
        On::One,
    )?;
    add(
        "ours: limits and exempt look-up (200 prefixes)",
        &exempt_sent,
        small,
        On::One,
    )?;
    add(
        "without CAP_PERFMON, ours: count only",
        &unit_count_sent,
        small,
        On::One,
    )?;
    add(
        "without CAP_PERFMON, ours: count and limits, sent",
        &unit_limits_sent,
        small,
        On::One,
    )?;
    add("naive: per-CPU hash", &per_cpu, small, On::One)?;
    add("naive: shared hash, atomics", &shared, small, On::One)?;
    add("offloaded packet: empty", &empty, offloaded, On::One)?;
    add(
        "offloaded packet, ours: count and limits",
        &limits_sent,
        offloaded,
        On::One,
    )?;
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
        add("two CPUs: empty", &empty, small, On::Two)?;
        add(
            "two CPUs, ours: count only, one interface",
            &count_sent,
            small,
            On::Two,
        )?;
        add(
            "two CPUs, ours: limits, one machine",
            &limits_sent,
            small,
            On::Two,
        )?;
        add("two CPUs, naive: per-CPU hash", &per_cpu, small, On::Two)?;
        add(
            "two CPUs, naive: shared hash, atomics, one entry",
            &shared,
            small,
            On::Two,
        )?;
    }
    Ok(all)
}

/// The programs that a meter adds to the loopback: sent, received.
fn attach(meter: &Meter) -> Result<[OwnedFd; 2]> {
    added_by(|| meter.attach(&[LOOPBACK]))
}

/// The same as the shipped unit lets the daemon: without CAP_PERFMON the verifier puts barriers
/// into the programs.
fn attach_as_the_unit(meter: &Meter) -> Result<[OwnedFd; 2]> {
    added_by(|| {
        let all = capabilities(None).could_not(|| "ask for our capabilities")?;
        let mut two = all;
        two.effective = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        set_capabilities(None, two).could_not(|| "give up capabilities")?;
        let outcome = meter.attach(&[LOOPBACK]);
        set_capabilities(None, all).could_not(|| "take capabilities back")?;
        outcome
    })
}

fn added_by(attach: impl FnOnce() -> Result<()>) -> Result<[OwnedFd; 2]> {
    let on = |hook| -> Result<Vec<u32>> {
        let programs = inspect::programs(LOOPBACK, hook)?;
        Ok(programs.into_iter().map(|program| program.id).collect())
    };
    let before = [on(Hook::Sent)?, on(Hook::Received)?];
    attach()?;
    let after = [on(Hook::Sent)?, on(Hook::Received)?];
    let new = |at: usize| {
        let id = after[at].iter().find(|id| !before[at].contains(id));
        let id = id.ok_or_else(|| Failure::new("the loopback has no new program"))?;
        inspect::open_program(*id)
    };
    Ok([new(0)?, new(1)?])
}

struct Frames {
    small: Vec<u8>,
    offloaded: Vec<u8>,
}

impl Frames {
    fn new() -> Self {
        Self {
            small: tcp(200),
            offloaded: tcp(3200),
        }
    }
}

/// Ethernet, IPv4, TCP and so much payload.
fn tcp(payload: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((40 + payload).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0; 12]);
    frame.extend([0x50, 0, 0, 0, 0, 0, 0, 0]);
    frame.resize(frame.len() + usize::from(payload), 0x5a);
    frame
}

impl Subject {
    fn cost(&self, frames: &Frames, times: u32) -> Result<f64> {
        let packet = match self.packet {
            Kind::Small => Packet {
                frame: &frames.small,
                segment: 0,
            },
            Kind::Offloaded => Packet {
                frame: &frames.offloaded,
                segment: 400,
            },
        };
        match self.on {
            On::One => packet.fine_cost(&self.program, times),
            On::Two => on_two(|| packet.fine_cost(&self.program, times)),
        }
    }
}

/// The mean of two CPUs that do so at once.
fn on_two(cost: impl Fn() -> Result<f64> + Sync) -> Result<f64> {
    let start = Barrier::new(2);
    let on = |cpu: usize| {
        let mut one = CpuSet::new();
        one.set(cpu);
        let pinned = sched_setaffinity(None, &one);
        start.wait();
        pinned.could_not(|| "stay on a CPU")?;
        cost()
    };
    let on = &on;
    let costs = thread::scope(|scope| {
        [0, 1]
            .map(|cpu| scope.spawn(move || on(cpu)))
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
    });
    let [one, other] = costs;
    Ok(f64::midpoint(one?, other?))
}
