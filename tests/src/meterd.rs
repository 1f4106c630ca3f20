//! The real daemon, in a sandbox: configured by files, started as a process, asked by its
//! own command line, and killed by the number it has.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Context, Failure, Result, http,
    sandbox::Sandbox,
    stall, sys,
    wait::{self, Seen},
};

/// How long a start may take, a slow machine included.
const START: Duration = Duration::from_secs(30);
/// How long an end may take.
const END: Duration = Duration::from_secs(20);

/// A daemon and its files. Dropped: its process is ended and its log goes to the sandbox's
/// notes.
#[derive(Debug)]
pub struct Meterd<'a> {
    sandbox: &'a Sandbox,
    directory: PathBuf,
    zones: Option<PathBuf>,
    as_the_unit: bool,
    child: Option<Child>,
}

/// How a daemon that is not to end otherwise is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM.
    Asked,
    /// SIGKILL.
    Killed,
}

/// What the kernel is to say of a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronised {
    /// NTP has set it.
    Yes,
    /// Nobody has.
    No,
}

/// Where the binary under test is: `METERD`, or beside the test's own in the target folder.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("METERD") {
        return Ok(path.into());
    }
    let me = std::env::current_exe().could_not(|| "find the running test's own path")?;
    let found = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|d| d.join("meterd"))
        .find(|p| p.exists());
    found.ok_or_else(|| {
        Failure::new(
            "there is no meterd beside the tests: run them by `cargo xtask test`, or `cargo \
             build -p meter-daemon` first, or name one in METERD",
        )
    })
}

impl<'a> Meterd<'a> {
    /// Writes `meterd.toml` into a directory of its own. Paths and the metrics' address are
    /// the sandbox's; `config` follows them, tables and all.
    pub fn new(sandbox: &'a Sandbox, config: &str) -> Result<Self> {
        Self::named(sandbox, "meterd", config)
    }

    /// As [`Self::new`], for a second daemon beside the first.
    pub fn named(sandbox: &'a Sandbox, name: &str, config: &str) -> Result<Self> {
        let directory = sandbox.root().join(name);
        for sub in ["plans", "machines"] {
            let path = directory.join(sub);
            fs::create_dir_all(&path).could_not(|| format!("make {}", path.display()))?;
        }
        let meterd = Self {
            sandbox,
            directory,
            zones: None,
            as_the_unit: false,
            child: None,
        };
        meterd.configure(config)?;
        Ok(meterd)
    }

    /// Writes `meterd.toml` anew. Keys before the first table may be overridden by `config`
    /// itself, which then has to bring all of them.
    pub fn configure(&self, config: &str) -> Result<()> {
        let paths = if config.contains("state-directory") {
            String::new()
        } else {
            format!(
                "state-directory = \"{0}/state\"\nruntime-directory = \"{0}/run\"\n\
                 pin-directory = \"{1}/meterd\"\n",
                self.directory.display(),
                self.sandbox.bpffs().display(),
            )
        };
        self.write("meterd.toml", &format!("{paths}{config}"))
    }

    /// Writes a file beside it: `plans/small.toml`.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).could_not(|| format!("write {}", path.display()))
    }

    /// It knows the time zones in that directory, and only them.
    pub fn in_zones_of(&mut self, directory: &Path) {
        self.zones = Some(directory.to_owned());
    }

    /// Its own directory: the configuration, and below it `state` and `run`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where it pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.sandbox.bpffs().join("meterd")
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("run/meterd.sock")
    }

    fn clock_path(&self) -> PathBuf {
        self.directory.join("clock")
    }

    /// Shows a debug build of the daemon another wall clock, now and in later runs: so many
    /// seconds ahead of the machine's, and synchronised or not.
    pub fn shift_clock(&self, seconds: i64, synchronised: Synchronised) -> Result<()> {
        let word = match synchronised {
            Synchronised::Yes => "set",
            Synchronised::No => "unset",
        };
        let new = self.directory.join("clock.new");
        fs::write(&new, format!("{seconds} {word}\n"))
            .and_then(|()| fs::rename(&new, self.clock_path()))
            .could_not(|| "shift the daemon's clock")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What it has logged, every run of it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// `meterd ARGUMENTS --config …`, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.directory.join("meterd.toml"))
            .env_remove("NOTIFY_SOCKET")
            .env("METERD_TEST_CLOCK", self.clock_path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        if let Some(zones) = &self.zones {
            command.env("TZDIR", zones);
        }
        sys::end_with_this_thread(&mut command);
        Ok(command)
    }

    /// Starts `meterd run` and waits until its socket answers.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let ready = wait::until("meterd to answer", Duration::from_millis(5), START, || {
            if let Some(status) = self.ended()? {
                return Err(Failure::new(format!("meterd ended at once: {status}")));
            }
            Ok(
                match http::over_unix(&self.socket(), "GET", "/v1/machines", &[], "") {
                    Ok(answer) if answer.status == 200 => Seen::Yes(()),
                    Ok(answer) => {
                        Seen::NotYet(format!("status {}: {}", answer.status, answer.body))
                    }
                    Err(failure) => Seen::NotYet(failure.to_string()),
                },
            )
        });
        ready.map(|_| ())
    }

    /// From now on it runs as its systemd unit lets it: as root, of which two capabilities are left.
    pub const fn with_the_units_privileges(&mut self) {
        self.as_the_unit = true;
    }

    /// Starts `meterd run` and does not wait for anything.
    pub fn launch(&mut self) -> Result<()> {
        if self.as_the_unit {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--bounding-set=-all,+bpf,+net_admin", "--inh-caps=-all"]);
            setpriv.arg("--no-new-privs");
            return self.launch_under(setpriv);
        }
        let command = self.command(&["run"])?;
        self.spawn(command)
    }

    /// The same as the argument of another program.
    pub fn launch_under(&mut self, mut other: Command) -> Result<()> {
        let command = self.command(&["run"])?;
        other.arg(command.get_program()).args(command.get_args());
        other.env_remove("NOTIFY_SOCKET");
        self.spawn(other)
    }

    /// Signals the daemon that holds the state directory: the one within [`Self::launch_under`].
    pub fn signal_the_locks_owner(&self, signal: rustix::process::Signal) -> Result<()> {
        let path = self.directory.join("state/lock");
        let text = fs::read_to_string(&path).could_not(|| format!("read {}", path.display()))?;
        let pid = text
            .trim()
            .parse()
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::new(format!("no pid in {text:?}")))?;
        rustix::process::kill_process(pid, signal).could_not(|| "signal meterd")
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .could_not(|| "open the daemon's log")?;
        let errors = log.try_clone().could_not(|| "share the daemon's log")?;
        let child = command
            .stdout(log)
            .stderr(errors)
            .spawn()
            .could_not(|| "start meterd")?;
        self.child = Some(child);
        Ok(())
    }

    /// Its process, while one runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended, if it has by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait().could_not(|| "ask how meterd is"),
            None => Err(Failure::new("meterd was not started")),
        }
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let ended = wait::until("meterd to end", Duration::from_millis(5), END, || {
            Ok(self
                .ended()?
                .map_or(Seen::NotYet("it runs".to_owned()), Seen::Yes))
        })?;
        self.child = None;
        Ok(ended.0)
    }

    /// Ends it, and it has to end.
    pub fn stop(&mut self, how: End) -> Result<ExitStatus> {
        self.signal(match how {
            End::Asked => rustix::process::Signal::TERM,
            End::Killed => rustix::process::Signal::KILL,
        })?;
        self.wait()
    }

    /// Sends its own process a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let child = self
            .child
            .as_ref()
            .ok_or_else(|| Failure::new("meterd was not started"))?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .ok_or_else(|| Failure::new("meterd has no process number"))?;
        // Not reaped yet, so that the number cannot be anybody else's.
        rustix::process::kill_process(pid, signal).could_not(|| "signal meterd")
    }

    /// Runs a command to its end, whatever that is.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        run_bounded(self.command(arguments)?, arguments)
    }

    /// As [`Self::cli`], as a user who may do nothing.
    pub fn cli_without_privilege(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments)?;
        sys::without_privilege(&mut command);
        run_bounded(command, arguments)
    }

    /// What a command prints; fails unless it succeeds.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(out);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!(
            "meterd {}: {}\n{out}{errors}",
            arguments.join(" "),
            output.status
        )))
    }

    /// What a command prints with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.text(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text)
            .could_not(|| format!("read what meterd {} prints: {text:?}", arguments.join(" ")))
    }

    /// `status` of one machine, after a fresh reading.
    pub fn status(&self, machine: &str) -> Result<Value> {
        let all = self.json(&["status", machine])?;
        let one = match &all {
            Value::Array(list) => list.iter().find(|m| m["machine"] == machine).cloned(),
            _ => None,
        };
        one.ok_or_else(|| Failure::new(format!("status has no {machine}: {all}")))
    }

    /// What a machine has received and sent in its period.
    pub fn counted(&self, machine: &str) -> Result<Counted> {
        let status = self.status(machine)?;
        Ok(Counted {
            received: bytes(&status, "received")?,
            sent: bytes(&status, "sent")?,
        })
    }

    /// Every event, or one machine's: `events --json`, an array or one object a line.
    pub fn events(&self, machine: &str) -> Result<Vec<Value>> {
        let text = self.text(&["events", machine, "--json"])?;
        if let Ok(Value::Array(events)) = serde_json::from_str(&text) {
            return Ok(events);
        }
        text.lines()
            .map(|line| serde_json::from_str(line).could_not(|| format!("read the event {line:?}")))
            .collect()
    }

    /// Waits until `status` says so.
    pub fn wait_for_state(
        &self,
        machine: &str,
        state: &str,
        at_most: Duration,
    ) -> Result<Duration> {
        let what = format!("{machine} to be {state}");
        let seen = wait::until(&what, Duration::from_millis(50), at_most, || {
            let status = self.status(machine)?;
            Ok(if status["state"] == state {
                Seen::Yes(())
            } else {
                Seen::NotYet(status.to_string())
            })
        })?;
        Ok(seen.1)
    }

    /// The classic text of the metrics.
    pub fn metrics(&self, port: u16) -> Result<String> {
        let answer = http::get(port, "/metrics", &[("Accept", "text/plain;version=0.0.4")])?;
        if answer.status == 200 {
            return Ok(answer.body);
        }
        Err(Failure::new(format!(
            "metrics: status {}: {}",
            answer.status, answer.body
        )))
    }
}

/// What the daemon says a machine moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By the guest.
    pub received: u64,
    /// By the guest.
    pub sent: u64,
}

impl std::ops::Sub for Counted {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            received: self.received - before.received,
            sent: self.sent - before.sent,
        }
    }
}

/// A plain integer of a JSON object.
pub fn bytes(object: &Value, key: &str) -> Result<u64> {
    object[key]
        .as_u64()
        .ok_or_else(|| Failure::new(format!("{key} is no plain integer in {object}")))
}

/// A sample of the metrics by its whole name, labels in any order.
#[must_use]
pub fn sample(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let found = series.split_once('{').map_or(series, |(name, _)| name);
            let all = labels
                .iter()
                .all(|(key, value)| series.contains(&format!("{key}=\"{value}\"")));
            (found == name && all).then(|| value.parse().ok())?
        })
}

fn run_bounded(mut command: Command, arguments: &[&str]) -> Result<Output> {
    let what = || format!("run meterd {}", arguments.join(" "));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .could_not(what)?;
    let start = Instant::now();
    // Its output is drained meanwhile, else a long one would never end.
    let out = drain(child.stdout.take());
    let errors = drain(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait().could_not(what)? {
            break status;
        }
        if start.elapsed() > START && !stall::of_links() {
            child.kill().could_not(what)?;
            child.wait().could_not(what)?;
            return Err(Failure::new(format!(
                "could not {}: no end after {START:?}",
                what()
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ok(Output {
        status,
        stdout: out.join().unwrap_or_default(),
        stderr: errors.join().unwrap_or_default(),
    })
}

fn drain<R: std::io::Read + Send + 'static>(from: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // What could be read is what a failure will show; there is nothing else to do.
        if let Some(mut from) = from {
            drop(from.read_to_end(&mut all));
        }
        all
    })
}

impl Drop for Meterd<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        self.sandbox
            .note(format!("--- the log of meterd ---\n{}", self.log()));
    }
}
