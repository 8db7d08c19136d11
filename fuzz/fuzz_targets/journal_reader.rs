//! Journals: hostile files are refused, never trusted and never the end of the reader.
//!
//! Input: a list of alterations made to a journal that was fine: to its bytes, to its rows by somebody who
//! knows the tables, to the hashes by somebody who computes them anew, to the files beside it. Whatever
//! still verifies must be a prefix of what was recorded.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use rusqlite::{Connection, OpenFlags};
use tlog_tiles::{Hash, node_hash, record_hash, stored_hash_index};
use turnback_core::contract::Actor;
use turnback_core::digest::Sha256;
use turnback_core::names::{AgentName, RunId};
use turnback_core::record::{Body, Row};
use turnback_core::run::Event;
use turnback_fuzz::{Bytes, harmless};
use turnback_journal::{Batch, Entry, Journal, Options, Projection, RowFilter, VerifyError, verify};
use uuid::Uuid;

/// Records in the journal that is altered; checkpoints stand at 3, 6 and at the end.
const RECORDS: u64 = 9;

/// Record and payload as they are stored.
type Stored = (Option<Vec<u8>>, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

struct Original {
    files: BTreeMap<&'static str, Vec<u8>>,
    records: Vec<Stored>,
    events: Vec<(u64, Timestamp, Body)>,
    notes: Vec<String>,
    _dir: tempfile::TempDir,
    /// Where altered copies are put.
    place: PathBuf,
}

const FILES: [&str; 4] = ["journal.db", "checkpoint", "log.pub", "log.key"];

fn run(n: u64) -> RunId {
    RunId::new(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 | u128::from(n)))
}

fn entry(n: u64) -> Entry {
    let row = Row {
        run: run(n % 3),
        proposed: Timestamp::UNIX_EPOCH,
        updated: Timestamp::UNIX_EPOCH,
        committed: None,
        actor: Actor::Agent(AgentName::new("coder").unwrap()),
        tool: "shop__execute".into(),
        resource: "shop".into(),
        environment: "production".into(),
        // What a run is about never changes.
        action: Sha256::of(&(n % 3).to_be_bytes()),
        state: "proposed".into(),
        over: false,
        undelivered: false,
        summary: format!("deletes {n} rows"),
        level: Some(5),
        question: None,
        expires: None,
        spent: Default::default(),
        undoes: vec![],
        undone_by: None,
        reads: vec![],
    };
    Entry {
        at: Timestamp::UNIX_EPOCH,
        body: Body::Run { run: run(n % 3), event: Event::Abandoned { why: format!("because of {n}") } },
        project: vec![Projection::Run(Box::new(row))],
    }
}

/// Records 0.. as they lie in a database, as far as they can be read.
fn records(path: &Path) -> rusqlite::Result<Vec<Stored>> {
    let c = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    c.prepare(
        "SELECT l.run, l.body, p.salt, p.body FROM leaves l LEFT JOIN payloads p ON p.seq = l.seq ORDER BY l.seq",
    )?
    .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
    .collect()
}

impl Original {
    fn get() -> &'static Original {
        static ORIGINAL: OnceLock<Original> = OnceLock::new();
        ORIGINAL.get_or_init(Original::make)
    }

    fn make() -> Original {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let state = dir.path().join("original");
        let journal = Journal::open(&state, Options::default()).unwrap().journal;
        let mut notes = Vec::new();
        for n in 0..RECORDS {
            journal.append_wait(Batch { entries: vec![entry(n)], blobs: vec![] }).unwrap();
            if n % 3 == 2 {
                notes.push(journal.checkpoint().unwrap());
            }
        }
        let mut events: Vec<_> = (0..3).flat_map(|n| journal.run_events(run(n)).unwrap()).collect();
        events.sort_by_key(|(seq, ..)| *seq);
        journal.close();
        let files = FILES.map(|name| (name, fs::read(state.join(name)).unwrap())).into();
        let records = records(&state.join("journal.db")).unwrap();
        assert_eq!((records.len() as u64, events.len() as u64), (RECORDS, RECORDS));
        assert_eq!(verify(&state, Some(&notes[0]), None).unwrap().records, RECORDS);
        let place = dir.path().join("altered");
        Original { files, records, events, notes, place, _dir: dir }
    }
}

/// What somebody who can compute hashes stores instead of the old ones.
fn rehash(c: &Connection) -> rusqlite::Result<()> {
    let mut level: Vec<Hash> = c
        .prepare("SELECT body FROM leaves ORDER BY seq")?
        .query_map([], |r| r.get::<_, Vec<u8>>(0))?
        .map(|body| body.map(|body| record_hash(&body)))
        .collect::<rusqlite::Result<_>>()?;
    c.execute("DELETE FROM hashes", [])?;
    let mut height = 0;
    while !level.is_empty() {
        for (n, hash) in level.iter().enumerate() {
            c.execute("INSERT INTO hashes VALUES (?1, ?2)", (stored_hash_index(height, n as u64) as i64, hash.0))?;
        }
        level = level.chunks_exact(2).map(|pair| node_hash(pair[0], pair[1])).collect();
        height += 1;
    }
    Ok(())
}

/// One alteration of the rows.
fn alter(c: &Connection, bytes: &mut Bytes<'_>) -> rusqlite::Result<()> {
    let (what, seq, at, value) = (bytes.u8() % 12, bytes.u8() % 12, bytes.u8(), bytes.u8());
    let flip = |table: &str, column: &str, key: &str| -> rusqlite::Result<()> {
        let read = format!("SELECT {column} FROM {table} WHERE {key} = ?1");
        let mut body: Vec<u8> = c.query_row(&read, [seq], |r| r.get(0))?;
        let length = body.len().max(1);
        if let Some(byte) = body.get_mut(usize::from(at) * 3 % length) {
            *byte ^= value;
        }
        c.execute(&format!("UPDATE {table} SET {column} = ?2 WHERE {key} = ?1"), (seq, body)).map(drop)
    };
    match what {
        0 => flip("leaves", "body", "seq"),
        1 => flip("payloads", ["body", "salt"][usize::from(at & 1)], "seq"),
        2 => flip("hashes", "hash", "idx"),
        3 => c
            .execute("UPDATE leaves SET body = (SELECT body FROM leaves WHERE seq = ?2) WHERE seq = ?1", [seq, at % 12])
            .map(drop),
        4 => c.execute("UPDATE payloads SET salt = NULL, body = NULL WHERE seq = ?1", [seq]).map(drop),
        5 => {
            for table in ["leaves", "payloads"] {
                c.execute(&format!("DELETE FROM {table} WHERE seq >= ?1"), [seq])?;
            }
            c.execute("DELETE FROM hashes WHERE idx >= ?1", [stored_hash_index(0, u64::from(seq)) as i64])?;
            c.execute("DELETE FROM checkpoints WHERE size > ?1", [seq]).map(drop)
        }
        6 => rehash(c),
        7 => c.execute("DELETE FROM checkpoints WHERE size > ?1", [seq]).map(drop),
        8 => c
            .execute("UPDATE leaves SET run = (SELECT run FROM leaves WHERE seq = ?2) WHERE seq = ?1", [seq, at % 12])
            .map(drop),
        9 => c
            .execute(
                "INSERT INTO leaves SELECT (SELECT max(seq) + 1 FROM leaves), run, body FROM leaves WHERE seq = ?1",
                [seq],
            )
            .map(drop),
        10 => c
            .execute(
                "UPDATE payloads SET (salt, body) = (SELECT salt, body FROM payloads WHERE seq = ?2) WHERE seq = ?1",
                [seq, at % 12],
            )
            .map(drop),
        _ => c.execute_batch(match at % 8 {
            0 => "ALTER TABLE leaves RENAME TO x; CREATE VIEW leaves AS SELECT seq, run, body FROM x WHERE seq < 6",
            1 => "DROP INDEX leaves_run",
            2 => "DELETE FROM runs WHERE id = 2",
            3 => "PRAGMA journal_mode = DELETE",
            4 => "PRAGMA user_version = 2",
            5 => "DELETE FROM journal",
            6 => "DROP TABLE payloads",
            _ => "CREATE TRIGGER t AFTER INSERT ON leaves BEGIN DELETE FROM leaves; END",
        }),
    }
}

fuzz_target!(|data: &[u8]| {
    let original = Original::get();
    let place = &original.place;
    let _ = fs::remove_dir_all(place);
    fs::DirBuilder::new().mode(0o700).create(place).unwrap();
    let mut files: BTreeMap<&str, Option<Vec<u8>>> =
        original.files.iter().map(|(name, content)| (*name, Some(content.clone()))).collect();

    // To the bytes, to the rows, and to the bytes again.
    let mut bytes = Bytes(data);
    let mut sql = Vec::new();
    while !bytes.is_empty() {
        let op = bytes.u8();
        match op % 8 {
            0..=2 => {
                let (at, value) = (bytes.u32() as usize, bytes.u8());
                // Mostly where there is something: records and headers lie at the ends of pages.
                let name = if op & 0x80 == 0 { FILES[0] } else { FILES[usize::from(op >> 4) % 3] };
                if let Some(Some(content)) = files.get_mut(name)
                    && !content.is_empty()
                {
                    let at = at % content.len();
                    content[at] ^= value;
                }
            }
            3 => {
                let name = FILES[usize::from(bytes.u8()) % FILES.len()];
                let length = bytes.u32() as usize;
                if let Some(Some(content)) = files.get_mut(name) {
                    content.truncate(length % (content.len() + 1));
                }
            }
            4 => {
                // An older checkpoint of the same log in place of the newest.
                let note = &original.notes[usize::from(bytes.u8()) % original.notes.len()];
                files.insert("checkpoint", Some(note.clone().into_bytes()));
            }
            5 => {
                let name = FILES[usize::from(bytes.u8()) % FILES.len()];
                let length = usize::from(bytes.u8()).min(bytes.0.len());
                let (content, rest) = bytes.0.split_at(length);
                bytes.0 = rest;
                files.insert(name, if length == 0 { None } else { Some(content.to_vec()) });
            }
            _ => {
                let take = bytes.0.len().min(4);
                let (operands, rest) = bytes.0.split_at(take);
                bytes.0 = rest;
                sql.push(operands);
            }
        }
    }
    for (name, content) in &files {
        if let Some(content) = content {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(place.join(name))
                .unwrap();
            std::io::Write::write_all(&mut file, content).unwrap();
        }
    }
    if !sql.is_empty()
        && let Ok(c) = Connection::open(place.join("journal.db"))
    {
        for operands in sql {
            let _ = alter(&c, &mut Bytes(operands));
        }
        let _ = c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    let whole = |report: &turnback_journal::Report| {
        let found = records(&place.join("journal.db")).expect("what verifies can be read");
        assert_eq!(found.len() as u64, report.records);
        assert!(report.vouched <= report.records);
        // What no checkpoint vouches for can be made by anybody who can write here; these are signed.
        for (seq, (found, original)) in found.iter().zip(&original.records).enumerate() {
            let same = (&found.0, &found.1) == (&original.0, &original.1);
            assert!(same || seq as u64 >= report.vouched, "record {seq} was altered and verifies");
            let erased = found.2.is_none() && found.3.is_none();
            assert!(
                !same || erased || (&found.2, &found.3) == (&original.2, &original.3),
                "payload {seq} was altered and verifies"
            );
        }
        assert!(report.vouched <= RECORDS, "vouched for by whom?");
    };
    let verified = verify(place, None, None);
    match &verified {
        Ok(report) => whole(report),
        Err(VerifyError::Misfit(misfit)) => harmless(&misfit.to_string()),
        Err(VerifyError::Unreadable(e)) => harmless(&e.to_string()),
    }
    // With a checkpoint kept elsewhere nothing that it vouches for can be missing.
    let newest = original.notes.last().unwrap();
    if let Ok(report) = verify(place, Some(newest), None) {
        whole(&report);
        assert_eq!(report.records.min(RECORDS), RECORDS, "an older journal passes for the newest");
    }

    // A node that opens it says what was recorded, or that it cannot.
    match Journal::open(place, Options::default()) {
        Err(e) => harmless(&e.to_string()),
        Ok(opened) => {
            let journal = opened.journal;
            let _ = journal.rows(&RowFilter::default());
            for n in 0..3 {
                let Ok(events) = journal.run_events(run(n)) else { continue };
                if let Ok(report) = &verified {
                    let known: Vec<_> =
                        original.events.iter().filter(|(seq, ..)| *seq < report.vouched && seq % 3 == n).collect();
                    assert!(events.len() >= known.len(), "a verified journal hides an event of a run");
                    for (told, known) in events.iter().zip(known) {
                        assert_eq!(told, known);
                    }
                }
            }
            let _ = journal.append_wait(Batch { entries: vec![entry(1)], blobs: vec![] });
            journal.close();
        }
    }
});
