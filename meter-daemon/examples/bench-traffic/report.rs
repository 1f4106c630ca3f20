//! What is printed: tables, one a subject, with a line under each that says how it was measured.

use std::fmt;

use meter_tests::table::markdown;

/// A subject.
struct Section {
    title: &'static str,
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    how: String,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Report {
    sections: Vec<Section>,
    missing: Vec<String>,
}

impl Report {
    /// Begins a table.
    pub(crate) fn section(&mut self, title: &'static str, headings: &[&'static str], how: String) {
        self.sections.push(Section {
            title,
            headings: headings.to_vec(),
            rows: Vec::new(),
            how,
        });
    }

    /// The next row of the last table; also shown at once, as some take long.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        eprintln!("bench: {}", cells.join(": "));
        if let Some(section) = self.sections.last_mut() {
            section.rows.push(cells.to_vec());
        }
    }

    /// This machine has not what it takes.
    pub(crate) fn missing(&mut self, what: String) {
        self.missing.push(what);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            let table = markdown(&section.headings, &section.rows);
            writeln!(f, "### {}\n\n{table}\n{}\n", section.title, section.how)?;
        }
        if !self.missing.is_empty() {
            writeln!(
                f,
                "Not installed, and so not measured: {}.",
                self.missing.join("; ")
            )?;
        }
        Ok(())
    }
}
