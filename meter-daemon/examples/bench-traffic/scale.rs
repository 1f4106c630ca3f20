//! A full node: attaching and detaching a thousand interfaces, reading ten thousand slots.

use std::time::{Duration, Instant};

use meter_tests::{
    Failure, Result,
    inspect::Inventory,
    links,
    sandbox::{Namespace, Sandbox},
};

use crate::{
    Effort,
    meters::{Form, Meter},
    report::Report,
    spread::Spread,
};

const INTERFACES: u32 = 1_000;
const SLOTS: u32 = 10_000;

pub(crate) fn measure(sandbox: &Sandbox, effort: Effort, report: &mut Report) -> Result<()> {
    let guests = Namespace::new()?;
    for n in 0..INTERFACES {
        let (here, there) = (format!("tap{n}"), format!("eth{n}"));
        let end = |name| links::End { name, mac: None };
        links::veth(end(&here), end(&there), &guests)?;
    }
    let all = links::list()?;
    let taps = all.iter().filter(|link| link.name.starts_with("tap"));
    let taps: Vec<u32> = taps.map(|link| link.index).collect();
    let before = Inventory::take()?;
    let (mut attaching, mut reading, mut detaching) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.or(5, 1) {
        let meter = Meter::new(sandbox, "scale", Form::Limits, SLOTS);
        // Making the maps and arming ten thousand machines is not attaching.
        meter.attach(&[])?;
        let start = Instant::now();
        meter.attach(&taps)?;
        attaching.push(start.elapsed());
        let programs = meter.open()?;
        for _ in 0..effort.or(20, 3) {
            let start = Instant::now();
            let readings = programs
                .readings()
                .map_err(|error| Failure::new(error.to_string()))?;
            reading.push(start.elapsed());
            if readings.len() != SLOTS as usize {
                return Err(Failure::new(format!("{} slots are read", readings.len())));
            }
        }
        drop(programs);
        let start = Instant::now();
        meter.detach()?;
        detaching.push(start.elapsed());
        Inventory::take()?.same_as(&before)?;
    }
    report.section(
        "Many interfaces",
        &["what", "milliseconds"],
        format!(
            "Both hooks of each veth; short RCU grace periods are asked for meanwhile. Median, and \
             95 % interval or all of the {} runs.",
            attaching.len()
        ),
    );
    for (what, times) in [
        (format!("attach {INTERFACES} interfaces"), attaching),
        (
            format!("detach {INTERFACES} interfaces, maps and all"),
            detaching,
        ),
        (format!("read the counters of {SLOTS} slots"), reading),
    ] {
        let ms = times.iter().map(Duration::as_secs_f64).map(|s| s * 1e3);
        report.row([what, Spread::of(ms).show(1)]);
    }
    Ok(())
}
