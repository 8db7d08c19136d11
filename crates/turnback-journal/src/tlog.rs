//! The Merkle tree over the records, and the signed checkpoints that vouch for it.
//!
//! Hashes and their storage order are those of RFC 6962 and the C2SP `tlog-tiles` and
//! `tlog-checkpoint` formats (<https://c2sp.org/tlog-tiles>), so any reader of those can check the log.
//! Never decides what a leaf says; it is handed bytes.

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::SigningKey;
use signed_note::{Note, StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, Error, Hash, HashReader, stored_hash_index, stored_hashes_for_record_hash, sub_tree_index,
};

use crate::error::{JournalError, storage};
use crate::state;

/// What is kept of a tree to grow it and to know its root: the roots of its largest complete subtrees.
#[derive(Clone, Debug)]
pub(crate) struct Frontier {
    size: u64,
    peaks: Vec<(u64, Hash)>,
}

impl HashReader for Frontier {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        indexes
            .iter()
            .map(|index| self.peaks.iter().find(|(i, _)| i == index).map(|(_, hash)| *hash))
            .collect::<Option<_>>()
            .ok_or(Error::IndexesNotInTree)
    }
}

impl Frontier {
    /// The frontier of the empty tree.
    pub(crate) const fn empty() -> Self {
        Self { size: 0, peaks: Vec::new() }
    }

    /// The frontier of a stored tree, read with at most log₂ `size` look-ups.
    pub(crate) fn load<E>(size: u64, mut hash_at: impl FnMut(u64) -> Result<Hash, E>) -> Result<Self, E> {
        let peaks =
            sub_tree_index(0, size, vec![]).into_iter().map(|i| Ok((i, hash_at(i)?))).collect::<Result<_, E>>()?;
        Ok(Self { size, peaks })
    }

    /// How many leaves the tree has.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf. Returns the hashes to store and the index of the first; they are consecutive.
    pub(crate) fn push(&mut self, leaf: Hash) -> Result<(u64, Vec<Hash>), JournalError> {
        let first = stored_hash_index(0, self.size);
        let hashes = stored_hashes_for_record_hash(self.size, leaf, self).map_err(storage("growing the tree"))?;
        let size = self.size + 1;
        let grown = Self::load(size, |index| {
            // A peak of the grown tree is either new or was a peak before.
            let new = index.checked_sub(first).and_then(|i| hashes.get(usize::try_from(i).ok()?)).copied();
            let old = || self.peaks.iter().find(|(i, _)| *i == index).map(|(_, hash)| *hash);
            new.or_else(old).ok_or(Error::IndexesNotInTree)
        });
        *self = grown.map_err(storage("growing the tree"))?;
        Ok((first, hashes))
    }

    /// The tree's root.
    pub(crate) fn root(&self) -> Result<Hash, JournalError> {
        tlog_tiles::tree_hash(self.size, self).map_err(storage("computing the root of the tree"))
    }
}

/// What one log signs with: one key, named like the log's origin.
pub(crate) struct LogKey {
    origin: String,
    signer: StandardSigner,
    verifier: String,
}

impl LogKey {
    /// The key of the state directory, made on first use. `log.pub` is written anew when missing and
    /// refused when it belongs to another key.
    pub(crate) fn load_or_make(dir: &Path, fresh: bool) -> Result<Self, JournalError> {
        let path = state::key(dir);
        let text = match state::read(&path)? {
            Some(text) => text,
            None if !fresh => {
                return Err(JournalError::unfit(
                    path,
                    "is missing, and the log goes on only under its own key",
                    "restore it from a backup",
                ));
            }
            None => {
                let text = Self::make()?;
                state::replace(&path, text.as_bytes(), 0o600).map_err(storage("writing log.key"))?;
                text
            }
        };
        let key = Self::parse(text.trim_end())
            .ok_or_else(|| JournalError::unfit(&path, "is not a signing key", "restore it from a backup"))?;
        let public = state::verifier(dir);
        match state::read(&public)? {
            Some(text) if text.trim_end() == key.verifier => {}
            Some(_) => {
                return Err(JournalError::unfit(
                    public,
                    "does not belong to `log.key`",
                    "restore both from one backup",
                ));
            }
            None => state::replace(&public, format!("{}\n", key.verifier).as_bytes(), 0o600)
                .map_err(storage("writing log.pub"))?,
        }
        Ok(key)
    }

    /// A new key under a new random origin, in the text form of `signed_note`:
    /// `PRIVATE+KEY+<name>+<id>+<algorithm and seed>`.
    fn make() -> Result<String, JournalError> {
        let mut random = [0; 16 + 32];
        getrandom::fill(&mut random).map_err(storage("drawing a random key"))?;
        let (id, seed) = random.split_at(16);
        let origin = format!("turnback/{}", hex::encode(id));
        let key = SigningKey::try_from(seed).map_err(storage("making a key"))?;
        let verifier = signed_note::new_ed25519_verifier_key(&origin, &key.verifying_key());
        let id = verifier.split('+').nth(1).unwrap_or_default();
        Ok(format!("PRIVATE+KEY+{origin}+{id}+{}\n", BASE64_STANDARD.encode([&[1], seed].concat())))
    }

    fn parse(text: &str) -> Option<Self> {
        let signer = StandardSigner::new(text).ok()?;
        let mut parts = text.split('+').skip(2);
        let origin = parts.next()?.to_owned();
        // Base64 itself may contain `+`, so everything after the id belongs to the key.
        let data = parts.skip(1).collect::<Vec<_>>().join("+");
        let data = BASE64_STANDARD.decode(data).ok()?;
        let key = SigningKey::try_from(data.get(1..)?).ok()?;
        let verifier = signed_note::new_ed25519_verifier_key(&origin, &key.verifying_key());
        Some(Self { origin, signer, verifier })
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn verifier(&self) -> &str {
        &self.verifier
    }

    /// The signed checkpoint of a tree, as note text.
    pub(crate) fn sign(&self, size: u64, root: Hash) -> Result<String, JournalError> {
        let failed = "signing a checkpoint";
        let checkpoint = Checkpoint::new(&self.origin, size, root, "").map_err(storage(failed))?;
        let mut note = Note::new(&checkpoint.to_bytes(), &[]).map_err(storage(failed))?;
        note.add_sigs(&[&self.signer]).map_err(storage(failed))?;
        String::from_utf8(note.to_bytes()).map_err(storage(failed))
    }
}

/// Reads a checkpoint and checks its signature and origin against a verifier key.
///
/// The error is a phrase that follows the name of where the note came from.
pub(crate) fn read_checkpoint(note: &str, verifier: &str) -> Result<Checkpoint, String> {
    let origin = verifier.split('+').next().unwrap_or_default();
    let known = StandardVerifier::new(verifier).map_err(|e| format!("cannot be checked, `log.pub` is damaged: {e}"))?;
    let note = Note::from_bytes(note.as_bytes()).map_err(|_| "is not a signed note".to_owned())?;
    note.verify(&VerifierList::new(vec![Box::new(known)]))
        .map_err(|e| format!("is not signed by this log's key: {e}"))?;
    let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|_| "is not a checkpoint".to_owned())?;
    if checkpoint.origin() != origin {
        return Err(format!("is of another log, `{}`", turnback_core::text::visible(checkpoint.origin())));
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tlog_tiles::{node_hash, record_hash};

    /// RFC 6962 section 2.1, spelled out.
    fn reference(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => tlog_tiles::EMPTY_HASH,
            [one] => *one,
            many => {
                let k = many.len().next_power_of_two() / 2;
                node_hash(reference(&many[..k]), reference(&many[k..]))
            }
        }
    }

    #[test]
    fn roots_and_storage_order_are_the_standards() {
        let leaves: Vec<Hash> = (0..200_u32).map(|i| record_hash(&i.to_be_bytes())).collect();
        let mut tree = Frontier::empty();
        let mut stored: Vec<Hash> = Vec::new();
        for (n, leaf) in leaves.iter().enumerate() {
            assert_eq!(tree.root().unwrap(), reference(&leaves[..n]));
            let (first, hashes) = tree.push(*leaf).unwrap();
            assert_eq!(first, stored.len() as u64);
            stored.extend(hashes);
            assert_eq!(stored.len() as u64, tlog_tiles::stored_hash_count(n as u64 + 1));
            let loaded = Frontier::load(n as u64 + 1, |i| Ok::<_, ()>(stored[usize::try_from(i).unwrap()])).unwrap();
            assert_eq!(loaded.root().unwrap(), tree.root().unwrap());
        }
    }

    #[test]
    fn a_checkpoint_is_only_ours_under_our_key() {
        let key = LogKey::parse(LogKey::make().unwrap().trim_end()).unwrap();
        let other = LogKey::parse(LogKey::make().unwrap().trim_end()).unwrap();
        let note = key.sign(7, record_hash(b"x")).unwrap();
        let read = read_checkpoint(&note, key.verifier()).unwrap();
        assert_eq!((read.size(), read.origin()), (7, key.origin()));
        assert!(read_checkpoint(&note, other.verifier()).is_err());
        assert!(read_checkpoint(&note.replace("\n7\n", "\n6\n"), key.verifier()).is_err());
    }
}
