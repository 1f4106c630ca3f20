//! Dividing a volume over the time in which it arrived, so that nothing is lost to rounding.

use jiff::Timestamp;

use super::units::{Bytes, Traffic};

/// How much of `volume`, arriving evenly over `(from, to]`, has arrived by `at`.
///
/// Rounded down, and cumulative: the share of any part is the difference of two calls, so
/// that however a span is cut, the parts add up to the whole, and everyone who cuts it at
/// the same instant finds the same figure. A span of no length arrives whole at its end.
#[must_use]
pub fn arrived(volume: Bytes, from: Timestamp, to: Timestamp, at: Timestamp) -> Bytes {
    if at >= to {
        return volume;
    }
    if at <= from {
        return Bytes::ZERO;
    }
    // Both are positive here, and a span of nanoseconds in i128 leaves room for 2^64 bytes
    // over more than 500 years.
    let part = (at.as_nanosecond() - from.as_nanosecond()).unsigned_abs();
    let whole = (to.as_nanosecond() - from.as_nanosecond()).unsigned_abs();
    let share = u128::from(volume.0) * part / whole;
    Bytes(u64::try_from(share).unwrap_or(volume.0))
}

/// [`arrived`] for every kind of traffic.
#[must_use]
pub fn arrived_traffic(traffic: Traffic, from: Timestamp, to: Timestamp, at: Timestamp) -> Traffic {
    Traffic {
        received: arrived(traffic.received, from, to, at),
        sent: arrived(traffic.sent, from, to, at),
        exempt: arrived(traffic.exempt, from, to, at),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn however_a_span_is_cut_its_parts_add_up(
            volume: u64, start in 0i64..4_000_000_000, length in 0i64..400_000_000, cuts: [u32; 4],
        ) {
            let at = |second| Timestamp::from_second(second).unwrap();
            let (from, to) = (at(start), at(start + length));
            let mut instants: Vec<_> =
                cuts.iter().map(|cut| at(start + i64::from(*cut) % (length + 1))).collect();
            instants.sort();
            instants.push(to);
            let mut before = Bytes::ZERO;
            let mut total = 0_u64;
            for instant in instants {
                let by_then = arrived(Bytes(volume), from, to, instant);
                prop_assert!(by_then >= before);
                total += by_then.0 - before.0;
                before = by_then;
            }
            prop_assert_eq!(total, volume);
        }
    }
}
