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
            | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}')
}

/// Whether `c` is drawn over the character before it: the blocks of combining marks no one language owns.
const fn piles_up(c: char) -> bool {
    matches!(c, '\u{0300}'..='\u{036F}' | '\u{0483}'..='\u{0489}' | '\u{1AB0}'..='\u{1AFF}'
        | '\u{1DC0}'..='\u{1DFF}' | '\u{20D0}'..='\u{20FF}' | '\u{FE20}'..='\u{FE2F}')
}

/// Marks over one character that are left as they are. Written languages need fewer; hundreds of them run
/// over the lines above and below.
const MARKS: u32 = 4;

/// `text` as a file system or a person who does not look at capitals reads it: what rules that protect a
/// name must compare. Also brings together letters that differ only in capitals' history (`ſ`, `K`).
///
/// ```
/// use turnback_core::text::folded;
///
/// assert_eq!(folded(".CurSor/\u{212a}eys"), ".cursor/keys");
/// ```
pub fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
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
    let mut marks = 0;
    for c in text.chars() {
        marks = if piles_up(c) { marks + 1 } else { 0 };
        if marks > MARKS || (misleads(c) && !keep(c)) {
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
        assert_eq!(visible("short\u{1bca0}hand"), "short<U+1BCA0>hand");
        assert_eq!(visible(&format!("a{}b", "\u{301}".repeat(6))), "a\u{301}\u{301}\u{301}\u{301}<U+0301><U+0301>b");
        assert_eq!(visible("Việt\u{302}\u{323}"), "Việt\u{302}\u{323}");
    }

    #[test]
    fn folding_brings_spellings_together() {
        for (text, as_) in [
            (".GIT/Config", ".git/config"),
            ("\u{17f}ecret", "secret"),
            ("STRASSE", "strasse"),
            ("straße", "strasse"),
            ("a.txt", "a.txt"),
        ] {
            assert_eq!(folded(text), as_);
            assert_eq!(folded(&folded(text)), as_);
        }
    }
}
