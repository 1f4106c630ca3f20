//! Tests of the engine against the specification, with plans built in Rust.

mod bills;
mod boundaries;
mod build;
mod caps;
mod commands;
mod explained;
mod laws;
mod long;
mod promises;
mod reference;
mod scale;
mod systems;
mod time;
mod world;
