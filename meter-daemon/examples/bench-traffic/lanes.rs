//! A lane: a guest behind a veth of a host's, each in a network namespace of its own, so that
//! lanes with different meters stand side by side and take turns.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result,
    links::{self, End, Mac, Stats},
    sandbox::Namespace,
    topology::Party,
    wait::{self, Seen},
};
use rustix::time::{ClockId, clock_gettime};

/// The host's end.
pub(crate) const TAP: &str = "tap0";

/// Ethernet, IPv4, UDP and 18 bytes: the least that Ethernet carries.
pub(crate) const SMALL_FRAME: u64 = 60;
const SMALL_PAYLOAD: [u8; 18] = [0x5a; 18];

/// Ethernet, IPv4 and TCP with timestamps.
pub(crate) const TCP_HEADERS: u64 = 14 + 20 + 32;

/// What a turn came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Packets or bits a second.
    pub(crate) rate: f64,
    /// Packets or bits a second of processor time, of whoever sent and received: what else the
    /// machine does does not slow it down.
    pub(crate) effort: f64,
}

pub(crate) struct Lane {
    pub(crate) host: Party,
    pub(crate) guest: Party,
    pub(crate) ifindex: u32,
    flow: Option<Flow>,
    datagrams: Option<UdpSocket>,
    /// Nobody reads it: what arrives beyond its buffer is dropped behind all hooks.
    _sink: Option<UdpSocket>,
}

/// A connection from the host to the guest that stays open between turns.
struct Flow {
    sender: Option<TcpStream>,
    arrived: Arc<AtomicU64>,
    written: u64,
    receiver: Option<JoinHandle<()>>,
}

impl Lane {
    /// In new namespaces, the tap with that index, or with 0 the kernel's choice.
    pub(crate) fn new(ifindex: u32) -> Result<Self> {
        let party = |interface, last| -> Result<Party> {
            let namespace = Namespace::new()?;
            for (name, value) in [
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
                // A connection that was idle for a turn goes on as fast as it was.
                ("ipv4/tcp_slow_start_after_idle", "0"),
            ] {
                namespace.sysctl(name, value)?;
            }
            Ok(Party {
                namespace,
                interface,
                mac: Mac([2, 0, 0, 0, 0, last]),
                v4: Ipv4Addr::new(10, 0, 0, last),
                v6: Ipv6Addr::UNSPECIFIED,
            })
        };
        let (host, guest) = (party(TAP, 1)?, party("eth0", 2)?);
        host.namespace.run(|| {
            let end = |party: &Party| End {
                name: party.interface,
                mac: Some(party.mac),
            };
            links::veth_numbered(ifindex, end(&host), end(&guest), &guest.namespace)
        })?;
        for party in [&host, &guest] {
            party.namespace.run(|| {
                links::address(party.interface, party.v4.into(), 24)?;
                links::up(party.interface)
            })?;
        }
        let ifindex = host.namespace.run(|| {
            links::until_operating(TAP)?;
            Ok(links::get(TAP)?.index)
        })?;
        host.knows(&guest)?;
        guest.knows(&host)?;
        Ok(Self {
            host,
            guest,
            ifindex,
            flow: None,
            datagrams: None,
            _sink: None,
        })
    }

    /// Opens what the turns use, once the meter stands: it sees every packet of it.
    pub(crate) fn open(&mut self) -> Result<()> {
        self.flow = Some(Flow::open(&self.host, &self.guest)?);
        let bind = |party: &Party| {
            party
                .namespace
                .run(|| UdpSocket::bind((party.v4, 0)).could_not(|| "bind"))
        };
        let (sink, source) = (bind(&self.host)?, bind(&self.guest)?);
        let to = sink.local_addr().could_not(|| "read an address")?;
        source
            .connect(to)
            .could_not(|| format!("connect to {to}"))?;
        (self.datagrams, self._sink) = (Some(source), Some(sink));
        Ok(())
    }

    /// Small datagrams from the guest for so long; how many a second got to the host, which the
    /// sender's own thread brings there.
    pub(crate) fn small(&self, time: Duration) -> Result<Turn> {
        let socket = self.datagrams.as_ref().ok_or_else(not_open)?;
        let before = self.stats()?;
        let start = Instant::now();
        let cpu = on_cpu();
        while start.elapsed() < time {
            for _ in 0..64 {
                socket
                    .send(&SMALL_PAYLOAD)
                    .could_not(|| "send a datagram")?;
            }
        }
        // What is still in the CPU's backlog is a thousand packets at most.
        let (elapsed, cpu) = (start.elapsed(), on_cpu() - cpu);
        let bytes = self.stats()?.taken_in - before.taken_in;
        let packets = bytes as f64 / SMALL_FRAME as f64;
        Ok(Turn {
            rate: packets / elapsed.as_secs_f64(),
            effort: packets / cpu,
        })
    }

    /// TCP to the guest for so long; bits a second of payload, until the last byte is there.
    pub(crate) fn bulk(&mut self, time: Duration) -> Result<Turn> {
        self.flow.as_mut().ok_or_else(not_open)?.push(time)
    }

    /// The kernel's own counters of the tap.
    pub(crate) fn stats(&self) -> Result<Stats> {
        self.host.namespace.run(|| Ok(links::get(TAP)?.stats))
    }

    /// Ends the connection, and waits until nothing moves any more.
    pub(crate) fn quiet(&mut self) -> Result<Stats> {
        self.flow = None;
        let mut last = self.stats()?;
        let often = Duration::from_millis(50);
        let (stats, _) = wait::until("silence", often, Duration::from_secs(10), || {
            let now = self.stats()?;
            let same = now == last;
            last = now;
            Ok(if same {
                Seen::Yes(now)
            } else {
                Seen::NotYet("packets still move".to_owned())
            })
        })?;
        Ok(stats)
    }
}

/// Seconds that all threads of this process have had of the processors.
fn on_cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}

fn not_open() -> Failure {
    Failure::new("the lane is not open")
}

impl Flow {
    fn open(from: &Party, to: &Party) -> Result<Self> {
        let listener = to
            .namespace
            .run(|| TcpListener::bind(SocketAddr::new(to.v4.into(), 0)).could_not(|| "listen"))?;
        let address = listener.local_addr().could_not(|| "read an address")?;
        let sender = from
            .namespace
            .run(|| TcpStream::connect(address).could_not(|| format!("connect to {address}")))?;
        let (mut receiver, _) = listener.accept().could_not(|| "accept a connection")?;
        let arrived = Arc::<AtomicU64>::default();
        let counted = arrived.clone();
        let take = move || {
            let mut buffer = vec![0; 1 << 18];
            while let Ok(more @ 1..) = receiver.read(&mut buffer) {
                counted.fetch_add(more as u64, Ordering::Release);
            }
        };
        Ok(Self {
            sender: Some(sender),
            arrived,
            written: 0,
            receiver: Some(thread::spawn(take)),
        })
    }

    fn push(&mut self, time: Duration) -> Result<Turn> {
        let sender = self.sender.as_mut().ok_or_else(not_open)?;
        let chunk = vec![0x5a; 1 << 18];
        let (before, start, cpu) = (self.written, Instant::now(), on_cpu());
        while start.elapsed() < time {
            sender.write_all(&chunk).could_not(|| "send")?;
            self.written += chunk.len() as u64;
        }
        while self.arrived.load(Ordering::Acquire) < self.written {
            if start.elapsed() > time + Duration::from_secs(20) {
                return Err(Failure::new("a transfer does not end"));
            }
            thread::sleep(Duration::from_micros(50));
        }
        let (elapsed, cpu) = (start.elapsed(), on_cpu() - cpu);
        let bits = (self.written - before) as f64 * 8.0;
        Ok(Turn {
            rate: bits / elapsed.as_secs_f64(),
            effort: bits / cpu,
        })
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // The receiver sees its end.
        drop(self.sender.take());
        if let Some(receiver) = self.receiver.take() {
            drop(receiver.join());
        }
    }
}
