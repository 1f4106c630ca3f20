//! The only module that touches the kernel, and the only one with `unsafe`.
//!
//! It finds what is and does what is asked; what should be is decided elsewhere. `programs`
//! is the door to metering: it loads the kernel program, keeps it attached through pins
//! that outlive the daemon, and reads the counters; `limits` is what it does by itself at a
//! machine's boundaries, and `reached` what it then says. `links` sees the interfaces, `shaping`
//! throttles them, `linkdown` knows what they lose when they are set down, `clock` and
//! `identity` say when and where we are, and `memory` gives back what we need no more.

pub mod clock;
pub mod conflicts;
pub mod error;
pub mod features;
pub mod hypervisor;
pub mod identity;
pub mod limits;
pub mod linkdown;
pub mod links;
pub mod memory;
pub mod netfilter;
pub mod netlink;
pub mod process;
pub mod programs;
pub mod reached;
pub mod shaping;

mod bpf;
mod clsact;
mod detach;
mod exempt;
mod held;
mod hex;
mod load;
mod mapped;
mod maps;
mod pins;
mod rcu;
mod short;
mod takeover;
mod tc;
mod tcx;
mod verbatim;
mod wire;
mod words;
