//! Checking a whole log, offline or beside a running gateway, from what lies in the state directory and,
//! better, from a checkpoint that was kept elsewhere.
//!
//! Rebuilds the tree from the records alone and holds everything stored against it. Never writes, and
//! takes no lock. What it cannot see: changes after the newest checkpoint by somebody who also recomputed
//! the stored hashes, and a state directory replaced whole, key included, unless an older checkpoint from
//! elsewhere is given.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Rows, Statement};
use tlog_tiles::{Hash, record_hash};
use turnback_core::digest::Sha256;
use turnback_core::record::{self, Record, Row};
use turnback_core::refusal::Refusal;

use crate::error::{JournalError, storage};
use crate::query::{salted, written};
use crate::tlog::{self, Frontier};
use crate::{Table, query, sqlite, state, witness};

/// What was found when everything fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// How many records there are.
    pub records: u64,
    /// How many of their payloads were erased.
    pub erased: u64,
    /// How many runs they are about.
    pub runs: u64,
    /// How many signed checkpoints fit.
    pub checkpoints: u64,
    /// How many records the newest of them vouches for.
    pub vouched: u64,
    /// How many records the older checkpoint that was given vouches for.
    pub older: Option<u64>,
    /// Root of the tree, as in a checkpoint.
    pub root: String,
}

/// The first thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Sequence number of the record, when one record is at fault.
    pub seq: Option<u64>,
    /// What does not fit.
    pub what: String,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.seq {
            Some(seq) => write!(f, "record {seq}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Why a log is not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It was altered, cut, or mixed up.
    #[error("{0}")]
    Misfit(Misfit),
    /// It could not be looked at.
    #[error(transparent)]
    Unreadable(#[from] JournalError),
}

impl From<VerifyError> for Refusal {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Misfit(misfit) => Refusal::new(turnback_core::refusal::Code::Failed, misfit.to_string())
                .next("keep this state directory as it is for inquiry; compare it with a backup"),
            VerifyError::Unreadable(error) => error.into(),
        }
    }
}

fn misfit<T>(seq: impl Into<Option<u64>>, what: impl Into<String>) -> Result<T, VerifyError> {
    // What does not fit is somebody else's bytes, and may be repeated in this.
    Err(VerifyError::Misfit(Misfit { seq: seq.into(), what: turnback_core::text::visible(&what.into()) }))
}

/// A database that cannot be read where it should be is itself what does not fit.
fn unreadable(seq: impl Into<Option<u64>>) -> impl FnOnce(rusqlite::Error) -> VerifyError {
    let seq = seq.into();
    move |e| {
        let why = turnback_core::text::visible(&e.to_string());
        VerifyError::Misfit(Misfit { seq, what: format!("the journal cannot be read here: {why}") })
    }
}

/// Verifies the log of a state directory; `older` is the text of a checkpoint saved earlier, which must
/// be of this log, under its key, and a prefix of it. `progress` hears records done and in all, about
/// every thousand.
///
/// # Errors
/// [`VerifyError::Misfit`] is the first thing that does not fit, records in order first.
pub fn verify(
    dir: &Path,
    older: Option<&str>,
    progress: Option<&mut dyn FnMut(u64, u64)>,
) -> Result<Report, VerifyError> {
    let Some(verifier) = state::read(&state::verifier(dir))? else {
        return Err(JournalError::unfit(
            state::verifier(dir),
            "is missing",
            "name a state directory, or restore the file",
        )
        .into());
    };
    let verifier = verifier.trim_end();
    // Read before the snapshot is taken: a running gateway saves this only after what it vouches for.
    let saved = state::read(&state::checkpoint(dir))?;
    if let Err(missing) = witness::heard(&state::database(dir)) {
        return misfit(None, missing.to_string());
    }
    let connection = open(&state::database(dir))?;
    connection.execute_batch("BEGIN").map_err(storage("reading the journal"))?;
    let checkpoints = Checkpoints::collect(&connection, verifier, saved.as_deref(), older)?;
    let mut walk = Walk::new(&connection, checkpoints)?;
    walk.run(progress)?;
    walk.finish(&connection, verifier)
}

/// Opens a journal to look at, beside a running gateway, without one, or on media nobody can write.
pub(crate) fn open(path: &Path) -> Result<Connection, VerifyError> {
    if !path.exists() {
        return misfit(None, format!("`{}` is missing: every record is gone", path.display()));
    }
    let opened = query::open_readonly(path).and_then(|c| {
        c.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(c)
    });
    match opened {
        Ok(connection) => Ok(connection),
        // A copy on read-only media has no log file and cannot be given one; then it cannot change either.
        Err(_) if !path.with_extension("db-wal").exists() => {
            let uri = format!(
                "file:{}?immutable=1",
                path.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
            );
            Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
                .map_err(unreadable(None))
        }
        Err(e) => Err(unreadable(None)(e)),
    }
}

/// Every checkpoint there is, by size: what the tree's root must be there, and who says so.
struct Checkpoints {
    roots: BTreeMap<u64, Vec<(Hash, &'static str)>>,
    count: u64,
    older: Option<u64>,
    /// Whether the checkpoint saved beside the journal is among the stored ones, as it always is unless
    /// somebody took it out or restored an older journal. Looked at last: missing records tell more.
    saved_is_stored: bool,
}

impl Checkpoints {
    fn collect(
        connection: &Connection,
        verifier: &str,
        saved: Option<&str>,
        older: Option<&str>,
    ) -> Result<Self, VerifyError> {
        let mut all = Self { roots: BTreeMap::new(), count: 0, older: None, saved_is_stored: false };
        if let Some(older) = older {
            all.older = Some(all.add(older, "the older checkpoint", verifier)?);
        }
        let saved = match saved {
            Some(saved) => all.add(saved, "the checkpoint saved beside the journal", verifier)?,
            None => return misfit(None, "the checkpoint saved beside the journal is missing"),
        };
        let mut found = false;
        let mut statement =
            connection.prepare("SELECT size, note FROM checkpoints ORDER BY size").map_err(unreadable(None))?;
        let mut rows = statement.query([]).map_err(unreadable(None))?;
        while let Some(row) = rows.next().map_err(unreadable(None))? {
            let (size, note): (i64, String) =
                row.get(0).and_then(|size| Ok((size, row.get(1)?))).map_err(unreadable(None))?;
            if all.add(&note, "a stored checkpoint", verifier)? != size.unsigned_abs() {
                return misfit(None, format!("the stored checkpoint of size {size} is of another size"));
            }
            all.count += 1;
            found |= size.unsigned_abs() == saved;
        }
        all.saved_is_stored = found;
        Ok(all)
    }

    fn add(&mut self, note: &str, name: &'static str, verifier: &str) -> Result<u64, VerifyError> {
        match tlog::read_checkpoint(note, verifier) {
            Ok(read) => {
                self.roots.entry(read.size()).or_default().push((*read.hash(), name));
                Ok(read.size())
            }
            Err(why) => misfit(None, format!("{name} {why}")),
        }
    }

    /// Holds the rebuilt tree against whatever vouches for it at its present size.
    fn check(&self, tree: &Frontier) -> Result<(), VerifyError> {
        let Some(expected) = self.roots.get(&tree.size()) else { return Ok(()) };
        let root = tree.root()?;
        match expected.iter().find(|(hash, _)| *hash != root) {
            None => Ok(()),
            Some((_, name)) => {
                let before = self.roots.range(..tree.size()).next_back().map_or(0, |(size, _)| *size);
                misfit(
                    None,
                    format!(
                        "{name} of {} records does not fit: one of the records {before} to {} was altered together with its stored hash",
                        tree.size(),
                        tree.size().saturating_sub(1),
                    ),
                )
            }
        }
    }
}

struct Walk<'c> {
    leaves: Statement<'c>,
    hashes: Statement<'c>,
    total: u64,
    checkpoints: Checkpoints,
    tree: Frontier,
    erased: u64,
}

impl<'c> Walk<'c> {
    fn new(connection: &'c Connection, checkpoints: Checkpoints) -> Result<Self, VerifyError> {
        let total: i64 =
            connection.query_row("SELECT count(*) FROM leaves", [], |row| row.get(0)).map_err(unreadable(None))?;
        let prepare = |sql| connection.prepare(sql).map_err(unreadable(None));
        Ok(Self {
            leaves: prepare(
                "SELECT l.seq, l.run, l.body, p.seq, p.salt, p.body
                 FROM leaves l LEFT JOIN payloads p ON p.seq = l.seq ORDER BY l.seq",
            )?,
            hashes: prepare("SELECT idx, hash FROM hashes ORDER BY idx")?,
            total: total.unsigned_abs(),
            checkpoints,
            tree: Frontier::empty(),
            erased: 0,
        })
    }

    fn run(&mut self, mut progress: Option<&mut dyn FnMut(u64, u64)>) -> Result<(), VerifyError> {
        self.checkpoints.check(&self.tree)?;
        let mut leaves = self.leaves.query([]).map_err(unreadable(None))?;
        let mut hashes = self.hashes.query([]).map_err(unreadable(None))?;
        loop {
            let seq = self.tree.size();
            if let Some(progress) = progress.as_mut().filter(|_| seq.is_multiple_of(1024) || seq == self.total) {
                progress(seq, self.total);
            }
            let Some(row) = leaves.next().map_err(unreadable(seq))? else { break };
            let found: i64 = row.get(0).map_err(unreadable(seq))?;
            if found.unsigned_abs() != seq || found < 0 {
                return misfit(seq, format!("is missing; record {found} follows record {}", seq.saturating_sub(1)));
            }
            let body = match row.get_ref(2).map_err(unreadable(seq))? {
                ValueRef::Blob(body) => body,
                _ => return misfit(seq, "its body is no longer bytes"),
            };
            let hash = record_hash(body);
            check_hashes(&mut hashes, &mut self.tree, seq, hash)?;
            let record = check_record(seq, body)?;
            let run: Option<Vec<u8>> = row.get(1).map_err(unreadable(seq))?;
            if run.as_deref() != record.run.map(|run| *run.uuid().as_bytes()).as_ref().map(<[u8; 16]>::as_slice) {
                return misfit(seq, "it is filed under another run than it names");
            }
            let stored: Option<i64> = row.get(3).map_err(unreadable(seq))?;
            let salt: Option<Vec<u8>> = row.get(4).map_err(unreadable(seq))?;
            let payload: Option<Vec<u8>> = row.get(5).map_err(unreadable(seq))?;
            if check_payload(seq, &record, stored.is_some(), salt, payload)? {
                self.erased += 1;
            }
            self.checkpoints.check(&self.tree)?;
        }
        let size = self.tree.size();
        if let Some(row) = hashes.next().map_err(unreadable(None))? {
            let index: i64 = row.get(0).map_err(unreadable(None))?;
            return misfit(size, format!("is missing, but hash {index} of its place in the tree is there"));
        }
        if let Some((vouched, who)) = self.checkpoints.roots.iter().next_back()
            && *vouched > size
        {
            let who = who.first().map_or("a checkpoint", |(_, name)| name);
            return misfit(size, format!("is missing: {who} vouches for {vouched} records, {size} are there"));
        }
        Ok(())
    }

    fn finish(self, connection: &Connection, verifier: &str) -> Result<Report, VerifyError> {
        let count =
            |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).map_err(unreadable(None));
        if let Some(seq) =
            count("SELECT min(p.seq) FROM payloads p WHERE NOT EXISTS (SELECT 1 FROM leaves l WHERE l.seq = p.seq)")?
        {
            return misfit(seq.unsigned_abs(), "a payload is there, but no record");
        }
        if let Some(seq) = count(
            "SELECT min(l.seq) FROM leaves l
             WHERE l.run IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.run = l.run)",
        )? {
            return misfit(seq.unsigned_abs(), "the run it names is missing in the list of runs");
        }
        if !self.checkpoints.saved_is_stored {
            return misfit(None, "the checkpoint saved beside the journal is not among the stored ones");
        }
        // Queries go through indexes, so these must tell the same as the tables.
        let sound: String =
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(unreadable(None))?;
        if sound != "ok" {
            return misfit(None, format!("the journal's tables are damaged: {}", turnback_core::text::visible(&sound)));
        }
        check_projections(connection)?;
        if count("SELECT count(*) FROM journal WHERE key = 'origin' AND value <> ''")? != Some(1) {
            return misfit(None, "the journal's name is gone");
        }
        Ok(Report {
            origin: verifier.split('+').next().unwrap_or_default().to_owned(),
            records: self.tree.size(),
            erased: self.erased,
            runs: count("SELECT count(DISTINCT run) FROM leaves WHERE run IS NOT NULL")?.unwrap_or(0).unsigned_abs(),
            checkpoints: self.checkpoints.count,
            vouched: self.checkpoints.roots.keys().next_back().copied().unwrap_or(0),
            older: self.checkpoints.older,
            root: self.tree.root()?.to_string(),
        })
    }
}

/// Holds what people query against what was written for it: every text against its sum, and what is
/// looked for in columns and side tables against the text.
fn check_projections(connection: &Connection) -> Result<(), VerifyError> {
    let altered = |e: JournalError| VerifyError::Misfit(Misfit { seq: None, what: e.to_string() });
    for table in [Table::Agents, Table::Tokens, Table::Switches, Table::Meta] {
        let name = sqlite::table_name(table);
        let mut all = connection.prepare(&format!("SELECT key, value, sum FROM {name}")).map_err(unreadable(None))?;
        let mut rows = all.query([]).map_err(unreadable(None))?;
        while let Some(row) = rows.next().map_err(unreadable(None))? {
            let (key, text, sum): (String, String, Vec<u8>) =
                (|| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))().map_err(unreadable(None))?;
            written::<serde_json::Value>(name, key.as_bytes(), &text, &sum).map_err(altered)?;
        }
    }
    let one = |sql: &str, of: &[u8], run: &[u8]| {
        connection
            .prepare_cached(sql)
            .and_then(|mut found| found.query_row([of, run], |row| row.get::<_, bool>(0)))
            .map_err(unreadable(None))
    };
    let mut all = connection
        .prepare("SELECT run, tail, agent, resource, state, over, undelivered, committed, read, expires, action, row, sum FROM runs")
        .map_err(unreadable(None))?;
    let mut rows = all.query([]).map_err(unreadable(None))?;
    let mut undoes = 0;
    while let Some(row) = rows.next().map_err(unreadable(None))? {
        let (run, text, sum): (Vec<u8>, String, Vec<u8>) =
            (|| Ok((row.get(0)?, row.get(11)?, row.get(12)?)))().map_err(unreadable(None))?;
        let line: Row = written("the list of runs", &run, &text, &sum).map_err(altered)?;
        let columns = sqlite::columns(&line);
        for (n, expected) in columns.iter().enumerate() {
            let found = row.get::<_, rusqlite::types::Value>(n).map_err(unreadable(None))?;
            if found != *expected {
                return misfit(None, format!("run `{}` is listed as what it is not", line.run));
            }
        }
        let (mut asked, mut countered) = (true, true);
        if let Some(question) = line.question {
            asked = one(
                "SELECT count(*) FROM questions WHERE question = ?1 AND run = ?2",
                question.uuid().as_bytes(),
                &run,
            )?;
        }
        for undone in &line.undoes {
            undoes += 1;
            countered &=
                one("SELECT count(*) FROM undoes WHERE undone = ?1 AND run = ?2", undone.uuid().as_bytes(), &run)?;
        }
        if !asked || !countered {
            return misfit(None, format!("run `{}` cannot be found by its question or by what it counters", line.run));
        }
    }
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(unreadable(None));
    if count("SELECT count(*) FROM questions q WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.run = q.run)")? != 0 {
        return misfit(None, "a question is there, but not its run");
    }
    if count("SELECT count(*) FROM undoes")? != undoes {
        return misfit(None, "an undo is listed that no run is");
    }
    Ok(())
}

/// Grows the rebuilt tree by one leaf and holds the stored hashes against it.
fn check_hashes(stored: &mut Rows<'_>, tree: &mut Frontier, seq: u64, leaf: Hash) -> Result<(), VerifyError> {
    let (first, hashes) = tree.push(leaf)?;
    for (n, (index, hash)) in (first..).zip(hashes).enumerate() {
        let Some(row) = stored.next().map_err(unreadable(seq))? else {
            return misfit(seq, format!("hash {index} of the tree is missing"));
        };
        let found: i64 = row.get(0).map_err(unreadable(seq))?;
        if found.unsigned_abs() != index {
            return misfit(seq, format!("hash {index} of the tree is missing"));
        }
        let there: [u8; 32] = match row.get(1) {
            Ok(there) => there,
            Err(_) => return misfit(seq, format!("hash {index} of the tree is not a hash")),
        };
        if Hash(there) != hash {
            let what = if n == 0 {
                "it is not what was recorded: its hash differs from the stored one"
            } else {
                "the stored hash of the tree above it was altered"
            };
            return misfit(seq, what);
        }
    }
    Ok(())
}

/// Reads a record, which must be the canonical bytes of this version.
fn check_record(seq: u64, body: &[u8]) -> Result<Record, VerifyError> {
    let record: Record = match serde_json::from_slice(body) {
        Ok(record) => record,
        Err(e) => return misfit(seq, format!("it cannot be read: {e}")),
    };
    if record.v != record::VERSION {
        return misfit(seq, format!("it has version {}; this program reads version {}", record.v, record::VERSION));
    }
    match record.canonical() {
        Ok(bytes) if bytes == body => Ok(record),
        _ => misfit(seq, "it is not in canonical form"),
    }
}

/// Holds a payload against its record. True: it was erased.
fn check_payload(
    seq: u64,
    record: &Record,
    stored: bool,
    salt: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
) -> Result<bool, VerifyError> {
    let expected: Sha256 = match (record.payload, stored) {
        (Some(expected), true) => expected,
        (Some(_), false) => return misfit(seq, "its payload is missing, not erased"),
        (None, false) => return Ok(false),
        (None, true) => return misfit(seq, "it names no payload, but one is there"),
    };
    let (salt, payload) = match (salt, payload) {
        (Some(salt), Some(payload)) => (salt, payload),
        (None, None) => return Ok(true),
        _ => return misfit(seq, "its payload is half erased"),
    };
    if salted(&salt, &payload) != expected {
        return misfit(seq, "its payload is not what was recorded");
    }
    match record::decode(&payload) {
        Ok(body) if body.kind() == record.kind && body.run() == record.run => Ok(false),
        Ok(_) => misfit(seq, "its payload tells of something else than it says"),
        Err(e) => misfit(seq, format!("its payload cannot be read: {e}")),
    }
}
