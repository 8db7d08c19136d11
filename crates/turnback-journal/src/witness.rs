//! What is missing from the write-ahead log.
//!
//! After a kill the newest records are only in `journal.db-wal`. SQLite reads that file up to the first
//! frame that does not fit its checksums and takes the rest for a write the crash interrupted – also
//! when the frame was whole, synced and acknowledged, and damaged or cut off afterwards.
//!
//! Beside it lies a witness: `journal.db-shm` survives a kill, and says how many frames there are. SQLite
//! writes that number after it has synced them, so it never promises what is not there: whatever is
//! short of it was lost. After a power loss, or without that file, there is no witness, and the newest
//! checkpoint is what vouches for the log.
//!
//! Formats: <https://www.sqlite.org/walformat.html>. Only looks; a file that is not as described there is
//! no witness, because SQLite makes it anew.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use crate::error::JournalError;

const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// What the shared memory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    /// Frames that are in the log.
    frames: u32,
    /// Frames of them that are in the database too.
    folded: u32,
    /// Of the log's header: which log is meant.
    salts: [u8; 8],
}

/// Refuses a write-ahead log that is shorter than it was.
///
/// # Errors
/// [`JournalError::Unfit`] names the log when frames are missing that were there.
pub(crate) fn heard(database: &Path) -> Result<(), JournalError> {
    let beside = |end: &str| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        std::path::PathBuf::from(name)
    };
    let (shm, wal) = (beside("-shm"), beside("-wal"));
    // A running gateway moves both on; what counts is a pair nobody moved meanwhile.
    let mut before = said(&shm);
    while let Some(said_before) = before {
        let there = frames(&wal, said_before);
        let now = said(&shm);
        if now == before {
            return match there {
                Some(there) if there < said_before.frames => Err(JournalError::unfit(
                    wal,
                    format!(
                        "is damaged or was cut: {} pages were written to it, {there} can be read, so records that were acknowledged are missing",
                        said_before.frames
                    ),
                    "restore the file from a backup; to go on without what is missing, remove journal.db-shm, then run: turnback verify",
                )),
                _ => Ok(()),
            };
        }
        before = now;
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize, read: fn([u8; 4]) -> u32) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(read)
}

/// The two sums SQLite keeps, over pairs of words.
fn checksum(bytes: &[u8], (mut a, mut b): (u32, u32), read: fn([u8; 4]) -> u32) -> (u32, u32) {
    for &[x0, x1, x2, x3, y0, y1, y2, y3] in bytes.as_chunks().0 {
        a = a.wrapping_add(read([x0, x1, x2, x3])).wrapping_add(b);
        b = b.wrapping_add(read([y0, y1, y2, y3])).wrapping_add(a);
    }
    (a, b)
}

/// What the shared memory says when it is whole: two equal copies with a sum that fits.
fn said(shm: &Path) -> Option<Said> {
    let mut bytes = [0; 136];
    fs::File::open(shm).and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
    let (one, two) = (bytes.get(..48)?, bytes.get(48..96)?);
    let sum = checksum(one.get(..40)?, (0, 0), u32::from_ne_bytes);
    let whole = one == two
        && one.get(12) == Some(&1)
        && word(one, 40, u32::from_ne_bytes) == Some(sum.0)
        && word(one, 44, u32::from_ne_bytes) == Some(sum.1);
    if !whole {
        return None;
    }
    Some(Said {
        frames: word(one, 16, u32::from_ne_bytes)?,
        folded: word(&bytes, 96, u32::from_ne_bytes)?,
        salts: one.get(32..40)?.try_into().ok()?,
    })
}

/// How many whole frames the log has, counted no further than was said. `None` when that does not
/// concern this log.
fn frames(wal: &Path, said: Said) -> Option<u32> {
    if said.frames == 0 {
        return None;
    }
    let mut header = [0; WAL_HEADER];
    let mut file = fs::File::open(wal).ok();
    let intact = file.as_mut().is_some_and(|file| file.read_exact(&mut header).is_ok());
    let read: fn([u8; 4]) -> u32 = match word(&header, 0, u32::from_be_bytes) {
        Some(0x377f_0682) => u32::from_le_bytes,
        _ => u32::from_be_bytes,
    };
    let mut sum = checksum(header.get(..24)?, (0, 0), read);
    let intact = intact
        && word(&header, 24, u32::from_be_bytes) == Some(sum.0)
        && word(&header, 28, u32::from_be_bytes) == Some(sum.1);
    if !intact {
        // Nothing of it is read. That is the same when all of it is in the database.
        return (said.folded < said.frames).then_some(0);
    }
    if header.get(16..24)? != said.salts {
        return None;
    }
    let page = usize::try_from(word(&header, 8, u32::from_be_bytes)?).ok().filter(|page| *page <= 65_536)?;
    let mut frame = vec![0; FRAME_HEADER + page];
    let mut file = std::io::BufReader::new(file?);
    let mut there = 0;
    while there < said.frames && file.read_exact(&mut frame).is_ok() {
        sum = checksum(frame.get(..8)?, sum, read);
        sum = checksum(frame.get(FRAME_HEADER..)?, sum, read);
        let fits = frame.get(8..16)? == said.salts
            && word(&frame, 16, u32::from_be_bytes) == Some(sum.0)
            && word(&frame, 20, u32::from_be_bytes) == Some(sum.1);
        if !fits {
            break;
        }
        there += 1;
    }
    Some(there)
}
