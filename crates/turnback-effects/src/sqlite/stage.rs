//! Staging: an action runs once inside an open transaction, is measured, and its inverse is tried.
//!
//! ```text
//! BEGIN IMMEDIATE ─► (schema changes: rehearse, capture pre-images, roll back) ─► record, perform
//!   ─► changeset ─► witness ─► SAVEPOINT, inverse, compare, ROLLBACK TO ─► Staged ─► mark, COMMIT
//! ```
//!
//! The agent's statement and an undo are both [`Action`]s and travel this one road. Owns what level the
//! way back earns and why. Never commits by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use serde_json::Value;
use turnback_core::digest::Sha256;
use turnback_core::names::{ResourceName, RunId};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Completeness, Footprint, InverseStep, Level, RollbackPlan, Snapshot};
use turnback_core::run::Outcome;

use super::catalog::{self, Object, Table, TableKind, quoted};
use super::connection::{Lease, Reported, Slot, Use, failure, is_volatile_text};
use super::recipe::{Content, Image, Recipe, SchemaChange, Tally, Touched, object_place, summary};
use super::session::{self, Changeset, Session, foreign_keys_violated};
use super::{MARKS, way_back};
use crate::{Artifact, Bounds, Held, Progress, Staged, UndoRefused};
use turnback_core::effect::Effect;

/// What performing an action gave.
pub(super) struct Performed {
    pub(super) reply: Value,
    /// What SQLite's authorizer and update hook saw, for an agent's statement.
    pub(super) reported: Option<Reported>,
}

/// Something that changes the database inside the open transaction.
pub(super) trait Action {
    /// Whether it may change the schema.
    fn changes_schema(&self) -> bool;

    /// The tables it may write, known before it runs.
    fn expected(&self, lease: &Lease) -> Result<BTreeSet<String>, Refusal>;

    /// Does it.
    fn perform(&self, lease: &Lease) -> Result<Performed, UndoRefused>;

    /// Begins the summary: empty, or `undoes 2 runs: `.
    fn prefix(&self) -> String;
}

/// A table the session extension may not see completely.
struct Weak {
    why: String,
    /// Its content before, to compare by; `None` when it was too much to read.
    before: Option<Sha256>,
}

fn own<T>(result: rusqlite::Result<T>) -> Result<T, Refusal> {
    result.map_err(|e| failure(&e))
}

/// Stages an action.
pub(super) fn stage(
    slot: &std::sync::Arc<Slot>,
    run: RunId,
    resource: &ResourceName,
    bounds: &Bounds,
    action: &dyn Action,
) -> Result<Staged, UndoRefused> {
    let lease = slot.lease(bounds.lock_wait)?;
    lease.watch.deadline(Some(Instant::now() + bounds.time));
    let c = &lease.connection;
    let tables = own(catalog::tables(c))?;
    let mut artifacts: BTreeMap<Sha256, Vec<u8>> = BTreeMap::new();

    let mut shape = match action.changes_schema() {
        true => Some(rehearse(&lease, action, &tables, bounds, &mut artifacts)?),
        false => None,
    };
    let rebuilt: BTreeSet<String> = shape.as_ref().map(Shape::tables).unwrap_or_default();

    let expected = action.expected(&lease)?;
    let mut weak = BTreeMap::new();
    for table in expected.iter().filter(|t| !rebuilt.contains(*t)) {
        if let Some(why) = tables.get(table).map(|t| weakness(c, t)).transpose()?.flatten() {
            let small = own(catalog::count(c, table))? <= bounds.proof_rows;
            let before = if small { Some(own(catalog::digest(c, table))?) } else { None };
            weak.insert(table.clone(), Weak { why, before });
        }
    }

    // Recording starts before the statement is compiled: SQLite decides then whether a whole table may
    // be cleared without visiting its rows.
    let recorded = tables.values().filter(|t| t.kind == TableKind::Ordinary && !rebuilt.contains(&t.name));
    let session = own(Session::start(c, recorded.map(|t| t.name.as_str())))?;
    let version: i64 = own(c.query_row("PRAGMA main.schema_version", [], |r| r.get(0)))?;
    let changes_before = c.total_changes();
    let performed = action.perform(&lease)?;
    if c.is_autocommit() {
        return Err(Refusal::new(Code::Unsupported, "the statement ended the transaction it was staged in").into());
    }
    if own(foreign_keys_violated(c))? {
        return Err(Refusal::new(
            Code::BadInput,
            "FOREIGN KEY constraint failed: a deferred key would stand violated at commit",
        )
        .at("arguments.sql")
        .into());
    }
    if session.memory() > bounds.snapshot_bytes.saturating_mul(4) {
        return Err(too_large(bounds).into());
    }
    let changeset = own(session.changeset())?;
    if changeset.bytes().len() as u64 > bounds.snapshot_bytes {
        return Err(too_large(bounds).into());
    }
    let changes = c.total_changes().saturating_sub(changes_before);

    // What was done, written down.
    let mut recipe = Recipe { changeset: None, tables: BTreeMap::new(), schema: None };
    let mut written = BTreeSet::new();
    changeset
        .each(|change| {
            if !written.contains(&change.table) {
                written.insert(change.table);
            }
            Ok(())
        })
        .map_err(|e| failure(&e))?;
    for table in &written {
        let columns = own(catalog::columns(c, table))?;
        let sql = tables.get(table).map_or("", |t| t.sql.as_str());
        recipe.tables.insert(
            table.clone(),
            Touched { fingerprint: Sha256::of(sql.as_bytes()), columns: catalog::changeset_columns(&columns) },
        );
    }
    if !changeset.is_empty() {
        let artifact = Artifact::new(changeset.bytes().to_vec());
        recipe.changeset = Some(artifact.hash);
        artifacts.insert(artifact.hash, artifact.bytes);
    }
    if let Some(shape) = &mut shape {
        shape.after(c, bounds)?;
        recipe.schema = Some(shape.change.clone());
    } else if own(c.query_row("PRAGMA main.schema_version", [], |r| r.get::<_, i64>(0)))? != version {
        return Err(Refusal::new(Code::Unsupported, "the statement changed the schema without saying so").into());
    }

    let tally = Tally::of(&changeset, &recipe)?;
    let rows = tally.blast.rows_total();
    let reported = performed.reported.clone().unwrap_or_default();
    let mut doubts = Vec::new();
    let completeness =
        witness(c, &expected, &written, &rebuilt, &reported, &tables, &weak, changes, &changeset, &mut doubts)?;

    // The proof runs on the real post-state of this very action.
    let (level, evidence) = if completeness != Completeness::Closed {
        (Level::None, "the way back was not tried".to_owned())
    } else if let Some(why) = shape.as_ref().and_then(|s| s.unproved.clone()) {
        (Level::None, why)
    } else if rows > bounds.proof_rows {
        (
            Level::Snapshotted,
            format!(
                "{rows} rows are more than the {} a proof may cover: all of them are held, the inverse was not tried",
                bounds.proof_rows
            ),
        )
    } else {
        prove(c, &session, &recipe, &artifacts, shape.as_ref(), &weak, rows)?
    };
    drop(session);
    lease.watch.deadline(None);

    let footprint =
        Footprint { resource: resource.clone(), completeness, places: tally.touches.clone(), more: tally.more };
    let evidence = if doubts.is_empty() { evidence } else { format!("{evidence}; {}", doubts.join("; ")) };
    let mut plan = RollbackPlan::new(level, evidence, footprint);
    plan.snapshots = artifacts
        .iter()
        .map(|(hash, bytes)| Snapshot { hash: *hash, place: "vault".into(), bytes: bytes.len() as u64 })
        .collect();
    describe(&mut plan, c, &recipe, &written, &reported, &tables)?;

    let line = summary(&tally.blast, &tally.indirect, recipe.schema.as_ref());
    let line = format!("{}{line}", action.prefix());
    let mut reply = performed.reply;
    if let Value::Object(map) = &mut reply {
        map.insert("effect".into(), Value::String(line.clone()));
    }
    let volatile = reported.volatile || volatile_defaults(c, &reported)?;
    let effect =
        Effect { summary: line, blast: tally.blast, digest: tally.digest, places: tally.places, volatile, reply };
    let value = serde_json::to_value(&recipe).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
    let held = Box::new(Open { run: run.to_string(), effect: effect.digest.to_string(), lease });
    let artifacts = artifacts.into_iter().map(|(hash, bytes)| Artifact { hash, bytes }).collect();
    Ok(Staged { effect, plan, recipe: value, artifacts, held })
}

fn too_large(bounds: &Bounds) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("what this changes does not fit in the {} bytes one pre-image may take", bounds.snapshot_bytes),
    )
    .next("change fewer rows at once")
}

/// The open transaction as staged work.
struct Open {
    run: String,
    effect: String,
    lease: Lease,
}

impl Held for Open {
    fn commit(self: Box<Self>, _progress: Progress<'_>) -> Outcome {
        let c = &self.lease.connection;
        if let Err(refusal) = self.lease.file().still() {
            return Outcome::Failed { refusal };
        }
        // The mark commits with the effect, so a lost answer can be looked up. A trigger somebody hung on
        // the marks would run unmeasured.
        let marked = c
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
            .and_then(|_| {
                c.execute_batch(&format!(
                    "CREATE TABLE IF NOT EXISTS main.{MARKS} (run TEXT NOT NULL PRIMARY KEY, effect TEXT NOT NULL, \
                 at INTEGER NOT NULL) WITHOUT ROWID"
                ))
            })
            .and_then(|()| {
                c.execute(
                    &format!("INSERT INTO main.{MARKS} (run, effect, at) VALUES (?1, ?2, unixepoch())"),
                    (&self.run, &self.effect),
                )
            });
        if let Err(error) = marked {
            return Outcome::Failed { refusal: failure(&error) };
        }
        let Err(error) = c.execute_batch("COMMIT") else { return Outcome::Succeeded };
        let code = error.sqlite_error_code();
        let undone = matches!(
            code,
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::DiskFull
            )
        ) && (c.is_autocommit() || c.execute_batch("ROLLBACK").is_ok());
        if undone {
            return Outcome::Failed { refusal: failure(&error) };
        }
        Outcome::Unknown { why: format!("COMMIT answered: {}", failure(&error)) }
    }
}

/// Objects and contents around a schema change.
struct Shape {
    change: SchemaChange,
    objects_before: Vec<Object>,
    /// Why nothing is held or proved, when it is too much.
    unproved: Option<String>,
}

impl Shape {
    /// The tables dropped, made or rebuilt.
    fn tables(&self) -> BTreeSet<String> {
        let both = self.change.before.iter().chain(&self.change.after);
        both.filter(|o| o.kind == "table").map(|o| o.name.clone()).collect()
    }

    /// Reads the contents of the tables afterwards, and makes sure it is the change rehearsed.
    fn after(&mut self, c: &Connection, bounds: &Bounds) -> Result<(), Refusal> {
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
fn difference(before: &[Object], after: &[Object]) -> (Vec<Object>, Vec<Object>) {
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
fn rehearse(
    lease: &Lease,
    action: &dyn Action,
    tables: &BTreeMap<String, Table>,
    bounds: &Bounds,
    artifacts: &mut BTreeMap<Sha256, Vec<u8>>,
) -> Result<Shape, UndoRefused> {
    let c = &lease.connection;
    let objects_before = own(catalog::objects(c))?;
    own(c.execute_batch("SAVEPOINT turnback"))?;
    action.perform(lease)?;
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
                if full { Err(session::too_big()) } else { Ok(()) }
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
fn image_columns(c: &Connection, tables: &BTreeMap<String, Table>, name: &str) -> Result<Vec<String>, Refusal> {
    let all = own(catalog::columns(c, name))?;
    let hidden = tables
        .get(name)
        .filter(|table| catalog::rowid_alias(table, &all).is_none())
        .and_then(|table| catalog::rowid_name(table, &all));
    let stored = all.iter().filter(|c| c.hidden == 0).map(|c| c.name.clone());
    Ok(hidden.map(str::to_owned).into_iter().chain(stored).collect())
}

/// A table's AUTOINCREMENT counter.
fn sequence(c: &Connection, table: &str) -> Result<Option<i64>, Refusal> {
    let there: bool =
        own(c.query_row("SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')", [], |r| {
            r.get(0)
        }))?;
    if !there {
        return Ok(None);
    }
    own(c.query_row("SELECT max(seq) FROM main.sqlite_sequence WHERE name = ?1", [table], |r| r.get(0)))
}

/// Why the session extension may not see everything in this table, if so. It finds rows by the declared
/// key, skips rows with a NULL in it, and compares it with the column's collation.
fn weakness(c: &Connection, table: &Table) -> Result<Option<String>, Refusal> {
    if table.kind != TableKind::Ordinary {
        return Ok(None);
    }
    let columns = own(catalog::columns(c, &table.name))?;
    let keys: Vec<&catalog::Column> = columns.iter().filter(|c| c.key > 0).collect();
    if keys.is_empty() {
        let hidden = columns.iter().any(|c| c.name.eq_ignore_ascii_case("_rowid_"));
        return Ok(hidden.then(|| "has no key, and a column named `_rowid_` hides its row number".to_owned()));
    }
    if catalog::rowid_alias(table, &columns).is_some() {
        return Ok(None);
    }
    if table.sql.to_ascii_lowercase().contains("collate") {
        return Ok(Some("may compare its key by a collation".into()));
    }
    Ok(null_key(c, table, &columns)?.then(|| "has a row with NULL in its key".to_owned()))
}

fn null_key(c: &Connection, table: &Table, columns: &[catalog::Column]) -> Result<bool, Refusal> {
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

/// Whether nothing outside the changeset can have changed. Three witnesses must agree: what SQLite's
/// compiler said the statement may write, what the update hook saw being written, and the changeset.
#[allow(clippy::too_many_arguments, reason = "each is one witness or what it is held against")]
fn witness(
    c: &Connection,
    expected: &BTreeSet<String>,
    written: &BTreeSet<String>,
    rebuilt: &BTreeSet<String>,
    reported: &Reported,
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
    for table in written.iter().chain(&reported.changed) {
        if !possible(table) && !table.starts_with("sqlite_") {
            completeness = Completeness::Unknown;
            doubts.push(format!("`{table}` changed although the statement does not name it"));
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
                let columns = own(catalog::columns(c, &table.name))?;
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
fn prove(
    c: &Connection,
    session: &Session<'_>,
    recipe: &Recipe,
    artifacts: &BTreeMap<Sha256, Vec<u8>>,
    shape: Option<&Shape>,
    weak: &BTreeMap<String, Weak>,
    rows: u64,
) -> Result<(Level, String), Refusal> {
    let load = |hash: &Sha256| {
        artifacts.get(hash).cloned().ok_or_else(|| Refusal::new(Code::SnapshotLost, format!("no artifact {hash}")))
    };
    own(c.execute_batch("SAVEPOINT turnback"))?;
    let tried = (|| -> Result<Result<(), String>, Refusal> {
        let reversed = way_back::reverse(c, recipe, &load)?;
        if let Some(first) = reversed.conflicts.first() {
            return Ok(Err(format!("{} {}", first.place, first.why)));
        }
        // The recording spans action and inverse: nothing may be left in it.
        let mut left = None;
        own(session.changeset())?
            .each(|change| {
                left.get_or_insert_with(|| change.place());
                Ok(())
            })
            .map_err(|e| failure(&e))?;
        if let Some(place) = left {
            return Ok(Err(format!("{place} is not as before")));
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
    own(c.execute_batch("ROLLBACK TO turnback; RELEASE turnback"))?;
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

/// Fills in steps, dependencies, exposure and residue.
fn describe(
    plan: &mut RollbackPlan,
    c: &Connection,
    recipe: &Recipe,
    written: &BTreeSet<String>,
    reported: &Reported,
    tables: &BTreeMap<String, Table>,
) -> Result<(), Refusal> {
    if let Some(schema) = &recipe.schema {
        let list = |sign: char| {
            let named: Vec<String> =
                schema.changed().filter(|(_, s)| *s == sign).map(|(o, _)| object_place(o)).collect();
            if named.is_empty() { "nothing".to_owned() } else { named.join(", ") }
        };
        plan.steps.push(InverseStep {
            precondition: "every object and table concerned is as this action left it".into(),
            operation: format!("drop {}; make {} again with the rows held", list('+'), list('-')),
            postcondition: "schema and content are as before".into(),
            done_when: "the undoing run has its mark in the database".into(),
        });
    }
    if recipe.changeset.is_some() {
        let named: Vec<String> = written.iter().map(|t| format!("`{t}`")).collect();
        plan.steps.push(InverseStep {
            precondition: format!("the changed fields in {} hold the values this action wrote", named.join(", ")),
            operation: "apply the inverted changeset with triggers and foreign key actions off".into(),
            postcondition: "every changed row is as before".into(),
            done_when: "the undoing run has its mark in the database".into(),
        });
    }
    for (table, touched) in &recipe.tables {
        plan.dependencies.push(format!("`{table}` keeps its definition {}", touched.fingerprint.short()));
    }
    for table in written {
        let Some(table) = tables.get(table) else { continue };
        let columns = own(catalog::columns(c, &table.name))?;
        let counted = table.sql.to_ascii_lowercase().contains("autoincrement");
        if counted && reported.inserted.contains(&table.name) {
            plan.residue.push(format!("the AUTOINCREMENT counter of `{}` stays where it is", table.name));
        }
        let keyed = columns.iter().any(|c| c.key > 0);
        if keyed && !table.without_rowid && catalog::rowid_alias(table, &columns).is_none() {
            plan.residue.push(format!("hidden row numbers of rows that come back in `{}` may differ", table.name));
        }
    }
    plan.exposure.push("whoever read the database between commit and undo".into());
    plan.window.closed_by.push("somebody changes the same fields or the definition of a table concerned".into());
    Ok(())
}

/// Whether a table that is inserted into fills a column with the time or chance by itself.
fn volatile_defaults(c: &Connection, reported: &Reported) -> Result<bool, Refusal> {
    for table in &reported.inserted {
        let columns = own(catalog::columns(c, table))?;
        if columns.iter().any(|c| c.default.as_deref().is_some_and(is_volatile_text)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an agent's statement does: an [`Action`].
pub(super) struct Execute<'a> {
    pub(super) sql: &'a str,
    pub(super) params: &'a super::read::Params,
    pub(super) schema: bool,
    pub(super) bounds: &'a Bounds,
}

impl Execute<'_> {
    fn r#use(&self) -> Use {
        if self.schema { Use::Schema } else { Use::Rows }
    }
}

impl Action for Execute<'_> {
    fn changes_schema(&self) -> bool {
        self.schema
    }

    fn expected(&self, lease: &Lease) -> Result<BTreeSet<String>, Refusal> {
        let names = own(catalog::tables(&lease.connection))?.into_keys();
        lease.watch.begin(self.r#use(), names);
        let prepared = lease.connection.prepare(self.sql).map(drop);
        lease.watch.turn(Use::Own);
        prepared.map_err(|e| super::connection::statement_failure(&e, &lease.watch))?;
        Ok(lease.watch.reported().written)
    }

    fn perform(&self, lease: &Lease) -> Result<Performed, UndoRefused> {
        let names = own(catalog::tables(&lease.connection))?.into_keys();
        lease.watch.begin(self.r#use(), names);
        let ran = super::read::run(&lease.connection, self.sql, self.params, self.bounds, false);
        lease.watch.turn(Use::Own);
        let answer = ran.map_err(|e| e.refusal(&lease.watch))?;
        let mut reply = answer.json();
        if let (Value::Object(map), false) = (&mut reply, self.schema) {
            map.insert("changes".into(), Value::from(lease.connection.changes()));
        }
        Ok(Performed { reply, reported: Some(lease.watch.reported()) })
    }

    fn prefix(&self) -> String {
        String::new()
    }
}
