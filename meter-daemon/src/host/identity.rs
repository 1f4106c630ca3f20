//! Where and when we are: which boot of which kernel, and which network namespace.

#![expect(unsafe_code, reason = "a system call that no safe crate offers")]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketType};

/// include/uapi/asm-generic/socket.h; the libc crate does not have it.
const SO_NETNS_COOKIE: libc::c_int = 71;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// An identity could not be read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No boot id.
    #[error("cannot read {BOOT_ID}: {0}; is /proc mounted?")]
    Boot(#[source] io::Error),
    /// No cookie.
    #[error("cannot read the network namespace's cookie: {0}; it needs kernel 5.14 or newer")]
    Namespace(#[source] io::Error),
}

/// The random name of this boot.
pub fn boot_id() -> Result<String, IdentityError> {
    std::fs::read_to_string(BOOT_ID)
        .map(|id| id.trim().to_owned())
        .map_err(IdentityError::Boot)
}

/// The cookie of the calling thread's network namespace; not used again before a reboot.
pub fn netns_cookie() -> Result<u64, IdentityError> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .map_err(|error| IdentityError::Namespace(error.into()))?;
    cookie(&socket).map_err(IdentityError::Namespace)
}

fn cookie(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel writes at
    // most `length` bytes, which is the size of `cookie`, and the length it wrote.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_cookie_and_a_boot_one_id() {
        let cookie = netns_cookie().unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(cookie, netns_cookie().unwrap());
        assert_eq!(boot_id().unwrap().len(), 36);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
