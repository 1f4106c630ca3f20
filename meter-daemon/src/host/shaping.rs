//! Shapes one interface to a rate in both directions.
//!
//! What the guest receives is shaped at its tap's root qdisc; what it sends, on an IFB made
//! for the interface, to which the kernel program redirects. Both have the same tree
//! (`tree`). The kernel program chooses the class by `skb->priority`.
//!
//! Level-triggered: what is wanted is compared with what stands, and the difference is
//! made. A root qdisc of somebody else's is put back afterwards if it can be, and otherwise
//! left alone from the beginning.

mod htb;
mod ifb;
mod qdisc;
mod root;
mod saved;
mod tbf;
mod tree;

use self::tree::Tree;
pub use self::{
    root::Root,
    saved::SavedRoot,
    tree::{BULK, MAJOR, SMALL, SMALL_CLASSES},
};
use super::{
    links::{self, AdminState},
    netfilter,
    netlink::{Netlink, NetlinkError, Requests},
    words::Mode,
};
use crate::engine::units::{BitsPerSecond, Bytes};

/// Installs and removes shapers in the network namespace it was opened in.
#[derive(Clone)]
pub struct Shaping {
    netlink: Netlink,
}

/// What stands at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At its root.
    pub root: Root,
    /// The IFB of ours for what it sends, by ifindex.
    pub ifb: Option<u32>,
    /// Filters on its `ingress` or `clsact`, the kind of each: a redirect into an IFB would let
    /// packets past those of them that somebody else has put there.
    pub ingress_filters: Vec<String>,
    /// nftables chains at its ingress, whichever way the kernel program is attached: it would
    /// let packets past them, too.
    pub ingress_chains: Vec<String>,
}

impl Found {
    /// What a redirect of what the guest sends would lead past: nobody's anti-spoofing rule
    /// may be of no use because a machine is throttled.
    #[must_use]
    pub fn bypassed_by(&self, mode: Mode) -> Vec<String> {
        // By clsact we stand behind the filters of `ingress`, by tcx before them.
        let filters = self.ingress_filters.iter().filter(|_| mode == Mode::Tcx);
        filters.chain(&self.ingress_chains).cloned().collect()
    }
}

/// What [`Shaping::install`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Where the kernel program is to redirect what the guest sends.
    pub ifb_ifindex: u32,
    /// What it took.
    pub change: Change,
    /// What stood at the root before.
    pub replaced: Root,
}

/// What it took to get from what stood to what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing: all stood as wanted.
    Nothing,
    /// Classes were changed in place, for another rate or because somebody had touched them.
    Adjusted,
    /// A shaper was put where none of ours stood.
    Built,
}

/// What [`Shaping::remove`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What is at the root now.
    pub root: RootAfter,
    /// The IFB's and the interface's last figures, if there was an IFB.
    pub figures: Option<Figures>,
}

/// What is at the root when we have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootAfter {
    /// What stood there before us.
    Restored,
    /// The kernel's default.
    DefaultBack,
    /// What somebody put there meanwhile, in the kernel's word: it wins.
    ForeignLeftAlone(String),
    /// Nothing: the interface is gone.
    InterfaceGone,
}

/// What came through a shaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Received and sent, a frame as `skb->len`; they only grow while `ifb` is the same.
    pub traffic: [Bytes; 2],
    /// Whose counter the second is: a new IFB counts from 0.
    pub ifb: u32,
}

/// An IFB of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OurIfb {
    /// Its own ifindex.
    pub ifindex: u32,
    /// The interface it was made for.
    pub owner: u32,
}

/// Why an interface could not be shaped, or a shaper not be removed.
#[derive(Debug, thiserror::Error)]
pub enum ShapingError {
    /// No such interface any more.
    #[error("interface {ifindex} is gone")]
    Gone {
        /// Which.
        ifindex: u32,
    },
    /// The root is not ours, and could not be put back.
    #[error(
        "interface {ifindex} has a root qdisc `{kind}` that we could not put back ({why}): it is \
         left alone and the machine is policed instead of shaped"
    )]
    Foreign {
        /// Of which interface.
        ifindex: u32,
        /// What stands there.
        kind: String,
        /// Why it cannot be saved.
        why: String,
    },
    /// Somebody changes the root at this moment.
    #[error("the root qdisc of interface {ifindex} is being changed by somebody")]
    Disturbed {
        /// Of which interface.
        ifindex: u32,
    },
    /// Our IFB's name belongs to something else.
    #[error("{name} is not an IFB of ours: rename or delete it")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The kernel shows something else than what was saved.
    #[error(
        "the root qdisc `{kind}` of interface {ifindex} was put back, but reads differently from \
         what stood there before: compare `tc qdisc show` and `tc class show` with the ledger"
    )]
    NotExact {
        /// Of which interface.
        ifindex: u32,
        /// What was put back.
        kind: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Shaping {
    /// For the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            netlink: Netlink::open()?,
        })
    }

    /// What stands at an interface. A [`Root::Restorable`] is to be remembered before
    /// [`Shaping::install`], and given back to [`Shaping::remove`].
    pub async fn inspect(&self, ifindex: u32) -> Result<Found, ShapingError> {
        self.run(ifindex, move |requests| inspect(requests, ifindex))
            .await
    }

    /// Shapes an interface to `rate`, each direction. Nothing is done where all stands as
    /// wanted, classes are changed in place where only the rate differs. The redirect to the
    /// IFB is for the caller to switch on, afterwards.
    ///
    /// `over` is the root that [`Shaping::inspect`] found. Where another stands by now, somebody
    /// is at work there, and what they are about to put there must find what they left.
    pub async fn install(
        &self,
        ifindex: u32,
        rate: BitsPerSecond,
        over: &Root,
    ) -> Result<Installed, ShapingError> {
        let over = over.clone();
        self.run(ifindex, move |requests| {
            install(requests, ifindex, rate, &over)
        })
        .await
    }

    /// The part of [`Shaping::install`] that changes nothing for any packet yet; what the
    /// shaper's figures are from then on.
    pub async fn prepare(
        &self,
        ifindex: u32,
        rate: BitsPerSecond,
    ) -> Result<Figures, ShapingError> {
        self.run(ifindex, move |requests| {
            let link = links::get(requests, ifindex)?.ok_or(ShapingError::Gone { ifindex })?;
            let (ifb, _) = prepare(requests, &link, &Tree::new(rate, link.mtu))?;
            Ok(figures(&link, &ifb))
        })
        .await
    }

    /// Takes our shaper away, and puts back what stood there before. The redirect to the IFB
    /// must be off: what is redirected to an interface that is gone is lost.
    pub async fn remove(
        &self,
        ifindex: u32,
        saved: Option<&SavedRoot>,
    ) -> Result<Removed, ShapingError> {
        let saved = saved.cloned();
        self.run(ifindex, move |requests| {
            remove(requests, ifindex, saved.as_ref())
        })
        .await
    }

    /// What has come through an interface's shaper; `None` where it has no IFB of ours.
    pub async fn figures(&self, ifindex: u32) -> Result<Option<Figures>, ShapingError> {
        self.run(ifindex, move |requests| {
            let Some(ifb) = ifb::of(requests, ifindex)? else {
                return Ok(None);
            };
            let tap = links::get(requests, ifindex)?.ok_or(ShapingError::Gone { ifindex })?;
            Ok(Some(figures(&tap, &ifb)))
        })
        .await
    }

    /// What has come through the IFB of an interface, be the interface there or gone; `None`
    /// where it has none.
    pub async fn through_ifb(&self, ifindex: u32) -> Result<Option<Bytes>, ShapingError> {
        self.run(ifindex, move |requests| {
            Ok(ifb::of(requests, ifindex)?.map(|ifb| ifb.kernel.received))
        })
        .await
    }

    /// IFBs of ours whose interface is gone.
    pub async fn stray_ifbs(&self) -> Result<Vec<OurIfb>, NetlinkError> {
        self.netlink.run(ifb::strays).await
    }

    /// Deletes one of them.
    pub async fn delete_stray(&self, stray: &OurIfb) -> Result<(), NetlinkError> {
        let ifindex = stray.ifindex;
        self.netlink
            .run(move |requests| ifb::delete(requests, ifindex))
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        ifindex: u32,
        work: impl FnOnce(&mut Requests) -> Result<T, ShapingError> + Send + 'static,
    ) -> Result<T, ShapingError> {
        self.netlink.run(work).await.map_err(|error| match error {
            ShapingError::Netlink(error) if error.is(rustix::io::Errno::NODEV) => {
                ShapingError::Gone { ifindex }
            }
            error => error,
        })
    }
}

fn inspect(requests: &mut Requests, ifindex: u32) -> Result<Found, ShapingError> {
    let link = links::get(requests, ifindex)?.ok_or(ShapingError::Gone { ifindex })?;
    Ok(Found {
        root: root::read(requests, ifindex)?,
        ifb: ifb::of(requests, ifindex)?.map(|ifb| ifb.ifindex),
        ingress_filters: qdisc::ingress_filters(requests, ifindex)?,
        // Who may stand there and cannot be asked for is not to be led past either.
        ingress_chains: netfilter::ingress_chains(&link.name)
            .unwrap_or_else(|failure| vec![failure.to_string()]),
    })
}

fn install(
    requests: &mut Requests,
    ifindex: u32,
    rate: BitsPerSecond,
    over: &Root,
) -> Result<Installed, ShapingError> {
    let link = links::get(requests, ifindex)?.ok_or(ShapingError::Gone { ifindex })?;
    let tree = Tree::new(rate, link.mtu);
    let (ifb, at_the_ifb) = prepare(requests, &link, &tree)?;
    // Last: from now until the program knows, what it counts may yet be dropped here.
    let (replaced, at_the_tap) = root::stand(requests, ifindex, &tree, Some(over))?;
    Ok(Installed {
        ifb_ifindex: ifb.ifindex,
        change: at_the_tap.max(at_the_ifb),
        replaced,
    })
}

/// The IFB's half, which takes the kernel by far the longer.
fn prepare(
    requests: &mut Requests,
    link: &links::Link,
    tree: &Tree,
) -> Result<(links::Link, Change), ShapingError> {
    let ifb = ifb::ensure(requests, link)?;
    let (_, change) = root::stand(requests, ifb.ifindex, tree, None)?;
    // Up only now: so nothing passes it unshaped, and the kernel waits once, not twice, for
    // its packets in flight.
    if !ifb.up {
        let alias = format!("meterd shapes here what interface {} sends", link.ifindex);
        links::set(requests, ifb.ifindex, AdminState::Up, Some(alias))?;
    }
    Ok((ifb, change))
}

fn remove(
    requests: &mut Requests,
    ifindex: u32,
    saved: Option<&SavedRoot>,
) -> Result<Removed, ShapingError> {
    let tap = links::get(requests, ifindex)?;
    let root = match &tap {
        None => Ok(RootAfter::InterfaceGone),
        Some(_) => root::give_back(requests, ifindex, saved),
    };
    // Whatever became of the root, the IFB goes.
    let figures = match ifb::of(requests, ifindex)? {
        None => None,
        Some(ifb) => {
            // Down first, so that the figures are final.
            links::set(requests, ifb.ifindex, AdminState::Down, None)?;
            let last = links::get(requests, ifb.ifindex)?.unwrap_or(ifb);
            let tap = links::get(requests, ifindex)?.or(tap);
            ifb::delete(requests, last.ifindex)?;
            tap.map(|tap| figures(&tap, &last))
        }
    };
    Ok(Removed {
        root: root?,
        figures,
    })
}

fn figures(tap: &links::Link, ifb: &links::Link) -> Figures {
    Figures {
        // An IFB transmits what it gives back to the stack (ifb_ri_tasklet); both count what
        // their qdisc let through, in the segments that it made.
        traffic: [tap.kernel.received, ifb.kernel.received],
        ifb: ifb.ifindex,
    }
}
