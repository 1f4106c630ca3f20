//! meterd at work, on a terminal: two guests and a world in network namespaces made for the
//! occasion, a small plan, real traffic. Every figure shown is checked; exit 0 only if all
//! of them hold. Nothing is left behind.

mod checks;
mod screen;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use checks::Checks;
use meter_tests::{
    Result,
    capture::Capture,
    inspect::{self, Inventory},
    meterd::{Meterd, bytes},
    paper,
    sandbox::Sandbox,
    topology::{Guest, Node, Party, Port, WAN},
    traffic::{Bulk, Pings, Tcp, ping},
};
use screen::{Paint, Screen, rate, time, volume};
use serde_json::Value;

const PLAN: &str = include_str!("../../../../config/plans/edis.toml");

const CONFIG: &str = r#"
poll-interval = "1s"

[[account]]
id = "acme"
primary = "owner@example.com"
pool = "1 GB"

[[machine]]
id = "web1"
interfaces = ["tap101i0"]
plan = "edis"
account = "acme"
renewal-day = 31
allowance = "100 MB"

[[machine]]
id = "db1"
interfaces = ["tap102i0"]
plan = "edis"
account = "acme"
"#;

const MEGABYTE: u64 = 1_000_000;
/// Full speed is whatever this machine's namespaces give; less than this is none.
const FULL_SPEED: f64 = 100e6;

fn main() -> ExitCode {
    let mut screen = Screen::new();
    let mut checks = Checks::default();
    let played = Sandbox::run(|sandbox| Demo::set(sandbox, &mut screen, &mut checks)?.play());
    if let Err(failure) = played {
        screen.plain(&format!("\nThe demonstration broke off: {failure}"));
        return ExitCode::FAILURE;
    }
    let took = screen.elapsed();
    checks.note(
        "the whole demonstration",
        "under 60 s",
        &format!("{:.1} s", took.as_secs_f64()),
        took < Duration::from_secs(60),
    );
    screen.act("The figures");
    checks.show(&mut screen);
    match checks.failed() {
        0 => {
            let all = screen.paint(Paint::Green, "All of them hold.");
            screen.plain(&format!("\n{all}"));
            ExitCode::SUCCESS
        }
        some => {
            let not = screen.paint(Paint::Red, &format!("{some} of them do not hold."));
            screen.plain(&format!("\n{not}"));
            ExitCode::FAILURE
        }
    }
}

struct Demo<'a> {
    screen: &'a mut Screen,
    checks: &'a mut Checks,
    node: Node,
    web1: Guest,
    db1: Guest,
    capture: Capture,
    before: Inventory,
    meterd: Meterd<'a>,
    events_shown: usize,
}

/// Which way, in the guest's words.
#[derive(Clone, Copy)]
enum Way {
    Received,
    Sent,
}

impl<'a> Demo<'a> {
    fn set(sandbox: &'a Sandbox, screen: &'a mut Screen, checks: &'a mut Checks) -> Result<Self> {
        screen.plain(&screen.paint(Paint::Bold, "meterd: two guests, a world, and a plan"));
        screen.plain(
            "\n  web1 ── tap101i0 ┐\
             \n                   ├ vmbr0 ── uplink0 ── the world\
             \n  db1  ── tap102i0 ┘\
             \n\n  Plan edis: notices at 80, 90 and 100 %, and at 105 % 64 kbit/s each way.\
             \n  web1 has 100 MB, and 1 GB in its account's pool. db1 has 1 TB.\n",
        );
        let node = Node::new(sandbox)?;
        let web1 = node.plug(Port::of(101))?;
        let db1 = node.plug(Port::of(102))?;
        let capture = Capture::on(&node.world.namespace, WAN)?;
        let before = Inventory::take()?;
        let mut meterd = Meterd::new(sandbox, CONFIG)?;
        meterd.write("plans/edis.toml", PLAN)?;
        let start = Instant::now();
        meterd.start()?;
        let programs = Inventory::take()?.programs.len() - before.programs.len();
        screen.now(
            "started",
            Paint::Cyan,
            &format!(
                "in {}; {programs} programs on 2 taps",
                time(start.elapsed())
            ),
        );
        Ok(Self {
            screen,
            checks,
            node,
            web1,
            db1,
            capture,
            before,
            meterd,
            events_shown: 0,
        })
    }

    fn play(mut self) -> Result<()> {
        self.usage_climbs()?;
        self.slow_lane()?;
        self.top_up()?;
        self.figures()?;
        self.leave()
    }

    fn usage_climbs(&mut self) -> Result<()> {
        self.screen.act("Usage climbs");
        let (world, web1) = (self.node.world.clone(), self.web1.party.clone());
        self.full_speed("web1 receives, before", &world, &web1)?;
        self.full_speed("web1 sends, before", &web1, &world)?;
        let mut told = 0;
        loop {
            let status = self.meterd.status("web1")?;
            let (used, allowance) = (bytes(&status, "used")?, bytes(&status, "allowance")?);
            let percent = used * 100 / allowance;
            let text = format!(
                "{} {percent:>3} %  {:>8}",
                self.screen.bar(percent),
                volume(used)
            );
            // A moving line on a terminal; in a pipe, and for the record, one in ten percent.
            if percent / 10 > told {
                told = percent / 10;
                self.screen.now("web1", Paint::Cyan, &text);
            } else {
                self.screen.moving("web1", Paint::Cyan, &text);
            }
            self.show_events()?;
            if status["state"] == "throttled" {
                break;
            }
            // Close to a threshold in small steps, so that each is seen by itself.
            Tcp::v4(MEGABYTE).run(&world, &web1)?;
            std::thread::sleep(Duration::from_millis(60));
        }
        self.check_notices()?;
        self.check_ledger("web1's bytes, as on the wire")
    }

    fn check_notices(&mut self) -> Result<()> {
        let events = self.meterd.events("web1")?;
        let count = |rule: &str| {
            let rule = Value::from(rule);
            events
                .iter()
                .filter(|e| e["event"] == "notice" && e["rule"] == rule)
                .count()
        };
        let found = ["used 80%", "used 90%", "used 100%"].map(count);
        self.checks.note(
            "notices at 80, 90, 100 %",
            "one each",
            &format!("{}, {}, {}", found[0], found[1], found[2]),
            found == [1, 1, 1],
        );
        let status = self.meterd.status("web1")?;
        let (used, allowance) = (bytes(&status, "used")?, bytes(&status, "allowance")?);
        self.checks.note(
            "throttled",
            "at 105 %",
            &format!(
                "at {}.{} %",
                used * 100 / allowance,
                used * 1000 / allowance % 10
            ),
            status["state"] == "throttled" && used * 100 >= allowance * 105,
        );
        Ok(())
    }

    /// The ledger against frames counted by a packet socket at the far end.
    fn check_ledger(&mut self, what: &str) -> Result<()> {
        let moved = self.capture.settled(self.web1.party.mac)?;
        let wire = moved.received.bytes + moved.sent.bytes;
        let counted = bytes(&self.meterd.status("web1")?, "used")?;
        let holds = paper::within(counted, wire, 0.001);
        self.checks
            .note(what, &wire.to_string(), &counted.to_string(), holds);
        Ok(())
    }

    fn slow_lane(&mut self) -> Result<()> {
        self.screen.act("In the slow lane");
        for (way, what) in [(Way::Received, "web1 receives"), (Way::Sent, "web1 sends")] {
            let (goodput, pings) = self.throttled_goodput(way, what)?;
            self.checks.note(
                &format!("{what}, throttled"),
                "50 to 64 kbit/s",
                &rate(goodput),
                (50e3..=64e3).contains(&goodput),
            );
            let longest = pings.longest();
            self.checks.note(
                "  ping beside it, at most",
                "under 1000 ms",
                &longest.map_or_else(|| format!("{} lost", lost(&pings)), time),
                longest.is_some_and(|longest| longest < Duration::from_secs(1)),
            );
        }
        let (world, db1) = (self.node.world.clone(), self.db1.party.clone());
        self.full_speed("db1 receives, meanwhile", &world, &db1)
    }

    /// One bulk flow, and an echo request every third of a second beside it.
    fn throttled_goodput(&mut self, way: Way, what: &str) -> Result<(f64, Pings)> {
        const WINDOW: u32 = 8;
        let (world, guest) = (self.node.world.clone(), self.web1.party.clone());
        let bulk = match way {
            Way::Received => Bulk::start(&world, &guest, 1)?,
            Way::Sent => Bulk::start(&guest, &world, 1)?,
        };
        std::thread::scope(|scope| {
            bulk.settle()?;
            let pings = scope.spawn(|| ping(&guest, world.v4, 20, Duration::from_millis(350)));
            let (start, first) = (Instant::now(), bulk.arrived());
            let mut goodput = 0.0;
            for _ in 0..WINDOW {
                std::thread::sleep(Duration::from_secs(1));
                goodput = meter_tests::traffic::rate(bulk.arrived() - first, start.elapsed());
                self.screen.moving(what, Paint::Yellow, &rate(goodput));
            }
            let pings = pings
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let median = pings.median().map_or_else(|| "none".to_owned(), time);
            let text = format!(
                "{:>11}   ping beside it {median:>8}, {} of {} answered",
                rate(goodput),
                pings.answered.len(),
                pings.asked
            );
            self.screen.now(what, Paint::Yellow, &text);
            Ok((goodput, pings))
        })
    }

    fn full_speed(&mut self, what: &str, from: &Party, to: &Party) -> Result<()> {
        let goodput = Tcp::v4(10 * MEGABYTE).run(from, to)?.goodput();
        let (who, rest) = what.split_once(',').unwrap_or((what, ""));
        self.screen
            .now(who, Paint::Green, &format!("{:>11}  {rest}", rate(goodput)));
        let expected = format!("over {}", rate(FULL_SPEED));
        self.checks
            .note(what, &expected, &rate(goodput), goodput > FULL_SPEED);
        Ok(())
    }

    fn top_up(&mut self) -> Result<()> {
        self.screen.act("Volume from the pool");
        let arguments = ["top-up", "web1", "200 MB", "--from-pool"];
        self.type_command("meterd top-up web1 \"200 MB\" --from-pool", &arguments)?;
        self.meterd
            .wait_for_state("web1", "normal", Duration::from_secs(5))?;
        let left = bytes(&self.meterd.status("web1")?["pool"], "left")?;
        self.checks.note(
            "left in the pool",
            "800.0 MB",
            &volume(left),
            left == 800 * MEGABYTE,
        );
        let (world, web1) = (self.node.world.clone(), self.web1.party.clone());
        self.full_speed("web1 receives, after", &world, &web1)?;
        self.full_speed("web1 sends, after", &web1, &world)
    }

    fn figures(&mut self) -> Result<()> {
        self.screen.act("As an operator sees it");
        self.type_command("meterd status", &["status"])?;
        self.screen
            .plain("  $ curl -s localhost:9750/metrics | grep web1");
        // A reading of the counters, so that the metrics show what just moved.
        let used = bytes(&self.meterd.status("web1")?, "used")?;
        let metrics = self.meterd.metrics(9750)?;
        for line in metrics
            .lines()
            .filter(|line| line.contains("machine=\"web1\""))
        {
            let shown = [
                "meterd_traffic_bytes",
                "meterd_period_",
                "meterd_machine_state",
            ];
            if shown.iter().any(|name| line.starts_with(name)) && !line.contains("timestamp") {
                self.screen.plain(&format!("  {line}"));
            }
        }
        let name = "meterd_period_used_bytes";
        let shown = meter_tests::meterd::sample(&metrics, name, &[("machine", "web1")]);
        #[expect(clippy::cast_precision_loss, reason = "a figure below 2^53")]
        let holds = shown == Some(used as f64);
        let shown = shown.map_or_else(|| "missing".to_owned(), |shown| format!("{shown}"));
        self.checks
            .note("the metrics' used bytes", &used.to_string(), &shown, holds);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.screen.act("Leaving");
        self.type_command("meterd detach", &["detach"])?;
        self.meterd.wait()?;
        let pins = inspect::pins(&self.meterd.pins())?;
        let same = Inventory::take()?.same_as(&self.before).is_ok() && pins.is_empty();
        let found = if same { "nothing" } else { "something" };
        self.checks
            .note("programs, pins, qdiscs left", "nothing", found, same);
        Ok(())
    }

    fn type_command(&mut self, line: &str, arguments: &[&str]) -> Result<()> {
        self.screen.plain(&format!("  $ {line}"));
        let answer = self.meterd.text(arguments)?;
        for line in answer.lines() {
            self.screen.plain(&format!("  {line}"));
        }
        Ok(())
    }

    /// What the daemon has recorded of web1 since this was last called.
    fn show_events(&mut self) -> Result<()> {
        let events = self.meterd.events("web1")?;
        for event in events.iter().skip(self.events_shown) {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            let (paint, words) = match event["event"].as_str() {
                Some("notice") => (Paint::Yellow, text("message")),
                Some("throttled") => (Paint::Red, format!("by the rule “{}”", text("rule"))),
                _ => continue,
            };
            self.screen.said(&text("event"), paint, &words);
        }
        self.events_shown = events.len();
        Ok(())
    }
}

fn lost(pings: &Pings) -> usize {
    pings.asked - pings.answered.len()
}
