//! A throttled machine's rate is for all its interfaces together, and each has a shaper of
//! its own: who is busy gets what the others leave. Pure.

use crate::engine::units::{BitsPerSecond, Bytes};

/// An interface that offered less than this in a second is idle: some ARP, a ping.
const BUSY: Bytes = Bytes(500);

/// What an idle interface keeps, to begin with when it wakes up: one part in so many.
const IDLE_PART: u64 = 16;

/// Divides `rate` among interfaces by what each offered its shapers in the last second.
pub(crate) fn shares(rate: BitsPerSecond, offered: &[Bytes]) -> Vec<BitsPerSecond> {
    let count = offered.len() as u64;
    let busy = offered.iter().filter(|bytes| **bytes >= BUSY).count() as u64;
    if busy == 0 || busy == count {
        return vec![BitsPerSecond(rate.0 / count.max(1)); offered.len()];
    }
    // With very many interfaces the idle ones together keep a quarter at most.
    let idle = (rate.0 / IDLE_PART).min(rate.0 / 4 / (count - busy));
    let left = rate.0 - idle * (count - busy);
    let share = |bytes: &Bytes| BitsPerSecond(if *bytes >= BUSY { left / busy } else { idle });
    offered.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let offered: Vec<Bytes> = offered.into_iter().map(Bytes).collect();
            let found = shares(rate, &offered);
            assert_eq!(
                found,
                expected.into_iter().map(BitsPerSecond).collect::<Vec<_>>()
            );
            assert!(found.iter().map(|share| share.0).sum::<u64>() <= rate.0);
        }
        let many: Vec<Bytes> = (0..40)
            .map(|n| Bytes(if n == 7 { 9_000 } else { 0 }))
            .collect();
        let found = shares(rate, &many);
        assert!(found[7].0 >= 45_000 && found.iter().map(|share| share.0).sum::<u64>() <= rate.0);
    }
}
