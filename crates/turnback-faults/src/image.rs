//! A disk after a crash, made of real files again.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use std::collections::HashMap;

use crate::disguise::{Disguise, Identity};
use crate::disk::Found;
use crate::recording::What;

/// What is on a disk.
#[derive(Clone, Debug)]
pub struct Image(pub(crate) Vec<Found>);

impl Image {
    /// Makes it anew under `root`, of which nothing else is left, and has everything in it play who it was.
    ///
    /// # Errors
    /// When the real file system does not play along.
    pub fn make(&self, root: &Path, disguise: &Disguise) -> io::Result<()> {
        disguise.clear();
        fs::create_dir_all(root)?;
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            match path.is_dir() && !path.is_symlink() {
                true => fs::remove_dir_all(path)?,
                false => fs::remove_file(path)?,
            }
        }
        let mut made: HashMap<&Identity, &Path> = HashMap::new();
        for found in &self.0 {
            let path = root.join(&found.path);
            if let Some(same) = made.get(&found.identity).filter(|_| found.what != What::Directory) {
                fs::hard_link(root.join(same), &path)?;
                continue;
            }
            made.insert(&found.identity, &found.path);
            match &found.what {
                What::Directory => fs::create_dir(&path)?,
                What::Link(text) => symlink(text, &path)?,
                What::File(bytes) => {
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(bytes)?;
                }
            }
            let (uid, gid) = found.attributes.owner;
            match found.what {
                What::Link(_) => lchown(&path, Some(uid), Some(gid))?,
                _ => chown(&path, Some(uid), Some(gid))?,
            }
        }
        // From the bottom up: what is put into a directory changes its times.
        for found in self.0.iter().rev() {
            let path = root.join(&found.path);
            if !matches!(found.what, What::Link(_)) {
                let (seconds, nanos) = found.attributes.modified;
                let modified = SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), nanos);
                File::open(&path)?.set_times(FileTimes::new().set_modified(modified))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(found.attributes.mode))?;
            }
            disguise.cast(&path, &found.identity, found.attributes.changed)?;
        }
        Ok(())
    }
}
