//! The writer: one thread, one connection, one transaction for everything that waits.
//!
//! ```text
//! callers → queue (bounded) → take all → BEGIN … COMMIT (write, sync) → answer everybody → checkpoint?
//! ```
//!
//! What nobody waits for does not wake the writer: it goes with the next group that somebody waits for,
//! or by itself once it lingered long enough.
//!
//! Invariant POISON: the first error while writing, syncing or committing is the last thing the writer
//! does. SQLite accepts commits after a failed sync, and an error does not mean "not written", so the
//! group that met it is unknown and everything after is refused until the journal is reopened.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fail::fail_point;
use turnback_core::digest::Sha256;

use crate::Options;
use crate::error::JournalError;
use crate::sqlite::{self, Leaf, Opened, Pen};
use crate::state;

/// Bytes written after which the write-ahead log is moved into the database file.
const FOLD_AFTER: usize = 8 * 1024 * 1024;

/// What a caller is told when its batch is durable, or why it is not.
pub(crate) type Done = Box<dyn FnOnce(Result<Vec<u64>, JournalError>) + Send>;

/// A batch made ready on the caller's thread.
pub(crate) struct Prepared {
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) blobs: Vec<(Sha256, Vec<u8>)>,
    pub(crate) bytes: usize,
}

pub(crate) enum Job {
    Append {
        batch: Prepared,
        done: Done,
    },
    Erase {
        seqs: Vec<u64>,
        done: Done,
    },
    Checkpoint {
        done: SyncSender<Result<String, JournalError>>,
    },
    /// Everything before it is written, or never will be.
    Settled {
        done: Box<dyn FnOnce() + Send>,
    },
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Append { batch, .. } => batch.bytes,
            Job::Erase { seqs, .. } => seqs.len() * 8,
            Job::Checkpoint { .. } | Job::Settled { .. } => 0,
        }
    }

    pub(crate) fn refuse(self, why: JournalError) {
        match self {
            Job::Append { done, .. } | Job::Erase { done, .. } => tell(|| done(Err(why))),
            // Nobody to tell is nobody to harm.
            Job::Checkpoint { done } => drop(done.send(Err(why))),
            Job::Settled { done } => tell(done),
        }
    }
}

/// A caller's panic is the caller's: it must not take the writer along.
fn tell(done: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(done)).is_err() {
        tracing::error!("a caller panicked when told that its batch is recorded");
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    closing: bool,
    /// When what is queued is written at the latest; `None` when nothing is queued.
    due: Option<Instant>,
    /// The writer sleeps and has to be woken.
    asleep: bool,
    /// The writer holds jobs it took and did not answer yet.
    writing: bool,
}

/// What callers and the writer share.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    poison: OnceLock<String>,
    len: AtomicU64,
    limit: usize,
    limit_bytes: usize,
    linger: Duration,
}

impl Shared {
    pub(crate) fn new(len: u64, options: &Options) -> Self {
        Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            poison: OnceLock::new(),
            len: AtomicU64::new(len),
            limit: options.queue,
            limit_bytes: options.queue_bytes,
            linger: options.linger,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job, or says at once why not. Never waits.
    pub(crate) fn push(&self, job: Job) {
        self.queue_by(Instant::now(), job);
    }

    /// [`Shared::push`] for a job that may be written a little later, with others.
    pub(crate) fn push_behind(&self, job: Job) {
        self.queue_by(Instant::now() + self.linger, job);
    }

    fn queue_by(&self, due: Instant, job: Job) {
        let why = {
            let mut queue = self.queue();
            let bytes = queue.bytes.saturating_add(job.bytes());
            // Checked under the lock: the writer poisons before it empties the queue for the last time.
            if let Some(why) = self.poison.get() {
                JournalError::Poisoned { why: why.clone() }
            } else if queue.closing {
                JournalError::Closed
            } else if let Job::Settled { done } = job {
                if queue.jobs.is_empty() && !queue.writing {
                    drop(queue);
                    return tell(done);
                }
                // It holds nothing and asks for nothing, so it is never too much.
                queue.jobs.push_back(Job::Settled { done });
                return self.call(queue, due);
            } else if queue.jobs.len() >= self.limit || (bytes > self.limit_bytes && !queue.jobs.is_empty()) {
                JournalError::Overloaded { waiting: queue.jobs.len(), bytes: queue.bytes }
            } else {
                queue.bytes = bytes;
                queue.jobs.push_back(job);
                return self.call(queue, due);
            }
        };
        job.refuse(why);
    }

    /// Has what is queued written at `due` or earlier, and wakes the writer when it would sleep longer.
    fn call(&self, mut queue: MutexGuard<'_, Queue>, due: Instant) {
        let sooner = queue.due.is_none_or(|set| due < set);
        if sooner {
            queue.due = Some(due);
        }
        let wake = sooner && std::mem::take(&mut queue.asleep);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Lets the writer finish what is queued and stop; everything later is refused.
    pub(crate) fn finish(&self) {
        self.queue().closing = true;
        self.wake.notify_one();
    }

    pub(crate) fn poisoned(&self) -> Option<String> {
        self.poison.get().cloned()
    }

    /// The first reason stays: it is the one to look into.
    pub(crate) fn poison(&self, why: String) {
        if self.poison.set(why.clone()).is_ok() {
            tracing::error!(%why, "the journal is poisoned: nothing is accepted until it is reopened");
        }
        self.wake.notify_one();
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Everything queued, once it is due, or `None` when the writer is to stop. Empty when `until` passed.
    fn take(&self, until: Option<Instant>) -> Option<VecDeque<Job>> {
        let mut queue = self.queue();
        queue.writing = false;
        loop {
            queue.asleep = false;
            if self.poison.get().is_some() {
                return None;
            }
            let now = Instant::now();
            if !queue.jobs.is_empty() && (queue.closing || queue.due.is_none_or(|due| due <= now)) {
                queue.bytes = 0;
                queue.due = None;
                queue.writing = true;
                return Some(std::mem::take(&mut queue.jobs));
            }
            if queue.closing {
                return None;
            }
            if until.is_some_and(|until| until <= now) {
                return Some(VecDeque::new());
            }
            queue.asleep = true;
            queue = match until.into_iter().chain(queue.due).min() {
                Some(next) => {
                    let wait = next.saturating_duration_since(now);
                    self.wake.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The writer thread's own state.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: Arc<Path>,
    pub(crate) opened: Opened,
    pub(crate) checkpoint_every: Duration,
    /// Bytes written since the write-ahead log was last folded.
    pub(crate) unfolded: usize,
    /// Last, so that it is let go after the connection: whoever holds it next must not meet ours.
    pub(crate) _lock: state::Lock,
}

impl Writer {
    /// Writes until the journal is closed or an error poisons it. Whatever happens, nobody is left waiting.
    pub(crate) fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            self.shared.poison("the writer panicked".into());
        }
        let left = std::mem::take(&mut self.shared.queue().jobs);
        let why = match self.shared.poisoned() {
            Some(why) => JournalError::Poisoned { why },
            None => JournalError::Closed,
        };
        left.into_iter().for_each(|job| job.refuse(why.clone()));
    }

    fn serve(&mut self) {
        let mut vouched = match sqlite::last_checkpoint(&self.opened.connection) {
            Ok(last) => last.map_or(0, |(size, _)| size),
            Err(e) => return self.shared.poison(e.to_string()),
        };
        let mut due = Instant::now() + self.checkpoint_every;
        loop {
            let grown = self.opened.tree.size() > vouched;
            let Some(jobs) = self.shared.take(grown.then_some(due)) else { break };
            let asked = match self.write(jobs) {
                Ok(asked) => asked,
                Err(()) => return,
            };
            let late = self.opened.tree.size() > vouched && Instant::now() >= due;
            if late || !asked.is_empty() {
                let note = self.checkpoint();
                if let Err(e) = &note {
                    self.shared.poison(e.to_string());
                }
                asked.into_iter().for_each(|done| drop(done.send(note.clone())));
                if note.is_err() {
                    return;
                }
                vouched = self.opened.tree.size();
            }
            if vouched == self.opened.tree.size() {
                due = Instant::now() + self.checkpoint_every;
            }
            if self.unfolded >= FOLD_AFTER {
                // Nobody waits for this, but it syncs, so its errors count like a commit's.
                if let Err(e) = sqlite::fold_wal(&self.opened.connection, false) {
                    return self.shared.poison(e.to_string());
                }
                self.unfolded = 0;
            }
        }
        if self.shared.poisoned().is_none() {
            let closed = self.checkpoint().and_then(|_| sqlite::fold_wal(&self.opened.connection, true));
            if let Err(e) = closed {
                self.shared.poison(e.to_string());
            }
        }
    }

    /// One transaction for all jobs. Returns who asked for a checkpoint; an error has poisoned the
    /// journal and told everybody.
    fn write(&mut self, jobs: VecDeque<Job>) -> Result<Vec<SyncSender<Result<String, JournalError>>>, ()> {
        let (mut asked, mut settled, mut work) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Checkpoint { done } => asked.push(done),
                Job::Settled { done } => settled.push(done),
                job => work.push(job),
            }
        }
        if work.is_empty() {
            settled.into_iter().for_each(|done| tell(done));
            return Ok(asked);
        }
        // A panic in here must still find the callers, so they are not moved into it.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.transact(&work)))
            .unwrap_or_else(|_| Err(JournalError::Storage { doing: "writing", why: "the writer panicked".into() }));
        match outcome {
            Ok(seqs) => {
                self.shared.len.store(self.opened.tree.size(), Ordering::Release);
                let erased = work.iter().any(|job| matches!(job, Job::Erase { .. }));
                for (job, seqs) in work.into_iter().zip(seqs) {
                    if let Job::Append { done, .. } | Job::Erase { done, .. } = job {
                        tell(|| done(Ok(seqs)));
                    }
                }
                settled.into_iter().for_each(|done| tell(done));
                if erased {
                    self.unfolded = FOLD_AFTER;
                }
                Ok(asked)
            }
            Err(e) => {
                let why = e.to_string();
                // Poisoned before anybody is told, so that nobody told can still get something in.
                self.shared.poison(why.clone());
                for job in work {
                    job.refuse(JournalError::Unknown { why: why.clone() });
                }
                settled.into_iter().for_each(|done| tell(done));
                for done in asked {
                    drop(done.send(Err(JournalError::Poisoned { why: why.clone() })));
                }
                Err(())
            }
        }
    }

    fn transact(&mut self, work: &[Job]) -> Result<Vec<Vec<u64>>, JournalError> {
        let failed = crate::error::storage("writing to the journal");
        let connection = &self.opened.connection;
        connection.execute_batch("BEGIN IMMEDIATE").map_err(&failed)?;
        let mut pen = Pen::new(connection)?;
        let mut seqs = Vec::with_capacity(work.len());
        for job in work {
            self.unfolded += job.bytes() + 16 * 1024;
            seqs.push(match job {
                Job::Append { batch, .. } => {
                    for (hash, bytes) in &batch.blobs {
                        sqlite::insert_blob(connection, hash, bytes)?;
                    }
                    let tree = &mut self.opened.tree;
                    batch.leaves.iter().map(|leaf| pen.record(tree, leaf)).collect::<Result<_, _>>()?
                }
                Job::Erase { seqs, .. } => {
                    sqlite::erase(connection, seqs)?;
                    seqs.clone()
                }
                Job::Checkpoint { .. } | Job::Settled { .. } => Vec::new(),
            });
        }
        pen.lines()?;
        fail_point!("journal-before-commit", struck);
        // The commit point: when this returns, the log file is synced and the group is durable.
        connection.execute_batch("COMMIT").map_err(&failed)?;
        fail_point!("journal-after-commit", struck);
        Ok(seqs)
    }

    /// Signs the tree as it is, durably, or returns the checkpoint it already has.
    fn checkpoint(&self) -> Result<String, JournalError> {
        let connection = &self.opened.connection;
        let size = self.opened.tree.size();
        if let Some((last, note)) = sqlite::last_checkpoint(connection)?
            && last == size
        {
            // A crash may have come between the row and the file.
            sqlite::save_checkpoint(&self.dir, &note)?;
            return Ok(note);
        }
        let note = self.opened.key.sign(size, self.opened.tree.root()?)?;
        // The row first: the file must never vouch for more than is durable.
        sqlite::insert_checkpoint(connection, size, &note)?;
        fail_point!("journal-before-checkpoint-file", struck);
        sqlite::save_checkpoint(&self.dir, &note)?;
        Ok(note)
    }
}

/// What a fail point does when a test turned it on: `return(error)` fails like a sync, `return` crashes.
#[cfg(feature = "failpoints")]
pub(crate) fn struck<T>(how: Option<String>) -> Result<T, JournalError> {
    match how.as_deref() {
        Some("error") => {
            Err(JournalError::Storage { doing: "writing to the journal", why: "a fail point said so".into() })
        }
        _ => crate::crash(),
    }
}
