//! `/metrics`: the figures of the last poll, in OpenMetrics or the classic text.

mod families;
mod text;

use std::{fmt, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use self::text::Dialect;
use super::{
    Answer, Ask, Call, Limits, Peer,
    door::ask_loop,
    paged::{self, Ended},
    server,
};
use crate::engine::{
    event::State,
    units::{AccountId, BitsPerSecond, Bytes, MachineId, PlanName},
};

/// Everything that is shown. A machine or an interface that is gone is not in here, and so
/// keeps no stale series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Every machine.
    pub machines: Vec<MachineFigures>,
    /// Every metered interface.
    pub interfaces: Vec<InterfaceFigures>,
    /// When the last poll ended; absent before the first.
    pub last_poll: Option<Timestamp>,
    /// How long polls took.
    pub polls: Durations,
    /// Differences between wanted and found that were repaired.
    pub drift_repairs: u64,
    /// Counters found to have begun anew.
    pub counter_restarts: u64,
    /// Enforcements that could not be carried out.
    pub enforcement_failures: u64,
    /// Notices that wait for their delivery.
    pub outbox_pending: u64,
    /// The daemon's.
    pub version: String,
}

/// A machine's figures, as in `status`.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineFigures {
    /// Whose.
    pub machine: MachineId,
    /// Who pays.
    pub account: Option<AccountId>,
    /// By what plan.
    pub plan: Option<PlanName>,
    /// What stands between it and its traffic.
    pub state: State,
    /// In the period.
    pub used: Bytes,
    /// With valid top-ups; absent when unlimited.
    pub allowance: Option<Bytes>,
    /// Allowance less used; absent when unlimited.
    pub remaining: Option<Bytes>,
    /// The period's first instant.
    pub period_start: Timestamp,
    /// The next one's.
    pub period_end: Timestamp,
    /// For the period's end; absent while history is too short.
    pub forecast: Option<Bytes>,
    /// While a throttle stands.
    pub rate_limit: Option<BitsPerSecond>,
    /// While a cap stands.
    pub cap_remaining: Option<Bytes>,
}

/// An interface's counters, since its slot was handed out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceFigures {
    /// Whose interface it is.
    pub machine: Option<MachineId>,
    /// Its name now.
    pub interface: String,
    /// What the guest received.
    pub received: DirectionFigures,
    /// What the guest sent.
    pub sent: DirectionFigures,
}

/// One direction of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionFigures {
    /// Counted.
    pub bytes: Bytes,
    /// Counted, on the wire.
    pub packets: u64,
    /// To or from exempt prefixes.
    pub exempt: Bytes,
    /// Not let through while throttled.
    pub dropped_throttled: Bytes,
    /// Not let through by a cap that is used up.
    pub dropped_capped: Bytes,
    /// Not let through while suspended.
    pub dropped_suspended: Bytes,
    /// The program's count less the kernel's own, at the last audit; absent before it.
    pub drift: Option<i64>,
}

/// A histogram of how long something took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many took at most [`Durations::BOUNDS`], each counted in its smallest.
    within: [u64; Self::BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Durations {
    /// The buckets' upper bounds. A poll of 10 000 machines is to take 100 ms.
    pub const BOUNDS: [Duration; 10] = [
        Duration::from_millis(1),
        Duration::from_micros(2_500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_secs(1),
        Duration::from_secs(5),
    ];

    /// One more that took so long.
    pub fn observe(&mut self, took: Duration) {
        let bucket = Self::BOUNDS.iter().position(|bound| took <= *bound);
        if let Some(within) = bucket.and_then(|bucket| self.within.get_mut(bucket)) {
            *within += 1;
        }
        self.count += 1;
        self.sum += took;
    }
}

/// What a scraper may take: fewer connections than the control socket, and a slow one may
/// not hold the figures for long.
const LIMITS: Limits = Limits {
    connections: 16,
    head: Duration::from_secs(10),
    body: Duration::from_secs(1),
    body_bytes: 0,
    answer: Duration::from_secs(10),
    connection: Duration::from_secs(600),
    farewell: Duration::from_secs(5),
};

/// Attends `GET /metrics` until the loop receives no more calls.
pub async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>) {
    let way = calls.clone();
    let router = Router::new().route(
        "/metrics",
        get(move |headers: HeaderMap| {
            let way = way.clone();
            async move { scrape(&way, &headers).await }
        }),
    );
    server::attend(listener, LIMITS, calls, |_: &TcpStream| router.clone()).await;
}

async fn scrape(calls: &mpsc::Sender<Call>, headers: &HeaderMap) -> Response {
    let peer = Peer {
        name: "metrics".to_owned(),
        may_change: false,
    };
    let problem = match ask_loop(calls, Ask::Metrics, peer, LIMITS.answer).await {
        Ok(Answer::Metrics(figures)) => {
            let accept = headers
                .get(header::ACCEPT)
                .and_then(|accept| accept.to_str().ok());
            let dialect = Dialect::wanted(accept.unwrap_or_default());
            let written = paged::body(LIMITS.answer, move |pages| {
                let hand_on = |page: String| paged::hand_on(pages, Ok(page.into()));
                text::write(figures, dialect, |page| {
                    hand_on(page).map_err(|_| fmt::Error)
                })
                .map_err(|_| Ended)
            });
            match written.await {
                Ok(body) => {
                    return ([(header::CONTENT_TYPE, dialect.content_type())], body)
                        .into_response();
                }
                Err(problem) => problem.to_string(),
            }
        }
        Ok(Answer::Problem(problem)) | Err(problem) => problem.to_string(),
        Ok(Answer::Json(_) | Answer::Rows(_)) => {
            "the daemon answered with JSON; a defect of meterd".to_owned()
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, problem).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What a scraper gets from a loop that answers with `answer`, and what it asked for.
    async fn scraped(path: &str, accept: &str, answer: impl Fn() -> Answer) -> (String, Vec<Ask>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, mut called) = mpsc::channel::<Call>(1);
        let server = tokio::spawn(serve(listener, calls));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{accept}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        let mut asked = Vec::new();
        {
            let mut read = std::pin::pin!(stream.read_to_string(&mut reply));
            loop {
                tokio::select! {
                    read = &mut read => {
                        read.unwrap();
                        break;
                    }
                    Some(call) = called.recv() => {
                        asked.push(call.ask);
                        call.answer.send(answer()).unwrap();
                    }
                }
            }
        }
        drop(called);
        tokio::time::timeout(Duration::from_secs(20), server)
            .await
            .unwrap()
            .unwrap();
        (reply, asked)
    }

    #[tokio::test]
    async fn a_scraper_gets_the_text_it_prefers() {
        // More than a page.
        let interfaces = (0..1_000).map(|number| InterfaceFigures {
            interface: format!("tap{number}i0"),
            ..InterfaceFigures::default()
        });
        let figures = Figures {
            interfaces: interfaces.collect(),
            version: "0.1.0".to_owned(),
            ..Figures::default()
        };
        let figures = || Answer::Metrics(Box::new(figures.clone()));
        let (reply, asked) = scraped("/metrics", "", figures).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        assert!(
            reply.contains("text/plain; version=0.0.4; charset=utf-8"),
            "{reply}"
        );
        assert!(
            reply.contains("meterd_build_info{version=\"0.1.0\"} 1\n"),
            "{reply}"
        );
        assert_eq!(asked, [Ask::Metrics]);
        let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
        let (reply, _) = scraped("/metrics", accept, figures).await;
        assert!(
            reply.contains("application/openmetrics-text; version=1.0.0"),
            "{reply}"
        );
        assert!(reply.contains("# EOF\n"), "{reply}");
        let packets = reply.matches("\nmeterd_traffic_packets_total{");
        assert_eq!(packets.count(), 2_000);
    }

    #[tokio::test]
    async fn nothing_else_is_served_there() {
        let nothing = || Answer::Metrics(Box::default());
        let (reply, asked) = scraped("/v1/machines", "", nothing).await;
        assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
        assert_eq!(asked, []);
    }

    #[tokio::test]
    async fn without_figures_a_scrape_fails_instead_of_being_empty() {
        let problem =
            || Answer::Problem(super::super::Problem::new(503, "starting", "no poll yet"));
        let (reply, _) = scraped("/metrics", "", problem).await;
        assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
        assert!(reply.contains("no poll yet"), "{reply}");
    }
}
