//! A socket that keeps rtnetlink's parsers away from the attributes of links and of traffic
//! control: they arrive in the messages as the kernel wrote them.
//!
//! The parsers refuse a whole message for a single attribute that they cannot read, and the
//! connection then drops it: an interface whose alias is not UTF-8, or that a newer kernel
//! describes otherwise, would go unmetered (netlink-proto's `NetlinkCodec::decode`). Nor must
//! options of qdiscs be interpreted which are to be put back byte for byte. So every
//! attribute gets a number that no parser knows, and is carried along unread.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use netlink_packet_core::{NLA_TYPE_MASK, NetlinkBuffer};
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};

use super::netlink;

/// The kernel never sends more than 32 KiB of a dump at a time (netlink_recvmsg,
/// max_recvmsg_len), and an event of a link has no list of VFs, which could be longer.
const LARGEST_DATAGRAM: usize = 64 << 10;

/// What of a message stands before its attributes: the netlink header, and `struct ifinfomsg`
/// or `struct tcmsg`.
const LINK_HEADER: usize = 16 + 16;
const TC_HEADER: usize = 16 + 20;

const OF_LINKS: [u16; 6] = [
    libc::IFLA_ADDRESS,
    libc::IFLA_IFNAME,
    libc::IFLA_MTU,
    libc::IFLA_LINK,
    libc::IFLA_LINKINFO,
    libc::IFLA_STATS64,
];
const OF_TRAFFIC_CONTROL: [u16; 3] = [libc::TCA_KIND, libc::TCA_OPTIONS, libc::TCA_STAB];

/// Makes an attribute's number one that nobody has given a meaning.
const UNKNOWN: u16 = 0x2000;

/// The number that the kernel gave an attribute.
pub(super) fn number(kind: u16) -> u16 {
    kind & NLA_TYPE_MASK & !UNKNOWN
}

/// As [`TokioSocket`], with what it receives disguised.
pub(super) struct Verbatim(TokioSocket);

impl AsyncSocket for Verbatim {
    fn socket_ref(&self) -> &Socket {
        self.0.socket_ref()
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self.0.socket_mut()
    }

    fn new(protocol: isize) -> io::Result<Self> {
        TokioSocket::new(protocol).map(Self)
    }

    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, bytes)
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        address: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(context, bytes, address)
    }

    fn poll_recv<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<()>> {
        self.poll_recv_from(context, buffer).map_ok(drop)
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        context: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        let (datagram, address) = ready!(self.poll_recv_from_full(context))?;
        buffer.put_slice(&datagram);
        Poll::Ready(Ok(address))
    }

    fn poll_recv_from_full(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        let mut datagram = Vec::with_capacity(LARGEST_DATAGRAM);
        let received = ready!(self.0.poll_recv_from(context, &mut datagram));
        Poll::Ready(match received {
            Ok(address) => disguised(&datagram).map(|messages| (messages, address)),
            // Whatever the kernel could not hand over is lost like what it had no room for; and
            // any other error would end the connection. (One of tokio's has no number.)
            Err(error) if error.raw_os_error().is_some() => Err(lost()),
            Err(error) => Err(error),
        })
    }
}

fn lost() -> io::Error {
    rustix::io::Errno::NOBUFS.into()
}

/// The messages of a datagram; those of links and of traffic control with disguised
/// attributes, and only those that we read: most of what the kernel says of a link is not.
pub(super) fn disguised(mut datagram: &[u8]) -> io::Result<Vec<u8>> {
    let mut messages = Vec::with_capacity(datagram.len());
    while !datagram.is_empty() {
        // Cut off at the buffer's end: as good as lost.
        let message = NetlinkBuffer::new_checked(datagram).map_err(|_| lost())?;
        let length = message.length() as usize;
        let (header, read): (usize, &[u16]) = match message.message_type() {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => (LINK_HEADER, &OF_LINKS),
            libc::RTM_NEWQDISC..=libc::RTM_GETTFILTER => (TC_HEADER, &OF_TRAFFIC_CONTROL),
            _ => (length, &[]),
        };
        let (header, attributes) = datagram[..length].split_at(header.min(length));
        let attributes = netlink::attributes(attributes)
            .filter(|(number, _)| read.contains(number))
            .map(|(number, value)| (number | UNKNOWN, value.to_vec()));
        let start = messages.len();
        messages.extend(header);
        messages.extend(netlink::written(attributes));
        let disguised = u32::try_from(messages.len() - start).map_err(io::Error::other)?;
        messages[start..start + 4].copy_from_slice(&disguised.to_ne_bytes());
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(messages)
}
