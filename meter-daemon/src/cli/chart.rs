//! A chart of text: what was used over time, with a line at what there was to be used.

use crate::engine::units::Bytes;

/// What stands at one place of the time axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Column {
    /// None: not yet.
    pub(super) used: Option<Bytes>,
    /// None: as much as there is.
    pub(super) available: Option<Bytes>,
}

/// How the vertical axis divides what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// In equal parts.
    Linear,
    /// Each part twice the one two below it, so that the first days can be seen beside the whole.
    Exponential,
}

/// Rows of a linear axis, and of an exponential one: down to a fiftieth of the top.
const LINEAR: usize = 10;
const EXPONENTIAL: usize = 12;

/// Columns left of the plot: a volume, a blank, the axis.
pub(super) const MARGIN: usize = 11;

/// The plot over its time axis, each column `width` characters wide.
pub(super) fn draw(columns: &[Column], axis: Axis, width: usize) -> String {
    let both = |column: &Column| column.used.max(column.available).unwrap_or_default();
    let top = columns.iter().map(both).max().unwrap_or_default();
    let edges = axis.edges(top);
    let mut text = String::new();
    for (floor, ceiling) in edges.iter().zip(&edges[1..]).rev() {
        let line: String = columns
            .iter()
            .map(|column| cell(column, *floor, *ceiling).to_string().repeat(width))
            .collect();
        let label = ceiling.to_string();
        text.push_str(&format!("{label:>9} │{}\n", line.trim_end()));
    }
    let base = "─".repeat(columns.len() * width);
    text.push_str(&format!("{:>9} └{base}\n", "0 B"));
    text
}

/// A column reaches a row when it fills it to the half; in the row of what is available, when
/// it has used all of that.
fn cell(column: &Column, floor: Bytes, ceiling: Bytes) -> char {
    let used = column.used.unwrap_or_default();
    let limit = column
        .available
        .filter(|available| *available > floor && *available <= ceiling);
    let middle = Bytes(floor.0 + (ceiling.0 - floor.0) / 2);
    match limit {
        Some(limit) if used >= limit && used > Bytes::ZERO => '█',
        Some(_) => '─',
        None if used > middle => '█',
        None => ' ',
    }
}

impl Axis {
    /// From nothing to at least `top`, one more than there are rows.
    fn edges(self, top: Bytes) -> Vec<Bytes> {
        match self {
            Self::Linear => {
                let step = top.0.div_ceil(LINEAR as u64).max(1);
                (0..=LINEAR as u64)
                    .map(|row| Bytes(step.saturating_mul(row)))
                    .collect()
            }
            Self::Exponential => {
                // Every second edge is half of the one two above; between them lies 1/√2 of the
                // upper, in 256ths. Where halves come to nothing, the edges fall together.
                let half = |halvings: usize| (top.0 >> halvings).max(1);
                let part = |down: usize| match down % 2 {
                    0 => Bytes(half(down / 2)),
                    _ => {
                        let between = u128::from(half(down / 2)) * 181 / 256;
                        let below = half(down / 2 + 1);
                        Bytes(u64::try_from(between).unwrap_or(below).max(below))
                    }
                };
                let parts = (0..EXPONENTIAL).rev().map(part);
                std::iter::once(Bytes::ZERO).chain(parts).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days() -> Vec<Column> {
        let column = |day: u64| Column {
            used: (day < 9).then_some(Bytes(day * day * 16_000_000_000)),
            available: Some(Bytes(if day < 6 { 500 } else { 1000 } * 1_000_000_000)),
        };
        (0..12).map(column).collect()
    }

    #[test]
    fn the_line_moves_up_when_volume_is_added() {
        insta::assert_snapshot!(draw(&days(), Axis::Linear, 1), @r"
         1.02 TB │      ──█───
        921.6 GB │        █
        819.2 GB │       ██
        716.8 GB │       ██
        614.4 GB │      ███
          512 GB │──────███
        409.6 GB │     ████
        307.2 GB │     ████
        204.8 GB │    █████
        102.4 GB │  ███████
             0 B └────────────
        ");
    }

    #[test]
    fn an_exponential_axis_shows_the_first_days_too() {
        insta::assert_snapshot!(draw(&days(), Axis::Exponential, 2), @r"
         1.02 TB │            ────██──────
          724 GB │              ████
          512 GB │────────────██████
          362 GB │          ████████
          256 GB │        ██████████
          181 GB │        ██████████
          128 GB │      ████████████
         90.5 GB │      ████████████
           64 GB │    ██████████████
        45.25 GB │    ██████████████
           32 GB │    ██████████████
        22.62 GB │  ████████████████
             0 B └────────────────────────
        ");
    }

    #[test]
    fn nothing_used_of_nothing_is_an_empty_plot() {
        for axis in [Axis::Linear, Axis::Exponential] {
            let plot = draw(&[Column::default(); 3], axis, 1);
            assert!(!plot.contains('█'), "{plot}");
        }
    }

    #[test]
    fn no_volume_is_too_large_for_an_axis() {
        let most = Column {
            used: Some(Bytes(u64::MAX)),
            available: None,
        };
        for axis in [Axis::Linear, Axis::Exponential] {
            assert!(draw(&[most], axis, 1).contains('█'));
            let edges = axis.edges(Bytes(u64::MAX));
            assert!(edges.is_sorted() && edges.last() == Some(&Bytes(u64::MAX)));
        }
    }
}
