//! Plans through a kill: what was verified holds, a step is neither lost nor done twice, and an abort that was
//! cut off is asked for again. The tests that stop a node at a named point need feature `turnback/failpoints`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use common::{Agent, Place};
use serde_json::{Value, json};

const STEPS: [(&str, &str); 3] = [
    ("one", "update stock set n = n + 1 where id = 1"),
    ("two", "update stock set n = n * 2 where id in (1, 2)"),
    ("three", "insert into ledger values (1, 'done')"),
];

/// Submits all steps as one plan; its identity.
fn submit(agent: &mut Agent) -> String {
    let step =
        |(name, sql): &(&str, &str)| json!({ "name": name, "tool": "shop__execute", "arguments": { "sql": sql } });
    let steps: Vec<Value> = STEPS.iter().map(step).collect();
    let told = agent.call("turnback__plan", &json!({ "goal": "stock", "steps": steps })).unwrap();
    assert!(!told.error, "{told:?}");
    serde_json::from_str::<Value>(&told.text).unwrap()["plan"].as_str().unwrap().to_owned()
}

fn run(agent: &mut Agent, step: usize) -> common::Called {
    agent.call("shop__execute", &json!({ "sql": STEPS[step].1 })).unwrap()
}

/// The plan's state, and those of its steps.
fn standing(agent: &mut Agent, plan: &str) -> (String, Vec<String>) {
    let told = agent.call("turnback__plan_status", &json!({ "plan": plan })).unwrap();
    assert!(!told.error, "{told:?}");
    let view: Value = serde_json::from_str(&told.text).unwrap();
    let states = view["steps"].as_array().unwrap().iter().map(|s| s["state"].as_str().unwrap().to_owned());
    (view["state"].as_str().unwrap().to_owned(), states.collect())
}

#[test]
fn a_kill_loses_no_plan_and_doubles_no_step() {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    let plan = submit(&mut agent);
    node.kill();

    for step in 0..STEPS.len() {
        let node = place.start();
        let mut agent = node.agent(&token).unwrap();
        let (state, steps) = standing(&mut agent, &plan);
        assert_eq!(state, "active");
        assert_eq!(steps.iter().filter(|s| *s == "settled").count(), step, "{steps:?}");
        for earlier in 0..step {
            let again = run(&mut agent, earlier);
            assert!(again.error && again.text.contains("at most once"), "{again:?}");
        }
        let done = run(&mut agent, step);
        assert!(!done.error, "{done:?}");
        node.kill();
    }

    let node = place.start();
    let mut agent = node.agent(&token).unwrap();
    assert_eq!(standing(&mut agent, &plan).0, "completed");
    let world = place.world();
    assert_eq!((world.rows["stock"].len(), world.rows["ledger"].len()), (6, 1));
    assert_eq!(place.db().query_row("select n from stock where id = 1", [], |r| r.get::<_, i64>(0)), Ok(22));
    node.stop_in_order();
    place.verify();
}

/// Killed behind the commit of a step, before its outcome is written: it is found to be done.
#[cfg(feature = "failpoints")]
#[test]
fn a_step_that_was_done_when_the_node_died_is_done() {
    for (point, done) in [("before-intent", false), ("after-intent", false), ("after-commit", true)] {
        let place = Place::new();
        let node = place.start();
        let token = node.register().unwrap();
        let plan = submit(&mut node.agent(&token).unwrap());
        node.kill();
        let node = place.try_start(&format!("{point}=return")).unwrap();
        assert!(node.agent(&token).unwrap().call("shop__execute", &json!({ "sql": STEPS[0].1 })).is_err());
        assert!(!node.ended().success());

        let node = place.start();
        let mut agent = node.agent(&token).unwrap();
        let state = standing(&mut agent, &plan).1.remove(0);
        assert_eq!(state, if done { "settled" } else { "ready" }, "{point}");
        // What did not happen may still: the step is neither lost nor doubled.
        assert_eq!(run(&mut agent, 0).error, done, "{point}");
        assert_eq!(place.db().query_row("select n from stock where id = 1", [], |r| r.get::<_, i64>(0)), Ok(11));
        node.stop_in_order();
        place.verify();
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn an_abort_that_was_cut_off_is_asked_for_again() {
    for point in ["after-abort", "between-unwinds"] {
        let place = Place::new();
        let before = place.world();
        let node = place.try_start(&format!("{point}=return")).unwrap();
        let token = node.register().unwrap();
        let mut agent = node.agent(&token).unwrap();
        let plan = submit(&mut agent);
        for step in 0..2 {
            assert!(!run(&mut agent, step).error);
        }
        let abort = json!({ "plan": plan, "reason": "not needed" });
        assert!(agent.call("turnback__plan_abort", &abort).is_err(), "{point}");
        assert!(!node.ended().success());

        let node = place.start();
        let mut agent = node.agent(&token).unwrap();
        let (state, steps) = standing(&mut agent, &plan);
        let expected = if point == "after-abort" { "settled" } else { "undone" };
        assert_eq!((state.as_str(), steps[0].as_str(), steps[1].as_str()), ("aborted", "settled", expected), "{point}");
        let later = run(&mut agent, 2);
        assert!(later.error && later.text.contains("aborted"), "{later:?}");
        let told = agent.call("turnback__plan_abort", &abort).unwrap();
        assert!(!told.error, "{told:?}");
        assert_eq!(standing(&mut agent, &plan).1, ["undone", "undone", "not_done"], "{point}");
        assert_eq!(place.world().rows["stock"], before.rows["stock"]);
        node.stop_in_order();
        place.verify();
    }
}
