//! Row changes in the format of SQLite's session extension, read in place and written.
//!
//! ```text
//! 'T' columns(varint) key-flag… name NUL   then for each row:   op indirect record…
//! ```
//!
//! A record holds one value for each column: a type byte, then eight bytes for numbers, a length and the
//! bytes for text and blobs; type 0 stands for a column the change says nothing about. Inserts have the
//! new record, deletes the old one, updates both, with only key and changed columns in the old and only
//! changed columns in the new. Source: `sqlite3session.c`, "Changeset format".
//!
//! Owns the format; never interprets a change.

use rusqlite::ffi;
use rusqlite::types::ValueRef;

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
pub(super) struct Change<'a> {
    pub(super) table: &'a str,
    pub(super) op: Op,
    /// Made by a trigger or a foreign key action.
    pub(super) indirect: bool,
    /// Which columns form the key: not zero for those.
    pub(super) key: &'a [u8],
    pub(super) old: Vec<Option<ValueRef<'a>>>,
    pub(super) new: Vec<Option<ValueRef<'a>>>,
}

/// The changes of one action, at most one for each row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changeset {
    pub(super) bytes: Vec<u8>,
}

impl Changeset {
    pub(super) const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its changes, in order.
    pub(super) fn walk(&self) -> Walk<'_> {
        let change = Change { table: "", op: Op::Insert, indirect: false, key: &[], old: Vec::new(), new: Vec::new() };
        Walk { input: &self.bytes, change }
    }

    /// Hands every change to `each`, in order.
    pub(super) fn each(&self, mut each: impl FnMut(&Change<'_>) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        let mut walk = self.walk();
        while let Some(change) = walk.next()? {
            each(change)?;
        }
        Ok(())
    }
}

/// Goes through a changeset without copying a value.
pub(super) struct Walk<'a> {
    input: &'a [u8],
    change: Change<'a>,
}

impl<'a> Walk<'a> {
    /// The next change, if there is one.
    pub(super) fn next(&mut self) -> rusqlite::Result<Option<&Change<'a>>> {
        if self.input.is_empty() {
            return Ok(None);
        }
        self.step().ok_or_else(|| rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), None))?;
        Ok(Some(&self.change))
    }

    fn step(&mut self) -> Option<()> {
        let input = &mut self.input;
        let mut first = byte(input)?;
        while first == b'T' {
            let columns = usize::try_from(varint(input)?).ok()?;
            self.change.key = take(input, columns)?;
            let end = input.iter().position(|b| *b == 0)?;
            self.change.table = std::str::from_utf8(take(input, end)?).ok()?;
            byte(input)?;
            first = byte(input)?;
        }
        self.change.op = match i32::from(first) {
            ffi::SQLITE_INSERT => Op::Insert,
            ffi::SQLITE_UPDATE => Op::Update,
            ffi::SQLITE_DELETE => Op::Delete,
            _ => return None,
        };
        self.change.indirect = byte(input)? != 0;
        let width = self.change.key.len();
        let mut side = |cells: &mut Vec<_>, there: bool| {
            cells.clear();
            for _ in 0..width {
                cells.push(if there { value(input)? } else { None });
            }
            Some(())
        };
        side(&mut self.change.old, self.change.op != Op::Insert)?;
        side(&mut self.change.new, self.change.op != Op::Delete)
    }
}

fn byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(taken)
}

/// SQLite's numbers of variable length, as far as lengths need them: seven bits a byte, high ones first.
fn varint(input: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for _ in 0..5 {
        let next = byte(input)?;
        number = number.checked_mul(128)? | u32::from(next & 0x7f);
        if next & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// One value; `Some(None)` for a column the change says nothing about, `None` when the input is damaged.
#[allow(clippy::option_option, reason = "the outer one is the error")]
fn value<'a>(input: &mut &'a [u8]) -> Option<Option<ValueRef<'a>>> {
    let kind = i32::from(byte(input)?);
    let mut eight = || take(input, 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    Some(Some(match kind {
        0 => return Some(None),
        ffi::SQLITE_INTEGER => ValueRef::Integer(i64::from_be_bytes(eight()?)),
        ffi::SQLITE_FLOAT => ValueRef::Real(f64::from_bits(u64::from_be_bytes(eight()?))),
        ffi::SQLITE_TEXT | ffi::SQLITE_BLOB => {
            let length = usize::try_from(varint(input)?).ok()?;
            let bytes = take(input, length)?;
            if kind == ffi::SQLITE_TEXT { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
        }
        ffi::SQLITE_NULL => ValueRef::Null,
        _ => return None,
    }))
}

/// Splits the next value off a record, still encoded.
pub(super) fn encoded<'a>(record: &mut &'a [u8]) -> Option<&'a [u8]> {
    let all = *record;
    value(record)?;
    all.get(..all.len() - record.len())
}

/// Begins the changes of a table.
pub(super) fn write_table(out: &mut Vec<u8>, name: &str, key: &[u8]) {
    out.push(b'T');
    write_varint(out, key.len());
    out.extend_from_slice(key);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

/// Begins the change of a row; its records follow.
pub(super) fn write_op(out: &mut Vec<u8>, op: Op, indirect: bool) {
    out.push(match op {
        Op::Insert => 18,
        Op::Update => 23,
        Op::Delete => 9,
    });
    out.push(u8::from(indirect));
}

/// Appends a value to a record.
pub(super) fn write_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    let mut long = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        write_varint(out, bytes.len());
        out.extend_from_slice(bytes);
    };
    match value {
        ValueRef::Text(text) => long(3, text),
        ValueRef::Blob(blob) => long(4, blob),
        ValueRef::Null => out.push(5),
        ValueRef::Integer(i) => {
            out.push(1);
            out.extend_from_slice(&i.to_be_bytes());
        }
        ValueRef::Real(r) => {
            out.push(2);
            out.extend_from_slice(&r.to_bits().to_be_bytes());
        }
    }
}

/// Appends the column a change says nothing about.
pub(super) fn write_nothing(out: &mut Vec<u8>) {
    out.push(0);
}

fn write_varint(out: &mut Vec<u8>, number: usize) {
    let mut shift = 28;
    while shift > 0 {
        if number >> shift != 0 {
            out.push(((number >> shift) & 0x7f) as u8 | 0x80);
        }
        shift -= 7;
    }
    out.push((number & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_survive() {
        for number in [0_u32, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455, 268_435_456, 0x7fff_ffff]
        {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, number as usize);
            let mut input = bytes.as_slice();
            assert_eq!((varint(&mut input), input.len()), (Some(number), 0));
        }
        assert_eq!(varint(&mut [0xff_u8; 9].as_slice()), None, "too long for a length");
    }

    #[test]
    fn a_cut_or_altered_changeset_is_an_error_and_never_more() {
        let mut bytes = Vec::new();
        write_table(&mut bytes, "t", &[1, 0]);
        write_op(&mut bytes, Op::Insert, false);
        write_value(&mut bytes, ValueRef::Integer(7));
        write_value(&mut bytes, ValueRef::Text(b"seven"));
        let whole = Changeset::from_bytes(bytes.clone());
        let mut walk = whole.walk();
        let change = walk.next().unwrap().unwrap();
        assert_eq!((change.table, change.new[1]), ("t", Some(ValueRef::Text(b"seven"))));
        assert!(walk.next().unwrap().is_none());
        for end in 1..bytes.len() {
            let cut = Changeset::from_bytes(bytes[..end].to_vec());
            assert!(cut.each(|_| Ok(())).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0xff;
            let _ = Changeset::from_bytes(altered).each(|_| Ok(()));
        }
    }
}
