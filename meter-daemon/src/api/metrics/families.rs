//! Every metric: its name, what it means, and where its samples come from. Names and labels
//! are what dashboards are written against.

use super::{
    DirectionFigures, Durations, Figures, InterfaceFigures, MachineFigures,
    text::{Samples, seconds, timestamp},
};
use crate::engine::event::State;

/// A metric family.
pub(super) struct Family {
    /// With `_total` or `_info`, as in the classic text.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A gauge that is always 1, for its labels. The classic text has no word for it.
    Info,
}

/// Where a family's samples come from.
pub(super) enum Source {
    Machines(fn(&MachineFigures, &mut Samples<'_>)),
    Interfaces(fn(&InterfaceFigures, &mut Samples<'_>)),
    Node(fn(&Figures, &mut Samples<'_>)),
}

use Kind::{Counter, Gauge, Histogram, Info};
use Source::{Interfaces, Machines, Node};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "meterd_traffic_bytes_total",
        kind: Counter,
        help: "Bytes counted on an interface, in the configured basis; direction as the guest's.",
        source: Interfaces(|interface, samples| {
            each_direction(interface, samples, |direction| direction.bytes.0);
        }),
    },
    Family {
        name: "meterd_traffic_packets_total",
        kind: Counter,
        help: "Packets counted on an interface as on the wire: the segments of a GSO packet.",
        source: Interfaces(|interface, samples| {
            each_direction(interface, samples, |direction| direction.packets);
        }),
    },
    Family {
        name: "meterd_exempt_bytes_total",
        kind: Counter,
        help: "Bytes to or from exempt prefixes, against no allowance.",
        source: Interfaces(|interface, samples| {
            each_direction(interface, samples, |direction| direction.exempt.0);
        }),
    },
    Family {
        name: "meterd_dropped_bytes_total",
        kind: Counter,
        help: "Bytes not let through, by what stood in their way.",
        source: Interfaces(dropped),
    },
    Family {
        name: "meterd_period_used_bytes",
        kind: Gauge,
        help: "What the plan counts, since the period began.",
        source: Machines(|machine, samples| {
            samples.push("", &[("machine", machine.machine.as_str())], machine.used.0);
        }),
    },
    Family {
        name: "meterd_period_allowance_bytes",
        kind: Gauge,
        help: "Included in the period with its top-ups; absent when unlimited.",
        source: Machines(|machine, samples| {
            optional(machine, samples, machine.allowance.map(|volume| volume.0));
        }),
    },
    Family {
        name: "meterd_period_remaining_bytes",
        kind: Gauge,
        help: "Allowance less used, not below 0; absent when unlimited.",
        source: Machines(|machine, samples| {
            optional(machine, samples, machine.remaining.map(|volume| volume.0));
        }),
    },
    Family {
        name: "meterd_period_start_timestamp_seconds",
        kind: Gauge,
        help: "When the running period began.",
        source: Machines(|machine, samples| {
            optional(machine, samples, Some(timestamp(machine.period_start)));
        }),
    },
    Family {
        name: "meterd_period_end_timestamp_seconds",
        kind: Gauge,
        help: "When the running period ends and the next begins.",
        source: Machines(|machine, samples| {
            optional(machine, samples, Some(timestamp(machine.period_end)));
        }),
    },
    Family {
        name: "meterd_forecast_bytes",
        kind: Gauge,
        help: "Used at the period's end at the current rate; absent while history is too short.",
        source: Machines(|machine, samples| {
            optional(machine, samples, machine.forecast.map(|volume| volume.0));
        }),
    },
    Family {
        name: "meterd_machine_state",
        kind: Gauge,
        help: "1 for the state the machine is in, 0 for the others.",
        source: Machines(|machine, samples| {
            for state in State::ALL {
                let labels = [
                    ("machine", machine.machine.as_str()),
                    ("state", state.as_str()),
                ];
                samples.push("", &labels, u8::from(state == machine.state));
            }
        }),
    },
    Family {
        name: "meterd_rate_limit_bytes_per_second",
        kind: Gauge,
        help: "The rate of each direction while throttled; absent otherwise.",
        source: Machines(|machine, samples| {
            // Eighths are exact in three decimals.
            let rate = machine.rate_limit.map(|rate| match rate.0 % 8 {
                0 => (rate.0 / 8).to_string(),
                eighths => format!("{}.{:03}", rate.0 / 8, eighths * 125),
            });
            optional(machine, samples, rate);
        }),
    },
    Family {
        name: "meterd_cap_remaining_bytes",
        kind: Gauge,
        help: "What a capped machine may still move; absent without a cap.",
        source: Machines(|machine, samples| {
            optional(
                machine,
                samples,
                machine.cap_remaining.map(|volume| volume.0),
            );
        }),
    },
    Family {
        name: "meterd_machine_info",
        kind: Info,
        help: "Whose a machine is, and its plan.",
        source: Machines(|machine, samples| {
            let account = machine
                .account
                .as_ref()
                .map_or("", |account| account.as_str());
            let plan = machine.plan.as_ref().map_or("", |plan| plan.as_str());
            let id = machine.machine.as_str();
            samples.push(
                "",
                &[("machine", id), ("account", account), ("plan", plan)],
                1,
            );
        }),
    },
    Family {
        name: "meterd_last_poll_timestamp_seconds",
        kind: Gauge,
        help: "When the counters were last read and recorded.",
        source: Node(|figures, samples| {
            if let Some(poll) = figures.last_poll {
                samples.push("", &[], timestamp(poll));
            }
        }),
    },
    Family {
        name: "meterd_poll_duration_seconds",
        kind: Histogram,
        help: "How long a poll took: reading, recording, deciding.",
        source: Node(|figures, samples| durations(&figures.polls, samples)),
    },
    Family {
        name: "meterd_drift_bytes",
        kind: Gauge,
        help: "The program's count less the kernel's own on the same basis, at the last audit.",
        source: Interfaces(|interface, samples| {
            for (name, direction) in directions(interface) {
                if let Some(drift) = direction.drift {
                    let labels = [
                        ("interface", interface.interface.as_str()),
                        ("direction", name),
                    ];
                    samples.push("", &labels, drift);
                }
            }
        }),
    },
    Family {
        name: "meterd_drift_repairs_total",
        kind: Counter,
        help: "Differences between what should stand on the node and what did, repaired.",
        source: Node(|figures, samples| samples.push("", &[], figures.drift_repairs)),
    },
    Family {
        name: "meterd_counter_restarts_total",
        kind: Counter,
        help: "Counters found to have begun anew.",
        source: Node(|figures, samples| samples.push("", &[], figures.counter_restarts)),
    },
    Family {
        name: "meterd_enforcement_failures_total",
        kind: Counter,
        help: "Throttles, caps and suspensions that could not be put in place or taken away.",
        source: Node(|figures, samples| samples.push("", &[], figures.enforcement_failures)),
    },
    Family {
        name: "meterd_outbox_pending",
        kind: Gauge,
        help: "Notices that wait for their delivery.",
        source: Node(|figures, samples| samples.push("", &[], figures.outbox_pending)),
    },
    Family {
        name: "meterd_build_info",
        kind: Info,
        help: "Which meterd this is.",
        source: Node(|figures, samples| samples.push("", &[("version", &figures.version)], 1)),
    },
];

fn directions(interface: &InterfaceFigures) -> [(&'static str, &DirectionFigures); 2] {
    [("received", &interface.received), ("sent", &interface.sent)]
}

/// Labels are always there: empty where the machine is not known.
fn labels<'a>(interface: &'a InterfaceFigures, direction: &'a str) -> [(&'static str, &'a str); 3] {
    [
        (
            "machine",
            interface
                .machine
                .as_ref()
                .map_or("", |machine| machine.as_str()),
        ),
        ("interface", &interface.interface),
        ("direction", direction),
    ]
}

fn each_direction(
    interface: &InterfaceFigures,
    samples: &mut Samples<'_>,
    value: fn(&DirectionFigures) -> u64,
) {
    for (name, direction) in directions(interface) {
        samples.push("", &labels(interface, name), value(direction));
    }
}

fn dropped(interface: &InterfaceFigures, samples: &mut Samples<'_>) {
    for (name, direction) in directions(interface) {
        let [machine, interface, direction_label] = labels(interface, name);
        for (reason, volume) in [
            ("throttled", direction.dropped_throttled),
            ("capped", direction.dropped_capped),
            ("suspended", direction.dropped_suspended),
        ] {
            samples.push(
                "",
                &[machine, interface, direction_label, ("reason", reason)],
                volume.0,
            );
        }
    }
}

fn optional(
    machine: &MachineFigures,
    samples: &mut Samples<'_>,
    value: Option<impl std::fmt::Display>,
) {
    if let Some(value) = value {
        samples.push("", &[("machine", machine.machine.as_str())], value);
    }
}

fn durations(polls: &Durations, samples: &mut Samples<'_>) {
    let mut within = 0;
    for (bound, count) in Durations::BOUNDS.iter().zip(polls.within) {
        within += count;
        samples.push("_bucket", &[("le", &seconds(*bound))], within);
    }
    samples.push("_bucket", &[("le", "+Inf")], polls.count);
    samples.push("_sum", &[], seconds(polls.sum));
    samples.push("_count", &[], polls.count);
}
