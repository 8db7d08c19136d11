//! More callers than can be served, against the real binary in a process of its own.
//!
//! Everything here counts and checks facts; whoever calls decides whether the times are printed
//! (`benches/load.rs`) or left alone (`tests/load.rs`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![allow(dead_code, unreachable_pub, reason = "test and benchmark each use a part")]
#![allow(
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "small counts; an index that is not there stops the test"
)]

pub mod caller;
pub mod soak;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use turnback_core::record::Body;
use turnback_core::run::Event;
use turnback_journal::{Journal, Options, RowFilter};

use crate::common::{CONFIG, Node, Place};
use caller::{Caller, Reply};

/// Folders the writes are spread over.
pub const FOLDERS: usize = 8;
/// Calls the agents' door works on at once.
pub const ROOM: usize = 128;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Agents; the callers are theirs in turn.
    pub agents: usize,
    /// Callers in the phase everybody fits into.
    pub normal: usize,
    /// Callers in the phase they do not.
    pub over: usize,
    /// Length of each phase.
    pub time: Duration,
    /// How long a caller that was refused waits; `None` for as long as it is told.
    pub impatience: Option<Duration>,
    /// Questions that wait for people.
    pub parked: usize,
}

/// A place with folders `w0`, `w1`, … and agents `a0`, `a1`, … that may have so many questions waiting.
pub fn place(questions: usize) -> Place {
    let mut config = CONFIG.replace("[listen]", &format!("[approvals]\nmost = {questions}\n\n[listen]"));
    for i in 0..FOLDERS {
        config += &format!("\n[resources.w{i}]\nkind = \"files\"\nroot = \"w{i}\"\nenvironment = \"production\"\n");
    }
    let place = Place::with(&config);
    for i in 0..FOLDERS {
        fs::create_dir(place.path(&format!("w{i}"))).unwrap();
        fs::write(place.path(&format!("w{i}/read.txt")), "a line of text\n".repeat(70)).unwrap();
    }
    place
}

/// Registers agents and makes a token for each.
pub fn tokens(node: &Node, agents: usize) -> Vec<String> {
    let token = |i: usize| {
        let name = format!("a{i}");
        node.told(&json!({ "op": "agent_add", "name": name, "owner": "anna" }), "done");
        let request = json!({ "op": "token_new", "agent": name, "on_behalf_of": null, "lifetime_seconds": 86_400 });
        node.told(&request, "token")["secret"].as_str().unwrap().to_owned()
    };
    (0..agents).map(token).collect()
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    pub rss_kib: u64,
    pub peak_kib: u64,
    pub threads: u64,
    pub fds: usize,
}

/// Read from `/proc`.
pub fn held(pid: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    };
    Held {
        rss_kib: field("VmRSS"),
        peak_kib: field("VmHWM"),
        threads: field("Threads"),
        fds: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
    }
}

/// What one phase came to.
#[derive(Default)]
pub struct Phase {
    /// Laps of accepted reads and writes, sorted.
    pub reads: Vec<Duration>,
    pub writes: Vec<Duration>,
    /// Laps of refusals, sorted: from sending the request (or connecting) to the whole answer.
    pub refused: Vec<Duration>,
    pub refused_connections: usize,
    /// Runs of accepted calls.
    pub runs: Vec<String>,
    /// Calls denied by the kill switch while it was thrown.
    pub killed: usize,
    /// Connections that broke without an answer.
    pub broken: usize,
    /// How long throwing the switch took, at the operators' door.
    pub kill: Duration,
}

impl Phase {
    fn add(&mut self, other: Self) {
        self.reads.extend(other.reads);
        self.writes.extend(other.writes);
        self.refused.extend(other.refused);
        self.refused_connections += other.refused_connections;
        self.runs.extend(other.runs);
        self.killed += other.killed;
        self.broken += other.broken;
    }

    pub fn accepted(&self) -> usize {
        self.reads.len() + self.writes.len()
    }
}

/// A quantile of sorted durations; zero of none.
pub fn quantile(sorted: &[Duration], per_mille: usize) -> Duration {
    let at = (sorted.len() * per_mille / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// Every refusal says what is full, how large it is, and when to come back – in the header and in the body.
fn refusal_is_well_formed(reply: &Reply) -> bool {
    assert_eq!(reply.status, 503, "{reply:?}");
    let body: Value = serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{e}: {reply:?}"));
    let error = &body["error"];
    assert_eq!(error["code"], -32011, "{reply:?}");
    assert_eq!(error["data"]["code"], "overloaded", "{reply:?}");
    assert!(error["data"]["bound"].as_u64().is_some_and(|bound| bound > 0), "{reply:?}");
    assert_eq!(error["data"]["retry_after_seconds"].as_u64(), reply.retry_after, "{reply:?}");
    assert!(reply.retry_after.is_some(), "{reply:?}");
    match error["data"]["full"].as_str() {
        Some("calls") => false,
        Some("connections") => true,
        other => panic!("{other:?}: {reply:?}"),
    }
}

/// One caller until the phase ends: nine reads, then a write of a file nobody else writes.
async fn one(number: usize, mut caller: Caller, until: Instant, impatience: Option<Duration>, nth: usize) -> Phase {
    let mut phase = Phase::default();
    let mut n = 0_usize;
    while Instant::now() < until {
        n += 1;
        let folder = (number + n) % FOLDERS;
        let write = n.is_multiple_of(10);
        let (tool, arguments) = if write {
            let path = format!("p{nth}c{number}n{n}.txt");
            (format!("w{folder}__write_file"), json!({ "path": path, "content": format!("{number} {n}\n") }))
        } else {
            (format!("w{folder}__read_file"), json!({ "path": "read.txt" }))
        };
        let lap = Instant::now();
        let reply = match caller.call(&tool, &arguments).await {
            Ok(reply) => reply,
            Err(_) => {
                phase.broken += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let lap = lap.elapsed();
        if reply.status == 200 {
            let result = reply.result();
            if result["isError"] == json!(true) {
                // The only thing that may say no here is the switch.
                assert!(reply.body.contains("kill switch"), "{reply:?}");
                phase.killed += 1;
                continue;
            }
            phase.runs.push(result["_meta"]["turnback"]["run"].as_str().unwrap().to_owned());
            if write { &mut phase.writes } else { &mut phase.reads }.push(lap);
        } else {
            phase.refused_connections += usize::from(refusal_is_well_formed(&reply));
            phase.refused.push(lap);
            let told = Duration::from_secs(reply.retry_after.unwrap_or_default());
            tokio::time::sleep(impatience.unwrap_or(told)).await;
        }
    }
    phase
}

/// A phase: `callers` for `time`. In the middle of it an operator throws a kill switch on everything and lifts it.
pub async fn phase(
    node: &Node,
    tokens: &[String],
    callers: usize,
    time: Duration,
    impatience: Option<Duration>,
    nth: usize,
) -> Phase {
    let until = Instant::now() + time;
    let tasks: Vec<_> = (0..callers)
        .map(|number| {
            let caller = Caller::new(&node.url, &tokens[number % tokens.len()]);
            tokio::spawn(one(number, caller, until, impatience, nth))
        })
        .collect();
    let socket = node.socket.clone();
    let kill = tokio::task::spawn_blocking(move || {
        std::thread::sleep(time / 2);
        let everything = json!({ "kind": "everything" });
        let began = Instant::now();
        let thrown = crate::common::ask(&socket, &json!({ "op": "kill", "scope": everything, "reason": "load" }));
        let took = began.elapsed();
        assert_eq!(thrown.unwrap()["reply"], "switches");
        std::thread::sleep((time / 20).min(Duration::from_millis(500)));
        let lifted = crate::common::ask(&socket, &json!({ "op": "unkill", "scope": everything }));
        assert_eq!(lifted.unwrap()["reply"], "switches");
        took
    });
    let mut phase = Phase::default();
    for task in tasks {
        phase.add(task.await.unwrap());
    }
    phase.kill = kill.await.unwrap();
    phase.reads.sort_unstable();
    phase.writes.sort_unstable();
    phase.refused.sort_unstable();
    phase
}

/// Parks `questions` in all, every one a write of a file of its own, and returns the runs.
pub async fn park(node: &Node, tokens: &[String], questions: usize) -> Vec<String> {
    // Each agent asks the same number, as if they took turns.
    let agents = tokens.len();
    let next: Arc<Vec<AtomicUsize>> = Arc::new((0..agents).map(AtomicUsize::new).collect());
    let tasks: Vec<_> = (0..8 * agents)
        .map(|number| {
            let (next, agent) = (Arc::clone(&next), number % agents);
            let mut caller = Caller::new(&node.url, &tokens[agent]);
            tokio::spawn(async move {
                let mut runs = Vec::new();
                loop {
                    let n = next[agent].fetch_add(agents, Ordering::Relaxed);
                    if n >= questions {
                        break;
                    }
                    let tool = format!("w{}__write_file", n % FOLDERS);
                    let arguments = json!({ "path": format!("asked-{n}.txt"), "content": "asked\n".repeat(50) });
                    let reply = caller.call(&tool, &arguments).await.unwrap();
                    let result = reply.result();
                    let run = result["_meta"]["turnback"]["run"].as_str().map(str::to_owned);
                    assert!(reply.body.contains("PENDING"), "{reply:?}");
                    runs.push(run.unwrap_or_else(|| panic!("{reply:?}")));
                }
                runs
            })
        })
        .collect();
    let mut runs = Vec::new();
    for task in tasks {
        runs.extend(task.await.unwrap());
    }
    runs
}

/// What a stopped node's journal says about these runs, and about every file that is there.
///
/// Every accepted answer has its run; every effect has an intent before it; every file has a run that
/// intended it.
pub fn nothing_unjournaled(place: &Place, accepted: &[String]) {
    let journal = Journal::open(&place.path("state"), Options::default()).unwrap().journal;
    for run in accepted {
        assert!(journal.row(run.parse().unwrap()).unwrap().is_some(), "`{run}` was answered and is not recorded");
    }
    let mut intended = BTreeSet::new();
    for row in journal.rows(&RowFilter::default()).unwrap().into_iter().filter(|row| row.tool.ends_with("write_file")) {
        let mut contract = None;
        let mut intent = false;
        for (_, _, body) in journal.run_events(row.run).unwrap() {
            match body {
                Body::Run { event: Event::Proposed { contract: proposed }, .. } => contract = Some(proposed),
                Body::Run { event: Event::Intended, .. } => intent = true,
                Body::Run { event: Event::Committed { .. }, .. } => assert!(intent, "`{}` without an intent", row.run),
                _ => {}
            }
        }
        let contract = contract.unwrap();
        if intent {
            intended.insert(format!("{}/{}", contract.resource, contract.arguments["path"].as_str().unwrap()));
        }
    }
    for i in 0..FOLDERS {
        for entry in fs::read_dir(place.path(&format!("w{i}"))).unwrap() {
            let file = format!("w{i}/{}", entry.unwrap().file_name().to_str().unwrap());
            assert!(
                file.ends_with("/read.txt") || intended.contains(&file),
                "`{file}` is there and nothing intended it"
            );
        }
    }
    journal.close();
}
