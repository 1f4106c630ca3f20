//! strace(1), which makes a process's system calls fail, or kills it in one.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Context, Failure, Result, sys,
    wait::{self, Seen},
};

/// What brings a ledger's bytes to the disk.
const TO_DISK: &str = "pwrite64,fdatasync,fsync,ftruncate";

/// One that is attached. Dropped: it lets go.
#[derive(Debug)]
pub struct Strace(Child);

impl Strace {
    /// Whatever the process writes to or syncs on a disk fails from now on.
    pub fn failing(pid: Option<u32>, error: &str) -> Result<Self> {
        Self::attach(pid, TO_DISK, &format!("error={error}"))
    }

    /// Kills the process in its `n`-th call of `call` from now on, on whichever thread.
    pub fn killing(pid: Option<u32>, call: &str, n: u32) -> Result<Self> {
        Self::attach(pid, call, &format!("signal=KILL:when={n}"))
    }

    fn attach(pid: Option<u32>, calls: &str, what: &str) -> Result<Self> {
        let pid = pid.ok_or_else(|| Failure::new("nothing runs that strace could attach to"))?;
        let mut command = arguments(calls, what);
        command.arg("-p").arg(pid.to_string());
        let mut strace = Self(command.spawn().could_not(|| "run strace")?);
        strace.until_attached(pid)?;
        Ok(strace)
    }

    /// Every thread that the process has.
    fn until_attached(&mut self, pid: u32) -> Result<()> {
        let tracer = format!("TracerPid:\t{}", self.0.id());
        let often = Duration::from_millis(1);
        wait::until("strace to attach", often, Duration::from_secs(10), || {
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            let threads = threads.could_not(|| format!("list the threads of {pid}"))?;
            let mut missing = 0;
            for thread in threads.flatten() {
                let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
                missing += usize::from(!status.contains(&tracer));
            }
            if let Some(status) = self.0.try_wait().could_not(|| "ask how strace is")? {
                return Err(Failure::new(format!("strace ended: {status}")));
            }
            Ok(match missing {
                0 => Seen::Yes(()),
                _ => Seen::NotYet(format!("{missing} threads to go")),
            })
        })?;
        Ok(())
    }

    /// Lets go of the process, which runs on.
    pub fn detach(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::new("strace has no process number"))?;
        // It may have ended with the process; it was not waited for, so the number is its own.
        kill_process(pid, Signal::TERM).could_not(|| "end strace")?;
        let begun = Instant::now();
        while self
            .0
            .try_wait()
            .could_not(|| "ask how strace is")?
            .is_none()
        {
            // It may wait for ever for a thread of a process that it has killed.
            if begun.elapsed() > Duration::from_secs(1) {
                self.0.kill().could_not(|| "kill strace")?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// `strace … PROGRAM ARGUMENTS`, for a process that is to be killed in its start: what is
/// pushed onto it is the program.
#[must_use]
pub fn killing_from_the_start(call: &str, n: u32) -> Command {
    arguments(call, &format!("signal=KILL:when={n}"))
}

/// `strace … PROGRAM ARGUMENTS` that only writes down calls, with the paths of descriptors.
#[must_use]
pub fn writing_down(calls: &str, to: &Path) -> Command {
    let mut command = quiet(calls);
    command.arg("-y").arg("-o").arg(to);
    command
}

fn arguments(calls: &str, what: &str) -> Command {
    let mut command = quiet(calls);
    command
        .args(["-o", "/dev/null"])
        .arg(format!("--inject={calls}:{what}"));
    command
}

fn quiet(calls: &str) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qqq"])
        .arg(format!("--trace={calls}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::end_with_this_thread(&mut command);
    command
}
