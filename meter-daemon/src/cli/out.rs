//! What people and programs read: tables, figures and JSON on standard output.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    path::Path,
};

use comfy_table::{
    Cell, CellAlignment, Color, ContentArrangement, Table as Comfy, presets::NOTHING,
};
use serde_json::Value;

use super::failure::{Exit, Failure};
use crate::engine::{event::State, units::Bytes};

/// How things look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// On a terminal only, and not where `NO_COLOR` is set.
    pub(super) colour: bool,
}

impl Style {
    /// As standard output wants it.
    #[expect(
        clippy::disallowed_methods,
        reason = "NO_COLOR and TERM are how terminals are told"
    )]
    pub(super) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
        }
    }

    /// A state in its colour.
    pub(super) fn state(self, state: State) -> String {
        if !self.colour {
            return state.as_str().to_owned();
        }
        let code = match state {
            State::Normal => 32,
            State::Throttled => 33,
            State::Capped => 35,
            State::Suspended => 31,
        };
        format!("\x1b[{code}m{}\x1b[0m", state.as_str())
    }
}

/// Writes to standard output. A reader who has seen enough (`| head`) ends the program at
/// once, and well.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::NOBODY_READS),
        Err(error) => Err(Failure::new(
            Exit::IO,
            format!("cannot write to standard output: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

/// Writes JSON as programs take it and people can still read it.
pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// Writes a file that is whole or not there, over what was.
pub(super) fn write_file(file: &Path, text: &str) -> Result<(), Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let new = file.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let write = || -> io::Result<()> {
        let mut written = File::create(&new)?;
        written.write_all(text.as_bytes())?;
        written.sync_all()?;
        fs::rename(&new, file)
    };
    write().map_err(|error| {
        // It may not even have been made.
        let _ = fs::remove_file(&new);
        Failure::new(
            Exit::CANNOT_CREATE,
            format!("cannot write {}: {error}", file.display()),
        )
    })
}

/// A table for people: no lines, aligned columns, nothing wrapped.
pub(super) struct Table {
    table: Comfy,
    sides: Vec<Side>,
}

impl Table {
    /// An empty one, with its columns.
    pub(super) fn new(columns: &[(&str, Side)], style: Style) -> Self {
        let mut table = Comfy::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        if style.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let sides: Vec<_> = columns.iter().map(|(_, side)| *side).collect();
        let header = columns
            .iter()
            .map(|(name, side)| align(Cell::new(name), *side));
        table.set_header(header.collect::<Vec<_>>());
        Self { table, sides }
    }

    /// One more row. Control characters do not reach the terminal.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let cells = cells.into_iter().zip(&self.sides);
        let row: Vec<_> = cells
            .map(|(text, side)| align(Cell::new(plain(&text)), *side))
            .collect();
        self.table.add_row(row);
    }

    /// The same with a state in its colour at `column`.
    pub(super) fn row_with_state<const N: usize>(
        &mut self,
        cells: [String; N],
        column: usize,
        state: State,
    ) {
        let colour = match state {
            State::Normal => Color::DarkGreen,
            State::Throttled => Color::DarkYellow,
            State::Capped => Color::DarkMagenta,
            State::Suspended => Color::DarkRed,
        };
        let cells = cells.into_iter().zip(&self.sides).enumerate();
        let row: Vec<_> = cells
            .map(|(position, (text, side))| {
                let cell = align(Cell::new(plain(&text)), *side);
                if position == column {
                    cell.fg(colour)
                } else {
                    cell
                }
            })
            .collect();
        self.table.add_row(row);
    }

    /// The text, each line without blanks at its end.
    pub(super) fn render(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines = self
            .table
            .lines()
            .map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }
}

fn align(cell: Cell, side: Side) -> Cell {
    cell.set_alignment(match side {
        Side::Left => CellAlignment::Left,
        Side::Right => CellAlignment::Right,
    })
}

/// Text from elsewhere (names, reasons) may not steer the reader's terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A share in percent, rounded down to a tenth: 100 % is never shown before it is reached.
/// Empty where there is nothing to be a share of.
pub(super) fn percent(part: Bytes, whole: Bytes) -> String {
    if whole == Bytes::ZERO {
        return String::new();
    }
    let tenths = u128::from(part.0) * 1000 / u128::from(whole.0);
    match tenths % 10 {
        0 => format!("{} %", tenths / 10),
        tenth => format!("{}.{tenth} %", tenths / 10),
    }
}

/// A share as a bar of `width` characters, full where the whole is used or more.
pub(super) fn bar(part: Bytes, whole: Bytes, width: usize) -> String {
    let full = if part >= whole {
        width
    } else {
        let share = u128::from(part.0) * width as u128 / u128::from(whole.0);
        usize::try_from(share).unwrap_or(width)
    };
    format!("[{}{}]", "#".repeat(full), "-".repeat(width - full))
}

/// An instant as it was given, with its own offset, as people read it: to the second.
pub(super) fn when(instant: &str) -> String {
    let Some((date, time)) = instant.split_once('T') else {
        return plain(instant);
    };
    let offset = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, offset) = time.split_at(offset);
    let offset = if offset == "+00:00" { "Z" } else { offset };
    let time = time.split('.').next().unwrap_or(time);
    plain(&format!("{date} {time}{offset}"))
}

/// A volume, or a word where there is none.
pub(super) fn volume(volume: Option<Bytes>, none: &str) -> String {
    volume.map_or_else(|| none.to_owned(), |volume| volume.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_percent_is_not_shown_before_it_is_reached() {
        for (part, whole, text) in [
            (0, 1000, "0 %"),
            (999_999, 1_000_000, "99.9 %"),
            (1_000_000, 1_000_000, "100 %"),
            (1_050_000_000_000, 1_000_000_000_000, "105 %"),
            (u64::MAX, 1, "1844674407370955161500 %"),
            (5, 0, ""),
        ] {
            assert_eq!(percent(Bytes(part), Bytes(whole)), text);
        }
    }

    #[test]
    fn a_bar_is_full_when_all_is_used_and_not_before() {
        assert_eq!(bar(Bytes(0), Bytes(10), 5), "[-----]");
        assert_eq!(bar(Bytes(9), Bytes(10), 5), "[####-]");
        assert_eq!(bar(Bytes(10), Bytes(10), 5), "[#####]");
        assert_eq!(bar(Bytes(11), Bytes(10), 5), "[#####]");
        assert_eq!(bar(Bytes(0), Bytes(0), 5), "[#####]");
    }

    #[test]
    fn instants_keep_the_offset_they_were_given_with() {
        assert_eq!(when("2026-11-20T10:00:00.25Z"), "2026-11-20 10:00:00Z");
        assert_eq!(
            when("2026-11-20T10:00:00+01:00"),
            "2026-11-20 10:00:00+01:00"
        );
        assert_eq!(when("2026-11-20T10:00:00+00:00"), "2026-11-20 10:00:00Z");
        assert_eq!(when("soon"), "soon");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut table = Table::new(&[("A", Side::Left)], Style::default());
        table.row(["\x1b[31mred\n".to_owned()]);
        assert_eq!(table.render(), "A\n\u{fffd}[31mred\u{fffd}\n");
    }
}
