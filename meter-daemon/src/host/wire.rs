//! rtnetlink messages as bytes: header and attributes together, as the kernel writes them and
//! takes them back. What is to be put back exactly must not go through somebody's types.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netlink::NetlinkError;

/// An interrupted dump is begun anew this often; then its last attempt counts.
const DUMP_ATTEMPTS: usize = 8;

/// A message without its netlink header.
#[derive(Clone, Debug)]
pub(in crate::host) struct Raw {
    /// `RTM_*`.
    pub(in crate::host) kind: u16,
    pub(in crate::host) body: Vec<u8>,
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
pub(in crate::host) struct Wire {
    socket: Socket,
    /// Of the last request: what a failed one left unread is not the next one's answer.
    sequence: u32,
}

/// Whether a list is of one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Interrupted,
}

impl Wire {
    pub(in crate::host) fn open() -> Result<Self, NetlinkError> {
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
    pub(in crate::host) fn dump(
        &mut self,
        attempt: &str,
        kind: u16,
        body: &[u8],
    ) -> Result<Vec<Raw>, NetlinkError> {
        let mut messages = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            messages.clear();
            let keep = |message| messages.push(message);
            if self.ask(attempt, kind, NLM_F_DUMP, body, keep)? == Consistency::Whole {
                break;
            }
        }
        Ok(messages)
    }

    /// The same, one after the other: a node's thousands of links whole are tens of megabytes.
    /// Where they changed meanwhile it is begun anew, and what the attempts saw comes in order:
    /// kernels before 6.9 may skip a link that stays when another goes, so the last attempt
    /// alone is not the whole truth.
    pub(in crate::host) fn each(
        &mut self,
        attempt: &str,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&Raw),
    ) -> Result<(), NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let see = |message: Raw| each(&message);
            if self.ask(attempt, kind, NLM_F_DUMP, body, see)? == Consistency::Whole {
                break;
            }
        }
        Ok(())
    }

    /// Asks for one thing, or to do one thing.
    pub(in crate::host) fn request(
        &mut self,
        attempt: &str,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Vec<Raw>, NetlinkError> {
        let mut messages = Vec::new();
        let keep = |message| messages.push(message);
        self.ask(attempt, kind, flags | NLM_F_ACK, body, keep)?;
        Ok(messages)
    }

    fn ask(
        &mut self,
        attempt: &str,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut keep: impl FnMut(Raw),
    ) -> Result<Consistency, NetlinkError> {
        let failed = |error: io::Error| NetlinkError::new(attempt, error);
        self.send(kind, flags, body).map_err(failed)?;
        let mut consistency = Consistency::Whole;
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
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    consistency = Consistency::Interrupted;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(consistency),
                    NetlinkPayload::Error(error) if error.code.is_none() => {
                        return Ok(consistency);
                    }
                    NetlinkPayload::Error(error) => {
                        return Err(NetlinkError::refused(attempt, &error));
                    }
                    NetlinkPayload::InnerMessage(message) => keep(message),
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
