//! What bringing in and forgetting a machine's history needs to know of it and to change.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    books::Bill,
    record::Running,
    step::Engine,
    units::{InvoiceNumber, MachineId},
};

/// What of a kept machine says which bills it has.
#[derive(Deserialize)]
struct Bills {
    #[serde(default)]
    bills: Vec<Bill>,
}

/// The same of what the ledger keeps of a machine. What cannot be read has no bills that anybody
/// could pay.
#[must_use]
pub fn unpaid_in(state: &str, now: Timestamp) -> Vec<InvoiceNumber> {
    let kept: Result<Bills, _> = serde_json::from_str(state);
    kept.map_or_else(|_| Vec::new(), |kept| open(&kept.bills, now))
}

fn open(bills: &[Bill], now: Timestamp) -> Vec<InvoiceNumber> {
    bills
        .iter()
        .filter(|bill| bill.is_open() && bill.lapses().is_none_or(|lapses| lapses > now))
        .map(|bill| bill.number.clone())
        .collect()
}

impl Engine {
    /// A machine's running period, and what moved in it so far.
    #[must_use]
    pub fn running(&self, machine: &MachineId) -> Option<&Running> {
        Some(&self.machines.get(machine)?.running)
    }

    /// Bills of a machine that wait to be paid. (One that has lapsed waits for nobody.)
    #[must_use]
    pub fn unpaid(&self, machine: &MachineId, now: Timestamp) -> Vec<InvoiceNumber> {
        let machine = self.machines.get(machine);
        machine.map_or_else(Vec::new, |machine| open(&machine.record.bills, now))
    }

    /// Lets go of all that is known of a machine. One that the terms name is met anew.
    pub fn forget(&mut self, machine: &MachineId) {
        if self.machines.contains_key(machine) {
            Arc::make_mut(&mut self.machines).remove(machine);
            self.unseen = true;
        }
        let node = &self.books.node;
        if node.held.contains(machine) || node.hit.contains_key(machine) {
            let node = &mut Arc::make_mut(&mut self.books).node;
            node.held.remove(machine);
            node.hit.remove(machine);
        }
    }
}
