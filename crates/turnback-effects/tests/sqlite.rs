//! The SQLite domain against the laws and against the cases that break naive implementations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers too"
)]

mod laws;

use std::path::PathBuf;
use std::time::Duration;

use laws::{Blobs, Call, Look, World, call, conflicts, contract, done, new_run, perform, stage, try_done, undo};
use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::Value as Sql;
use serde_json::{Value, json};
use tempfile::TempDir;
use turnback_core::refusal::Code;
use turnback_core::rollback::{Completeness, Level};
use turnback_core::run::{Outcome, Standing};
use turnback_effects::sqlite::Sqlite;
use turnback_effects::{Bounds, Domain, UndoRefused, Undone};

/// A database in a directory of its own.
struct Db {
    dir: TempDir,
}

impl Db {
    fn new(sql: &str) -> Self {
        let db = Self { dir: tempfile::tempdir().unwrap() };
        // The file itself does not remember foreign keys; the domain must switch them on.
        db.human(&format!("PRAGMA foreign_keys = OFF; PRAGMA journal_mode = WAL; {sql}"));
        db
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("shop.db")
    }

    fn connection(&self) -> Connection {
        let c = Connection::open(self.path()).unwrap();
        c.busy_timeout(Duration::from_secs(5)).unwrap();
        c
    }

    /// Somebody else writes.
    fn human(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    fn one(&self, sql: &str) -> Sql {
        self.connection().query_row(sql, [], |r| r.get(0)).unwrap()
    }

    fn domain(&self) -> Sqlite {
        Sqlite::open(&self.path()).unwrap()
    }
}

impl World for Db {
    fn open(&self) -> Box<dyn Domain> {
        Box::new(self.domain())
    }

    fn look(&self) -> Look {
        let c = self.connection();
        let mut look = Look::new();
        let mut schema = c
            .prepare("SELECT type, name, sql FROM sqlite_schema WHERE tbl_name NOT LIKE '\\_turnback%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
            .unwrap();
        let objects: Vec<(String, String, String)> =
            schema.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap().map(Result::unwrap).collect();
        for (kind, name, sql) in objects {
            look.insert(format!("{kind} {name}"), sql);
            if kind != "table" {
                continue;
            }
            let keyed: i64 =
                c.query_row("SELECT count(*) FROM pragma_table_info(?1) WHERE pk > 0", [&name], |r| r.get(0)).unwrap();
            let hidden = if keyed == 0 { "rowid, " } else { "" };
            let mut rows = c.prepare(&format!("SELECT {hidden}* FROM \"{name}\"")).unwrap();
            let width = rows.column_count();
            let mut rows = rows.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let cells: Vec<Sql> = (0..width).map(|i| row.get(i).unwrap()).collect();
                let count = look.entry(format!("{name} {cells:?}")).or_insert_with(|| "0".into());
                *count = (count.parse::<u32>().unwrap() + 1).to_string();
            }
        }
        look
    }

    fn kept(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| !n.ends_with("-wal") && !n.ends_with("-shm")).collect()
    }
}

const SHOP: &str = "
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE, credit REAL DEFAULT 0);
    CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE,
                         total INTEGER NOT NULL, twice INTEGER GENERATED ALWAYS AS (total * 2) STORED);
    CREATE TABLE lines (item TEXT, at INTEGER, amount INTEGER, PRIMARY KEY (item, at)) WITHOUT ROWID;
    CREATE TABLE audit (what TEXT, who INTEGER);
    CREATE INDEX orders_by_customer ON orders (customer);
    CREATE VIEW rich AS SELECT * FROM customers WHERE credit > 10;
    CREATE TRIGGER customer_gone AFTER DELETE ON customers BEGIN INSERT INTO audit VALUES ('gone', old.id); END;
    CREATE TRIGGER customer_changed AFTER UPDATE ON customers BEGIN INSERT INTO audit VALUES ('changed', old.id); END;
    INSERT INTO customers VALUES (1, 'Ann', 'ann@x', 5), (2, 'Bob', 'bob@x', 50), (3, 'Cy', NULL, 0.5);
    INSERT INTO orders (customer, total) VALUES (1, 10), (1, 20), (2, 30);
    INSERT INTO lines VALUES ('pen', 1, 5), ('pen', 2, 6), ('cup', 1, 7);
    INSERT INTO audit VALUES ('start', 0), ('start', 0);
";

fn execute(sql: &str) -> Call {
    call("execute", json!({ "sql": sql }))
}

fn with(sql: &str, params: Value) -> Call {
    call("execute", json!({ "sql": sql, "params": params }))
}

fn ask(db: &Db, sql: &str) -> Value {
    laws::read(&db.domain(), &call("query", json!({ "sql": sql }))).unwrap().reply
}

/// Statements of every kind, each provable.
const PROVABLE: &[&str] = &[
    "UPDATE customers SET email = 'new@x' WHERE id = 1",
    "UPDATE customers SET id = id + 100",
    "UPDATE orders SET total = total + 1",
    "DELETE FROM customers WHERE id = 1",
    "DELETE FROM audit",
    "DELETE FROM customers",
    "INSERT INTO customers (name, email) VALUES ('Di', 'di@x') RETURNING id, name",
    "INSERT INTO customers (id, name, email) VALUES (1, 'Al', 'al@x') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "INSERT OR REPLACE INTO customers (id, name, email) VALUES (9, 'Al', 'ann@x')",
    "REPLACE INTO lines VALUES ('pen', 1, 50), ('ink', 1, 1)",
    "UPDATE lines SET at = at + 10, amount = NULL",
    "WITH big AS (SELECT id FROM orders WHERE total > 15) DELETE FROM orders WHERE id IN big",
    "INSERT INTO audit SELECT name, id FROM customers",
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)",
    "CREATE TABLE copy AS SELECT * FROM customers",
    "CREATE INDEX by_total ON orders (total)",
    "CREATE VIEW poor AS SELECT * FROM customers WHERE credit < 1",
    "CREATE TRIGGER t AFTER INSERT ON lines BEGIN DELETE FROM audit; END",
    "DROP TABLE orders",
    "DROP TABLE customers",
    "DROP TABLE lines",
    "DROP TABLE audit",
    "DROP INDEX orders_by_customer",
    "DROP VIEW rich",
    "DROP TRIGGER customer_gone",
    "ALTER TABLE customers ADD COLUMN phone TEXT DEFAULT 'none'",
    "ALTER TABLE customers RENAME TO clients",
    "ALTER TABLE customers RENAME COLUMN credit TO balance",
    "ALTER TABLE lines DROP COLUMN amount",
];

#[test]
fn laws_hold_for_every_kind_of_statement() {
    for sql in PROVABLE {
        println!("{sql}");
        let (db, call, blobs) = (Db::new(SHOP), execute(sql), Blobs::default());
        laws::staging_is_invisible(&db, &call);
        laws::staging_twice_is_the_same(&db, &call);
        laws::late_permit_commits_nothing(&db, &call);
        let done = laws::commit_is_what_was_staged(&db, &blobs, &call);
        assert_eq!(done.measurement.plan.level(), Level::Proved, "{sql}: {}", done.measurement.plan.evidence);
        laws::undo_restores(&Db::new(SHOP), &Blobs::default(), &[call]);
    }
}

#[test]
fn several_runs_are_undone_together() {
    let calls = [
        execute("INSERT INTO customers (id, name) VALUES (7, 'Gil')"),
        execute("INSERT INTO orders (customer, total) VALUES (7, 70)"),
        execute("ALTER TABLE orders ADD COLUMN note TEXT"),
        execute("UPDATE orders SET note = 'x', total = 71 WHERE customer = 7"),
        execute("DELETE FROM customers WHERE id = 7"),
        execute("DROP TABLE customers"),
    ];
    laws::undo_restores(&Db::new(SHOP), &Blobs::default(), &calls);
}

#[test]
fn a_rollback_journal_works_too() {
    let db = Db::new(&format!("PRAGMA journal_mode = DELETE; {SHOP}"));
    laws::undo_restores(&db, &Blobs::default(), &[execute("DELETE FROM customers WHERE id = 1")]);
}

#[test]
fn the_effect_is_measured_in_numbers() {
    let db = Db::new(SHOP);
    let staged = stage(&db.domain(), new_run(), &execute("DELETE FROM customers WHERE id = 1")).unwrap();
    let rows = &staged.effect.blast.rows;
    assert_eq!((rows["customers"].deleted, rows["orders"].deleted, rows["audit"].inserted), (1, 2, 1));
    assert_eq!(
        staged.effect.summary,
        "inserts 1 row of `audit` (1 by cascade or trigger); deletes 3 rows: 1 of `customers`, 2 of `orders` (2 by cascade or trigger)"
    );
    assert_eq!(staged.plan.footprint.completeness, Completeness::Closed);
    drop(staged);
    let staged = stage(&db.domain(), new_run(), &execute("DROP TABLE orders")).unwrap();
    assert_eq!((staged.effect.blast.rows["orders"].deleted, staged.effect.blast.schema_objects), (3, 2));
    drop(staged);
    let staged = stage(&db.domain(), new_run(), &execute("ALTER TABLE orders RENAME TO sales")).unwrap();
    assert_eq!(staged.effect.blast.rows_total(), 0, "{:?}", staged.effect.blast);
    drop(staged);
    let staged = stage(&db.domain(), new_run(), &execute("ALTER TABLE orders ADD COLUMN note TEXT")).unwrap();
    assert_eq!(staged.effect.blast.rows_total(), 0, "{:?}", staged.effect.blast);
    drop(staged);
    let staged = stage(&db.domain(), new_run(), &execute("ALTER TABLE lines DROP COLUMN amount")).unwrap();
    assert_eq!(staged.effect.blast.rows["lines"].updated, 3);
}

#[test]
fn what_cannot_be_listed_is_counted_all_the_same() {
    let db = Db::new(
        "CREATE TABLE tags (name TEXT PRIMARY KEY, n INTEGER); CREATE VIRTUAL TABLE words USING fts5(body);
         INSERT INTO tags VALUES (NULL, 1), (NULL, 2), ('a', 3);",
    );
    let domain = db.domain();
    let effect = |sql: &str| stage(&domain, new_run(), &execute(sql)).unwrap().effect;
    for (sql, rows, words) in [
        ("INSERT INTO tags VALUES (NULL, 5)", 1, "changes 1 rows of `tags` that cannot be listed"),
        ("DELETE FROM tags", 3, "deletes 1 row of `tags`; changes 2 rows of `tags` that cannot be listed"),
    ] {
        let effect = effect(sql);
        assert_eq!((effect.blast.rows_total(), effect.summary.as_str()), (rows, words), "{sql}");
    }
    let words = effect("INSERT INTO words VALUES ('hello')");
    assert!(words.blast.rows_total() > 0 && words.summary.contains("of `words` that cannot be listed"), "{words:?}");
    // What a person approved names how many there were.
    assert_ne!(effect("DELETE FROM tags WHERE n = 1").digest, effect("DELETE FROM tags WHERE n < 3").digest);
    assert_eq!(effect("DELETE FROM tags WHERE n = 9").summary, "changes nothing");
}

#[test]
fn dropping_a_parent_measures_the_cascade() {
    let db = Db::new(SHOP);
    let staged = stage(&db.domain(), new_run(), &execute("DROP TABLE customers")).unwrap();
    assert_eq!(staged.effect.blast.rows["orders"].deleted, 3);
    assert_eq!(staged.effect.blast.rows["customers"].deleted, 3);
}

#[test]
fn the_diff_shows_old_and_new_values() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let domain = db.domain();
    let run = done(&domain, &blobs, &execute("UPDATE customers SET email = 'it''s', credit = 6 WHERE id = 1"));
    let diff = domain.diff(&run.measurement, &blobs).unwrap();
    assert!(diff.contains("~ customers 1: email 'ann@x' → 'it''s', credit 5.0 → 6.0\n"), "{diff}");
    assert!(diff.contains("+ audit 3: (_rowid_ = 3, what = 'changed', who = 1)\n"), "{diff}");
    let run = done(&domain, &blobs, &execute("DELETE FROM lines WHERE item = 'cup'"));
    assert_eq!(domain.diff(&run.measurement, &blobs).unwrap(), "- lines 'cup',1: (item = 'cup', at = 1, amount = 7)\n");
}

#[test]
fn undo_refuses_and_names_the_row_a_human_changed() {
    let call = [execute("UPDATE customers SET credit = 6, name = 'Anna' WHERE id = 1")];
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    laws::undo_refuses_when_moved(
        &db,
        &blobs,
        &call,
        &|| db.human("UPDATE customers SET credit = 7 WHERE id = 1"),
        "customers 1",
    );
    let run = done(&db.domain(), &blobs, &execute("UPDATE customers SET credit = 8, name = 'Bo' WHERE id IN (1, 2)"));
    db.human("UPDATE customers SET credit = 9");
    let found = conflicts(&db.domain(), &blobs, &[run]);
    let named: Vec<(&str, &[String], &str)> =
        found.iter().map(|c| (c.place.as_str(), c.fields.as_slice(), c.why.as_str())).collect();
    let credit = ["credit".to_owned()];
    assert_eq!(named, [("customers 1", &credit[..], "changed since"), ("customers 2", &credit[..], "changed since")]);
}

#[test]
fn undo_of_an_update_concerns_only_its_columns() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let run = done(&db.domain(), &blobs, &execute("UPDATE customers SET credit = 6 WHERE id = 1"));
    db.human("DROP TRIGGER customer_changed; UPDATE customers SET name = 'Anna' WHERE id = 1");
    undo(&db.domain(), &blobs, &[run]);
    assert_eq!(db.one("SELECT name || credit FROM customers WHERE id = 1"), Sql::Text("Anna5.0".into()));
}

#[test]
fn undo_never_takes_another_row_for_one_without_a_key() {
    const NOTES: &str =
        "CREATE TABLE notes (who, state); INSERT INTO notes VALUES ('a', 'open'), ('b', 'open'), ('c', 'shut');";
    for (update, human) in [
        // A freed row number is given out again.
        (
            "UPDATE notes SET state = 'late' WHERE who = 'c'",
            "DELETE FROM notes WHERE who = 'c'; INSERT INTO notes VALUES ('new', 'late')",
        ),
        // Row numbers are handed round.
        ("UPDATE notes SET state = 'shut' WHERE who = 'b'", "DELETE FROM notes WHERE who = 'a'; VACUUM"),
    ] {
        let (db, blobs) = (Db::new(NOTES), Blobs::default());
        let run = done(&db.domain(), &blobs, &execute(update));
        db.human(human);
        let before = db.look();
        let found = conflicts(&db.domain(), &blobs, &[run]);
        assert!(found[0].place.starts_with("notes ") && found[0].why.starts_with("changed since"), "{found:?}");
        assert_eq!(db.look(), before);
    }
    let (db, blobs) = (Db::new(NOTES), Blobs::default());
    let before = db.look();
    let first = done(&db.domain(), &blobs, &execute("UPDATE notes SET state = 'late'"));
    let second = done(&db.domain(), &blobs, &execute("UPDATE notes SET who = who || 'x'"));
    undo(&db.domain(), &blobs, &[first, second]);
    assert_eq!(db.look(), before);
}

#[test]
fn undo_never_takes_a_humans_child_row_along() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let run = done(&db.domain(), &blobs, &execute("INSERT INTO customers (id, name) VALUES (17, 'Gil')"));
    db.human("INSERT INTO orders (id, customer, total) VALUES (5, 17, 1)");
    let before = db.look();
    let found = conflicts(&db.domain(), &blobs, &[run]);
    assert_eq!((found[0].place.as_str(), found[0].why.as_str()), ("customers 17", "is referenced by orders row 5"));
    assert_eq!(db.look(), before);
}

#[test]
fn undo_refuses_when_a_parent_is_gone() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let run = done(&db.domain(), &blobs, &execute("DELETE FROM orders WHERE id = 3"));
    db.human("DELETE FROM customers WHERE id = 2");
    let found = conflicts(&db.domain(), &blobs, &[run]);
    assert_eq!(
        (found[0].place.as_str(), found[0].why.as_str()),
        ("orders 3", "references customers 2, which is not there")
    );
}

#[test]
fn undo_refuses_when_a_key_is_taken_again() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let run = done(&db.domain(), &blobs, &execute("DELETE FROM customers WHERE id = 3"));
    db.human("INSERT INTO customers (id, name) VALUES (3, 'Other')");
    let found = conflicts(&db.domain(), &blobs, std::slice::from_ref(&run));
    assert!(found.iter().any(|c| c.place == "customers 3" && c.why == "exists again"), "{found:?}");
    db.human("DELETE FROM customers WHERE id = 3; DELETE FROM audit WHERE rowid > 3");
    undo(&db.domain(), &blobs, &[run]);

    let run = done(&db.domain(), &blobs, &execute("DELETE FROM customers WHERE id = 1"));
    db.human("INSERT INTO customers (id, name, email) VALUES (50, 'Thief', 'ann@x')");
    let found = conflicts(&db.domain(), &blobs, &[run]);
    assert!(
        found.iter().any(|c| c.place == "customers 1" && c.why.starts_with("cannot come back: a unique")),
        "{found:?}"
    );
}

#[test]
fn undo_refuses_when_a_column_was_added() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let run = done(&db.domain(), &blobs, &execute("DELETE FROM lines WHERE at = 2"));
    db.human("ALTER TABLE lines ADD COLUMN colour TEXT");
    let found = conflicts(&db.domain(), &blobs, &[run]);
    assert_eq!((found[0].place.as_str(), found[0].why.as_str()), ("table `lines`", "has a new column since: colour"));
    assert_eq!(found[0].fields, ["colour"]);
}

#[test]
fn undo_of_schema_refuses_when_objects_moved() {
    for (sql, meddle, place) in [
        ("CREATE TABLE notes (id INTEGER PRIMARY KEY)", "INSERT INTO notes VALUES (1)", "table `notes`"),
        ("CREATE TABLE notes (id INTEGER PRIMARY KEY)", "CREATE INDEX mine ON notes (id)", "index `mine`"),
        ("CREATE TABLE notes (id INTEGER PRIMARY KEY)", "DROP TABLE notes", "table `notes`"),
        ("DROP TABLE lines", "CREATE TABLE lines (a)", "table `lines`"),
        ("ALTER TABLE lines ADD COLUMN colour", "INSERT INTO lines VALUES ('x', 1, 1, 'red')", "table `lines`"),
        (
            "DROP INDEX orders_by_customer",
            "CREATE INDEX orders_by_customer ON orders (total)",
            "index `orders_by_customer`",
        ),
        ("DROP TABLE orders", "DELETE FROM customers WHERE id = 2", "orders 3"),
    ] {
        println!("{sql}; {meddle}");
        let (db, blobs) = (Db::new(SHOP), Blobs::default());
        laws::undo_refuses_when_moved(&db, &blobs, &[execute(sql)], &|| db.human(meddle), place);
    }
}

#[test]
fn the_middle_of_three_cannot_be_undone_alone() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let domain = db.domain();
    let a = done(&domain, &blobs, &execute("UPDATE lines SET amount = 1 WHERE item = 'cup'"));
    let b = done(&domain, &blobs, &execute("UPDATE lines SET amount = 2 WHERE item = 'cup'"));
    let c = done(&domain, &blobs, &execute("UPDATE lines SET amount = 3 WHERE item = 'cup'"));
    assert_eq!(conflicts(&domain, &blobs, std::slice::from_ref(&b))[0].place, "lines 'cup',1");
    assert_eq!(conflicts(&domain, &blobs, &[a.clone(), b.clone()])[0].place, "lines 'cup',1");
    let both = undo(&domain, &blobs, &[b, c]);
    assert_eq!(db.one("SELECT amount FROM lines WHERE item = 'cup'"), Sql::Integer(1));
    undo(&domain, &blobs, std::slice::from_ref(&both));
    assert_eq!(db.one("SELECT amount FROM lines WHERE item = 'cup'"), Sql::Integer(3));
    assert_eq!(conflicts(&domain, &blobs, std::slice::from_ref(&a))[0].place, "lines 'cup',1");
}

#[test]
fn a_lost_answer_is_looked_up() {
    let (db, call) = (Db::new(SHOP), execute("DELETE FROM customers"));
    laws::crash_before_commit(&db, &execute("CREATE TABLE x (a)"));
    let db2 = Db::new(SHOP);
    let run = new_run();
    let staged = stage(&db2.domain(), run, &call).unwrap();
    let mut other = staged.measurement();
    let measurement = staged.measurement();
    assert_eq!(perform(run, staged).0, Outcome::Succeeded);
    assert_eq!(db2.domain().probe(run, &measurement), Standing::After);
    assert_eq!(db2.domain().probe(new_run(), &measurement), Standing::Before);
    other.effect.digest = turnback_core::digest::EffectDigest(turnback_core::digest::Sha256::of(b"other"));
    assert!(matches!(db2.domain().probe(run, &other), Standing::Neither { .. }));
    let domain = db2.domain();
    std::fs::rename(db2.path(), db2.dir.path().join("away.db")).unwrap();
    assert!(matches!(domain.probe(run, &measurement), Standing::Unreachable { .. }));
}

#[test]
fn a_commit_torn_by_a_crash_is_recovered_before_it_is_looked_at() {
    let db = Db::new(&format!("PRAGMA journal_mode = DELETE; {SHOP}"));
    let before = db.look();
    let run = new_run();
    let measurement = stage(&db.domain(), run, &execute("DELETE FROM orders")).unwrap().measurement();
    // A transaction so large for its cache that half of it is in the file already, its journal beside it.
    let crashed = db.connection();
    crashed
        .execute_batch(
            "PRAGMA cache_size = 1; BEGIN; UPDATE customers SET name = 'torn';
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) INSERT INTO audit SELECT hex(zeroblob(200)), i FROM n;",
        )
        .unwrap();
    let after = Db { dir: tempfile::tempdir().unwrap() };
    for name in ["shop.db", "shop.db-journal"] {
        std::fs::copy(db.dir.path().join(name), after.dir.path().join(name)).unwrap();
    }
    let names = laws::read(&after.domain(), &call("query", json!({ "sql": "SELECT name FROM customers" })));
    assert_eq!(names.unwrap().reply["rows"], json!([["Ann"], ["Bob"], ["Cy"]]));
    assert_eq!(after.domain().probe(run, &measurement), Standing::Before);
    assert_eq!(after.look(), before);
}

#[test]
fn a_trigger_on_the_marks_does_not_run() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    done(&db.domain(), &blobs, &execute("DELETE FROM lines WHERE item = 'cup'"));
    db.human("CREATE TRIGGER sly AFTER INSERT ON _turnback_marks BEGIN DELETE FROM orders; END");
    done(&db.domain(), &blobs, &execute("DELETE FROM lines WHERE item = 'pen'"));
    assert_eq!(db.one("SELECT count(*) FROM orders"), Sql::Integer(3));
}

#[test]
fn observe_says_what_is_not_as_predicted() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let run = done(&db.domain(), &blobs, &execute("UPDATE lines SET amount = 1 WHERE item = 'cup'"));
    db.human("UPDATE lines SET amount = 2 WHERE item = 'cup'");
    let seen = db.domain().observe(run.run, &run.measurement, &blobs).unwrap();
    assert_eq!(seen.differences, ["lines 'cup',1: amount is 2, predicted was 1"]);
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let db = Db::new(SHOP);
    let before = db.look();
    let elsewhere = db.dir.path().join("elsewhere.db");
    let elsewhere = elsewhere.display();
    for sql in [
        "DELETE FROM customers; DELETE FROM orders".to_owned(),
        "UPDATE customers SET name = 'x'; --".to_owned() + "\nSELECT 1",
        format!("ATTACH '{elsewhere}' AS other"),
        format!("VACUUM INTO '{elsewhere}'"),
        "PRAGMA writable_schema = 1".into(),
        "BEGIN".into(),
        "COMMIT".into(),
        "SELECT 1".into(),
        "".into(),
        "-- nothing".into(),
        "DELETE FROM sqlite_schema".into(),
        "UPDATE sqlite_sequence SET seq = 1".into(),
        "DELETE FROM _turnback_marks".into(),
        "CREATE TABLE _turnback_marks (a)".into(),
        "CREATE TRIGGER t AFTER INSERT ON _turnback_marks BEGIN DELETE FROM orders; END".into(),
        "CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM \"_Turnback_marks\"; END".into(),
        "ALTER TABLE orders RENAME TO _turnback_marks".into(),
        "CREATE TEMP TABLE t (a)".into(),
        "CREATE TABLE temp.t (a)".into(),
        "CREATE VIRTUAL TABLE t USING fts5(a)".into(),
        "INSERT INTO audit SELECT sql, 1 FROM sqlite_schema".into(),
        "INSERT INTO audit SELECT load_extension('x'), 1".into(),
        "INSERT INTO audit SELECT name, 1 FROM pragma_database_list".into(),
        "UPDATE nowhere SET a = 1".into(),
        "UPDATE customers SET nothing = 1".into(),
        "INSERT INTO orders (customer, total) VALUES (99, 1)".into(),
        "INSERT OR ROLLBACK INTO customers (id, name) VALUES (1, 'again')".into(),
        "EXPLAIN DELETE FROM orders".into(),
        "REINDEX".into(),
        "ANALYZE".into(),
    ] {
        let refusal = match try_done(&db.domain(), &Blobs::default(), &execute(&sql)) {
            Err(refusal) => refusal,
            Ok(done) => panic!("{sql}: {}", done.measurement.effect.summary),
        };
        assert_eq!(refusal.place.as_deref(), Some("arguments.sql"), "{sql}: {refusal}");
        assert!(matches!(refusal.code, Code::BadInput | Code::Unsupported), "{sql}: {refusal:?}");
    }
    for sql in [
        "WITH gone AS (SELECT 1) DELETE FROM orders",
        "DELETE FROM orders",
        "INSERT INTO audit VALUES (1, 1) RETURNING *",
        "PRAGMA journal_mode",
        "SELECT * FROM sqlite_schema",
        "SELECT * FROM _turnback_marks",
        "SELECT * FROM pragma_table_info('customers')",
        "SELECT count(*) FROM dbstat",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT * FROM nowhere",
    ] {
        let refusal = laws::read(&db.domain(), &call("query", json!({ "sql": sql }))).unwrap_err();
        assert_eq!(refusal.place.as_deref(), Some("arguments.sql"), "{sql}: {refusal}");
    }
    for (arguments, place) in [
        (json!({}), "arguments.sql"),
        (json!({ "sql": 5 }), "arguments.sql"),
        (json!({ "sql": "UPDATE audit SET who = ?", "extra": 1 }), "arguments.extra"),
        (json!({ "sql": "UPDATE audit SET who = ?" }), "arguments.params"),
        (json!({ "sql": "UPDATE audit SET who = ?", "params": [1, 2] }), "arguments.params"),
        (json!({ "sql": "UPDATE audit SET who = ?", "params": [true] }), "arguments.params/0"),
        (json!({ "sql": "UPDATE audit SET who = :a", "params": { "b": 1 } }), "arguments.params"),
        (json!({ "sql": "UPDATE audit SET who = :a", "params": { "a": 1, "b": 1 } }), "arguments.params/b"),
        (json!({ "sql": "UPDATE audit SET who = 1", "params": "x" }), "arguments.params"),
    ] {
        let refusal = try_done(&db.domain(), &Blobs::default(), &call("execute", arguments)).unwrap_err();
        assert_eq!(refusal.place.as_deref(), Some(place), "{refusal}");
    }
    assert_eq!(db.look(), before);
    assert_eq!(db.kept(), ["shop.db"]);
}

#[test]
fn files_that_are_not_the_database_are_refused() {
    let db = Db::new(SHOP);
    let dir = db.dir.path();
    let code = |name: &str| Sqlite::open(&dir.join(name)).unwrap_err().code;
    std::fs::write(dir.join("text"), "not a database, but longer than a header").unwrap();
    std::os::unix::fs::symlink(db.path(), dir.join("link")).unwrap();
    assert_eq!(code("text"), Code::BadInput);
    assert_eq!(code("link"), Code::Escapes);
    assert_eq!(code("missing"), Code::NotFound);
    assert_eq!(code("."), Code::SpecialFile);
    let domain = db.domain();
    std::fs::hard_link(db.path(), dir.join("second")).unwrap();
    assert_eq!(code("second"), Code::SpecialFile);
    assert_eq!(laws::read(&domain, &call("schema", json!({}))).unwrap_err().code, Code::SpecialFile);
    std::fs::remove_file(db.path()).unwrap();
    std::fs::copy(dir.join("second"), db.path()).unwrap();
    let refusal = stage(&domain, new_run(), &execute("DELETE FROM audit")).err().unwrap();
    assert_eq!(refusal.code, Code::Moved, "another inode under the same name: {refusal}");
}

/// One instance keeps its connections open; everything others do in between must count.
#[test]
fn what_others_do_between_two_actions_counts() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let domain = db.domain();
    let rows = |sql: &str| laws::read(&domain, &call("query", json!({ "sql": sql }))).unwrap().reply["rows"].clone();
    let raise = execute("UPDATE customers SET credit = credit + 1 WHERE id = 1");
    let first = done(&domain, &blobs, &raise);
    assert_eq!(rows("SELECT credit FROM customers WHERE id = 1"), json!([[6.0]]));

    // Rows.
    db.human("UPDATE customers SET credit = 20 WHERE id = 1");
    assert_eq!(rows("SELECT credit FROM customers WHERE id = 1"), json!([[20.0]]));
    assert_eq!(conflicts(&domain, &blobs, &[first])[0].place, "customers 1");
    let second = done(&domain, &blobs, &raise);
    assert_eq!(rows("SELECT credit FROM customers WHERE id = 1"), json!([[21.0]]));

    // The schema: what a new trigger does is measured, a new column is no secret, a lost table is gone.
    db.human("CREATE TRIGGER more AFTER UPDATE ON customers BEGIN DELETE FROM lines WHERE item = 'cup'; END");
    let staged = stage(&domain, new_run(), &raise).unwrap();
    assert_eq!((staged.effect.blast.rows["lines"].deleted, staged.plan.level()), (1, Level::Proved));
    drop(staged);
    db.human("DROP TRIGGER more; ALTER TABLE customers ADD COLUMN phone TEXT; DROP TABLE lines");
    assert!(laws::conflicts(&domain, &blobs, &[second])[0].why.contains("new column since: phone"));
    let third = done(&domain, &blobs, &execute("UPDATE customers SET phone = '1' WHERE id = 1"));
    assert_eq!(rows("SELECT phone FROM customers WHERE id = 1"), json!([["1"]]));
    let gone = stage(&domain, new_run(), &execute("DELETE FROM lines")).err().unwrap();
    assert_eq!(gone.code, Code::BadInput, "{gone}");
    undo(&domain, &blobs, &[third]);
}

#[test]
fn a_backup_restored_between_two_actions_counts() {
    for mode in ["WAL", "DELETE"] {
        let (db, blobs) = (Db::new(&format!("PRAGMA journal_mode = {mode}; {SHOP}")), Blobs::default());
        let before = db.look();
        let backup = std::fs::read(db.path()).unwrap();
        let domain = db.domain();
        let run = done(&domain, &blobs, &execute("DELETE FROM customers"));
        assert_eq!(domain.probe(run.run, &run.measurement), Standing::After);
        // Restored as it should be: the log is folded in first, the file keeps its identity.
        db.human("PRAGMA wal_checkpoint(TRUNCATE)");
        std::fs::write(db.path(), &backup).unwrap();
        assert_eq!(domain.probe(run.run, &run.measurement), Standing::Before, "{mode}");
        assert!(!domain.observe(run.run, &run.measurement, &blobs).unwrap().holds(), "{mode}");
        let again = done(&domain, &blobs, &execute("DELETE FROM customers"));
        undo(&domain, &blobs, &[again]);
        assert_eq!(db.look(), before, "{mode}");
    }
}

#[test]
fn an_action_learns_nothing_of_the_one_before() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    let domain = db.domain();
    db.human("CREATE TABLE seen (id INTEGER PRIMARY KEY, n); CREATE TABLE via (n); CREATE TRIGGER v AFTER INSERT ON via BEGIN UPDATE via SET n = changes(); END");
    for sql in [
        "INSERT INTO seen (n) VALUES (last_insert_rowid())",
        "INSERT INTO seen (n) SELECT total_changes()",
        "INSERT INTO seen (n) SELECT changes()",
        "INSERT INTO via VALUES (1)",
    ] {
        let fresh = stage(&db.domain(), new_run(), &execute(sql)).unwrap().effect;
        done(&domain, &blobs, &execute("INSERT INTO customers (id, name) SELECT max(id) + 1, 'Gil' FROM customers"));
        let kept = stage(&domain, new_run(), &execute(sql)).unwrap().effect;
        assert_eq!(kept.digest, fresh.digest, "{sql}");
    }
}

#[test]
fn one_staging_at_a_time_and_a_lock_is_not_waited_for_forever() {
    let db = Db::new(SHOP);
    let domain = db.domain();
    let short = Bounds { lock_wait: Duration::from_millis(50), ..Bounds::default() };
    let call = execute("DELETE FROM audit");
    let contract = contract(&domain, &call).unwrap();
    let held = domain.stage(new_run(), &contract, &short).unwrap();
    assert_eq!(domain.stage(new_run(), &contract, &short).err().unwrap().code, Code::Busy);
    assert_eq!(db.domain().stage(new_run(), &contract, &short).err().unwrap().code, Code::Busy);
    drop(held);
    domain.stage(new_run(), &contract, &short).unwrap();
    let human = db.connection();
    human.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refusal = domain.stage(new_run(), &contract, &short).err().unwrap();
    assert_eq!(refusal.code, Code::Busy);
    assert!(refusal.place.is_some_and(|p| p.ends_with("shop.db")));
}

#[test]
fn time_rows_and_bytes_are_bounded() {
    let db = Db::new(SHOP);
    let domain = db.domain();
    let quick = Bounds { time: Duration::from_millis(30), ..Bounds::default() };
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    let query =
        contract(&domain, &call("query", json!({ "sql": format!("{endless} SELECT count(*) FROM n") }))).unwrap();
    assert_eq!(domain.read(&query, &quick).unwrap_err().code, Code::TooLarge);
    let write = contract(&domain, &execute(&format!("{endless} INSERT INTO audit SELECT 'x', i FROM n"))).unwrap();
    assert_eq!(domain.stage(new_run(), &write, &quick).err().unwrap().code, Code::TooLarge);

    let few = Bounds { read_rows: 2, ..Bounds::default() };
    let query = contract(&domain, &call("query", json!({ "sql": "SELECT id FROM orders" }))).unwrap();
    assert_eq!(
        domain.read(&query, &few).unwrap().reply,
        json!({ "columns": ["id"], "rows": [[1], [2]], "rows_left_out": 1 })
    );

    let proof = Bounds { proof_rows: 1, ..Bounds::default() };
    for (sql, level) in [("DELETE FROM customers", Level::Snapshotted), ("DROP TABLE orders", Level::None)] {
        let write = contract(&domain, &execute(sql)).unwrap();
        let plan = domain.stage(new_run(), &write, &proof).unwrap().plan;
        assert_eq!(plan.level(), level, "{}", plan.evidence);
        assert!(plan.evidence.contains("more than the 1 a proof may cover"), "{}", plan.evidence);
    }
    let small = Bounds { snapshot_bytes: 10, ..Bounds::default() };
    for sql in ["DELETE FROM customers", "DROP TABLE orders"] {
        let write = contract(&domain, &execute(sql)).unwrap();
        assert_eq!(domain.stage(new_run(), &write, &small).err().unwrap().code, Code::TooLarge);
    }
}

#[test]
fn what_cannot_be_recorded_is_not_called_proved() {
    let db = Db::new(
        "CREATE TABLE tags (name TEXT PRIMARY KEY, n INTEGER);
         CREATE TABLE folded (name TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER);
         CREATE TABLE odd (_rowid_ TEXT, n INTEGER);
         CREATE VIRTUAL TABLE words USING fts5(body);
         CREATE TABLE posts (id INTEGER PRIMARY KEY, body TEXT);
         CREATE TRIGGER index_posts AFTER INSERT ON posts BEGIN INSERT INTO words (rowid, body) VALUES (new.id, new.body); END;
         INSERT INTO tags VALUES ('a', 1); INSERT INTO folded VALUES ('a', 1); INSERT INTO odd VALUES ('a', 1);",
    );
    let domain = db.domain();
    let level = |sql: &str| {
        let plan = stage(&domain, new_run(), &execute(sql)).unwrap().plan;
        (plan.level(), plan.evidence)
    };
    assert_eq!(level("UPDATE tags SET n = 2").0, Level::Proved);
    assert_eq!(level("UPDATE folded SET n = 2").0, Level::Proved);
    for sql in [
        "INSERT INTO tags VALUES (NULL, 5)",
        "UPDATE tags SET name = NULL",
        "UPDATE folded SET name = 'A'",
        "INSERT INTO posts VALUES (1, 'hello')",
    ] {
        let (level, evidence) = level(sql);
        assert!(level < Level::Snapshotted, "{sql}: {level:?} {evidence}");
    }
    let odd = level("UPDATE odd SET n = 7");
    println!("{odd:?}");
    db.human("INSERT INTO tags VALUES (NULL, 9)");
    assert!(level("UPDATE tags SET n = 3").0 < Level::Snapshotted);
    assert_eq!(level("UPDATE tags SET n = 3 WHERE name = 'a'").0, Level::Proved);

    let blobs = Blobs::default();
    let run = done(&domain, &blobs, &execute("INSERT INTO tags VALUES (NULL, 5)"));
    match laws::stage_undo(&domain, &blobs, new_run(), &[run]) {
        Err(UndoRefused::Refused(refusal)) => assert_eq!(refusal.code, Code::Unsupported),
        _ => panic!("an undo without a way back was staged"),
    }
}

#[test]
fn an_orphan_from_before_is_not_promised_back() {
    let db = Db::new(SHOP);
    db.human("PRAGMA foreign_keys = OFF; INSERT INTO orders (id, customer, total) VALUES (40, 99, 1)");
    let plan = stage(&db.domain(), new_run(), &execute("DELETE FROM orders WHERE id = 40")).unwrap().plan;
    assert!(plan.level() < Level::Snapshotted && plan.evidence.contains("foreign key"), "{}", plan.evidence);
}

#[test]
fn a_deferred_key_that_stays_violated_is_refused_at_staging() {
    let db = Db::new(
        "CREATE TABLE p (id INTEGER PRIMARY KEY);
         CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED);",
    );
    let refusal = stage(&db.domain(), new_run(), &execute("INSERT INTO c VALUES (1, 5)")).err().unwrap();
    assert_eq!(refusal.code, Code::BadInput);
}

#[test]
fn values_are_exact_in_and_out() {
    let (db, blobs) = (Db::new("CREATE TABLE v (id INTEGER PRIMARY KEY, x)"), Blobs::default());
    let params =
        json!([{ "integer": "9223372036854775807" }, { "blob": "00ff" }, 0.1, { "real": "inf" }, "é", null, -5]);
    let sql = "INSERT INTO v (x) VALUES (?), (?), (?), (?), (?), (?), (?) RETURNING x";
    let run = done(&db.domain(), &blobs, &with(sql, params.clone()));
    let expected: Vec<Value> = params.as_array().unwrap().iter().map(|v| json!([v])).collect();
    assert_eq!(run.measurement.effect.reply["rows"], Value::from(expected.clone()));
    assert_eq!(ask(&db, "SELECT x FROM v ORDER BY id")["rows"], Value::from(expected));
    assert_eq!(db.one("SELECT x FROM v WHERE id = 1"), Sql::Integer(i64::MAX));
    let before = db.look();
    let gone = done(&db.domain(), &blobs, &execute("DROP TABLE v"));
    undo(&db.domain(), &blobs, &[gone]);
    assert_eq!(db.look(), before);
    done(&db.domain(), &blobs, &with("UPDATE v SET x = :x WHERE id = @id", json!({ "x": "one", "id": 1 })));
    assert_eq!(db.one("SELECT x FROM v WHERE id = 1"), Sql::Text("one".into()));
}

#[test]
fn time_and_chance_are_called_volatile() {
    let db = Db::new(
        "CREATE TABLE t (a, at TEXT DEFAULT CURRENT_TIMESTAMP); CREATE TABLE u (a, at); INSERT INTO u VALUES (1, 1);
         CREATE TRIGGER stamp AFTER UPDATE OF a ON u BEGIN UPDATE u SET at = datetime('now') WHERE a = new.a; END;",
    );
    let volatile = |sql: &str| stage(&db.domain(), new_run(), &execute(sql)).unwrap().effect.volatile;
    assert!(volatile("INSERT INTO t (a) VALUES (1)"));
    assert!(volatile("INSERT INTO u VALUES (random(), 1)"));
    assert!(volatile("UPDATE u SET a = 2"));
    assert!(!volatile("UPDATE u SET at = 2"));
    assert!(!volatile("INSERT INTO u VALUES (1, abs(-1))"));
}

#[test]
fn reads_name_what_they_read_and_hide_our_table() {
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    done(&db.domain(), &blobs, &execute("DELETE FROM lines"));
    let reading = laws::read(
        &db.domain(),
        &call("query", json!({ "sql": "WITH r AS (SELECT * FROM rich) SELECT count(*) FROM r JOIN orders ON customer = r.id, json_each('[1]')" })),
    )
    .unwrap();
    assert_eq!(reading.places, ["customers", "orders", "rich"]);
    assert_eq!(reading.reply["rows"], json!([[1]]));
    let schema = laws::read(&db.domain(), &call("schema", json!({}))).unwrap().reply;
    assert!(!schema.to_string().contains("_turnback"));
    let orders = schema["tables"].as_array().unwrap().iter().find(|t| t["name"] == "orders").unwrap().clone();
    assert_eq!(orders["columns"][3]["generated"], json!(true));
    assert_eq!(orders["foreign_keys"][0]["references"], json!("customers"));
}

#[test]
fn aim_says_class_and_table() {
    let db = Db::new(SHOP);
    let target = contract(&db.domain(), &execute("/* x */ delete from main.orders where id = 1")).unwrap().target;
    assert_eq!((target.statement.as_str(), target.place.as_str()), ("delete", "orders"));
    assert!(target.identity.contains("shop.db "));
    for tool in db.domain().tools() {
        assert_eq!(tool.schema["additionalProperties"], json!(false));
    }
}

#[test]
fn altered_and_lost_blobs_stop_an_undo() {
    struct Liar;
    impl turnback_effects::Artifacts for Liar {
        fn get(&self, _: &turnback_core::digest::Sha256) -> Result<Vec<u8>, turnback_core::refusal::Refusal> {
            Ok(vec![1, 2, 3])
        }
    }
    let (db, blobs) = (Db::new(SHOP), Blobs::default());
    for sql in ["DELETE FROM lines", "DROP TABLE audit"] {
        let run = done(&db.domain(), &blobs, &execute(sql));
        let lost = db.domain().undo(new_run(), std::slice::from_ref(&run), &Blobs::default(), &Bounds::default());
        let altered = db.domain().undo(new_run(), &[run], &Liar, &Bounds::default());
        for refused in [lost, altered] {
            assert!(matches!(refused, Err(UndoRefused::Refused(r)) if r.code == Code::SnapshotLost));
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Random schemas with cascades and triggers, random statements: undo after do is the identity.

const KEYS: &[&str] = &[
    "id INTEGER PRIMARY KEY, a, b",
    "id INTEGER, a, b",
    "id INTEGER PRIMARY KEY AUTOINCREMENT, a, b, g AS (a || b) VIRTUAL",
    "id INTEGER NOT NULL, a NOT NULL DEFAULT 'd', b, PRIMARY KEY (id, a)",
    "id INTEGER, a, b, PRIMARY KEY (id)",
];

#[derive(Clone, Debug)]
struct Plan {
    /// Kind of key, foreign key action, kind of trigger, for each table.
    tables: Vec<(usize, usize, usize)>,
    rows: Vec<(usize, i64, i64)>,
    statements: Vec<(usize, usize, i64, i64)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    (
        prop::collection::vec((0..6_usize, 0..5_usize, 0..6_usize), 2..5),
        prop::collection::vec((0..4_usize, 0..8_i64, 0..8_i64), 3..25),
        prop::collection::vec((0..15_usize, 0..4_usize, 0..8_i64, 0..8_i64), 1..6),
    )
        .prop_map(|(tables, rows, statements)| Plan { tables, rows, statements })
}

impl Plan {
    fn schema(&self) -> String {
        let mut sql = "CREATE TABLE log (what, n);".to_owned();
        for (at, (key, action, trigger)) in self.tables.iter().enumerate() {
            let columns = KEYS.get(*key).copied();
            let without = if columns.is_none() { " WITHOUT ROWID" } else { "" };
            let columns = columns.unwrap_or("id INTEGER PRIMARY KEY, a UNIQUE, b");
            let (head, keys) = match columns.split_once(", PRIMARY KEY (") {
                Some((head, rest)) => (head, format!(", PRIMARY KEY ({rest}")),
                None => (columns, String::new()),
            };
            let parent = self.tables[..at].iter().position(|(k, ..)| matches!(k, 0 | 2 | 4 | 5));
            let reference = match (parent, action) {
                (Some(parent), 0..4) => format!(
                    ", p INTEGER REFERENCES t{parent} (id) {}",
                    [
                        "ON DELETE CASCADE ON UPDATE CASCADE",
                        "ON DELETE SET NULL",
                        "ON DELETE CASCADE",
                        "DEFERRABLE INITIALLY DEFERRED"
                    ][*action]
                ),
                _ => ", p INTEGER".to_owned(),
            };
            sql += &format!("CREATE TABLE t{at} ({head}{reference}{keys}){without};");
            let other = (at + 1) % self.tables.len();
            sql += &match trigger {
                0 => format!(
                    "CREATE TRIGGER g{at} AFTER DELETE ON t{at} BEGIN INSERT INTO log VALUES ('del', old.id); END;"
                ),
                1 => format!(
                    "CREATE TRIGGER g{at} AFTER UPDATE ON t{at} BEGIN DELETE FROM log WHERE n = old.id; INSERT INTO log VALUES (old.b, new.b); END;"
                ),
                2 => format!(
                    "CREATE TRIGGER g{at} BEFORE INSERT ON t{at} BEGIN UPDATE t{other} SET b = b + 1 WHERE id = new.id; END;"
                ),
                3 => format!(
                    "CREATE TRIGGER g{at} AFTER DELETE ON t{at} BEGIN DELETE FROM t{other} WHERE id = old.id; END;"
                ),
                _ => String::new(),
            };
        }
        for (table, id, value) in &self.rows {
            let table = table % self.tables.len();
            sql += &format!(
                "INSERT OR IGNORE INTO t{table} (id, a, b, p) VALUES ({id}, 'v{value}', {value}, {});",
                self.parent(table, *value)
            );
        }
        sql
    }

    /// A reference to the first row of a table that can be a parent, if the value names one.
    fn parent(&self, table: usize, value: i64) -> String {
        match self.tables[..table].iter().position(|(k, ..)| matches!(k, 0 | 2 | 4 | 5)) {
            Some(parent) => format!("(SELECT id FROM t{parent} WHERE id >= {value} ORDER BY id LIMIT 1)"),
            None => "NULL".to_owned(),
        }
    }

    fn statements(&self) -> Vec<String> {
        let one = |(kind, table, x, y): &(usize, usize, i64, i64)| {
            let table = table % self.tables.len();
            let (t, p) = (format!("t{table}"), self.parent(table, *y));
            match kind {
                0 => format!("DELETE FROM {t} WHERE id = {x}"),
                1 => format!("DELETE FROM {t} WHERE b < {x}"),
                2 => format!("UPDATE {t} SET b = b + {y} WHERE id <> {x}"),
                3 => format!("UPDATE {t} SET id = id + 1000 WHERE id > {x}"),
                4 => format!("INSERT OR REPLACE INTO {t} (id, a, b) VALUES ({x}, 'v{y}', {y})"),
                5 => format!("INSERT OR IGNORE INTO {t} (id, a, b, p) VALUES ({x}, 'w{y}', {y}, {p})"),
                6 => format!("UPDATE OR IGNORE {t} SET p = {p} WHERE b <> {x}"),
                7 => format!("DELETE FROM {t}"),
                8 => format!("UPDATE OR REPLACE {t} SET a = 'same{x}' WHERE b > {y}"),
                9 => "INSERT INTO log SELECT 'x', n FROM log".to_owned(),
                10 => format!("DROP TABLE {t}"),
                11 => format!("ALTER TABLE {t} ADD COLUMN extra DEFAULT {x}"),
                12 => format!("ALTER TABLE {t} RENAME TO renamed{x}"),
                13 => format!("CREATE INDEX i{x}{y} ON {t} (b)"),
                _ => format!("UPDATE {t} SET a = 'z' || id, p = NULL"),
            }
        };
        self.statements.iter().map(one).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn undo_after_do_is_the_identity(plan in plans()) {
        let db = Db::new(&plan.schema());
        let (domain, blobs) = (db.domain(), Blobs::default());
        let mut looks = vec![db.look()];
        let mut runs: Vec<Undone> = Vec::new();
        for sql in plan.statements() {
            // Constraints refuse some of them; nothing may have changed then.
            match try_done(&domain, &blobs, &execute(&sql)) {
                Ok(run) => {
                    // After a DROP, children of the table that is gone refer to nothing; while keys are
                    // enforced SQLite puts no row of theirs back, and the level must say so.
                    let plan = &run.measurement.plan;
                    if plan.level() != Level::Proved {
                        let honest = plan.evidence.contains("foreign key") || plan.evidence.contains("no such table");
                        prop_assert!(honest && plan.level() == Level::None, "{sql}: {}", plan.evidence);
                        return Ok(());
                    }
                    runs.push(run);
                    looks.push(db.look());
                }
                Err(refusal) => {
                    prop_assert!(matches!(refusal.code, Code::BadInput), "{sql}: {refusal:?}");
                    prop_assert_eq!(&db.look(), looks.last().unwrap(), "{} was refused and changed something", sql);
                }
            }
        }
        if !runs.is_empty() {
            let all = undo(&domain, &blobs, &runs);
            prop_assert_eq!(&db.look(), &looks[0], "all at once");
            undo(&domain, &blobs, &[all]);
            prop_assert_eq!(&db.look(), looks.last().unwrap(), "and back");
        }
        while let Some(run) = runs.pop() {
            looks.pop();
            undo(&domain, &blobs, &[run]);
            prop_assert_eq!(&db.look(), looks.last().unwrap(), "one by one");
        }
    }
}

#[test]
fn many_rows_of_a_table_without_a_key_are_proved() {
    let db = Db::new(
        "CREATE TABLE log (what, n); WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i LIMIT 2000) \
         INSERT INTO log SELECT 'x', n FROM i;",
    );
    let call = execute("DELETE FROM log WHERE n % 3 > 0");
    let plan = stage(&db.domain(), new_run(), &call).unwrap().plan;
    assert_eq!(plan.level(), Level::Proved, "{}", plan.evidence);
    laws::undo_restores(&db, &Blobs::default(), &[call]);
}
