//! Where things are, through the configuration file: the control socket, the ledger, the pins.
//!
//! One key is needed of it, so one key is read: a client must reach a running daemon also
//! while the file is being edited and not valid.

use std::{
    io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::failure::{Exit, Failure};
use crate::api::socket;

/// Where the configuration is, unless said otherwise.
pub const CONFIG: &str = "/etc/meterd/meterd.toml";

/// Unless the file says otherwise.
const RUNTIME: &str = "/run/meterd";
/// Unless the file says otherwise.
const STATE: &str = "/var/lib/meterd";
/// Unless the file says otherwise.
const PINS: &str = "/sys/fs/bpf/meterd";

/// The control socket of the daemon that runs with this file.
pub(super) fn socket(config: &Path) -> Result<PathBuf, Failure> {
    Ok(directory(config, "runtime-directory", RUNTIME)?.join(socket::NAME))
}

/// Where the ledger is.
pub(super) fn state_directory(config: &Path) -> Result<PathBuf, Failure> {
    directory(config, "state-directory", STATE)
}

/// Where the kernel's programs and maps are pinned.
pub(super) fn pin_directory(config: &Path) -> Result<PathBuf, Failure> {
    directory(config, "pin-directory", PINS)
}

/// The directory that a key names, relative to the file that has it.
fn directory(config: &Path, key: &str, unless: &str) -> Result<PathBuf, Failure> {
    let text = match std::fs::read_to_string(config) {
        Ok(text) => text,
        // Every key has a default, and so has the file.
        Err(error) if error.kind() == io::ErrorKind::NotFound && config == Path::new(CONFIG) => {
            return Ok(unless.into());
        }
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run this with sudo, or ask for leave to read it"
                }
                _ => "give the daemon's own file with --config",
            };
            let exit = match error.kind() {
                io::ErrorKind::PermissionDenied => Exit::NOT_ALLOWED,
                _ => Exit::CONFIG,
            };
            let config = config.display();
            let message = format!("cannot read the configuration {config}: {error}; {remedy}");
            return Err(Failure::new(exit, message));
        }
    };
    // Whatever else is wrong in it, `meterd check` tells.
    let (table, _errors) = DeTable::parse_recoverable(&text);
    let named = table
        .get_ref()
        .get(key)
        .and_then(|value| match value.get_ref() {
            DeValue::String(directory) => Some(directory.clone().into_owned()),
            _ => None,
        });
    let directory = named.unwrap_or_else(|| unless.to_owned());
    Ok(config.parent().unwrap_or(Path::new("")).join(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_through_the_file_even_where_the_rest_of_it_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("meterd.toml");
        for (text, expected) in [
            ("", PathBuf::from("/run/meterd/meterd.sock")),
            (
                "runtime-directory = \"/tmp/x\"",
                "/tmp/x/meterd.sock".into(),
            ),
            (
                "runtime-directory = \"run\"",
                directory.path().join("run/meterd.sock"),
            ),
            (
                "colour = \"red\"\nruntime-directory = \"/tmp/x\"\npoll-interval = \n[[machine\n",
                "/tmp/x/meterd.sock".into(),
            ),
        ] {
            std::fs::write(&config, text).unwrap();
            assert_eq!(socket(&config).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_file_that_was_named_and_is_not_there_is_a_configuration_error() {
        let failure = socket(Path::new("/nonexistent/meterd.toml")).unwrap_err();
        assert_eq!(failure.exit, Exit::CONFIG);
        assert!(failure.message.contains("/nonexistent/meterd.toml"));
    }
}
