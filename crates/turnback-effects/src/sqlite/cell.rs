//! One SQLite value, without loss: as bytes, as JSON, as text for people.
//!
//! In JSON a value is `null`, a number, a string, or an object where those would lose something:
//! `{"integer": "9007199254740993"}` beyond ±2^53, `{"real": "inf"}`, `{"blob": "00ff"}` and, for text
//! that is not UTF-8, `{"text": "66ff"}` (both hexadecimal). The same shapes are accepted as parameters.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};
use serde_json::{Value, json};
use turnback_core::refusal::{Code, Refusal};

/// Integers beyond this do not survive JSON readers that use doubles.
const EXACT: u64 = 1 << 53;

/// One value of one column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    /// As stored; SQLite does not promise UTF-8.
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Cell {
    pub(super) fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(i) => Cell::Integer(i),
            ValueRef::Real(r) => Cell::Real(r),
            ValueRef::Text(t) => Cell::Text(t.to_vec()),
            ValueRef::Blob(b) => Cell::Blob(b.to_vec()),
        }
    }

    pub(super) fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Cell::Null => ValueRef::Null,
            Cell::Integer(i) => ValueRef::Integer(*i),
            Cell::Real(r) => ValueRef::Real(*r),
            Cell::Text(t) => ValueRef::Text(t),
            Cell::Blob(b) => ValueRef::Blob(b),
        }
    }

    /// The value as JSON.
    pub(super) fn json(&self) -> Value {
        match self {
            Cell::Null => Value::Null,
            Cell::Integer(i) if i.unsigned_abs() <= EXACT => json!(i),
            Cell::Integer(i) => json!({ "integer": i.to_string() }),
            Cell::Real(r) if r.is_finite() => json!(r),
            Cell::Real(r) => json!({ "real": r.to_string() }),
            Cell::Text(t) => match std::str::from_utf8(t) {
                Ok(text) => json!(text),
                Err(_) => json!({ "text": hex::encode(t) }),
            },
            Cell::Blob(b) => json!({ "blob": hex::encode(b) }),
        }
    }

    /// The value a JSON parameter means.
    pub(super) fn from_json(value: &Value, place: &str) -> Result<Self, Refusal> {
        let bad = |why: &str| Refusal::new(Code::BadInput, why.to_owned()).at(place);
        match value {
            Value::Null => Ok(Cell::Null),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Ok(Cell::Integer(i)),
                (None, Some(r)) if n.is_f64() => Ok(Cell::Real(r)),
                _ => Err(bad("this number does not fit in 64 bits")),
            },
            Value::String(s) => Ok(Cell::Text(s.clone().into_bytes())),
            Value::Bool(_) => Err(bad("SQLite has no booleans").next("send 0 or 1")),
            Value::Object(map) if map.len() == 1 => {
                let (key, inner) = map.iter().next().ok_or_else(|| bad("an empty object"))?;
                let text = inner.as_str().ok_or_else(|| bad("a string is expected inside the object"))?;
                match key.as_str() {
                    "integer" => text.parse().map(Cell::Integer).map_err(|_| bad("not a 64-bit integer")),
                    "real" => text.parse().map(Cell::Real).map_err(|_| bad("not a number")),
                    "blob" => hex::decode(text).map(Cell::Blob).map_err(|_| bad("not hexadecimal")),
                    "text" => hex::decode(text).map(Cell::Text).map_err(|_| bad("not hexadecimal")),
                    _ => Err(bad("unknown kind of value").next("use integer, real, blob or text")),
                }
            }
            _ => Err(bad("a value is expected: null, a number, a string, or {\"blob\": \"00ff\"}")),
        }
    }

    /// Reads what [`encode`] wrote and moves `input` behind it; `None` when it is cut or altered.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Self> {
        let (tag, rest) = input.split_first()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (bytes, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
        *input = rest;
        Some(match tag {
            0 => Cell::Null,
            1 => Cell::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
            2 => Cell::Real(f64::from_bits(u64::from_be_bytes(bytes.try_into().ok()?))),
            3 => Cell::Text(bytes.to_vec()),
            4 => Cell::Blob(bytes.to_vec()),
            _ => return None,
        })
    }
}

/// The value as an SQL literal people can read; nothing is shortened.
pub(super) fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => format!("{r:?}"),
        ValueRef::Text(t) => format!("'{}'", String::from_utf8_lossy(t).replace('\'', "''")),
        ValueRef::Blob(b) => format!("x'{}'", hex::encode(b)),
    }
}

/// Appends an encoding that no other value shares.
pub(super) fn encode(value: ValueRef<'_>, out: &mut Vec<u8>) {
    let mut long = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        ValueRef::Null => long(0, &[]),
        ValueRef::Integer(i) => long(1, &i.to_be_bytes()),
        ValueRef::Real(r) => long(2, &r.to_bits().to_be_bytes()),
        ValueRef::Text(t) => long(3, t),
        ValueRef::Blob(b) => long(4, b),
    }
}

/// Whether two values are the same in every bit.
pub(super) fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (ValueRef::Real(a), ValueRef::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_json_and_bytes() {
        let cells = [
            Cell::Null,
            Cell::Integer(i64::MIN),
            Cell::Integer(i64::MAX),
            Cell::Integer(1 << 53),
            Cell::Real(0.1),
            Cell::Real(f64::INFINITY),
            Cell::Text(b"it's".to_vec()),
            Cell::Text(vec![0x66, 0xff]),
            Cell::Blob(vec![0, 255]),
        ];
        let mut bytes = Vec::new();
        for cell in &cells {
            assert_eq!(&Cell::from_json(&cell.json(), "p").unwrap(), cell);
            encode(cell.as_ref(), &mut bytes);
        }
        let mut input = bytes.as_slice();
        for cell in &cells {
            assert_eq!(Cell::decode(&mut input).as_ref(), Some(cell));
        }
        assert!(input.is_empty() && Cell::decode(&mut input).is_none());
        assert!(Cell::from_json(&serde_json::json!(true), "p").is_err());
        assert!(Cell::from_json(&serde_json::json!(18_446_744_073_709_551_615_u64), "p").is_err());
    }
}
