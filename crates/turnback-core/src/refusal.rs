//! The shape of "no": a stable code, the place that is wrong, a sentence, and what would be accepted.
//!
//! Every refusal an agent, an operator or the record sees is one of these. Never carries a secret or
//! somebody else's data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why something was refused, as a stable word programs may match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// The request's bytes or fields are wrong.
    BadInput,
    /// No tool has that name.
    UnknownTool,
    /// The caller's credential is missing, unknown, expired or not for this.
    Unauthenticated,
    /// A gate said no; the reasons name it.
    Denied,
    /// A person said no, or nobody answered in time.
    Rejected,
    /// The thing named does not exist.
    NotFound,
    /// Something is there already, and overwriting it was not asked for.
    Exists,
    /// The path leaves the resource: `..`, an absolute path, a symlink, another mount.
    Escapes,
    /// A hard link, device, FIFO or socket: not a plain file or directory.
    SpecialFile,
    /// A statement or operation this domain never performs.
    Unsupported,
    /// The world is not as it was when the action was staged or done.
    Moved,
    /// Somebody holds what is needed and did not let go in time.
    Busy,
    /// A size, depth, count or time limit was reached.
    TooLarge,
    /// No space is left where the way back must be kept.
    DiskFull,
    /// A pre-image is missing or is not what was stored.
    SnapshotLost,
    /// The node refuses everything until it is restarted, or is shutting down.
    Unavailable,
    /// More callers than can be served.
    Overloaded,
    /// A dependency failed in a way that is nobody's request's fault.
    Failed,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// The stable word.
    pub code: Code,
    /// The field, path, table or row at fault, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// One sentence for the person who reads this at night.
    pub message: String,
    /// What would be acceptable instead, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Refusal {
    /// A refusal with a code and a sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, place: None, message: message.into(), next: None }
    }

    /// Names the field, path, table or row at fault. Misleading characters are made visible.
    #[must_use]
    pub fn at(mut self, place: impl AsRef<str>) -> Self {
        self.place = Some(crate::text::visible(place.as_ref()));
        self
    }

    /// Says what would be acceptable instead.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}
