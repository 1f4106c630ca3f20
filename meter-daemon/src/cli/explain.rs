//! `explain` and `offer`: sentences about one machine.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Context, Failure, Format,
    client::{path, understood},
    failure::Exit,
    out::{self, Side, Style, Table, plain},
};
use crate::engine::units::Bytes;

/// What is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which one
    machine: String,
    #[command(flatten)]
    format: Format,
}

/// Why the state is what it is.
pub(super) fn explain(args: &Args, context: &Context) -> Result<(), Failure> {
    let found = context
        .daemon()?
        .get(&path(&["v1", "machines", &args.machine, "explain"], &[]))?;
    if args.format.json {
        return out::print_json(&found);
    }
    let sentences = found
        .get("sentences")
        .and_then(Value::as_array)
        .ok_or_else(|| {
            Failure::new(
                Exit::SOFTWARE,
                "the daemon's explanation is not understood: no sentences",
            )
        })?;
    let lines = sentences
        .iter()
        .filter_map(Value::as_str)
        .map(|text| plain(text) + "\n");
    out::print(&lines.collect::<String>())
}

/// What more would cover the forecast.
pub(super) fn offer(args: &Args, context: &Context) -> Result<(), Failure> {
    let found = context
        .daemon()?
        .get(&path(&["v1", "machines", &args.machine, "offer"], &[]))?;
    if args.format.json {
        return out::print_json(&found);
    }
    out::print(&offered(found, &args.machine, context.style)?)
}

#[derive(Debug, Deserialize)]
struct Offer {
    allowance: Option<Bytes>,
    forecast: Option<Bytes>,
    recommended: Option<Bytes>,
    /// Prices are for the time left of the period.
    #[serde(default)]
    prorated: bool,
    choices: Vec<Choice>,
    /// Whether another plan would do better.
    advice: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    volume: Bytes,
    cost: Option<String>,
}

fn offered(found: Value, machine: &str, style: Style) -> Result<String, Failure> {
    let offer: Offer = understood(found, "offer")?;
    let mut text = String::new();
    let allowance = out::volume(offer.allowance, "unlimited");
    let forecast = out::volume(offer.forecast, "none yet: too little history");
    let recommended = match offer.recommended {
        Some(Bytes::ZERO) | None => "nothing".to_owned(),
        Some(volume) => volume.to_string(),
    };
    let _ = writeln!(
        text,
        "    allowance  {allowance}\n     forecast  {forecast}"
    );
    let _ = writeln!(text, "  recommended  {recommended}");
    if offer.choices.is_empty() {
        return Ok(text);
    }
    let mut table = Table::new(&[("ADD", Side::Right), ("COST", Side::Right)], style);
    for choice in &offer.choices {
        let cost = choice.cost.clone().unwrap_or_else(|| "-".to_owned());
        table.row([choice.volume.to_string(), cost]);
    }
    let _ = write!(text, "\n{}\n", table.render());
    if offer.prorated {
        text.push_str("The cost is for the time left of the period.\n");
    }
    if let Some(advice) = &offer.advice {
        text.push_str(&(plain(advice) + "\n"));
    }
    let machine = plain(machine);
    let _ = writeln!(text, "Take one with `meterd top-up {machine} VOLUME`.");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_offer_shows_limit_forecast_recommendation_and_the_choices_with_their_cost() {
        let found = json!({
            "machine": "web1", "allowance": 5_000_000_000_000_u64,
            "forecast": 7_200_000_000_000_u64, "recommended": 2_200_000_000_000_u64,
            "prorated": true, "advice": "A bigger plan is cheaper.", "choices": [
                {"volume": 3_000_000_000_000_u64, "cost": "4.50 EUR"},
                {"volume": 10_000_000_000_000_u64, "cost": "15.00 EUR"},
            ],
        });
        insta::assert_snapshot!(offered(found, "web1", Style::default()).unwrap(), @r#"
            allowance  5 TB
             forecast  7.2 TB
          recommended  2.2 TB

          ADD       COST
         3 TB   4.50 EUR
        10 TB  15.00 EUR

        The cost is for the time left of the period.
        A bigger plan is cheaper.
        Take one with `meterd top-up web1 VOLUME`.
        "#);
    }
}
