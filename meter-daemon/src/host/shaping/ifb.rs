//! The IFB that stands for what one interface sends.

use rtnetlink::LinkIfb;
use rustix::io::Errno;

use super::{OurIfb, ShapingError};
use crate::host::{
    links::{self, Link, LinkKind},
    netlink::{NetlinkError, Requests},
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
    let ifb = LinkIfb::new(&name).mtu(link.mtu).build();
    let made = requests.links().add(ifb).execute();
    match requests.wait(&format!("make the IFB {name}"), made) {
        Ok(()) => {}
        Err(error) if error.is(Errno::EXIST) => return Err(ShapingError::NameTaken { name }),
        Err(error) => return Err(error.into()),
    }
    of(requests, link.ifindex)?.ok_or(ShapingError::NameTaken { name })
}

/// Deletes an IFB; none there is as good.
pub(super) fn delete(requests: &mut Requests, ifindex: u32) -> Result<(), NetlinkError> {
    let deleted = requests.links().del(ifindex).execute();
    match requests.wait(&format!("delete the IFB {ifindex}"), deleted) {
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
