//! (host)

pub mod clock;
pub mod identity;
pub mod links;
mod netlink;
pub mod shaping;
