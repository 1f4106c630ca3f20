//! The diary of a machine: everything that happened to it, in order, and what can be read from it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{
    Exact,
    calendar::{Span, arrived},
};
use crate::engine::{
    command::{Change, SettingKey},
    event::State,
    plan::{Action, Allowance, DayOfMonth, Direction, Machine, Plan, Rule, Tariff, Terms},
    units::{Money, PlanName, RuleName},
};

/// One thing that happened.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    Began {
        span: Span,
        zone: TimeZone,
    },
    /// Volume of this period, rolled over or topped up.
    Granted(u64),
    /// So much of what was granted came from the period before.
    Rolled(u64),
    Arrived {
        span: (Timestamp, Timestamp),
        received: u64,
        sent: u64,
        exempt: u64,
        /// What the plan counted then.
        counts: Direction,
    },
    Changed(Change),
    Unset(SettingKey),
    SuspendedByStaff(Order),
    LiftedByStaff {
        rules: Vec<RuleName>,
        until: Timestamp,
    },
    Charged {
        volume: u64,
        tariff: Tariff,
        posted: Money,
    },
    Looked(Look),
}

/// Staff's order to suspend: when it was given, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Order {
    pub(super) at: Timestamp,
    pub(super) until: Option<Timestamp>,
}

/// What one look at the machine found.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Timestamp,
    pub(super) rules: Vec<Seen>,
    pub(super) standing: Standing,
    /// A notice told that a state as hard as this began, and none that it ended.
    pub(super) told: State,
}

/// What it found of a rule.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) rule: Rule,
    /// When its trigger was first seen to hold, if it holds.
    pub(super) since: Option<Timestamp>,
    /// It has held for as long as the rule says.
    pub(super) ripe: bool,
    /// Its one notice is gone, or a higher one spoke for it.
    pub(super) spoken: bool,
    pub(super) overridden: bool,
    pub(super) acting: bool,
    /// That it acts was said.
    pub(super) announced: bool,
    /// What moved in this step beyond the byte at which it came to hold.
    pub(super) beyond: u64,
}

impl Seen {
    pub(super) fn flags(&self) -> bool {
        self.rule.flag && self.ripe
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Standing {
    pub(super) state: State,
    pub(super) rule: Option<RuleName>,
    pub(super) action: Option<Action>,
    /// When staff ordered its suspension, if that is what suspends it: each order is an event
    /// of its own.
    pub(super) ordered: Option<Timestamp>,
}

impl Standing {
    pub(super) fn rate(&self) -> Option<u64> {
        match self.action {
            Some(Action::Throttle(rate)) => Some(rate.0),
            _ => None,
        }
    }
}

/// What commands have set and not unset.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    plan: Option<PlanName>,
    pub(super) allowance: Option<Allowance>,
    pub(super) renewal_day: Option<DayOfMonth>,
    pub(super) cost_limit: Option<Option<Money>>,
    pub(super) auto_unsuspend: Option<bool>,
}

impl Settings {
    pub(super) fn plan(&self, machine: &Machine, terms: &Terms) -> Option<Arc<Plan>> {
        match &self.plan {
            Some(name) => terms.plans.get(name).cloned(),
            None => machine.plan.clone(),
        }
    }

    pub(super) fn has(&self, key: SettingKey) -> bool {
        match key {
            SettingKey::Plan => self.plan.is_some(),
            SettingKey::Allowance => self.allowance.is_some(),
            SettingKey::RenewalDay => self.renewal_day.is_some(),
            SettingKey::CostLimit => self.cost_limit.is_some(),
            SettingKey::AutoUnsuspend => self.auto_unsuspend.is_some(),
        }
    }
}

pub(super) fn counted(direction: Direction, received: u64, sent: u64) -> u64 {
    match direction {
        Direction::Sum => received + sent,
        Direction::Received => received,
        Direction::Sent => sent,
        Direction::Larger => received.max(sent),
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Diary(Vec<Fact>);

impl Diary {
    pub(super) fn note(&mut self, fact: Fact) {
        self.0.push(fact);
    }

    /// What was written since the period began, the beginning included.
    pub(super) fn this_period(&self) -> &[Fact] {
        let began = |fact: &Fact| matches!(fact, Fact::Began { .. });
        &self.0[self.0.iter().rposition(began).unwrap_or(0)..]
    }

    fn beginning(&self) -> (Span, &TimeZone) {
        match self.this_period().first() {
            Some(Fact::Began { span, zone }) => (*span, zone),
            _ => unreachable!("a diary opens with a period"),
        }
    }

    pub(super) fn period(&self) -> Span {
        self.beginning().0
    }

    pub(super) fn zone(&self) -> &TimeZone {
        self.beginning().1
    }

    pub(super) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        for fact in &self.0 {
            match fact {
                Fact::Changed(Change::Plan(name)) => settings.plan = Some(name.clone()),
                Fact::Changed(Change::Allowance(volume)) => settings.allowance = Some(*volume),
                Fact::Changed(Change::RenewalDay(day)) => settings.renewal_day = Some(*day),
                Fact::Changed(Change::CostLimit(limit)) => settings.cost_limit = Some(*limit),
                Fact::Changed(Change::AutoUnsuspend(on)) => settings.auto_unsuspend = Some(*on),
                Fact::Unset(SettingKey::Plan) => settings.plan = None,
                Fact::Unset(SettingKey::Allowance) => settings.allowance = None,
                Fact::Unset(SettingKey::RenewalDay) => settings.renewal_day = None,
                Fact::Unset(SettingKey::CostLimit) => settings.cost_limit = None,
                Fact::Unset(SettingKey::AutoUnsuspend) => settings.auto_unsuspend = None,
                _ => {}
            }
        }
        settings
    }

    /// Received, sent and exempt since the period began.
    pub(super) fn moved(&self) -> (u64, u64, u64) {
        let mut sum = (0, 0, 0);
        for fact in self.this_period() {
            if let Fact::Arrived {
                received,
                sent,
                exempt,
                ..
            } = fact
            {
                sum = (sum.0 + received, sum.1 + sent, sum.2 + exempt);
            }
        }
        sum
    }

    /// Received and sent since that instant of the period. As history is kept by hours, what
    /// moved in the hour that holds the instant counts as spread evenly over it.
    pub(super) fn moved_since(&self, opens: Timestamp) -> (Exact, Exact) {
        let second = opens.as_second();
        let offset = i64::from(self.zone().to_offset(opens).seconds());
        let hour = second - (second + offset).rem_euclid(3_600);
        let inside = Exact::new(i128::from(hour + 3_600 - second), 3_600);
        let hour = Timestamp::from_second(hour).unwrap();
        let next = hour + SignedDuration::from_hours(1);
        let sum = |which: fn(u64, u64) -> u64, since: Timestamp| -> u64 {
            let arrived = self.this_period().iter().map(|fact| match fact {
                Fact::Arrived {
                    span: (from, to),
                    received,
                    sent,
                    ..
                } => {
                    let bytes = which(*received, *sent);
                    bytes - arrived(bytes, (*from, *to), since)
                }
                _ => 0,
            });
            arrived.sum()
        };
        let moved = |which| {
            let late = sum(which, next);
            Exact::whole(late) + Exact::whole(sum(which, hour) - late).times(inside)
        };
        (moved(|received, _| received), moved(|_, sent| sent))
    }

    /// What was granted in this period, and how much of it had rolled over.
    pub(super) fn granted(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for fact in self.this_period() {
            match fact {
                Fact::Granted(volume) => sum.0 += volume,
                Fact::Rolled(volume) => sum.1 += volume,
                _ => {}
            }
        }
        sum
    }

    pub(super) fn looks(&self) -> impl DoubleEndedIterator<Item = &Look> {
        self.0.iter().filter_map(|fact| match fact {
            Fact::Looked(look) => Some(look),
            _ => None,
        })
    }

    pub(super) fn looked_in_period(&self) -> bool {
        let looked = |fact: &Fact| matches!(fact, Fact::Looked(_));
        self.this_period().iter().any(looked)
    }

    pub(super) fn last_look(&self) -> Option<&Look> {
        self.looks().next_back()
    }

    pub(super) fn standing(&self) -> Standing {
        self.last_look()
            .map(|look| look.standing.clone())
            .unwrap_or_default()
    }

    pub(super) fn flagged(&self) -> bool {
        self.last_look()
            .is_some_and(|look| look.rules.iter().any(Seen::flags))
    }

    /// Since when the trigger of that rule has held without a break, as of the last look.
    pub(super) fn held_since(&self, rule: &RuleName) -> Option<Timestamp> {
        let mut since = None;
        for look in self.looks().rev() {
            match look.find(rule) {
                Some(seen) if seen.since.is_some() => since = Some(look.at),
                _ => break,
            }
        }
        since
    }

    /// Whether the rule has spoken since it was last armed.
    pub(super) fn has_spoken(&self, rule: &RuleName) -> bool {
        for fact in self.this_period().iter().rev() {
            let Fact::Looked(look) = fact else { continue };
            match look.find(rule) {
                Some(seen) if seen.spoken => return true,
                Some(seen) if seen.since.is_some() => {}
                _ => return false,
            }
        }
        false
    }

    /// Until when a hand holds the rule off, if one does: it was lifted in this period, and
    /// its trigger has held at every look since.
    pub(super) fn held_off(&self, rule: &RuleName) -> Option<Timestamp> {
        for fact in self.this_period().iter().rev() {
            match fact {
                Fact::LiftedByStaff { rules, until } if rules.contains(rule) => {
                    return Some(*until);
                }
                Fact::Looked(look) => {
                    look.find(rule)?.since?;
                }
                _ => {}
            }
        }
        None
    }

    /// Whether the rule was acting at the last look and no hand has lifted it since.
    pub(super) fn was_acting(&self, rule: &RuleName) -> bool {
        for fact in self.0.iter().rev() {
            match fact {
                Fact::LiftedByStaff { rules, .. } if rules.contains(rule) => return false,
                Fact::Looked(look) => return look.find(rule).is_some_and(|seen| seen.acting),
                _ => {}
            }
        }
        false
    }

    /// Whether it was said that the rule acts as it has done since.
    pub(super) fn was_announced(&self, rule: &Rule) -> bool {
        let last = self.last_look().and_then(|look| look.find(&rule.name));
        last.is_some_and(|seen| seen.announced && seen.rule.action == rule.action)
            && self.was_acting(&rule.name)
    }

    /// The order by which staff suspends it at that instant.
    pub(super) fn suspended_by_staff(&self, at: Timestamp) -> Option<Order> {
        for fact in self.0.iter().rev() {
            match fact {
                Fact::LiftedByStaff { .. } => return None,
                Fact::SuspendedByStaff(order) => {
                    let in_force = order.until.is_none_or(|until| at < until);
                    return in_force.then_some(*order);
                }
                _ => {}
            }
        }
        None
    }

    /// Received and sent in the period, as of the last look.
    pub(super) fn moved_before_last_look(&self) -> (u64, u64) {
        let facts = self.this_period();
        let looked = |fact: &Fact| matches!(fact, Fact::Looked(_));
        let until = facts.iter().rposition(looked).unwrap_or(0);
        let mut sum = (0, 0);
        for fact in &facts[..until] {
            if let Fact::Arrived { received, sent, .. } = fact {
                sum = (sum.0 + received, sum.1 + sent);
            }
        }
        sum
    }

    /// What was counted since the rule began to act, if it acts: the growth of the period's
    /// sum, as the plan counted it at the time.
    pub(super) fn counted_since_acting(&self, rule: &RuleName) -> Option<u64> {
        let mut first = self.0.len();
        let mut beyond = None;
        for (index, fact) in self.0.iter().enumerate().rev() {
            if let Fact::Looked(look) = fact {
                let action = |seen: &Seen| seen.acting.then_some(seen.rule.action);
                let now = self
                    .last_look()
                    .and_then(|look| look.find(rule))
                    .and_then(action);
                if now.is_none() || look.find(rule).and_then(action) != now {
                    break;
                }
                first = index;
                beyond = look.find(rule).map(|seen| seen.beyond);
            }
        }
        let (mut received, mut sent, mut total) = (0, 0, beyond?);
        for (index, fact) in self.0.iter().enumerate() {
            match fact {
                Fact::Began { .. } => (received, sent) = (0, 0),
                Fact::Arrived {
                    received: more,
                    sent: out,
                    counts,
                    ..
                } => {
                    let before = counted(*counts, received, sent);
                    received += more;
                    sent += out;
                    if index > first {
                        total += counted(*counts, received, sent) - before;
                    }
                }
                _ => {}
            }
        }
        Some(total)
    }
}

impl Look {
    pub(super) fn find(&self, rule: &RuleName) -> Option<&Seen> {
        self.rules.iter().find(|seen| seen.rule.name == *rule)
    }
}
