//! The inverse of row changes, applied with statements compiled once for each kind of change.
//!
//! SQLite's session extension compiles its statements anew for each use and looks at every row twice.
//! This does the plain case – every row is as the changes left it, nothing stands against it – and gives
//! up on the first surprise: then nothing has happened and the extension is asked, which knows about
//! conflicts, constraints that only hold at the end, and switching foreign key actions off.

use std::collections::HashMap;

use rusqlite::types::ToSqlOutput;
use rusqlite::{CachedStatement, Connection, ErrorCode};

use super::catalog::{self, Catalog, quoted};
use super::changeset::{Change, Changeset, Op};
use super::raw::foreign_keys_violated;
use super::slot::execute;

/// Takes `changes` back, all of them or none. Triggers must be off where a changed table has one.
///
/// `None`: it is not the plain case. Otherwise whether foreign keys stand violated afterwards.
pub(super) fn inverse(c: &Connection, catalog: &Catalog, changes: &Changeset) -> rusqlite::Result<Option<bool>> {
    execute(c, "SAVEPOINT turnback_apply")?;
    let done = rows(c, catalog, changes);
    // A full disk ends the whole transaction and the savepoint with it; what there is to say is what failed.
    if done.is_err() && c.is_autocommit() {
        return done;
    }
    if !matches!(done, Ok(Some(_))) {
        execute(c, "ROLLBACK TO turnback_apply")?;
    }
    execute(c, "RELEASE turnback_apply")?;
    done
}

fn rows(c: &Connection, catalog: &Catalog, changes: &Changeset) -> rusqlite::Result<Option<bool>> {
    let mut table = Table::default();
    let mut deferred = false;
    let mut walk = changes.walk();
    while let Some(change) = walk.next()? {
        if table.name != change.table {
            let Some(found) = Table::new(c, catalog, change.table)? else { return Ok(None) };
            table = found;
        }
        if !deferred && table.refers(change) {
            // Rows come back one by one; what they refer to may come after them.
            execute(c, "PRAGMA defer_foreign_keys = 1")?;
            deferred = true;
        }
        if table.parent && !(table.key_only && change.op == Op::Update) {
            // An action of a foreign key would take somebody else's rows along.
            return Ok(None);
        }
        match table.take_back(c, change) {
            Ok(1) => {}
            Ok(_) => return Ok(None),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let mut violated = false;
    if deferred {
        violated = foreign_keys_violated(c)?;
        execute(c, "PRAGMA defer_foreign_keys = 0")?;
    }
    Ok(Some(violated))
}

/// One table whose rows are taken back.
#[derive(Default)]
struct Table<'c> {
    name: String,
    /// Columns as a changeset lists them, quoted.
    columns: Vec<String>,
    /// Which of them refer to other tables.
    child: Vec<bool>,
    parent: bool,
    /// Whether everything that refers to it refers to its key.
    key_only: bool,
    /// By what is done and which fields it concerns.
    statements: HashMap<(u8, Vec<bool>), CachedStatement<'c>>,
    /// The kind used last, usually the next one too.
    last: Option<((u8, Vec<bool>), CachedStatement<'c>)>,
}

impl<'c> Table<'c> {
    /// `None` when a column hides the row number the changes go by.
    fn new(c: &Connection, catalog: &Catalog, name: &str) -> rusqlite::Result<Option<Self>> {
        let columns = catalog.columns(c, name)?;
        let names = catalog::changeset_columns(&columns);
        let hidden =
            columns.iter().all(|c| c.key == 0) && columns.iter().any(|c| c.name.eq_ignore_ascii_case("_rowid_"));
        let lower = name.to_ascii_lowercase();
        let referred = catalog.parents.get(&lower);
        let is_key = |to: &Option<String>| {
            to.as_ref().is_none_or(|to| columns.iter().any(|c| c.key > 0 && c.name.eq_ignore_ascii_case(to)))
        };
        let refers = |name: &String| {
            catalog.children.get(&lower).is_some_and(|from| from.iter().any(|from| from.eq_ignore_ascii_case(name)))
        };
        Ok((!hidden).then(|| Self {
            name: name.to_owned(),
            columns: names.iter().map(|name| quoted(name)).collect(),
            child: names.iter().map(refers).collect(),
            parent: referred.is_some(),
            key_only: referred.is_some_and(|to| to.iter().all(is_key)),
            ..Self::default()
        }))
    }

    /// Whether taking the change back can leave a row without what it refers to.
    fn refers(&self, change: &Change<'_>) -> bool {
        let refers = |at: usize| self.child.get(at).copied().unwrap_or(true);
        if change.op == Op::Update { change.changed().any(refers) } else { self.child.contains(&true) }
    }

    /// Runs the opposite of a change; says how many rows it found.
    fn take_back(&mut self, c: &'c Connection, change: &Change<'_>) -> rusqlite::Result<usize> {
        let same = |(op, fields): &(u8, Vec<bool>)| {
            *op == change.op as u8 && fields.iter().copied().eq(change.new.iter().map(Option::is_some))
        };
        if !self.last.as_ref().is_some_and(|(kind, _)| same(kind)) {
            self.statements.extend(self.last.take());
            let kind = (change.op as u8, change.new.iter().map(Option::is_some).collect());
            let statement = match self.statements.remove(&kind) {
                Some(statement) => statement,
                None => c.prepare_cached(&self.sql(change))?,
            };
            self.last = Some((kind, statement));
        }
        let Some((_, statement)) = &mut self.last else { return Ok(0) };
        let key = || change.key_values();
        let (old, new) = (change.old.iter().copied(), change.new.iter().copied());
        let fields = |side: usize| {
            change.changed().filter_map(move |at| [&change.old, &change.new][side].get(at).copied().flatten())
        };
        let mut at = 0;
        let mut bind = |value| {
            at += 1;
            statement.raw_bind_parameter(at, ToSqlOutput::Borrowed(value))
        };
        match change.op {
            Op::Insert => new.flatten().try_for_each(&mut bind)?,
            Op::Delete => old.flatten().try_for_each(&mut bind)?,
            Op::Update => fields(0).chain(key()).chain(fields(1)).try_for_each(&mut bind)?,
        }
        statement.raw_execute()
    }

    /// The text of the opposite. Values are numbered in the order they are written here.
    fn sql(&self, change: &Change<'_>) -> String {
        let table = format!("main.{}", quoted(&self.name));
        let named = |at: usize| self.columns.get(at).map_or("", String::as_str);
        let is = |at: usize| {
            if change.key.get(at) == Some(&0) { format!("{} IS ?", named(at)) } else { format!("{} = ?", named(at)) }
        };
        let all = 0..change.key.len();
        let list = |parts: Vec<String>, between: &str| parts.join(between);
        match change.op {
            // The key finds the row; the rest must be as the change left it.
            Op::Insert => format!("DELETE FROM {table} WHERE {}", list(all.map(is).collect(), " AND ")),
            // Whatever the table says about conflicts, no other row may give way.
            Op::Delete => format!(
                "INSERT OR ABORT INTO {table} ({}) VALUES ({})",
                list(all.clone().map(|at| named(at).to_owned()).collect(), ", "),
                list(all.map(|_| "?".to_owned()).collect(), ", ")
            ),
            Op::Update => format!(
                "UPDATE OR ABORT {table} SET {} WHERE {}",
                list(change.changed().map(|at| format!("{} = ?", named(at))).collect(), ", "),
                list(
                    all.filter(|at| change.key.get(*at) != Some(&0)).chain(change.changed()).map(is).collect(),
                    " AND "
                )
            ),
        }
    }
}
