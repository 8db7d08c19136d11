//! Rows of tables without a key, as wholes.
//!
//! Their only name is a row number, which SQLite gives out again after a deletion and which `VACUUM`
//! hands round. The inverse of an update compares the changed fields alone: it would write an old value
//! into whatever row has the number now, if that happens to hold the new one. So the whole row is
//! compared as well. Owns that comparison; never changes anything.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Statement};
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::Conflict;

use super::catalog::{self, quoted};
use super::cell::{self, Cell};
use super::changeset::{Changeset, Op};
use super::connection::{failure, own};
use super::raw::too_big;
use super::recipe::place;

/// Reads rows of one table after the other.
#[derive(Default)]
struct Reader<'c> {
    at: Option<(String, Statement<'c>)>,
}

impl<'c> Reader<'c> {
    /// The digest of a row; `None` when it is gone.
    fn digest(&mut self, c: &'c Connection, table: &str, number: i64) -> rusqlite::Result<Option<Sha256>> {
        if self.at.as_ref().is_none_or(|(name, _)| name != table) {
            let columns = catalog::columns(c, table)?;
            let names: Vec<String> = columns.iter().filter(|c| c.hidden == 0).map(|c| quoted(&c.name)).collect();
            let sql = format!("SELECT {} FROM main.{} WHERE _rowid_ = ?1", names.join(", "), quoted(table));
            self.at = Some((table.to_owned(), c.prepare(&sql)?));
        }
        let Some((_, statement)) = &mut self.at else { return Ok(None) };
        let width = statement.column_count();
        statement
            .query_row([number], |row| {
                let mut bytes = Vec::new();
                for at in 0..width {
                    cell::encode(row.get_ref(at)?, &mut bytes);
                }
                Ok(Sha256::of(&bytes))
            })
            .optional()
    }
}

/// Every row of a table without a key that `changeset` updates, as it is now: table, number, digest.
///
/// # Errors
/// [`Code::TooLarge`] beyond `limit` bytes.
pub(super) fn written(c: &Connection, changeset: &Changeset, limit: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut reader = Reader::default();
    let mut keyless: Option<(String, bool)> = None;
    let walked = changeset.each(|change| {
        if keyless.as_ref().is_none_or(|(name, _)| *name != change.table) {
            // A changeset puts the row number before the columns of such a table. Where a column is called
            // `_rowid_` as well, nothing is proved in the first place.
            let columns = catalog::columns(c, change.table)?;
            let hidden = columns.iter().any(|c| c.name.eq_ignore_ascii_case("_rowid_"));
            keyless = Some((change.table.to_owned(), !hidden && columns.iter().all(|c| c.key == 0)));
        }
        let key: Vec<ValueRef<'_>> = change.key_values().collect();
        let (Op::Update, Some((_, true)), [ValueRef::Integer(number)]) = (change.op, &keyless, key.as_slice()) else {
            return Ok(());
        };
        let Some(digest) = reader.digest(c, change.table, *number)? else { return Ok(()) };
        cell::encode(ValueRef::Text(change.table.as_bytes()), &mut bytes);
        cell::encode(ValueRef::Integer(*number), &mut bytes);
        cell::encode(ValueRef::Blob(digest.as_bytes()), &mut bytes);
        if bytes.len() as u64 > limit { Err(too_big()) } else { Ok(()) }
    });
    own(walked)?;
    Ok(bytes)
}

/// The rows among those [`written`] down that are not the same any more.
///
/// # Errors
/// [`Code::SnapshotLost`] when what was written down cannot be read.
pub(super) fn conflicts(c: &Connection, written: &[u8]) -> Result<Vec<Conflict>, Refusal> {
    let mut input = written;
    let mut reader = Reader::default();
    let mut conflicts = Vec::new();
    while !input.is_empty() {
        let entry = (Cell::decode(&mut input), Cell::decode(&mut input), Cell::decode(&mut input));
        let (Some(Cell::Text(table)), Some(Cell::Integer(number)), Some(Cell::Blob(digest))) = entry else {
            return Err(Refusal::new(Code::SnapshotLost, "the stored digests of whole rows are cut short"));
        };
        let table = String::from_utf8_lossy(&table).into_owned();
        let found = reader.digest(c, &table, number).map_err(|e| failure(&e))?;
        let why = match found {
            Some(found) if found.as_bytes().as_slice() == digest => continue,
            Some(_) => "changed since, or is another row: a table without a key cannot tell",
            None => "is gone",
        };
        conflicts.push(Conflict {
            place: place(&table, [ValueRef::Integer(number)]),
            fields: vec![],
            why: why.to_owned(),
        });
    }
    Ok(conflicts)
}
