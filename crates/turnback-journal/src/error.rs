//! What can go wrong with a journal, in words for the person who reads them at night.

use turnback_core::refusal::{Code, Refusal};

/// Why the journal did not do what was asked. Cheap to clone: everybody in a failed group gets one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process holds the state directory.
    #[error("state directory `{dir}` is in use by process {pid}")]
    Locked {
        /// The directory.
        dir: String,
        /// The holder's process id as it wrote it down; `unknown` when it had not yet.
        pid: String,
    },
    /// Something in the state directory is not as this version left it. Nothing was changed.
    #[error("`{place}`: {message}")]
    Unfit {
        /// The file or directory.
        place: String,
        /// What is wrong with it.
        message: String,
        /// What the operator can do.
        next: String,
    },
    /// More is queued than is accepted. Nothing of the batch was written; it may be sent again.
    #[error("the journal is overloaded: {waiting} batches of {bytes} bytes wait to be written")]
    Overloaded {
        /// Batches in the queue.
        waiting: usize,
        /// Their size.
        bytes: usize,
    },
    /// Writing this batch failed. Whether it is durable is not known before the journal is reopened.
    #[error("whether this was recorded is unknown: {why}")]
    Unknown {
        /// What failed.
        why: String,
    },
    /// An earlier write failed; nothing is accepted until the journal is reopened.
    #[error("the journal accepts nothing since a write failed: {why}")]
    Poisoned {
        /// What failed then.
        why: String,
    },
    /// The journal was closed, or the process is stopping.
    #[error("the journal is closed")]
    Closed,
    /// The batch itself cannot be recorded. Nothing was written.
    #[error("this cannot be recorded: {why}")]
    BadBatch {
        /// What is wrong with it.
        why: String,
    },
    /// A pre-image could not be stored. Nothing refers to it and nothing else was written.
    #[error("`{place}`: {why}")]
    Vault {
        /// The file.
        place: String,
        /// What failed.
        why: String,
        /// Whether it was for want of space.
        full: bool,
    },
    /// A record is not what was recorded, or its payload was erased.
    #[error("record {seq}: {what}")]
    Altered {
        /// Its sequence number.
        seq: u64,
        /// What does not fit.
        what: String,
    },
    /// Something people query is not what was written for them.
    #[error("{what}")]
    Damaged {
        /// The table and the entry.
        what: String,
    },
    /// Reading or preparing failed.
    #[error("{doing}: {why}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What the storage said.
        why: String,
    },
}

impl JournalError {
    pub(crate) fn unfit(
        place: impl AsRef<std::path::Path>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        JournalError::Unfit {
            place: turnback_core::text::visible(&place.as_ref().display().to_string()),
            message: turnback_core::text::visible(&message.into()),
            next: next.into(),
        }
    }
}

/// Names what was being done when the storage failed.
pub(crate) fn storage<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> JournalError {
    // SQLite repeats what it found in a damaged file.
    move |e| JournalError::Storage { doing, why: turnback_core::text::visible(&e.to_string()) }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        let message = error.to_string();
        match error {
            JournalError::Overloaded { .. } => {
                Refusal::new(Code::Overloaded, message).next("send it again in a moment")
            }
            JournalError::Locked { dir, .. } => Refusal::new(Code::Busy, message)
                .at(dir)
                .next("stop that process, or give this one its own state directory"),
            JournalError::Unfit { place, message, next } => Refusal::new(Code::Failed, message).at(place).next(next),
            JournalError::Unknown { .. } | JournalError::Poisoned { .. } => Refusal::new(Code::Unavailable, message)
                .next("mend what the message names, then restart: what was intended is probed, never repeated"),
            JournalError::Closed => Refusal::new(Code::Unavailable, message),
            JournalError::Vault { place, why, full } => {
                Refusal::new(if full { Code::DiskFull } else { Code::Failed }, why).at(place)
            }
            JournalError::Altered { .. } | JournalError::Damaged { .. } => {
                Refusal::new(Code::Failed, message).next("turnback verify")
            }
            JournalError::Storage { .. } => Refusal::new(Code::Failed, message)
                .next("see that its file system works, has room and can be written to, then start again"),
            JournalError::BadBatch { .. } => Refusal::new(Code::Failed, message),
        }
    }
}
