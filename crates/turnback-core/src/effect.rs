//! What an action really does, measured by staging it.
//!
//! Owns the numbers every gate judges (`Blast`) and the shape of one touched place (`Touch`). Never
//! measures anything itself; the effect domains do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{EffectDigest, Sha256};

/// Rows of one table that an effect inserts, updates and deletes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Rows that appear.
    pub inserted: u64,
    /// Rows that change.
    pub updated: u64,
    /// Rows that disappear.
    pub deleted: u64,
}

impl Rows {
    /// All rows touched.
    pub const fn total(&self) -> u64 {
        self.inserted.saturating_add(self.updated).saturating_add(self.deleted)
    }
}

/// The measured size of an effect. Every number was counted while staging, none is an estimate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blast {
    /// Rows by table, cascades and trigger writes included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, Rows>,
    /// Schema objects (tables, indexes, views, triggers) created, altered or dropped.
    #[serde(default)]
    pub schema_objects: u64,
    /// Files and directories that appear.
    #[serde(default)]
    pub files_created: u64,
    /// Files whose content, name or mode changes.
    #[serde(default)]
    pub files_changed: u64,
    /// Files and directories that disappear.
    #[serde(default)]
    pub files_deleted: u64,
    /// Bytes of content that appear, change or disappear.
    #[serde(default)]
    pub bytes: u64,
    /// Minor units of money, as far as the operator says where arguments name it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub money: u64,
    /// Recipients, as far as the operator says where arguments name them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recipients: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Blast {
    /// Rows touched over all tables.
    pub fn rows_total(&self) -> u64 {
        self.rows.values().fold(0, |sum, rows| sum.saturating_add(rows.total()))
    }

    /// Rows that disappear over all tables.
    pub fn rows_deleted(&self) -> u64 {
        self.rows.values().fold(0, |sum, rows| sum.saturating_add(rows.deleted))
    }

    /// Files and directories touched.
    pub const fn files_total(&self) -> u64 {
        self.files_created.saturating_add(self.files_changed).saturating_add(self.files_deleted)
    }

    /// Rows, files and directories that disappear: what a deletion budget counts.
    pub fn deletions(&self) -> u64 {
        self.rows_deleted().saturating_add(self.files_deleted)
    }

    /// Nothing at all is changed.
    pub fn is_empty(&self) -> bool {
        self.rows_total() == 0 && self.files_total() == 0 && self.schema_objects == 0
    }
}

/// The measured effect of one staged action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// One line for people, numbers included: ``updates 3 rows of `customers` ``.
    pub summary: String,
    /// The numbers.
    pub blast: Blast,
    /// Names exactly these changes: same places, same values before and after.
    pub digest: EffectDigest,
    /// Names the same places and kinds of change whatever the values: what a tool contract with
    /// `match = "same-rows"` compares after an approval.
    pub places: EffectDigest,
    /// The statement contains the time, randomness or another value that differs at every run.
    #[serde(default)]
    pub volatile: bool,
    /// What the tool answers the caller once this is committed, as the domain's own JSON.
    pub reply: serde_json::Value,
}

/// Content as it was before or after, by hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub Sha256);

/// One place an effect touched, with its content before and after.
///
/// `before: None` means it did not exist, `after: None` that it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// The place inside its resource: ``customers 17``, `notes/a.txt`, ``table `orders` ``.
    pub place: String,
    /// The fields touched; empty when the whole place is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Content before.
    pub before: Option<Fingerprint>,
    /// Content after.
    pub after: Option<Fingerprint>,
}

impl Touch {
    /// Whether two touches concern the same thing: the same place, and a field in common unless one
    /// of them concerns the whole place.
    pub fn meets(&self, other: &Touch) -> bool {
        self.place == other.place
            && (self.fields.is_empty()
                || other.fields.is_empty()
                || self.fields.iter().any(|f| other.fields.contains(f)))
    }
}
