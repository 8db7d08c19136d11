//! Reopens one crashed disk after the other and compares. A process of its own, because what it sees of files
//! is changed on the way: see `turnback_faults::Disguise`.
//!
//! It recovers as any node does, in this process only because starting a program a hundred thousand times
//! would take longer than everything else.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use turnback_gateway::config::Config;
use turnback_gateway::node::Node;

use crate::common::fits::{Heard, fits, word};
use crate::common::{Door, Place, World};
use crate::scripts;

/// A crashed disk, and what must hold on it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) root: PathBuf,
    pub(crate) script: String,
    /// The world before the first act.
    pub(crate) base: World,
    pub(crate) heard: Vec<Heard>,
    /// The agent and its token were promised.
    pub(crate) registered: bool,
    /// Checkpoints that were seen by then.
    pub(crate) checkpoints: Vec<String>,
}

/// Where the last panic was, and what it said.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Reads tasks, one a line, and answers each with what is wrong: nothing, or a sentence.
pub(crate) fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_empty() {
            *said = info.to_string();
        }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for line in std::io::stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line.unwrap()).unwrap();
        SAID.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let wrong = match catch_unwind(AssertUnwindSafe(|| reopens(&runtime, &task))) {
            Ok(()) => String::new(),
            Err(_) => SAID.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", json!(wrong)).unwrap();
        out.flush().unwrap();
    }
    ExitCode::SUCCESS
}

fn reopens(runtime: &Runtime, task: &Task) {
    let place = Place::at(&task.root);
    let config = Config::load(&place.path("turnback.toml")).unwrap();
    let node = match runtime.block_on(Node::start(&config)) {
        Ok(node) => node,
        Err(e) => panic!("the node does not start: {e}"),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let served = runtime.spawn(node.serve(async {
        let _ = stopped.await;
    }));
    // Whatever is found: the next disk needs this one closed.
    let compared = catch_unwind(AssertUnwindSafe(|| compare(&place, task)));
    drop(stop);
    runtime.block_on(served).unwrap().unwrap_or_else(|e| panic!("does not close: {e}"));
    if compared.is_err() {
        panic!("said already");
    }
    // The last one seen vouches for all before it.
    let older = task.checkpoints.last();
    turnback_journal::verify(&config.state, older.map(String::as_str), None)
        .unwrap_or_else(|e| panic!("P7: does not verify against {older:?}: {e}"));
}

fn compare(place: &Place, task: &Task) {
    let acts = scripts::of(&task.script);
    let door = Door { socket: place.socket() };
    if task.registered {
        let agents = door.told(&json!({ "op": "agents" }), "agents");
        assert_eq!(agents.as_array().map(Vec::len), Some(1), "P7: the agent that was registered is lost");
        let tokens = door.told(&json!({ "op": "tokens" }), "tokens");
        assert_eq!(tokens.as_array().map(Vec::len), Some(1), "P7: the token that was made is lost");
    }
    fits(&door, place, &task.base, &acts, &task.heard, &mut BTreeMap::new());
    // No pre-image is lost: everything that stands can be taken back, and nothing is left of it then.
    let mut live: Vec<Value> = door.rows();
    live.retain(|row| word(row, "state") == "settled" && row["undoes"].as_array().is_none_or(Vec::is_empty));
    live.sort_by_key(|row| word(row, "committed").to_owned());
    for row in live.iter().rev() {
        let reply = door.undo(&[word(row, "run")]).unwrap();
        assert_eq!(reply["value"][0]["row"]["state"], "settled", "P9: {row} cannot be undone: {reply}");
    }
    assert_eq!(place.world(), task.base, "P9: with everything taken back");
}
