//! Decisions for enforcement points of others, over HTTP at the real binary (AuthZEN 1.0).

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::fs;

use common::{CONFIG, Node, PATIENCE, Place};
use serde_json::{Value, json};

const ACCESS: &str = r#"
@id("own")
permit (principal, action == Action::"can_update_todo", resource) when { resource.ownerID == principal.email };

@id("closed")
@reason("it is closed")
forbid (principal, action, resource) when { resource has closed && resource.closed };
"#;

const ENTITIES: &str = r#"[
  { "uid": { "type": "user", "id": "morty" }, "attrs": { "email": "morty@the-citadel.com" }, "parents": [] }
]"#;

struct Answer {
    status: u16,
    kind: String,
    id: Option<String>,
    body: Value,
}

fn ask(node: &Node, token: &str, path: &str, body: &str) -> Answer {
    let http = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
    let url = node.url.replace("/mcp", path);
    let mut request = ureq::Agent::from(http).post(&url).header("Content-Type", "application/json");
    request = request.header("X-Request-ID", "q-7");
    if !token.is_empty() {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut response = request.send(body).unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (kind, id) = (header("content-type").unwrap_or_default(), header("x-request-id"));
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap();
    Answer { status, kind, id, body: serde_json::from_str(&text).unwrap_or(Value::Null) }
}

fn place() -> Place {
    let place = Place::with(&format!("{CONFIG}\n[access]\ncallers = [\"gate\"]\n"));
    fs::create_dir(place.path("access")).unwrap();
    fs::write(place.path("access/todo.cedar"), ACCESS).unwrap();
    fs::write(place.path("access/entities.json"), ENTITIES).unwrap();
    place
}

fn gate(node: &Node) -> String {
    node.told(&json!({ "op": "agent_add", "name": "gate", "owner": "anna" }), "done");
    let made = node
        .told(&json!({ "op": "token_new", "agent": "gate", "on_behalf_of": null, "lifetime_seconds": 3_600 }), "token");
    made["secret"].as_str().unwrap().to_owned()
}

fn update(owner: &str) -> Value {
    json!({
        "subject": { "type": "user", "id": "morty" },
        "action": { "name": "can_update_todo" },
        "resource": { "type": "todo", "id": "1", "properties": { "ownerID": owner } },
    })
}

#[test]
fn a_named_caller_is_answered_about_anybody_and_every_answer_is_recorded() {
    let place = place();
    let node = place.start();
    let token = gate(&node);
    let one = |question: &Value| ask(&node, &token, "/access/v1/evaluation", &question.to_string());
    let yes = one(&update("morty@the-citadel.com"));
    assert_eq!(
        (yes.status, &yes.body["decision"], yes.id.as_deref()),
        (200, &json!(true), Some("q-7")),
        "{}",
        yes.body
    );
    assert_eq!(yes.body["context"]["rules"], json!(["own"]));
    let no = one(&update("rick@the-citadel.com"));
    assert_eq!((no.status, &no.body["decision"]), (200, &json!(false)));
    assert_eq!(no.body["context"]["reason"], "no rule permits it");
    let mut closed = update("morty@the-citadel.com");
    closed["resource"]["properties"]["closed"] = json!(true);
    assert_eq!(one(&closed).body["context"]["rules"], json!(["closed"]));

    let of = |owner: &str| json!({ "resource": { "type": "todo", "id": "2", "properties": { "ownerID": owner } } });
    let list = json!({
        "subject": { "type": "user", "id": "morty" }, "action": { "name": "can_update_todo" },
        "evaluations": [of("rick@the-citadel.com"), of("morty@the-citadel.com")],
    });
    let several = ask(&node, &token, "/access/v1/evaluations", &list.to_string());
    let decisions: Vec<_> =
        several.body["evaluations"].as_array().unwrap().iter().map(|one| one["decision"].clone()).collect();
    assert_eq!(decisions, [json!(false), json!(true)]);

    // A switch stops whoever asks with that credential too.
    node.told(
        &json!({ "op": "kill", "scope": { "kind": "agent", "name": "gate" }, "reason": "it asks too much" }),
        "switches",
    );
    let stopped = one(&update("morty@the-citadel.com"));
    assert_eq!(stopped.body["decision"], json!(false));
    assert!(stopped.body["context"]["reason"].as_str().unwrap().contains("kill switch on agent `gate`"));

    node.stop_in_order();
    place.verify();
    let journal = rusqlite::Connection::open(place.path("state/journal.db")).unwrap();
    let count: i64 = journal
        .query_row("SELECT count(*) FROM leaves WHERE body LIKE '%\"kind\":\"evaluated\"%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 6);
}

#[test]
fn an_agent_asks_about_itself_and_about_nobody_else() {
    let place = place();
    let node = place.start();
    let token = node.register().unwrap();
    let own = |action: &str, properties: Value| {
        let question = json!({
            "subject": { "type": "agent", "id": "coder" },
            "action": { "name": action, "properties": properties },
            "resource": { "type": "sqlite", "id": "shop" },
        });
        ask(&node, &token, "/access/v1/evaluation", &question.to_string())
    };
    let yes = own("query", json!({ "sql": "select * from stock" }));
    assert_eq!(yes.body["decision"], json!(true), "{}", yes.body);
    // What the call itself would be refused for is a no.
    let no = own("query", json!({ "sql": "delete from stock" }));
    assert_eq!(no.body["decision"], json!(false), "{}", no.body);
    assert_eq!(place.world().rows["stock"].len(), 6);
    let other = ask(&node, &token, "/access/v1/evaluation", &update("morty@the-citadel.com").to_string());
    assert_eq!((other.status, other.kind.as_str()), (403, "application/problem+json"));
    assert!(other.body["next"].as_str().unwrap().contains("[access] callers"), "{}", other.body);
    node.stop_in_order();
}

#[test]
fn what_is_no_question_is_refused_by_its_place() {
    let place = place();
    let node = place.start();
    let token = gate(&node);
    let ask = |token: &str, body: &str| ask(&node, token, "/access/v1/evaluation", body);
    for (body, place) in [
        ("{", ""),
        ("{}", "subject"),
        (r#"{"subject":{"type":"user","type":"admin","id":"x"}}"#, ""),
        (r#"{"subject":{"type":"user","id":"x"},"action":{"name":"y"},"resource":{"type":"z"}}"#, "resource.id"),
    ] {
        let answer = ask(&token, body);
        assert_eq!((answer.status, answer.kind.as_str()), (400, "application/problem+json"), "{body}");
        assert!(answer.body["place"].as_str().unwrap_or_default().contains(place), "{}", answer.body);
    }
    assert_eq!(ask("", &update("x").to_string()).status, 401);
    let large = format!("{{\"context\":{{\"a\":\"{}\"}}}}", "x".repeat(2 << 20));
    assert_eq!(ask(&token, &large).status, 413);
    node.stop_in_order();
}

#[test]
fn a_broken_policy_is_named_at_start() {
    let place = place();
    fs::write(place.path("access/todo.cedar"), "permit (principal, action, resource);\nforbid (principal akshun);")
        .unwrap();
    let ended = place.try_start("").map(drop).unwrap_err();
    assert!(format!("{ended:?}").contains("todo.cedar:2:"), "{ended:?}");
    fs::write(place.path("access/todo.cedar"), ACCESS).unwrap();
    fs::write(place.path("access/entities.json"), "{").unwrap();
    let ended = place.try_start("").map(drop).unwrap_err();
    assert!(format!("{ended:?}").contains("entities.json"), "{ended:?}");
}
