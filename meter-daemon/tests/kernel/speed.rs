//! Figures: how long attaching takes, and what a packet costs.
#![expect(unsafe_code, reason = "an empty program is loaded by hand")]

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use aya::programs::ProgramFd;
use meter_common::{CountBytes, Interface};
use meter_daemon::host::programs::{AttachRequest, Hooks, detach_all};

use crate::{
    arena::{arena, feed, ifindex},
    weight::{Bench, tcp},
};

const SWITCH: &str = "/sys/kernel/rcu_expedited";
const MANY: u32 = 500;

fn links(verb: &str) -> String {
    (0..MANY)
        .map(|number| match verb {
            "add" => format!("link add m{number} type veth peer name p{number}\n"),
            _ => format!("link delete m{number}\n"),
        })
        .collect()
}

/// One test, since the switch is the machine's: two at once would see each other's.
#[test]
fn five_hundred_interfaces_attach_in_under_two_seconds_and_the_machine_is_as_before() {
    arena(|arena| {
        feed("ip -batch -", &links("add"));
        let before = fs::read_to_string(SWITCH).unwrap();
        let mut programs = arena.open();
        let requests: Vec<_> = (0..MANY)
            .map(|slot| AttachRequest {
                ifindex: ifindex(&format!("m{slot}")),
                slot,
                generation: 1,
                machine: slot,
            })
            .collect();
        let start = Instant::now();
        let results = programs.attach(&requests);
        let attaching = start.elapsed();
        assert!(
            results
                .iter()
                .all(|(_, result)| matches!(result, Ok(Hooks::Both)))
        );
        assert_eq!(fs::read_to_string(SWITCH).unwrap(), before);
        assert!(!arena.runtime_directory().join("rcu_expedited").exists());

        let start = Instant::now();
        let attached = programs.attached().unwrap();
        let listing = start.elapsed();
        assert_eq!(attached.len(), 500);
        let start = Instant::now();
        let readings = programs.readings().unwrap();
        let reading = start.elapsed();
        assert_eq!(readings.len(), 500);
        drop(programs);

        // A daemon that is killed in mid-attachment leaves the switch on and this note.
        fs::write(arena.runtime_directory().join("rcu_expedited"), &before).unwrap();
        fs::write(SWITCH, "1").unwrap();
        let start = Instant::now();
        let programs = arena.open();
        let opening = start.elapsed();
        assert_eq!(fs::read_to_string(SWITCH).unwrap(), before);
        assert!(!arena.runtime_directory().join("rcu_expedited").exists());
        drop(programs);

        let start = Instant::now();
        detach_all(&arena.pin_directory(), &arena.runtime_directory()).unwrap();
        let detaching = start.elapsed();
        assert_eq!(fs::read_to_string(SWITCH).unwrap(), before);
        println!(
            "{MANY} interfaces: attach {attaching:?}, list {listing:?}, read {reading:?}, \
             adopt {opening:?}, detach {detaching:?}"
        );
        assert!(attaching < Duration::from_secs(2), "{attaching:?}");
        assert!(detaching < Duration::from_secs(2), "{detaching:?}");
        feed("ip -batch -", &links("delete"));
    });
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> i64 {
    // SAFETY: the kernel takes `size_of::<T>()` bytes at this address; every address in them is
    // of something that the caller below holds for as long as the call lasts.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result
}

/// A program that does nothing: `r0 = -1; exit`.
fn empty() -> OwnedFd {
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        licence: u64,
    }
    let code: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    let fd = bpf(
        5,
        &mut Load {
            kind: 3,
            instructions: 2,
            code: code.as_ptr().addr() as u64,
            licence: c"GPL".as_ptr().addr() as u64,
        },
    );
    // SAFETY: BPF_PROG_LOAD answered with a descriptor that was opened for us.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// Passes one offloaded packet through a program.
pub(crate) fn pass(program: &ProgramFd, frame: &[u8]) {
    test_run(program.as_fd(), frame, 400, 1);
}

/// Nanoseconds a run, as the kernel measures them.
fn cost(program: BorrowedFd<'_>, frame: &[u8], gso_size: u32) -> u32 {
    test_run(program, frame, gso_size, 1_000_000)
}

fn test_run(program: BorrowedFd<'_>, frame: &[u8], gso_size: u32, repeat: u32) -> u32 {
    #[repr(C)]
    #[derive(Default)]
    struct TestRun {
        program: u32,
        returned: u32,
        frame_size: u32,
        frame_size_out: u32,
        frame: u64,
        frame_out: u64,
        repeat: u32,
        duration: u32,
        context_size: u32,
        context_size_out: u32,
        context: u64,
        context_out: u64,
    }
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&1u32.to_ne_bytes());
    context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
    let mut run = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        frame_size: u32::try_from(frame.len()).unwrap(),
        frame: frame.as_ptr().addr() as u64,
        repeat,
        context_size: 192,
        context: context.as_ptr().addr() as u64,
        ..TestRun::default()
    };
    bpf(10, &mut run);
    run.duration
}

#[test]
fn a_packet_costs_a_few_nanoseconds_more_than_an_empty_program() {
    arena(|_| {
        let mut bench = Bench::new(CountBytes::Wire, Interface::default());
        let shaper = Interface {
            shaper: 0x0001_0000,
            ifb: 1,
            ..Interface::default()
        };
        let mut throttled = Bench::new(CountBytes::Wire, shaper);
        let mut ip = Bench::new(CountBytes::Ip, Interface::default());
        let empty = empty();
        let frame = tcp(200);
        let bulk = tcp(3000);
        let mut rounds = [const { Vec::new() }; 6];
        for _ in 0..7 {
            let figures = [
                cost(empty.as_fd(), &frame, 0),
                cost(bench.fd("meter_sent"), &frame, 0),
                cost(bench.fd("meter_received"), &frame, 0),
                cost(bench.fd("meter_sent"), &bulk, 400),
                cost(ip.fd("meter_sent"), &frame, 0),
                cost(throttled.fd("meter_received"), &frame, 0),
            ];
            for (round, figure) in rounds.iter_mut().zip(figures) {
                round.push(figure);
            }
        }
        let [empty, sent, received, gso, ip, throttled] = rounds.map(|mut round| {
            round.sort_unstable();
            round[round.len() / 2]
        });
        println!(
            "ns a packet: empty {empty}, sent {sent}, received {received}, offloaded {gso}, \
             basis ip {ip}, received while throttled {throttled}"
        );
        // Loose, as this machine is shared; a hash on the way would cost 25 and be seen.
        assert!(sent < empty + 20 && received < empty + 20);
    });
}
