//! What traffic costs: exact decimals, rounded once, when something is posted.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{
    period::Period,
    plan::Tariff,
    units::{Bytes, Currency, Money},
};

/// What a volume costs by the exact byte.
pub(crate) fn price_of(volume: Bytes, tariff: Tariff) -> Decimal {
    scaled(
        tariff.price,
        &[u128::from(volume.0)],
        &[u128::from(tariff.per.0)],
    )
}

/// What a volume costs for the time left of a period, exactly.
pub(crate) fn prorated(volume: Bytes, tariff: Tariff, period: &Period, now: Timestamp) -> Decimal {
    scaled(
        tariff.price,
        &[u128::from(volume.0), period.left(now)],
        &[u128::from(tariff.per.0), period.length()],
    )
}

/// The least usage whose price exceeds `limit`. None where none does.
pub(crate) fn costs_more_than(limit: Decimal, tariff: Tariff) -> Option<Bytes> {
    use rust_decimal::prelude::ToPrimitive;
    if tariff.price <= Decimal::ZERO {
        return None;
    }
    let affordable = match affordable(limit.normalize(), tariff) {
        Some(bytes) => u64::try_from(bytes).ok()?,
        // Only with figures of no use to anybody: then 28 digits have to do.
        None => limit
            .checked_mul(Decimal::from(tariff.per.0))?
            .checked_div(tariff.price)?
            .floor()
            .to_u64()?,
    };
    affordable.checked_add(1).map(Bytes)
}

/// The most that costs no more than `limit`, in integers: a quotient of decimals is rounded to
/// 28 digits, which may be up to the next whole byte.
fn affordable(limit: Decimal, tariff: Tariff) -> Option<u128> {
    let price = tariff.price.normalize();
    let common = limit.scale().min(price.scale());
    let shift = |scale: u32| 10_u128.checked_pow(scale - common);
    let limit_units = u128::try_from(limit.mantissa())
        .ok()?
        .checked_mul(u128::from(tariff.per.0))?
        .checked_mul(shift(price.scale())?)?;
    let price_units = u128::try_from(price.mantissa())
        .ok()?
        .checked_mul(shift(limit.scale())?)?;
    limit_units.checked_div(price_units)
}

/// `price` times the factors over the divisors. Common factors go first, so that the product
/// of a volume and a time in nanoseconds fits a decimal's 28 digits, and the division comes
/// last, so that what is a whole number of cents is found to be one.
fn scaled(price: Decimal, factors: &[u128], divisors: &[u128]) -> Decimal {
    let (mut factors, mut divisors) = (factors.to_vec(), divisors.to_vec());
    for factor in &mut factors {
        for divisor in &mut divisors {
            let common = common_divisor(*factor, *divisor).max(1);
            *factor /= common;
            *divisor /= common;
        }
    }
    let product = |numbers: &[u128]| {
        numbers.iter().try_fold(Decimal::ONE, |product, number| {
            product.checked_mul(decimal(*number)?)
        })
    };
    let exact = product(&factors)
        .zip(product(&divisors))
        .and_then(|(factors, divisors)| price.checked_mul(factors)?.checked_div(divisors));
    // Only with figures of no use to anybody: then 28 digits have to do.
    exact.unwrap_or_else(|| {
        factors
            .iter()
            .zip(&divisors)
            .fold(price, |amount, (factor, divisor)| {
                decimal(*factor)
                    .zip(decimal(*divisor))
                    .and_then(|(factor, divisor)| factor.checked_div(divisor))
                    .and_then(|share| amount.checked_mul(share))
                    .unwrap_or(Decimal::MAX)
            })
    })
}

fn decimal(number: u128) -> Option<Decimal> {
    Decimal::try_from_i128_with_scale(i128::try_from(number).ok()?, 0).ok()
}

fn common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Overage that is charged as it accrues: by the exact byte, posted in whole minor units so
/// that the sum posted is always the rounded total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overcharge {
    /// The most by which usage ever exceeded the allowance: what was charged for. A top-up
    /// lowers the excess, never this, so that it neither refunds nor charges again.
    pub(crate) charged: Bytes,
    /// Of `charged`, what has been posted.
    posted_volume: Bytes,
    /// The sum posted.
    posted: Decimal,
    /// The exact total up to `since`, at earlier prices.
    earlier: Decimal,
    /// Where the price now in force began.
    since: Bytes,
}

/// An amount to post now, and the volume that it is for.
pub(crate) type Posting = (Money, Bytes);

impl Overcharge {
    /// Charges for an excess that has grown to `excess`.
    pub(crate) fn grow(
        &mut self,
        excess: Bytes,
        tariff: Tariff,
        currency: Currency,
    ) -> Option<Posting> {
        self.charged = self.charged.max(excess);
        let total = Money {
            amount: self.total(tariff),
            currency,
        }
        .rounded();
        let amount = total.amount - self.posted;
        if amount <= Decimal::ZERO {
            return None;
        }
        let volume = self.charged.saturating_sub(self.posted_volume);
        self.posted = total.amount;
        self.posted_volume = self.charged;
        Some((Money { amount, currency }, volume))
    }

    /// Another price from here on: what was charged stays at the old one.
    pub(crate) fn reprice(&mut self, old: Tariff) {
        self.earlier = self.total(old);
        self.since = self.charged;
    }

    /// Another currency from here on. What was posted stays posted in the old one.
    pub(crate) fn change_currency(&mut self) {
        self.earlier = Decimal::ZERO;
        self.posted = Decimal::ZERO;
        self.since = self.charged;
        self.posted_volume = self.charged;
    }

    /// The sum posted.
    pub(crate) const fn posted(&self) -> Decimal {
        self.posted
    }

    fn total(&self, tariff: Tariff) -> Decimal {
        self.earlier + price_of(self.charged.saturating_sub(self.since), tariff)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn tariff(per: u64, price: &str) -> Tariff {
        Tariff {
            per: Bytes(per),
            price: price.parse().unwrap(),
        }
    }

    fn euro() -> Currency {
        Currency::new("EUR").unwrap()
    }

    #[test]
    fn the_least_usage_over_a_cost_limit_is_the_byte_whose_price_passes_it() {
        let tariff = tariff(GB, "0.02");
        let limit = Decimal::from(10);
        let at = costs_more_than(limit, tariff).unwrap();
        assert_eq!(at, Bytes(500 * GB + 1));
        assert!(price_of(at, tariff) > limit);
        assert!(price_of(Bytes(at.0 - 1), tariff) <= limit);
    }

    #[test]
    fn a_limit_that_no_whole_byte_meets_is_passed_by_the_next_byte() {
        for (limit, per, price, at) in [
            ("10", GB, "0.03", 333_333_333_334),
            ("0", GB, "0.02", 1),
            ("0.01", GB, "0.02", 500_000_001),
            // 28 digits would make it 100000000000000000 bytes.
            (
                "0.9999999999999999999999999999",
                100_000_000_000_000_000,
                "1",
                100_000_000_000_000_000,
            ),
            ("1", 3, "0.0000000001", 30_000_000_001),
            ("-1", GB, "0.02", 0),
            ("1", GB, "0", 0),
        ] {
            let limit: Decimal = limit.parse().unwrap();
            let found = costs_more_than(limit, tariff(per, price));
            assert_eq!(
                found.map_or(0, |at| at.0),
                at,
                "{limit} at {price} per {per}"
            );
        }
    }

    #[test]
    fn proration_is_by_exact_time_left_and_finds_whole_cents_whole() {
        let period = Period {
            start: "2026-06-01T00:00:00Z".parse().unwrap(),
            end: "2026-07-01T00:00:00Z".parse().unwrap(),
            zone: TimeZone::UTC,
        };
        let now = "2026-06-21T00:00:00Z".parse().unwrap();
        // A third of the month is left.
        let price = prorated(Bytes(1_000 * GB), tariff(1_000 * GB, "0.015"), &period, now);
        assert_eq!(price, "0.005".parse().unwrap());
    }

    proptest! {
        #[test]
        fn what_is_posted_is_always_the_rounded_total(
            steps in proptest::collection::vec(0_u64..40 * GB, 1..50), cents in 0_u32..500,
        ) {
            let tariff = Tariff { per: Bytes(GB), price: Decimal::new(i64::from(cents), 4) };
            let mut account = Overcharge::default();
            let (mut excess, mut posted, mut volume) = (Bytes::ZERO, Decimal::ZERO, Bytes::ZERO);
            for step in steps {
                excess += Bytes(step);
                if let Some((money, part)) = account.grow(excess, tariff, euro()) {
                    prop_assert!(money.amount > Decimal::ZERO);
                    posted += money.amount;
                    volume += part;
                }
                let total = Money { amount: price_of(excess, tariff), currency: euro() };
                prop_assert_eq!(posted, total.rounded().amount);
                prop_assert!(volume <= excess);
            }
        }
    }
}
