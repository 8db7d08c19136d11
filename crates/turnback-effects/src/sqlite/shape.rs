//! A schema change from both sides: the objects and the content of tables before and after it.
//!
//! Owns the rehearsal that finds out which objects are concerned, and the pre-images of their rows.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};

use super::catalog::{self, Object, Table, TableKind};
use super::connection::own;
use super::raw::too_big;
use super::recipe::{Content, Image, SchemaChange};
use super::slot::Lease;
use super::stage::Action;
use crate::{Artifact, Bounds, UndoRefused};

/// Objects and contents around a schema change.
pub(super) struct Shape {
    pub(super) change: SchemaChange,
    pub(super) objects_before: Vec<Object>,
    /// Why nothing is held or proved, when it is too much.
    pub(super) unproved: Option<String>,
}

impl Shape {
    /// The tables dropped, made or rebuilt.
    pub(super) fn tables(&self) -> BTreeSet<String> {
        let both = self.change.before.iter().chain(&self.change.after);
        both.filter(|o| o.kind == "table").map(|o| o.name.clone()).collect()
    }

    /// Reads the contents of the tables afterwards, and makes sure it is the change rehearsed.
    pub(super) fn after(&mut self, c: &Connection, bounds: &Bounds) -> Result<(), Refusal> {
        let now = own(catalog::objects(c))?;
        let (before, after) = difference(&self.objects_before, &now);
        if before != self.change.before || after != self.change.after {
            return Err(Refusal::new(Code::Moved, "the schema change came out differently the second time"));
        }
        let mut rows = 0;
        for object in self.change.after.iter().filter(|o| o.kind == "table") {
            rows += own(catalog::count(c, &object.name))?;
        }
        if rows > bounds.proof_rows {
            self.unproved.get_or_insert(format!(
                "{rows} rows are more than the {} a proof may cover; none of them is held",
                bounds.proof_rows
            ));
            return Ok(());
        }
        let tables = own(catalog::tables(c))?;
        for object in self.change.after.iter().filter(|o| o.kind == "table") {
            let content = Content {
                rows: own(catalog::count(c, &object.name))?,
                columns: image_columns(c, &tables, &object.name)?.len() as u64,
                digest: own(catalog::digest(c, &object.name))?,
            };
            self.change.contents.insert(object.name.clone(), content);
        }
        Ok(())
    }
}

/// Objects that differ, and all that belong to a table or view that does: those go and come with it.
pub(super) fn difference(before: &[Object], after: &[Object]) -> (Vec<Object>, Vec<Object>) {
    let gone = before.iter().filter(|o| !after.contains(o));
    let new = after.iter().filter(|o| !before.contains(o));
    let holders: BTreeSet<&str> =
        gone.chain(new).filter(|o| o.kind == "table" || o.kind == "view").map(|o| o.name.as_str()).collect();
    let pick = |objects: &[Object], others: &[Object]| {
        objects.iter().filter(|o| !others.contains(o) || holders.contains(o.table.as_str())).cloned().collect()
    };
    (pick(before, after), pick(after, before))
}

/// Performs a schema change once to see which objects it concerns, takes it back, and captures the rows
/// of every table that is dropped or rebuilt.
pub(super) fn rehearse(
    lease: &Lease,
    action: &impl Action,
    tables: &BTreeMap<String, Table>,
    bounds: &Bounds,
    artifacts: &mut BTreeMap<Sha256, Vec<u8>>,
) -> Result<Shape, UndoRefused> {
    let c = &lease.connection;
    let objects_before = own(catalog::objects(c))?;
    own(c.execute_batch("SAVEPOINT turnback"))?;
    let (_, ready) = action.ready(lease)?;
    action.perform(lease, ready)?;
    let (before, after) = difference(&objects_before, &own(catalog::objects(c))?);
    own(c.execute_batch("ROLLBACK TO turnback; RELEASE turnback"))?;
    let mut change =
        SchemaChange { before, after, images: vec![], contents: BTreeMap::new(), sequences: BTreeMap::new() };
    let mut unproved = None;
    let mut rows = 0;
    let names: Vec<String> = change.before.iter().filter(|o| o.kind == "table").map(|o| o.name.clone()).collect();
    for name in &names {
        if tables.get(name).is_none_or(|t| t.kind != TableKind::Ordinary) {
            return Err(Refusal::new(Code::Unsupported, "virtual tables cannot be measured or undone")
                .at(format!("table `{name}`"))
                .into());
        }
        rows += own(catalog::count(c, name))?;
    }
    if rows > bounds.proof_rows {
        unproved = Some(format!(
            "{rows} rows are more than the {} a proof may cover; none of them is held",
            bounds.proof_rows
        ));
    }
    for name in &names {
        let count = own(catalog::count(c, name))?;
        let digest = own(catalog::digest(c, name))?;
        let columns = image_columns(c, tables, name)?;
        let mut bytes = Vec::new();
        if unproved.is_none() {
            let read = catalog::each_row(c, name, &columns, |row| {
                bytes.extend_from_slice(&row);
                let full = bytes.len() as u64 > bounds.snapshot_bytes;
                if full { Err(too_big()) } else { Ok(()) }
            });
            own(read)?;
        }
        let artifact = Artifact::new(bytes);
        change.images.push(Image { table: name.clone(), columns, rows: count, artifact: artifact.hash, digest });
        if unproved.is_none() {
            artifacts.insert(artifact.hash, artifact.bytes);
        }
        if let Some(value) = sequence(c, name)? {
            change.sequences.insert(name.clone(), value);
        }
    }
    Ok(Shape { change, objects_before, unproved })
}

/// The columns that make up a table's content: the row number where it is hidden, then all that are stored.
pub(super) fn image_columns(
    c: &Connection,
    tables: &BTreeMap<String, Table>,
    name: &str,
) -> Result<Vec<String>, Refusal> {
    let all = own(catalog::columns(c, name))?;
    let hidden = tables
        .get(name)
        .filter(|table| catalog::rowid_alias(table, &all).is_none())
        .and_then(|table| catalog::rowid_name(table, &all));
    let stored = all.iter().filter(|c| c.hidden == 0).map(|c| c.name.clone());
    Ok(hidden.map(str::to_owned).into_iter().chain(stored).collect())
}

/// A table's AUTOINCREMENT counter.
pub(super) fn sequence(c: &Connection, table: &str) -> Result<Option<i64>, Refusal> {
    let there: bool =
        own(c.query_row("SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')", [], |r| {
            r.get(0)
        }))?;
    if !there {
        return Ok(None);
    }
    own(c.query_row("SELECT max(seq) FROM main.sqlite_sequence WHERE name = ?1", [table], |r| r.get(0)))
}
