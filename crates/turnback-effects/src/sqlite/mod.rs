//! The SQLite domain: one database file; row changes proved before they are committed.
//!
//! A statement runs once inside an open transaction of Turnback's own connection, every written row
//! recorded. The inverse is tried on the real post-state, and only then is the action judged.
//! What was proved is what is committed: the very same open transaction.
//!
//! | file | owns |
//! |---|---|
//! | `statement.rs` | what a statement is, from its first words; explains, never enforces |
//! | `watch.rs` | the authorizer: the boundary around an agent's statement |
//! | `connection.rs` | the file's identity; opening connections |
//! | `slot.rs` | connections kept between actions; the one that writes and who holds it |
//! | `stage.rs` | performing, measuring, committing |
//! | `rehearse.rs` | several actions one on top of the other, measured and rolled back |
//! | `shape.rs` | a schema change from both sides: objects, pre-images |
//! | `proof.rs` | whether anything can have changed unseen; whether the inverse restores |
//! | `way_back.rs` | the inverse and every reason why it cannot be applied |
//! | `apply.rs` | the inverse where nothing stands against it |
//! | `whole.rs` | whether a row of a table without a key is still the same row |
//! | `undo.rs` | inverses of recorded runs as one more action to be staged |
//! | `recipe.rs` | what a commit does, written down; digests, places, counts |
//! | `read.rs`, `look.rs` | the read tools; probe, observe, diff |
//! | `record.rs` | what every written row held before and holds now |
//! | `changeset.rs` | row changes in SQLite's format, read and written |
//! | `session.rs`, `raw.rs` | applying them; a few more calls into the library |
//! | `catalog.rs`, `cell.rs` | the schema as it is; one value without loss |
//!
//! Never performed: transactions, `ATTACH`, `PRAGMA`, `VACUUM`, temporary and virtual tables, several
//! statements. The one trace left in the database is the table `_turnback_marks`, one row per committed
//! run, written in the same transaction, so that a commit whose answer was lost can be looked up.

mod apply;
mod catalog;
mod cell;
mod changeset;
mod connection;
mod look;
#[cfg(test)]
mod oracle;
mod proof;
mod raw;
mod read;
mod recipe;
mod record;
mod rehearse;
mod session;
mod shape;
mod slot;
mod stage;
mod statement;
mod undo;
mod watch;
mod way_back;
mod whole;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use turnback_core::contract::{Contract, Target};
use turnback_core::effect::{Effect, Touch};
use turnback_core::names::RunId;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Measurement, Observation, Outcome, Standing};
use turnback_core::tool::{Kind, Risk, ToolSpec, Verb};

use self::connection::File;
use self::read::Params;
use self::slot::Slot;
use crate::{Artifacts, Bounds, Domain, Fate, Progress, Reading, Rehearsed, Staged, UndoRefused, Undone, Unrehearsed};

/// The table of committed runs. Invisible and untouchable for agents.
const MARKS: &str = "_turnback_marks";

/// One SQLite database file as a resource.
#[derive(Debug)]
pub struct Sqlite {
    slot: Arc<Slot>,
}

impl Sqlite {
    /// Binds the domain to a database file.
    ///
    /// # Errors
    /// A [`Refusal`] when it is missing, a symlink, not a regular file, has a second hard link, or is not
    /// an SQLite 3 database.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        Ok(Self { slot: Slot::new(File::at(path)?) })
    }
}

/// The arguments of `query` and `execute`, checked.
struct Arguments<'a> {
    sql: &'a str,
    params: Params,
    /// A query answers with so many rows at most; a write that would change more is refused whole.
    max_rows: Option<u64>,
}

impl Arguments<'_> {
    /// The statement of `execute` as something to be staged.
    fn action<'a>(&'a self, bounds: &'a Bounds) -> Result<stage::Execute<'a>, Refusal> {
        let statement = statement::classify(self.sql)?;
        debug_assert!(statement.changes_rows() || statement.changes_schema());
        Ok(stage::Execute { sql: self.sql, params: &self.params, schema: statement.changes_schema(), bounds })
    }

    /// Whether no more rows change than the call allows. Half of a statement is nobody's intent: it is bounded,
    /// never cut.
    fn bounded(&self, effect: &Effect) -> Result<(), Refusal> {
        let rows = effect.blast.rows_total();
        match self.max_rows.filter(|most| rows > *most) {
            None => Ok(()),
            Some(most) => Err(Refusal::new(Code::TooLarge, format!("it would change {rows} rows, more than {most}"))
                .at("arguments.max_rows")
                .next("narrow the WHERE clause, or take several statements")),
        }
    }
}

fn arguments<'a>(tool: &str, arguments: &'a Value) -> Result<Arguments<'a>, Refusal> {
    let bad = |place: &str, why: &str| Refusal::new(Code::BadInput, why.to_owned()).at(place);
    let map = arguments.as_object().ok_or_else(|| bad("arguments", "an object is expected"))?;
    let known: &[&str] = if tool == "schema" { &[] } else { &["sql", "params", "max_rows"] };
    if let Some(unknown) = map.keys().find(|k| !known.contains(&k.as_str())) {
        return Err(bad(&format!("arguments.{unknown}"), "unknown argument"));
    }
    if tool == "schema" {
        return Ok(Arguments { sql: "", params: Params::Positional(Vec::new()), max_rows: None });
    }
    let sql = map.get("sql").ok_or_else(|| bad("arguments.sql", "missing"))?;
    let sql = sql.as_str().ok_or_else(|| bad("arguments.sql", "a string is expected"))?;
    let max_rows = map
        .get("max_rows")
        .map(|most| most.as_u64().ok_or_else(|| bad("arguments.max_rows", "a whole number from 0 is expected")));
    Ok(Arguments { sql, params: Params::parse(map.get("params"))?, max_rows: max_rows.transpose()? })
}

fn statement_schema(what: &str, bound: &str) -> Value {
    json!({
        "type": "object",
        "properties": {
            "sql": { "type": "string", "description": what },
            "params": {
                "type": ["array", "object"],
                "description": "Values for ?, ?1 (array) or :name (object): null, numbers, strings, \
                    {\"integer\": \"9007199254740993\"} beyond 2^53, {\"blob\": \"00ff\"} in hexadecimal."
            },
            "max_rows": { "type": "integer", "minimum": 0, "description": bound }
        },
        "required": ["sql"],
        "additionalProperties": false
    })
}

/// The tools every database offers.
pub fn tools() -> Vec<ToolSpec> {
    vec![
        ToolSpec {
            name: "schema",
            description: "Describes the database: tables, columns, keys, foreign keys, indexes, triggers.",
            verb: Verb::Search,
            risk: Risk::Search,
            schema: json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        },
        ToolSpec {
            name: "query",
            description: "Answers one SELECT statement. Never changes anything.",
            verb: Verb::Read,
            risk: Risk::ScopedRead,
            schema: statement_schema("One SELECT statement.", "Answer with so many rows at most."),
        },
        ToolSpec {
            name: "execute",
            description: "Performs one INSERT, UPDATE, DELETE, CREATE, DROP or ALTER statement. It is staged, \
                    measured and its way back proved first; RETURNING answers with rows.",
            verb: Verb::Update,
            risk: Risk::ReversibleWrite,
            schema: statement_schema(
                "One INSERT, UPDATE, DELETE, CREATE, DROP or ALTER statement.",
                "Refuse the whole statement when it would change more rows than this, those changed by triggers and \
                    foreign keys included.",
            ),
        },
    ]
}

impl Domain for Sqlite {
    fn kind(&self) -> Kind {
        Kind::Sqlite
    }

    fn identity(&self) -> String {
        self.slot.file.identity()
    }

    fn tools(&self) -> Vec<ToolSpec> {
        tools()
    }

    fn marks_commits(&self) -> bool {
        true
    }

    fn aim(&self, tool: &str, given: &Value) -> Result<Target, Refusal> {
        let target = |place: &str, statement: &str| Target {
            identity: self.identity(),
            place: place.to_owned(),
            statement: statement.to_owned(),
        };
        let arguments = match tool {
            "schema" | "query" | "execute" => arguments(tool, given)?,
            other => return Err(Refusal::new(Code::UnknownTool, format!("no tool `{other}` in this domain"))),
        };
        if tool == "schema" {
            return Ok(target("schema", ""));
        }
        let statement = statement::classify(arguments.sql)?;
        let fits = if tool == "query" { statement.reads() } else { !statement.reads() };
        if !fits {
            let (why, next) = if tool == "query" {
                (format!("`{}` writes; a query only reads", statement.class), "use `execute` to write")
            } else {
                (format!("`{}` only reads", statement.class), "use `query` to read")
            };
            return Err(Refusal::new(Code::Unsupported, why).at("arguments.sql").next(next));
        }
        let place = if statement.object.is_empty() { &statement.class } else { &statement.object };
        Ok(target(place, &statement.class))
    }

    fn read(&self, contract: &Contract, bounds: &Bounds) -> Result<Reading, Refusal> {
        self.aim(&contract.local, &contract.arguments)?;
        let arguments = arguments(&contract.local, &contract.arguments)?;
        match contract.local.as_str() {
            "schema" => read::schema(&self.slot, bounds),
            "query" => {
                let read_rows = bounds.read_rows.min(arguments.max_rows.unwrap_or(u64::MAX));
                let bounds = Bounds { read_rows, ..bounds.clone() };
                read::query(&self.slot, arguments.sql, &arguments.params, &bounds)
            }
            other => Err(Refusal::new(Code::Unsupported, format!("`{other}` is not a read"))),
        }
    }

    fn stage(&self, run: RunId, contract: &Contract, bounds: &Bounds) -> Result<Staged, Refusal> {
        if contract.local != "execute" {
            return Err(Refusal::new(Code::Unsupported, format!("`{}` is not a write", contract.local)));
        }
        self.aim(&contract.local, &contract.arguments)?;
        let arguments = arguments(&contract.local, &contract.arguments)?;
        let action = arguments.action(bounds)?;
        let staged = stage::stage(&self.slot, run, &contract.resource, bounds, &action);
        let staged = staged.map_err(UndoRefused::into_refusal)?;
        arguments.bounded(&staged.effect)?;
        Ok(staged)
    }

    fn rehearse(&self, steps: &[(RunId, Contract)], bounds: &Bounds) -> Result<Vec<Rehearsed>, Unrehearsed> {
        rehearse::rehearse(&self.slot, steps, bounds)
    }

    fn rehearses_on_top(&self) -> bool {
        true
    }

    fn undo(
        &self,
        run: RunId,
        undone: &[Undone],
        artifacts: &dyn Artifacts,
        bounds: &Bounds,
    ) -> Result<Staged, UndoRefused> {
        let Some(first) = undone.first() else {
            return Err(Refusal::new(Code::BadInput, "no run to undo").at("runs").into());
        };
        let resource = first.measurement.plan.footprint.resource.clone();
        let action = undo::Undo::new(undone, artifacts)?;
        stage::stage(&self.slot, run, &resource, bounds, &action)
    }

    fn probe(&self, run: RunId, measurement: &Measurement) -> Standing {
        look::probe(&self.slot, run, measurement)
    }

    fn finish(&self, _run: RunId, _measurement: &Measurement, _progress: Progress<'_>) -> Outcome {
        // A transaction happens or does not; `probe` never answers `Between`.
        Outcome::Failed { refusal: Refusal::new(Code::Unsupported, "a database commit has no steps to finish") }
    }

    fn observe(
        &self,
        _run: RunId,
        measurement: &Measurement,
        artifacts: &dyn Artifacts,
    ) -> Result<Observation, Refusal> {
        look::observe(&self.slot, measurement, artifacts)
    }

    fn diff(&self, measurement: &Measurement, artifacts: &dyn Artifacts) -> Result<String, Refusal> {
        look::diff(measurement, artifacts)
    }

    fn touches(&self, measurement: &Measurement, artifacts: &dyn Artifacts) -> Result<Vec<Touch>, Refusal> {
        look::touches(measurement, artifacts)
    }

    fn sweep(&self, _fate: &dyn Fn(RunId) -> Fate) -> Result<(), Refusal> {
        // Staged work is an open transaction: it ended with the process that held it.
        Ok(())
    }
}
