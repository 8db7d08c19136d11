//! Looking at what a recipe did: probe, observe, diff, touches. Changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _};
use turnback_core::digest::Sha256;
use turnback_core::effect::Touch;
use turnback_core::names::RunId;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Measurement, Observation, Standing};

use super::MARKS;
use super::catalog::{self, quoted};
use super::cell::Cell;
use super::connection::failure;
use super::recipe::{Recipe, object_place};
use super::session::{Change, Changeset, Op};
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

/// Whether the run's mark is in the database.
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
    match look() {
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
    changeset
        .each(|change| {
            if seen.compared < COMPARED {
                seen.compared += 1;
                seen.differences.extend(compare(c, &change, recipe.columns(&change.table))?);
            }
            Ok(())
        })
        .map_err(|e| failure(&e))?;
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

fn compare(c: &Connection, change: &Change, columns: &[String]) -> rusqlite::Result<Option<String>> {
    let key: Vec<&String> = columns.iter().zip(&change.key).filter(|(_, k)| **k).map(|(n, _)| n).collect();
    let wanted: Vec<(&String, &Cell)> =
        columns.iter().zip(&change.new).filter_map(|(n, cell)| cell.as_ref().map(|cell| (n, cell))).collect();
    let list: Vec<String> = wanted.iter().map(|(n, _)| quoted(n)).collect();
    let list = if list.is_empty() { "1".to_owned() } else { list.join(", ") };
    let test: Vec<String> = key.iter().enumerate().map(|(i, n)| format!("{} IS ?{}", quoted(n), i + 1)).collect();
    let found: Option<Vec<Cell>> = c
        .query_row(
            &format!("SELECT {list} FROM main.{} WHERE {}", quoted(&change.table), test.join(" AND ")),
            rusqlite::params_from_iter(change.key_values()),
            |r| (0..wanted.len()).map(|i| r.get_ref(i).map(Cell::of)).collect(),
        )
        .optional()?;
    let place = change.place();
    Ok(match (change.op, found) {
        (Op::Delete, None) => None,
        (Op::Delete, Some(_)) => Some(format!("{place} is still there")),
        (_, None) => Some(format!("{place} is not there")),
        (_, Some(cells)) => {
            wanted.iter().zip(&cells).find(|((_, wanted), found)| *wanted != *found).map(|((name, wanted), found)| {
                format!("{place}: {name} is {}, predicted was {}", found.literal(), wanted.literal())
            })
        }
    })
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
            lines.push(change.line(recipe.columns(&change.table)));
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
            touches.push(change.touch(recipe.columns(&change.table)));
            Ok(())
        })
        .map_err(|e| failure(&e))?;
    Ok(touches)
}
