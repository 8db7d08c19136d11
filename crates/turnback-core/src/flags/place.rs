//! Where in a document a value stands, for complaints about what it means.
//!
//! The strict parser gives values without positions; a complaint names the path to the value, and only then
//! is the text walked once more. The text is valid JSON by then, so the walk refuses nothing.

/// One step from a container to what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// One-based line and column, in characters, of a byte.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or_default().chars().count() + 1)
}

/// The offset of the value at the end of `path`, or of the key that leads to it. As far as the path exists.
pub(super) fn offset_of(text: &str, path: &[Step], at_key: bool) -> usize {
    let mut walk = Walk { text, at: 0 };
    walk.space();
    for (number, step) in path.iter().enumerate() {
        let container = walk.at;
        let found = match step {
            Step::Key(key) => walk.enter_key(key),
            Step::Index(index) => walk.enter_index(*index),
        };
        match found {
            Some(key) if at_key && number + 1 == path.len() => return key,
            Some(_) => {}
            None => return container,
        }
    }
    walk.at
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over one character when it is there.
    fn over(&mut self, wanted: u8) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    /// Stands on the value under `key` afterwards; returns where the key stands.
    fn enter_key(&mut self, key: &str) -> Option<usize> {
        if !self.over(b'{') {
            return None;
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return None;
            }
            self.string();
            let name: Option<String> = self.text.get(start..self.at).and_then(|raw| serde_json::from_str(raw).ok());
            self.space();
            self.over(b':');
            self.space();
            if name.as_deref() == Some(key) {
                return Some(start);
            }
            self.value();
            self.space();
            if !self.over(b',') {
                return None;
            }
        }
    }

    fn enter_index(&mut self, index: usize) -> Option<usize> {
        if !self.over(b'[') {
            return None;
        }
        for _ in 0..index {
            self.space();
            self.value();
            self.space();
            if !self.over(b',') {
                return None;
            }
        }
        self.space();
        Some(self.at)
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
    }

    /// Steps over one value: to the end of its outermost container, or to what follows a plain one.
    fn value(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            if depth == 0 && matches!(byte, b'"' | b'}' | b']') {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_line_and_column() {
        let text = "{\n  \"\\u0061\": {\"x,}\": [1, {\"y\": \"]\"}, [\"\\\"\"]]},\n  \"é\": true, \"b\" : [ [ ], {\"k\":null} ]\n}";
        let key = |k: &str| Step::Key(k.into());
        for (path, at_key, place) in [
            (vec![], false, (1, 1)),
            (vec![key("a")], true, (2, 3)),
            (vec![key("a"), key("x,}")], false, (2, 21)),
            (vec![key("a"), key("x,}"), Step::Index(1), key("y")], false, (2, 31)),
            (vec![key("a"), key("x,}"), Step::Index(2), Step::Index(0)], false, (2, 38)),
            (vec![key("é")], false, (3, 8)),
            (vec![key("b"), Step::Index(1), key("k")], true, (3, 28)),
            // What is not there is pointed at by what would hold it.
            (vec![key("b"), Step::Index(7)], false, (3, 20)),
            (vec![key("c")], true, (1, 1)),
        ] {
            assert_eq!(line_and_column(text, offset_of(text, &path, at_key)), place, "{path:?}");
        }
    }
}
