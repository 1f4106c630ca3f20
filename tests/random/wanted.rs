//! What should stand, from `status` and from what the test has done; and where what is found
//! differs from it.

use std::collections::{BTreeMap, BTreeSet};

use meter_tests::{Result, inspect::Hook};
use serde_json::Value;

use crate::{
    found::{Found, Root},
    port::{Attachment, Ingress, Kind, There},
    world::{Roots, World, owner},
};

/// What is to stand between a machine and its traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Pass,
    /// To so many bits a second.
    Throttle(u64),
    /// A cap that is used up.
    Stop,
    /// Nothing passes, and the link is down.
    Hold,
    /// Nothing but exempt traffic passes, for which the link stays up.
    Exempt,
}

/// Whether its state is a rule's, and not staff's.
pub(crate) fn is_by_rule(status: &Value) -> bool {
    let rule = status["rule"].as_str();
    rule.is_some_and(|rule| rule.contains('%'))
}

/// Of a machine, by its `status`.
pub(crate) fn of(status: &Value, dry_run: bool) -> Wanted {
    // A plan that does not enforce decides only; staff are no part of it.
    if dry_run || status["plan"] == "watched" && is_by_rule(status) {
        return Wanted::Pass;
    }
    match status["state"].as_str() {
        Some("throttled") => {
            Wanted::Throttle(status["rate_limit_bits_per_second"].as_u64().unwrap_or(0))
        }
        Some("capped") if status["cap_remaining"] == 0 => Wanted::Stop,
        Some("suspended") if status["plan"] == "open" => Wanted::Exempt,
        Some("suspended") => Wanted::Hold,
        _ => Wanted::Pass,
    }
}

/// What differs. Where it was not known what an interface has, it is by now.
pub(crate) fn differences(
    world: &mut World<'_>,
    status: &BTreeMap<String, Value>,
    found: &Found,
) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut seen = Seen::new(world.attachment);
    let (excluded, dry_run) = (world.excluded, world.dry_run);
    let roots = &world.roots;
    for plug in &mut world.plugs {
        let Some(there) = &mut plug.there else {
            continue;
        };
        let wanted = match owner(excluded, &there.name) {
            None => None,
            Some(owner) => {
                names
                    .entry(owner.clone())
                    .or_default()
                    .insert(there.name.clone());
                match status.get(&owner) {
                    Some(status) => Some(of(status, dry_run)),
                    None => {
                        said.push(format!("status does not know {owner}"));
                        continue;
                    }
                }
            }
        };
        seen.interface(there, plug.kind, wanted, roots, found)?;
    }
    for (machine, status) in status {
        let shown: BTreeSet<String> = status["interfaces"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        let expected = names.remove(machine).unwrap_or_default();
        if shown != expected {
            said.push(format!("{machine} shows {shown:?}, and has {expected:?}"));
        }
    }
    said.extend(seen.finish(found));
    Ok(said)
}

/// As if all were nobody's.
pub(crate) fn nothing(world: &mut World<'_>, found: &Found) -> Result<Vec<String>> {
    let mut seen = Seen::new(world.attachment);
    let roots = &world.roots;
    for plug in &mut world.plugs {
        if let Some(there) = &mut plug.there {
            seen.interface(there, plug.kind, None, roots, found)?;
        }
    }
    Ok(seen.finish(found))
}

/// What goes on without a daemon: what was metered is, once.
pub(crate) fn outlives(world: &World<'_>, found: &Found) -> Vec<String> {
    let mut said = Vec::new();
    for there in world.plugs.iter().filter_map(|plug| plug.there.as_ref()) {
        let expected = usize::from(world.metered.contains_key(&there.index));
        for hook in Hook::BOTH {
            let programs = found.programs(&there.name, hook);
            let meters = programs.iter().filter(|name| name.starts_with("meter_"));
            if meters.count() != expected {
                said.push(format!(
                    "without a daemon, {} has {programs:?} on {hook:?}",
                    there.name
                ));
            }
        }
    }
    said
}

/// What of ours was to be expected, and what differs.
#[derive(Debug)]
struct Seen {
    attachment: Attachment,
    pins: BTreeSet<String>,
    ifbs: BTreeSet<String>,
    said: Vec<String>,
    known: BTreeSet<String>,
}

impl Seen {
    fn new(attachment: Attachment) -> Self {
        Self {
            attachment,
            pins: BTreeSet::new(),
            ifbs: BTreeSet::new(),
            said: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    fn interface(
        &mut self,
        there: &mut There,
        kind: Kind,
        wanted: Option<Wanted>,
        roots: &Roots,
        found: &Found,
    ) -> Result<()> {
        let name = there.name.clone();
        self.known.insert(name.clone());
        let Some(link) = found.links.get(&name) else {
            self.said.push(format!("there is no {name}"));
            return Ok(());
        };
        let foreign = [&roots.libvirt, &roots.pfifo].contains(&&there.roots[0]);
        // Where a root stands that could not be put back, the machine is policed.
        let shaped = matches!(wanted, Some(Wanted::Throttle(_))) && !foreign;
        // A redirect would lead past what others have behind us.
        let redirected = shaped
            && match self.attachment {
                Attachment::Tcx => {
                    there.ingress != Ingress::Police
                        && there.filters.iter().all(|(hook, _)| *hook != Hook::Sent)
                }
                Attachment::Clsact => true,
            };
        if shaped {
            self.ifbs.insert(format!("mtrd{}", there.index));
        }
        // A filter holds its program without a link.
        let pinned = self.attachment == Attachment::Tcx;
        if redirected && pinned {
            self.pins.insert(format!("{}-shape", there.index));
        }
        if wanted.is_some() && pinned {
            for hook in ["sent", "received"] {
                self.pins.insert(format!("{}-{hook}", there.index));
            }
        }
        self.programs(there, wanted, redirected, found);
        self.ingress(there, wanted, found);
        self.root(there, kind, shaped, found);
        self.link(there, wanted, link.up)
    }

    fn programs(&mut self, there: &There, wanted: Option<Wanted>, redirected: bool, found: &Found) {
        let sent = match self.attachment {
            Attachment::Tcx => &["meter_sent", "shape_sent"],
            Attachment::Clsact => &["meter_sent", "mark_sent"],
        };
        for hook in Hook::BOTH {
            let programs = found.programs(&there.name, hook);
            let ours: Vec<&str> = programs
                .iter()
                .map(String::as_str)
                .filter(|name| *name != "foreign")
                .collect();
            let (meter, shape): (&[&str], &[&str]) = match hook {
                Hook::Sent => (&["meter_sent"], sent),
                Hook::Received => (&["meter_received"], &["meter_received"]),
            };
            let fine = match (wanted, redirected) {
                (None, _) => ours.is_empty(),
                (_, false) => ours == meter,
                (_, true) => ours == shape,
            };
            let others = there.tcx.iter().filter(|(of, ..)| *of == hook).count()
                + there.filters.iter().filter(|(of, _)| *of == hook).count();
            if !fine || programs.len() - ours.len() != others {
                self.said.push(format!(
                    "{} has {programs:?} on {hook:?}, {others} of them foreign, wanted {wanted:?}",
                    there.name
                ));
            }
        }
    }

    fn ingress(&mut self, there: &There, wanted: Option<Wanted>, found: &Found) {
        let ingress = found.ingress.get(&there.name).map(String::as_str);
        let expected = match there.ingress {
            Ingress::Nothing if wanted.is_some() && self.attachment == Attachment::Clsact => {
                Some("clsact")
            }
            Ingress::Nothing => None,
            Ingress::Police => Some("ingress"),
            Ingress::Clsact => Some("clsact"),
        };
        if ingress != expected {
            self.said.push(format!(
                "{} has {ingress:?} for ingress, to be expected was {expected:?}",
                there.name
            ));
        }
    }

    fn root(&mut self, there: &mut There, kind: Kind, ours: bool, found: &Found) {
        let root = found.root(&there.name);
        let fine = match ours {
            true => root.is_ours(),
            false => there.roots.contains(&root),
        };
        if !fine {
            self.said.push(format!(
                "at the root of {} ({kind:?}) stands {:?}, wanted {}",
                there.name,
                root.0,
                if ours {
                    "ours".to_owned()
                } else {
                    format!("{:?}", there.roots)
                }
            ));
        } else if !ours && root != there.default && root != Root::none() {
            // By now it is known which of them it is.
            there.roots = vec![root];
        }
    }

    fn link(&mut self, there: &mut There, wanted: Option<Wanted>, up: bool) -> Result<()> {
        let held = wanted == Some(Wanted::Hold);
        let expected = match there.up {
            Some(true) if held => Some(there.obstacle),
            other => other,
        };
        let name = &there.name;
        if held && there.up.is_none() && up && !there.obstacle {
            self.said
                .push(format!("{name} is up, and its machine suspended"));
        }
        if let Some(expected) = expected
            && up != expected
        {
            let word = |up| if up { "up" } else { "down" };
            self.said
                .push(format!("{name} is {}, wanted {}", word(up), word(expected)));
        }
        if held && !there.obstacle || !up {
            return Ok(());
        }
        if there.up.is_none() {
            there.up = Some(up);
        }
        match &there.picture {
            None => there.look()?,
            Some(picture) => {
                let now = meter_tests::routing::picture(name)?;
                if now != *picture {
                    let changes = picture
                        .keys()
                        .filter(|table| now[*table] != picture[*table]);
                    let changes: Vec<String> = changes
                        .map(|table| format!("{table}: {:?} was {:?}", now[table], picture[table]))
                        .collect();
                    self.said.push(format!(
                        "{name} has not what it had: {}",
                        changes.join("; ")
                    ));
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, found: &Found) -> Vec<String> {
        let pins: BTreeSet<String> = found.pins.iter().cloned().collect();
        let ifbs: BTreeSet<String> = found.ifbs().map(str::to_owned).collect();
        for (what, found, wanted) in [("pins", &pins, &self.pins), ("IFBs", &ifbs, &self.ifbs)] {
            let more: Vec<_> = found.difference(wanted).collect();
            let less: Vec<_> = wanted.difference(found).collect();
            if !more.is_empty() || !less.is_empty() {
                self.said
                    .push(format!("{what}: {more:?} too many, {less:?} are missing"));
            }
        }
        for ((name, hook), programs) in &found.programs {
            let is_ours = |name: &String| name.starts_with("meter_") || name.starts_with("shape_");
            if !self.known.contains(name) && programs.iter().any(is_ours) {
                self.said.push(format!(
                    "{name} is nobody's and has {programs:?} on {hook:?}"
                ));
            }
        }
        for name in found.links.keys() {
            let ours = name.starts_with("mtrd");
            if !ours && !self.known.contains(name) && found.root(name).is_ours() {
                self.said.push(format!("{name} is nobody's and shaped"));
            }
        }
        self.said
    }
}
