//! The units that every module speaks: volumes, rates, money and names, each a type of its own.

use std::{borrow::Borrow, fmt, ops, sync::Arc};

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// A volume of traffic in bytes. Displayed in decimal units (1 GB = 10^9 B).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No traffic at all.
    pub const ZERO: Self = Self(0);
    /// More than any machine can move; stands for "no limit" only in arithmetic.
    pub const MAX: Self = Self(u64::MAX);

    /// The sum, or `MAX` where it would not fit (2^64 bytes are 58 years at 80 Gbit/s).
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero where `other` is the larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The difference, or `None` where `other` is the larger.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }
}

impl ops::Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl ops::AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(volumes: I) -> Self {
        volumes.fold(Self::ZERO, ops::Add::add)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(
            self.0,
            &[("PB", 15), ("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)],
            "B",
        ))
    }
}

/// A rate in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitsPerSecond(pub u64);

impl fmt::Display for BitsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(
            self.0,
            &[("Gbit/s", 9), ("Mbit/s", 6), ("kbit/s", 3)],
            "bit/s",
        ))
    }
}

/// `number` in the largest of `units` (name, power of ten) that it reaches, with up to two
/// decimals, rounded down so that a limit never looks passed before it is.
fn scaled(number: u64, units: &[(&str, u32)], base: &str) -> String {
    for (unit, power) in units {
        let one = 10_u64.pow(*power);
        if number >= one {
            let hundredths = (number % one) / (one / 100);
            return match (hundredths / 10, hundredths % 10) {
                (0, 0) => format!("{} {unit}", number / one),
                (tenths, 0) => format!("{}.{tenths} {unit}", number / one),
                _ => format!("{}.{hundredths:02} {unit}", number / one),
            };
        }
    }
    format!("{number} {base}")
}

/// A currency by its ISO 4217 code, with the number of decimals of its minor unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: [u8; 3],
}

impl Currency {
    /// The currency named by three ASCII capitals, or `None` for anything else.
    #[must_use]
    pub fn new(code: &str) -> Option<Self> {
        let code: [u8; 3] = code.as_bytes().try_into().ok()?;
        code.iter()
            .all(u8::is_ascii_uppercase)
            .then_some(Self { code })
    }

    /// The ISO 4217 code.
    #[must_use]
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or("???")
    }

    /// Decimals of the minor unit (ISO 4217: 2 for most, 0 and 3 for some).
    #[must_use]
    pub fn decimals(&self) -> u32 {
        match &self.code {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG"
            | b"RWF" | b"UGX" | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            _ => 2,
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&code).ok_or_else(|| serde::de::Error::custom(format!("`{code}` is no currency")))
    }
}

/// An amount of money. Displayed and written in JSON as `12.50 EUR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    /// How much; exact, not necessarily rounded to the minor unit.
    pub amount: Decimal,
    /// Of what.
    pub currency: Currency,
}

impl Money {
    /// The same amount rounded to the currency's minor unit, halves away from zero.
    #[must_use]
    pub fn rounded(self) -> Self {
        let amount = self.amount.round_dp_with_strategy(
            self.currency.decimals(),
            rust_decimal::RoundingStrategy::MidpointAwayFromZero,
        );
        Self { amount, ..self }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At least the minor unit's decimals, and all there are beyond.
        let decimals = self
            .amount
            .normalize()
            .scale()
            .max(self.currency.decimals());
        f.pad(&format!(
            "{:.*} {}",
            decimals as usize, self.amount, self.currency
        ))
    }
}

impl std::str::FromStr for Money {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (amount, currency) = text
            .trim()
            .split_once(' ')
            .ok_or("expected an amount and a currency: `10 USD`")?;
        Ok(Self {
            amount: amount
                .parse()
                .map_err(|_| format!("`{amount}` is not a decimal number such as 10 or 1.50"))?,
            currency: Currency::new(currency.trim())
                .ok_or_else(|| format!("`{currency}` is not a currency code such as EUR"))?,
        })
    }
}

impl Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// A machine: a VM or a container, over all its interfaces.
    MachineId
}
name! {
    /// A customer's account: who pays, who is told, whose pool it is.
    AccountId
}
name! {
    /// A plan, by the name of its file.
    PlanName
}
name! {
    /// A rule, by trigger and figure: `used 105%`, `used 100% after 24h`, `overdue`.
    RuleName
}
name! {
    /// An invoice's number.
    InvoiceNumber
}

/// Traffic as the guest sees it, over some span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// What the guest received: egress of its tap.
    pub received: Bytes,
    /// What the guest sent: ingress of its tap.
    pub sent: Bytes,
    /// Either way, to or from an exempt prefix; in neither of the other two.
    pub exempt: Bytes,
}

impl Traffic {
    /// Nothing moved.
    pub const ZERO: Self = Self {
        received: Bytes::ZERO,
        sent: Bytes::ZERO,
        exempt: Bytes::ZERO,
    };

    /// Whether nothing moved.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl ops::Add for Traffic {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            sent: self.sent + other.sent,
            exempt: self.exempt + other.exempt,
        }
    }
}

impl ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, ops::Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_read_in_the_largest_unit_they_reach_and_never_round_up() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1 kB"),
            (1_999_999, "1.99 MB"),
            (1_500_000_000_000, "1.5 TB"),
            (1_050_000_000_000, "1.05 TB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(BitsPerSecond(64_000).to_string(), "64 kbit/s");
    }

    #[test]
    fn money_shows_its_minor_unit_and_what_lies_beyond() {
        for (text, shown) in [
            ("10 USD", "10.00 USD"),
            ("0.005 EUR", "0.005 EUR"),
            ("100 JPY", "100 JPY"),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!(money.to_string(), shown);
        }
        assert!("10".parse::<Money>().is_err());
        assert!("10 eur".parse::<Money>().is_err());
    }
}
