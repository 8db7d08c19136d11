//! The facts of overload and of a long run, in small; `cargo bench -p turnback --bench load` takes the times.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;
mod crowd;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::PATIENCE;
use crowd::{ROOM, Scale, held};
use serde_json::json;

fn multi(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

/// Far above what is needed, far below what a leak in one of the maps would take.
const MEMORY_KIB: u64 = 512 * 1024;

/// Connections to the journal and to the database are kept for the next reader, a handful of each and up to
/// three descriptors a connection: how many there are after a while depends on who happened to read at once.
const POOLED: usize = 24;

#[test]
fn overload_is_refused_in_form_and_nothing_of_what_was_accepted_is_lost() {
    let scale = Scale {
        agents: 4,
        normal: 16,
        over: 5 * ROOM,
        time: Duration::from_secs(3),
        impatience: Some(Duration::from_millis(100)),
        parked: 200,
    };
    let place = crowd::place(scale.parked / scale.agents);
    let node = place.start();
    let tokens = crowd::tokens(&node, scale.agents);
    multi(async {
        let normal = crowd::phase(&node, &tokens, scale.normal, scale.time, scale.impatience, 0).await;
        assert!(normal.refused.is_empty() && normal.accepted() > 0, "{} were refused", normal.refused.len());
        let over = crowd::phase(&node, &tokens, scale.over, scale.time, scale.impatience, 1).await;
        assert!(!over.refused.is_empty() && over.accepted() > 0 && over.killed > 0);
        let parked = crowd::park(&node, &tokens, scale.parked).await;
        // Every agent has as many questions waiting as it may: one more is a refusal, not a question.
        let mut caller = crowd::caller::Caller::new(&node.url, &tokens[0]);
        let more = json!({ "path": "asked-too-much.txt", "content": "x" });
        let refused = caller.call("w0__write_file", &more).await.unwrap();
        assert!(refused.body.contains("\"overloaded\"") && refused.body.contains("the bound is 50"), "{refused:?}");
        let memory = held(node.pid());
        assert!(memory.peak_kib < MEMORY_KIB, "{memory:?}");

        node.kill();
        let node = place.start();
        let waiting: BTreeSet<String> = node
            .rows()
            .iter()
            .filter(|row| row["state"] == "parked")
            .map(|row| row["run"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(waiting, parked.iter().cloned().collect(), "what waited before the node was killed");
        let refused = caller_of(&node.url, &tokens[0]).call("w0__write_file", &more).await.unwrap();
        assert!(refused.body.contains("the bound is 50"), "{refused:?}");
        // An answered question makes room for another.
        let one = node.rows().into_iter().find(|row| row["state"] == "parked" && row["actor"]["name"] == "a0").unwrap();
        let answered = node.ask(&json!({ "op": "approve", "approval": one["run"] })).unwrap();
        assert_eq!(answered["reply"], "ended", "{answered}");
        let asked = caller_of(&node.url, &tokens[0]).call("w0__write_file", &more).await.unwrap();
        assert!(asked.body.contains("PENDING"), "{asked:?}");
        node.stop_in_order();
        place.verify();
        let accepted: Vec<String> = [normal.runs, over.runs, parked].concat();
        crowd::nothing_unjournaled(&place, &accepted);
    });
}

fn caller_of(url: &str, token: &str) -> crowd::caller::Caller {
    crowd::caller::Caller::new(url, token)
}

#[test]
fn a_mixed_workload_leaves_nothing_behind() {
    let place = crowd::place(100);
    let node = place.start();
    let tokens = crowd::tokens(&node, 2);
    // Warm: every pool has what it keeps.
    crowd::soak::soak(&place, &node, &tokens, Duration::from_secs(5), 1);
    let before = rested(&node);
    let soaked = crowd::soak::soak(&place, &node, &tokens, Duration::from_secs(10), 10);
    let after = rested(&node);
    // One descriptor left behind in each round would be seen.
    assert!(soaked.rounds > POOLED as u64, "only {} rounds", soaked.rounds);
    assert!(after.fds <= before.fds + POOLED, "descriptors: {before:?}, {after:?}");
    assert!(after.threads <= before.threads + 2, "threads: {before:?}, {after:?}");
    assert!(after.peak_kib < MEMORY_KIB, "{after:?}");
    let status = node.told(&json!({ "op": "status" }), "status");
    assert_eq!((&status["waiting"], &status["in_doubt"]), (&json!(0), &json!(0)), "{status}");
    node.stop_in_order();
    place.verify();
}

/// What a node holds once nobody calls it: its descriptors and threads stop falling.
fn rested(node: &common::Node) -> crowd::Held {
    let deadline = Instant::now() + PATIENCE;
    let mut last = held(node.pid());
    let mut same = 0;
    while same < 30 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        let now = held(node.pid());
        same = if (now.fds, now.threads) == (last.fds, last.threads) { same + 1 } else { 0 };
        last = now;
    }
    last
}
