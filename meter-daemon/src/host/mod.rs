//! The only module that touches the kernel, and the only one with `unsafe`.
//!
//! It finds what is and does what is asked; what should be is decided elsewhere. `programs`
//! is the door to metering: it loads the kernel program, keeps it attached through pins
//! that outlive the daemon, and reads the counters.

pub mod error;
pub mod features;
pub mod programs;

mod bpf;
mod clsact;
mod detach;
mod load;
mod maps;
mod pins;
mod rcu;
mod tc;
mod tcx;
mod words;
