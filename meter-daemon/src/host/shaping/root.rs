//! What stands at an interface's root, and the way from there to our tree and back.

use super::{
    Change, RootAfter, SavedRoot, ShapingError,
    htb::{self, HtbClass},
    qdisc::{self, Put, ROOT},
    tree::{BULK, HANDLE, Tree},
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

/// As [`Root`], with what our tree consists of.
struct Standing {
    root: Root,
    classes: Vec<HtbClass>,
}

pub(super) fn read(requests: &mut Requests, ifindex: u32) -> Result<Root, ShapingError> {
    Ok(standing(requests, ifindex)?.root)
}

fn standing(requests: &mut Requests, ifindex: u32) -> Result<Standing, ShapingError> {
    let without_classes = |root| {
        Ok(Standing {
            root,
            classes: Vec::new(),
        })
    };
    let Some(root) = qdisc::root(requests, ifindex)? else {
        return without_classes(Root::None);
    };
    // Only the kernel makes qdiscs without a handle (attach_one_default_qdisc).
    if root.handle == 0 {
        return without_classes(match root.kind.as_str() {
            "noqueue" => Root::None,
            _ => Root::Default(root.kind),
        });
    }
    let classes = qdisc::classes(requests, ifindex)?;
    if root.handle != HANDLE {
        let kind = root.kind.clone();
        let saved = SavedRoot::read(requests, ifindex, root, classes)?;
        return without_classes(match saved {
            Ok(saved) => Root::Restorable(saved),
            Err(why) => Root::Foreign { kind, why },
        });
    }
    if root.kind != "htb" || htb::default_class(&root.options) != Some(u32::from(BULK)) {
        return without_classes(Root::Foreign {
            kind: root.kind,
            why: "it has our handle, but is not what we make".to_owned(),
        });
    }
    let classes: Vec<HtbClass> = classes.iter().filter_map(HtbClass::parse).collect();
    let rate = classes
        .iter()
        .find(|class| class.parent == ROOT)
        .map_or(0, |class| class.rate * 8);
    Ok(Standing {
        root: Root::Ours {
            rate: BitsPerSecond(rate),
        },
        classes,
    })
}

/// Makes our tree stand; returns what stood before.
pub(super) fn stand(
    requests: &mut Requests,
    ifindex: u32,
    tree: &Tree,
) -> Result<(Root, Change), ShapingError> {
    let Standing { root, classes } = standing(requests, ifindex)?;
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
            let kind = qdisc::root(requests, ifindex)?.map_or_else(String::new, |root| root.kind);
            return Ok(RootAfter::ForeignLeftAlone(kind));
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
