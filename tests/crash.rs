//! `kill -9` at any time: nothing lost, nothing twice, nothing left double on a hook.
#![expect(clippy::print_stdout, reason = "a test shows what it measured")]

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use meter_tests::{
    Context, Failure, Result,
    foreign::{Filter, Place},
    inspect::{self, Hook},
    links,
    meterd::{Counted, End},
    sandbox::Sandbox,
    scene::{MACHINE, Scene},
    topology::Party,
    traffic::Tcp,
};

/// What the kernel program itself has counted on an interface, read from its pinned maps.
fn programs_own(pins: &Path, interface: &str) -> Result<Counted> {
    // In the one folder there is, which is named after the layout.
    let mut layouts = fs::read_dir(pins).could_not(|| "list the pins")?;
    let layout = layouts.find_map(|entry| Some(entry.ok()?.path()));
    let maps = layout.unwrap_or_default().join("maps");
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let slot_of = |ifindex: u32| -> Result<u32> {
        let value = inspect::pinned_value(&maps.join("SLOTS"), &ifindex.to_ne_bytes(), 4)?;
        Ok(u32::from_ne_bytes([value[0], value[1], value[2], value[3]]))
    };
    // One more than the slot, so that 0 stands for none.
    let slot = slot_of(links::get(interface)?.index)?
        .checked_sub(1)
        .ok_or_else(|| Failure::new(format!("{interface} has no slot")))?;
    let counter = |direction: u32| -> Result<u64> {
        let index = slot * 2 + direction;
        let value = inspect::pinned_value(&maps.join("COUNTERS"), &index.to_ne_bytes(), 64)?;
        Ok(value.chunks(64).map(|cpu| word(&cpu[..8])).sum())
    };
    Ok(Counted {
        received: counter(0)?,
        sent: counter(1)?,
    })
}

/// Moves a little back and forth until told to stop.
fn busy(stop: &AtomicBool, guest: &Party, world: &Party) -> Result<u32> {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        Tcp::v4(400_000).run(guest, world)?;
        Tcp::v4(800_000).run(world, guest)?;
        rounds += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(rounds)
}

/// Somebody else's filters, before and behind ours where the kernel can (TCX), and in clsact.
struct Foreign {
    sent: Vec<Filter>,
    received: Vec<Filter>,
}

impl Foreign {
    fn around(tap: &str) -> Result<Self> {
        let on = |hook| -> Result<Vec<Filter>> {
            let mut filters = vec![Filter::clsact(tap, hook, 60_000)?];
            if inspect::has_tcx()? {
                filters.push(Filter::tcx(tap, hook, Place::First)?);
                filters.push(Filter::tcx(tap, hook, Place::Last)?);
            }
            Ok(filters)
        };
        Ok(Self {
            sent: on(Hook::Sent)?,
            received: on(Hook::Received)?,
        })
    }

    /// They saw every packet: as many bytes as the interface itself counted.
    fn assert_saw(&self, interface: Counted) -> Result<()> {
        for (filters, bytes) in [
            (&self.sent, interface.sent),
            (&self.received, interface.received),
        ] {
            for filter in filters {
                assert_eq!(filter.seen()?.bytes, bytes, "a foreign filter");
            }
        }
        Ok(())
    }
}

/// Runs `disturb` while the guest is busy; then the ledger, the program, the far end and the
/// foreign filters must agree.
fn ten_times(keys: &str, disturb: impl Fn(&mut Scene<'_>, u64) -> Result<()> + Sync) -> Result<()> {
    Sandbox::run(|sandbox| {
        let mut scene = Scene::set(sandbox, keys)?;
        let tap = scene.guest.tap.clone();
        let frames = keys.contains("frame");
        let foreign = Foreign::around(&tap)?;
        let index = links::get(&tap)?.index;
        let order = |hook| -> Result<Vec<String>> {
            Ok(inspect::programs(index, hook)?
                .into_iter()
                .map(|program| program.name)
                .collect())
        };
        let in_order = [order(Hook::Sent)?, order(Hook::Received)?];

        let (guest, world) = (scene.guest.party.clone(), scene.node.world.clone());
        let before = (
            links::get(&tap)?.stats,
            programs_own(&scene.meterd.pins(), &tap)?,
        );
        let wire = scene.capture.settled(guest.mac)?;
        let ledger = scene.meterd.counted(MACHINE)?;
        let stop = AtomicBool::new(false);
        let rounds = std::thread::scope(|scope| {
            let busy = scope.spawn(|| busy(&stop, &guest, &world));
            let disturbed = (0..10).try_for_each(|round| {
                disturb(&mut scene, round)?;
                // The capture's ring is emptied now and then, so that it never fills.
                scene.capture.of(guest.mac).map(drop)
            });
            stop.store(true, Ordering::Relaxed);
            let rounds = busy.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
            disturbed.and(rounds)
        })?;

        let wire = scene.capture.settled(guest.mac)? - wire;
        let ledger = scene.meterd.counted(MACHINE)? - ledger;
        let program = programs_own(&scene.meterd.pins(), &tap)? - before.1;
        let now = links::get(&tap)?.stats;
        let interface = Counted {
            sent: now.taken_in - before.0.taken_in,
            received: now.given_out - before.0.given_out,
        };
        println!(
            "{rounds} rounds; {ledger:?}; wire {} and {}",
            wire.received.bytes, wire.sent.bytes
        );
        assert!(
            rounds >= 5,
            "only {rounds} rounds of traffic in all that time"
        );
        assert_eq!(ledger, program, "the ledger against the program's counters");
        if frames {
            assert_eq!(
                ledger, interface,
                "the ledger against the interface's counters"
            );
        } else {
            let captured = Counted {
                received: wire.received.bytes,
                sent: wire.sent.bytes,
            };
            assert_eq!(ledger, captured, "the ledger against the far end");
        }
        assert_eq!([order(Hook::Sent)?, order(Hook::Received)?], in_order);
        for names in in_order {
            let ours = names.iter().filter(|name| *name != "foreign").count();
            assert_eq!(ours, 1, "{names:?}");
        }
        foreign.assert_saw(interface)
    })
}

#[test]
fn ten_kills_during_traffic_lose_and_repeat_nothing() -> Result<()> {
    ten_times("", |scene, round| {
        std::thread::sleep(Duration::from_millis(150 + 40 * round));
        scene.meterd.stop(End::Killed)?;
        std::thread::sleep(Duration::from_millis(20 * round));
        scene.meterd.start()
    })
}

#[test]
fn ten_kills_with_count_bytes_frame_equal_the_interfaces_own_counters() -> Result<()> {
    ten_times("count-bytes = 'frame'", |scene, round| {
        std::thread::sleep(Duration::from_millis(100 + 30 * round));
        scene.meterd.stop(End::Killed)?;
        scene.meterd.start()
    })
}

#[test]
fn ten_kills_in_the_middle_of_a_start_lose_and_repeat_nothing() -> Result<()> {
    ten_times("", |scene, round| {
        scene.meterd.stop(End::Killed)?;
        // Sooner or later into its start: before, among and after its first writes.
        scene.meterd.launch()?;
        std::thread::sleep(Duration::from_millis(4 * round));
        scene.meterd.stop(End::Killed)?;
        scene.meterd.start()
    })
}

#[test]
fn an_orderly_restart_during_traffic_loses_and_repeats_nothing() -> Result<()> {
    ten_times("", |scene, _| {
        scene.meterd.stop(End::Asked)?;
        std::thread::sleep(Duration::from_millis(50));
        scene.meterd.start()
    })
}
