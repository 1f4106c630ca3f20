//! (cli)

pub mod check;
