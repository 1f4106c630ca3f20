//! Tests of the engine against the specification, with plans built in Rust.

mod build;
mod commands;
mod laws;
mod long;
mod reference;
mod scale;
mod systems;
mod time;
mod world;
