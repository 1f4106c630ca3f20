//! What the end-to-end tests are made of: namespaces, links, traffic, captures, and a
//! `meterd` that runs among them.
//!
//! Nothing here is shared with the daemon: the netlink messages, the BPF calls and above all
//! the counting are written a second time, over plain sockets, so that an error would have
//! to be made twice to go unseen. It needs root, a kernel, and no other program.

pub mod capture;
pub mod cost;
pub mod disk;
pub mod failure;
pub mod foreign;
pub mod http;
pub mod hypervisor;
pub mod inspect;
pub mod interrupt;
pub mod links;
pub mod meterd;
pub mod naive;
pub mod needs;
pub mod netlink;
pub mod packet;
pub mod paper;
pub mod rate_limits;
pub mod routed;
pub mod routing;
pub mod sandbox;
pub mod scene;
pub mod stall;
pub mod strace;
mod sys;
pub mod table;
pub mod tap;
pub mod topology;
pub mod traffic;
pub mod wait;
pub mod zone;

pub use failure::{Context, Failure, Result};
