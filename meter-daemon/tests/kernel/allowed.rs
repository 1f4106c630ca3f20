//! What the process must be allowed, and what the machine must have.

use std::thread;

use meter_daemon::host::{
    error::HostError,
    features::{Feature, features},
    programs::{Hooks, Programs, detach_all},
};
use meter_tests::{
    inspect::Inventory,
    links,
    netlink::{CREATE, Message, Netlink},
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::{
    arena::{Arena, Guest, arena, attach, ifindex, packets},
    node::tc::{ROOT, htb, tbf},
};

/// What suffices everywhere, in the shipped unit, too.
const TWO: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);

/// Runs something in a thread that has no other capability than these.
fn with_only<T: Send>(capabilities: CapabilitySet, work: impl FnOnce() -> T + Send) -> T {
    let restricted = || {
        let sets = CapabilitySets {
            effective: capabilities,
            permitted: capabilities,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
        work()
    };
    let result = thread::scope(|scope| scope.spawn(restricted).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn two_capabilities_suffice_from_the_first_start_to_leaving() {
    arena(|arena| {
        let guest = Guest::new(arena, 1);
        with_only(TWO, || {
            let mut programs = arena.open();
            assert_eq!(attach(&mut programs, guest.ifindex, 0), Hooks::Both);
        });
        guest.exchange(10, 1000);
        with_only(TWO, || {
            let programs = arena.open();
            assert_eq!(programs.attached().unwrap()[0].hooks, Hooks::Both);
            assert_eq!(packets(&programs, 0), [10, 10]);
            let removed = detach_all(&arena.pin_directory()).unwrap();
            assert_eq!((removed.links + removed.filters, removed.maps), (2, 12));
        });
    });
}

#[test]
fn the_capability_that_is_missing_is_named() {
    for (kept, missing) in [
        (CapabilitySet::BPF, "lacks CAP_NET_ADMIN\n"),
        (CapabilitySet::NET_ADMIN, "lacks CAP_BPF\n"),
        (CapabilitySet::empty(), "lacks CAP_BPF and CAP_NET_ADMIN\n"),
    ] {
        arena(|arena| {
            with_only(kept, || {
                let error = Programs::open(&arena.options(), 1).err().unwrap();
                assert!(matches!(error, HostError::NotAllowed { .. }), "{error}");
                assert!(error.to_string().contains(missing), "{error}");
                let error = detach_all(&arena.pin_directory());
                assert!(error.unwrap_err().to_string().contains(missing));
            });
        });
    }
}

#[test]
fn what_a_process_lacks_is_among_the_features() {
    arena(|arena| {
        let lacking = with_only(CapabilitySet::NET_ADMIN, || asked(arena, "capabilities"));
        assert!(!lacking.present);
        assert!(lacking.detail.contains("lacks CAP_BPF"), "{lacking:?}");
        let two = with_only(TWO, || asked(arena, "capabilities"));
        assert!(two.present, "{two:?}");
    });
}

fn asked(arena: &Arena<'_>, name: &str) -> Feature {
    let features = features(&arena.pin_directory());
    let feature = features.into_iter().find(|feature| feature.name == name);
    feature.unwrap_or_else(|| panic!("no feature {name}"))
}

#[test]
fn asking_what_the_machine_has_changes_nothing() {
    arena(|arena| {
        let before = (Inventory::take().unwrap(), arena.pins());
        let features = features(&arena.pin_directory());
        assert_eq!((Inventory::take().unwrap(), arena.pins()), before);
        for feature in &features {
            println!("{}: {} ({})", feature.name, feature.present, feature.detail);
        }
        let answer = |name| {
            let mut features = features.iter();
            let feature = features.find(|feature| feature.name == name);
            feature
                .unwrap_or_else(|| panic!("no feature {name}"))
                .present
        };
        // Not a promise about every machine: about those that can run these tests at all.
        for name in ["kernel", "capabilities", "bpffs", "batched map look-up"] {
            assert!(answer(name), "{name}");
        }
        assert_eq!(answer("IFB"), links::ifb("probe").is_ok());
        assert_eq!(answer("HTB"), takes_root("htb", &htb(1)));
        assert_eq!(answer("TBF"), takes_root("tbf", &tbf(125_000, 0)));
        assert_eq!(answer("mirred"), takes_action_of_redirecting());
    });
}

#[test]
fn what_is_missing_is_said_with_a_remedy() {
    arena(|arena| {
        let features = features(&arena.folder().join("pins"));
        let bpffs = features
            .iter()
            .find(|feature| feature.name == "bpffs")
            .unwrap();
        assert!(!bpffs.present);
        assert!(bpffs.remedy.contains("mount -t bpf bpf"));
    });
}

/// Whether a qdisc of this kind can be put at the root of a new interface.
fn takes_root(kind: &str, options: &[u8]) -> bool {
    const RTM_NEWQDISC: u16 = 36;
    const TCA_KIND: u16 = 1;
    const TCA_OPTIONS: u16 = 2;
    crate::node::pair(kind, "peer");
    let header = [0, ifindex(kind), 0, ROOT, 0].map(u32::to_ne_bytes);
    let message = Message::new(RTM_NEWQDISC, CREATE)
        .bytes(header.as_flattened())
        .string(TCA_KIND, kind)
        .attribute(TCA_OPTIONS, options);
    let answer = Netlink::open().unwrap().request(message, "put a qdisc");
    links::delete(kind).unwrap();
    answer.is_ok()
}

/// Whether there can be an action that sends packets out of the loopback.
fn takes_action_of_redirecting() -> bool {
    const RTM_NEWACTION: u16 = 48;
    const TCA_ACT_TAB: u16 = 1;
    const FIRST: u16 = 1;
    const TCA_ACT_KIND: u16 = 1;
    const TCA_ACT_OPTIONS: u16 = 2;
    const TCA_MIRRED_PARMS: u16 = 2;
    // struct tc_mirred: index, capabilities, TC_ACT_STOLEN, two counts, egress redirect,
    // ifindex.
    let mirred = [0, 0, 4, 0, 0, 1, ifindex("lo")].map(u32::to_ne_bytes);
    let message = Message::new(RTM_NEWACTION, CREATE)
        .bytes(&[0; 4])
        .nest(TCA_ACT_TAB, |table| {
            table.nest(FIRST, |action| {
                action
                    .string(TCA_ACT_KIND, "mirred")
                    .nest(TCA_ACT_OPTIONS, |options| {
                        options.attribute(TCA_MIRRED_PARMS, mirred.as_flattened())
                    })
            })
        });
    let answer = Netlink::open().unwrap().request(message, "make an action");
    answer.is_ok()
}
