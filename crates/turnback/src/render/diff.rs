//! Foreign text of several lines: diffs, and what an agent wrote.

use anstyle::Style;
use turnback_core::text::visible_lines;

use super::style::{BAD, FAINT, GOOD, STRONG, TYPE, paint};

/// Lines behind a gutter, whole. Nothing in them can look like a line of ours.
pub(crate) fn quoted(text: &str, style_of: impl Fn(&str) -> Style) -> String {
    let mut out = String::new();
    for line in visible_lines(text).trim_end_matches('\n').split('\n') {
        out.push_str("  ");
        out.push_str(&paint(FAINT, "│"));
        if !line.is_empty() {
            out.push(' ');
            out.push_str(&paint(style_of(line), line));
        }
        out.push('\n');
    }
    out
}

/// A diff, never truncated.
pub(crate) fn diff(text: &str) -> String {
    quoted(text, |line| match line.as_bytes() {
        [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => STRONG,
        [b'+', ..] => GOOD,
        [b'-', ..] => BAD,
        [b'@', b'@', ..] => TYPE,
        _ => Style::new(),
    })
}
