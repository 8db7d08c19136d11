//! The scripts that are recorded, by name.

use crate::common::script::{self, Act};

/// Each is a test.
pub(crate) const NAMES: &[&str] = &["rows_wal", "rows_delete", "files_wal", "questions_wal", "questions_delete"];

/// The acts of a script.
pub(crate) fn of(name: &str) -> Vec<Act> {
    match name.split_once('_').map(|(script, _)| script) {
        Some("rows") => script::rows(),
        Some("files") => script::files(),
        _ => script::questions(),
    }
}
