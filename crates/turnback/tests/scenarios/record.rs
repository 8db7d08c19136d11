//! What the journal of a stopped node says, read from its file as anybody could.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::Wrong;
use super::format::Record;

/// All records in order: kind and payload.
pub(crate) struct Journal(Vec<(String, Value)>);

impl Journal {
    pub(crate) fn read(state: &Path) -> Result<Self, Wrong> {
        type Row = (Vec<u8>, Option<Vec<u8>>);
        let read = || -> rusqlite::Result<Vec<Row>> {
            let db = Connection::open_with_flags(state.join("journal.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let mut all = db
                .prepare("SELECT leaves.body, payloads.body FROM leaves LEFT JOIN payloads USING (seq) ORDER BY seq")?;
            all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let mut records = Vec::new();
        for (leaf, payload) in read().map_err(|e| format!("journal.db: {e}"))? {
            let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|e| format!("a record: {e}"));
            let kind = json(&leaf)?["kind"].as_str().unwrap_or_default().to_owned();
            records.push((kind, payload.as_deref().map_or(Ok(Value::Null), json)?));
        }
        Ok(Self(records))
    }

    /// Whether a request that never became a run is recorded with these words.
    pub(crate) fn turned_away(&self, message: &str) -> bool {
        self.0.iter().any(|(kind, body)| kind == "turned_away" && body["refusal"]["message"] == message)
    }

    pub(crate) fn check(&self, wanted: &Record) -> Result<(), Wrong> {
        let mut kinds = BTreeMap::<&str, usize>::new();
        for (kind, _) in &self.0 {
            *kinds.entry(kind).or_default() += 1;
        }
        for (kind, count) in &wanted.kinds {
            let found = kinds.get(kind.as_str()).copied().unwrap_or(0);
            if found != *count {
                return Err(format!("the record should hold {count} of `{kind}`, holds {found}: {kinds:?}"));
            }
        }
        let alerts: Vec<&str> =
            self.0.iter().filter(|(kind, _)| kind == "alert").filter_map(|(_, b)| b["message"].as_str()).collect();
        for text in wanted.alerts.all() {
            if !alerts.iter().any(|alert| alert.contains(text)) {
                return Err(format!("an alert should say {text:?}; alerts: {alerts:?}"));
            }
        }
        Ok(())
    }
}
