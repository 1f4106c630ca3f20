//! The audit: what our program counted against what the kernel's own interface counters say,
//! on the same basis (frames), since this daemon first saw both. Pure.

use std::collections::BTreeMap;

use super::packed::pack;
use crate::{engine::units::Bytes, ledger::Reading};

/// A difference is worth a warning from this share of the traffic on.
const PER_MILLE: u64 = 1;

/// And from this many bytes on: the two are not read at one instant, so packets under way
/// between the readings (a few GSO packets a CPU) are no difference.
const UNDER_WAY: u64 = 1 << 20;

/// Frames' bytes by both counts at one look: received, sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) ours: [Bytes; 2],
    pub(crate) kernel: [Bytes; 2],
}

/// What is known of each interface.
#[derive(Debug, Default)]
pub(crate) struct Audit(BTreeMap<u32, Known>);

#[derive(Debug)]
struct Known {
    /// What our program had dropped by the last look.
    dropped: Bytes,
    /// The look that later ones are compared with, and the difference at the last one.
    compared: Option<(Look, [i64; 2])>,
}

impl Audit {
    /// Compares, and says which direction (0 received, 1 sent) differs by too much, with the
    /// kernel's figure and the difference. `shaped`: a shaper of ours stands, so that the
    /// kernel rightly sees less than the program did, and `dropped` is what our program itself
    /// kept back, of which the kernel sees some: the comparison begins anew after either.
    pub(crate) fn look(
        &mut self,
        ifindex: u32,
        reading: &Reading,
        kernel: [Bytes; 2],
        shaped: bool,
        dropped: Bytes,
    ) -> Option<(usize, Bytes, i64)> {
        let now = Look {
            ours: reading.frames,
            kernel,
        };
        let new = || Known {
            dropped,
            compared: None,
        };
        let known = self.0.entry(ifindex).or_insert_with(new);
        let drops = std::mem::replace(&mut known.dropped, dropped) != dropped;
        if shaped || drops {
            known.compared = None;
            return None;
        }
        let (first, drift) = known.compared.get_or_insert((now, [0; 2]));
        *drift = [0, 1].map(|i| {
            let ours = i128::from(now.ours[i].0) - i128::from(first.ours[i].0);
            let kernel = i128::from(now.kernel[i].0) - i128::from(first.kernel[i].0);
            i64::try_from(ours - kernel).unwrap_or(i64::MAX)
        });
        (0..2).find_map(|i| {
            let moved = Bytes(now.kernel[i].0.saturating_sub(first.kernel[i].0));
            let allowed = (moved.0 / 1000 * PER_MILLE).max(UNDER_WAY);
            (drift[i].unsigned_abs() > allowed).then_some((i, moved, drift[i]))
        })
    }

    pub(crate) fn drift(&self, ifindex: u32) -> Option<[i64; 2]> {
        let (_, drift) = self.0.get(&ifindex)?.compared?;
        Some(drift)
    }

    pub(crate) fn pack(&mut self) {
        pack(&mut self.0);
    }

    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.0.remove(&ifindex);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(received: u64, sent: u64) -> Reading {
        Reading {
            frames: [Bytes(received), Bytes(sent)],
            ..Reading::default()
        }
    }

    #[test]
    fn a_difference_past_a_thousandth_is_named_with_both_figures() {
        let mut audit = Audit::default();
        let first = [Bytes(50), Bytes(70)];
        assert_eq!(
            audit.look(3, &reading(1_000, 2_000), first, false, Bytes::ZERO),
            None
        );
        let kernel = [Bytes(50 + 10_000_000_000), Bytes(70 + 10_000_000_000)];
        let same = reading(1_000 + 10_000_000_000, 2_000 + 10_000_000_000 - 9_000_000);
        assert_eq!(
            audit.look(3, &same, kernel, false, Bytes::ZERO),
            None,
            "0.09 % is under way"
        );
        assert_eq!(audit.drift(3), Some([0, -9_000_000]));
        let less = reading(1_000 + 10_000_000_000, 2_000 + 10_000_000_000 - 11_000_000);
        let found = audit.look(3, &less, kernel, false, Bytes::ZERO);
        assert_eq!(found, Some((1, Bytes(10_000_000_000), -11_000_000)));
    }

    #[test]
    fn while_a_shaper_stands_nothing_is_compared() {
        let mut audit = Audit::default();
        audit.look(3, &reading(0, 0), [Bytes(0); 2], false, Bytes::ZERO);
        assert_eq!(
            audit.look(3, &reading(9_000_000, 0), [Bytes(0); 2], true, Bytes::ZERO),
            None
        );
        assert_eq!(
            audit.look(3, &reading(9_000_000, 0), [Bytes(0); 2], false, Bytes::ZERO),
            None
        );
        assert_eq!(audit.drift(3), Some([0, 0]), "the comparison began anew");
    }

    #[test]
    fn what_our_program_keeps_back_is_no_difference() {
        let mut audit = Audit::default();
        let kernel = |sent| [Bytes(0), Bytes(sent)];
        audit.look(3, &reading(0, 0), kernel(0), false, Bytes::ZERO);
        let kept_back = Bytes(9_000_000);
        assert_eq!(
            audit.look(3, &reading(0, 0), kernel(9_000_000), false, kept_back),
            None
        );
        audit.look(3, &reading(0, 0), kernel(9_000_000), false, kept_back);
        assert_eq!(audit.drift(3), Some([0, 0]), "the comparison began anew");
    }
}
