//! From what rules want to the state that stands: events, notices, and the circuit breaker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Breaker, Effect, Enforcement,
    books::Books,
    desk::Desk,
    event::{EventKind, State},
    kept::Cause,
    machine::Machine,
    plan::Action,
    units::{Bytes, MachineId},
};

/// Whether a machine would be hit harder than it is, by a rule, for real. Staff are not held
/// back, nor is what is only written down.
pub(crate) fn would_hit(machine: &Machine, dry_run: bool) -> bool {
    let wanted = machine.wanted();
    !dry_run
        && machine.terms.enforced()
        && matches!(wanted, Cause::Rule { .. })
        && wanted.state() > machine.state()
}

impl Breaker {
    /// Whether so many machines of so many are more than a step may hit.
    fn trips(self, hit: usize, of: usize) -> bool {
        let (hit, of) = (hit as u128, of as u128);
        hit > u128::from(self.machines) && hit * 100 > of * u128::from(self.percent)
    }
}

/// Whether the machines in `new` may be hit now, `lately` having been hit in this and in earlier
/// steps. When that would be too many, those in `new` are held back and the operator is told
/// once; when few enough are left, they are held back no more.
pub(crate) fn may_hit(
    new: &BTreeSet<MachineId>,
    lately: BTreeMap<MachineId, Timestamp>,
    of: usize,
    now: Timestamp,
    desk: &mut Desk<'_>,
) -> bool {
    let others = lately.keys().filter(|id| !new.contains(*id)).count();
    let all = new.len() + others;
    // Nobody is left to be held back, so nothing is.
    let trips = !new.is_empty() && desk.settings.breaker.trips(all, of);
    let tell = trips && desk.books.node.held.is_empty();
    let mut node = desk.books.node.clone();
    node.hit = lately;
    if trips {
        node.held.clone_from(new);
    } else {
        node.held.clear();
        node.hit.extend(new.iter().map(|id| (id.clone(), now)));
    }
    if node != desk.books.node {
        Arc::make_mut(desk.books).node = node;
    }
    if tell {
        let count = |machines: usize| u32::try_from(machines).unwrap_or(u32::MAX);
        let kind = EventKind::HeldBack {
            machines: count(all),
            of: count(of),
        };
        desk.tell_at_large(now, None, None, kind);
    }
    !trips
}

/// Nobody is held back any more, and what was hit so far was right.
pub(crate) fn release(books: &mut Arc<Books>) {
    let node = &mut Arc::make_mut(books).node;
    node.held.clear();
    node.hit.clear();
}

impl Machine {
    /// Lets what is wanted stand. `why` says what happened, for a machine that returns to
    /// normal; `None`: the trigger no longer holds.
    pub(crate) fn stand(&mut self, now: Timestamp, why: Option<&str>, desk: &mut Desk<'_>) {
        let wanted = self.wanted();
        if wanted == self.record.standing.cause {
            return;
        }
        let old = {
            let standing = &mut Arc::make_mut(&mut self.record).standing;
            if wanted.state() != standing.cause.state() {
                standing.since = now;
            }
            std::mem::replace(&mut standing.cause, wanted.clone())
        };
        if differs(&old, &wanted) {
            self.tell_state(now, &old, &wanted, why, desk);
            self.speak_of_action(now, &old, &wanted, why, desk);
        }
        if matches!(wanted.state(), State::Capped) {
            // Another cap is another limit, though what packets see is still a cap.
            self.said = Enforcement::None;
        }
        self.say_enforcement(desk);
    }

    /// Says what packets should see, where that is other than what was said last.
    pub(crate) fn say_enforcement(&mut self, desk: &mut Desk<'_>) {
        let wanted = if desk.settings.dry_run {
            Enforcement::None
        } else {
            self.enforcement()
        };
        if shape(wanted) != shape(self.said) {
            desk.effects.push(Effect::Enforce(self.id.clone(), wanted));
        }
        self.said = wanted;
    }

    /// A cap counts from the instant it starts, not from when the circuit breaker held it back.
    /// One that stood meanwhile goes on.
    pub(crate) fn begin_cap_now(&mut self) {
        let standing = self.record.standing.cause.rule().cloned();
        for state in &mut Arc::make_mut(&mut self.record).rules {
            if let Some(acting) = &mut state.acting
                && standing.as_ref() != Some(&state.rule)
            {
                acting.spent = Bytes::ZERO;
            }
        }
    }

    fn tell_state(
        &self,
        now: Timestamp,
        old: &Cause,
        new: &Cause,
        why: Option<&str>,
        desk: &mut Desk<'_>,
    ) {
        let from = old.state();
        let (rule, kind) = match new {
            Cause::None => {
                let cause = self.why_restored(old, why);
                (old.rule(), EventKind::Restored { from, cause })
            }
            Cause::Staff { .. } => {
                let staff = self.record.staff.as_ref();
                let kind = EventKind::Suspended {
                    from,
                    by: staff.map(|staff| staff.by.clone()),
                    reason: staff.and_then(|staff| staff.reason.clone()),
                };
                (None, kind)
            }
            Cause::Rule { rule, action, .. } => {
                let kind = match action {
                    Action::Throttle(rate) => EventKind::Throttled {
                        from,
                        rate_limit_bits_per_second: *rate,
                    },
                    Action::Cap(_) => EventKind::Capped {
                        from,
                        cap_remaining: self.cap_remaining().unwrap_or(Bytes::ZERO),
                    },
                    Action::Suspend => EventKind::Suspended {
                        from,
                        by: None,
                        reason: None,
                    },
                };
                (Some(rule), kind)
            }
        };
        desk.tell(self, now, rule, kind);
    }

    pub(crate) fn why_restored(&self, old: &Cause, why: Option<&str>) -> String {
        match (why, old) {
            (Some(why), _) => why.to_owned(),
            (None, Cause::Rule { rule, .. }) => format!("`{rule}` no longer holds"),
            (None, Cause::Staff { .. }) => "the suspension by staff expired".to_owned(),
            (None, Cause::None) => "nothing is in force".to_owned(),
        }
    }
}

/// Whether it is worth an event: another state, another rule, or another rate.
fn differs(old: &Cause, new: &Cause) -> bool {
    match (old, new) {
        (
            Cause::Rule { rule, action, .. },
            Cause::Rule {
                rule: new_rule,
                action: new_action,
                ..
            },
        ) => rule != new_rule || action != new_action,
        _ => true,
    }
}

/// An enforcement without the figure that every packet changes.
fn shape(enforcement: Enforcement) -> Enforcement {
    match enforcement {
        Enforcement::Cap { remaining } => Enforcement::Cap {
            remaining: remaining.min(Bytes(1)),
        },
        other => other,
    }
}
