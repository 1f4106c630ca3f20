//! What it takes to suspend very many machines in one step, and to lift them:
//! `cargo xtask bench suspend`.
//!
//! A thousand guests with a real veth each use up their allowance at once; the circuit breaker (1 %)
//! holds that back until it is confirmed. From then on: until when does a guest's datagram still
//! arrive, when are all links down, and how long does somebody who asks wait meanwhile?

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement: it reads clocks, prints figures, and ends where something is wrong"
)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use meter_tests::{
    Context, Failure, Result, http, links,
    meterd::Meterd,
    sandbox::{Namespace, Sandbox},
    table::markdown,
    wait::{self, Seen},
};

const SETTINGS: &str = "poll-interval = '1h'\n[[discover]]\n\
                        interface = '^tap(?<machine>\\d+)i\\d+$'\nplan = 'small'\n\
                        [circuit-breaker]\nmachines = 1\nshare = '1%'\n";
/// At most: it is a measurement.
const LONG: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(20);

fn plan(allowance: &str) -> String {
    format!(
        "period = {{ starts = 1 }}\nallowance = '{allowance}'\n\
         [[rule]]\nused = '100%'\nsuspend = true\n"
    )
}

fn tap(machine: u32) -> String {
    format!("tap{}i0", 1_000 + machine)
}

fn post(socket: &Path, path: &str) -> Result<()> {
    let answer = http::over_unix(socket, "POST", path, &[], "{}")?;
    match answer.status {
        200 => Ok(()),
        status => Err(Failure::new(format!("{path}: {status} {}", answer.body))),
    }
}

/// Asks one machine's status again and again; the longest that one waited.
fn longest_wait(socket: &Path, end: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !end.load(Ordering::Acquire) {
        let asked = Instant::now();
        // Whoever is refused, or waits too long, has waited.
        drop(http::over_unix(socket, "GET", "/v1/machines/1000", &[], ""));
        longest = longest.max(asked.elapsed());
        sleep(LOOK);
    }
    longest
}

/// A guest that sends to the node all the time, and when the last of it arrived.
struct Flow {
    from: SocketAddr,
    to: SocketAddr,
}

impl Flow {
    fn of(machine: u32, guests: &Namespace) -> Result<Self> {
        let net = u8::try_from(machine % 200).unwrap_or_default();
        let [here, there] = [1, 2].map(|host| Ipv4Addr::new(10, 9, net, host));
        links::address(&tap(machine), IpAddr::V4(here), 24)?;
        guests.run(|| links::address(&format!("eth{machine}"), IpAddr::V4(there), 24))?;
        Ok(Self {
            from: (there, 9).into(),
            to: (here, 9).into(),
        })
    }

    /// The last arrival, looking until `end`.
    fn last(&self, guests: &Namespace, end: &AtomicBool) -> Result<Option<Instant>> {
        let receiver = UdpSocket::bind(self.to).could_not(|| "receive datagrams")?;
        receiver
            .set_read_timeout(Some(LOOK))
            .could_not(|| "wait for datagrams")?;
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                guests.run(|| {
                    let sender = UdpSocket::bind(self.from).could_not(|| "send datagrams")?;
                    while !end.load(Ordering::Acquire) {
                        drop(sender.send_to(&[0; 100], self.to));
                        sleep(Duration::from_millis(1));
                    }
                    Ok(())
                })
            });
            let mut last = None;
            while !end.load(Ordering::Acquire) {
                if receiver.recv(&mut [0; 200]).is_ok() {
                    last = Some(Instant::now());
                }
            }
            sender.join().expect("a sender that ended badly")?;
            Ok(last)
        })
    }
}

/// Waits until as many taps are up as that.
fn until_up(wanted: usize) -> Result<()> {
    wait::until("the links", LOOK, LONG, || {
        let all = links::list()?;
        let up = all.iter().filter(|it| it.up && it.name.starts_with("tap"));
        let up = up.count();
        Ok(match up == wanted {
            true => Seen::Yes(()),
            false => Seen::NotYet(format!("{up} up")),
        })
    })
    .map(drop)
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// A row of the table.
type Row = Vec<String>;

fn row(what: &str, target: &str, measured: String) -> Row {
    eprintln!("{what}: {measured}");
    vec![what.to_owned(), target.to_owned(), measured]
}

fn waited_longest(indent: &str, waited: thread::ScopedJoinHandle<'_, Duration>) -> Row {
    let waited = waited.join().expect("who asked");
    let what = format!("{indent}the longest that somebody else waited");
    row(&what, "1 s", ms(waited))
}

fn measure(machines: u32) -> Result<Vec<Row>> {
    Sandbox::run(|sandbox| {
        links::up("lo")?;
        let guests = Namespace::new()?;
        for machine in 0..machines {
            let (here, there) = (tap(machine), format!("eth{machine}"));
            let end = |name| links::End { name, mac: None };
            links::veth(end(&here), end(&there), &guests)?;
            links::up(&here)?;
        }
        guests.run(|| (0..machines).try_for_each(|machine| links::up(&format!("eth{machine}"))))?;
        let host = Namespace::current()?;
        // What the circuit breaker lets through at once is of the first.
        let flows = [machines / 2, machines - 1].map(|machine| Flow::of(machine, &guests));
        let [middle, last] = flows;
        let (middle, last) = (middle?, last?);
        let mut meterd = Meterd::new(sandbox, SETTINGS)?;
        meterd.write("plans/small.toml", &plan("1 TB"))?;
        meterd.start()?;
        meterd.write("plans/small.toml", &plan("0 B"))?;
        meterd.text(&["reload"])?;
        let socket: PathBuf = meterd.socket();
        let socket = socket.as_path();
        let mut rows = Vec::new();

        let end = AtomicBool::new(false);
        let begun = Instant::now();
        thread::scope(|scope| {
            let waited = scope.spawn(|| longest_wait(socket, &end));
            let arrived =
                [&middle, &last].map(|flow| scope.spawn(|| host.run(|| flow.last(&guests, &end))));
            sleep(Duration::from_millis(300));
            let confirmed = Instant::now();
            let answered =
                scope.spawn(move || post(socket, "/v1/confirm").map(|()| confirmed.elapsed()));
            let all = until_up(0);
            let down = confirmed.elapsed();
            let answered = answered.join().expect("whoever confirmed");
            end.store(true, Ordering::Release);
            all?;
            let last = arrived.map(|flow| flow.join().expect("a receiver that ended badly"));
            let mut latest = Duration::ZERO;
            for last in last {
                let last = last?.ok_or_else(|| Failure::new("a guest never got through"))?;
                latest = latest.max(last.saturating_duration_since(confirmed));
            }
            let text = answered.map_or_else(|failure| failure.to_string(), ms);
            rows.push(row(
                "until the last datagram of two of the guests",
                "",
                ms(latest),
            ));
            rows.push(row("until all links were down", "", ms(down)));
            rows.push(row("until who confirmed was answered", "", text));
            rows.push(waited_longest("", waited));
            Ok::<_, Failure>(())
        })?;
        eprintln!("suspended: {:?} in all", begun.elapsed());

        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let waited = scope.spawn(|| longest_wait(socket, &end));
            let lifted = Instant::now();
            let answered = scope.spawn(move || post(socket, "/v1/lift").map(|()| lifted.elapsed()));
            let all = until_up(usize::try_from(machines).unwrap_or_default());
            let up = lifted.elapsed();
            let answered = answered.join().expect("whoever lifted");
            end.store(true, Ordering::Release);
            all?;
            let text = answered.map_or_else(|failure| failure.to_string(), ms);
            rows.push(row("lifted: until all links were up", "", ms(up)));
            rows.push(row("  until who lifted was answered", "", text));
            rows.push(waited_longest("  ", waited));
            Ok::<_, Failure>(())
        })?;
        // First: links that nobody takes leave thousands of the kernel's workers behind.
        meterd.text(&["detach"])?;
        meterd.wait()?;
        Ok(rows)
    })
}

fn main() {
    let machines = std::env::args().nth(1);
    let machines = machines.map_or(1_000, |count| count.parse().unwrap());
    match measure(machines) {
        Ok(rows) => print!("{}", markdown(&["what", "target", "measured"], &rows)),
        Err(failure) => {
            eprintln!("error: {failure}");
            std::process::exit(1);
        }
    }
}
