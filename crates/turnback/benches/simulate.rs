//! `turnback policy simulate` over a large journal: recorded runs decided again in a second, by the real program.
//!
//! A real gateway records one read, one write to the database and one to a file; their records are then repeated
//! under new identities until there are `TURNBACK_RUNS` runs (200,000), and the program is timed from its start to its
//! end. The figure to watch: at least 20,000 runs a second.

#![allow(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{Place, text};
use jiff::Timestamp;
use serde_json::json;
use turnback_core::names::RunId;
use turnback_core::record::Body;
use turnback_journal::{Batch, Entry, Journal, Options};

fn main() {
    // `cargo test` and nextest look what there is, and run nothing here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runs: usize = std::env::var("TURNBACK_RUNS").map_or(200_000, |runs| runs.parse().unwrap());
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    agent.call("shop__execute", &json!({ "sql": "update stock set n = n + 1 where id < 3" })).unwrap();
    agent.call("work__write_file", &json!({ "path": "b.txt", "content": "two\n" })).unwrap();
    let seen: Vec<RunId> = node.rows().iter().map(|row| row["run"].as_str().unwrap().parse().unwrap()).collect();
    node.stop_in_order();

    let journal = Journal::open(&place.path("state"), Options::default()).unwrap().journal;
    let stories: Vec<Vec<(Timestamp, Body)>> = seen
        .iter()
        .map(|run| journal.run_events(*run).unwrap().into_iter().map(|(_, at, body)| (at, body)).collect())
        .collect();
    let entries = |run: RunId, story: &[(Timestamp, Body)]| -> Vec<Entry> {
        let again = |(at, body): &(Timestamp, Body)| {
            let Body::Run { event, .. } = body else { return None };
            Some(Entry { at: *at, body: Body::Run { run, event: event.clone() }, project: Vec::new() })
        };
        story.iter().filter_map(again).collect()
    };
    for batch in 0..runs.div_ceil(300) {
        let entries = (0..300)
            .map(|i| &stories[(batch + i) % stories.len()])
            .flat_map(|story| entries(RunId::new(uuid::Uuid::now_v7()), story))
            .collect();
        journal.append_wait(Batch { entries, blobs: Vec::new() }).unwrap();
    }
    journal.close();

    for _ in 0..3 {
        let started = Instant::now();
        let output = place.run(&["-o", "json", "policy", "simulate", "--since", "7d"]);
        let took = started.elapsed();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let runs = answer["same"].as_u64().unwrap();
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = runs as f64 / took.as_secs_f64();
        println!("{runs} runs decided again in {took:.2?}: {rate:.0} a second");
    }
}
