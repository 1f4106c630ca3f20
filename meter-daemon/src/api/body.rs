//! What a request says, taken apart: a query or a body is an object of fields, every one
//! known and of its type, or the request is refused with what to write instead.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::Problem;
use crate::engine::{
    command::{Change, SettingKey, Until},
    plan::DayOfMonth,
    quantity,
    units::{Currency, Money, PlanName},
};

/// The fields of a query or a body.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// From a body: nothing, or one JSON object.
    pub(super) fn from_body(body: &[u8]) -> Result<Self, Problem> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Map::new()));
        }
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            Problem::new(
                400,
                "not JSON",
                format!("the body is not a JSON object: {error}"),
            )
        })?;
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(Problem::new(
                400,
                "not an object",
                "the body must be one JSON object, such as {\"reason\": \"…\"}",
            )),
        }
    }

    /// From a query string's pairs.
    pub(super) fn from_query(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut fields = Map::new();
        for (key, value) in pairs {
            if fields.insert(key.clone(), Value::String(value)).is_some() {
                return Err(unfit(format!("`{key}` is given twice in the query")));
            }
        }
        Ok(Self(fields))
    }

    /// Refuses every key but these. In a body `renewal-day` and `renewal_day` are the same:
    /// the files write the one, JSON's answers the other.
    pub(super) fn only(self, known: &[&str]) -> Result<Self, Problem> {
        let mut fields = Map::new();
        for (given, value) in self.0 {
            let Some(key) = known
                .iter()
                .find(|key| key.replace('-', "_") == given.replace('-', "_"))
            else {
                let known = match known {
                    [] => "none is known here".to_owned(),
                    known => format!("known here: {}", known.join(", ")),
                };
                return Err(unfit(format!("unknown key `{given}`; {known}")));
            };
            if fields.insert((*key).to_owned(), value).is_some() {
                return Err(unfit(format!("`{key}` is given twice")));
            }
        }
        Ok(Self(fields))
    }

    /// Takes fields of the query in, too.
    pub(super) fn and(mut self, other: Self) -> Result<Self, Problem> {
        for (key, value) in other.0 {
            if self.0.insert(key.clone(), value).is_some() {
                return Err(unfit(format!(
                    "`{key}` is given in the query and in the body"
                )));
            }
        }
        Ok(self)
    }

    /// What is left, as pairs.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = (String, Value)> {
        std::mem::take(&mut self.0).into_iter()
    }

    /// Whatever it is; null is absent.
    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    /// A text; null is absent.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Problem> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(unfit(format!("`{key}` must be a text, found {other}"))),
        }
    }

    /// A text that must be there.
    pub(super) fn required(&mut self, key: &str, example: &str) -> Result<String, Problem> {
        self.text(key)?
            .ok_or_else(|| unfit(format!("`{key}` is missing; write it like {example}")))
    }

    /// A text, read by `parse`.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        self.text(key)?
            .map(|text| parse(&text).map_err(|error| unfit(format!("`{key}`: {error}"))))
            .transpose()
    }

    /// True or false; false where absent. A query writes `true`, or the bare key.
    pub(super) fn flag(&mut self, key: &str) -> Result<bool, Problem> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(Value::String(text)) => match text.as_str() {
                "true" | "1" | "" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(unfit(format!(
                    "`{key}` must be true or false, found `{text}`"
                ))),
            },
            Some(other) => Err(unfit(format!(
                "`{key}` must be true or false, found {other}"
            ))),
        }
    }

    /// `for` or `until`, not both.
    pub(super) fn until(&mut self) -> Result<Option<Until>, Problem> {
        let duration = self.parsed("for", quantity::duration)?;
        let instant = self.parsed("until", parse_instant)?;
        match (duration, instant) {
            (Some(_), Some(_)) => Err(unfit("give `for` or `until`, not both")),
            (Some(duration), None) => Ok(Some(Until::For(duration))),
            (None, Some(instant)) => Ok(Some(Until::At(instant))),
            (None, None) => Ok(None),
        }
    }
}

/// An instant with its offset: RFC 3339.
pub(super) fn parse_instant(text: &str) -> Result<Timestamp, String> {
    // A `+` that was not percent-encoded in a query has become a space.
    text.parse()
        .or_else(|_| text.replace(' ', "+").parse())
        .map_err(|_| {
            format!(
                "expected an instant with offset such as `2026-12-01T00:00:00Z`, found `{text}`"
            )
        })
}

/// An amount, and its currency where it names one: `50`, `-12.50 EUR`.
pub(super) fn parse_amount(text: &str) -> Result<(Decimal, Option<Currency>), String> {
    let (amount, currency) = match text.parse::<Money>() {
        Ok(money) => (money.amount, Some(money.currency)),
        Err(_) => {
            let amount = text.trim().parse().map_err(|_| {
                format!("expected an amount such as `50.00` or `50.00 EUR`, found `{text}`")
            })?;
            (amount, None)
        }
    };
    in_range(amount)?;
    Ok((amount, currency))
}

/// At most 10^9 and nine decimals, so that no product with any volume leaves the range of
/// exact decimals.
fn in_range(amount: Decimal) -> Result<(), String> {
    if amount.abs() > Decimal::from(1_000_000_000) || amount.normalize().scale() > 9 {
        return Err(format!("{amount} is beyond 10^9 or nine decimals"));
    }
    Ok(())
}

/// The key of a setting, by its name.
///
/// # Errors
/// Names the keys there are.
pub(super) fn parse_setting_key(text: &str) -> Result<SettingKey, String> {
    match text.replace('_', "-").as_str() {
        "plan" => Ok(SettingKey::Plan),
        "allowance" => Ok(SettingKey::Allowance),
        "renewal-day" => Ok(SettingKey::RenewalDay),
        "cost-limit" => Ok(SettingKey::CostLimit),
        "auto-unsuspend" => Ok(SettingKey::AutoUnsuspend),
        _ => Err(format!(
            "no setting `{text}`; there are plan, allowance, renewal-day, cost-limit, \
             auto-unsuspend"
        )),
    }
}

/// One `key=value` of `meterd set`, checked: the command line and the control socket take
/// the same values.
///
/// # Errors
/// Says what was expected instead.
pub fn change(key: &str, value: &str) -> Result<Change, String> {
    let wrong = |expected: &str| format!("expected {expected}, found `{value}`");
    match parse_setting_key(key)? {
        SettingKey::Plan if value.trim().is_empty() => Err(wrong("a plan's name")),
        SettingKey::Plan => Ok(Change::Plan(PlanName::from(value.trim()))),
        SettingKey::Allowance => quantity::allowance(value)
            .map(Change::Allowance)
            .map_err(|wrong| wrong.to_string()),
        SettingKey::RenewalDay => value
            .trim()
            .parse()
            .ok()
            .and_then(DayOfMonth::new)
            .map(Change::RenewalDay)
            .ok_or_else(|| wrong("a day of the month from 1 to 31")),
        SettingKey::CostLimit if value.trim() == "none" => Ok(Change::CostLimit(None)),
        SettingKey::CostLimit => match value.parse::<Money>() {
            Ok(limit) if limit.amount.is_sign_negative() => {
                Err(wrong("an amount that is not negative"))
            }
            Ok(limit) => in_range(limit.amount).map(|()| Change::CostLimit(Some(limit))),
            Err(error) => Err(format!("{error}, or `none`; found `{value}`")),
        },
        SettingKey::AutoUnsuspend => match value.trim() {
            "on" | "true" => Ok(Change::AutoUnsuspend(true)),
            "off" | "false" => Ok(Change::AutoUnsuspend(false)),
            _ => Err(wrong("`on` or `off`")),
        },
    }
}

/// A value of `set` in a body: text as on the command line, or JSON's own number, truth or
/// null.
pub(super) fn change_from_json(key: &str, value: &Value) -> Result<Change, Problem> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        other => return Err(unfit(format!("`{key}` must be a text, found {other}"))),
    };
    change(key, &text).map_err(|error| unfit(format!("`{key}`: {error}")))
}

/// The request is understood and does not fit.
pub(super) fn unfit(detail: impl std::fmt::Display) -> Problem {
    Problem::new(422, "not a valid request", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{plan::Allowance, units::Bytes};

    #[test]
    fn every_setting_takes_its_values_and_refuses_others() {
        for (key, value, expected) in [
            ("plan", "edis-2tb", Change::Plan("edis-2tb".into())),
            (
                "allowance",
                "2 TB",
                Change::Allowance(Allowance::Limited(Bytes(2_000_000_000_000))),
            ),
            (
                "allowance",
                "unlimited",
                Change::Allowance(Allowance::Unlimited),
            ),
            (
                "renewal-day",
                "31",
                Change::RenewalDay(DayOfMonth::new(31).unwrap()),
            ),
            ("renewal_day", "1", Change::RenewalDay(DayOfMonth::FIRST)),
            (
                "cost-limit",
                "10 USD",
                Change::CostLimit(Some("10 USD".parse().unwrap())),
            ),
            ("cost-limit", "none", Change::CostLimit(None)),
            ("auto-unsuspend", "on", Change::AutoUnsuspend(true)),
            ("auto-unsuspend", "off", Change::AutoUnsuspend(false)),
        ] {
            assert_eq!(change(key, value), Ok(expected), "{key}={value}");
        }
        for (key, value) in [
            ("plan", ""),
            ("allowance", "2"),
            ("renewal-day", "0"),
            ("renewal-day", "32"),
            ("renewal-day", "287"),
            ("cost-limit", "10"),
            ("cost-limit", "-1 USD"),
            ("cost-limit", "1000000000.01 USD"),
            ("cost-limit", "0.0000000001 USD"),
            ("auto-unsuspend", "maybe"),
            ("colour", "red"),
        ] {
            change(key, value).unwrap_err();
        }
    }

    #[test]
    fn an_offset_whose_plus_was_not_encoded_is_still_understood() {
        let expected: Timestamp = "2026-11-30T23:00:00Z".parse().unwrap();
        for text in [
            "2026-12-01T00:00:00+01:00",
            "2026-12-01T00:00:00 01:00",
            "2026-11-30T23:00:00Z",
        ] {
            assert_eq!(parse_instant(text), Ok(expected), "{text}");
        }
        parse_instant("2026-12-01").unwrap_err();
    }

    #[test]
    fn an_amount_may_name_its_currency() {
        assert_eq!(parse_amount("50"), Ok((Decimal::from(50), None)));
        assert_eq!(
            parse_amount("-2.50 EUR"),
            Ok((Decimal::new(-250, 2), Currency::new("EUR")))
        );
        parse_amount("fifty").unwrap_err();
        parse_amount("50 euro").unwrap_err();
        parse_amount("-1000000001").unwrap_err();
    }
}
