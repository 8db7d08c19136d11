//! The few calls into SQLite's library that its Rust wrapper does not offer. All `unsafe`; owns no state.

use std::ffi::{c_int, c_void};
use std::ptr;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

pub(super) fn check(code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
}

pub(super) fn no_memory() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_NOMEM), None)
}

/// The error for more bytes than a limit allows.
pub(super) fn too_big() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None)
}

/// The first bytes of the database file, read through SQLite's own descriptor: opening and closing
/// another one would give up every lock this process holds on the file.
pub(super) fn header(connection: &Connection) -> rusqlite::Result<[u8; 16]> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    let mut head = [0_u8; 16];
    // SAFETY: the handle is valid while `connection` is borrowed; SQLite stores the file object of the
    // main database, which lives as long as the connection.
    check(unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast::<c_void>(),
        )
    })?;
    // SAFETY: a file object SQLite has opened has its methods set; `head` holds the bytes asked for.
    let code = unsafe {
        match file.as_ref().and_then(|f| f.pMethods.as_ref()).and_then(|m| m.xRead) {
            Some(read) => read(file, head.as_mut_ptr().cast::<c_void>(), 16, 0),
            None => ffi::SQLITE_IOERR,
        }
    };
    check(code)?;
    Ok(head)
}

/// Whether deferred foreign keys stand violated in the open transaction, so that COMMIT would fail.
pub(super) fn foreign_keys_violated(connection: &Connection) -> rusqlite::Result<bool> {
    let (mut current, mut high): (c_int, c_int) = (0, 0);
    // SAFETY: the handle is valid while `connection` is borrowed; both out-pointers are valid.
    check(unsafe {
        ffi::sqlite3_db_status(
            connection.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &raw mut current,
            &raw mut high,
            0,
        )
    })?;
    Ok(current != 0)
}

/// Makes `last_insert_rowid()` answer as on a fresh connection.
pub(super) fn forget_last_insert(connection: &Connection) {
    // SAFETY: the handle is valid while `connection` is borrowed.
    unsafe { ffi::sqlite3_set_last_insert_rowid(connection.handle(), 0) };
}

/// A value of SQLite's, for as long as SQLite says it is valid: the caller holds a live one.
///
/// `raw` takes text as it is stored: right only in databases whose encoding is UTF-8, and there it spares
/// a copy with a NUL behind.
pub(super) unsafe fn borrow<'v>(value: *mut ffi::sqlite3_value, raw: bool) -> ValueRef<'v> {
    // SAFETY: the value is live; the text or blob pointer is asked for before its length, as
    // SQLite requires.
    unsafe {
        let bytes = |data: *const c_void| {
            let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
            if data.is_null() || length == 0 { &[][..] } else { std::slice::from_raw_parts(data.cast::<u8>(), length) }
        };
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT if raw => ValueRef::Text(bytes(ffi::sqlite3_value_blob(value))),
            ffi::SQLITE_TEXT => ValueRef::Text(bytes(ffi::sqlite3_value_text(value).cast::<c_void>())),
            ffi::SQLITE_BLOB => ValueRef::Blob(bytes(ffi::sqlite3_value_blob(value))),
            _ => ValueRef::Null,
        }
    }
}
