//! What people type.

mod ebpf;

use std::{env, path::Path, process::ExitCode};

#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a command's output"
)]
fn main() -> ExitCode {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    match env::args().nth(1).as_deref() {
        Some("ebpf") => match ebpf::build(workspace) {
            Ok(object) => {
                println!("{}", object.display());
                ExitCode::SUCCESS
            }
            Err(text) => {
                eprintln!("xtask: {text}");
                ExitCode::FAILURE
            }
        },
        _ => ExitCode::from(64),
    }
}
