//! SQLite's session extension behind safe types: a [`Changeset`] is inverted and applied.
//!
//! Never interprets a change. Recording is [`super::record`]'s; the extension's own is what the tests
//! hold it against. Source: <https://sqlite.org/sessionintro.html>.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

use super::changeset::{Change, Changeset, Op};
use super::raw::{borrow, check, no_memory, too_big};

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
pub(super) struct Clash<'a> {
    pub(super) kind: ClashKind,
    /// The change that was tried; `None` for [`ClashKind::ForeignKey`].
    pub(super) change: Option<Change<'a>>,
    /// The row found instead, where there is one.
    pub(super) found: Vec<Option<ValueRef<'a>>>,
}

/// Copies a buffer SQLite allocated and frees it.
pub(super) fn take(data: *mut c_void, size: c_int) -> Changeset {
    let length = usize::try_from(size).unwrap_or(0);
    let bytes = if data.is_null() || length == 0 {
        Vec::new()
    } else {
        // SAFETY: SQLite returned `data` with exactly `size` bytes.
        unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }.to_vec()
    };
    // SAFETY: `data` came from SQLite's allocator (or is null) and is freed once.
    unsafe { ffi::sqlite3_free(data) };
    Changeset::from_bytes(bytes)
}

impl Changeset {
    pub(super) fn raw(&self) -> rusqlite::Result<(*mut c_void, c_int)> {
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

    /// Applies the changes to the main database. Foreign key actions do not run (otherwise undoing an
    /// insert would cascade away somebody else's child row and report success). A change that clashes is
    /// handed to `clash` and left out; the caller rolls back if it minds.
    pub(super) fn apply(&self, connection: &Connection, clash: &mut dyn FnMut(Clash<'_>)) -> rusqlite::Result<()> {
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

struct Context<'a> {
    clash: &'a mut dyn FnMut(Clash<'_>),
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

/// The change an iterator stands on; valid until it moves.
fn read_change<'i>(iterator: *mut ffi::sqlite3_changeset_iter) -> rusqlite::Result<Change<'i>> {
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
    // iterator moves.
    let (table, key) = unsafe { (CStr::from_ptr(table), std::slice::from_raw_parts(key, count)) };
    let table = table.to_str().map_err(|e| rusqlite::Error::Utf8Error(0, e))?;
    let op = match op {
        ffi::SQLITE_INSERT => Op::Insert,
        ffi::SQLITE_DELETE => Op::Delete,
        _ => Op::Update,
    };
    let empty = || vec![None; count];
    let old = match op {
        Op::Insert => empty(),
        // SAFETY: valid for updates and deletes; the index is below the column count.
        _ => read_row(iterator, count, |i, c, v| unsafe { ffi::sqlite3changeset_old(i, c, v) })?,
    };
    let new = match op {
        Op::Delete => empty(),
        // SAFETY: valid for updates and inserts; the index is below the column count.
        _ => read_row(iterator, count, |i, c, v| unsafe { ffi::sqlite3changeset_new(i, c, v) })?,
    };
    Ok(Change { table, op, indirect: indirect != 0, key, old, new })
}

fn read_row<'i>(
    iterator: *mut ffi::sqlite3_changeset_iter,
    columns: usize,
    get: impl Fn(*mut ffi::sqlite3_changeset_iter, c_int, *mut *mut ffi::sqlite3_value) -> c_int,
) -> rusqlite::Result<Vec<Option<ValueRef<'i>>>> {
    let mut row = Vec::with_capacity(columns);
    for column in 0..columns {
        let mut value = ptr::null_mut();
        check(get(iterator, c_int::try_from(column).unwrap_or(c_int::MAX), &raw mut value))?;
        // SAFETY: the iterator owns the value until it moves.
        row.push(if value.is_null() { None } else { Some(unsafe { borrow(value, false) }) });
    }
    Ok(row)
}
