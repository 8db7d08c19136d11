//! SQLite's session extension behind safe types.
//!
//! Owns every `unsafe` line of this domain: [`Session`] records row changes, [`Changeset`] holds them,
//! is read, inverted and applied. Never interprets a change. Source: <https://sqlite.org/sessionintro.html>.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;

use rusqlite::{Connection, ffi};

use super::cell::Cell;

/// What a change does to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Insert,
    Update,
    Delete,
}

/// One row's change. `old` and `new` hold a value for every column the change speaks about: all columns
/// for inserts and deletes, key and changed columns for updates.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) table: String,
    pub(super) op: Op,
    /// Made by a trigger or a foreign key action.
    pub(super) indirect: bool,
    /// Which columns form the key.
    pub(super) key: Vec<bool>,
    pub(super) old: Vec<Option<Cell>>,
    pub(super) new: Vec<Option<Cell>>,
}

/// What stood against one change while a changeset was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClashKind {
    /// The row is there with other values.
    Data,
    /// The row is not there.
    NotFound,
    /// Another row has the key.
    Exists,
    /// A unique, check or not-null constraint.
    Constraint,
    /// Deferred foreign keys are violated at the end of the changeset.
    ForeignKey,
}

/// One change that could not be applied.
#[derive(Debug)]
pub(super) struct Clash {
    pub(super) kind: ClashKind,
    /// The change that was tried; `None` for [`ClashKind::ForeignKey`].
    pub(super) change: Option<Change>,
    /// The row found instead, where there is one.
    pub(super) found: Vec<Option<Cell>>,
}

fn check(code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
}

fn no_memory() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_NOMEM), None)
}

/// The error for more bytes than a limit allows.
pub(super) fn too_big() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None)
}

/// Records changes of the attached tables made through one connection, from its creation on.
pub(super) struct Session<'c> {
    raw: *mut ffi::sqlite3_session,
    // The session must be deleted before its connection is closed.
    connection: PhantomData<&'c Connection>,
}

impl<'c> Session<'c> {
    /// Starts recording `tables` of the main database, also those without a declared key.
    ///
    /// Statements must be prepared afterwards: SQLite decides at prepare time whether a whole table may
    /// be cleared without looking at its rows.
    pub(super) fn start<'t>(
        connection: &'c Connection,
        tables: impl IntoIterator<Item = &'t str>,
    ) -> rusqlite::Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the handle is valid while `connection` is borrowed, and the name is NUL-terminated.
        check(unsafe { ffi::sqlite3session_create(connection.handle(), c"main".as_ptr(), &raw mut raw) })?;
        let session = Self { raw, connection: PhantomData };
        let mut on: c_int = 1;
        // SAFETY: `raw` is a live session; the option takes a pointer to an int.
        check(unsafe {
            ffi::sqlite3session_object_config(raw, ffi::SQLITE_SESSION_OBJCONFIG_ROWID, (&raw mut on).cast::<c_void>())
        })?;
        for table in tables {
            let name = CString::new(table)?;
            // SAFETY: `raw` is a live session, `name` is NUL-terminated and copied by the callee.
            check(unsafe { ffi::sqlite3session_attach(raw, name.as_ptr()) })?;
        }
        Ok(session)
    }

    /// The net changes up to now.
    pub(super) fn changeset(&self) -> rusqlite::Result<Changeset> {
        let mut size: c_int = 0;
        let mut data = ptr::null_mut();
        // SAFETY: `raw` is a live session; both out-pointers are valid.
        check(unsafe { ffi::sqlite3session_changeset(self.raw, &raw mut size, &raw mut data) })?;
        Ok(take(data, size))
    }

    /// Bytes the recording holds in memory.
    pub(super) fn memory(&self) -> u64 {
        // SAFETY: `raw` is a live session.
        let bytes = unsafe { ffi::sqlite3session_memory_used(self.raw) };
        u64::try_from(bytes).unwrap_or(0)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: created by `start`, deleted once, and the connection is still open.
        unsafe { ffi::sqlite3session_delete(self.raw) };
    }
}

/// Copies a buffer SQLite allocated and frees it.
fn take(data: *mut c_void, size: c_int) -> Changeset {
    let length = usize::try_from(size).unwrap_or(0);
    let bytes = if data.is_null() || length == 0 {
        Vec::new()
    } else {
        // SAFETY: SQLite returned `data` with exactly `size` bytes.
        unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }.to_vec()
    };
    // SAFETY: `data` came from SQLite's allocator (or is null) and is freed once.
    unsafe { ffi::sqlite3_free(data) };
    Changeset { bytes }
}

/// Row changes in SQLite's own format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changeset {
    bytes: Vec<u8>,
}

impl Changeset {
    pub(super) const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn raw(&self) -> rusqlite::Result<(*mut c_void, c_int)> {
        let size = c_int::try_from(self.bytes.len()).map_err(|_| too_big())?;
        Ok((self.bytes.as_ptr().cast_mut().cast::<c_void>(), size))
    }

    /// The changes that take this one back.
    pub(super) fn inverted(&self) -> rusqlite::Result<Self> {
        if self.is_empty() {
            return Ok(self.clone());
        }
        let (data, length) = self.raw()?;
        let mut size: c_int = 0;
        let mut out = ptr::null_mut();
        // SAFETY: `data` holds `length` bytes and is only read; both out-pointers are valid.
        check(unsafe { ffi::sqlite3changeset_invert(length, data, &raw mut size, &raw mut out) })?;
        Ok(take(out, size))
    }

    /// What this changeset and then `next` come to together: empty when the one takes the other back.
    ///
    /// Two recordings joined, not one that spans both: for tables without a declared key SQLite 3.54.1
    /// hashes a row differently once its table of rows has grown (at 128), and a row touched on both
    /// sides of that would be counted twice.
    pub(super) fn then(&self, next: &Self) -> rusqlite::Result<Self> {
        let ((first, first_length), (second, second_length)) = (self.raw()?, next.raw()?);
        let mut size: c_int = 0;
        let mut out = ptr::null_mut();
        // SAFETY: both buffers hold their lengths and are only read; both out-pointers are valid.
        check(unsafe {
            ffi::sqlite3changeset_concat(first_length, first, second_length, second, &raw mut size, &raw mut out)
        })?;
        Ok(take(out, size))
    }

    /// Hands every change to `each`, in the changeset's order.
    pub(super) fn each(&self, mut each: impl FnMut(Change) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (data, length) = self.raw()?;
        let mut walk = Walk { raw: ptr::null_mut() };
        // SAFETY: `data` holds `length` bytes and outlives the iterator, which is finalized in `Walk::drop`.
        check(unsafe { ffi::sqlite3changeset_start(&raw mut walk.raw, length, data) })?;
        loop {
            // SAFETY: `walk.raw` is a live iterator.
            match unsafe { ffi::sqlite3changeset_next(walk.raw) } {
                ffi::SQLITE_ROW => each(read_change(walk.raw)?)?,
                ffi::SQLITE_DONE => return Ok(()),
                code => {
                    check(code)?;
                    return Err(no_memory());
                }
            }
        }
    }

    /// Applies the changes to the main database. Foreign key actions do not run (otherwise undoing an
    /// insert would cascade away somebody else's child row and report success). A change that clashes is
    /// handed to `clash` and left out; the caller rolls back if it minds.
    pub(super) fn apply(&self, connection: &Connection, clash: &mut dyn FnMut(Clash)) -> rusqlite::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (data, length) = self.raw()?;
        let mut context = Context { clash, failed: None };
        // SAFETY: the handle is valid while `connection` is borrowed; `data` holds `length` bytes and is
        // only read; `context` outlives the call and is used by `on_conflict` alone during it.
        let code = unsafe {
            ffi::sqlite3changeset_apply_v2(
                connection.handle(),
                length,
                data,
                None,
                Some(on_conflict),
                (&raw mut context).cast::<c_void>(),
                ptr::null_mut(),
                ptr::null_mut(),
                ffi::SQLITE_CHANGESETAPPLY_FKNOACTION,
            )
        };
        if let Some(error) = context.failed {
            return Err(error);
        }
        if code == ffi::SQLITE_OK {
            return Ok(());
        }
        // SAFETY: the handle is valid; SQLite returns a NUL-terminated text, copied at once.
        let why = unsafe { CStr::from_ptr(ffi::sqlite3_errmsg(connection.handle())) }.to_string_lossy().into_owned();
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(why)))
    }
}

struct Walk {
    raw: *mut ffi::sqlite3_changeset_iter,
}

impl Drop for Walk {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: started by `sqlite3changeset_start`, finalized once.
            unsafe { ffi::sqlite3changeset_finalize(self.raw) };
        }
    }
}

struct Context<'a> {
    clash: &'a mut dyn FnMut(Clash),
    failed: Option<rusqlite::Error>,
}

unsafe extern "C" fn on_conflict(
    context: *mut c_void,
    kind: c_int,
    iterator: *mut ffi::sqlite3_changeset_iter,
) -> c_int {
    // SAFETY: `context` is the `Context` that `apply` keeps alive, and nobody else uses it meanwhile.
    let context = unsafe { &mut *context.cast::<Context<'_>>() };
    let kind = match kind {
        ffi::SQLITE_CHANGESET_DATA => ClashKind::Data,
        ffi::SQLITE_CHANGESET_NOTFOUND => ClashKind::NotFound,
        ffi::SQLITE_CHANGESET_CONFLICT => ClashKind::Exists,
        ffi::SQLITE_CHANGESET_FOREIGN_KEY => ClashKind::ForeignKey,
        _ => ClashKind::Constraint,
    };
    if kind == ClashKind::ForeignKey {
        (context.clash)(Clash { kind, change: None, found: Vec::new() });
        return ffi::SQLITE_CHANGESET_OMIT;
    }
    let read = read_change(iterator).and_then(|change| {
        let found = if matches!(kind, ClashKind::Data | ClashKind::Exists) {
            // SAFETY: SQLite documents `sqlite3changeset_conflict` as valid for exactly these two kinds.
            read_row(iterator, change.key.len(), |i, c, v| unsafe { ffi::sqlite3changeset_conflict(i, c, v) })?
        } else {
            Vec::new()
        };
        Ok((change, found))
    });
    match read {
        Ok((change, found)) => {
            (context.clash)(Clash { kind, change: Some(change), found });
            ffi::SQLITE_CHANGESET_OMIT
        }
        Err(error) => {
            context.failed = Some(error);
            ffi::SQLITE_CHANGESET_ABORT
        }
    }
}

fn read_change(iterator: *mut ffi::sqlite3_changeset_iter) -> rusqlite::Result<Change> {
    let mut table: *const c_char = ptr::null();
    let (mut columns, mut op, mut indirect): (c_int, c_int, c_int) = (0, 0, 0);
    // SAFETY: the iterator stands on a change; all out-pointers are valid.
    check(unsafe {
        ffi::sqlite3changeset_op(iterator, &raw mut table, &raw mut columns, &raw mut op, &raw mut indirect)
    })?;
    let mut key: *mut u8 = ptr::null_mut();
    let mut key_columns: c_int = 0;
    // SAFETY: as above.
    check(unsafe { ffi::sqlite3changeset_pk(iterator, &raw mut key, &raw mut key_columns) })?;
    let count = usize::try_from(columns).unwrap_or(0);
    if table.is_null() || key.is_null() || key_columns != columns {
        return Err(no_memory());
    }
    // SAFETY: SQLite returned a NUL-terminated name and one byte per column, both valid until the
    // iterator moves; both are copied here.
    let (table, key) = unsafe {
        (
            CStr::from_ptr(table).to_string_lossy().into_owned(),
            std::slice::from_raw_parts(key, count).iter().map(|k| *k != 0).collect(),
        )
    };
    let op = match op {
        ffi::SQLITE_INSERT => Op::Insert,
        ffi::SQLITE_DELETE => Op::Delete,
        _ => Op::Update,
    };
    let empty = || vec![None; count];
    // SAFETY (both closures): SQLite documents `old` as valid for updates and deletes, `new` for updates
    // and inserts; the index is below the column count.
    let old = match op {
        Op::Insert => empty(),
        // SAFETY: see above.
        _ => read_row(iterator, count, |i, c, v| unsafe { ffi::sqlite3changeset_old(i, c, v) })?,
    };
    let new = match op {
        Op::Delete => empty(),
        // SAFETY: see above.
        _ => read_row(iterator, count, |i, c, v| unsafe { ffi::sqlite3changeset_new(i, c, v) })?,
    };
    Ok(Change { table, op, indirect: indirect != 0, key, old, new })
}

fn read_row(
    iterator: *mut ffi::sqlite3_changeset_iter,
    columns: usize,
    get: impl Fn(*mut ffi::sqlite3_changeset_iter, c_int, *mut *mut ffi::sqlite3_value) -> c_int,
) -> rusqlite::Result<Vec<Option<Cell>>> {
    let mut row = Vec::with_capacity(columns);
    for column in 0..columns {
        let mut value = ptr::null_mut();
        check(get(iterator, c_int::try_from(column).unwrap_or(c_int::MAX), &raw mut value))?;
        row.push(if value.is_null() { None } else { Some(read_value(value)) });
    }
    Ok(row)
}

fn read_value(value: *mut ffi::sqlite3_value) -> Cell {
    // SAFETY: `value` is a protected value owned by the iterator and valid until it moves; the text or
    // blob pointer is asked for before its length, as SQLite requires, and the bytes are copied.
    unsafe {
        let bytes = |data: *const c_void| {
            let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
            if data.is_null() || length == 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(data.cast::<u8>(), length).to_vec()
            }
        };
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => Cell::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => Cell::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => Cell::Text(bytes(ffi::sqlite3_value_text(value).cast::<c_void>())),
            ffi::SQLITE_BLOB => Cell::Blob(bytes(ffi::sqlite3_value_blob(value))),
            _ => Cell::Null,
        }
    }
}
