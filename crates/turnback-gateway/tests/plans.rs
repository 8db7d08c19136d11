//! Plans of a whole node: what two callers do at the same moment, and what is remembered for how long.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{CONFIG, Node, Place, done, ended, pending};
use turnback_core::refusal::{Code, Refusal};
use turnback_gateway::desk::{Answer, Desk as _};
use turnback_gateway::operator::plans::PlanView;
use turnback_gateway::operator::protocol::{Reply, Request};

/// Longest time anything may take here; only ever met by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

const DAY: i64 = 24 * 3600;

async fn submit(node: &Node, plan: Value) -> Result<String, Refusal> {
    let told = node.runtime.plan(&node.caller, "plan", plan.to_string().into_bytes()).await;
    told.map(|view| view["plan"].as_str().unwrap().to_owned()).map_err(|not| not.refusal)
}

async fn plans(node: &Node) -> Vec<PlanView> {
    let Reply::Plans(plans) = node.operate(Request::Plans).await else { panic!("no plans") };
    plans
}

async fn show(node: &Node, plan: &str) -> PlanView {
    let Reply::Plan(view) = node.operate(Request::PlanShow { plan: plan.into() }).await else { panic!("no plan") };
    *view
}

/// Waits until the end of every plan is recorded, which the node does by itself.
async fn all_ended(node: &Node) {
    let all = async {
        while plans(node).await.iter().any(|plan| plan.ended.is_none()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
}

/// Submits short plans until no more is taken; how many were.
async fn fill(node: &Node, place: &Place, step: impl Fn(usize) -> Value) -> (usize, Refusal) {
    for n in 0.. {
        let plan = json!({ "goal": "g", "expires_in": 1, "steps": [step(n)] });
        match submit(node, plan).await {
            Ok(_) if n % 16 == 15 => place.pass(2),
            Ok(_) => {}
            Err(refusal) => return (n, refusal),
        }
    }
    unreachable!("numbers end")
}

fn written(place: &Place) -> i64 {
    let journal = rusqlite::Connection::open(place.path("state/journal.db")).unwrap();
    journal.query_row("select count(*) from meta where key like 'plan %'", [], |row| row.get(0)).unwrap()
}

fn update(n: usize) -> Value {
    let sql = format!("update customers set tier = 't{n}' where id = 1");
    json!({ "name": "a", "tool": "db__execute", "arguments": { "sql": sql } })
}

/// Whoever submitted as many as are remembered may go on once they are forgotten, and nothing of them is kept:
/// neither while the node runs nor when they are forgotten while it does not.
#[tokio::test]
async fn plans_that_are_forgotten_make_room() {
    let place = Place::new();
    let node = place.start().await;
    let (most, refusal) = fill(&node, &place, update).await;
    assert_eq!((most, refusal.code), (256, Code::Overloaded));
    all_ended(&node).await;
    place.pass(DAY + 60);
    assert_eq!(plans(&node).await, []);
    submit(&node, json!({ "goal": "g", "expires_in": 1, "steps": [update(0)] })).await.unwrap();
    assert_eq!(plans(&node).await.len(), 1);
    assert_eq!(written(&place), 1);

    place.pass(2);
    all_ended(&node).await;
    node.stop().await;
    place.pass(DAY + 60);
    let node = place.start().await;
    assert_eq!(plans(&node).await, []);
    submit(&node, json!({ "goal": "g", "steps": [update(0)] })).await.unwrap();
    assert_eq!(written(&place), 1);
    node.stop().await;
}

/// Large plans are bounded by what all of them take, and a list of them names no arguments.
#[tokio::test]
async fn large_plans_are_bounded_together() {
    let place = Place::new();
    let node = place.start().await;
    let content = "x".repeat(200 << 10);
    let write = |n: usize| json!({ "name": "a", "tool": "work__write_file", "arguments": { "path": format!("{n}.txt"), "content": content } });
    let (most, refusal) = fill(&node, &place, write).await;
    assert_eq!(refusal.code, Code::Overloaded, "{refusal}");
    assert!(refusal.message.contains("bytes"), "{refusal}");
    assert!((16..64).contains(&most), "{most}");
    let all = plans(&node).await;
    assert_eq!(all.len(), most);
    assert!(serde_json::to_string(&all).unwrap().len() < 200 << 10);
    // One of them is shown in full.
    assert_eq!(show(&node, &all[0].plan.to_string()).await.steps[0].arguments["content"], content);
    node.stop().await;
}

/// An abort that comes while the end of the last step is being recorded: either the plan is completed and stands,
/// or it is aborted and nothing of it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plan_is_completed_or_taken_back_never_both() {
    let place = Place::new();
    let node = place.start().await;
    let tier = || place.value("select tier from customers where id = 1");
    for n in 0..25 {
        let before = tier();
        let sql = format!("update customers set tier = 't{n}' where id = 1");
        let step = json!({ "name": "a", "tool": "db__execute", "arguments": { "sql": sql } });
        let plan = submit(&node, json!({ "goal": "g", "steps": [step] })).await.unwrap();
        let aborts = async {
            while show(&node, &plan).await.steps[0].state != "settled" {
                tokio::task::yield_now().await;
            }
            node.operate(Request::PlanAbort { plan: plan.clone(), reason: "no".into() }).await
        };
        let (ran, _) = tokio::join!(node.sql(&sql), aborts);
        done(ran);
        let view = show(&node, &plan).await;
        let stands = tier() != before;
        let expected = if stands { ("completed", "settled") } else { ("aborted", "undone") };
        assert_eq!((view.state.as_str(), view.steps[0].state.as_str()), expected, "plan {n}");
    }
    node.stop().await;
}

/// Two steps on two resources, grown since they were verified, approved at the same moment: what one is about to
/// do counts for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_steps_at_the_same_moment_do_not_exceed_what_the_plan_may_do() {
    let other = "[resources.other]\nkind = \"files\"\nroot = \"other\"\nenvironment = \"test\"\n[policy]";
    let place = Place::with(&CONFIG.replace("[policy]", other));
    std::fs::create_dir(place.path("other")).unwrap();
    let node = place.start().await;
    for n in 0..10 {
        let folders = ["work", "other"].map(|root| place.path(root).join(format!("d{n}")));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("one"), "1").unwrap();
        }
        let arguments = json!({ "path": format!("d{n}"), "recursive": true });
        let step = |root: &str| json!({ "name": root, "tool": format!("{root}__delete"), "arguments": arguments });
        let plan = json!({ "goal": "g", "steps": [step("work"), step("other")], "at_most": { "files_deleted": 5 } });
        let plan = submit(&node, plan).await.unwrap();
        for folder in &folders {
            std::fs::write(folder.join("two"), "2").unwrap();
        }
        let work = pending(node.call("work__delete", arguments.clone()).await).approval.to_string();
        let other = pending(node.call("other__delete", arguments.clone()).await).approval.to_string();
        let both = tokio::join!(node.approve(&work), node.approve(&other));
        let mut states: Vec<String> = [both.0, both.1].map(|reply| ended(reply).remove(0).row.state).to_vec();
        states.sort();
        assert_eq!(states, ["denied", "settled"], "plan {n}");
        assert_eq!(folders.iter().filter(|folder| folder.exists()).count(), 1);
        assert_eq!(show(&node, &plan).await.spent.files_deleted, 3);
        let Reply::Plan(_) = node.operate(Request::PlanAbort { plan, reason: "again".into() }).await else {
            panic!("not aborted")
        };
    }
    node.stop().await;
}

/// Fifty callers with the steps of one plan: a budget holds for all of them together, whatever was verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_verified_reserves_nothing_of_a_budget() {
    let budget = "[[budget]]\nwindow = \"10m\"\ndeletions = 6\n[policy]";
    let place = Place::with(&CONFIG.replace("[policy]", budget));
    let node = place.start().await;
    let sql = |n: usize| format!("delete from orders where id = {n}");
    for from in [1, 6, 11] {
        let step = |n: usize| json!({ "name": format!("s{n}"), "tool": "db__execute", "arguments": { "sql": sql(n) } });
        let steps: Vec<Value> = (from..from + 5).map(step).collect();
        submit(&node, json!({ "goal": "g", "steps": steps })).await.unwrap();
    }
    let calls = (0..50).map(|n| {
        let (runtime, caller) = (node.runtime.clone(), node.caller.clone());
        let arguments = json!({ "sql": sql(1 + n % 15) }).to_string().into_bytes();
        tokio::spawn(async move {
            let call = turnback_gateway::desk::Call {
                caller,
                tool: "db__execute".into(),
                arguments,
                statement: None,
                trace: None,
            };
            runtime.call(call).await
        })
    });
    let mut ran = 0;
    for call in calls.collect::<Vec<_>>() {
        ran += usize::from(matches!(call.await.unwrap(), Answer::Done { .. }));
    }
    assert_eq!((ran, place.value("select count(*) from orders")), (6, json!(14)));
    node.stop().await;
}
