//! Runs a command and stops it before and after every call that changes files under a root.
//!
//! One such call at a time, whatever the number of threads: a thread that comes to one while another is
//! inside one waits for it. So what a judge sees is the order in which things happened, and not about it.
//! Calls on anything else are let go at once and are never waited for, because they may block on
//! each other.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use crate::call::{self, Call, Met};
use crate::disguise::Disguise;
use crate::raw::{self, Happened, Registers, Tid};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Pass,
    /// It is not made, and fails with this number of `errno`.
    Fail(i32),
    /// It is not made, and succeeds.
    Swallow,
    /// It is made with so many bytes at most.
    Short(u64),
    /// The process is killed before it is made, as by `kill -9`.
    Kill,
}

/// Who is asked about every call that concerns files under the root.
pub trait Judge: Send {
    /// Before the call.
    fn enters(&mut self, _call: &Call) -> Verdict {
        Verdict::Pass
    }

    /// After it, with what it returned: a negative number of `errno` when it failed.
    fn left(&mut self, _call: &Call, _result: i64) {}

    /// Before something is said to somebody outside.
    fn says(&mut self) {}
}

/// A judge nobody needs.
impl Judge for () {}

/// How it ended, for whoever waits.
#[derive(Default)]
struct End {
    status: Mutex<Option<Result<ExitStatus, String>>>,
    told: Condvar,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<Result<ExitStatus, String>>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A traced process. Killed when dropped.
pub struct Traced {
    pid: u32,
    end: Arc<End>,
    thread: Option<JoinHandle<()>>,
    /// Its standard input, when it was asked for.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, when it was asked for.
    pub stdout: Option<ChildStdout>,
}

impl std::fmt::Debug for Traced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traced").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Runs `command` and has `judge` asked about everything that concerns files under `root`.
///
/// # Errors
/// When it cannot be started or traced.
pub fn trace(command: Command, root: &Path, judge: impl Judge + 'static) -> io::Result<Traced> {
    start(command, call::CHANGING, root.to_owned(), Box::new(judge), None)
}

impl Disguise {
    /// Runs `command` and has it see files under the identities of this disguise.
    ///
    /// # Errors
    /// When it cannot be started or traced.
    pub fn show(&self, command: Command) -> io::Result<Traced> {
        start(command, call::LOOKING, PathBuf::new(), Box::new(()), Some(self.clone()))
    }
}

fn start(
    mut command: Command,
    calls: &'static [libc::c_long],
    root: PathBuf,
    judge: Box<dyn Judge>,
    disguise: Option<Disguise>,
) -> io::Result<Traced> {
    let end = Arc::new(End::default());
    let (tell, hear) = mpsc::channel::<io::Result<Child>>();
    let ended = Arc::clone(&end);
    // Tracing belongs to the thread that started it.
    let thread = std::thread::Builder::new().name("tracer".into()).spawn(move || {
        let child = match raw::spawn(&mut command, calls) {
            Ok(child) => child,
            Err(e) => return drop(tell.send(Err(e))),
        };
        let leader = raw::tid_of(child.id());
        drop(tell.send(Ok(child)));
        let mut tracer =
            Tracer { leader, root, judge, disguise, inside: None, waiting: VecDeque::new(), pending: HashMap::new() };
        let status = raw::resume(leader, 0).and_then(|()| tracer.run());
        *ended.lock() = Some(status.map_err(|e| format!("tracing failed: {e}")));
        ended.told.notify_all();
    })?;
    let mut child = hear.recv().unwrap_or_else(|_| Err(io::Error::other("the tracer is gone")))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    Ok(Traced { pid: child.id(), end, thread: Some(thread), stdin, stdout })
}

impl Traced {
    /// Its process identity.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.pid
    }

    /// How it ended, when it has.
    ///
    /// # Errors
    /// When tracing it failed.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match &*self.end.lock() {
            None => Ok(None),
            Some(Ok(status)) => Ok(Some(*status)),
            Some(Err(why)) => Err(io::Error::other(why.clone())),
        }
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// When tracing it failed.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        let mut status = self.end.lock();
        while status.is_none() {
            // It may end by itself meanwhile; that it is gone is what counts.
            let _ = raw::kill(raw::tid_of(self.pid));
            status = self.end.told.wait(status).unwrap_or_else(PoisonError::into_inner);
        }
        drop(status);
        self.try_wait()?.ok_or_else(|| io::Error::other("gone without a status"))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is to be done when a call is over.
enum Pending {
    Judged { call: Call, result: Option<i64>, restore: Option<(usize, u64)> },
    Looked { buffer: u64 },
}

struct Tracer {
    leader: Tid,
    root: PathBuf,
    judge: Box<dyn Judge>,
    disguise: Option<Disguise>,
    /// The one thread inside a call that concerns files under the root.
    inside: Option<Tid>,
    /// Threads that have come to such a call and wait for that one.
    waiting: VecDeque<Tid>,
    pending: HashMap<Tid, Pending>,
}

/// A thread that was killed meanwhile is gone, which is reported on its own.
fn alive(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

impl Tracer {
    fn run(&mut self) -> io::Result<ExitStatus> {
        let mut ended = None;
        loop {
            let happened = match raw::wait(None) {
                Ok(happened) => happened,
                Err(e) if e.raw_os_error() == Some(libc::ECHILD) => {
                    return ended.ok_or_else(|| io::Error::other("it ended unseen"));
                }
                Err(e) => return Err(e),
            };
            match happened {
                Happened::Gone(tid, status) => {
                    if tid == self.leader {
                        ended = Some(ExitStatus::from_raw(status));
                    }
                    self.pending.remove(&tid);
                    self.waiting.retain(|waits| *waits != tid);
                    self.free(tid)?;
                }
                Happened::Enters(tid) => alive(self.enters(tid))?,
                Happened::Left(tid) => {
                    alive(self.left(tid))?;
                    alive(raw::resume(tid, 0))?;
                    self.free(tid)?;
                }
                Happened::Stopped(tid, signal) if self.pending.contains_key(&tid) => {
                    alive(raw::resume_to_end_of_call(tid, signal))?;
                }
                Happened::Stopped(tid, signal) => alive(raw::resume(tid, signal))?,
            }
        }
    }

    /// The next one may go inside.
    fn free(&mut self, tid: Tid) -> io::Result<()> {
        if self.inside == Some(tid) {
            self.inside = None;
            while self.inside.is_none()
                && let Some(next) = self.waiting.pop_front()
            {
                alive(self.enters(next))?;
            }
        }
        Ok(())
    }

    fn enters(&mut self, tid: Tid) -> io::Result<()> {
        let mut registers = Registers::of(tid)?;
        let call = match call::met(tid, &registers, &self.root)? {
            Met::File(call) => call,
            Met::Looks(buffer) => {
                self.pending.insert(tid, Pending::Looked { buffer });
                return raw::resume_to_end_of_call(tid, 0);
            }
            Met::Says => {
                self.judge.says();
                return raw::resume(tid, 0);
            }
            Met::Nothing => return raw::resume(tid, 0),
        };
        if self.inside.is_some() {
            self.waiting.push_back(tid);
            return Ok(());
        }
        let (mut result, mut restore) = (None, None);
        match self.judge.enters(&call) {
            Verdict::Pass => {}
            Verdict::Fail(errno) => {
                registers.skip()?;
                result = Some(-i64::from(errno));
            }
            Verdict::Swallow => {
                registers.skip()?;
                result = Some(0);
            }
            Verdict::Short(most) => {
                if let Some(n) = call.count {
                    let asked = registers.argument(n);
                    registers.set_argument(n, asked.min(most))?;
                    restore = Some((n, asked));
                }
            }
            // Resumed all the same: it is dead before it gets anywhere.
            Verdict::Kill => raw::kill(self.leader)?,
        }
        self.inside = Some(tid);
        self.pending.insert(tid, Pending::Judged { call, result, restore });
        raw::resume_to_end_of_call(tid, 0)
    }

    fn left(&mut self, tid: Tid) -> io::Result<()> {
        match self.pending.remove(&tid) {
            None => Ok(()),
            Some(Pending::Looked { buffer }) => match &self.disguise {
                Some(disguise) if Registers::of(tid)?.result() == 0 => disguise.put_on(tid, buffer),
                _ => Ok(()),
            },
            Some(Pending::Judged { call, result, restore }) => {
                let mut registers = Registers::of(tid)?;
                if let Some(result) = result {
                    registers.set_result(result)?;
                }
                if let Some((n, value)) = restore {
                    registers.set_argument(n, value)?;
                }
                self.judge.left(&call, result.unwrap_or_else(|| registers.result()));
                Ok(())
            }
        }
    }
}
