//! What the running kernel must have for the tests that use it, and what it lacks by name.

use std::{fs, process::Command};

/// The oldest kernel that meterd supports.
const OLDEST: (u32, u32) = (6, 1);

/// Options of the kernel's configuration, and what needs them.
const OPTIONS: [(&str, &str); 11] = [
    ("CONFIG_BPF_SYSCALL", "kernel programs and bpffs"),
    ("CONFIG_NET_NS", "the tests' network namespaces"),
    ("CONFIG_VETH", "the tests' guests"),
    ("CONFIG_TUN", "the tests' taps"),
    ("CONFIG_PACKET", "the tests' captures"),
    ("CONFIG_NET_CLS_ACT", "programs at an interface's hooks"),
    ("CONFIG_NET_CLS_BPF", "attachment where TCX is missing"),
    ("CONFIG_NET_SCH_INGRESS", "attachment: TCX or clsact"),
    ("CONFIG_NET_SCH_HTB", "the throttle"),
    ("CONFIG_NET_SCH_TBF", "the throttle"),
    ("CONFIG_IFB", "the throttle of what a guest sends"),
];

/// Fails on a kernel where nothing could work.
pub(crate) fn check() -> Result<(), String> {
    let release = release();
    match version(&release) {
        Some(version) if version < OLDEST => Err(format!(
            "this part needs Linux {}.{} or newer; this is {release}",
            OLDEST.0, OLDEST.1
        )),
        _ => Ok(()),
    }
}

/// Sentences to add to a failure: what this kernel was built without. Empty where it lacks
/// nothing or does not show its configuration.
pub(crate) fn lacking() -> String {
    let lines: String = configuration()
        .map(|text| missing(&text))
        .unwrap_or_default()
        .iter()
        .map(|(option, purpose)| format!("\n  {option}: {purpose}"))
        .collect();
    if lines.is_empty() {
        lines
    } else {
        format!(
            "\nThis kernel ({}) was built without what some of it needs:{lines}",
            release()
        )
    }
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The configuration, from wherever this distribution shows it.
fn configuration() -> Option<String> {
    let release = release();
    let file = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ]
    .into_iter()
    .find_map(|path| fs::read_to_string(path).ok());
    file.or_else(|| {
        let output = Command::new("gzip")
            .args(["--decompress", "--stdout", "/proc/config.gz"])
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

fn missing(configuration: &str) -> Vec<(&'static str, &'static str)> {
    OPTIONS
        .into_iter()
        .filter(|(option, _)| {
            !configuration.lines().any(|line| {
                line.strip_prefix(option)
                    .is_some_and(|value| matches!(value, "=y" | "=m"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_figures() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert!(version("5.15.0-91-generic") < Some(OLDEST));
        assert!(version("10.0.1") > Some(OLDEST));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn what_is_missing_is_named_and_a_module_counts_as_there() {
        let text: String = OPTIONS
            .iter()
            .map(|(option, _)| match *option {
                "CONFIG_IFB" => "# CONFIG_IFB is not set\n".to_owned(),
                "CONFIG_NET_SCH_TBF" => format!("{option}=m\n"),
                // A longer name is another option.
                "CONFIG_VETH" => format!("{option}_EXTRA=y\n"),
                _ => format!("{option}=y\n"),
            })
            .collect();
        let names: Vec<_> = missing(&text).iter().map(|(option, _)| *option).collect();
        assert_eq!(names, ["CONFIG_VETH", "CONFIG_IFB"]);
    }
}
