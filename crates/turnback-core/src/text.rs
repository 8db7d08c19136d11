//! Hostile text made harmless before a person sees it.
//!
//! Everything shown is rendered from our own bytes; characters that move the cursor, reverse the
//! reading direction, hide, or carry invisible instructions are replaced by a visible `<U+XXXX>`.

/// Whether `c` could mislead a reader: control, bidirectional, zero-width, tag and other
/// default-ignorable characters, and separators that terminals may treat as line ends.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}'
            | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}')
}

/// `text` on one line, with every misleading character made visible.
///
/// ```
/// use turnback_core::text::visible;
///
/// assert_eq!(visible("invoice\u{202e}fdp.exe"), "invoice<U+202E>fdp.exe");
/// ```
pub fn visible(text: &str) -> String {
    render(text, |_| false)
}

/// `text` with its line ends and tabs kept, every other misleading character made visible.
pub fn visible_lines(text: &str) -> String {
    render(text, |c| c == '\n' || c == '\t')
}

fn render(text: &str, keep: impl Fn(char) -> bool) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if misleads(c) && !keep(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "<U+{:04X}>", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misleading_characters_are_shown() {
        assert_eq!(visible("a\u{202e}b\u{200b}\x1b[2J\n"), "a<U+202E>b<U+200B><U+001B>[2J<U+000A>");
        assert_eq!(visible("tag\u{e0041}"), "tag<U+E0041>");
        assert_eq!(visible_lines("one\n\ttwo\r"), "one\n\ttwo<U+000D>");
        assert_eq!(visible("Grüße 日本"), "Grüße 日本");
    }
}
