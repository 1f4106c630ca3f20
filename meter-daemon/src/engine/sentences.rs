//! An explanation in sentences: what each rule compares, what it does, and what ends it.

use std::fmt;

use jiff::Timestamp;

use super::{
    event::State,
    explain::{Explanation, RuleExplanation},
    kept::RuleState,
    machine::Machine,
    notices::doing,
    plan::{Action, CostThreshold, Lift, Rule, Threshold, Trigger},
    triggers::{Basis, Compared, Figures},
    units::{Bytes, PlanName},
};

impl Machine {
    /// The figures that a rule compares.
    pub(crate) fn figures_in_words(
        &self,
        rule: &Rule,
        compared: &Compared,
        now: Timestamp,
        figures: &Figures,
    ) -> String {
        let used = figures.used;
        let from = compared.at.map(|at| match rule.trigger {
            Trigger::Used(_) => format!("from {at} on"),
            // What exceeds a figure is its next byte.
            _ => format!("above {}", at.saturating_sub(Bytes(1))),
        });
        match (compared.basis, from) {
            (Basis::Overdue, _) => {
                let overdue = self.record.bills.iter().filter(|bill| bill.is_overdue(now));
                match overdue.count() {
                    0 => "no bill is past its due date".to_owned(),
                    1 => "one bill is past its due date".to_owned(),
                    bills => format!("{bills} bills are past their due dates"),
                }
            }
            (Basis::Forecast, _) if compared.measured.is_none() => {
                "no forecast in a period's first 24 hours".to_owned()
            }
            (Basis::Forecast, Some(from)) => {
                let forecast = figures.forecast.unwrap_or_default();
                format!("forecast {forecast}, holds {from}")
            }
            (Basis::Cost, Some(from)) => {
                let cost = figures.cost().map(|cost| format!(" for {cost}"));
                format!("used {used}{}, holds {from}", cost.unwrap_or_default())
            }
            (Basis::Cost, None) => "no cost limit is set, so it never holds".to_owned(),
            (Basis::Used | Basis::Accrued, Some(from)) => format!("used {used}, holds {from}"),
            (_, None) => "the allowance is unlimited, so it never holds".to_owned(),
        }
    }

    /// What a rule does or did, what comes of it, and what ends it.
    pub(crate) fn effect_in_words(
        &self,
        rule: &Rule,
        state: &RuleState,
        now: Timestamp,
        held: bool,
    ) -> String {
        let local = |at| self.period().local(at);
        if let Some(lifted) = &state.lifted {
            let end = self.running.period_end;
            let until = lifted.until.map_or(end, |until| until.min(end));
            let reason = lifted.reason.as_ref();
            return format!(
                "Lifted by {} until {}, or until it ceases to hold{}",
                lifted.by,
                local(until),
                reason.map_or_else(String::new, |reason| format!(" (reason: {reason})"))
            );
        }
        if let Some(acting) = &state.acting {
            let ends = self.what_ends(&rule.name);
            let ends = ends.trim_end_matches('.');
            let what = self.capitalised(acting.action, acting.spent);
            let since = local(acting.since);
            let stands = self.record.standing.cause.rule() == Some(&rule.name);
            return match (stands, held) {
                (true, _) => format!("{what} since {since}. {ends}"),
                (false, true) => format!("{what}, but held back by the circuit breaker. {ends}"),
                (false, false) => {
                    format!("{what} since {since}, which something stronger outdoes. {ends}")
                }
            };
        }
        let follows = self.what_follows(rule);
        if state.since.is_none() {
            return match rule.after.is_zero() {
                true => format!("Then {follows}"),
                false => format!("Once it has held for {:#}, {follows}", rule.after),
            };
        }
        let ceases = self.ceases(rule);
        match state.ripens(rule) {
            Some(at) if at > now => format!(
                "On {} {follows}, unless it ceases to hold before: {ceases}",
                local(at)
            ),
            _ if state.flagging => {
                format!("Flagged; nothing is charged for that. It ends {ceases}")
            }
            _ => format!("Notice was given. It ends {ceases}; then it can be given anew"),
        }
    }

    fn capitalised(&self, action: Action, spent: Bytes) -> String {
        match action {
            Action::Throttle(rate) => format!("Throttled to {rate}"),
            Action::Cap(volume) => {
                format!("Capped, {} left of {volume},", volume.saturating_sub(spent))
            }
            Action::Suspend => "Suspended".to_owned(),
        }
    }

    fn what_follows(&self, rule: &Rule) -> String {
        let by_hand = match self.terms.lift(rule) {
            Lift::ByHand => ", until somebody lifts it",
            Lift::Automatic => "",
        };
        match (rule.action, rule.flag) {
            (Some(Action::Cap(volume)), _) => {
                format!("it may move {volume} more, and nothing after that{by_hand}")
            }
            (Some(action), _) => format!("it is {}{by_hand}", doing(Some(action))),
            (None, true) => "it is flagged, which costs nothing".to_owned(),
            (None, false) => "notice is given".to_owned(),
        }
    }

    /// When a rule that holds ceases to, as the end of a sentence.
    pub(crate) fn ceases(&self, rule: &Rule) -> String {
        let end = self.period().local(self.running.period_end);
        match rule.trigger {
            Trigger::Overdue => "when the bill is paid".to_owned(),
            Trigger::Cost(CostThreshold::Percent(_)) => {
                format!("when the cost limit is raised, or on {end}")
            }
            Trigger::Accrued(_) => format!(
                "when the days' grants have caught up, volume is added, the plan is upgraded, or \
                 on {end}"
            ),
            Trigger::Forecast(Threshold::Percent(_)) => {
                format!("when less is used, volume is added, the plan is upgraded, or on {end}")
            }
            Trigger::Forecast(Threshold::Volume(_)) => format!("when less is used, or on {end}"),
            Trigger::Used(Threshold::Percent(_)) | Trigger::Over(Threshold::Percent(_)) => {
                format!("when volume is added, the plan is upgraded, or on {end}")
            }
            // No volume and no limit moves a figure of its own.
            Trigger::Used(Threshold::Volume(_))
            | Trigger::Over(Threshold::Volume(_))
            | Trigger::Cost(CostThreshold::Amount(_)) => {
                format!("with another plan, or on {end}")
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.plan.as_ref().map_or("no plan", PlanName::as_str);
        let (machine, state) = (&self.machine, self.state.as_str());
        writeln!(
            f,
            "{machine} is {state} since {} (plan: {plan}).",
            self.since
        )?;
        writeln!(f, "{}", self.because)?;
        for line in &self.held_back {
            writeln!(f, "{line}.")?;
        }
        self.figures(f)?;
        for rule in &self.rules {
            let holds = match (rule.holds, &rule.since) {
                (true, Some(since)) => format!("holds since {since}"),
                (true, None) => "holds".to_owned(),
                (false, _) => "does not hold".to_owned(),
            };
            writeln!(
                f,
                "- {}: {holds} ({}). {}.",
                rule.rule, rule.figures, rule.effect
            )?;
        }
        for line in self.settings.iter().chain(&self.bills) {
            writeln!(f, "- {line}.")?;
        }
        writeln!(f, "{}", self.next_in_words())?;
        if let Some(advice) = &self.advice {
            writeln!(f, "{advice}")?;
        }
        Ok(())
    }
}

impl Explanation {
    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = &self.period;
        write!(
            f,
            "In the period from {start} to {end} it has used {}",
            self.used
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
            write!(f, "; granted so far: {granted}")?;
            let excess = self.used.saturating_sub(granted);
            if excess > Bytes::ZERO {
                write!(f, ", exceeded by {excess}")?;
            }
        }
        if let Some(forecast) = self.forecast {
            write!(f, "; forecast: {forecast}")?;
        }
        writeln!(f, ".")?;
        if let Some(charged) = self.charged {
            writeln!(
                f,
                "For what exceeds the allowance, {charged} was charged so far."
            )?;
        }
        if let (Some(cost), Some(limit)) = (self.cost, self.cost_limit) {
            writeln!(f, "Its usage costs {cost}; the limit is {limit}.")?;
        }
        Ok(())
    }

    fn next_in_words(&self) -> String {
        let Some(next) = &self.next else {
            if self.ended {
                return "Nothing comes next.".to_owned();
            }
            return format!("Next: the period ends on {}.", self.period.1);
        };
        let runs_out = |rule: &&RuleExplanation| {
            self.state == State::Capped && rule.in_force && rule.rule == next.rule
        };
        let rule = match self.rules.iter().find(runs_out) {
            Some(rule) => format!("the cap of `{}` is used up", rule.rule),
            None => format!("`{}`", next.rule),
        };
        match (next.at_bytes, &self.next_time) {
            (Some(bytes), time) => {
                let left = bytes.saturating_sub(self.used);
                let when = match time {
                    Some(time) => format!("at the current rate about {time}"),
                    None if self.forecast.is_some() => {
                        "at the current rate not in this period".to_owned()
                    }
                    None => "too little history to say when".to_owned(),
                };
                format!("Next: {rule} at {bytes}, {left} from here; {when}.")
            }
            (None, Some(time)) => format!("Next: {rule} on {time}."),
            (None, None) => format!("Next: {rule}."),
        }
    }
}
