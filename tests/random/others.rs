//! What others put on interfaces: root qdiscs, filters, programs, routes.

use meter_tests::{
    Failure, Result,
    foreign::Filter,
    rate_limits::{LIBVIRT, PROXMOX, run, set_up},
};

use crate::{
    acts::{Act, Change, Limit},
    found::Root,
    port::Ingress,
    world::{Daemon, PFIFO, TBF, World},
};

impl World<'_> {
    pub(crate) fn put_foreign(&mut self, act: &Act) -> Result<()> {
        let roots = &self.roots;
        let (plug, new): (usize, Option<Root>) = match act {
            Act::Proxmox(plug, Limit::Some) => (*plug, Some(roots.proxmox.clone())),
            Act::Libvirt(plug) => (*plug, Some(roots.libvirt.clone())),
            Act::Tbf(plug) => (*plug, Some(roots.tbf.clone())),
            Act::Pfifo(plug) => (*plug, Some(roots.pfifo.clone())),
            Act::Proxmox(plug, Limit::None)
            | Act::DeleteRoot(plug)
            | Act::Clsact(plug, _)
            | Act::DropClsact(plug)
            | Act::Tcx(plug, ..)
            | Act::DropTcx(plug) => (*plug, None),
            other => return Err(Failure::new(format!("{other:?} is nothing foreign"))),
        };
        let running = self.daemon == Daemon::Running;
        self.touched = Some(plug);
        let there = self.there(plug)?;
        let name = there.name.clone();
        let on = |words: &str| run(&words.replace("DEV", &name)).map(drop);
        match act {
            Act::Proxmox(_, limit) => {
                match limit {
                    Limit::Some => set_up(&PROXMOX, &name)?,
                    Limit::None => {
                        for step in &PROXMOX[..4] {
                            drop(on(step.command));
                        }
                    }
                }
                there.ingress = match (limit, there.ingress) {
                    (Limit::Some, _) => Ingress::Police,
                    (Limit::None, Ingress::Clsact) => Ingress::Clsact,
                    (Limit::None, _) => Ingress::Nothing,
                };
            }
            Act::Libvirt(_) => {
                set_up(&LIBVIRT, &name)?;
                there.ingress = Ingress::Police;
            }
            Act::Tbf(_) => on(TBF)?,
            Act::Pfifo(_) => on(PFIFO)?,
            // There may be none.
            Act::DeleteRoot(_) => drop(on("tc qdisc del dev DEV root")),
            Act::Clsact(_, hook) => {
                let priority = 100 + u16::try_from(there.filters.len()).unwrap_or(0);
                there
                    .filters
                    .push((*hook, Filter::clsact(&name, *hook, priority)?));
                there.ingress = Ingress::Clsact;
                return Ok(());
            }
            Act::DropClsact(_) => {
                there.filters.clear();
                there.ingress = Ingress::Nothing;
                return on("tc qdisc del dev DEV clsact");
            }
            Act::Tcx(_, hook, place) => {
                there
                    .tcx
                    .push((*hook, *place, Filter::tcx(&name, *hook, *place)?));
                return Ok(());
            }
            _ => {
                there.tcx.remove(0);
                return Ok(());
            }
        }
        let before = std::mem::take(&mut there.roots);
        there.roots = match new {
            Some(root) => vec![root],
            None => vec![there.default.clone(), Root::none()],
        };
        if !running && matches!(act, Act::DeleteRoot(_) | Act::Proxmox(_, Limit::None)) {
            // Whose it was that they deleted, nobody sees who was not there: what stood before
            // ours may come back.
            there.roots.extend(before);
        }
        Ok(())
    }

    pub(crate) fn furnish(&mut self, act: &Act) -> Result<()> {
        let word = |change: &Change| match change {
            Change::Add => "add",
            Change::Remove => "del",
        };
        let (plug, words) = match act {
            Act::Obstacle(plug) => return self.there(*plug)?.obstruct(),
            Act::Route(plug, change, n) => (
                *plug,
                format!(
                    "ip route {} 198.18.{n}.{plug}/32 dev DEV metric {n}",
                    word(change)
                ),
            ),
            Act::Address(plug, change, n) if n % 2 == 0 => (
                *plug,
                format!("ip addr {} 192.0.2.{plug}{n}/32 dev DEV", word(change)),
            ),
            Act::Address(plug, Change::Add, n) => (
                *plug,
                format!("ip addr add 2001:db8:{plug}:aa{n}::1/64 dev DEV nodad"),
            ),
            Act::Address(plug, Change::Remove, n) => (
                *plug,
                format!("ip addr del 2001:db8:{plug}:aa{n}::1/64 dev DEV"),
            ),
            Act::Neighbour(plug, change, n) => (
                *plug,
                format!(
                    "ip neigh {} 192.0.2.{} lladdr 02:00:00:00:01:0{n} dev DEV nud permanent",
                    word(change),
                    200 + n
                ),
            ),
            Act::Fdb(plug, change, n) => (
                *plug,
                format!(
                    "bridge fdb {} 02:00:00:02:0{plug}:0{n} dev DEV master static",
                    word(change)
                ),
            ),
            other => return Err(Failure::new(format!("{other:?} is no furniture"))),
        };
        let there = self.there(plug)?;
        // It may be there already, or not.
        drop(run(&words.replace("DEV", &there.name)));
        there.look()
    }
}
