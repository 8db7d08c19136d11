//! Every system call the file domain makes, in one place.
//!
//! Owns how a path becomes a descriptor: `openat2` beneath an open directory, never following a
//! symbolic link, never leaving the mount (`BENEATH`). Never compares path strings. Linux only;
//! another system needs another version of this file and nothing else.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

pub(crate) use rustix::fd::OwnedFd;
use rustix::fd::{AsFd, AsRawFd as _, BorrowedFd};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, XattrFlags,
};
pub(crate) use rustix::io::Errno;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A FIFO, device or socket.
    Special,
}

impl FileKind {
    /// The word for it in output.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Link => "symbolic link",
            FileKind::Special => "FIFO, device or socket",
        }
    }
}

/// What the kernel says about an object without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: FileKind,
    /// Type and permission bits as the kernel has them.
    pub(crate) raw_mode: u32,
    pub(crate) dev: (u32, u32),
    pub(crate) mount: u64,
    pub(crate) ino: u64,
    /// When the inode was made; zero where the file system does not say.
    pub(crate) born: (i64, u32),
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) ctime: (i64, u32),
    /// Something is mounted exactly here.
    pub(crate) mount_root: bool,
}

impl Stat {
    /// Permission bits, setuid, setgid and sticky included.
    pub(crate) const fn mode(&self) -> u32 {
        self.raw_mode & 0o7777
    }

    /// Which object this is, whatever its name and content. Inode numbers are given out again at once,
    /// so the moment the inode was made belongs to it.
    pub(crate) fn id(&self) -> String {
        format!("{}@{}.{:09}", self.ino, self.born.0, self.born.1)
    }
}

impl From<Statx> for Stat {
    fn from(x: Statx) -> Self {
        let raw_mode = u32::from(x.stx_mode);
        let kind = match raw_mode & 0o170_000 {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Link,
            _ => FileKind::Special,
        };
        Self {
            kind,
            raw_mode,
            dev: (x.stx_dev_major, x.stx_dev_minor),
            mount: x.stx_mnt_id,
            ino: x.stx_ino,
            born: (x.stx_btime.tv_sec, x.stx_btime.tv_nsec),
            nlink: x.stx_nlink,
            uid: x.stx_uid,
            gid: x.stx_gid,
            size: x.stx_size,
            mtime: (x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec),
            ctime: (x.stx_ctime.tv_sec, x.stx_ctime.tv_nsec),
            mount_root: x.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }
}

pub(crate) type Sys<T> = Result<T, Errno>;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);

fn statx(dir: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> Sys<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    rustix::fs::statx(dir, name, flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, wanted).map(Stat::from)
}

/// Looks at `name` in `dir`; a link is looked at itself.
pub(crate) fn stat_at(dir: &OwnedFd, name: &OsStr) -> Sys<Stat> {
    statx(dir.as_fd(), name, AtFlags::empty())
}

/// Looks at what a descriptor is.
pub(crate) fn stat(fd: &OwnedFd) -> Sys<Stat> {
    statx(fd.as_fd(), OsStr::new(""), AtFlags::EMPTY_PATH)
}

/// Opens a directory an operator configured, links and all. Only for roots.
pub(crate) fn open_root(path: &Path) -> Sys<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the directory `path` beneath `dir`; the empty path is `dir` itself. Upholds `BENEATH`.
pub(crate) fn open_dir(dir: &OwnedFd, path: &Path) -> Sys<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // Without NOFOLLOW: with it a link at the end is called `not a directory` instead of a link.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat2(dir, path, flags, Mode::empty(), BENEATH))
}

/// Opens the regular file `name` in `dir` for reading. Never waits, whatever `name` has become; the
/// caller compares identities afterwards. Upholds `BENEATH`.
pub(crate) fn open_file(dir: &OwnedFd, name: &OsStr) -> Sys<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat2(dir, Path::new(name), flags, Mode::empty(), BENEATH))
}

/// Takes hold of `name` in `dir` without opening it. Upholds `BENEATH`.
fn hold(dir: &OwnedFd, name: &OsStr) -> Sys<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat2(dir, Path::new(name), flags, Mode::empty(), BENEATH))
}

/// openat2(2): with RESOLVE_BENEATH the kernel answers EAGAIN when a rename elsewhere raced the lookup.
fn retry(mut open: impl FnMut() -> Sys<OwnedFd>) -> Sys<OwnedFd> {
    for _ in 0..64 {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    open()
}

/// The parent of a directory descriptor; the one place where `..` is followed, to learn whether one
/// configured directory lies inside the other.
pub(crate) fn lies_beneath(dir: &OwnedFd, ancestor: &Stat) -> Sys<bool> {
    let mut at = rustix::io::dup(dir)?;
    loop {
        let here = stat(&at)?;
        if (here.dev, here.ino) == (ancestor.dev, ancestor.ino) {
            return Ok(true);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = rustix::fs::openat(&at, "..", flags, Mode::empty())?;
        let above = stat(&up)?;
        if (above.dev, above.ino, above.mount) == (here.dev, here.ino, here.mount) {
            return Ok(false);
        }
        at = up;
    }
}

/// The names in a directory, unsorted, without `.` and `..`.
pub(crate) fn names(dir: &OwnedFd) -> Sys<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

/// The text of a symbolic link.
pub(crate) fn link_text(dir: &OwnedFd, name: &OsStr) -> Sys<Vec<u8>> {
    rustix::fs::readlinkat(dir, name, Vec::new()).map(std::ffi::CString::into_bytes)
}

/// Reads some bytes; none means the end.
pub(crate) fn read(fd: &OwnedFd, buffer: &mut [u8]) -> Sys<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Reads from `offset` until `buffer` is full or the file ends.
pub(crate) fn read_at(fd: &OwnedFd, buffer: &mut [u8], offset: u64) -> Sys<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Makes a new file in `dir`, 0600, that nobody else has open.
pub(crate) fn create(dir: &OwnedFd, name: &OsStr) -> Sys<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
}

/// Writes all of `bytes`.
pub(crate) fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Sys<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes a directory, 0700.
pub(crate) fn make_dir(dir: &OwnedFd, name: &OsStr) -> Sys<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))
}

/// Sets permission bits of an open object.
pub(crate) fn set_mode(fd: &OwnedFd, mode: u32) -> Sys<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
}

/// Sets owner and group of an open object.
pub(crate) fn set_owner(fd: &OwnedFd, uid: u32, gid: u32) -> Sys<()> {
    rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))
}

/// Sets the permission bits of `name` in `dir`, which must be the object `id`. Works on objects that
/// cannot be opened, because a held descriptor is changed through its own entry in `/proc`.
pub(crate) fn set_mode_at(dir: &OwnedFd, name: &OsStr, id: &str, mode: u32) -> Sys<()> {
    let held = hold(dir, name)?;
    let found = stat(&held)?;
    if found.id() != id || found.kind == FileKind::Link {
        return Err(Errno::STALE);
    }
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Makes the attributes of `name` in `dir` durable; where it cannot be opened, its whole file system.
pub(crate) fn sync_at(dir: &OwnedFd, name: &OsStr) -> Sys<()> {
    match open_file(dir, name) {
        Ok(fd) => rustix::fs::fsync(&fd),
        Err(_) => rustix::fs::syncfs(dir),
    }
}

/// The extended attributes of an open file or directory, sorted by name. A file system without them has none.
pub(crate) fn xattrs(fd: &OwnedFd) -> Sys<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = Vec::new();
    // Both calls can meet a list that grew since its size was asked: ask again.
    let names = loop {
        let size = match rustix::fs::flistxattr_query(fd) {
            Ok(size) => size,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = vec![0; size];
        match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
            Ok(size) => {
                names.truncate(size);
                break names;
            }
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
    };
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        loop {
            let size = rustix::fs::fgetxattr_query(fd, OsStr::from_bytes(name))?;
            let mut value = vec![0; size];
            match rustix::fs::fgetxattr(fd, OsStr::from_bytes(name), value.as_mut_slice()) {
                Ok(size) => {
                    value.truncate(size);
                    list.push((name.to_vec(), value));
                    break;
                }
                Err(Errno::RANGE) => {}
                Err(e) => return Err(e),
            }
        }
    }
    list.sort();
    Ok(list)
}

/// Sets one extended attribute of an open file.
pub(crate) fn set_xattr(fd: &OwnedFd, name: &[u8], value: &[u8]) -> Sys<()> {
    rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty())
}

/// Moves a name; never replaces anything.
pub(crate) fn rename_free(from: &OwnedFd, old: &OsStr, to: &OwnedFd, new: &OsStr) -> Sys<()> {
    rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE)
}

/// Exchanges what two names stand for, in one step.
pub(crate) fn rename_exchange(a: &OwnedFd, one: &OsStr, b: &OwnedFd, other: &OsStr) -> Sys<()> {
    rustix::fs::renameat_with(a, one, b, other, RenameFlags::EXCHANGE)
}

/// Makes a file's content and attributes, or a directory's entries, durable.
pub(crate) fn sync(fd: &OwnedFd) -> Sys<()> {
    rustix::fs::fsync(fd)
}

/// Removes `name` in `dir` with everything in it. What is gone already is fine.
pub(crate) fn remove_tree(dir: &OwnedFd, name: &OsStr) -> Sys<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let inside = match open_dir(dir, Path::new(name)) {
        Err(Errno::ACCESS) => {
            let id = stat_at(dir, name)?.id();
            set_mode_at(dir, name, &id, 0o700)?;
            open_dir(dir, Path::new(name))?
        }
        other => other?,
    };
    for entry in names(&inside)? {
        remove_tree(&inside, &entry)?;
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// The user this process acts as.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// What the kernel's number means, in the words of the system's own library.
pub(crate) fn words(errno: Errno) -> String {
    io::Error::from_raw_os_error(errno.raw_os_error()).to_string()
}
