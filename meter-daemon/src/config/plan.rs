//! A plan's file: a period, an allowance, prices and rules.

use std::{num::NonZeroU32, sync::Arc};

use super::{
    kinds::{ALLOWANCE, CIVIL_DAYS, CURRENCY, MONEY, PREFIX, PRICE, TIME_ZONE, VOLUME},
    problem::Located,
    rule,
    table::Table,
};
use crate::engine::{
    plan::{
        Allowance, CollectExtra, CollectOverage, CostThreshold, DayOfMonth, Direction, Extra,
        Overage, PeriodStart, Plan, Price, Rollover, Rule, Tariff, Threshold, Trigger,
    },
    units::{Bytes, Currency, Money, PlanName},
};

/// The keys of a plan's top.
pub(super) const KEYS: &[&str] = &[
    "period",
    "direction",
    "allowance",
    "cost-limit",
    "daily",
    "rollover",
    "price",
    "rule",
    "enforce",
    "exempt",
    "exempt-when-suspended",
];

/// The days after which a bill is due where the plan does not say.
const DUE_DAYS: u32 = 5;

/// Reads a plan. It is whole only as far as no problem was noted.
pub(super) fn read(table: Table<'_>, name: PlanName) -> Arc<Plan> {
    let (starts, time_zone) = period(&table);
    let direction = table.word(
        "direction",
        &[
            ("sum", Direction::Sum),
            ("received", Direction::Received),
            ("sent", Direction::Sent),
            ("larger", Direction::Larger),
        ],
    );
    let allowance = table.read("allowance", &ALLOWANCE);
    let cost_limit = table.read("cost-limit", &MONEY);
    let daily = daily(&table, allowance.as_ref());
    let rollover = table.word(
        "rollover",
        &[("none", Rollover::None), ("unused", Rollover::Unused)],
    );
    let price = table.table("price", "[price]").and_then(price);
    let rules: Vec<_> = table
        .tables("rule", "[[rule]]")
        .into_iter()
        .filter_map(rule::read)
        .collect();
    let enforce = table.switch("enforce").unwrap_or(true);
    let exempt = table.list("exempt", &PREFIX);
    let exempt_when_suspended = table.switch("exempt-when-suspended").unwrap_or(false);

    rule::refuse_twins(&rules, table.problems);
    let checked = Checked {
        table: &table,
        price: price.as_ref(),
        rules: &rules,
    };
    checked.cost_limit(cost_limit.as_ref());
    checked.rules();
    checked.percentages_have_an_allowance();
    if let Some(rollover) = &rollover
        && rollover.value == Rollover::Unused
        && is_unlimited(allowance.as_ref())
    {
        table.problems.warning(
            &rollover.place,
            "nothing is left over of an unlimited allowance",
            "remove `rollover`, or write a volume as the allowance",
        );
    }
    table.finish();

    Arc::new(Plan {
        name,
        starts,
        time_zone,
        direction: direction
            .map(|direction| direction.value)
            .unwrap_or_default(),
        allowance: allowance.map_or(Allowance::Unlimited, |allowance| allowance.value),
        cost_limit: cost_limit.map(|limit| limit.value),
        daily,
        rollover: rollover.map(|rollover| rollover.value).unwrap_or_default(),
        price,
        rules: rules.into_iter().map(|rule| rule.value).collect(),
        enforce,
        exempt: exempt.into_iter().map(|prefix| prefix.value).collect(),
        exempt_when_suspended,
    })
}

fn is_unlimited(allowance: Option<&Located<Allowance>>) -> bool {
    allowance.is_some_and(|allowance| allowance.value == Allowance::Unlimited)
}

fn period(table: &Table<'_>) -> (PeriodStart, Option<jiff::tz::TimeZone>) {
    let first = PeriodStart::Day(DayOfMonth::FIRST);
    let Some(period) = table.table("period", "`period`") else {
        return (first, None);
    };
    let starts = if period.is_word("starts") {
        period
            .word("starts", &[("renewal-day", PeriodStart::RenewalDay)])
            .map(|word| word.value)
    } else {
        day(&period, "starts").map(PeriodStart::Day)
    };
    let zone = period.read("time-zone", &TIME_ZONE).map(|zone| zone.value);
    period.finish();
    (starts.unwrap_or(first), zone)
}

/// A day of the month.
pub(super) fn day(table: &Table<'_>, key: &'static str) -> Option<DayOfMonth> {
    let day = table.integer(key, 1..=31)?;
    u8::try_from(day).ok().and_then(DayOfMonth::new)
}

fn daily(table: &Table<'_>, allowance: Option<&Located<Allowance>>) -> Option<NonZeroU32> {
    let daily = table.table("daily", "`daily`")?;
    if !daily.has("days") {
        daily.problems.absent(
            &daily.place,
            "`daily` does not say among how many days the allowance is divided",
            "write: daily = { days = 30 }",
        );
    }
    let days = daily.integer("days", 1..=366).and_then(NonZeroU32::new);
    if let Some(allowance) = allowance
        && allowance.value == Allowance::Unlimited
    {
        table.problems.error(
            &allowance.place,
            "an unlimited allowance cannot be granted day by day, as `daily` asks",
            "write a volume: allowance = \"5 TB\"; or remove `daily`",
        );
    } else if allowance.is_none() && !table.has("allowance") {
        table.problems.absent(
            &daily.place,
            "`daily` divides the allowance, and this plan has none",
            "write above it: allowance = \"5 TB\"",
        );
    }
    daily.finish();
    days
}

fn price(table: Table<'_>) -> Option<Price> {
    let currency = table.require("currency", &CURRENCY);
    let base = table.read("base", &PRICE);
    let usage = table.table("usage", "`usage`").and_then(|table| {
        let tariff = tariff(&table);
        table.finish();
        tariff
    });
    let overage = table.table("overage", "`overage`").and_then(overage);
    let extra = table.table("extra", "`extra`").and_then(extra);
    if !["base", "usage", "overage", "extra"]
        .into_iter()
        .any(|key| table.has(key))
    {
        table.problems.warning(
            &table.place,
            "[price] holds no price",
            "add base, usage, overage or extra, or remove it",
        );
    }
    table.finish();
    Some(Price {
        currency: currency?.value,
        base: base.map(|base| base.value),
        usage,
        overage,
        extra,
    })
}

fn tariff(table: &Table<'_>) -> Option<Tariff> {
    let per = table.require("per", &VOLUME);
    let price = table.require("price", &PRICE);
    let per = per?;
    if per.value == Bytes::ZERO {
        table.problems.error(
            &per.place,
            "no volume cannot have a price",
            "write: per = \"1 GB\"",
        );
        return None;
    }
    Some(Tariff {
        per: per.value,
        price: price?.value,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Collect {
    None,
    Balance,
    Invoice,
}

/// When a bill is due; an error where none is issued.
fn due(table: &Table<'_>, collect: Option<Collect>) -> u32 {
    let due = table.read("due", &CIVIL_DAYS);
    if let Some(due) = &due
        && matches!(collect, Some(Collect::Balance | Collect::None))
    {
        table.problems.error(
            &due.place,
            "`due` is the date of a bill, and what is collected from the balance has none",
            "remove `due`, or write: collect = \"invoice\"",
        );
    }
    due.map_or(DUE_DAYS, |due| due.value)
}

fn overage(table: Table<'_>) -> Option<Overage> {
    let tariff = tariff(&table);
    let collect = table.word(
        "collect",
        &[("balance", Collect::Balance), ("invoice", Collect::Invoice)],
    );
    if !table.has("collect") {
        table.problems.absent(
            &table.place,
            "`overage` does not say how it is collected",
            "write in it: collect = \"balance\", or collect = \"invoice\", due = \"5d\"",
        );
    }
    let collect = collect.map(|collect| collect.value);
    let due_days = due(&table, collect);
    table.finish();
    let collect = match collect? {
        Collect::Invoice => CollectOverage::Invoice { due_days },
        Collect::Balance | Collect::None => CollectOverage::Balance,
    };
    Some(Overage {
        tariff: tariff?,
        collect,
    })
}

fn extra(table: Table<'_>) -> Option<Extra> {
    let tariff = tariff(&table);
    let prorated = table.switch("prorated").unwrap_or(false);
    let collect = table.word(
        "collect",
        &[
            ("none", Collect::None),
            ("balance", Collect::Balance),
            ("invoice", Collect::Invoice),
        ],
    );
    let collect = match (collect, table.has("collect")) {
        (None, false) => Some(Collect::None),
        (collect, _) => collect.map(|collect| collect.value),
    };
    let due_days = due(&table, collect);
    table.finish();
    let collect = match collect? {
        Collect::None => CollectExtra::None,
        Collect::Balance => CollectExtra::Balance,
        Collect::Invoice => CollectExtra::Invoice { due_days },
    };
    Some(Extra {
        tariff: tariff?,
        prorated,
        collect,
    })
}

/// What must fit together within a plan.
struct Checked<'a, 't> {
    table: &'a Table<'t>,
    price: Option<&'a Price>,
    rules: &'a [Located<Rule>],
}

impl Checked<'_, '_> {
    fn prices_usage(&self) -> bool {
        // Where [price] could not be read, its own problems are enough.
        match self.price {
            Some(price) => price.usage.is_some(),
            None => self.table.has("price"),
        }
    }

    fn currency(&self) -> Option<Currency> {
        self.price.map(|price| price.currency)
    }

    fn same_currency(&self, amount: &Money, what: &Located<impl Sized>) {
        if let Some(currency) = self.currency()
            && amount.currency != currency
        {
            self.table.problems.error(
                &what.place,
                format!(
                    "this is in {}, the plan's prices are in {currency}",
                    amount.currency
                ),
                format!(
                    "write the amount in {currency}: \"{} {currency}\"",
                    amount.amount
                ),
            );
        }
    }

    fn cost_limit(&self, limit: Option<&Located<Money>>) {
        let Some(limit) = limit else {
            return;
        };
        self.same_currency(&limit.value, limit);
        if !self.prices_usage() {
            self.table.problems.error(
                &limit.place,
                "a cost limit without a price of usage: nothing ever costs anything",
                "write under [price]: usage = { per = \"1 GB\", price = \"0.02\" }",
            );
        }
        let acts = |rule: &Located<Rule>| matches!(rule.value.trigger, Trigger::Cost(_));
        if !self.rules.iter().any(acts) {
            self.table.problems.warning(
                &limit.place,
                "no rule acts on this cost limit",
                "add a [[rule]] with: cost = \"100%\"",
            );
        }
    }

    fn rules(&self) {
        for rule in self.rules {
            match &rule.value.trigger {
                Trigger::Accrued(_) if !self.table.has("daily") => self.table.problems.absent(
                    &rule.place,
                    "`accrued` compares with a daily allowance, and this plan has none",
                    "write at the top of the file: daily = { days = 30 }",
                ),
                Trigger::Cost(threshold) => {
                    if let CostThreshold::Amount(amount) = threshold {
                        self.same_currency(amount, rule);
                    }
                    if !self.prices_usage() {
                        self.table.problems.absent(
                            &rule.place,
                            "`cost` needs a price of usage: nothing ever costs anything",
                            "write under [price]: usage = { per = \"1 GB\", price = \"0.02\" }",
                        );
                    }
                }
                Trigger::Overdue if !self.bills_overage() => self.table.problems.warning(
                    &rule.place,
                    "this plan bills no overage: only a bill from before a change of plan can be \
                     overdue",
                    "collect overage by bill: collect = \"invoice\"; or remove the rule",
                ),
                _ => {}
            }
        }
    }

    /// An unpaid bill for a top-up is an offer not taken: it lapses.
    fn bills_overage(&self) -> bool {
        let Some(price) = self.price else {
            return self.table.has("price");
        };
        let overage = price.overage.map(|overage| overage.collect);
        matches!(overage, Some(CollectOverage::Invoice { .. }))
    }

    /// A percentage of an allowance that is not set never holds. That is meant where the plan
    /// says `unlimited` for machines to set their own, and likely a slip where it is silent.
    fn percentages_have_an_allowance(&self) {
        let of_allowance = |rule: &&Located<Rule>| {
            matches!(
                rule.value.trigger,
                Trigger::Used(Threshold::Percent(_))
                    | Trigger::Over(Threshold::Percent(_))
                    | Trigger::Forecast(Threshold::Percent(_))
            )
        };
        if self.table.has("allowance") {
            return;
        }
        if let Some(rule) = self.rules.iter().find(of_allowance) {
            self.table.problems.warning(
                &rule.place,
                "this plan sets no allowance, so a percentage of it never holds",
                "write at the top of the file: allowance = \"1 TB\", or allowance = \"unlimited\" \
                 where each machine sets its own",
            );
        }
    }
}
