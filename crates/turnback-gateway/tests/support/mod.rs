//! A node on a folder of its own: real files, a real SQLite database, a real journal, a clock that moves.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, and every test file uses a part of them"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::{Value, json};
use turnback_core::names::AgentName;
use turnback_gateway::config::Config;
use turnback_gateway::desk::{Answer, Call, Caller, Desk as _, Pending};
use turnback_gateway::node;
use turnback_gateway::operator::protocol::{Reply, Request, RunView, UndoWhat};
use turnback_gateway::runtime::Runtime;

/// Permits everything, asks for large deletions and for anything in `restricted`.
pub const POLICY: &str = r#"
@id("all") permit (principal, action, resource);
@id("large") @outcome("review") @reason("more than 5 rows would disappear")
forbid (principal, action in Action::"write", resource is Sqlite)
when { context has effect && context.effect.rows_deleted > 5 }
unless { context.approved };
@id("secrets") @reason("secrets are protected")
forbid (principal, action in Action::"write", resource is Files) when { context.place like "secret*" };
"#;

pub const CONFIG: &str = r#"
state = "state"
[listen]
address = "127.0.0.1:0"
[environments.test]
mode = "enforce"
[resources.db]
kind = "sqlite"
path = "shop.db"
environment = "test"
[resources.work]
kind = "files"
root = "work"
environment = "test"
[policy]
path = "policies"
"#;

const SCHEMA: &str = "
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL DEFAULT 'basic');
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE, amount INTEGER);
INSERT INTO customers (id, name) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) SELECT i, 'c' || i FROM n;
INSERT INTO orders SELECT id, id, id * 10 FROM customers;
";

/// The folder a node lives in; it outlives the node.
pub struct Place {
    pub dir: tempfile::TempDir,
    ahead: Arc<AtomicI64>,
    /// Seconds of the node's clock in one second.
    speed: Arc<AtomicI64>,
    began: Instant,
}

/// A running node with one registered agent.
pub struct Node {
    pub runtime: Runtime,
    pub caller: Caller,
}

impl Place {
    pub fn new() -> Self {
        Self::with(CONFIG)
    }

    pub fn with(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir, ahead: Arc::default(), speed: Arc::new(AtomicI64::new(1)), began: Instant::now() };
        std::fs::create_dir(place.path("work")).unwrap();
        std::fs::write(place.path("work/a.txt"), "one\n").unwrap();
        std::fs::create_dir(place.path("policies")).unwrap();
        std::fs::write(place.path("policies/test.cedar"), POLICY).unwrap();
        place.configure(config);
        place.db().execute_batch(SCHEMA).unwrap();
        place
    }

    pub fn configure(&self, config: &str) {
        std::fs::write(self.path("turnback.toml"), config).unwrap();
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The database as somebody else opens it.
    pub fn db(&self) -> Connection {
        let db = Connection::open(self.path("shop.db")).unwrap();
        db.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        db
    }

    pub fn value(&self, sql: &str) -> Value {
        self.db()
            .query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|v| match v {
                rusqlite::types::Value::Integer(n) => json!(n),
                rusqlite::types::Value::Text(t) => json!(t),
                rusqlite::types::Value::Null => Value::Null,
                other => json!(format!("{other:?}")),
            })
            .unwrap()
    }

    pub fn file(&self, below: &str) -> Option<String> {
        std::fs::read_to_string(self.path("work").join(below)).ok()
    }

    /// What the node's clock shows.
    pub fn clock(&self) -> Arc<dyn Fn() -> Timestamp + Send + Sync> {
        let (ahead, speed, began) = (Arc::clone(&self.ahead), Arc::clone(&self.speed), self.began);
        Arc::new(move || {
            let faster = i32::try_from(speed.load(Ordering::SeqCst) - 1).unwrap();
            let gained = SignedDuration::try_from(began.elapsed()).unwrap() * faster;
            Timestamp::now() + SignedDuration::from_secs(ahead.load(Ordering::SeqCst)) + gained
        })
    }

    /// Lets the node's clock run so many times as fast as it should.
    pub fn run_at(&self, speed: i64) {
        self.speed.store(speed, Ordering::SeqCst);
    }

    /// Moves the node's clock.
    pub fn pass(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn config(&self) -> Config {
        Config::load(&self.path("turnback.toml")).unwrap()
    }

    /// Starts a node here. The one before must be gone.
    pub async fn start(&self) -> Node {
        let settings = node::settings(&self.config(), "http://127.0.0.1:1".into(), self.clock()).unwrap();
        let runtime = Runtime::open(settings).await.unwrap();
        let agent = AgentName::new("coder").unwrap();
        let add = Request::AgentAdd { name: agent.clone(), owner: "anna".into(), level: None };
        assert_eq!(runtime.operate(add, "anna").await, Reply::Done);
        Node {
            runtime,
            caller: Caller { agent, on_behalf_of: None, assignment: turnback_core::contract::Assignment::default() },
        }
    }
}

impl Node {
    pub async fn call(&self, tool: &str, arguments: Value) -> Answer {
        self.call_raw(tool, arguments.to_string().as_bytes()).await
    }

    pub async fn call_raw(&self, tool: &str, arguments: &[u8]) -> Answer {
        let call = Call {
            caller: self.caller.clone(),
            tool: tool.into(),
            arguments: arguments.to_vec(),
            statement: None,
            trace: None,
        };
        self.runtime.call(call).await
    }

    pub async fn sql(&self, sql: &str) -> Answer {
        self.call("db__execute", json!({ "sql": sql })).await
    }

    pub async fn operate(&self, request: Request) -> Reply {
        self.runtime.operate(request, "anna").await
    }

    pub async fn show(&self, run: &str) -> RunView {
        match self.operate(Request::Show { run: run.into() }).await {
            Reply::Run(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    pub async fn approve(&self, approval: &str) -> Reply {
        self.operate(Request::Approve { approval: approval.into() }).await
    }

    pub async fn undo(&self, runs: &[&str]) -> Reply {
        let runs = runs.iter().map(ToString::to_string).collect();
        self.operate(Request::Undo { what: UndoWhat::Runs { runs }, dry_run: false }).await
    }

    /// Stops it the orderly way, so that another can start here.
    pub async fn stop(self) {
        self.runtime.close().await.unwrap();
    }
}

/// The run and answer of a call that was done.
pub fn done(answer: Answer) -> (String, Value) {
    match answer {
        Answer::Done { run, reply, .. } => (run.to_string(), reply),
        other => panic!("not done: {other:?}"),
    }
}

/// The refusal of a call, with its details.
pub fn refused(answer: Answer) -> (turnback_core::refusal::Refusal, Value) {
    match answer {
        Answer::Refused { refusal, details, .. } => (refusal, details),
        other => panic!("not refused: {other:?}"),
    }
}

/// What a call waits for.
pub fn pending(answer: Answer) -> Pending {
    match answer {
        Answer::Pending(pending) => pending,
        other => panic!("not pending: {other:?}"),
    }
}

/// The runs an approval or undo made.
pub fn ended(reply: Reply) -> Vec<RunView> {
    match reply {
        Reply::Ended(views) => *views,
        other => panic!("not ended: {other:?}"),
    }
}

/// Everything below a folder: path and content.
pub fn tree(root: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let content = path.is_file().then(|| std::fs::read(&path).unwrap());
            let dir = path.is_dir();
            out.push((path.clone(), content));
            if dir {
                walk(&path, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(root, &mut out);
    out.sort();
    out
}
