//! `/metrics`: the figures of the last poll, in OpenMetrics or the classic text.

/// Everything that is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {}
