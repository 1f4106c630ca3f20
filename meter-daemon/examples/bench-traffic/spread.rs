//! A median, and how sure it is.

/// The median of some figures with the interval that holds it in 95 of 100 runs: by the ranks of
/// the figures alone, whatever their distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one figure; of few the interval is all of them.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        // The number of figures below the median is binomial: mean n/2, deviation sqrt(n)/2.
        let mut rank = count / 2;
        let reach = 1 + (1..count).take_while(|k| k * k <= count).count();
        rank = rank.saturating_sub(reach);
        let at = |rank: usize| sorted.get(rank).copied().unwrap_or(f64::NAN);
        Self {
            median: f64::midpoint(at(count.saturating_sub(1) / 2), at(count / 2)),
            low: at(rank),
            high: at(count.saturating_sub(1 + rank)),
        }
    }

    /// With so many digits behind the point.
    pub(crate) fn show(&self, digits: usize) -> String {
        let Self { median, low, high } = self;
        format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
    }
}

/// Round by round, one against the other: what slows both in a round is gone.
pub(crate) fn paired(ours: &[f64], theirs: &[f64], difference: impl Fn(f64, f64) -> f64) -> Spread {
    Spread::of(ours.iter().zip(theirs).map(|(a, b)| difference(*a, *b)))
}
