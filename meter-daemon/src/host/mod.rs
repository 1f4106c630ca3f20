//! The only module that touches the kernel, and the only one with `unsafe`.
//!
//! It finds what is and does what is asked; what should be is decided elsewhere. `programs`
//! is the door to metering: it loads the kernel program, keeps it attached through pins
//! that outlive the daemon, and reads the counters. `links` sees the interfaces, `shaping`
//! throttles them, `linkdown` knows what they lose when they are set down, `clock` and
//! `identity` say when and where we are.

pub mod clock;
pub mod error;
pub mod features;
pub mod identity;
pub mod linkdown;
pub mod links;
pub mod netlink;
pub mod programs;
pub mod shaping;

mod bpf;
mod clsact;
mod detach;
mod hex;
mod load;
mod maps;
mod pins;
mod rcu;
mod tc;
mod tcx;
mod verbatim;
mod words;
