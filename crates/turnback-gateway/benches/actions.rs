//! Durable governed actions through the runtime, without a door.
//!
//! 1. Reads and writes with 1, 16 and 64 callers, beside a bare group-committed append of the same
//!    records and blobs to the same kind of journal, and beside a plain file that gets as many bytes.
//! 2. One changed row, and 80,000, beside the same statement on a connection of one's own.
//! 3. A tree of 5,000 files deleted and brought back.
//!
//! `cargo bench -p turnback-gateway --bench actions`; `-- "read a file"` takes only the actions whose names
//! contain that, and leaves out the rest.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Floor, Node, Outcome, Place, append, bare, crowd, heading, median, middle, ratio, table, time};
use turnback_journal::{Journal, Options};

/// Turns each side gets; the median counts.
const ROUNDS: usize = 3;
/// How long one turn lasts.
const TURN: Duration = Duration::from_millis(700);
/// Resources of each kind.
const RESOURCES: usize = 16;

fn main() {
    let wanted = support::wanted();
    support::run(async move {
        heading("Durable governed actions beside bare appends of the same bytes")?;
        callers(wanted.as_deref()).await?;
        if wanted.is_some() {
            return Ok(());
        }
        heading("One row and 80,000 rows, governed and proved, beside bare")?;
        rows().await?;
        heading("A tree of 5,000 files, deleted and restored through the runtime")?;
        tree().await
    });
}

/// One kind of action: its name, a tool and its arguments for a caller's call.
type Kind = (&'static str, fn(usize) -> String, fn(usize, u64) -> Value);

const KINDS: [Kind; 6] = [
    ("read a file", |_| "w0__read_file".into(), |_, _| support::read_file()),
    ("read a row", |_| "d0__query".into(), |_, n| support::query(n)),
    ("write a file, one folder", |_| "w0__write_file".into(), support::write_file),
    ("write a file, 16 folders", |c| format!("w{}__write_file", c % RESOURCES), support::write_file),
    ("update a row, one database", |_| "d0__execute".into(), |_, n| support::update(n)),
    ("update a row, 16 databases", |c| format!("d{}__execute", c % RESOURCES), |_, n| support::update(n)),
];

async fn callers(wanted: Option<&str>) -> Outcome {
    let place = Place::new(RESOURCES, "wal")?;
    let side = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for (index, (name, tool, arguments)) in KINDS.into_iter().enumerate() {
        if wanted.is_some_and(|wanted| !name.contains(wanted)) {
            continue;
        }
        let sample = Arc::new(place.sample(&tool(0), arguments(0, index as u64)).await?);
        let node = place.start().await?;
        let journal = Journal::open(&side.path().join(format!("state{index}")), Options::default())?.journal;
        let floor = Arc::new(Floor::new(&side.path().join("floor"), sample.bytes)?);
        for callers in [1, 16, 64] {
            let (mut governed, mut appended, mut least) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let (sample, journal) = (Arc::clone(&sample), journal.clone());
                let act = move |_, n| {
                    let (sample, journal) = (Arc::clone(&sample), journal.clone());
                    async move { append(&journal, sample.batch(n)).await }
                };
                appended.push(crowd(callers, TURN, act, async { Ok(()) }).await?);
                let floor = Arc::clone(&floor);
                let act = move |_, _| {
                    let floor = Arc::clone(&floor);
                    async move { floor.append().await }
                };
                least.push(crowd(callers, TURN, act, async { Ok(()) }).await?);
                let own = node.clone();
                let act = move |caller, n| {
                    let node = own.clone();
                    async move { node.call(&tool(caller), &arguments(caller, n)).await.map(drop) }
                };
                governed.push(crowd(callers, TURN, act, node.settle()).await?);
            }
            let of = |seen: &[support::Seen]| {
                median(seen.iter().zip(&governed).map(|(other, own)| 100.0 * own.rate / other.rate).collect())
            };
            let rate = |seen: &[support::Seen]| median(seen.iter().map(|s| s.rate).collect());
            let latency = |q| time(middle(governed.iter().map(|s| s.at(q)).collect()));
            rows.push(vec![
                name.to_owned(),
                sample.bytes.to_string(),
                callers.to_string(),
                format!("{:.0}/s", rate(&governed)),
                latency(0.5),
                latency(0.99),
                format!("{:.0}/s", rate(&appended)),
                format!("{:.0} %", of(&appended)),
                format!("{:.0}/s", rate(&least)),
                format!("{:.0} %", of(&least)),
            ]);
        }
        node.stop().await?;
        journal.close();
    }
    table(
        &["action", "bytes", "callers", "governed", "p50", "p99", "bare journal", "of it", "plain file", "of it"],
        &rows,
    );
    Ok(())
}

async fn rows() -> Outcome {
    let mut lines = Vec::new();
    for (mode, connected) in [("wal", true), ("wal", false), ("delete", false)] {
        let place = Place::new(2, mode)?;
        let node = place.start().await?;
        let own = bare(&place.path("d1.db"))?;
        // An application that has the governed database open too: nobody is the last to close it.
        let other = connected.then(|| bare(&place.path("d0.db"))).transpose()?;
        if let Some(other) = &other {
            other.query_row("SELECT count(*) FROM customers", [], |_| Ok(()))?;
        }
        let label = format!("{mode}, {}", if connected { "an application connected" } else { "nobody else connected" });
        let (mut governed, mut plain) = (Vec::new(), Vec::new());
        for n in 0..150 {
            let lap = Instant::now();
            own.execute(
                "update customers set balance = ? where id = ?",
                [n + 1_000_000, n % support::CUSTOMERS + 1].map(|v| v.cast_signed()),
            )?;
            plain.push(lap.elapsed());
            let lap = Instant::now();
            node.call("d0__execute", &support::update(n)).await?;
            governed.push(lap.elapsed());
        }
        lines.push(line(format!("1 row ({label})"), governed, plain));
        if connected || mode == "delete" {
            let (governed, plain) = many(&place, &node, mode).await?;
            lines.push(line(format!("80,000 rows ({label})"), governed, plain));
        }
        node.stop().await?;
    }
    table(&["statement", "governed", "bare", "ratio"], &lines);
    Ok(())
}

fn line(name: String, governed: Vec<Duration>, plain: Vec<Duration>) -> Vec<String> {
    let each = governed.iter().zip(&plain).map(|(g, p)| ratio(*g, *p)).collect();
    vec![name, time(middle(governed)), time(middle(plain)), format!("{:.1} ×", median(each))]
}

/// Five updates of 80,000 rows on both databases, in turns.
async fn many(place: &Place, node: &Node, mode: &str) -> Outcome<(Vec<Duration>, Vec<Duration>)> {
    let fill = |path: &Path| {
        bare(path)?.execute_batch(
            "BEGIN;
             CREATE TABLE big (id INTEGER PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL, balance INTEGER NOT NULL);
             INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 80000)
               SELECT i, 'customer number ' || i, 'basic', i FROM n;
             COMMIT;",
        )?;
        Outcome::Ok(())
    };
    fill(&place.path("d0.db"))?;
    fill(&place.path("d1.db"))?;
    let own = bare(&place.path("d1.db"))?;
    let (mut governed, mut plain) = (Vec::new(), Vec::new());
    for n in 0..5 {
        let sql = format!("update big set balance = balance + {n} + 1");
        let lap = Instant::now();
        let changed = own.execute(&sql, [])?;
        plain.push(lap.elapsed());
        if changed != 80_000 {
            return Err(format!("{mode}: {changed} rows").into());
        }
        let lap = Instant::now();
        node.call("d0__execute", &json!({ "sql": sql })).await?;
        governed.push(lap.elapsed());
    }
    Ok((governed, plain))
}

async fn tree() -> Outcome {
    let place = Place::new(1, "wal")?;
    let node = place.start().await?;
    let root = place.path("w0/tree");
    for dir in 0..50 {
        let dir = root.join(format!("d{dir}"));
        std::fs::create_dir_all(&dir)?;
        for file in 0..100 {
            std::fs::write(dir.join(format!("{file}.txt")), format!("{file:>1023}\n"))?;
        }
    }
    let (mut deleted, mut restored) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let lap = Instant::now();
        let run = node.call("w0__delete", &json!({ "path": "tree", "recursive": true })).await?;
        deleted.push(lap.elapsed());
        if root.exists() {
            return Err("the tree is still there".into());
        }
        let lap = Instant::now();
        node.undo(run).await?;
        restored.push(lap.elapsed());
        if !root.join("d49/99.txt").exists() {
            return Err("the tree is not back".into());
        }
    }
    let lap = Instant::now();
    std::fs::remove_dir_all(&root)?;
    let plain = lap.elapsed();
    let rows = [("delete", deleted), ("restore", restored)];
    let mut lines: Vec<Vec<String>> =
        rows.into_iter().map(|(what, l)| vec![what.to_owned(), time(middle(l))]).collect();
    lines.push(vec!["for comparison: unlinking it, no way back".into(), time(plain)]);
    table(&["5,000 files", "whole call"], &lines);
    node.stop().await
}
