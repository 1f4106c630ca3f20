//! The key that statements are signed with: made on first use, in the state directory, for
//! its owner only.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ed25519_dalek::SigningKey;
use rustix::rand::{GetRandomFlags, getrandom};

use super::{LedgerError, statement::Hex};

const NAME: &str = "statement.key";

/// Where it is.
#[must_use]
pub fn key_file(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// The key of a state directory, made there where it has none.
///
/// # Errors
/// Why it could not be had. A damaged key is refused, never replaced.
pub fn signing_key(directory: &Path) -> Result<SigningKey, LedgerError> {
    let file = key_file(directory);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let Hex(seed) = text
                .trim()
                .parse()
                .map_err(|_| LedgerError::Key { file: file.clone() })?;
            Ok(SigningKey::from_bytes(&seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(directory, &file)
                .map_err(|error| LedgerError::io("making the key for statements", &file, &error))?;
            // Not what was made here, should somebody have made one at the same time.
            signing_key(directory)
        }
        Err(error) => Err(LedgerError::io(
            "reading the key for statements",
            &file,
            &error,
        )),
    }
}

/// Whole or not at all, and never over another.
fn make(directory: &Path, file: &Path) -> io::Result<()> {
    let mut seed = [0; 32];
    getrandom(&mut seed, GetRandomFlags::empty())?;
    let new = directory.join(format!(".{NAME}.{}.new", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut written = options.open(&new)?;
    writeln!(written, "{}", Hex(seed))?;
    written.sync_all()?;
    let linked = match fs::hard_link(&new, file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    };
    fs::remove_file(&new)?;
    linked?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_for_its_owner_only_and_a_damaged_one_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let first = signing_key(directory.path()).unwrap();
        assert_eq!(signing_key(directory.path()).unwrap(), first);
        let file = key_file(directory.path());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&file, "oops").unwrap();
        let error = signing_key(directory.path()).unwrap_err();
        assert!(error.to_string().contains("statement.key"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "oops");
    }
}
