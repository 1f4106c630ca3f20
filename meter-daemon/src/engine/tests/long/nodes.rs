//! Nodes to run: the five plans as shipped, plans put together at random, machines under them.

use std::{num::NonZeroU32, sync::Arc};

use jiff::SignedDuration;

use super::{super::build::*, lots::Lots};
use crate::engine::{plan::*, units::*};

const ZONES: [&str; 12] = [
    "UTC",
    "UTC",
    "Europe/Vienna",
    "Europe/Vienna",
    "America/New_York",
    "America/Havana",
    "America/Santiago",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Kiritimati",
    "Africa/Casablanca",
];

/// A node's terms, from nothing but lots.
pub(super) fn node(lots: &mut Lots) -> Terms {
    let currency = Currency::new(lots.one(&["EUR", "EUR", "EUR", "JPY", "KWD"])).unwrap();
    let mut plans = shipped(currency);
    for number in 0..lots.number(2, 4) {
        plans.push(random_plan(lots, currency, &format!("random-{number}")));
    }
    let accounts: Vec<Account> = ["one", "two"]
        .map(|id| {
            let currency = lots.percent(90).then_some(currency);
            Account {
                id: id.into(),
                currency,
                autopay: lots.percent(25),
                pool: lots
                    .percent(60)
                    .then(|| Bytes(lots.number(1, 20) * 100 * GB)),
                opening_balance: currency
                    .filter(|_| lots.percent(50))
                    .map(|currency| amount(lots, currency)),
            }
        })
        .into();
    let machines = (1..=lots.number(1, 3)).map(|number| Machine {
        id: format!("m{number}").as_str().into(),
        plan: lots.percent(97).then(|| Arc::new(lots.one(&plans))),
        account: lots.percent(80).then(|| lots.one(&accounts).id),
        renewal_day: lots
            .percent(60)
            .then(|| DayOfMonth::new(lots.day()).unwrap()),
        allowance: lots.percent(20).then(|| allowance(lots)),
        cost_limit: lots.percent(15).then(|| amount(lots, currency)),
        auto_unsuspend: lots.percent(25).then(|| lots.percent(50)),
        time_zone: lots.percent(70).then(|| zone(lots.one(&ZONES))),
        node_zone: zone(lots.one(&ZONES)),
    });
    let machines: Vec<Machine> = machines.collect();
    let mut terms = terms(machines, accounts);
    for plan in plans {
        terms.plans.insert(plan.name.clone(), Arc::new(plan));
    }
    terms
}

pub(super) fn amount(lots: &mut Lots, currency: Currency) -> Money {
    Money {
        amount: rust_decimal::Decimal::from(lots.number(0, 40)),
        currency,
    }
}

pub(super) fn allowance(lots: &mut Lots) -> Allowance {
    match lots.number(1, 20) {
        1 => limited(0),
        2 | 3 => Allowance::Unlimited,
        4..=7 => limited(lots.number(1, 2_000_000_000_000)),
        _ => limited(lots.number(1, 40) * 50 * GB),
    }
}

/// `config/plans/*.toml`, all in one currency, so that machines can change between them.
fn shipped(currency: Currency) -> Vec<Plan> {
    let price = |overage, extra| Price {
        base: None,
        currency,
        usage: None,
        overage,
        extra,
    };
    let extra = |price, prorated, collect| Extra {
        tariff: per(TB, price),
        prorated,
        collect,
    };
    let invoice = CollectExtra::Invoice { due_days: 5 };
    let invapi = Plan {
        price: Some(price(
            Some(Overage {
                tariff: per(TB, "1.50"),
                collect: CollectOverage::Invoice { due_days: 5 },
            }),
            Some(extra("1.50", false, invoice)),
        )),
        rules: vec![
            rule("forecast 100%").notify(),
            rule("used 90%").notify(),
            rule("overdue").act(Action::Cap(Bytes(100 * MB))).notify(),
        ],
        ..plan("invapi", 10 * TB)
    };
    let caasify = Plan {
        time_zone: Some(zone("Asia/Tokyo")),
        daily: NonZeroU32::new(30),
        price: Some(price(
            Some(Overage {
                tariff: per(GB, "0.01"),
                collect: CollectOverage::Balance,
            }),
            Some(extra("5.00", false, CollectExtra::Balance)),
        )),
        rules: vec![rule("accrued 100%").flag()],
        ..plan("caasify", 5 * TB)
    };
    let calendar = Plan {
        price: Some(price(None, Some(extra("1.50", true, CollectExtra::None)))),
        rules: vec![
            rule("forecast 100%").notify(),
            rule("used 75%").notify(),
            rule("used 100%").notify(),
            rule("used 100%").after_hours(24).suspend().notify(),
        ],
        ..plan("calendar-suspend", TB)
    };
    let mut cdn = cdn_limit();
    cdn.price = Some(Price {
        usage: Some(per(GB, "0.02")),
        ..price(None, None)
    });
    vec![invapi, edis(), caasify, calendar, cdn]
}

fn tariff(lots: &mut Lots) -> Tariff {
    let (volume, price) = lots.one(&[
        (GB, "0.01"),
        (GB, "0.02"),
        (GB, "0.0137"),
        (MB, "0.00003"),
        (TB, "1.50"),
        (TB, "7"),
        (1 << 30, "0.011"),
        (3 * GB, "0.05"),
    ]);
    per(volume, price)
}

fn random_plan(lots: &mut Lots, currency: Currency, name: &str) -> Plan {
    let due_days = u32::try_from(lots.number(1, 12)).unwrap();
    let overage = lots.percent(60).then(|| Overage {
        tariff: tariff(lots),
        collect: match lots.percent(50) {
            true => CollectOverage::Balance,
            false => CollectOverage::Invoice { due_days },
        },
    });
    let extra = lots.percent(60).then(|| Extra {
        tariff: tariff(lots),
        prorated: lots.percent(50),
        collect: lots.one(&[
            CollectExtra::None,
            CollectExtra::Balance,
            CollectExtra::Invoice { due_days },
            CollectExtra::Invoice { due_days: 3 },
        ]),
    });
    let price = Price {
        base: None,
        currency,
        usage: lots.percent(60).then(|| tariff(lots)),
        overage,
        extra,
    };
    let anchor = PeriodStart::Day(DayOfMonth::new(lots.day()).unwrap());
    let mut plan = Plan {
        starts: lots.one(&[PeriodStart::RenewalDay, anchor]),
        direction: lots.one(&[
            Direction::Sum,
            Direction::Received,
            Direction::Sent,
            Direction::Larger,
        ]),
        allowance: allowance(lots),
        cost_limit: lots.percent(40).then(|| amount(lots, currency)),
        daily: lots
            .percent(30)
            .then(|| NonZeroU32::new(lots.one(&[30, 30, 28, 7, 31])).unwrap()),
        rollover: lots.one(&[Rollover::None, Rollover::None, Rollover::Unused]),
        price: lots.percent(85).then_some(price),
        ..plan(name, 0)
    };
    for _ in 0..lots.number(1, 6) {
        let rule = random_rule(lots, &plan);
        // Named by trigger and figure: a plan has none twice.
        if !plan.rules.iter().any(|other| other.name == rule.name) {
            plan.rules.push(rule);
        }
    }
    plan
}

fn random_rule(lots: &mut Lots, plan: &Plan) -> Rule {
    let percent = lots.one(&[50, 75, 80, 90, 95, 100, 100, 105, 110, 120, 150]);
    let priced = plan
        .price
        .as_ref()
        .map(|price| (price.currency, price.usage));
    let mut made = match lots.number(1, 20) {
        1..=6 => rule(&format!("used {percent}%")),
        7..=9 => rule(&format!("over {percent}%")),
        10 => rule(&format!("used {} GB", lots.number(1, 20) * 100)),
        11 => rule(&format!("over {} GB", lots.number(1, 20) * 100)),
        12 | 13 if plan.daily.is_some() => rule(&format!("accrued {percent}%")),
        14 | 15 => rule(&format!("forecast {percent}%")),
        16 => match priced {
            Some((currency, Some(_))) => rule(&format!("cost {} {currency}", lots.number(1, 40))),
            _ => rule("overdue"),
        },
        17 => rule(&format!("cost {percent}%")),
        _ => rule("overdue"),
    };
    if lots.percent(35) {
        let hours = lots.one(&[1, 24, 24, 72, 240]);
        made = made.after_hours(hours);
    }
    if lots.percent(20) {
        made.after += SignedDuration::from_secs(lots.seconds(1, 3_600));
        made.name = format!("{} and some", made.name).as_str().into();
    }
    made.notify = lots.percent(60);
    made.flag = lots.percent(15);
    made.action = match lots.number(1, 10) {
        1..=3 => Some(Action::Throttle(BitsPerSecond(lots.number(1, 8) * 64_000))),
        4 | 5 => Some(Action::Cap(Bytes(lots.number(1, 50) * 100 * MB))),
        6 | 7 => Some(Action::Suspend),
        _ => None,
    };
    if !made.flag && made.action.is_none() {
        made.notify = true;
    }
    if lots.percent(30) {
        made.lift = Lift::ByHand;
    }
    made
}
