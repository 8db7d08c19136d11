//! Reading the journal: runs, their events, and the small tables.
//!
//! Every read has its own connection, so reading never waits for the writer and sees whole
//! transactions only. Nothing here writes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params_from_iter};
use serde_json::Value;
use tlog_tiles::{record_hash, stored_hash_index};
use turnback_core::digest::Sha256;
use turnback_core::names::{AgentName, ApprovalId, RunId};
use turnback_core::record::{self, Body, Record, Row};
use turnback_core::text::visible;
use uuid::Uuid;

use crate::Table;
use crate::error::{JournalError, storage};
use crate::sqlite::{hash_at, signed, sum, table_name, tails};

/// Connections kept open for the next reader. More may be in use at once.
const IDLE: usize = 4;

/// Fewest digits of an identity that are looked for.
const FEWEST_DIGITS: usize = 4;

/// Which runs to list. Everything set must hold; nothing set is every run.
#[derive(Clone, Debug, Default)]
pub struct RowFilter {
    /// Proposed by this agent.
    pub agent: Option<AgentName>,
    /// On this resource. Narrows a time; alone it looks at every run.
    pub resource: Option<String>,
    /// In this state, by its word.
    pub state: Option<String>,
    /// Not over yet.
    pub open: bool,
    /// Committed at this time or later, to the microsecond.
    pub committed_since: Option<Timestamp>,
    /// With a record of this number or a later one.
    pub recorded_since: Option<u64>,
    /// With this action digest.
    pub action: Option<Sha256>,
    /// Not over, or over with a caller who has still to hear it.
    pub unanswered: bool,
    /// Ever asked this question. Whether it still waits, [`Row::question`] says.
    pub question: Option<ApprovalId>,
    /// Waiting for a person whose silence became a no at this time or earlier.
    pub expired_by: Option<Timestamp>,
    /// A read released at this time or later, to the microsecond.
    pub read_since: Option<Timestamp>,
    /// Counters this run.
    pub undoes: Option<RunId>,
    /// At most so many; `None` is all of them.
    pub limit: Option<usize>,
}

pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// Opens a journal for reading only.
pub(crate) fn open_readonly(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW,
    )?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cell_size_check", "ON")?;
    // Pages are found again in the system's cache; ours, times the readers kept, would grow with the journal.
    connection.pragma_update(None, "cache_size", -256)?;
    Ok(connection)
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, JournalError> {
        let failed = storage("reading the journal");
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = idle().pop();
        let connection = pooled.map_or_else(|| open_readonly(&self.path), Ok).map_err(&failed)?;
        // A connection that failed is not used again.
        let answer = read(&connection).map_err(failed)?;
        let mut idle = idle();
        if idle.len() < IDLE {
            idle.push(connection);
        }
        Ok(answer)
    }

    /// What happened to a run, oldest first, each record checked against its hash in the tree and each
    /// payload against its record.
    pub(crate) fn run_events(&self, run: RunId) -> Result<Vec<(u64, Timestamp, Body)>, JournalError> {
        let found = self.with(|c| {
            c.prepare_cached(
                "SELECT l.seq, l.body, p.salt, p.body FROM leaves l LEFT JOIN payloads p ON p.seq = l.seq
                 WHERE l.run = ?1 ORDER BY l.seq",
            )?
            .query_map([run.uuid().as_bytes()], |row| {
                let seq = row.get::<_, i64>(0)?.unsigned_abs();
                let hash = hash_at(c, stored_hash_index(0, seq))?;
                Ok((
                    seq,
                    hash,
                    row.get::<_, Vec<u8>>(1)?,
                    row.get::<_, Option<Vec<u8>>>(2)?,
                    row.get::<_, Option<Vec<u8>>>(3)?,
                ))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        found
            .into_iter()
            .map(|(seq, hash, leaf, salt, body)| {
                let altered = |what: &str| JournalError::Altered { seq, what: visible(what) };
                if hash != Some(record_hash(&leaf)) {
                    return Err(altered("it is not what was recorded"));
                }
                let record: Record =
                    serde_json::from_slice(&leaf).map_err(|e| altered(&format!("it cannot be read: {e}")))?;
                let (Some(salt), Some(body)) = (salt, body) else { return Err(altered("its payload was erased")) };
                if record.payload != Some(salted(&salt, &body)) {
                    return Err(altered("its payload is not what was recorded"));
                }
                let body = record::decode(&body).map_err(|e| altered(&format!("its payload cannot be read: {e}")))?;
                Ok((seq, record.at, body))
            })
            .collect()
    }

    pub(crate) fn rows(&self, filter: &RowFilter) -> Result<Vec<Row>, JournalError> {
        let (sql, values) = listing(filter);
        self.read_rows(&sql, values)
    }

    pub(crate) fn find_run(&self, text: &str) -> Result<Vec<Row>, JournalError> {
        let text = text.trim().to_ascii_lowercase();
        let (digits, in_questions) = match text.strip_prefix("ap_") {
            Some(digits) => (digits, true),
            None => (text.strip_prefix("r_").unwrap_or(&text), false),
        };
        if digits.len() < FEWEST_DIGITS || digits.len() > 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Vec::new());
        }
        let Some((from, to)) = tails(digits) else { return Ok(Vec::new()) };
        // The tail narrows; all digits decide.
        let sql = if in_questions {
            "SELECT run, row, sum FROM runs WHERE run IN (SELECT run FROM questions WHERE tail >= ?1 AND tail < ?2
               AND substr(lower(hex(question)), -length(?3)) = ?3) ORDER BY id DESC"
        } else {
            "SELECT run, row, sum FROM runs WHERE tail >= ?1 AND tail < ?2 AND substr(lower(hex(run)), -length(?3)) = ?3
             ORDER BY id DESC"
        };
        self.read_rows(sql, vec![Sql::Integer(from), Sql::Integer(to), Sql::Text(digits.to_owned())])
    }

    pub(crate) fn row(&self, run: RunId) -> Result<Option<Row>, JournalError> {
        Ok(self.read_rows("SELECT run, row, sum FROM runs WHERE run = ?1", vec![blob(run.uuid())])?.pop())
    }

    pub(crate) fn runs_with_effect(&self) -> Result<Vec<RunId>, JournalError> {
        self.with(|c| {
            // In one piece of its full size, which the system takes back whole: grown step by step it would
            // leave holes that stay with the process for good.
            let count = c.prepare_cached(HOW_MANY)?.query_row([], |row| row.get::<_, u32>(0))?;
            let mut runs = Vec::with_capacity(count as usize);
            let mut statement = c.prepare_cached(WITH_EFFECT)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                runs.push(RunId::new(Uuid::from_bytes(row.get(0)?)));
            }
            runs.sort_unstable();
            Ok(runs)
        })
    }

    fn read_rows(&self, sql: &str, values: Vec<Sql>) -> Result<Vec<Row>, JournalError> {
        let texts = self.with(|c| {
            c.prepare_cached(sql)?
                .query_map(params_from_iter(values), |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<rusqlite::Result<Vec<(Vec<u8>, String, Vec<u8>)>>>()
        })?;
        texts.iter().map(|(run, text, sum)| written("the list of runs", run, text, sum)).collect()
    }

    pub(crate) fn table(&self, table: Table) -> Result<Vec<(String, Value)>, JournalError> {
        let name = table_name(table);
        let found = self.with(|c| {
            c.prepare_cached(&format!("SELECT key, value, sum FROM {name} ORDER BY key"))?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<rusqlite::Result<Vec<(String, String, Vec<u8>)>>>()
        })?;
        found
            .into_iter()
            .map(|(key, text, sum)| written(name, key.as_bytes(), &text, &sum).map(|value| (key, value)))
            .collect()
    }

    pub(crate) fn get(&self, table: Table, key: &str) -> Result<Option<Value>, JournalError> {
        let name = table_name(table);
        self.with(|c| {
            c.prepare_cached(&format!("SELECT value, sum FROM {name} WHERE key = ?1"))?
                .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })?
        .map(|(text, sum): (String, Vec<u8>)| written(name, key.as_bytes(), &text, &sum))
        .transpose()
    }
}

/// Reads a projected text that still is what was written.
pub(crate) fn written<T: serde::de::DeserializeOwned>(
    table: &str,
    key: &[u8],
    text: &str,
    expected: &[u8],
) -> Result<T, JournalError> {
    if sum(key, text) != expected {
        let key = std::str::from_utf8(key).map_or_else(|_| hex::encode(key), turnback_core::text::visible);
        return Err(JournalError::Damaged { what: format!("entry `{key}` of {table} is not what was written") });
    }
    serde_json::from_str(text).map_err(storage("reading a projected table"))
}

/// Answered from an index alone.
const WITH_EFFECT: &str = "SELECT run FROM runs WHERE committed IS NOT NULL";
const HOW_MANY: &str = "SELECT count(*) FROM runs WHERE committed IS NOT NULL";

/// The statement for a list of runs. Its cost follows the runs listed, not the length of the journal.
fn listing(filter: &RowFilter) -> (String, Vec<Sql>) {
    let mut sql = String::from("SELECT run, row, sum FROM runs WHERE 1");
    let mut values: Vec<Sql> = Vec::new();
    let mut clause = |text: &str, value: Option<Sql>| {
        sql.push_str(" AND ");
        sql.push_str(text);
        values.extend(value);
    };
    // A `+` keeps SQLite from choosing that column's index. Without statistics it would rather read every
    // run of a resource, or every run there is in the right order, than sort the few of a range.
    let since = filter.committed_since.is_some() || filter.recorded_since.is_some();
    if let Some(agent) = &filter.agent {
        let text = if since { "+agent = ?" } else { "agent = ?" };
        clause(text, Some(Sql::Text(agent.as_str().to_owned())));
    }
    if let Some(resource) = &filter.resource {
        clause("resource = ?", Some(Sql::Text(resource.clone())));
    }
    if let Some(state) = &filter.state {
        clause("state = ?", Some(Sql::Text(state.clone())));
    }
    if filter.open {
        clause("over = 0", None);
    }
    if let Some(since) = filter.committed_since {
        clause("committed >= ?", Some(Sql::Integer(since.as_microsecond())));
    }
    if let Some(seq) = filter.recorded_since {
        clause("run IN (SELECT run FROM leaves WHERE seq >= ?)", Some(Sql::Integer(signed(seq))));
    }
    if let Some(action) = filter.action {
        clause("action = ?", Some(Sql::Blob(action.as_bytes().to_vec())));
    }
    if filter.unanswered {
        clause("(over = 0 OR undelivered = 1)", None);
    }
    if let Some(question) = filter.question {
        clause("run IN (SELECT run FROM questions WHERE question = ?)", Some(blob(question.uuid())));
    }
    if let Some(now) = filter.expired_by {
        clause("expires <= ?", Some(Sql::Integer(now.as_microsecond())));
    }
    if let Some(since) = filter.read_since {
        clause("read >= ?", Some(Sql::Integer(since.as_microsecond())));
    }
    if let Some(undone) = filter.undoes {
        clause("run IN (SELECT run FROM undoes WHERE undone = ?)", Some(blob(undone.uuid())));
    }
    // By the order they entered, which no clock can change.
    let few = since || filter.expired_by.is_some() || filter.read_since.is_some() || filter.unanswered;
    sql.push_str(if few { " ORDER BY +id DESC" } else { " ORDER BY id DESC" });
    if let Some(limit) = filter.limit {
        sql.push_str(" LIMIT ?");
        values.push(Sql::Integer(signed(limit as u64)));
    }
    (sql, values)
}

fn blob(id: Uuid) -> Sql {
    Sql::Blob(id.as_bytes().to_vec())
}

/// The hash by which a record names its payload.
pub(crate) fn salted(salt: &[u8], payload: &[u8]) -> Sha256 {
    Sha256::of_joined([salt, payload])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_walks_all_runs() {
        let c = Connection::open_in_memory().unwrap();
        c.execute_batch(crate::sqlite::SCHEMA).unwrap();
        let all = RowFilter::default;
        let (now, resource) = (Some(Timestamp::UNIX_EPOCH), Some("db".to_owned()));
        let (agent, id) = (AgentName::new("coder").unwrap(), Uuid::nil());
        let filters = [
            (RowFilter { agent: Some(agent.clone()), ..all() }, "runs_agent"),
            (RowFilter { state: Some("parked".to_owned()), ..all() }, "runs_state"),
            (RowFilter { open: true, ..all() }, "runs_open"),
            (RowFilter { unanswered: true, ..all() }, "runs_unanswered"),
            (RowFilter { expired_by: now, ..all() }, "runs_expires"),
            (RowFilter { committed_since: now, ..all() }, "runs_committed"),
            (RowFilter { committed_since: now, agent: Some(agent), ..all() }, "runs_committed"),
            (RowFilter { committed_since: now, resource: resource.clone(), ..all() }, "runs_committed"),
            (RowFilter { recorded_since: Some(7), resource: resource.clone(), ..all() }, "SEARCH leaves USING INTEGER"),
            (RowFilter { read_since: now, resource, ..all() }, "runs_read"),
            (RowFilter { question: Some(ApprovalId::new(id)), ..all() }, "SEARCH questions"),
            (RowFilter { undoes: Some(RunId::new(id)), ..all() }, "SEARCH undoes"),
        ];
        let statements = filters.iter().map(|(filter, expected)| (listing(filter), *expected));
        for ((sql, values), expected) in statements
            .chain([WITH_EFFECT, HOW_MANY].map(|sql| ((sql.to_owned(), vec![]), "COVERING INDEX runs_committed")))
        {
            let plan: Vec<String> = c
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap()
                .query_map(params_from_iter(values), |row| row.get(3))
                .unwrap()
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            let plan = plan.join("; ");
            assert!(plan.contains(expected) && !plan.contains("SCAN runs;") && !plan.ends_with("SCAN runs"), "{plan}");
        }
    }
}
