//! A mixed workload for a long time: what the process holds must not grow.

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::caller::Caller;
use super::{FOLDERS, Held, held};
use crate::common::{Called, Node, Place};

/// Threads that call; the connections of each are its own.
const CALLERS: usize = 4;

/// One look at the process.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub second: f64,
    pub held: Held,
    pub wal: u64,
}

/// What was seen.
pub struct Soaked {
    pub samples: Vec<Sample>,
    /// Rounds of the whole mixture, eleven actions each.
    pub rounds: u64,
}

impl Soaked {
    /// Growth of resident memory in percent an hour: least squares over the samples after `warm_up`.
    pub fn slope(&self, warm_up: Duration) -> f64 {
        let points: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|sample| sample.second >= warm_up.as_secs_f64())
            .map(|sample| (sample.second / 3600.0, sample.held.rss_kib as f64))
            .collect();
        let count = points.len() as f64;
        let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
        let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), point| {
            (over + (point.0 - x) * (point.1 - y), under + (point.0 - x) * (point.0 - x))
        });
        100.0 * over / under / y
    }
}

/// Everything an agent and an operator do, once.
fn round(node: &Node, token: &str, caller: usize, n: u64) {
    let mut agent = node.agent(token).unwrap();
    let folder = format!("w{}", (caller + n as usize) % FOLDERS);
    let own = format!("c{caller}.txt");
    let run = |called: Called| called.run.unwrap_or_else(|| panic!("{}", called.text));
    let call = |agent: &mut crate::common::Agent, tool: &str, arguments: Value| agent.call(tool, &arguments).unwrap();

    call(&mut agent, &format!("{folder}__read_file"), json!({ "path": "read.txt" }));
    call(&mut agent, "shop__query", json!({ "sql": "select * from stock" }));
    let written =
        call(&mut agent, &format!("{folder}__write_file"), json!({ "path": own, "content": format!("{n}\n") }));
    assert!(!written.error, "{written:?}");
    let undone = node.undo(&[&run(written)]).unwrap();
    assert_eq!(undone["reply"], "ended", "{undone}");
    let sql = json!({ "sql": "update stock set n = ? where id = ?", "params": [n + 100, caller + 1] });
    let updated = call(&mut agent, "shop__execute", sql);
    assert!(!updated.error, "{updated:?}");
    // Parked, then answered yes, and another one no; both ends are told to whoever asks again.
    for (op, reason) in [("approve", None), ("reject", Some("not now"))] {
        let arguments = json!({ "path": format!("asked-{op}-{caller}.txt"), "content": format!("{n}\n") });
        let parked = call(&mut agent, &format!("{folder}__write_file"), arguments.clone());
        assert!(parked.text.contains("PENDING"), "{parked:?}");
        let mut request = json!({ "op": op, "approval": run(parked) });
        if let Some(reason) = reason {
            request["reason"] = json!(reason);
        }
        let answered = node.ask(&request).unwrap();
        assert_eq!(answered["reply"], "ended", "{answered}");
        let told = call(&mut agent, &format!("{folder}__write_file"), arguments);
        assert_eq!(told.error, op == "reject", "{told:?}");
    }
    // Refused: by the domain, and because there is no such tool.
    assert!(call(&mut agent, &format!("{folder}__read_file"), json!({ "path": "../out" })).error);
    assert!(call(&mut agent, "nobody__knows", json!({})).error);
    // Sent and not waited for; the connection is dropped with the call.
    let hasty = Caller::new(&node.url, token);
    let bytes = hasty.bytes("shop__query", &json!({ "sql": "select * from parts" }));
    let at = node.url.trim_start_matches("http://").trim_end_matches("/mcp");
    let mut stream = TcpStream::connect(at).unwrap();
    std::io::Write::write_all(&mut stream, &bytes).unwrap();
    drop(stream);
    // A few sessions are left to be forgotten.
    if n % 512 != 511 {
        agent.leave().unwrap();
    }
}

/// Soaks a node for `time`, looking at it `samples` times.
pub fn soak(place: &Place, node: &Node, tokens: &[String], time: Duration, samples: u32) -> Soaked {
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let began = Instant::now();
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (stop, rounds) = (&stop, &rounds);
            let token = &tokens[caller % tokens.len()];
            scope.spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    round(node, token, caller, n);
                    n += 1;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..samples {
            std::thread::sleep(time / samples);
            let wal = fs::metadata(place.path("state/journal.db-wal")).map_or(0, |meta| meta.len());
            seen.push(Sample { second: began.elapsed().as_secs_f64(), held: held(node.pid()), wal });
        }
        stop.store(true, Ordering::Relaxed);
    });
    Soaked { samples: seen, rounds: rounds.into_inner() }
}
