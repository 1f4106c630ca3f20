//! Becoming root for the programs that need it, and for nothing else.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::IsTerminal,
    path::Path,
    process::Command,
};

use crate::cargo;

/// What root may do here that the tests and the demonstration need: bit in the mask, name,
/// what for.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "links, qdiscs and attaching programs"),
    (
        21,
        "CAP_SYS_ADMIN",
        "network namespaces and mounts of bpffs",
    ),
    (39, "CAP_BPF", "loading programs"),
];

/// What is worth handing through sudo, which by default drops the environment.
const HANDED_ON: [&str; 7] = [
    "CARGO",
    "HOME",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "RUST_TEST_THREADS",
    "TMPDIR",
];

/// A way to run a program as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// We are.
    Already,
    /// Through sudo, which may ask for a password on the terminal.
    Sudo,
}

impl Root {
    /// Finds the way, or says why there is none.
    pub(crate) fn find() -> Result<Self, String> {
        let status = fs::read_to_string("/proc/self/status")
            .map_err(|error| format!("cannot read /proc/self/status: {error}"))?;
        if effective_uid(&status) == Some(0) {
            let missing = missing_capabilities(&status);
            return if missing.is_empty() {
                Ok(Self::Already)
            } else {
                Err(format!(
                    "this part needs more than root has here: {}. In a container, run it with \
                     these capabilities, or on the machine itself",
                    missing.join(", ")
                ))
            };
        }
        if !cargo::answers(Command::new("sudo").arg("--version")) {
            return Err(
                "this part needs root (network namespaces, kernel programs), you are not root, \
                 and there is no sudo: run it as root"
                    .to_owned(),
            );
        }
        // Without a terminal nobody can type the password: fail now, not after the build.
        if !std::io::stdin().is_terminal()
            && !cargo::answers(Command::new("sudo").args(["--non-interactive", "true"]))
        {
            return Err(
                "this part needs root, sudo wants a password, and there is no terminal to type \
                 it at: run `sudo --validate` first, or run it as root"
                    .to_owned(),
            );
        }
        Ok(Self::Sudo)
    }

    /// A command that runs `program` as root with these variables set. They go through
    /// `env`, because many a sudo is not allowed to keep (`-E`) or set any.
    pub(crate) fn command(self, program: &Path, variables: &[(&str, &OsStr)]) -> Command {
        match self {
            Self::Already => {
                let mut command = Command::new(program);
                command.envs(variables.iter().copied());
                command
            }
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("env");
                for name in HANDED_ON {
                    if let Some(value) = std::env::var_os(name) {
                        command.arg(assignment(name, &value));
                    }
                }
                for (name, value) in variables {
                    command.arg(assignment(name, value));
                }
                command.arg(program);
                command
            }
        }
    }
}

fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(value);
    text
}

/// The second figure of `Uid:` in `/proc/self/status`.
fn effective_uid(status: &str) -> Option<u32> {
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().nth(1)?.parse().ok()
}

fn missing_capabilities(status: &str) -> Vec<String> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(bit, _, _)| mask & (1 << bit) == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\txtask\nUid:\t1000\t0\t0\t0\nCapEff:\t000001ffffffffff\n";

    #[test]
    fn root_is_who_acts_as_root_not_who_logged_in() {
        assert_eq!(effective_uid(STATUS), Some(0));
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
    }

    #[test]
    fn a_root_without_a_capability_is_told_its_name() {
        assert!(missing_capabilities(STATUS).is_empty());
        // A default container: no NET_ADMIN, no SYS_ADMIN, no BPF.
        let missing = missing_capabilities("CapEff:\t00000000a80425fb\n");
        assert_eq!(missing.len(), 3);
        assert!(missing[0].starts_with("CAP_NET_ADMIN"), "{missing:?}");
    }

    #[test]
    fn sudo_gets_the_variables_as_words_of_env() {
        let command = Root::Sudo.command(
            Path::new("/t/kernel"),
            &[("METERD", OsStr::new("/t/meterd"))],
        );
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        assert_eq!(command.get_program(), "sudo");
        assert_eq!(words.first().map(AsRef::as_ref), Some("env"));
        assert!(words.contains(&"METERD=/t/meterd".into()), "{words:?}");
        assert_eq!(words.last().map(AsRef::as_ref), Some("/t/kernel"));
    }
}
