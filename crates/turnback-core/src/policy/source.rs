//! Policy text cut into single policies, and offsets turned into lines and columns.
//!
//! Each policy is parsed alone, so that one mistake does not hide the next and every rule knows its
//! place. The cut knows only what Cedar's own lexer knows: double-quoted strings with backslash
//! escapes, and `//` comments. Should the two ever disagree, a piece fails to parse and nothing loads;
//! no text is dropped.

/// One policy's text and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Offset of its first byte in the file.
    pub(super) start: usize,
    /// From its first token to its semicolon, or to the end of the file when there is none.
    pub(super) text: &'a str,
}

/// The policies in `text`.
pub(super) fn split(text: &str) -> Vec<Piece<'_>> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::new();
    let mut start = None;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while bytes.get(at).is_some_and(|b| *b != b'\n' && *b != b'\r') {
                    at += 1;
                }
                continue;
            }
            b'"' => {
                start.get_or_insert(at);
                at += 1;
                while let Some(&inner) = bytes.get(at) {
                    match inner {
                        b'\\' => at += 1,
                        b'"' => break,
                        _ => {}
                    }
                    at += 1;
                }
            }
            b';' => {
                let first = start.take().unwrap_or(at);
                pieces.push(Piece { start: first, text: text.get(first..=at).unwrap_or_default() });
            }
            b if b.is_ascii_whitespace() => {}
            _ => {
                start.get_or_insert(at);
            }
        }
        at += 1;
    }
    if let Some(first) = start {
        pieces.push(Piece { start: first, text: text.get(first..).unwrap_or_default() });
    }
    pieces
}

/// Line and column of an offset, both from 1, the column in characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_strings_and_comments_do_not_cut() {
        let text = "// one; two\n@reason(\"a;b\\\";c\")\npermit(x); // tail;\nforbid(y);\nrest";
        let pieces: Vec<_> = split(text).iter().map(|p| p.text).collect();
        assert_eq!(pieces, ["@reason(\"a;b\\\";c\")\npermit(x);", "forbid(y);", "rest"]);
        for piece in split(text) {
            assert_eq!(text.get(piece.start..piece.start + piece.text.len()), Some(piece.text));
        }
    }

    #[test]
    fn nothing_but_comments_is_nothing() {
        assert_eq!(split("// a\n  // b"), []);
        assert_eq!(split("\"open").len(), 1);
        assert_eq!(split(";").len(), 1);
    }

    #[test]
    fn positions_count_characters() {
        let text = "ä\n  öx";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, text.find('x').unwrap()), (2, 4));
        assert_eq!(position(text, 999), (2, 5));
    }
}
