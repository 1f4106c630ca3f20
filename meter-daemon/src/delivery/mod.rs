//! From the outbox to whoever is to be told. The journal is the way out that is always
//! there: each notice is a line of it.

use tracing::info;

use crate::ledger::{Ledger, LedgerError, Queued};

/// Notices taken from the outbox at once.
const AT_ONCE: usize = 256;

/// Writes what waits in the outbox to the journal and marks it as delivered. A crash in
/// between repeats a line, under the same id.
///
/// # Errors
/// When the outbox cannot be read or marked; what waits stays there.
pub fn journal(
    ledger: &mut Ledger,
    waiting: Vec<Queued>,
    now: jiff::Timestamp,
) -> Result<(), LedgerError> {
    for notices in waiting.chunks(AT_ONCE) {
        for notice in notices {
            let text = |field: &str| notice.body[field].as_str().unwrap_or_default().to_owned();
            info!(
                id = notice.id,
                machine = text("machine"),
                rule = text("rule"),
                "notice: {}",
                text("message")
            );
        }
        let ids: Vec<String> = notices.iter().map(|notice| notice.id.clone()).collect();
        ledger.settle(&ids, now)?;
    }
    Ok(())
}
