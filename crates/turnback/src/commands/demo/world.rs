//! The demo's world: a folder with real files, a real SQLite database, a configuration and a policy.
//! The same every time.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// Customers, of which every sixtieth is inactive.
pub(super) const CUSTOMERS: u32 = 3_000;
pub(super) const INACTIVE_EVERY: u32 = 60;
/// Orders, two for each customer.
pub(super) const ORDERS: u32 = 6_000;
/// Entries of the build folder, itself included.
pub(super) const BUILD_ENTRIES: u32 = 241;
/// Note folders, and entries of each of them, itself included.
pub(super) const NOTE_FOLDERS: u32 = 20;
pub(super) const NOTE_ENTRIES: u32 = 31;

/// The most one action may delete, and the most one agent may delete in ten minutes.
pub(super) const DELETIONS: u32 = 250;
pub(super) const DELETION_BUDGET: u32 = 400;

const SCHEMA: &str = "
CREATE TABLE customers (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, tier TEXT NOT NULL, active INTEGER NOT NULL);
CREATE TABLE orders (
  id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
  amount INTEGER NOT NULL, status TEXT NOT NULL);
CREATE INDEX orders_customer ON orders (customer);
CREATE TABLE order_log (id INTEGER PRIMARY KEY, \"order\" INTEGER NOT NULL, what TEXT NOT NULL);
CREATE TRIGGER order_gone AFTER DELETE ON orders BEGIN
  INSERT INTO order_log (\"order\", what) VALUES (old.id, 'deleted');
END;
";

const POLICY: &str = r#"// The demo's policy: agents read everything, write within bounds, and ask before large deletions.

@id("read")
permit (principal, action in Action::"read", resource);

@id("write")
permit (principal, action in Action::"write", resource);

// A backup that can be renamed away is no backup.
@id("protected")
@reason("repositories and secrets are protected")
forbid (principal, action in Action::"write", resource is Files)
when { context.place like ".git*" || context.place like "*/.git*" || context.place like ".env*" };

@id("large-delete")
@outcome("review")
@reason("more than 100 rows would disappear")
forbid (principal, action in Action::"write", resource is Sqlite)
when { context has effect && context.effect.rows_deleted > 100 }
unless { context.approved };
"#;

/// Where everything is.
pub(super) struct World {
    pub(super) root: PathBuf,
}

impl World {
    pub(super) fn make(root: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let world = Self { root: root.to_owned() };
        world.database()?;
        world.files()?;
        fs::create_dir_all(root.join("policies"))?;
        fs::write(root.join("policies/demo.cedar"), POLICY)?;
        fs::write(world.config(), world.configuration())?;
        Ok(world)
    }

    pub(super) fn config(&self) -> PathBuf {
        self.root.join("turnback.toml")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The database as a person with a shell would open it: around Turnback.
    pub(super) fn by_hand(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(self.root.join("shop.db"))?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        Ok(connection)
    }

    /// One value, read around Turnback.
    pub(super) fn value(&self, sql: &str) -> rusqlite::Result<String> {
        self.by_hand()?.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0)).map(|value| match value {
            rusqlite::types::Value::Integer(n) => n.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        })
    }

    fn database(&self) -> rusqlite::Result<()> {
        let mut connection = self.by_hand()?;
        connection.execute_batch(SCHEMA)?;
        let transaction = connection.transaction()?;
        {
            let mut customer = transaction.prepare("INSERT INTO customers VALUES (?1, ?2, ?3, 'basic', ?4)")?;
            for id in 1..=CUSTOMERS {
                let active = u32::from(id % INACTIVE_EVERY != 0);
                customer.execute((id, format!("Customer {id}"), format!("customer{id}@example.com"), active))?;
            }
            let mut order = transaction.prepare("INSERT INTO orders VALUES (?1, ?2, ?3, 'open')")?;
            for id in 1..=ORDERS {
                order.execute((id, (id - 1) / 2 + 1, 10 + id % 90))?;
            }
        }
        transaction.commit()
    }

    fn files(&self) -> std::io::Result<()> {
        let work = self.work();
        let fill = |folder: &str, count: u32, ending: &str| {
            let folder = work.join(folder);
            fs::create_dir_all(&folder)?;
            (1..count).try_for_each(|n| fs::write(folder.join(format!("{n:03}.{ending}")), format!("{n}\n")))
        };
        fill("my project/src", 61, "rs")?;
        fill("my project/build", BUILD_ENTRIES, "o")?;
        for n in 1..=NOTE_FOLDERS {
            fill(&format!("notes/week-{n:02}"), NOTE_ENTRIES, "txt")?;
        }
        fill(".git", 11, "pack")
    }

    fn configuration(&self) -> String {
        format!(
            r#"# The demo's configuration.
state = "state"

[listen]
address = "127.0.0.1:0"
hold = "1s"

[environments.production]
mode = "enforce"

[environments.development]
mode = "enforce"

[resources.shop]
kind = "sqlite"
path = "shop.db"
environment = "production"

[[resources.shop.verify]]
name = "no orphaned orders"
kind = "query"
sql = "select count(*) from orders where customer not in (select id from customers)"
expect = 0

[resources.work]
kind = "files"
root = "work"
environment = "development"

[limits]
deletions = {DELETIONS}

[limits.budget]
window = "10m"
deletions = {DELETION_BUDGET}

[policy]
path = "policies"
"#
        )
    }

    /// The operator declares a freeze: read at the next start.
    pub(super) fn freeze(&self) -> std::io::Result<()> {
        let mut text = fs::read_to_string(self.config())?;
        text.push_str(
            "\n[[freeze]]\nname = \"holidays\"\nreason = \"no changes in production before the new year\"\n\
             environments = [\"production\"]\nmeasure = true\n",
        );
        fs::write(self.config(), text)
    }
}
