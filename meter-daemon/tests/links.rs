//! Interfaces as rtnetlink tells of them: in namespaces of the test's own, as root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod netns;

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use meter_daemon::host::links::{AdminState, Link, LinkChange, LinkKind, Links};
use netns::{Netns, Pair, Tap, sh};

/// The next change that `wanted` accepts; fails after two seconds without one.
async fn until<T>(links: &mut Links, mut wanted: impl FnMut(LinkChange) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(links.next().await) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(2), wait)
        .await
        .expect("the kernel tells of a change at once")
}

fn present(change: LinkChange, name: &str) -> Option<Link> {
    match change {
        LinkChange::Present(link) if link.name == name => Some(link),
        _ => None,
    }
}

fn gone(change: LinkChange, name: &str) -> Option<Link> {
    match change {
        LinkChange::Gone(link) if link.name == name => Some(link),
        _ => None,
    }
}

#[test]
fn a_new_renamed_deleted_and_reborn_interface_is_seen_within_milliseconds() {
    Netns::new().block_on(|| async {
        let mut links = Links::open().unwrap();
        let begun = Instant::now();
        sh("ip link add one type veth peer name peer");
        let born = until(&mut links, |change| present(change, "one")).await;
        assert_eq!(born.kind, LinkKind::Veth);
        assert!(!born.up);

        sh("ip link set one name two");
        let renamed = until(&mut links, |change| present(change, "two")).await;
        assert_eq!(renamed.ifindex, born.ifindex);

        sh("ip link del two");
        let lost = until(&mut links, |change| gone(change, "two")).await;
        assert_eq!(lost.ifindex, born.ifindex);
        assert_eq!(links.get(born.ifindex).await.unwrap(), None);

        // The same name is another interface.
        sh("ip link add two type veth peer name peer");
        let reborn = until(&mut links, |change| present(change, "two")).await;
        assert_ne!(reborn.ifindex, born.ifindex);
        println!("four changes, with four runs of ip: {:?}", begun.elapsed());
    });
}

#[test]
fn a_change_is_told_of_within_two_milliseconds_of_the_request() {
    Netns::new().block_on(|| async {
        sh("ip link add one type veth peer name peer");
        let mut links = Links::open().unwrap();
        let one = links
            .dump()
            .await
            .unwrap()
            .into_iter()
            .find(|link| link.name == "one");
        let one = one.unwrap();
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            let (state, up) = match round % 2 {
                0 => (AdminState::Up, true),
                _ => (AdminState::Down, false),
            };
            links.set(one.ifindex, state).await.unwrap();
            let answered = Instant::now();
            let told = |change| present(change, "one").filter(|link| link.up == up);
            until(&mut links, told).await;
            slowest = slowest.max(answered.elapsed());
        }
        println!("slowest of ten: {slowest:?}");
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");
    });
}

#[test]
fn a_deleted_tap_leaves_its_last_counters_behind() {
    let last = Netns::new().block_on(|| async {
        let mut links = Links::open().unwrap();
        let mut tap = Tap::new("tap0");
        sh("ip link set tap0 up");
        // Ten frames of 1000 bytes that the guest sends, ten that it is sent and takes.
        for _ in 0..10 {
            tap.send(&[2; 1000]);
        }
        sh("ip addr add 10.9.0.1/24 dev tap0; ip neigh add 10.9.0.2 dev tap0 lladdr 02:00:00:00:00:01");
        send("10.9.0.1:0", "10.9.0.2:9", 10);
        for _ in 0..10 {
            while tap.receive().len() != 1042 {}
        }
        drop(tap);
        until(&mut links, |change| gone(change, "tap0")).await
    });
    assert_eq!(last.kernel.sent.0, 10_000);
    assert_eq!(last.kernel.packets[1], 10);
    assert!(last.kernel.received.0 >= 10_420, "{last:?}");
}

#[test]
fn a_deleted_veth_leaves_only_what_was_received_behind() {
    let pair = Pair::new();
    pair.guest.run(|| send("10.9.0.2:0", "10.9.0.1:9", 10));
    pair.node.run(|| send("10.9.0.1:0", "10.9.0.2:9", 10));
    let last = pair.node.block_on(|| async {
        let mut links = Links::open().unwrap();
        sh("ip link del tap");
        until(&mut links, |change| gone(change, "tap")).await
    });
    assert!(last.kernel.received.0 >= 10_420, "{last:?}");
    // What comes in is the peer's counter, and veth_dellink has parted them by then.
    assert_eq!(last.kernel.sent.0, 0, "{last:?}");
}

#[test]
fn received_and_sent_are_the_guests() {
    let pair = Pair::new();
    // One way only: to an Ethernet address that is not the guest's, which says nothing.
    pair.node
        .sh("ip neigh replace 10.9.0.2 dev tap lladdr 02:00:00:00:00:01");
    let before = pair
        .node
        .block_on(|| async { tap(&Links::open().unwrap()).await });
    pair.node.run(|| send("10.9.0.1:0", "10.9.0.2:9", 100));
    let after = pair
        .node
        .block_on(|| async { tap(&Links::open().unwrap()).await });
    let received = after.kernel.received.0 - before.kernel.received.0;
    let sent = after.kernel.sent.0 - before.kernel.sent.0;
    assert!(received >= 104_200, "{received}");
    assert!(sent < 10_000, "{sent}");
}

fn send(from: &str, to: &str, packets: usize) {
    let socket = UdpSocket::bind(from).unwrap();
    for _ in 0..packets {
        // An ICMP error for the packet before is not of interest.
        let _ = socket.send_to(&[0; 1000], to);
    }
}

async fn tap(links: &Links) -> Link {
    let all = links.dump().await.unwrap();
    all.into_iter().find(|link| link.name == "tap").unwrap()
}

#[test]
fn a_tap_is_a_tap_and_a_bridge_port_that_leaves_its_bridge_is_still_there() {
    Netns::new().block_on(|| async {
        let mut links = Links::open().unwrap();
        sh("ip tuntap add dev tap0 mode tap; ip tuntap add dev tun0 mode tun; ip link set tap0 up");
        let all = links.dump().await.unwrap();
        let kind = |name: &str| {
            all.iter()
                .find(|link| link.name == name)
                .unwrap()
                .kind
                .clone()
        };
        assert_eq!(kind("tap0"), LinkKind::Tap);
        assert_eq!(kind("tun0"), LinkKind::Other("tun".to_owned()));
        let tap = all.iter().find(|link| link.name == "tap0").unwrap();
        assert!(tap.mac.is_some());
        assert_eq!(tap.mtu, 1500);

        sh("ip link add br0 type bridge; ip link set tap0 master br0; ip link set tap0 nomaster");
        sh("ip link set tap0 name last");
        until(&mut links, |change| match change {
            LinkChange::Gone(link) => panic!("{link:?} is not gone"),
            change => present(change, "last"),
        })
        .await;
    });
}

#[test]
fn an_interface_that_moves_to_another_namespace_is_gone() {
    let elsewhere = Netns::new();
    let id = elsewhere.thread_id;
    Netns::new().block_on(move || async move {
        let mut links = Links::open().unwrap();
        sh("ip link add one type veth peer name peer");
        let born = until(&mut links, |change| present(change, "one")).await;
        sh(&format!("ip link set one netns {id}"));
        let lost = until(&mut links, |change| gone(change, "one")).await;
        assert_eq!(lost.ifindex, born.ifindex);
    });
}

#[test]
fn qdisc_and_class_changes_by_others_are_told_of() {
    Netns::new().block_on(|| async {
        let mut links = Links::open().unwrap();
        sh("ip link add one type veth peer name peer; ip link set one up");
        let one = until(&mut links, |change| present(change, "one")).await;
        for command in [
            "tc qdisc add dev one root handle 1: htb",
            "tc class add dev one parent 1: classid 1:1 htb rate 1mbit",
            "tc class del dev one parent 1: classid 1:1",
            "tc qdisc del dev one root",
        ] {
            while !matches!(
                tokio::time::timeout(Duration::from_millis(50), links.next()).await,
                Err(_elapsed)
            ) {}
            sh(command);
            let changed = LinkChange::QdiscChanged {
                ifindex: one.ifindex,
            };
            until(&mut links, |change| (change == changed).then_some(())).await;
        }
    });
}

#[test]
fn a_thousand_links_are_listed_at_once_and_lost_events_are_owned_up_to() {
    Netns::new().block_on(|| async {
        let mut links = Links::open().unwrap();
        let pairs: String = (0..500)
            .map(|n| format!("link add a{n} type veth peer name b{n}\n"))
            .collect();
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), pairs).unwrap();
        sh(&format!("ip -batch {}", batch.path().display()));

        let begun = Instant::now();
        let all = links.dump().await.unwrap();
        println!("{} links listed in {:?}", all.len(), begun.elapsed());
        assert_eq!(all.len(), 1001);
        assert!(begun.elapsed() < Duration::from_millis(500));

        // Every one of them was announced, too: the buffer holds a burst like that.
        let mut announced = std::collections::BTreeSet::new();
        while let Ok(change) = tokio::time::timeout(Duration::from_millis(200), links.next()).await
        {
            match change {
                LinkChange::Present(link) => drop(announced.insert(link.ifindex)),
                LinkChange::Overrun => panic!("lost events in a burst of 1000 interfaces"),
                _ => {}
            }
        }
        assert_eq!(announced.len(), 1000);
    });
}

#[test]
fn after_an_overrun_a_dump_and_the_events_that_follow_are_the_whole_truth() {
    Netns::new().block_on(|| async {
        let mut links = Links::open_with_buffer(64 << 10).unwrap();
        sh("ip link add one type veth peer name peer");
        // Far more than 64 KB of events that nobody reads meanwhile.
        sh("for n in $(seq 150); do echo link set one up; echo link set one down; done | ip -batch -");
        sh("ip link set one name two");
        until(&mut links, |change| (change == LinkChange::Overrun).then_some(())).await;
        let all = links.dump().await.unwrap();
        assert!(all.iter().any(|link| link.name == "two"));
        assert!(!all.iter().any(|link| link.name == "one"));

        sh("ip link set two name three");
        until(&mut links, |change| {
            assert_ne!(change, LinkChange::Overrun, "the socket has recovered");
            present(change, "three")
        })
        .await;
    });
}
