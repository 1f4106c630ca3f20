//! The IFB that stands for what one interface sends.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use rustix::io::Errno;

use super::{OurIfb, ShapingError};
use crate::host::{
    links::{self, Link, LinkKind},
    netlink::{NetlinkError, Request, Requests},
};

const PREFIX: &str = "mtrd";

fn name(owner: u32) -> String {
    format!("{PREFIX}{owner}")
}

fn owner(link: &Link) -> Option<u32> {
    let owner = link.name.strip_prefix(PREFIX)?.parse().ok()?;
    (link.kind == LinkKind::Ifb && link.name == name(owner)).then_some(owner)
}

/// The IFB of an interface, if there is one.
pub(super) fn of(requests: &mut Requests, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
    let link = links::named(requests, &name(ifindex))?;
    Ok(link.filter(|link| link.kind == LinkKind::Ifb))
}

/// The IFB of an interface; made, and still down, where there was none.
pub(super) fn ensure(requests: &mut Requests, link: &Link) -> Result<Link, ShapingError> {
    if let Some(ifb) = of(requests, link.ifindex)? {
        return Ok(ifb);
    }
    let name = name(link.ifindex);
    match requests.apply(vec![create(&name, link.mtu)]) {
        Ok(()) => {}
        Err(error) if error.is(Errno::EXIST) => return Err(ShapingError::NameTaken { name }),
        Err(error) => return Err(error.into()),
    }
    of(requests, link.ifindex)?.ok_or(ShapingError::NameTaken { name })
}

fn create(name: &str, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    Request {
        attempt: format!("make the IFB {name}"),
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// Deletes an IFB; none there is as good.
pub(super) fn delete(requests: &mut Requests, ifindex: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let deleted = requests.apply(vec![Request {
        attempt: format!("delete the IFB {ifindex}"),
        message: RouteNetlinkMessage::DelLink(message),
        flags: 0,
    }]);
    match deleted {
        Err(error) if error.is(Errno::NODEV) => Ok(()),
        other => other,
    }
}

/// IFBs of ours whose interface is gone.
pub(super) fn strays(requests: &mut Requests) -> Result<Vec<OurIfb>, NetlinkError> {
    let links = links::dump(requests)?;
    let alive = |owner: u32| {
        links
            .binary_search_by_key(&owner, |link| link.ifindex)
            .is_ok()
    };
    Ok(links
        .iter()
        .filter_map(|link| {
            let owner = owner(link)?;
            (!alive(owner)).then_some(OurIfb {
                ifindex: link.ifindex,
                owner,
            })
        })
        .collect())
}
