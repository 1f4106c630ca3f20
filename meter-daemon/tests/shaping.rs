//! The shaper on real interfaces: what it puts there, what it puts back, what it leaves
//! alone. In namespaces of the test's own, as root. What it does to traffic: `throttle.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod netns;

use std::time::{Duration, Instant};

use meter_daemon::{
    engine::units::BitsPerSecond,
    host::shaping::{Change, Root, RootAfter, SavedRoot, Shaping, ShapingError},
};
use netns::{Netns, Tap, sh};

const RATE: BitsPerSecond = BitsPerSecond(64_000);

/// Qdiscs and classes of an interface as tc shows them, without what counts, and without the
/// length of a queue that is the interface's own and not used.
fn shown(interface: &str) -> String {
    sh(&format!(
        "(tc -d qdisc show dev {interface}; tc -d class show dev {interface}) | sort |
         sed -E 's/ (refcnt|direct_packets_stat) [0-9]+//g; s/direct_qlen (32|1000) *$//'"
    ))
}

/// A namespace with `tap` (a veth: its default is `noqueue`), and a shaper for it.
fn with_veth<F: Future<Output = ()>>(work: impl FnOnce(Shaping, u32) -> F + Send + 'static) {
    let node = Netns::new();
    node.sh("ip link add tap type veth peer name peer; ip link set tap up; ip link set peer up");
    let tap = node.ifindex("tap");
    node.block_on(move || async move {
        work(Shaping::open().unwrap(), tap).await;
        assert!(!sh("ip -o link show").contains("mtrd"), "an IFB was left");
    });
}

/// Through JSON, as the ledger keeps it.
fn remembered(saved: &SavedRoot) -> SavedRoot {
    serde_json::from_str(&serde_json::to_string(saved).unwrap()).unwrap()
}

/// Sets `root` up by tc, shapes, removes, and compares what tc shows.
fn comes_back_exactly(root: &'static str) {
    with_veth(move |shaping, tap| async move {
        sh(root);
        let before = shown("tap");
        let found = shaping.inspect(tap).await.unwrap();
        let Root::Restorable(saved) = found.root else {
            panic!("{found:?}");
        };
        let installed = shaping.install(tap, RATE).await.unwrap();
        assert_eq!(installed.replaced, Root::Restorable(saved.clone()));
        assert_ne!(shown("tap"), before);
        let removed = shaping.remove(tap, Some(&remembered(&saved))).await;
        assert_eq!(removed.unwrap().root, RootAfter::Restored);
        assert_eq!(shown("tap"), before);
        // Removed twice is removed once.
        let again = shaping.remove(tap, Some(&saved)).await.unwrap();
        assert_eq!(again.root, RootAfter::Restored);
        assert_eq!(shown("tap"), before);
    });
}

#[test]
fn a_single_tbf_comes_back_exactly() {
    comes_back_exactly("tc qdisc add dev tap root handle 5: tbf rate 10mbit burst 20k limit 100k");
}

#[test]
fn a_tbf_with_a_peak_rate_and_a_rate_past_32_bits_comes_back_exactly() {
    comes_back_exactly(
        "tc qdisc add dev tap root tbf rate 40gbit burst 1m latency 5ms peakrate 50gbit mtu 2000",
    );
}

#[test]
fn a_tbf_with_a_leaf_comes_back_exactly() {
    comes_back_exactly(
        "tc qdisc add dev tap root handle 5: tbf rate 10mbit burst 20k limit 100k
         tc qdisc add dev tap parent 5:1 handle 6: pfifo limit 77",
    );
}

#[test]
fn the_htb_that_proxmox_makes_comes_back_exactly() {
    comes_back_exactly(
        "tc qdisc add dev tap root handle 1: htb default 1
         tc class add dev tap parent 1: classid 1:1 htb rate 12500000bps burst 1048576b",
    );
}

#[test]
fn an_htb_with_nested_classes_and_leaves_comes_back_exactly() {
    comes_back_exactly(
        "tc qdisc add dev tap root handle 1: htb default 0x30 r2q 20 direct_qlen 500
         tc class add dev tap parent 1: classid 1:1 htb rate 100mbit burst 15k cburst 9k
         tc class add dev tap parent 1:1 classid 1:30 htb rate 1mbit ceil 50mbit prio 3 quantum 3000
         tc class add dev tap parent 1:1 classid 1:2 htb rate 40gbit ceil 45gbit linklayer atm overhead 8 mpu 60
         tc class add dev tap parent 1:2 classid 1:7 htb rate 5mbit prio 7
         tc qdisc add dev tap parent 1:7 handle 7: tbf rate 4mbit burst 3k limit 30k
         tc qdisc add dev tap parent 1:30 handle 30: bfifo limit 12345",
    );
}

#[test]
fn without_a_root_of_somebodys_the_kernels_default_comes_back() {
    with_veth(|shaping, tap| async move {
        let before = shown("tap");
        assert!(before.contains("noqueue"), "{before}");
        assert_eq!(shaping.inspect(tap).await.unwrap().root, Root::None);
        shaping.install(tap, RATE).await.unwrap();
        let removed = shaping.remove(tap, None).await.unwrap();
        assert_eq!(removed.root, RootAfter::DefaultBack);
        assert_eq!(shown("tap"), before);
    });
}

#[test]
fn a_taps_default_of_a_queue_comes_back() {
    let node = Netns::new();
    node.block_on(|| async {
        let _tap = Tap::new("tap");
        sh("ip link set tap up");
        let before = shown("tap");
        let tap = sh("ip -o link show tap | cut -d: -f1")
            .trim()
            .parse()
            .unwrap();
        let shaping = Shaping::open().unwrap();
        let found = shaping.inspect(tap).await.unwrap();
        let default = before.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(found.root, Root::Default(default));
        shaping.install(tap, RATE).await.unwrap();
        let found = shaping.inspect(tap).await.unwrap();
        assert_eq!(found.root, Root::Ours { rate: RATE });
        shaping.remove(tap, None).await.unwrap();
        assert_eq!(shown("tap"), before);
    });
}

#[test]
fn an_interface_that_is_down_is_shaped_from_the_moment_it_comes_up() {
    with_veth(|shaping, tap| async move {
        sh("ip link set tap down");
        shaping.install(tap, RATE).await.unwrap();
        sh("ip link set tap up");
        assert_eq!(
            shaping.inspect(tap).await.unwrap().root,
            Root::Ours { rate: RATE }
        );
        sh("ip link set tap down");
        shaping.remove(tap, None).await.unwrap();
        sh("ip link set tap up");
        assert!(shown("tap").contains("noqueue"));
    });
}

#[test]
fn installing_twice_is_installing_once_and_another_rate_keeps_the_classes() {
    with_veth(|shaping, tap| async move {
        let first = shaping.install(tap, RATE).await.unwrap();
        assert_eq!(first.change, Change::Built);
        let built = shown("tap");
        let second = shaping.install(tap, RATE).await.unwrap();
        assert_eq!(second.change, Change::Nothing);
        assert_eq!(second.ifb_ifindex, first.ifb_ifindex);

        let faster = BitsPerSecond(1_000_000);
        let third = shaping.install(tap, faster).await.unwrap();
        assert_eq!(third.change, Change::Adjusted);
        let found = shaping.inspect(tap).await.unwrap();
        assert_eq!(found.root, Root::Ours { rate: faster });
        assert_eq!(found.ifb, Some(first.ifb_ifindex));
        assert!(shown("tap").contains("ceil 1Mbit"), "{}", shown("tap"));

        shaping.install(tap, RATE).await.unwrap();
        assert_eq!(shown("tap"), built, "there and back again");
        let ifb = format!("mtrd{tap}");
        assert_eq!(shown(&ifb), built, "both directions have the same tree");
        shaping.remove(tap, None).await.unwrap();
    });
}

#[test]
fn what_others_change_in_our_tree_is_repaired() {
    for damage in [
        "tc qdisc del dev tap root",
        "tc class change dev tap parent 6d74:1 classid 6d74:2 htb rate 1gbit ceil 1gbit",
        "tc class del dev tap classid 6d74:13",
        "tc qdisc del dev tap parent 6d74:2",
        "ip link del mtrd$(ip -o link show tap | cut -d: -f1)",
        "tc qdisc del dev mtrd$(ip -o link show tap | cut -d: -f1) root",
    ] {
        with_veth(move |shaping, tap| async move {
            shaping.install(tap, RATE).await.unwrap();
            let (ours, ifb) = (shown("tap"), format!("mtrd{tap}"));
            sh(damage);
            let repaired = shaping.install(tap, RATE).await.unwrap();
            assert_ne!(repaired.change, Change::Nothing, "{damage}");
            assert_eq!(shown("tap"), ours, "{damage}");
            assert_eq!(shown(&ifb), ours, "{damage}");
            assert!(sh(&format!("ip link show {ifb}")).contains("UP"));
            shaping.remove(tap, None).await.unwrap();
        });
    }
}

#[test]
fn a_root_that_could_not_be_put_back_is_left_alone() {
    for foreign in [
        "tc qdisc add dev tap root pfifo limit 10",
        "tc qdisc add dev tap root handle 1: htb default 1
         tc class add dev tap parent 1: classid 1:1 htb rate 1mbit
         tc filter add dev tap parent 1: protocol all u32 match u32 0 0 flowid 1:1",
        "tc qdisc add dev tap root handle 1: htb default 1
         tc class add dev tap parent 1: classid 1:1 htb rate 1mbit
         tc qdisc add dev tap parent 1:1 handle 2: htb default 1",
        "tc qdisc add dev tap root handle 1: stab overhead 20 linklayer atm tbf rate 1mbit burst 5k limit 10k",
        "tc qdisc add dev tap root handle 6d74: htb default 1",
    ] {
        with_veth(move |shaping, tap| async move {
            sh(foreign);
            let before = shown("tap");
            let found = shaping.inspect(tap).await.unwrap();
            assert!(matches!(found.root, Root::Foreign { .. }), "{found:?}");
            let refused = shaping.install(tap, RATE).await.unwrap_err();
            assert!(matches!(refused, ShapingError::Foreign { .. }), "{refused}");
            println!("{refused}");
            let removed = shaping.remove(tap, None).await.unwrap();
            assert!(matches!(removed.root, RootAfter::ForeignLeftAlone(_)));
            assert_eq!(shown("tap"), before);
        });
    }
}

#[test]
fn a_root_that_somebody_changed_meanwhile_wins() {
    with_veth(|shaping, tap| async move {
        sh("tc qdisc add dev tap root tbf rate 10mbit burst 20k limit 100k");
        let Root::Restorable(saved) = shaping.inspect(tap).await.unwrap().root else {
            panic!("a TBF can be put back");
        };
        shaping.install(tap, RATE).await.unwrap();
        sh("tc qdisc replace dev tap root handle 1: htb default 1
            tc class add dev tap parent 1: classid 1:1 htb rate 5mbit");
        let theirs = shown("tap");
        let removed = shaping.remove(tap, Some(&saved)).await.unwrap();
        assert_eq!(removed.root, RootAfter::ForeignLeftAlone("htb".to_owned()));
        assert_eq!(shown("tap"), theirs);
    });
}

#[test]
fn an_interface_that_goes_leaves_its_ifb_to_be_found() {
    with_veth(|shaping, tap| async move {
        let installed = shaping.install(tap, RATE).await.unwrap();
        assert_eq!(shaping.stray_ifbs().await.unwrap(), []);
        sh("ip link del tap; ip link add mtrd type ifb; ip link add mtrd7x type ifb");
        let strays = shaping.stray_ifbs().await.unwrap();
        assert_eq!(strays.len(), 1);
        assert_eq!(strays[0].ifindex, installed.ifb_ifindex);
        assert_eq!(strays[0].owner, tap);
        assert!(matches!(
            shaping.install(tap, RATE).await,
            Err(ShapingError::Gone { ifindex }) if ifindex == tap
        ));
        let removed = shaping.remove(tap, None).await.unwrap();
        assert_eq!(removed.root, RootAfter::InterfaceGone);
        assert_eq!(shaping.stray_ifbs().await.unwrap(), []);
        shaping.delete_stray(&strays[0]).await.unwrap();
        sh("ip link del mtrd; ip link del mtrd7x");
    });
}

#[test]
fn a_name_that_is_taken_is_said_and_what_bears_it_left_alone() {
    with_veth(|shaping, tap| async move {
        sh(&format!("ip link add mtrd{tap} type veth peer name other"));
        let refused = shaping.install(tap, RATE).await.unwrap_err();
        assert!(
            matches!(refused, ShapingError::NameTaken { .. }),
            "{refused}"
        );
        shaping.remove(tap, None).await.unwrap();
        sh(&format!("ip link del mtrd{tap}"));
    });
}

#[test]
fn the_kernel_has_nothing_to_complain_of() {
    let lines = || sh("dmesg 2>/dev/null | grep -c -iE 'htb|tbf|quantum|work.conserving' || true");
    let before = lines();
    with_veth(|shaping, tap| async move {
        for rate in [8_000, 64_000, 1_000_000, 100_000_000, 100_000_000_000] {
            let rate = BitsPerSecond(rate);
            shaping.install(tap, rate).await.unwrap();
            let found = shaping.inspect(tap).await.unwrap();
            assert_eq!(found.root, Root::Ours { rate });
            let again = shaping.install(tap, rate).await.unwrap();
            assert_eq!(again.change, Change::Nothing, "at {rate}");
        }
        shaping.remove(tap, None).await.unwrap();
    });
    assert_eq!(lines(), before, "{}", sh("dmesg | tail -20"));
}

#[test]
fn installing_and_removing_take_a_fraction_of_a_second() {
    with_veth(|shaping, tap| async move {
        let begun = Instant::now();
        shaping.install(tap, RATE).await.unwrap();
        let installed = begun.elapsed();
        let begun = Instant::now();
        shaping.install(tap, RATE).await.unwrap();
        let checked = begun.elapsed();
        let begun = Instant::now();
        shaping.remove(tap, None).await.unwrap();
        let removed = begun.elapsed();
        println!("installed in {installed:?}, checked in {checked:?}, removed in {removed:?}");
        assert!(installed < Duration::from_secs(1));
        assert!(removed < Duration::from_secs(1));
    });
}
