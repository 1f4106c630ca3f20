//! The door to metering: loads the kernel program, keeps it on every metered interface, and
//! reads what it counted.
//!
//! What is attached and counted lives in the kernel and under the pins; this process only
//! visits. Dropping [`Programs`] leaves all of it standing, and opening it again adopts it,
//! with the new program in the place of the old one on every hook.

use std::collections::BTreeSet;

pub use meter_common::Verdict;
use meter_common::{Interface, NO_MACHINE};

use ipnet::IpNet;

use super::{
    clsact,
    error::HostError,
    exempt, features,
    held::Held,
    limits::Limits,
    load::{self, Loaded},
    maps::{self, Maps},
    pins::{Hook, Pins},
    rcu,
    reached::LimitEvents,
    takeover, tcx,
};
use crate::engine::units::Bytes;

pub use super::{
    detach::{Removed, detach_all},
    load::OBJECT,
    words::{Attach, AttachRequest, Attached, Hooks, Mode, ProgramOptions, Shaper, SlotReading},
};

/// The loaded programs, their maps, and where they are attached.
pub struct Programs {
    mode: Mode,
    pins: Pins,
    held: Held,
    loaded: Loaded,
    maps: Maps,
    log: Option<tokio::task::JoinHandle<()>>,
}

impl Programs {
    /// Loads the programs and adopts what is pinned: counters go on where they stood, and on
    /// every hook the new program takes the place of the old between two packets, also where
    /// another version's layout was pinned. A new map set is named `random_id`.
    ///
    /// Within a tokio runtime it also starts to pass the kernel program's messages on to `log`.
    ///
    /// # Errors
    /// Where the process may not, the kernel cannot, or what is pinned does not fit.
    pub fn open(options: &ProgramOptions, random_id: u64) -> Result<Self, HostError> {
        features::check_capabilities("load and attach the kernel program")?;
        let mode = mode(options.attach)?;
        let pins = Pins::create(&options.pin_directory)?;
        rcu::restore();
        maps::prepare(&pins, options.slots)?;
        let others = takeover::others(&options.pin_directory, &pins)?;
        let carried = takeover::carry_maps(&others, &pins, options.slots)?;
        let (id, interfaces) = carried.map_or((random_id, Vec::new()), |carried| {
            (carried.id, carried.interfaces)
        });
        let mut ebpf = load::object(&pins, options)?;
        let maps = Maps::adopt(&mut ebpf, options, id, &interfaces)?;
        let loaded = Loaded::new(&mut ebpf, mode)?;
        let mut programs = Self {
            mode,
            held: Held::of(&pins)?,
            pins,
            loaded,
            maps,
            log: load::forward_log(&mut ebpf),
        };
        takeover::move_links(&others, &programs.pins)?;
        let clsact = others
            .iter()
            .chain([&programs.pins])
            .any(Pins::were_on_clsact);
        programs.adopt(clsact)?;
        takeover::remove(&others)?;
        programs.held.note(&programs.pins);
        Ok(programs)
    }

    /// Makes the hooks fit the table of slots: an interface without a slot has no program, and
    /// one with a slot has this program where it had an older one.
    fn adopt(&self, were_on_clsact: bool) -> Result<(), HostError> {
        let links = self.pins.links()?;
        let _expedited = rcu::Expedited::for_interfaces(if self.mode == Mode::Tcx {
            0
        } else {
            links.len()
        });
        for (ifindex, hook) in links {
            if self.mode == Mode::Tcx && self.maps.slot(ifindex).is_some() {
                tcx::renew(&self.pins, ifindex, hook, self.loaded.of(hook))?;
            } else {
                tcx::take(&self.pins, ifindex, hook)?;
            }
        }
        match self.mode {
            Mode::Tcx => {
                // The list of all qdiscs that it takes is dear to the kernel: with 20 000
                // interfaces a fifth of a start.
                if were_on_clsact {
                    self.leave_clsact()?;
                }
                self.adopt_tcx()
            }
            Mode::Clsact => self.adopt_clsact(),
        }
    }

    /// What a run on clsact left: both together would count everything twice.
    fn leave_clsact(&self) -> Result<(), HostError> {
        for ifindex in clsact::interfaces()? {
            for hook in Hook::ALL {
                clsact::take(ifindex, hook)?;
            }
        }
        clsact::leave_qdiscs(&self.pins)
    }

    fn adopt_tcx(&self) -> Result<(), HostError> {
        for (ifindex, _) in self.maps.table() {
            let [received, sent] = self.standing(ifindex)?;
            // A start was interrupted between the two. (Neither: the interface is not ours,
            // if it is there at all.)
            if received != sent {
                for hook in Hook::METERS {
                    tcx::put(&self.pins, ifindex, hook, self.loaded.of(hook))?;
                }
            }
        }
        Ok(())
    }

    fn adopt_clsact(&self) -> Result<(), HostError> {
        for ifindex in clsact::interfaces()? {
            for hook in Hook::ALL {
                if !clsact::stood(ifindex, hook)? {
                    continue;
                }
                if self.maps.slot(ifindex).is_some() {
                    self.put(ifindex, hook)?;
                } else {
                    clsact::take(ifindex, hook)?;
                }
            }
        }
        Ok(())
    }

    /// Received and sent: whether the programs stand.
    fn standing(&self, ifindex: u32) -> Result<[bool; 2], HostError> {
        Ok([
            self.stands(ifindex, Hook::Received)?,
            self.stands(ifindex, Hook::Sent)?,
        ])
    }

    fn stands(&self, ifindex: u32, hook: Hook) -> Result<bool, HostError> {
        let program = self.loaded.of(hook);
        match self.mode {
            Mode::Tcx => tcx::stands(ifindex, hook, program),
            Mode::Clsact => clsact::stands(ifindex, hook, program),
        }
    }

    /// Says whether the hook is there to be put on.
    fn put(&self, ifindex: u32, hook: Hook) -> Result<clsact::Put, HostError> {
        let program = self.loaded.of(hook);
        match self.mode {
            Mode::Tcx => {
                tcx::put(&self.pins, ifindex, hook, program).map(|()| clsact::Put::Standing)
            }
            Mode::Clsact => {
                let slot = self.maps.slot(ifindex);
                let interface = slot.map(|slot| self.maps.interface(slot)).transpose()?;
                let ifb = interface.unwrap_or_default().ifb;
                clsact::put(&self.pins, ifindex, hook, program, ifb)
            }
        }
    }

    fn take(&self, ifindex: u32, hook: Hook) -> Result<(), HostError> {
        match self.mode {
            Mode::Tcx => tcx::take(&self.pins, ifindex, hook),
            Mode::Clsact => clsact::take(ifindex, hook),
        }
        .map(drop)
    }

    /// The name of the map set: another name means that all counters began anew.
    #[must_use]
    pub const fn map_set(&self) -> u64 {
        self.maps.set().id
    }

    /// How programs are attached.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// How many slots there are.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.maps.set().slots
    }

    /// Every interface that has a slot, and what stands on its hooks at this moment. One whose
    /// hooks are lost keeps its slot until it is released.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn attached(&self) -> Result<Vec<Attached>, HostError> {
        self.maps
            .table()
            .map(|(ifindex, slot)| {
                let interface = self.maps.interface(slot)?;
                Ok(Attached {
                    ifindex,
                    slot,
                    generation: interface.generation,
                    machine: interface.machine,
                    hooks: match (self.standing(ifindex)?, self.mode) {
                        ([true, true], _) => Hooks::Both,
                        ([false, true], Mode::Clsact) if !clsact::has_egress(ifindex)? => {
                            Hooks::SentOnly
                        }
                        _ => Hooks::Lost,
                    },
                    shaper: match Shaper::of(interface) {
                        Some(shaper)
                            if shaper.redirects() && !self.stands(ifindex, Hook::Shape)? =>
                        {
                            None
                        }
                        shaper => shaper,
                    },
                })
            })
            .collect()
    }

    /// Puts the programs on both hooks of each interface, pinned. Where they stand already,
    /// nothing changes but the slot, if another is asked for. An interface that fails is left
    /// without any.
    pub fn attach(&mut self, requests: &[AttachRequest]) -> Vec<(u32, Result<Hooks, HostError>)> {
        let _expedited = rcu::Expedited::for_interfaces(requests.len());
        let outcomes = requests
            .iter()
            .map(|request| (request.ifindex, self.attach_one(request)))
            .collect();
        self.held.note(&self.pins);
        outcomes
    }

    /// Puts back what somebody took away: the names of maps, and programs whose links lived by
    /// theirs. `None` where nobody did, else the interfaces on which nothing was counted.
    ///
    /// # Errors
    /// Where the kernel refuses; calling it again does the rest.
    pub fn mend(&mut self) -> Result<Option<Vec<u32>>, HostError> {
        if self.held.is_whole(&self.pins) {
            return Ok(None);
        }
        let maps = self.held.put_back(&self.pins)?;
        let mut lost = Vec::new();
        // Filters on clsact hold their programs themselves.
        let by_links: Vec<_> = match self.mode {
            Mode::Tcx => self.maps.table().collect(),
            Mode::Clsact => Vec::new(),
        };
        let _expedited = rcu::Expedited::for_interfaces(by_links.len());
        for (ifindex, slot) in by_links {
            let stood = self.standing(ifindex)?;
            let interface = self.maps.interface(slot)?;
            match self.put_meters(ifindex) {
                // It is on its way out.
                Err(HostError::NoInterface { .. }) => continue,
                outcome => outcome?,
            };
            if Shaper::of(interface).is_some_and(Shaper::redirects) {
                self.put(ifindex, Hook::Shape)?;
            }
            if stood != [true, true] {
                lost.push(ifindex);
            }
        }
        self.held.note(&self.pins);
        Ok((maps > 0 || !lost.is_empty()).then_some(lost))
    }

    fn attach_one(&mut self, request: &AttachRequest) -> Result<Hooks, HostError> {
        let AttachRequest {
            ifindex,
            slot,
            generation,
            machine,
        } = *request;
        self.check_machine(machine)?;
        let before = self.maps.interface(slot)?;
        let same = self.maps.slot(ifindex) == Some(slot) && before.generation == generation;
        let interface = Interface {
            machine,
            generation,
            verdict: before.verdict,
            // A shaper belongs to the interface that it was made for.
            ..if same { before } else { Interface::default() }
        };
        if !same {
            self.maps.forget_past_shaper(slot)?;
        }
        self.maps.set_interface(slot, interface)?;
        self.maps.assign(ifindex, slot)?;
        let hooks = self.put_meters(ifindex);
        if hooks.is_err()
            && let Err(error) = self.detach_one(ifindex)
        {
            tracing::warn!("{error}");
        }
        hooks
    }

    fn put_meters(&self, ifindex: u32) -> Result<Hooks, HostError> {
        self.put(ifindex, Hook::Sent)?;
        Ok(match self.put(ifindex, Hook::Received)? {
            clsact::Put::Standing => Hooks::Both,
            clsact::Put::NoSuchHook => Hooks::SentOnly,
        })
    }

    /// Takes the programs off an interface, if it is in that slot. The slot's counters stay as
    /// they are, and do not move any more.
    ///
    /// # Errors
    /// Where the kernel refuses; calling it again does the rest.
    pub fn release(&mut self, ifindex: u32, slot: u32) -> Result<(), HostError> {
        if self.maps.slot(ifindex) != Some(slot) {
            return Ok(());
        }
        self.detach_one(ifindex)?;
        self.held.note(&self.pins);
        let former = self.maps.interface(slot)?;
        let emptied = Interface {
            generation: former.generation,
            ..Interface::default()
        };
        self.maps.set_interface(slot, emptied)
    }

    fn detach_one(&mut self, ifindex: u32) -> Result<(), HostError> {
        for hook in Hook::ALL {
            self.take(ifindex, hook)?;
        }
        if self.mode == Mode::Clsact {
            clsact::leave_qdisc(&self.pins, ifindex)?;
        }
        // Last: what has a slot is found again, by another call or after a restart.
        self.maps.unassign(ifindex)
    }

    /// Short grace periods while it lives, where that many interfaces are about to change.
    pub fn expedited(&self, interfaces: usize) -> Option<impl Drop + use<>> {
        rcu::Expedited::for_interfaces(interfaces)
    }

    /// For which of its owners each slot was last handed out; 0 where it never was. Letting go of
    /// one changes nothing of that.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn generations(&self) -> Result<Vec<u32>, HostError> {
        self.maps.generations()
    }

    /// What every slot shows, up to the highest that was handed out.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn readings(&self) -> Result<Vec<SlotReading>, HostError> {
        let counters = self.maps.all_counters()?;
        Ok((0..)
            .zip(counters)
            .map(|(slot, [received, sent])| SlotReading {
                slot,
                received,
                sent,
            })
            .collect())
    }

    /// What one slot shows.
    ///
    /// # Errors
    /// Where there is no such slot, or the kernel does not say.
    pub fn reading(&self, slot: u32) -> Result<SlotReading, HostError> {
        let [received, sent] = self.maps.counters(slot)?;
        Ok(SlotReading {
            slot,
            received,
            sent,
        })
    }

    /// Bytes of exempt frames that went past a shaper on the root of the slot's interface since it
    /// was attached: the interface's own counter has them, the shaper did not.
    ///
    /// # Errors
    /// Where there is no such slot, or the kernel does not say.
    pub fn past_shaper(&self, slot: u32) -> Result<Bytes, HostError> {
        self.maps.past_shaper(slot).map(Bytes)
    }

    /// Lets packets pass, or drops them in both directions, from the next one on. What is set
    /// before [`Programs::attach`] stands from the first packet.
    ///
    /// # Errors
    /// Where there is no such slot, or the kernel refuses.
    pub fn set_verdict(&mut self, slot: u32, verdict: Verdict) -> Result<(), HostError> {
        let interface = Interface {
            verdict: verdict as u32,
            ..self.maps.interface(slot)?
        };
        self.maps.set_interface(slot, interface)
    }

    /// Puts an interface under the limits of another machine, or with 0 under none's.
    ///
    /// # Errors
    /// Where there is no such slot or machine, or the kernel refuses.
    pub fn set_machine(&mut self, slot: u32, machine: u32) -> Result<(), HostError> {
        self.check_machine(machine)?;
        let interface = Interface {
            machine,
            ..self.maps.interface(slot)?
        };
        self.maps.set_interface(slot, interface)
    }

    fn check_machine(&self, machine: u32) -> Result<(), HostError> {
        if machine == NO_MACHINE {
            return Ok(());
        }
        self.maps.limits.check(machine)
    }

    /// Every machine's limits.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.maps.limits
    }

    /// As above, to change them.
    pub const fn limits_mut(&mut self) -> &mut Limits {
        &mut self.maps.limits
    }

    /// What the kernel program says of boundaries that are reached, what it said before we
    /// came included. There is one such stream, and a second call finds none. Within a tokio
    /// runtime only.
    ///
    /// # Errors
    /// Where the kernel does not let us wait for it.
    pub fn limit_events(&mut self) -> Result<Option<LimitEvents>, HostError> {
        let ring = self.maps.reached.take();
        let events = ring.map(LimitEvents::new).transpose();
        events.map_err(|error| HostError::system("listen to the kernel program", error))
    }

    /// Traffic whose far end lies in one of these counts apart, for the machines of this group
    /// ([`Limits::set_exempt_group`]); they take the place of those that the group had.
    ///
    /// # Errors
    /// Where the kernel refuses: there is room for 65 536 prefixes of each family.
    pub fn set_exempt_prefixes(&mut self, group: u32, prefixes: &[IpNet]) -> Result<(), HostError> {
        self.maps.limits.forget_never_exempt(group);
        self.maps.exempt.set(group, prefixes)?;
        let never_exempt = exempt::never_exempt(prefixes);
        self.maps.limits.set_never_exempt(group, never_exempt);
        Ok(())
    }

    /// The groups that have exempt prefixes, those of an earlier run among them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn exempt_groups(&self) -> Result<BTreeSet<u32>, HostError> {
        self.maps.exempt.groups()
    }

    fn in_slot(&self, ifindex: u32, slot: u32, attempted: &'static str) -> Result<(), HostError> {
        if self.maps.slot(ifindex) == Some(slot) {
            return Ok(());
        }
        Err(HostError::NotMetered {
            attempted,
            ifindex,
            slot,
        })
    }

    /// Sends the interface's packets through the classes of a shaper that stands, or past it.
    /// What the guest sends is redirected by a program of its own, last on its hook; if
    /// another has been put behind it meanwhile, it moves to the end. A shaper without an IFB
    /// needs none: by `clsact` there could not even be one, whose action would lead nowhere.
    ///
    /// # Errors
    /// Where the interface is not in that slot, or the kernel refuses.
    pub fn set_shaper(
        &mut self,
        ifindex: u32,
        slot: u32,
        to: Option<Shaper>,
    ) -> Result<(), HostError> {
        self.in_slot(ifindex, slot, "shape")?;
        let redirects = to.is_some_and(Shaper::redirects);
        if !redirects {
            self.take(ifindex, Hook::Shape)?;
        }
        let interface = Interface {
            shaper: to.map_or(0, Shaper::class),
            ifb: to.map_or(0, |shaper| shaper.ifb_ifindex),
            root_lost: 0,
            ..self.maps.interface(slot)?
        };
        self.maps.set_interface(slot, interface)?;
        if redirects {
            self.put(ifindex, Hook::Shape)?;
        }
        self.held.note(&self.pins);
        Ok(())
    }

    /// Our shaper does not stand at the root any more, and will again: until
    /// [`Programs::set_shaper`] says so, what the guest receives is policed.
    ///
    /// # Errors
    /// Where the interface is not in that slot, or the kernel refuses.
    pub fn lose_root(&mut self, ifindex: u32, slot: u32) -> Result<(), HostError> {
        self.in_slot(ifindex, slot, "police")?;
        let interface = Interface {
            root_lost: 1,
            ..self.maps.interface(slot)?
        };
        self.maps.set_interface(slot, interface)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.abort();
        }
    }
}

fn mode(attach: Attach) -> Result<Mode, HostError> {
    if attach == Attach::Clsact {
        return Ok(Mode::Clsact);
    }
    let tcx = tcx::is_there()
        .map_err(|error| HostError::system("ask the kernel whether it has tcx", error))?;
    match attach {
        _ if tcx => Ok(Mode::Tcx),
        Attach::Tcx => Err(HostError::NoTcx {
            release: features::kernel_release(),
        }),
        _ => Ok(Mode::Clsact),
    }
}
