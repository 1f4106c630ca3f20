//! A plan's `[[rule]]`: at this much, after this long, do this.

use jiff::SignedDuration;

use super::{
    kinds::{COST_THRESHOLD, DURATION, RATE, SHARE, THRESHOLD, VOLUME},
    problem::{Located, Place},
    table::Table,
};
use crate::engine::{
    plan::{Action, Lift, Rule, Trigger},
    units::RuleName,
};

const TRIGGERS: [&str; 6] = ["used", "over", "accrued", "cost", "forecast", "overdue"];
const ACTIONS: [&str; 5] = ["notify", "flag", "throttle", "cap", "suspend"];

/// Reads one rule. `None` where it cannot be known what it is; why is among the problems.
/// The place is the trigger's figure.
pub(super) fn read(table: Table<'_>) -> Option<Located<Rule>> {
    let trigger = trigger(&table);
    let after = table.read("after", &DURATION);
    let (after, after_name) =
        after.map_or((SignedDuration::ZERO, String::new()), |after| after.value);
    let action = action(&table);
    let notify = table.switch("notify").unwrap_or(false);
    let flag = table.switch("flag").unwrap_or(false);
    let lift = table.word(
        "lift",
        &[("automatic", Lift::Automatic), ("by-hand", Lift::ByHand)],
    );

    let unreadable_action = ["throttle", "cap"].into_iter().any(|key| table.has(key));
    if action.is_none() && !notify && !flag && !unreadable_action {
        table.problems.absent(
            &table.place,
            "this rule does nothing",
            format!(
                "write what it does, one or more of {}: notify = true",
                ACTIONS.join(", ")
            ),
        );
    }
    if let Some(lift) = &lift
        && action.is_none()
        && !unreadable_action
    {
        table.problems.warning(
            &lift.place,
            "`lift` has no effect: this rule neither throttles, caps nor suspends",
            "remove it, or add throttle, cap or suspend",
        );
    }
    table.finish();

    let Located {
        value: (trigger, mut name),
        place,
    } = trigger?;
    if !after.is_zero() {
        name = format!("{name} after {after_name}");
    }
    let rule = Rule {
        name: RuleName::from(name),
        trigger,
        after,
        action,
        notify,
        flag,
        lift: lift.map(|lift| lift.value).unwrap_or_default(),
    };
    Some(Located { value: rule, place })
}

/// The rule's one trigger, with its name.
fn trigger(table: &Table<'_>) -> Option<Located<(Trigger, String)>> {
    fn named<T>(
        key: &str,
        read: Option<Located<(T, String)>>,
        make: impl Fn(T) -> Trigger,
    ) -> Option<Located<(Trigger, String)>> {
        let Located {
            value: (figure, text),
            place,
        } = read?;
        Some(Located {
            value: (make(figure), format!("{key} {text}")),
            place,
        })
    }
    let found = [
        named("used", table.read("used", &THRESHOLD), Trigger::Used),
        named("over", table.read("over", &THRESHOLD), Trigger::Over),
        named("accrued", table.read("accrued", &SHARE), Trigger::Accrued),
        named("cost", table.read("cost", &COST_THRESHOLD), Trigger::Cost),
        named(
            "forecast",
            table.read("forecast", &THRESHOLD),
            Trigger::Forecast,
        ),
        overdue(table),
    ];
    let given: Vec<&str> = TRIGGERS.into_iter().filter(|key| table.has(key)).collect();
    match given.as_slice() {
        [] => table.problems.absent(
            &table.place,
            "this rule has no trigger",
            format!(
                "write when it holds, one of {}: used = \"100%\"",
                TRIGGERS.join(", ")
            ),
        ),
        [_] => {}
        [first, second, ..] => table.problems.error(
            &table.place_of(second),
            format!("a rule has one trigger; this one has `{first}` and `{second}`"),
            format!("make two rules, or remove `{second}`"),
        ),
    }
    found.into_iter().flatten().next()
}

fn overdue(table: &Table<'_>) -> Option<Located<(Trigger, String)>> {
    let place = table.place_of("overdue");
    if table.switch("overdue")? {
        return Some(Located {
            value: (Trigger::Overdue, "overdue".to_owned()),
            place,
        });
    }
    table.problems.error(
        &place,
        "`overdue = false` is no trigger",
        "write: overdue = true",
    );
    None
}

/// What the rule does to packets: of several, the strongest, since only that would be felt.
fn action(table: &Table<'_>) -> Option<Action> {
    let suspend = table
        .switch("suspend")
        .unwrap_or(false)
        .then_some(Action::Suspend);
    let cap = table.read("cap", &VOLUME).map(|cap| Action::Cap(cap.value));
    let throttle = table
        .read("throttle", &RATE)
        .map(|rate| Action::Throttle(rate.value));
    let weaker = |key: &str, stronger: &str| {
        table.problems.warning(
            &table.place_of(key),
            format!("`{key}` has no effect beside `{stronger}`: the strongest action is felt"),
            "remove it, or give it a rule of its own, with its own trigger or `after`",
        );
    };
    match (suspend.is_some(), cap.is_some(), throttle.is_some()) {
        (true, _, true) => weaker("throttle", "suspend"),
        (false, true, true) => weaker("throttle", "cap"),
        _ => {}
    }
    if suspend.is_some() && cap.is_some() {
        weaker("cap", "suspend");
    }
    suspend.or(cap).or(throttle)
}

/// Names every two rules that are one: same trigger, same figure, same `after`.
pub(super) fn refuse_twins(rules: &[Located<Rule>], problems: &super::problem::Problems) {
    for (n, rule) in rules.iter().enumerate() {
        let Rule {
            trigger,
            after,
            name,
            ..
        } = &rule.value;
        let earlier = rules.get(..n).unwrap_or_default();
        let twin = |other: &&Located<Rule>| {
            other.value.name == *name
                || (other.value.trigger == *trigger && other.value.after == *after)
        };
        if earlier.iter().any(|other| twin(&other)) {
            let place: &Place = &rule.place;
            problems.error(
                place,
                format!("there are two rules `{name}`"),
                "put what they do into one, or give this one another figure or another `after`",
            );
        }
    }
}
