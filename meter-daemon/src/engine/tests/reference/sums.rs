//! Exact figures: fractions of whole numbers.

use std::{cmp::Ordering, ops::Add};

use rust_decimal::Decimal;

use crate::engine::{
    plan::Tariff,
    units::{Currency, Money},
};

/// A fraction, in lowest terms; the denominator is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::tests) struct Exact {
    above: i128,
    under: i128,
}

impl Exact {
    pub(super) const ZERO: Self = Self { above: 0, under: 1 };

    pub(super) fn new(over: i128, under: i128) -> Self {
        let (mut a, mut b) = (over.unsigned_abs(), under.unsigned_abs());
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let common = i128::try_from(a.max(1)).unwrap();
        Self {
            above: over / common,
            under: under / common,
        }
    }

    pub(super) fn whole(number: u64) -> Self {
        Self::new(i128::from(number), 1)
    }

    pub(super) fn of(decimal: Decimal) -> Self {
        Self::new(decimal.mantissa(), 10_i128.pow(decimal.scale()))
    }

    pub(super) fn times(self, other: Self) -> Self {
        // Crosswise first, so that no intermediate figure is larger than it must be.
        let one = Self::new(self.above, other.under);
        let two = Self::new(other.above, self.under);
        Self::new(
            one.above.checked_mul(two.above).unwrap(),
            one.under.checked_mul(two.under).unwrap(),
        )
    }

    /// Divided; `None` by zero.
    pub(super) fn over(self, other: Self) -> Option<Self> {
        (other.above > 0).then(|| self.times(Self::new(other.under, other.above)))
    }

    pub(super) fn minus(self, other: Self) -> Self {
        self + Self::new(-other.above, other.under)
    }

    /// The price of a volume.
    pub(super) fn price(tariff: Tariff, volume: u64) -> Self {
        Self::of(tariff.price).times(Self::new(i128::from(volume), i128::from(tariff.per.0)))
    }

    /// In the currency's minor unit, halves away from zero.
    pub(super) fn rounded(self, currency: Currency) -> Money {
        let minor = self.times(Self::new(10_i128.pow(currency.decimals()), 1));
        let doubled = minor.above.abs() * 2 + minor.under;
        let units = doubled.div_euclid(minor.under * 2) * minor.above.signum();
        Money {
            amount: Decimal::from_i128_with_scale(units, currency.decimals()),
            currency,
        }
    }

    pub(super) fn ceil(self) -> u64 {
        u64::try_from(-(-self.above).div_euclid(self.under)).unwrap()
    }

    /// Rounded down; what is below zero is zero.
    pub(super) fn floor(self) -> u64 {
        u64::try_from(self.above.div_euclid(self.under)).unwrap_or(0)
    }
}

impl Add for Exact {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::new(
            self.above * other.under + other.above * self.under,
            self.under.checked_mul(other.under).unwrap(),
        )
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.minus(*other).above.cmp(&0))
    }
}
