//! The usual beginning of a test: a node, one guest, a capture on the far end of the wire,
//! and a running daemon that meters what looks like a tap.

use std::time::Duration;

use crate::{
    Result,
    capture::{Capture, Moved},
    inspect::{self, Hook},
    links,
    meterd::{Counted, Meterd},
    paper::{UDP4_HEADERS, wire_bytes},
    sandbox::Sandbox,
    topology::{Family, Guest, Node, Party, Port, WAN},
    traffic::{Tcp, Udp},
    wait::{self, Seen},
};

/// Every tap by its number, without a plan; polled each second.
pub const EVERY_TAP: &str = r"
poll-interval = '1s'
[[discover]]
interface = '^tap(?<machine>\d+)i\d+$'
";

/// Node, guest `101`, capture and daemon.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The node and the world.
    pub node: Node,
    /// On `tap101i0`; its machine's id is `101`.
    pub guest: Guest,
    /// At the world's end.
    pub capture: Capture,
    /// Running.
    pub meterd: Meterd<'a>,
}

/// The machine of [`Scene::guest`] under [`EVERY_TAP`].
pub const MACHINE: &str = "101";

/// Every tap by its number, with the plan of [`Scene::strict`].
pub const STRICT_TAPS: &str = r"
[[discover]]
interface = '^tap(?<machine>\d+)i\d+$'
plan = 'strict'
";

/// What moves at all is throttled.
pub const STRICT: &str = "
allowance = '1 kB'
[[rule]]
used = '105%'
throttle = '64 kbit/s'
";

/// So many of [`EACH`], one way.
#[must_use]
pub const fn datagrams(count: u64) -> Udp {
    Udp {
        datagrams: count,
        each: 1000,
        family: Family::V4,
        together: 1,
    }
}

/// What one of [`datagrams`] is on the wire.
pub const EACH: u64 = wire_bytes(1000, 1000, UDP4_HEADERS);

/// What is counted of a guest that has sent so many of [`datagrams`].
#[must_use]
pub const fn sent(datagrams: u64) -> Counted {
    Counted {
        received: 0,
        sent: datagrams * EACH,
    }
}

/// What moved while something happened, told twice.
#[derive(Clone, Copy, Debug)]
pub struct Watched<T> {
    /// By the daemon's ledger.
    pub ledger: Counted,
    /// By the capture at the far end.
    pub wire: Moved,
    /// What happened.
    pub outcome: T,
}

impl<'a> Scene<'a> {
    /// Sets it, with keys that come before those of [`EVERY_TAP`].
    pub fn set(sandbox: &'a Sandbox, keys: &str) -> Result<Self> {
        Self::prepare(sandbox, &format!("{keys}\n{EVERY_TAP}"))?.started()
    }

    /// As [`Self::set`], with a whole configuration, and the daemon not started yet.
    pub fn prepare(sandbox: &'a Sandbox, config: &str) -> Result<Self> {
        let node = Node::new(sandbox)?;
        let guest = node.plug(Port::of(101))?;
        let capture = Capture::on(&node.world.namespace, WAN)?;
        let meterd = Meterd::new(sandbox, config)?;
        Ok(Self {
            node,
            guest,
            capture,
            meterd,
        })
    }

    /// With the plan [`STRICT`] for every tap, and the daemon not started yet.
    pub fn strict(sandbox: &'a Sandbox, keys: &str) -> Result<Self> {
        let scene = Self::prepare(sandbox, &format!("{keys}{STRICT_TAPS}"))?;
        scene.meterd.write("plans/strict.toml", STRICT)?;
        Ok(scene)
    }

    /// Moves enough for the plan [`STRICT`], and waits for what follows.
    pub fn throttle(&self) -> Result<()> {
        Tcp::v4(10_000).run(&self.guest.party, &self.node.world)?;
        let soon = Duration::from_secs(10);
        self.meterd
            .wait_for_state(MACHINE, "throttled", soon)
            .map(drop)
    }

    /// With the daemon started.
    pub fn started(mut self) -> Result<Self> {
        self.meterd.start()?;
        Ok(self)
    }

    /// All that the ledger has of the guest and all that the wire saw of it, at one instant:
    /// nothing passed between the two readings.
    pub fn both(&mut self) -> Result<(Counted, Counted)> {
        let guest = self.guest.party.mac;
        let often = Duration::from_millis(1);
        let (seen, _) = wait::until("silence", often, Duration::from_secs(20), || {
            let before = self.capture.settled(guest)?;
            let ledger = self.meterd.counted(MACHINE)?;
            let after = self.capture.of(guest)?;
            let wire = Counted {
                received: after.received.bytes,
                sent: after.sent.bytes,
            };
            Ok(if before == after {
                Seen::Yes((ledger, wire))
            } else {
                Seen::NotYet("something passed meanwhile".to_owned())
            })
        })?;
        Ok(seen)
    }

    /// The ledger's figures and the wire's for what happens between the guest and the world.
    pub fn watch<T>(
        &mut self,
        happen: impl FnOnce(&Party, &Party) -> Result<T>,
    ) -> Result<Watched<T>> {
        let guest = &self.guest.party;
        let wire = self.capture.settled(guest.mac)?;
        let ledger = self.meterd.counted(MACHINE)?;
        let outcome = happen(guest, &self.node.world)?;
        let wire = self.capture.settled(guest.mac)? - wire;
        let ledger = self.meterd.counted(MACHINE)? - ledger;
        Ok(Watched {
            ledger,
            wire,
            outcome,
        })
    }
}

impl<T> Watched<T> {
    /// Fails unless the ledger has, byte by byte, what was on the wire.
    #[track_caller]
    pub fn assert_exact(&self) {
        assert_eq!(
            self.ledger,
            self.on_the_wire(),
            "the ledger against the wire"
        );
    }

    /// The wire's figures in the ledger's form.
    #[must_use]
    pub fn on_the_wire(&self) -> Counted {
        Counted {
            received: self.wire.received.bytes,
            sent: self.wire.sent.bytes,
        }
    }
}

/// Both hooks of the interface have one program each.
pub fn is_metered(interface: &str) -> Result<bool> {
    let Some(link) = links::find(interface)? else {
        return Ok(false);
    };
    for hook in Hook::BOTH {
        if inspect::programs(link.index, hook)?.len() != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for that; returns how long it took.
pub fn until_metered(interface: &str) -> Result<Duration> {
    let what = format!("{interface} to be metered");
    let seen = wait::until(
        &what,
        Duration::from_millis(1),
        Duration::from_secs(5),
        || {
            Ok(if is_metered(interface)? {
                Seen::Yes(())
            } else {
                Seen::NotYet("it is not".to_owned())
            })
        },
    )?;
    Ok(seen.1)
}
