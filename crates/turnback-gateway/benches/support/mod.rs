//! What the benchmarks share: a node on real files, callers, the bare journal beside it, tables.
//!
//! Everything a ratio is made of is measured in one process, in turns, so that a busy machine slows
//! both sides down.
#![allow(dead_code, unreachable_pub, reason = "every benchmark uses a part of it")]

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use turnback_core::digest::Sha256;
use turnback_core::names::{AgentName, RunId};
use turnback_core::record::{Body, Row, encode};
use turnback_gateway::config::Config;
use turnback_gateway::desk::{Answer, Call, Caller, Desk as _};
use turnback_gateway::node;
use turnback_gateway::operator::protocol::{Reply, Request, UndoWhat};
use turnback_gateway::runtime::Runtime;
use turnback_journal::{Batch, Entry, Journal, Options};

/// The part of a name that selects what is measured, when one is given.
pub fn wanted() -> Option<String> {
    std::env::args().skip(1).find(|argument| !argument.starts_with('-'))
}

/// Why a benchmark stopped.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;
/// What a step of a benchmark gives.
pub type Outcome<T = ()> = Result<T, Failed>;

const POLICY: &str = r#"
@id("all") permit (principal, action, resource);
@id("large") @outcome("review") forbid (principal, action in Action::"write", resource is Sqlite)
when { context has effect && context.effect.rows_deleted > 5 } unless { context.approved };
@id("secrets") @reason("secrets are protected")
forbid (principal, action in Action::"write", resource is Files) when { context.place like "secret*" };
"#;

/// The rows of `customers`.
pub const CUSTOMERS: u64 = 10_000;

const SCHEMA: &str = "
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL, balance INTEGER NOT NULL);
INSERT INTO customers WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
  SELECT i, 'customer ' || i, 'basic', i FROM n;
";

/// A folder with resources `w0`, `w1`, … (files) and `d0`, `d1`, … (SQLite), and a state directory.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Makes it, with databases in the given journal mode.
    pub fn new(resources: usize, mode: &str) -> Outcome<Self> {
        let place = Self { dir: tempfile::Builder::new().prefix("turnback-bench-").tempdir()? };
        let mut config = String::from(
            "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[environments.bench]\nmode = \"enforce\"\n\
             [limits]\nrows = 1000000\n[limits.budget]\nwindow = \"1h\"\nactions = 1000000000\n\
             [policy]\npath = \"policies\"\n",
        );
        for i in 0..resources {
            let root = place.path(&format!("w{i}"));
            std::fs::create_dir(&root)?;
            std::fs::write(root.join("read.txt"), "a line of text\n".repeat(70))?;
            database(&place.path(&format!("d{i}.db")), mode)?;
            config.push_str(&format!(
                "[resources.w{i}]\nkind = \"files\"\nroot = \"w{i}\"\nenvironment = \"bench\"\n\
                 [resources.d{i}]\nkind = \"sqlite\"\npath = \"d{i}.db\"\nenvironment = \"bench\"\n"
            ));
        }
        std::fs::create_dir(place.path("policies"))?;
        std::fs::write(place.path("policies/bench.cedar"), POLICY)?;
        std::fs::write(place.path("turnback.toml"), config)?;
        Ok(place)
    }

    /// A path below it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Starts a node here.
    pub async fn start(&self) -> Outcome<Node> {
        start(self.dir.path()).await
    }

    /// What one run of a tool writes into the journal.
    pub async fn sample(&self, tool: &str, arguments: Value) -> Outcome<Sample> {
        let node = self.start().await?;
        let run = node.call(tool, &arguments).await?;
        node.runtime.close().await.map_err(|e| e.to_string())?;
        drop(node);
        let journal = Journal::open(&self.path("state"), Options::default())?.journal;
        let events = journal.run_events(run)?;
        let row = journal.row(run)?.ok_or("the run has no row")?;
        let mut blobs = Vec::new();
        for (_, _, body) in &events {
            if let Body::Run { event: turnback_core::run::Event::Staged { measurement }, .. } = body {
                for hash in &measurement.artifacts {
                    blobs.push(turnback_effects::Artifacts::get(&Store(&journal), hash)?);
                }
            }
        }
        journal.close();
        let bodies: Vec<Body> = events.into_iter().map(|(_, _, body)| body).collect();
        let mut bytes = blobs.iter().map(Vec::len).sum::<usize>();
        for body in &bodies {
            bytes += encode(body)?.len();
        }
        Ok(Sample { bodies, row, blobs, bytes })
    }
}

struct Store<'a>(&'a Journal);

impl turnback_effects::Artifacts for Store<'_> {
    fn get(&self, hash: &Sha256) -> Result<Vec<u8>, turnback_core::refusal::Refusal> {
        self.0.blobs().get(hash)
    }
}

/// A database with ten thousand customers.
pub fn database(path: &Path, mode: &str) -> Outcome {
    let db = Connection::open(path)?;
    let set: String = db.pragma_update_and_check(None, "journal_mode", mode, |row| row.get(0))?;
    if !set.eq_ignore_ascii_case(mode) {
        return Err(format!("journal mode is {set}").into());
    }
    db.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?;
    Ok(())
}

/// A connection as an application without Turnback would have it: kept open, syncing every commit.
pub fn bare(path: &Path) -> Outcome<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    Ok(db)
}

/// A running node with one registered agent.
#[derive(Clone)]
pub struct Node {
    pub runtime: Runtime,
    pub caller: Caller,
}

/// Starts the node of a folder.
pub async fn start(dir: &Path) -> Outcome<Node> {
    let config = Config::load(&dir.join("turnback.toml")).map_err(|e| format!("{e:?}"))?;
    let clock = node::system_clock();
    let settings = node::settings(&config, "http://127.0.0.1:1".into(), clock).map_err(|e| format!("{e:?}"))?;
    let runtime = Runtime::open(settings).await.map_err(|e| e.to_string())?;
    let agent = AgentName::new("coder")?;
    match runtime.operate(Request::AgentAdd { name: agent.clone(), owner: "anna".into(), level: None }, "anna").await {
        Reply::Done => Ok(Node {
            runtime,
            caller: Caller { agent, on_behalf_of: None, assignment: turnback_core::contract::Assignment::default() },
        }),
        other => Err(format!("{other:?}").into()),
    }
}

impl Node {
    /// One call through the desk, as a door makes it.
    pub async fn ask(&self, tool: &str, arguments: &Value) -> Answer {
        let arguments = arguments.to_string().into_bytes();
        let call = Call { caller: self.caller.clone(), tool: tool.into(), arguments, statement: None, trace: None };
        self.runtime.call(call).await
    }

    /// A call that must be done: a benchmark of refusals would be a benchmark of nothing.
    pub async fn call(&self, tool: &str, arguments: &Value) -> Outcome<RunId> {
        match self.ask(tool, arguments).await {
            Answer::Done { run, .. } => Ok(run),
            other => Err(format!("not done: {other:?}").into()),
        }
    }

    /// Undoes one run.
    pub async fn undo(&self, run: RunId) -> Outcome<RunId> {
        let what = UndoWhat::Runs { runs: vec![run.to_string()] };
        match self.runtime.operate(Request::Undo { what, dry_run: false }, "anna").await {
            Reply::Ended(views) => views.first().map(|v| v.row.run).ok_or_else(|| "nothing was undone".into()),
            other => Err(format!("not undone: {other:?}").into()),
        }
    }

    /// Waits until everything that was answered is durable, also what is written behind answers.
    pub async fn settle(&self) -> Outcome {
        let filter = Request::Runs { agent: None, state: None, limit: 1 };
        let Reply::Runs(rows) = self.runtime.operate(filter, "anna").await else { return Err("no runs".into()) };
        let run = rows.first().ok_or("no run")?.run.to_string();
        match self.runtime.operate(Request::Show { run }, "anna").await {
            Reply::Run(_) => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    }

    /// Stops it in order.
    pub async fn stop(self) -> Outcome {
        Ok(self.runtime.close().await.map_err(|e| e.to_string())?)
    }
}

/// Everything one run writes: its records, its line of the list, its blobs.
pub struct Sample {
    pub bodies: Vec<Body>,
    pub row: Row,
    pub blobs: Vec<Vec<u8>>,
    /// Payload bytes of all of it.
    pub bytes: usize,
}

impl Sample {
    /// Its records and blobs for a bare append: no list of runs. Blobs differ from call to call, so that
    /// each is stored.
    pub fn batch(&self, n: u64) -> Batch {
        let at = Timestamp::now();
        let entries = self.bodies.iter().map(|body| Entry { at, body: body.clone(), project: Vec::new() }).collect();
        Batch { entries, blobs: self.blobs.iter().map(|bytes| unique(bytes, n)).collect() }
    }
}

/// The same number of bytes under another name.
pub fn unique(bytes: &[u8], n: u64) -> (Sha256, Vec<u8>) {
    let mut bytes = bytes.to_vec();
    for (byte, digit) in bytes.iter_mut().zip(n.to_le_bytes()) {
        *byte = digit;
    }
    (Sha256::of(&bytes), bytes)
}

/// Appends as the runtime does.
pub async fn append(journal: &Journal, batch: Batch) -> Outcome {
    let (tell, hear) = oneshot::channel();
    journal.append(batch, move |answer| drop(tell.send(answer)));
    hear.await?.map(drop).map_err(Into::into)
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<oneshot::Sender<()>>,
    closed: bool,
}

/// The least a durable append can cost: one thread writes `bytes` for everybody who waits into a plain
/// file and syncs once. No database, no hash, no index.
pub struct Floor {
    shared: Arc<(Mutex<Waiting>, Condvar)>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Floor {
    pub fn new(path: &Path, bytes: usize) -> Outcome<Self> {
        let shared = Arc::new((Mutex::new(Waiting::default()), Condvar::new()));
        let own = Arc::clone(&shared);
        let mut file = File::create(path)?;
        let thread = std::thread::spawn(move || {
            let content = vec![b'x'; bytes];
            loop {
                let waiting = {
                    let mut waiting = own.0.lock().unwrap_or_else(PoisonError::into_inner);
                    while waiting.queue.is_empty() && !waiting.closed {
                        waiting = own.1.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                    }
                    std::mem::take(&mut waiting.queue)
                };
                if waiting.is_empty() {
                    return Ok(());
                }
                file.write_all(&content.repeat(waiting.len()))?;
                file.sync_data()?;
                for one in waiting {
                    // Whoever does not wait any more need not hear it.
                    let _ = one.send(());
                }
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    pub async fn append(&self) -> Outcome {
        let (tell, hear) = oneshot::channel();
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).queue.push_back(tell);
        self.shared.1.notify_one();
        Ok(hear.await?)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.1.notify_one();
        if let Some(Err(_)) = self.thread.take().map(std::thread::JoinHandle::join) {
            eprintln!("the floor's writer panicked");
        }
    }
}

/// What callers measured.
pub struct Seen {
    /// Actions per second, everything durable at the end.
    pub rate: f64,
    laps: Vec<Duration>,
}

impl Seen {
    /// The latency that a share `q` of the actions did not exceed.
    pub fn at(&self, q: f64) -> Duration {
        quantile(&self.laps, q)
    }
}

/// A quantile of sorted durations; zero of none.
fn quantile(sorted: &[Duration], q: f64) -> Duration {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list of a few thousand"
    )]
    let index = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// The median of some durations.
pub fn middle(mut laps: Vec<Duration>) -> Duration {
    laps.sort_unstable();
    quantile(&laps, 0.5)
}

/// The median of some numbers.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `callers` tasks repeat `act(caller, number)` for `time`, then everything settles.
pub async fn crowd<F, Fut>(
    callers: usize,
    time: Duration,
    act: F,
    settled: impl Future<Output = Outcome>,
) -> Outcome<Seen>
where
    F: Fn(usize, u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    // Numbers never repeat within a process, so that no call is equal to an earlier one.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let act = act.clone();
            tokio::spawn(async move {
                let mut laps = Vec::new();
                while began.elapsed() < time {
                    let lap = Instant::now();
                    act(caller, NEXT.fetch_add(1, Ordering::Relaxed)).await?;
                    laps.push(lap.elapsed());
                }
                Outcome::Ok(laps)
            })
        })
        .collect();
    let mut laps = Vec::new();
    for task in tasks {
        laps.extend(task.await??);
    }
    settled.await?;
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let rate = laps.len() as f64 / began.elapsed().as_secs_f64();
    laps.sort_unstable();
    Ok(Seen { rate, laps })
}

/// A duration for people.
pub fn time(d: Duration) -> String {
    let micros = d.as_secs_f64() * 1e6;
    match micros {
        m if m < 1_000.0 => format!("{m:.0} µs"),
        m if m < 1_000_000.0 => format!("{:.2} ms", m / 1e3),
        m => format!("{:.2} s", m / 1e6),
    }
}

/// How many times `b` fits into `a`.
pub fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// Prints where and under what load this ran, with the price of one sync.
pub fn heading(title: &str) -> Outcome {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let mut file = tempfile::tempfile()?;
    let mut laps = Vec::new();
    for _ in 0..200 {
        file.write_all(&[b'x'; 4096])?;
        let lap = Instant::now();
        file.sync_data()?;
        laps.push(lap.elapsed());
    }
    laps.sort_unstable();
    println!("\n## {title}");
    println!(
        "{cores} cores, load {}, sync of 4 KiB: {} (median), {} (p99)\n",
        load.split(' ').next().unwrap_or("?"),
        time(quantile(&laps, 0.5)),
        time(quantile(&laps, 0.99))
    );
    Ok(())
}

/// Prints a table as Markdown.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    println!("| {} |", head.join(" | "));
    println!("|{}", "---|".repeat(head.len()));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
    println!();
}

/// Runs a benchmark; a failure is the process's.
pub fn run(bench: impl Future<Output = Outcome>) {
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failed::from)
        .and_then(|runtime| runtime.block_on(bench));
    if let Err(error) = done {
        eprintln!("the benchmark stopped: {error}");
        std::process::exit(1);
    }
}

/// The arguments of the actions measured.
pub fn read_file() -> Value {
    json!({ "path": "read.txt" })
}

/// A kilobyte that is new each time.
pub fn write_file(caller: usize, n: u64) -> Value {
    json!({ "path": format!("f{caller}.txt"), "content": format!("{n:020}\n").repeat(48) })
}

/// One row by its key.
pub fn query(n: u64) -> Value {
    json!({ "sql": "select * from customers where id = ?", "params": [n % CUSTOMERS + 1] })
}

/// One row by its key.
pub fn update(n: u64) -> Value {
    json!({ "sql": "update customers set balance = ? where id = ?", "params": [n + 1_000_000, n % CUSTOMERS + 1] })
}
