//! The kernel half on real interfaces: in network and mount namespaces that each test makes
//! and that vanish with it. They need root, and fail without.

mod allowed;
mod arena;
mod clsact;
mod counting;
mod leaving;
mod log;
mod neighbours;
mod pinned;
mod shaping;
mod speed;
mod weight;
