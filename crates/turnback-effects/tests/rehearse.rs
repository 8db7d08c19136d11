//! A rehearsal says of each step what staging it will say once those before it are done, and leaves nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]
#![allow(dead_code, reason = "a part of the helpers is used here")]

mod laws;

use std::os::unix::fs::DirBuilderExt as _;

use laws::{Blobs, Call, call, contract, done, new_run};
use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::json;
use turnback_core::refusal::Code;
use turnback_core::rollback::Level;
use turnback_effects::files::Files;
use turnback_effects::sqlite::Sqlite;
use turnback_effects::{Bounds, Domain, Rehearsed, Unrehearsed};

const SHOP: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, credit REAL DEFAULT 0);
    CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE, total INTEGER NOT NULL);
    CREATE TABLE audit (what TEXT, who INTEGER);
    CREATE TRIGGER gone AFTER DELETE ON customers BEGIN INSERT INTO audit VALUES ('gone', old.id); END;
    INSERT INTO customers VALUES (1, 'Ann', 5), (2, 'Bob', 50), (3, 'Cy', 0.5);
    INSERT INTO orders (customer, total) VALUES (1, 10), (1, 20), (2, 30);
";

const STEPS: [&str; 12] = [
    "UPDATE customers SET credit = credit + 1",
    "UPDATE orders SET total = total * 2 WHERE customer = 1",
    "DELETE FROM customers WHERE id = 1",
    "DELETE FROM orders WHERE total > 15",
    "INSERT INTO orders (customer, total) VALUES (2, 7)",
    "INSERT INTO customers (name) VALUES ('Di')",
    "INSERT INTO audit SELECT name, id FROM customers",
    "DELETE FROM audit",
    "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, body TEXT)",
    "CREATE INDEX IF NOT EXISTS by_total ON orders (total)",
    "ALTER TABLE audit ADD COLUMN more",
    "DROP TABLE audit",
];

fn shop() -> (tempfile::TempDir, Sqlite) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.db");
    Connection::open(&path).unwrap().execute_batch(SHOP).unwrap();
    let domain = Sqlite::open(&path).unwrap();
    (dir, domain)
}

fn rows(dir: &tempfile::TempDir) -> String {
    let c = Connection::open(dir.path().join("shop.db")).unwrap();
    let mut all = String::new();
    for table in ["sqlite_schema", "customers", "orders", "audit", "sqlite_sequence"] {
        let mut rows = c.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let width = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells: Vec<rusqlite::types::Value> = (0..width).map(|i| row.get(i).unwrap()).collect();
            all.push_str(&format!("{table} {cells:?}\n"));
        }
    }
    all
}

fn rehearse(domain: &dyn Domain, calls: &[Call]) -> Result<Vec<Rehearsed>, Unrehearsed> {
    let steps: Vec<_> = calls.iter().map(|call| (new_run(), contract(domain, call).unwrap())).collect();
    domain.rehearse(&steps, &Bounds::default())
}

fn execute(sql: &str) -> Call {
    call("execute", json!({ "sql": sql }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_rehearsed_is_what_happens(chosen in prop::collection::vec(0..STEPS.len(), 1..6)) {
        let (dir, domain) = shop();
        let before = rows(&dir);
        let calls: Vec<Call> = chosen.iter().map(|at| execute(STEPS[*at])).collect();
        let rehearsed = rehearse(&domain, &calls);
        prop_assert_eq!(rows(&dir), before, "a rehearsal leaves nothing");
        // Whoever writes next finds the database free.
        Connection::open(dir.path().join("shop.db")).unwrap().execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
        let blobs = Blobs::default();
        match rehearsed {
            Ok(all) => {
                for (call, one) in calls.iter().zip(&all) {
                    let real = done(&domain, &blobs, call).measurement;
                    prop_assert_eq!(&real.effect, &one.measurement.effect);
                    prop_assert_eq!(real.plan.level(), one.measurement.plan.level());
                    prop_assert_eq!(domain.touches(&real, &blobs).unwrap(), one.touches.clone());
                }
            }
            // What cannot be done there cannot be done then.
            Err(Unrehearsed { step, .. }) => {
                for call in calls.iter().take(step) {
                    done(&domain, &blobs, call);
                }
                prop_assert!(laws::try_done(&domain, &blobs, &calls[step]).is_err());
            }
        }
    }
}

#[test]
fn the_later_of_two_is_proved_on_top_of_the_earlier() {
    let (_dir, domain) = shop();
    assert!(domain.rehearses_on_top());
    let both = [execute("DELETE FROM orders WHERE id <= 2"), execute("DELETE FROM orders WHERE id <= 3")];
    let all = rehearse(&domain, &both).unwrap();
    let told: Vec<_> =
        all.iter().map(|one| (one.measurement.effect.blast.rows_deleted(), one.measurement.plan.level())).collect();
    assert_eq!(told, [(2, Level::Proved), (1, Level::Proved)]);
}

#[test]
fn what_a_rehearsal_cannot_know_is_refused() {
    let (dir, domain) = shop();
    let before = rows(&dir);
    let counts = [execute("DELETE FROM audit"), execute("UPDATE orders SET total = total_changes()")];
    let refused = rehearse(&domain, &counts).unwrap_err();
    assert_eq!((refused.step, refused.refusal.code), (1, Code::Unsupported), "{}", refused.refusal);
    assert_eq!(rehearse(&domain, &counts[1..]).unwrap().len(), 1, "alone it can be");
    assert_eq!(rows(&dir), before);
}

#[test]
fn files_are_measured_on_what_is_there_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (root, slots) = (dir.path().join("work"), dir.path().join("slots"));
    std::fs::create_dir(&root).unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(&slots).unwrap();
    std::fs::write(root.join("a.txt"), "one").unwrap();
    let domain = Files::open(&root, &slots).unwrap();
    assert!(!domain.rehearses_on_top());
    let write = call("write_file", json!({ "path": "b.txt", "content": "b" }));
    let delete = |path: &str| call("delete", json!({ "path": path }));
    let all = rehearse(&domain, &[write.clone(), delete("a.txt")]).unwrap();
    assert_eq!(all.iter().map(|one| one.touches.len()).collect::<Vec<_>>(), [1, 1]);
    let refused = rehearse(&domain, &[write, delete("b.txt")]).unwrap_err();
    assert_eq!((refused.step, refused.refusal.code), (1, Code::NotFound), "{}", refused.refusal);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(&slots).unwrap().count(), 0);
}
