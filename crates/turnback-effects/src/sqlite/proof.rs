//! What the way back earns: whether anything can have changed unseen, and whether the inverse restores.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Completeness, Level};

use super::catalog::{self, Catalog, Column, Table, TableKind, quoted};
use super::changeset::{Changeset, Op};
use super::connection::own;
use super::look::compare;
use super::recipe::{Recipe, object_place};
use super::shape::{Shape, difference, sequence};
use super::slot::{Lease, execute};
use super::watch::Reported;
use super::way_back;

/// A table whose changes may not be seen completely.
pub(super) struct Weak {
    pub(super) why: String,
    /// Its content before, to compare by; `None` when it was too much to read.
    pub(super) before: Option<Sha256>,
}

/// Why recording and taking back may not see everything in this table, if so. Rows are found by the declared
/// key, those with a NULL in it are skipped, and SQLite compares it with the column's collation.
pub(super) fn weakness(c: &Connection, table: &Table, columns: &[Column]) -> Result<Option<String>, Refusal> {
    if table.kind != TableKind::Ordinary {
        return Ok(None);
    }
    let keys: Vec<&Column> = columns.iter().filter(|c| c.key > 0).collect();
    if keys.is_empty() {
        let hidden = columns.iter().any(|c| c.name.eq_ignore_ascii_case("_rowid_"));
        return Ok(hidden.then(|| "has no key, and a column named `_rowid_` hides its row number".to_owned()));
    }
    if catalog::rowid_alias(table, columns).is_some() {
        return Ok(None);
    }
    if table.sql.to_ascii_lowercase().contains("collate") {
        return Ok(Some("may compare its key by a collation".into()));
    }
    Ok(null_key(c, table, columns)?.then(|| "has a row with NULL in its key".to_owned()))
}

pub(super) fn null_key(c: &Connection, table: &Table, columns: &[Column]) -> Result<bool, Refusal> {
    let nullable: Vec<String> =
        columns.iter().filter(|c| c.key > 0 && !c.not_null).map(|c| format!("{} IS NULL", quoted(&c.name))).collect();
    if nullable.is_empty() || table.without_rowid || catalog::rowid_alias(table, columns).is_some() {
        return Ok(false);
    }
    own(c.query_row(
        &format!("SELECT EXISTS (SELECT 1 FROM main.{} WHERE {})", quoted(&table.name), nullable.join(" OR ")),
        [],
        |r| r.get(0),
    ))
}

/// Whether nothing outside the changeset can have changed. What SQLite's compiler said the statement may
/// write is held against what was written: every row as recorded, by table the writes the recording was
/// not prepared for, and the tables a second hook saw at another point of SQLite's machine.
#[allow(clippy::too_many_arguments, reason = "each is one witness or what it is held against")]
pub(super) fn witness(
    c: &Connection,
    expected: &BTreeSet<String>,
    written: &BTreeSet<String>,
    strangers: &BTreeSet<String>,
    rebuilt: &BTreeSet<String>,
    reported: &Reported,
    catalog: &Catalog,
    tables: &BTreeMap<String, Table>,
    weak: &BTreeMap<String, Weak>,
    changes: u64,
    changeset: &Changeset,
    doubts: &mut Vec<String>,
) -> Result<Completeness, Refusal> {
    let mut completeness = Completeness::Closed;
    let possible = |name: &str| {
        let among = |set: &BTreeSet<String>| set.iter().any(|t| t.eq_ignore_ascii_case(name));
        among(expected) || among(&reported.written) || rebuilt.contains(name)
    };
    for table in written.iter().chain(strangers).chain(&reported.changed) {
        if !possible(table) && !table.starts_with("sqlite_") {
            completeness = Completeness::Unknown;
            doubts.push(format!("`{table}` changed although the statement does not name it"));
        }
    }
    let mut walk = changeset.walk();
    while let (false, Some(change)) = (weak.is_empty(), own(walk.next())?) {
        // A collation may take a row's new name for its old one; then neither names it.
        if change.op == Op::Delete
            && weak.contains_key(change.table)
            && let Some(why) =
                own(compare(c, change, &catalog::changeset_columns(&own(catalog.columns(c, change.table))?)))?
        {
            completeness = completeness.min(Completeness::Bounded);
            doubts.push(why);
        }
    }
    if changes == 0 && !changeset.is_empty() && rebuilt.is_empty() {
        completeness = Completeness::Unknown;
        doubts.push("rows changed although SQLite counted no change".into());
    }
    for name in expected.iter().chain(&reported.written).collect::<BTreeSet<_>>() {
        if rebuilt.contains(name) {
            continue;
        }
        match tables.get(name).or_else(|| tables.values().find(|t| t.name.eq_ignore_ascii_case(name))) {
            Some(table) if table.kind == TableKind::Virtual => {
                completeness = Completeness::Unknown;
                doubts.push(format!("`{name}` is a virtual table, whose changes nobody can record"));
            }
            Some(table) if table.kind == TableKind::Ordinary => {
                let columns = own(catalog.columns(c, &table.name))?;
                match weak.get(&table.name) {
                    Some(Weak { before: None, why }) => {
                        completeness = completeness.min(Completeness::Bounded);
                        doubts.push(format!("`{name}` {why} and is too large to compare as a whole"));
                    }
                    Some(_) => {}
                    None if null_key(c, table, &columns)? => {
                        completeness = completeness.min(Completeness::Bounded);
                        doubts.push(format!("`{name}` now has a row with NULL in its key, which cannot be recorded"));
                    }
                    None => {}
                }
            }
            Some(_) => {}
            // A table that only exists while the schema changes around it.
            None if !rebuilt.is_empty() => {}
            None => {
                completeness = Completeness::Unknown;
                doubts.push(format!("`{name}` is not a table of this database"));
            }
        }
    }
    Ok(completeness)
}

/// Applies the inverse under a savepoint and compares.
#[allow(clippy::too_many_arguments, reason = "each is one side of the comparison")]
pub(super) fn prove(
    lease: &Lease,
    recipe: &Recipe,
    artifacts: &BTreeMap<Sha256, Vec<u8>>,
    shape: Option<&Shape>,
    weak: &BTreeMap<String, Weak>,
    strangers: &BTreeSet<String>,
    rows: u64,
) -> Result<(Level, String), Refusal> {
    let load = |hash: &Sha256| {
        artifacts.get(hash).cloned().ok_or_else(|| Refusal::new(Code::SnapshotLost, format!("no artifact {hash}")))
    };
    let (c, recorder) = (&lease.connection, &lease.recorder);
    own(execute(c, "SAVEPOINT turnback"))?;
    let tried = (|| -> Result<Result<(), String>, Refusal> {
        // The recording of the action goes on: action and inverse together must come to nothing, in every
        // table, whatever the inverse was meant to write.
        recorder.resume();
        let reversed = way_back::reverse(lease, recipe, &load);
        recorder.pause();
        let reversed = reversed?;
        if let Some(first) = reversed.conflicts.first() {
            return Ok(Err(format!("{} {}", first.place, first.why)));
        }
        if let Some(change) = own(own(recorder.changeset())?.walk().next())? {
            return Ok(Err(format!("{} is not as before", change.place())));
        }
        // What a schema change rebuilds is compared as a whole below.
        let rebuilt = shape.map(Shape::tables).unwrap_or_default();
        let known =
            |table: &String| strangers.contains(table) || rebuilt.contains(table) || table.starts_with("sqlite_");
        if let Some(table) = recorder.strangers().iter().find(|table| !known(table)) {
            return Ok(Err(format!("the inverse wrote to `{table}`, which the action did not")));
        }
        if reversed.foreign_keys {
            return Ok(Err("the rows violated a foreign key before, and cannot be put back against it".into()));
        }
        for (table, weak) in weak {
            if weak.before != Some(own(catalog::digest(c, table))?) {
                return Ok(Err(format!("`{table}` {} and is not as before", weak.why)));
            }
        }
        let Some(shape) = shape else { return Ok(Ok(())) };
        let now = own(catalog::objects(c))?;
        if now != shape.objects_before {
            let (before, after) = difference(&shape.objects_before, &now);
            let name = before.first().or(after.first()).map(object_place).unwrap_or_default();
            return Ok(Err(format!("{name} is not as before")));
        }
        for image in &shape.change.images {
            if own(catalog::digest(c, &image.table))? != image.digest {
                return Ok(Err(format!("table `{}` has other rows than before", image.table)));
            }
            if sequence(c, &image.table)? != shape.change.sequences.get(&image.table).copied() {
                return Ok(Err(format!("table `{}` has another AUTOINCREMENT counter", image.table)));
            }
        }
        Ok(Ok(()))
    })();
    // An interrupted write has already rolled the whole transaction back.
    if let Err(refusal) = &tried
        && refusal.code == Code::TooLarge
    {
        return Err(refusal.clone());
    }
    own(execute(c, "ROLLBACK TO turnback").and_then(|()| execute(c, "RELEASE turnback")))?;
    Ok(match tried {
        Ok(Ok(())) => {
            let objects = recipe.schema.as_ref().map_or(0, |s| s.changed().count());
            let schema = if objects == 0 { String::new() } else { format!(" and {objects} schema objects") };
            (
                Level::Proved,
                format!(
                    "the inverse of {rows} row changes{schema} ran on this very state before commit and left no difference"
                ),
            )
        }
        Ok(Err(why)) => (Level::None, format!("the inverse was tried and does not restore: {why}")),
        Err(refusal) => (Level::None, format!("the inverse was tried and failed: {refusal}")),
    })
}
