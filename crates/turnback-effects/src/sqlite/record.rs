//! Recording: what every row written through a connection held before it was first touched, and holds now.
//!
//! SQLite calls the hook here before it writes any row of any table: by a statement, a trigger, a foreign
//! key action, a conflict resolved by `REPLACE`, or an inverse being applied. One recording therefore
//! spans an action and its inverse, and says afterwards whether anything is left of the two. Rows are
//! found by their declared key, by the row number where there is none; rows with NULL in their key have
//! no name and are left out, as by SQLite's own session extension, whose format this writes and against
//! which it is tested. Writes to tables nobody announced are noted by name.
//!
//! Owns the hook and its `unsafe` lines; never judges.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

use super::catalog::Column;
use super::changeset::{self, Changeset, Op};
use super::raw::{borrow, check, too_big};

/// What the hook must know of a table before a row of it is written.
#[derive(Debug)]
pub(super) struct Shape {
    name: String,
    /// Place of each stored column among all columns, and whether it holds whole numbers as reals.
    columns: Vec<(c_int, bool)>,
    /// For each column of a record, whether it belongs to the key. A table without a key begins with
    /// the row number.
    key: Vec<u8>,
    /// All columns, generated ones too.
    total: c_int,
    keyless: bool,
    /// Whether one column alone is the key.
    single: bool,
}

impl Shape {
    pub(super) fn new(name: &str, columns: &[Column]) -> Self {
        let keyless = columns.iter().all(|c| c.key == 0);
        let stored = columns.iter().zip(0..).filter(|(c, _)| c.hidden == 0);
        let flag = |c: &Column| u8::try_from(c.key).unwrap_or(u8::MAX);
        let key: Vec<u8> = keyless.then_some(1).into_iter().chain(stored.clone().map(|(c, _)| flag(c))).collect();
        Self {
            name: name.to_owned(),
            single: key.iter().filter(|flag| **flag != 0).count() == 1,
            key,
            columns: stored.map(|(c, at)| (at, real(&c.declared))).collect(),
            total: c_int::try_from(columns.len()).unwrap_or(c_int::MAX),
            keyless,
        }
    }
}

/// Whether a column of this declared type has the affinity REAL, by SQLite's own rules.
fn real(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    has(&["REAL", "FLOA", "DOUB"]) && !has(&["INT", "CHAR", "CLOB", "TEXT", "BLOB"])
}

/// A record among the bytes of its table.
type Span = std::ops::Range<usize>;

/// What identifies a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Number(i64),
    Other(Box<[u8]>),
}

#[derive(Debug)]
struct Row {
    key: Key,
    indirect: bool,
    /// Before it was first touched.
    old: Option<Span>,
    /// As last written.
    new: Option<Span>,
}

/// The rows of one table.
#[derive(Debug)]
struct Rows {
    shape: Shape,
    bytes: Vec<u8>,
    rows: Vec<Row>,
    /// Where to find a row again. Not needed while keys come as numbers in rising order, which is how a
    /// statement usually goes through a table.
    index: Option<HashMap<Key, usize>>,
    /// The row most likely to come next.
    next: usize,
    /// Whether text is stored the way it is wanted.
    raw: bool,
}

impl Rows {
    fn find(&self, key: &Key) -> Option<usize> {
        if self.rows.get(self.next).is_some_and(|row| row.key == *key) {
            return Some(self.next);
        }
        match &self.index {
            Some(index) => index.get(key).copied(),
            None if self.rows.last().is_none_or(|last| last.key < *key) => None,
            None => self.rows.binary_search_by(|row| row.key.cmp(key)).ok(),
        }
    }

    /// Notes one write: `old` counts when the row is touched for the first time.
    fn note(&mut self, key: Key, old: Option<Span>, new: Option<Span>, indirect: bool) {
        let at = if let Some(at) = self.find(&key) {
            if let Some(row) = self.rows.get_mut(at) {
                row.new = new;
                // A row an action means to change is not a by-product.
                row.indirect &= indirect;
            }
            at
        } else {
            let at = self.rows.len();
            let rising = matches!(key, Key::Number(_)) && self.rows.last().is_none_or(|last| last.key < key);
            if self.index.is_none() && !rising {
                self.index = Some(self.rows.iter().map(|row| row.key.clone()).zip(0..).collect());
            }
            if let Some(index) = &mut self.index {
                index.insert(key.clone(), at);
            }
            self.rows.push(Row { key, indirect, old, new });
            at
        };
        self.next = at + 1;
    }

    /// What identifies the row of a record; `None` when there is a NULL in it.
    fn key(&self, record: &Span) -> Option<Key> {
        let mut rest = self.bytes.get(record.clone())?;
        let (mut only, mut other) = (None, Vec::new());
        for flag in &self.shape.key {
            let value = changeset::encoded(&mut rest)?;
            if *flag == 0 {
                continue;
            }
            match value.split_first()? {
                (5, _) => return None,
                (1, number) if self.shape.single => {
                    return Some(Key::Number(i64::from_be_bytes(number.try_into().ok()?)));
                }
                _ if self.shape.single => {
                    only = Some(value);
                    break;
                }
                _ => other.extend_from_slice(value),
            }
        }
        Some(Key::Other(only.map_or(other.into_boxed_slice(), Box::from)))
    }

    /// Appends a record, or only what identifies it; `get` asks SQLite for the value of a column.
    fn copy(
        &mut self,
        number: i64,
        key_only: bool,
        get: impl Fn(c_int, *mut *mut ffi::sqlite3_value) -> c_int,
    ) -> rusqlite::Result<Span> {
        let start = self.bytes.len();
        if self.shape.keyless {
            changeset::write_value(&mut self.bytes, ValueRef::Integer(number));
        }
        let flags = self.shape.key.iter().skip(usize::from(self.shape.keyless));
        for ((column, real), flag) in self.shape.columns.iter().zip(flags) {
            if key_only && *flag == 0 {
                changeset::write_nothing(&mut self.bytes);
                continue;
            }
            let mut value = ptr::null_mut();
            check(get(*column, &raw mut value))?;
            // SAFETY: SQLite returned this value for the row at hand; it is valid until the hook returns.
            let value = match unsafe { borrow(value, self.raw) } {
                // The default of a column added later comes without its column's affinity.
                ValueRef::Integer(number) if *real => ValueRef::Real(number as f64),
                value => value,
            };
            changeset::write_value(&mut self.bytes, value);
        }
        Ok(start..self.bytes.len())
    }

    /// The rows that are not as before, in an order that does not depend on how they came to be so.
    fn write(&self, out: &mut Vec<u8>) {
        let mut order: Vec<&Row> = self.rows.iter().collect();
        order.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let record = |span: &Span| self.bytes.get(span.clone()).unwrap_or_default();
        let mut begun = false;
        for row in order {
            let (old, new) = (row.old.as_ref().map(record), row.new.as_ref().map(record));
            if old == new {
                continue;
            }
            if !begun {
                changeset::write_table(out, &self.shape.name, &self.shape.key);
                begun = true;
            }
            match (old, new) {
                (Some(old), None) => {
                    changeset::write_op(out, Op::Delete, row.indirect);
                    out.extend_from_slice(old);
                }
                (None, Some(new)) => {
                    changeset::write_op(out, Op::Insert, row.indirect);
                    out.extend_from_slice(new);
                }
                (Some(old), Some(new)) => {
                    changeset::write_op(out, Op::Update, row.indirect);
                    for (mine, other, keep) in [(old, new, true), (new, old, false)] {
                        let (mut mine, mut other) = (mine, other);
                        for key in &self.shape.key {
                            let pair = (changeset::encoded(&mut mine), changeset::encoded(&mut other));
                            match pair {
                                (Some(value), other) if other != Some(value) || (keep && *key != 0) => {
                                    out.extend_from_slice(value);
                                }
                                _ => changeset::write_nothing(out),
                            }
                        }
                    }
                }
                (None, None) => {}
            }
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    on: bool,
    tables: Vec<Rows>,
    /// The table written last: usually the next one too.
    last: usize,
    /// Tables written that nobody announced.
    strangers: BTreeSet<String>,
    /// Most bytes all records together may take.
    limit: usize,
    failed: Option<rusqlite::Error>,
}

impl Log {
    fn table(&mut self, name: &[u8]) -> Option<&mut Rows> {
        let is = |rows: &Rows| rows.shape.name.as_bytes() == name;
        if !self.tables.get(self.last).is_some_and(is) {
            let Some(found) = self.tables.iter().position(is) else {
                if !self.strangers.iter().any(|known| known.as_bytes() == name) {
                    self.strangers.insert(String::from_utf8_lossy(name).into_owned());
                }
                return None;
            };
            self.last = found;
        }
        self.tables.get_mut(self.last)
    }

    /// Notes the write SQLite is about to make.
    fn event(&mut self, db: *mut ffi::sqlite3, op: c_int, name: &[u8], from: i64, to: i64) -> rusqlite::Result<()> {
        // SAFETY: called by SQLite out of the hook, with the connection at work: where these are meant to be.
        let (indirect, total) = unsafe { (ffi::sqlite3_preupdate_depth(db) > 0, ffi::sqlite3_preupdate_count(db)) };
        let limit = self.limit;
        let Some(rows) = self.table(name) else { return Ok(()) };
        if rows.shape.total != total {
            // The table changed its shape while it was written.
            return check(ffi::SQLITE_SCHEMA);
        }
        // SAFETY: as above; the out-pointer is valid. What does not fit the kind of write is an error.
        let before = |column, value| unsafe { ffi::sqlite3_preupdate_old(db, column, value) };
        // SAFETY: as above.
        let after = |column, value| unsafe { ffi::sqlite3_preupdate_new(db, column, value) };
        let old = if op == ffi::SQLITE_INSERT {
            None
        } else {
            let mut span = rows.copy(from, true, before)?;
            let key = rows.key(&span);
            rows.bytes.truncate(span.start);
            // What a known row held first is known already; one without a name is not looked for.
            if key.as_ref().is_some_and(|key| rows.find(key).is_none()) {
                span = rows.copy(from, false, before)?;
            }
            Some((span, key))
        };
        let new = if op == ffi::SQLITE_DELETE {
            None
        } else {
            let span = rows.copy(to, false, after)?;
            let key = rows.key(&span);
            Some((span, key))
        };
        match (old, new) {
            (Some((old, Some(key))), Some((new, Some(other)))) if key == other => {
                rows.note(key, Some(old), Some(new), indirect);
            }
            // A changed key is one row less and another more.
            (old, new) => {
                if let Some((old, Some(key))) = old {
                    rows.note(key, Some(old), None, indirect);
                }
                if let Some((new, Some(key))) = new {
                    rows.note(key, None, Some(new), indirect);
                }
            }
        }
        // Every row costs some memory beside its bytes.
        if rows.bytes.len() + rows.rows.len() * size_of::<Row>() > limit { Err(too_big()) } else { Ok(()) }
    }
}

/// Records the writes of one connection. Must outlive it: SQLite keeps a pointer.
#[derive(Debug)]
pub(super) struct Recorder {
    log: Arc<Mutex<Log>>,
    utf8: bool,
}

impl Recorder {
    /// Sets the hook; `utf8` says that the database stores text so. SQLite decides while compiling a `DELETE` whether a whole table may be cleared
    /// without looking at its rows; with a hook set it never does.
    pub(super) fn over(connection: &Connection, utf8: bool) -> Self {
        let log: Arc<Mutex<Log>> = Arc::default();
        // SAFETY: the handle is valid while `connection` is borrowed. The log is on the heap and lives as
        // long as the recorder, which outlives the connection.
        unsafe {
            ffi::sqlite3_preupdate_hook(connection.handle(), Some(hook), Arc::as_ptr(&log).cast_mut().cast::<c_void>());
        }
        Self { log, utf8 }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts anew, with the tables that are expected to be written and the most bytes to remember.
    pub(super) fn begin(&self, shapes: impl IntoIterator<Item = Shape>, limit: u64) {
        let raw = self.utf8;
        let rows = |shape| Rows { shape, bytes: Vec::new(), rows: Vec::new(), index: None, next: 0, raw };
        let tables = shapes.into_iter().map(rows).collect();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        *self.log() = Log { on: true, tables, limit, ..Log::default() };
    }

    /// Goes on where it was paused, allowing as many bytes again.
    pub(super) fn resume(&self) {
        let mut log = self.log();
        log.on = true;
        log.limit = log.limit.saturating_mul(2);
        for rows in &mut log.tables {
            rows.next = 0;
        }
    }

    pub(super) fn pause(&self) {
        self.log().on = false;
    }

    /// Forgets everything.
    pub(super) fn rest(&self) {
        *self.log() = Log::default();
    }

    /// Tables written that were not among those announced.
    pub(super) fn strangers(&self) -> BTreeSet<String> {
        self.log().strangers.clone()
    }

    /// Everything that is not as it was before: tables by name, rows by key.
    ///
    /// # Errors
    /// When a write could not be recorded, or all together were too much.
    pub(super) fn changeset(&self) -> rusqlite::Result<Changeset> {
        let mut log = self.log();
        if let Some(error) = log.failed.take() {
            return Err(error);
        }
        let mut tables: Vec<&Rows> = log.tables.iter().collect();
        tables.sort_unstable_by(|a, b| a.shape.name.cmp(&b.shape.name));
        let mut bytes = Vec::new();
        for rows in tables {
            rows.write(&mut bytes);
        }
        Ok(Changeset::from_bytes(bytes))
    }
}

unsafe extern "C" fn hook(
    context: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    schema: *const c_char,
    table: *const c_char,
    from: ffi::sqlite3_int64,
    to: ffi::sqlite3_int64,
) {
    // SAFETY: `context` is the log `Recorder::over` gave; both names are NUL-terminated and valid meanwhile.
    let (log, schema, table) =
        unsafe { (&*context.cast::<Mutex<Log>>(), CStr::from_ptr(schema), CStr::from_ptr(table)) };
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if !log.on || log.failed.is_some() || schema != c"main" {
        return;
    }
    if let Err(error) = log.event(db, op, table.to_bytes(), from, to) {
        log.failed = Some(error);
    }
}

#[cfg(test)]
mod tests;
