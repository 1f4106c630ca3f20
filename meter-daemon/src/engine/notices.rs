//! What people are told, in sentences, and the ids by which it is told once.

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;

use super::{
    desk::Desk,
    event::{EventKind, State},
    kept::{Cause, RuleState, Told},
    machine::Machine,
    plan::{Action, Rule},
    triggers::{Basis, Figures},
    units::MachineId,
    usage::percent_used,
};

/// The id of the notice of a rule's present arming: derived from machine, period, rule and
/// arming, so that whoever tells it again tells the same. Of two rules of one name, `twin`
/// tells them apart.
///
/// It has no full stop, which Standard Webhooks sets between an id and what it signs, and
/// nothing that a mail's Message-ID would not take.
pub(crate) fn notice_id(
    machine: &MachineId,
    period_start: Timestamp,
    rule: &Rule,
    twin: usize,
    arming: u32,
) -> String {
    let mut id = String::new();
    for character in machine.as_str().chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => id.push(character),
            // Names that differ stay different: `~` itself is written so, too.
            other => {
                let _ = write!(id, "~{:x}~", u32::from(other));
            }
        }
    }
    let start = period_start.strftime("%Y%m%dT%H%M%SZ");
    let rule = rule.name.as_str().replace(' ', "-").replace('%', "pct");
    let rule = rule.replace('.', "_");
    let twin = match twin {
        0 => String::new(),
        twin => format!("_{}", twin + 1),
    };
    let _ = write!(id, "/{start}/{rule}{twin}/{arming}");
    id
}

/// How many rules of the same name come before this one.
pub(crate) fn twin(rules: &[Rule], index: usize) -> usize {
    let name = |index: usize| rules.get(index).map(|rule| &rule.name);
    (0..index)
        .filter(|earlier| name(*earlier) == name(index))
        .count()
}

impl Machine {
    fn notice_of(&self, index: usize, rule: &Rule) -> Option<String> {
        let state = self.record.rules.get(index)?;
        let twin = twin(self.terms.rules(), index);
        let start = self.running.period_start;
        Some(notice_id(&self.id, start, rule, twin, state.arming))
    }

    /// Speaks for a rule that only notifies, or flags.
    pub(crate) fn speak_of_trigger(
        &self,
        index: usize,
        rule: &Rule,
        now: Timestamp,
        figures: &Figures,
        desk: &mut Desk<'_>,
    ) {
        let Some(id) = self.notice_of(index, rule) else {
            return;
        };
        let mut message = self.what_holds(rule, now, figures);
        if let Some((at, next)) = self.countdown(now) {
            let _ = write!(
                message,
                " Unless volume is added or the plan upgraded, it is {} on {} (rule {}).",
                doing(next.action),
                self.period().local(at),
                next.name,
            );
        }
        if let Some(advice) = self.advice(&desk.terms.plans) {
            let _ = write!(message, " {advice}");
        }
        let offer = self.offer_in_notice(rule, now, desk);
        if let Some(offer) = &offer {
            let _ = write!(message, " {}", offer.sentence());
        }
        let notice = EventKind::Notice {
            id,
            message,
            offer: offer.map(Box::new),
        };
        desk.tell(self, now, Some(&rule.name), notice);
    }

    /// Speaks of a flag that is gone.
    pub(crate) fn speak_of_flag_gone(
        &self,
        index: usize,
        rule: &Rule,
        now: Timestamp,
        desk: &mut Desk<'_>,
    ) {
        let Some(id) = self.notice_of(index, rule) else {
            return;
        };
        let notice = EventKind::Notice {
            id: format!("{id}/end"),
            message: format!(
                "{} is no longer flagged: `{}` no longer holds.",
                self.id, rule.name
            ),
            offer: None,
        };
        desk.tell(self, now, Some(&rule.name), notice);
    }

    /// Speaks of an action that began, and of one that ended, beside the state's own event.
    pub(crate) fn speak_of_action(
        &mut self,
        now: Timestamp,
        old: &Cause,
        new: &Cause,
        why: Option<&str>,
        desk: &mut Desk<'_>,
    ) {
        if let Cause::Rule { rule, .. } = old
            && let Some((id, what)) = self.what_ended(old, new)
        {
            let cause = self.why_restored(old, why);
            let notice = EventKind::Notice {
                id: format!("{id}/end"),
                message: format!("{} is no longer {what}: {cause}.", self.id),
                offer: None,
            };
            desk.tell(self, now, Some(rule), notice);
        }
        let told = self.record.standing.told.as_ref();
        if told.is_some_and(|told| told.state > new.state()) {
            Arc::make_mut(&mut self.record).standing.told = None;
        }
        if let Cause::Rule {
            rule,
            action,
            notice: Some(id),
        } = new
            && self.note_spoken(new)
        {
            let told = Told {
                state: new.state(),
                notice: id.clone(),
            };
            Arc::make_mut(&mut self.record).standing.told = Some(Box::new(told));
            let figures = self.figures(now);
            let terms = Arc::clone(&self.terms);
            let because = terms
                .rules()
                .iter()
                .find(|candidate| candidate.name == *rule)
                .map(|rule| self.what_holds(rule, now, &figures))
                .unwrap_or_default();
            let notice = EventKind::Notice {
                id: id.clone(),
                message: format!(
                    "{} is {}. {because} {}",
                    self.id,
                    doing(Some(*action)),
                    self.what_ends(rule)
                ),
                offer: None,
            };
            desk.tell(self, now, Some(rule), notice);
        }
    }

    /// The notice that told of what ends where a milder state, or rate, takes the place of `old`,
    /// and in words what ends. Where the same stands on by another rule, nothing has ended.
    fn what_ended(&self, old: &Cause, new: &Cause) -> Option<(String, String)> {
        let (was, is) = (old.state(), new.state());
        let Cause::Rule { action, notice, .. } = old else {
            return None;
        };
        if let (
            Action::Throttle(before),
            Cause::Rule {
                action: Action::Throttle(after),
                ..
            },
        ) = (action, new)
        {
            let id = notice.clone().filter(|_| after > before)?;
            return Some((id, format!("throttled to {before} but to {after}")));
        }
        let ended = |state: State| match is {
            State::Normal => state.as_str().to_owned(),
            milder => format!("{} but {}", state.as_str(), milder.as_str()),
        };
        if let Some(id) = notice {
            return (is < was).then(|| (id.clone(), ended(was)));
        }
        let told = self.record.standing.told.as_ref()?;
        (is < told.state).then(|| (told.notice.clone(), ended(told.state)))
    }

    /// Marks the beginning of the action as told; false where it was.
    fn note_spoken(&mut self, cause: &Cause) -> bool {
        let untold = |state: &RuleState| {
            cause.rule() == Some(&state.rule)
                && state.acting.as_ref().is_some_and(|acting| !acting.spoken)
        };
        let mut states = self.record.rules.iter().chain(&self.record.former);
        if !states.any(untold) {
            return false;
        }
        let record = Arc::make_mut(&mut self.record);
        for state in record.rules.iter_mut().chain(&mut record.former) {
            if untold(state)
                && let Some(acting) = &mut state.acting
            {
                acting.spoken = true;
            }
        }
        true
    }

    /// A trigger that holds, in a sentence with its figures.
    pub(crate) fn what_holds(&self, rule: &Rule, now: Timestamp, figures: &Figures) -> String {
        let id = &self.id;
        let end = self.period().local(self.running.period_end);
        let used = figures.used;
        let allowance = figures.entitlement.total();
        match figures.compare(rule.trigger).basis {
            Basis::Used => match allowance {
                Some(allowance) => format!(
                    "{id} has used {used}, {} of its allowance of {allowance} (rule {}); its \
                     period ends on {end}.",
                    percent_used(used, allowance),
                    rule.name
                ),
                None => format!(
                    "{id} has used {used} (rule {}); its period ends on {end}.",
                    rule.name
                ),
            },
            Basis::Accrued => {
                let accrued = figures.entitlement.accrued().unwrap_or_default();
                format!(
                    "{id} has used {used}, {} more than the {accrued} granted so far. Nothing is \
                     charged for that: using less later makes up for it.",
                    used.saturating_sub(accrued)
                )
            }
            Basis::Cost => {
                let cost = figures.cost().map(|cost| cost.to_string());
                let limit = self.terms.cost_limit.map(|limit| limit.to_string());
                format!(
                    "{id}'s traffic of this period costs {} against a limit of {} (rule {}).",
                    cost.unwrap_or_default(),
                    limit.unwrap_or_else(|| "none".to_owned()),
                    rule.name
                )
            }
            Basis::Forecast => format!(
                "At its current rate {id} will have used {} when its period ends on {end}; its \
                 allowance is {} (rule {}).",
                figures.forecast.unwrap_or_default(),
                allowance.map_or_else(|| "unlimited".to_owned(), |volume| volume.to_string()),
                rule.name
            ),
            Basis::Overdue => {
                let bills: Vec<_> = self
                    .record
                    .bills
                    .iter()
                    .filter(|bill| bill.is_overdue(now))
                    .map(|bill| format!("{} over {}", bill.number, bill.amount))
                    .collect();
                format!("A bill is past its due date: {}.", bills.join(", "))
            }
        }
    }

    /// What will end an action, in a sentence.
    pub(crate) fn what_ends(&self, name: &super::units::RuleName) -> String {
        let rule = self.terms.rules().iter().find(|rule| rule.name == *name);
        let Some(rule) = rule else {
            return format!(
                "It ends when somebody lifts it (`meterd lift {}`).",
                self.id
            );
        };
        if self.terms.lift(rule) == super::plan::Lift::ByHand {
            return format!(
                "It ends when somebody lifts it (`meterd lift {}`).",
                self.id
            );
        }
        format!("It ends {}.", self.ceases(rule))
    }

    /// The action that comes by time alone, soonest first.
    pub(crate) fn countdown(&self, now: Timestamp) -> Option<(Timestamp, &Rule)> {
        self.terms
            .rules()
            .iter()
            .zip(&self.record.rules)
            .filter(|(rule, state)| rule.action.is_some() && state.lifted.is_none())
            .filter_map(|(rule, state)| Some((state.ripens(rule)?, rule)))
            .filter(|(at, _)| *at > now)
            .min_by_key(|(at, _)| *at)
    }
}

/// An action as a participle: `throttled to 64 kbit/s`.
pub(crate) fn doing(action: Option<Action>) -> String {
    match action {
        Some(Action::Throttle(rate)) => format!("throttled to {rate}"),
        Some(Action::Cap(volume)) => format!("capped: {volume} more, then nothing"),
        Some(Action::Suspend) => "suspended".to_owned(),
        None => "told".to_owned(),
    }
}
