//! Figures: what limits and exempt prefixes add to a packet's cost.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Barrier,
};

use meter_common::{CountBytes, Interface};
use meter_tests::cost::{Packet, empty_program};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    arena::arena,
    weight::{Bench, tcp},
};

const ROUNDS: usize = 15;

/// Nanoseconds a packet.
fn cost(program: impl AsFd) -> u32 {
    let frame = tcp(200);
    let packet = Packet {
        frame: &frame,
        segment: 0,
    };
    packet.cost(program).unwrap()
}

/// The same on two CPUs at once, their mean.
fn cost_on_two(program: BorrowedFd<'_>) -> u32 {
    let start = Barrier::new(2);
    let on = |cpu: usize| {
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).unwrap();
        start.wait();
        cost(program)
    };
    let costs = std::thread::scope(|scope| {
        let other = scope.spawn(|| on(1));
        let this = scope.spawn(|| on(0)).join().unwrap();
        [this, other.join().unwrap()]
    });
    costs.iter().sum::<u32>() / 2
}

#[test]
fn what_limits_cost_a_packet() {
    arena(|_| {
        let plain = Interface::default;
        let empty = empty_program().unwrap();
        let mut count = Bench::new(CountBytes::Wire, plain());
        let mut idle = Bench::of_machine(plain(), 0, 0);
        let mut limits = Bench::of_machine(plain(), 1, 0);
        let mut exempt = Bench::of_machine(plain(), 1, 1);
        for n in 0..200 {
            exempt.exempt_v4(1, [172, 16, n, 0], 24);
        }
        let names = [
            "empty",
            "count only",
            "machine without limits",
            "limits, sent",
            "limits, received",
            "limits and exempt look-up",
            "two CPUs: empty",
            "two CPUs: count only",
            "two CPUs: limits on one machine",
        ];
        let mut rounds: [Vec<u32>; 9] = Default::default();
        for _ in 0..ROUNDS {
            let figures = [
                cost(&empty),
                cost(count.fd("meter_sent")),
                cost(idle.fd("meter_sent")),
                cost(limits.fd("meter_sent")),
                cost(limits.fd("meter_received")),
                cost(exempt.fd("meter_sent")),
                cost_on_two(empty.as_fd()),
                cost_on_two(count.fd("meter_sent")),
                cost_on_two(limits.fd("meter_sent")),
            ];
            for (round, figure) in rounds.iter_mut().zip(figures) {
                round.push(figure);
            }
        }
        let mut medians = [0; 9];
        for ((name, round), median) in names.iter().zip(&mut rounds).zip(&mut medians) {
            round.sort_unstable();
            *median = round[ROUNDS / 2];
            let [low, high] = [round[1], round[ROUNDS - 2]];
            println!("{name}: {median} ns a packet ({low} to {high})");
        }
        for name in ["meter_sent", "meter_received", "shape_sent"] {
            let [translated, jited] = limits.sizes(name);
            println!("{name}: {translated} bytes translated, {jited} for the processor");
        }
        // Loose, as the machine is shared.
        assert!(medians[3] < 3 * medians[0], "{medians:?}");
    });
}
