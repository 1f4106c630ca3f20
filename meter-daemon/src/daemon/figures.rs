//! The figures of `/metrics`, taken from what the loop holds.

use super::node::Node;
use crate::{
    api::metrics::{DirectionFigures, Figures, InterfaceFigures, MachineFigures},
    engine::status::Status,
    ledger::SlotRecord,
};

pub(crate) fn collect(node: &mut Node) -> Figures {
    let now = node.now();
    let machines = node
        .shown()
        .filter_map(|machine| machine_figures(node.engine.status(machine, now)?))
        .collect();
    Figures {
        machines,
        interfaces: node
            .slots
            .iter()
            .filter(|record| !node.closing.contains(&record.counter.slot))
            .map(|record| interface_figures(node, record))
            .collect(),
        last_poll: Some(node.measured_to),
        polls: node.tally.polls.clone(),
        drift_repairs: node.tally.drift_repairs,
        counter_restarts: node.tally.counter_restarts,
        enforcement_failures: node.tally.enforcement_failures,
        outbox_pending: node.reader.outbox_waiting().unwrap_or(0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn machine_figures(status: Status) -> Option<MachineFigures> {
    Some(MachineFigures {
        machine: status.machine,
        account: status.account,
        plan: status.plan,
        state: status.state,
        used: status.used,
        allowance: status.allowance,
        remaining: status.remaining,
        period_start: status.period.start.parse().ok()?,
        period_end: status.period.end.parse().ok()?,
        forecast: status.forecast,
        rate_limit: status.rate_limit_bits_per_second,
        cap_remaining: status.cap_remaining,
    })
}

/// Counted since the slot was handed out, with what was credited from before.
fn interface_figures(node: &Node, record: &SlotRecord) -> InterfaceFigures {
    let credit = record.credit.unwrap_or_default();
    let (now, base) = (&record.cursor, &record.base);
    let drift = node.audit.drift(record.interface.ifindex);
    let dropped = node.drops.since(record);
    InterfaceFigures {
        machine: Some(record.machine.clone()),
        interface: record.name.clone(),
        received: DirectionFigures {
            bytes: now.traffic.received.saturating_sub(base.traffic.received) + credit.received,
            packets: now.packets[0].saturating_sub(base.packets[0]),
            dropped_capped: dropped.capped[0],
            dropped_suspended: dropped.suspended[0],
            drift: drift.map(|drift| drift[0]),
            ..DirectionFigures::default()
        },
        sent: DirectionFigures {
            bytes: now.traffic.sent.saturating_sub(base.traffic.sent) + credit.sent,
            packets: now.packets[1].saturating_sub(base.packets[1]),
            dropped_capped: dropped.capped[1],
            dropped_suspended: dropped.suspended[1],
            drift: drift.map(|drift| drift[1]),
            ..DirectionFigures::default()
        },
    }
}
