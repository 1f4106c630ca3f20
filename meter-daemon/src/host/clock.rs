//! The clocks. Nothing else in the program reads one.

#![expect(unsafe_code, reason = "a system call that no safe crate offers")]

use std::{io, time::Duration};

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// One look at the clocks. Two moments are compared clock by clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Civil time: what samples and events carry. It may step.
    pub wall: Timestamp,
    /// What polls are timed by. It never steps, and stands still while the host sleeps.
    pub monotonic: Duration,
    /// Since boot, the host's sleep included: what a jump of the wall clock is told by.
    pub since_boot: Duration,
}

/// Reads the clocks.
#[must_use]
pub fn now() -> Moment {
    let wall = timestamp(clock_gettime(ClockId::Realtime));
    Moment {
        wall: shifted::wall(wall),
        monotonic: duration(clock_gettime(ClockId::Monotonic)),
        since_boot: duration(clock_gettime(ClockId::Boottime)),
    }
}

/// Whether the kernel holds the wall clock to be synchronised: some NTP daemon has said so
/// and has not been silent since (`STA_UNSYNC`, see adjtimex(2)).
pub fn synchronised() -> io::Result<bool> {
    if let Some(claimed) = shifted::synchronised() {
        return Ok(claimed);
    }
    // SAFETY: timex is a C struct of integers, for which all zeroes is a value.
    let mut report: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole timex of our own, and with `modes` 0 the call only
    // fills it in; it needs no privilege.
    let state = unsafe { libc::adjtimex(&raw mut report) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(report.status & libc::STA_UNSYNC == 0)
}

#[expect(
    clippy::expect_used,
    reason = "the kernel's wall clock ends in the year 2232 (ktime_t), jiff's in 9999"
)]
fn timestamp(time: Timespec) -> Timestamp {
    i32::try_from(time.tv_nsec)
        .ok()
        .and_then(|nanoseconds| Timestamp::new(time.tv_sec, nanoseconds).ok())
        .expect("a time that the kernel can have")
}

fn duration(time: Timespec) -> Duration {
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// A debug build can be shown another wall clock: `METERD_TEST_CLOCK` names a file with the
/// seconds to add to it, and `set` or `unset` for whether it counts as synchronised. A time
/// namespace has no wall clock of its own, and the machine's is everybody's.
#[cfg(debug_assertions)]
mod shifted {
    use std::{path::PathBuf, sync::OnceLock};

    use jiff::{SignedDuration, Timestamp};

    fn file() -> Option<(i64, bool)> {
        static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "no setting: for tests, of debug builds"
        )]
        let path = PATH.get_or_init(|| std::env::var_os("METERD_TEST_CLOCK").map(PathBuf::from));
        let text = std::fs::read_to_string(path.as_ref()?).ok()?;
        let (seconds, synchronised) = text.trim().split_once(' ')?;
        Some((seconds.parse().ok()?, synchronised == "set"))
    }

    pub(super) fn wall(wall: Timestamp) -> Timestamp {
        file()
            .and_then(|(seconds, _)| wall.checked_add(SignedDuration::from_secs(seconds)).ok())
            .unwrap_or(wall)
    }

    pub(super) fn synchronised() -> Option<bool> {
        file().map(|(_, synchronised)| synchronised)
    }
}

/// A release build knows the kernel's clock only.
#[cfg(not(debug_assertions))]
mod shifted {
    pub(super) const fn wall(wall: jiff::Timestamp) -> jiff::Timestamp {
        wall
    }

    pub(super) const fn synchronised() -> Option<bool> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clocks_never_run_backwards() {
        let earlier = now();
        let later = now();
        assert!(later.monotonic >= earlier.monotonic);
        assert!(later.since_boot >= earlier.since_boot);
        assert!(
            later.since_boot >= later.monotonic,
            "sleep is counted on top"
        );
    }

    #[test]
    fn the_wall_clock_is_the_one_that_files_are_stamped_with() {
        let before = now().wall;
        let file = tempfile::tempfile().unwrap();
        let stamp = Timestamp::try_from(file.metadata().unwrap().modified().unwrap()).unwrap();
        // File stamps are taken from the coarse clock, a tick behind.
        assert!(stamp.duration_since(before).as_secs_f64().abs() < 0.1);
    }

    #[test]
    fn the_kernel_says_whether_the_clock_is_synchronised() {
        synchronised().unwrap();
    }
}
