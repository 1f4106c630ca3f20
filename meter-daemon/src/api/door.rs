//! Attending the control socket: a request is checked, put to the loop, and its answer
//! written down.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Query, RawPathParams, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Answer, Ask, Call, Limits, Peer, Problem,
    access::{self, Access},
    body::{Fields, unfit},
    paged,
    routes::{Input, ROUTES, Route, Verb},
    server,
};
use crate::engine::units::Money;

/// What describes these paths, served at `/v1/openapi.json`.
pub const OPENAPI: &str = include_str!("openapi.json");

/// A key is kept for as long as the ledger; nobody needs a longer one.
const LONGEST_KEY: usize = 255;

/// Attends the control socket until the loop receives no more calls.
pub async fn serve(
    listener: UnixListener,
    calls: mpsc::Sender<Call>,
    access: Access,
    limits: Limits,
) {
    let door = Arc::new(Door {
        calls: calls.clone(),
        limits,
    });
    let router_for = |stream: &UnixStream| {
        let peer = match stream.peer_cred() {
            Ok(peer) => access.peer(peer.uid(), peer.gid()),
            // Whoever has no name changes nothing.
            Err(error) => Peer {
                name: format!("unknown ({error})"),
                may_change: false,
            },
        };
        router(&door, &Arc::new(peer))
    };
    server::attend(listener, limits, calls, router_for).await;
}

/// The way to the loop.
struct Door {
    calls: mpsc::Sender<Call>,
    limits: Limits,
}
fn router(door: &Arc<Door>, peer: &Arc<Peer>) -> Router {
    let mut router = Router::new()
        .fallback(async || {
            refuse(Problem::new(
                404,
                "no such path",
                "nothing is served here; /v1/openapi.json lists what is",
            ))
        })
        .route(
            "/v1/openapi.json",
            on(MethodFilter::GET, async || {
                ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
            }),
        );
    for route in ROUTES {
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
        };
        let (door, peer) = (Arc::clone(door), Arc::clone(peer));
        let handler = move |params: RawPathParams, request: Request| async move {
            match answer(route, &door, &peer, &params, request).await {
                Ok(response) => response,
                Err(problem) => refuse(problem),
            }
        };
        router = router.route(route.path, on(filter, handler));
    }
    // Last: it holds for the paths that are there.
    router.method_not_allowed_fallback(async || {
        refuse(Problem::new(
            405,
            "not with this method",
            "GET reads and POST changes; the header `Allow` says which is meant here",
        ))
    })
}

async fn answer(
    route: &Route,
    door: &Door,
    peer: &Peer,
    params: &RawPathParams,
    request: Request,
) -> Result<Response, Problem> {
    if route.verb == Verb::Post && !peer.may_change {
        return Err(Problem::new(
            403,
            "not allowed",
            format!(
                "{} may look but not change: that is for root and members of the group `{}` in \
                 /etc/group",
                peer.name,
                access::GROUP
            ),
        ));
    }
    let id = params
        .iter()
        .next()
        .map(|(_, id)| id.to_owned())
        .unwrap_or_default();
    let (head, body) = request.into_parts();
    let Query(pairs) = Query::try_from_uri(&head.uri)
        .map_err(|error| unfit(format!("the query cannot be read: {error}")))?;
    let query = Fields::from_query(pairs)?;
    let fields = match route.verb {
        Verb::Get => query.only(route.keys)?,
        Verb::Post => {
            let limits = Limits {
                body_bytes: route.largest.unwrap_or(door.limits.body_bytes),
                ..door.limits
            };
            let body = read(body, &limits).await?;
            let query = query.only(&["dry_run"])?;
            Fields::from_body(&body)?.only(route.keys)?.and(query)?
        }
    };
    let question = (route.ask)(Input {
        id,
        fields,
        key: key(&head.headers)?,
    })?;
    if let Some((account, currency)) = question.currency {
        let ask = Ask::Balance {
            account: account.clone(),
        };
        let balance = match door.ask(ask, peer).await? {
            Answer::Json(balance) => balance,
            other => return Err(wrong(&other)),
        };
        let balance: Option<Money> = balance["balance"]
            .as_str()
            .and_then(|balance| balance.parse().ok());
        let kept_in = balance.map(|balance| balance.currency);
        if kept_in != Some(currency) {
            let kept_in = kept_in.map_or("no currency".to_owned(), |kept| kept.to_string());
            return Err(unfit(format!(
                "`add` is in {currency}, the account {account} is kept in {kept_in}"
            )));
        }
    }
    let one = matches!(question.ask, Ask::Status { machine: Some(_) });
    match door.ask(question.ask, peer).await? {
        Answer::Json(Value::Array(mut machines)) if one && machines.len() == 1 => {
            Ok(axum::Json(machines.remove(0)).into_response())
        }
        Answer::Json(value) => Ok(axum::Json(value).into_response()),
        Answer::Rows(rows) => {
            let body = paged::array(rows, door.limits.answer).await?;
            Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
        }
        other => Err(wrong(&other)),
    }
}

fn wrong(answer: &Answer) -> Problem {
    Problem::new(
        500,
        "wrong answer",
        format!("the daemon answered with {answer:?}; this is a defect of meterd"),
    )
}

impl Door {
    /// Puts it to the loop and waits, not for ever.
    async fn ask(&self, ask: Ask, peer: &Peer) -> Result<Answer, Problem> {
        match ask_loop(&self.calls, ask, peer.clone(), self.limits.answer).await? {
            Answer::Problem(problem) => Err(problem),
            answer => Ok(answer),
        }
    }
}

/// Puts a call to the loop and waits for its answer, not for ever.
pub(super) async fn ask_loop(
    calls: &mpsc::Sender<Call>,
    ask: Ask,
    peer: Peer,
    patience: std::time::Duration,
) -> Result<Answer, Problem> {
    let ended = || {
        Problem::new(
            503,
            "shutting down",
            "the daemon is ending and answers no more; once it runs again, ask again",
        )
    };
    let (answer, answered) = oneshot::channel();
    let asked = async {
        calls
            .send(Call { ask, peer, answer })
            .await
            .map_err(|_| ended())?;
        answered.await.map_err(|_| ended())
    };
    timeout(patience, asked).await.unwrap_or_else(|_| {
        Err(Problem::new(
            504,
            "no answer in time",
            format!(
                "the daemon's loop did not answer within {} s: it may be busy, and what was asked \
                 may still happen. `meterd events` shows whether it did; a command given with an \
                 idempotency key can be repeated safely",
                patience.as_secs()
            ),
        ))
    })
}

async fn read(body: axum::body::Body, limits: &Limits) -> Result<Bytes, Problem> {
    let limited = Limited::new(body, limits.body_bytes).collect();
    let Ok(read) = timeout(limits.body, limited).await else {
        return Err(Problem::new(
            408,
            "too slow",
            format!("the body did not arrive within {} s", limits.body.as_secs()),
        ));
    };
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                let limit = limits.body_bytes / 1024;
                Problem::new(
                    413,
                    "too large",
                    format!("a body may have {limit} KiB at most"),
                )
            } else {
                Problem::new(
                    400,
                    "broken off",
                    format!("the body could not be read: {error}"),
                )
            }
        })
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return match headers.contains_key("idempotency-key") {
            true => Err(unfit("the header Idempotency-Key is given twice")),
            false => Ok(None),
        };
    };
    match key.to_str().map(str::trim) {
        Ok(key) if !key.is_empty() && key.len() <= LONGEST_KEY => Ok(Some(key.to_owned())),
        _ => Err(unfit(format!(
            "the header Idempotency-Key must be 1 to {LONGEST_KEY} characters of ASCII"
        ))),
    }
}

fn refuse(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({
        "type": "about:blank",
        "title": problem.title,
        "status": status.as_u16(),
        "detail": problem.detail,
    });
    let json = HeaderValue::from_static("application/problem+json");
    (status, [(header::CONTENT_TYPE, json)], body.to_string()).into_response()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
