//! The tables, version by version. Forward only: a ledger that is newer than the program
//! is refused, never read by guesswork.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::LedgerError;

/// `mtrd`, in the header's application id, so that `file` and we know it for a ledger.
const APPLICATION_ID: i64 = 0x6d74_7264;

/// Entry `n` leads from version `n` to `n + 1`. What was released is never edited.
const MIGRATIONS: &[&str] = &[include_str!("schema-1.sql")];

/// The version that this program writes.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Refuses what is newer, and what is another program's.
pub(super) fn check(connection: &Connection, file: &Path) -> Result<i64, LedgerError> {
    let pragma = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|error| LedgerError::sqlite("reading the schema's version", file, &error))
    };
    let application = pragma("application_id")?;
    let found = pragma("user_version")?;
    if application != APPLICATION_ID || found < 1 {
        return Err(LedgerError::Corrupt {
            file: file.to_owned(),
            cause: "it is an SQLite database, but no ledger of meterd's".to_owned(),
        });
    }
    if found > known() {
        return Err(LedgerError::Newer {
            file: file.to_owned(),
            found,
            known: known(),
        });
    }
    Ok(found)
}

/// Leads from `version` to the newest, each step a transaction of its own.
pub(super) fn migrate(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(version).unwrap_or(0);
    for (script, version) in MIGRATIONS.iter().zip(1_i64..).skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(script)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}
