//! The figures of `/metrics`, taken from what the loop holds.

use super::node::Node;
use crate::{
    api::metrics::{DirectionFigures, Figures, InterfaceFigures, MachineFigures},
    engine::{status::Status, units::Bytes},
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

fn interface_figures(node: &Node, record: &SlotRecord) -> InterfaceFigures {
    let apart = node.drops.apart(record);
    let throttled = node.drops.throttled(record);
    let drift = node.audit.drift(record.interface.ifindex);
    let used = used(record);
    let figures = |direction: usize| DirectionFigures {
        bytes: used[direction],
        packets: record.cursor.packets[direction].saturating_sub(record.base.packets[direction]),
        exempt: apart.exempt[direction],
        dropped_throttled: throttled[direction] + apart.policed[direction],
        dropped_capped: apart.capped[direction],
        dropped_suspended: apart.suspended[direction],
        drift: drift.map(|drift| drift[direction]),
    };
    InterfaceFigures {
        machine: Some(record.machine.clone()),
        interface: record.name.clone(),
        received: figures(0),
        sent: figures(1),
    }
}

/// Received and sent since the slot was handed out, as in the ledger: with what was credited
/// from before, and of what went to our shapers only what came through.
fn used(record: &SlotRecord) -> [Bytes; 2] {
    let (now, base) = (&record.cursor, &record.base);
    let credit = record.credit.unwrap_or_default();
    let counted = [
        (now.traffic.received, base.traffic.received, credit.received),
        (now.traffic.sent, base.traffic.sent, credit.sent),
    ];
    [0, 1].map(|direction| {
        let (now_counted, at_first, credit) = counted[direction];
        (now_counted + credit + base.shaped[direction])
            .saturating_sub(at_first + now.shaped[direction])
    })
}
