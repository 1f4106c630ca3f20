//! The control socket as a client sees it, with a loop that is made up: what reaches it, and
//! what becomes of every way to ask wrongly.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    task::JoinHandle,
};

use super::*;
use crate::{
    api::socket,
    engine::{
        command::{Change, CommandAction, SettingKey, Until},
        plan::Allowance,
        units::{Bytes as Volume, MachineId},
    },
    ledger::Resolution,
};

/// A control socket with a loop behind it that notes what it was asked.
struct Fixture {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    asked: Arc<Mutex<Vec<(Ask, Peer)>>>,
    server: JoinHandle<()>,
    end: mpsc::Sender<()>,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Value,
}

impl Fixture {
    /// The loop answers with what it is given.
    fn new(answer: impl Fn(&Ask) -> Answer + Send + 'static) -> Self {
        Self::with(Access::default(), Limits::default(), answer)
    }

    fn with(
        access: Access,
        limits: Limits,
        answer: impl Fn(&Ask) -> Answer + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = socket::bind(directory.path(), &access).unwrap();
        let (calls, mut called) = mpsc::channel::<Call>(8);
        let (end, mut ended) = mpsc::channel(1);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(call) = called.recv() => {
                        notes.lock().unwrap().push((call.ask.clone(), call.peer));
                        let _ = call.answer.send(answer(&call.ask));
                    }
                    _ = ended.recv() => return,
                }
            }
        });
        let server = tokio::spawn(serve(listener, calls, access, limits));
        let socket = directory.path().join(socket::NAME);
        Self {
            _directory: directory,
            socket,
            asked,
            server,
            end,
        }
    }

    async fn raw(&self, request: &str) -> Reply {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        let read = stream.read_to_end(&mut reply);
        timeout(Duration::from_secs(20), read)
            .await
            .unwrap()
            .unwrap();
        let reply = String::from_utf8(reply).unwrap();
        let (head, body) = reply
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{reply:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
        Reply {
            status,
            head: head.to_lowercase(),
            body,
        }
    }

    async fn get(&self, path: &str) -> Reply {
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: \
             {length}\r\n\r\n{body}"
        ))
        .await
    }

    fn last(&self) -> Ask {
        self.asked.lock().unwrap().last().unwrap().0.clone()
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn done(_: &Ask) -> Answer {
    Answer::Json(json!({"done": true}))
}

/// Users and groups where nobody is anybody.
fn nobody() -> Access {
    Access {
        users: "/nonexistent".into(),
        groups: "/nonexistent".into(),
    }
}

#[tokio::test]
async fn every_reading_path_asks_its_question() {
    let door = Fixture::new(done);
    let instant = |text: &str| Some(text.parse().unwrap());
    let usage = |by, from, to| Ask::Usage {
        machine: "web1".into(),
        by,
        from,
        to,
    };
    for (path, ask) in [
        ("/v1/machines", Ask::Status { machine: None }),
        (
            "/v1/machines/web1",
            Ask::Status {
                machine: Some("web1".into()),
            },
        ),
        (
            "/v1/machines/we%2Fb%201",
            Ask::Status {
                machine: Some("we/b 1".into()),
            },
        ),
        (
            "/v1/machines/web1/usage",
            usage(Resolution::Day, None, None),
        ),
        (
            "/v1/machines/web1/usage?by=minute&from=2026-11-01T00:00:00%2B01:00&to=2026-12-01T00:00:00Z",
            usage(
                Resolution::Minute,
                instant("2026-10-31T23:00:00Z"),
                instant("2026-12-01T00:00:00Z"),
            ),
        ),
        (
            "/v1/machines/web1/usage?by=period",
            usage(Resolution::Period, None, None),
        ),
        (
            "/v1/machines/web1/explain",
            Ask::Explain {
                machine: "web1".into(),
            },
        ),
        (
            "/v1/machines/web1/offer",
            Ask::Offer {
                machine: "web1".into(),
            },
        ),
        (
            "/v1/events",
            Ask::Events {
                machine: None,
                since: None,
                after: None,
                limit: 1_000,
            },
        ),
        (
            "/v1/events?machine=web1&since=2026-11-01T00:00:00Z&after=7&limit=99999999",
            Ask::Events {
                machine: Some("web1".into()),
                since: instant("2026-11-01T00:00:00Z"),
                after: Some(7),
                limit: 10_000,
            },
        ),
        ("/v1/invoices", Ask::Invoices { account: None }),
        (
            "/v1/invoices?account=acme",
            Ask::Invoices {
                account: Some("acme".into()),
            },
        ),
        (
            "/v1/accounts/acme/balance",
            Ask::Balance {
                account: "acme".into(),
            },
        ),
    ] {
        let reply = door.get(path).await;
        assert_eq!(
            (reply.status, &reply.body),
            (200, &json!({"done": true})),
            "{path}"
        );
        assert!(
            reply.head.contains("content-type: application/json"),
            "{}",
            reply.head
        );
        assert_eq!(door.last(), ask, "{path}");
    }
}

#[tokio::test]
async fn every_changing_path_gives_its_command() {
    use CommandAction::*;
    let door = Fixture::new(done);
    let machine = || MachineId::from("web1");
    let set = |change| Set {
        machine: machine(),
        change,
    };
    let hours = |hours| Some(Until::For(SignedDuration::from_hours(hours)));
    let at = Some(Until::At("2026-12-01T00:00:00Z".parse().unwrap()));
    for (path, body, actions) in [
        (
            "/v1/machines/web1/top-up",
            r#"{"volume": "1.5 GB"}"#,
            vec![TopUp {
                machine: machine(),
                volume: Volume(1_500_000_000),
                from_pool: false,
            }],
        ),
        (
            "/v1/machines/web1/top-up",
            r#"{"volume": "1 TiB", "from_pool": true}"#,
            vec![TopUp {
                machine: machine(),
                volume: Volume(1 << 40),
                from_pool: true,
            }],
        ),
        (
            "/v1/machines/web1/set",
            r#"{"allowance": "2 TB", "renewal-day": 31, "auto-unsuspend": true}"#,
            vec![
                set(Change::Allowance(Allowance::Limited(Volume(
                    2_000_000_000_000,
                )))),
                set(Change::AutoUnsuspend(true)),
                set(Change::RenewalDay(31.try_into().unwrap())),
            ],
        ),
        (
            "/v1/machines/web1/set",
            r#"{"renewal_day": "1", "cost_limit": null, "plan": "edis"}"#,
            vec![
                set(Change::CostLimit(None)),
                set(Change::Plan("edis".into())),
                set(Change::RenewalDay(1.try_into().unwrap())),
            ],
        ),
        (
            "/v1/machines/web1/unset",
            r#"{"key": "cost-limit"}"#,
            vec![Unset {
                machine: machine(),
                key: SettingKey::CostLimit,
            }],
        ),
        (
            "/v1/machines/web1/suspend",
            "",
            vec![Suspend {
                machine: machine(),
                until: None,
            }],
        ),
        (
            "/v1/machines/web1/suspend",
            r#"{"for": "24h"}"#,
            vec![Suspend {
                machine: machine(),
                until: hours(24),
            }],
        ),
        (
            "/v1/machines/web1/lift",
            r#"{"until": "2026-12-01T00:00:00Z"}"#,
            vec![Lift {
                machine: Some(machine()),
                until: at,
            }],
        ),
        (
            "/v1/lift",
            r#"{"for": "5d"}"#,
            vec![Lift {
                machine: None,
                until: hours(120),
            }],
        ),
        (
            "/v1/machines/web1/cancel",
            "{}",
            vec![Cancel { machine: machine() }],
        ),
        ("/v1/confirm", " ", vec![Confirm]),
        (
            "/v1/invoices/2026-7/pay",
            "{}",
            vec![Pay {
                invoice: "2026-7".into(),
            }],
        ),
        (
            "/v1/accounts/acme/balance",
            r#"{"add": "-2.50"}"#,
            vec![Balance {
                account: "acme".into(),
                add: "-2.50".parse().unwrap(),
            }],
        ),
    ] {
        let reply = door.post(path, "", body).await;
        assert_eq!(reply.status, 200, "{path} {body}: {reply:?}");
        let expected = Ask::Command {
            actions,
            reason: None,
            key: None,
            dry_run: false,
        };
        assert_eq!(door.last(), expected, "{path} {body}");
    }
}

#[tokio::test]
async fn a_command_carries_its_author_reason_key_and_dry_run() {
    let door = Fixture::new(done);
    let key = "Idempotency-Key: abc-1\r\n";
    let with = |dry_run| Ask::Command {
        actions: vec![CommandAction::Confirm],
        reason: Some("checked".to_owned()),
        key: Some("abc-1".to_owned()),
        dry_run,
    };
    let body = r#"{"reason": "checked", "dry_run": true}"#;
    assert_eq!(door.post("/v1/confirm", key, body).await.status, 200);
    assert_eq!(door.last(), with(true));
    let body = r#"{"reason": "checked"}"#;
    assert_eq!(
        door.post("/v1/confirm?dry_run=true", key, body)
            .await
            .status,
        200
    );
    assert_eq!(door.last(), with(true));
    assert_eq!(
        door.post("/v1/confirm?dry_run=false", key, body)
            .await
            .status,
        200
    );
    assert_eq!(door.last(), with(false));
    // The tests run as one user, whom the kernel names.
    let peer = door.asked.lock().unwrap().last().unwrap().1.clone();
    assert_eq!(peer, Access::default().peer(own_uid(), own_gid()));
    for (path, ask) in [
        (
            "/v1/reload",
            Ask::Reload {
                reason: Some("checked".to_owned()),
                dry_run: false,
            },
        ),
        (
            "/v1/detach",
            Ask::Detach {
                reason: Some("checked".to_owned()),
                dry_run: false,
            },
        ),
    ] {
        assert_eq!(door.post(path, key, body).await.status, 200);
        assert_eq!(door.last(), ask);
    }
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn own_gid() -> u32 {
    rustix::process::getgid().as_raw()
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_a_problem_and_never_reaches_the_loop() {
    let door = Fixture::new(done);
    let top_up = "/v1/machines/web1/top-up";
    for (path, headers, body, status, hint) in [
        (top_up, "", r#"{"volume": "1 TB""#, 400, "JSON"),
        (top_up, "", r#"["volume"]"#, 400, "one JSON object"),
        (top_up, "", "{}", 422, "`volume` is missing"),
        (top_up, "", r#"{"volume": "1 Tb"}"#, 422, "counts bits"),
        (top_up, "", r#"{"volume": 1000}"#, 422, "must be a text"),
        (
            top_up,
            "",
            r#"{"volume": "1 TB", "from_pool": "perhaps"}"#,
            422,
            "true or false",
        ),
        (
            top_up,
            "",
            r#"{"volume": "1 TB", "volumes": 1}"#,
            422,
            "unknown key `volumes`; known here: volume, from_pool, reason, dry_run",
        ),
        (
            top_up,
            "",
            r#"{"volume": "1 TB", "from_pool": true, "from-pool": true}"#,
            422,
            "twice",
        ),
        ("/v1/confirm?force=1", "", "", 422, "unknown key `force`"),
        (
            "/v1/confirm?dry_run=1",
            "",
            r#"{"dry_run": true}"#,
            422,
            "query and in the body",
        ),
        (
            "/v1/confirm",
            "Idempotency-Key: \r\n",
            "",
            422,
            "Idempotency-Key",
        ),
        (
            "/v1/confirm",
            "Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
            "",
            422,
            "twice",
        ),
        ("/v1/machines/web1/set", "", "{}", 422, "nothing to set"),
        (
            "/v1/machines/web1/set",
            "",
            r#"{"allowance": "2"}"#,
            422,
            "`allowance`",
        ),
        (
            "/v1/machines/web1/set",
            "",
            r#"{"plan": {"name": "x"}}"#,
            422,
            "`plan`",
        ),
        (
            "/v1/machines/web1/unset",
            "",
            r#"{"key": "colour"}"#,
            422,
            "renewal-day",
        ),
        (
            "/v1/machines/web1/lift",
            "",
            r#"{"for": "1h", "until": "2026-12-01T00:00:00Z"}"#,
            422,
            "both",
        ),
        (
            "/v1/machines/web1/suspend",
            "",
            r#"{"until": "tomorrow"}"#,
            422,
            "instant",
        ),
        (
            "/v1/accounts/acme/balance",
            "",
            r#"{"add": "fifty"}"#,
            422,
            "`add`",
        ),
        ("/v1/machines", "", "{}", 405, "GET reads"),
        ("/v2/machines", "", "{}", 404, "openapi"),
        ("/v1/machines/web1/frobnicate", "", "{}", 404, "openapi"),
    ] {
        let reply = door.post(path, headers, body).await;
        assert_eq!(reply.status, status, "{path} {body}: {reply:?}");
        assert!(
            reply
                .head
                .contains("content-type: application/problem+json"),
            "{}",
            reply.head
        );
        assert_eq!(reply.body["status"], status);
        assert!(!reply.body["title"].as_str().unwrap().is_empty());
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(detail.contains(hint), "{path} {body}: {detail}");
    }
    for (path, status) in [
        ("/v1/machines?json=1", 422),
        ("/v1/machines/web1/usage?by=fortnight", 422),
        ("/v1/machines/web1/usage?by=day&by=hour", 422),
        ("/v1/machines/web1/usage?from=2026-11-01", 422),
        ("/v1/events?after=-1", 422),
        ("/v1/machines/web1/top-up", 405),
        ("/", 404),
    ] {
        assert_eq!(door.get(path).await.status, status, "{path}");
    }
    assert_eq!(door.asked(), 0);
}

#[tokio::test]
async fn a_method_that_is_not_meant_is_told_which_one_is() {
    let door = Fixture::new(done);
    let reply = door.post("/v1/machines", "", "").await;
    assert!(reply.head.contains("allow: get"), "{}", reply.head);
    let reply = door.get("/v1/reload").await;
    assert!(reply.head.contains("allow: post"), "{}", reply.head);
}

#[tokio::test]
async fn who_is_neither_root_nor_in_the_group_may_look_and_not_change() {
    // The tests may run as root: here the kernel's word is replaced, the rest is the same.
    let directory = tempfile::tempdir().unwrap();
    let listener = socket::bind(directory.path(), &nobody()).unwrap();
    let (calls, mut called) = mpsc::channel::<Call>(1);
    let (limits, eve) = (Limits::default(), Arc::new(nobody().peer(1000, 1000)));
    let way = Arc::new(Door {
        calls: calls.clone(),
        limits,
    });
    let server = tokio::spawn(server::attend(
        listener,
        limits,
        calls,
        move |_: &UnixStream| router(&way, &eve),
    ));
    tokio::spawn(async move {
        while let Some(call) = called.recv().await {
            assert!(matches!(call.ask, Ask::Status { .. }), "{:?}", call.ask);
            let _ = call.answer.send(Answer::Json(json!([])));
        }
    });
    let (end, _) = mpsc::channel(1);
    let socket = directory.path().join(socket::NAME);
    let door = Fixture {
        _directory: directory,
        socket,
        asked: Arc::default(),
        server,
        end,
    };
    assert_eq!(door.get("/v1/machines").await.status, 200);
    for route in ROUTES.iter().filter(|route| route.verb == Verb::Post) {
        let reply = door.post(&route.path.replace("{id}", "web1"), "", "").await;
        assert_eq!(reply.status, 403, "{}", route.path);
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(
            detail.contains("uid 1000") && detail.contains("group `meterd`"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn one_machine_is_an_object_and_all_are_an_array() {
    let door = Fixture::new(|_| Answer::Json(json!([{"machine": "web1"}])));
    assert_eq!(
        door.get("/v1/machines").await.body,
        json!([{"machine": "web1"}])
    );
    assert_eq!(
        door.get("/v1/machines/web1").await.body,
        json!({"machine": "web1"})
    );
}

#[tokio::test]
async fn a_problem_of_the_loops_is_passed_on() {
    let door = Fixture::new(|_| Answer::Problem(Problem::new(409, "refused", "bill 7 is unpaid")));
    let reply = door.post("/v1/machines/web1/cancel", "", "").await;
    assert_eq!(reply.status, 409);
    assert_eq!(
        reply.body,
        json!({"type": "about:blank", "title": "refused", "status": 409, "detail": "bill 7 is unpaid"})
    );
}

#[tokio::test]
async fn an_amount_in_another_currency_than_the_accounts_is_refused() {
    let door = Fixture::new(|_| Answer::Json(json!({"balance": "7.00 EUR"})));
    let reply = door
        .post("/v1/accounts/acme/balance", "", r#"{"add": "50 USD"}"#)
        .await;
    assert_eq!(reply.status, 422, "{reply:?}");
    assert!(matches!(door.last(), Ask::Balance { .. }));
    let reply = door
        .post("/v1/accounts/acme/balance", "", r#"{"add": "50 EUR"}"#)
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(matches!(door.last(), Ask::Command { .. }));
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_and_a_larger_one_is_refused() {
    let door = Fixture::new(done);
    let with_reason = |length: usize| format!("{{\"reason\":\"{}\"}}", "x".repeat(length - 13));
    let largest = with_reason(64 * 1024);
    assert_eq!(largest.len(), 64 * 1024);
    assert_eq!(door.post("/v1/confirm", "", &largest).await.status, 200);
    let reply = door
        .post("/v1/confirm", "", &with_reason(64 * 1024 + 1))
        .await;
    assert_eq!(reply.status, 413, "{reply:?}");
    assert_eq!(door.asked(), 1);
}

fn impatient() -> Limits {
    let short = Duration::from_millis(100);
    Limits {
        head: short,
        body: short,
        answer: short,
        farewell: short,
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_request_is_let_go() {
    let door = Fixture::with(Access::default(), impatient(), done);
    // In its head: nothing to answer to, the connection ends.
    let mut stream = UnixStream::connect(&door.socket).await.unwrap();
    stream.write_all(b"GET /v1/machines HT").await.unwrap();
    let mut reply = Vec::new();
    let read = stream.read_to_end(&mut reply);
    timeout(Duration::from_secs(20), read)
        .await
        .unwrap()
        .unwrap();
    // In its body.
    let reply = door
        .raw("POST /v1/confirm HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{\"rea")
        .await;
    assert_eq!(reply.status, 408, "{reply:?}");
    // Silent after its answer, as a client that keeps its connection is: it ends as well.
    let reply = door
        .raw("GET /v1/machines HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_let_go() {
    let large = Value::String("x".repeat(32 << 20));
    let limits = Limits {
        connections: 1,
        connection: Duration::from_millis(300),
        ..impatient()
    };
    let door = Fixture::with(
        Access::default(),
        Limits {
            answer: Duration::from_secs(10),
            ..limits
        },
        {
            let first = std::sync::atomic::AtomicBool::new(true);
            move |_| match first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                true => Answer::Json(large.clone()),
                false => Answer::Json(json!([])),
            }
        },
    );
    let mut greedy = UnixStream::connect(&door.socket).await.unwrap();
    greedy
        .write_all(b"GET /v1/machines HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    // It holds the only place; the next client gets it all the same.
    assert_eq!(door.get("/v1/machines").await.status, 200);
    drop(greedy);
}

#[tokio::test]
async fn a_loop_that_does_not_answer_is_not_waited_for_for_ever() {
    let (calls, _kept) = mpsc::channel(1);
    let directory = tempfile::tempdir().unwrap();
    let listener = socket::bind(directory.path(), &Access::default()).unwrap();
    let server = tokio::spawn(serve(listener, calls, Access::default(), impatient()));
    let (end, _) = mpsc::channel(1);
    let socket = directory.path().join(socket::NAME);
    let door = Fixture {
        _directory: directory,
        socket,
        asked: Arc::default(),
        server,
        end,
    };
    let reply = door.get("/v1/machines").await;
    assert_eq!(reply.status, 504, "{reply:?}");
    assert!(
        reply.body["detail"]
            .as_str()
            .unwrap()
            .contains("may still happen")
    );
}

#[tokio::test]
async fn when_the_loop_ends_its_last_answer_is_still_sent_and_the_door_closes() {
    // More than this test waits: it must not come to that.
    let limits = Limits {
        farewell: Duration::from_secs(60),
        ..Limits::default()
    };
    let door = Fixture::with(Access::default(), limits, done);
    // Keeps its connection, so the door must end it.
    let mut stream = UnixStream::connect(&door.socket).await.unwrap();
    stream
        .write_all(b"POST /v1/detach HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    while door.asked() == 0 {
        tokio::task::yield_now().await;
    }
    door.end.send(()).await.unwrap();
    let mut reply = String::new();
    let read = stream.read_to_string(&mut reply);
    timeout(Duration::from_secs(20), read)
        .await
        .unwrap()
        .unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    timeout(Duration::from_secs(20), door.server)
        .await
        .unwrap()
        .unwrap();
    UnixStream::connect(&door.socket).await.unwrap_err();
}

#[tokio::test]
async fn the_document_describes_every_path_method_and_key_and_no_other() {
    let door = Fixture::new(done);
    let reply = door.get("/v1/openapi.json").await;
    assert_eq!(reply.status, 200);
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(reply.body, document);

    type Described = BTreeSet<(String, String, BTreeSet<String>)>;
    let mut described = Described::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let keys: BTreeSet<String> = if method == "post" {
                assert_eq!(schema["additionalProperties"], false, "{path}");
                schema["properties"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect()
            } else {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let queries = parameters.filter(|parameter| parameter["in"] == "query");
                queries
                    .map(|query| query["name"].as_str().unwrap().to_owned())
                    .collect()
            };
            described.insert((method.clone(), path.clone(), keys));
        }
    }
    let mut served: Described = ROUTES
        .iter()
        .map(|route| {
            let method = match route.verb {
                Verb::Get => "get",
                Verb::Post => "post",
            };
            let keys = route.keys.iter().map(|key| (*key).to_owned()).collect();
            (method.to_owned(), route.path.to_owned(), keys)
        })
        .collect();
    served.insert((
        "get".to_owned(),
        "/v1/openapi.json".to_owned(),
        BTreeSet::new(),
    ));
    assert_eq!(described, served);

    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}
