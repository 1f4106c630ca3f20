//! Why a machine's state is what it is, in sentences.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    event::State,
    kept::{Cause, RuleState},
    machine::Machine,
    plan::Rule,
    status::NextRule,
    step::Engine,
    triggers::Figures,
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
    /// Since when, with the machine's offset.
    pub since: String,
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
    /// What was charged so far for exceeding the allowance.
    pub charged: Option<Money>,
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
    /// Whether its metering was ended.
    pub ended: bool,
    /// What comes next if usage goes on.
    pub next: Option<NextRule>,
    /// When, with the machine's offset: at the current rate where it is a matter of bytes.
    pub next_time: Option<String>,
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
    /// Since when, with the machine's offset.
    pub since: Option<String>,
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
        let held = self.books.node.held.contains(&machine.id);
        let explain = |(rule, state)| machine.explain_rule(rule, state, now, held, &figures);
        let states = machine.terms.rules().iter().zip(&machine.record.rules);
        let next = machine.next_rule(now);
        Some(Explanation {
            machine: machine.id.clone(),
            account: machine.terms.account.clone(),
            plan: machine.terms.plan_name().cloned(),
            state: machine.state(),
            since: period.local(machine.record.standing.since),
            because: machine.because(now, &figures),
            period: (period.local(period.start), period.local(period.end)),
            used: figures.used,
            allowance: figures.entitlement.total(),
            added: machine.record.added,
            rolled_over: machine.record.rolled,
            granted: figures.entitlement.accrued(),
            cost: figures.cost(),
            cost_limit: machine.terms.cost_limit,
            charged: machine.charged(),
            forecast: figures.forecast,
            rules: match machine.record.cancelled {
                Some(_) => Vec::new(),
                None => states.map(explain).collect(),
            },
            settings: machine.explain_settings(),
            bills: machine.explain_bills(now),
            held_back: self.explain_restraint(machine),
            ended: machine.record.cancelled.is_some(),
            next_time: next
                .as_ref()
                .and_then(|next| machine.expected(next, now, &figures))
                .map(|at| period.local(at)),
            next,
            advice: machine.advice(&self.terms.plans),
        })
    }

    fn explain_restraint(&self, machine: &Machine) -> Vec<String> {
        let mut restraint = Vec::new();
        if machine.record.cancelled.is_some() {
            return restraint;
        }
        if self.settings.dry_run {
            restraint.push("Nothing is done about it: dry-run is on".to_owned());
        }
        if !machine.terms.enforced() {
            restraint.push("Nothing is done about it: the plan says `enforce = false`".to_owned());
        }
        if self.books.node.held.contains(&machine.id) {
            restraint.push(format!(
                "The circuit breaker holds {} machines back, this one too; `meterd confirm` lets \
                 it happen",
                self.books.node.held.len()
            ));
        }
        restraint
    }
}

impl Machine {
    fn because(&self, now: Timestamp, figures: &Figures) -> String {
        if let Some(when) = self.record.cancelled {
            return format!("Its metering was ended on {}.", self.period().local(when));
        }
        match &self.record.standing.cause {
            Cause::None => "Nothing is in force.".to_owned(),
            Cause::Staff { since } => self.because_of_staff(*since),
            Cause::Rule { rule, .. } => {
                let held = self.terms.rules().iter().find(|known| known.name == *rule);
                match held {
                    Some(rule) if figures.compare(rule.trigger).holds => {
                        self.what_holds(rule, now, figures)
                    }
                    _ => format!(
                        "`{rule}` holds no more, and waits for a hand: `meterd lift {}`.",
                        self.id
                    ),
                }
            }
        }
    }

    fn because_of_staff(&self, since: Timestamp) -> String {
        let local = |at| self.period().local(at);
        let staff = self.record.staff.as_ref();
        let by = staff.map_or("staff", |staff| &staff.by);
        let reason = staff.and_then(|staff| staff.reason.as_deref());
        let until = staff.and_then(|staff| staff.until);
        format!(
            "Suspended by {by} on {}{}{}. No top-up, reset or payment lifts it; `meterd lift {}` \
             does.",
            local(since),
            until.map_or_else(String::new, |until| format!(", until {}", local(until))),
            reason.map_or_else(String::new, |reason| format!(" (reason: {reason})")),
            self.id,
        )
    }

    /// When it comes: exactly, or by bytes at the rate that the forecast goes on with, if that
    /// is within the period.
    fn expected(&self, next: &NextRule, now: Timestamp, figures: &Figures) -> Option<Timestamp> {
        let Some(at) = next.at_bytes else {
            return next.at_time;
        };
        let ahead = figures.forecast?.checked_sub(figures.used)?;
        let wanted = at.checked_sub(figures.used)?;
        if wanted > ahead || ahead == Bytes::ZERO {
            return None;
        }
        let seconds = self.period().left(now) / 1_000_000_000;
        let seconds = seconds * u128::from(wanted.0) / u128::from(ahead.0);
        let span = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
        now.saturating_add(span).ok()
    }

    fn explain_rule(
        &self,
        rule: &Rule,
        state: &RuleState,
        now: Timestamp,
        held: bool,
        figures: &Figures,
    ) -> RuleExplanation {
        let compared = figures.compare(rule.trigger);
        RuleExplanation {
            rule: rule.name.clone(),
            holds: compared.holds,
            since: state.since.map(|since| self.period().local(since)),
            measured: compared.measured,
            at: compared.at,
            figures: self.figures_in_words(rule, &compared, now, figures),
            in_force: state.acting.is_some() || (rule.flag && state.flagging),
            effect: self.effect_in_words(rule, state, now, held),
        }
    }

    fn explain_settings(&self) -> Vec<String> {
        let settings = self.record.settings.iter();
        settings
            .map(|(key, setting)| {
                format!(
                    "{} = {}, set by {} on {}",
                    key.as_str(),
                    setting.change.value(),
                    setting.by,
                    self.period().local(setting.at)
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
