//! A root qdisc of somebody else's that can be put back exactly: a single HTB with its
//! classes, or a single TBF.

use serde::{Deserialize, Serialize};

use super::{
    htb,
    qdisc::{self, Node, Put, Qdiscs, ROOT},
};
use crate::host::netlink::{NetlinkError, Requests};

/// Leaf qdiscs whose options the kernel dumps in the form in which it takes them.
const KNOWN_LEAVES: [&str; 6] = [
    "pfifo",
    "bfifo",
    "pfifo_head_drop",
    "sfq",
    "fq_codel",
    "tbf",
];

/// What stood at an interface's root, in the kernel's own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRoot {
    root: Node,
    /// Parents before children.
    classes: Vec<Node>,
    leaves: Vec<Node>,
}

impl SavedRoot {
    /// What it is, in the kernel's word.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.root.kind
    }

    /// Saves what stands, or says why it cannot be.
    pub(super) fn read(
        requests: &mut Requests,
        ifindex: u32,
        qdiscs: &Qdiscs,
        mut root: Node,
        classes: Vec<Node>,
    ) -> Result<Result<Self, String>, NetlinkError> {
        let (mut own, others): (Vec<Node>, Vec<Node>) = classes
            .into_iter()
            .partition(|class| class.handle >> 16 == root.handle >> 16);
        if let Some(why) = obstacle(&root, &others) {
            return Ok(Err(why));
        }
        if root.kind == "htb" {
            root.options = htb::taken(&root.options);
            for parent in std::iter::once(&root).chain(&own) {
                if !qdisc::filters(requests, ifindex, parent.handle)?.is_empty() {
                    return Ok(Err("it has filters".to_owned()));
                }
            }
        }
        let mut leaves = Vec::new();
        for class in &own {
            match qdiscs.below(class.handle) {
                None => {}
                Some(leaf) if !leaf.has_size_table && KNOWN_LEAVES.contains(&&*leaf.kind) => {
                    leaves.push(leaf.clone());
                }
                Some(leaf) => return Ok(Err(format!("it has a leaf `{}`", leaf.kind))),
            }
        }
        if root.kind == "tbf" {
            // Its only class is part of it.
            own.clear();
        }
        Ok(Ok(Self {
            root,
            classes: parents_first(own),
            leaves,
        }))
    }

    /// Puts it back where the kernel's default stands; fails where anything else does.
    pub(super) fn restore(
        &self,
        requests: &mut Requests,
        ifindex: u32,
    ) -> Result<(), NetlinkError> {
        let mut batch = vec![qdisc::put_qdisc(ifindex, &self.root, Put::New)];
        batch.extend(
            self.classes
                .iter()
                .map(|class| qdisc::put_class(ifindex, class)),
        );
        batch.extend(
            self.leaves
                .iter()
                .map(|leaf| qdisc::put_qdisc(ifindex, leaf, Put::Replace)),
        );
        requests.apply(batch)
    }
}

/// What of the root itself, or of classes below its leaves, could not be put back.
fn obstacle(root: &Node, others: &[Node]) -> Option<String> {
    let why = if !matches!(root.kind.as_str(), "htb" | "tbf") {
        "only HTB and TBF can be"
    } else if root.has_size_table {
        "it has a size table"
    } else if root.kind == "htb" && htb::is_offloaded(&root.options) {
        "it is offloaded to the network card"
    } else if others.iter().any(|class| class.leaf != 0) {
        "its leaves have leaves of their own"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// In an order in which they can be made.
fn parents_first(mut classes: Vec<Node>) -> Vec<Node> {
    let mut ordered: Vec<Node> = Vec::with_capacity(classes.len());
    while !classes.is_empty() {
        let (ready, waiting): (Vec<Node>, Vec<Node>) = classes.into_iter().partition(|class| {
            class.parent == ROOT || ordered.iter().any(|parent| parent.handle == class.parent)
        });
        if ready.is_empty() {
            // Orphans: the dump was cut short. The kernel will refuse them by name.
            ordered.extend(waiting);
            break;
        }
        ordered.extend(ready);
        classes = waiting;
    }
    ordered
}
