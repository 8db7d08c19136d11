use std::collections::BTreeMap;

use proptest::prelude::*;
use rusqlite::config::DbConfig;

use super::super::apply;
use super::super::catalog::{self, Catalog};
use super::super::oracle::Session;
use super::*;

/// A schema with everything a write can drag along, rows in it, and one statement.
#[derive(Clone, Debug)]
struct Case {
    utf16: bool,
    key: usize,
    generated: bool,
    cascade: usize,
    triggers: u8,
    rows: Vec<(u8, u8, u8)>,
    statement: usize,
    at: u8,
    /// What is left out of the inverse, or meddled with after it: then something must be left.
    skew: Option<u8>,
}

fn cases() -> impl Strategy<Value = Case> {
    let rows = prop::collection::vec((0..12_u8, 0..5_u8, 0..9_u8), 0..12);
    (
        (prop::bool::weighted(0.1), 0..8_usize),
        any::<bool>(),
        0..3_usize,
        any::<u8>(),
        rows,
        0..STATEMENTS.len(),
        0..12_u8,
        prop::option::weighted(0.3, any::<u8>()),
    )
        .prop_map(|((utf16, key), generated, cascade, triggers, rows, statement, at, skew)| Case {
            utf16,
            key,
            generated,
            cascade,
            triggers,
            rows,
            statement,
            at,
            skew,
        })
}

const TABLES: [&str; 4] = ["c", "log", "p", "q"];

const STATEMENTS: [&str; 18] = [
    "UPDATE p SET n = n + 1",
    "UPDATE p SET k = k || 'x', n = 2 WHERE n > ?",
    "UPDATE p SET k = ? WHERE n = 3",
    "UPDATE p SET r = n, t = n, x = x'00ff'",
    "UPDATE p SET r = -0.0 WHERE n < ?",
    "UPDATE p SET n = n",
    "DELETE FROM p WHERE n < ?",
    "DELETE FROM p",
    "DELETE FROM log",
    "INSERT OR REPLACE INTO p (k, l, n, r, t) VALUES (?, 1, 7, 3, 4), (2, ?, 8, 0.5, 'u4')",
    "REPLACE INTO p (k, l, n, t) SELECT k, l, n + 1, 'z' || k FROM p",
    "INSERT OR IGNORE INTO p (k, l, n, t) VALUES (?, 2, 1, 'u1'), (9, 9, 9, NULL)",
    "INSERT INTO p (k, l, n) VALUES (?, 3, 5) ON CONFLICT DO UPDATE SET n = 77, r = excluded.n",
    "INSERT INTO p (k, l, n) VALUES (NULL, NULL, 5)",
    "UPDATE c SET p = NULL",
    "DELETE FROM c WHERE p > ?",
    "INSERT INTO q (a, b) SELECT n, t FROM p WHERE true ON CONFLICT DO UPDATE SET b = b || 'y'",
    "UPDATE q SET a = a + 1 WHERE a >= ?",
];

impl Case {
    fn open(&self) -> Connection {
        let c = Connection::open_in_memory().unwrap();
        c.pragma_update(None, "encoding", if self.utf16 { "UTF-16" } else { "UTF-8" }).unwrap();
        let (first, last) = [
            ("k INTEGER PRIMARY KEY, l", ""),
            ("k TEXT PRIMARY KEY, l", ""),
            ("k TEXT NOT NULL PRIMARY KEY, l", "WITHOUT ROWID"),
            ("k, l, PRIMARY KEY (l, k)", ""),
            ("k, l INTEGER, PRIMARY KEY (k, l)", "WITHOUT ROWID"),
            ("k REAL PRIMARY KEY, l", ""),
            ("k, l", ""),
            ("k INTEGER PRIMARY KEY DESC, l", ""),
        ][self.key];
        let (columns, keys) =
            first.split_once(", PRIMARY").map_or((first, String::new()), |(c, k)| (c, format!(", PRIMARY{k}")));
        let generated = if self.generated { ", g AS (n * 2) STORED, v AS (n + 1)" } else { "" };
        let reference = if matches!(self.key, 3 | 4 | 6) { "p" } else { "p REFERENCES p (k)" };
        let reference = match (self.cascade, reference.len() > 1) {
            (0, true) => format!("{reference} ON DELETE CASCADE ON UPDATE CASCADE"),
            (1, true) => format!("{reference} ON DELETE SET NULL ON UPDATE SET DEFAULT"),
            _ => "p".to_owned(),
        };
        c.execute_batch(&format!(
            "CREATE TABLE p ({columns}, n INTEGER{generated}, r REAL, t TEXT UNIQUE, x{keys}) {last};
             CREATE TABLE c (id INTEGER PRIMARY KEY, {reference}, note);
             CREATE TABLE log (what, r REAL);
             CREATE TABLE q (a INTEGER PRIMARY KEY, b, d DEFAULT 'd');"
        ))
        .unwrap();
        for (k, n, t) in &self.rows {
            let unique = if *t < 5 { format!("'u{t}'") } else { "NULL".into() };
            let _ = c.execute(
                &format!("INSERT INTO p (k, l, n, r, t, x) VALUES ({k}, {n}, {n}, {t}, {unique}, x'0{n}')"),
                [],
            );
            let _ = c.execute(&format!("INSERT INTO c (p, note) VALUES ({k}, {n})"), []);
            let _ = c.execute(&format!("INSERT INTO q (a, b) VALUES ({n}, {t})"), []);
            c.execute("INSERT INTO log VALUES ('start', 1)", []).unwrap();
        }
        c.execute_batch("ALTER TABLE q ADD COLUMN late DEFAULT 3").unwrap();
        for (bit, trigger) in [
            "AFTER UPDATE ON p BEGIN INSERT INTO log VALUES (old.k, new.n); END",
            "AFTER DELETE ON p BEGIN UPDATE q SET b = 'gone' WHERE a = old.n; END",
            "BEFORE INSERT ON p BEGIN DELETE FROM log WHERE rowid = new.n; END",
            "AFTER INSERT ON p BEGIN UPDATE p SET n = n + 100 WHERE n = new.n; END",
            "AFTER DELETE ON c BEGIN INSERT INTO log VALUES ('child', 0); END",
            "BEFORE UPDATE ON p WHEN old.n = 4 BEGIN SELECT RAISE(IGNORE); END",
            "AFTER UPDATE ON q BEGIN DELETE FROM q WHERE a = new.a + 1; END",
        ]
        .iter()
        .enumerate()
        {
            if self.triggers >> bit & 1 == 1 {
                c.execute_batch(&format!("CREATE TRIGGER t{bit} {trigger}")).unwrap();
            }
        }
        // The same truth for both: REPLACE runs delete triggers, foreign keys are enforced.
        c.execute_batch("PRAGMA recursive_triggers = ON; PRAGMA foreign_keys = ON; BEGIN").unwrap();
        c
    }

    fn perform(&self, c: &Connection) -> rusqlite::Result<()> {
        let mut statement = c.prepare(STATEMENTS[self.statement])?;
        for at in 1..=statement.parameter_count() {
            statement.raw_bind_parameter(at, self.at)?;
        }
        statement.raw_execute().map(drop)
    }

    /// Takes it back by the extension alone, or as undoing does; not quite when it is skewed.
    fn back(&self, c: &Connection, changes: &Changeset, ours: bool) -> rusqlite::Result<()> {
        c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        let meddle = |first: bool| match self.skew.filter(|skew| (*skew < 128) == first).map(|skew| skew % 5) {
            Some(0) => c.execute_batch("UPDATE p SET n = n - 7 WHERE n % 2 = 0"),
            Some(1) => c.execute_batch("DELETE FROM log WHERE rowid = 2"),
            Some(2) => c.execute_batch("INSERT INTO q (a, b) VALUES (1000, 1)"),
            Some(3) => c.execute_batch("DELETE FROM q WHERE a < 3"),
            Some(_) => c.execute_batch("UPDATE c SET note = 0.0 WHERE id = 1; UPDATE q SET late = -0.0 WHERE a = 1"),
            None => Ok(()),
        };
        meddle(true)?;
        let plain = ours && apply::inverse(c, &*Catalog::now(c, None)?, changes)?.is_some();
        if !plain {
            changes.inverted()?.apply(c, &mut |_| {})?;
        }
        meddle(false)
    }
}

/// Every row of every table, and how often it is there.
fn dump(c: &Connection) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for table in TABLES {
        let keyless = catalog::columns(c, table).unwrap().iter().all(|c| c.key == 0);
        let mut select = c.prepare(&format!("SELECT {}* FROM {table}", if keyless { "rowid, " } else { "" })).unwrap();
        let width = select.column_count();
        let mut found = select.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let cells: Vec<String> = (0..width).map(|i| format!("{:?}", row.get_ref(i).unwrap())).collect();
            *rows.entry(format!("{table} {cells:?}")).or_default() += 1;
        }
    }
    rows
}

/// Changes as text, in no order: only what they are about.
fn list(changes: &Changeset) -> Vec<String> {
    let mut list = Vec::new();
    changes
        .each(|change| {
            list.push(format!("{change:?}"));
            Ok(())
        })
        .unwrap();
    list.sort();
    list
}

fn null_in_key(c: &Connection) -> bool {
    c.query_row("SELECT EXISTS (SELECT 1 FROM p WHERE k IS NULL OR l IS NULL)", [], |r| r.get(0)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]

    /// Our recording and SQLite's agree about an action, and about whether its inverse came to
    /// nothing; both ways of applying it do the same; and nothing left means that the tables are as
    /// before.
    #[test]
    fn recordings_agree(case in cases()) {
        let c = case.open();
        let before = dump(&c);
        let session = Session::start(&c, TABLES).unwrap();
        if case.perform(&c).is_err() {
            return Ok(());
        }
        let expected = session.changeset().unwrap();
        drop(session);
        let nulls = null_in_key(&c);
        let session = Session::start(&c, TABLES).unwrap();
        let back = case.back(&c, &expected, false);
        let left = expected.then(&session.changeset().unwrap()).unwrap();
        drop(session);
        let after = dump(&c);
        drop(c);

        let c = case.open();
        let recorder = Recorder::over(&c, !case.utf16);
        recorder.begin(TABLES.iter().map(|t| Shape::new(t, &catalog::columns(&c, t).unwrap())), u64::MAX);
        case.perform(&c).unwrap();
        recorder.pause();
        let found = recorder.changeset().unwrap();
        // SQLite's recording takes 0.0 and -0.0 for the same; ours does not.
        let zero = |list: Vec<String>| list.iter().any(|line| line.contains("-0.0"));
        if !zero(list(&found)) {
            prop_assert_eq!(list(&found), list(&expected));
        }
        recorder.resume();
        prop_assert_eq!(case.back(&c, &found, true).is_ok(), back.is_ok());
        recorder.pause();
        let ours = recorder.changeset().unwrap();
        prop_assert!(recorder.strangers().is_empty());
        if !zero(list(&ours)) && !zero(list(&found)) {
            prop_assert_eq!(ours.is_empty(), left.is_empty(), "{:?} {:?}", list(&ours), list(&left));
            prop_assert_eq!(dump(&c), after);
        }
        if !nulls {
            prop_assert_eq!(ours.is_empty(), dump(&c) == before, "{:?}", list(&ours));
        }
        drop(c);
        drop(recorder);
    }
}

/// Where SQLite's recording invents a change: 3 to 3.0.
#[test]
fn the_default_of_a_column_added_later_is_not_a_change() {
    let c = Connection::open_in_memory().unwrap();
    c.execute_batch("CREATE TABLE a (id INTEGER PRIMARY KEY, t); INSERT INTO a VALUES (1, 'x')").unwrap();
    c.execute_batch("ALTER TABLE a ADD COLUMN late REAL DEFAULT 3").unwrap();
    let recorder = Recorder::over(&c, true);
    recorder.begin([Shape::new("a", &catalog::columns(&c, "a").unwrap())], u64::MAX);
    c.execute_batch("UPDATE a SET t = 'y'").unwrap();
    let changes = recorder.changeset().unwrap();
    let change = changes.walk().next().unwrap().unwrap().clone();
    assert_eq!((change.old[2], change.new[2]), (None, None));
    drop(c);
}

#[test]
fn tables_nobody_announced_and_too_much_are_noticed() {
    let c = Connection::open_in_memory().unwrap();
    c.execute_batch("CREATE TABLE a (id INTEGER PRIMARY KEY, t); CREATE TABLE b (x)").unwrap();
    let recorder = Recorder::over(&c, true);
    let shape = || Shape::new("a", &catalog::columns(&c, "a").unwrap());
    recorder.begin([shape()], 1 << 20);
    c.execute_batch("INSERT INTO b VALUES (1); INSERT INTO a VALUES (1, 'x')").unwrap();
    recorder.pause();
    c.execute_batch("INSERT INTO a VALUES (2, 'y')").unwrap();
    assert_eq!(recorder.strangers(), ["b".to_owned()].into());
    assert_eq!(list(&recorder.changeset().unwrap()).len(), 1, "nothing is recorded while paused");
    recorder.begin([shape()], 1_000);
    c.execute_batch("INSERT INTO a VALUES (3, hex(zeroblob(2000)))").unwrap();
    let error = recorder.changeset().unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::TooBig));
    drop(c);
}
