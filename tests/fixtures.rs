//! The fixtures tested themselves: what the captures count is what the arithmetic says.

use std::time::Duration;

use meter_tests::{
    Result,
    capture::Capture,
    foreign::{Filter, Place},
    inspect::{self, Hook, Inventory},
    links::{self, Offload, Switch},
    needs,
    packet::Ends,
    paper::{self, TCP4_HEADERS, TCP6_HEADERS, UDP4_HEADERS},
    sandbox::{Namespace, Sandbox},
    stall,
    tap::Tap,
    topology::{BRIDGE, Family, Node, Port, UPLINK, WAN},
    traffic::{Bulk, Tcp, Udp, calmest, ping},
};

const MEGABYTE: u64 = 1_000_000;

#[test]
fn nothing_of_a_sandbox_is_seen_outside() -> Result<()> {
    let before = links::list()?;
    Sandbox::run(|sandbox| {
        assert_ne!(sandbox.host(), &Namespace::new()?);
        let names: Vec<_> = links::list()?.into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["lo"]);
        // A bpffs of its own has nothing in it but two lists, of kernels with BPF_PRELOAD.
        let mut pins = inspect::pins(&sandbox.bpffs())?;
        pins.retain(|pin| !matches!(pin.to_str(), Some("maps.debug" | "progs.debug")));
        assert_eq!(pins, Vec::<std::path::PathBuf>::new());
        let _guest = Node::new(sandbox)?.plug(Port::of(101))?;
        assert!(links::find("tap101i0")?.is_some());
        Ok(())
    })?;
    let without_figures = |list: Vec<links::Link>| -> Vec<_> {
        list.into_iter()
            .map(|link| (link.name, link.index, link.up))
            .collect()
    };
    assert_eq!(without_figures(links::list()?), without_figures(before));
    assert!(!std::path::Path::new("/dev/shm/bpf").exists());
    Ok(())
}

/// 10 MB of TCP both ways, counted on the uplink.
fn tcp(segmentation: Switch, family: Family) -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?.party;
        guest.segmentation(segmentation)?;
        guest.patient()?;
        node.world.patient()?;
        node.host
            .run(|| links::offload(UPLINK, Offload::Joining, segmentation))?;
        let (headers, segment) = match family {
            Family::V4 => (TCP4_HEADERS, 1448),
            Family::V6 => (TCP6_HEADERS, 1428),
        };
        if family == Family::V6 {
            guest.speak_v6_with(&node.world)?;
            node.world.speak_v6_with(&guest)?;
        }
        // Membership reports of the new addresses are over before anything is counted.
        let mut capture = Capture::on(&node.world.namespace, WAN)?;
        let transfer = Tcp {
            bytes: 10 * MEGABYTE,
            family,
        };
        let (again, moved) = calmest(|| {
            let before = capture.settled(guest.mac)?;
            let sent = transfer.run(&guest, &node.world)?;
            let received = transfer.run(&node.world, &guest)?;
            let moved = capture.settled(guest.mac)? - before;
            Ok((sent.retransmitted + received.retransmitted, moved))
        })?;
        for (way, count) in [("sent", moved.sent), ("received", moved.received)] {
            // The other transfer's confirmation is a byte of payload in a frame of its own.
            let slack = u64::from(again) * (segment + headers);
            let payload = 10 * MEGABYTE + 1;
            assert!(
                (payload..=payload + slack).contains(&count.payload),
                "{way}: {again} sent again, {count:?}"
            );
            let least = paper::wire_bytes(10 * MEGABYTE, segment, headers) + headers + 1;
            let carried = count.carrier_bytes;
            assert_eq!(
                carried,
                count.payload + count.carriers * headers,
                "{way}: {count:?}"
            );
            assert!(
                paper::within(carried, least, 0.001) || carried.abs_diff(least) <= slack,
                "{way}: {carried} against {least}"
            );
            // Beside those, SYNs and acknowledgements: 40 bytes of options at most, not 12.
            let (others, theirs) = (count.frames - count.carriers, count.bytes - carried);
            let range = others * headers..=others * (headers + 28);
            assert!(range.contains(&theirs), "{way}: {count:?}");
            assert!(count.largest <= 1514, "{way} was not segmented: {count:?}");
        }
        Ok(())
    })
}

#[test]
fn ten_megabytes_of_tcp_with_gso_are_on_the_wire_what_they_are_on_paper() -> Result<()> {
    tcp(Switch::On, Family::V4)
}

#[test]
fn ten_megabytes_of_tcp_without_gso_are_on_the_wire_what_they_are_on_paper() -> Result<()> {
    tcp(Switch::Off, Family::V4)
}

#[test]
fn ten_megabytes_of_tcp_over_ipv6_are_on_the_wire_what_they_are_on_paper() -> Result<()> {
    tcp(Switch::On, Family::V6)
}

#[test]
fn datagrams_are_on_the_wire_what_they_are_on_paper() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?.party;
        let mut capture = Capture::on(&node.world.namespace, WAN)?;
        let alone = Udp {
            datagrams: 1000,
            each: 1000,
            family: Family::V4,
            together: 1,
        };
        alone.run(&guest, &node.world)?;
        Udp {
            together: 40,
            ..alone
        }
        .run(&node.world, &guest)?;
        let moved = capture.settled(guest.mac)?;
        let expected = paper::wire_bytes(1000 * 1000, 1000, UDP4_HEADERS);
        assert_eq!((moved.sent.frames, moved.sent.bytes), (1000, expected));
        assert_eq!(
            (moved.received.frames, moved.received.bytes),
            (1000, expected)
        );
        Ok(())
    })
}

#[test]
fn vlan_tags_are_on_the_wire() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?.party;
        let mut capture = Capture::on(&node.world.namespace, WAN)?;
        // Addressed to nobody: nothing is answered.
        let ips = (guest.v4, [10, 9, 9, 9].into());
        let out = Ends {
            macs: (guest.mac, node.world.mac),
            ips,
        };
        let back = Ends {
            macs: (node.world.mac, guest.mac),
            ips,
        };
        for tags in [&[][..], &[7], &[7, 8]] {
            guest.inject(&out.udp(tags, 9, &[0; 100]), 10)?;
            node.world.inject(&back.udp(tags, 9, &[0; 100]), 20)?;
        }
        let moved = capture.settled(guest.mac)?;
        let each = UDP4_HEADERS + 100;
        assert_eq!((moved.sent.frames, moved.received.frames), (30, 60));
        assert_eq!(moved.sent.bytes, 10 * (3 * each + 4 + 8));
        assert_eq!(moved.received.bytes, 20 * (3 * each + 4 + 8));
        Ok(())
    })
}

#[test]
fn a_real_tap_hands_over_large_packets_that_leave_as_segments() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let port = Port::of(103);
        let mut tap = Tap::new("tap103i0")?;
        links::join(tap.name(), BRIDGE)?;
        let mut capture = Capture::on(&node.world.namespace, WAN)?;
        let nobody = std::net::Ipv4Addr::new(10, 9, 9, 9);
        let ends = Ends {
            macs: (port.mac(), node.world.mac),
            ips: ([10, 9, 0, 103].into(), nobody),
        };
        let filter = Filter::clsact("tap103i0", Hook::Sent, 1)?;
        for _ in 0..20 {
            tap.send_large(&ends.tcp_unfinished(9, &[0; 14480]), 1448)?;
        }
        let moved = capture.settled(port.mac())?;
        assert_eq!(moved.sent.frames, 200);
        assert_eq!(moved.sent.bytes, 200 * (1448 + 54));
        let seen = filter.seen()?;
        assert_eq!((seen.packets, seen.bytes), (20, 20 * (14480 + 54)));
        Ok(())
    })
}

#[test]
fn echo_requests_are_answered_and_timed() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?.party;
        let mut capture = Capture::on(&node.world.namespace, WAN)?;
        let pings = ping(&guest, node.world.v4, 5, Duration::from_millis(10))?;
        assert_eq!(pings.answered.len(), 5);
        assert!(
            pings.median() < Some(Duration::from_millis(500)),
            "{pings:?}"
        );
        let moved = capture.settled(guest.mac)?;
        assert_eq!((moved.sent.bytes, moved.received.bytes), (5 * 98, 5 * 98));
        let nobody = ping(&guest, [10, 9, 0, 99].into(), 1, Duration::ZERO)?;
        assert_eq!((nobody.median(), nobody.longest()), (None, None));
        Ok(())
    })
}

#[test]
fn eight_flows_are_measured_and_end() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?.party;
        let bulk = Bulk::start(&node.world, &guest, 8)?;
        let flows = |goodput: &f64| *goodput > 10e6;
        let half_a_second = Duration::from_millis(500);
        let goodput = stall::undisturbed("eight flows", flows, || Ok(bulk.goodput(half_a_second)))?;
        assert!(goodput > 10e6, "{goodput} bit/s");
        assert!(bulk.stop() > MEGABYTE / 2);
        Ok(())
    })
}

#[test]
fn foreign_filters_see_every_packet_and_are_found_on_their_hooks() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?;
        let before = Inventory::take()?;
        let index = links::get(&guest.tap)?.index;
        if !needs::tcx()? {
            return Ok(());
        }
        let last = Filter::tcx(&guest.tap, Hook::Sent, Place::Last)?;
        let first = Filter::tcx(&guest.tap, Hook::Sent, Place::First)?;
        let classic = Filter::clsact(&guest.tap, Hook::Sent, 1)?;
        let other = Filter::clsact(&guest.tap, Hook::Received, 1)?;
        ping(&guest.party, node.world.v4, 3, Duration::ZERO)?;
        for filter in [&first, &last, &classic, &other] {
            let seen = filter.seen()?;
            assert_eq!((seen.packets, seen.bytes), (3, 3 * 98), "{filter:?}");
        }
        let programs = inspect::tcx(index, Hook::Sent)?;
        assert_eq!(programs.len(), 2);
        assert!(
            programs.iter().all(|program| program.name == "foreign"),
            "{programs:?}"
        );
        assert_eq!(inspect::tcx(index, Hook::Received)?, []);
        assert_eq!(inspect::programs(index, Hook::Sent)?.len(), 3);
        assert_eq!(inspect::programs(index, Hook::Received)?.len(), 1);
        let clsact = inspect::qdiscs()?
            .into_iter()
            .filter(|qdisc| qdisc.kind == "clsact");
        assert_eq!(
            clsact.map(|qdisc| qdisc.ifindex).collect::<Vec<_>>(),
            [index]
        );
        assert!(Inventory::take()?.same_as(&before).is_err());
        drop((first, last));
        assert_eq!(inspect::tcx(index, Hook::Sent)?, []);
        Ok(())
    })
}

#[test]
fn a_link_is_renamed_moved_and_deleted() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?;
        links::rename(&guest.tap, "tap101i1")?;
        assert!(links::get("tap101i1")?.up);
        links::set_mtu("tap101i1", 1400)?;
        links::set_mac("tap101i1", Port::of(102).host_mac())?;
        let elsewhere = Namespace::new()?;
        links::move_to("tap101i1", &elsewhere)?;
        assert_eq!(links::find("tap101i1")?, None);
        elsewhere.run(|| {
            assert_eq!(links::get("tap101i1")?.mac, Some(Port::of(102).host_mac()));
            links::delete("tap101i1")
        })?;
        guest.party.namespace.run(|| {
            assert_eq!(links::find("eth0")?, None);
            Ok(())
        })
    })
}
