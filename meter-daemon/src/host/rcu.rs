//! Short RCU grace periods for the moment in which many interfaces are attached at once.
//!
//! Every attachment waits for a grace period with the RTNL lock held: 20 ms each, measured,
//! and meanwhile no other change of the node's network goes through. Expedited grace
//! periods make 500 interfaces 70 ms instead of 20 s. The switch is the machine's, so it is
//! put back, by the next start if this process is killed in between.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

/// With fewer interfaces the wait is not worth touching the machine's setting.
const WORTH_IT: usize = 8;
const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// Another attacher holds the lock for a fraction of a second.
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// The switch is on for as long as this lives.
#[derive(Debug)]
pub(super) struct Expedited {
    switch: fs::File,
    former: Vec<u8>,
    note: PathBuf,
}

impl Expedited {
    /// Throws the switch if so many interfaces are worth it and it can be thrown.
    pub(super) fn for_interfaces(count: usize, runtime_directory: &Path) -> Option<Self> {
        if count <= WORTH_IT {
            return None;
        }
        Self::raise(runtime_directory)
            .inspect_err(|error| {
                tracing::info!(
                    "attaching {count} interfaces will take about {} s: cannot write {SWITCH}: {error}",
                    count / 25
                );
            })
            .ok()
    }

    fn raise(runtime_directory: &Path) -> io::Result<Self> {
        let switch = locked_switch()?;
        let former = fs::read(SWITCH)?;
        let note = note(runtime_directory);
        fs::create_dir_all(runtime_directory)?;
        // Before the switch is thrown: whoever finds the note knows what to put back.
        fs::write(&note, &former)?;
        fs::write(SWITCH, "1")?;
        Ok(Self {
            switch,
            former,
            note,
        })
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        if let Err(error) = put_back(&self.former, &self.note) {
            tracing::warn!(
                "cannot put back {SWITCH} to {}: {error}",
                String::from_utf8_lossy(&self.former).trim()
            );
        }
        // Closing would unlock it as well; after the value is back, not before.
        let _ = flock(&self.switch, FlockOperation::Unlock);
    }
}

/// Puts back what a daemon that was killed in mid-attachment left switched on.
pub(super) fn restore(runtime_directory: &Path) {
    let note = note(runtime_directory);
    if !note.exists() {
        return;
    }
    let restored = locked_switch().and_then(|_lock| {
        // Read under the lock: until now the note may have been that of a living attacher.
        match fs::read(&note) {
            Ok(former) => put_back(&former, &note),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    });
    match restored {
        Ok(()) => tracing::info!("put back {SWITCH}, which an interrupted start had switched on"),
        Err(error) => tracing::warn!("cannot put back {SWITCH}: {error}"),
    }
}

fn put_back(former: &[u8], note: &Path) -> io::Result<()> {
    fs::write(SWITCH, former)?;
    fs::remove_file(note)
}

/// The switch, locked against another of us who would take our 1 for the former value.
#[expect(
    clippy::disallowed_methods,
    reason = "a bounded wait at start-up, for a lock that is held for a fraction of a second"
)]
fn locked_switch() -> io::Result<fs::File> {
    let switch = fs::File::options().read(true).write(true).open(SWITCH)?;
    for _ in 0..PATIENCE {
        match flock(&switch, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(switch),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::from(io::ErrorKind::TimedOut))
}

fn note(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join("rcu_expedited")
}

/// Whether the switch is there and may be thrown.
pub(super) fn writable() -> io::Result<()> {
    fs::File::options().write(true).open(SWITCH).map(drop)
}
