//! Blobs: pre-images, changesets and rendered diffs, named by their hash.
//!
//! Small ones live in the journal and become durable with the record that names them. Large ones are
//! files, durable before that record is even queued. Either way a blob is checked against its name at
//! every read. Never forgets a blob; retention is somebody else's decision.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::OptionalExtension as _;
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};

use crate::error::JournalError;
use crate::query::Readers;
use crate::state;

/// Largest blob kept in a table, in bytes. Above it, a file costs less than the pages of a B-tree.
pub const SMALL: usize = 256 * 1024;

/// Reads blobs back. Cheap to clone; usable after the journal was closed or poisoned.
#[derive(Clone)]
pub struct Blobs {
    pub(crate) dir: Arc<Path>,
    pub(crate) readers: Arc<Readers>,
}

impl Blobs {
    /// The blob with that hash, checked against it.
    ///
    /// # Errors
    /// [`Code::SnapshotLost`] when it is missing, unreadable or altered.
    pub fn get(&self, hash: &Sha256) -> Result<Vec<u8>, Refusal> {
        let lost = |why: String| {
            Refusal::new(Code::SnapshotLost, format!("pre-image {hash} {why}"))
                .at(hash.to_string())
                .next("restore the state directory's vault from a backup; without it there is no way back")
        };
        let small: Option<Vec<u8>> = self
            .readers
            .with(|c| {
                c.prepare_cached("SELECT body FROM blobs WHERE hash = ?1")?
                    .query_row([hash.as_bytes()], |row| row.get(0))
                    .optional()
            })
            .map_err(|e| lost(format!("cannot be read: {e}")))?;
        let bytes = match small {
            Some(bytes) => bytes,
            None => match fs::read(file(&self.dir, hash)) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(lost("is missing".into())),
                Err(e) => return Err(lost(format!("cannot be read: {e}"))),
            },
        };
        if Sha256::of(&bytes) != *hash {
            return Err(lost("was altered: its content is not what was stored".into()));
        }
        Ok(bytes)
    }
}

fn file(dir: &Path, hash: &Sha256) -> PathBuf {
    let name = hash.to_string();
    state::blobs(dir).join(name.get(..2).unwrap_or_default()).join(name)
}

/// Why a large blob is not stored.
pub(crate) enum Failure {
    /// Nothing was kept; the next attempt may succeed.
    Refused(JournalError),
    /// The storage no longer keeps its word about syncing.
    Sync(String),
}

/// Stores a large blob. Its content, its name and its directory are durable on return.
pub(crate) fn store(dir: &Path, hash: &Sha256, bytes: &[u8]) -> Result<(), Failure> {
    let path = file(dir, hash);
    let refused = |e: io::Error| {
        Failure::Refused(JournalError::Vault {
            place: path.display().to_string(),
            why: format!("the pre-image cannot be stored: {e}"),
            full: matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
        })
    };
    let unsynced = |e: io::Error| Failure::Sync(format!("syncing `{}`: {e}", path.display()));
    let Some(folder) = path.parent() else { return Err(refused(io::ErrorKind::InvalidInput.into())) };
    state::make_private(folder).map_err(Failure::Refused)?;
    let intact = fs::read(&path).is_ok_and(|there| Sha256::of(&there) == *hash);
    if !intact {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| refused(io::Error::other(e.to_string())))?;
        let new = folder.join(format!("{}.new", hex::encode(random)));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(refused)?;
            file.write_all(bytes).map_err(refused)?;
            file.sync_all().map_err(|e| match e.kind() {
                // Delayed allocation tells only now that there is no room.
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => refused(e),
                _ => unsynced(e),
            })?;
            fs::rename(&new, &path).map_err(refused)
        })();
        if let Err(e) = written {
            let _ = fs::remove_file(&new);
            return Err(e);
        }
    }
    // Also for a file and a folder that were there: whoever made them may not have come to this line yet.
    state::sync_dir(folder).and_then(|()| state::sync_dir(&state::blobs(dir))).map_err(unsynced)
}
