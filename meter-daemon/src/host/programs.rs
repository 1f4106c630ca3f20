//! The door to metering: loads the kernel program, keeps it on every metered interface, and
//! reads what it counted.
//!
//! What is attached and counted lives in the kernel and under the pins; this process only
//! visits. Dropping [`Programs`] leaves all of it standing, and opening it again adopts it,
//! with the new program in the place of the old one on every hook.

use std::path::PathBuf;

use meter_common::{CountBytes, Counters, Interface};

use super::{
    clsact,
    error::HostError,
    features,
    load::{self, Loaded},
    maps::{self, Maps},
    pins::{Hook, Pins},
    rcu, tcx,
};
pub use super::{
    detach::{Removed, detach_all},
    load::OBJECT,
};

/// How programs are to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// By tcx where the kernel has it, else by clsact.
    #[default]
    Auto,
    /// By tcx or not at all.
    Tcx,
    /// By clsact, whatever the kernel has.
    Clsact,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Pinned tcx links.
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}

/// What [`Programs::open`] needs to know.
#[derive(Clone, Debug)]
pub struct ProgramOptions {
    /// On a bpf file system.
    pub pin_directory: PathBuf,
    /// For what a start must put right after a crash.
    pub runtime_directory: PathBuf,
    /// What a byte is.
    pub count_bytes: CountBytes,
    /// How many interfaces can be metered at once; fixed for the life of the map set. Each
    /// takes 128 bytes of kernel memory a CPU.
    pub slots: u32,
    /// How to attach.
    pub attach: Attach,
}

/// What stands on an interface's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Both directions are counted.
    Both,
    /// Only what the guest sends: its interface has an `ingress` qdisc, which has no place for
    /// the other direction, and the kernel has no tcx.
    SentOnly,
    /// Nothing, or not all there was: the interface is gone, or somebody took the programs
    /// away. What was counted still stands in the slot.
    Lost,
}

/// An interface that has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Which.
    pub ifindex: u32,
    /// Its place in the counters.
    pub slot: u32,
    /// As it was asked for.
    pub generation: u32,
    /// What stands there now.
    pub hooks: Hooks,
    /// Set, and its program standing where it must.
    pub shaper: Option<Shaper>,
}

/// An interface to be metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// Which, in this process's network namespace.
    pub ifindex: u32,
    /// Where it shall count.
    pub slot: u32,
    /// How often the slot has been handed out.
    pub generation: u32,
    /// The index of its machine's limits.
    pub machine: u32,
}

/// Where a throttled machine's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shaper {
    /// The major number of the HTB on the tap's root and of the one on the IFB.
    pub major: u16,
    /// What the guest sends passes through this IFB.
    pub ifb_ifindex: u32,
}

/// What a slot's counters show, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotReading {
    /// Which slot.
    pub slot: u32,
    /// What its guests received.
    pub received: Counters,
    /// What its guests sent.
    pub sent: Counters,
}

/// The loaded programs, their maps, and where they are attached.
pub struct Programs {
    mode: Mode,
    pins: Pins,
    runtime_directory: PathBuf,
    loaded: Loaded,
    maps: Maps,
    log: Option<tokio::task::JoinHandle<()>>,
}

impl Programs {
    /// Loads the programs and adopts what is pinned: counters go on where they stood, and on
    /// every hook the new program takes the place of the old between two packets. A new map
    /// set is named `random_id`.
    ///
    /// Within a tokio runtime it also starts to pass the kernel program's messages on to `log`.
    ///
    /// # Errors
    /// Where the process may not, the kernel cannot, or what is pinned does not fit.
    pub fn open(options: &ProgramOptions, random_id: u64) -> Result<Self, HostError> {
        features::check_capabilities("load and attach the kernel program")?;
        let mode = mode(options.attach)?;
        let pins = Pins::create(&options.pin_directory)?;
        rcu::restore(&options.runtime_directory);
        maps::prepare(&pins, options.slots)?;
        let mut ebpf = load::object(&pins, options)?;
        let maps = Maps::adopt(&mut ebpf, options.slots, random_id)?;
        let loaded = Loaded::new(&mut ebpf, mode)?;
        let programs = Self {
            mode,
            pins,
            runtime_directory: options.runtime_directory.clone(),
            loaded,
            maps,
            log: load::forward_log(&mut ebpf),
        };
        programs.adopt()?;
        Ok(programs)
    }

    /// Makes the hooks fit the table of slots: an interface without a slot has no program, and
    /// one with a slot has this program where it had an older one.
    fn adopt(&self) -> Result<(), HostError> {
        let links = self.pins.links()?;
        let _expedited = rcu::Expedited::for_interfaces(
            if self.mode == Mode::Tcx {
                0
            } else {
                links.len()
            },
            &self.runtime_directory,
        );
        for (ifindex, hook) in links {
            if self.mode == Mode::Tcx && self.maps.slot(ifindex).is_some() {
                tcx::renew(&self.pins, ifindex, hook, self.loaded.of(hook))?;
            } else {
                tcx::take(&self.pins, ifindex, hook)?;
            }
        }
        match self.mode {
            Mode::Tcx => self.adopt_tcx(),
            Mode::Clsact => self.adopt_clsact(),
        }
    }

    fn adopt_tcx(&self) -> Result<(), HostError> {
        // Left by a run on clsact: both together would count everything twice.
        for ifindex in clsact::interfaces()? {
            for hook in Hook::ALL {
                clsact::take(ifindex, hook)?;
            }
        }
        clsact::leave_qdiscs(&self.pins)?;
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
                    hooks: match (self.standing(ifindex)?, self.mode) {
                        ([true, true], _) => Hooks::Both,
                        ([false, true], Mode::Clsact) if !clsact::has_egress(ifindex)? => {
                            Hooks::SentOnly
                        }
                        _ => Hooks::Lost,
                    },
                    shaper: match shaper(interface) {
                        Some(shaper) if self.stands(ifindex, Hook::Shape)? => Some(shaper),
                        _ => None,
                    },
                })
            })
            .collect()
    }

    /// Puts the programs on both hooks of each interface, pinned. Where they stand already,
    /// nothing changes but the slot, if another is asked for. An interface that fails is left
    /// without any.
    pub fn attach(&mut self, requests: &[AttachRequest]) -> Vec<(u32, Result<Hooks, HostError>)> {
        let _expedited = rcu::Expedited::for_interfaces(requests.len(), &self.runtime_directory);
        requests
            .iter()
            .map(|request| (request.ifindex, self.attach_one(request)))
            .collect()
    }

    fn attach_one(&mut self, request: &AttachRequest) -> Result<Hooks, HostError> {
        let AttachRequest {
            ifindex,
            slot,
            generation,
            machine,
        } = *request;
        let before = self.maps.interface(slot)?;
        let same = self.maps.slot(ifindex) == Some(slot) && before.generation == generation;
        let interface = Interface {
            machine,
            generation,
            // A shaper belongs to the interface that it was made for.
            ..if same { before } else { Interface::default() }
        };
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

    /// Sends the interface's packets through the classes of a shaper that stands, or past it.
    /// What the guest sends is redirected by a program of its own, last on its hook; if
    /// another has been put behind it meanwhile, it moves to the end.
    ///
    /// # Errors
    /// Where the interface is not in that slot, or the kernel refuses.
    pub fn set_shaper(
        &mut self,
        ifindex: u32,
        slot: u32,
        to: Option<Shaper>,
    ) -> Result<(), HostError> {
        if self.maps.slot(ifindex) != Some(slot) {
            return Err(HostError::NotMetered {
                attempted: "shape",
                ifindex,
                slot,
            });
        }
        if to.is_none() {
            self.take(ifindex, Hook::Shape)?;
        }
        let interface = Interface {
            shaper: to.map_or(0, |shaper| u32::from(shaper.major) << 16),
            ifb: to.map_or(0, |shaper| shaper.ifb_ifindex),
            ..self.maps.interface(slot)?
        };
        self.maps.set_interface(slot, interface)?;
        if to.is_some() {
            self.put(ifindex, Hook::Shape)?;
        }
        Ok(())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.abort();
        }
    }
}

fn shaper(interface: Interface) -> Option<Shaper> {
    let major = u16::try_from(interface.shaper >> 16).ok()?;
    (major != 0).then_some(Shaper {
        major,
        ifb_ifindex: interface.ifb,
    })
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
