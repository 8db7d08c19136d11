//! Where the time of one action goes inside a domain: stage, commit, observe, and the same for its undo.
//! No gateway, no journal; what the operating system takes for the same change is printed beside it.
//!
//! 1. One changed row and 80,000, beside the same statement on a connection of one's own.
//! 2. A tree of 5,000 files deleted and brought back.
//!
//! `cargo bench -p turnback-effects --bench domains`

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::{Value, json};
use turnback_core::contract::{Actor, Contract};
use turnback_core::decision::{Decision, Phase, Ruling, Verdict};
use turnback_core::digest::{ActionDigest, Sha256};
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, RunId};
use turnback_core::permit::Permit;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Bearer, Level};
use turnback_core::run::{self, Measurement};
use turnback_core::tool::{Match, Tool};
use turnback_effects::files::Files;
use turnback_effects::sqlite::Sqlite;
use turnback_effects::{Artifacts, Bounds, Domain, Staged, UndoRefused, Undone, commit};
use uuid::Uuid;

type Failed = Box<dyn std::error::Error>;

fn main() {
    if let Err(error) = sqlite().and_then(|()| files()) {
        eprintln!("the benchmark stopped: {error}");
        std::process::exit(1);
    }
}

/// The blobs a gateway would have stored.
#[derive(Default)]
struct Blobs(BTreeMap<Sha256, Vec<u8>>);

impl Artifacts for Blobs {
    fn get(&self, hash: &Sha256) -> Result<Vec<u8>, Refusal> {
        self.0.get(hash).cloned().ok_or_else(|| Refusal::new(Code::SnapshotLost, "missing"))
    }
}

/// How long each verb took.
#[derive(Default)]
struct Laps {
    stage: Vec<Duration>,
    commit: Vec<Duration>,
    observe: Vec<Duration>,
}

impl Laps {
    fn row(self, name: &str, level: &str) -> String {
        let (stage, commit, observe) = (middle(self.stage), middle(self.commit), middle(self.observe));
        let all = time(stage + commit + observe);
        format!("| {name} | {level} | {} | {} | {} | {all} |", time(stage), time(commit), time(observe))
    }
}

fn middle(mut laps: Vec<Duration>) -> Duration {
    laps.sort_unstable();
    laps.get(laps.len() / 2).copied().unwrap_or_default()
}

fn time(d: Duration) -> String {
    match d.as_secs_f64() * 1e6 {
        m if m < 1_000.0 => format!("{m:.0} µs"),
        m => format!("{:.2} ms", m / 1e3),
    }
}

fn heading(title: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\n## {title}\nload {}\n", load.split(' ').next().unwrap_or("?"));
    println!("| what | level | stage | commit | observe | together |\n|---|---|---|---|---|---|");
}

fn contract(domain: &dyn Domain, tool: &str, arguments: &Value) -> Result<Contract, Failed> {
    let specs = domain.tools();
    let spec = specs.iter().find(|s| s.name == tool).ok_or("no such tool")?;
    let (resource, environment) = (ResourceName::new("subject")?, EnvironmentName::new("bench")?);
    let tool = Tool::bind(spec, &resource, domain.kind(), &environment, Match::Exact, Bearer::default())?;
    let actor = Actor::Agent(AgentName::new("bench")?);
    let bytes = serde_json::to_vec(arguments)?;
    Contract::parse(&tool, actor, None, &bytes, None, |local, aim| domain.aim(local, aim)).map_err(refused)
}

fn refused(refusal: Refusal) -> Failed {
    refusal.to_string().into()
}

fn not_undone(why: UndoRefused) -> Failed {
    format!("{why:?}").into()
}

/// Commits staged work and reads it back.
fn perform(
    domain: &dyn Domain,
    run: RunId,
    staged: Staged,
    blobs: &mut Blobs,
    laps: &mut Laps,
) -> Result<Measurement, Failed> {
    let measurement = staged.measurement();
    blobs.0.extend(staged.artifacts.iter().map(|a| (a.hash, a.bytes.clone())));
    let allow =
        |phase| Decision::combine(phase, Sha256::of(b"policy"), vec![Verdict::new("all", Ruling::Allow, "yes")]);
    let action = ActionDigest(Sha256::of(b"action"));
    let now = Timestamp::now();
    let (before, after) = (allow(Phase::Before), allow(Phase::After));
    let permit = Permit::mint(run, action, &staged.effect, &before, &after, None, Match::Exact, now)?;
    let lap = Instant::now();
    let outcome = commit(permit, staged, now, &mut |_| {});
    laps.commit.push(lap.elapsed());
    if !matches!(outcome, run::Outcome::Succeeded) {
        return Err(format!("{outcome:?}").into());
    }
    let lap = Instant::now();
    let seen = domain.observe(run, &measurement, blobs).map_err(refused)?;
    laps.observe.push(lap.elapsed());
    match seen.holds() {
        true => Ok(measurement),
        false => Err(format!("{seen:?}").into()),
    }
}

/// Does a call and undoes it, `times` times; prints a row for each.
fn there_and_back(domain: &dyn Domain, name: &str, tool: &str, arguments: &Value, times: usize) -> Result<(), Failed> {
    let (mut there, mut back) = (Laps::default(), Laps::default());
    let (mut level, mut level_back) = (Level::None, Level::None);
    for _ in 0..times {
        let mut blobs = Blobs::default();
        let id = RunId::new(Uuid::now_v7());
        let contract = contract(domain, tool, arguments)?;
        let lap = Instant::now();
        let staged = domain.stage(id, &contract, &Bounds::default()).map_err(refused)?;
        there.stage.push(lap.elapsed());
        level = staged.plan.level();
        let measurement = perform(domain, id, staged, &mut blobs, &mut there)?;
        let undone = [Undone { run: id, measurement }];
        let id = RunId::new(Uuid::now_v7());
        let lap = Instant::now();
        let staged = domain.undo(id, &undone, &blobs, &Bounds::default()).map_err(not_undone)?;
        back.stage.push(lap.elapsed());
        level_back = staged.plan.level();
        perform(domain, id, staged, &mut blobs, &mut back)?;
    }
    println!("{}", there.row(name, level.name()));
    println!("{}", back.row(&format!("{name}, undone"), level_back.name()));
    Ok(())
}

fn sqlite() -> Result<(), Failed> {
    const FILL: &str = "
        CREATE TABLE small (id INTEGER PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL, balance INTEGER NOT NULL);
        CREATE TABLE big (id INTEGER PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL, balance INTEGER NOT NULL);
        INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 80000)
          SELECT i, 'customer number ' || i, 'basic', i FROM n;
        INSERT INTO small SELECT * FROM big LIMIT 10000;";
    heading("SQLite");
    for mode in ["wal", "delete"] {
        let dir = tempfile::tempdir()?;
        let open = |name: &str| -> Result<Connection, Failed> {
            let db = Connection::open(dir.path().join(name))?;
            db.pragma_update(None, "journal_mode", mode)?;
            db.pragma_update(None, "synchronous", "FULL")?;
            db.execute_batch(&format!("BEGIN; {FILL} COMMIT;"))?;
            Ok(db)
        };
        // Kept open beside the domain, as an application has it.
        let (_application, own) = (open("a.db")?, open("b.db")?);
        let domain = Sqlite::open(&dir.path().join("a.db")).map_err(refused)?;
        for (rows, times, sql) in [
            (1, 50, "update small set balance = balance + 1 where id = 77"),
            (80_000, 5, "update big set balance = balance + 1"),
        ] {
            there_and_back(&domain, &format!("{rows} rows ({mode})"), "execute", &json!({ "sql": sql }), times)?;
            let mut plain = Vec::new();
            for _ in 0..times {
                let lap = Instant::now();
                own.execute(sql, [])?;
                plain.push(lap.elapsed());
            }
            println!("| {rows} rows ({mode}), bare |  |  |  |  | {} |", time(middle(plain)));
        }
    }
    Ok(())
}

fn files() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root");
    for sub in 0..50 {
        let sub = root.join(format!("tree/d{sub}"));
        std::fs::create_dir_all(&sub)?;
        for file in 0..100 {
            std::fs::write(sub.join(format!("{file}.txt")), format!("{file:>1023}\n"))?;
        }
    }
    heading("A tree of 5,000 files of 1 KiB in 50 folders");
    let domain = Files::open(&root, &dir.path().join("slots")).map_err(refused)?;
    there_and_back(&domain, "delete", "delete", &json!({ "path": "tree", "recursive": true }), 7)?;
    let lap = Instant::now();
    let seen = walk(&root)?;
    println!("| looking at all {seen} of them once |  |  |  |  | {} |", time(lap.elapsed()));
    let lap = Instant::now();
    std::fs::rename(root.join("tree"), dir.path().join("aside"))?;
    std::fs::File::open(&root)?.sync_all()?;
    println!("| moving the folder aside, synced |  |  |  |  | {} |", time(lap.elapsed()));
    let lap = Instant::now();
    std::fs::remove_dir_all(dir.path().join("aside"))?;
    println!("| unlinking it, no way back |  |  |  |  | {} |", time(lap.elapsed()));
    Ok(())
}

fn walk(dir: &Path) -> Result<u64, Failed> {
    let mut seen = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        seen += u64::from(entry.metadata()?.is_file());
        if entry.file_type()?.is_dir() {
            seen += walk(&entry.path())?;
        }
    }
    Ok(seen)
}
