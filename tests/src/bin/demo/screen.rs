//! What the demonstration looks like: aligned, at most 92 columns, in colour and with lines
//! that move on a terminal only.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Standard output.
pub(crate) struct Screen {
    start: Instant,
    terminal: bool,
    moving: bool,
}

/// What a line is as wide as at most.
const COLUMNS: usize = 92;
/// Of that, what is said first of each.
const WHAT: usize = 13;
/// And what remains for the text.
const TEXT: usize = COLUMNS - 12 - WHAT;

/// How a piece of text is shown on a terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
    Cyan,
}

impl Paint {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "1;31",
            Self::Cyan => "36",
        }
    }
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            start: Instant::now(),
            terminal,
            moving: false,
        }
    }

    /// The clock begins anew.
    pub(crate) fn restart(&mut self) {
        self.start = Instant::now();
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The text in its colour, on a terminal.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        if self.terminal && paint != Paint::Plain {
            format!("\x1b[{}m{text}\x1b[0m", paint.code())
        } else {
            text.to_owned()
        }
    }

    /// A line without a time.
    pub(crate) fn plain(&mut self, text: &str) {
        self.write(&format!("{text}\n"), false);
    }

    /// A sentence of somebody else's, wrapped.
    pub(crate) fn sentence(&mut self, text: &str) {
        let lines = wrapped(text, COLUMNS - 4);
        self.plain(&format!("  {}", lines.join("\n    ")));
    }

    /// A line of somebody else's, cut where it would not fit.
    pub(crate) fn cut(&mut self, text: &str) {
        let fits = text.chars().count() <= COLUMNS;
        let short: String = text.chars().take(COLUMNS - 1).collect();
        self.plain(&if fits { text.to_owned() } else { short + "…" });
    }

    /// Between two stories.
    pub(crate) fn rule(&mut self) {
        let rule = self.paint(Paint::Dim, &"─".repeat(COLUMNS));
        self.plain(&format!("\n{rule}\n"));
    }

    /// The beginning of an act.
    pub(crate) fn act(&mut self, text: &str) {
        let title = self.paint(Paint::Bold, text);
        self.plain(&format!("\n{title}"));
    }

    /// Something that happened now.
    pub(crate) fn now(&mut self, what: &str, paint: Paint, text: &str) {
        let line = self.timed(what, paint, text);
        self.write(&format!("{line}\n"), false);
    }

    /// Something that was said now, at whatever length.
    pub(crate) fn said(&mut self, what: &str, paint: Paint, text: &str) {
        let indent = format!("\n{}", " ".repeat(COLUMNS - TEXT));
        self.now(what, paint, &wrapped(text, TEXT).join(&indent));
    }

    /// Something that goes on: the next line takes its place, on a terminal.
    pub(crate) fn moving(&mut self, what: &str, paint: Paint, text: &str) {
        if self.terminal {
            let line = self.timed(what, paint, text);
            self.write(&line, true);
        }
    }

    fn timed(&self, what: &str, paint: Paint, text: &str) -> String {
        let seconds = self.elapsed().as_secs_f64();
        let time = self.paint(Paint::Dim, &format!("{seconds:5.1} s"));
        let what = self.paint(paint, &format!("{what:<WHAT$}"));
        format!("  {time}  {what} {text}")
    }

    fn write(&mut self, text: &str, moving: bool) {
        let clear = if self.moving { "\r\x1b[2K" } else { "" };
        self.moving = moving;
        let mut out = std::io::stdout().lock();
        // Who closed the other end of the pipe has seen enough; the checks go on.
        drop(write!(out, "{clear}{text}").and_then(|()| out.flush()));
    }

    /// A bar of 25, for 0 to 125 percent.
    pub(crate) fn bar(&self, percent: u64) -> String {
        let full = usize::try_from(percent / 5).unwrap_or(25).min(25);
        let paint = match percent {
            0..80 => Paint::Green,
            80..105 => Paint::Yellow,
            _ => Paint::Red,
        };
        let rest = self.paint(Paint::Dim, &"░".repeat(25 - full));
        format!("{}{rest}", self.paint(paint, &"█".repeat(full)))
    }
}

/// In lines of at most so many columns.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().filter(|line| {
            line.is_empty() || line.chars().count() + 1 + word.chars().count() <= columns
        });
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_wrapped_between_words() {
        assert_eq!(wrapped("", TEXT), [""]);
        assert_eq!(wrapped("a few words", TEXT), ["a few words"]);
        let lines = wrapped(&"abcd ".repeat(25), TEXT);
        assert_eq!(
            lines.iter().map(|line| line.len()).collect::<Vec<_>>(),
            [64, 59]
        );
    }
}
