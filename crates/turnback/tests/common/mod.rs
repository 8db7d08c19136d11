//! The real binary in a world of its own: a folder, a database, a policy; an agent and an operator who
//! talk to it as anybody would.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod fits;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};
use turnback_faults::{Judge, Traced, trace};

pub mod script;

/// Longest time anything may take here; only ever met by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const CONFIG: &str = r#"
state = "state"

[listen]
address = "127.0.0.1:0"
hold = "10ms"

[environments.production]
mode = "enforce"

[stdio]
agent = "coder"

[resources.shop]
kind = "sqlite"
path = "shop.db"
environment = "production"

[resources.work]
kind = "files"
root = "work"
environment = "production"

[policy]
path = "policies"
"#;

pub const POLICY: &str = r#"
@id("read")
permit (principal, action in Action::"read", resource);

@id("write")
permit (principal, action in Action::"write", resource);

@id("rows")
@outcome("review")
@reason("more than 2 rows would disappear")
forbid (principal, action in Action::"write", resource is Sqlite)
when { context has effect && context.effect.rows_deleted > 2 }
unless { context.approved };

@id("asked")
@outcome("review")
@reason("what is in there needs a person")
forbid (principal, action in Action::"write", resource is Files)
when { context.place like "asked*" }
unless { context.approved };
"#;

const SCHEMA: &str = "
CREATE TABLE ledger (id INTEGER PRIMARY KEY, what TEXT NOT NULL);
CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE parts (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL REFERENCES stock (id) ON DELETE CASCADE);
INSERT INTO stock VALUES (1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60);
INSERT INTO parts VALUES (1, 2);
";

/// What the agents can reach, as it looks from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct World {
    /// Content by path; a directory ends in a slash and has none.
    pub files: BTreeMap<String, String>,
    /// Rows by table, as text.
    pub rows: BTreeMap<String, Vec<String>>,
}

/// A folder with everything one node needs.
pub struct Place {
    dir: PathBuf,
    /// Removes it when dropped.
    _made: Option<tempfile::TempDir>,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    pub fn new() -> Self {
        Self::with(CONFIG)
    }

    pub fn with(config: &str) -> Self {
        Self::inside(&std::env::temp_dir(), config)
    }

    /// One that is there already, and stays.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), _made: None }
    }

    /// A new one in this directory.
    pub fn inside(parent: &Path, config: &str) -> Self {
        let made = tempfile::Builder::new().prefix("turnback-test-").tempdir_in(parent).unwrap();
        let place = Self { dir: made.path().canonicalize().unwrap(), _made: Some(made) };
        for (path, content) in [
            ("turnback.toml", config),
            ("policies/test.cedar", POLICY),
            ("work/a.txt", "one\n"),
            ("work/tree/one.txt", "1\n"),
            ("work/tree/deep/two.txt", "2\n"),
            ("work/asked/for.txt", "asked\n"),
        ] {
            let path = place.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        place.db().execute_batch(SCHEMA).unwrap();
        place
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("state/operator.sock")
    }

    /// The database around Turnback.
    pub fn db(&self) -> Connection {
        let connection = Connection::open(self.path("shop.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    }

    /// The world around Turnback.
    pub fn world(&self) -> World {
        let mut world = World::default();
        let root = self.path("work");
        let mut open = vec![root.clone()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    world.files.insert(format!("{name}/"), String::new());
                    open.push(path);
                } else {
                    world.files.insert(name, fs::read_to_string(path).unwrap());
                }
            }
        }
        let db = self.db();
        for (table, row) in [("ledger", "what"), ("stock", "id || ' ' || n"), ("parts", "id || ' ' || stock")] {
            let mut rows = db.prepare(&format!("SELECT {row} FROM {table} ORDER BY 1")).unwrap();
            let rows = rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<Vec<String>, _>>().unwrap();
            world.rows.insert(table.to_owned(), rows);
        }
        // A second database, where a test has one.
        if self.path("store.db").exists() {
            let store = Connection::open(self.path("store.db")).unwrap();
            let mut rows = store.prepare("SELECT what FROM ledger ORDER BY 1").unwrap();
            let rows = rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<Vec<String>, _>>().unwrap();
            world.rows.insert("store".to_owned(), rows);
        }
        world
    }

    /// A command line on this place, ready to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnback"));
        command.arg("--config").arg(self.path("turnback.toml")).args(arguments);
        command.current_dir(&self.dir).stdin(Stdio::null()).env_remove("FAILPOINTS").env_remove("NO_COLOR");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Every record is what was signed.
    pub fn verify(&self) {
        let output = self.run(&["verify"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }

    pub fn start(&self) -> Node {
        self.try_start("").unwrap_or_else(|ended| panic!("ended with {}: {}", ended.status, ended.said))
    }

    /// What a second gateway on the same state says when it is refused.
    pub fn try_second(&self) -> String {
        let second = self.run(&["up"]);
        assert_eq!(second.status.code(), Some(1), "{}", text(&second));
        text(&second)
    }

    /// Starts a node with these fail points, or tells how it ended before it served.
    pub fn try_start(&self, failpoints: &str) -> Result<Node, Ended> {
        self.try_start_in(&[("FAILPOINTS", failpoints)])
    }

    /// Starts a node in this environment, or tells how it ended before it served.
    pub fn try_start_in(&self, environment: &[(&str, &str)]) -> Result<Node, Ended> {
        self.start_as(|mut command| Process::Child(command.envs(environment.iter().copied()).spawn().unwrap()))
    }

    /// Starts a node of which every call that changes a file of this place is judged.
    pub fn start_judged(&self, judge: impl Judge + 'static) -> Result<Node, Ended> {
        self.start_as(|command| Process::Traced(trace(command, &self.dir, judge).unwrap()))
    }

    fn start_as(&self, spawn: impl FnOnce(Command) -> Process) -> Result<Node, Ended> {
        let log = self.path("gateway.log");
        let file = fs::File::create(&log).unwrap();
        let mut command = self.command(&["up"]);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = spawn(command);
        let pid = child.id();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return Err(Ended { status, said: fs::read_to_string(log).unwrap() });
            }
            // The socket of a killed node stays; only the answer of this one counts.
            if let Ok(status) = ask(&self.socket(), &json!({ "op": "status" }))
                && status["value"]["pid"] == json!(pid)
            {
                let url = status["value"]["url"].as_str().unwrap().to_owned();
                return Ok(Node { child, door: Door { socket: self.socket() }, url, log });
            }
            assert!(Instant::now() < deadline, "not up in time: {}", fs::read_to_string(log).unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A node that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub said: String,
}

/// Everything a command said.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One request at the operators' door.
pub fn ask(socket: &Path, request: &Value) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(|e| std::io::Error::other(format!("{e}: `{line}`")))
}

/// The process of a node.
enum Process {
    Child(Child),
    Traced(Traced),
}

impl Process {
    fn id(&self) -> u32 {
        match self {
            Process::Child(child) => child.id(),
            Process::Traced(traced) => traced.id(),
        }
    }

    fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        match self {
            Process::Child(child) => child.try_wait(),
            Process::Traced(traced) => traced.try_wait(),
        }
    }

    fn kill(&mut self) -> std::io::Result<ExitStatus> {
        match self {
            Process::Child(child) => child.kill().and_then(|()| child.wait()),
            Process::Traced(traced) => traced.kill(),
        }
    }
}

/// The operators' door of a node.
pub struct Door {
    pub socket: PathBuf,
}

/// A running node.
pub struct Node {
    child: Process,
    door: Door,
    pub url: String,
    log: PathBuf,
}

impl Deref for Node {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Door {
    /// Asks as the operator; a refusal is an answer, a dead node is an error.
    pub fn ask(&self, request: &Value) -> std::io::Result<Value> {
        ask(&self.socket, request)
    }

    /// What an answer of that kind holds.
    pub fn told(&self, request: &Value, kind: &str) -> Value {
        let reply = self.ask(request).unwrap();
        assert_eq!(reply["reply"], kind, "{request}: {reply}");
        reply["value"].clone()
    }

    pub fn undo(&self, runs: &[&str]) -> std::io::Result<Value> {
        self.ask(&json!({ "op": "undo", "what": { "kind": "runs", "runs": runs }, "dry_run": false }))
    }

    pub fn rows(&self) -> Vec<Value> {
        let rows = self.told(&json!({ "op": "runs", "agent": null, "state": null, "limit": 10_000 }), "runs");
        let mut rows = rows.as_array().unwrap().clone();
        rows.reverse();
        rows
    }

    pub fn show(&self, run: &str) -> Value {
        self.told(&json!({ "op": "show", "run": run }), "run")
    }

    /// Registers `coder` and makes a token.
    pub fn register(&self) -> std::io::Result<String> {
        let added = self.ask(&json!({ "op": "agent_add", "name": "coder", "owner": "anna" }))?;
        if added["reply"] != "done" {
            return Err(std::io::Error::other(added.to_string()));
        }
        let made =
            self.ask(&json!({ "op": "token_new", "agent": "coder", "on_behalf_of": null, "lifetime_seconds": 3_600 }))?;
        let secret = made["value"]["secret"].as_str().map(str::to_owned);
        secret.ok_or_else(|| std::io::Error::other(made.to_string()))
    }
}

impl Node {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn agent(&self, token: &str) -> Result<Agent, Dead> {
        Agent::connect(&self.url, token)
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Asks it to stop; it must stop in order.
    pub fn stop_in_order(self) {
        let log = self.log.clone();
        let status = self.stop();
        assert!(status.success(), "{status}: {}", fs::read_to_string(log).unwrap());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        // It may be dead already; how it ended is what counts.
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Waits until it ends by itself.
    pub fn ended(mut self) -> ExitStatus {
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Nobody answered.
#[derive(Debug)]
pub struct Dead(pub String);

/// An MCP client over HTTP.
pub struct Agent {
    http: ureq::Agent,
    url: String,
    headers: HashMap<&'static str, String>,
    next: u64,
}

/// What a call came back with.
#[derive(Clone, Debug)]
pub struct Called {
    pub error: bool,
    pub text: String,
    pub run: Option<String>,
}

impl Agent {
    pub fn connect(url: &str, token: &str) -> Result<Self, Dead> {
        let http = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
        let headers = HashMap::from([
            ("Authorization", format!("Bearer {token}")),
            ("Accept", "application/json, text/event-stream".to_owned()),
            ("MCP-Protocol-Version", "2025-11-25".to_owned()),
        ]);
        let mut agent = Self { http: http.into(), url: url.to_owned(), headers, next: 0 };
        let client = json!({ "name": "test", "version": "1" });
        agent.request(
            "initialize",
            &json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client }),
        )?;
        agent.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok(agent)
    }

    pub fn call(&mut self, tool: &str, arguments: &Value) -> Result<Called, Dead> {
        let answer = self.request("tools/call", &json!({ "name": tool, "arguments": arguments }))?;
        let result = &answer["result"];
        let parts = result["content"].as_array().unwrap_or_else(|| panic!("{tool}: {answer}"));
        Ok(Called {
            error: result["isError"] == json!(true),
            text: parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
            run: result["_meta"]["turnback"]["run"].as_str().map(str::to_owned),
        })
    }

    /// Ends the session.
    pub fn leave(self) -> Result<(), Dead> {
        let mut request = self.http.delete(&self.url);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = request.call().map_err(|e| Dead(e.to_string()))?;
        assert_eq!(response.status().as_u16(), 204);
        Ok(())
    }

    pub fn request(&mut self, method: &str, params: &Value) -> Result<Value, Dead> {
        self.next += 1;
        let answer = self.send(&json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params }))?;
        answer.ok_or_else(|| Dead("the answer never came".into()))
    }

    fn send(&mut self, message: &Value) -> Result<Option<Value>, Dead> {
        let dead = |e: &dyn std::fmt::Display| Dead(e.to_string());
        let mut request = self.http.post(&self.url).header("Content-Type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let mut response = request.send(message.to_string()).map_err(|e| dead(&e))?;
        if let Some(session) = response.headers().get("Mcp-Session-Id") {
            self.headers.insert("Mcp-Session-Id", session.to_str().unwrap().to_owned());
        }
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().map_err(|e| dead(&e))?;
        assert!((200..300).contains(&status), "status {status}: {text}");
        let messages: Vec<Value> = match serde_json::from_str(&text) {
            Ok(message) => vec![message],
            Err(_) => text
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .filter_map(|data| serde_json::from_str(data.trim()).ok())
                .collect(),
        };
        Ok(messages.into_iter().find(|message| message["id"] == json!(self.next)))
    }
}
