//! Changing one flag of a document, and what is kept of each change.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Flags;
use crate::digest::Sha256;
use crate::text::visible;

/// Whether a flag says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is evaluated.
    Enabled,
    /// It says nothing.
    Disabled,
}

/// What to change about a flag. What is not named stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The variant that holds when targeting names none.
    pub variant: Option<String>,
    /// Whether it says anything.
    pub state: Option<State>,
}

/// The document with one flag changed. It is read and checked like any other before it counts.
///
/// # Errors
/// When there is no such flag, in a sentence.
pub fn edited(flags: &Flags, key: &str, change: &Change) -> Result<String, String> {
    // Read before; its order is kept.
    let mut document: Value = serde_json::from_str(flags.text()).map_err(|e| e.to_string())?;
    let Some(Value::Object(flag)) = document.get_mut("flags").and_then(|flags| flags.get_mut(key)) else {
        return Err(format!("there is no flag `{}`", visible(key)));
    };
    if let Some(variant) = &change.variant {
        flag.insert("defaultVariant".into(), Value::from(variant.as_str()));
    }
    if let Some(state) = change.state {
        let word = if state == State::Enabled { "ENABLED" } else { "DISABLED" };
        flag.insert("state".into(), Value::from(word));
    }
    let mut text = serde_json::to_string_pretty(&document).map_err(|e| e.to_string())?;
    text.push('\n');
    Ok(text)
}

/// Where a document came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The file the configuration names, read when the node started.
    File,
    /// An operator, while it ran.
    Operator,
}

/// One time the flags changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Where the document came from.
    pub source: Source,
    /// SHA-256 of the document; `None` when there are no flags from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Sha256>,
}
