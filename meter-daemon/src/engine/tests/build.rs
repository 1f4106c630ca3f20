//! Plans and rules in few words.

use std::{num::NonZeroU32, sync::Arc};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::engine::{plan::*, units::*};

pub(super) const MB: u64 = 1_000_000;
pub(super) const GB: u64 = 1_000 * MB;
pub(super) const TB: u64 = 1_000 * GB;

pub(super) fn at(text: &str) -> Timestamp {
    let full = if text.contains('T') {
        format!("{text}Z")
    } else {
        format!("{text}T00:00:00Z")
    };
    full.parse().unwrap()
}

pub(super) fn money(text: &str) -> Money {
    text.parse().unwrap()
}

pub(super) fn limited(volume: u64) -> Allowance {
    Allowance::Limited(Bytes(volume))
}

pub(super) fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// A plan with calendar months and nothing else.
pub(super) fn plan(name: &str, allowance: u64) -> Plan {
    Plan {
        name: name.into(),
        starts: PeriodStart::Day(DayOfMonth::FIRST),
        time_zone: None,
        direction: Direction::Sum,
        allowance: limited(allowance),
        cost_limit: None,
        daily: None,
        rollover: Rollover::None,
        price: None,
        rules: Vec::new(),
        enforce: true,
        exempt: Vec::new(),
        exempt_when_suspended: false,
    }
}

pub(super) fn euros() -> Price {
    Price {
        currency: Currency::new("EUR").unwrap(),
        base: None,
        usage: None,
        overage: None,
        extra: None,
    }
}

pub(super) fn per(volume: u64, price: &str) -> Tariff {
    Tariff {
        per: Bytes(volume),
        price: price.parse().unwrap(),
    }
}

/// A rule named as operators see it: `used 105%`, `over 100 GB`, `overdue`.
pub(super) fn rule(name: &str) -> Rule {
    let (word, figure) = name.split_once(' ').unwrap_or((name, ""));
    let percent = |figure: &str| {
        figure
            .strip_suffix('%')
            .map(|number| Percent(number.parse().unwrap()))
    };
    let threshold = || match percent(figure) {
        Some(percent) => Threshold::Percent(percent),
        None => {
            let gigabytes = figure.strip_suffix(" GB").expect("a figure in % or GB");
            Threshold::Volume(Bytes(gigabytes.parse::<u64>().unwrap() * GB))
        }
    };
    let trigger = match word {
        "used" => Trigger::Used(threshold()),
        "over" => Trigger::Over(threshold()),
        "accrued" => Trigger::Accrued(percent(figure).unwrap()),
        "cost" => Trigger::Cost(match percent(figure) {
            Some(percent) => CostThreshold::Percent(percent),
            None => CostThreshold::Amount(money(figure)),
        }),
        "forecast" => Trigger::Forecast(threshold()),
        "overdue" => Trigger::Overdue,
        other => panic!("no trigger is called {other}"),
    };
    Rule {
        name: name.into(),
        trigger,
        after: SignedDuration::ZERO,
        action: None,
        notify: false,
        flag: false,
        lift: Lift::Automatic,
    }
}

impl Rule {
    pub(super) fn after_hours(mut self, hours: i64) -> Self {
        self.after = SignedDuration::from_hours(hours);
        self.name = format!("{} after {hours}h", self.name).into();
        self
    }

    pub(super) fn notify(mut self) -> Self {
        self.notify = true;
        self
    }

    pub(super) fn flag(mut self) -> Self {
        self.flag = true;
        self
    }

    pub(super) fn act(mut self, action: Action) -> Self {
        self.action = Some(action);
        self
    }

    pub(super) fn throttle(self) -> Self {
        self.act(Action::Throttle(BitsPerSecond(64_000)))
    }

    pub(super) fn suspend(self) -> Self {
        self.act(Action::Suspend)
    }

    pub(super) fn by_hand(mut self) -> Self {
        self.lift = Lift::ByHand;
        self
    }
}

/// The five systems' plans.
pub(super) fn invapi() -> Plan {
    let mut price = euros();
    price.overage = Some(Overage {
        tariff: per(TB, "2"),
        collect: CollectOverage::Invoice { due_days: 5 },
    });
    price.extra = Some(Extra {
        tariff: per(TB, "1.50"),
        prorated: false,
        collect: CollectExtra::Invoice { due_days: 5 },
    });
    Plan {
        price: Some(price),
        rules: vec![
            rule("used 80%").notify(),
            rule("forecast 100%").notify(),
            rule("overdue").act(Action::Cap(Bytes(100 * MB))).notify(),
        ],
        ..plan("invapi", TB)
    }
}

pub(super) fn edis() -> Plan {
    Plan {
        starts: PeriodStart::RenewalDay,
        rules: vec![
            rule("used 80%").notify(),
            rule("used 90%").notify(),
            rule("used 100%").notify(),
            rule("used 105%").throttle().notify(),
        ],
        ..plan("edis", TB)
    }
}

pub(super) fn caasify(allowance: u64) -> Plan {
    let mut price = euros();
    price.overage = Some(Overage {
        tariff: per(GB, "0.01"),
        collect: CollectOverage::Balance,
    });
    Plan {
        daily: NonZeroU32::new(30),
        price: Some(price),
        rules: vec![rule("accrued 100%").flag()],
        ..plan("caasify", allowance)
    }
}

pub(super) fn calendar_suspend() -> Plan {
    let mut price = euros();
    price.extra = Some(Extra {
        tariff: per(TB, "3"),
        prorated: true,
        collect: CollectExtra::None,
    });
    Plan {
        price: Some(price),
        rules: vec![
            rule("used 75%").notify(),
            rule("used 100%").notify(),
            rule("forecast 100%").notify(),
            rule("used 100%").after_hours(24).suspend().notify(),
        ],
        ..plan("calendar-suspend", TB)
    }
}

pub(super) fn cdn_limit() -> Plan {
    let mut price = euros();
    price.currency = Currency::new("USD").unwrap();
    price.usage = Some(per(GB, "0.02"));
    Plan {
        allowance: Allowance::Unlimited,
        price: Some(price),
        rules: vec![
            rule("over 100%").suspend().notify().by_hand(),
            rule("cost 100%").suspend().notify().by_hand(),
        ],
        ..plan("cdn-limit", 0)
    }
}

pub(super) fn machine(id: &str, plan: Plan) -> Machine {
    Machine {
        id: id.into(),
        plan: Some(Arc::new(plan)),
        account: None,
        renewal_day: None,
        allowance: None,
        cost_limit: None,
        auto_unsuspend: None,
        time_zone: None,
        node_zone: TimeZone::UTC,
    }
}

pub(super) fn account(id: &str) -> Account {
    Account {
        id: id.into(),
        currency: Currency::new("EUR"),
        autopay: false,
        pool: None,
        opening_balance: None,
    }
}

/// Terms with these machines; every plan that they name can be `set`.
pub(super) fn terms(machines: Vec<Machine>, accounts: Vec<Account>) -> Terms {
    let plans = machines.iter().filter_map(|machine| machine.plan.clone());
    Terms {
        plans: plans.map(|plan| (plan.name.clone(), plan)).collect(),
        machines: machines
            .into_iter()
            .map(|machine| (machine.id.clone(), machine))
            .collect(),
        accounts: accounts
            .into_iter()
            .map(|account| (account.id.clone(), account))
            .collect(),
    }
}
