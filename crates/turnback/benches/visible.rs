//! How soon a changed flag and a thrown switch hold, with many requests in flight, against the real binary.
//!
//! 64 callers read as fast as they are answered. Every 300 ms an operator turns the flag `release` off or on, or
//! throws and lifts the switch for everything. Of each change that stops agents three times are told:
//!
//! * **told**: from sending it to the operator's answer, which comes when it is durable (a switch: when it is thrown);
//! * **seen**: from sending it to the start of the last call that was still let through;
//! * **late**: calls let through that were started after the operator had been answered – and answered before agents were
//!   let go on again, because a call under way then is decided by what holds then. There must be none.
//!
//! The figure to watch: seen within 100 ms at 10,000 requests a second, or at what this machine reaches.

#![allow(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/crowd/mod.rs"]
mod crowd;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::Place;
use crowd::caller::Caller;
use crowd::quantile;
use serde_json::{Value, json};

const CALLERS: usize = 64;

const CHANGES: usize = 40;

const FLAGS: &str = r#"{ "flags": { "release": { "state": "ENABLED", "variants": { "on": "autonomous", "off": "off" }, "defaultVariant": "on" } } }"#;

/// When each call that was let through began and ended.
async fn one(mut caller: Caller, stop: Arc<AtomicBool>) -> (Vec<(Instant, Instant)>, usize) {
    let (mut through, mut all) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let reply = caller.call("work__read_file", &json!({ "path": "a.txt" })).await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        all += 1;
        if reply.body.contains("\"isError\":false") {
            through.push((began, Instant::now()));
        }
    }
    (through, all)
}

/// When a change was sent, and when the operator was answered.
async fn change(place: &Place, request: &Value) -> (Instant, Instant) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (socket, request) = (place.socket(), request.clone());
    let sent = Instant::now();
    let reply = tokio::task::spawn_blocking(move || common::ask(&socket, &request).unwrap()).await.unwrap();
    let answered = Instant::now();
    assert_ne!(reply["reply"], "refused", "{reply}");
    (sent, answered)
}

fn main() {
    // `cargo test` and nextest look what there is, and run nothing here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let place = Place::with(&format!("{}\n[flags]\npath = \"flags.json\"\n", common::CONFIG));
    std::fs::write(place.path("flags.json"), FLAGS).unwrap();
    let node = place.start();
    let tokens = crowd::tokens(&node, 4);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("| change | requests/s | told p50 | max | seen p50 | max | late |\n|---|---|---|---|---|---|---|");
    let flag =
        |variant: &str| json!({ "op": "flags_set", "flag": "release", "variant": variant, "reason": "measured" });
    let everything = json!({ "kind": "everything" });
    let kill = json!({ "op": "kill", "scope": everything, "reason": "measured" });
    let unkill = json!({ "op": "unkill", "scope": everything });
    for (name, stop, go) in [("flag", flag("off"), flag("on")), ("kill switch", kill, unkill)] {
        let over = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let (callers, changes) = runtime.block_on(async {
            let callers: Vec<_> = (0..CALLERS)
                .map(|i| tokio::spawn(one(Caller::new(&node.url, &tokens[i % tokens.len()]), Arc::clone(&over))))
                .collect();
            let mut made = Vec::new();
            for _ in 0..CHANGES {
                made.push((change(&place, &stop).await, change(&place, &go).await));
            }
            over.store(true, Ordering::Relaxed);
            let mut ended = Vec::new();
            for caller in callers {
                ended.push(caller.await.unwrap());
            }
            (ended, made)
        });
        let time = began.elapsed();
        let all: usize = callers.iter().map(|(_, all)| all).sum();
        let mut through: Vec<(Instant, Instant)> = callers.into_iter().flat_map(|(through, _)| through).collect();
        through.sort_unstable();
        let (mut told, mut seen, mut late) = (Vec::new(), Vec::new(), 0);
        for ((sent, answered), (gone, _)) in &changes {
            let before = through.iter().filter(|(_, ended)| ended < gone).map(|(began, _)| *began);
            let last = before.clone().next_back().unwrap_or(*sent);
            told.push(*answered - *sent);
            seen.push(last.saturating_duration_since(*sent));
            late += before.rev().take_while(|began| began > answered).count();
        }
        told.sort_unstable();
        seen.sort_unstable();
        let ms = |lap: Duration| format!("{:.1} ms", lap.as_secs_f64() * 1e3);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = all as f64 / time.as_secs_f64();
        println!(
            "| {name} | {rate:.0} | {} | {} | {} | {} | {late} |",
            ms(quantile(&told, 500)),
            ms(quantile(&told, 1000)),
            ms(quantile(&seen, 500)),
            ms(quantile(&seen, 1000)),
        );
        assert_eq!(late, 0, "let through after the operator had been answered");
    }
    node.stop_in_order();
    place.verify();
}
