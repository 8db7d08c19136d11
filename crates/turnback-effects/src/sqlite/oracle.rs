//! SQLite's own recording of row changes, for tests to hold ours against.

use std::ffi::{CString, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;

use rusqlite::{Connection, ffi};

use super::changeset::Changeset;
use super::raw::check;
use super::session::take;

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
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: created by `start`, deleted once, and the connection is still open.
        unsafe { ffi::sqlite3session_delete(self.raw) };
    }
}

impl Changeset {
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
}
