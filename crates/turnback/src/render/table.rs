//! A plain table: columns lined up, nothing drawn.

use anstyle::Style;

use super::style::{FAINT, paint};

/// One cell: its text, which must be harmless already, and its style.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Plain text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new() }
    }

    /// Text in a style.
    pub(crate) fn styled(style: Style, text: impl Into<String>) -> Self {
        Self { text: text.into(), style }
    }
}

/// The table with a heading for each column. The last column is not padded.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let headings = headings.iter().map(|h| Cell::styled(FAINT, *h)).collect();
    let mut out = String::new();
    for row in std::iter::once(headings).chain(rows) {
        let last = row.len().saturating_sub(1);
        for (at, cell) in row.iter().enumerate() {
            out.push_str(&paint(cell.style, &cell.text));
            if at < last {
                let width = widths.get(at).copied().unwrap_or_default();
                out.push_str(&" ".repeat(width.saturating_sub(cell.text.chars().count()) + 2));
            }
        }
        out.push('\n');
    }
    out
}
