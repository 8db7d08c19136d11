//! The tables, and the statements that write them.
//!
//! Owns the schema, the checks at opening and the content of one transaction. Never decides when a
//! transaction begins or ends; `store.rs` does. Everything people query is a projection written in the
//! transaction of the record it follows from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use fail::fail_point;
use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OpenFlags, OptionalExtension as _, params};
use tlog_tiles::{Hash, stored_hash_count, stored_hash_index};
use turnback_core::digest::Sha256;
use turnback_core::names::RunId;
use turnback_core::record::Row;
use uuid::Uuid;

use crate::error::{JournalError, storage};
use crate::state;
use crate::tlog::{self, Frontier, LogKey};
use crate::{Options, Table};

/// `Turn` in ASCII: tells a journal from any other SQLite database.
const APPLICATION_ID: i32 = 0x5475_726e;

/// Version of the schema. A journal of another version is refused; nothing is migrated in silence.
const FORMAT: i32 = 3;

/// Bytes of a payload's salt.
pub(crate) const SALT: usize = 16;

/// Digits of an identity in its `tail`: as many as fit a positive integer of SQLite.
const TAIL_DIGITS: usize = 15;

/// `seq` is the leaf's index in the tree. `tail` is the last digits of an identity backwards, as a number,
/// so that "ends with what was typed" is a range of an index. An erased payload keeps its row with NULLs.
/// `sum` is [`sum`] of what a table is asked for: a bit that flips on the disk must not become an answer.
///
/// Every index costs every read something, so there is one only for what is looked for alone.
pub(crate) const SCHEMA: &str = "
CREATE TABLE journal (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE leaves (seq INTEGER PRIMARY KEY, run BLOB, body BLOB NOT NULL) STRICT;
CREATE INDEX leaves_run ON leaves (run) WHERE run IS NOT NULL;
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, salt BLOB, body BLOB) STRICT;
CREATE TABLE hashes (idx INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
CREATE TABLE blobs (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body BLOB NOT NULL) STRICT;
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, run BLOB NOT NULL UNIQUE, tail INTEGER NOT NULL, agent TEXT, resource TEXT NOT NULL,
  state TEXT NOT NULL, over INTEGER NOT NULL, undelivered INTEGER NOT NULL, committed INTEGER,
  read INTEGER, expires INTEGER, action BLOB NOT NULL, row TEXT NOT NULL, sum BLOB NOT NULL) STRICT;
CREATE INDEX runs_tail ON runs (tail);
CREATE INDEX runs_agent ON runs (agent);
CREATE INDEX runs_state ON runs (state);
CREATE INDEX runs_open ON runs (id) WHERE over = 0;
CREATE INDEX runs_committed ON runs (committed, run) WHERE committed IS NOT NULL;
CREATE INDEX runs_read ON runs (resource, read) WHERE read IS NOT NULL;
CREATE INDEX runs_expires ON runs (expires) WHERE expires IS NOT NULL;
CREATE INDEX runs_unanswered ON runs (action) WHERE over = 0 OR undelivered = 1;
CREATE TABLE questions (question BLOB PRIMARY KEY, tail INTEGER NOT NULL, run BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX questions_tail ON questions (tail);
CREATE TABLE undoes (undone BLOB NOT NULL, run BLOB NOT NULL, PRIMARY KEY (undone, run)) STRICT, WITHOUT ROWID;
CREATE TABLE agents (key TEXT PRIMARY KEY, value TEXT NOT NULL, sum BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (key TEXT PRIMARY KEY, value TEXT NOT NULL, sum BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE switches (key TEXT PRIMARY KEY, value TEXT NOT NULL, sum BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, sum BLOB NOT NULL) STRICT, WITHOUT ROWID;
";

/// SQLite's integers are signed; no count here comes near the difference.
pub(crate) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The last digits of an identity backwards, as a number.
pub(crate) fn tail(id: Uuid) -> i64 {
    let mut digits = id.as_u128();
    let mut tail = 0;
    for _ in 0..TAIL_DIGITS {
        tail = (tail << 4) | i64::try_from(digits & 0xf).unwrap_or_default();
        digits >>= 4;
    }
    tail
}

/// The first tail, and the first beyond the last, of identities that end with `digits`, of which no more
/// than [`TAIL_DIGITS`] are looked at. `None` when they are no digits.
pub(crate) fn tails(digits: &str) -> Option<(i64, i64)> {
    let last: String = digits.chars().rev().take(TAIL_DIGITS).collect();
    let from = i64::from_str_radix(&last, 16).ok()?;
    let open = 4 * (TAIL_DIGITS - last.len());
    Some((from << open, (from + 1) << open))
}

pub(crate) const fn table_name(table: Table) -> &'static str {
    match table {
        Table::Agents => "agents",
        Table::Tokens => "tokens",
        Table::Switches => "switches",
        Table::Meta => "meta",
    }
}

/// What says that a projected text is what was written, under the key it was written for. Against bits
/// that flip, not against somebody who edits: that is what the tree is for.
pub(crate) fn sum(key: &[u8], text: &str) -> [u8; 32] {
    // Keys hold no NUL, so two pairs never run together.
    *Sha256::of(&[key, b"\0", text.as_bytes()].concat()).as_bytes()
}

/// A record made ready on the caller's thread, so that the writer only writes.
pub(crate) struct Leaf {
    pub(crate) body: Vec<u8>,
    pub(crate) hash: Hash,
    pub(crate) run: Option<Uuid>,
    pub(crate) salt: [u8; SALT],
    pub(crate) payload: Vec<u8>,
    pub(crate) changes: Vec<Change>,
}

/// A projection made ready.
pub(crate) enum Change {
    Run { row: Box<Row>, json: String, sum: [u8; 32] },
    Put { table: Table, key: String, json: String, sum: [u8; 32] },
    Delete { table: Table, key: String },
}

/// The writing side of an opened journal.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) tree: Frontier,
    pub(crate) key: LogKey,
    pub(crate) fresh: bool,
}

/// Opens the journal of a held state directory, or makes it. Looks at the header, the format, both
/// ends of the tables and the saved checkpoint: a fixed number of pages, however long the journal is.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<Opened, JournalError> {
    let path = state::database(dir);
    let saved = state::read(&state::checkpoint(dir))?;
    refuse_foreign(&path, saved.is_some())?;
    let connection = connect(&path, options)?;
    let fresh = identify(&connection, &path, saved.is_some())?;
    let key = LogKey::load_or_make(dir, fresh)?;
    if fresh {
        create(&connection, dir, &key)?;
    }
    let tree = load(&connection, &path, &key)?;
    let saved = match (saved, tree.size()) {
        (Some(saved), _) => saved,
        // A crash between making the journal and saving its first checkpoint; nothing was recorded yet.
        (None, 0) => {
            let note = key.sign(0, tree.root()?)?;
            save_checkpoint(dir, &note)?;
            note
        }
        (None, _) => {
            return Err(JournalError::unfit(
                state::checkpoint(dir),
                "is missing, so nothing vouches that the journal is whole",
                "put back the newest checkpoint you have saved elsewhere, then run: turnback verify",
            ));
        }
    };
    compare(&connection, dir, &tree, &key, &saved)?;
    Ok(Opened { connection, tree, key, fresh })
}

/// Refuses a missing journal whose checkpoint is still there, and a file that is no database at all.
fn refuse_foreign(path: &Path, vouched: bool) -> Result<(), JournalError> {
    let mut head = Vec::new();
    match OpenOptions::new().read(true).open(path) {
        Ok(file) => {
            file.take(16).read_to_end(&mut head).map_err(storage("reading the journal's header"))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => {
            return Err(JournalError::unfit(path, format!("cannot be read: {e}"), "make it readable to this user"));
        }
    }
    if head.is_empty() && vouched {
        return Err(JournalError::unfit(
            path,
            "is missing or empty, but a checkpoint of it exists",
            "restore the journal; to begin a new one, name another state directory",
        ));
    }
    // While the first page is written there is a rollback journal beside it, and a crash may have torn that
    // page: SQLite empties the file again, or says itself that it is none of its own.
    let unborn = !vouched && path.with_extension("db-journal").exists();
    if !head.is_empty() && head != b"SQLite format 3\0" && !unborn {
        return Err(not_whole(path, "is not an SQLite database"));
    }
    Ok(())
}

fn not_whole(path: &Path, message: impl Into<String>) -> JournalError {
    JournalError::unfit(path, message, "run: turnback verify, and restore the state directory from a backup")
}

fn connect(path: &Path, options: &Options) -> Result<Connection, JournalError> {
    let failed = storage("opening the journal");
    // Made here and not by SQLite, for its mode; the files SQLite puts beside it inherit that.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(storage("opening the journal"))?;
    if let Some(dir) = path.parent() {
        state::sync_dir(dir).map_err(storage("opening the journal"))?;
    }
    let unreadable = |e: rusqlite::Error| not_whole(path, format!("cannot be opened: {e}"));
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW,
    )
    .map_err(unreadable)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(&failed)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(unreadable)?;
    if mode != "wal" {
        return Err(JournalError::unfit(path, format!("stays in journal mode `{mode}`"), "use a local file system"));
    }
    // SQLite ignores errors of its own automatic checkpoints, and makes one when a connection closes,
    // also after a failed commit. Ours are explicit and their errors count.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(&failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(&failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(&failed)?;
    // What is erased or replaced is overwritten, not only unlinked.
    connection.pragma_update(None, "secure_delete", "ON").map_err(&failed)?;
    connection.pragma_update(None, "cell_size_check", "ON").map_err(&failed)?;
    connection.pragma_update(None, "trusted_schema", "OFF").map_err(&failed)?;
    // Enough for the pages a group touches: the ends of the tables, and places in the index of tails.
    connection.pragma_update(None, "cache_size", -4_000).map_err(&failed)?;
    if let Some(pages) = options.max_pages {
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
            .map_err(&failed)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Tells a journal of this version from an unborn one and from everything else. True: to be made.
fn identify(connection: &Connection, path: &Path, vouched: bool) -> Result<bool, JournalError> {
    let unreadable = |e: rusqlite::Error| not_whole(path, format!("cannot be read: {e}"));
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(unreadable);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(unreadable)?;
    match (pragma("application_id")?, pragma("user_version")?, tables) {
        (0, 0, 0) if !vouched => Ok(true),
        (0, 0, 0) => Err(not_whole(path, "is empty, but a checkpoint of it exists")),
        (APPLICATION_ID, FORMAT, _) => Ok(false),
        (APPLICATION_ID, version, _) => Err(JournalError::unfit(
            path,
            format!("has format {version}; this program reads format {FORMAT}"),
            "use the version of turnback that wrote it",
        )),
        _ => Err(JournalError::unfit(path, "is an SQLite database but no journal", "name another state directory")),
    }
}

fn create(connection: &Connection, dir: &Path, key: &LogKey) -> Result<(), JournalError> {
    let failed = storage("making the journal");
    let note = key.sign(0, tlog_tiles::EMPTY_HASH)?;
    let tx = connection.unchecked_transaction().map_err(&failed)?;
    tx.execute_batch(SCHEMA).map_err(&failed)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(&failed)?;
    tx.pragma_update(None, "user_version", FORMAT).map_err(&failed)?;
    tx.execute("INSERT INTO journal VALUES ('origin', ?1)", [key.origin()]).map_err(&failed)?;
    insert_checkpoint(&tx, 0, &note)?;
    fail_point!("journal-before-made", crate::store::struck);
    tx.commit().map_err(&failed)?;
    fold_wal(connection, true)?;
    fail_point!("journal-before-first-checkpoint", crate::store::struck);
    // Last: from here on a missing journal is a lost journal.
    save_checkpoint(dir, &note)
}

fn load(connection: &Connection, path: &Path, key: &LogKey) -> Result<Frontier, JournalError> {
    let unreadable = |e: rusqlite::Error| not_whole(path, format!("cannot be read: {e}"));
    let origin: Option<String> = connection
        .query_row("SELECT value FROM journal WHERE key = 'origin'", [], |row| row.get(0))
        .optional()
        .map_err(unreadable)?;
    if origin.as_deref() != Some(key.origin()) {
        return Err(not_whole(path, format!("is not the journal of `log.key` (`{}`)", key.origin())));
    }
    let size = size(connection).map_err(unreadable)?;
    let hashes: i64 = connection
        .query_row("SELECT coalesce(max(idx) + 1, 0) FROM hashes", [], |row| row.get(0))
        .map_err(unreadable)?;
    if hashes != signed(stored_hash_count(size)) {
        return Err(not_whole(path, format!("has {size} records, but its tree does not have their hashes")));
    }
    let missing = |index| not_whole(path, format!("lacks hash {index} of its tree"));
    let tree =
        Frontier::load(size, |index| hash_at(connection, index).map_err(unreadable)?.ok_or_else(|| missing(index)))?;
    if let Some(last) = size.checked_sub(1) {
        let body: Vec<u8> = connection
            .query_row("SELECT body FROM leaves WHERE seq = ?1", [signed(last)], |row| row.get(0))
            .map_err(unreadable)?;
        if hash_at(connection, stored_hash_index(0, last)).map_err(unreadable)? != Some(tlog_tiles::record_hash(&body))
        {
            return Err(not_whole(path, format!("was altered: its last record, {last}, is not what was recorded")));
        }
    }
    Ok(tree)
}

/// The saved checkpoint against the tree: a journal shorter than it, or different, was restored or cut.
fn compare(
    connection: &Connection,
    dir: &Path,
    tree: &Frontier,
    key: &LogKey,
    saved: &str,
) -> Result<(), JournalError> {
    let path = state::database(dir);
    let file = state::checkpoint(dir);
    let saved = tlog::read_checkpoint(saved, key.verifier())
        .map_err(|why| JournalError::unfit(&file, why, "put back the newest checkpoint you have saved elsewhere"))?;
    if saved.size() > tree.size() {
        return Err(not_whole(
            &path,
            format!(
                "has {} records, but its saved checkpoint vouches for {}: an old copy was restored or the end was cut off",
                tree.size(),
                saved.size()
            ),
        ));
    }
    let unreadable = |e: rusqlite::Error| not_whole(&path, format!("cannot be read: {e}"));
    let then = Frontier::load(saved.size(), |index| {
        hash_at(connection, index)
            .map_err(unreadable)?
            .ok_or_else(|| not_whole(&path, format!("lacks hash {index} of its tree")))
    })?;
    if then.root()? != *saved.hash() {
        return Err(not_whole(
            &path,
            format!(
                "differs from its saved checkpoint within the first {} records: it was altered or replaced",
                saved.size()
            ),
        ));
    }
    Ok(())
}

/// How many records there are.
pub(crate) fn size(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .query_row("SELECT coalesce(max(seq) + 1, 0) FROM leaves", [], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

/// A stored hash of the tree.
pub(crate) fn hash_at(connection: &Connection, index: u64) -> rusqlite::Result<Option<Hash>> {
    connection
        .prepare_cached("SELECT hash FROM hashes WHERE idx = ?1")?
        .query_row([signed(index)], |row| row.get(0).map(Hash))
        .optional()
}

/// The columns of a run's line before its text, in the order of the table.
pub(crate) fn columns(row: &Row) -> [Value; 11] {
    let when = |at: Option<jiff::Timestamp>| at.map_or(Value::Null, |at| Value::Integer(at.as_microsecond()));
    [
        Value::Blob(row.run.uuid().as_bytes().to_vec()),
        Value::Integer(tail(row.run.uuid())),
        row.actor.agent().map_or(Value::Null, |name| Value::Text(name.as_str().to_owned())),
        Value::Text(row.resource.clone()),
        Value::Text(row.state.clone()),
        Value::Integer(row.over.into()),
        Value::Integer(row.undelivered.into()),
        when(row.committed),
        when((!row.reads.is_empty()).then_some(row.updated)),
        when(row.expires),
        Value::Blob(row.action.as_bytes().to_vec()),
    ]
}

/// Writes the records of one transaction: every statement is looked up once for all of them, and a run
/// that moved several times gets its line of the list once.
pub(crate) struct Pen<'c> {
    connection: &'c Connection,
    leaf: CachedStatement<'c>,
    payload: CachedStatement<'c>,
    hash: CachedStatement<'c>,
    line: CachedStatement<'c>,
    /// The last line of each run, in the order the runs entered.
    lines: Vec<(&'c Row, &'c str, &'c [u8; 32])>,
    places: HashMap<RunId, usize>,
}

impl<'c> Pen<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Result<Self, JournalError> {
        let prepare = |sql| connection.prepare_cached(sql).map_err(storage("preparing to write"));
        Ok(Self {
            connection,
            leaf: prepare("INSERT INTO leaves (seq, run, body) VALUES (?1, ?2, ?3)")?,
            payload: prepare("INSERT INTO payloads (seq, salt, body) VALUES (?1, ?2, ?3)")?,
            hash: prepare("INSERT INTO hashes (idx, hash) VALUES (?1, ?2)")?,
            // What a run is about never changes; naming it here would only move it in its indexes.
            line: prepare(
                "INSERT INTO runs (run, tail, agent, resource, state, over, undelivered, committed, read, expires, action, row, sum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                 ON CONFLICT (run) DO UPDATE SET state = excluded.state, over = excluded.over,
                   undelivered = excluded.undelivered, committed = excluded.committed, read = excluded.read,
                   expires = excluded.expires, row = excluded.row, sum = excluded.sum",
            )?,
            lines: Vec::new(),
            places: HashMap::new(),
        })
    }

    /// Writes one record, its payload, its hashes and its projections, except lines of the list of runs.
    pub(crate) fn record(&mut self, tree: &mut Frontier, leaf: &'c Leaf) -> Result<u64, JournalError> {
        let seq = tree.size();
        let (first, hashes) = tree.push(leaf.hash)?;
        self.rows(seq, leaf, first, &hashes).map_err(storage("writing a record"))?;
        Ok(seq)
    }

    fn rows(&mut self, seq: u64, leaf: &'c Leaf, first: u64, hashes: &[Hash]) -> rusqlite::Result<()> {
        let seq = signed(seq);
        self.leaf.execute(params![seq, leaf.run.as_ref().map(Uuid::as_bytes), leaf.body])?;
        self.payload.execute(params![seq, leaf.salt, leaf.payload])?;
        for (index, hash) in (first..).zip(hashes) {
            self.hash.execute(params![signed(index), hash.0])?;
        }
        leaf.changes.iter().try_for_each(|change| self.project(change))
    }

    fn project(&mut self, change: &'c Change) -> rusqlite::Result<()> {
        match change {
            Change::Run { row, json, sum } => {
                // A later line does not name what an earlier one asked or countered.
                self.relate(row)?;
                match self.places.entry(row.run) {
                    Entry::Occupied(place) => {
                        if let Some(line) = self.lines.get_mut(*place.get()) {
                            *line = (row, json, sum);
                        }
                    }
                    Entry::Vacant(place) => {
                        place.insert(self.lines.len());
                        self.lines.push((row, json, sum));
                    }
                }
                Ok(())
            }
            Change::Put { table, key, json, sum } => {
                let table = table_name(*table);
                self.connection
                    .prepare_cached(&format!(
                        "INSERT INTO {table} (key, value, sum) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value, sum = excluded.sum"
                    ))?
                    .execute(params![key, json, sum])
                    .map(drop)
            }
            Change::Delete { table, key } => {
                let table = table_name(*table);
                self.connection.prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))?.execute([key]).map(drop)
            }
        }
    }

    fn relate(&self, row: &Row) -> rusqlite::Result<()> {
        let run = *row.run.uuid().as_bytes();
        if let Some(question) = row.question {
            self.connection
                .prepare_cached(
                    "INSERT INTO questions (question, tail, run) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                )?
                .execute(params![*question.uuid().as_bytes(), tail(question.uuid()), run])?;
        }
        for undone in &row.undoes {
            self.connection
                .prepare_cached("INSERT INTO undoes (undone, run) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
                .execute(params![*undone.uuid().as_bytes(), run])?;
        }
        Ok(())
    }

    /// Writes the lines of the list of runs. Last in a transaction.
    pub(crate) fn lines(mut self) -> Result<(), JournalError> {
        for (row, json, sum) in self.lines {
            let [run, tail, agent, resource, state, over, undelivered, committed, read, expires, action] = columns(row);
            self.line
                .execute(params![
                    run,
                    tail,
                    agent,
                    resource,
                    state,
                    over,
                    undelivered,
                    committed,
                    read,
                    expires,
                    action,
                    json,
                    sum
                ])
                .map_err(storage("writing the list of runs"))?;
        }
        Ok(())
    }
}

/// Stores a small blob. One that is there already but no longer what its name says is healed.
pub(crate) fn insert_blob(connection: &Connection, hash: &Sha256, bytes: &[u8]) -> Result<(), JournalError> {
    connection
        .prepare_cached(
            "INSERT INTO blobs (hash, body) VALUES (?1, ?2)
             ON CONFLICT (hash) DO UPDATE SET body = excluded.body WHERE body <> excluded.body",
        )
        .and_then(|mut s| s.execute(params![hash.as_bytes(), bytes]))
        .map(drop)
        .map_err(storage("writing a blob"))
}

/// Erases payloads and their salts: without the salt nobody can confirm a guess at what stood there.
pub(crate) fn erase(connection: &Connection, seqs: &[u64]) -> Result<(), JournalError> {
    for seq in seqs {
        connection
            .prepare_cached("UPDATE payloads SET salt = NULL, body = NULL WHERE seq = ?1")
            .and_then(|mut s| s.execute([signed(*seq)]))
            .map_err(storage("erasing a payload"))?;
    }
    Ok(())
}

pub(crate) fn insert_checkpoint(connection: &Connection, size: u64, note: &str) -> Result<(), JournalError> {
    connection
        .execute("INSERT INTO checkpoints (size, note) VALUES (?1, ?2)", params![signed(size), note])
        .map(drop)
        .map_err(storage("writing a checkpoint"))
}

/// Saves the newest checkpoint beside the journal.
pub(crate) fn save_checkpoint(dir: &Path, note: &str) -> Result<(), JournalError> {
    state::replace(&state::checkpoint(dir), note.as_bytes(), 0o600).map_err(storage("saving the checkpoint"))
}

/// The newest stored checkpoint.
pub(crate) fn last_checkpoint(connection: &Connection) -> Result<Option<(u64, String)>, JournalError> {
    connection
        .query_row("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
        })
        .optional()
        .map_err(storage("reading the last checkpoint"))
}

/// Moves what the write-ahead log holds into the database file; readers may hold some of it back, which
/// is no error. `all` also waits for readers and empties the log file.
pub(crate) fn fold_wal(connection: &Connection, all: bool) -> Result<(), JournalError> {
    let statement = if all { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
    connection.query_row(statement, [], |_| Ok(())).map_err(storage("moving the write-ahead log into the journal"))
}
