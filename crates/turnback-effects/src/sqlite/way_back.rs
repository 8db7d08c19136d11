//! The inverse: applied to prove it while staging, and to undo later.
//!
//! Owns how a recipe is taken back and every reason why it cannot be. Runs inside somebody's open
//! transaction and never ends it.

use std::collections::BTreeSet;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::Conflict;

use super::apply;
use super::catalog::{self, Catalog, Object, quoted};
use super::cell::Cell;
use super::changeset::{Changeset, Op};
use super::connection::failure;
use super::recipe::{Recipe, SchemaChange, object_place, place};
use super::session::{Clash, ClashKind};
use super::slot::Lease;
use super::whole;

/// Reads a blob by its hash.
pub(super) type Load<'a> = &'a dyn Fn(&Sha256) -> Result<Vec<u8>, Refusal>;

/// Switches triggers off while it lives: an inverse restores what triggers did, it must not run them.
struct Quiet<'c>(&'c Connection);

impl<'c> Quiet<'c> {
    /// Throwing the switch makes SQLite compile everything anew: left alone where there is no trigger.
    fn new(c: &'c Connection, recipe: &Recipe, catalog: &Catalog) -> Result<Self, Refusal> {
        let triggered = |table: &String| catalog.triggered.contains(&table.to_ascii_lowercase());
        if recipe.schema.is_some() || recipe.tables.keys().any(triggered) {
            c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(|e| failure(&e))?;
        }
        Ok(Self(c))
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = self.0.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true);
        let _ = self.0.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true);
    }
}

/// What stood against an inverse.
#[derive(Debug, Default)]
pub(super) struct Reversed {
    pub(super) conflicts: Vec<Conflict>,
    /// It left foreign keys violated. SQLite says so once and then forgets it: COMMIT would not fail.
    /// Never set for a recipe that changes the schema: those run without enforcement.
    pub(super) foreign_keys: bool,
}

/// Takes a recipe back in the open transaction. What stood against it is returned, nothing of somebody
/// else's is overwritten; the caller rolls back when anything did.
pub(super) fn reverse(lease: &Lease, recipe: &Recipe, load: Load<'_>) -> Result<Reversed, Refusal> {
    let (c, catalog) = (&lease.connection, lease.catalog()?);
    let _quiet = Quiet::new(c, recipe, &catalog)?;
    if let Some(schema) = &recipe.schema {
        // With enforcement on, dropping a table deletes its rows first and cascades.
        c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).map_err(|e| failure(&e))?;
        // It stays off for the rows: a child of a table that is gone cannot be written otherwise.
        reverse_schema(c, schema, load)?;
    }
    let mut reversed = Reversed::default();
    if let Some(hash) = &recipe.whole {
        reversed.conflicts = whole::conflicts(c, &load(hash)?)?;
        if !reversed.conflicts.is_empty() {
            return Ok(reversed);
        }
    }
    if let Some(hash) = &recipe.changeset {
        let changes = Changeset::from_bytes(load(hash)?);
        // Around a schema change foreign keys are off and the catalog is not the one read above.
        if recipe.schema.is_none()
            && let Some(violated) = apply::inverse(c, &catalog, &changes).map_err(|e| failure(&e))?
        {
            reversed.foreign_keys = violated;
            return Ok(reversed);
        }
        let inverse = changes.inverted().map_err(|e| failure(&e))?;
        inverse
            .apply(c, &mut |clash| match conflict(&clash, recipe) {
                Some(conflict) => reversed.conflicts.push(conflict),
                None => reversed.foreign_keys = true,
            })
            .map_err(|e| failure(&e))?;
    }
    Ok(reversed)
}

fn reverse_schema(c: &Connection, schema: &SchemaChange, load: Load<'_>) -> Result<(), Refusal> {
    let run = |sql: &str| c.execute(sql, []).map(drop).map_err(|e| failure(&e));
    for kind in ["trigger", "view", "index", "table"] {
        for object in schema.after.iter().filter(|o| o.kind == kind) {
            run(&format!("DROP {kind} IF EXISTS main.{}", quoted(&object.name)))?;
        }
    }
    for kind in ["table", "index", "view", "trigger"] {
        for object in schema.before.iter().filter(|o| o.kind == kind) {
            run(&object.sql)?;
        }
        if kind == "table" {
            for image in &schema.images {
                let bytes = load(&image.artifact)?;
                let mut input = bytes.as_slice();
                let names: Vec<String> = image.columns.iter().map(|n| quoted(n)).collect();
                let marks = vec!["?"; names.len()].join(", ");
                let mut insert = c
                    .prepare(&format!(
                        "INSERT INTO main.{} ({}) VALUES ({marks})",
                        quoted(&image.table),
                        names.join(", ")
                    ))
                    .map_err(|e| failure(&e))?;
                for _ in 0..image.rows {
                    let row: Option<Vec<Cell>> = names.iter().map(|_| Cell::decode(&mut input)).collect();
                    let row = row.ok_or_else(|| {
                        Refusal::new(Code::SnapshotLost, "the stored rows are cut short").at(&image.table)
                    })?;
                    insert.execute(rusqlite::params_from_iter(row)).map_err(|e| failure(&e))?;
                }
            }
        }
    }
    for (table, value) in &schema.sequences {
        c.execute("DELETE FROM main.sqlite_sequence WHERE name = ?1", [table])
            .and_then(|_| c.execute("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?1, ?2)", (table, value)))
            .map_err(|e| failure(&e))?;
    }
    Ok(())
}

/// What a clash means to a person. `None` for deferred foreign keys, which are named row by row later.
fn conflict(clash: &Clash<'_>, recipe: &Recipe) -> Option<Conflict> {
    let change = clash.change.as_ref()?;
    let columns = recipe.columns(change.table);
    let fields = if clash.kind == ClashKind::Data {
        change
            .old
            .iter()
            .zip(&clash.found)
            .enumerate()
            .filter(|(_, (expected, found))| expected.is_some() && expected != found)
            .filter_map(|(at, _)| columns.get(at).cloned())
            .collect()
    } else {
        Vec::new()
    };
    let why = match (clash.kind, change.op) {
        (ClashKind::Data, _) => "changed since",
        (ClashKind::NotFound, _) => "is gone",
        (ClashKind::Exists, _) => "exists again",
        (_, Op::Insert) => "cannot come back: a unique, check or not-null constraint stands against it",
        _ => "cannot have its old values back: a unique, check or not-null constraint stands against them",
    };
    Some(Conflict { place: change.place(), fields, why: why.to_owned() })
}

/// Whether the schema is as the recipe left it, as far as taking it back depends on it.
pub(super) fn schema_conflicts(c: &Connection, recipe: &Recipe) -> Result<Vec<Conflict>, Refusal> {
    let now = catalog::objects(c).map_err(|e| failure(&e))?;
    let find = |kind: &str, name: &str| now.iter().find(|o| o.kind == kind && o.name.eq_ignore_ascii_case(name));
    let mut conflicts = Vec::new();
    for (table, touched) in &recipe.tables {
        let place = format!("table `{table}`");
        match find("table", table) {
            None => conflicts.push(Conflict { place, fields: vec![], why: "is gone".into() }),
            Some(object) if Sha256::of(object.sql.as_bytes()) != touched.fingerprint => {
                let columns = catalog::columns(c, table).map_err(|e| failure(&e))?;
                let names = catalog::changeset_columns(&columns);
                let (added, gone): (Vec<String>, Vec<String>) = (
                    names.iter().filter(|n| !touched.columns.contains(n)).cloned().collect(),
                    touched.columns.iter().filter(|n| !names.contains(n)).cloned().collect(),
                );
                let why = match (added.is_empty(), gone.is_empty()) {
                    (false, true) => format!("has a new column since: {}", added.join(", ")),
                    (true, false) => format!("lost a column since: {}", gone.join(", ")),
                    _ => "has another definition since".into(),
                };
                conflicts.push(Conflict { place, fields: added.into_iter().chain(gone).collect(), why });
            }
            Some(_) => {}
        }
    }
    let Some(schema) = &recipe.schema else { return Ok(conflicts) };
    let mut add = |object: &Object, why: &str| {
        conflicts.push(Conflict { place: object_place(object), fields: vec![], why: why.to_owned() });
    };
    for object in &schema.after {
        match find(&object.kind, &object.name) {
            None => add(object, "is gone"),
            Some(found) if found.sql != object.sql => add(object, "has another definition since"),
            Some(_) => {}
        }
    }
    for object in &schema.before {
        let replaced = schema.after.iter().any(|o| o.name.eq_ignore_ascii_case(&object.name));
        // Tables, views and indexes share one space of names.
        if !replaced && now.iter().any(|o| o.name.eq_ignore_ascii_case(&object.name)) {
            add(object, "exists again");
        }
    }
    for object in &now {
        let attached = schema
            .after
            .iter()
            .any(|o| (o.kind == "table" || o.kind == "view") && o.name.eq_ignore_ascii_case(&object.table));
        let known = schema.after.iter().any(|o| o.kind == object.kind && o.name == object.name);
        if attached && !known {
            add(object, "was created since and would be dropped along");
        }
    }
    if conflicts.is_empty() {
        for (table, content) in &schema.contents {
            if catalog::digest(c, table).map_err(|e| failure(&e))? != content.digest {
                conflicts.push(Conflict {
                    place: format!("table `{table}`"),
                    fields: vec![],
                    why: "has rows that changed since".into(),
                });
            }
        }
    }
    Ok(conflicts)
}

/// One violated foreign key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Violation {
    child: String,
    row: Option<i64>,
    parent: String,
    key: i64,
}

/// Every violated foreign key in the database. Reads all tables that have one.
pub(super) fn violations(c: &Connection) -> Result<BTreeSet<Violation>, Refusal> {
    let read = || -> rusqlite::Result<BTreeSet<Violation>> {
        let mut statement = c.prepare("PRAGMA main.foreign_key_check")?;
        let rows = statement
            .query_map([], |r| Ok(Violation { child: r.get(0)?, row: r.get(1)?, parent: r.get(2)?, key: r.get(3)? }))?;
        rows.collect()
    };
    read().map_err(|e| failure(&e))
}

/// A violation as a conflict. `removed` are the places the undo takes away.
pub(super) fn violated(c: &Connection, violation: &Violation, removed: &BTreeSet<String>) -> Result<Conflict, Refusal> {
    let Violation { child, row, parent, key } = violation;
    let read = || -> rusqlite::Result<Option<Vec<Cell>>> {
        let keys = catalog::foreign_keys(c, child)?;
        let (Some(foreign), Some(row)) = (usize::try_from(*key).ok().and_then(|k| keys.get(k)), row) else {
            return Ok(None);
        };
        let names: Vec<String> = foreign.columns.iter().map(|(from, _)| quoted(from)).collect();
        c.query_row(&format!("SELECT {} FROM main.{} WHERE rowid = ?1", names.join(", "), quoted(child)), [row], |r| {
            (0..names.len()).map(|i| r.get_ref(i).map(Cell::of)).collect::<rusqlite::Result<Vec<_>>>().map(Some)
        })
    };
    let parent_place = read()
        .map_err(|e| failure(&e))?
        .map_or_else(|| parent.clone(), |cells| place(parent, cells.iter().map(Cell::as_ref)));
    let child_place = row.map_or_else(|| child.clone(), |row| format!("{child} row {row}"));
    Ok(if removed.contains(&parent_place) || row.is_none() {
        Conflict { place: parent_place, fields: vec![], why: format!("is referenced by {child_place}") }
    } else {
        Conflict {
            place: row.map_or_else(|| child.clone(), |row| format!("{child} {row}")),
            fields: vec![],
            why: format!("references {parent_place}, which is not there"),
        }
    })
}
