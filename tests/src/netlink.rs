//! Just enough of route netlink: messages built and read attribute by attribute, one request
//! at a time. A second implementation on purpose: the daemon's own library is not asked
//! whether the daemon did right.

use std::os::fd::OwnedFd;

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::{Context, Failure, Result};

const HEADER: usize = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// For what is to be made anew: it must not be there yet.
pub const CREATE: u16 = 0x600;
/// For what is to be made or replaced.
pub const REPLACE: u16 = 0x500;

/// A message under construction.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// Of an `RTM_` kind, with these flags beside the request's own.
    #[must_use]
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        Self(bytes)
    }

    /// The family's fixed header.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.align()
    }

    /// An attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // Its length is without the padding that follows.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.bytes(value)
    }

    /// A C string.
    #[must_use]
    pub fn string(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// A number in the machine's order.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute made of attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        let mut whole = inner(self);
        let length = u16::try_from(whole.0.len() - start).unwrap_or(u16::MAX);
        whole.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole
    }

    fn align(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// The attributes that follow a fixed header.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        // The two upper bits are flags (nested, network byte order).
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first of this kind.
    #[must_use]
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|&(k, _)| k == kind).map(|(_, value)| value)
    }

    /// As a number.
    #[must_use]
    pub fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(
            self.get(kind)?.get(..4)?.try_into().ok()?,
        ))
    }

    /// As text.
    #[must_use]
    pub fn string(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// A route socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one here.
    pub fn open() -> Result<Self> {
        let fd = net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .could_not(|| "open a route netlink socket")?;
        let nobody = netlink::SocketAddrNetlink::new(0, 0);
        net::bind(&fd, &nobody).could_not(|| "bind a route netlink socket")?;
        Ok(Self(fd))
    }

    /// Sends and waits for the kernel's answer.
    pub fn request(&self, message: Message, what: &str) -> Result<()> {
        self.send(message, ACK).could_not(|| what)?;
        loop {
            for (kind, body) in self.receive().could_not(|| what)? {
                if kind == ERROR {
                    return answer(&body).could_not(|| what);
                }
            }
        }
    }

    /// Sends and collects what the kernel lists: kind and body of each message.
    pub fn dump(&self, message: Message, what: &str) -> Result<Vec<(u16, Vec<u8>)>> {
        self.send(message, DUMP).could_not(|| what)?;
        let mut all = Vec::new();
        loop {
            for (kind, body) in self.receive().could_not(|| what)? {
                match kind {
                    DONE => return Ok(all),
                    ERROR => answer(&body).could_not(|| what)?,
                    _ => all.push((kind, body)),
                }
            }
        }
    }

    fn send(&self, Message(mut bytes): Message, flags: u16) -> Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let both = u16::from_ne_bytes([bytes[6], bytes[7]]) | flags;
        bytes[6..8].copy_from_slice(&both.to_ne_bytes());
        net::send(&self.0, &bytes, SendFlags::empty()).could_not(|| "send")?;
        Ok(())
    }

    fn receive(&self) -> Result<Vec<(u16, Vec<u8>)>> {
        let mut buffer = vec![0; 1 << 18];
        let (length, _) =
            net::recv(&self.0, &mut buffer[..], RecvFlags::empty()).could_not(|| "receive")?;
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while rest.len() >= HEADER {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if !(HEADER..=rest.len()).contains(&length) {
                return Err(Failure::new("the kernel's message is cut short"));
            }
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            messages.push((kind, rest[HEADER..length].to_vec()));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn answer(body: &[u8]) -> std::io::Result<()> {
    let code = body.get(..4).map_or(-libc::EPROTO, |b| {
        i32::from_ne_bytes([b[0], b[1], b[2], b[3]])
    });
    if code == 0 {
        Ok(())
    } else {
        Err(std::io::Error::from_raw_os_error(-code))
    }
}
