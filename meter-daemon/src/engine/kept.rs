//! What is kept of a machine besides its sums: plain data, written as JSON when it changes.

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::{
    books::Bill,
    effective::Settings,
    event::State,
    money::Overcharge,
    plan::Action,
    units::{Bytes, RuleName},
};

/// A machine's record. Written only when it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Of the running period.
    #[serde(with = "jiff::fmt::serde::tz::required")]
    pub(crate) zone: TimeZone,
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub(crate) settings: Settings,
    /// By top-ups, in this period.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) added: Bytes,
    /// From the period before.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) rolled: Bytes,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) overcharge: Overcharge,
    /// As the plan's, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<RuleState>,
    /// Of rules that the plan has no more: they hold nothing, but their armings are counted
    /// until the period ends, and what waits for a hand goes on waiting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) former: Vec<RuleState>,
    pub(crate) standing: Standing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) staff: Option<StaffSuspension>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) bills: Vec<Bill>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) past: Past,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cancelled: Option<Timestamp>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where a rule stands on a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RuleState {
    pub(crate) rule: RuleName,
    /// Since when its trigger holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    /// How often it began to hold in this period.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) arming: u32,
    /// Whether the present arming is counted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) fired: bool,
    /// Whether it spoke in this arming, or stood back for a higher one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) spoken: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) flagging: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acting: Option<Box<Acting>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lifted: Option<Box<Lifted>>,
}

impl RuleState {
    pub(crate) fn new(rule: RuleName) -> Self {
        Self {
            rule,
            since: None,
            arming: 0,
            fired: false,
            spoken: false,
            flagging: false,
            acting: None,
            lifted: None,
        }
    }
}

/// A rule's action in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Acting {
    pub(crate) since: Timestamp,
    pub(crate) action: Action,
    pub(crate) by_hand: bool,
    /// The id of the notice of its beginning, where it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
    /// Under a cap: what moved since it began, as the plan counts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) spent: Bytes,
    /// Whether its beginning was told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) spoken: bool,
}

impl Acting {
    pub(crate) const fn state(&self) -> State {
        match self.action {
            Action::Throttle(_) => State::Throttled,
            Action::Cap(_) => State::Capped,
            Action::Suspend => State::Suspended,
        }
    }

    /// For comparing two: the state, then how little is left to the machine.
    pub(crate) fn strength(&self) -> (State, std::cmp::Reverse<u64>) {
        let left = match self.action {
            Action::Throttle(rate) => rate.0,
            Action::Cap(volume) => volume.saturating_sub(self.spent).0,
            Action::Suspend => 0,
        };
        (self.state(), std::cmp::Reverse(left))
    }
}

/// A rule's action held off by somebody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lifted {
    /// Until the period ends where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
    pub(crate) by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// A suspension by staff: a cause of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StaffSuspension {
    pub(crate) by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
}

/// The state that was decided, and announced by an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Of the state, whatever the cause.
    pub(crate) since: Timestamp,
    #[serde(default)]
    pub(crate) cause: Cause,
    /// What was last told to have begun and not told to have ended. A rule without a notice may
    /// have taken the place of the one that spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) told: Option<Box<Told>>,
}

/// A notice that an action began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) state: State,
    pub(crate) notice: String,
}

/// What makes a machine's state what it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// Nothing: normal.
    #[default]
    None,
    /// The strongest rule in force.
    Rule {
        rule: RuleName,
        action: Action,
        /// The notice of its beginning, where it speaks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<String>,
    },
    /// Staff, since then: who suspends again, says so again.
    Staff { since: Timestamp },
}

impl Cause {
    pub(crate) const fn state(&self) -> State {
        match self {
            Self::None => State::Normal,
            Self::Rule { action, .. } => match action {
                Action::Throttle(_) => State::Throttled,
                Action::Cap(_) => State::Capped,
                Action::Suspend => State::Suspended,
            },
            Self::Staff { .. } => State::Suspended,
        }
    }

    pub(crate) const fn rule(&self) -> Option<&RuleName> {
        match self {
            Self::Rule { rule, .. } => Some(rule),
            Self::None | Self::Staff { .. } => None,
        }
    }
}

/// The last periods, the newest last, at most 12: what was used, and whether it was more than
/// the allowance of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    #[serde(default)]
    pub(crate) closed: Vec<(Bytes, bool)>,
}

impl Past {
    pub(crate) fn push(&mut self, used: Bytes, over: bool) {
        if self.closed.len() >= 12 {
            self.closed.remove(0);
        }
        self.closed.push((used, over));
    }
}
