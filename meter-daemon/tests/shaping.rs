//! The shaper on real interfaces: what it puts there, what it puts back, what it leaves
//! alone. In namespaces of the tests' own, as root. What it does to traffic: `throttle.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and it is about time"
)]

mod node;

use std::time::{Duration, Instant};

use meter_daemon::{
    engine::units::BitsPerSecond,
    host::shaping::{Change, Installed, Root, RootAfter, SavedRoot, Shaping, ShapingError},
};
use meter_tests::{links, tap::Tap};
use node::{
    inside, namespace, pair,
    tc::{self, At, Class, ROOT, Then, fifo, htb, id, shown, tbf},
};

const RATE: BitsPerSecond = BitsPerSecond(64_000);

/// A namespace with `tap` (a veth: its default is `noqueue`), and a shaper for it.
fn with_veth<F: Future<Output = ()>>(work: impl FnOnce(Shaping, u32) -> F + Send) {
    inside(&namespace(), || async {
        pair("tap", "peer");
        links::up("tap").unwrap();
        links::up("peer").unwrap();
        let tap = links::get("tap").unwrap().index;
        work(Shaping::open().unwrap(), tap).await;
        let left = links::list().unwrap();
        assert!(left.iter().all(|link| link.kind != "ifb"), "{left:?}");
    });
}

/// Over what is found at that moment.
async fn install(
    shaping: &Shaping,
    tap: u32,
    rate: BitsPerSecond,
) -> Result<Installed, ShapingError> {
    let found = shaping.inspect(tap).await?;
    shaping.install(tap, rate, &found.root).await
}

fn ifb(tap: u32) -> String {
    format!("mtrd{tap}")
}

/// Through JSON, as the ledger keeps it.
fn remembered(saved: &SavedRoot) -> SavedRoot {
    serde_json::from_str(&serde_json::to_string(saved).unwrap()).unwrap()
}

/// Sets a root up as others do, shapes, removes, and compares what stands.
fn comes_back_exactly(root: impl FnOnce() + Send) {
    with_veth(|shaping, tap| async move {
        root();
        let before = shown("tap");
        let found = shaping.inspect(tap).await.unwrap();
        let Root::Restorable(saved) = found.root else {
            panic!("{found:?}");
        };
        let installed = install(&shaping, tap, RATE).await.unwrap();
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
    comes_back_exactly(|| tc::qdisc("tap", ROOT, 5, "tbf", &tbf(1_250_000, 0)));
}

#[test]
fn a_tbf_with_a_peak_rate_and_a_rate_past_32_bits_comes_back_exactly() {
    comes_back_exactly(|| {
        let options = tbf(5_000_000_000, 6_000_000_000);
        tc::qdisc("tap", ROOT, 5, "tbf", &options);
    });
}

#[test]
fn a_tbf_with_a_leaf_comes_back_exactly() {
    comes_back_exactly(|| {
        tc::qdisc("tap", ROOT, 5, "tbf", &tbf(1_250_000, 0));
        tc::qdisc("tap", id(5, 1), 6, "pfifo", &fifo(77));
    });
}

#[test]
fn the_htb_that_proxmox_makes_comes_back_exactly() {
    comes_back_exactly(|| {
        tc::qdisc("tap", ROOT, 1, "htb", &htb(1));
        tc::class("tap", id(1, 0), id(1, 1), &Class::of(12_500_000));
    });
}

#[test]
fn an_htb_with_nested_classes_and_leaves_comes_back_exactly() {
    comes_back_exactly(|| {
        tc::qdisc("tap", ROOT, 1, "htb", &htb(0x30));
        tc::class("tap", ROOT, id(1, 1), &Class::of(12_500_000));
        let wide = Class {
            ceil: 6_000_000_000,
            link_layer: 2,
            overhead: 8,
            ..Class::of(5_000_000_000)
        };
        tc::class("tap", id(1, 1), id(1, 2), &wide);
        // Before its parent by number.
        let narrow = Class {
            ceil: 6_250_000,
            quantum: 3000,
            priority: 3,
            ..Class::of(125_000)
        };
        tc::class("tap", id(1, 1), id(1, 0x30), &narrow);
        tc::class("tap", id(1, 0x30), id(1, 0x7), &narrow);
        tc::qdisc("tap", id(1, 7), 7, "tbf", &tbf(500_000, 0));
        tc::qdisc("tap", id(1, 2), 0x30, "bfifo", &fifo(12_345));
    });
}

#[test]
fn without_a_root_of_somebodys_the_kernels_default_comes_back() {
    with_veth(|shaping, tap| async move {
        let before = shown("tap");
        assert!(before.contains("noqueue"), "{before}");
        assert_eq!(shaping.inspect(tap).await.unwrap().root, Root::None);
        install(&shaping, tap, RATE).await.unwrap();
        let removed = shaping.remove(tap, None).await.unwrap();
        assert_eq!(removed.root, RootAfter::DefaultBack);
        assert_eq!(shown("tap"), before);
    });
}

#[test]
fn a_taps_default_of_a_queue_comes_back() {
    inside(&namespace(), || async {
        let _tap = Tap::new("tap").unwrap();
        let before = shown("tap");
        let tap = links::get("tap").unwrap().index;
        let shaping = Shaping::open().unwrap();
        let found = shaping.inspect(tap).await.unwrap();
        let default = before.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(found.root, Root::Default(default));
        install(&shaping, tap, RATE).await.unwrap();
        let found = shaping.inspect(tap).await.unwrap();
        assert_eq!(found.root, Root::Ours { rate: RATE });
        shaping.remove(tap, None).await.unwrap();
        assert_eq!(shown("tap"), before);
    });
}

#[test]
fn an_interface_that_is_down_is_shaped_from_the_moment_it_comes_up() {
    with_veth(|shaping, tap| async move {
        links::down("tap").unwrap();
        install(&shaping, tap, RATE).await.unwrap();
        links::up("tap").unwrap();
        let found = shaping.inspect(tap).await.unwrap();
        assert_eq!(found.root, Root::Ours { rate: RATE });
        links::down("tap").unwrap();
        shaping.remove(tap, None).await.unwrap();
        links::up("tap").unwrap();
        assert!(shown("tap").contains("noqueue"));
    });
}

#[test]
fn installing_twice_is_installing_once_and_another_rate_keeps_the_classes() {
    with_veth(|shaping, tap| async move {
        let first = install(&shaping, tap, RATE).await.unwrap();
        assert_eq!(first.change, Change::Built);
        let built = shown("tap");
        let second = install(&shaping, tap, RATE).await.unwrap();
        assert_eq!(second.change, Change::Nothing);
        assert_eq!(second.ifb_ifindex, first.ifb_ifindex);

        let faster = BitsPerSecond(1_000_000);
        let third = install(&shaping, tap, faster).await.unwrap();
        assert_eq!(third.change, Change::Adjusted);
        let found = shaping.inspect(tap).await.unwrap();
        assert_eq!(found.root, Root::Ours { rate: faster });
        assert_eq!(found.ifb, Some(first.ifb_ifindex));
        assert_ne!(shown("tap"), built);

        install(&shaping, tap, RATE).await.unwrap();
        assert_eq!(shown("tap"), built, "there and back again");
        let classes = |interface: &str| -> Vec<String> {
            let lines = shown(interface);
            let classes = lines.lines().filter(|line| line.starts_with("class"));
            classes.map(str::to_owned).collect()
        };
        assert_eq!(classes(&ifb(tap)), classes("tap"), "both directions alike");
        shaping.remove(tap, None).await.unwrap();
    });
}

#[test]
fn what_others_change_in_our_tree_is_repaired() {
    let damages: [fn(u32); 6] = [
        |_| tc::delete_qdisc("tap", ROOT),
        |_| {
            let (parent, bulk) = (id(0x6d74, 1), id(0x6d74, 2));
            tc::class("tap", parent, bulk, &Class::of(125_000_000));
        },
        |_| tc::delete_class("tap", id(0x6d74, 0x13)),
        |_| tc::delete_qdisc("tap", id(0x6d74, 2)),
        |tap| links::delete(&ifb(tap)).unwrap(),
        |tap| tc::delete_qdisc(&ifb(tap), ROOT),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        with_veth(|shaping, tap| async move {
            install(&shaping, tap, RATE).await.unwrap();
            let (at_tap, at_ifb) = (shown("tap"), shown(&ifb(tap)));
            damage(tap);
            let repaired = install(&shaping, tap, RATE).await.unwrap();
            assert_ne!(repaired.change, Change::Nothing, "damage {number}");
            assert_eq!(shown("tap"), at_tap, "damage {number}");
            assert_eq!(shown(&ifb(tap)), at_ifb, "damage {number}");
            assert!(links::get(&ifb(tap)).unwrap().up);
            shaping.remove(tap, None).await.unwrap();
        });
    }
}

#[test]
fn a_root_that_could_not_be_put_back_is_left_alone() {
    let foreign: [(&str, fn()); 5] = [
        ("only HTB and TBF", || {
            tc::qdisc("tap", ROOT, 9, "pfifo", &fifo(10));
        }),
        ("filters", || {
            tc::qdisc("tap", ROOT, 1, "htb", &htb(1));
            tc::class("tap", ROOT, id(1, 1), &Class::of(125_000));
            let at = At::Qdisc(id(1, 0));
            tc::filter("tap", at, 1, &[(0, 0, 0)], Then::Class(id(1, 1)));
        }),
        ("leaf `htb`", || {
            tc::qdisc("tap", ROOT, 1, "htb", &htb(1));
            tc::class("tap", ROOT, id(1, 1), &Class::of(125_000));
            tc::qdisc("tap", id(1, 1), 2, "htb", &htb(1));
        }),
        ("size table", || {
            tc::qdisc_with_size_table("tap", "tbf", &tbf(125_000, 0));
        }),
        ("our handle", || {
            tc::qdisc("tap", ROOT, 0x6d74, "htb", &htb(1));
        }),
    ];
    for (reason, set_up) in foreign {
        with_veth(|shaping, tap| async move {
            set_up();
            let before = shown("tap");
            let found = shaping.inspect(tap).await.unwrap();
            assert!(matches!(found.root, Root::Foreign { .. }), "{found:?}");
            let refused = install(&shaping, tap, RATE).await.unwrap_err();
            assert!(matches!(refused, ShapingError::Foreign { .. }), "{refused}");
            assert!(refused.to_string().contains(reason), "{refused}");
            let removed = shaping.remove(tap, None).await.unwrap();
            assert!(matches!(removed.root, RootAfter::ForeignLeftAlone(_)));
            assert_eq!(shown("tap"), before);
        });
    }
}

#[test]
fn a_root_that_somebody_changes_after_the_look_is_not_taken_and_finds_what_it_left() {
    with_veth(|shaping, tap| async move {
        // Ours, that they take away to put theirs there.
        install(&shaping, tap, RATE).await.unwrap();
        let ours = shaping.inspect(tap).await.unwrap().root;
        tc::delete_qdisc("tap", ROOT);
        let refused = shaping.install(tap, RATE, &ours).await.unwrap_err();
        let disturbed = |it: &ShapingError| matches!(it, ShapingError::Disturbed { .. });
        assert!(disturbed(&refused), "{refused}");
        assert!(!shown("tap").contains("6d74:"), "{}", shown("tap"));
        // None, where theirs stands by now, which nobody has remembered.
        let none = shaping.inspect(tap).await.unwrap().root;
        tc::qdisc("tap", ROOT, 5, "tbf", &tbf(1_250_000, 0));
        let theirs = shown("tap");
        let refused = shaping.install(tap, RATE, &none).await.unwrap_err();
        assert!(disturbed(&refused), "{refused}");
        assert_eq!(shown("tap"), theirs);
        shaping.remove(tap, None).await.unwrap();
    });
}

#[test]
fn a_root_that_somebody_changed_meanwhile_wins() {
    with_veth(|shaping, tap| async move {
        tc::qdisc("tap", ROOT, 5, "tbf", &tbf(1_250_000, 0));
        let Root::Restorable(saved) = shaping.inspect(tap).await.unwrap().root else {
            panic!("a TBF can be put back");
        };
        install(&shaping, tap, RATE).await.unwrap();
        tc::qdisc("tap", ROOT, 1, "htb", &htb(1));
        tc::class("tap", ROOT, id(1, 1), &Class::of(625_000));
        let theirs = shown("tap");
        let removed = shaping.remove(tap, Some(&saved)).await.unwrap();
        assert_eq!(removed.root, RootAfter::ForeignLeftAlone("htb".to_owned()));
        assert_eq!(shown("tap"), theirs);
    });
}

#[test]
fn what_died_between_taking_away_and_putting_back_is_put_back_by_the_next() {
    with_veth(|shaping, tap| async move {
        tc::qdisc("tap", ROOT, 5, "tbf", &tbf(1_250_000, 0));
        let before = shown("tap");
        let Root::Restorable(saved) = shaping.inspect(tap).await.unwrap().root else {
            panic!("a TBF can be put back");
        };
        install(&shaping, tap, RATE).await.unwrap();
        tc::delete_qdisc("tap", ROOT);
        let removed = shaping.remove(tap, Some(&saved)).await.unwrap();
        assert_eq!(removed.root, RootAfter::Restored);
        assert_eq!(shown("tap"), before);
    });
}

#[test]
fn filters_that_a_redirect_would_bypass_are_seen() {
    with_veth(|shaping, tap| async move {
        let seen = async || shaping.inspect(tap).await.unwrap().ingress_filters;
        assert!(seen().await.is_empty());
        tc::clsact("tap");
        assert!(seen().await.is_empty(), "nothing to bypass");
        for priority in [1, 2] {
            tc::filter(
                "tap",
                At::Ingress,
                priority,
                &[(0, 0, 0)],
                Then::Redirect(tap),
            );
        }
        assert_eq!(seen().await, ["u32", "u32"]);
    });
}

#[test]
fn an_interface_that_goes_leaves_its_ifb_to_be_found() {
    with_veth(|shaping, tap| async move {
        let installed = install(&shaping, tap, RATE).await.unwrap();
        assert_eq!(shaping.stray_ifbs().await.unwrap(), []);
        // Not of our making: not an IFB, or not our name.
        pair("mtrd9999", "mtrd7x");
        links::delete("tap").unwrap();
        let strays = shaping.stray_ifbs().await.unwrap();
        assert_eq!(strays.len(), 1);
        assert_eq!(strays[0].ifindex, installed.ifb_ifindex);
        assert_eq!(strays[0].owner, tap);
        assert!(matches!(
            install(&shaping, tap, RATE).await,
            Err(ShapingError::Gone { ifindex }) if ifindex == tap
        ));
        shaping.delete_stray(&strays[0]).await.unwrap();
        assert_eq!(shaping.stray_ifbs().await.unwrap(), []);
        let removed = shaping.remove(tap, None).await.unwrap();
        assert_eq!(removed.root, RootAfter::InterfaceGone);
    });
}

#[test]
fn a_name_that_is_taken_is_said_and_what_bears_it_left_alone() {
    with_veth(|shaping, tap| async move {
        pair(&ifb(tap), "other");
        let refused = install(&shaping, tap, RATE).await.unwrap_err();
        assert!(
            matches!(refused, ShapingError::NameTaken { .. }),
            "{refused}"
        );
        shaping.remove(tap, None).await.unwrap();
        assert!(links::find(&ifb(tap)).unwrap().is_some());
    });
}

#[test]
fn every_rate_stands_as_it_was_wanted() {
    with_veth(|shaping, tap| async move {
        for rate in [8_000, 64_000, 1_000_000, 100_000_000, 100_000_000_000] {
            let rate = BitsPerSecond(rate);
            install(&shaping, tap, rate).await.unwrap();
            let found = shaping.inspect(tap).await.unwrap();
            assert_eq!(found.root, Root::Ours { rate });
            let again = install(&shaping, tap, rate).await.unwrap();
            assert_eq!(again.change, Change::Nothing, "at {rate}");
        }
        shaping.remove(tap, None).await.unwrap();
    });
}

#[test]
fn what_stands_is_found_without_a_list_of_all_other_interfaces() {
    with_veth(|shaping, tap| async move {
        for number in 0..500 {
            pair(&format!("a{number}"), &format!("b{number}"));
        }
        install(&shaping, tap, RATE).await.unwrap();
        // The best of a few: what else the machine does is not what is measured.
        let mut each = Duration::MAX;
        for _ in 0..10 {
            let begun = Instant::now();
            for _ in 0..10 {
                install(&shaping, tap, RATE).await.unwrap();
                shaping.figures(tap).await.unwrap();
            }
            each = each.min(begun.elapsed() / 10);
        }
        println!("inspected, found as wanted and read beside 1000 interfaces in {each:?}");
        assert!(each < Duration::from_millis(10));
        shaping.remove(tap, None).await.unwrap();
    });
}

#[test]
fn installing_and_removing_take_a_fraction_of_a_second() {
    with_veth(|shaping, tap| async move {
        // The best of a few: what else the machine does is not what is measured.
        let [mut installed, mut checked, mut removed] = [Duration::MAX; 3];
        for _ in 0..3 {
            let begun = Instant::now();
            install(&shaping, tap, RATE).await.unwrap();
            installed = installed.min(begun.elapsed());
            let begun = Instant::now();
            install(&shaping, tap, RATE).await.unwrap();
            checked = checked.min(begun.elapsed());
            let begun = Instant::now();
            shaping.remove(tap, None).await.unwrap();
            removed = removed.min(begun.elapsed());
        }
        println!("installed in {installed:?}, checked in {checked:?}, removed in {removed:?}");
        assert!(installed < Duration::from_secs(1));
        assert!(removed < Duration::from_secs(1));
    });
}
