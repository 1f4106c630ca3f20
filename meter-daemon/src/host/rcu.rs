//! Short RCU grace periods for the moment in which interfaces are attached.
//!
//! Every attachment waits for a grace period with the RTNL lock held: 20 ms each, measured,
//! and meanwhile no other change of the node's network goes through. Expedited grace
//! periods make 500 interfaces 70 ms instead of 20 s. The switch is the machine's, so it is
//! put back, by the next of us if this process is killed in between: hence one note for the whole
//! machine, too, as nobody could tell our 1 from the value that was there before.

use std::{fs, io, path::Path, time::Duration};

use rustix::fs::{FlockOperation, flock};

const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// What to put back, while it is on.
const NOTE: &str = "/run/meterd.rcu_expedited";
/// Another attacher holds the lock for a fraction of a second.
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// The switch is on for as long as this lives.
#[derive(Debug)]
pub(super) struct Expedited {
    switch: fs::File,
    former: Vec<u8>,
}

impl Expedited {
    /// Throws the switch if there is anything to attach and it can be thrown. One interface is
    /// worth it: 40 ms are long under the RTNL lock, and long for a guest that is being born.
    pub(super) fn for_interfaces(count: usize) -> Option<Self> {
        if count == 0 {
            return None;
        }
        Self::raise()
            .inspect_err(|error| {
                tracing::info!(
                    "attaching {count} interfaces will take about {} s: cannot write {SWITCH}: {error}",
                    count / 25
                );
            })
            .ok()
    }

    fn raise() -> io::Result<Self> {
        let switch = locked_switch()?;
        // Somebody who was killed has left it on.
        let former = if Path::new(NOTE).exists() {
            fs::read(NOTE)?
        } else {
            fs::read(SWITCH)?
        };
        // Before the switch is thrown: whoever finds the note knows what to put back.
        fs::write(NOTE, &former)?;
        fs::write(SWITCH, "1")?;
        Ok(Self { switch, former })
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        if let Err(error) = put_back(&self.former) {
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
pub(super) fn restore() {
    if !Path::new(NOTE).exists() {
        return;
    }
    let restored = locked_switch().and_then(|_lock| {
        // Read under the lock: until now the note may have been that of a living attacher.
        match fs::read(NOTE) {
            Ok(former) => put_back(&former),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    });
    match restored {
        Ok(()) => tracing::info!("put back {SWITCH}, which an interrupted start had switched on"),
        Err(error) => tracing::warn!("cannot put back {SWITCH}: {error}"),
    }
}

fn put_back(former: &[u8]) -> io::Result<()> {
    fs::write(SWITCH, former)?;
    fs::remove_file(NOTE)
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

/// Whether the switch is there and may be thrown.
pub(super) fn writable() -> io::Result<()> {
    fs::File::options().write(true).open(SWITCH).map(drop)
}
