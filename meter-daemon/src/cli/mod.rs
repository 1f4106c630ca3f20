//! (cli)

pub mod simulate;
