//! A sandbox as the host of `Programs`, and guests on veths of their own.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use meter_common::{CountBytes, Counters};
use meter_daemon::host::programs::{Attach, AttachRequest, Hooks, ProgramOptions, Programs};
use meter_tests::{
    inspect::{self, Hook},
    links::{self, End, Mac},
    needs,
    sandbox::{Namespace, Sandbox},
    topology::{Family, Party},
    traffic::Udp,
};

pub(crate) const SLOTS: u32 = 1024;

/// The host's side: this thread is in its namespaces.
pub(crate) struct Arena<'a> {
    sandbox: &'a Sandbox,
}

/// Runs a test as the host of a new network namespace, with a bpffs of its own.
pub(crate) fn arena(test: impl FnOnce(&Arena<'_>) + Send) {
    Sandbox::run(|sandbox| {
        quiet(sandbox.host());
        test(&Arena { sandbox });
        Ok(())
    })
    .unwrap();
}

/// The same for what is promised of tcx alone; a kernel without it says so.
#[track_caller]
pub(crate) fn arena_with_tcx(test: impl FnOnce(&Arena<'_>) + Send) {
    if needs::tcx().unwrap() {
        arena(test);
    }
}

/// What would count without our saying so: router solicitations and the like.
fn quiet(namespace: &Namespace) {
    for place in ["all", "default"] {
        let name = format!("ipv6/conf/{place}/disable_ipv6");
        namespace.sysctl(&name, "1").unwrap();
    }
}

impl Arena<'_> {
    pub(crate) fn pin_directory(&self) -> PathBuf {
        self.sandbox.bpffs().join("meterd")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.sandbox.root()
    }

    pub(crate) fn options(&self) -> ProgramOptions {
        ProgramOptions {
            pin_directory: self.pin_directory(),
            count_bytes: CountBytes::Wire,
            slots: SLOTS,
            attach: Attach::Auto,
        }
    }

    pub(crate) fn open(&self) -> Programs {
        self.open_by(Attach::Auto)
    }

    pub(crate) fn open_clsact(&self) -> Programs {
        self.open_by(Attach::Clsact)
    }

    pub(crate) fn open_tcx(&self) -> Programs {
        self.open_by(Attach::Tcx)
    }

    pub(crate) fn open_by(&self, attach: Attach) -> Programs {
        let options = ProgramOptions {
            attach,
            ..self.options()
        };
        Programs::open(&options, 7).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What is below the bpffs, without the kernel's own two files.
    pub(crate) fn pins(&self) -> Vec<String> {
        let pins = inspect::pins(&self.sandbox.bpffs()).unwrap();
        let pins = pins.iter().map(|path| path.display().to_string());
        pins.filter(|path| !path.ends_with(".debug")).collect()
    }
}

/// Asks for one interface, and expects it to be given.
pub(crate) fn attach(programs: &mut Programs, ifindex: u32, slot: u32) -> Hooks {
    let request = AttachRequest {
        ifindex,
        slot,
        generation: 1,
        machine: slot,
    };
    let results = programs.attach(&[request]);
    let [(_, result)] = <[_; 1]>::try_from(results).unwrap();
    result.unwrap()
}

pub(crate) fn both(programs: &Programs, slot: u32) -> [Counters; 2] {
    let reading = programs.reading(slot).unwrap();
    [reading.received, reading.sent]
}

pub(crate) fn packets(programs: &Programs, slot: u32) -> [u64; 2] {
    both(programs, slot).map(|counters| counters.packets)
}

/// The ids of the programs on an interface's two tcx hooks: received, sent.
pub(crate) fn programs_on(ifindex: u32) -> [Vec<u32>; 2] {
    [Hook::Received, Hook::Sent].map(|hook| {
        let programs = inspect::tcx(ifindex, hook).unwrap();
        programs.iter().map(|program| program.id).collect()
    })
}

/// What [`programs_on`] says where no program stands.
pub(crate) const NOBODY: [Vec<u32>; 2] = [Vec::new(), Vec::new()];

/// The host's ends of the guests' veths.
const TAPS: [&str; 3] = ["tap0", "tap1", "tap2"];

/// A guest in a network namespace of its own, wired to the host's.
pub(crate) struct Guest {
    pub(crate) host: Party,
    pub(crate) party: Party,
    pub(crate) ifindex: u32,
}

impl Guest {
    /// Number 1 is behind `tap1`.
    pub(crate) fn new(arena: &Arena<'_>, number: u8) -> Self {
        Self::with_ifindex(arena, number, 0)
    }

    /// The same, with an index of our choice.
    pub(crate) fn with_ifindex(arena: &Arena<'_>, number: u8, ifindex: u32) -> Self {
        let party = |namespace, interface, last| Party {
            namespace,
            interface,
            mac: Mac([2, 0, 0, 0, number, last]),
            v4: Ipv4Addr::new(10, 0, number, last),
            v6: Ipv6Addr::UNSPECIFIED,
        };
        let inside = Namespace::new().unwrap();
        quiet(&inside);
        let host = party(arena.sandbox.host().clone(), TAPS[usize::from(number)], 1);
        let guest = party(inside, "eth0", 2);
        let end = |party: &Party| End {
            name: party.interface,
            mac: Some(party.mac),
        };
        links::veth_numbered(ifindex, end(&host), end(&guest), &guest.namespace).unwrap();
        for party in [&host, &guest] {
            let settle = || {
                links::address(party.interface, party.v4.into(), 24)?;
                links::up(party.interface)
            };
            party.namespace.run(settle).unwrap();
        }
        links::until_operating(host.interface).unwrap();
        host.knows(&guest).unwrap();
        guest.knows(&host).unwrap();
        Self {
            ifindex: self::ifindex(host.interface),
            host,
            party: guest,
        }
    }

    /// The host's end.
    pub(crate) fn name(&self) -> &'static str {
        self.host.interface
    }

    /// Sends so many datagrams with so much payload, each way, and waits until they are there.
    pub(crate) fn exchange(&self, count: u64, payload: u16) {
        let datagrams = Udp {
            datagrams: count,
            each: payload,
            family: Family::V4,
            together: 1,
        };
        datagrams.run(&self.party, &self.host).unwrap();
        datagrams.run(&self.host, &self.party).unwrap();
    }
}

pub(crate) fn ifindex(name: &str) -> u32 {
    links::get(name).unwrap().index
}
