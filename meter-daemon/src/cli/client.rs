//! Talking to the daemon: one request, one answer, over the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

use super::{
    failure::{Exit, Failure},
    place,
};

/// Longer than the daemon's own patience with its loop, so that its reason arrives.
const PATIENCE: Duration = Duration::from_secs(45);

/// A way to the daemon.
pub(super) struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// To the daemon that runs with this configuration.
    pub(super) fn new(config: &Path) -> Result<Self, Failure> {
        Self::at(place::socket(config)?)
    }

    fn at(socket: PathBuf) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| {
            Failure::new(
                Exit::SYSTEM,
                format!("cannot start to wait for answers: {error}"),
            )
        })?;
        Ok(Self { socket, runtime })
    }

    /// Waits, between one question and the next.
    pub(super) fn pause(&self, length: Duration) {
        // Within the runtime: it is its clock.
        self.runtime
            .block_on(async { tokio::time::sleep(length).await });
    }

    /// Asks.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.request(
            Request::builder().method(Method::GET).uri(path),
            Bytes::new(),
        )
    }

    /// Changes. `key` makes it one command, however often it is sent.
    pub(super) fn post(
        &self,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Result<Value, Failure> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.request(request, body.to_string().into())
    }

    /// Changes, for somebody who cannot wait longer.
    pub(super) fn post_within(
        &self,
        patience: Duration,
        path: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json");
        self.request_within(patience, request, body.to_string().into())
    }

    fn request(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Value, Failure> {
        self.request_within(PATIENCE, request, body)
    }

    fn request_within(
        &self,
        patience: Duration,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Value, Failure> {
        let request = request
            .header(HOST, "meterd")
            .body(Full::new(body))
            .map_err(|error| {
                Failure::new(
                    Exit::USAGE,
                    format!("this cannot be sent to the daemon: {error}"),
                )
            })?;
        let exchange = async { timeout(patience, self.exchange(request)).await };
        let (status, answer) = self.runtime.block_on(exchange).map_err(|_| {
            let (socket, seconds) = (self.socket.display(), patience.as_secs_f32());
            Failure::new(
                Exit::TRY_AGAIN,
                format!(
                    "the daemon at {socket} did not answer within {seconds:.0} s; what was asked may \
                     still happen: `meterd events` shows whether it did"
                ),
            )
        })??;
        read(status, &answer)
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let broken = |error: hyper::Error| {
            let socket = self.socket.display();
            Failure::new(
                Exit::UNAVAILABLE,
                format!(
                    "the daemon at {socket} broke off: {error}; its log says why (`journalctl -u \
                     meterd`)"
                ),
            )
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| unreachable_daemon(&self.socket, &error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Ends with the connection; what goes wrong in it, the request says.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?;
        Ok((status, body.to_bytes()))
    }
}

fn unreachable_daemon(socket: &Path, error: &io::Error) -> Failure {
    let path = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NOT_ALLOWED,
            format!(
                "cannot reach the daemon at {path}: {error}; that is for root and members of the \
                 group `meterd`: use sudo, or `usermod -aG meterd USER` and a new login"
            ),
        ),
        kind => {
            let why = match kind {
                io::ErrorKind::NotFound => "there is no such socket".to_owned(),
                io::ErrorKind::ConnectionRefused => "nobody attends the socket".to_owned(),
                _ => error.to_string(),
            };
            Failure::new(
                Exit::UNAVAILABLE,
                format!(
                    "the daemon is not running: tried {path}, {why}; start it with `systemctl \
                     start meterd` or `meterd run`, or name its configuration with --config"
                ),
            )
        }
    }
}

/// The exit status for a refusal.
pub(super) const fn exit(status: u16) -> Exit {
    match status {
        403 => Exit::NOT_ALLOWED,
        408 | 503 | 504 => Exit::TRY_AGAIN,
        500 => Exit::SOFTWARE,
        _ => Exit::REFUSED,
    }
}

fn read(status: StatusCode, answer: &[u8]) -> Result<Value, Failure> {
    let defect = |what: String| {
        Failure::new(
            Exit::SOFTWARE,
            format!("the daemon's answer is not understood: {what}"),
        )
    };
    let value: Value =
        serde_json::from_slice(answer).map_err(|error| defect(format!("{status}, {error}")))?;
    if status.is_success() {
        return Ok(value);
    }
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let exit = exit(status.as_u16());
    let (title, detail) = (text("title"), text("detail"));
    Err(Failure::new(
        exit,
        if detail.is_empty() { title } else { detail },
    ))
}

/// An answer as what it should be; `what` names it for the error.
pub(super) fn understood<T: serde::de::DeserializeOwned>(
    found: Value,
    what: &str,
) -> Result<T, Failure> {
    serde_json::from_value(found).map_err(|error| {
        Failure::new(
            Exit::SOFTWARE,
            format!("the daemon's {what} is not understood: {error}"),
        )
    })
}

/// A path from its parts, each encoded, and a query from its pairs.
pub(super) fn path(parts: &[&str], query: &[(&str, Option<String>)]) -> String {
    let mut path = String::new();
    for part in parts {
        path.push('/');
        path.push_str(&encoded(part));
    }
    let pairs = query
        .iter()
        .filter_map(|(key, value)| Some((key, value.as_ref()?)));
    for (position, (key, value)) in pairs.enumerate() {
        path.push(if position == 0 { '?' } else { '&' });
        path.push_str(key);
        path.push('=');
        path.push_str(&encoded(value));
    }
    path
}

/// RFC 3986, 2.3: everything but the unreserved characters as percent and hex.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_instants_survive_the_way_to_the_daemon() {
        let path = path(
            &["v1", "machines", "web/1 ü", "usage"],
            &[
                ("from", Some("2026-11-01T00:00:00+01:00".to_owned())),
                ("to", None),
            ],
        );
        assert_eq!(
            path,
            "/v1/machines/web%2F1%20%C3%BC/usage?from=2026-11-01T00%3A00%3A00%2B01%3A00"
        );
    }

    #[test]
    fn without_a_daemon_the_message_names_socket_reason_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("meterd.sock");
        let failure = Client::at(missing.clone())
            .unwrap()
            .get("/v1/machines")
            .unwrap_err();
        assert_eq!(failure.exit, Exit::UNAVAILABLE);
        let path = missing.display().to_string();
        for part in [path.as_str(), "no such socket", "systemctl start meterd"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
        let failure = Client::at(missing)
            .unwrap()
            .get("/v1/machines")
            .unwrap_err();
        assert_eq!(failure.exit, Exit::UNAVAILABLE);
        assert!(
            failure.message.contains("nobody attends"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn a_problem_becomes_an_exit_status_and_its_detail() {
        for (status, exit) in [
            (403, Exit::NOT_ALLOWED),
            (404, Exit::REFUSED),
            (409, Exit::REFUSED),
            (422, Exit::REFUSED),
            (503, Exit::TRY_AGAIN),
            (504, Exit::TRY_AGAIN),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let failure = read(status, br#"{"title":"no","detail":"because"}"#).unwrap_err();
            assert_eq!(failure, Failure::new(exit, "because"));
        }
        assert_eq!(
            read(StatusCode::OK, b"<html>").unwrap_err().exit,
            Exit::SOFTWARE
        );
    }
}
