//! Waiting for what time brings, and whether it came in time.

use std::time::{Duration, SystemTime};

use meter_tests::{
    Failure, Result, interrupt,
    wait::{self, Seen},
    zone,
};
use serde_json::Value;

use super::Stage;
use crate::{figures::time, screen::Paint};

/// What a deed may take on a busy machine; that it took no longer than it should is checked
/// where it matters.
const PATIENCE: Duration = Duration::from_secs(10);

impl Stage<'_> {
    /// Waits until `status` says so, shows what the daemon says to it, and returns when that
    /// was.
    pub(crate) fn until_state(
        &mut self,
        machine: &'static str,
        state: &str,
        at_most: Duration,
    ) -> Result<SystemTime> {
        let (meterd, screen) = (&self.meterd, &mut *self.screen);
        let what = format!("{machine} to be {state}");
        let each = Duration::from_millis(50);
        wait::until(&what, each, at_most + PATIENCE, || {
            interrupt::check()?;
            let status = meterd.status(machine)?;
            let now = status["state"].as_str().unwrap_or_default();
            screen.moving(machine, Paint::Dim, &format!("{now}, to be {state}"));
            Ok(match now == state {
                true => Seen::Yes(()),
                false => Seen::NotYet(status.to_string()),
            })
        })?;
        let seen = SystemTime::now();
        self.show_events(machine)?;
        Ok(seen)
    }

    /// Waits for an instant, and says for what.
    pub(crate) fn wait_for(&mut self, what: &str, instant: SystemTime) -> Result<()> {
        while let Ok(left) = instant.duration_since(SystemTime::now()) {
            interrupt::check()?;
            let text = format!("in {:.1} s", left.as_secs_f64());
            self.screen.moving(what, Paint::Dim, &text);
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }

    /// Waits for midnight in the stage's zone. Fails if it struck before it was asked for.
    pub(crate) fn midnight(&mut self) -> Result<SystemTime> {
        let zone = self.zone.as_ref();
        let zone = zone.ok_or_else(|| Failure::new("this stage has no midnight"))?;
        if zone.until_midnight().is_none() {
            return Err(Failure::new(
                "midnight struck before its turn: this machine is too busy for the story",
            ));
        }
        let midnight = zone.midnight();
        self.wait_for("midnight", midnight)?;
        self.screen.now("midnight", Paint::Bold, "in Demo/Midnight");
        Ok(midnight)
    }

    /// Checks that something came within a second of its time.
    pub(crate) fn in_time(&mut self, what: &str, found: &Value, due: SystemTime) -> Result<()> {
        let late = lag(found, due)?;
        let holds = late <= Duration::from_secs(1);
        self.checks.note(what, "within 1000 ms", &time(late), holds);
        Ok(())
    }
}

/// An instant as the daemon writes it.
pub(crate) fn instant(value: &Value) -> Result<SystemTime> {
    zone::instant(value.as_str().unwrap_or_default())
}

/// By how much the one instant is later than the other.
pub(crate) fn lag(later: &Value, than: SystemTime) -> Result<Duration> {
    instant(later)?.duration_since(than).map_err(|error| {
        let early = error.duration();
        Failure::new(format!("{later} is {early:?} too early"))
    })
}
