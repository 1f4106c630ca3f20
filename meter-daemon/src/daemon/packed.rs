//! Tables of what there is twenty thousand of, as full as they can be. Knows nothing of what is in
//! them.

use std::collections::BTreeMap;

/// Makes each node of the table full: keys that come in order, as those of slots and interfaces do
/// at a start, leave every node half empty behind them.
pub(super) fn pack<K: Ord, V>(table: &mut BTreeMap<K, V>) {
    *table = std::mem::take(table).into_iter().collect();
}
