//! Who else looks at what a guest sends: nftables chains at the ingress of its interface.
//!
//! A redirect into an IFB leads packets past them, and when they come back from there the
//! kernel does not ask them again (`skb_skip_tc_classify` in net/core/dev.c). Asked for are
//! the chains of nf_tables, of every family: nothing else in the kernel hooks in there, and
//! nfnetlink's own list of hooks is missing in many kernels.

use std::{future, io};

use futures_util::FutureExt;
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};

use super::{
    error::HostError,
    tc::{self, Attribute, find, text, unnest},
};

/// linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
const NFTA_DEVICE_NAME: u16 = 1;
const NFTA_DEVICE_PREFIX: u16 = 2;

/// linux/netfilter.h: families, and the number that each gives to a device's ingress.
const NFPROTO_INET: u8 = 1;
const NFPROTO_NETDEV: u8 = 5;
const NF_INET_INGRESS: u32 = 5;
const NF_NETDEV_INGRESS: u32 = 0;

/// The nftables chains that see what comes in at an interface: `nftables chain netdev spoof
/// tap101`. None where the kernel has no nf_tables.
///
/// # Errors
/// Where the kernel does not say.
pub fn ingress_chains(interface: &str) -> Result<Vec<String>, HostError> {
    let request = Message {
        kind: (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETCHAIN,
        ..Message::default()
    };
    let chains = match tc::request_of(NETLINK_NETFILTER, request, NLM_F_DUMP) {
        Ok(chains) => chains,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(HostError::system("list the chains of nftables", error)),
    };
    Ok(chains
        .iter()
        .filter(|chain| chain.hooks_into(interface))
        .map(Message::called)
        .collect())
}

/// What the kernel says of chains that come and go; CAP_NET_ADMIN suffices to listen.
pub struct ChainChanges(TokioSocket);

impl ChainChanges {
    /// Subscribes: what is asked for afterwards misses no change. Panics outside of a tokio
    /// runtime. `None` where the kernel has no nfnetlink.
    ///
    /// # Errors
    /// Where the kernel does not let us.
    pub fn open() -> Result<Option<Self>, HostError> {
        let subscribed = || {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            socket.socket_mut().add_membership(NFNLGRP_NFTABLES)?;
            Ok(Self(socket))
        };
        match subscribed() {
            Ok(changes) => Ok(Some(changes)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(HostError::system("listen to changes of nftables", error)),
        }
    }

    /// Waits until the chains at some interface's ingress may be others. Nothing is lost when
    /// the future is dropped.
    pub async fn next(&mut self) {
        while !self.datagram().await {}
        // A transaction of many chains is one change.
        while self.datagram().now_or_never().is_some() {}
    }

    /// Whether the next datagram is of concern. One that could not be had or read may have been.
    async fn datagram(&mut self) -> bool {
        let received = future::poll_fn(|context| self.0.poll_recv_from_full(context)).await;
        let mut messages: Vec<Message> = Vec::new();
        let read = received.and_then(|(bytes, _)| tc::take(&bytes, &mut messages));
        read.is_err() || messages.iter().any(Message::changes_ingress)
    }
}

/// No nfnetlink, or nobody there who knows the question.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT)
    )
}

/// `struct nfgenmsg` and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    kind: u16,
    family: u8,
    attributes: Vec<Attribute>,
}

impl Message {
    /// Where a chain hooks in, if that is an ingress. One that is only jumped to hooks in nowhere.
    fn ingress_hook(&self) -> Option<Vec<Attribute>> {
        let hook = unnest(find(&self.attributes, NFTA_CHAIN_HOOK)?).ok()?;
        let number = find(&hook, NFTA_HOOK_HOOKNUM)?;
        let number = u32::from_be_bytes(number.try_into().ok()?);
        let at_ingress = match self.family {
            NFPROTO_NETDEV => number == NF_NETDEV_INGRESS,
            NFPROTO_INET => number == NF_INET_INGRESS,
            _ => false,
        };
        at_ingress.then_some(hook)
    }

    /// Whether it tells of a chain at an ingress that came or went. Where one hooked in that
    /// goes, the kernel says only if it loses some of its interfaces.
    fn changes_ingress(&self) -> bool {
        const NEW: u16 = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWCHAIN;
        const DELETED: u16 = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_DELCHAIN;
        match self.kind {
            NEW => self.ingress_hook().is_some(),
            DELETED => matches!(self.family, NFPROTO_NETDEV | NFPROTO_INET),
            _ => false,
        }
    }

    fn hooks_into(&self, interface: &str) -> bool {
        let Some(hook) = self.ingress_hook() else {
            return false;
        };
        let one = find(&hook, NFTA_HOOK_DEV).is_some_and(|name| is_meant(name, interface));
        let several = find(&hook, NFTA_HOOK_DEVS).and_then(|names| unnest(names).ok());
        one || several.is_some_and(|names| {
            names.iter().any(|(kind, name)| match *kind {
                NFTA_DEVICE_NAME => is_meant(name, interface),
                NFTA_DEVICE_PREFIX => interface.starts_with(text(name)),
                _ => false,
            })
        })
    }

    fn called(&self) -> String {
        let part = |kind| find(&self.attributes, kind).map_or("?", text);
        let family = match self.family {
            NFPROTO_INET => "inet",
            _ => "netdev",
        };
        let (table, chain) = (part(NFTA_CHAIN_TABLE), part(NFTA_CHAIN_NAME));
        format!("nftables chain {family} {table} {chain}")
    }
}

/// Linux 6.16 writes `tap*` as a name without its NUL; later ones have an attribute for it.
fn is_meant(name: &[u8], interface: &str) -> bool {
    match name.contains(&0) {
        true => text(name) == interface,
        false => interface.starts_with(text(name)),
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        4
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // Version 0, no resource: any family's.
        buffer.copy_from_slice(&[self.family, 0, 0, 0]);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (generic, attributes) = payload
            .split_at_checked(4)
            .ok_or_else(|| DecodeError::from("a netfilter message is too short"))?;
        Ok(Self {
            kind: header.message_type,
            family: generic[0],
            attributes: unnest(attributes)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tc::nest, *};

    fn chain(family: u8, number: u32, hook: &[Attribute]) -> Message {
        let mut all = vec![(NFTA_HOOK_HOOKNUM, number.to_be_bytes().to_vec())];
        all.extend_from_slice(hook);
        Message {
            kind: 0,
            family,
            attributes: vec![
                (NFTA_CHAIN_TABLE, b"spoof\0".to_vec()),
                (NFTA_CHAIN_NAME, b"tap101\0".to_vec()),
                (NFTA_CHAIN_HOOK, nest(&all)),
            ],
        }
    }

    #[test]
    fn only_chains_at_the_ingress_of_that_interface_are_in_the_way() {
        let one = |name: &[u8]| vec![(NFTA_HOOK_DEV, name.to_vec())];
        let several = |kind, name: &[u8]| {
            let names = [
                (NFTA_DEVICE_NAME, b"eth0\0".to_vec()),
                (kind, name.to_vec()),
            ];
            vec![(NFTA_HOOK_DEVS, nest(&names))]
        };
        let mine = b"tap101i0\0";
        for (chain, expected) in [
            (chain(5, 0, &one(mine)), true),
            (chain(5, 0, &several(1, mine)), true),
            (chain(1, 5, &one(mine)), true),
            (chain(5, 0, &several(1, b"tap")), true),
            (chain(5, 0, &several(2, b"tap101\0")), true),
            // egress; another hook of inet; an ipv4 input chain; another interface
            (chain(5, 1, &one(mine)), false),
            (chain(1, 0, &one(mine)), false),
            (chain(2, 0, &one(mine)), false),
            (chain(5, 0, &one(b"tap101i00\0")), false),
            (chain(5, 0, &[]), false),
        ] {
            assert_eq!(chain.hooks_into("tap101i0"), expected, "{chain:?}");
        }
        let named = chain(5, 0, &[]).called();
        assert_eq!(named, "nftables chain netdev spoof tap101");
    }
}
