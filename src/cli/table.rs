//! Tables for people, JSON lines for programs.

use std::io::Write as _;

/// Prints rows under headings, columns aligned. What comes from clients is cleaned: a terminal is
/// not told anything.
pub(super) fn print<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::stdout().lock();
    let mut line = |cells: [&str; N]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            text.push_str(&cell.replace(crate::model::is_unprintable, "\u{fffd}"));
            text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + 2));
        }
        // A closed pipe (`| head`) is no failure.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(headings);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
}

/// Prints one JSON value a line.
pub(super) fn print_json(values: impl IntoIterator<Item = serde_json::Value>) {
    let mut out = std::io::stdout().lock();
    for value in values {
        let _ = writeln!(out, "{value}");
    }
}
