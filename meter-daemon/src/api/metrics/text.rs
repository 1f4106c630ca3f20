//! Writing the figures down: OpenMetrics 1.0 as `prometheus-client` encodes it, or the classic
//! text format 0.0.4 translated from that, so that there is one source for both.

use std::{
    fmt::{self, Write},
    mem,
};

use prometheus_client::{encoding::text::encode, registry::Registry};

use super::{super::paged::PAGE, Figures};

/// promtool 2.42's `check metrics`, which the classic text must pass, refuses the word
/// `counter` in a name. Prometheus itself asks for OpenMetrics and gets it.
const NOT_CLASSIC: &str = "meterd_counter_restarts";

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

/// Writes the text and hands it on a page at a time, until one is not taken.
pub(super) fn write(
    figures: Box<Figures>,
    dialect: Dialect,
    hand_on: impl FnMut(String) -> fmt::Result,
) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(figures);
    let mut pages = Pages {
        page: String::new(),
        dialect,
        hand_on,
    };
    encode(&mut pages, &registry)?;
    pages.turn()
}

struct Pages<HandOn> {
    page: String,
    dialect: Dialect,
    hand_on: HandOn,
}

impl<HandOn: FnMut(String) -> fmt::Result> Pages<HandOn> {
    fn turn(&mut self) -> fmt::Result {
        let page = mem::take(&mut self.page);
        (self.hand_on)(match self.dialect {
            Dialect::OpenMetrics => page,
            Dialect::Classic => classic(&page),
        })
    }
}

impl<HandOn: FnMut(String) -> fmt::Result> Write for Pages<HandOn> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.page.push_str(part);
        // After a sample only: what is said of a family is translated together.
        let sampled = |page: &str| {
            page.lines()
                .next_back()
                .is_some_and(|line| !line.starts_with('#'))
        };
        if self.page.len() >= PAGE && part.ends_with('\n') && sampled(&self.page) {
            self.turn()?;
        }
        Ok(())
    }
}

/// OpenMetrics in the words of the classic text: a family is named with the suffix that its
/// samples have, there is no type `info`, and of comments only `HELP` and `TYPE`.
fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + open.len() / 64);
    let mut help = "";
    for line in open.lines() {
        if let Some((_, words)) = comment(line, "# HELP ") {
            help = words;
        } else if let Some((name, kind)) = comment(line, "# TYPE ") {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            let head = if name == NOT_CLASSIC {
                format!(
                    "# {name}{suffix} is in the OpenMetrics text: promtool refuses its name here.\n"
                )
            } else {
                format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n")
            };
            text.push_str(&head);
        } else if !line.starts_with('#') && !line.starts_with(NOT_CLASSIC) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The family that a comment is about, and what it says of it.
fn comment<'a>(line: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(keyword)?.split_once(' ')
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use jiff::Timestamp;

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

    fn pages(figures: Box<Figures>, dialect: Dialect) -> Vec<String> {
        let mut pages = Vec::new();
        write(figures, dialect, |page| {
            pages.push(page);
            Ok(())
        })
        .unwrap();
        pages
    }

    fn text(figures: Box<Figures>, dialect: Dialect) -> String {
        pages(figures, dialect).concat()
    }

    fn samples(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter(|line| !line.starts_with('#'))
    }

    /// `promtool check metrics <example.prom` accepts that file.
    #[test]
    fn the_classic_text_is_what_dashboards_are_written_against() {
        let text = text(figures(), Dialect::Classic);
        assert_eq!(text, include_str!("example.prom"), "found:\n{text}");
    }

    #[test]
    fn openmetrics_has_the_same_samples_and_ends_with_eof() {
        let text = text(figures(), Dialect::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"));
        assert_eq!(text.matches("# EOF").count(), 1);
        for family in ["traffic_bytes counter", "machine info", "build info"] {
            assert!(
                text.contains(&format!("# TYPE meterd_{family}\n")),
                "{family}"
            );
        }
        let restarts = "meterd_counter_restarts_total 1";
        assert!(samples(&text).any(|sample| sample == restarts));
        let others = samples(&text).filter(|sample| *sample != restarts);
        assert!(others.eq(samples(include_str!("example.prom"))));
    }

    #[test]
    fn the_classic_text_says_the_same_in_its_own_words() {
        for (open, wanted) in [
            (
                "# HELP a Sums.\n# TYPE a counter\na_total{b=\"# c\"} 1\n",
                "# HELP a_total Sums.\n# TYPE a_total counter\na_total{b=\"# c\"} 1\n",
            ),
            (
                "# HELP a Of it.\n# TYPE a info\na_info{b=\"c\"} 1\n",
                "# HELP a_info Of it.\n# TYPE a_info gauge\na_info{b=\"c\"} 1\n",
            ),
            (
                "# HELP a_bytes Now.\n# TYPE a_bytes gauge\n# UNIT a_bytes bytes\na_bytes 1\n# EOF\n",
                "# HELP a_bytes Now.\n# TYPE a_bytes gauge\na_bytes 1\n",
            ),
            (
                "# HELP a Took.\n# TYPE a histogram\na_sum 1.0\na_count 1\na_bucket{le=\"+Inf\"} 1\n",
                "# HELP a Took.\n# TYPE a histogram\na_sum 1.0\na_count 1\na_bucket{le=\"+Inf\"} 1\n",
            ),
            ("a 1\n", "a 1\n"),
        ] {
            assert_eq!(classic(open), wanted);
        }
    }

    /// The rules of promtool's `check metrics` that a name or a help text could break.
    #[test]
    fn the_classic_text_keeps_promtools_rules() {
        let text = text(figures(), Dialect::Classic);
        for (name, kind) in text.lines().filter_map(|line| comment(line, "# TYPE ")) {
            assert!(name.starts_with("meterd_"), "{name}");
            let snake = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(name.bytes().all(snake), "{name}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            for refused in [
                "counter gauge histogram summary bucket count sum",
                "kilobytes milliseconds ms bits minutes hours",
            ] {
                for word in refused.split(' ') {
                    assert!(!name.split('_').any(|part| part == word), "{name}");
                }
            }
        }
        let mut helps = text.lines().filter_map(|line| comment(line, "# HELP "));
        assert!(helps.all(|(_, help)| help.ends_with('.')));
    }

    /// A node's worth, in the given number of interfaces.
    fn many(count: usize) -> Box<Figures> {
        let mut figures = figures();
        let template = figures.interfaces[0].clone();
        figures.interfaces = (0..count)
            .map(|number| InterfaceFigures {
                interface: format!("tap{number}i0"),
                ..template.clone()
            })
            .collect();
        figures
    }

    #[test]
    fn pages_are_small_and_join_without_a_series_lost_or_written_twice() {
        let count = 2_000;
        let open = pages(many(count), Dialect::OpenMetrics);
        assert!(open.len() > 10);
        assert!(open.iter().all(|page| page.len() < PAGE + 256));
        let text = text(many(count), Dialect::Classic);
        assert_eq!(text, classic(&open.concat()));
        let series: Vec<_> = samples(&text)
            .map(|line| line.rsplit_once(' ').unwrap().0)
            .collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
        let packets = "meterd_traffic_packets_total{";
        let packets = series.iter().filter(|series| series.starts_with(packets));
        assert_eq!(packets.count(), count * 2);
        assert_eq!(
            text.matches("# TYPE meterd_traffic_packets_total").count(),
            1
        );
    }

    #[test]
    fn writing_ends_where_a_page_is_not_taken() {
        let mut taken = 0;
        let ended = write(many(2_000), Dialect::Classic, |_| {
            taken += 1;
            if taken < 3 { Ok(()) } else { Err(fmt::Error) }
        });
        assert_eq!((ended, taken), (Err(fmt::Error), 3));
    }

    #[test]
    fn a_node_without_machines_still_has_every_family() {
        for dialect in [Dialect::Classic, Dialect::OpenMetrics] {
            let families = |figures| text(figures, dialect).matches("# TYPE").count();
            assert_eq!(families(Box::default()), families(figures()));
        }
    }

    /// `cargo test --release -p meter-daemon --lib metrics -- --ignored --nocapture`
    #[test]
    #[ignore = "figures of a full node, in release mode"]
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    fn a_full_nodes_text_is_written_in_less_than_a_second() {
        let mut full = many(20_000);
        let template = full.machines[0].clone();
        full.machines = (0..10_000)
            .map(|number| MachineFigures {
                machine: format!("web{number}").into(),
                ..template.clone()
            })
            .collect();
        for dialect in [Dialect::OpenMetrics, Dialect::Classic] {
            let (mut bytes, mut largest) = (0, 0);
            let figures = full.clone();
            let began = std::time::Instant::now();
            write(figures, dialect, |page| {
                bytes += page.len();
                largest = largest.max(page.capacity());
                Ok(())
            })
            .unwrap();
            let took = began.elapsed();
            println!("{dialect:?}: {bytes} bytes in {took:?}, largest page {largest}");
            assert!(took < Duration::from_secs(1));
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
