//! One daemon on one state directory.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::LedgerError;

/// Held while it lives; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of a state directory, making the directory where it is missing.
///
/// # Errors
/// [`LedgerError::Held`] with the pid that has it; or why the file could not be had.
pub fn lock(directory: &Path) -> Result<Lock, LedgerError> {
    super::file::make_directory(directory)?;
    let path: PathBuf = directory.join("lock");
    let failed = |error| LedgerError::io("taking the lock", &path, &error);
    // Not truncated before it is ours: the pid in it is what a refused daemon shows.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // A pid that cannot be read is shown as unknown; the refusal stands.
            let _ = file.read_to_string(&mut text);
            let pid = text.trim().parse().ok();
            return Err(LedgerError::Held { file: path, pid });
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused_with_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        let refused = lock(directory.path()).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(refused, LedgerError::Held { pid: Some(held), .. } if held == pid));
        assert!(refused.to_string().contains(&format!("pid {pid}")));
        drop(first);
        lock(directory.path()).unwrap();
    }
}
