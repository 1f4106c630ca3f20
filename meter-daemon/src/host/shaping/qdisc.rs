//! Qdiscs and classes as the kernel shows and takes them: kind, handle, parent, options.

use std::collections::BTreeMap;

use libc::{TCA_KIND, TCA_OPTIONS, TCA_STAB};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcMessage},
};
use serde::{Deserialize, Serialize};

use crate::host::netlink::{NetlinkError, Request, Requests, text, values};

/// TC_H_ROOT.
pub(super) const ROOT: u32 = u32::MAX;
/// The ingress hook of clsact, and all of ingress (TC_H_MIN_INGRESS).
const INGRESS: u32 = 0xffff_fff2;

/// A qdisc or a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    /// The kernel's word: `htb`, `tbf`, …
    pub(super) kind: String,
    /// Major and minor number.
    pub(super) handle: u32,
    /// A handle, or [`ROOT`].
    pub(super) parent: u32,
    /// Of a class: the handle of its leaf qdisc (`tcm_info`).
    pub(super) leaf: u32,
    /// TCA_OPTIONS, as the kernel dumps it and takes it.
    #[serde(with = "crate::host::hex")]
    pub(super) options: Vec<u8>,
    /// Whether the sizes of packets are corrected by a table, which is not dumped.
    #[serde(skip)]
    pub(super) has_size_table: bool,
}

/// May the request replace something?
#[derive(Clone, Copy)]
pub(super) enum Put {
    /// Only where nothing but the kernel's default stands.
    New,
    /// Whatever stands there is replaced, or changed in place where it is the same.
    Replace,
}

/// The qdiscs of an interface that the kernel shows.
///
/// The kernel lists those of all interfaces, so this is not for the ordinary case. To ask for
/// one by its parent would be no better: that answer goes to everybody who listens to
/// changes (qdisc_get_notify), ourselves among them.
pub(super) fn qdiscs(requests: &mut Requests, ifindex: u32) -> Result<Qdiscs, NetlinkError> {
    let qdiscs = requests.dump(
        "list the qdiscs",
        &RouteNetlinkMessage::GetQueueDiscipline(message(ifindex, 0, 0)),
        |reply| node(reply, ifindex),
    )?;
    Ok(Qdiscs(qdiscs))
}

/// The qdiscs of an interface.
pub(super) struct Qdiscs(Vec<Node>);

impl Qdiscs {
    /// The one at the root; `None` for the built-in one of an interface that is down.
    pub(super) fn root(&self) -> Option<&Node> {
        self.below(ROOT)
    }

    /// The one below a class.
    pub(super) fn below(&self, parent: u32) -> Option<&Node> {
        self.0.iter().find(|qdisc| qdisc.parent == parent)
    }
}

/// The classes of all qdiscs of an interface.
pub(super) fn classes(requests: &mut Requests, ifindex: u32) -> Result<Vec<Node>, NetlinkError> {
    requests.dump(
        &format!("list the classes of interface {ifindex}"),
        &RouteNetlinkMessage::GetTrafficClass(message(ifindex, 0, 0)),
        |reply| node(reply, ifindex),
    )
}

/// The filters of a qdisc or class: the kind of each, by priority.
pub(super) fn filters(
    requests: &mut Requests,
    ifindex: u32,
    parent: u32,
) -> Result<Vec<String>, NetlinkError> {
    let found = requests.dump(
        &format!(
            "list the filters at {} of interface {ifindex}",
            Handle(parent)
        ),
        &RouteNetlinkMessage::GetTrafficFilter(message(ifindex, 0, parent)),
        |reply| node(reply, ifindex),
    )?;
    // What is shown as info of a filter is its priority and protocol. Several lines are one
    // filter: itself, its tables, its rules.
    let filters: BTreeMap<u32, String> = found
        .into_iter()
        .map(|filter| (filter.leaf, filter.kind))
        .collect();
    Ok(filters.into_values().collect())
}

/// The filters of `ingress` or `clsact` that what the guest sends runs through.
pub(super) fn ingress_filters(
    requests: &mut Requests,
    ifindex: u32,
) -> Result<Vec<String>, NetlinkError> {
    filters(requests, ifindex, INGRESS)
}

/// The request that puts a qdisc where its parent says.
pub(super) fn put_qdisc(ifindex: u32, node: &Node, put: Put) -> Request {
    Request {
        attempt: format!(
            "put qdisc {} {} at {} of interface {ifindex}",
            node.kind,
            Handle(node.handle),
            Handle(node.parent)
        ),
        message: RouteNetlinkMessage::NewQueueDiscipline(full(ifindex, node)),
        flags: NLM_F_CREATE
            | match put {
                Put::New => NLM_F_EXCL,
                Put::Replace => NLM_F_REPLACE,
            },
    }
}

/// The request that makes a class, or changes it in place.
pub(super) fn put_class(ifindex: u32, node: &Node) -> Request {
    Request {
        attempt: format!(
            "put class {} {} on interface {ifindex}",
            node.kind,
            Handle(node.handle)
        ),
        message: RouteNetlinkMessage::NewTrafficClass(full(ifindex, node)),
        flags: NLM_F_CREATE,
    }
}

/// The request that deletes the root qdisc if it still has this handle; the kernel then puts
/// its default there.
pub(super) fn delete_root(ifindex: u32, handle: u32) -> Request {
    Request {
        attempt: format!("delete our root qdisc of interface {ifindex}"),
        message: RouteNetlinkMessage::DelQueueDiscipline(message(ifindex, handle, ROOT)),
        flags: 0,
    }
}

fn full(ifindex: u32, node: &Node) -> TcMessage {
    let mut message = message(ifindex, node.handle, node.parent);
    message.attributes = vec![
        TcAttribute::Kind(node.kind.clone()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, node.options.clone())),
    ];
    message
}

fn message(ifindex: u32, handle: u32, parent: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.handle = handle.into();
    message.header.parent = parent.into();
    message
}

/// What a reply shows, if it is of this interface.
fn node(reply: &RouteNetlinkMessage, ifindex: u32) -> Option<Node> {
    let (RouteNetlinkMessage::NewQueueDiscipline(message)
    | RouteNetlinkMessage::NewTrafficClass(message)
    | RouteNetlinkMessage::NewTrafficFilter(message)) = reply
    else {
        return None;
    };
    let header = &message.header;
    if header.index != ifindex.cast_signed() {
        return None;
    }
    let (mut kind, mut options, mut has_size_table) = (None, Vec::new(), false);
    for (number, value) in values(&message.attributes) {
        match number {
            TCA_KIND => kind = Some(text(&value)),
            TCA_OPTIONS => options = value,
            TCA_STAB => has_size_table = true,
            _ => {}
        }
    }
    Some(Node {
        kind: kind?,
        handle: header.handle.into(),
        parent: header.parent.into(),
        leaf: header.info,
        options,
        has_size_table,
    })
}

/// As tc writes it: hexadecimal, `major:minor`.
pub(super) struct Handle(pub(super) u32);

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ROOT => f.write_str("root"),
            INGRESS => f.write_str("ingress"),
            handle => write!(f, "{:x}:{:x}", handle >> 16, handle & 0xffff),
        }
    }
}
