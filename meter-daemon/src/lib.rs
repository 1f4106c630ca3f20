//! meterd, the traffic meter and enforcer of a hypervisor node.
//!
//! One idea holds it together: a pure function decides ([`engine`]), everything else only
//! sees and does. [`host`] observes and applies, [`ledger`] remembers, [`api`] and [`cli`]
//! are the doors, [`daemon`] is the loop that joins them.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod engine;
pub mod host;
pub mod ledger;
