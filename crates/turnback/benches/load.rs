//! Ten times more callers than can be served, ten thousand questions that wait, and a long mixed run, against the
//! real binary in a process of its own.
//!
//! ```text
//! cargo bench -p turnback --bench load                  overload for a minute, 10,000 questions   about 4 min
//! cargo bench -p turnback --bench load -- --short       the same in small
//! cargo bench -p turnback --bench load -- soak 3600     a mixed run of so many seconds
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that met a surprise has nothing to report")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/crowd/mod.rs"]
mod crowd;

use std::time::{Duration, Instant};

use crowd::{Phase, ROOM, Scale, held, quantile};
use serde_json::json;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let seconds = arguments.iter().position(|a| a == "soak").map(|at| {
        arguments.get(at + 1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("soak wants a number of seconds"))
    });
    if let Some(seconds) = seconds {
        return soak(Duration::from_secs(seconds));
    }
    let short = arguments.iter().any(|a| a == "--short");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let scale = Scale {
        agents: 4,
        normal: ROOM * 3 / 4,
        over: ROOM * 10,
        time: Duration::from_secs(if short { 5 } else { 60 }),
        impatience: None,
        parked: if short { 500 } else { 10_000 },
    };
    runtime.block_on(overload(scale));
}

fn heading(title: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("\n## {title}\n{cores} cores, load {}\n", load.split(' ').next().unwrap_or("?"));
}

fn ms(lap: Duration) -> String {
    format!("{:.1} ms", lap.as_secs_f64() * 1e3)
}

fn row(name: &str, callers: usize, time: Duration, phase: &Phase) {
    let rate = |n: usize| format!("{:.0}/s", n as f64 / time.as_secs_f64());
    println!(
        "| {name} | {callers} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        rate(phase.accepted()),
        ms(quantile(&phase.reads, 500)),
        ms(quantile(&phase.reads, 990)),
        ms(quantile(&phase.writes, 500)),
        ms(quantile(&phase.writes, 990)),
        rate(phase.refused.len()),
        ms(quantile(&phase.refused, 500)),
        ms(quantile(&phase.refused, 990)),
        phase.refused_connections,
        phase.broken,
        ms(phase.kill),
    );
}

async fn overload(scale: Scale) {
    heading("More callers than can be served");
    let place = crowd::place(scale.parked.div_ceil(scale.agents));
    let node = place.start();
    let tokens = crowd::tokens(&node, scale.agents);
    let mut memory = vec![("after the start", held(node.pid()))];
    println!(
        "| phase | callers | accepted | read p50 | p99 | write p50 | p99 | refused | p50 | p99 | by connection | broken | kill switch |"
    );
    println!("|{}", "---|".repeat(13));
    let normal = crowd::phase(&node, &tokens, scale.normal, scale.time, None, 0).await;
    row("everybody fits", scale.normal, scale.time, &normal);
    memory.push(("everybody fitted", held(node.pid())));
    let over = crowd::phase(&node, &tokens, scale.over, scale.time, None, 1).await;
    row("ten times too many, patient", scale.over, scale.time, &over);
    let rude = crowd::phase(&node, &tokens, scale.over, scale.time, Some(Duration::from_millis(50)), 2).await;
    row("ten times too many, back after 50 ms", scale.over, scale.time, &rude);
    memory.push(("ten times too many", held(node.pid())));
    for (name, phase) in [("patient", &over), ("impatient", &rude)] {
        let times = |laps: fn(&Phase) -> &Vec<Duration>| {
            quantile(laps(phase), 990).as_secs_f64() / quantile(laps(&normal), 990).as_secs_f64()
        };
        println!(
            "\n{name}: p99 of accepted reads {:.2} x, of writes {:.2} x",
            times(|p| &p.reads),
            times(|p| &p.writes)
        );
    }
    let began = Instant::now();
    let parked = crowd::park(&node, &tokens, scale.parked).await;
    println!("\n{} questions parked in {:.1} s", parked.len(), began.elapsed().as_secs_f64());
    memory.push(("with all questions waiting", held(node.pid())));
    let last = crowd::phase(&node, &tokens, scale.normal, scale.time / 6, None, 3).await;
    memory.push(("and everybody calling again", held(node.pid())));
    println!("reads beside them: p50 {}, p99 {}", ms(quantile(&last.reads, 500)), ms(quantile(&last.reads, 990)));
    node.kill();
    let began = Instant::now();
    let node = place.start();
    println!("up again after kill -9 in {:.2} s", began.elapsed().as_secs_f64());
    memory.push(("after the restart", held(node.pid())));
    let waiting = node.told(&json!({ "op": "status" }), "status")["waiting"].as_u64();
    assert_eq!(waiting, u64::try_from(scale.parked).ok(), "questions that wait after the restart");
    println!("\n| memory | resident | peak | threads | descriptors |\n|---|---|---|---|---|");
    for (when, held) in memory {
        let mb = |kib: u64| format!("{:.1} MB", kib as f64 / 1024.0);
        println!("| {when} | {} | {} | {} | {} |", mb(held.rss_kib), mb(held.peak_kib), held.threads, held.fds);
    }
    node.stop_in_order();
    let accepted = [normal.runs, over.runs, rude.runs, last.runs, parked].concat();
    let count = accepted.len();
    crowd::nothing_unjournaled(&place, &accepted);
    println!("\nall {count} answered runs are in the journal, and every file there has its intent");
    place.verify();
}

fn soak(time: Duration) {
    heading("A long mixed run");
    let place = crowd::place(1_000);
    let node = place.start();
    let tokens = crowd::tokens(&node, 4);
    let samples = u32::try_from(time.as_secs() / 5).unwrap().max(1);
    let soaked = crowd::soak::soak(&place, &node, &tokens, time, samples);
    println!("| second | resident | threads | descriptors | write-ahead log |\n|---|---|---|---|---|");
    for sample in soaked.samples.iter().step_by((soaked.samples.len() / 20).max(1)) {
        println!(
            "| {:.0} | {:.1} MB | {} | {} | {:.1} MB |",
            sample.second,
            sample.held.rss_kib as f64 / 1024.0,
            sample.held.threads,
            sample.held.fds,
            sample.wal as f64 / 1048576.0
        );
    }
    let warm_up = time / 4;
    println!(
        "\n{} rounds of eleven actions; growth of resident memory after {} s: {:+.2} % an hour",
        soaked.rounds,
        warm_up.as_secs(),
        soaked.slope(warm_up)
    );
    node.stop_in_order();
    place.verify();
}
