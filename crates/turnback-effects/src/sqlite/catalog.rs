//! The schema of the database as it is now, and content digests of whole tables.
//!
//! Reads only; shows nothing of Turnback's own table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use turnback_core::digest::Sha256;

use super::MARKS;
use super::cell;
use super::watch::is_own;

/// One schema object as `CREATE ...` wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Object {
    /// `table`, `index`, `view`, `trigger`.
    pub(super) kind: String,
    pub(super) name: String,
    /// The table it belongs to.
    pub(super) table: String,
    pub(super) sql: String,
}

/// What kind of table a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    Ordinary,
    View,
    /// Virtual tables and the tables they keep their data in.
    Virtual,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) not_null: bool,
    pub(super) default: Option<String>,
    /// Its place in the key, from 1; 0 outside.
    pub(super) key: i64,
    /// 0 ordinary, 1 hidden, 2 and 3 generated.
    pub(super) hidden: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) kind: TableKind,
    pub(super) without_rowid: bool,
    pub(super) sql: String,
}

#[derive(Clone, Debug)]
pub(super) struct Foreign {
    pub(super) parent: String,
    pub(super) columns: Vec<(String, Option<String>)>,
    pub(super) on_update: String,
    pub(super) on_delete: String,
}

/// `name` as an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The schema of one version, read once; columns are read when they are asked for.
#[derive(Debug)]
pub(super) struct Catalog {
    version: i64,
    pub(super) tables: BTreeMap<String, Table>,
    /// Their names in lower case, as the authorizer wants them.
    pub(super) names: Arc<BTreeSet<String>>,
    /// Whether a trigger, view or table uses a function that counts what the connection did before.
    pub(super) counts: bool,
    /// Tables, in lower case, that have a trigger; that refer to others, by which columns; that are
    /// referred to, with the columns named (`None` for the key).
    pub(super) triggered: BTreeSet<String>,
    pub(super) children: BTreeMap<String, Vec<String>>,
    pub(super) parents: BTreeMap<String, Vec<Option<String>>>,
    /// Whether the table of committed runs is there, and whether somebody hung a trigger on it.
    pub(super) marks: bool,
    pub(super) marks_trigger: bool,
    columns: Mutex<BTreeMap<String, Arc<Vec<Column>>>>,
}

impl Catalog {
    /// The schema the open transaction sees: `known` when that is of the same version.
    ///
    /// SQLite counts schema changes in the file itself, whoever makes them, and relies on that number for
    /// its own compiled statements. Only a transaction makes what is read here fit what follows.
    pub(super) fn now(c: &Connection, known: Option<&Arc<Self>>) -> rusqlite::Result<Arc<Self>> {
        debug_assert!(!c.is_autocommit());
        let version = version(c)?;
        if let Some(known) = known.filter(|known| known.version == version) {
            return Ok(Arc::clone(known));
        }
        let tables = tables(c)?;
        let mut catalog = Self {
            version,
            names: Arc::new(tables.keys().map(|name| name.to_ascii_lowercase()).collect()),
            tables,
            counts: false,
            triggered: BTreeSet::new(),
            children: BTreeMap::new(),
            parents: BTreeMap::new(),
            marks: false,
            marks_trigger: false,
            columns: Mutex::default(),
        };
        let mut objects = c.prepare_cached("SELECT type, tbl_name, coalesce(sql, '') FROM main.sqlite_schema")?;
        let mut rows = objects.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, table, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            catalog.counts |= counts(&sql);
            if kind == "trigger" {
                catalog.triggered.insert(table.to_ascii_lowercase());
            }
            if table.eq_ignore_ascii_case(MARKS) {
                catalog.marks |= kind == "table";
                catalog.marks_trigger |= kind == "trigger";
            }
        }
        let mut keys = c.prepare_cached(
            "SELECT l.name, f.\"from\", f.\"table\", f.\"to\" FROM pragma_table_list AS l, pragma_foreign_key_list(l.name, 'main') AS f \
             WHERE l.schema = 'main'",
        )?;
        let mut rows = keys.query([])?;
        while let Some(row) = rows.next()? {
            let (child, parent): (String, String) = (row.get(0)?, row.get(2)?);
            catalog.children.entry(child.to_ascii_lowercase()).or_default().push(row.get(1)?);
            catalog.parents.entry(parent.to_ascii_lowercase()).or_default().push(row.get(3)?);
        }
        Ok(Arc::new(catalog))
    }

    /// The columns of a table.
    pub(super) fn columns(&self, c: &Connection, table: &str) -> rusqlite::Result<Arc<Vec<Column>>> {
        let mut known = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(columns) = known.get(table) {
            return Ok(Arc::clone(columns));
        }
        let columns = Arc::new(columns(c, table)?);
        known.insert(table.to_owned(), Arc::clone(&columns));
        Ok(columns)
    }
}

/// How often the schema was changed, as the file itself counts.
pub(super) fn version(c: &Connection) -> rusqlite::Result<i64> {
    c.prepare_cached("PRAGMA main.schema_version")?.query_row([], |r| r.get(0))
}

/// Whether `changes()` or `total_changes()` may be called in this text.
pub(super) fn counts(sql: &str) -> bool {
    sql.as_bytes().windows(7).any(|part| part.eq_ignore_ascii_case(b"changes"))
}

/// All objects with a text of their own, SQLite's and Turnback's left out, in a stable order.
pub(super) fn objects(c: &Connection) -> rusqlite::Result<Vec<Object>> {
    let mut statement = c.prepare(
        "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name",
    )?;
    let rows = statement
        .query_map([], |r| Ok(Object { kind: r.get(0)?, name: r.get(1)?, table: r.get(2)?, sql: r.get(3)? }))?;
    let mut objects = Vec::new();
    for row in rows {
        let object = row?;
        if !is_own(&object.name) && !is_own(&object.table) && !object.name.starts_with("sqlite_") {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// All tables and views, by name.
pub(super) fn tables(c: &Connection) -> rusqlite::Result<BTreeMap<String, Table>> {
    let mut statement = c.prepare(
        "SELECT l.name, l.type, l.wr, coalesce(s.sql, '') FROM pragma_table_list AS l \
         LEFT JOIN main.sqlite_schema AS s ON s.name = l.name AND s.type IN ('table', 'view') \
         WHERE l.schema = 'main'",
    )?;
    let rows = statement.query_map([], |r| {
        let kind: String = r.get(1)?;
        Ok(Table {
            name: r.get(0)?,
            kind: match kind.as_str() {
                "table" => TableKind::Ordinary,
                "view" => TableKind::View,
                _ => TableKind::Virtual,
            },
            without_rowid: r.get(2)?,
            sql: r.get(3)?,
        })
    })?;
    let mut tables = BTreeMap::new();
    for row in rows {
        let table = row?;
        if !is_own(&table.name) && !table.name.starts_with("sqlite_") {
            tables.insert(table.name.clone(), table);
        }
    }
    Ok(tables)
}

pub(super) fn columns(c: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = c.prepare_cached(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    let rows = statement.query_map([table], |r| {
        Ok(Column {
            name: r.get(0)?,
            declared: r.get(1)?,
            not_null: r.get(2)?,
            default: r.get(3)?,
            key: r.get(4)?,
            hidden: r.get(5)?,
        })
    })?;
    rows.collect()
}

/// The columns a changeset holds of this table, in its order.
pub(super) fn changeset_columns(columns: &[Column]) -> Vec<String> {
    let plain = columns.iter().filter(|c| c.hidden == 0).map(|c| c.name.clone());
    if columns.iter().any(|c| c.key > 0) {
        plain.collect()
    } else {
        std::iter::once("_rowid_".to_owned()).chain(plain).collect()
    }
}

/// The column that is another name of the row number, if there is one: a single `INTEGER PRIMARY KEY`.
pub(super) fn rowid_alias<'a>(table: &Table, columns: &'a [Column]) -> Option<&'a str> {
    let mut keys = columns.iter().filter(|c| c.key > 0);
    match (keys.next(), keys.next()) {
        (Some(key), None) if !table.without_rowid && key.declared.eq_ignore_ascii_case("integer") => Some(&key.name),
        _ => None,
    }
}

/// A name under which the row number can be asked for: the first that no column hides.
pub(super) fn rowid_name(table: &Table, columns: &[Column]) -> Option<&'static str> {
    if table.without_rowid || table.kind != TableKind::Ordinary {
        return None;
    }
    ["_rowid_", "rowid", "oid"].into_iter().find(|n| !columns.iter().any(|c| c.name.eq_ignore_ascii_case(n)))
}

pub(super) fn foreign_keys(c: &Connection, table: &str) -> rusqlite::Result<Vec<Foreign>> {
    let mut statement = c.prepare(
        "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq",
    )?;
    let mut rows = statement.query([table])?;
    let mut found: Vec<(i64, Foreign)> = Vec::new();
    while let Some(r) = rows.next()? {
        let id: i64 = r.get(0)?;
        let pair = (r.get(2)?, r.get(3)?);
        match found.last_mut() {
            Some((last, foreign)) if *last == id => foreign.columns.push(pair),
            _ => found.push((
                id,
                Foreign { parent: r.get(1)?, columns: vec![pair], on_update: r.get(4)?, on_delete: r.get(5)? },
            )),
        }
    }
    Ok(found.into_iter().map(|(_, f)| f).collect())
}

pub(super) fn count(c: &Connection, table: &str) -> rusqlite::Result<u64> {
    c.query_row(&format!("SELECT count(*) FROM main.{}", quoted(table)), [], |r| r.get::<_, i64>(0))
        .map(|n| u64::try_from(n).unwrap_or(0))
}

/// The rows of a table as encoded values, `columns` of them each.
pub(super) fn each_row(
    c: &Connection,
    table: &str,
    columns: &[String],
    mut each: impl FnMut(Vec<u8>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let list: Vec<String> = columns.iter().map(|c| quoted(c)).collect();
    let mut statement = c.prepare(&format!("SELECT {} FROM main.{}", list.join(", "), quoted(table)))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut bytes = Vec::new();
        for at in 0..columns.len() {
            cell::encode(row.get_ref(at)?, &mut bytes);
        }
        each(bytes)?;
    }
    Ok(())
}

/// A digest of a table's content that does not depend on the order of its rows.
///
/// Generated columns follow from the others and are left out; so is a hidden row number.
pub(super) fn digest(c: &Connection, table: &str) -> rusqlite::Result<Sha256> {
    let columns: Vec<String> = columns(c, table)?.into_iter().filter(|c| c.hidden == 0).map(|c| c.name).collect();
    let mut rows: Vec<Sha256> = Vec::new();
    each_row(c, table, &columns, |bytes| {
        rows.push(Sha256::of(&bytes));
        Ok(())
    })?;
    rows.sort_unstable();
    Ok(Sha256::of_parts("turnback table v1", rows.iter().map(|r| r.as_bytes().as_slice())))
}
