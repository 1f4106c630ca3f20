//! What was used and what may be: exact arithmetic on volumes, no floating point.

use std::num::NonZeroU32;

use rust_decimal::Decimal;

use super::{
    plan::{Allowance, Direction, Percent},
    units::{Bytes, Traffic},
};

impl Direction {
    /// What a plan that counts this counts of a period's traffic.
    #[must_use]
    pub fn counted(self, traffic: &Traffic) -> Bytes {
        match self {
            Self::Sum => traffic.received + traffic.sent,
            Self::Received => traffic.received,
            Self::Sent => traffic.sent,
            Self::Larger => traffic.received.max(traffic.sent),
        }
    }
}

/// What a period includes in all, and what of it has been granted by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entitlement {
    /// From the plan or the machine's own terms.
    pub(crate) included: Allowance,
    /// Top-ups of this period and what rolled over into it.
    pub(crate) extra: Bytes,
    /// Days over which `included` is granted, and the period's day.
    pub(crate) daily: Option<(NonZeroU32, u32)>,
}

impl Entitlement {
    /// All of it; `None` when unlimited.
    pub(crate) fn total(&self) -> Option<Bytes> {
        match self.included {
            Allowance::Limited(included) => Some(included + self.extra),
            Allowance::Unlimited => None,
        }
    }

    /// What has been granted until now, as an exact fraction of bytes. Top-ups and rollover
    /// are granted whole and at once.
    fn granted(&self) -> Option<(u128, u128)> {
        let Allowance::Limited(included) = self.included else {
            return None;
        };
        let (days, today) = self.daily?;
        let (days, today) = (u128::from(days.get()), u128::from(today.min(days.get())));
        let extra = u128::from(self.extra.0) * days;
        Some((u128::from(included.0) * today + extra, days))
    }

    /// The same in whole bytes, rounded down.
    pub(crate) fn accrued(&self) -> Option<Bytes> {
        let (bytes, days) = self.granted()?;
        Some(whole(bytes / days))
    }

    /// The least usage that exceeds so much of what has been granted.
    pub(crate) fn beyond_accrued(&self, percent: Percent) -> Option<Bytes> {
        let (bytes, days) = self.granted()?;
        Share::of(bytes, days, percent).exceeded()
    }
}

/// A percentage of a volume, which need not be a whole number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Its whole bytes.
    floor: u128,
    /// Whether nothing is left beyond them.
    exact: bool,
}

/// Decimals of a percentage that are told apart: finer ones move a petabyte's threshold by
/// less than a byte.
const PERCENT_DECIMALS: u32 = 9;

impl Share {
    /// `percent` of `numerator / denominator` bytes.
    pub(crate) fn of(numerator: u128, denominator: u128, percent: Percent) -> Self {
        let percent = percent.0.round_dp(PERCENT_DECIMALS).normalize();
        // A plan's percentages are not negative.
        let mantissa = u128::try_from(percent.mantissa()).unwrap_or(0);
        let hundred = 100 * 10_u128.pow(percent.scale());
        // 2^128 holds a volume of 2^64 with 19 digits of percentage. Past that, the byte
        // fraction is dropped before rather than after.
        let (product, divisor) = match numerator.checked_mul(mantissa) {
            Some(product) => (product, denominator.saturating_mul(hundred)),
            None => ((numerator / denominator).saturating_mul(mantissa), hundred),
        };
        Self {
            floor: product / divisor,
            exact: product % divisor == 0,
        }
    }

    /// The least usage that reaches it.
    pub(crate) fn reached(self) -> Option<Bytes> {
        u64::try_from(self.floor + u128::from(!self.exact))
            .ok()
            .map(Bytes)
    }

    /// The least usage that exceeds it.
    pub(crate) fn exceeded(self) -> Option<Bytes> {
        u64::try_from(self.floor + 1).ok().map(Bytes)
    }
}

/// `used / allowance`, for people. Nothing is decided by it.
pub(crate) fn ratio(used: Bytes, allowance: Option<Bytes>) -> Option<f64> {
    use rust_decimal::prelude::ToPrimitive;
    let allowance = allowance.filter(|allowance| *allowance > Bytes::ZERO)?;
    (Decimal::from(used.0) / Decimal::from(allowance.0))
        .round_dp(6)
        .to_f64()
}

/// Percent used, in words: `105%`, `52.4%`.
pub(crate) fn percent_used(used: Bytes, allowance: Bytes) -> String {
    if allowance == Bytes::ZERO {
        return "100%".to_owned();
    }
    let tenths = u128::from(used.0) * 1000 / u128::from(allowance.0);
    match tenths % 10 {
        0 => format!("{}%", tenths / 10),
        tenth => format!("{}.{tenth}%", tenths / 10),
    }
}

pub(crate) fn whole(bytes: u128) -> Bytes {
    Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> Percent {
        Percent(text.parse().unwrap())
    }

    #[test]
    fn a_percentage_of_a_volume_is_reached_and_exceeded_at_the_exact_byte() {
        for (volume, figure, reached, exceeded) in [
            (1_000, "105", 1_050, 1_051),
            (1_001, "80", 801, 801), // 800.8
            (0, "100", 0, 1),
            (u64::MAX, "100", u64::MAX, 0),
            (1_000_000_000_000, "0.0000001", 1_000, 1_001),
        ] {
            let share = Share::of(u128::from(volume), 1, percent(figure));
            assert_eq!(
                share.reached(),
                Some(Bytes(reached)),
                "{figure}% of {volume}"
            );
            // No usage exceeds all that can be counted.
            let expected = (volume != u64::MAX).then_some(Bytes(exceeded));
            assert_eq!(share.exceeded(), expected, "{figure}% of {volume}");
        }
    }

    #[test]
    fn the_daily_allowance_is_granted_as_each_day_begins_and_never_more_than_the_months() {
        let gb = 1_000_000_000;
        let on = |day| Entitlement {
            included: Allowance::Limited(Bytes(5_000 * gb)),
            extra: Bytes::ZERO,
            daily: NonZeroU32::new(30).map(|days| (days, day)),
        };
        assert_eq!(on(1).accrued(), Some(Bytes(166_666_666_666)));
        assert_eq!(on(4).accrued(), Some(Bytes(666_666_666_666)));
        assert_eq!(on(30).accrued(), Some(Bytes(5_000 * gb)));
        assert_eq!(on(31).accrued(), Some(Bytes(5_000 * gb)));
        // Two thirds of a byte short of the third of a day's grant is not yet beyond it.
        assert_eq!(
            on(4).beyond_accrued(percent("100")),
            Some(Bytes(666_666_666_667))
        );
    }

    #[test]
    fn larger_compares_the_periods_sums() {
        let traffic = Traffic {
            received: Bytes(7),
            sent: Bytes(5),
            exempt: Bytes(100),
        };
        for (direction, used) in [
            (Direction::Sum, 12),
            (Direction::Received, 7),
            (Direction::Sent, 5),
            (Direction::Larger, 7),
        ] {
            assert_eq!(direction.counted(&traffic), Bytes(used));
        }
    }
}
