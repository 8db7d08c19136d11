//! Strict JSON: what is hashed is what is forwarded.
//!
//! `serde_json` keeps the last of two equal keys and rounds numbers silently; two readers of the same
//! bytes could then see two different actions. So bytes are read here once: duplicate keys (in any
//! spelling), invalid UTF-8, lone surrogates, numbers that do not survive a round trip through an
//! IEEE 754 double, integers beyond ±2^53 and nesting over [`DEPTH_LIMIT`] are refused with the place
//! they stand at. The value that comes out is hashed in canonical form (RFC 8785, JCS) and handed on.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Number, Value};

/// Deepest nesting of arrays and objects accepted.
pub const DEPTH_LIMIT: usize = 64;

/// Largest integer a double holds exactly together with all its neighbours: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Which numbers are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Only numbers that every reader understands alike. For everything that is hashed.
    Exact,
    /// Any JSON number; those outside the exact range come out as `null`. For checking the structure
    /// of an envelope whose parts are forwarded as the raw bytes they are.
    Any,
}

/// Why bytes are not strict JSON, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} at byte {offset} (`{path}`)")]
pub struct JsonError {
    /// Offset of the offending byte.
    pub offset: usize,
    /// JSON Pointer (RFC 6901) of the value being read; `/` for the document. Long keys end in `…`, and of deep
    /// places only the beginning is there.
    pub path: String,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// Not UTF-8.
    NotUtf8,
    /// The same key twice in one object, whatever its spelling.
    DuplicateKey(String),
    /// A number that would change on its way through a double.
    InexactNumber(String),
    /// Nesting deeper than [`DEPTH_LIMIT`].
    TooDeep,
    /// Not JSON.
    Syntax(&'static str),
}

/// Characters of one key, number or path that are repeated in an error: it is recorded and told, and must not grow with
/// what somebody sent.
const SHOWN: usize = 80;

/// The beginning of a text, visible.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => crate::text::visible(text),
        Some((end, _)) => format!("{}…", crate::text::visible(text.get(..end).unwrap_or_default())),
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotUtf8 => f.write_str("invalid UTF-8"),
            Why::DuplicateKey(key) => write!(f, "duplicate key `{}`", shown(key)),
            Why::InexactNumber(text) => {
                write!(f, "number `{}` does not survive a round trip; send it as a string", shown(text))
            }
            Why::TooDeep => write!(f, "nesting deeper than {DEPTH_LIMIT}"),
            Why::Syntax(what) => f.write_str(what),
        }
    }
}

/// Reads one JSON document strictly, numbers included.
///
/// ```
/// use turnback_core::json::{Why, parse};
///
/// // The same key, spelled with an escape: two readers could see two different actions.
/// let error = parse(br#"{"path": "a", "p\u0061th": "b"}"#).unwrap_err();
/// assert_eq!(error.why, Why::DuplicateKey("path".into()));
/// assert_eq!(error.offset, 14);
/// ```
///
/// # Errors
/// [`JsonError`] names the first offence, its offset and its JSON Pointer.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    parse_with(bytes, Numbers::Exact)
}

/// Reads one JSON document strictly, with a choice about numbers.
///
/// # Errors
/// [`JsonError`] names the first offence, its offset and its JSON Pointer.
pub fn parse_with(bytes: &[u8], numbers: Numbers) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|e| JsonError {
        offset: e.valid_up_to(),
        path: "/".into(),
        why: Why::NotUtf8,
    })?;
    let mut reader = Reader { text, at: 0, path: Vec::new(), numbers };
    reader.skip_space();
    let value = reader.value()?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.error(Why::Syntax("something follows the document")));
    }
    Ok(value)
}

/// The canonical bytes of a value (RFC 8785). Values from [`parse`] always have them.
pub fn canonical(value: &Value) -> Vec<u8> {
    // serde_jcs fails only on non-finite floats and non-string keys; a `Value` holds neither.
    serde_jcs::to_vec(value).unwrap_or_else(|_| value.to_string().into_bytes())
}

enum Step {
    Key(String),
    Index(usize),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    path: Vec<Step>,
    numbers: Numbers,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, why: Why) -> JsonError {
        let mut path = String::new();
        for step in &self.path {
            path.push('/');
            // Eight times as long at most: what cannot be seen is spelled out.
            if path.len() > 10 * SHOWN {
                path.push('…');
                break;
            }
            match step {
                Step::Key(key) => path.push_str(&shown(key).replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => path.push_str(&index.to_string()),
            }
        }
        if path.is_empty() {
            path.push('/');
        }
        JsonError { offset: self.at, path, why }
    }

    fn syntax<T>(&self, what: &'static str) -> Result<T, JsonError> {
        Err(self.error(Why::Syntax(what)))
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        // `path` holds one step per open container, so its length is the depth.
        if self.path.len() > DEPTH_LIMIT {
            return Err(self.error(Why::TooDeep));
        }
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(Value::String),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.syntax("a value is expected"),
            None => self.syntax("the document ends where a value is expected"),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        if !self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return self.syntax("a value is expected");
        }
        self.at += word.len();
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        self.at += 1;
        let mut map = Map::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        let mut seen = HashSet::new();
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.syntax("a key in double quotes is expected");
            }
            let start = self.at;
            let key = self.string()?;
            if !seen.insert(key.clone()) {
                self.at = start;
                return Err(self.error(Why::DuplicateKey(key)));
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.syntax("`:` is expected");
            }
            self.at += 1;
            self.skip_space();
            self.path.push(Step::Key(key.clone()));
            let value = self.value()?;
            self.path.pop();
            map.insert(key, value);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                _ => return self.syntax("`,` or `}` is expected"),
            }
        }
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            self.skip_space();
            self.path.push(Step::Index(items.len()));
            let value = self.value()?;
            self.path.pop();
            items.push(value);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                _ => return self.syntax("`,` or `]` is expected"),
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|b| b != b'"' && b != b'\\' && b >= 0x20) {
                self.at += 1;
            }
            out.push_str(self.text.get(start..self.at).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return self.syntax("control characters in a string must be escaped"),
                None => return self.syntax("the document ends inside a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        self.at += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let high = self.hex4()?;
                // A pair of surrogates spells one character; a lone one spells none.
                let code = match high {
                    0xD800..=0xDBFF => {
                        if !self.text.get(self.at..).is_some_and(|rest| rest.starts_with("\\u")) {
                            return self.syntax("lone surrogate");
                        }
                        self.at += 2;
                        let low = self.hex4()?;
                        if !(0xDC00..=0xDFFF).contains(&low) {
                            return self.syntax("lone surrogate");
                        }
                        0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                    }
                    other => other,
                };
                return match char::from_u32(code) {
                    Some(c) => Ok(c),
                    None => self.syntax("lone surrogate"),
                };
            }
            _ => return self.syntax("unknown escape"),
        };
        self.at += 1;
        Ok(c)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|t| u32::from_str_radix(t, 16).ok()) {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => self.syntax("four hexadecimal digits are expected"),
        }
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > start
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let first = self.at;
        if !self.digits() || (leading_zero && self.at > first + 1) {
            self.at = start;
            return self.syntax("malformed number");
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            if !self.digits() {
                return self.syntax("malformed number");
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.digits() {
                return self.syntax("malformed number");
            }
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        match exact(text, whole) {
            Some(number) => Ok(Value::Number(number)),
            None if self.numbers == Numbers::Any => Ok(Value::Null),
            None => {
                let why = Why::InexactNumber(text.chars().take(64).collect());
                self.at = start;
                Err(self.error(why))
            }
        }
    }
}

/// The number `text` spells, when a double holds exactly that value and spells it the same way again.
fn exact(text: &str, whole: bool) -> Option<Number> {
    let value: f64 = text.parse().ok()?;
    // -0 equals 0 and would lose its sign in canonical form; beyond ±2^53 neighbours collide.
    if !value.is_finite() || value.abs() > EXACT || (value == 0.0 && text.starts_with('-')) {
        return None;
    }
    // The shortest decimal that reads back as this double, as it is forwarded and hashed: where there are two of
    // them, `{:e}` may print the other one, which nobody would read back.
    if decimal(text)? != decimal(&Number::from_f64(value)?.to_string())? {
        return None;
    }
    if whole {
        return text.parse::<i64>().ok().map(Number::from);
    }
    // 1.0 and 1e2 are whole in canonical form (RFC 8785 prints them as 1 and 100), so they are here.
    if value.fract() == 0.0 {
        #[allow(clippy::cast_possible_truncation, reason = "whole and at most 2^53 in size, so it fits an i64")]
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

/// Sign, significant digits and exponent, so that two spellings of one decimal compare equal.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.strip_prefix('+').unwrap_or(e).parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (int, frac) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{int}{frac}");
    let mut exponent = exponent.checked_sub(i64::try_from(frac.len()).ok()?)?;
    let kept = digits.trim_end_matches('0');
    exponent = exponent.checked_add(i64::try_from(digits.len() - kept.len()).ok()?)?;
    let kept = kept.trim_start_matches('0');
    if kept.is_empty() {
        return Some((negative, String::new(), 0));
    }
    Some((negative, kept.to_owned(), exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> Why {
        parse(text.as_bytes()).unwrap_err().why
    }

    #[test]
    fn duplicate_keys_are_refused_in_any_spelling() {
        assert_eq!(why(r#"{"path":1,"path":2}"#), Why::DuplicateKey("path".into()));
        assert_eq!(why(r#"{"path":1,"\u0070ath":2}"#), Why::DuplicateKey("path".into()));
        let error = parse(br#"{"a":[{},{"b":1,"b":2}]}"#).unwrap_err();
        assert_eq!(error.path, "/a/1");
        assert_eq!(error.offset, 16);
    }

    #[test]
    fn numbers_must_survive() {
        for good in
            ["0", "-1", "9007199254740992", "0.1", "1.50", "1e2", "2.5e-3", "-0.25", "123456.789", "907105429990479.2"]
        {
            assert!(parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "9007199254740993",
            "123456789012345678901234567890",
            "0.1000000000000000055",
            "1e400",
            "-0",
            "-0.0",
            "1e-400",
            // Reads as the same double as the one that ends in 2, and is the one that is not printed.
            "907105429990479.3",
        ] {
            assert!(matches!(why(bad), Why::InexactNumber(_)), "{bad}");
        }
        assert_eq!(parse_with(b"[123456789012345678901234567890]", Numbers::Any).unwrap(), serde_json::json!([null]));
    }

    #[test]
    fn malformed_documents_are_refused() {
        for bad in
            ["", "{", "[1,]", "01", "1.", "+1", "nul", "\"\\x\"", "\"\\ud800\"", "\"\u{1}\"", "{} {}", "{1:2}", "'a'"]
        {
            assert!(matches!(why(bad), Why::Syntax(_)), "{bad}");
        }
        assert_eq!(parse(b"\"\xff\"").unwrap_err().why, Why::NotUtf8);
    }

    #[test]
    fn depth_is_bounded() {
        let nest = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nest(DEPTH_LIMIT).as_bytes()).is_ok());
        assert_eq!(why(&nest(DEPTH_LIMIT + 1)), Why::TooDeep);
        assert_eq!(why(&"[".repeat(1_000_000)), Why::TooDeep);
    }

    #[test]
    fn canonical_form_ignores_order_and_spelling() {
        let a = parse(br#"{"b":1.0,"a":"\u0041"}"#).unwrap();
        let b = parse(br#"{"a":"A","b":1}"#).unwrap();
        assert_eq!(canonical(&a), canonical(&b));
    }

    proptest::proptest! {
        #[test]
        fn what_serde_writes_is_read_back(value in proptest::collection::vec(proptest::prelude::any::<(i32, String, f32)>(), 0..8)) {
            let written = serde_json::to_value(value.iter().map(|(i, s, f)| serde_json::json!([i, s, (f64::from(*f) * 2.0).round()])).filter(|v| v[2].as_f64().is_none_or(|f| f.abs() < EXACT && !(f == 0.0 && f.is_sign_negative()))).collect::<Vec<_>>()).unwrap();
            let bytes = serde_json::to_vec(&written).unwrap();
            proptest::prop_assert_eq!(canonical(&parse(&bytes).unwrap()), canonical(&written));
        }
    }
}
