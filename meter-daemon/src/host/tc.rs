//! Traffic-control messages as they are on the wire: a header and attributes by number.
//!
//! Not `netlink-packet-route`'s own types: those interpret the options of every kind of
//! filter they know and refuse a whole dump for one they cannot read, and the filters that
//! we list are other people's.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const HEADER: usize = 20;
const ALIGNMENT: usize = 4;

/// Attributes of every qdisc and filter, and of a `bpf` filter's options (linux/pkt_cls.h).
pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
pub(super) const TCA_CHAIN: u16 = 11;
pub(super) const TCA_BPF_ACT: u16 = 1;
pub(super) const TCA_BPF_FD: u16 = 6;
pub(super) const TCA_BPF_NAME: u16 = 7;
pub(super) const TCA_BPF_FLAGS: u16 = 8;
pub(super) const TCA_BPF_ID: u16 = 11;

/// An attribute's number and value.
pub(super) type Attribute = (u16, Vec<u8>);

/// `struct tcmsg` and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TcMessage {
    /// `RTM_*`.
    pub(super) kind: u16,
    pub(super) ifindex: u32,
    pub(super) handle: u32,
    pub(super) parent: u32,
    pub(super) info: u32,
    pub(super) attributes: Vec<Attribute>,
}

impl TcMessage {
    /// The value of an attribute.
    pub(super) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        find(&self.attributes, kind)
    }

    /// What kind of qdisc or filter it is.
    pub(super) fn name(&self) -> &str {
        self.attribute(TCA_KIND).map_or("", text)
    }
}

pub(super) fn find(attributes: &[Attribute], kind: u16) -> Option<&[u8]> {
    let found = attributes.iter().find(|attribute| attribute.0 == kind);
    found.map(|attribute| attribute.1.as_slice())
}

/// The string in an attribute, without its NUL; empty where it is none.
pub(super) fn text(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0);
    std::str::from_utf8(&value[..end.unwrap_or(value.len())]).unwrap_or("")
}

/// A string with the NUL that the kernel's policies ask for.
pub(super) fn string(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// Nested attributes as one value.
pub(super) fn nest(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in attributes {
        // Ours are numbers and short names.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
    bytes
}

/// The attributes in a value.
pub(super) fn unnest(bytes: &[u8]) -> Result<Vec<Attribute>, DecodeError> {
    NlasIterator::new(bytes)
        .map(|attribute| {
            let attribute = attribute?;
            Ok((attribute.kind(), attribute.value().to_vec()))
        })
        .collect()
}

impl NetlinkSerializable for TcMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER + nest(&self.attributes).len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let numbers = [0, self.ifindex, self.handle, self.parent, self.info];
        let header = numbers.iter().flat_map(|number| number.to_ne_bytes());
        let bytes: Vec<u8> = header.chain(nest(&self.attributes)).collect();
        buffer.copy_from_slice(&bytes);
    }
}

impl NetlinkDeserializable for TcMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let field = |index: usize| {
            payload
                .get(index * 4..index * 4 + 4)
                .and_then(number)
                .ok_or_else(|| DecodeError::from("a traffic-control message is too short"))
        };
        Ok(Self {
            kind: header.message_type,
            ifindex: field(1)?,
            handle: field(2)?,
            parent: field(3)?,
            info: field(4)?,
            attributes: unnest(&payload[HEADER..])?,
        })
    }
}

/// Asks the kernel and takes its whole answer. `flags` beside `NLM_F_REQUEST`.
pub(super) fn request<M>(message: M, flags: u16) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    request_of(NETLINK_ROUTE, message, flags)
}

/// The same of another part of the kernel.
pub(super) fn request_of<M>(protocol: isize, message: M, flags: u16) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::InnerMessage(message),
    );
    request.header.flags = NLM_F_REQUEST | flags;
    if flags & NLM_F_DUMP != NLM_F_DUMP {
        request.header.flags |= NLM_F_ACK;
    }
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        if take(&bytes, &mut answer)? {
            return Ok(answer);
        }
    }
}

/// Takes the messages of one datagram; true when the answer ends with it.
pub(super) fn take<M>(mut bytes: &[u8], answer: &mut Vec<M>) -> io::Result<bool>
where
    M: NetlinkDeserializable,
{
    while !bytes.is_empty() {
        let message = NetlinkMessage::<M>::deserialize(bytes).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(_) => Err(error.to_io()),
                };
            }
            NetlinkPayload::InnerMessage(message) => answer.push(message),
            _ => {}
        }
        let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
        bytes = bytes
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or(&[]);
    }
    Ok(false)
}
