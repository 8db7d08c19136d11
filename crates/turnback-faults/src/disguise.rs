//! Real files seen under the identities other files had.
//!
//! The files domain knows an object by its inode number and the moment the inode was made, and a tree also
//! by the moments its entries were last changed in any way. No file system lets a program choose these, so
//! a disk made again would never be taken for the one that was recorded. Here the answers of `statx` to the
//! traced process are changed on their way back. The product is left as it is: no seam in it that could be
//! open by mistake, and what is tested is what is shipped. (Keeping the recorded inodes themselves
//! alive and moving them about would change the moments of change of whole trees, which are
//! compared too.)

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use std::os::unix::fs::MetadataExt as _;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::raw::{self, Tid};

/// Seconds and nanoseconds.
pub(crate) type Moment = (i64, u32);

/// Which object it is, and how it last was. The product is to see just this.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    pub(crate) born: Moment,
}

fn device(number: u64) -> (u32, u32) {
    (libc::major(number), libc::minor(number))
}

impl Identity {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        let born = meta.created().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let seconds = i64::try_from(born.as_secs()).unwrap_or(0);
        Self { device: device(meta.dev()), inode: meta.ino(), born: (seconds, born.subsec_nanos()) }
    }
}

struct Role {
    as_who: Identity,
    /// Shown as moment of change for as long as nothing changes it.
    changed: Moment,
    really_changed: Moment,
}

/// A real object: device and inode.
type Actor = ((u32, u32), u64);

/// Who plays whom. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct Disguise(Arc<RwLock<HashMap<Actor, Role>>>);

impl std::fmt::Debug for Disguise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disguise").finish_non_exhaustive()
    }
}

impl Disguise {
    /// Nobody plays anybody any more.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What stands at `path` plays `who` from now on.
    pub(crate) fn cast(&self, path: &Path, who: &Identity, changed: Moment) -> io::Result<()> {
        let meta = std::fs::symlink_metadata(path)?;
        let really_changed = (meta.ctime(), u32::try_from(meta.ctime_nsec()).unwrap_or(0));
        let role = Role { as_who: who.clone(), changed, really_changed };
        let mut roles = self.0.write().unwrap_or_else(PoisonError::into_inner);
        roles.insert((device(meta.dev()), meta.ino()), role);
        Ok(())
    }

    /// Changes an answer of `statx`.
    pub(crate) fn put_on(&self, tid: Tid, buffer: u64) -> io::Result<()> {
        // Offsets are those of `struct statx`, which is the kernel's promise on every machine.
        const INODE: usize = 32;
        const BORN: usize = 80;
        const CHANGED: usize = 96;
        const DEVICE: usize = 136;
        let mut answer = raw::read_memory(tid, buffer, 256)?;
        if answer.len() < 256 {
            return Ok(());
        }
        let half = |a: &[u8], at: usize| a[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or(0);
        let word = |a: &[u8], at: usize| a[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or(0);
        let found = ((half(&answer, DEVICE), half(&answer, DEVICE + 4)), word(&answer, INODE));
        let roles = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(role) = roles.get(&found) else { return Ok(()) };
        let mut put = |at: usize, bytes: &[u8]| answer[at..at + bytes.len()].copy_from_slice(bytes);
        put(INODE, &role.as_who.inode.to_ne_bytes());
        put(DEVICE, &role.as_who.device.0.to_ne_bytes());
        put(DEVICE + 4, &role.as_who.device.1.to_ne_bytes());
        put(BORN, &role.as_who.born.0.to_ne_bytes());
        put(BORN + 8, &role.as_who.born.1.to_ne_bytes());
        let changed = (word(&answer, CHANGED) as i64, half(&answer, CHANGED + 8));
        if changed == role.really_changed {
            answer[CHANGED..CHANGED + 8].copy_from_slice(&role.changed.0.to_ne_bytes());
            answer[CHANGED + 8..CHANGED + 12].copy_from_slice(&role.changed.1.to_ne_bytes());
        }
        raw::write_memory(tid, buffer, &answer)
    }
}
