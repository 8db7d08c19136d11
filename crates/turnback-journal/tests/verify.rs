//! Whatever is altered, dropped, reordered or cut is found, and named.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::path::Path;

use common::{batch, copy, filled, open, tamper};
use proptest::prelude::*;
use turnback_journal::{Journal, Misfit, Options, VerifyError, verify};

/// Sequence number, record and payload as they are stored.
type Stored = (i64, Vec<u8>, Vec<u8>);

fn misfit(dir: &Path, older: Option<&str>) -> Misfit {
    match verify(dir, older, None) {
        Err(VerifyError::Misfit(misfit)) => misfit,
        other => panic!("expected a misfit, got {other:?}"),
    }
}

/// The first misfit after somebody ran `sql` on a journal of nine records.
fn after(sql: &[&str]) -> (Option<u64>, String) {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 9);
    assert_eq!(verify(dir.path(), None, None).unwrap().records, 9);
    for sql in sql {
        assert!(tamper(dir.path(), sql) > 0, "{sql} changes something");
    }
    let misfit = misfit(dir.path(), None);
    (misfit.seq, misfit.what)
}

#[track_caller]
fn found(sql: &[&str], seq: impl Into<Option<u64>>, what: &str) {
    let (at, why) = after(sql);
    assert_eq!(at, seq.into(), "{why}");
    assert!(why.contains(what), "{why}");
}

#[test]
fn every_kind_of_change_is_found() {
    found(
        &["UPDATE leaves SET body = CAST(replace(CAST(body AS TEXT), 'abandoned', 'committed') AS BLOB) WHERE seq = 4"],
        4,
        "not what was recorded",
    );
    found(&["UPDATE leaves SET run = zeroblob(16) WHERE seq = 4"], 4, "filed under another run");
    found(&["UPDATE leaves SET run = NULL WHERE seq = 4"], 4, "filed under another run");
    found(
        &["UPDATE payloads SET body = CAST(replace(CAST(body AS TEXT), '5', '6') AS BLOB) WHERE seq = 5"],
        5,
        "payload is not what",
    );
    found(&["UPDATE payloads SET salt = zeroblob(16) WHERE seq = 5"], 5, "payload is not what");
    found(&["UPDATE payloads SET salt = NULL WHERE seq = 5"], 5, "half erased");
    found(&["DELETE FROM payloads WHERE seq = 5"], 5, "payload is missing");
    found(&["INSERT INTO payloads VALUES (9, NULL, NULL)"], 9, "no record");
    found(&["UPDATE hashes SET hash = zeroblob(32) WHERE idx = 0"], 0, "stored one");
    found(&["UPDATE hashes SET hash = zeroblob(32) WHERE idx = 6"], 3, "tree above");
    found(&["UPDATE hashes SET hash = x'00' WHERE idx = 0"], 0, "not a hash");
    found(&["DELETE FROM hashes WHERE idx = 6"], 3, "hash 6 of the tree is missing");
    found(&["INSERT INTO hashes VALUES (16, zeroblob(32))"], 9, "hash 16");
    found(&["DELETE FROM leaves WHERE seq = 8"], 9 - 1, "missing");
    found(&["DELETE FROM leaves WHERE seq = 3"], 3, "missing");
    found(&["DELETE FROM leaves WHERE seq = 0"], 0, "missing");
    found(
        &[
            "UPDATE leaves SET seq = -1 WHERE seq = 2",
            "UPDATE leaves SET seq = 2 WHERE seq = 3",
            "UPDATE leaves SET seq = 3 WHERE seq = -1",
        ],
        2,
        "not what was recorded",
    );
    // A clean cut: record, payload and hash of the last one.
    found(
        &[
            "DELETE FROM leaves WHERE seq = 8",
            "DELETE FROM payloads WHERE seq = 8",
            "DELETE FROM hashes WHERE idx = 15",
        ],
        8,
        "vouches for 9 records, 8 are there",
    );
    found(
        &[
            "UPDATE checkpoints SET note = replace(note, char(10) || '9' || char(10), char(10) || '8' || char(10)) WHERE size = 9",
        ],
        None,
        "not signed",
    );
    found(&["UPDATE checkpoints SET size = 7 WHERE size = 9"], None, "another size");
    found(&["DELETE FROM checkpoints"], None, "not among the stored ones");
    found(&["DELETE FROM checkpoints WHERE size = 9"], None, "not among the stored ones");
    found(&["DELETE FROM runs WHERE id = 5"], 4, "missing in the list of runs");
}

#[test]
fn a_recomputed_tree_is_found_by_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1);
    // One leaf: its hash is the root, and somebody who can compute it stores it.
    let body = std::fs::read(dir.path().join("checkpoint")).unwrap();
    assert!(!body.is_empty());
    let c = rusqlite::Connection::open(dir.path().join("journal.db")).unwrap();
    let text: Vec<u8> = c.query_row("SELECT body FROM leaves", [], |row| row.get(0)).unwrap();
    let forged = String::from_utf8(text).unwrap().replace("2027-", "2026-");
    let hash = tlog_tiles::record_hash(forged.as_bytes());
    assert_eq!(c.execute("UPDATE leaves SET body = ?1", [forged.as_bytes()]).unwrap(), 1);
    assert_eq!(c.execute("UPDATE hashes SET hash = ?1", [hash.0]).unwrap(), 1);
    drop(c);
    let misfit = misfit(dir.path(), None);
    assert!(misfit.what.contains("altered together with its stored hash"), "{misfit}");
}

#[test]
fn a_saved_checkpoint_finds_a_restored_copy_that_fits_in_itself() {
    let dir = tempfile::tempdir().unwrap();
    let parent = tempfile::tempdir().unwrap();
    let early = filled(dir.path(), 3);
    let old = parent.path().join("old");
    copy(dir.path(), &old);
    let journal = open(dir.path());
    journal.append_wait(batch(7)).unwrap();
    let late = journal.checkpoint().unwrap();
    journal.close();

    let report = verify(dir.path(), Some(&early), None).unwrap();
    assert_eq!((report.older, report.records, report.vouched), (Some(3), 4, 4));
    assert_eq!(verify(&old, Some(&early), None).unwrap().records, 3);
    assert_eq!(verify(&old, None, None).unwrap().records, 3, "in itself the old copy is whole");
    let short = misfit(&old, Some(&late));
    assert_eq!(short.seq, Some(3));
    assert!(short.what.contains("the older checkpoint vouches for 4 records, 3 are there"), "{short}");

    // Restored, and gone on differently: same size, another history.
    let journal = open(&old);
    journal.append_wait(batch(8)).unwrap();
    journal.close();
    assert_eq!(verify(&old, None, None).unwrap().records, 4);
    assert!(misfit(&old, Some(&late)).what.contains("the older checkpoint of 4 records does not fit"));

    let other = tempfile::tempdir().unwrap();
    let foreign = filled(other.path(), 3);
    assert!(misfit(dir.path(), Some(&foreign)).what.contains("older checkpoint is not signed by this log's key"));
    assert!(misfit(dir.path(), Some("nonsense")).what.contains("older checkpoint is not a signed note"));
}

#[test]
fn the_saved_checkpoint_is_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    let note = filled(dir.path(), 3);
    let file = dir.path().join("checkpoint");
    std::fs::write(&file, note.replace("\n3\n", "\n2\n")).unwrap();
    assert!(misfit(dir.path(), None).what.contains("saved beside the journal is not signed"));
    std::fs::remove_file(&file).unwrap();
    assert!(misfit(dir.path(), None).what.contains("missing"));
    std::fs::write(&file, note).unwrap();
    verify(dir.path(), None, None).unwrap();
    std::fs::remove_file(dir.path().join("journal.db")).unwrap();
    assert!(misfit(dir.path(), None).what.contains("every record is gone"));
}

#[test]
fn an_erased_payload_is_gone_and_the_log_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut secret = batch(1);
    // Longer than a page, so that erasing frees pages too.
    secret.entries.push(common::entry(1, &"canary-4711-canary".repeat(1_000)));
    let seqs = journal.append_wait(secret).unwrap();
    let note = journal.checkpoint().unwrap();
    journal.erase(&seqs[1..]).unwrap();
    assert!(journal.run_events(common::run(1)).unwrap_err().to_string().contains("record 1: its payload was erased"));
    journal.close();
    let report = verify(dir.path(), Some(&note), None).unwrap();
    assert_eq!((report.records, report.erased), (2, 1));
    for file in ["journal.db", "journal.db-wal"] {
        let bytes = std::fs::read(dir.path().join(file)).unwrap_or_default();
        assert!(!bytes.windows(18).any(|w| w == b"canary-4711-canary"), "still in {file}");
    }
}

#[test]
fn replay_refuses_what_was_altered() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append_wait(batch(1)).unwrap();
    journal.append_wait(batch(2)).unwrap();
    tamper(
        dir.path(),
        "UPDATE payloads SET body = CAST(replace(CAST(body AS TEXT), 'because', 'despite') AS BLOB) WHERE seq = 0",
    );
    tamper(
        dir.path(),
        "UPDATE leaves SET body = CAST(replace(CAST(body AS TEXT), '2027-', '2026-') AS BLOB) WHERE seq = 1",
    );
    assert!(journal.run_events(common::run(1)).unwrap_err().to_string().contains("record 0: its payload"));
    assert!(journal.run_events(common::run(2)).unwrap_err().to_string().contains("record 1: it is not"));
}

#[test]
fn a_growing_log_verifies_at_every_moment() {
    let dir = tempfile::tempdir().unwrap();
    let every = std::time::Duration::from_millis(1);
    let options = Options { checkpoint_every: every, ..Options::default() };
    let journal = Journal::open(dir.path(), options).unwrap().journal;
    let empty = journal.checkpoint().unwrap();
    assert_eq!(verify(dir.path(), Some(&empty), None).unwrap().records, 0);
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let journal = &journal;
            scope.spawn(move || (0..200).for_each(|n| drop(journal.append_wait(batch(caller * 1_000 + n)).unwrap())));
        }
        let mut records = 0;
        while records < 800 {
            let report = verify(dir.path(), Some(&empty), None).unwrap();
            assert!(report.records >= records && report.records >= report.vouched);
            records = report.records;
        }
    });
    assert!(verify(dir.path(), None, None).unwrap().checkpoints > 3);
}

#[test]
fn progress_is_told() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    let mut told = Vec::new();
    verify(dir.path(), None, Some(&mut |done, total| told.push((done, total)))).unwrap();
    assert_eq!(told, [(0, 3), (3, 3)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// P7: no byte of a record can change unseen, and the record is named.
    #[test]
    fn any_flipped_byte_of_a_record_is_found(record in 0_u32..6, place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 6);
        let c = rusqlite::Connection::open(dir.path().join("journal.db")).unwrap();
        let mut body: Vec<u8> = c.query_row("SELECT body FROM leaves WHERE seq = ?1", [record], |row| row.get(0)).unwrap();
        let place = place.index(body.len());
        body[place] ^= 1 << bit;
        c.execute("UPDATE leaves SET body = ?1 WHERE seq = ?2", rusqlite::params![body, record]).unwrap();
        drop(c);
        prop_assert_eq!(misfit(dir.path(), None).seq, Some(u64::from(record)));
    }

    /// Whatever bit flips anywhere in the file, either it is found or every record and payload still reads
    /// as it was written. Likewise wherever it is cut.
    #[test]
    fn no_damage_to_the_file_changes_a_record_unseen(place in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 6);
        let path = dir.path().join("journal.db");
        let read = || -> rusqlite::Result<Vec<Stored>> {
            let c = rusqlite::Connection::open(&path)?;
            let mut all = c.prepare("SELECT l.seq, l.body, p.body FROM leaves l JOIN payloads p USING (seq) ORDER BY l.seq")?;
            all.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        };
        let written = read().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= 1 << bit;
        }
        std::fs::write(&path, bytes).unwrap();
        match verify(dir.path(), None, None) {
            Ok(report) => {
                prop_assert_eq!(report.records, 6);
                prop_assert_eq!(read().unwrap(), written);
            }
            Err(VerifyError::Misfit(_)) => {}
            Err(other) => prop_assert!(false, "{} is no account of what does not fit", other),
        }
    }
}

#[test]
fn what_a_damaged_file_says_steers_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    let path = dir.path().join("journal.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(17).position(|w| w == b"CREATE TABLE meta").unwrap();
    bytes[at + 17] = 0x1b;
    std::fs::write(&path, bytes).unwrap();
    let misfit = misfit(dir.path(), None);
    assert!(misfit.what.contains("<U+001B>"), "{misfit}");
    let Err(refused) = Journal::open(dir.path(), Options::default()) else { panic!("it opens") };
    assert!(!refused.to_string().contains('\x1b'), "{refused}");
}
