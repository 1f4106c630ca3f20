//! The engine's clock: wall time that never runs backwards, and does not jump ahead on the
//! word of a clock that nobody has set. Pure: the readings are arguments.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A jump ahead of more than this against the boot-time clock waits for synchronisation.
const JUMP: SignedDuration = SignedDuration::from_hours(1);

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
                 no period starts by it until it is"
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
    doubted: bool,
}

impl EngineClock {
    /// `recorded`: the newest instant in the ledger; nothing will be older than it.
    pub(crate) fn new(recorded: Option<Timestamp>) -> Self {
        Self {
            last: recorded.unwrap_or(Timestamp::MIN),
            boot: None,
            doubted: false,
        }
    }

    /// The engine's time now, and what changed about the wall clock.
    pub(crate) fn advance(&mut self, now: Reading) -> (Timestamp, Option<Step>) {
        let (instant, doubt) = self.judge(now);
        let step = match (self.doubted, doubt) {
            (false, Some(step)) => Some(step),
            (true, None) => Some(Step::Agreed),
            _ => None,
        };
        self.doubted = doubt.is_some();
        self.last = instant;
        self.boot = Some(now.boot);
        (instant, step)
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
        if by > JUMP && !now.synchronised {
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

    /// (wall, boot, synchronised) -> (engine's time, what is said)
    #[test]
    fn time_stands_still_when_the_clock_falls_back_and_waits_when_it_jumps_ahead_unset() {
        let mut clock = EngineClock::new(Some(at(0)));
        for (line, wall, boot, synchronised, expected, said) in [
            ("first", 10, 1, false, 10, None),
            ("on", 70, 61, false, 70, None),
            ("back a day", 70 - 86_400, 121, true, 70, Some("behind")),
            ("still back", 130 - 86_400, 181, true, 70, None),
            ("caught up", 250, 241, true, 250, Some("again")),
            ("ahead, unset", 90_310, 301, false, 310, Some("ahead")),
            ("still ahead", 90_370, 361, false, 370, None),
            ("set", 90_430, 421, true, 90_430, Some("again")),
            ("ahead, but set", 190_490, 481, true, 190_490, None),
            ("slewed by a second", 190_489, 482, true, 190_490, None),
        ] {
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
    fn a_clock_that_starts_before_the_last_record_gives_out_nothing_older() {
        let mut clock = EngineClock::new(Some(at(1000)));
        let reading = Reading {
            wall: at(0),
            boot: Duration::ZERO,
            synchronised: false,
        };
        assert_eq!(clock.advance(reading).0, at(1000));
    }
}
