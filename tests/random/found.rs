//! What stands on the node, by a look of its own: links, hooks and pins from `inspect`, qdiscs
//! and classes from `tc`. Nothing here is meterd's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use meter_tests::{
    Context, Result,
    inspect::{self, Hook},
    links::{self, Link},
    rate_limits::run,
};
use serde_json::Value;

/// What stands at a root, in `tc`'s words: qdiscs below the root and classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root(pub(crate) Vec<String>);

impl Root {
    /// As an interface shows that never was up.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.0
            .iter()
            .any(|line| line.contains("\"handle\":\"6d74:\""))
    }
}

/// A look at everything.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) links: BTreeMap<String, Link>,
    roots: BTreeMap<String, Root>,
    /// `ingress` or `clsact`.
    pub(crate) ingress: BTreeMap<String, String>,
    /// The names of the programs on each hook, in their order.
    pub(crate) programs: BTreeMap<(String, Hook), Vec<String>>,
    /// The names of the pinned links.
    pub(crate) pins: Vec<String>,
    /// Whether anything is pinned at all.
    pub(crate) pinned: bool,
}

impl Found {
    pub(crate) fn take(pins: &Path) -> Result<Self> {
        let links: BTreeMap<String, Link> = links::list()?
            .into_iter()
            .map(|link| (link.name.clone(), link))
            .collect();
        let mut programs = BTreeMap::new();
        for link in links.values() {
            for hook in Hook::BOTH {
                // An interface may vanish meanwhile.
                let found = inspect::programs(link.index, hook).unwrap_or_default();
                let names = found.into_iter().map(|program| program.name).collect();
                programs.insert((link.name.clone(), hook), names);
            }
        }
        let text = run("tc -j qdisc show")?;
        let all: Vec<Value> = serde_json::from_str(&text).could_not(|| "read what tc prints")?;
        let mut roots: BTreeMap<String, Root> = BTreeMap::new();
        let mut ingress = BTreeMap::new();
        for mut qdisc in all {
            let device = qdisc["dev"].as_str().unwrap_or_default().to_owned();
            let kind = qdisc["kind"].as_str().unwrap_or_default().to_owned();
            if kind == "ingress" || kind == "clsact" {
                ingress.insert(device, kind);
                continue;
            }
            strip(&mut qdisc);
            roots.entry(device).or_default().0.push(qdisc.to_string());
        }
        for (device, root) in &mut roots {
            // Of those without classes there is nothing more to be told; ours are ours.
            let classful = ["htb", "tbf"].iter().any(|kind| root.0[0].contains(kind));
            if classful && !root.is_ours() {
                let classes = run(&format!("tc class show dev {device}")).unwrap_or_default();
                root.0
                    .extend(classes.lines().map(|line| line.trim().to_owned()));
            }
        }
        let pinned = inspect::pins(pins)?;
        let names = pinned.iter().filter(|path| {
            let folder = path.parent().and_then(Path::file_name);
            folder.is_some_and(|name| name == "links")
        });
        Ok(Self {
            links,
            roots,
            ingress,
            programs,
            pins: names
                .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .collect(),
            pinned: !pinned.is_empty(),
        })
    }

    pub(crate) fn root(&self, device: &str) -> Root {
        self.roots.get(device).cloned().unwrap_or_default()
    }

    pub(crate) fn programs(&self, device: &str, hook: Hook) -> &[String] {
        self.programs
            .get(&(device.to_owned(), hook))
            .map_or(&[], Vec::as_slice)
    }

    /// Devices of ours.
    pub(crate) fn ifbs(&self) -> impl Iterator<Item = &str> {
        let ours = self.links.keys().map(String::as_str);
        ours.filter(|name| name.starts_with("mtrd"))
    }
}

/// The devices with packets in their queues.
pub(crate) fn waiting() -> Result<BTreeSet<String>> {
    let text = run("tc -s -j qdisc show")?;
    let all: Vec<Value> = serde_json::from_str(&text).could_not(|| "read what tc prints")?;
    let waits = |qdisc: &&Value| qdisc["qlen"].as_u64().is_some_and(|packets| packets > 0);
    let devices = all.iter().filter(waits);
    Ok(devices
        .filter_map(|qdisc| qdisc["dev"].as_str().map(str::to_owned))
        .collect())
}

/// Without figures, and without whose it is.
fn strip(qdisc: &mut Value) {
    if let Value::Object(fields) = qdisc {
        fields.remove("dev");
        fields.remove("refcnt");
        if let Some(Value::Object(options)) = fields.get_mut("options") {
            options.remove("direct_packets_stat");
        }
    }
}
