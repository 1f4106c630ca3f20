//! The engine's clock: wall time that never runs backwards, and does not jump ahead on the
//! word of a clock that nobody has set. Pure: the readings are arguments.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::ledger::{BootId, HostNote};

/// A jump ahead of more than this against the boot-time clock waits for synchronisation.
const JUMP: SignedDuration = SignedDuration::from_hours(1);

/// A wall clock that shows less was never set: no RTC, or one without a battery. What follows
/// is a jump ahead like any other.
const NOT_BEFORE: Timestamp = Timestamp::constant(1_577_836_800, 0); // 2020

/// An instant of the engine's and the boot-time clock at it: they are comparable within a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at: Timestamp,
    pub(crate) boot: Duration,
}

/// The note in the ledger that keeps the last mark.
const NOTE: &str = "clock";

impl Mark {
    /// For the ledger: of which boot it is, too.
    pub(crate) fn note(&self, boot: &BootId) -> HostNote {
        let text = serde_json::json!({
            "boot": boot,
            "at": self.at,
            "since_boot": self.boot,
        });
        HostNote {
            key: NOTE.to_owned(),
            value: Some(text.to_string()),
        }
    }

    /// What the ledger kept, if it is of this boot.
    pub(crate) fn from_notes(notes: &[(String, String)], boot: &BootId) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Kept {
            boot: BootId,
            at: Timestamp,
            since_boot: Duration,
        }
        let (_, text) = notes.iter().find(|(key, _)| key == NOTE)?;
        let kept: Kept = serde_json::from_str(text).ok()?;
        (kept.boot == *boot).then_some(Self {
            at: kept.at,
            boot: kept.since_boot,
        })
    }
}

/// What the three clocks of the kernel show at one instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) wall: Timestamp,
    /// Since boot, suspend included.
    pub(crate) boot: Duration,
    /// Whether the kernel calls the wall clock synchronised.
    pub(crate) synchronised: bool,
}

/// Something about the wall clock that an operator should know, said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It fell behind: our time stands still until it has caught up.
    Back { by: SignedDuration },
    /// It jumped ahead and is not synchronised: our time goes on at its own pace.
    Ahead { by: SignedDuration },
    /// It is believed again.
    Agreed,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Back { by } => write!(
                f,
                "the wall clock is {by:#} behind what was recorded; \
                 time stands still until it has caught up"
            ),
            Self::Ahead { by } => write!(
                f,
                "the wall clock jumped {by:#} ahead and the kernel does not call it synchronised; \
                 no period starts by it until it is, or until `meterd confirm`"
            ),
            Self::Agreed => write!(f, "the wall clock is followed again"),
        }
    }
}

/// The last instant given out, and whether the wall clock is being doubted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineClock {
    last: Timestamp,
    /// The boot-time clock when `last` was given out; absent before the first reading.
    boot: Option<Duration>,
    doubt: Option<Step>,
    /// An operator said that the wall clock is right: the next reading is believed.
    confirmed: bool,
}

impl EngineClock {
    /// `recorded`: the newest instant in the ledger; nothing will be older than it. `mark`: what
    /// [`EngineClock::mark`] gave an earlier run in this boot, so that a jump is seen across a
    /// restart, too. Across boots nothing can be compared.
    pub(crate) fn new(recorded: Option<Timestamp>, mark: Option<Mark>) -> Self {
        let floor = recorded.unwrap_or(NOT_BEFORE);
        Self {
            last: mark.map_or(floor, |mark| mark.at.max(floor)),
            boot: mark.map(|mark| mark.boot),
            doubt: None,
            confirmed: false,
        }
    }

    /// The engine's time now, and what changed about the wall clock.
    pub(crate) fn advance(&mut self, now: Reading) -> (Timestamp, Option<Step>) {
        let (instant, doubt) = self.judge(now);
        let step = match (self.doubt, doubt) {
            (None, Some(step)) => Some(step),
            (Some(_), None) => Some(Step::Agreed),
            _ => None,
        };
        self.doubt = doubt;
        self.confirmed = false;
        self.last = instant;
        self.boot = Some(now.boot);
        (instant, step)
    }

    /// How far the wall clock is ahead, while it waits to be synchronised or confirmed.
    pub(crate) fn waits(&self) -> Option<SignedDuration> {
        match self.doubt {
            Some(Step::Ahead { by }) => Some(by),
            _ => None,
        }
    }

    /// An operator answers for the wall clock.
    pub(crate) fn confirm(&mut self) {
        self.confirmed = true;
    }

    /// The last instant given out, to be recorded.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.boot.map(|boot| Mark {
            at: self.last,
            boot,
        })
    }

    fn judge(&self, now: Reading) -> (Timestamp, Option<Step>) {
        if now.wall < self.last {
            let by = self.last.duration_since(now.wall);
            // A second or so is how clocks are slewed; not worth a word.
            let doubt = (by > SignedDuration::from_secs(2)).then_some(Step::Back { by });
            return (self.last, doubt);
        }
        let Some(boot) = self.boot else {
            return (now.wall, None);
        };
        let elapsed =
            SignedDuration::try_from(now.boot.saturating_sub(boot)).unwrap_or(SignedDuration::ZERO);
        let expected = self.last.checked_add(elapsed).unwrap_or(now.wall);
        let by = now.wall.duration_since(expected);
        if by > JUMP && !now.synchronised && !self.confirmed {
            return (expected, Some(Step::Ahead { by }));
        }
        (now.wall, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    const DAY: i64 = 86_400;

    /// The wall clock, the boot-time clock, whether it is synchronised; the engine's time, and
    /// what is said.
    type Row = (&'static str, i64, u64, bool, i64, Option<&'static str>);

    fn follow(clock: &mut EngineClock, rows: &[Row]) {
        for &(line, wall, boot, synchronised, expected, said) in rows {
            let reading = Reading {
                wall: at(wall),
                boot: Duration::from_secs(boot),
                synchronised,
            };
            let (now, step) = clock.advance(reading);
            assert_eq!(now, at(expected), "{line}");
            match (step, said) {
                (None, None) => {}
                (Some(step), Some(word)) => assert!(step.to_string().contains(word), "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn time_stands_still_when_the_clock_falls_back_and_waits_when_it_jumps_ahead_unset() {
        let mut clock = EngineClock::new(Some(at(0)), None);
        follow(
            &mut clock,
            &[
                ("first", 10, 1, false, 10, None),
                ("on", 70, 61, false, 70, None),
                ("back a day", 70 - DAY, 121, true, 70, Some("behind")),
                ("still back", 130 - DAY, 181, true, 70, None),
                ("caught up", 250, 241, true, 250, Some("again")),
                ("ahead, unset", 90_310, 301, false, 310, Some("ahead")),
                ("still ahead", 90_370, 361, false, 370, None),
                ("set", 90_430, 421, true, 90_430, Some("again")),
                ("ahead, but set", 190_490, 481, true, 190_490, None),
                ("slewed by a second", 190_489, 482, true, 190_490, None),
                ("a leap second", 190_490, 483, true, 190_490, None),
                ("half an hour ahead", 192_300, 493, false, 192_300, None),
                ("after sleep", 292_300, 100_493, false, 292_300, None),
            ],
        );
    }

    #[test]
    fn a_clock_that_starts_before_the_last_record_gives_out_nothing_older() {
        let mut clock = EngineClock::new(Some(at(1000)), None);
        follow(&mut clock, &[("before", 0, 0, false, 1000, Some("behind"))]);
    }

    #[test]
    fn a_jump_is_seen_across_a_restart_within_one_boot_and_not_across_boots() {
        let mut before = EngineClock::new(Some(at(0)), None);
        follow(
            &mut before,
            &[("before the restart", 60, 500, false, 60, None)],
        );
        let (boot, other) = (BootId("this".into()), BootId("other".into()));
        let note = before.mark().unwrap().note(&boot);
        let notes = [(note.key, note.value.unwrap())];
        let restarted = |of: &BootId| EngineClock::new(Some(at(60)), Mark::from_notes(&notes, of));
        follow(
            &mut restarted(&boot),
            &[
                (
                    "down for a minute, 40 days ahead",
                    120 + 40 * DAY,
                    560,
                    false,
                    120,
                    Some("ahead"),
                ),
                (
                    "set",
                    180 + 40 * DAY,
                    620,
                    true,
                    180 + 40 * DAY,
                    Some("again"),
                ),
            ],
        );
        follow(
            &mut restarted(&boot),
            &[(
                "down for 40 days",
                60 + 40 * DAY,
                500 + 3_456_000,
                false,
                60 + 40 * DAY,
                None,
            )],
        );
        follow(
            &mut restarted(&other),
            &[(
                "another boot",
                120 + 40 * DAY,
                9,
                false,
                120 + 40 * DAY,
                None,
            )],
        );
        follow(
            &mut restarted(&boot),
            &[("back", 60 - DAY, 560, true, 60, Some("behind"))],
        );
    }

    #[test]
    fn an_operator_can_answer_for_a_clock_that_nothing_synchronises() {
        let mut clock = EngineClock::new(Some(at(0)), None);
        follow(
            &mut clock,
            &[
                ("on", 60, 10, false, 60, None),
                ("ahead", 120 + DAY, 70, false, 120, Some("ahead")),
            ],
        );
        assert_eq!(clock.waits(), Some(SignedDuration::from_secs(DAY)));
        clock.confirm();
        follow(
            &mut clock,
            &[
                ("confirmed", 180 + DAY, 130, false, 180 + DAY, Some("again")),
                (
                    "and ahead again",
                    240 + 3 * DAY,
                    190,
                    false,
                    240 + DAY,
                    Some("ahead"),
                ),
            ],
        );
    }

    #[test]
    fn a_node_without_a_clock_of_its_own_waits_for_the_network_to_set_it() {
        let mut clock = EngineClock::new(None, None);
        let begin = NOT_BEFORE.as_second() - at(0).as_second();
        let in_1970 = -at(0).as_second();
        follow(
            &mut clock,
            &[
                ("1970", in_1970 + 5, 5, false, begin, Some("behind")),
                ("still", in_1970 + 65, 65, false, begin, None),
                ("set", 130, 125, true, 130, Some("again")),
            ],
        );
        let mut clock = EngineClock::new(None, None);
        follow(
            &mut clock,
            &[
                ("1970", in_1970 + 5, 5, false, begin, Some("behind")),
                (
                    "stepped, not yet synchronised",
                    70,
                    65,
                    false,
                    begin + 60,
                    None,
                ),
                ("synchronised", 130, 125, true, 130, Some("again")),
            ],
        );
    }
}
