//! One file, link or directory tree as it was found: enough to know it again.

use serde::{Deserialize, Serialize};
use turnback_core::digest::Sha256;
use turnback_core::effect::Fingerprint;

use crate::sys::FileKind;

/// The identity and fingerprint of what stands at one place.
///
/// Files and links are known by their content. Trees are known by their manifest, from looking only:
/// `content` over path, kind, mode, owner, inode, and the size and mtime of what is not a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) kind: FileKind,
    /// Inode and its time of birth.
    pub(crate) id: String,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of content, of a tree those of all its files.
    pub(crate) bytes: u64,
    /// 1, of a tree itself and everything in it.
    pub(crate) entries: u64,
    /// Of files and links. A directory's changes with every name in it, our own undo included.
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Sha256,
    pub(crate) content: Sha256,
    /// Of an untouched tree: the manifest with every ctime and directory mtime. Nothing a program may
    /// do inside a tree leaves it equal, but neither does our own undo of something inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) strong: Option<Sha256>,
    /// Files in it that have names elsewhere too.
    #[serde(default)]
    pub(crate) shared: u64,
}

/// How closely two looks at one object must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closely {
    /// Same object, same permission bits and owner: what a change of mode depends on.
    Mode,
    /// Same object with the same content and attributes.
    Content,
    /// As `Content`, and nothing inside a tree was as much as touched.
    Untouched,
}

impl Object {
    /// What is different in `found`, as a clause; `None` when it is the same.
    pub(crate) fn differs(&self, found: &Object, closely: Closely) -> Option<String> {
        if self.kind != found.kind {
            return Some(format!("is a {} now", found.kind.word()));
        }
        if self.id != found.id {
            return Some(format!("was replaced by another {}", found.kind.word()));
        }
        if self.mode != found.mode {
            return Some(format!("its mode changed from {:04o} to {:04o}", self.mode, found.mode));
        }
        if (self.uid, self.gid) != (found.uid, found.gid) {
            return Some("its owner changed".into());
        }
        if closely == Closely::Mode {
            return None;
        }
        if self.content != found.content {
            return Some(match self.kind {
                FileKind::Directory if found.entries > self.entries => {
                    format!("holds {} later entries", found.entries - self.entries)
                }
                FileKind::Directory => "something in it changed since".into(),
                _ => "its content changed since".into(),
            });
        }
        if self.xattrs != found.xattrs {
            return Some("its extended attributes or ACL changed".into());
        }
        if self.mtime != found.mtime {
            return Some("it was written or touched since".into());
        }
        match (self.strong, found.strong) {
            (Some(a), Some(b)) if closely == Closely::Untouched && a != b => Some("something in it was touched".into()),
            _ => None,
        }
    }

    /// What it is worth to people: kind, rights and content, without inode numbers and times of its own.
    /// `stand_in` takes the place of a content digest that holds such numbers of things made by staging.
    pub(crate) fn value(&self, stand_in: Option<&str>) -> Sha256 {
        let rights = [self.mode.to_be_bytes(), self.uid.to_be_bytes(), self.gid.to_be_bytes()].concat();
        let content = match stand_in {
            Some(text) => text.as_bytes(),
            None => self.content.as_bytes().as_slice(),
        };
        Sha256::of_parts(
            "turnback file value v1",
            [self.kind.word().as_bytes(), rights.as_slice(), self.xattrs.as_bytes().as_slice(), content],
        )
    }

    pub(crate) fn fingerprint(&self, stand_in: Option<&str>) -> Fingerprint {
        Fingerprint(self.value(stand_in))
    }
}
