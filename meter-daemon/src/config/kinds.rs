//! The kinds of string that the files hold: what each is called, one that is right, and how
//! it is read.

use std::{net::IpAddr, net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use jiff::{SignedDuration, tz::TimeZone};
use regex::Regex;
use rust_decimal::Decimal;

use super::{
    discover::Mac,
    table::{Kind, nearest},
};
use crate::engine::{
    plan::{Allowance, CostThreshold, Percent, Threshold},
    quantity::{self, Wrong, quoted},
    units::{AccountId, BitsPerSecond, Bytes, Currency, MachineId, Money, PlanName},
};

pub(super) const VOLUME: Kind<Bytes> = Kind {
    what: "a volume",
    example: "1 TB",
    parse: quantity::volume,
};
pub(super) const ALLOWANCE: Kind<Allowance> = Kind {
    what: "an allowance",
    example: "1 TB",
    parse: quantity::allowance,
};
pub(super) const RATE: Kind<BitsPerSecond> = Kind {
    what: "a rate",
    example: "64 kbit/s",
    parse: quantity::rate,
};
pub(super) const CIVIL_DAYS: Kind<u32> = Kind {
    what: "a number of days",
    example: "5d",
    parse: quantity::civil_days,
};
pub(super) const PERCENT: Kind<Percent> = Kind {
    what: "a percentage",
    example: "20%",
    parse: quantity::percent,
};
pub(super) const PRICE: Kind<Decimal> = Kind {
    what: "a price",
    example: "0.02",
    parse: quantity::price,
};
pub(super) const MONEY: Kind<Money> = Kind {
    what: "an amount of money",
    example: "10 USD",
    parse: quantity::money,
};
pub(super) const BALANCE: Kind<Money> = Kind {
    what: "a balance",
    example: "50 EUR",
    parse: quantity::balance,
};

/// A duration, whose text a rule's name repeats.
pub(super) const DURATION: Kind<(SignedDuration, String)> = Kind {
    what: "a duration",
    example: "24h",
    parse: |text| Ok((quantity::duration(text)?, quantity::duration_name(text))),
};
/// A share of the daily allowance, whose text a rule's name repeats.
pub(super) const SHARE: Kind<(Percent, String)> = Kind {
    what: "a percentage",
    example: "100%",
    parse: |text| Ok((quantity::percent(text)?, quantity::figure_name(text))),
};
/// A share of the allowance or a volume, whose text a rule's name repeats.
pub(super) const THRESHOLD: Kind<(Threshold, String)> = Kind {
    what: "a percentage of the allowance or a volume",
    example: "100%",
    parse: |text| {
        let threshold = match text.trim_end().ends_with('%') {
            true => Threshold::Percent(quantity::percent(text)?),
            false => Threshold::Volume(quantity::volume(text).map_err(|wrong| bare(text, wrong))?),
        };
        Ok((threshold, quantity::figure_name(text)))
    },
};
/// A share of the cost limit or an amount, whose text a rule's name repeats.
pub(super) const COST_THRESHOLD: Kind<(CostThreshold, String)> = Kind {
    what: "a percentage of the cost limit or an amount of money",
    example: "100%",
    parse: |text| {
        let threshold = match text.trim_end().ends_with('%') {
            true => CostThreshold::Percent(quantity::percent(text)?),
            false => CostThreshold::Amount(quantity::money(text).map_err(|w| bare(text, w))?),
        };
        Ok((threshold, quantity::figure_name(text)))
    },
};

/// A threshold that is a bare number was most likely meant as a percentage.
fn bare(text: &str, wrong: Wrong) -> Wrong {
    let percent = format!("{}%", text.trim());
    match quantity::percent(&percent) {
        Ok(_) => Wrong::new(
            format!("{} has neither a percent sign nor a unit", quoted(text)),
            percent,
        ),
        Err(_) => wrong,
    }
}

pub(super) const CURRENCY: Kind<Currency> = Kind {
    what: "a currency",
    example: "EUR",
    parse: |text| {
        Currency::new(text).ok_or_else(|| {
            let upper = text.trim().to_ascii_uppercase();
            let instead = Currency::new(&upper).map_or("EUR", |_| upper.as_str());
            Wrong::new(
                format!("{} is not a currency code of three capitals", quoted(text)),
                instead,
            )
        })
    },
};

pub(super) const TIME_ZONE: Kind<TimeZone> = Kind {
    what: "a time zone",
    example: "Europe/Vienna",
    parse: time_zone,
};

fn time_zone(text: &str) -> Result<TimeZone, Wrong> {
    if let Ok(zone) = TimeZone::get(text) {
        return Ok(zone);
    }
    let names: Vec<String> = jiff::tz::db()
        .available()
        .map(|name| name.to_string())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let city = |name: &&&str| {
        name.rsplit_once('/')
            .is_some_and(|(_, city)| city.eq_ignore_ascii_case(text.trim()))
    };
    let meant = names
        .iter()
        .find(city)
        .copied()
        .or_else(|| nearest(text, &names));
    Err(Wrong::new(
        format!("{} is not a time zone of the tz database", quoted(text)),
        meant.unwrap_or("Europe/Vienna"),
    ))
}

pub(super) const PREFIX: Kind<IpNet> = Kind {
    what: "an address prefix",
    example: "10.0.0.0/8",
    parse: prefix,
};

fn prefix(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let wrong = || {
        Wrong::new(
            format!("{} is not an address prefix", quoted(text)),
            "10.0.0.0/8",
        )
    };
    let net: IpNet = text.parse().map_err(|_| wrong())?;
    if net.trunc() == net {
        return Ok(net);
    }
    Err(Wrong::new(
        format!("{} has address bits behind its prefix length", quoted(text)),
        net.trunc().to_string(),
    ))
}

/// Where `/metrics` listens; empty switches it off.
pub(super) const LISTEN: Kind<Option<SocketAddr>> = Kind {
    what: "an address and port",
    example: "127.0.0.1:9750",
    parse: |text| {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            let port = text
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            let instead = match (text.parse::<IpAddr>(), port) {
                (Ok(address), _) => SocketAddr::new(address, 9750).to_string(),
                (Err(_), Some(port)) if text.starts_with('*') => format!("0.0.0.0:{port}"),
                (Err(_), port) => format!("127.0.0.1:{}", port.unwrap_or(9750)),
            };
            Wrong::new(
                format!("{} is not an IP address with a port", quoted(text)),
                instead,
            )
        })
    },
};

pub(super) const PATH: Kind<PathBuf> = Kind {
    what: "a path",
    example: "/var/lib/meterd",
    parse: |text| match text {
        "" => Err(Wrong::new("this path is empty", "/var/lib/meterd")),
        _ if text.contains('\0') => Err(Wrong::new("a path holds no NUL", "/var/lib/meterd")),
        _ => Ok(text.into()),
    },
};

/// Ids appear in URLs, metrics and files.
pub(super) const MACHINE: Kind<MachineId> = Kind {
    what: "a machine's id",
    example: "web1",
    parse: |text| id(text, "a machine's id").map(MachineId::from),
};
pub(super) const ACCOUNT: Kind<AccountId> = Kind {
    what: "an account's id",
    example: "acme",
    parse: |text| id(text, "an account's id").map(AccountId::from),
};
pub(super) const PLAN: Kind<PlanName> = Kind {
    what: "a plan's name",
    example: "edis",
    parse: |text| plan_name(text),
};

const LONGEST_ID: usize = 128;

pub(super) fn in_ids(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-')
}

fn id<'a>(text: &'a str, what: &str) -> Result<&'a str, Wrong> {
    let only_dots = text.bytes().all(|b| b == b'.');
    if !only_dots && text.len() <= LONGEST_ID && text.chars().all(in_ids) {
        return Ok(text);
    }
    let fit: String = text
        .trim()
        .chars()
        .map(|c| if in_ids(c) { c } else { '-' })
        .collect();
    let fit = fit.get(..fit.len().min(LONGEST_ID)).unwrap_or_default();
    let fit = if fit.bytes().all(|b| b == b'.') {
        "web1"
    } else {
        fit
    };
    let rule = "letters, digits and . _ : -, at most 128, since it stands in URLs and metrics";
    Err(Wrong::new(
        format!("{} cannot be {what}: {rule}", quoted(text)),
        fit,
    ))
}

/// A plan's name is its file's; it stands in URLs, metrics and rules.
pub(super) fn plan_name(text: &str) -> Result<PlanName, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(fits) && !text.starts_with('.') {
        return Ok(text.into());
    }
    let fit: String = text
        .trim()
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .collect();
    let fit = fit.trim_start_matches('.');
    let fit = fit
        .get(..fit.len().min(64))
        .filter(|fit| !fit.is_empty())
        .unwrap_or("edis");
    let rule = "letters, digits and . _ -, at most 64";
    Err(Wrong::new(
        format!("{} cannot be a plan's name: {rule}", quoted(text)),
        fit,
    ))
}

pub(super) const INTERFACE: Kind<String> = Kind {
    what: "an interface's name",
    example: "tap101i0",
    parse: |text| {
        // What the kernel's dev_valid_name() takes.
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
        if !text.is_empty()
            && text.len() <= 15
            && !text.contains(odd)
            && !matches!(text, "." | "..")
        {
            return Ok(text.to_owned());
        }
        let rule = "1 to 15 bytes without / : or blanks";
        let message = format!("{} cannot be an interface's name: {rule}", quoted(text));
        Err(Wrong::new(message, "tap101i0"))
    },
};

pub(super) const MAC: Kind<Mac> = Kind {
    what: "a MAC address",
    example: "52:54:00:12:34:56",
    parse: mac,
};

fn mac(text: &str) -> Result<Mac, Wrong> {
    let text = text.trim();
    let wrong = |why: &str, instead: &str| {
        Err(Wrong::new(
            format!("{} is not a guest's MAC address: {why}", quoted(text)),
            instead,
        ))
    };
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut address = [0; 6];
    for (n, octet) in address.iter_mut().enumerate() {
        let pair = digits.get(2 * n..2 * n + 2).unwrap_or_default();
        match u8::from_str_radix(pair, 16) {
            Ok(value) => *octet = value,
            Err(_) => return wrong("six pairs of hex digits", MAC.example),
        }
    }
    let written = Mac(address);
    let separators = text
        .chars()
        .filter(|c| !c.is_ascii_hexdigit())
        .all(|c| c == ':');
    if digits.len() != 12 || !separators || !text.eq_ignore_ascii_case(&written.to_string()) {
        let instead = if digits.len() == 12 {
            written.to_string()
        } else {
            MAC.example.into()
        };
        return wrong("six pairs of hex digits with colons between", &instead);
    }
    if address == [0; 6] || address[0] & 1 == 1 {
        return wrong("it is zero or a group address", MAC.example);
    }
    Ok(written)
}

pub(super) const PATTERN: Kind<Regex> = Kind {
    what: "a pattern for interface names",
    example: r"^tap(?<machine>\d+)i\d+$",
    parse: |text| {
        let pattern = regex::RegexBuilder::new(text)
            .size_limit(1 << 20)
            .build()
            .map_err(|why| {
                let why = why.to_string();
                let last = why
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ");
                Wrong::new(format!("this pattern is broken: {last}"), PATTERN.example)
            })?;
        let named: Vec<&str> = pattern.capture_names().flatten().collect();
        match named.first() {
            Some(other) if !named.contains(&"machine") => Err(Wrong::new(
                format!(
                    "no group is called `machine`, which makes the id; one is called {}",
                    quoted(other)
                ),
                text.replacen(&format!("<{other}>"), "<machine>", 1),
            )),
            _ => Ok(pattern),
        }
    },
};

pub(super) const EMAIL: Kind<String> = Kind {
    what: "an e-mail address",
    example: "owner@example.com",
    parse: |text| {
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ',');
        match text.split_once('@') {
            Some((name, domain))
                if !name.is_empty()
                    && !domain.is_empty()
                    && !domain.contains('@')
                    && text.len() <= 254
                    && !text.contains(odd) =>
            {
                Ok(text.to_owned())
            }
            _ => Err(Wrong::new(
                format!("{} is not an e-mail address", quoted(text)),
                "owner@example.com",
            )),
        }
    },
};

pub(super) const TEXT: Kind<String> = Kind {
    what: "a text",
    example: "traffic",
    parse: |text| match text.is_empty() || text.contains(char::is_control) {
        true => Err(Wrong::new(
            "this text is empty or has control characters",
            "traffic",
        )),
        false => Ok(text.to_owned()),
    },
};
