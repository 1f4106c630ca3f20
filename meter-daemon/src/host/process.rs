//! What the running daemon may do, for `meterd doctor`: its unit may have taken from it what
//! it needs. By /proc, as whoever asks.

use std::{fs, io, os::unix::net::UnixStream, path::Path};

use super::features::{self, Feature};

/// What every interface needs of descriptors: its links are held open while one is replaced.
const FILES: u64 = 4096;

/// The process that attends a socket.
///
/// # Errors
/// Where nobody does.
pub fn attending(socket: &Path) -> io::Result<u32> {
    let stream = UnixStream::connect(socket)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
}

/// What a daemon's unit may have got wrong; empty where /proc does not tell.
#[must_use]
pub fn features(pid: u32, pin_directory: &Path) -> Vec<Feature> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let mut found = Vec::new();
    if let Some(status) = read("status") {
        found.push(capabilities(&status));
    }
    if let Some(limits) = read("limits") {
        found.push(open_files(&limits));
    }
    if let Some(mounts) = read("mountinfo") {
        found.extend(writable(&mounts, pin_directory));
    }
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if let (Some(theirs), Some(ours)) = (namespace(&pid.to_string()), namespace("self")) {
        found.push(Feature {
            name: "its network",
            needed: true,
            present: theirs == ours,
            detail: match theirs == ours {
                true => "the daemon sees this network namespace's interfaces".to_owned(),
                false => format!("the daemon runs in {}, you in {}", theirs.display(), ours.display()),
            },
            remedy: "take PrivateNetwork= and NetworkNamespacePath= from the unit, or ask from the daemon's namespace",
        });
    }
    found
}

fn capabilities(status: &str) -> Feature {
    let missing = features::missing_in(status);
    Feature {
        name: "its capabilities",
        needed: true,
        present: missing.is_none(),
        detail: match missing {
            None => "the daemon has CAP_BPF and CAP_NET_ADMIN".to_owned(),
            Some(missing) => format!("the daemon lacks {missing}"),
        },
        remedy: "give the unit CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN",
    }
}

fn open_files(limits: &str) -> Feature {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().next());
    let enough = limit.is_some_and(|limit| {
        limit == "unlimited" || limit.parse().is_ok_and(|limit: u64| limit >= FILES)
    });
    Feature {
        name: "its open files",
        needed: false,
        present: enough,
        detail: format!("the daemon may hold {} files open", limit.unwrap_or("?")),
        remedy: "set LimitNOFILE=262144 in the unit",
    }
}

/// Places that the unit must let the daemon write to.
fn writable(mounts: &str, pin_directory: &Path) -> Vec<Feature> {
    let writable = |path: &Path| mount_of(mounts, path).is_none_or(|options| options == "rw");
    let feature = |name, needed, path: &Path, remedy| {
        let writable = writable(path);
        let word = if writable { "write" } else { "only read" };
        Feature {
            name,
            needed,
            present: writable,
            detail: format!("the daemon may {word} {}", path.display()),
            remedy,
        }
    };
    vec![
        feature(
            "its pins",
            true,
            pin_directory,
            "add ReadWritePaths= of that directory to the unit; ProtectKernelTunables=yes takes it away",
        ),
        feature(
            "its expedited RCU",
            false,
            Path::new("/sys/kernel/rcu_expedited"),
            "add ReadWritePaths=-/sys/kernel/rcu_expedited to the unit; without it each interface takes 40 ms to attach",
        ),
    ]
}

/// `ro` or `rw` of the mount that a path lies on: the longest that is a prefix of it, the
/// last of those (proc(5): the mount's own options are the sixth field).
fn mount_of<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let point = fields.nth(4)?;
            Some((point, fields.next()?.split(',').next()?))
        })
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, option)| option)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:20 / /sys ro,nosuid,nodev shared:7 - sysfs sysfs rw
31 30 0:30 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700
32 31 0:30 / /sys/fs/bpf ro,nosuid shared:9 - bpf bpf rw,mode=700
";

    #[test]
    fn what_a_unit_takes_away_is_named_with_the_setting_that_gives_it_back() {
        let found = writable(MOUNTS, Path::new("/sys/fs/bpf/meterd"));
        let present: Vec<_> = found.iter().map(|it| (it.name, it.present)).collect();
        assert_eq!(present, [("its pins", false), ("its expedited RCU", false)]);
        assert!(found[0].detail.contains("only read /sys/fs/bpf/meterd"));
        let elsewhere = writable(MOUNTS, Path::new("/srv/bpf"));
        assert!(elsewhere[0].present);
    }

    #[test]
    fn few_files_and_missing_capabilities_are_seen() {
        let limits =
            |n: &str| format!("Limit  Soft  Hard\nMax open files            {n}   4096 files\n");
        for (limit, enough) in [("1024", false), ("262144", true), ("unlimited", true)] {
            assert_eq!(open_files(&limits(limit)).present, enough, "{limit}");
        }
        assert!(!capabilities("CapEff:\t0000000000001000\n").present);
        assert!(capabilities("CapEff:\t0000008000001000\n").present);
    }
}
