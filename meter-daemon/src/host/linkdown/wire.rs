//! rtnetlink messages as bytes: header and attributes together, as the kernel writes them and
//! takes them back. What is to be put back exactly must not go through somebody's types.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::host::netlink::NetlinkError;

/// An interrupted dump is begun anew this often; then its last attempt counts.
const DUMP_ATTEMPTS: usize = 8;

/// A message without its netlink header.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// `RTM_*`.
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

/// A socket of the namespace it was opened in. Each call waits for the kernel's whole answer.
pub(super) struct Wire {
    socket: Socket,
    /// Of the last request: what a failed one left unread is not the next one's answer.
    sequence: u32,
}

/// What came of one request.
struct Answer {
    messages: Vec<Raw>,
    interrupted: bool,
}

impl Wire {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Self::connect().map_err(|error| NetlinkError::new("open an rtnetlink socket", error))
    }

    fn connect() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        // So that the kernel filters dumps by interface, and does not list everybody's.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Everything of a kind that the request in `body` does not exclude.
    pub(super) fn dump(
        &mut self,
        attempt: &str,
        kind: u16,
        body: &[u8],
    ) -> Result<Vec<Raw>, NetlinkError> {
        let mut messages = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            let answer = self.ask(attempt, kind, NLM_F_DUMP, body)?;
            messages = answer.messages;
            if !answer.interrupted {
                break;
            }
        }
        Ok(messages)
    }

    /// Asks for one thing, or to do one thing.
    pub(super) fn request(
        &mut self,
        attempt: &str,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Vec<Raw>, NetlinkError> {
        Ok(self.ask(attempt, kind, flags | NLM_F_ACK, body)?.messages)
    }

    fn ask(
        &mut self,
        attempt: &str,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Answer, NetlinkError> {
        let failed = |error: io::Error| NetlinkError::new(attempt, error);
        self.send(kind, flags, body).map_err(failed)?;
        let mut answer = Answer {
            messages: Vec::new(),
            interrupted: false,
        };
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(failed)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<Raw>::deserialize(rest)
                    .map_err(|error| failed(io::Error::other(error)))?;
                let length = message.header.length as usize;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                answer.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answer),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answer),
                    NetlinkPayload::Error(error) => {
                        return Err(NetlinkError::refused(attempt, &error));
                    }
                    NetlinkPayload::InnerMessage(message) => answer.messages.push(message),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(Raw {
                kind,
                body: body.to_vec(),
            }),
        );
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }
}
