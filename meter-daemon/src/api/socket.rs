//! Making the control socket: nobody may connect before its owner and mode are right, and a
//! socket that another daemon attends is not taken from it.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener as StdListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Mode},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

use super::access::Access;

/// The socket's name in the runtime directory.
pub const NAME: &str = "meterd.sock";

/// Connections that may wait for the daemon to accept them.
const BACKLOG: i32 = 128;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error(
        "another meterd attends the control socket {0}: stop that one first, or give this one a \
         `runtime-directory` of its own"
    )]
    Taken(PathBuf),
    /// The system refused.
    #[error("cannot {attempt} {path}: {error}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Makes `meterd.sock` in the runtime directory (and the directory, where it is missing).
/// Mode 0660 and group `meterd` where that group exists, otherwise 0600.
///
/// # Errors
/// When another daemon attends it, or the system refuses. Must be called within a runtime.
pub fn bind(runtime_directory: &Path, access: &Access) -> Result<UnixListener, BindError> {
    let path = runtime_directory.join(NAME);
    std::fs::create_dir_all(runtime_directory)
        .map_err(failed("make the runtime directory", runtime_directory))?;
    if UnixStream::connect(&path).is_ok() {
        return Err(BindError::Taken(path));
    }
    // Made under another name and moved into place, so that whoever finds it may use it at
    // once, and what a killed daemon left behind is replaced.
    let fresh = runtime_directory.join(format!(".{NAME}.new"));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &fresh)(error));
        }
        _ => {}
    }
    let socket = listening(&fresh, access).map_err(failed("make the control socket", &fresh))?;
    std::fs::rename(&fresh, &path).map_err(failed("move the control socket to", &path))?;
    UnixListener::from_std(socket).map_err(failed("attend the control socket", &path))
}

fn listening(path: &Path, access: &Access) -> io::Result<StdListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // unix(7): bind gives the file the socket's own mode less the umask; so nobody else can
    // connect between bind and chmod.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Some(group) = access.group_id() {
        rustix::fs::chown(path, None, Some(Gid::from_raw(group)))?;
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP)?;
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |error| BindError::Io {
        attempt,
        path,
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn nobody() -> Access {
        Access {
            users: "/nonexistent".into(),
            groups: "/nonexistent".into(),
        }
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_where_the_group_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().join("run");
        let _listener = bind(&runtime, &nobody()).unwrap();
        let metadata = std::fs::metadata(runtime.join(NAME)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn the_socket_is_the_groups_too_where_the_group_exists() {
        let directory = tempfile::tempdir().unwrap();
        let groups = directory.path().join("group");
        // A group that this user may give files to: its own.
        let own = std::fs::metadata(directory.path()).unwrap().gid();
        std::fs::write(&groups, format!("meterd:x:{own}:\n")).unwrap();
        let _listener = bind(directory.path(), &Access { groups, ..nobody() }).unwrap();
        let metadata = std::fs::metadata(directory.path().join(NAME)).unwrap();
        assert_eq!(
            (metadata.permissions().mode() & 0o777, metadata.gid()),
            (0o660, own)
        );
    }

    #[tokio::test]
    async fn a_socket_left_by_a_killed_daemon_is_replaced_and_an_attended_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let first = bind(directory.path(), &nobody()).unwrap();
        assert!(matches!(
            bind(directory.path(), &nobody()),
            Err(BindError::Taken(_))
        ));
        drop(first);
        let _second = bind(directory.path(), &nobody()).unwrap();
        assert!(UnixStream::connect(directory.path().join(NAME)).is_ok());
    }
}
