//! Hypervisors as far as a meter sees them: libvirt's files, its taps, and hooks as it and
//! Proxmox VE call them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::mount::{MountFlags, mount};

use crate::{
    Context, Result,
    links::{self, Mac},
    meterd::Meterd,
    tap::Tap,
};

/// A domain with one bridged interface, as libvirt hands it to its hooks.
pub fn domain(name: &str, uuid: &str, mac: Mac, target: &str) -> String {
    let Mac([a, b, c, d, e, f]) = mac;
    format!(
        "<domain type='kvm' id='1'>\n  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n  <devices>\n    \
         <interface type='bridge'>\n      \
         <mac address='{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}'/>\n      \
         <source bridge='vmbr0'/>\n      <target dev='{target}'/>\n      \
         <model type='virtio'/>\n    </interface>\n  </devices>\n</domain>\n"
    )
}

/// A private `/run` with libvirt's directory of running domains.
pub fn libvirt_directory() -> Result<PathBuf> {
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)
        .could_not(|| "mount a tmpfs at /run")?;
    let directory = PathBuf::from("/run/libvirt/qemu");
    fs::create_dir_all(&directory).could_not(|| "make libvirt's directory")?;
    Ok(directory)
}

/// As libvirt replaces a status file: whole.
pub fn running(directory: &Path, name: &str, domain: &str) -> Result<()> {
    let text =
        format!("<domstatus state='running' reason='booted' pid='1'>\n{domain}</domstatus>\n");
    let new = directory.join(format!("{name}.xml.new"));
    fs::write(&new, text).could_not(|| "write a status file")?;
    fs::rename(&new, directory.join(format!("{name}.xml"))).could_not(|| "put it there")
}

/// A real tap with the address that libvirt gives it, and a guest that sends frames.
pub fn tap(name: &str, mac: Mac) -> Result<Tap> {
    let tap = Tap::new(name)?;
    let Mac([_, b, c, d, e, f]) = mac;
    links::set_mac(name, Mac([0xfe, b, c, d, e, f]))?;
    Ok(tap)
}

/// `meterd` as a hook finds it: a program of one word.
fn installed(meterd: &Meterd<'_>, binary: &Path) -> Result<PathBuf> {
    let path = meterd.directory().join("meterd");
    let config = meterd.directory().join("meterd.toml");
    let text = format!(
        "#!/bin/sh\nexec {} --config {} \"$@\"\n",
        binary.display(),
        config.display()
    );
    fs::write(&path, text).could_not(|| "write a wrapper")?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, mode).could_not(|| "make it executable")?;
    Ok(path)
}

/// A hook as the project ships it.
#[must_use]
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config/hooks")
        .join(name)
}

/// Runs a hook by sh, as its hypervisor would; what it says goes to a logger of the test's.
pub fn hook(
    meterd: &Meterd<'_>,
    binary: &Path,
    name: &str,
    arguments: &[&str],
    xml: &str,
) -> Result<(Output, String)> {
    let tools = meterd.directory().join("tools");
    let journal = meterd.directory().join("journal");
    fs::create_dir_all(&tools).could_not(|| "make a folder")?;
    let logger = format!("#!/bin/sh\necho \"$@\" >>{}\n", journal.display());
    fs::write(tools.join("logger"), logger).could_not(|| "write a logger")?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(tools.join("logger"), mode).could_not(|| "make it executable")?;
    let mut child = Command::new("sh")
        .arg(shipped(name))
        .args(arguments)
        .env("METERD", installed(meterd, binary)?)
        .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .could_not(|| "run the hook")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that is not interested does not read.
        drop(std::io::Write::write_all(&mut stdin, xml.as_bytes()));
    }
    let output = child.wait_with_output().could_not(|| "wait for the hook")?;
    Ok((output, fs::read_to_string(journal).unwrap_or_default()))
}
