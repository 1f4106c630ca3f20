//! Where a machine's enforcement changes by its traffic alone: the bytes that may still be
//! counted, so that the kernel stops at the byte and need not wait for the next step.
//!
//! What comes with time (an `after` that ends, a day's grant, a new period, the end of an
//! override) is no boundary: there is a step at that instant, and other boundaries after it.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::{
    Enforcement,
    kept::RuleState,
    machine::Machine,
    plan::{Action, Direction, Rule, Trigger},
    step::Engine,
    triggers::Figures,
    units::{Bytes, MachineId, Traffic},
};

/// Where something harder begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// What may still be counted before it.
    pub left: Left,
    /// What begins: a throttle, a cap that is used up, or a suspension.
    pub then: Enforcement,
}

/// Bytes that may be counted from what the engine has taken in so far. The boundary is reached
/// when as many as any of these have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Of both directions together.
    pub sum: Option<Bytes>,
    /// Of what the guest receives.
    pub received: Option<Bytes>,
    /// Of what the guest sends.
    pub sent: Option<Bytes>,
}

impl Left {
    /// What is left until `at` is used of a period in which `traffic` was.
    fn until(at: Bytes, direction: Direction, traffic: &Traffic) -> Self {
        let received = Some(at.saturating_sub(traffic.received));
        let sent = Some(at.saturating_sub(traffic.sent));
        match direction {
            Direction::Sum => Self {
                sum: Some(at.saturating_sub(traffic.received + traffic.sent)),
                ..Self::default()
            },
            Direction::Received => Self {
                received,
                ..Self::default()
            },
            Direction::Sent => Self {
                sent,
                ..Self::default()
            },
            // The larger of the two sums reaches it as soon as either does.
            Direction::Larger => Self {
                received,
                sent,
                ..Self::default()
            },
        }
    }
}

/// A usage from which on packets see something else.
#[derive(Clone, Copy)]
struct Edge {
    at: Bytes,
    then: Enforcement,
}

impl Edge {
    /// What packets notice of it: a cap that begins lets them pass.
    fn is_felt(&self) -> bool {
        !matches!(self.then, Enforcement::Cap { remaining } if remaining > Bytes::ZERO)
    }
}

const USED_UP: Enforcement = Enforcement::Cap {
    remaining: Bytes::ZERO,
};

/// In the order in which one wins over another.
fn hardness(enforcement: Enforcement) -> (u8, Reverse<u64>) {
    match enforcement {
        Enforcement::None => (0, Reverse(0)),
        Enforcement::Throttle(rate) => (1, Reverse(rate.0)),
        Enforcement::Cap { remaining } => (2, Reverse(u64::from(remaining > Bytes::ZERO))),
        Enforcement::Suspend => (3, Reverse(0)),
    }
}

impl Engine {
    /// Where the machine's enforcement becomes harder by its traffic alone, at most two, in
    /// order. They hold until the next step: then they are asked for again.
    ///
    /// Where there are more than two, it is the first and the last: a step follows the first,
    /// and if it does not, because nobody is there to take it, the last is the one that counts.
    #[must_use]
    pub fn boundaries(&self, machine: &MachineId, now: Timestamp) -> Vec<Boundary> {
        let Some(machine) = self.machines.get(machine) else {
            return Vec::new();
        };
        if self.settings.dry_run || !machine.is_live() || !machine.terms.enforced() {
            return Vec::new();
        }
        // While the circuit breaker holds anything back, it holds back whatever rules come to
        // want: the kernel must not be quicker.
        let held = !self.books.node.held.is_empty();
        let mut edges = machine.edges(now.max(self.clock), held);
        if edges.len() > 2 {
            edges.drain(1..edges.len() - 1);
        }
        let direction = machine.terms.direction();
        let boundary = |edge: Edge| Boundary {
            left: Left::until(edge.at, direction, &machine.running.traffic),
            then: edge.then,
        };
        edges.into_iter().map(boundary).collect()
    }
}

impl Machine {
    /// In order, each harder than the one before, and the first harder than what stands.
    fn edges(&self, now: Timestamp, held: bool) -> Vec<Edge> {
        let stands = self.enforcement();
        let mut edges = Vec::new();
        if let Enforcement::Cap { remaining } = stands {
            edges.push(Edge {
                at: self.used() + remaining,
                then: USED_UP,
            });
        }
        if !held && hardness(stands) < hardness(USED_UP) {
            self.add_edges_of_rules(now, &mut edges);
        }
        let mut hardest = hardness(stands);
        edges.retain(|edge| {
            // In force is in force, even when nothing is left of it.
            let stands_already = edge.then == stands && edge.then == USED_UP;
            let harder = hardness(edge.then) > hardest || stands_already;
            hardest = hardest.max(hardness(edge.then));
            harder && edge.is_felt()
        });
        // Where nothing passes, nothing is counted: what lies behind is not reached.
        let stop = edges.iter().position(|edge| edge.then == USED_UP);
        edges.truncate(stop.map_or(edges.len(), |stop| stop + 1));
        edges
    }

    fn add_edges_of_rules(&self, now: Timestamp, edges: &mut Vec<Edge>) {
        let acts = |rule: &Rule| rule.action.is_some() && rule.after.is_zero();
        if !self.terms.rules().iter().any(acts) {
            return;
        }
        let figures = self.figures_of_usage(now);
        let states = self.terms.rules().iter().zip(&self.record.rules);
        for (rule, state) in states.filter(|(rule, _)| acts(rule)) {
            let (Some(at), Some(action)) = (comes_at(rule, state, &figures), rule.action) else {
                continue;
            };
            match action {
                Action::Throttle(rate) => edges.push(Edge {
                    at,
                    then: Enforcement::Throttle(rate),
                }),
                Action::Suspend => edges.push(Edge {
                    at,
                    then: Enforcement::Suspend,
                }),
                Action::Cap(volume) => edges.extend([
                    Edge {
                        at,
                        then: Enforcement::Cap { remaining: volume },
                    },
                    Edge {
                        at: at + volume,
                        then: USED_UP,
                    },
                ]),
            }
        }
        edges.sort_by_key(|edge| (edge.at, Reverse(hardness(edge.then))));
    }
}

/// The usage at which a rule begins to act, if it does so by usage alone.
fn comes_at(rule: &Rule, state: &RuleState, figures: &Figures) -> Option<Bytes> {
    match rule.trigger {
        Trigger::Used(_) | Trigger::Over(_) | Trigger::Accrued(_) | Trigger::Cost(_) => {}
        Trigger::Forecast(_) | Trigger::Overdue => return None,
    }
    if state.acting.is_some() || state.lifted.is_some() {
        return None;
    }
    // What holds has been dealt with by the step that saw it.
    figures
        .compare(rule.trigger)
        .at
        .filter(|at| *at > figures.used)
}
