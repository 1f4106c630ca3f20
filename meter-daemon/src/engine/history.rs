//! What bringing in and forgetting a machine's history needs to know of it and to change.

use std::sync::Arc;

use super::{
    record::Running,
    step::Engine,
    units::{InvoiceNumber, MachineId},
};

impl Engine {
    /// A machine's running period, and what moved in it so far.
    #[must_use]
    pub fn running(&self, machine: &MachineId) -> Option<&Running> {
        Some(&self.machines.get(machine)?.running)
    }

    /// Bills of a machine that nobody has paid yet.
    #[must_use]
    pub fn unpaid(&self, machine: &MachineId) -> Vec<InvoiceNumber> {
        let bills = self
            .machines
            .get(machine)
            .map(|machine| &machine.record.bills);
        bills
            .into_iter()
            .flatten()
            .filter(|bill| bill.paid.is_none())
            .map(|bill| bill.number.clone())
            .collect()
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
