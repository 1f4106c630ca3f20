//! rtnetlink: requests, acknowledgements, dumps, and what the kernel says unasked. Knows
//! framing and errors, no subject.

use std::{
    future, io, panic,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use netlink_packet_core::{
    DefaultNla, Emitable, ErrorMessage, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, LinkHandle, MulticastGroup, proto::ConnectionHandle};
use tokio::{
    runtime::{self, Runtime},
    task::JoinHandle,
};

use super::{
    verbatim::{self, Verbatim},
    wire::Wire,
};

/// The kernel answers while it is being asked; past this, something is badly wrong with it.
const PATIENCE: Duration = Duration::from_secs(30);

/// An interrupted dump is begun anew this often.
const DUMP_ATTEMPTS: usize = 4;

/// The kernel refused a request, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt}: {source}{}{}", said(.detail), remedy(.source))]
pub struct NetlinkError {
    attempt: String,
    source: io::Error,
    /// The kernel's own words (NLMSGERR_ATTR_MSG).
    detail: Option<String>,
}

impl NetlinkError {
    pub(super) fn new(attempt: impl Into<String>, source: io::Error) -> Self {
        Self {
            attempt: attempt.into(),
            source,
            detail: None,
        }
    }

    pub(super) fn refused(attempt: &str, answer: &ErrorMessage) -> Self {
        Self {
            attempt: attempt.to_owned(),
            source: answer.to_io(),
            detail: extended(answer),
        }
    }

    /// Whether the kernel answered with this error number.
    #[must_use]
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }
}

fn said(detail: &Option<String>) -> String {
    detail
        .as_ref()
        .map_or_else(String::new, |words| format!(" (the kernel says: {words})"))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root or with CAP_NET_ADMIN",
        io::ErrorKind::Unsupported | io::ErrorKind::NotFound => {
            "; does the kernel have sch_htb, sch_tbf and ifb (modprobe them)?"
        }
        _ => "",
    }
}

/// One thing asked of the kernel, and the words for it should it fail.
pub(super) struct Request {
    pub(super) attempt: String,
    pub(super) message: RouteNetlinkMessage,
    /// Beside NLM_F_REQUEST and NLM_F_ACK.
    pub(super) flags: u16,
}

/// The kernel's own words: they follow the copy of the request (see
/// Documentation/userspace-api/netlink/intro.rst, "Ext ACK").
fn extended(answer: &ErrorMessage) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let copied = usize::try_from(u32_at(&answer.header, 0)?).ok()?;
    let attributes = answer.header.get(copied.next_multiple_of(4)..)?;
    attribute(attributes, NLMSGERR_ATTR_MSG).map(text)
}

/// Connections for requests, shared by clones, used off the runtime's own threads: the kernel
/// does the work inside the system call, and may wait there for the RTNL lock.
#[derive(Clone)]
pub(super) struct Netlink(Arc<Mutex<Requests>>);

impl Netlink {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Arc::new(Mutex::new(Requests::open()?))))
    }

    /// Runs `work` with the connections to itself.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Requests) -> T + Send + 'static,
    ) -> T {
        let requests = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            // The answers that a panic left behind are not those to the next requests.
            work(&mut requests.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match task.await {
            Ok(result) => result,
            Err(failure) => match failure.try_into_panic() {
                Ok(panic) => panic::resume_unwind(panic),
                // The runtime is shutting down, and whoever waits for this with it.
                Err(_) => future::pending().await,
            },
        }
    }
}

/// The connections themselves, driven by whoever waits for an answer.
pub(super) struct Requests {
    /// Taken only when all is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    /// Several requests in one system call: rtnetlink's own handle sends one at a time, and a
    /// daemon that is killed between two of them would leave half a root behind.
    batches: ConnectionHandle<RouteNetlinkMessage>,
    /// For what is long, and read as it comes.
    wire: Wire,
    connections: [JoinHandle<()>; 2],
}

impl Requests {
    fn open() -> Result<Self, NetlinkError> {
        let wire = Wire::open()?;
        Self::connect(wire).map_err(|error| NetlinkError::new("open an rtnetlink socket", error))
    }

    fn connect(wire: Wire) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let inside = runtime.enter();
        let (mut connection, handle, _) = rtnetlink::new_connection_with_socket::<Verbatim>()?;
        connection.socket_mut().socket_mut().set_ext_ack(true)?;
        // The end of a dump says whether it was interrupted.
        connection.set_forward_done(true);
        let (mut batch_connection, batches, _) =
            rtnetlink::proto::new_connection_with_socket::<_, TokioSocket>(NETLINK_ROUTE)?;
        batch_connection
            .socket_mut()
            .socket_mut()
            .set_ext_ack(true)?;
        batch_connection.set_forward_ack(true);
        drop(inside);
        Ok(Self {
            connections: [runtime.spawn(connection), runtime.spawn(batch_connection)],
            runtime: Some(runtime),
            handle,
            batches,
            wire,
        })
    }

    /// Messages as the kernel writes them.
    pub(super) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// What can be asked of links; the answer is for [`Requests::wait`].
    pub(super) fn links(&self) -> LinkHandle {
        self.handle.link()
    }

    /// Waits for an answer, and gives the kernel's refusal the words for it.
    pub(super) fn wait<T>(
        &mut self,
        attempt: &str,
        answer: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetlinkError> {
        #[expect(clippy::expect_used, reason = "taken only by drop")]
        let runtime = self.runtime.as_ref().expect("there until the end");
        // A timer needs the runtime that it is made in.
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
        // A system call has failed. Not an answer, though rtnetlink takes the end of a
        // connection for a success, or for there being no such link.
        if self.connections.iter().any(JoinHandle::is_finished) {
            *self = Self::open()?;
            let lost = io::ErrorKind::ConnectionAborted.into();
            return Err(NetlinkError::new(attempt, lost));
        }
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(rtnetlink::Error::NetlinkError(answer))) => {
                Err(NetlinkError::refused(attempt, &answer))
            }
            Ok(Err(error)) => Err(NetlinkError::new(attempt, io::Error::other(error))),
            Err(_late) => Err(NetlinkError::new(attempt, io::ErrorKind::TimedOut.into())),
        }
    }

    /// Sends all requests in one system call. The kernel works on them in order and does not
    /// stop at one that fails; the first failure is returned.
    pub(super) fn apply(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        let (attempts, messages): (Vec<String>, Vec<_>) = requests
            .into_iter()
            .map(|request| {
                let mut message = NetlinkMessage::from(request.message);
                message.header.flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
                (request.attempt, message)
            })
            .unzip();
        let Some(first) = attempts.first() else {
            return Ok(());
        };
        let answers = self.batches.request_batch(messages, SocketAddr::new(0, 0));
        let answers = self.wait(first, async {
            let answers = answers.map_err(|_| rtnetlink::Error::RequestFailed)?;
            Ok(answers.collect::<Vec<_>>().await)
        })?;
        for (attempt, answer) in attempts.iter().zip(answers) {
            if let NetlinkPayload::Error(answer) = answer.payload
                && answer.code.is_some()
            {
                return Err(NetlinkError::refused(attempt, &answer));
            }
        }
        Ok(())
    }

    /// Asks for all objects. Where they changed under the dump it is begun anew, and what the
    /// attempts saw comes in order: kernels before 6.9 may skip a link that stays when
    /// another goes, so the last attempt alone is not the whole truth.
    pub(super) fn dump<T>(
        &mut self,
        attempt: &str,
        message: &RouteNetlinkMessage,
        read: impl Fn(&RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut replies = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            // Read as they come: a node's thousands of links whole are tens of megabytes.
            let keep = |reply: &RouteNetlinkMessage| replies.extend(read(reply));
            let once = dump_once(self.handle.clone(), message.clone(), keep);
            if self.wait(attempt, once)? == Consistency::Whole {
                break;
            }
        }
        Ok(replies)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // To wait for it would be refused where a runtime waits for us.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Not by rtnetlink's own ways to list: they keep the headers to themselves, which say
/// whether the list is consistent.
async fn dump_once(
    mut handle: Handle,
    message: RouteNetlinkMessage,
    mut keep: impl FnMut(&RouteNetlinkMessage),
) -> Result<Consistency, rtnetlink::Error> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.request(request)?;
    let mut consistency = Consistency::Whole;
    while let Some(answer) = answers.next().await {
        if answer.header.flags & NLM_F_DUMP_INTR != 0 {
            consistency = Consistency::Interrupted;
        }
        match answer.payload {
            NetlinkPayload::InnerMessage(reply) => keep(&reply),
            NetlinkPayload::Done(_) => return Ok(consistency),
            NetlinkPayload::Error(error) => return Err(rtnetlink::Error::NetlinkError(error)),
            _ => {}
        }
    }
    // Cut off, so not the whole truth.
    Err(rtnetlink::Error::RequestFailed)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Interrupted,
}

/// What the kernel says unasked.
pub(super) type Events = stream::BoxStream<'static, NetlinkPayload<RouteNetlinkMessage>>;

/// Subscribes to changes of links, qdiscs and classes, with room for this many bytes of them.
/// [`NetlinkPayload::Overrun`] says that some were lost. Panics outside of a tokio runtime.
pub(super) fn events(buffer: usize) -> io::Result<Events> {
    use rustix::net::sockopt;

    let groups = [MulticastGroup::Link, MulticastGroup::Tc];
    let (mut connection, _, mut messages) =
        rtnetlink::new_multicast_connection_with_socket::<Verbatim>(&groups)?;
    let socket = connection.socket_mut().socket_ref();
    // Forcing past net.core.rmem_max takes CAP_NET_ADMIN of the first namespace.
    sockopt::set_socket_recv_buffer_size_force(socket, buffer)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, buffer))?;
    // Read by whoever waits, not by a task of its own: what nobody takes stays in the kernel,
    // within bounds, and an overrun comes out only when all that is older has been read.
    let events = stream::poll_fn(move |context| {
        if let Poll::Ready(message) = messages.poll_next_unpin(context) {
            return Poll::Ready(message);
        }
        // It ends only when the runtime shuts down; else it reads all that there is.
        let _ = pin!(tokio::task::unconstrained(&mut connection)).poll(context);
        messages.poll_next_unpin(context)
    });
    Ok(events.map(|(message, _)| message.payload).boxed())
}

/// The attributes of a message as the kernel wrote them: number and value.
pub(super) fn values<A: Nla>(attributes: &[A]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    attributes.iter().map(|attribute| {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        (verbatim::number(attribute.kind()), value)
    })
}

/// The attributes in `bytes` up to the first that is malformed: number and value.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| {
            let (kind, length) = (attribute.kind(), attribute.value_length());
            let value = attribute.into_inner().get(NLA_HEADER_SIZE..);
            (
                kind,
                value.and_then(|v| v.get(..length)).unwrap_or_default(),
            )
        })
}

/// Attributes as they stand in a message: number and value.
pub(super) fn written(attributes: impl IntoIterator<Item = (u16, Vec<u8>)>) -> Vec<u8> {
    let attributes: Vec<DefaultNla> = attributes
        .into_iter()
        .map(|(number, value)| DefaultNla::new(number, value))
        .collect();
    let attributes = attributes.as_slice();
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// The first attribute of this number.
pub(super) fn attribute(bytes: &[u8], number: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == number).then_some(value))
}

/// A text attribute without its terminating zero.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

/// A number at `offset` of an attribute's value, in the host's byte order.
pub(super) fn u32_at(value: &[u8], offset: usize) -> Option<u32> {
    value
        .get(offset..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

/// As above.
pub(super) fn u64_at(value: &[u8], offset: usize) -> Option<u64> {
    value
        .get(offset..)?
        .first_chunk()
        .map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn requests_that_could_not_be_sent_fail_and_the_next_are_answered() {
        let mut requests = Requests::open().unwrap();
        let mut loopback = LinkMessage::default();
        loopback.header.index = 1;
        let request = || Request {
            attempt: "ask too much at once".to_owned(),
            message: RouteNetlinkMessage::GetLink(loopback.clone()),
            flags: 0,
        };
        // More than the socket's send buffer holds.
        let size = std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap();
        let count = size.trim().parse::<usize>().unwrap() / 32 + 1;
        let refused = requests.apply((0..count).map(|_| request()).collect());
        assert!(refused.unwrap_err().to_string().contains("too much"));
        requests.apply(vec![request()]).unwrap();
    }
}
