//! What the process must be allowed, and what the machine must have.
#![expect(
    unsafe_code,
    reason = "a thread gives up capabilities by a system call"
)]

use meter_daemon::host::{
    error::HostError,
    features::features,
    programs::{Hooks, Programs, detach_all},
};

use crate::arena::{Guest, arena, attach, both, run};

const CAP_NET_ADMIN: u32 = 12;
const CAP_BPF: u32 = 39;

/// This thread keeps no other capability than these.
fn keep(capabilities: &[u32]) {
    let mask: u64 = capabilities.iter().map(|capability| 1 << capability).sum();
    let halves = [mask & 0xffff_ffff, mask >> 32].map(|half| u32::try_from(half).unwrap());
    // Version 3, this thread; effective, permitted and inheritable of each half.
    let header = [0x2008_0522_u32, 0];
    let data = [halves[0], halves[0], 0, halves[1], halves[1], 0];
    // SAFETY: capset reads a header of two u32s and, in version 3, six of data.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn two_capabilities_suffice_from_the_first_start_to_leaving() {
    arena(|arena| {
        let guest = Guest::new(1);
        keep(&[CAP_BPF, CAP_NET_ADMIN]);
        let mut programs = arena.open();
        assert_eq!(attach(&mut programs, guest.ifindex, 0), Hooks::Both);
        guest.exchange(10, 1000);
        drop(programs);
        let programs = arena.open();
        assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Both);
        assert_eq!(
            both(&programs, 0).map(|counters| counters.packets),
            [10, 10]
        );
        let removed = detach_all(&arena.pin_directory(), &arena.runtime_directory()).unwrap();
        assert_eq!((removed.links, removed.maps), (2, 6));
    });
}

#[test]
fn the_capability_that_is_missing_is_named() {
    for (kept, missing) in [
        (vec![CAP_BPF], "lacks CAP_NET_ADMIN\n"),
        (vec![CAP_NET_ADMIN], "lacks CAP_BPF\n"),
        (vec![], "lacks CAP_BPF and CAP_NET_ADMIN\n"),
    ] {
        arena(move |arena| {
            keep(&kept);
            let error = Programs::open(&arena.options(), 1).err().unwrap();
            assert!(matches!(error, HostError::NotAllowed { .. }), "{error}");
            assert!(error.to_string().contains(missing), "{error}");
            let error = detach_all(&arena.pin_directory(), &arena.runtime_directory());
            assert!(error.unwrap_err().to_string().contains(missing));
        });
    }
}

#[test]
fn asking_what_the_machine_has_changes_nothing() {
    arena(|arena| {
        let state = || {
            [
                run("ip -o link"),
                run("tc qdisc show"),
                arena.pins().join(" "),
            ]
        };
        let before = state();
        let features = features(&arena.pin_directory());
        assert_eq!(state(), before);
        for feature in &features {
            println!("{}: {} ({})", feature.name, feature.present, feature.detail);
        }
        // Not a promise about every machine: about those that can run these tests at all.
        for name in [
            "kernel",
            "capabilities",
            "bpf file system",
            "batched map look-up",
        ] {
            let feature = features
                .iter()
                .find(|feature| feature.name == name)
                .unwrap();
            assert!(feature.present, "{feature:?}");
        }
        let answer = |name| {
            features
                .iter()
                .find(|feature| feature.name == name)
                .unwrap()
                .present
        };
        assert_eq!(answer("IFB"), try_out("ip link add probe type ifb"));
        assert_eq!(answer("HTB"), try_out("tc qdisc add dev lo root htb"));
        assert_eq!(
            answer("TBF"),
            try_out("tc qdisc replace dev lo root tbf rate 1mbit burst 2k limit 8000")
        );
    });
}

#[test]
fn what_is_missing_is_said_with_a_remedy() {
    arena(|arena| {
        let features = features(&arena.folder().join("pins"));
        let bpffs = features
            .iter()
            .find(|feature| feature.name == "bpf file system")
            .unwrap();
        assert!(!bpffs.present);
        assert!(bpffs.remedy.contains("mount -t bpf bpf"));
    });
}

fn try_out(command: &str) -> bool {
    let mut words = command.split_whitespace();
    std::process::Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap()
        .status
        .success()
}
