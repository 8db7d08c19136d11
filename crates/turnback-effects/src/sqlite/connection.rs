//! The one database file: its identity, what stands beside it, and how a connection to it is opened.
//!
//! Never runs a statement of its own making for an agent.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use turnback_core::refusal::{Code, Refusal};

use super::watch::Watch;
use super::{MARKS, raw};

/// Longest statement text, in bytes.
const SQL_LIMIT: i32 = 1 << 20;
/// Largest single value or row, in bytes.
const VALUE_LIMIT: i32 = 256 << 20;
/// Compiled statements of Turnback's own that a connection keeps.
const COMPILED: usize = 64;

/// The file behind a resource.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

/// What stands under the path and beside it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// When the database file was last written, its size, and when anything about it last changed.
    pub(super) content: (u64, [i64; 4]),
    /// Device and inode of the write-ahead log and of its index.
    pub(super) beside: [Option<(u64, u64)>; 2],
}

impl File {
    /// Looks at the file and reads its header, before it is used as a database.
    pub(super) fn at(path: &Path) -> Result<Self, Refusal> {
        let (path, meta) = Self::look(path).and_then(|meta| {
            let path = fs::canonicalize(path).map_err(|e| Self::io(path, &e))?;
            Ok((path, meta))
        })?;
        let file = Self { device: meta.dev(), inode: meta.ino(), path };
        let (connection, _) = file.open(OpenFlags::SQLITE_OPEN_READ_ONLY, Duration::ZERO).map_err(|refusal| {
            let next = refusal.next.clone().unwrap_or_else(|| "see that it can be opened, then start again".to_owned());
            refusal.at(file.path.display().to_string()).next(next)
        })?;
        if !matches!(raw::header(&connection), Ok(head) if &head == b"SQLite format 3\0") {
            return Err(Refusal::new(Code::BadInput, "not an SQLite 3 database")
                .at(file.path.display().to_string())
                .next("make one first: sqlite3 FILE 'VACUUM'"));
        }
        Ok(file)
    }

    fn io(path: &Path, error: &std::io::Error) -> Refusal {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Failed };
        Refusal::new(code, error.to_string())
            .at(path.display().to_string())
            .next("see that the file is there and can be read")
    }

    /// Looks at the file without opening it. Closing any descriptor of a file gives up every POSIX lock
    /// this process holds on it, also SQLite's own: nothing but SQLite may open it.
    fn look(path: &Path) -> Result<Metadata, Refusal> {
        let refuse = |code, why: String| Refusal::new(code, why).at(path.display().to_string());
        let meta = fs::symlink_metadata(path).map_err(|e| Self::io(path, &e))?;
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
        Ok(meta)
    }

    pub(super) fn identity(&self) -> String {
        format!("{} {}:{}", self.path.display(), self.device, self.inode)
    }

    /// Makes sure that the same file still stands under the path, and says what stands there now.
    pub(super) fn still(&self) -> Result<Stamp, Refusal> {
        let meta = Self::look(&self.path)?;
        if (meta.dev(), meta.ino()) != (self.device, self.inode) {
            return Err(Refusal::new(Code::Moved, "another file stands under this path since the resource was opened")
                .at(self.path.display().to_string())
                .next("restart the gateway to accept the new file as the resource"));
        }
        let beside = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            fs::symlink_metadata(name).ok().map(|m| (m.dev(), m.ino()))
        };
        Ok(Stamp {
            content: (meta.len(), [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]),
            beside: [beside("-wal"), beside("-shm")],
        })
    }

    fn open(&self, flags: OpenFlags, wait: Duration) -> Result<(Connection, Watch), Refusal> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let setup = || -> rusqlite::Result<(Connection, Watch)> {
            let mut connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(wait)?;
            connection.set_prepared_statement_cache_capacity(COMPILED);
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
            let watch = Watch::over(&mut connection)?;
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

    pub(super) fn writer(&self, wait: Duration) -> Result<(Connection, Watch), Refusal> {
        let (connection, watch) = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE, wait)?;
        // Not FULL: with a rollback journal the commit is the removal of that journal, and only EXTRA syncs
        // the directory it was removed from. Else a power cut after the answer brings it back, and it rolls the
        // answer back. With a write-ahead log both are the same.
        connection.pragma_update(None, "synchronous", "EXTRA").map_err(|e| failure(&e))?;
        Ok((connection, watch))
    }

    /// Makes sure that what no connection shows now does not come back by itself.
    ///
    /// A commit whose sync failed leaves its pages in the write-ahead log. While anybody has the database open
    /// they are hidden, because the log's index does not name them; the next recovery reads the log itself and
    /// would find a commit that was said to have failed. Moving everything that counts into the file and
    /// emptying the log, durably, leaves nothing to be found. Nothing anybody sees changes.
    ///
    /// # Errors
    /// When somebody reads an old state of the database for longer than `wait`, or the disk fails: then nobody
    /// can say yet whether it happened.
    pub(super) fn settle_log(&self, wait: Duration) -> Result<(), Refusal> {
        let (connection, _) = self.writer(wait)?;
        let mode: String = own(connection.query_row("PRAGMA main.journal_mode", [], |row| row.get(0)))?;
        if !mode.eq_ignore_ascii_case("wal") {
            // A rollback journal is played back before anything can be read.
            return Ok(());
        }
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let log = Path::new(&log);
        let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        // What counts, as the index has it, and how much there is. Its format: 32 bytes, then 24 before each page.
        let counted: i64 =
            own(connection.query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1)))?;
        let page: i64 = own(connection.query_row("PRAGMA main.page_size", [], |row| row.get(0)))?;
        let length = match fs::metadata(log) {
            Ok(meta) => meta.len(),
            Err(error) if absent(&error) => 0,
            Err(error) => return Err(Self::io(log, &error)),
        };
        if i128::from(length) <= 32 + i128::from(counted.max(0)) * (24 + i128::from(page)) {
            return Ok(());
        }
        let busy: i64 = own(connection.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |row| row.get(0)))?;
        if busy != 0 {
            return Err(Refusal::new(
                Code::Busy,
                "its write-ahead log may hold more than it shows, and cannot be emptied while others use it",
            )
            .at(self.path.display().to_string())
            .next("end whatever has the database open for long, then restart the gateway"));
        }
        // SQLite does not sync that it emptied the log. No lock hangs on the log, so it may be opened here.
        match fs::File::open(log).and_then(|log| log.sync_all()) {
            Err(error) if !absent(&error) => Err(Self::io(log, &error)),
            _ => Ok(()),
        }
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
