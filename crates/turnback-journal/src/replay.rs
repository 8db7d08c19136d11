//! The records of whole runs, one run after another, for whoever decides them again.
//!
//! Reads the journal beside a running gateway or without one; never writes and takes no lock. What is read is
//! one state of the journal: what is appended meanwhile is not seen.

use std::path::Path;

use jiff::Timestamp;
use turnback_core::names::RunId;
use turnback_core::record::Record;
use turnback_core::refusal::Refusal;
use turnback_core::text::visible;
use uuid::Uuid;

use crate::error::{JournalError, storage};
use crate::query::salted;
use crate::{state, verify, witness};

/// One record as it is stored, not looked at yet.
#[derive(Debug)]
pub struct Sealed {
    /// Its sequence number.
    pub seq: u64,
    leaf: Vec<u8>,
    salt: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

impl Sealed {
    /// What it says of itself.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn record(&self) -> Result<Record, String> {
        serde_json::from_slice(&self.leaf)
            .map_err(|e| format!("record {} cannot be read: {}", self.seq, visible(&e.to_string())))
    }

    /// Its payload, once it is what `record` names.
    ///
    /// # Errors
    /// When it was erased or altered.
    pub fn payload(&self, record: &Record) -> Result<&[u8], String> {
        let (Some(salt), Some(payload)) = (&self.salt, &self.payload) else {
            return Err(format!("the payload of record {} was erased", self.seq));
        };
        if record.payload != Some(salted(salt, payload)) {
            return Err(format!("the payload of record {} is not what was recorded", self.seq));
        }
        Ok(payload)
    }
}

/// A run and its records, oldest first.
#[derive(Debug)]
pub struct Told {
    /// The run.
    pub run: RunId,
    /// Its records.
    pub records: Vec<Sealed>,
}

/// Hands every run proposed since a time to `each`, oldest first, with the number of runs there are in all. A
/// run's identity holds when it was proposed, to the millisecond.
///
/// Payloads are held against their records when they are opened, records not against the tree: that is
/// [`verify()`](crate::verify())'s.
///
/// # Errors
/// When the journal is not there or cannot be read; the first error of `each`, which ends it.
pub fn replay(
    dir: &Path,
    since: Timestamp,
    mut each: impl FnMut(Told, u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let database = state::database(dir);
    if !database.exists() {
        return Err(JournalError::unfit(database, "is missing", "name the state directory of a gateway").into());
    }
    // Records that were acknowledged and are gone must not look like traffic that never was.
    witness::heard(&database)?;
    let failed = storage("reading the journal");
    let connection = verify::open(&database).map_err(Refusal::from)?;
    connection.execute_batch("BEGIN").map_err(&failed)?;
    // The first 48 bits of an identity are its milliseconds.
    let mut first = [0; 16];
    let milliseconds = u64::try_from(since.as_millisecond()).unwrap_or(0).to_be_bytes();
    first[..6].copy_from_slice(&milliseconds[2..]);
    let all: i64 = connection
        .query_row("SELECT count(*) FROM runs WHERE run >= ?1", [first], |row| row.get(0))
        .map_err(&failed)?;
    let mut statement = connection
        .prepare(
            "SELECT l.run, l.seq, l.body, p.salt, p.body FROM leaves l LEFT JOIN payloads p ON p.seq = l.seq
             WHERE l.run >= ?1 ORDER BY l.run, l.seq",
        )
        .map_err(&failed)?;
    let mut rows = statement.query([first]).map_err(&failed)?;
    let mut told: Option<Told> = None;
    while let Some(row) = rows.next().map_err(&failed)? {
        let read = || -> rusqlite::Result<([u8; 16], Sealed)> {
            let seq = row.get::<_, i64>(1)?.unsigned_abs();
            Ok((row.get(0)?, Sealed { seq, leaf: row.get(2)?, salt: row.get(3)?, payload: row.get(4)? }))
        };
        let (run, record) = read().map_err(&failed)?;
        let run = RunId::new(Uuid::from_bytes(run));
        match &mut told {
            Some(told) if told.run == run => told.records.push(record),
            _ => {
                if let Some(whole) = told.replace(Told { run, records: vec![record] }) {
                    each(whole, all.unsigned_abs())?;
                }
            }
        }
    }
    told.map_or(Ok(()), |last| each(last, all.unsigned_abs()))
}
