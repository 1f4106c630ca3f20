//! Flows that go on until they are told to stop, and the rate at which they arrive.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use super::{PATIENCE, Sustained, rate, sustained, tcp};
use crate::{
    Context, Result,
    topology::{Family, Party},
};

/// Parallel TCP flows, as fast as they get.
#[derive(Debug)]
pub struct Bulk {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Whether what is connected may send.
    go: Arc<AtomicBool>,
    begun: Instant,
    senders: Vec<TcpStream>,
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    /// Starts so many flows over IPv4.
    pub fn start(from: &Party, to: &Party, flows: usize) -> Result<Self> {
        let mut bulk = Self::waiting();
        bulk.add(from, to, flows)?;
        bulk.go();
        Ok(bulk)
    }

    /// Flows that are added are connected, and send nothing before [`Self::go`]: the first may
    /// reach a limit sooner than the last has come to be.
    #[must_use]
    pub fn waiting() -> Self {
        Self {
            arrived: Arc::default(),
            stop: Arc::default(),
            go: Arc::default(),
            begun: Instant::now(),
            senders: Vec::new(),
            streams: Vec::new(),
            threads: Vec::new(),
        }
    }

    /// All send, as do those that are added later.
    pub fn go(&mut self) {
        self.begun = Instant::now();
        self.go.store(true, Ordering::Relaxed);
    }

    /// More flows, perhaps between others.
    pub fn add(&mut self, from: &Party, to: &Party, flows: usize) -> Result<()> {
        (0..flows).try_for_each(|_| self.flow(from, to))
    }

    fn flow(&mut self, from: &Party, to: &Party) -> Result<()> {
        let address = SocketAddr::new(to.address(Family::V4), 0);
        let listener = to.namespace.run(|| tcp::listen(address))?;
        let address = listener
            .local_addr()
            .could_not(|| "read the listener's address")?;
        let sender = from.namespace.run(|| {
            TcpStream::connect_timeout(&address, PATIENCE)
                .could_not(|| format!("connect to {address}"))
        })?;
        let (receiver, _) = listener.accept().could_not(|| "accept a connection")?;
        let copy = sender.try_clone().could_not(|| "keep a handle on a flow")?;
        self.senders.push(copy);
        for stream in [&sender, &receiver] {
            // Closed means over: what is queued is not sent on behind the test's back.
            sockopt::set_socket_linger(stream, Some(Duration::ZERO)).could_not(|| "not linger")?;
            let copy = stream.try_clone().could_not(|| "keep a handle on a flow")?;
            self.streams.push(copy);
        }
        let (stop, arrived, go) = (self.stop.clone(), self.arrived.clone(), self.go.clone());
        // A socket stays in the namespace it was made in, whichever thread uses it.
        self.threads.push(std::thread::spawn(move || {
            while !go.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            push(sender, &stop);
        }));
        let stop = self.stop.clone();
        self.threads
            .push(std::thread::spawn(move || pull(receiver, &stop, &arrived)));
        Ok(())
    }

    /// Payload that has arrived.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Bits a second that arrive over the next `window`.
    #[must_use]
    pub fn goodput(&self, window: Duration) -> f64 {
        let (before, start) = (self.arrived(), Instant::now());
        std::thread::sleep(window);
        rate(self.arrived() - before, start.elapsed())
    }

    /// Payload of which the senders know that it has arrived. What came behind a hole is booked
    /// when it comes and not, as with what the receiver can read, when the hole is filled.
    pub fn delivered(&self) -> Result<u64> {
        self.senders.iter().map(tcp::delivered).sum()
    }

    /// Waits until some stretch of `window` had at least `least` bits a second delivered, for
    /// a minute at most; tells of the best there was, and of all since the flows began.
    pub fn sustained(&self, window: Duration, least: f64) -> Result<Sustained> {
        sustained(self.begun, window, least, || self.delivered())
    }

    /// Ends the flows; returns the payload that arrived in all.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        self.end();
        self.arrived()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.clear();
        for stream in self.streams.drain(..) {
            // Fails only if the other side was quicker, which is what is wanted.
            drop(stream.shutdown(Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.end();
    }
}

fn push(mut stream: TcpStream, stop: &AtomicBool) {
    let chunk = vec![0x5a; 1 << 16];
    while !stop.load(Ordering::Relaxed) && stream.write_all(&chunk).is_ok() {}
}

fn pull(mut stream: TcpStream, stop: &AtomicBool, arrived: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(more) => arrived.fetch_add(more as u64, Ordering::Relaxed),
        };
    }
}
