//! Policies in Rego beside those in Cedar, at the real binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::fs;

use common::Place;
#[cfg(feature = "rego")]
use serde_json::json;

#[cfg(feature = "rego")]
#[test]
fn the_stricter_of_both_engines_wins_and_rego_can_decide_alone() {
    const RULES: &str = r#"package turnback
import rego.v1

default decision := true

decision := {"outcome": "review", "reason": "parts are counted twice", "rules": ["parts"]} if {
    input.action.id == "shop__execute"
    "parts" in input.context.names
}

decision := {"outcome": "deny", "reason": "nobody touches a.txt", "rules": ["frozen"]} if {
    input.context.verb != "read"
    input.context.place == "a.txt"
}
"#;
    let place = Place::new();
    fs::write(place.path("policies/more.rego"), RULES).unwrap();
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    let mut call = |tool: &str, arguments: serde_json::Value| agent.call(tool, &arguments).unwrap();
    let read = call("work__read_file", json!({ "path": "a.txt" }));
    assert!(!read.error, "{}", read.text);
    let denied = call("work__write_file", json!({ "path": "a.txt", "content": "x" }));
    assert!(denied.error && denied.text.contains("nobody touches a.txt"), "{}", denied.text);
    let asked = call("shop__execute", json!({ "sql": "update parts set stock = 3" }));
    assert!(asked.text.contains("PENDING") && asked.text.contains("parts are counted twice"), "{}", asked.text);
    // What Cedar alone refuses stays refused.
    let cedar = call("work__write_file", json!({ "path": "asked-x.txt", "content": "x" }));
    assert!(cedar.text.contains("PENDING"), "{}", cedar.text);
    node.stop_in_order();
    place.verify();

    let place = Place::new();
    fs::remove_file(place.path("policies/test.cedar")).unwrap();
    fs::write(place.path("policies/only.rego"), RULES).unwrap();
    let node = place.start();
    let token = node.register().unwrap();
    let done =
        node.agent(&token).unwrap().call("work__write_file", &json!({ "path": "new.txt", "content": "x" })).unwrap();
    assert!(!done.error, "{}", done.text);
    node.stop_in_order();
}

#[cfg(feature = "rego")]
#[test]
fn a_mistake_is_named_by_file_and_line() {
    let place = Place::new();
    fs::write(place.path("policies/more.rego"), "package turnback\n\ndecision := {\n").unwrap();
    let ended = place.try_start("").map(drop).unwrap_err();
    assert!(format!("{ended:?}").contains("more.rego:"), "{ended:?}");
}

#[cfg(not(feature = "rego"))]
#[test]
fn a_build_without_it_says_so() {
    let place = Place::new();
    fs::write(place.path("policies/more.rego"), "package turnback\ndecision := true\n").unwrap();
    let ended = place.try_start("").map(drop).unwrap_err();
    assert!(format!("{ended:?}").contains("--features rego"), "{ended:?}");
}
