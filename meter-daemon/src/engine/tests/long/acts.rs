//! What happens to a node, drawn by lot: traffic up to the byte at which a rule begins to hold,
//! silence, outages, clocks that fall back, and all that people say.

use jiff::SignedDuration;
use rust_decimal::Decimal;

use super::{
    super::{build::*, reference::Model},
    lots::Lots,
    nodes,
};
use crate::engine::{
    command::{Change, CommandAction, SettingKey, Until},
    plan::Terms,
    units::*,
};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Bytes come evenly, the daemon looks at every deadline.
    Travel {
        seconds: i64,
        traffic: Vec<(MachineId, Traffic)>,
    },
    /// The daemon is down meanwhile: all bytes come in one sample at its return.
    Outage {
        seconds: i64,
        traffic: Vec<(MachineId, Traffic)>,
    },
    /// The wall clock is set back. `guarded`: what reads it gives out no earlier instant.
    Back { seconds: i64, guarded: bool },
    /// Commands of one instant. The number in `Pay` is the bill's place in order of issue.
    Say(Vec<CommandAction>),
}

pub(super) fn draw(lots: &mut Lots, terms: &Terms, model: &Model) -> Act {
    match lots.number(1, 100) {
        1..=58 => Act::Travel {
            seconds: match lots.number(1, 10) {
                1..=3 => lots.seconds(0, 3_600),
                4..=8 => lots.seconds(3_600, 3 * 86_400),
                _ => lots.seconds(3 * 86_400, 20 * 86_400),
            },
            traffic: traffic(lots, terms, model),
        },
        59..=63 => Act::Outage {
            seconds: match lots.number(1, 10) {
                1..=5 => lots.seconds(60, 5 * 86_400),
                6..=8 => lots.seconds(5 * 86_400, 40 * 86_400),
                _ => lots.seconds(40 * 86_400, 130 * 86_400),
            },
            traffic: traffic(lots, terms, model),
        },
        64..=66 => Act::Back {
            seconds: match lots.percent(50) {
                true => lots.seconds(1, 7_200),
                false => lots.seconds(7_200, 10 * 86_400),
            },
            guarded: lots.percent(50),
        },
        _ => Act::Say(
            (0..lots.number(1, 2))
                .map(|_| command(lots, terms, model))
                .collect(),
        ),
    }
}

fn traffic(lots: &mut Lots, terms: &Terms, model: &Model) -> Vec<(MachineId, Traffic)> {
    let mut all = Vec::new();
    for id in terms.machines.keys() {
        if lots.percent(75) {
            all.push((id.clone(), burst(lots, model, id)));
        }
    }
    all
}

fn burst(lots: &mut Lots, model: &Model, id: &MachineId) -> Traffic {
    let shown = model.shown(id);
    let marks: Vec<u64> = model
        .marks(id)
        .into_iter()
        .filter(|mark| *mark >= shown.used)
        .collect();
    if !marks.is_empty() && lots.percent(45) {
        // To the byte, to the one before, or to the one behind.
        let exactly = lots.one(&marks) - shown.used;
        let bytes = exactly.saturating_sub(1) + lots.number(0, 2);
        let one_way = lots.percent(50);
        return Traffic {
            received: Bytes(if one_way { bytes } else { bytes / 2 }),
            sent: Bytes(if one_way { 0 } else { bytes - bytes / 2 }),
            exempt: Bytes::ZERO,
        };
    }
    let allowance = shown.allowance.unwrap_or(TB).max(GB);
    let most = match lots.number(1, 10) {
        1..=3 => allowance / 1_000,
        4..=6 => allowance / 50,
        7..=9 => allowance / 4,
        _ => allowance,
    };
    Traffic {
        received: Bytes(lots.number(0, most)),
        sent: Bytes(lots.number(0, most) / lots.number(1, 4)),
        exempt: Bytes(if lots.percent(20) {
            lots.number(0, most)
        } else {
            0
        }),
    }
}

fn until(lots: &mut Lots) -> Option<Until> {
    lots.percent(50).then(|| {
        let minutes = if lots.percent(10) {
            0
        } else {
            lots.seconds(1, 6_000)
        };
        Until::For(SignedDuration::from_mins(minutes))
    })
}

fn command(lots: &mut Lots, terms: &Terms, model: &Model) -> CommandAction {
    let ids: Vec<&MachineId> = terms.machines.keys().collect();
    let machine = lots.one(&ids).clone();
    match lots.number(1, 100) {
        1..=26 => CommandAction::TopUp {
            volume: Bytes(match lots.number(1, 10) {
                1 => 0,
                2..=5 => lots.number(1, 300 * GB),
                _ => lots.number(1, 20) * 50 * GB,
            }),
            from_pool: lots.percent(30),
            machine,
        },
        27..=50 => CommandAction::Set {
            change: change(lots, terms),
            machine,
        },
        51..=58 => CommandAction::Unset {
            machine,
            key: lots.one(&[
                SettingKey::Plan,
                SettingKey::Allowance,
                SettingKey::RenewalDay,
                SettingKey::CostLimit,
                SettingKey::AutoUnsuspend,
            ]),
        },
        59..=65 => CommandAction::Suspend {
            machine,
            until: until(lots),
        },
        66..=82 => CommandAction::Lift {
            machine: lots.percent(85).then_some(machine),
            until: until(lots),
        },
        83..=95 if !model.bills.is_empty() => CommandAction::Pay {
            invoice: lots.index(model.bills.len()).to_string().into(),
        },
        _ => CommandAction::Balance {
            account: lots.one(&["one", "two"]).into(),
            add: Decimal::from(lots.seconds(0, 60) - 20),
        },
    }
}

/// A command as it is counted.
pub(super) fn word(action: &CommandAction) -> &'static str {
    match action {
        CommandAction::TopUp {
            from_pool: true, ..
        } => "top-up from the pool",
        CommandAction::TopUp { .. } => "top-up",
        CommandAction::Set { change, .. } => match change {
            Change::Plan(_) => "set plan",
            Change::Allowance(_) => "set allowance",
            Change::RenewalDay(_) => "set renewal-day",
            Change::CostLimit(_) => "set cost-limit",
            Change::AutoUnsuspend(_) => "set auto-unsuspend",
        },
        CommandAction::Unset { .. } => "unset",
        CommandAction::Suspend { until: Some(_), .. } => "suspend for a time",
        CommandAction::Suspend { .. } => "suspend",
        CommandAction::Lift { machine: None, .. } => "lift --all",
        CommandAction::Lift { until: Some(_), .. } => "lift for a time",
        CommandAction::Lift { .. } => "lift",
        CommandAction::Pay { .. } => "pay",
        CommandAction::Balance { .. } => "balance --add",
        CommandAction::Cancel { .. } => "cancel",
        CommandAction::Confirm => "confirm",
    }
}

fn change(lots: &mut Lots, terms: &Terms) -> Change {
    match lots.number(1, 10) {
        1..=4 => {
            let plans: Vec<_> = terms.plans.keys().collect();
            let plan = lots.one(&plans).clone();
            Change::Plan(if lots.percent(5) {
                "no-such-plan".into()
            } else {
                plan
            })
        }
        5 | 6 => Change::Allowance(nodes::allowance(lots)),
        7 => Change::RenewalDay(crate::engine::plan::DayOfMonth::new(lots.day()).unwrap()),
        8 => Change::CostLimit(lots.percent(70).then(|| {
            let currency = terms.plans["invapi"].price.as_ref().unwrap().currency;
            nodes::amount(lots, currency)
        })),
        _ => Change::AutoUnsuspend(lots.percent(50)),
    }
}
