//! What the journal's tests share: entries to append, and a door into the tables for tampering.

#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests, and not every test file needs all of them")]

use std::path::Path;

use jiff::Timestamp;
use rusqlite::Connection;
use turnback_core::contract::Actor;
use turnback_core::digest::Sha256;
use turnback_core::names::{AgentName, RunId};
use turnback_core::record::{Body, Row};
use turnback_core::run::Event;
use turnback_journal::{Batch, Entry, Journal, Options, Projection};
use uuid::Uuid;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn run(n: u128) -> RunId {
    RunId::new(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 | n))
}

pub(crate) fn row(n: u128) -> Row {
    Row {
        run: run(n),
        proposed: at(0),
        updated: at(0),
        committed: None,
        actor: Actor::Agent(AgentName::new("coder").unwrap()),
        tool: "shop__execute".into(),
        resource: "shop".into(),
        environment: "production".into(),
        action: Sha256::of(&n.to_be_bytes()),
        state: "proposed".into(),
        over: false,
        undelivered: false,
        summary: "delete 3 rows of customers".into(),
        level: Some(5),
        question: None,
        expires: None,
        spent: Default::default(),
        undoes: vec![],
        undone_by: None,
        reads: vec![],
    }
}

/// One entry about run `n`, with its row.
pub(crate) fn entry(n: u128, why: &str) -> Entry {
    Entry {
        at: at(1),
        body: Body::Run { run: run(n), event: Event::Abandoned { why: why.into() } },
        project: vec![Projection::Run(Box::new(row(n)))],
    }
}

pub(crate) fn batch(n: u128) -> Batch {
    Batch { entries: vec![entry(n, &format!("because of {n}"))], blobs: vec![] }
}

pub(crate) fn open(dir: &Path) -> Journal {
    Journal::open(dir, Options::default()).unwrap().journal
}

/// A closed journal of `n` records, and its last checkpoint.
pub(crate) fn filled(dir: &Path, n: u128) -> String {
    let journal = open(dir);
    for i in 0..n {
        journal.append_wait(batch(i)).unwrap();
    }
    let note = journal.checkpoint().unwrap();
    journal.close();
    note
}

/// The tables, for somebody who should not be in there.
pub(crate) fn tamper(dir: &Path, sql: &str) -> usize {
    let c = Connection::open(dir.join("journal.db")).unwrap();
    let changed = c.execute(sql, []).unwrap();
    c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    changed
}

/// Copies a state directory as an operator would.
pub(crate) fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}
