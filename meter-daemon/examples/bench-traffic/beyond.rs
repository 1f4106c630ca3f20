//! Bytes past a cap of 100 MB that a guest still gets, TCP as fast as it goes, by who watches.

use std::{
    thread,
    time::{Duration, Instant},
};

use meter_tests::{
    Failure, Result,
    capture::Capture,
    inspect::Inventory,
    links,
    meterd::{End, Meterd},
    sandbox::Sandbox,
    topology::{Guest, Node, Port},
    traffic::Bulk,
};

use crate::{Effort, report::Report, rivals, spread::Spread};

const CAP: u64 = 100_000_000;
/// What the plan allows before the cap, so that a top-up of as much as both begins it again.
const ALLOWANCE: u64 = 1_000_000;

/// No poll happens by itself.
const CONFIG: &str = "poll-interval = '1h'\n[[discover]]\n\
                      interface = '^tap(?<machine>\\d+)i\\d+$'\nplan = 'small'\n";
const PLAN: &str = "period = { starts = 1 }\nallowance = '1 MB'\ndirection = 'received'\n\
                    [[rule]]\nused = '100%'\ncap = '100 MB'\n";

pub(crate) fn measure(sandbox: &Sandbox, effort: Effort, report: &mut Report) -> Result<()> {
    let runs = effort.or(5, 1);
    let node = Node::new(sandbox)?;
    let guest = node.plug(Port::of(101))?;
    let before = Inventory::take()?;
    let stage = Stage {
        node: &node,
        guest: &guest,
    };
    report.section(
        "Bytes past a cap of 100 MB",
        &["who watches", "past the cap", "how known"],
        format!(
            "TCP with GSO from the world to a guest, two flows. Wire bytes that arrived in the \
             guest beyond 100 MB; median and range of {runs} runs."
        ),
    );
    let ours = stage.ours(sandbox, runs)?;
    report.row(["meterd, asleep between polls".to_owned(), ours, measured()]);
    Inventory::take()?.same_as(&before)?;
    if rivals::Rules::NftQuota.available() {
        let [wire, own] = stage.quota(runs)?;
        report.row(["nftables quota".to_owned(), wire, measured()]);
        report.row([
            "nftables quota, in its own bytes (a GSO packet counts as one)".to_owned(),
            own,
            measured(),
        ]);
        Inventory::take()?.same_as(&before)?;
    }
    let (loops, rate) = stage.polling(effort.or(7, 1))?;
    report.row([
        "a loop that polls each second and sets the link down".to_owned(),
        loops,
        measured(),
    ]);
    report.row([
        "the same each minute".to_owned(),
        format!(
            "{:.0} MB ({:.0} to {:.0})",
            rate * 30.0 / 1e6,
            0.0,
            rate * 60.0 / 1e6
        ),
        format!(
            "computed: {:.2} GB/s measured, for 30 (0 to 60) seconds",
            rate / 1e9
        ),
    ]);
    Inventory::take()?.same_as(&before)
}

fn measured() -> String {
    "measured".to_owned()
}

struct Stage<'a> {
    node: &'a Node,
    guest: &'a Guest,
}

impl Stage<'_> {
    /// What the guest has received since the capture began: on the wire, and as packets were long.
    fn flood(&self, time: Duration, inside: &mut Capture) -> Result<[u64; 2]> {
        let mac = self.guest.party.mac;
        let before = inside.of(mac)?.received;
        let bulk = Bulk::start(&self.node.world, &self.guest.party, 2)?;
        thread::sleep(time);
        drop(bulk);
        let after = inside.settled(mac)?.received - before;
        Ok([after.segmented, after.bytes])
    }

    fn capture(&self) -> Result<Capture> {
        let party = &self.guest.party;
        Capture::on(&party.namespace, party.interface)
    }

    fn ours(&self, sandbox: &Sandbox, runs: usize) -> Result<String> {
        let mut meterd = Meterd::new(sandbox, CONFIG)?;
        meterd.write("plans/small.toml", PLAN)?;
        meterd.start()?;
        let mut inside = self.capture()?;
        let mut past = Vec::new();
        let again = ALLOWANCE + CAP;
        let (mut passed, mut limit) = (0, 0);
        for _ in 0..runs {
            let [wire, _] = self.flood(Duration::from_millis(1500), &mut inside)?;
            // What went past one boundary is used up before the next.
            passed += wire;
            limit += again;
            past.push(beyond(passed, limit)?);
            meterd.text(&["top-up", "101", &format!("{again} B")])?;
        }
        meterd.stop(End::Asked)?;
        meterd.text(&["detach"])?;
        Ok(bytes(&past))
    }

    fn quota(&self, runs: usize) -> Result<[String; 2]> {
        let tap = &self.guest.tap;
        let (mut on_wire, mut own) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            rivals::nft(&format!(
                "table netdev bench {{ chain egress {{ type filter hook egress device \"{tap}\" \
                 priority 0; quota over {CAP} bytes drop; }}\n}}\n"
            ))?;
            let mut inside = self.capture()?;
            let [wire, length] = self.flood(Duration::from_millis(1500), &mut inside)?;
            rivals::nft("delete table netdev bench\n")?;
            on_wire.push(wire as f64 - CAP as f64);
            own.push(length as f64 - CAP as f64);
        }
        Ok([bytes(&on_wire), bytes(&own)])
    }

    /// Also bytes a second meanwhile.
    fn polling(&self, runs: usize) -> Result<(String, f64)> {
        let tap = &self.guest.tap;
        let (mut past, mut rates) = (Vec::new(), Vec::new());
        for run in 0..runs {
            let base = links::get(tap)?.stats.given_out;
            let moved = || -> Result<u64> { Ok(links::get(tap)?.stats.given_out - base) };
            let begun = Instant::now();
            let bulk = Bulk::start(&self.node.world, &self.guest.party, 2)?;
            // Traffic does not begin when somebody looks: a phase for each run.
            let phase = Duration::from_secs(1) * u32::try_from(run + 1).unwrap_or(1)
                / u32::try_from(runs + 1).unwrap_or(2);
            thread::sleep(phase);
            while moved()? < CAP {
                thread::sleep(Duration::from_secs(1));
            }
            links::down(tap)?;
            let took = begun.elapsed();
            drop(bulk);
            let all = moved()?;
            past.push(beyond(all, CAP)?);
            rates.push(all as f64 / took.as_secs_f64());
            links::up(tap)?;
            links::until_operating(tap)?;
            links::forward(tap, self.guest.party.mac)?;
        }
        Ok((bytes(&past), Spread::of(rates).median))
    }
}

/// It must have been reached, or nothing was measured.
fn beyond(passed: u64, limit: u64) -> Result<f64> {
    match passed.checked_sub(limit) {
        Some(past) => Ok(past as f64),
        None => Err(Failure::new(format!(
            "only {passed} bytes passed, of {limit}: the limit was not reached, or fell too early"
        ))),
    }
}

/// Median and range, in the unit that fits.
fn bytes(figures: &[f64]) -> String {
    let Spread { median, .. } = Spread::of(figures.iter().copied());
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (unit, name) = match high.abs().max(low.abs()) {
        top if top < 1e6 => (1e3, "kB"),
        _ => (1e6, "MB"),
    };
    format!(
        "{:.1} {name} ({:.1} to {:.1})",
        median / unit,
        low / unit,
        high / unit
    )
}
