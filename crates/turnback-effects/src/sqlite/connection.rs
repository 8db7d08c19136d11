//! Connections to the one database file, and the boundary around what an agent's statement may do.
//!
//! Owns the file's identity, the single write connection and who holds it, and the authorizer: SQLite
//! asks it about everything a statement would do while compiling it, triggers and foreign key actions
//! included. Never runs a statement of its own making for an agent.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use turnback_core::refusal::{Code, Refusal};

use super::MARKS;

/// Longest statement text, in bytes.
const SQL_LIMIT: i32 = 1 << 20;
/// Largest single value or row, in bytes.
const VALUE_LIMIT: i32 = 256 << 20;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Turnback's own statements.
    Own,
    /// Compiling or running an agent's read.
    Read,
    /// Compiling or running an agent's row changes.
    Rows,
    /// Compiling or running an agent's schema change.
    Schema,
}

/// What the authorizer and the hooks saw.
#[derive(Debug)]
struct Seen {
    now: Use,
    tables: BTreeSet<String>,
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
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Seen {
            now: Use::Own,
            tables: BTreeSet::new(),
            written: BTreeSet::new(),
            inserted: BTreeSet::new(),
            read: BTreeSet::new(),
            functions: BTreeSet::new(),
            denied: None,
            changed: BTreeSet::new(),
            deadline: None,
        })))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts watching an agent's statement against the given tables and views.
    pub(super) fn begin(&self, what: Use, tables: impl IntoIterator<Item = String>) {
        let mut seen = self.seen();
        let deadline = seen.deadline;
        *seen = Seen {
            now: what,
            tables: tables.into_iter().map(|t| t.to_ascii_lowercase()).collect(),
            written: BTreeSet::new(),
            inserted: BTreeSet::new(),
            read: BTreeSet::new(),
            functions: BTreeSet::new(),
            denied: None,
            changed: BTreeSet::new(),
            deadline,
        };
    }

    /// Changes what the connection is used for without forgetting what was seen.
    pub(super) fn turn(&self, what: Use) {
        self.seen().now = what;
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

/// The file behind a resource.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

impl File {
    /// Looks at the file and reads its header, before it is opened as a database.
    pub(super) fn at(path: &Path) -> Result<Self, Refusal> {
        let file = Self::look(path)?;
        let mut head = [0_u8; 16];
        let read = fs::File::open(&file.path).and_then(|mut f| f.read_exact(&mut head));
        if read.is_err() || &head != b"SQLite format 3\0" {
            return Err(Refusal::new(Code::BadInput, "not an SQLite 3 database")
                .at(path.display().to_string())
                .next("make one first: sqlite3 FILE 'VACUUM'"));
        }
        Ok(file)
    }

    /// Looks at the file without opening it. Closing any descriptor of a file gives up every POSIX lock
    /// this process holds on it, also SQLite's own: once a connection is open, nothing else may open it.
    fn look(path: &Path) -> Result<Self, Refusal> {
        let place = path.display().to_string();
        let refuse = |code, why: String| Refusal::new(code, why).at(&place);
        let io = |e: std::io::Error| {
            let code = if e.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Failed };
            refuse(code, e.to_string()).next("see that the file is there and can be read")
        };
        let meta = fs::symlink_metadata(path).map_err(io)?;
        if meta.file_type().is_symlink() {
            return Err(refuse(Code::Escapes, "a symlink stands here".into()).next("name the file itself"));
        }
        if !meta.is_file() {
            return Err(refuse(Code::SpecialFile, "not a regular file".into()));
        }
        if meta.nlink() != 1 {
            return Err(refuse(
                Code::SpecialFile,
                format!("the file has {} names (hard links); writes through another one would go unseen", meta.nlink()),
            ));
        }
        let path = fs::canonicalize(path).map_err(io)?;
        Ok(Self { path, device: meta.dev(), inode: meta.ino() })
    }

    pub(super) fn identity(&self) -> String {
        format!("{} {}:{}", self.path.display(), self.device, self.inode)
    }

    /// Whether the same file still stands under the path.
    pub(super) fn still(&self) -> Result<(), Refusal> {
        let now = Self::look(&self.path)?;
        if (now.device, now.inode) == (self.device, self.inode) {
            return Ok(());
        }
        Err(Refusal::new(Code::Moved, "another file stands under this path since the resource was opened")
            .at(self.path.display().to_string())
            .next("restart the gateway to accept the new file as the resource"))
    }

    fn open(&self, flags: OpenFlags, wait: Duration) -> Result<(Connection, Watch), Refusal> {
        self.still()?;
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let setup = || -> rusqlite::Result<(Connection, Watch)> {
            let mut connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(wait)?;
            for (config, on) in [
                (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
                (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
                (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
                (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true),
                // Files do not remember this switch, and a statement that ignores it leaves orphans.
                (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true),
            ] {
                connection.set_db_config(config, on)?;
            }
            for (limit, value) in [
                (Limit::SQLITE_LIMIT_ATTACHED, 0),
                (Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_LIMIT),
                (Limit::SQLITE_LIMIT_LENGTH, VALUE_LIMIT),
                (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
            ] {
                connection.set_limit(limit, value)?;
            }
            let watch = Watch::new();
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
            Ok((connection, watch))
        };
        setup().map_err(|e| failure(&e))
    }

    /// A connection that can only read.
    ///
    /// After a crash the file may need recovery, which takes a connection that may write: one is opened
    /// for that alone.
    pub(super) fn reader(&self, wait: Duration) -> Result<(Connection, Watch), Refusal> {
        let look = |c: &Connection| c.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()));
        let (mut connection, mut watch) = self.open(OpenFlags::SQLITE_OPEN_READ_ONLY, wait)?;
        if look(&connection).is_err_and(|e| e.sqlite_error_code() == Some(ErrorCode::ReadOnly)) {
            look(&self.writer(wait)?.0).map_err(|e| failure(&e))?;
            (connection, watch) = self.open(OpenFlags::SQLITE_OPEN_READ_ONLY, wait)?;
        }
        connection.pragma_update(None, "query_only", true).map_err(|e| failure(&e))?;
        Ok((connection, watch))
    }

    fn writer(&self, wait: Duration) -> Result<(Connection, Watch), Refusal> {
        let (connection, watch) = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE, wait)?;
        // Not FULL: with a rollback journal the commit is the removal of that journal, and only EXTRA syncs
        // the directory it was removed from. Else a power cut after the answer brings it back, and it rolls the
        // answer back. With a write-ahead log both are the same.
        connection.pragma_update(None, "synchronous", "EXTRA").map_err(|e| failure(&e))?;
        Ok((connection, watch))
    }
}

/// The one write connection of a resource: held by at most one staging at a time.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) file: File,
    taken: Mutex<bool>,
    free: Condvar,
}

impl Slot {
    pub(super) fn new(file: File) -> Arc<Self> {
        Arc::new(Self { file, taken: Mutex::new(false), free: Condvar::new() })
    }

    /// Waits up to `wait` for the connection, and again for SQLite's own write lock.
    pub(super) fn lease(self: &Arc<Self>, wait: Duration) -> Result<Lease, Refusal> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, out) =
            self.free.wait_timeout_while(taken, wait, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
        if out.timed_out() && *taken {
            return Err(Refusal::new(Code::Busy, "another action on this database is staged and not yet decided")
                .at(self.file.path.display().to_string())
                .next("call again in a moment"));
        }
        *taken = true;
        drop(taken);
        let claim = Claim { slot: Arc::clone(self) };
        let (connection, watch) = self.file.writer(wait)?;
        connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| {
            let refusal = failure(&e);
            if refusal.code == Code::Busy {
                refusal.at(self.file.path.display().to_string()).next("somebody else holds the database; call again")
            } else {
                refusal
            }
        })?;
        Ok(Lease { connection, watch, claim })
    }
}

#[derive(Debug)]
struct Claim {
    slot: Arc<Slot>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        *self.slot.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.slot.free.notify_one();
    }
}

/// The write connection inside its open transaction. Dropping it rolls back.
pub(super) struct Lease {
    // Fields drop in this order: closing the connection rolls back before the claim is given up.
    pub(super) connection: Connection,
    pub(super) watch: Watch,
    claim: Claim,
}

impl Lease {
    /// The file the connection was opened on.
    pub(super) fn file(&self) -> &File {
        &self.claim.slot.file
    }
}

/// What to do when the disk fails.
const NEXT: &str = "an operator sees that the database's disk works, has room and can be written to; then call again";

/// An SQLite error as a refusal.
pub(super) fn failure(error: &rusqlite::Error) -> Refusal {
    let code = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Code::Busy,
        Some(ErrorCode::DiskFull) => Code::DiskFull,
        Some(ErrorCode::TooBig | ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted) => Code::TooLarge,
        Some(ErrorCode::ReadOnly) => Code::Unsupported,
        _ => Code::Failed,
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => Refusal::new(code, "the time limit was reached")
            .next("ask for less at once, or have the operator raise the limit"),
        Some(ErrorCode::DiskFull) => Refusal::new(code, "the disk is full").next(NEXT),
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            Refusal::new(code, message(error)).next(NEXT)
        }
        _ => Refusal::new(code, message(error)),
    }
}

/// The result of one of Turnback's own statements.
pub(super) fn own<T>(result: rusqlite::Result<T>) -> Result<T, Refusal> {
    result.map_err(|e| failure(&e))
}

/// An error of an agent's own statement as a refusal.
pub(super) fn statement_failure(error: &rusqlite::Error, watch: &Watch) -> Refusal {
    const PLACE: &str = "arguments.sql";
    if matches!(error, rusqlite::Error::MultipleStatement) {
        return Refusal::new(Code::Unsupported, "more than one statement").at(PLACE).next("one statement per call");
    }
    // SQLite reports a denial under more than one code.
    if let Some(why) = watch.denied() {
        return Refusal::new(Code::Unsupported, why).at(PLACE);
    }
    if let rusqlite::Error::SqlInputError { msg, .. } = error {
        return Refusal::new(Code::BadInput, turnback_core::text::visible(msg)).at(PLACE);
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::Unknown) => {
            Refusal::new(Code::BadInput, message(error)).at(PLACE)
        }
        _ => failure(error).at(PLACE),
    }
}

fn message(error: &rusqlite::Error) -> String {
    turnback_core::text::visible(&error.to_string().replace(MARKS, "Turnback's own table"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Locks of this process on the file, as the kernel lists them.
    fn locks(file: &File) -> usize {
        let own = format!(" {} ", std::process::id());
        let inode = format!(":{} ", file.inode);
        let all = fs::read_to_string("/proc/locks").unwrap();
        all.lines().filter(|line| line.contains(&own) && line.contains(&inode)).count()
    }

    #[test]
    fn looking_at_the_file_again_gives_up_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
        let slot = Slot::new(File::at(&path).unwrap());
        let lease = slot.lease(Duration::ZERO).unwrap();
        let held = locks(&slot.file);
        assert!(held > 0, "an open transaction locks the file");
        slot.file.still().unwrap();
        drop(slot.file.reader(Duration::ZERO).unwrap());
        assert_eq!(locks(&slot.file), held, "another process could write into the staged transaction");
        drop(lease);
    }
}
