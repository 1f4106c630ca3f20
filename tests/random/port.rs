//! An interface that may be plugged in: what it is, and what the test knows of it while it is
//! there, which is what others (never meterd) have done to it.

use std::{net::Ipv4Addr, time::Duration};

use meter_tests::{
    Context, Result,
    capture::Capture,
    foreign::{Filter, Place},
    inspect::Hook,
    links::{self, End, Mac, Renamed},
    rate_limits::run,
    routed,
    routing::{self, Picture},
    sandbox::Namespace,
    tap::{Reader, Tap},
    topology::{self, BRIDGE, ETH, Port},
};

use crate::{found::Root, lots::Lots, wire::Total};

/// What stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A veth on the bridge.
    Bridged,
    /// A real TAP on the bridge.
    BridgedTap,
    /// A veth with addresses and routes of its own.
    Routed,
    /// A real TAP with them.
    RoutedTap,
}

/// A socket, with what is plugged into it.
#[derive(Debug)]
pub(crate) struct Plug {
    pub(crate) port: Port,
    pub(crate) kind: Kind,
    pub(crate) there: Option<There>,
}

/// Whoever is behind the interface. Dropped, the interface is gone, too.
#[derive(Debug)]
enum Behind {
    Veth(Namespace),
    /// With the guest that reads from it.
    Tap(Tap, Reader),
}

/// How meterd's programs hang on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    Tcx,
    /// On a qdisc that others share, and that stands where Proxmox VE and libvirt want to put
    /// theirs: those fail, and so are not tried.
    Clsact,
}

/// What stands on `ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ingress {
    Nothing,
    /// An `ingress` qdisc, with a rate limit's filter.
    Police,
    /// `clsact`.
    Clsact,
}

/// An interface that is there, as others have left it.
#[derive(Debug)]
pub(crate) struct There {
    pub(crate) name: String,
    pub(crate) index: u32,
    behind: Behind,
    inside: Option<Capture>,
    /// By the world's address: what came to the guest, as far as it was taken into account.
    came: Total,
    /// What may stand at its root when we have gone.
    pub(crate) roots: Vec<Root>,
    /// The kernel's own.
    pub(crate) default: Root,
    pub(crate) ingress: Ingress,
    pub(crate) tcx: Vec<(Hook, Place, Filter)>,
    pub(crate) filters: Vec<(Hook, Filter)>,
    /// Whether they want it up; `None` where that cannot be told.
    pub(crate) up: Option<bool>,
    /// What it has while it is nobody's prisoner; `None` while that is not known.
    pub(crate) picture: Option<Picture>,
    /// It has something that could not be put back.
    pub(crate) obstacle: bool,
    /// Whether it operated when it was last looked at: else its bridge forwards nothing.
    pub(crate) operated: bool,
}

/// From the world's other address everything is exempt.
pub(crate) const EXEMPT_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(crate) const EXEMPT_IP: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

/// Frames that wait to be read.
const ROOM: usize = 10_000;

impl Plug {
    pub(crate) const fn new(machine: u8, nic: u8, kind: Kind) -> Self {
        Self {
            port: Port { machine, nic },
            kind,
            there: None,
        }
    }

    /// Plugs it in, as a hypervisor does.
    pub(crate) fn create(&mut self, default: &Root) -> Result<()> {
        let name = self.port.tap();
        let (behind, inside) = match self.kind {
            Kind::Bridged | Kind::Routed => {
                let namespace = Namespace::new()?;
                let end = |name, mac| End {
                    name,
                    mac: Some(mac),
                };
                let here = end(&name, self.port.host_mac());
                links::veth(here, end(ETH, self.port.mac()), &namespace)?;
                links::silence(&name)?;
                namespace.run(|| {
                    links::silence(ETH)?;
                    links::up(ETH)
                })?;
                let inside = Capture::with_room_for(ROOM, &namespace, ETH)?;
                (Behind::Veth(namespace), Some(inside))
            }
            Kind::BridgedTap | Kind::RoutedTap => {
                let tap = Tap::new(&name)?;
                let reader = tap.reader()?;
                (Behind::Tap(tap, reader), None)
            }
        };
        if !self.is_routed() {
            links::join(&name, BRIDGE)?;
            links::forward(&name, self.port.mac())?;
        }
        // A suspended machine's is down again at once.
        links::up(&name)?;
        let there = There {
            index: links::get(&name)?.index,
            behind,
            inside,
            came: Total::default(),
            roots: vec![default.clone(), Root::none()],
            default: default.clone(),
            ingress: Ingress::Nothing,
            tcx: Vec::new(),
            filters: Vec::new(),
            up: Some(true),
            picture: None,
            obstacle: false,
            operated: false,
            name,
        };
        self.there = Some(there);
        Ok(())
    }

    pub(crate) const fn is_routed(&self) -> bool {
        matches!(self.kind, Kind::Routed | Kind::RoutedTap)
    }

    /// What a routed set-up puts there; what the machine's suspension prevents is left out.
    pub(crate) fn furnish(&mut self, lots: &mut Lots) -> Result<()> {
        let is_routed = self.is_routed();
        let (machine, nic) = (self.port.machine, self.port.nic);
        let Some(there) = &mut self.there else {
            return Ok(());
        };
        let name = there.name.clone();
        if is_routed {
            let net = format!("10.{machine}.{nic}");
            let v6 = format!("2001:db8:{machine}:{nic}:");
            let sysctl = |key: &str, value: &str| {
                let path = format!("/proc/sys/net/ipv6/conf/{name}/{key}");
                std::fs::write(&path, value).could_not(|| format!("write {path}"))
            };
            // What the node itself tells its neighbours of its groups, again and again at some
            // instant, may meet a root that is being changed: then it was counted, and is nowhere.
            sysctl("mldv2_unsolicited_report_interval", "3600000")?;
            sysctl("addr_gen_mode", "1")?;
            sysctl("disable_ipv6", "0")?;
            for words in [
                format!("ip addr add {net}.1/24 dev {name}"),
                format!("ip addr add {v6}:1/64 dev {name} nodad"),
                format!("ip neigh add {net}.9 lladdr 02:00:00:00:00:09 dev {name} nud permanent"),
                format!("ip neigh add {v6}:9 lladdr 02:00:00:00:00:09 dev {name} nud permanent"),
                format!("ip neigh add proxy {net}.77 dev {name}"),
                format!("ip route add 203.0.{nic}.{machine}/32 via {net}.9 dev {name}"),
                format!("ip route add 203.1.{nic}.{machine}/32 dev {name} table 100 metric 7"),
                format!("ip route add 2001:db8:f{nic}:{machine}::/64 via {v6}:9 dev {name}"),
            ] {
                drop(run(&words));
            }
        } else if lots.percent(50) {
            let mac = format!("02:00:00:01:{nic:02}:{}", machine % 100);
            drop(run(&format!(
                "bridge fdb add {mac} dev {name} master static"
            )));
        }
        there.look()
    }

    /// The guest sends; how many bytes left it.
    pub(crate) fn send(&mut self, frame: &[u8], times: usize) -> u64 {
        let Some(there) = &mut self.there else {
            return 0;
        };
        // Where the link is down nothing is sent.
        let sent = match &mut there.behind {
            Behind::Veth(namespace) => {
                let sent = namespace.run(|| topology::inject(ETH, frame, times));
                sent.map_or(0, |()| times)
            }
            Behind::Tap(tap, _) => (0..times).filter(|_| tap.send(frame).is_ok()).count(),
        };
        (sent * frame.len()) as u64
    }

    /// Unplugs it. What came to the guest until then is read before.
    pub(crate) fn delete(&mut self) -> Result<()> {
        let Some(there) = self.there.take() else {
            return Ok(());
        };
        match there.behind {
            Behind::Tap(tap, reader) => {
                drop(reader);
                drop(tap);
            }
            _ => links::delete(&there.name)?,
        }
        Ok(())
    }

    /// What came to the guest since the last look.
    pub(crate) fn came(&mut self) -> Result<Total> {
        let own = self.port.mac();
        let Some(there) = &mut self.there else {
            return Ok(Total::default());
        };
        if let Behind::Tap(_, reader) = &there.behind {
            // Nobody tells a TAP's frames apart: exempt ones are not sent to it.
            let now = Total {
                received: reader.taken_in_all()?,
                ..Total::default()
            };
            let new = now - there.came;
            there.came = now;
            return Ok(new);
        }
        let Some(inside) = &mut there.inside else {
            return Ok(Total::default());
        };
        let mut now = Total::default();
        for ((from, _), count) in inside.flows()? {
            if *from == EXEMPT_MAC {
                now.exempt += count.bytes;
            } else if *from != own {
                now.received += count.bytes;
            }
        }
        let new = now - there.came;
        there.came = now;
        Ok(new)
    }
}

impl There {
    /// What is on it now is what it is to have again; unless it is being taken down at this
    /// moment.
    pub(crate) fn look(&mut self) -> Result<()> {
        // What follows from an address comes a moment after it: a route of type local (2).
        let local = |line: &&String| line.split(", ").nth(7) == Some("02");
        let mut now = routing::picture(&self.name)?;
        for _ in 0..100 {
            let followed = now["routes 6"].iter().filter(local).count();
            if followed == now["addresses 6"].len() {
                break;
            }
            std::thread::sleep(Duration::from_millis(3));
            now = routing::picture(&self.name)?;
        }
        self.picture = links::get(&self.name)?.up.then_some(now);
        Ok(())
    }

    pub(crate) fn rename(&mut self, name: &str) -> Result<Renamed> {
        let renamed = links::rename(&self.name, name)?;
        name.clone_into(&mut self.name);
        if renamed == Renamed::Anew {
            self.obstacle = false;
            self.look()?;
        }
        Ok(renamed)
    }

    /// Something that cannot be put back.
    pub(crate) fn obstruct(&mut self) -> Result<()> {
        let address = routed::v6(0xf, u16::try_from(self.index % 60_000).unwrap_or(1));
        let way = [routed::out(&self.name)];
        let route = routing::Route {
            expires: 3000,
            ..routing::Route::host(address, &way)
        };
        if self.obstacle {
            route.remove()?;
        } else {
            route.add()?;
        }
        self.obstacle = !self.obstacle;
        self.look()
    }
}
