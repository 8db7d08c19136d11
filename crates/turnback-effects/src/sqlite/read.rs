//! Running one statement and answering with rows; the `schema` and `query` tools.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, Statement};
use serde_json::{Map, Value, json};
use turnback_core::refusal::{Code, Refusal};

use super::catalog::{self, TableKind};
use super::cell::Cell;
use super::connection::{failure, statement_failure};
use super::slot::Slot;
use super::watch::{Use, Watch};
use crate::{Bounds, Reading};

/// Parameters of a statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Params {
    /// `?`, in order.
    Positional(Vec<Cell>),
    /// `:name`, `@name` or `$name`.
    Named(Vec<(String, Cell)>),
}

impl Params {
    pub(super) fn parse(value: Option<&Value>) -> Result<Self, Refusal> {
        const PLACE: &str = "arguments.params";
        match value {
            None => Ok(Params::Positional(Vec::new())),
            Some(Value::Array(list)) => {
                let cells = list.iter().enumerate().map(|(i, v)| Cell::from_json(v, &format!("{PLACE}/{i}")));
                Ok(Params::Positional(cells.collect::<Result<_, _>>()?))
            }
            Some(Value::Object(map)) => {
                let cells = map.iter().map(|(k, v)| Ok((k.clone(), Cell::from_json(v, &format!("{PLACE}/{k}"))?)));
                Ok(Params::Named(cells.collect::<Result<_, Refusal>>()?))
            }
            Some(_) => Err(Refusal::new(Code::BadInput, "an array or an object of values is expected").at(PLACE)),
        }
    }

    fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> Result<(), Problem> {
        let bad = |place: String, why: String| Problem::Refused(Refusal::new(Code::BadInput, why).at(place));
        let count = statement.parameter_count();
        match self {
            Params::Positional(cells) => {
                if cells.len() != count {
                    return Err(bad(
                        "arguments.params".into(),
                        format!("the statement has {count} parameters, {} values are given", cells.len()),
                    ));
                }
                for (at, cell) in cells.iter().enumerate() {
                    statement.raw_bind_parameter(at + 1, cell)?;
                }
            }
            Params::Named(pairs) => {
                let mut used = vec![false; pairs.len()];
                for at in 1..=count {
                    let name = statement.parameter_name(at).unwrap_or("?").to_owned();
                    let bare = name.get(1..).unwrap_or_default();
                    let found = pairs.iter().position(|(k, _)| *k == name || k == bare);
                    let Some((found, cell)) = found.and_then(|f| pairs.get(f).map(|(_, c)| (f, c))) else {
                        return Err(bad("arguments.params".into(), format!("no value for the parameter `{name}`")));
                    };
                    if let Some(flag) = used.get_mut(found) {
                        *flag = true;
                    }
                    statement.raw_bind_parameter(at, cell)?;
                }
                if let Some((_, (name, _))) = used.iter().zip(pairs).find(|(used, _)| !**used) {
                    return Err(bad(format!("arguments.params/{name}"), "the statement has no such parameter".into()));
                }
            }
        }
        Ok(())
    }
}

/// What went wrong with an agent's statement.
pub(super) enum Problem {
    Refused(Refusal),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Problem::Sqlite(error)
    }
}

impl Problem {
    pub(super) fn refusal(self, watch: &Watch) -> Refusal {
        match self {
            Problem::Refused(refusal) => refusal,
            Problem::Sqlite(error) => statement_failure(&error, watch),
        }
    }
}

/// Rows a statement answered with.
pub(super) struct Answer {
    columns: Vec<String>,
    rows: Vec<Value>,
    /// Rows left out because of a limit.
    cut: u64,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        let mut map = Map::new();
        if !self.columns.is_empty() {
            map.insert("columns".into(), json!(self.columns));
            map.insert("rows".into(), json!(self.rows));
        }
        if self.cut > 0 {
            map.insert("rows_left_out".into(), json!(self.cut));
        }
        Value::Object(map)
    }
}

/// Compiles an agent's statement.
pub(super) fn compile<'c>(c: &'c Connection, sql: &str, only_reads: bool) -> Result<Statement<'c>, Problem> {
    let statement = c.prepare(sql)?;
    if only_reads && !statement.readonly() {
        return Err(Problem::Refused(
            Refusal::new(Code::Unsupported, "a query only reads").at("arguments.sql").next("use `execute` to write"),
        ));
    }
    Ok(statement)
}

/// Runs one statement to its end and keeps as many rows of its answer as the bounds allow. Writes are
/// stepped to the end whatever is kept; so are reads, to count what is left out.
pub(super) fn run(mut statement: Statement<'_>, params: &Params, bounds: &Bounds) -> Result<Answer, Problem> {
    params.bind(&mut statement)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let width = columns.len();
    let mut answer = Answer { columns, rows: Vec::new(), cut: 0 };
    let mut bytes = 0_u64;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if answer.cut > 0 || answer.rows.len() as u64 >= bounds.read_rows {
            answer.cut += 1;
            continue;
        }
        // A row that cannot be answered with is not copied either: one value may be a quarter of a gigabyte.
        let mut raw = 0_u64;
        for at in 0..width {
            raw += row.get_ref(at)?.as_bytes_or_null().ok().flatten().map_or(0, |bytes| bytes.len() as u64);
        }
        if raw > bounds.read_bytes {
            answer.cut += 1;
            continue;
        }
        let mut cells = Vec::with_capacity(width);
        for at in 0..width {
            cells.push(Cell::of(row.get_ref(at)?).json());
        }
        let row = Value::Array(cells);
        bytes += row.to_string().len() as u64;
        if bytes > bounds.read_bytes {
            answer.cut += 1;
        } else {
            answer.rows.push(row);
        }
    }
    Ok(answer)
}

/// Answers a query.
pub(super) fn query(slot: &Arc<Slot>, sql: &str, params: &Params, bounds: &Bounds) -> Result<Reading, Refusal> {
    let line = slot.reader(bounds.lock_wait)?;
    let watch = &line.watch;
    watch.deadline(Some(Instant::now() + bounds.time));
    watch.begin(Use::Read, Arc::clone(&line.catalog()?.names));
    let answer = compile(&line.connection, sql, true)
        .and_then(|statement| run(statement, params, bounds))
        .map_err(|e| e.refusal(watch))?;
    watch.turn(Use::Own);
    let places = watch.reported().read.into_iter().collect();
    line.keep();
    Ok(Reading { reply: answer.json(), places })
}

/// Describes tables, views, indexes and triggers.
pub(super) fn schema(slot: &Arc<Slot>, bounds: &Bounds) -> Result<Reading, Refusal> {
    let line = slot.reader(bounds.lock_wait)?;
    line.watch.deadline(Some(Instant::now() + bounds.time));
    let c = &line.connection;
    let describe = || -> rusqlite::Result<Value> {
        let mut tables = Vec::new();
        for table in catalog::tables(c)?.values() {
            let columns: Vec<Value> = catalog::columns(c, &table.name)?
                .into_iter()
                .filter(|c| c.hidden != 1)
                .map(|c| {
                    json!({
                        "name": c.name, "type": c.declared, "not_null": c.not_null, "default": c.default,
                        "key": c.key, "generated": c.hidden > 1,
                    })
                })
                .collect();
            let keys: Vec<Value> = catalog::foreign_keys(c, &table.name)?
                .into_iter()
                .map(|f| {
                    let (from, to): (Vec<_>, Vec<_>) = f.columns.into_iter().unzip();
                    json!({
                        "columns": from, "references": f.parent, "referenced_columns": to,
                        "on_update": f.on_update, "on_delete": f.on_delete,
                    })
                })
                .collect();
            let kind = match table.kind {
                TableKind::Ordinary => "table",
                TableKind::View => "view",
                TableKind::Virtual => "virtual",
            };
            tables.push(json!({
                "name": table.name, "kind": kind, "columns": columns, "foreign_keys": keys, "sql": table.sql,
            }));
        }
        let others: Vec<Value> = catalog::objects(c)?
            .into_iter()
            .filter(|o| o.kind == "index" || o.kind == "trigger")
            .map(|o| json!({ "name": o.name, "kind": o.kind, "table": o.table, "sql": o.sql }))
            .collect();
        Ok(json!({ "tables": tables, "indexes_and_triggers": others }))
    };
    let reply = describe().map_err(|e| failure(&e))?;
    line.keep();
    if reply.to_string().len() as u64 > bounds.read_bytes {
        return Err(Refusal::new(Code::TooLarge, format!("the schema is longer than {} bytes", bounds.read_bytes)));
    }
    Ok(Reading { reply, places: Vec::new() })
}
