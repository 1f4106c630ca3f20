//! What stands at an interface's root, and the way from there to our tree and back.

use super::{
    Change, RootAfter, SavedRoot, ShapingError,
    htb::{self, HtbClass},
    qdisc::{self, Node, Put, ROOT},
    tree::{BULK, HANDLE, MAJOR_MASK, Tree},
};
use crate::{engine::units::BitsPerSecond, host::netlink::Requests};

/// What stands at an interface's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Nothing that the kernel would show.
    None,
    /// What the kernel puts there by itself, in its word.
    Default(String),
    /// Somebody else's, which can be put back.
    Restorable(SavedRoot),
    /// Our shaper.
    Ours {
        /// To which rate.
        rate: BitsPerSecond,
    },
    /// Somebody else's, which cannot.
    Foreign {
        /// What, in the kernel's word.
        kind: String,
        /// Why not.
        why: String,
    },
}

impl Root {
    /// Whether nobody has put another there: the rate of ours, and which default the kernel
    /// has for a link that is up or down, are nobody's doing.
    fn is_still(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Ours { .. }, Self::Ours { .. })
            | (Self::None | Self::Default(_), Self::None | Self::Default(_)) => true,
            (now, before) => now == before,
        }
    }
}

/// As [`Root`], with what our tree consists of.
struct Standing {
    root: Root,
    classes: Vec<HtbClass>,
}

pub(super) fn read(requests: &mut Requests, ifindex: u32) -> Result<Root, ShapingError> {
    Ok(standing(requests, ifindex)?.root)
}

fn standing(requests: &mut Requests, ifindex: u32) -> Result<Standing, ShapingError> {
    let classes = qdisc::classes(requests, ifindex)?;
    // The ordinary case, without a list of all interfaces' qdiscs.
    if let Some(ours) = ours(&classes) {
        return Ok(ours);
    }
    let qdiscs = qdisc::qdiscs(requests, ifindex)?;
    let root = match qdiscs.root() {
        None => Root::None,
        // Only the kernel makes qdiscs without a handle (attach_one_default_qdisc).
        Some(root) if root.handle == 0 && root.kind == "noqueue" => Root::None,
        Some(root) if root.handle == 0 => Root::Default(root.kind.clone()),
        Some(root) if root.handle == HANDLE => torso(root),
        Some(root) => match SavedRoot::read(requests, ifindex, &qdiscs, root.clone(), classes)? {
            Ok(saved) => Root::Restorable(saved),
            Err(why) => Root::Foreign {
                kind: root.kind.clone(),
                why,
            },
        },
    };
    Ok(Standing {
        root,
        classes: Vec::new(),
    })
}

/// Our tree, by its classes.
fn ours(classes: &[Node]) -> Option<Standing> {
    let classes: Vec<HtbClass> = classes
        .iter()
        .filter(|class| class.handle & MAJOR_MASK == HANDLE)
        .filter_map(HtbClass::parse)
        .collect();
    let rate = classes.iter().find(|class| class.parent == ROOT)?.rate * 8;
    Some(Standing {
        root: Root::Ours {
            rate: BitsPerSecond(rate),
        },
        classes,
    })
}

/// A root with our handle and no classes: what is left when somebody has deleted them.
fn torso(root: &Node) -> Root {
    if root.kind == "htb" && htb::default_class(&root.options) == Some(u32::from(BULK)) {
        Root::Ours {
            rate: BitsPerSecond(0),
        }
    } else {
        Root::Foreign {
            kind: root.kind.clone(),
            why: "it has our handle, but is not what we make".to_owned(),
        }
    }
}

/// Makes our tree stand; returns what stood before, which must be as it was `over`, if that is
/// known.
pub(super) fn stand(
    requests: &mut Requests,
    ifindex: u32,
    tree: &Tree,
    over: Option<&Root>,
) -> Result<(Root, Change), ShapingError> {
    let Standing { root, classes } = standing(requests, ifindex)?;
    if over.is_some_and(|over| !root.is_still(over)) {
        return Err(ShapingError::Disturbed { ifindex });
    }
    let mut batch = Vec::new();
    let change = match &root {
        Root::Foreign { kind, why } => {
            return Err(ShapingError::Foreign {
                ifindex,
                kind: kind.clone(),
                why: why.clone(),
            });
        }
        // The leaves' own options follow from the rate, so they are as old as the classes.
        Root::Ours { .. } if tree.classes.iter().all(|class| classes.contains(class)) => {
            return Ok((root, Change::Nothing));
        }
        Root::Ours { .. } => Change::Adjusted,
        Root::None | Root::Default(_) => {
            batch.push(qdisc::put_qdisc(ifindex, &tree.root, Put::New));
            Change::Built
        }
        Root::Restorable(_) => {
            batch.push(qdisc::put_qdisc(ifindex, &tree.root, Put::Replace));
            Change::Built
        }
    };
    batch.extend(
        tree.classes
            .iter()
            .map(|class| qdisc::put_class(ifindex, &class.node())),
    );
    batch.extend(
        tree.leaves
            .iter()
            .map(|leaf| qdisc::put_qdisc(ifindex, leaf, Put::Replace)),
    );
    requests.apply(batch)?;
    Ok((root, change))
}

/// Takes our tree away and puts back what stood before. What somebody else has put there
/// meanwhile stays.
pub(super) fn give_back(
    requests: &mut Requests,
    ifindex: u32,
    saved: Option<&SavedRoot>,
) -> Result<RootAfter, ShapingError> {
    match read(requests, ifindex)? {
        Root::Ours { .. } => requests.apply(vec![qdisc::delete_root(ifindex, HANDLE)])?,
        // As after a crash between the two halves of this.
        Root::None | Root::Default(_) => {}
        Root::Restorable(standing) if Some(&standing) == saved => return Ok(RootAfter::Restored),
        Root::Restorable(standing) => {
            return Ok(RootAfter::ForeignLeftAlone(standing.kind().to_owned()));
        }
        Root::Foreign { kind, .. } => return Ok(RootAfter::ForeignLeftAlone(kind)),
    }
    let Some(saved) = saved else {
        return Ok(RootAfter::DefaultBack);
    };
    match saved.restore(requests, ifindex) {
        Ok(()) => {}
        // Somebody was quicker.
        Err(error) if error.is(rustix::io::Errno::EXIST) => {
            let qdiscs = qdisc::qdiscs(requests, ifindex)?;
            let kind = qdiscs.root().map_or("", |root| &root.kind);
            return Ok(RootAfter::ForeignLeftAlone(kind.to_owned()));
        }
        Err(error) => return Err(error.into()),
    }
    match read(requests, ifindex)? {
        Root::Restorable(standing) if standing == *saved => Ok(RootAfter::Restored),
        _ => Err(ShapingError::NotExact {
            ifindex,
            kind: saved.kind().to_owned(),
        }),
    }
}
