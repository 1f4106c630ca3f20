//! (config)
pub mod diagnostic;
pub mod quantity;
