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
use std::sync::Arc;
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Statement};
use serde_json::Value;
use turnback_core::digest::Sha256;
use turnback_core::names::{ResourceName, RunId};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Completeness, Footprint, InverseStep, Level, RollbackPlan, Snapshot};
use turnback_core::run::Outcome;
use turnback_core::text::visible;

use super::MARKS;
use super::catalog::{self, Catalog, Table, TableKind};
use super::connection::{failure, own};
use super::proof::{Weak, null_key, prove, weakness, witness};
use super::raw::foreign_keys_violated;
use super::recipe::{Recipe, Tally, Touched, object_place, summary};
use super::record;
use super::shape::{Shape, rehearse};
use super::slot::{Lease, Slot, execute};
use super::watch::{Reported, Use, is_volatile_text};
use super::whole;
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
    /// What is kept between getting ready and performing: a compiled statement.
    type Ready<'c>;

    /// Whether it may change the schema.
    fn changes_schema(&self) -> bool;

    /// Whether it may ask how many changes the connection made before.
    fn counts(&self) -> bool {
        false
    }

    /// The tables it may write, known before it runs, and what it is ready with.
    fn ready<'c>(&self, lease: &'c Lease) -> Result<(BTreeSet<String>, Self::Ready<'c>), Refusal>;

    /// Does it.
    fn perform<'c>(&self, lease: &'c Lease, ready: Self::Ready<'c>) -> Result<Performed, UndoRefused>;

    /// Begins the summary: empty, or `undoes 2 runs: `.
    fn prefix(&self) -> String;
}

/// An action performed and measured inside the open transaction.
pub(super) struct Taken {
    pub(super) effect: Effect,
    pub(super) plan: RollbackPlan,
    pub(super) recipe: Value,
    pub(super) artifacts: Vec<Artifact>,
}

/// Stages an action.
pub(super) fn stage(
    slot: &Arc<Slot>,
    run: RunId,
    resource: &ResourceName,
    bounds: &Bounds,
    action: &impl Action,
) -> Result<Staged, UndoRefused> {
    let mut lease = slot.lease(bounds.lock_wait)?;
    if lease.catalog()?.counts || action.counts() {
        lease = lease.without_past(bounds.lock_wait)?;
    }
    let Taken { effect, plan, recipe, artifacts } =
        measure(&lease, resource, bounds, Instant::now() + bounds.time, action)?;
    let held = Box::new(Open { run: run.to_string(), effect: effect.digest.to_string(), lease });
    Ok(Staged { effect, plan, recipe, artifacts, held })
}

/// Performs an action inside the open transaction of `lease`, measures it and tries its inverse. An error
/// leaves the transaction in no state to go on with.
pub(super) fn measure(
    lease: &Lease,
    resource: &ResourceName,
    bounds: &Bounds,
    deadline: Instant,
    action: &impl Action,
) -> Result<Taken, UndoRefused> {
    let catalog = lease.catalog()?;
    lease.watch.deadline(Some(deadline));
    let c = &lease.connection;
    let tables = &catalog.tables;
    let mut artifacts: BTreeMap<Sha256, Vec<u8>> = BTreeMap::new();

    let mut shape = match action.changes_schema() {
        true => Some(rehearse(lease, action, tables, bounds, &mut artifacts)?),
        false => None,
    };
    let rebuilt: BTreeSet<String> = shape.as_ref().map(Shape::tables).unwrap_or_default();

    let (expected, ready) = action.ready(lease)?;
    // The compiler may name a table as it likes; the catalog has it as it was created.
    let named =
        |name: &String| tables.get(name).or_else(|| tables.values().find(|t| t.name.eq_ignore_ascii_case(name)));
    let mut weak = BTreeMap::new();
    let mut shapes = Vec::new();
    for table in expected.iter().filter_map(named).filter(|t| !rebuilt.contains(&t.name)) {
        let columns = own(catalog.columns(c, &table.name))?;
        if table.kind == TableKind::Ordinary {
            shapes.push(record::Shape::new(&table.name, &columns));
        }
        if let Some(why) = weakness(c, table, &columns)? {
            let small = own(catalog::count(c, &table.name))? <= bounds.proof_rows;
            let before = if small { Some(own(catalog::digest(c, &table.name))?) } else { None };
            weak.insert(table.name.clone(), Weak { why, before });
        }
    }

    let version = own(catalog::version(c))?;
    let changes_before = c.total_changes();
    lease.recorder.begin(shapes, bounds.snapshot_bytes.saturating_mul(4));
    let performed = action.perform(lease, ready)?;
    lease.recorder.pause();
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
    let changeset = lease.recorder.changeset().map_err(|e| match e.sqlite_error_code() {
        Some(ErrorCode::TooBig) => too_large(bounds),
        _ => failure(&e),
    })?;
    if changeset.bytes.len() as u64 > bounds.snapshot_bytes {
        return Err(too_large(bounds).into());
    }
    let strangers = lease.recorder.strangers();
    let changes = c.total_changes().saturating_sub(changes_before);
    let now = if shape.is_some() { lease.catalog()? } else { Arc::clone(&catalog) };

    // What was done, written down.
    let mut recipe = Recipe { changeset: None, whole: None, tables: BTreeMap::new(), schema: None };
    let mut written = BTreeSet::new();
    let mut keyless = false;
    let mut walk = changeset.walk();
    while let Some(change) = own(walk.next())? {
        if !written.contains(change.table) {
            written.insert(change.table.to_owned());
        }
    }
    for table in &written {
        let columns = own(now.columns(c, table))?;
        let sql = tables.get(table).map_or("", |t| t.sql.as_str());
        keyless |= columns.iter().all(|c| c.key == 0);
        recipe.tables.insert(
            table.clone(),
            Touched { fingerprint: Sha256::of(sql.as_bytes()), columns: catalog::changeset_columns(&columns) },
        );
    }
    if !changeset.is_empty() {
        let artifact = Artifact::new(changeset.bytes.clone());
        recipe.changeset = Some(artifact.hash);
        artifacts.insert(artifact.hash, artifact.bytes);
        let whole = if keyless { whole::written(c, &changeset, bounds.snapshot_bytes)? } else { Vec::new() };
        if !whole.is_empty() {
            let artifact = Artifact::new(whole);
            recipe.whole = Some(artifact.hash);
            artifacts.insert(artifact.hash, artifact.bytes);
        }
    }
    if let Some(shape) = &mut shape {
        shape.after(c, bounds)?;
        recipe.schema = Some(shape.change.clone());
    } else if own(catalog::version(c))? != version {
        return Err(Refusal::new(Code::Unsupported, "the statement changed the schema without saying so").into());
    }

    let mut tally = Tally::of(&changeset, &recipe)?;
    let rows = tally.blast.rows_total();
    let reported = performed.reported.clone().unwrap_or_default();
    let mut doubts = Vec::new();
    let completeness = witness(
        c,
        &expected,
        &written,
        &strangers,
        &rebuilt,
        &reported,
        &now,
        tables,
        &weak,
        changes,
        &changeset,
        &mut doubts,
    )?;

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
        prove(lease, &recipe, &artifacts, shape.as_ref(), &weak, &strangers, rows)?
    };
    lease.watch.deadline(None);

    let footprint =
        Footprint { resource: resource.clone(), completeness, places: tally.touches.clone(), more: tally.more };
    let evidence = if doubts.is_empty() { evidence } else { format!("{evidence}; {}", doubts.join("; ")) };
    let mut plan = RollbackPlan::new(level, evidence, footprint);
    plan.snapshots = artifacts
        .iter()
        .map(|(hash, bytes)| Snapshot { hash: *hash, place: "vault".into(), bytes: bytes.len() as u64 })
        .collect();
    describe(&mut plan, c, &recipe, &written, &reported, &now, tables)?;

    let mut line = summary(&tally.blast, &tally.indirect, recipe.schema.as_ref());
    if recipe.schema.is_none()
        && changes > rows
        && let Some(table) = unlistable(c, &expected, &reported, &now, tables, &weak)?
    {
        tally.unlisted(&table, changes - rows);
        let more = format!("changes {} rows of `{}` that cannot be listed", changes - rows, visible(&table));
        line = if rows == 0 { more } else { format!("{line}; {more}") };
    }
    let line = format!("{}{line}", action.prefix());
    let mut reply = performed.reply;
    if let Value::Object(map) = &mut reply {
        map.insert("effect".into(), Value::String(line.clone()));
    }
    let volatile = reported.volatile || volatile_defaults(c, &now, &reported)?;
    let effect =
        Effect { summary: line, blast: tally.blast, digest: tally.digest, places: tally.places, volatile, reply };
    let value = serde_json::to_value(&recipe).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
    let artifacts = artifacts.into_iter().map(|(hash, bytes)| Artifact { hash, bytes }).collect();
    Ok(Taken { effect, plan, recipe: value, artifacts })
}

/// A table whose changed rows the changeset need not hold, if the statement may write one.
fn unlistable(
    c: &Connection,
    expected: &BTreeSet<String>,
    reported: &Reported,
    catalog: &Catalog,
    tables: &BTreeMap<String, Table>,
    weak: &BTreeMap<String, Weak>,
) -> Result<Option<String>, Refusal> {
    for name in expected.union(&reported.written) {
        let found = match tables.get(name) {
            Some(table) if table.kind == TableKind::Virtual => true,
            Some(table) if table.kind == TableKind::Ordinary => {
                weak.contains_key(name) || null_key(c, table, &own(catalog.columns(c, name))?)?
            }
            _ => false,
        };
        if found {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
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

impl Open {
    /// The mark commits with the effect, so a lost answer can be looked up.
    fn mark(&self) -> Result<(), Refusal> {
        let c = &self.lease.connection;
        let catalog = self.lease.catalog()?;
        if catalog.marks_trigger {
            // It would run unmeasured. The switch stays off, so this connection is not kept.
            own(c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false))?;
        }
        if !catalog.marks {
            own(c.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS main.{MARKS} (run TEXT NOT NULL PRIMARY KEY, effect TEXT NOT NULL, \
                 at INTEGER NOT NULL) WITHOUT ROWID"
            )))?;
        }
        let insert = format!("INSERT INTO main.{MARKS} (run, effect, at) VALUES (?1, ?2, unixepoch())");
        own(c.prepare_cached(&insert).and_then(|mut insert| insert.execute((&self.run, &self.effect))).map(drop))
    }
}

impl Held for Open {
    fn commit(self: Box<Self>, _progress: Progress<'_>) -> Outcome {
        if let Err(refusal) = self.lease.still().and_then(|_| self.mark()) {
            return Outcome::Failed { refusal };
        }
        let c = &self.lease.connection;
        let Err(error) = execute(c, "COMMIT") else {
            self.lease.keep();
            return Outcome::Succeeded;
        };
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

/// Fills in steps, dependencies, window and residue.
fn describe(
    plan: &mut RollbackPlan,
    c: &Connection,
    recipe: &Recipe,
    written: &BTreeSet<String>,
    reported: &Reported,
    catalog: &Catalog,
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
        let columns = own(catalog.columns(c, &table.name))?;
        let counted = table.sql.to_ascii_lowercase().contains("autoincrement");
        if counted && reported.inserted.contains(&table.name) {
            plan.residue.push(format!("the AUTOINCREMENT counter of `{}` stays where it is", table.name));
        }
        let keyed = columns.iter().any(|c| c.key > 0);
        if keyed && !table.without_rowid && catalog::rowid_alias(table, &columns).is_none() {
            plan.residue.push(format!("hidden row numbers of rows that come back in `{}` may differ", table.name));
        }
    }
    plan.residue.push("what others read between commit and undo".into());
    plan.window.closed_by.push("somebody changes the same fields or the definition of a table concerned".into());
    Ok(())
}

/// Whether a table that is inserted into fills a column with the time or chance by itself.
fn volatile_defaults(c: &Connection, catalog: &Catalog, reported: &Reported) -> Result<bool, Refusal> {
    for table in &reported.inserted {
        let columns = own(catalog.columns(c, table))?;
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
    type Ready<'c> = Statement<'c>;

    fn changes_schema(&self) -> bool {
        self.schema
    }

    fn counts(&self) -> bool {
        catalog::counts(self.sql)
    }

    fn ready<'c>(&self, lease: &'c Lease) -> Result<(BTreeSet<String>, Statement<'c>), Refusal> {
        lease.watch.begin(self.r#use(), Arc::clone(&lease.catalog()?.names));
        let compiled = super::read::compile(&lease.connection, self.sql, false);
        lease.watch.turn(Use::Own);
        let statement = compiled.map_err(|e| e.refusal(&lease.watch))?;
        Ok((lease.watch.reported().written, statement))
    }

    fn perform<'c>(&self, lease: &'c Lease, statement: Statement<'c>) -> Result<Performed, UndoRefused> {
        // What was seen while compiling still counts.
        lease.watch.turn(self.r#use());
        let ran = super::read::run(statement, self.params, self.bounds);
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
