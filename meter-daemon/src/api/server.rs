//! Attending connections: so many at a time, none for ever, and every one that is under way
//! answered before the end.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Call;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more wait in the backlog.
    pub connections: usize,
    /// For sending a request's head, or the next request.
    pub head: Duration,
    /// For sending a request's body.
    pub body: Duration,
    /// A request body's bytes.
    pub body_bytes: usize,
    /// For the loop to answer.
    pub answer: Duration,
    /// A connection's whole life: what bounds a client that does not read its answers.
    pub connection: Duration,
    /// For the answers under way, once a connection is to end.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            body_bytes: 64 * 1024,
            answer: Duration::from_secs(30),
            connection: Duration::from_secs(120),
            farewell: Duration::from_secs(5),
        }
    }
}

/// Accepts connections and attends each with the router made for it, until the loop no
/// longer receives calls; then finishes what is under way.
pub(super) async fn attend<L: Listener>(
    mut listener: L,
    limits: Limits,
    calls: mpsc::Sender<Call>,
    router_for: impl Fn(&L::Io) -> Router,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let next = async |listener: &mut L| {
        let place = Arc::clone(&places).acquire_owned().await;
        (place, listener.accept().await.0)
    };
    loop {
        let (place, stream) = tokio::select! {
            () = calls.closed() => break,
            accepted = next(&mut listener) => accepted,
        };
        let (router, calls) = (router_for(&stream), calls.clone());
        connections.spawn(async move {
            let _place = place;
            connection(stream, router, limits, calls).await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<S>(stream: S, router: Router, limits: Limits, calls: mpsc::Sender<Call>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let ended = async {
        tokio::select! {
            () = sleep(limits.connection) => {}
            () = calls.closed() => {}
        }
    };
    // A client that breaks off, or is too slow, ends its own connection and nothing else:
    // there is nobody to tell.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = ended => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.farewell, connection).await;
}
