//! What more volume a machine may want, and what it costs.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    desk::Desk,
    machine::Machine,
    money::{price_of, prorated},
    plan::{Plan, Rule, Trigger},
    units::{Bytes, MachineId, Money, PlanName},
};

/// An offer of extra volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// For which machine.
    pub machine: MachineId,
    /// What it has used in this period.
    pub used: Bytes,
    /// The current limit, with what was added; null when unlimited.
    pub allowance: Option<Bytes>,
    /// Used at the period's end at the current rate; null in its first 24 hours.
    pub forecast: Option<Bytes>,
    /// The extra volume that would cover the forecast, in whole TB.
    pub recommended: Bytes,
    /// Whether prices are for the time left of the period.
    pub prorated: bool,
    /// What can be chosen.
    pub choices: Vec<Choice>,
    /// Whether another plan would do better, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// A volume and its price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// In whole TB.
    pub volume: Bytes,
    /// Null where the plan has no price for it.
    pub cost: Option<Money>,
}

const TB: u64 = 1_000_000_000_000;
/// Choices without and beyond the recommended one.
const CHOICES: u64 = 5;
/// More than that nobody is offered.
const MOST: u64 = 1_000;

impl Machine {
    /// What a volume costs if it is added now; `None` where the plan has no price for it.
    pub(crate) fn extra_cost(&self, volume: Bytes, now: Timestamp) -> Option<Money> {
        let (extra, currency) = self.terms.extra_price()?;
        let amount = if extra.prorated {
            prorated(volume, extra.tariff, &self.period(), now)
        } else {
            price_of(volume, extra.tariff)
        };
        Some(Money { amount, currency }.rounded())
    }

    pub(crate) fn offer(&self, now: Timestamp, plans: &BTreeMap<PlanName, Arc<Plan>>) -> Offer {
        let forecast = self.forecast(now);
        let allowance = self.allowance();
        let wanted = forecast.unwrap_or_default().max(self.used());
        let short = allowance.map_or(Bytes::ZERO, |allowance| wanted.saturating_sub(allowance));
        let recommended = short.0.div_ceil(TB).min(MOST);
        let choices = (1..=CHOICES.max(recommended + 2).min(MOST))
            // A long list is thinned: every one up to the first few, then around the best.
            .filter(|volume| *volume <= CHOICES || volume.abs_diff(recommended) <= 2)
            .map(|volume| Bytes(volume * TB))
            .map(|volume| Choice {
                volume,
                cost: self.extra_cost(volume, now),
            })
            .collect();
        Offer {
            machine: self.id.clone(),
            used: self.used(),
            allowance,
            forecast,
            recommended: Bytes(recommended * TB),
            prorated: self
                .terms
                .extra_price()
                .is_some_and(|(extra, _)| extra.prorated),
            choices,
            advice: self.advice(plans),
        }
    }

    /// The offer that a notice of `rule` carries: where volume is sold, and more would help.
    pub(crate) fn offer_in_notice(
        &self,
        rule: &Rule,
        now: Timestamp,
        desk: &Desk<'_>,
    ) -> Option<Offer> {
        let helps = matches!(
            rule.trigger,
            Trigger::Used(_) | Trigger::Over(_) | Trigger::Forecast(_)
        );
        (helps && self.terms.extra_price().is_some() && self.allowance().is_some())
            .then(|| self.offer(now, &desk.terms.plans))
    }
}

impl Offer {
    /// The offer in one or two sentences, for a notice.
    #[must_use]
    pub fn sentence(&self) -> String {
        let limit = match self.allowance {
            Some(allowance) => allowance.to_string(),
            None => "unlimited".to_owned(),
        };
        let forecast = match self.forecast {
            Some(forecast) => format!("; forecast at the current rate: {forecast}"),
            None => String::new(),
        };
        let recommended = match self.recommended {
            Bytes::ZERO => String::new(),
            volume => format!("; recommended extra volume: {volume}"),
        };
        let choices: Vec<_> = self
            .choices
            .iter()
            .map(|choice| match choice.cost {
                Some(cost) => format!("{} for {cost}", choice.volume),
                None => choice.volume.to_string(),
            })
            .collect();
        format!(
            "Current limit: {limit}{forecast}{recommended}. You can add {}.",
            choices.join(", ")
        )
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} has used {}.", self.machine, self.used)?;
        write!(f, "{}", self.sentence())?;
        if self.prorated {
            write!(f, " Prices are for the time left of the period.")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, " {advice}")?;
        }
        Ok(())
    }
}
