//! Nothing grows with the journal: latencies, start-up and memory of a node whose journal holds 10³ and
//! 10⁵ records (`-- 1000000` adds 10⁶).
//!
//! A journal is filled with copies of real runs under identities of their own, one every minute going
//! back from now, in equal parts reads, file writes and row updates, each with its blobs, its slot and
//! its mark. Every size is then opened by a process of its own, so that one size's memory is not the
//! other's, and the sizes take turns. What was filled is flushed first, or its writeback would be
//! measured. A disk has bad minutes that last longer than a round, so of each figure the best round
//! counts: what grows, grows there too.
//!
//! `cargo bench -p turnback-gateway --bench growth`

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use support::{Outcome, Place, Sample, bare, heading, middle, table, time, unique};
use turnback_core::names::RunId;
use turnback_core::record::Body;
use turnback_gateway::desk::Answer;
use turnback_gateway::operator::protocol::{Reply, Request};
use turnback_journal::{Batch, Entry, Journal, Options, Projection};
use uuid::Uuid;

const ROUNDS: usize = 5;
/// Actions of each kind per round.
const ACTIONS: u64 = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, place] = arguments.as_slice()
        && word == "child"
    {
        return support::run(child(Path::new(place).to_owned()));
    }
    let mut sizes = vec![1_000, 100_000];
    sizes.extend(arguments.iter().filter_map(|a| a.parse::<u64>().ok()));
    support::run(parent(sizes));
}

async fn parent(sizes: Vec<u64>) -> Outcome {
    heading("What grows with the journal")?;
    let mut places = Vec::new();
    for size in &sizes {
        let began = Instant::now();
        places.push(filled(*size).await?);
        eprintln!("a journal of {size} records filled in {}", time(began.elapsed()));
    }
    let mut figures: Vec<Vec<Vec<f64>>> = vec![Vec::new(); sizes.len()];
    for _ in 0..ROUNDS {
        for (at, size) in sizes.iter().enumerate() {
            // What a round adds is nothing to the large ones; the small one begins anew.
            let (Some(place), Some(seen)) = (places.get_mut(at), figures.get_mut(at)) else { continue };
            if *size < 10_000 {
                *place = filled(*size).await?;
            }
            // Everybody's dirty pages, not only ours.
            Command::new("sync").status()?;
            let child = Command::new(std::env::current_exe()?).arg("child").arg(place.path("")).output()?;
            if !child.status.success() {
                return Err(String::from_utf8_lossy(&child.stderr).into_owned().into());
            }
            let line = String::from_utf8(child.stdout)?;
            seen.push(line.split_whitespace().filter_map(|n| n.parse().ok()).collect());
        }
    }
    let mut rows = Vec::new();
    for (at, name) in FIGURES.iter().enumerate() {
        let of =
            |seen: &Vec<Vec<f64>>| seen.iter().filter_map(|round| round.get(at).copied()).fold(f64::INFINITY, f64::min);
        let values: Vec<f64> = figures.iter().map(of).collect();
        let mut row = vec![(*name).to_owned()];
        for value in &values {
            row.push(if name.contains("MB") {
                format!("{value:.1}")
            } else {
                time(Duration::from_secs_f64(value / 1e6))
            });
        }
        let first = values.first().copied().unwrap_or(f64::NAN);
        row.extend(values.iter().skip(1).map(|value| format!("{:+.0} %", 100.0 * (value / first - 1.0))));
        rows.push(row);
    }
    let mut head = vec!["best median of 5 rounds".to_owned()];
    head.extend(sizes.iter().map(|size| format!("{size} records")));
    head.extend(sizes.iter().skip(1).map(|size| format!("change at {size}")));
    table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    Ok(())
}

/// What a child prints, in this order: microseconds or megabytes.
const FIGURES: [&str; 11] = [
    "opening the node",
    "resident memory, idle, MB",
    "denied before staging (contract, decision, record)",
    "read a file",
    "read a row",
    "write a file",
    "update a row",
    "list 20 runs",
    "show one run",
    "resident memory at the end, MB",
    "opening the journal alone",
];

async fn child(dir: std::path::PathBuf) -> Outcome {
    let lap = Instant::now();
    Journal::open(&dir.join("state"), Options::default())?.journal.close();
    let journal = lap.elapsed();
    let lap = Instant::now();
    let node = support::start(&dir).await?;
    let opened = lap.elapsed();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let idle = resident()?;
    let mut figures: Vec<Vec<Duration>> = vec![Vec::new(); 7];
    let mut lap_of = |which: usize, began: Instant| {
        if let Some(laps) = figures.get_mut(which) {
            laps.push(began.elapsed());
        }
    };
    let pid = u64::from(std::process::id()) << 20;
    for n in 0..ACTIONS {
        let began = Instant::now();
        let secret = json!({ "path": format!("secret{n}.txt"), "content": "x" });
        let Answer::Refused { .. } = node.ask("w0__write_file", &secret).await else {
            return Err("a secret was written".into());
        };
        lap_of(0, began);
        let began = Instant::now();
        node.call("w0__read_file", &support::read_file()).await?;
        lap_of(1, began);
        let began = Instant::now();
        node.call("d0__query", &support::query(n)).await?;
        lap_of(2, began);
        let began = Instant::now();
        node.call("w0__write_file", &support::write_file(0, pid + n)).await?;
        lap_of(3, began);
        let began = Instant::now();
        let run = node.call("d0__execute", &support::update(pid + n)).await?;
        lap_of(4, began);
        let began = Instant::now();
        let list = Request::Runs { agent: None, state: None, limit: 20 };
        let Reply::Runs(_) = node.runtime.operate(list, "anna").await else { return Err("no list".into()) };
        lap_of(5, began);
        let began = Instant::now();
        let show = Request::Show { run: run.to_string() };
        let Reply::Run(_) = node.runtime.operate(show, "anna").await else { return Err("no run".into()) };
        lap_of(6, began);
    }
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    let mut line = vec![micros(opened), idle];
    line.extend(figures.into_iter().map(|laps| micros(middle(laps))));
    line.push(resident()?);
    line.push(micros(journal));
    node.stop().await?;
    println!("{}", line.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    Ok(())
}

/// Megabytes of resident memory.
fn resident() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}

/// A place whose journal holds about `size` records.
async fn filled(size: u64) -> Outcome<Place> {
    let place = Place::new(1, "wal")?;
    let samples = [
        place.sample("w0__read_file", support::read_file()).await?,
        place.sample("w0__write_file", support::write_file(0, 0)).await?,
        place.sample("d0__execute", support::update(0)).await?,
    ];
    let journal = Journal::open(&place.path("state"), Options::default())?.journal;
    let database = bare(&place.path("d0.db"))?;
    let slots = turnback_journal::slots_dir(&place.path("state")).join("w0");
    let each: u64 = samples.iter().map(|s| s.bodies.len() as u64).sum();
    let rounds = size / each;
    let now = Timestamp::now();
    database.execute_batch("BEGIN")?;
    let (told, durable) = mpsc::sync_channel(64);
    for n in 0..rounds {
        let at = now - SignedDuration::from_mins(i64::try_from(rounds - n)?);
        let mut batch = Batch::default();
        for (kind, sample) in samples.iter().enumerate() {
            let run = RunId::new(Uuid::now_v7());
            copy(sample, run, at, n, &mut batch);
            if kind == 1 {
                std::fs::create_dir_all(slots.join(run.to_string()))?;
                std::fs::write(slots.join(run.to_string()).join("0"), "the content before\n")?;
            } else if kind == 2 {
                let mark = "INSERT INTO _turnback_marks (run, effect, at) VALUES (?1, ?2, 0)";
                database.prepare_cached(mark)?.execute([run.to_string(), "effect".repeat(10)])?;
            }
        }
        let told = told.clone();
        journal.append(batch, move |answer| drop(told.send(answer)));
        if n >= 32 {
            durable.recv()??;
        }
    }
    drop(told);
    for answer in durable {
        answer?;
    }
    database.execute_batch("COMMIT")?;
    journal.close();
    Ok(place)
}

/// The same run again, as another one at another time.
fn copy(sample: &Sample, run: RunId, at: Timestamp, n: u64, batch: &mut Batch) {
    let mut row = sample.row.clone();
    (row.run, row.proposed, row.updated) = (run, at, at);
    row.committed = row.committed.map(|_| at);
    let last = sample.bodies.len().saturating_sub(1);
    for (index, body) in sample.bodies.iter().enumerate() {
        let Body::Run { event, .. } = body else { continue };
        let project = if index == last { vec![Projection::Run(Box::new(row.clone()))] } else { Vec::new() };
        batch.entries.push(Entry { at, body: Body::Run { run, event: event.clone() }, project });
    }
    batch.blobs.extend(sample.blobs.iter().map(|bytes| unique(bytes, n + 1)));
}
