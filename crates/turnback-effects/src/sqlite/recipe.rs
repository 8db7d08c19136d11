//! What a commit does, written down: enough to show, observe and undo it after a restart.
//!
//! Owns the recipe's shape and everything read off a changeset: places, digests, counts, the diff.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use turnback_core::digest::{EffectDigest, Sha256};
use turnback_core::effect::{Blast, Fingerprint, Rows, Touch};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::Footprint;

use super::catalog::Object;
use super::cell::{encode, literal};
use super::changeset::{Change, Changeset, Op};
use super::connection::failure;

/// The account of one commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// Row changes, as an artifact in SQLite's changeset format.
    pub(super) changeset: Option<Sha256>,
    /// What every updated row of a table without a key holds as a whole afterwards, as an artifact: its
    /// row number alone does not say that it is still the same row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) whole: Option<Sha256>,
    /// The tables whose rows change.
    pub(super) tables: BTreeMap<String, Touched>,
    /// What happens to the schema.
    pub(super) schema: Option<SchemaChange>,
}

/// A table as it was when its rows changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Touched {
    /// Hash of its `CREATE TABLE`: another one means the changeset may no longer fit.
    pub(super) fingerprint: Sha256,
    /// Column names in the order of the changeset.
    pub(super) columns: Vec<String>,
}

/// Objects before and after; tables among them with their content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SchemaChange {
    pub(super) before: Vec<Object>,
    pub(super) after: Vec<Object>,
    /// Content of the tables in `before`; empty when it was too much to hold.
    pub(super) images: Vec<Image>,
    /// Content digests of the tables in `after`; empty when it was too much to read.
    pub(super) contents: BTreeMap<String, Content>,
    /// AUTOINCREMENT counters of the tables in `before`.
    pub(super) sequences: BTreeMap<String, i64>,
}

/// Rows of a table that is dropped or rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    pub(super) table: String,
    /// The columns each row holds, in order; the first may be the hidden row number.
    pub(super) columns: Vec<String>,
    pub(super) rows: u64,
    pub(super) artifact: Sha256,
    pub(super) digest: Sha256,
}

/// The content of a table, by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    pub(super) rows: u64,
    /// How many columns a row holds, counted as for [`Image::columns`].
    pub(super) columns: u64,
    pub(super) digest: Sha256,
}

impl Recipe {
    pub(super) fn parse(value: &Value) -> Result<Self, Refusal> {
        serde_json::from_value(value.clone())
            .map_err(|e| Refusal::new(Code::Failed, format!("the recipe is not one of this domain: {e}")))
    }

    pub(super) fn columns(&self, table: &str) -> &[String] {
        self.tables.get(table).map_or(&[], |t| t.columns.as_slice())
    }
}

/// A row as people and conflicts name it: `customers 17`, `lines 4,'x'`.
pub(super) fn place<'v>(table: &str, key: impl IntoIterator<Item = ValueRef<'v>>) -> String {
    let key: Vec<String> = key.into_iter().map(literal).collect();
    format!("{table} {}", key.join(","))
}

/// A schema object as people and conflicts name it.
pub(super) fn object_place(object: &Object) -> String {
    format!("{} `{}`", object.kind, object.name)
}

impl<'a> Change<'a> {
    /// The values of the key columns.
    pub(super) fn key_values(&self) -> impl Iterator<Item = ValueRef<'a>> + '_ {
        let side = if self.op == Op::Insert { &self.new } else { &self.old };
        self.key.iter().zip(side).filter(|(key, _)| **key != 0).filter_map(|(_, value)| *value)
    }

    pub(super) fn place(&self) -> String {
        place(self.table, self.key_values())
    }

    /// The columns an update changes.
    pub(super) fn changed(&self) -> impl Iterator<Item = usize> {
        (0..self.key.len()).filter(|i| {
            self.op == Op::Update && self.key.get(*i) == Some(&0) && self.new.get(*i).is_some_and(Option::is_some)
        })
    }

    /// Appends which fields of which row are concerned: everything but the values.
    fn encode_place(&self, out: &mut Vec<u8>) {
        out.push(match self.op {
            Op::Insert => b'+',
            Op::Update => b'~',
            Op::Delete => b'-',
        });
        for value in self.key_values() {
            encode(value, out);
        }
        // A byte each: how many columns there are was said before.
        out.extend(
            self.old.iter().zip(&self.new).map(|(old, new)| u8::from(old.is_some()) | u8::from(new.is_some()) << 1),
        );
    }

    fn side(&self, cells: &[Option<ValueRef<'_>>], exists: bool) -> Option<Fingerprint> {
        exists.then(|| {
            let mut bytes = Vec::new();
            for (at, cell) in cells.iter().enumerate() {
                let counts = self.op != Op::Update || self.key.get(at) == Some(&0);
                if let Some(value) = cell.filter(|_| counts) {
                    bytes.extend_from_slice(&(at as u64).to_be_bytes());
                    encode(value, &mut bytes);
                }
            }
            Fingerprint(Sha256::of(&bytes))
        })
    }

    pub(super) fn touch(&self, columns: &[String]) -> Touch {
        Touch {
            place: self.place(),
            fields: self.changed().filter_map(|i| columns.get(i).cloned()).collect(),
            before: self.side(&self.old, self.op != Op::Insert),
            after: self.side(&self.new, self.op != Op::Delete),
        }
    }

    /// One line, with every value in full.
    pub(super) fn line(&self, columns: &[String]) -> String {
        let name = |i: usize| columns.get(i).map_or("?", String::as_str);
        let value = |cells: &[Option<ValueRef<'_>>], i: usize| {
            cells.get(i).copied().flatten().map_or_else(|| "?".to_owned(), literal)
        };
        match self.op {
            Op::Update => {
                let fields: Vec<String> = self
                    .changed()
                    .map(|i| format!("{} {} → {}", name(i), value(&self.old, i), value(&self.new, i)))
                    .collect();
                format!("~ {}: {}", self.place(), fields.join(", "))
            }
            Op::Insert | Op::Delete => {
                let (sign, cells) = if self.op == Op::Insert { ('+', &self.new) } else { ('-', &self.old) };
                let fields: Vec<String> =
                    (0..self.key.len()).map(|i| format!("{} = {}", name(i), value(cells, i))).collect();
                format!("{sign} {}: ({})", self.place(), fields.join(", "))
            }
        }
    }
}

/// What a changeset and a schema change come to.
pub(super) struct Tally {
    pub(super) blast: Blast,
    pub(super) digest: EffectDigest,
    pub(super) places: EffectDigest,
    pub(super) touches: Vec<Touch>,
    pub(super) more: u64,
    /// Rows changed by triggers and foreign key actions, by table.
    pub(super) indirect: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts and names every change.
    ///
    /// The changeset lists tables and rows in an order that does not depend on how they came to be
    /// changed, so its bytes as they are name the effect.
    pub(super) fn of(changeset: &Changeset, recipe: &Recipe) -> Result<Self, Refusal> {
        let mut tally = Self {
            blast: Blast::default(),
            digest: EffectDigest(Sha256::of(b"")),
            places: EffectDigest(Sha256::of(b"")),
            touches: Vec::new(),
            more: 0,
            indirect: BTreeMap::new(),
        };
        let (mut exact, mut places) = (Vec::new(), Vec::new());
        if let Some(schema) = &recipe.schema {
            tally.schema(schema, &mut exact, &mut places);
        }
        let mut concerned = Vec::new();
        let mut walk = changeset.walk();
        let (mut table, mut rows, mut indirect) = (String::new(), Rows::default(), 0);
        while let Some(change) = walk.next().map_err(|e| failure(&e))? {
            if change.table != table {
                tally.table(&table, std::mem::take(&mut rows), std::mem::take(&mut indirect));
                change.table.clone_into(&mut table);
                encode(ValueRef::Text(table.as_bytes()), &mut concerned);
                encode(ValueRef::Blob(change.key), &mut concerned);
            }
            change.encode_place(&mut concerned);
            indirect += u64::from(change.indirect);
            match change.op {
                Op::Insert => rows.inserted += 1,
                Op::Update => rows.updated += 1,
                Op::Delete => rows.deleted += 1,
            }
            tally.note(|| change.touch(recipe.columns(change.table)));
        }
        tally.table(&table, rows, indirect);
        if let Some(hash) = recipe.changeset {
            exact.push(hash);
            places.push(Sha256::of(&concerned));
        }
        tally.blast.bytes += changeset.bytes.len() as u64;
        let name = |purpose: &str, hashes: &mut Vec<Sha256>| {
            hashes.sort_unstable();
            EffectDigest(Sha256::of_parts(purpose, hashes.iter().map(|h| h.as_bytes().as_slice())))
        };
        tally.digest = name("turnback sqlite effect v2", &mut exact);
        tally.places = name("turnback sqlite places v2", &mut places);
        Ok(tally)
    }

    fn table(&mut self, name: &str, rows: Rows, indirect: u64) {
        if rows != Rows::default() {
            let all = self.blast.rows.entry(name.to_owned()).or_default();
            all.inserted += rows.inserted;
            all.updated += rows.updated;
            all.deleted += rows.deleted;
        }
        if indirect > 0 {
            self.indirect.insert(name.to_owned(), indirect);
        }
    }

    /// Adds changes SQLite counted and the changeset does not hold: rows with NULL in their key, rows of
    /// virtual tables. They count as updates, and another number of them is another effect.
    pub(super) fn unlisted(&mut self, table: &str, rows: u64) {
        self.blast.rows.entry(table.to_owned()).or_default().updated += rows;
        for name in [&mut self.digest, &mut self.places] {
            let parts = [name.0.as_bytes().as_slice(), table.as_bytes(), &rows.to_be_bytes()];
            *name = EffectDigest(Sha256::of_parts("turnback sqlite effect with unlisted rows v1", parts));
        }
    }

    fn note(&mut self, touch: impl FnOnce() -> Touch) {
        if self.touches.len() < Footprint::LISTED {
            self.touches.push(touch());
        } else {
            self.more += 1;
        }
    }

    fn schema(&mut self, schema: &SchemaChange, exact: &mut Vec<Sha256>, places: &mut Vec<Sha256>) {
        for touch in schema.touches() {
            self.note(|| touch);
        }
        self.blast.schema_objects = schema.changed().count() as u64;
        for (object, sign) in schema.changed() {
            let name = format!("{sign} {}", object_place(object));
            exact.push(Sha256::of_parts("turnback object v1", [name.as_bytes(), object.sql.as_bytes()]));
            places.push(Sha256::of_parts("turnback object v1", [name.as_bytes()]));
        }
        for image in &schema.images {
            exact.push(Sha256::of_parts("turnback image v1", [image.table.as_bytes(), image.digest.as_bytes()]));
            let same = |c: &Content| c.digest == image.digest && c.rows == image.rows;
            // A renamed table loses no row, and neither does one that only gains a column.
            let renamed = !schema.contents.contains_key(&image.table) && schema.contents.values().any(same);
            let kept = schema.after.iter().any(|o| o.kind == "table" && o.name == image.table);
            if !renamed && !kept && image.rows > 0 {
                self.blast.rows.entry(image.table.clone()).or_default().deleted += image.rows;
            }
            // Unless the content afterwards was read and holds as many columns, every row counts as changed.
            let narrower =
                schema.contents.get(&image.table).is_none_or(|content| content.columns < image.columns.len() as u64);
            if kept && narrower && image.rows > 0 {
                self.blast.rows.entry(image.table.clone()).or_default().updated += image.rows;
            }
        }
        for (table, content) in &schema.contents {
            exact.push(Sha256::of_parts("turnback content v1", [table.as_bytes(), content.digest.as_bytes()]));
            let existed = schema.images.iter().any(|i| &i.table == table || i.digest == content.digest);
            if !existed && content.rows > 0 {
                self.blast.rows.entry(table.clone()).or_default().inserted += content.rows;
            }
        }
    }
}

impl SchemaChange {
    /// Objects that differ, with `-` before and `+` after; those only rebuilt along with them left out.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&Object, char)> {
        let gone = self.before.iter().filter(|o| !self.after.contains(o)).map(|o| (o, '-'));
        let new = self.after.iter().filter(|o| !self.before.contains(o)).map(|o| (o, '+'));
        gone.chain(new)
    }

    pub(super) fn touches(&self) -> Vec<Touch> {
        let mut touches: BTreeMap<String, Touch> = BTreeMap::new();
        for (object, sign) in self.changed() {
            let place = object_place(object);
            let touch =
                touches.entry(place.clone()).or_insert(Touch { place, fields: Vec::new(), before: None, after: None });
            let print = Some(Fingerprint(Sha256::of(object.sql.as_bytes())));
            if sign == '-' { touch.before = print } else { touch.after = print }
        }
        touches.into_values().collect()
    }
}

/// `4812` as `4,812`.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What is done, in one line with numbers.
pub(super) fn summary(blast: &Blast, indirect: &BTreeMap<String, u64>, schema: Option<&SchemaChange>) -> String {
    let mut parts = Vec::new();
    if let Some(schema) = schema {
        let mut objects: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        for (object, sign) in schema.changed() {
            let entry = objects.entry(object_place(object)).or_default();
            if sign == '-' { entry.0 = true } else { entry.1 = true }
        }
        for (word, kind) in [("creates", (false, true)), ("alters", (true, true)), ("drops", (true, false))] {
            let named: Vec<String> = objects.iter().filter(|(_, k)| **k == kind).map(|(o, _)| o.clone()).collect();
            if !named.is_empty() {
                parts.push(format!("{word} {}", named.join(", ")));
            }
        }
    }
    type Pick = fn(&Rows) -> u64;
    let kinds: [(&str, Pick); 3] =
        [("inserts", |r| r.inserted), ("updates", |r| r.updated), ("deletes", |r| r.deleted)];
    for (word, pick) in kinds {
        let tables: Vec<(&String, u64)> =
            blast.rows.iter().map(|(t, r)| (t, pick(r))).filter(|(_, n)| *n > 0).collect();
        let total: u64 = tables.iter().map(|(_, n)| n).sum();
        let rows = if total == 1 { "row" } else { "rows" };
        let aside = |table: &str, of: u64| {
            let by = indirect.get(table).copied().unwrap_or(0).min(of);
            if by == 0 { String::new() } else { format!(" ({} by cascade or trigger)", number(by)) }
        };
        match tables.as_slice() {
            [] => {}
            [(table, n)] => parts.push(format!("{word} {} {rows} of `{table}`{}", number(*n), aside(table, *n))),
            many => {
                let each: Vec<String> =
                    many.iter().map(|(t, n)| format!("{} of `{t}`{}", number(*n), aside(t, *n))).collect();
                parts.push(format!("{word} {} {rows}: {}", number(total), each.join(", ")));
            }
        }
    }
    if parts.is_empty() { "changes nothing".to_owned() } else { turnback_core::text::visible(&parts.join("; ")) }
}
