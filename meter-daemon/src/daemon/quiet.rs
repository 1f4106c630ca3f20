//! Interfaces that somebody is setting up at this moment: Proxmox VE and libvirt take the root
//! qdisc away and put one of their own there, in a row of commands of which each needs what
//! the one before it left. Whoever takes the root in between makes theirs fail, and with it
//! the guest's start. So the root is ours only when all has been quiet for a while; where our
//! programs need a qdisc to stand on, the place of that one, too. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Their commands follow one another within milliseconds; on a busy node, within tens.
const QUIET: Duration = Duration::from_millis(500);

/// What the kernel says of our own changes comes at once.
const ECHO: Duration = Duration::from_millis(50);

/// Whether something of ours stood at an interface and does not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Yes,
    No,
}

/// Who is busy, by ifindex and the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    last: BTreeMap<u32, Duration>,
    ours: BTreeMap<u32, Duration>,
    postponed: BTreeSet<u32>,
}

impl Quiet {
    /// An interface is new, or its qdiscs changed.
    pub(crate) fn disturbed(&mut self, ifindex: u32, now: Duration) {
        self.ours
            .retain(|_, since| now.saturating_sub(*since) < ECHO);
        self.last
            .retain(|_, last| now.saturating_sub(*last) < QUIET);
        if !self.ours.contains_key(&ifindex) {
            self.last.insert(ifindex, now);
        }
    }

    /// We have changed its qdiscs ourselves.
    pub(crate) fn changed_by_us(&mut self, ifindex: u32, now: Duration) {
        self.ours.insert(ifindex, now);
    }

    /// Whoever set it up says that he is done.
    pub(crate) fn set_up(&mut self, ifindex: u32) {
        self.last.remove(&ifindex);
    }

    /// Whether nobody is at work there; if somebody is, it is remembered that we wait. `lost`:
    /// what we had put there is gone, of which the kernel's news may still be on the way.
    pub(crate) fn is_ours_to_take(&mut self, ifindex: u32, now: Duration, lost: Lost) -> bool {
        let news = lost == Lost::Yes && !self.postponed.contains(&ifindex);
        if news && self.left(ifindex, now).is_zero() {
            self.disturbed(ifindex, now);
        }
        let left = self.left(ifindex, now);
        match left {
            Duration::ZERO => self.postponed.remove(&ifindex),
            _ => self.postponed.insert(ifindex),
        };
        left.is_zero()
    }

    /// It is to be looked at when all is quiet there.
    pub(crate) fn wait_for(&mut self, ifindex: u32) {
        self.postponed.insert(ifindex);
    }

    /// Whether somebody is waited for there.
    pub(crate) fn waits_for(&self, ifindex: u32) -> bool {
        self.postponed.contains(&ifindex)
    }

    fn left(&self, ifindex: u32, now: Duration) -> Duration {
        self.last.get(&ifindex).map_or(Duration::ZERO, |last| {
            QUIET.saturating_sub(now.saturating_sub(*last))
        })
    }

    /// How long until the first of those that wait is quiet, if nothing happens.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        self.postponed
            .iter()
            .map(|ifindex| self.left(*ifindex, now))
            .min()
    }

    /// Those that wait and are quiet. They wait until they are taken or given up.
    pub(crate) fn due(&self, now: Duration) -> BTreeSet<u32> {
        self.postponed
            .iter()
            .filter(|ifindex| self.left(**ifindex, now).is_zero())
            .copied()
            .collect()
    }

    /// There is no such interface any more, or nothing to be put there.
    pub(crate) fn give_up(&mut self, ifindex: u32) {
        self.postponed.remove(&ifindex);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(100);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_somebody_sets_up_is_left_alone_until_all_is_quiet() {
        let mut quiet = Quiet::default();
        assert!(
            quiet.is_ours_to_take(7, T, Lost::No),
            "nobody was ever there"
        );
        quiet.disturbed(7, T);
        assert!(!quiet.is_ours_to_take(7, T + 10 * MS, Lost::No));
        assert_eq!(quiet.next(T + 10 * MS), Some(QUIET - 10 * MS));
        quiet.disturbed(7, T + 400 * MS);
        assert!(quiet.due(T + QUIET).is_empty(), "they went on");
        assert_eq!(quiet.due(T + 400 * MS + QUIET), BTreeSet::from([7]));
        assert!(quiet.is_ours_to_take(7, T + 400 * MS + QUIET, Lost::No));
        assert_eq!(quiet.next(T + 400 * MS + QUIET), None);
        assert!(
            quiet.is_ours_to_take(8, T, Lost::No),
            "the others are not concerned"
        );
    }

    #[test]
    fn neither_our_own_changes_nor_a_set_up_that_is_said_to_be_done_are_waited_for() {
        let mut quiet = Quiet::default();
        quiet.changed_by_us(7, T);
        quiet.disturbed(7, T + 2 * MS);
        assert!(quiet.is_ours_to_take(7, T + 3 * MS, Lost::No));
        quiet.disturbed(7, T + ECHO + MS);
        assert!(!quiet.is_ours_to_take(7, T + ECHO + 2 * MS, Lost::No));
        quiet.set_up(7);
        assert!(quiet.is_ours_to_take(7, T + ECHO + 3 * MS, Lost::No));
    }

    #[test]
    fn what_is_found_to_be_lost_is_a_disturbance_once() {
        let mut quiet = Quiet::default();
        assert!(!quiet.is_ours_to_take(7, T, Lost::Yes), "no news of it yet");
        assert!(!quiet.is_ours_to_take(7, T + MS, Lost::Yes));
        assert!(quiet.is_ours_to_take(7, T + QUIET, Lost::Yes));
        // We have put ours there, and it is lost anew.
        let later = T + 5 * QUIET;
        assert!(!quiet.is_ours_to_take(7, later, Lost::Yes), "nor of this");
        assert!(quiet.is_ours_to_take(7, later + QUIET, Lost::Yes));
        quiet.disturbed(8, T);
        quiet.is_ours_to_take(8, T, Lost::No);
        quiet.give_up(8);
        assert_eq!(quiet.next(T), None);
    }
}
