//! rtnetlink: requests, acknowledgements, dumps. Knows framing and errors, no subject.
//!
//! Requests are written with netlink-packet-route's types. What the kernel says is read
//! attribute by attribute instead: the typed parsers refuse a whole message for a single
//! attribute that a newer kernel has changed, and the guest behind it would go unmetered.

use std::{
    future, io,
    os::fd::AsFd,
    panic,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel never sends more than 32 KiB at a time (netlink_recvmsg, max_recvmsg_len).
const LARGEST_DATAGRAM: usize = 64 << 10;

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

/// An object that the kernel sent: what follows the netlink header.
pub(super) type Reply = Vec<u8>;

/// A socket for requests, shared by clones, used off the runtime's own threads: the kernel
/// does the work inside the system call, and may wait there for the RTNL lock.
#[derive(Clone)]
pub(super) struct Netlink(Arc<Mutex<Requests>>);

impl Netlink {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Arc::new(Mutex::new(Requests::open()?))))
    }

    /// Runs `work` with the socket to itself.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Requests) -> T + Send + 'static,
    ) -> T {
        let requests = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            // What a panic left behind on the socket is skipped by its sequence number.
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

/// The request socket itself.
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            rustix::net::sockopt::set_socket_timeout(
                socket.as_fd(),
                rustix::net::sockopt::Timeout::Recv,
                Some(PATIENCE),
            )?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(|error| NetlinkError::new("open an rtnetlink socket", error))?,
            sequence: 0,
        })
    }

    /// Sends all requests in one system call. The kernel works on them in order and does not
    /// stop at one that fails; the first failure is returned.
    pub(super) fn apply(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        let Some(last) = requests.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        let mut attempts = Vec::with_capacity(requests.len());
        for Request {
            attempt,
            message,
            flags,
        } in requests
        {
            self.append(&mut datagram, message, flags | NLM_F_ACK);
            attempts.push(attempt);
        }
        self.send(&datagram, &attempts[0])?;

        let mut failure = None;
        let mut answered = 0;
        while answered <= last {
            for message in self.receive(&attempts[answered])? {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index > last || message.kind != NLMSG_ERROR {
                    continue;
                }
                answered = index + 1;
                if let Err(error) = message.acknowledgement(&attempts[index]) {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Asks for one object; what it is not there for is the caller's to read from the error.
    pub(super) fn get(
        &mut self,
        attempt: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<Reply>, NetlinkError> {
        let mut datagram = Vec::new();
        // With NLM_F_ACK an answer without an object, too, has an end.
        let sequence = self.append(&mut datagram, message, NLM_F_ACK);
        self.send(&datagram, attempt)?;
        let mut found = None;
        loop {
            for message in self.receive(attempt)? {
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == NLMSG_ERROR {
                    return message.acknowledgement(attempt).map(|()| found);
                }
                found = Some(message.payload);
            }
        }
    }

    /// Asks for all objects. Where they changed under the dump it is begun anew, and what the
    /// attempts saw comes in order: kernels before 6.9 may skip a link that stays when
    /// another goes, so the last attempt alone is not the whole truth.
    pub(super) fn dump(
        &mut self,
        attempt: &str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<Reply>, NetlinkError> {
        let mut replies = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            if self.dump_once(attempt, message.clone(), &mut replies)? == Consistency::Whole {
                break;
            }
        }
        Ok(replies)
    }

    fn dump_once(
        &mut self,
        attempt: &str,
        message: RouteNetlinkMessage,
        replies: &mut Vec<Reply>,
    ) -> Result<Consistency, NetlinkError> {
        let mut datagram = Vec::new();
        let sequence = self.append(&mut datagram, message, NLM_F_DUMP);
        self.send(&datagram, attempt)?;
        let mut consistency = Consistency::Whole;
        loop {
            for message in self.receive(attempt)? {
                if message.sequence != sequence {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    consistency = Consistency::Interrupted;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(consistency),
                    NLMSG_ERROR => return message.acknowledgement(attempt).map(|()| consistency),
                    _ => replies.push(message.payload),
                }
            }
        }
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut datagram[start..]);
        self.sequence
    }

    fn send(&self, datagram: &[u8], attempt: &str) -> Result<(), NetlinkError> {
        self.socket
            .send(datagram, 0)
            .map(drop)
            .map_err(|error| NetlinkError::new(attempt, error))
    }

    fn receive(&self, attempt: &str) -> Result<Vec<Message>, NetlinkError> {
        let mut datagram = Vec::with_capacity(LARGEST_DATAGRAM);
        loop {
            match self.socket.recv(&mut datagram, 0) {
                Ok(_) => return Ok(messages(&datagram)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::new(attempt, error)),
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Interrupted,
}

/// One message of a datagram.
pub(super) struct Message {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) payload: Vec<u8>,
}

impl Message {
    /// What an NLMSG_ERROR says: success is error 0.
    fn acknowledgement(&self, attempt: &str) -> Result<(), NetlinkError> {
        let code = self
            .payload
            .first_chunk()
            .map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
        if code == 0 {
            return Ok(());
        }
        Err(NetlinkError {
            attempt: attempt.into(),
            source: io::Error::from_raw_os_error(-code),
            detail: self.extended(),
        })
    }

    /// The kernel's own words: they follow the copy of the request (see
    /// Documentation/userspace-api/netlink/intro.rst, "Ext ACK").
    fn extended(&self) -> Option<String> {
        const NLMSGERR_ATTR_MSG: u16 = 1;
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request = self.payload.get(4..)?;
        let copied = if self.flags & NLM_F_CAPPED == 0 {
            u32::from_ne_bytes(*request.first_chunk()?)
        } else {
            16
        };
        let attributes = request.get(usize::try_from(copied).ok()?.next_multiple_of(4)..)?;
        attribute(attributes, NLMSGERR_ATTR_MSG).map(text)
    }
}

/// The messages of a datagram.
pub(super) fn messages(mut datagram: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Ok(buffer) = NetlinkBuffer::new_checked(datagram) {
        messages.push(Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: buffer.payload().to_vec(),
        });
        let length = (buffer.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    messages
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
