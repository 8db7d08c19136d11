//! The two directories the domain works between, and the places in them.
//!
//! Owns the descriptors of the root agents name paths in, and of the slots no agent can name. Every
//! look and every change resolves from one of the two descriptors (`BENEATH`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;

use crate::sys::{self, Errno, FileKind, OwnedFd, Stat};

/// A place: a path beneath the root, or one beneath the slots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Spot {
    /// Where agents name paths. The empty path is the root itself.
    Root(PathBuf),
    /// Where staged content and pre-images are kept: `<run>/<number>`.
    Slot(PathBuf),
}

impl Spot {
    pub(crate) fn path(&self) -> &Path {
        let (Spot::Root(path) | Spot::Slot(path)) = self;
        path
    }

    fn with(&self, path: PathBuf) -> Self {
        match self {
            Spot::Root(_) => Spot::Root(path),
            Spot::Slot(_) => Spot::Slot(path),
        }
    }

    pub(crate) fn join(&self, name: &OsStr) -> Self {
        self.with(self.path().join(name))
    }

    pub(crate) fn parent(&self) -> Self {
        self.with(self.path().parent().unwrap_or(Path::new("")).to_owned())
    }

    pub(crate) fn name(&self) -> OsString {
        self.path().file_name().unwrap_or_default().to_owned()
    }

    /// The words for this place in effects and refusals.
    pub(crate) fn place(&self) -> String {
        match self {
            Spot::Root(path) if path.as_os_str().is_empty() => ".".into(),
            Spot::Root(path) => path.to_string_lossy().into_owned(),
            Spot::Slot(path) => format!("slot {}", path.to_string_lossy()),
        }
    }
}

/// The two directories.
pub(crate) struct World {
    pub(crate) root: OwnedFd,
    pub(crate) slots: OwnedFd,
    pub(crate) root_path: PathBuf,
    pub(crate) root_stat: Stat,
    /// Two commits of this process never interleave their checks and renames.
    pub(crate) commits: Mutex<()>,
}

impl World {
    /// Opens both directories and checks that pre-images can be kept by rename and out of reach.
    pub(crate) fn open(root: &Path, slots: &Path) -> Result<Self, Refusal> {
        let failed = |path: &Path, what: &str, e: Errno| {
            Refusal::new(Code::Failed, format!("{what}: {}", sys::words(e))).at(path.to_string_lossy()).next(START)
        };
        let root_path = std::fs::canonicalize(root).map_err(|e| {
            Refusal::new(Code::NotFound, format!("the root cannot be opened: {e}"))
                .at(root.to_string_lossy())
                .next("see that it is there and can be read, then start again")
        })?;
        let root_fd = sys::open_root(&root_path).map_err(|e| failed(root, "the root cannot be opened", e))?;
        let root_stat = sys::stat(&root_fd).map_err(|e| failed(root, "the root cannot be looked at", e))?;
        make_private(slots)?;
        let slots_fd = sys::open_root(slots).map_err(|e| failed(slots, "the slots cannot be opened", e))?;
        let slots_stat = sys::stat(&slots_fd).map_err(|e| failed(slots, "the slots cannot be looked at", e))?;
        let beside = root_path.with_file_name(".turnback-slots");
        if slots_stat.mode() & 0o077 != 0 || slots_stat.uid != sys::own_uid() {
            return Err(Refusal::new(Code::Failed, "others can reach the pre-images kept here")
                .at(slots.to_string_lossy())
                .next("make it a directory of Turnback's own user with mode 0700"));
        }
        if slots_stat.dev != root_stat.dev || slots_stat.mount != root_stat.mount {
            return Err(Refusal::new(
                Code::Unsupported,
                format!(
                    "the slots must be on the file system of the root `{}`, because pre-images are kept by rename",
                    visible(&root_path.to_string_lossy())
                ),
            )
            .at(slots.to_string_lossy())
            .next(format!("configure the slots of this resource as `{}`", visible(&beside.to_string_lossy()))));
        }
        let nested = |inner: &OwnedFd, outer: &Stat| {
            sys::lies_beneath(inner, outer).map_err(|e| failed(slots, "its parents cannot be walked", e))
        };
        if nested(&slots_fd, &root_stat)? {
            return Err(Refusal::new(
                Code::Unsupported,
                "the slots lie inside the root, where agents could reach them",
            )
            .at(slots.to_string_lossy())
            .next(format!("configure the slots of this resource as `{}`", visible(&beside.to_string_lossy()))));
        }
        if nested(&root_fd, &slots_stat)? {
            return Err(Refusal::new(Code::Unsupported, "the root lies inside the slots")
                .at(root.to_string_lossy())
                .next("configure slots that hold nothing but Turnback's own files"));
        }
        Ok(Self { root: root_fd, slots: slots_fd, root_path, root_stat, commits: Mutex::new(()) })
    }

    /// Whether the configured path still leads to the directory that was opened. Everything resolves from
    /// its descriptor; a root that was renamed away would else be written to where nobody looks.
    pub(crate) fn still(&self) -> Result<(), Refusal> {
        let id = |stat: &Stat| (stat.dev, stat.ino, stat.born);
        match sys::open_root(&self.root_path).and_then(|fd| sys::stat(&fd)) {
            Ok(now) if id(&now) == id(&self.root_stat) => Ok(()),
            // Whether it is there is not known then.
            Err(e) if !matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => {
                Err(refused(e, &self.root_path.to_string_lossy()))
            }
            _ => Err(Refusal::new(Code::Moved, "the folder that was opened is not there any more")
                .at(self.root_path.to_string_lossy())
                .next("put it back, or restart the node to govern the folder that is there now")),
        }
    }

    fn base(&self, spot: &Spot) -> &OwnedFd {
        match spot {
            Spot::Root(_) => &self.root,
            Spot::Slot(_) => &self.slots,
        }
    }

    /// Opens the directory at `spot`.
    pub(crate) fn dir(&self, spot: &Spot) -> Result<OwnedFd, Refusal> {
        sys::open_dir(self.base(spot), spot.path()).map_err(|e| refused(e, &spot.place()))
    }

    /// Opens the directory that holds `spot`.
    pub(crate) fn parent(&self, spot: &Spot) -> Result<OwnedFd, Refusal> {
        sys::open_dir(self.base(spot), spot.parent().path()).map_err(|e| refused(e, &spot.place()))
    }

    /// Looks at `spot`; `None` when nothing is there. Its directory must exist. A mount is refused.
    pub(crate) fn stat(&self, spot: &Spot) -> Result<Option<Stat>, Refusal> {
        if spot.path().as_os_str().is_empty() {
            return sys::stat(self.base(spot)).map(Some).map_err(|e| refused(e, &spot.place()));
        }
        match sys::stat_at(&self.parent(spot)?, &spot.name()) {
            Ok(stat) => self.same_mount(&stat, || spot.place()).map(|()| Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(refused(e, &spot.place())),
        }
    }

    /// Refuses what something else is mounted on.
    pub(crate) fn same_mount(&self, stat: &Stat, place: impl FnOnce() -> String) -> Result<(), Refusal> {
        if stat.mount_root || stat.mount != self.root_stat.mount {
            return Err(refused(Errno::XDEV, &place()));
        }
        Ok(())
    }

    /// Opens a regular file that was looked at before; what has become something else is refused.
    pub(crate) fn file(&self, spot: &Spot, stat: &Stat) -> Result<OwnedFd, Refusal> {
        let fd = sys::open_file(&self.parent(spot)?, &spot.name()).map_err(|e| refused(e, &spot.place()))?;
        let found = sys::stat(&fd).map_err(|e| refused(e, &spot.place()))?;
        if found.id() != stat.id() || found.kind != FileKind::File {
            return Err(Refusal::new(Code::Moved, "became something else while it was looked at").at(spot.place()));
        }
        Ok(fd)
    }
}

/// Makes the slots directory when it is missing.
fn make_private(slots: &Path) -> Result<(), Refusal> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(slots) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Refusal::new(Code::Failed, format!("the slots cannot be made: {e}"))
                .at(slots.to_string_lossy())
                .next(START))
        }
        _ => Ok(()),
    }
}

/// What to do when the disk fails.
pub(crate) const NEXT: &str = "an operator sees that the disk works and has room; then call again";

/// What to do when a resource cannot be opened.
const START: &str = "see that its file system works, has room and can be written to, then start again";

/// What an errno means for somebody who named `place`.
pub(crate) fn refused(errno: Errno, place: &str) -> Refusal {
    let (code, message) = match errno {
        Errno::NOENT => (Code::NotFound, "does not exist".to_owned()),
        Errno::EXIST | Errno::NOTEMPTY => (Code::Exists, "exists already".to_owned()),
        Errno::LOOP => (
            Code::Escapes,
            "is or passes through a symbolic link; links can be listed, moved and deleted, but are never followed"
                .to_owned(),
        ),
        Errno::XDEV => {
            (Code::Escapes, "leaves the resource: another file system is mounted there, or `..` leads out".to_owned())
        }
        Errno::NOTDIR => (Code::NotFound, "a part of the path is not a directory".to_owned()),
        Errno::NOSPC | Errno::DQUOT => {
            (Code::DiskFull, "no space is left where the way back must be kept; nothing was changed".to_owned())
        }
        Errno::NAMETOOLONG => (Code::BadInput, "the path is too long".to_owned()),
        Errno::BUSY => (Code::Busy, "something is mounted there or holds it".to_owned()),
        Errno::INVAL => (Code::BadInput, "a directory cannot be moved into itself".to_owned()),
        Errno::NXIO => (Code::SpecialFile, "is a device or socket".to_owned()),
        other => (Code::Failed, sys::words(other)),
    };
    let refusal = Refusal::new(code, message).at(place);
    if matches!(code, Code::Failed | Code::DiskFull) { refusal.next(NEXT) } else { refusal }
}
