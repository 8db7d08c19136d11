//! Looking at what a recipe did: probe, observe, diff, touches. Changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension as _};
use turnback_core::digest::Sha256;
use turnback_core::effect::Touch;
use turnback_core::names::RunId;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Measurement, Observation, Standing};

use super::MARKS;
use super::catalog::{self, quoted};
use super::cell;
use super::changeset::{Change, Changeset, Op};
use super::connection::failure;
use super::recipe::{Recipe, object_place};
use super::slot::Slot;
use crate::Artifacts;

/// Most rows read back after a commit.
const COMPARED: u64 = 1_000;
/// How long looking may wait for a lock, and may take.
const WAIT: Duration = Duration::from_secs(5);
const TIME: Duration = Duration::from_secs(30);

fn changeset(recipe: &Recipe, artifacts: &dyn Artifacts) -> Result<Changeset, Refusal> {
    let Some(hash) = &recipe.changeset else { return Ok(Changeset::from_bytes(Vec::new())) };
    let bytes = artifacts.get(hash)?;
    if Sha256::of(&bytes) != *hash {
        return Err(Refusal::new(Code::SnapshotLost, format!("the blob {hash} was altered")));
    }
    Ok(Changeset::from_bytes(bytes))
}

/// Whether the run's mark is in the database, and will be.
pub(super) fn probe(slot: &Arc<Slot>, run: RunId, measurement: &Measurement) -> Standing {
    let look = || -> Result<Option<String>, Refusal> {
        let line = slot.reader(WAIT)?;
        let mut effect = None;
        if line.catalog()?.marks {
            effect = line
                .connection
                .query_row(&format!("SELECT effect FROM main.{MARKS} WHERE run = ?1"), [run.to_string()], |r| r.get(0))
                .optional()
                .map_err(|e| failure(&e))?;
        }
        line.keep();
        Ok(effect)
    };
    // Absent twice: seen, and still so when nothing is left that could bring it back.
    let settled = look().and_then(|effect| match effect {
        None => slot.file.settle_log(WAIT).and_then(|()| look()),
        found => Ok(found),
    });
    match settled {
        Ok(None) => Standing::Before,
        Ok(Some(effect)) if effect == measurement.effect.digest.to_string() => Standing::After,
        Ok(Some(effect)) => Standing::Neither {
            why: format!("the mark of run `{run}` names the effect {effect}, not {}", measurement.effect.digest),
        },
        Err(refusal) => Standing::Unreachable { why: refusal.to_string() },
    }
}

/// Reads touched rows back and compares them with what was predicted.
pub(super) fn observe(
    slot: &Arc<Slot>,
    measurement: &Measurement,
    artifacts: &dyn Artifacts,
) -> Result<Observation, Refusal> {
    let recipe = Recipe::parse(&measurement.recipe)?;
    let changeset = changeset(&recipe, artifacts)?;
    let line = slot.reader(WAIT)?;
    line.watch.deadline(Some(Instant::now() + TIME));
    let c = &line.connection;
    let mut seen = Observation::default();
    let mut walk = changeset.walk();
    while seen.compared < COMPARED
        && let Some(change) = walk.next().map_err(|e| failure(&e))?
    {
        seen.compared += 1;
        seen.differences.extend(compare(c, change, recipe.columns(change.table)).map_err(|e| failure(&e))?);
    }
    if let Some(schema) = &recipe.schema {
        let now = catalog::objects(c).map_err(|e| failure(&e))?;
        for object in &schema.after {
            seen.compared += 1;
            if !now.contains(object) {
                seen.differences.push(format!("{} is not as this action left it", object_place(object)));
            }
        }
        for (object, _) in schema.changed().filter(|(_, sign)| *sign == '-') {
            seen.compared += 1;
            let replaced = schema.after.iter().any(|o| o.name == object.name);
            if !replaced && now.iter().any(|o| o.name == object.name && o.kind == object.kind) {
                seen.differences.push(format!("{} is still there", object_place(object)));
            }
        }
        for (table, content) in schema.contents.iter().filter(|(_, content)| content.rows <= COMPARED) {
            seen.compared += content.rows;
            if catalog::digest(c, table).map_err(|e| failure(&e))? != content.digest {
                seen.differences.push(format!("table `{table}` holds other rows than predicted"));
            }
        }
    }
    line.keep();
    Ok(seen)
}

/// How the row of a change is not as the change left it.
pub(super) fn compare(c: &Connection, change: &Change<'_>, columns: &[String]) -> rusqlite::Result<Option<String>> {
    // One text for all rows of a table: it is compiled once.
    let key = columns.iter().zip(change.key).filter(|(_, key)| **key != 0).map(|(name, _)| name);
    let test: Vec<String> = key.zip(1..).map(|(name, at)| format!("{} IS ?{at}", quoted(name))).collect();
    let list: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
    let (list, table, test) = (list.join(", "), quoted(change.table), test.join(" AND "));
    let mut select = c.prepare_cached(&format!("SELECT {list} FROM main.{table} WHERE {test}"))?;
    for (value, at) in change.key_values().zip(1..) {
        select.raw_bind_parameter(at, ToSqlOutput::Borrowed(value))?;
    }
    let mut rows = select.raw_query();
    let found = rows.next()?;
    let place = || change.place();
    let (Some(row), false) = (found, change.op == Op::Delete) else {
        return Ok(match (found, change.op) {
            (None, Op::Delete) => None,
            (None, _) => Some(format!("{} is not there", place())),
            (Some(_), _) => Some(format!("{} is still there", place())),
        });
    };
    for (at, (wanted, name)) in change.new.iter().zip(columns).enumerate() {
        let found = row.get_ref(at)?;
        if let Some(wanted) = wanted.filter(|wanted| !cell::same(*wanted, found)) {
            let (found, wanted) = (cell::literal(found), cell::literal(wanted));
            return Ok(Some(format!("{}: {name} is {found}, predicted was {wanted}", place())));
        }
    }
    Ok(None)
}

/// One line per row, old and new values in full; schema objects by their definitions.
pub(super) fn diff(measurement: &Measurement, artifacts: &dyn Artifacts) -> Result<String, Refusal> {
    let recipe = Recipe::parse(&measurement.recipe)?;
    let mut lines = Vec::new();
    if let Some(schema) = &recipe.schema {
        for (object, sign) in schema.changed() {
            lines.extend(object.sql.lines().map(|line| format!("{sign} {line}")));
        }
        let rows =
            |name: &str, images: &[super::recipe::Image]| images.iter().find(|i| i.table == name).map_or(0, |i| i.rows);
        for (object, sign) in schema.changed().filter(|(o, _)| o.kind == "table") {
            let held = match sign {
                '-' => rows(&object.name, &schema.images),
                _ => schema.contents.get(&object.name).map_or(0, |c| c.rows),
            };
            lines.push(format!("{sign} {} with {held} rows", object_place(object)));
        }
    }
    changeset(&recipe, artifacts)?
        .each(|change| {
            lines.push(change.line(recipe.columns(change.table)));
            Ok(())
        })
        .map_err(|e| failure(&e))?;
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// Every place touched.
pub(super) fn touches(measurement: &Measurement, artifacts: &dyn Artifacts) -> Result<Vec<Touch>, Refusal> {
    let recipe = Recipe::parse(&measurement.recipe)?;
    let mut touches = recipe.schema.as_ref().map(super::recipe::SchemaChange::touches).unwrap_or_default();
    changeset(&recipe, artifacts)?
        .each(|change| {
            touches.push(change.touch(recipe.columns(change.table)));
            Ok(())
        })
        .map_err(|e| failure(&e))?;
    Ok(touches)
}
