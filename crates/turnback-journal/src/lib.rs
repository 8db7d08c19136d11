//! Append and replay: the journal is the truth.
//!
//! Owns the state directory: its lock, the records, the tables people query, the tree over the records
//! and its signed checkpoints, and the blobs. Never decides what is recorded, and never performs
//! anything: whoever appends performs after it was told that the append is durable.
//!
//! What is durable when:
//!
//! | call | durable |
//! |---|---|
//! | [`Journal::append`] | all entries, projections and blobs of the batch, or none, when `done` hears `Ok` |
//! | [`Journal::append`] | large blobs (over [`SMALL`]) before the batch is queued: a record never names a blob that is not there |
//! | [`Journal::checkpoint`], [`Journal::close`] | the signed checkpoint, in the journal and in the file `checkpoint` |
//!
//! `done` hearing [`JournalError::Unknown`] says nothing about durability; only reopening does.
//!
//! Fail points, with feature `failpoints`: `journal-before-made`, `journal-before-first-checkpoint`,
//! `journal-before-commit`, `journal-after-commit`, `journal-before-checkpoint-file`. `return` crashes the
//! process there, `return(error)` fails there like a sync.
//!
//! Rooms: `state` (directory, lock) · `sqlite` (tables) · `store` (the writer) · `query` (reading) ·
//! `replay` (whole runs, for deciding them again) · `tlog` (tree, checkpoints) · `verify` · `witness` (what is missing from the write-ahead log) · `vault` (blobs).

mod error;
mod query;
mod replay;
mod sqlite;
mod state;
mod store;
mod tlog;
mod vault;
mod verify;
mod witness;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use turnback_core::digest::Sha256;
use turnback_core::names::RunId;
use turnback_core::record::{self, Body, Record, Row};

pub use crate::error::JournalError;
pub use crate::query::RowFilter;
pub use crate::replay::{Sealed, Told, replay};
pub use crate::state::slots_dir;
pub use crate::vault::{Blobs, SMALL};
pub use crate::verify::{Misfit, Report, VerifyError, verify};

use crate::error::storage;
use crate::query::Readers;
use crate::sqlite::{Change, Leaf, SALT};
use crate::store::{Job, Prepared, Shared, Writer};

/// One record to append, and the projections that follow from it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it happened, by the node's clock. The order of records does not depend on it.
    pub at: Timestamp,
    /// What happened.
    pub body: Body,
    /// Rows that change with it, in the same transaction.
    pub project: Vec<Projection>,
}

/// A change to a table people query.
#[derive(Clone, Debug)]
pub enum Projection {
    /// The run's line in the list of runs, new or replaced.
    Run(Box<Row>),
    /// A value, new or replaced.
    Put {
        /// Where.
        table: Table,
        /// Its key.
        key: String,
        /// The value.
        value: Value,
    },
    /// A value that goes.
    Delete {
        /// Where.
        table: Table,
        /// Its key.
        key: String,
    },
}

/// The small tables: keys and JSON values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Registered agents.
    Agents,
    /// Tokens, never their secrets.
    Tokens,
    /// Kill switches that are thrown.
    Switches,
    /// Whatever the gateway keeps about itself.
    Meta,
}

/// Entries that are recorded together or not at all, and the blobs they name.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In this order, with consecutive sequence numbers.
    pub entries: Vec<Entry>,
    /// Each under its own SHA-256.
    pub blobs: Vec<(Sha256, Vec<u8>)>,
}

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often the log is signed while it grows. Default 60 s.
    pub checkpoint_every: Duration,
    /// Batches that may wait for the writer; the next one is refused as overload. Default 4,096.
    pub queue: usize,
    /// Bytes that may wait for the writer. One batch may be larger when nothing else waits. Default 64 MiB.
    pub queue_bytes: usize,
    /// How long a batch nobody waits for ([`Journal::append_behind`]) may wait for company. Default 5 ms.
    pub linger: Duration,
    /// Largest size of the journal in pages of 4 KiB; the write that would exceed it fails like one on a
    /// full disk. Default: SQLite's own limit, 16 TiB.
    pub max_pages: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpoint_every: Duration::from_secs(60),
            queue: 4_096,
            queue_bytes: 64 * 1024 * 1024,
            linger: Duration::from_millis(5),
            max_pages: None,
        }
    }
}

/// What [`Journal::open`] returns.
#[derive(Debug)]
pub struct Opened {
    /// The journal, locked and ready.
    pub journal: Journal,
    /// Whether it was made just now.
    pub fresh: bool,
}

/// An open journal. Clones share it; it closes with the last of them, or by [`Journal::close`].
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    dir: Arc<Path>,
    verifier: String,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("dir", &self.inner.dir).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in a state directory, or makes both, and takes the directory's lock.
    ///
    /// Takes the same time whatever the length of the journal: it looks at the header, both ends of the
    /// tables and the last checkpoint. [`verify()`] walks all of it.
    ///
    /// # Errors
    /// [`JournalError::Locked`] names the process that holds the directory; [`JournalError::Unfit`] names
    /// the file that is missing, foreign, damaged, of another version, open to other users, or older than
    /// its checkpoint. Nothing is changed then.
    pub fn open(dir: &Path, options: Options) -> Result<Opened, JournalError> {
        let lock = state::hold(dir)?;
        let dir: Arc<Path> = dir.canonicalize().map_err(storage("opening the state directory"))?.into();
        // Before SQLite looks: what it recovers is all there is from then on.
        witness::heard(&state::database(&dir))?;
        let opened = sqlite::open(&dir, &options)?;
        let fresh = opened.fresh;
        let verifier = opened.key.verifier().to_owned();
        let shared = Arc::new(Shared::new(opened.tree.size(), &options));
        let writer = Writer {
            shared: shared.clone(),
            dir: dir.clone(),
            opened,
            checkpoint_every: options.checkpoint_every,
            unfolded: 0,
            _lock: lock,
        };
        let writer = thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run())
            .map_err(storage("starting the journal's writer"))?;
        let inner = Inner {
            shared,
            readers: Arc::new(Readers::new(state::database(&dir))),
            dir,
            verifier,
            writer: Mutex::new(Some(writer)),
        };
        Ok(Opened { journal: Journal { inner: Arc::new(inner) }, fresh })
    }

    /// Records a batch. `done` hears the sequence numbers once everything in it is durable, on the
    /// writer's thread, or why not, perhaps on this one. It should return quickly and not append in turn
    /// with [`Journal::append_wait`].
    ///
    /// Blocks only to write and sync blobs over [`SMALL`]; never on the queue.
    pub fn append(&self, batch: Batch, done: impl FnOnce(Result<Vec<u64>, JournalError>) + Send + 'static) {
        match self.prepare(batch) {
            Ok(batch) => self.inner.shared.push(Job::Append { batch, done: Box::new(done) }),
            Err(why) => done(Err(why)),
        }
    }

    /// [`Journal::append`] of something nobody waits for: recorded in the same order, with the next group
    /// somebody waits for or after [`Options::linger`], so that it costs no sync of its own. `done` hears
    /// it then.
    pub fn append_behind(&self, batch: Batch, done: impl FnOnce(Result<Vec<u64>, JournalError>) + Send + 'static) {
        match self.prepare(batch) {
            Ok(batch) => self.inner.shared.push_behind(Job::Append { batch, done: Box::new(done) }),
            Err(why) => done(Err(why)),
        }
    }

    /// Calls `done` once everything appended before, by whoever, is durable or refused; what lingers is
    /// written now. On the writer's thread, or at once when the journal takes nothing any more.
    pub fn settled(&self, done: impl FnOnce() + Send + 'static) {
        self.inner.shared.push(Job::Settled { done: Box::new(done) });
    }

    /// [`Journal::append`], waiting until it is durable. Not for the writer's thread.
    ///
    /// # Errors
    /// As `done` hears them: [`JournalError::Overloaded`], [`JournalError::BadBatch`],
    /// [`JournalError::Vault`] and [`JournalError::Closed`] wrote nothing of the batch,
    /// [`JournalError::Unknown`] may have, [`JournalError::Poisoned`] did not.
    pub fn append_wait(&self, batch: Batch) -> Result<Vec<u64>, JournalError> {
        let (tell, hear) = mpsc::sync_channel(1);
        self.append(batch, move |answer| drop(tell.send(answer)));
        hear.recv().unwrap_or(Err(JournalError::Closed))
    }

    /// Erases the payloads of these records. The records and the tree stay and still verify; what the
    /// payloads said is gone, also from the disk's free pages once the log file was moved on.
    ///
    /// # Errors
    /// As [`Journal::append_wait`].
    pub fn erase(&self, seqs: &[u64]) -> Result<(), JournalError> {
        let (tell, hear) = mpsc::sync_channel(1);
        let done = Box::new(move |answer| drop(tell.send(answer)));
        self.inner.shared.push(Job::Erase { seqs: seqs.to_vec(), done });
        hear.recv().unwrap_or(Err(JournalError::Closed)).map(drop)
    }

    fn prepare(&self, batch: Batch) -> Result<Prepared, JournalError> {
        if let Some(why) = self.poisoned() {
            return Err(JournalError::Poisoned { why });
        }
        let bad = |e: serde_json::Error| JournalError::BadBatch { why: e.to_string() };
        let mut leaves = Vec::with_capacity(batch.entries.len());
        let mut bytes = 0;
        let mut salts = vec![[0; SALT]; batch.entries.len()];
        getrandom::fill(salts.as_flattened_mut()).map_err(storage("drawing salts"))?;
        for (entry, salt) in batch.entries.into_iter().zip(salts) {
            let payload = record::encode(&entry.body).map_err(bad)?;
            let record = Record {
                v: record::VERSION,
                at: entry.at,
                kind: entry.body.kind(),
                run: entry.body.run(),
                payload: Some(query::salted(&salt, &payload)),
            };
            let body = record.canonical().map_err(bad)?;
            let changes = entry.project.into_iter().map(ready).collect::<Result<Vec<_>, _>>().map_err(bad)?;
            bytes += body.len() + payload.len() + changes.iter().map(size).sum::<usize>();
            let hash = tlog_tiles::record_hash(&body);
            leaves.push(Leaf { body, hash, run: record.run.map(|run| run.uuid()), salt, payload, changes });
        }
        let mut blobs = Vec::new();
        for (hash, content) in batch.blobs {
            if Sha256::of(&content) != hash {
                return Err(JournalError::BadBatch {
                    why: format!("blob {hash} is named by another hash than its own"),
                });
            }
            if content.len() <= SMALL {
                bytes += content.len();
                blobs.push((hash, content));
                continue;
            }
            vault::store(&self.inner.dir, &hash, &content).map_err(|failure| match failure {
                vault::Failure::Refused(e) => e,
                vault::Failure::Sync(why) => {
                    self.inner.shared.poison(why.clone());
                    JournalError::Unknown { why }
                }
            })?;
        }
        Ok(Prepared { leaves, blobs, bytes })
    }

    /// Why nothing is accepted any more, once a write has failed.
    pub fn poisoned(&self) -> Option<String> {
        self.inner.shared.poisoned()
    }

    /// What happened to a run, oldest first, each checked against the tree and its payload's hash.
    /// Empty for a run that was never recorded.
    ///
    /// # Errors
    /// [`JournalError::Altered`] names the record that was altered or whose payload was erased.
    pub fn run_events(&self, run: RunId) -> Result<Vec<(u64, Timestamp, Body)>, JournalError> {
        self.inner.readers.run_events(run)
    }

    /// Runs in the list, newest first.
    ///
    /// # Errors
    /// [`JournalError::Storage`].
    pub fn rows(&self, filter: &RowFilter) -> Result<Vec<Row>, JournalError> {
        self.inner.readers.rows(filter)
    }

    /// A run's line in the list.
    ///
    /// # Errors
    /// [`JournalError::Storage`].
    pub fn row(&self, run: RunId) -> Result<Option<Row>, JournalError> {
        self.inner.readers.row(run)
    }

    /// Every run that is set as committed: from its intent on, for as long as its effect is not known to be
    /// absent. Read from an index, which no sum protects: whoever removes something because a run is missing
    /// here asks [`Journal::row`] first. Sorted; sixteen bytes a run.
    ///
    /// # Errors
    /// [`JournalError::Storage`].
    pub fn runs_with_effect(&self) -> Result<Vec<RunId>, JournalError> {
        self.inner.readers.runs_with_effect()
    }

    /// Runs a person may mean: `r_` or nothing and the last digits of a run, or `ap_` and those of a
    /// question it asked, whether it still waits or not. At least four digits; fewer find nothing, and
    /// more than one found run means that more digits are needed.
    ///
    /// # Errors
    /// [`JournalError::Storage`].
    pub fn find_run(&self, short_or_full_or_approval: &str) -> Result<Vec<Row>, JournalError> {
        self.inner.readers.find_run(short_or_full_or_approval)
    }

    /// Everything in a small table, by key.
    ///
    /// # Errors
    /// [`JournalError::Storage`].
    pub fn table(&self, table: Table) -> Result<Vec<(String, Value)>, JournalError> {
        self.inner.readers.table(table)
    }

    /// One value of a small table.
    ///
    /// # Errors
    /// [`JournalError::Storage`].
    pub fn get(&self, table: Table, key: &str) -> Result<Option<Value>, JournalError> {
        self.inner.readers.get(table, key)
    }

    /// How many records are durable.
    pub fn len(&self) -> u64 {
        self.inner.shared.len()
    }

    /// Whether nothing was recorded yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Signs the log as it is, after everything queued before, and returns the note to keep elsewhere.
    /// Durable on return.
    ///
    /// # Errors
    /// As [`Journal::append_wait`].
    pub fn checkpoint(&self) -> Result<String, JournalError> {
        let (done, hear) = mpsc::sync_channel(1);
        self.inner.shared.push(Job::Checkpoint { done });
        hear.recv().unwrap_or(Err(JournalError::Closed))
    }

    /// What verifies this log's checkpoints, in the text form of C2SP signed notes. Also in `log.pub`.
    pub fn verifier_key(&self) -> &str {
        &self.inner.verifier
    }

    /// Reads blobs back.
    pub fn blobs(&self) -> Blobs {
        Blobs { dir: self.inner.dir.clone(), readers: self.inner.readers.clone() }
    }

    /// Writes what is queued, signs a last checkpoint, and lets the state directory go. Other clones can
    /// still read, and are refused as closed when they append.
    pub fn close(self) {
        self.inner.stop();
    }
}

impl Inner {
    fn stop(&self) {
        self.shared.finish();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.thread().id() != thread::current().id()
        {
            // Its panics are caught inside; there is nothing in the answer.
            let _ = writer.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

fn ready(projection: Projection) -> Result<Change, serde_json::Error> {
    Ok(match projection {
        Projection::Run(row) => {
            let json = serde_json::to_string(&row)?;
            Change::Run { sum: sqlite::sum(row.run.uuid().as_bytes(), &json), json, row }
        }
        Projection::Put { table, key, value } => {
            let json = serde_json::to_string(&value)?;
            Change::Put { sum: sqlite::sum(key.as_bytes(), &json), table, key, json }
        }
        Projection::Delete { table, key } => Change::Delete { table, key },
    })
}

fn size(change: &Change) -> usize {
    match change {
        Change::Run { json, .. } => json.len(),
        Change::Put { key, json, .. } => key.len() + json.len(),
        Change::Delete { key, .. } => key.len(),
    }
}

/// Ends this process as a crash does: nothing is flushed, dropped or told. For crash points in tests:
/// `fail_point!("name", |_| turnback_journal::crash())`.
pub fn crash() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The kernel does not return here; if it ever did, this still ends the process unflushed.
    std::process::abort()
}
