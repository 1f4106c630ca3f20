//! meterd.toml: where things are kept, how often the counters are read, and what is metered.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, tz::TimeZone};

use super::{
    AttachMode, CircuitBreaker, Config, CountBytes, Retention,
    delivery::{self, Smtp, Webhook},
    discover::Discover,
    hypervisor,
    kinds::{DURATION, LISTEN, PATH, PERCENT, PREFIX, TIME_ZONE},
    machine::{self, LocatedAccount, Machine},
    problem::Located,
    table::{Kind, Table},
};
use crate::engine::{
    quantity::{self, Wrong},
    units::PlanName,
};

/// The keys of the top of meterd.toml.
pub(super) const KEYS: &[&str] = &[
    "state-directory",
    "runtime-directory",
    "pin-directory",
    "poll-interval",
    "time-zone",
    "count-bytes",
    "dry-run",
    "attach",
    "max-interfaces",
    "exempt",
    "metrics",
    "discover",
    "machine",
    "account",
    "smtp",
    "webhook",
    "circuit-breaker",
    "retention",
];

/// meterd.toml, with the places that checks across files point at.
#[derive(Debug)]
pub(super) struct Node {
    /// The settings; machines, accounts, plans and patterns are not in it yet.
    pub(super) settings: Config,
    pub(super) patterns: Vec<(Discover, Option<Located<PlanName>>)>,
    pub(super) machines: Vec<Machine>,
    pub(super) accounts: Vec<LocatedAccount>,
}

/// Reads meterd.toml. `directory` is the one it lies in, to which its paths are relative.
pub(super) fn read(table: Table<'_>, directory: &Path) -> Node {
    let defaults = Config::default();
    let path = |key, default: PathBuf| {
        table
            .read(key, &PATH)
            .map_or(default, |path| directory.join(path.value))
    };
    let settings = Config {
        state_directory: path("state-directory", defaults.state_directory),
        runtime_directory: path("runtime-directory", defaults.runtime_directory),
        pin_directory: path("pin-directory", defaults.pin_directory),
        poll_interval: poll_interval(&table).unwrap_or(defaults.poll_interval),
        time_zone: read_or(&table, "time-zone", &TIME_ZONE, TimeZone::UTC),
        count_bytes: count_bytes(&table),
        dry_run: table.switch("dry-run").unwrap_or(false),
        attach: attach(&table),
        max_interfaces: table
            .integer("max-interfaces", 1..=65_536)
            .unwrap_or(defaults.max_interfaces),
        exempt: table
            .list("exempt", &PREFIX)
            .into_iter()
            .map(|prefix| prefix.value)
            .collect(),
        metrics_listen: metrics(&table, defaults.metrics_listen),
        smtp: smtp(&table, directory),
        webhooks: webhooks(&table, directory),
        circuit_breaker: circuit_breaker(&table, defaults.circuit_breaker),
        retention: retention(&table, defaults.retention),
        ..defaults
    };
    let patterns = table
        .tables("discover", "[[discover]]")
        .into_iter()
        .filter_map(hypervisor::discover)
        .collect();
    let (machines, accounts) = machine::both(&table);
    table.finish();
    Node {
        settings,
        patterns,
        machines,
        accounts,
    }
}

fn read_or<T>(table: &Table<'_>, key: &'static str, kind: &Kind<T>, default: T) -> T {
    table.read(key, kind).map_or(default, |found| found.value)
}

fn poll_interval(table: &Table<'_>) -> Option<Duration> {
    const INTERVAL: Kind<Duration> = Kind {
        what: "the time between two readings",
        example: "60s",
        parse: |text| {
            let interval = quantity::duration(text)?;
            let (least, most) = (SignedDuration::from_secs(1), SignedDuration::from_hours(1));
            match interval {
                shorter if shorter < least => {
                    Err(Wrong::new("readings are at least a second apart", "1s"))
                }
                longer if longer > most => {
                    Err(Wrong::new("readings are at most an hour apart", "1h"))
                }
                fitting => Ok(fitting.unsigned_abs()),
            }
        },
    };
    table
        .read("poll-interval", &INTERVAL)
        .map(|interval| interval.value)
}

fn count_bytes(table: &Table<'_>) -> CountBytes {
    let words = [
        ("wire", CountBytes::Wire),
        ("frame", CountBytes::Frame),
        ("ip", CountBytes::Ip),
    ];
    table
        .word("count-bytes", &words)
        .map(|word| word.value)
        .unwrap_or_default()
}

fn attach(table: &Table<'_>) -> AttachMode {
    let words = [
        ("auto", AttachMode::Auto),
        ("tcx", AttachMode::Tcx),
        ("clsact", AttachMode::Clsact),
    ];
    table
        .word("attach", &words)
        .map(|word| word.value)
        .unwrap_or_default()
}

fn metrics(table: &Table<'_>, default: Option<SocketAddr>) -> Option<SocketAddr> {
    let Some(metrics) = table.table("metrics", "[metrics]") else {
        return default;
    };
    let listen = read_or(&metrics, "listen", &LISTEN, default);
    metrics.finish();
    listen
}

fn smtp(table: &Table<'_>, directory: &Path) -> Option<Smtp> {
    table
        .table("smtp", "[smtp]")
        .and_then(|table| delivery::smtp(table, directory))
}

fn webhooks(table: &Table<'_>, directory: &Path) -> Vec<Webhook> {
    let webhooks = table.tables("webhook", "[[webhook]]").into_iter();
    webhooks
        .filter_map(|table| delivery::webhook(table, directory))
        .collect()
}

fn circuit_breaker(table: &Table<'_>, default: CircuitBreaker) -> CircuitBreaker {
    let Some(breaker) = table.table("circuit-breaker", "[circuit-breaker]") else {
        return default;
    };
    let found = CircuitBreaker {
        machines: breaker
            .integer("machines", 0..=u32::MAX)
            .unwrap_or(default.machines),
        share: read_or(&breaker, "share", &PERCENT, default.share),
    };
    if found.share.0 > rust_decimal::Decimal::ONE_HUNDRED {
        breaker.problems.error(
            &breaker.place_of("share"),
            "there are no more machines than 100%",
            "write: share = \"20%\"; 100% switches the circuit breaker off",
        );
    }
    breaker.finish();
    found
}

fn retention(table: &Table<'_>, default: Retention) -> Retention {
    let Some(retention) = table.table("retention", "[retention]") else {
        return default;
    };
    let read = |key, default| match retention.read(key, &DURATION) {
        None => default,
        Some(Located {
            value: (span, _),
            place,
        }) => {
            if span < SignedDuration::from_hours(24) {
                retention.problems.error(
                    &place,
                    "usage is kept for a day at least",
                    format!("write: {key} = \"35d\""),
                );
            }
            span
        }
    };
    let found = Retention {
        minutes: read("minutes", default.minutes),
        hours: read("hours", default.hours),
        days: read("days", default.days),
    };
    retention.finish();
    found
}
