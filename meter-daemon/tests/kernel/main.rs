//! The kernel half on real interfaces: in network and mount namespaces that each test makes
//! and that vanish with it. They need root, and fail without.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails where it stands, and measures"
)]

mod allowed;
mod arena;
mod beyond;
mod clsact;
mod cost;
mod counting;
mod exempt;
mod leaving;
mod limits;
mod log;
mod neighbours;
#[path = "../node/mod.rs"]
mod node;
mod pinned;
mod police;
mod shaping;
mod short;
mod speed;
mod takeover;
mod weight;
