//! Bytes are wire bytes: the ledger's figures against frames counted at the far end of the
//! wire, and against what payload and headers add up to on paper.

use meter_tests::{
    Result,
    capture::Capture,
    links::{self, Offload, Switch},
    meterd::Counted,
    packet::Ends,
    paper::{self, TCP4_HEADERS, TCP6_HEADERS, UDP4_HEADERS, UDP6_HEADERS},
    sandbox::Sandbox,
    scene::{EVERY_TAP, MACHINE, Scene, until_metered},
    tap::Tap,
    topology::{BRIDGE, Family, Node, Port, UPLINK, WAN},
    traffic::{Bulk, Tcp, Udp, calmest, ping},
};

const MEGABYTE: u64 = 1_000_000;

fn tcp_both_ways(segmentation: Switch, family: Family) -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let (guest, world) = (scene.guest.party.clone(), scene.node.world.clone());
        guest.segmentation(segmentation)?;
        guest.patient()?;
        world.patient()?;
        scene
            .node
            .host
            .run(|| links::offload(UPLINK, Offload::Joining, segmentation))?;
        let (headers, segment) = match family {
            Family::V4 => (TCP4_HEADERS, 1448),
            Family::V6 => (TCP6_HEADERS, 1428),
        };
        if family == Family::V6 {
            guest.speak_v6_with(&world)?;
            world.speak_v6_with(&guest)?;
        }
        let transfer = Tcp {
            bytes: 20 * MEGABYTE,
            family,
        };
        let (again, watched) = calmest(|| {
            let watched = scene.watch(|guest, world| {
                let sent = transfer.run(guest, world)?;
                let received = transfer.run(world, guest)?;
                Ok(sent.retransmitted + received.retransmitted)
            })?;
            Ok((watched.outcome, watched))
        })?;
        let (ledger, wire) = (watched.ledger, watched.on_the_wire());
        // A segment that was sent again may have been lost, between the two counts or before.
        let slack = u64::from(again) * (segment + headers);
        if segmentation == Switch::Off && again == 0 {
            watched.assert_exact();
        }
        let least = paper::wire_bytes(20 * MEGABYTE, segment, headers);
        for (counted, captured) in [(ledger.sent, wire.sent), (ledger.received, wire.received)] {
            assert!(
                paper::within(counted, captured, 0.001) || counted.abs_diff(captured) <= slack,
                "{again} sent again, {ledger:?} against {wire:?}"
            );
            // Beside the data, acknowledgements of the other way's: at most one a segment.
            let most = least + 20 * MEGABYTE / segment * (headers + 28) / 2 + slack;
            assert!(
                (least..most).contains(&counted),
                "{counted} on paper {least} to {most}"
            );
        }
        Ok(())
    })
}

#[test]
fn tcp_with_gso_counts_as_its_segments() -> Result<()> {
    tcp_both_ways(Switch::On, Family::V4)
}

#[test]
fn tcp_without_gso_counts_to_the_byte() -> Result<()> {
    tcp_both_ways(Switch::Off, Family::V4)
}

#[test]
fn tcp_over_ipv6_with_gso_counts_as_its_segments() -> Result<()> {
    tcp_both_ways(Switch::On, Family::V6)
}

#[test]
fn tcp_over_ipv6_without_gso_counts_to_the_byte() -> Result<()> {
    tcp_both_ways(Switch::Off, Family::V6)
}

#[test]
fn datagrams_count_to_the_byte_alone_and_segmented_by_the_kernel() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let (guest, world) = (scene.guest.party.clone(), scene.node.world.clone());
        guest.speak_v6_with(&world)?;
        world.speak_v6_with(&guest)?;
        for (family, headers) in [(Family::V4, UDP4_HEADERS), (Family::V6, UDP6_HEADERS)] {
            for together in [1, 40] {
                let out = Udp {
                    datagrams: 2000,
                    each: 1200,
                    family,
                    together,
                };
                let back = Udp {
                    datagrams: 1000,
                    each: 100,
                    ..out
                };
                let watched = scene.watch(|guest, world| {
                    out.run(guest, world)?;
                    back.run(world, guest)
                })?;
                watched.assert_exact();
                let on_paper = Counted {
                    sent: paper::wire_bytes(2000 * 1200, 1200, headers),
                    received: paper::wire_bytes(1000 * 100, 100, headers),
                };
                assert_eq!(watched.ledger, on_paper, "{family:?}, {together} together");
            }
        }
        Ok(())
    })
}

#[test]
fn vlan_tags_are_counted_one_and_two_both_ways() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let watched = scene.watch(|guest, world| {
            let ips = (guest.v4, [10, 9, 9, 9].into());
            let out = Ends {
                macs: (guest.mac, world.mac),
                ips,
            };
            let back = Ends {
                macs: (world.mac, guest.mac),
                ips,
            };
            for tags in [&[7][..], &[7, 8]] {
                guest.inject(&out.udp(tags, 9, &[0; 1000]), 100)?;
                world.inject(&back.udp(tags, 9, &[0; 500]), 200)?;
            }
            Ok(())
        })?;
        watched.assert_exact();
        let on_paper = Counted {
            sent: 100 * (2 * (1000 + UDP4_HEADERS) + 4 + 8),
            received: 200 * (2 * (500 + UDP4_HEADERS) + 4 + 8),
        };
        assert_eq!(watched.ledger, on_paper);
        Ok(())
    })
}

#[test]
fn a_real_taps_large_packets_count_as_their_segments() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let mut tap = Tap::new("tap150i0")?;
        links::join(tap.name(), BRIDGE)?;
        let port = Port::of(150);
        links::forward(tap.name(), port.mac())?;
        until_metered(tap.name())?;
        let world = &scene.node.world;
        let ips = ([10, 9, 0, 150].into(), [10, 9, 9, 9].into());
        let ends = Ends {
            macs: (port.mac(), world.mac),
            ips,
        };
        for _ in 0..100 {
            // The last of its segments is a short one.
            tap.send_large(&ends.tcp_unfinished(9, &[0; 20_000]), 1448)?;
        }
        let back = Ends {
            macs: (world.mac, port.mac()),
            ips,
        };
        world.inject(&back.udp(&[], 9, &[0; 500]), 60)?;
        let moved = scene.capture.settled(port.mac())?;
        assert_eq!(
            tap.take_all()
                .iter()
                .filter(|&&length| length == 542)
                .count(),
            60
        );
        assert_eq!(moved.sent.frames, 1400);
        assert_eq!(moved.sent.bytes, 100 * (20_000 + 14 * 54));
        assert_eq!(moved.received.bytes, 60 * 542);
        let counted = scene.meterd.counted("150")?;
        let wire = Counted {
            received: moved.received.bytes,
            sent: moved.sent.bytes,
        };
        assert_eq!(counted, wire);
        Ok(())
    })
}

#[test]
fn with_count_bytes_frame_the_ledger_equals_the_interfaces_own_counters() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "count-bytes = 'frame'")?;
        let before = links::get(&scene.guest.tap)?.stats;
        let watched = scene.watch(|guest, world| {
            Tcp::v4(10 * MEGABYTE).run(guest, world)?;
            Tcp::v4(10 * MEGABYTE).run(world, guest)
        })?;
        let now = links::get(&scene.guest.tap)?.stats;
        let interface = Counted {
            sent: now.taken_in - before.taken_in,
            received: now.given_out - before.given_out,
        };
        assert_eq!(watched.ledger, interface);
        // Which is less than what was on the wire: the packets were large.
        assert!(
            interface.sent < watched.wire.sent.bytes * 98 / 100,
            "{interface:?}"
        );
        assert!(
            interface.received < watched.wire.received.bytes * 98 / 100,
            "{interface:?}"
        );
        Ok(())
    })
}

#[test]
fn with_count_bytes_ip_the_link_layer_counts_nothing() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "count-bytes = 'ip'")?;
        let udp = Udp {
            datagrams: 500,
            each: 1000,
            family: Family::V4,
            together: 20,
        };
        let watched = scene.watch(|guest, world| udp.run(guest, world))?;
        assert_eq!(
            watched.ledger,
            Counted {
                received: 0,
                sent: 500 * (1000 + 28)
            }
        );
        Ok(())
    })
}

#[test]
fn two_guests_on_one_node_are_metered_each_for_itself() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let other = scene.node.plug(Port::of(102))?.party;
        scene.guest.party.knows(&other)?;
        other.knows(&scene.guest.party)?;
        let udp = Udp {
            datagrams: 300,
            each: 1000,
            family: Family::V4,
            together: 1,
        };
        udp.run(&scene.guest.party, &other)?;
        let volume = paper::wire_bytes(300 * 1000, 1000, UDP4_HEADERS);
        let sender = scene.meterd.counted(MACHINE)?;
        assert_eq!(
            sender,
            Counted {
                received: 0,
                sent: volume
            }
        );
        let receiver = scene.meterd.counted("102")?;
        assert_eq!(
            receiver,
            Counted {
                received: volume,
                sent: 0
            }
        );
        Ok(())
    })
}

#[test]
fn a_machine_has_the_traffic_of_all_its_interfaces() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let second = scene.node.plug(Port {
            machine: 101,
            nic: 1,
        })?;
        let world = &scene.node.world;
        let pings = |from| ping(from, world.v4, 10, std::time::Duration::from_millis(1));
        pings(&scene.guest.party)?;
        pings(&second.party)?;
        let both = Counted {
            received: 20 * 98,
            sent: 20 * 98,
        };
        assert_eq!(scene.meterd.counted(MACHINE)?, both);
        let status = scene.meterd.status(MACHINE)?;
        assert_eq!(
            status["interfaces"],
            serde_json::json!(["tap101i0", "tap101i1"])
        );
        Ok(())
    })
}

#[test]
fn usage_by_minute_day_month_and_period_adds_up_to_the_same() -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, "")?;
        let moved = scene
            .watch(|guest, world| Tcp::v4(MEGABYTE).run(guest, world))?
            .ledger;
        for by in ["minute", "hour", "day", "month", "period"] {
            let rows = scene.meterd.json(&["usage", MACHINE, "--by", by])?;
            let rows = rows.as_array().cloned().unwrap_or_default();
            let sum = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
            let total = Counted {
                received: sum("received"),
                sent: sum("sent"),
            };
            assert_eq!(total, moved, "by {by}: {rows:?}");
        }
        let status = scene.meterd.status(MACHINE)?;
        let chart = scene.meterd.text(&["usage", MACHINE, "--chart"])?;
        let left = status["period"]["days_left"].as_i64().unwrap_or_default();
        assert!(chart.contains(&format!("{left} day")), "{chart}");
        assert!(chart.contains('█'), "{chart}");
        // The last row is today's: all of what was used, of a plan without an end.
        let today = chart.lines().last().unwrap_or_default();
        let card = scene.meterd.text(&["status", MACHINE])?;
        let used = card
            .lines()
            .find_map(|line| line.trim().strip_prefix("used")?.split(" of ").next());
        let used = used.unwrap_or("no such line").trim();
        assert!(today.contains(used), "{today}, not {used}");
        assert!(today.contains("unlimited"), "{today}");
        Ok(())
    })
}

#[test]
fn top_shows_what_moves_between_two_readings() -> Result<()> {
    Sandbox::run(|sandbox| {
        let scene = Scene::set(sandbox, "")?;
        let bulk = Bulk::start(&scene.node.world, &scene.guest.party, 1)?;
        let rows = scene.meterd.json(&["top", "-n", "1", "-i", "1s"])?;
        let _ = bulk.stop();
        let rate = |key: &str| rows[0][key].as_u64().unwrap_or_default();
        assert_eq!(rows[0]["machine"], MACHINE);
        // One way data at some gigabits a second, the other its acknowledgements.
        let (received, sent) = (
            rate("received_bits_per_second"),
            rate("sent_bits_per_second"),
        );
        assert!(
            received > 10_000_000 && sent > 0 && sent < received,
            "{rows}"
        );
        let rows = scene.meterd.json(&["top", "-n", "1", "-i", "1s"])?;
        assert_eq!(rows[0]["received_bits_per_second"], 0, "{rows}");
        Ok(())
    })
}

#[test]
fn an_interface_older_than_the_first_sight_is_a_baseline() -> Result<()> {
    Sandbox::run(|sandbox| {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?.party;
        Tcp::v4(MEGABYTE).run(&guest, &node.world)?;
        let mut capture = Capture::on(&node.world.namespace, WAN)?;
        let mut meterd = meter_tests::meterd::Meterd::new(sandbox, EVERY_TAP)?;
        meterd.start()?;
        assert_eq!(meterd.counted(MACHINE)?, Counted::default());
        ping(&guest, node.world.v4, 3, std::time::Duration::ZERO)?;
        let moved = capture.settled(guest.mac)?;
        assert_eq!(meterd.counted(MACHINE)?.sent, moved.sent.bytes);
        Ok(())
    })
}
