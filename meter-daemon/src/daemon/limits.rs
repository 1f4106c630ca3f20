//! Where the limits in the kernel lie: from what a machine may still move, as the engine says, to
//! absolute figures of the counters that the program compares with. Numbers only, no kernel.
//!
//! The program's spent counters and the slots' counters grow by the same bytes, but they are
//! read one after the other, and what a shaper of ours drops is in the first only. How far they
//! are apart is known to lie between two bounds; what is taken is what was taken before, while
//! that still lies between them, and otherwise the lower one: a limit that comes a packet too
//! early is put right when it is reached, for then nothing moves and both bounds are one.

use std::collections::{BTreeMap, BTreeSet};

use meter_common::NO_MACHINE;

use super::packed::pack;
use crate::engine::{
    Left,
    units::{Bytes, MachineId, Traffic},
};

/// Received and sent, as the program has spent them.
pub(crate) type Spent = [u64; 2];

/// Absolute limits of the spent counters: `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Absolute {
    pub(crate) sum: Option<u64>,
    pub(crate) received: Option<u64>,
    pub(crate) sent: Option<u64>,
}

/// What the ledger has of a machine's traffic, against the program's spent counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The program's entry, where the spent counters are.
    index: u32,
    /// Taken in by the engine since this account was opened.
    taken: [i128; 2],
    /// So far the spent counters are ahead of that.
    ahead: Option<[i128; 2]>,
}

impl Account {
    pub(crate) fn new(index: u32) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    pub(crate) const fn index(&self) -> u32 {
        self.index
    }

    /// These bytes of the counters are in the ledger now.
    pub(crate) fn took(&mut self, traffic: Traffic) {
        self.taken[0] += i128::from(traffic.received.0);
        self.taken[1] += i128::from(traffic.sent.0);
    }

    /// The spent counters before and after the reading that was taken in last.
    pub(crate) fn look(&mut self, before: Spent, after: Spent) {
        let known = self.ahead;
        self.ahead = Some([0, 1].map(|direction| {
            let least = i128::from(before[direction]) - self.taken[direction];
            let most = i128::from(after[direction]) - self.taken[direction];
            match known {
                Some(known) if (least..=most).contains(&known[direction]) => known[direction],
                _ => least,
            }
        }));
    }

    /// Where the counters will be when that much more was moved; `None` before the first look.
    pub(crate) fn absolute(&self, left: Left) -> Option<Absolute> {
        let ahead = self.ahead?;
        let at = |from: i128, left: Option<Bytes>| {
            left.map(|left| {
                let at = (from + i128::from(left.0)).max(0);
                u64::try_from(at).unwrap_or(u64::MAX)
            })
        };
        let now = [0, 1].map(|direction| self.taken[direction] + ahead[direction]);
        Some(Absolute {
            sum: at(now[0] + now[1], left.sum),
            received: at(now[0], left.received),
            sent: at(now[1], left.sent),
        })
    }
}

/// Which entry of the program's table is whose: one a machine, shared by its interfaces.
#[derive(Debug, Default)]
pub(crate) struct Indices {
    of: BTreeMap<MachineId, u32>,
    whose: BTreeMap<u32, MachineId>,
}

impl Indices {
    /// A machine's entry, as an earlier run left it on one of its interfaces. False where it
    /// cannot be: somebody else has it, or the machine has another.
    pub(crate) fn adopt(&mut self, machine: &MachineId, index: u32) -> bool {
        match self.of.get(machine) {
            Some(known) => *known == index,
            None if index == NO_MACHINE || self.whose.contains_key(&index) => false,
            None => {
                self.assign(machine, index);
                true
            }
        }
    }

    pub(crate) fn get(&self, machine: &MachineId) -> Option<u32> {
        self.of.get(machine).copied()
    }

    /// The machine's entry, the first free one where it has none; whether it is new.
    pub(crate) fn take(&mut self, machine: &MachineId) -> (u32, bool) {
        if let Some(index) = self.of.get(machine) {
            return (*index, false);
        }
        let last = self.whose.last_key_value().map_or(NO_MACHINE, |it| *it.0);
        let all = usize::try_from(last - NO_MACHINE).unwrap_or(usize::MAX);
        let mut before = NO_MACHINE + 1..last;
        let gap = match self.whose.len() < all {
            true => before.find(|index| !self.whose.contains_key(index)),
            false => None,
        };
        let index = gap.unwrap_or(last + 1);
        self.assign(machine, index);
        (index, true)
    }

    fn assign(&mut self, machine: &MachineId, index: u32) {
        self.of.insert(machine.clone(), index);
        self.whose.insert(index, machine.clone());
    }

    /// Entries of machines that have no interface any more are free.
    pub(crate) fn keep(&mut self, present: &BTreeSet<MachineId>) -> Vec<u32> {
        let mut freed = Vec::new();
        self.of.retain(|machine, index| {
            let stays = present.contains(machine);
            if !stays {
                freed.push(*index);
            }
            stays
        });
        for index in &freed {
            self.whose.remove(index);
        }
        freed
    }

    pub(crate) fn pack(&mut self) {
        pack(&mut self.of);
        pack(&mut self.whose);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&MachineId, u32)> {
        self.of.iter().map(|(machine, index)| (machine, *index))
    }

    pub(crate) fn machine(&self, index: u32) -> Option<&MachineId> {
        self.whose.get(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(left: u64) -> Left {
        Left {
            sum: Some(Bytes(left)),
            ..Left::default()
        }
    }

    fn traffic(received: u64, sent: u64) -> Traffic {
        Traffic {
            received: Bytes(received),
            sent: Bytes(sent),
            exempt: Bytes::ZERO,
        }
    }

    fn limit(account: &Account, left: u64) -> Option<u64> {
        account.absolute(sum(left))?.sum
    }

    #[test]
    fn nothing_is_armed_before_the_counters_were_looked_at() {
        assert_eq!(Account::default().absolute(sum(1)), None);
    }

    #[test]
    fn a_quiet_reading_gives_the_limit_to_the_byte_whatever_was_spent_before() {
        let mut account = Account::default();
        account.look([700, 300], [700, 300]);
        assert_eq!(limit(&account, 50), Some(1050));
    }

    #[test]
    fn a_busy_reading_comes_early_rather_than_late_and_the_next_quiet_one_is_exact() {
        let mut account = Account::default();
        // 100 were counted between the looks, 40 of them before the counters were read.
        account.took(traffic(1040, 0));
        account.look([1000, 0], [1100, 0]);
        assert_eq!(limit(&account, 500), Some(1500), "true is 1540");
        // Then it moved on to the limit and stands still.
        account.took(traffic(460, 0));
        account.look([1500, 0], [1500, 0]);
        assert_eq!(limit(&account, 40), Some(1540));
    }

    #[test]
    fn a_limit_does_not_move_while_nothing_but_traffic_changes() {
        let mut account = Account::default();
        account.look([0, 0], [0, 0]);
        assert_eq!(limit(&account, 10_000), Some(10_000));
        account.took(traffic(300, 200));
        // More was spent meanwhile than was read.
        account.look([280, 190], [420, 230]);
        assert_eq!(limit(&account, 9_500), Some(10_000));
    }

    #[test]
    fn what_a_shaper_dropped_moves_the_limit_on() {
        let mut account = Account::default();
        account.look([0, 0], [0, 0]);
        // 1000 were handed to the shaper, 400 came through.
        account.took(traffic(400, 0));
        account.look([1000, 0], [1000, 0]);
        assert_eq!(limit(&account, 100), Some(1100));
    }

    #[test]
    fn each_direction_has_a_limit_of_its_own_where_the_plan_counts_so() {
        let mut account = Account::default();
        account.look([10, 20], [10, 20]);
        let left = Left {
            received: Some(Bytes(5)),
            sent: Some(Bytes(u64::MAX)),
            sum: None,
        };
        let expected = Absolute {
            sum: None,
            received: Some(15),
            sent: Some(u64::MAX),
        };
        assert_eq!(account.absolute(left), Some(expected));
    }

    #[test]
    fn a_machines_interfaces_share_an_entry_and_machines_do_not() {
        let (a, b, c) = (
            MachineId::from("a"),
            MachineId::from("b"),
            MachineId::from("c"),
        );
        let mut indices = Indices::default();
        assert!(indices.adopt(&b, 2));
        assert!(indices.adopt(&b, 2), "its second interface");
        assert!(!indices.adopt(&a, 2), "somebody else's");
        assert!(!indices.adopt(&b, 3), "it has another");
        assert!(!indices.adopt(&a, NO_MACHINE), "nobody's");
        assert_eq!(indices.take(&a), (1, true));
        assert_eq!(indices.take(&c), (3, true));
        assert_eq!(indices.take(&a), (1, false));
        assert_eq!(indices.keep(&BTreeSet::from([b.clone(), c])), [1]);
        assert_eq!(indices.take(&MachineId::from("d")), (1, true));
        assert_eq!(indices.machine(2), Some(&b));
    }
}
