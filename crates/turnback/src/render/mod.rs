//! What people read.
//!
//! Owns how runs, plans and errors look. Every function returns text with styles in it; whoever prints
//! removes them where there is no terminal. Everything that came from outside passes `visible` before
//! it is styled, and every block of foreign lines stands behind a gutter, so that no content can look
//! like a heading of ours.

pub(crate) mod diff;
pub(crate) mod error;
pub(crate) mod flags;
pub(crate) mod number;
pub(crate) mod operator;
pub(crate) mod plan;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod style;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod time;
pub(crate) mod undo;

use serde::Serialize;
use turnback_core::refusal::{Code, Refusal};

/// A value as JSON for programs. Pure ASCII, so that nothing in it can steer a terminal.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Refusal> {
    use std::fmt::Write as _;
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Refusal::new(Code::Failed, format!("cannot write the answer as JSON: {e}")))?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Outside strings JSON has no such characters.
        if c.is_ascii() && c != '\u{7f}' {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    Ok(out)
}
