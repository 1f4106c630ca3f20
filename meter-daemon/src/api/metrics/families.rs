//! Every metric: its name, what it means, and where its samples come from. Names and labels
//! are what dashboards are written against; the encoder adds `_total` and `_info` to them.

use std::fmt;

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{DirectionFigures, Durations, Figures, InterfaceFigures, MachineFigures};
use crate::engine::event::State;

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let text = &mut encoder;
        of_interfaces(&self.interfaces, text)?;
        of_machines(&self.machines, text)?;
        of_the_daemon(self, text)
    }
}

fn of_interfaces(all: &[InterfaceFigures], text: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let name = "meterd_traffic_bytes";
    let help = "Bytes counted on an interface, in the configured basis; direction as the guest's.";
    each_direction(all, text, name, help, |direction| direction.bytes.0)?;

    let name = "meterd_traffic_packets";
    let help = "Packets counted on an interface as on the wire: the segments of a GSO packet.";
    each_direction(all, text, name, help, |direction| direction.packets)?;

    let name = "meterd_exempt_bytes";
    let help = "Bytes to or from exempt prefixes, against no allowance.";
    each_direction(all, text, name, help, |direction| direction.exempt.0)?;

    let help = "Bytes not let through, by what stood in their way.";
    let mut family = counter(text, "meterd_dropped_bytes", help)?;
    for ([machine, interface, way], direction) in all.iter().flat_map(directions) {
        for (reason, volume) in [
            ("throttled", direction.dropped_throttled),
            ("capped", direction.dropped_capped),
            ("suspended", direction.dropped_suspended),
        ] {
            let labels = [machine, interface, way, ("reason", reason)];
            ConstCounter::new(volume.0).encode(family.encode_family(&labels)?)?;
        }
    }

    let help = "The program's count less the kernel's own on the same basis, at the last audit.";
    let mut family = gauge(text, "meterd_drift_bytes", help)?;
    for ([_, interface, way], direction) in all.iter().flat_map(directions) {
        if let Some(drift) = direction.drift {
            ConstGauge::new(drift).encode(family.encode_family(&[interface, way])?)?;
        }
    }
    Ok(())
}

fn of_machines(all: &[MachineFigures], text: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let name = "meterd_period_used_bytes";
    let help = "What the plan counts, since the period began.";
    each_machine(all, text, name, help, |machine| Some(machine.used.0))?;

    let name = "meterd_period_allowance_bytes";
    let help = "Included in the period with its top-ups; absent when unlimited.";
    each_machine(all, text, name, help, |machine| Some(machine.allowance?.0))?;

    let name = "meterd_period_remaining_bytes";
    let help = "Allowance less used, not below 0; absent when unlimited.";
    each_machine(all, text, name, help, |machine| Some(machine.remaining?.0))?;

    let name = "meterd_period_start_timestamp_seconds";
    let help = "When the running period began.";
    each_machine(all, text, name, help, |machine| {
        Some(seconds(machine.period_start))
    })?;

    let name = "meterd_period_end_timestamp_seconds";
    let help = "When the running period ends and the next begins.";
    each_machine(all, text, name, help, |machine| {
        Some(seconds(machine.period_end))
    })?;

    let name = "meterd_forecast_bytes";
    let help = "Used at the period's end at the current rate; absent while history is too short.";
    each_machine(all, text, name, help, |machine| Some(machine.forecast?.0))?;

    let name = "meterd_rate_limit_bytes_per_second";
    let help = "The rate of each direction while throttled; absent otherwise.";
    each_machine(all, text, name, help, |machine| {
        Some(machine.rate_limit?.0 as f64 / 8.0)
    })?;

    let name = "meterd_cap_remaining_bytes";
    let help = "What a capped machine may still move; absent without a cap.";
    each_machine(all, text, name, help, |machine| {
        Some(machine.cap_remaining?.0)
    })?;

    let help = "1 for the state the machine is in, 0 for the others.";
    let mut family = gauge(text, "meterd_machine_state", help)?;
    for machine in all {
        for state in State::ALL {
            let labels = [
                ("machine", machine.machine.as_str()),
                ("state", state.as_str()),
            ];
            let is = u32::from(state == machine.state);
            ConstGauge::new(is).encode(family.encode_family(&labels)?)?;
        }
    }

    let help = "Whose a machine is, and its plan.";
    let mut family = text.encode_descriptor("meterd_machine", help, None, MetricType::Info)?;
    for machine in all {
        let account = machine.account.as_ref().map_or("", |id| id.as_str());
        let plan = machine.plan.as_ref().map_or("", |name| name.as_str());
        family.encode_info(&[
            ("machine", machine.machine.as_str()),
            ("account", account),
            ("plan", plan),
        ])?;
    }
    Ok(())
}

fn of_the_daemon(figures: &Figures, text: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "When the counters were last read and recorded.";
    let family = gauge(text, "meterd_last_poll_timestamp_seconds", help)?;
    if let Some(poll) = figures.last_poll {
        ConstGauge::new(seconds(poll)).encode(family)?;
    }

    let (name, polls) = ("meterd_poll_duration_seconds", &figures.polls);
    let help = "How long a poll took: reading, recording, deciding.";
    let mut buckets = [(f64::INFINITY, polls.count); Durations::BOUNDS.len() + 1];
    let [finite @ .., longer] = &mut buckets;
    for ((bucket, bound), within) in finite.iter_mut().zip(Durations::BOUNDS).zip(polls.within) {
        *bucket = (bound.as_secs_f64(), within);
        longer.1 -= within;
    }
    text.encode_descriptor(name, help, None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(polls.sum.as_secs_f64(), polls.count, &buckets, None)?;

    for (name, help, value) in [
        (
            "meterd_drift_repairs",
            "Differences between what should stand on the node and what did, repaired.",
            figures.drift_repairs,
        ),
        (
            "meterd_counter_restarts",
            "Counters found to have begun anew.",
            figures.counter_restarts,
        ),
        (
            "meterd_enforcement_failures",
            "Throttles, caps and suspensions that could not be put in place or taken away.",
            figures.enforcement_failures,
        ),
    ] {
        ConstCounter::new(value).encode(counter(text, name, help)?)?;
    }

    let help = "Notices that wait for their delivery.";
    let family = gauge(text, "meterd_outbox_pending", help)?;
    ConstGauge::new(figures.outbox_pending).encode(family)?;

    text.encode_descriptor(
        "meterd_build",
        "Which meterd this is.",
        None,
        MetricType::Info,
    )?
    .encode_info(&[("version", figures.version.as_str())])
}

fn counter<'a>(
    text: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    text.encode_descriptor(name, help, None, MetricType::Counter)
}

fn gauge<'a>(
    text: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    text.encode_descriptor(name, help, None, MetricType::Gauge)
}

/// A counter of each direction of every interface.
fn each_direction(
    interfaces: &[InterfaceFigures],
    text: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl Fn(&DirectionFigures) -> u64,
) -> fmt::Result {
    let mut family = counter(text, name, help)?;
    for (labels, direction) in interfaces.iter().flat_map(directions) {
        ConstCounter::new(value(direction)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A gauge of every machine that has it.
fn each_machine<Value: EncodeGaugeValue>(
    machines: &[MachineFigures],
    text: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl Fn(&MachineFigures) -> Option<Value>,
) -> fmt::Result {
    let mut family = gauge(text, name, help)?;
    for machine in machines {
        if let Some(value) = value(machine) {
            let labels = [("machine", machine.machine.as_str())];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

type Label<'a> = (&'static str, &'a str);

/// Both directions with their labels, which are always there: empty where the machine is not
/// known.
fn directions(figures: &InterfaceFigures) -> [([Label<'_>; 3], &DirectionFigures); 2] {
    let machine = figures.machine.as_ref().map_or("", |id| id.as_str());
    let machine = ("machine", machine);
    let interface = ("interface", figures.interface.as_str());
    let labels = |direction| [machine, interface, ("direction", direction)];
    [
        (labels("received"), &figures.received),
        (labels("sent"), &figures.sent),
    ]
}

fn seconds(instant: Timestamp) -> f64 {
    instant.as_duration().as_secs_f64()
}
