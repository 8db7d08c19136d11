//! What a system call is about to do to files, in words.
//!
//! Reads numbers and memory of the stopped thread, and asks `/proc` what its descriptors stand for. Paths
//! are as they are at this very moment; nothing here remembers.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use crate::raw::{self, Registers, Tid};

/// A call that concerns files under the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it does.
    pub does: Does,
    /// Which argument says how many bytes are written, where that can be made less.
    pub(crate) count: Option<usize>,
}

/// What a call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// Opens a file, making it where asked to.
    Open {
        /// Which.
        path: PathBuf,
        /// It is made when it is missing.
        creates: bool,
        /// It is emptied.
        truncates: bool,
    },
    /// Writes bytes.
    Write {
        /// Into which file.
        path: PathBuf,
        /// From which byte on.
        at: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Sets a file's length.
    Resize {
        /// Of which file.
        path: PathBuf,
        /// In bytes.
        length: u64,
    },
    /// Makes a file or directory durable.
    Sync {
        /// Which.
        path: PathBuf,
        /// Attributes too, not only what reading the content needs.
        whole: bool,
    },
    /// Makes the whole file system durable.
    SyncAll,
    /// Moves a name.
    Rename {
        /// From.
        from: PathBuf,
        /// To.
        to: PathBuf,
        /// What stands at both changes places.
        exchange: bool,
    },
    /// Gives a file another name.
    Link {
        /// The file.
        from: PathBuf,
        /// The name.
        to: PathBuf,
    },
    /// Removes a name, of a file or an empty directory.
    Unlink {
        /// Which.
        path: PathBuf,
    },
    /// Makes a directory.
    Mkdir {
        /// Where.
        path: PathBuf,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Where.
        path: PathBuf,
    },
    /// Changes mode, owner, times or extended attributes.
    Attributes {
        /// Of what.
        path: PathBuf,
    },
    /// Maps a file so that memory writes change it unseen.
    Map {
        /// Which.
        path: PathBuf,
    },
    /// Changes a file in a way nothing here understands.
    Foreign {
        /// Which file.
        path: PathBuf,
        /// By which call.
        number: i64,
    },
}

/// Kinds of calls, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens, for whatever purpose.
    Open,
    /// Writes and changes of length.
    Write,
    /// Syncs of files, directories and file systems.
    Sync,
    /// Makes, moves and removes names.
    Name,
    /// Everything else.
    Other,
}

impl Call {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.does {
            Does::Open { .. } => Kind::Open,
            Does::Write { .. } | Does::Resize { .. } => Kind::Write,
            Does::Sync { .. } | Does::SyncAll => Kind::Sync,
            Does::Rename { .. }
            | Does::Link { .. }
            | Does::Unlink { .. }
            | Does::Mkdir { .. }
            | Does::Symlink { .. } => Kind::Name,
            Does::Attributes { .. } | Does::Map { .. } | Does::Foreign { .. } => Kind::Other,
        }
    }

    /// The file it is about; of two names the one it ends at.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &self.does {
            Does::Open { path, .. }
            | Does::Write { path, .. }
            | Does::Resize { path, .. }
            | Does::Sync { path, .. }
            | Does::Unlink { path }
            | Does::Mkdir { path }
            | Does::Symlink { path }
            | Does::Attributes { path }
            | Does::Map { path }
            | Does::Foreign { path, .. } => path,
            Does::Rename { to, .. } | Does::Link { to, .. } => to,
            Does::SyncAll => Path::new("/"),
        }
    }

    /// Whether it can be made to write less than it was asked to.
    #[must_use]
    pub fn can_be_short(&self) -> bool {
        self.count.is_some() && matches!(&self.does, Does::Write { bytes, .. } if bytes.len() > 1)
    }
}

/// A stopped thread's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// It concerns files under the root.
    File(Call),
    /// It tells somebody outside something.
    Says,
    /// It looks at a file; the answer will be written here.
    Looks(u64),
    /// It concerns nobody.
    Nothing,
}

/// Calls that change files, or open them, or tell somebody something.
pub(crate) const CHANGING: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_sync,
    libc::SYS_msync,
    libc::SYS_mmap,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

/// Calls that look at files.
pub(crate) const LOOKING: &[libc::c_long] = &[libc::SYS_statx];

/// A thread that stopped in a call.
struct Thread<'r> {
    tid: Tid,
    registers: &'r Registers,
}

/// What the call of a stopped thread is about to do.
pub(crate) fn met(tid: Tid, registers: &Registers, root: &Path) -> io::Result<Met> {
    let thread = Thread { tid, registers };
    let number = registers.number();
    if number == libc::SYS_statx {
        return Ok(Met::Looks(registers.argument(4)));
    }
    if matches!(number, libc::SYS_sendto | libc::SYS_sendmsg) {
        return Ok(Met::Says);
    }
    let Some((does, count)) = thread.does(number)? else { return Ok(Met::Nothing) };
    let call = Call { does, count };
    let from = match &call.does {
        Does::Rename { from, .. } | Does::Link { from, .. } => from,
        Does::SyncAll => root,
        _ => call.path(),
    };
    if call.path().starts_with(root) || from.starts_with(root) {
        return Ok(Met::File(call));
    }
    Ok(if call.path().to_string_lossy().starts_with("socket:") { Met::Says } else { Met::Nothing })
}

impl Thread<'_> {
    fn argument(&self, n: usize) -> u64 {
        self.registers.argument(n)
    }

    fn flags(&self, n: usize) -> i32 {
        self.argument(n) as i32
    }

    #[allow(clippy::too_many_lines, reason = "a table, one line or two for each call")]
    fn does(&self, number: i64) -> io::Result<Option<(Does, Option<usize>)>> {
        let does = match number {
            libc::SYS_openat => open(self.path_at(0, 1)?, self.flags(2)),
            libc::SYS_openat2 => {
                let how = raw::read_memory(self.tid, self.argument(2), 8)?;
                let flags = how.try_into().map(u64::from_le_bytes).unwrap_or(0);
                open(self.path_at(0, 1)?, flags as i32)
            }
            libc::SYS_write | libc::SYS_pwrite64 => {
                let Some(path) = self.file(0) else { return Ok(None) };
                // Pipes and sockets hold nothing, and what is sent there is not to be read here.
                if !path.is_absolute() {
                    return Ok(Some((Does::Foreign { path, number }, None)));
                }
                let at = if number == libc::SYS_write { self.position(0)? } else { self.argument(3) };
                let bytes = raw::read_memory(self.tid, self.argument(1), self.argument(2) as usize)?;
                return Ok(Some((Does::Write { path, at, bytes }, Some(2))));
            }
            libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
                let Some(path) = self.file(0) else { return Ok(None) };
                if !path.is_absolute() {
                    return Ok(Some((Does::Foreign { path, number }, None)));
                }
                let at = if number == libc::SYS_writev { self.position(0)? } else { self.argument(3) };
                let table = raw::read_memory(self.tid, self.argument(1), 16 * self.argument(2) as usize)?;
                let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or(0);
                let mut bytes = Vec::new();
                for part in table.chunks_exact(16) {
                    bytes.extend(raw::read_memory(self.tid, word(&part[..8]), word(&part[8..]) as usize)?);
                }
                Does::Write { path, at, bytes }
            }
            libc::SYS_ftruncate => match self.file(0) {
                Some(path) => Does::Resize { path, length: self.argument(1) },
                None => return Ok(None),
            },
            libc::SYS_truncate => Does::Resize { path: self.path(0)?, length: self.argument(1) },
            libc::SYS_fsync | libc::SYS_fdatasync => match self.file(0) {
                Some(path) => Does::Sync { path, whole: number == libc::SYS_fsync },
                None => return Ok(None),
            },
            libc::SYS_syncfs | libc::SYS_sync => Does::SyncAll,
            libc::SYS_fallocate | libc::SYS_sync_file_range | libc::SYS_splice => match self.file(0) {
                Some(path) => Does::Foreign { path, number },
                None => return Ok(None),
            },
            libc::SYS_sendfile | libc::SYS_copy_file_range => {
                match self.file(if number == libc::SYS_sendfile { 0 } else { 2 }) {
                    Some(path) => Does::Foreign { path, number },
                    None => return Ok(None),
                }
            }
            libc::SYS_mmap => {
                let shared = self.flags(3) & libc::MAP_TYPE != libc::MAP_PRIVATE;
                let writes = self.flags(2) & libc::PROT_WRITE != 0;
                match self.file(4) {
                    Some(path) if shared && writes => Does::Map { path },
                    _ => return Ok(None),
                }
            }
            libc::SYS_renameat2 => Does::Rename {
                from: self.path_at(0, 1)?,
                to: self.path_at(2, 3)?,
                exchange: self.argument(4) & u64::from(libc::RENAME_EXCHANGE) != 0,
            },
            libc::SYS_unlinkat => Does::Unlink { path: self.path_at(0, 1)? },
            libc::SYS_mkdirat => Does::Mkdir { path: self.path_at(0, 1)? },
            libc::SYS_mknodat => Does::Foreign { path: self.path_at(0, 1)?, number },
            libc::SYS_linkat => Does::Link { from: self.path_at(0, 1)?, to: self.path_at(2, 3)? },
            libc::SYS_symlinkat => Does::Symlink { path: self.path_at(1, 2)? },
            libc::SYS_fchmodat | libc::SYS_fchownat => Does::Attributes { path: self.path_at(0, 1)? },
            libc::SYS_utimensat if self.argument(1) != 0 => Does::Attributes { path: self.path_at(0, 1)? },
            libc::SYS_utimensat
            | libc::SYS_fchmod
            | libc::SYS_fchown
            | libc::SYS_fsetxattr
            | libc::SYS_fremovexattr => match self.file(0) {
                Some(path) => Does::Attributes { path },
                None => return Ok(None),
            },
            libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_removexattr | libc::SYS_lremovexattr => {
                Does::Attributes { path: self.path(0)? }
            }
            other => match self.older(other)? {
                Some(does) => does,
                None => return Ok(None),
            },
        };
        Ok(Some((does, None)))
    }

    /// Calls that newer systems do not have.
    #[cfg(target_arch = "x86_64")]
    fn older(&self, number: i64) -> io::Result<Option<Does>> {
        Ok(Some(match number {
            libc::SYS_open => open(self.path(0)?, self.flags(1)),
            libc::SYS_creat => open(self.path(0)?, libc::O_CREAT | libc::O_TRUNC),
            libc::SYS_rename => Does::Rename { from: self.path(0)?, to: self.path(1)?, exchange: false },
            libc::SYS_renameat => Does::Rename { from: self.path_at(0, 1)?, to: self.path_at(2, 3)?, exchange: false },
            libc::SYS_unlink | libc::SYS_rmdir => Does::Unlink { path: self.path(0)? },
            libc::SYS_mkdir => Does::Mkdir { path: self.path(0)? },
            libc::SYS_link => Does::Link { from: self.path(0)?, to: self.path(1)? },
            libc::SYS_symlink => Does::Symlink { path: self.path(1)? },
            libc::SYS_chmod | libc::SYS_chown | libc::SYS_lchown => Does::Attributes { path: self.path(0)? },
            _ => return Ok(None),
        }))
    }

    #[cfg(target_arch = "aarch64")]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on systems that have them")]
    fn older(&self, _number: i64) -> io::Result<Option<Does>> {
        Ok(None)
    }

    /// What the descriptor in argument `n` stands for; a socket or pipe has no path, but a name.
    fn file(&self, n: usize) -> Option<PathBuf> {
        let path = std::fs::read_link(format!("/proc/{}/fd/{}", self.tid, self.flags(n))).ok()?;
        // What has no name any more is not on the disk of anybody who starts again.
        (!path.as_os_str().to_string_lossy().ends_with(" (deleted)")).then_some(path)
    }

    /// Where the next byte goes that is written to the descriptor in argument `n`.
    fn position(&self, n: usize) -> io::Result<u64> {
        let fd = self.flags(n);
        let text = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", self.tid))?;
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_default();
        let flags = i32::from_str_radix(field("flags:"), 8).unwrap_or(0);
        if flags & libc::O_APPEND != 0 {
            return Ok(std::fs::metadata(format!("/proc/{}/fd/{fd}", self.tid))?.len());
        }
        field("pos:").parse().map_err(|_| io::Error::other(format!("no position in {text}")))
    }

    /// The path in argument `n`, seen from the working directory.
    fn path(&self, n: usize) -> io::Result<PathBuf> {
        self.resolve(std::fs::read_link(format!("/proc/{}/cwd", self.tid))?, &self.text(self.argument(n))?)
    }

    /// The path in argument `n`, seen from the directory in argument `dir`.
    fn path_at(&self, dir: usize, n: usize) -> io::Result<PathBuf> {
        if self.flags(dir) == libc::AT_FDCWD {
            return self.path(n);
        }
        let text = self.text(self.argument(n))?;
        let base = match self.file(dir) {
            Some(base) => base,
            None => PathBuf::from("gone:"),
        };
        self.resolve(base, &text)
    }

    fn resolve(&self, base: PathBuf, text: &Path) -> io::Result<PathBuf> {
        if let Ok(fd) = text.strip_prefix("/proc/self/fd") {
            return std::fs::read_link(Path::new(&format!("/proc/{}/fd", self.tid)).join(fd));
        }
        // Nobody here goes through links on the way to what is changed, so words are enough.
        let mut path = base;
        for part in text.components() {
            match part {
                Component::RootDir => path = PathBuf::from("/"),
                Component::Normal(name) => path.push(name),
                Component::ParentDir => {
                    path.pop();
                }
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(path)
    }

    /// A string in the thread's memory.
    fn text(&self, mut address: u64) -> io::Result<PathBuf> {
        let mut text = Vec::new();
        while text.len() < libc::PATH_MAX as usize {
            // Never across the end of a page: the next one may not be there.
            let part = raw::read_memory(self.tid, address, 4096 - (address % 4096) as usize)?;
            if let Some(end) = part.iter().position(|b| *b == 0) {
                text.extend_from_slice(&part[..end]);
                return Ok(PathBuf::from(OsString::from_vec(text)));
            }
            address += part.len() as u64;
            text.extend(part);
        }
        Err(io::Error::other("a path without end"))
    }
}

fn open(path: PathBuf, flags: i32) -> Does {
    // O_TMPFILE makes a file without a name; nothing here uses it.
    Does::Open { path, creates: flags & libc::O_CREAT != 0, truncates: flags & libc::O_TRUNC != 0 }
}
