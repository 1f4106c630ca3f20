//! Packets and bytes a second through a veth with each meter on it, in turn: one lane a meter,
//! all of them standing all the time, a short slice of traffic each, round after round.

use std::time::Duration;

use meter_tests::{
    Failure, Result, interrupt, links,
    naive::{Kind, Naive},
    sandbox::Sandbox,
};

use crate::{
    Effort,
    lanes::{Lane, SMALL_FRAME, TCP_HEADERS, Turn},
    meters::{Form, Meter},
    report::Report,
    rivals::{self, Backend, Rules},
    spread::Spread,
};

const SLICE: Duration = Duration::from_millis(50);

/// Interfaces beside ours that are metered, too.
const MANY: u32 = 1_000;
const FULL_NODE: u32 = 10_000;
/// An index that lies past the array, as on a node that has started machines for years.
const LATE: u32 = 70_000;

/// What stands on a lane's tap.
enum Counter {
    Nothing,
    Ours(Meter),
    Rules(Rules),
    Naive(Naive),
    /// It stands there and counts nothing.
    Idle(#[expect(dead_code, reason = "dropped, it is gone")] Naive),
}

struct Contestant {
    name: String,
    counter: Counter,
    lane: Lane,
    packets: Vec<Turn>,
    bits: Vec<Turn>,
}

pub(crate) fn measure(sandbox: &Sandbox, effort: Effort, report: &mut Report) -> Result<()> {
    let rounds = effort.or(41, 1);
    let mut all = contestants(sandbox, report)?;
    for contestant in &mut all {
        contestant.lane.open()?;
        // The first slice of a connection is slower, whoever counts.
        contestant.lane.bulk(SLICE)?;
    }
    for round in 0..rounds {
        interrupt::check()?;
        // Not always behind the same one.
        let count = all.len();
        for turn in 0..count {
            let at = if round % 2 == 0 {
                turn
            } else {
                count - 1 - turn
            };
            let it = &mut all[(at + round) % count];
            let packets = it.lane.small(SLICE)?;
            let bits = it.lane.bulk(SLICE)?;
            it.packets.push(packets);
            it.bits.push(bits);
        }
    }
    tell(&all, rounds, report);
    all.iter_mut().try_for_each(|it| it.check(sandbox))
}

fn tell(all: &[Contestant], rounds: usize, report: &mut Report) {
    report.section(
        "Traffic through a veth",
        &[
            "on the tap",
            "small packets, thousand/s",
            "against nothing",
            "TCP, Gbit/s",
            "against nothing",
            "processor time a small packet, against nothing",
            "and a TCP byte",
        ],
        format!(
            "{rounds} rounds of {} ms for each in turn: UDP with 18 bytes from the guest, TCP with \
             GSO to it; medians by the wall clock. What is against nothing is the median \
             of the rounds' own ratios with its 95 % interval. “nothing again” is a second lane \
             like the first: what is within its interval is noise.",
            SLICE.as_millis(),
        ),
    );
    let Some(nothing) = all.first() else { return };
    for it in all {
        let rate = |turns: &[Turn], unit: f64, digits: usize| {
            let median = Spread::of(turns.iter().map(|turn| turn.rate)).median / unit;
            format!("{median:.digits$}")
        };
        let against =
            |ours: &[Turn], theirs: &[Turn], ratio: fn(&Turn, &Turn) -> f64| match std::ptr::eq(
                it, nothing,
            ) {
                true => "1".to_owned(),
                false => Spread::of(ours.iter().zip(theirs).map(|(a, b)| ratio(a, b))).show(3),
            };
        let rates = |ours: &Turn, theirs: &Turn| ours.rate / theirs.rate;
        let times = |ours: &Turn, theirs: &Turn| theirs.effort / ours.effort;
        report.row([
            it.name.clone(),
            rate(&it.packets, 1e3, 0),
            against(&it.packets, &nothing.packets, rates),
            rate(&it.bits, 1e9, 1),
            against(&it.bits, &nothing.bits, rates),
            against(&it.packets, &nothing.packets, times),
            against(&it.bits, &nothing.bits, times),
        ]);
    }
}

fn contestants(sandbox: &Sandbox, report: &mut Report) -> Result<Vec<Contestant>> {
    let mut all = Vec::new();
    let mut add = |name: &str, counter: &dyn Fn(&Lane) -> Result<Counter>, ifindex| -> Result<()> {
        let lane = Lane::new(ifindex)?;
        all.push(Contestant {
            name: name.to_owned(),
            counter: counter(&lane)?,
            lane,
            packets: Vec::new(),
            bits: Vec::new(),
        });
        Ok(())
    };
    let ours = |name: &'static str, form, slots, others| {
        move |lane: &Lane| {
            let meter = Meter::new(sandbox, name, form, slots);
            let mut interfaces = others_beside(lane, others)?;
            interfaces.push(lane.ifindex);
            lane.host.namespace.run(|| meter.attach(&interfaces))?;
            Ok(Counter::Ours(meter))
        }
    };
    add("nothing", &|_| Ok(Counter::Nothing), 0)?;
    add("ours: count only", &ours("count", Form::Count, 1, 0), 0)?;
    add(
        "ours: count and limits, 1 interface",
        &ours("limits", Form::Limits, 1, 0),
        0,
    )?;
    add(
        "ours: count, limits, exempt look-up",
        &ours("exempt", Form::Exempt, 1, 0),
        0,
    )?;
    add(
        "ours: count and limits, 1000 more interfaces attached",
        &ours("many", Form::Limits, MANY + 1, MANY),
        0,
    )?;
    add(
        "ours: count and limits, last of 10 000 in the maps",
        &ours("full", Form::Limits, FULL_NODE, 0),
        0,
    )?;
    add(
        "ours: count and limits, ifindex 70 000",
        &ours("late", Form::Limits, FULL_NODE, 0),
        LATE,
    )?;
    for rules in rules() {
        if !rules.available() {
            eprintln!("bench: {}: not installed", rules.name());
            report.missing(rules.name());
            continue;
        }
        let put = |lane: &Lane| {
            lane.host.namespace.run(|| rules.put(sandbox))?;
            Ok(Counter::Rules(rules))
        };
        add(&rules.name(), &put, 0)?;
    }
    let naive = |kind| {
        move |lane: &Lane| {
            let load = || rivals::naive(kind, lane.ifindex);
            let naive = lane.host.namespace.run(load)?;
            Ok(match kind {
                Kind::Nothing => Counter::Idle(naive),
                Kind::Shared | Kind::PerCpu => Counter::Naive(naive),
            })
        }
    };
    add("naive eBPF: shared hash, atomics", &naive(Kind::Shared), 0)?;
    add("an empty eBPF program", &naive(Kind::Nothing), 0)?;
    add("nothing again", &|_| Ok(Counter::Nothing), 0)?;
    Ok(all)
}

fn rules() -> Vec<Rules> {
    let mut all = vec![Rules::NftCounter, Rules::NftQuota];
    for backend in [Backend::Nft, Backend::Legacy] {
        for interfaces in [1, 100, 1_000] {
            all.push(Rules::Iptables {
                backend,
                interfaces,
            });
        }
    }
    all
}

/// More taps beside the lane's own, which are only there.
fn others_beside(lane: &Lane, count: u32) -> Result<Vec<u32>> {
    lane.host.namespace.run(|| {
        for n in 0..count {
            let (here, there) = (format!("other{n}"), format!("there{n}"));
            let end = |name| links::End { name, mac: None };
            links::veth(end(&here), end(&there), &lane.guest.namespace)?;
        }
        let all = links::list()?;
        let others = all.iter().filter(|link| link.name.starts_with("other"));
        Ok(others.map(|link| link.index).collect())
    })
}

impl Contestant {
    /// Fails if what was counted is not what passed: ours to the byte.
    fn check(&mut self, sandbox: &Sandbox) -> Result<()> {
        let stats = self.lane.quiet()?;
        let passed = stats.taken_in + stats.given_out;
        let at_least = passed / 70_000;
        let told = match &self.counter {
            Counter::Nothing | Counter::Idle(_) => return Ok(()),
            Counter::Ours(meter) => {
                let told = self.lane.host.namespace.run(|| exact(meter, &self.lane));
                self.lane.host.namespace.run(|| meter.detach())?;
                return told.map_err(|failure| Failure::new(format!("{}: {failure}", self.name)));
            }
            Counter::Naive(naive) => (naive.bytes(self.lane.ifindex)? >= passed).then_some(()),
            Counter::Rules(rules) => {
                let seen = self.lane.host.namespace.run(|| rules.seen(sandbox))?;
                seen.is_none_or(|packets| packets > at_least).then_some(())
            }
        };
        told.ok_or_else(|| Failure::new(format!("{} saw less than passed", self.name)))
    }
}

/// Bytes counted are bytes sent: by the kernel's own counters in its basis, and as on the wire by
/// the headers that segmentation adds.
fn exact(meter: &Meter, lane: &Lane) -> Result<()> {
    let reading = meter.reading()?;
    let stats = lane.stats()?;
    for (direction, counted, passed, packets) in [
        ("sent", reading.sent, stats.taken_in, stats.packets_in),
        (
            "received",
            reading.received,
            stats.given_out,
            stats.packets_out,
        ),
    ] {
        let wire = passed + (counted.packets - packets) * TCP_HEADERS;
        if counted.frame_bytes != passed || counted.bytes != wire {
            return Err(Failure::new(format!(
                "{direction}: counted {counted:?}, the kernel {passed} bytes in {packets} packets, \
                 on the wire {wire}"
            )));
        }
    }
    if reading.sent.packets * SMALL_FRAME > reading.sent.bytes {
        return Err(Failure::new("frames smaller than Ethernet's"));
    }
    Ok(())
}
