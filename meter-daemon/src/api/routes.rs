//! The control socket's paths: each turns a request into an [`Ask`], puts it to the loop, and
//! writes down the answer.

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
    access::Access,
    body::{self, Fields, unfit},
    server,
};
use crate::{
    engine::{
        command::CommandAction,
        quantity::parse_volume,
        units::{AccountId, Currency, MachineId},
    },
    ledger::Resolution,
};

/// What describes these paths, served at `/v1/openapi.json`.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Events in one answer, unless fewer are asked for.
const EVENTS: usize = 1_000;
/// And never more than these: a reader goes on with `after`.
const MOST_EVENTS: usize = 10_000;
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

/// A path, what may be said to it, and what it asks.
struct Route {
    verb: Verb,
    path: &'static str,
    /// Keys of the query (`GET`) or the body (`POST`).
    keys: &'static [&'static str],
    ask: fn(Input) -> Result<Question, Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
}

/// What came with a request.
struct Input {
    /// The path's `{id}`; empty where it has none.
    id: String,
    fields: Fields,
    key: Option<String>,
}

/// What is put to the loop.
struct Question {
    ask: Ask,
    /// An amount named a currency: the account must have it.
    currency: Option<(AccountId, Currency)>,
}

impl From<Ask> for Question {
    fn from(ask: Ask) -> Self {
        Self {
            ask,
            currency: None,
        }
    }
}

const fn get(
    path: &'static str,
    keys: &'static [&'static str],
    ask: fn(Input) -> Result<Question, Problem>,
) -> Route {
    Route {
        verb: Verb::Get,
        path,
        keys,
        ask,
    }
}

const fn post(
    path: &'static str,
    keys: &'static [&'static str],
    ask: fn(Input) -> Result<Question, Problem>,
) -> Route {
    Route {
        verb: Verb::Post,
        path,
        keys,
        ask,
    }
}

/// Every path but the document's own.
const ROUTES: &[Route] = &[
    get("/v1/machines", &[], |_| {
        Ok(Ask::Status { machine: None }.into())
    }),
    get("/v1/machines/{id}", &[], |input| {
        Ok(Ask::Status {
            machine: Some(input.machine()),
        }
        .into())
    }),
    get("/v1/machines/{id}/usage", &["by", "from", "to"], usage),
    get("/v1/machines/{id}/explain", &[], |input| {
        Ok(Ask::Explain {
            machine: input.machine(),
        }
        .into())
    }),
    get("/v1/machines/{id}/offer", &[], |input| {
        Ok(Ask::Offer {
            machine: input.machine(),
        }
        .into())
    }),
    get(
        "/v1/events",
        &["machine", "since", "after", "limit"],
        events,
    ),
    get("/v1/invoices", &["account"], |mut input| {
        let account = input.fields.text("account")?.map(AccountId::from);
        Ok(Ask::Invoices { account }.into())
    }),
    get("/v1/accounts/{id}/balance", &[], |input| {
        Ok(Ask::Balance {
            account: input.id.into(),
        }
        .into())
    }),
    post(
        "/v1/machines/{id}/top-up",
        &["volume", "from_pool", "reason", "dry_run"],
        |mut input| {
            let volume = input.fields.required("volume", "\"1 TB\"")?;
            let action = CommandAction::TopUp {
                machine: input.machine(),
                volume: parse_volume(&volume)
                    .map_err(|error| unfit(format!("`volume`: {error}")))?,
                from_pool: input.fields.flag("from_pool")?,
            };
            input.command(action)
        },
    ),
    post(
        "/v1/machines/{id}/set",
        &[
            "plan",
            "allowance",
            "renewal-day",
            "cost-limit",
            "auto-unsuspend",
            "reason",
            "dry_run",
        ],
        set,
    ),
    post(
        "/v1/machines/{id}/unset",
        &["key", "reason", "dry_run"],
        |mut input| {
            let key = input.fields.required("key", "\"allowance\"")?;
            let key =
                body::parse_setting_key(&key).map_err(|error| unfit(format!("`key`: {error}")))?;
            let machine = input.machine();
            input.command(CommandAction::Unset { machine, key })
        },
    ),
    post(
        "/v1/machines/{id}/suspend",
        &["for", "until", "reason", "dry_run"],
        |mut input| {
            let (machine, until) = (input.machine(), input.fields.until()?);
            input.command(CommandAction::Suspend { machine, until })
        },
    ),
    post(
        "/v1/machines/{id}/lift",
        &["for", "until", "reason", "dry_run"],
        |mut input| {
            let (machine, until) = (Some(input.machine()), input.fields.until()?);
            input.command(CommandAction::Lift { machine, until })
        },
    ),
    post(
        "/v1/machines/{id}/cancel",
        &["reason", "dry_run"],
        |input| {
            let machine = input.machine();
            input.command(CommandAction::Cancel { machine })
        },
    ),
    post(
        "/v1/lift",
        &["for", "until", "reason", "dry_run"],
        |mut input| {
            let until = input.fields.until()?;
            input.command(CommandAction::Lift {
                machine: None,
                until,
            })
        },
    ),
    post("/v1/confirm", &["reason", "dry_run"], |input| {
        input.command(CommandAction::Confirm)
    }),
    post("/v1/invoices/{id}/pay", &["reason", "dry_run"], |input| {
        let invoice = input.id.as_str().into();
        input.command(CommandAction::Pay { invoice })
    }),
    post(
        "/v1/accounts/{id}/balance",
        &["add", "reason", "dry_run"],
        balance,
    ),
    post("/v1/reload", &["reason", "dry_run"], |mut input| {
        let (reason, dry_run) = input.circumstances()?;
        Ok(Ask::Reload { reason, dry_run }.into())
    }),
    post("/v1/detach", &["reason", "dry_run"], |mut input| {
        let (reason, dry_run) = input.circumstances()?;
        Ok(Ask::Detach { reason, dry_run }.into())
    }),
];

impl Input {
    fn machine(&self) -> MachineId {
        self.id.as_str().into()
    }

    fn circumstances(&mut self) -> Result<(Option<String>, bool), Problem> {
        Ok((self.fields.text("reason")?, self.fields.flag("dry_run")?))
    }

    fn command(self, action: CommandAction) -> Result<Question, Problem> {
        self.commands(vec![action])
    }

    fn commands(mut self, actions: Vec<CommandAction>) -> Result<Question, Problem> {
        let (reason, dry_run) = self.circumstances()?;
        Ok(Ask::Command {
            actions,
            reason,
            key: self.key,
            dry_run,
        }
        .into())
    }
}

fn usage(mut input: Input) -> Result<Question, Problem> {
    let by = input.fields.parsed("by", |text| match text {
        "minute" => Ok(Resolution::Minute),
        "hour" => Ok(Resolution::Hour),
        "day" => Ok(Resolution::Day),
        "month" => Ok(Resolution::Month),
        "period" => Ok(Resolution::Period),
        _ => Err(format!(
            "expected minute, hour, day, month or period, found `{text}`"
        )),
    })?;
    let from = input.fields.parsed("from", body::parse_instant)?;
    let to = input.fields.parsed("to", body::parse_instant)?;
    let by = by.unwrap_or(Resolution::Day);
    Ok(Ask::Usage {
        machine: input.machine(),
        by,
        from,
        to,
    }
    .into())
}

fn events(mut input: Input) -> Result<Question, Problem> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("expected a whole number, found `{text}`"))
    };
    let machine = input.fields.text("machine")?.map(MachineId::from);
    let since = input.fields.parsed("since", body::parse_instant)?;
    let after = input.fields.parsed("after", number)?;
    let limit = input.fields.parsed("limit", number)?;
    let limit = limit.map_or(EVENTS, |limit| {
        usize::try_from(limit).map_or(MOST_EVENTS, |limit| limit.clamp(1, MOST_EVENTS))
    });
    Ok(Ask::Events {
        machine,
        since,
        after,
        limit,
    }
    .into())
}

fn set(mut input: Input) -> Result<Question, Problem> {
    let machine = input.machine();
    let (reason, dry_run) = input.circumstances()?;
    let mut actions = Vec::new();
    for (key, value) in input.fields.rest() {
        let change = body::change_from_json(&key, &value)?;
        actions.push(CommandAction::Set {
            machine: machine.clone(),
            change,
        });
    }
    if actions.is_empty() {
        return Err(unfit(
            "nothing to set; write it like {\"allowance\": \"2 TB\"}",
        ));
    }
    Ok(Ask::Command {
        actions,
        reason,
        key: input.key,
        dry_run,
    }
    .into())
}

fn balance(mut input: Input) -> Result<Question, Problem> {
    let account = AccountId::from(input.id.as_str());
    let text = input.fields.required("add", "\"50.00 EUR\"")?;
    let (add, currency) =
        body::parse_amount(&text).map_err(|error| unfit(format!("`add`: {error}")))?;
    let currency = currency.map(|currency| (account.clone(), currency));
    let question = input.command(CommandAction::Balance { account, add })?;
    Ok(Question {
        currency,
        ..question
    })
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
                Ok(value) => axum::Json(value).into_response(),
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
) -> Result<Value, Problem> {
    if route.verb == Verb::Post && !peer.may_change {
        return Err(Problem::new(
            403,
            "not allowed",
            format!(
                "{} may look but not change: that is for root and members of the group `{}` in \
                 /etc/group",
                peer.name,
                super::access::GROUP
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
            let body = read(body, &door.limits).await?;
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
        let balance = door
            .ask(
                Ask::Balance {
                    account: account.clone(),
                },
                peer,
            )
            .await?;
        if balance["currency"] != currency.code() {
            return Err(unfit(format!(
                "`add` is in {currency}, the account {account} is kept in {}",
                balance["currency"].as_str().unwrap_or("no currency")
            )));
        }
    }
    let one = matches!(question.ask, Ask::Status { machine: Some(_) });
    match door.ask(question.ask, peer).await? {
        Value::Array(mut machines) if one && machines.len() == 1 => Ok(machines.remove(0)),
        value => Ok(value),
    }
}

impl Door {
    /// Puts it to the loop and waits, not for ever.
    async fn ask(&self, ask: Ask, peer: &Peer) -> Result<Value, Problem> {
        match ask_loop(&self.calls, ask, peer.clone(), self.limits.answer).await? {
            Answer::Json(value) => Ok(value),
            Answer::Problem(problem) => Err(problem),
            Answer::Metrics(_) => Err(Problem::new(
                500,
                "wrong answer",
                "the daemon answered with metrics; this is a defect of meterd",
            )),
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
