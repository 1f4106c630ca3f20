//! The tables, version by version. Forward only: a ledger that is newer than the program
//! is refused, never read by guesswork.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{LedgerError, settled};

/// `mtrd`, in the header's application id, so that `file` and we know it for a ledger.
const APPLICATION_ID: i64 = 0x6d74_7264;

/// Leads from one version to the next, within a transaction of the caller's.
type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// Entry `n` leads from version `n` to `n + 1`. What was released is never edited; each
/// released version has a ledger in `tests/released`.
const MIGRATIONS: &[Migration] = &[
    |connection| connection.execute_batch(include_str!("schema-1.sql")),
    |connection| {
        connection.execute_batch(include_str!("schema-2.sql"))?;
        settled::open_accounts(connection)
    },
];

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

/// Leads from `version` to the newest, whole or not at all.
pub(super) fn migrate(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    if version == known() {
        return Ok(());
    }
    let done = usize::try_from(version).unwrap_or(0);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in MIGRATIONS.iter().skip(done) {
        migration(&transaction)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known())?;
    transaction.commit()
}
