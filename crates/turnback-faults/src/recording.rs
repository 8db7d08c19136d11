//! Everything a process did to the files under a root, in order, with the bytes.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::call::{Call, Does};
use crate::disguise::{Identity, Moment};
use crate::tracer::{Judge, Verdict};

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    File(Vec<u8>),
    Directory,
    Link(PathBuf),
}

/// What an object carries besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: Moment,
    pub(crate) changed: Moment,
}

impl Attributes {
    fn of(meta: &fs::Metadata) -> Self {
        let nanos = |n: i64| u32::try_from(n).unwrap_or(0);
        Self {
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            modified: (meta.mtime(), nanos(meta.mtime_nsec())),
            changed: (meta.ctime(), nanos(meta.ctime_nsec())),
        }
    }
}

/// An object as it was when the recording began, or when it was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Object {
    pub(crate) path: PathBuf,
    pub(crate) what: What,
    pub(crate) identity: Identity,
    pub(crate) attributes: Attributes,
}

impl Object {
    fn at(root: &Path, path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        let what = match meta.file_type() {
            kind if kind.is_dir() => What::Directory,
            kind if kind.is_symlink() => What::Link(fs::read_link(path)?),
            kind if kind.is_file() => What::File(fs::read(path)?),
            _ => return Err(io::Error::other(format!("`{}` is nothing a disk keeps", path.display()))),
        };
        let below = path.strip_prefix(root).unwrap_or(path).to_owned();
        Ok(Self { path: below, what, identity: Identity::of(&meta), attributes: Attributes::of(&meta) })
    }
}

/// One thing that was done. Paths are beneath the root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Something new, empty.
    Make(Object),
    /// Bytes written.
    Write {
        /// Into which file.
        path: PathBuf,
        /// From which byte on.
        at: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file's length set.
    Resize {
        /// Of which file.
        path: PathBuf,
        /// In bytes.
        length: u64,
    },
    /// A file or directory made durable.
    Sync {
        /// Which.
        path: PathBuf,
        /// Attributes too.
        whole: bool,
    },
    /// Everything made durable.
    SyncAll,
    /// A name moved.
    Rename {
        /// From.
        from: PathBuf,
        /// To.
        to: PathBuf,
        /// Both changed places.
        exchange: bool,
    },
    /// Another name given.
    Link {
        /// The file.
        from: PathBuf,
        /// The name.
        to: PathBuf,
    },
    /// A name removed.
    Unlink {
        /// Which.
        path: PathBuf,
    },
    /// Mode, owner or times set.
    Attributes,
}

/// One thing that was done, and what it left of the objects it touched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) after: Vec<(PathBuf, Attributes)>,
}

/// Something that was noted from outside while the recording went on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// After so many steps. Of something heard: as many as there were when it was said.
    pub at: usize,
    /// What.
    pub note: serde_json::Value,
}

/// What was there, what was done, what was noted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// Where it happened. A state has to be made at the same place, because programs write down paths.
    pub root: PathBuf,
    pub(crate) base: Vec<Object>,
    pub(crate) steps: Vec<Step>,
    /// In order.
    pub marks: Vec<Mark>,
    /// What happened that the disk model does not understand. Must be empty for anything to be concluded.
    pub unfit: Vec<String>,
    said: usize,
}

impl Recording {
    /// How many things were done.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What was done, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.steps.iter().map(|step| &step.op)
    }
}

/// A recording in the making, shared by the judge and whoever makes marks. It goes on over several
/// processes, one after the other.
#[derive(Clone, Debug)]
pub struct Tape(Arc<Mutex<Recording>>);

impl Tape {
    /// Begins with what is under `root` now, which counts as durable. Names that end in one of `ignored` are
    /// no part of the recording.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn begin(root: &Path, ignored: &'static [&'static str]) -> io::Result<Self> {
        let mut base = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if is(&path, ignored) {
                    continue;
                }
                let object = Object::at(root, &path)?;
                if object.what == What::Directory {
                    open.push(path);
                }
                base.push(object);
            }
        }
        base.sort_by(|a, b| a.path.cmp(&b.path));
        let recording =
            Recording { root: root.to_owned(), base, steps: Vec::new(), marks: Vec::new(), unfit: Vec::new(), said: 0 };
        Ok(Self(Arc::new(Mutex::new(recording))))
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something that holds from now on.
    pub fn mark(&self, note: serde_json::Value) {
        let mut recording = self.lock();
        let at = recording.steps.len();
        recording.marks.push(Mark { at, note });
    }

    /// Notes something that was heard: it holds from the moment it was said, whatever was done since.
    pub fn heard(&self, note: serde_json::Value) {
        let mut recording = self.lock();
        let at = recording.said;
        recording.marks.push(Mark { at, note });
    }

    /// Everything so far.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.lock().clone()
    }
}

fn is(path: &Path, ignored: &[&str]) -> bool {
    ignored.iter().any(|end| path.as_os_str().as_bytes().ends_with(end.as_bytes()))
}

/// A judge that writes down what happens.
#[derive(Debug)]
pub struct Recorder<J> {
    tape: Tape,
    ignored: &'static [&'static str],
    /// Who decides.
    judge: J,
    existed: bool,
    length: u64,
}

impl<J: Judge> Recorder<J> {
    /// Records onto `tape` what `judge` lets pass.
    #[must_use]
    pub const fn new(tape: Tape, ignored: &'static [&'static str], judge: J) -> Self {
        Self { tape, ignored, judge, existed: false, length: 0 }
    }

    fn record(&self, call: &Call, result: i64) -> io::Result<()> {
        let mut recording = self.tape.lock();
        let root = recording.root.clone();
        let below = |path: &Path| path.strip_prefix(&root).unwrap_or(path).to_owned();
        let mut touched: Vec<PathBuf> = Vec::new();
        let mut with_dir = |path: &Path| {
            touched.push(path.to_owned());
            touched.extend(path.parent().map(Path::to_owned));
        };
        let op = match &call.does {
            Does::Open { path, creates: true, .. } if !self.existed => {
                with_dir(path);
                let mut object = Object::at(&root, path)?;
                object.what = What::File(Vec::new());
                Op::Make(object)
            }
            Does::Open { path, truncates: true, .. } if self.length > 0 => {
                touched.push(path.clone());
                Op::Resize { path: below(path), length: 0 }
            }
            Does::Open { .. } => return Ok(()),
            Does::Write { path, at, bytes } => {
                touched.push(path.clone());
                let done = usize::try_from(result).unwrap_or(0).min(bytes.len());
                Op::Write { path: below(path), at: *at, bytes: bytes[..done].to_vec() }
            }
            Does::Resize { path, length } => {
                touched.push(path.clone());
                Op::Resize { path: below(path), length: *length }
            }
            Does::Sync { path, whole } => Op::Sync { path: below(path), whole: *whole },
            Does::SyncAll => Op::SyncAll,
            Does::Rename { from, to, exchange } => {
                with_dir(from);
                with_dir(to);
                Op::Rename { from: below(from), to: below(to), exchange: *exchange }
            }
            Does::Link { from, to } => {
                with_dir(from);
                with_dir(to);
                Op::Link { from: below(from), to: below(to) }
            }
            Does::Unlink { path } => {
                with_dir(path);
                Op::Unlink { path: below(path) }
            }
            Does::Mkdir { path } | Does::Symlink { path } => {
                with_dir(path);
                Op::Make(Object::at(&root, path)?)
            }
            Does::Attributes { path } => {
                touched.push(path.clone());
                Op::Attributes
            }
            Does::Map { .. } | Does::Foreign { .. } => {
                recording.unfit.push(format!("{:?}", call.does));
                return Ok(());
            }
        };
        let mut after = Vec::new();
        for path in touched.iter().filter(|path| path.starts_with(&root) && **path != root) {
            // What was removed has no attributes any more.
            if let Ok(meta) = fs::symlink_metadata(path) {
                after.push((below(path), Attributes::of(&meta)));
            }
        }
        recording.steps.push(Step { op, after });
        Ok(())
    }
}

impl<J: Judge> Judge for Recorder<J> {
    fn enters(&mut self, call: &Call) -> Verdict {
        if let Does::Open { path, .. } = &call.does {
            let found = fs::symlink_metadata(path);
            self.existed = found.is_ok();
            self.length = found.map_or(0, |meta| meta.len());
        }
        self.judge.enters(call)
    }

    fn left(&mut self, call: &Call, result: i64) {
        self.judge.left(call, result);
        if result < 0 || is(call.path(), self.ignored) {
            return;
        }
        if let Err(e) = self.record(call, result) {
            self.tape.lock().unfit.push(format!("{:?}: {e}", call.does));
        }
    }

    fn says(&mut self) {
        let mut recording = self.tape.lock();
        recording.said = recording.steps.len();
        drop(recording);
        self.judge.says();
    }
}
