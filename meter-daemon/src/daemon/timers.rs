//! When the daemon's loop does what it does by time alone.

use std::{future, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::node::Node;

/// How often a throttled machine's rate is divided anew among its interfaces.
const SHARE: Duration = Duration::from_secs(1);

/// How often what a link lost, or somebody who sets it up, is seen to between polls.
const MEND: Duration = Duration::from_millis(500);

/// How often some of the rows past their retention are removed.
const PRUNE: Duration = Duration::from_secs(60);

/// What the loop does by time alone.
pub(super) struct Timers {
    pub(super) poll: Interval,
    pub(super) share: Interval,
    pub(super) mend: Interval,
    pub(super) prune: Interval,
    pub(super) watchdog: Option<Interval>,
}

impl Timers {
    pub(super) fn new(node: &Node) -> Self {
        Self {
            poll: every(node.config.poll_interval),
            share: every(SHARE),
            mend: every(MEND),
            prune: every(PRUNE),
            // Twice in the time that the service manager grants.
            watchdog: sd_notify::watchdog_enabled().map(|period| every(period / 2)),
        }
    }

    /// Another configuration's intervals. Those that stay the same are not begun anew: they
    /// would never end if reloads came faster.
    pub(super) fn follow(&mut self, node: &Node) {
        if self.poll.period() != node.config.poll_interval {
            self.poll = every(node.config.poll_interval);
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits for the next sign of life that the service manager expects, if it does.
pub(super) async fn watchdog(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => future::pending().await,
    }
}
