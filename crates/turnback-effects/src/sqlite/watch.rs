//! The boundary around what an agent's statement may do.
//!
//! SQLite asks the authorizer about everything a statement would do while compiling it, triggers and
//! foreign key actions included. Owns the answers and what was seen; never runs a statement.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// Virtual machine instructions between two looks at the clock.
const TICK: i32 = 4_000;

/// Functions whose value differs from call to call, or depends on the connection's history.
const VOLATILE: &[&str] = &[
    "random",
    "randomblob",
    "date",
    "time",
    "datetime",
    "julianday",
    "unixepoch",
    "strftime",
    "timediff",
    "current_time",
    "current_date",
    "current_timestamp",
    "last_insert_rowid",
    "changes",
    "total_changes",
];
/// Functions that reach outside the database or into the library.
const FORBIDDEN: &[&str] = &["load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"];

/// What the connection is being used for at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Use {
    /// Turnback's own statements.
    #[default]
    Own,
    /// Compiling or running an agent's read.
    Read,
    /// Compiling or running an agent's row changes.
    Rows,
    /// Compiling or running an agent's schema change.
    Schema,
}

/// What the authorizer and the hooks saw.
#[derive(Debug, Default)]
struct Seen {
    now: Use,
    tables: Arc<BTreeSet<String>>,
    written: BTreeSet<String>,
    inserted: BTreeSet<String>,
    read: BTreeSet<String>,
    functions: BTreeSet<String>,
    denied: Option<String>,
    changed: BTreeSet<String>,
    deadline: Option<Instant>,
}

/// The authorizer's view of one statement.
#[derive(Clone, Debug, Default)]
pub(super) struct Reported {
    /// Tables and views it may write, through triggers and foreign key actions too.
    pub(super) written: BTreeSet<String>,
    /// Those it may insert into.
    pub(super) inserted: BTreeSet<String>,
    /// Tables and views it reads.
    pub(super) read: BTreeSet<String>,
    /// Whether it calls a function whose value differs at every run.
    pub(super) volatile: bool,
    /// Tables in which the update hook saw a row change: an independent witness at run time.
    pub(super) changed: BTreeSet<String>,
}

/// The shared eye of one connection's hooks.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    /// Sets the hooks of a connection: from now on it is watched.
    pub(super) fn over(connection: &mut Connection) -> rusqlite::Result<Self> {
        let watch = Self(Arc::default());
        let eye = watch.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            let mut seen = eye.seen();
            match seen.judge(&context) {
                Ok(()) => Authorization::Allow,
                Err(why) => {
                    seen.denied.get_or_insert(why);
                    Authorization::Deny
                }
            }
        }))?;
        let eye = watch.clone();
        connection.progress_handler(
            TICK,
            Some(move || eye.seen().deadline.is_some_and(|deadline| Instant::now() >= deadline)),
        )?;
        let eye = watch.clone();
        connection.update_hook(Some(move |_, _: &str, table: &str, _| {
            let mut seen = eye.seen();
            if seen.now != Use::Own && !seen.changed.contains(table) {
                seen.changed.insert(table.to_owned());
            }
        }))?;
        Ok(watch)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts watching an agent's statement against the given tables and views, in lower case.
    pub(super) fn begin(&self, what: Use, tables: Arc<BTreeSet<String>>) {
        let mut seen = self.seen();
        *seen = Seen { now: what, tables, deadline: seen.deadline, ..Seen::default() };
    }

    /// Changes what the connection is used for without forgetting what was seen.
    pub(super) fn turn(&self, what: Use) {
        self.seen().now = what;
    }

    /// Forgets everything: the action is over.
    pub(super) fn rest(&self) {
        *self.seen() = Seen::default();
    }

    pub(super) fn deadline(&self, deadline: Option<Instant>) {
        self.seen().deadline = deadline;
    }

    /// Why something was denied, when it was.
    pub(super) fn denied(&self) -> Option<String> {
        self.seen().denied.clone()
    }

    pub(super) fn reported(&self) -> Reported {
        let seen = self.seen();
        Reported {
            written: seen.written.clone(),
            inserted: seen.inserted.clone(),
            read: seen.read.clone(),
            volatile: seen.functions.iter().any(|f| VOLATILE.contains(&f.as_str())),
            changed: seen.changed.clone(),
        }
    }
}

/// Whether a default value written in a table differs at every run; SQLite does not ask about those.
pub(super) fn is_volatile_text(sql: &str) -> bool {
    let lower = sql.to_ascii_lowercase();
    lower.starts_with("current_")
        || VOLATILE.iter().any(|f| lower.contains(&format!("{f}(")) || lower.contains(&format!("{f} (")))
}

impl Seen {
    fn judge(&mut self, context: &AuthContext<'_>) -> Result<(), String> {
        if self.now == Use::Own {
            return Ok(());
        }
        let schema = self.now == Use::Schema;
        if context.database_name == Some("temp")
            && !(schema && matches!(context.action, AuthAction::Read { .. } | AuthAction::Update { .. }))
        {
            return Err("temporary objects live outside what can be undone".into());
        }
        let writes = self.now != Use::Read;
        match context.action {
            AuthAction::Select | AuthAction::Recursive => Ok(()),
            AuthAction::Function { function_name } => {
                let name = function_name.to_ascii_lowercase();
                if FORBIDDEN.contains(&name.as_str()) {
                    return Err(format!("the function `{name}` reaches outside the database"));
                }
                self.functions.insert(name);
                Ok(())
            }
            AuthAction::Read { table_name, column_name } => self.read(table_name, column_name, schema),
            AuthAction::Insert { table_name } if writes => {
                self.write(table_name, schema)?;
                self.inserted.insert(table_name.to_owned());
                Ok(())
            }
            AuthAction::Update { table_name, .. } | AuthAction::Delete { table_name } if writes => {
                self.write(table_name, schema)
            }
            // The session extension asks for a table's columns, full-text tables for these two, all while
            // a statement runs. An agent's own PRAGMA never gets here: its first word is refused before
            // anything is compiled, and none of these changes anything.
            AuthAction::Pragma { pragma_name, .. }
                if writes && ["table_xinfo", "data_version", "page_size"].contains(&pragma_name) =>
            {
                Ok(())
            }
            AuthAction::CreateIndex { index_name: name, .. }
            | AuthAction::CreateTable { table_name: name }
            | AuthAction::CreateTrigger { trigger_name: name, .. }
            | AuthAction::CreateView { view_name: name }
            | AuthAction::DropIndex { index_name: name, .. }
            | AuthAction::DropTable { table_name: name }
            | AuthAction::DropTrigger { trigger_name: name, .. }
            | AuthAction::DropView { view_name: name }
            | AuthAction::AlterTable { table_name: name, .. }
                if schema =>
            {
                if is_own(name) {
                    Err(format!("`{name}` is Turnback's own"))
                } else {
                    Ok(())
                }
            }
            // Building an index asks for this.
            AuthAction::Reindex { .. } if schema => Ok(()),
            AuthAction::CreateVtable { .. } | AuthAction::DropVtable { .. } => {
                Err("virtual tables cannot be measured or undone".into())
            }
            AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
                Err("other database files are out of reach".into())
            }
            AuthAction::Pragma { .. } => Err("PRAGMA changes what cannot be undone".into()),
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
                Err("transactions are Turnback's own".into())
            }
            _ if !writes => Err("a query only reads".into()),
            _ => Err("this kind of statement changes what cannot be measured".into()),
        }
    }

    fn read(&mut self, table: &str, column: &str, schema: bool) -> Result<(), String> {
        let name = table.to_ascii_lowercase();
        if is_own(&name) {
            return Err(format!("`{name}` is Turnback's own"));
        }
        if name.starts_with("sqlite_") {
            return if schema {
                Ok(())
            } else {
                Err(format!("`{name}` is not readable here; the `schema` tool shows it"))
            };
        }
        if self.tables.contains(&name) {
            self.read.insert(table.to_owned());
            return Ok(());
        }
        // A name that is no table of this file: a common table expression, or a table that is made of a
        // library function. Only two of those look at nothing but their arguments.
        let harmless = matches!(name.as_str(), "json_each" | "json_tree");
        let library = name.starts_with("pragma_") || name.starts_with("dbstat") || name.starts_with("fts");
        if harmless || (column.is_empty() && !library) || (schema && !library) {
            Ok(())
        } else {
            Err(format!("`{name}` is not a table of this database"))
        }
    }

    fn write(&mut self, table: &str, schema: bool) -> Result<(), String> {
        let name = table.to_ascii_lowercase();
        if is_own(&name) {
            return Err(format!("`{name}` is Turnback's own"));
        }
        if name.starts_with("sqlite_") {
            // Schema statements are compiled into writes of the schema table. Direct writes to it are
            // refused by SQLite itself: `writable_schema` is off and the connection is defensive.
            return if schema { Ok(()) } else { Err(format!("`{name}` is SQLite's own")) };
        }
        self.written.insert(table.to_owned());
        Ok(())
    }
}

/// Whether an object belongs to Turnback.
pub(super) fn is_own(name: &str) -> bool {
    name.get(..9).is_some_and(|p| p.eq_ignore_ascii_case("_turnback"))
}
