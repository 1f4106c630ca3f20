//! Tables in Markdown: what a measurement prints can stand in a document as it is.

/// A table with these headings; each row has as many cells.
#[must_use]
pub fn markdown(headings: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        cells.fold("|".to_owned(), |line, cell| format!("{line} {cell} |")) + "\n"
    };
    let mut text = line(&mut headings.iter().copied());
    text += &format!("|{}\n", "---|".repeat(headings.len()));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_a_row_under_its_headings() {
        let rows = [vec!["empty".to_owned(), "34 ns".to_owned()]];
        let text = markdown(&["program", "cost"], &rows);
        assert_eq!(text, "| program | cost |\n|---|---|\n| empty | 34 ns |\n");
    }
}
