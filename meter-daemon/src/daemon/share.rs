//! A throttled machine's rate is for all its interfaces together, and each has a shaper of
//! its own: who is busy gets what the others leave. Pure.

use crate::engine::units::{BitsPerSecond, Bytes};

/// An interface that offers less than this in a second is idle: some ARP, a ping.
const BUSY: Bytes = Bytes(500);

/// A flow that lost a packet is silent for some seconds, and is not idle.
const SECONDS_OF_GRACE: u8 = 5;

/// What an idle interface keeps, to begin with when it wakes up: one part in so many.
const IDLE_PART: u64 = 16;

/// What an interface has offered its shapers, second by second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// In all, at the last look.
    offered: Option<Bytes>,
    /// For how many seconds more it is taken for busy.
    busy: u8,
}

impl Demand {
    /// One second later.
    pub(crate) fn look(self, offered: Bytes) -> Self {
        let new = offered.saturating_sub(self.offered.unwrap_or(offered));
        Self {
            offered: Some(offered),
            busy: if new >= BUSY {
                SECONDS_OF_GRACE
            } else {
                self.busy.saturating_sub(1)
            },
        }
    }

    fn is_busy(self) -> bool {
        self.busy > 0
    }
}

/// Divides `rate` among interfaces by what each demands.
pub(crate) fn shares(rate: BitsPerSecond, demands: &[Demand]) -> Vec<BitsPerSecond> {
    let count = demands.len() as u64;
    let busy = demands.iter().filter(|demand| demand.is_busy()).count() as u64;
    if busy == 0 || busy == count {
        return vec![BitsPerSecond(rate.0 / count.max(1)); demands.len()];
    }
    // With very many interfaces the idle ones together keep a quarter at most.
    let idle = (rate.0 / IDLE_PART).min(rate.0 / 4 / (count - busy));
    let left = rate.0 - idle * (count - busy);
    let share = |demand: &Demand| BitsPerSecond(if demand.is_busy() { left / busy } else { idle });
    demands.iter().map(share).collect()
}

/// What the shapers of a machine are set to, together, and what is policed in their place. A TCP receiver sees data in order: where
/// a hole fills, up to three segments come at once, which over ten seconds at 64 kbit/s is 5 %
/// more than the average, of which the headers leave room for 4. A throttle promises not to be
/// exceeded, so it aims a little lower.
pub(super) fn aim(rate: BitsPerSecond) -> BitsPerSecond {
    BitsPerSecond(rate.0 - rate.0 / 32)
}

/// The share of each interface as long as nothing is known of what each demands.
pub(super) fn equal_share(rate: BitsPerSecond, interfaces: u64) -> BitsPerSecond {
    BitsPerSecond(aim(rate).0 / interfaces.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After two looks, between which it offered so much.
    fn demand(bytes: u64) -> Demand {
        Demand::default()
            .look(Bytes(7_000))
            .look(Bytes(7_000 + bytes))
    }

    #[test]
    fn who_is_busy_gets_what_the_others_leave_and_together_they_never_pass_the_rate() {
        let rate = BitsPerSecond(60_000);
        for (offered, expected) in [
            (vec![9_000], vec![60_000]),
            (vec![0, 0], vec![30_000, 30_000]),
            (vec![9_000, 9_000], vec![30_000, 30_000]),
            (vec![9_000, 100], vec![56_250, 3_750]),
            (vec![9_000, 0, 9_000], vec![28_125, 3_750, 28_125]),
        ] {
            let demands: Vec<Demand> = offered.into_iter().map(demand).collect();
            let found = shares(rate, &demands);
            let expected: Vec<_> = expected.into_iter().map(BitsPerSecond).collect();
            assert_eq!(found, expected);
            assert!(found.iter().map(|share| share.0).sum::<u64>() <= rate.0);
        }
        let many: Vec<Demand> = (0..40)
            .map(|n| demand(if n == 7 { 9_000 } else { 0 }))
            .collect();
        let found = shares(rate, &many);
        assert!(found[7].0 >= 45_000);
        assert!(found.iter().map(|share| share.0).sum::<u64>() <= rate.0);
    }

    #[test]
    fn a_flow_that_is_silent_for_some_seconds_is_not_idle_and_one_that_stays_silent_is() {
        let mut flow = demand(9_000);
        let silent = Bytes(16_000);
        for _ in 0..4 {
            flow = flow.look(silent);
            assert!(flow.is_busy());
        }
        assert!(!flow.look(silent).is_busy());
        assert!(
            !Demand::default().look(silent).is_busy(),
            "the first look tells nothing"
        );
    }
}
