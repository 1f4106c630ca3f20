//! Doing it, and what the test knows afterwards.

use std::{net::Ipv4Addr, time::Instant};

use meter_tests::{
    Context, Failure, Result,
    links::{self, Renamed},
    meterd::{End, bytes},
    packet::Ends,
};
use rustix::process::Signal;

use crate::{
    acts::{Act, Traffic},
    lots::Lots,
    port::{EXEMPT_IP, EXEMPT_MAC, There},
    wanted::Wanted,
    wire::Total,
    world::{Daemon, World, owner},
};

impl World<'_> {
    /// Does it.
    pub(crate) fn perform(&mut self, act: &Act, lots: &mut Lots) -> Result<()> {
        match act {
            Act::Traffic(plug, traffic) => self.move_frames(*plug, *traffic),
            Act::Suspend(_)
            | Act::Lift(_)
            | Act::LiftAll
            | Act::TopUp(..)
            | Act::SetPlan(..)
            | Act::SetAllowance(..)
            | Act::UnsetAllowance(_) => self.say(act),
            Act::Create(_)
            | Act::Delete(_)
            | Act::CreateAnew(_)
            | Act::Rename(..)
            | Act::Up(_)
            | Act::Down(_) => self.plug(act, lots),
            Act::Proxmox(..)
            | Act::Libvirt(_)
            | Act::Tbf(_)
            | Act::Pfifo(_)
            | Act::DeleteRoot(_)
            | Act::Clsact(..)
            | Act::DropClsact(_)
            | Act::Tcx(..)
            | Act::DropTcx(_) => self.put_foreign(act),
            Act::Route(..)
            | Act::Address(..)
            | Act::Neighbour(..)
            | Act::Fdb(..)
            | Act::Obstacle(_) => self.furnish(act),
            Act::Exclude(_) | Act::DryRun(_) | Act::Reload | Act::BadReload => self.reload(act),
            _ => self.treat_daemon(act),
        }
    }

    pub(crate) fn there(&mut self, plug: usize) -> Result<&mut There> {
        let there = self.plugs[plug].there.as_mut();
        there.ok_or_else(|| Failure::new(format!("plug {plug} is empty")))
    }

    fn move_frames(&mut self, plug: usize, traffic: Traffic) -> Result<()> {
        let port = self.plugs[plug].port;
        let (name, index, theirs) = {
            let there = self.there(plug)?;
            let theirs = there.roots[0] != there.default;
            (there.name.clone(), there.index, theirs)
        };
        let owner = self.owner(&name);
        let link = links::get(&name)?;
        let routed = self.plugs[plug].is_routed();
        // Nobody could tell a TAP's exempt frames from others.
        let is_tap = link.kind == "tun";
        // One that is no bridge's port does not say that it operates.
        let operates = link.operates || is_tap && routed && link.up;
        let exempt = traffic.exempt && (traffic.sent || !is_tap);
        let (world_mac, world_ip) = match exempt {
            true => (EXEMPT_MAC, EXEMPT_IP),
            // An address that nobody has, so that nobody answers.
            false => (self.node.world.mac, Ipv4Addr::new(10, 9, 0, 250)),
        };
        let guest_ip = Ipv4Addr::new(10, 9, port.nic, port.machine);
        let mut ends = Ends {
            macs: (port.mac(), world_mac),
            ips: (guest_ip, world_ip),
        };
        if !traffic.sent {
            ends = Ends {
                macs: (ends.macs.1, ends.macs.0),
                ips: (ends.ips.1, ends.ips.0),
            };
        }
        let payload = usize::try_from(traffic.payload).unwrap_or(0);
        let frames = usize::try_from(traffic.frames).unwrap_or(0);
        let frame = ends.udp(&[], 9, &vec![0x5a; payload]);
        self.look()?;
        let before = owner.as_ref().map(|owner| self.wire.total(owner));
        let begun = Instant::now();
        if traffic.sent {
            let left = self.plugs[plug].send(&frame, frames);
            if let Some(owner) = &owner
                && routed
            {
                self.sent_to_nobody(owner, index, left, exempt, operates)?;
            }
        } else if routed {
            drop(meter_tests::topology::inject(&name, &frame, frames));
        } else {
            self.node.world.inject(&frame, frames)?;
        }
        // What passes a link whose bridge does not forward yet was counted and is nowhere; so
        // is what others' queues have no room for.
        if let Some(owner) = &owner
            && (!operates || !traffic.sent && theirs && frames > 100)
        {
            self.wire.lost(owner);
        }
        self.settle_wire()?;
        let (Some(owner), Some(before)) = (owner, before) else {
            return Ok(());
        };
        let moved = self.wire.total(&owner) - before;
        if !self.metered.contains_key(&index) {
            // The kernel's counters, from which it is credited, do not tell what is exempt.
            self.wire.not_told_apart(&owner, moved.exempt, traffic.sent);
        }
        if routed && traffic.sent || self.metered.get(&index) != Some(&owner) {
            return Ok(());
        }
        self.judge(&owner, moved, begun)
    }

    /// Nothing passes what is stopped, and not much what is throttled, whoever runs or does not.
    fn judge(&mut self, owner: &str, moved: Total, begun: Instant) -> Result<()> {
        let most = match self.stood.get(owner) {
            Some(Wanted::Hold | Wanted::Exempt | Wanted::Stop) => 0,
            Some(Wanted::Throttle(rate)) if self.daemon == Daemon::Running => {
                let seconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(0) / 1000 + 1;
                50_000 + seconds * rate / 8
            }
            _ => return Ok(()),
        };
        let passed = moved.received + moved.sent;
        if passed > most {
            return Err(Failure::new(format!(
                "{owner} is {:?}, and {passed} bytes passed",
                self.stood.get(owner)
            )));
        }
        Ok(())
    }

    /// Where the far end is the node itself, what left the guest is what counts, as long as
    /// nothing stands against it.
    fn sent_to_nobody(
        &mut self,
        owner: &str,
        index: u32,
        left: u64,
        exempt: bool,
        operates: bool,
    ) -> Result<()> {
        let passes = |world: &Self| world.stood.get(owner) == Some(&Wanted::Pass);
        let metered = self.metered.get(&index).is_some_and(|of| of == owner);
        let quiet = self.daemon == Daemon::Running && metered && operates;
        let fine = quiet && passes(self) && {
            let status = self.meterd.json(&["status", owner])?;
            crate::wanted::of(&status[0], self.dry_run) == Wanted::Pass
        };
        if !fine {
            self.wire.lost(owner);
            return Ok(());
        }
        let (sent, exempt) = if exempt { (0, left) } else { (left, 0) };
        self.wire.sent(
            owner,
            Total {
                received: 0,
                sent,
                exempt,
            },
        );
        Ok(())
    }

    /// Until what was sent at once has arrived.
    fn settle_wire(&mut self) -> Result<()> {
        let mut last = None;
        for _ in 0..20 {
            self.look()?;
            let now: Vec<Total> = crate::world::MACHINES
                .map(|machine| self.wire.total(&machine.to_string()))
                .collect();
            if last.as_ref() == Some(&now) {
                break;
            }
            last = Some(now);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    }

    fn say(&mut self, act: &Act) -> Result<()> {
        let used = |world: &Self, machine: u8| -> Result<u64> {
            let status = world.status.get(&machine.to_string());
            status.map_or(Ok(0), |status| bytes(status, "used"))
        };
        let (path, body) = match act {
            Act::Suspend(machine) => (format!("{machine}/suspend"), r#"{"reason":"abuse"}"#.into()),
            Act::Lift(machine) => (format!("{machine}/lift"), "{}".into()),
            Act::LiftAll => return self.command("/v1/lift", r#"{"reason":"all"}"#),
            Act::TopUp(machine, volume) => (
                format!("{machine}/top-up"),
                format!(r#"{{"volume":"{volume} B"}}"#),
            ),
            Act::SetPlan(machine, plan) => {
                (format!("{machine}/set"), format!(r#"{{"plan":"{plan}"}}"#))
            }
            Act::SetAllowance(machine, more) => (
                format!("{machine}/set"),
                format!(r#"{{"allowance":"{} B"}}"#, used(self, *machine)? + more),
            ),
            Act::UnsetAllowance(machine) => {
                (format!("{machine}/unset"), r#"{"key":"allowance"}"#.into())
            }
            other => return Err(Failure::new(format!("{other:?} is no command"))),
        };
        self.command(&format!("/v1/machines/{path}"), &body)
    }

    fn plug(&mut self, act: &Act, lots: &mut Lots) -> Result<()> {
        match act {
            Act::Create(plug) => self.create(*plug, lots),
            Act::Delete(plug) => self.delete(*plug),
            Act::CreateAnew(plug) => {
                self.delete(*plug)?;
                self.create(*plug, lots)
            }
            Act::Rename(plug, name) => {
                self.look()?;
                let before = self.there(*plug)?.name.clone();
                let old = self.owner(&before);
                let renamed = self.there(*plug)?.rename(name)?;
                if renamed == Renamed::Anew {
                    self.forget_what_waits(name);
                    self.forget_what_waits(&before);
                }
                let new = self.owner(name);
                if old != new {
                    // Whose the bytes are between the name's change and our seeing it.
                    for owner in old.iter().chain(&new) {
                        self.wire.lost(owner);
                    }
                }
                Ok(())
            }
            Act::Up(plug) => {
                let there = self.there(*plug)?;
                let was = there.up;
                links::up(&there.name)?;
                there.up = Some(true);
                if was != Some(true) {
                    // What went with it is gone.
                    there.picture = None;
                    there.obstacle = false;
                }
                Ok(())
            }
            Act::Down(plug) => {
                let name = self.there(*plug)?.name.clone();
                self.forget_what_waits(&name);
                let running = self.daemon == Daemon::Running;
                let there = self.there(*plug)?;
                let up = links::get(&there.name)?.up;
                links::down(&there.name)?;
                if up {
                    // While meterd holds it and does not see it, who has set it down?
                    there.up = if running { Some(false) } else { None };
                    there.picture = None;
                    there.obstacle = false;
                } else if !running {
                    there.up = None;
                    there.picture = None;
                }
                Ok(())
            }
            other => Err(Failure::new(format!("{other:?} is no hypervisor's"))),
        }
    }

    fn create(&mut self, plug: usize, lots: &mut Lots) -> Result<()> {
        let of = &mut self.plugs[plug];
        self.wire.begin(of.port.mac())?;
        let default = self.roots.default(of.kind).clone();
        of.create(&default)?;
        of.furnish(lots)?;
        let Some(there) = &mut of.there else {
            return Ok(());
        };
        let owner = owner(self.excluded, &there.name);
        let held = owner.and_then(|owner| self.stood.get(&owner));
        if self.daemon == Daemon::Running && held == Some(&Wanted::Hold) {
            // It is taken down while it is furnished: what came between the last look at what it
            // would lose, and that, nobody knows.
            there.picture = None;
        }
        Ok(())
    }

    fn delete(&mut self, plug: usize) -> Result<()> {
        self.settle_wire()?;
        let (name, index) = {
            let there = self.there(plug)?;
            (there.name.clone(), there.index)
        };
        if let Some(owner) = self.owner(&name)
            && !self.metered.contains_key(&index)
        {
            // It came and went unseen.
            self.wire.lost(&owner);
        }
        self.forget_what_waits(&name);
        self.plugs[plug].delete()
    }

    /// What waits in the shaper of an interface that goes is lost somewhere on the way.
    fn forget_what_waits(&mut self, name: &str) {
        if let Some(owner) = self.owner(name)
            && matches!(self.stood.get(&owner), Some(Wanted::Throttle(_)))
        {
            self.wire.lost(&owner);
        }
    }

    fn reload(&mut self, act: &Act) -> Result<()> {
        match act {
            Act::Exclude(machine) => {
                for machine in self.excluded.iter().chain(machine) {
                    self.wire.lost(&machine.to_string());
                }
                self.look()?;
                self.excluded = *machine;
            }
            Act::DryRun(on) => self.dry_run = *on,
            Act::BadReload => {
                self.meterd.configure("poll-interval = 'soon'\n")?;
                let refused = !self.meterd.cli(&["reload"])?.status.success();
                self.configure()?;
                return match refused {
                    true => Ok(()),
                    false => Err(Failure::new("a broken configuration was taken")),
                };
            }
            _ => {}
        }
        self.configure()?;
        self.meterd.text(&["reload"]).map(drop)
    }

    fn treat_daemon(&mut self, act: &Act) -> Result<()> {
        match act {
            Act::Freeze => {
                self.meterd.signal(Signal::STOP)?;
                self.daemon = Daemon::Stopped;
                Ok(())
            }
            Act::Thaw => {
                self.meterd.signal(Signal::CONT)?;
                self.daemon = Daemon::Running;
                Ok(())
            }
            Act::Kill => {
                self.meterd.stop(End::Killed)?;
                self.daemon = Daemon::Gone;
                Ok(())
            }
            Act::Stop => {
                self.meterd.stop(End::Asked)?;
                self.daemon = Daemon::Gone;
                Ok(())
            }
            Act::Start => self.start(),
            Act::Detach => {
                self.detach()?;
                self.start()
            }
            Act::Attach(plug) => {
                let name = self.there(*plug)?.name.clone();
                let told = self.meterd.json(&["attach", &name])?;
                // Without a daemon it does what the daemon's start would do.
                self.all_metered();
                match told[0]["metered"] == true {
                    true => Ok(()),
                    false => Err(Failure::new(format!("attach {name}: {told}"))),
                }
            }
            Act::Pause(milliseconds) => {
                std::thread::sleep(std::time::Duration::from_millis(*milliseconds));
                Ok(())
            }
            other => Err(Failure::new(format!("{other:?} is nothing to a daemon"))),
        }
    }

    /// Leaves the node, with the daemon running or gone, and twice.
    pub(crate) fn detach(&mut self) -> Result<()> {
        self.settle_wire()?;
        self.everything_lost();
        let said = self.meterd.text(&["detach"])?;
        if self.daemon == Daemon::Running {
            self.meterd.wait()?;
        }
        self.daemon = Daemon::Gone;
        self.until_left().could_not(|| format!("leave ({said})"))?;
        self.metered.clear();
        self.meterd.text(&["detach"]).map(drop)
    }
}
