//! The state directory: who may read it, who holds it, where things lie in it.
//!
//! ```text
//! <state>/            0700
//!   lock              held by flock while a gateway runs; its content is the holder's process id
//!   journal.db        records, payloads, tree, projections, small blobs (and -wal, -shm beside it)
//!   log.key  log.pub  the key checkpoints are signed with, and what verifies them
//!   checkpoint        the last signed checkpoint
//!   vault/blobs/      large blobs by hash
//!   vault/slots/      pre-images kept by rename
//! ```
//!
//! Never follows the directory's content: what each file means is its own room's business.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use turnback_core::text::visible;

use crate::error::{JournalError, storage};

pub(crate) fn database(dir: &Path) -> PathBuf {
    dir.join("journal.db")
}

pub(crate) fn key(dir: &Path) -> PathBuf {
    dir.join("log.key")
}

pub(crate) fn verifier(dir: &Path) -> PathBuf {
    dir.join("log.pub")
}

pub(crate) fn checkpoint(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

pub(crate) fn blobs(dir: &Path) -> PathBuf {
    dir.join("vault/blobs")
}

/// Where the files domain keeps pre-images by rename: a directory of mode 0700 that
/// [`crate::Journal::open`] makes. Nothing here is in the journal; the domain's recipe names it.
pub fn slots_dir(dir: &Path) -> PathBuf {
    dir.join("vault/slots")
}

/// The hold on a state directory. Let go when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Makes the directory where it is missing, refuses one that others can look into, and takes the lock.
pub(crate) fn hold(dir: &Path) -> Result<Lock, JournalError> {
    make_private(dir)?;
    let lock = lock(dir)?;
    for inner in ["vault", "vault/blobs", "vault/slots"] {
        make_private(&dir.join(inner))?;
    }
    // Also what was there: a crash may have come between making a directory and syncing its name.
    for made in [dir, &dir.join("vault")] {
        sync_dir(made).map_err(storage("syncing the state directory"))?;
    }
    for file in ["journal.db", "journal.db-wal", "journal.db-shm", "log.key", "checkpoint"] {
        refuse_shared(&dir.join(file))?;
    }
    Ok(lock)
}

fn lock(dir: &Path) -> Result<Lock, JournalError> {
    let path = dir.join("lock");
    let failed = storage("taking the lock of the state directory");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(&path)
        .map_err(&failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // The holder may not have written its id yet; the refusal stands either way.
            let _ = (&mut file).take(20).read_to_string(&mut pid);
            let pid = pid.trim();
            let pid = if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) { pid } else { "unknown" };
            return Err(JournalError::Locked { dir: visible(&dir.display().to_string()), pid: pid.to_owned() });
        }
        Err(e) => return Err(failed(e.into())),
    }
    file.set_len(0).map_err(&failed)?;
    file.rewind().map_err(&failed)?;
    writeln!(file, "{}", std::process::id()).map_err(&failed)?;
    Ok(Lock { _file: file })
}

/// A directory only we can enter. An empty one that was made too open is closed; one with content is
/// refused, because somebody may have been in it.
pub(crate) fn make_private(dir: &Path) -> Result<(), JournalError> {
    let failed = storage("making a state directory");
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return sync_dir(parent).map_err(failed);
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => {
            return Err(JournalError::unfit(
                dir,
                format!("cannot be made: {e}"),
                "make its parent, or name another state directory",
            ));
        }
    }
    let meta = fs::symlink_metadata(dir).map_err(&failed)?;
    if !meta.is_dir() {
        return Err(JournalError::unfit(dir, "is not a directory", "name another state directory"));
    }
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        return Err(JournalError::unfit(
            dir,
            format!("belongs to user id {}, not to user id {us} that runs this", meta.uid()),
            "run as the owner, or name another state directory",
        ));
    }
    if meta.mode() & 0o077 != 0 {
        let empty = fs::read_dir(dir).map_err(&failed)?.next().is_none();
        if !empty {
            return Err(JournalError::unfit(
                dir,
                format!("is open to other users (mode {:04o})", meta.mode() & 0o7777),
                format!("look whether anything was changed, then: chmod -R go= {}", dir.display()),
            ));
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(&failed)?;
    }
    Ok(())
}

fn refuse_shared(file: &Path) -> Result<(), JournalError> {
    let meta = match fs::symlink_metadata(file) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(storage("looking at the state directory")(e)),
    };
    if !meta.is_file() {
        return Err(JournalError::unfit(file, "is not a plain file", "restore it from a backup"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(JournalError::unfit(
            file,
            format!("is open to other users (mode {:04o})", meta.mode() & 0o7777),
            format!("look whether it was changed, then: chmod 600 {}", file.display()),
        ));
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces a file whole: readers and crashes see the old content or the new, never a mixture. Durable
/// when it returns.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = dir.join(name);
    let written = (|| {
        // What a crash left behind under this name was never renamed, so nobody relies on it.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if let Err(e) = written {
        let _ = fs::remove_file(&new);
        return Err(e);
    }
    sync_dir(dir)
}

/// The content of a small file, `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, JournalError> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| JournalError::unfit(path, "is not text", "restore it from a backup")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(JournalError::unfit(path, format!("cannot be read: {e}"), "make it readable to this user")),
    }
}
