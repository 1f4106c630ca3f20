//! Attachment by tcx (Linux 6.6 and later): one pinned link a hook, and no qdisc.
//!
//! Always a link, never `BPF_PROG_ATTACH`: programs attached without one could be detached
//! by any local user (CVE-2026-45932), and nobody would hold them by name.

use std::{io, os::fd::AsFd};

use super::{
    bpf::{self, Place},
    error::HostError,
    load::Program,
    pins::{self, Hook, Pins},
};

/// The loopback interface of every network namespace.
const LOOPBACK: u32 = 1;

/// Whether the kernel has it. Asking what stands on a hook changes nothing.
pub(super) fn is_there() -> io::Result<bool> {
    match bpf::programs_on(LOOPBACK, Hook::Sent.attach_type()) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the program is where it should be: anywhere on the hook for a meter, last for the
/// shaper, since it ends the chain. An interface that is gone has nothing.
pub(super) fn stands(ifindex: u32, hook: Hook, program: &Program) -> Result<bool, HostError> {
    let ids = match bpf::programs_on(ifindex, hook.attach_type()) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        result => result.map_err(|error| {
            HostError::system(format!("list the programs of interface {ifindex}"), error)
        })?,
    };
    Ok(match hook {
        Hook::Received | Hook::Sent => ids.contains(&program.id),
        Hook::Shape => ids.last() == Some(&program.id),
    })
}

/// Attaches the program, unless it stands.
pub(super) fn put(
    pins: &Pins,
    ifindex: u32,
    hook: Hook,
    program: &Program,
) -> Result<(), HostError> {
    if stands(ifindex, hook, program)? {
        return Ok(());
    }
    // A link of an interface that is gone, or the shaper's that is no longer last.
    take(pins, ifindex, hook)?;
    let place = match hook {
        // First, so that what a foreign program drops was still seen.
        Hook::Received | Hook::Sent => Place::First,
        Hook::Shape => Place::Last,
    };
    let link = bpf::create_link(program.fd.as_fd(), ifindex, hook.attach_type(), place)
        .map_err(|error| attach_error(ifindex, hook, error))?;
    let path = pins.link(ifindex, hook);
    bpf::pin(link.as_fd(), &path)
        .map_err(|error| HostError::system(format!("pin the link {}", path.display()), error))
}

/// What the kernel says where an interface is not there.
pub(super) fn attach_error(ifindex: u32, hook: Hook, error: io::Error) -> HostError {
    if error.raw_os_error() == Some(libc::ENODEV) {
        return HostError::NoInterface {
            attempted: "attach to",
            ifindex,
        };
    }
    let name = hook.as_str();
    HostError::system(format!("attach `{name}` to interface {ifindex}"), error)
}

/// Detaches what is pinned for the hook, at once. Says whether there was something.
pub(super) fn take(pins: &Pins, ifindex: u32, hook: Hook) -> Result<bool, HostError> {
    let path = pins.link(ifindex, hook);
    let link = match bpf::open_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            return Err(HostError::system(
                format!("open the link {}", path.display()),
                error,
            ));
        }
    };
    // A link whose interface is gone has nothing left to detach, which is no error.
    bpf::detach_link(link.as_fd()).map_err(|error| {
        HostError::system(
            format!("detach `{}` from interface {ifindex}", hook.as_str()),
            error,
        )
    })?;
    pins::remove_file(&path)
}

/// Puts the program into a pinned link in place of its predecessor, between two packets. A
/// link whose interface is gone is left as it is.
pub(super) fn renew(
    pins: &Pins,
    ifindex: u32,
    hook: Hook,
    program: &Program,
) -> Result<(), HostError> {
    let path = pins.link(ifindex, hook);
    let renewed =
        bpf::open_pin(&path).and_then(|link| bpf::update_link(link.as_fd(), program.fd.as_fd()));
    match renewed {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        result => result.map_err(|error| {
            HostError::system(format!("replace the program of {}", path.display()), error)
        }),
    }
}
