//! Connections of one database kept open between actions, and who holds the one that writes.
//!
//! ```text
//! lease ─► BEGIN IMMEDIATE ─► … ─► COMMIT ─► kept ─► lease …        anything else: closed
//! ```
//!
//! Opening a connection, reading the schema and closing it again costs more than changing a row. What a
//! kept connection remembers must not outlive what it was read from, so before each use it is held
//! against the world: the file (`File::still`), its log and its index are the ones it opened, and nobody
//! wrote to the file by other means than SQLite since a kept connection last looked. A doubt closes it;
//! that is never an error. SQLite itself answers for what others write through SQLite.
//!
//! Kept idle, a connection is in no transaction: it blocks no writer and no checkpoint. It does keep
//! others from changing the journal mode, and the log from being folded in when they close, so it is
//! closed when nothing came for [`IDLE`].

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use turnback_core::refusal::{Code, Refusal};

use super::catalog::Catalog;
use super::connection::{File, Stamp, failure, own};
use super::raw;
use super::record::Recorder;
use super::watch::Watch;

/// How long a connection stays open unused.
const IDLE: Duration = Duration::from_secs(1);
/// Most connections that only read, kept at once.
const READERS: usize = 4;

/// One open connection and what is remembered with it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) watch: Watch,
    // Fields drop in this order: the connection is closed before what its hook points to goes.
    pub(super) recorder: Recorder,
    catalog: RefCell<Option<Arc<Catalog>>>,
    file: File,
    /// The log and the index it opened.
    beside: Option<[Option<(u64, u64)>; 2]>,
    /// Which generation of kept connections it belongs to.
    epoch: u64,
    /// Whether it served an action before.
    used: bool,
}

impl Line {
    /// The schema as the open transaction sees it; read only when it is another than last time.
    pub(super) fn catalog(&self) -> Result<Arc<Catalog>, Refusal> {
        let mut known = self.catalog.borrow_mut();
        let now = own(Catalog::now(&self.connection, known.as_ref()))?;
        *known = Some(Arc::clone(&now));
        Ok(now)
    }

    /// Makes sure the file and its log are still the ones this connection has open.
    pub(super) fn still(&self) -> Result<Stamp, Refusal> {
        let stamp = self.file.still()?;
        if self.beside.is_some_and(|beside| beside != stamp.beside) {
            return Err(Refusal::new(Code::Moved, "its write-ahead log was removed or replaced meanwhile")
                .at(self.file.path.display().to_string())
                .next("call again; never delete or copy the files beside a database in use"));
        }
        Ok(stamp)
    }

    /// Whether it is as it was opened: in no transaction, with every safeguard on.
    fn clean(&self) -> bool {
        let on = |config| self.connection.db_config(config).unwrap_or(false);
        self.connection.is_autocommit()
            && on(DbConfig::SQLITE_DBCONFIG_DEFENSIVE)
            && on(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)
            && on(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The last connection writes its log into the file when it closes. One whose log was taken away
        // would write over what others have done with a new one.
        if self.still().is_err() {
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

/// What is kept open.
#[derive(Debug, Default)]
struct Kept {
    writer: Option<Line>,
    readers: Vec<Line>,
    /// The file as a kept connection last left it.
    content: Option<(u64, [i64; 4])>,
    epoch: u64,
    used: Option<Instant>,
    /// Whether somebody will close them.
    minded: bool,
}

impl Kept {
    /// Takes everything out; whoever is away may not come back.
    fn empty(&mut self) -> Vec<Line> {
        self.epoch += 1;
        let mut all = std::mem::take(&mut self.readers);
        all.extend(self.writer.take());
        all
    }
}

/// A database file with its connections: at most one staging at a time, any number of readers.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) file: File,
    taken: Mutex<bool>,
    free: Condvar,
    kept: Mutex<Kept>,
}

impl Slot {
    pub(super) fn new(file: File) -> Arc<Self> {
        Arc::new(Self { file, taken: Mutex::new(false), free: Condvar::new(), kept: Mutex::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept connection that fits what stands there now, and the generation a new one belongs to.
    fn take(&self, now: &Stamp, pick: impl FnOnce(&mut Kept) -> Option<Line>) -> (Option<Line>, u64) {
        let mut kept = self.kept();
        let fits = kept.content == Some(now.content)
            && kept.readers.iter().chain(&kept.writer).all(|line| line.beside == Some(now.beside));
        let strangers = if fits { Vec::new() } else { kept.empty() };
        kept.content = Some(now.content);
        let (line, epoch) = (pick(&mut kept), kept.epoch);
        drop(kept);
        // Closing may take a while: not under the lock, and before another one is opened.
        drop(strangers);
        (line, epoch)
    }

    /// Keeps a connection for the next action, unless the world moved since it was handed out.
    fn keep(
        self: &Arc<Self>,
        mut line: Line,
        content: Option<(u64, [i64; 4])>,
        put: impl FnOnce(&mut Kept, Line) -> Option<Line>,
    ) {
        line.used = true;
        line.watch.rest();
        line.recorder.rest();
        if !line.clean() {
            return;
        }
        // Declared before the guard: what is not kept is closed after the lock is given up.
        let _closing;
        let mut kept = self.kept();
        if kept.epoch != line.epoch {
            _closing = Some(line);
            return;
        }
        if !kept.minded {
            let slot = Arc::downgrade(self);
            kept.minded = thread::Builder::new().name("turnback-idle".into()).spawn(move || mind(&slot)).is_ok();
        }
        _closing = if kept.minded {
            kept.content = content.or(kept.content);
            kept.used = Some(Instant::now());
            put(&mut kept, line)
        } else {
            Some(line)
        };
    }

    /// Closes what was not used for [`IDLE`]; says whether nothing is left to mind.
    fn retire(&self, now: Instant) -> bool {
        let mut kept = self.kept();
        if kept.used.is_some_and(|used| now.saturating_duration_since(used) < IDLE) {
            return false;
        }
        kept.minded = false;
        let idle = kept.empty();
        drop(kept);
        drop(idle);
        true
    }

    fn line(&self, opened: Result<(Connection, Watch), Refusal>, epoch: u64) -> Result<Line, Refusal> {
        let (connection, watch) = opened?;
        let encoding: String = own(connection.query_row("PRAGMA encoding", [], |r| r.get(0)))?;
        let recorder = Recorder::over(&connection, encoding == "UTF-8");
        let (catalog, file) = (RefCell::new(None), self.file.clone());
        Ok(Line { connection, watch, recorder, catalog, file, beside: None, epoch, used: false })
    }

    /// A connection that can only read, in a transaction of its own.
    pub(super) fn reader(self: &Arc<Self>, wait: Duration) -> Result<Reader, Refusal> {
        let before = self.file.still()?;
        let (kept, epoch) = self.take(&before, |kept| kept.readers.pop());
        let line = match kept {
            Some(line) => {
                own(line.connection.busy_timeout(wait))?;
                line
            }
            None => {
                let mut line = self.line(self.file.reader(wait), epoch)?;
                line.beside = Some(self.file.still()?.beside);
                line
            }
        };
        own(execute(&line.connection, "BEGIN"))?;
        Ok(Reader { line, slot: Arc::clone(self) })
    }

    /// Waits up to `wait` for the connection that writes, and again for SQLite's own write lock.
    pub(super) fn lease(self: &Arc<Self>, wait: Duration) -> Result<Lease, Refusal> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, out) =
            self.free.wait_timeout_while(taken, wait, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
        if out.timed_out() && *taken {
            return Err(Refusal::new(Code::Busy, "another action on this database is staged and not yet decided")
                .at(self.file.path.display().to_string())
                .next("call again in a moment"));
        }
        *taken = true;
        drop(taken);
        let claim = Claim { slot: Arc::clone(self) };
        let before = self.file.still()?;
        let (kept, epoch) = self.take(&before, |kept| kept.writer.take());
        if let Some(line) = kept {
            own(line.connection.busy_timeout(wait))?;
            match self.begin(&line) {
                // Nobody else writes from here on; what it remembers fits if nobody did until here.
                Ok(()) if line.still()? == before => {
                    raw::forget_last_insert(&line.connection);
                    return Ok(Lease { line, claim });
                }
                Err(refusal) if refusal.code == Code::Busy => return Err(refusal),
                _ => {}
            }
        }
        self.fresh(claim, epoch, &before, wait)
    }

    fn fresh(&self, claim: Claim, epoch: u64, before: &Stamp, wait: Duration) -> Result<Lease, Refusal> {
        let mut line = self.line(self.file.writer(wait), epoch)?;
        self.begin(&line)?;
        let now = self.file.still()?;
        if now.content != before.content {
            line.epoch = self.take(&now, |_| None).1;
        }
        line.beside = Some(now.beside);
        Ok(Lease { line, claim })
    }

    fn begin(&self, line: &Line) -> Result<(), Refusal> {
        execute(&line.connection, "BEGIN IMMEDIATE").map_err(|e| {
            let refusal = failure(&e);
            if refusal.code == Code::Busy {
                refusal.at(self.file.path.display().to_string()).next("somebody else holds the database; call again")
            } else {
                refusal
            }
        })
    }
}

/// Runs one of Turnback's own statements, compiled once for each connection.
pub(super) fn execute(c: &Connection, sql: &str) -> rusqlite::Result<()> {
    c.prepare_cached(sql)?.execute([]).map(drop)
}

/// Closes idle connections; ends when there are none, or their database is gone.
fn mind(slot: &Weak<Slot>) {
    loop {
        thread::sleep(IDLE);
        if slot.upgrade().is_none_or(|slot| slot.retire(Instant::now())) {
            return;
        }
    }
}

/// A connection that can only read, inside a transaction: everything is seen at one moment.
pub(super) struct Reader {
    line: Line,
    slot: Arc<Slot>,
}

impl Reader {
    /// Ends the transaction and keeps the connection. Dropped instead, it is closed: nothing that was
    /// interrupted or went wrong is used again.
    pub(super) fn keep(self) {
        let Self { line, slot } = self;
        if execute(&line.connection, "COMMIT").is_ok() {
            slot.keep(line, None, |kept, line| {
                if kept.readers.len() >= READERS {
                    return Some(line);
                }
                kept.readers.push(line);
                None
            });
        }
    }
}

impl Deref for Reader {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

#[derive(Debug)]
struct Claim {
    slot: Arc<Slot>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        *self.slot.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.slot.free.notify_one();
    }
}

/// The write connection inside its open transaction. Dropping it rolls back and closes.
pub(super) struct Lease {
    // Fields drop in this order: closing the connection rolls back before the claim is given up.
    line: Line,
    claim: Claim,
}

impl Lease {
    /// The same on a connection that has no past: `changes()` and `total_changes()` count from zero.
    pub(super) fn without_past(self, wait: Duration) -> Result<Self, Refusal> {
        if !self.line.used {
            return Ok(self);
        }
        let Self { line, claim } = self;
        let epoch = line.epoch;
        drop(line);
        let slot = Arc::clone(&claim.slot);
        let before = slot.file.still()?;
        slot.fresh(claim, epoch, &before, wait)
    }

    /// Keeps the connection after a commit.
    pub(super) fn keep(self) {
        let Self { line, claim } = self;
        if let Ok(now) = line.still() {
            claim.slot.keep(line, Some(now.content), |kept, line| kept.writer.replace(line));
        }
    }
}

impl Deref for Lease {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

#[cfg(test)]
mod tests;
