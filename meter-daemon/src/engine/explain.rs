//! Why a machine's state is what it is, in sentences.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    event::State,
    kept::{Cause, RuleState},
    machine::Machine,
    notices::doing,
    plan::{Lift, Rule},
    status::NextRule,
    step::Engine,
    triggers::{Basis, Compared, Figures},
    units::{AccountId, Bytes, MachineId, Money, PlanName, RuleName},
};

/// Everything that a machine's state follows from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Which machine.
    pub machine: MachineId,
    /// Whose.
    pub account: Option<AccountId>,
    /// Under which plan.
    pub plan: Option<PlanName>,
    /// What stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Why, in a sentence.
    pub because: String,
    /// The running period, with the machine's offset.
    pub period: (String, String),
    /// What the plan counts.
    pub used: Bytes,
    /// With what was added and rolled over; null when unlimited.
    pub allowance: Option<Bytes>,
    /// Of it, added by top-ups.
    pub added: Bytes,
    /// Of it, from the period before.
    pub rolled_over: Bytes,
    /// Granted until today, under a daily allowance.
    pub granted: Option<Bytes>,
    /// Price of what was used.
    pub cost: Option<Money>,
    /// What it may cost.
    pub cost_limit: Option<Money>,
    /// At the period's end at the current rate.
    pub forecast: Option<Bytes>,
    /// Every rule, in the plan's order.
    pub rules: Vec<RuleExplanation>,
    /// What commands set, who, and when.
    pub settings: Vec<String>,
    /// Unpaid bills.
    pub bills: Vec<String>,
    /// What holds everything back: dry run, `enforce = false`, the circuit breaker.
    pub held_back: Vec<String>,
    /// What comes next if usage goes on.
    pub next: Option<NextRule>,
    /// Whether another plan would do better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// One rule on one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleExplanation {
    /// Which.
    pub rule: RuleName,
    /// Whether its trigger holds.
    pub holds: bool,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What was measured, in bytes; null for a trigger that measures none.
    pub measured: Option<Bytes>,
    /// From which figure on it holds.
    pub at: Option<Bytes>,
    /// The figures compared, in words.
    pub figures: String,
    /// Whether what it does is in force.
    pub in_force: bool,
    /// What it does, what ends it, or when it begins.
    pub effect: String,
}

impl Engine {
    /// Why the machine's state is what it is.
    #[must_use]
    pub fn explain(&self, machine: &MachineId, now: Timestamp) -> Option<Explanation> {
        let machine = self.machines.get(machine)?;
        let now = now.max(self.clock);
        let figures = Figures {
            forecast: machine.forecast(now),
            ..machine.figures(now)
        };
        let period = machine.period();
        let states = machine.terms.rules().iter().zip(&machine.record.rules);
        Some(Explanation {
            machine: machine.id.clone(),
            account: machine.terms.account.clone(),
            plan: machine.terms.plan_name().cloned(),
            state: machine.state(),
            since: machine.record.standing.since,
            because: machine.because(now, &figures),
            period: (period.local(period.start), period.local(period.end)),
            used: figures.used,
            allowance: figures.entitlement.total(),
            added: machine.record.added,
            rolled_over: machine.record.rolled,
            granted: figures.entitlement.accrued(),
            cost: figures.cost(),
            cost_limit: machine.terms.cost_limit,
            forecast: figures.forecast,
            rules: states
                .map(|(rule, state)| machine.explain_rule(rule, state, now, &figures))
                .collect(),
            settings: machine.explain_settings(),
            bills: machine.explain_bills(now),
            held_back: self.explain_restraint(machine),
            next: machine.next_rule(now),
            advice: machine.advice(&self.terms.plans),
        })
    }

    fn explain_restraint(&self, machine: &Machine) -> Vec<String> {
        let mut restraint = Vec::new();
        if self.settings.dry_run {
            restraint.push("dry-run is on: everything is decided, nothing is done".to_owned());
        }
        if !machine.terms.enforced() {
            restraint.push("the plan says `enforce = false`: nothing is done".to_owned());
        }
        if self.books.node.held.contains(&machine.id) {
            restraint.push(format!(
                "the circuit breaker holds {} machines back, this one too: `meterd confirm` lets \
                 it happen",
                self.books.node.held.len()
            ));
        }
        restraint
    }
}

impl Machine {
    fn because(&self, now: Timestamp, figures: &Figures) -> String {
        match &self.record.standing.cause {
            _ if self.record.cancelled.is_some() => "Its metering was ended.".to_owned(),
            Cause::None => "Nothing is in force.".to_owned(),
            Cause::Staff { since } => {
                let staff = self.record.staff.as_ref();
                let by = staff.map_or("staff", |staff| &staff.by);
                let reason = staff.and_then(|staff| staff.reason.as_deref());
                let until = staff.and_then(|staff| staff.until);
                format!(
                    "Suspended by {by} since {since}{}{}. No top-up, reset or payment lifts it.",
                    reason.map_or_else(String::new, |reason| format!(", because: {reason}")),
                    until.map_or_else(String::new, |until| format!(", until {until}")),
                )
            }
            Cause::Rule { rule, .. } => {
                let held = self.terms.rules().iter().find(|known| known.name == *rule);
                match held {
                    Some(rule) if figures.compare(rule.trigger).holds => {
                        self.what_holds(rule, now, figures)
                    }
                    _ => format!("`{rule}` held, and waits for a hand."),
                }
            }
        }
    }

    fn explain_rule(
        &self,
        rule: &Rule,
        state: &RuleState,
        now: Timestamp,
        figures: &Figures,
    ) -> RuleExplanation {
        let compared = figures.compare(rule.trigger);
        let ripe = state.is_ripe(rule, now);
        RuleExplanation {
            rule: rule.name.clone(),
            holds: compared.holds,
            since: state.since,
            measured: compared.measured,
            at: compared.at,
            figures: self.figures_in_words(&compared, now, figures),
            in_force: state.acting.is_some() || (rule.flag && state.flagging),
            effect: self.effect_in_words(rule, state, ripe, now),
        }
    }

    fn figures_in_words(&self, compared: &Compared, now: Timestamp, figures: &Figures) -> String {
        let at = |at: Option<Bytes>| at.map_or_else(|| "nothing".to_owned(), |at| at.to_string());
        match compared.basis {
            Basis::Overdue => {
                let overdue = self.record.bills.iter().filter(|bill| bill.is_overdue(now));
                match overdue.count() {
                    0 => "no bill is past its due date".to_owned(),
                    1 => "one bill is past its due date".to_owned(),
                    bills => format!("{bills} bills are past their due dates"),
                }
            }
            Basis::Forecast => match compared.measured {
                Some(forecast) => format!("forecast {forecast}, holds from {}", at(compared.at)),
                None => "no forecast in a period's first 24 hours".to_owned(),
            },
            Basis::Cost => match (compared.at, figures.cost()) {
                (Some(from), Some(cost)) => {
                    format!("used {} for {cost}, holds from {from}", figures.used)
                }
                _ => "no cost limit is set".to_owned(),
            },
            Basis::Used | Basis::Accrued if compared.at.is_none() => {
                format!("used {}, of an unlimited allowance", figures.used)
            }
            Basis::Used | Basis::Accrued => {
                format!("used {}, holds from {}", figures.used, at(compared.at))
            }
        }
    }

    fn effect_in_words(
        &self,
        rule: &Rule,
        state: &RuleState,
        ripe: bool,
        now: Timestamp,
    ) -> String {
        if let Some(lifted) = &state.lifted {
            let until = lifted.until.unwrap_or(self.running.period_end);
            return format!(
                "lifted by {} until {} or until the trigger ceases to hold{}",
                lifted.by,
                self.period().local(until),
                lifted
                    .reason
                    .as_ref()
                    .map_or_else(String::new, |reason| format!(": {reason}"))
            );
        }
        if let Some(acting) = &state.acting {
            return format!(
                "{} since {}. {}",
                doing(Some(acting.action)),
                acting.since,
                self.what_ends(&rule.name)
            );
        }
        let what = match (rule.action, rule.flag) {
            (Some(action), _) => format!("will be {}", doing(Some(action))),
            (None, true) => "flags it; nothing is charged for a flag".to_owned(),
            (None, false) => "notifies".to_owned(),
        };
        match state.ripens(rule) {
            Some(at) if at > now => format!("{what} on {}", self.period().local(at)),
            _ if ripe && rule.only_notifies() => "notified".to_owned(),
            _ if state.flagging => "flagged until the trigger ceases to hold".to_owned(),
            _ => match self.terms.lift(rule) {
                Lift::ByHand if rule.action.is_some() => format!("{what}, until lifted by hand"),
                _ => what,
            },
        }
    }

    fn explain_settings(&self) -> Vec<String> {
        let settings = self.record.settings.iter();
        settings
            .map(|(key, setting)| {
                format!(
                    "{} = {}, set by {} at {}",
                    key.as_str(),
                    setting.change.value(),
                    setting.by,
                    setting.at
                )
            })
            .collect()
    }

    fn explain_bills(&self, now: Timestamp) -> Vec<String> {
        let open = self.record.bills.iter().filter(|bill| bill.is_open());
        open.map(|bill| {
            let (when, at) = match bill.lapses() {
                Some(end) => ("the volume comes if it is paid before", end),
                None if bill.is_overdue(now) => ("it was due on", bill.due),
                None => ("it is due on", bill.due),
            };
            format!(
                "bill {} over {} is unpaid ({}); {when} {}",
                bill.number,
                bill.amount,
                bill.description(),
                self.period().local(at)
            )
        })
        .collect()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.plan.as_ref().map_or("no plan", PlanName::as_str);
        writeln!(
            f,
            "{} is {} since {} (plan: {plan}).",
            self.machine,
            self.state.as_str(),
            self.since
        )?;
        writeln!(f, "{}", self.because)?;
        write!(
            f,
            "In the period from {} to {} it has used {}",
            self.period.0, self.period.1, self.used
        )?;
        match self.allowance {
            Some(allowance) => write!(f, " of {allowance}")?,
            None => write!(f, "; its allowance is unlimited")?,
        }
        for (volume, what) in [(self.added, "added"), (self.rolled_over, "rolled over")] {
            if volume > Bytes::ZERO {
                write!(f, ", of which {volume} {what}")?;
            }
        }
        if let Some(granted) = self.granted {
            write!(f, ", {granted} of it granted so far")?;
        }
        if let Some(forecast) = self.forecast {
            write!(f, "; forecast {forecast}")?;
        }
        writeln!(f, ".")?;
        if let (Some(cost), Some(limit)) = (self.cost, self.cost_limit) {
            writeln!(f, "That costs {cost}, of at most {limit}.")?;
        }
        for rule in &self.rules {
            let holds = match (rule.holds, rule.since) {
                (true, Some(since)) => format!("holds since {since}"),
                (true, None) => "holds".to_owned(),
                (false, _) => "does not hold".to_owned(),
            };
            writeln!(
                f,
                "- {}: {holds} ({}); {}.",
                rule.rule,
                rule.figures,
                rule.effect.trim_end_matches('.')
            )?;
        }
        for line in self
            .settings
            .iter()
            .chain(&self.bills)
            .chain(&self.held_back)
        {
            writeln!(f, "- {line}.")?;
        }
        if let Some(next) = &self.next {
            match (next.at_bytes, next.at_time) {
                (Some(bytes), _) => writeln!(f, "Next: {} at {bytes}.", next.rule)?,
                (None, Some(time)) => writeln!(f, "Next: {} at {time}.", next.rule)?,
                (None, None) => writeln!(f, "Next: {}.", next.rule)?,
            }
        }
        if let Some(advice) = &self.advice {
            writeln!(f, "{advice}")?;
        }
        Ok(())
    }
}
