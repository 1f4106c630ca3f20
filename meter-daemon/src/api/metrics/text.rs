//! Writing the figures down: OpenMetrics 1.0, or the classic text format 0.0.4.
//!
//! By hand, because a snapshot of figures is neither a registry nor of one dialect:
//! `prometheus-client` writes OpenMetrics alone, and its `_total`-less families are untyped
//! to whoever reads the classic text.

use std::{
    fmt::{Display, Write},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Figures,
    families::{FAMILIES, Family, Kind, Source},
};

/// promtool 2.42's `check metrics`, which the classic text must pass, refuses the word
/// `counter` in a name. Prometheus itself asks for OpenMetrics and gets it.
const NOT_CLASSIC: &str = "meterd_counter_restarts_total";

/// Rows of a family that are written at a time.
const PAGE: usize = 512;

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenMetrics,
    Classic,
}

impl Dialect {
    /// What a scraper's `Accept` prefers; the classic text where it does not say.
    pub(super) fn wanted(accept: &str) -> Self {
        let (mut open, mut classic) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts
                .find_map(|parameter| parameter.strip_prefix("q=")?.parse().ok())
                .unwrap_or(1.0_f32);
            match media.as_str() {
                "application/openmetrics-text" => open = open.max(weight),
                "text/plain" => classic = classic.max(weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= classic {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The text, a page at a time.
pub(super) struct Pages {
    figures: Box<Figures>,
    dialect: Dialect,
    family: usize,
    row: usize,
}

impl Pages {
    pub(super) const fn new(figures: Box<Figures>, dialect: Dialect) -> Self {
        Self {
            figures,
            dialect,
            family: 0,
            row: 0,
        }
    }
}

impl Iterator for Pages {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let Some(family) = FAMILIES.get(self.family) else {
            let ended = self.family > FAMILIES.len();
            self.family = FAMILIES.len() + 1;
            return (!ended && self.dialect == Dialect::OpenMetrics).then(|| "# EOF\n".to_owned());
        };
        let mut text = String::new();
        if self.dialect == Dialect::Classic && family.name == NOT_CLASSIC {
            self.family += 1;
            return Some(format!(
                "# {NOT_CLASSIC} is in the OpenMetrics text: promtool refuses its name here.\n"
            ));
        }
        let stem = stem(family, self.dialect);
        if self.row == 0 {
            head(&mut text, family, stem, self.dialect);
        }
        let mut samples = Samples {
            text: &mut text,
            name: family.name,
        };
        let rows = self.row..self.row + PAGE;
        let total = match family.source {
            Source::Machines(write) => {
                let machines = &self.figures.machines;
                page(machines, rows, |machine| write(machine, &mut samples))
            }
            Source::Interfaces(write) => {
                let interfaces = &self.figures.interfaces;
                page(interfaces, rows, |interface| write(interface, &mut samples))
            }
            Source::Node(write) => {
                write(&self.figures, &mut samples);
                1
            }
        };
        self.row += PAGE;
        if self.row >= total {
            (self.family, self.row) = (self.family + 1, 0);
        }
        Some(text)
    }
}

fn page<T>(all: &[T], rows: std::ops::Range<usize>, write: impl FnMut(&T)) -> usize {
    all.iter().take(rows.end).skip(rows.start).for_each(write);
    all.len()
}

/// OpenMetrics names a family without the suffix that its samples have.
fn stem(family: &Family, dialect: Dialect) -> &'static str {
    let suffix = match family.kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => return family.name,
    };
    match dialect {
        Dialect::OpenMetrics => family.name.strip_suffix(suffix).unwrap_or(family.name),
        Dialect::Classic => family.name,
    }
}

fn head(text: &mut String, family: &Family, stem: &str, dialect: Dialect) {
    let kind = match (family.kind, dialect) {
        (Kind::Counter, _) => "counter",
        (Kind::Histogram, _) => "histogram",
        (Kind::Info, Dialect::OpenMetrics) => "info",
        // promtool rejects the type `info`, which the classic text does not have.
        (Kind::Gauge | Kind::Info, _) => "gauge",
    };
    let help = family.help;
    text.push_str(&format!("# HELP {stem} {help}\n# TYPE {stem} {kind}\n"));
}

/// Where a family's samples go.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Samples<'_> {
    /// One sample; `suffix` for the parts of a histogram.
    pub(super) fn push(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (position, (label, value)) in labels.iter().enumerate() {
            self.text.push(if position == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// Seconds as a float: OpenMetrics wants `1.0`, not `1`, in `le`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:?}", duration.as_secs_f64())
}

/// Seconds since 1970, to the millisecond.
pub(super) fn timestamp(instant: Timestamp) -> String {
    let milliseconds = instant.as_millisecond();
    let (seconds, rest) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
    if rest == 0 {
        seconds.to_string()
    } else {
        format!("{seconds}.{rest:03}")
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{DirectionFigures, Durations, InterfaceFigures, MachineFigures},
        *,
    };
    use crate::engine::{
        event::State,
        units::{BitsPerSecond, Bytes},
    };

    fn direction(start: u64) -> DirectionFigures {
        DirectionFigures {
            bytes: Bytes(start),
            packets: start + 1,
            exempt: Bytes(start + 2),
            dropped_throttled: Bytes(start + 3),
            dropped_capped: Bytes(start + 4),
            dropped_suspended: Bytes(start + 5),
            drift: Some(-7),
        }
    }

    fn figures() -> Box<Figures> {
        let at = |second| Timestamp::from_second(second).unwrap();
        let throttled = MachineFigures {
            machine: "web1".into(),
            account: Some("acme \"east\"\\".into()),
            plan: Some("edis".into()),
            state: State::Throttled,
            used: Bytes(1_050_000_000_000),
            allowance: Some(Bytes(1_000_000_000_000)),
            remaining: Some(Bytes(0)),
            period_start: at(1_761_955_200),
            period_end: at(1_764_547_200),
            forecast: Some(Bytes(1_400_000_000_000)),
            rate_limit: Some(BitsPerSecond(64_001)),
            cap_remaining: None,
        };
        let unlimited = MachineFigures {
            machine: "db1".into(),
            account: None,
            plan: None,
            state: State::Normal,
            allowance: None,
            remaining: None,
            forecast: None,
            rate_limit: None,
            ..throttled
        };
        let mut polls = Durations::default();
        for milliseconds in [3, 30, 30, 9_000] {
            polls.observe(Duration::from_millis(milliseconds));
        }
        Box::new(Figures {
            machines: vec![throttled, unlimited],
            interfaces: vec![
                InterfaceFigures {
                    machine: Some("web1".into()),
                    interface: "tap101i0".to_owned(),
                    received: direction(1_000),
                    sent: direction(2_000),
                },
                InterfaceFigures {
                    interface: "veth7".to_owned(),
                    ..InterfaceFigures::default()
                },
            ],
            last_poll: Some("2026-11-20T10:00:00.250Z".parse().unwrap()),
            polls,
            drift_repairs: 3,
            counter_restarts: 1,
            enforcement_failures: 0,
            outbox_pending: 2,
            version: "0.1.0".to_owned(),
        })
    }

    fn text(dialect: Dialect) -> String {
        Pages::new(figures(), dialect).collect()
    }

    /// `promtool check metrics <example.prom` accepts that file.
    #[test]
    fn the_classic_text_is_what_dashboards_are_written_against() {
        let text = text(Dialect::Classic);
        assert_eq!(text, include_str!("example.prom"), "found:\n{text}");
    }

    #[test]
    fn openmetrics_names_families_without_suffix_and_ends_with_eof() {
        let classic = text(Dialect::Classic);
        let text = text(Dialect::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"));
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.contains("# TYPE meterd_traffic_bytes counter\n"));
        assert!(text.contains("# TYPE meterd_machine info\n"));
        assert!(text.contains("# TYPE meterd_build info\n"));
        assert!(text.contains("# TYPE meterd_counter_restarts counter\n"));
        let samples = |text: &str| -> Vec<String> {
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            samples.map(str::to_owned).collect()
        };
        let mut open = samples(&text);
        open.retain(|sample| sample != "meterd_counter_restarts_total 1");
        assert_eq!(open, samples(&classic));
    }

    /// The rules of promtool's `check metrics` that a name or a help text could break.
    #[test]
    fn the_classic_text_keeps_promtools_rules() {
        for family in FAMILIES {
            let name = family.name;
            assert!(name.starts_with("meterd_"), "{name}");
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}: snake case"
            );
            assert_eq!(
                name.ends_with("_total"),
                family.kind == Kind::Counter,
                "{name}"
            );
            assert_eq!(name.ends_with("_info"), family.kind == Kind::Info, "{name}");
            for word in name.split('_').filter(|_| name != NOT_CLASSIC) {
                for reserved in [
                    "counter",
                    "gauge",
                    "histogram",
                    "summary",
                    "bucket",
                    "count",
                    "sum",
                ] {
                    assert_ne!(word, reserved, "{name}");
                }
                for unit in [
                    "kilobytes",
                    "milliseconds",
                    "ms",
                    "bits",
                    "minutes",
                    "hours",
                ] {
                    assert_ne!(word, unit, "{name}: base units");
                }
            }
            assert!(
                family.help.ends_with('.') && !family.help.contains('\n'),
                "{name}"
            );
        }
        let text = text(Dialect::Classic);
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            let kind = line.rsplit(' ').next().unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        }
    }

    #[test]
    fn no_series_is_written_twice_and_every_page_joins_the_next() {
        let mut figures = figures();
        let template = figures.interfaces[0].clone();
        figures.interfaces = (0..PAGE * 2 + 1)
            .map(|number| InterfaceFigures {
                interface: format!("tap{number}i0"),
                ..template.clone()
            })
            .collect();
        let text: String = Pages::new(figures, Dialect::Classic).collect();
        let series: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap().0)
            .collect();
        let distinct: std::collections::BTreeSet<_> = series.iter().collect();
        assert_eq!(distinct.len(), series.len());
        let packets = series
            .iter()
            .filter(|series| series.starts_with("meterd_traffic_packets_total{"))
            .count();
        assert_eq!(packets, (PAGE * 2 + 1) * 2);
        assert_eq!(
            text.matches("# TYPE meterd_traffic_packets_total").count(),
            1
        );
    }

    #[test]
    fn a_node_without_machines_still_has_every_family() {
        for dialect in [Dialect::Classic, Dialect::OpenMetrics] {
            let text: String = Pages::new(Box::default(), dialect).collect();
            let left_out = usize::from(dialect == Dialect::Classic);
            assert_eq!(text.matches("# HELP").count(), FAMILIES.len() - left_out);
        }
    }

    #[test]
    fn the_scraper_chooses_the_text_and_the_classic_is_for_those_who_do_not() {
        for (accept, wanted) in [
            ("", Dialect::Classic),
            ("*/*", Dialect::Classic),
            ("text/plain", Dialect::Classic),
            ("application/openmetrics-text", Dialect::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.9",
                Dialect::Classic,
            ),
            ("application/openmetrics-text; q=0", Dialect::Classic),
            // Prometheus 2.42's own.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Dialect::OpenMetrics,
            ),
        ] {
            assert_eq!(Dialect::wanted(accept), wanted, "{accept}");
        }
    }
}
