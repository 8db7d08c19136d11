//! Callers that wait for a person, in every way they can.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::wire::{Door, call, elicits};

fn park() -> Value {
    json!({ "name": "shop__execute", "arguments": { "sql": "park" } })
}

async fn parked(door: &Door) {
    while door.desk.parked() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_cannot_be_asked_is_held_and_then_told_pending() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    let body = call(1, "shop__execute", &json!({ "sql": "park" }));
    let reply = door.post(body.clone()).with("Mcp-Session-Id", &session).send().await;
    let result = &reply.json()["result"];
    let question = door.desk.question();
    assert_eq!(result["isError"], true);
    let text = result["content"][0]["text"].as_str().unwrap();
    let first = format!("PENDING {}; repeat the identical call after approval\n", question.approval);
    assert!(text.starts_with(&first), "{text}");
    assert!(text.contains("update 3 rows of `customers`<U+202E>") && text.contains(&question.url), "{text}");
    assert_eq!(result["structuredContent"]["code"], "pending");
    assert_eq!(result["structuredContent"]["approval"], json!(question.approval));

    door.desk.decide(true);
    let result = &door.post(body).with("Mcp-Session-Id", &session).send().await.json()["result"];
    assert_eq!((&result["isError"], &result["structuredContent"]["rows"]), (&json!(false), &json!(3)));
    assert_eq!(door.desk.parked(), 1, "it joined");
}

#[tokio::test]
async fn an_answer_during_the_hold_is_told_at_once() {
    for (approve, error) in [(true, false), (false, true)] {
        let door = Door::open().await;
        let held = door.modern(1, "tools/call", park(), json!({})).begin().await;
        parked(&door).await;
        door.desk.decide(approve);
        let result = &held.finish().await.json()["result"];
        assert_eq!(result["isError"], error, "{result}");
    }
}

#[tokio::test]
async fn progress_is_reported_while_held() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    let mut params = park();
    params["_meta"] = json!({ "progressToken": "t" });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
    let events = door.post(body).with("Mcp-Session-Id", &session).send().await.events();
    let progress: Vec<&Value> = events.iter().filter(|e| e["method"] == "notifications/progress").collect();
    assert!(progress.len() >= 2, "{events:?}");
    assert_eq!((&progress[1]["params"]["progressToken"], &progress[1]["params"]["progress"]), (&json!("t"), &json!(2)));
    assert_eq!(events.last().unwrap()["id"], 1);
}

/// The server's question on a stream.
fn question(read: &str) -> Value {
    let line = read.lines().filter_map(|l| l.strip_prefix("data: ")).find(|l| l.contains("elicitation/create"));
    serde_json::from_str(line.unwrap()).unwrap()
}

#[tokio::test]
async fn the_handshake_era_sends_the_user_to_look_and_keeps_holding() {
    let door =
        Door::with(turnback_gateway::mcp::McpOptions { hold: Duration::from_secs(5), ..crate::wire::options() }).await;
    let session = door.session(elicits()).await;
    let body = call(1, "shop__execute", &json!({ "sql": "park" }));
    let mut held = door.post(body).with("Mcp-Session-Id", &session).begin().await;
    let asked = question(&held.until("elicitation/create").await);
    let pending = door.desk.question();
    assert_eq!(asked["params"]["mode"], "url");
    assert_eq!(asked["params"]["url"], json!(pending.url));
    assert_eq!(asked["params"]["elicitationId"], json!(pending.approval));

    // Somebody else's session cannot answer, and neither answer is an approval.
    let accept = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "accept" } }).to_string();
    let reply = door.post(accept.clone()).with("Mcp-Session-Id", &session).without("Authorization");
    assert_eq!(reply.with("Authorization", "Bearer bob-secret").send().await.status, 404);
    let reply = door.post(accept).with("Mcp-Session-Id", &session).send().await;
    assert_eq!((reply.status, reply.body.as_str()), (202, ""));
    tokio::time::sleep(Duration::from_millis(150)).await;
    let begun = held.until("waiting").await;
    assert!(!begun.contains("\"result\""), "accepting approves nothing: {begun}");

    door.desk.decide(true);
    let events = held.finish().await.events();
    assert_eq!(events[events.len() - 2]["method"], "notifications/elicitation/complete");
    assert_eq!(events.last().unwrap()["result"]["structuredContent"]["rows"], 3);
}

#[tokio::test]
async fn a_user_who_does_not_look_ends_the_wait_and_decides_nothing() {
    let door =
        Door::with(turnback_gateway::mcp::McpOptions { hold: Duration::from_secs(5), ..crate::wire::options() }).await;
    for answer in [json!({ "result": { "action": "decline" } }), json!({ "error": { "code": -1, "message": "no" } })] {
        let session = door.session(elicits()).await;
        let body = call(1, "shop__execute", &json!({ "sql": "park" }));
        let mut held = door.post(body).with("Mcp-Session-Id", &session).begin().await;
        let asked = question(&held.until("elicitation/create").await);
        let mut reply = answer;
        reply["jsonrpc"] = json!("2.0");
        reply["id"] = asked["id"].clone();
        door.post(reply.to_string()).with("Mcp-Session-Id", &session).send().await;
        let events = tokio::time::timeout(Duration::from_secs(1), held.finish()).await.unwrap().events();
        assert_eq!(events.last().unwrap()["result"]["structuredContent"]["code"], "pending");
    }
}

#[tokio::test]
async fn an_older_client_is_never_asked() {
    let door = Door::open().await;
    let reply = door.post(crate::wire::initialize("2025-06-18", elicits())).send().await;
    let session = reply.header("mcp-session-id").unwrap();
    let body = call(1, "shop__execute", &json!({ "sql": "park" }));
    let reply = door.post(body).with("Mcp-Session-Id", &session).send().await;
    assert!(!reply.body.contains("elicitation"), "{}", reply.body);
    assert_eq!(reply.json()["result"]["structuredContent"]["code"], "pending");
}

#[tokio::test]
async fn cancelling_ends_the_wait_and_not_the_run() {
    let door =
        Door::with(turnback_gateway::mcp::McpOptions { hold: Duration::from_secs(5), ..crate::wire::options() }).await;
    let session = door.session(json!({})).await;
    let body = call(77, "shop__execute", &json!({ "sql": "park" }));
    let mut held = door.post(body.clone()).with("Mcp-Session-Id", &session).begin().await;
    held.until("waiting").await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":77}}"#;
    assert_eq!(door.post(cancel).with("Mcp-Session-Id", &session).send().await.status, 202);
    let reply = tokio::time::timeout(Duration::from_secs(1), held.finish()).await.unwrap();
    assert_eq!(reply.json()["error"]["code"], -32800);
    door.desk.decide(true);
    let reply = door.post(body).with("Mcp-Session-Id", &session).send().await;
    assert_eq!(reply.json()["result"]["structuredContent"]["rows"], 3);
}

#[tokio::test]
async fn the_stateless_era_asks_for_a_look_and_joins_on_retry() {
    let door = Door::open().await;
    let result = door.modern(1, "tools/call", park(), elicits()).send().await.json()["result"].clone();
    assert_eq!(result["resultType"], "input_required");
    let asked = &result["inputRequests"]["approval"];
    assert_eq!((&asked["method"], &asked["params"]["mode"]), (&json!("elicitation/create"), &json!("url")));
    assert_eq!(asked["params"]["url"], json!(door.desk.question().url));

    let retry = |id, action: &str| {
        let mut params = park();
        params["requestState"] = result["requestState"].clone();
        params["inputResponses"] = json!({ "approval": { "action": action } });
        door.modern(id, "tools/call", params, elicits())
    };
    let pending = retry(2, "accept").send().await.json()["result"].clone();
    assert_eq!((&pending["isError"], &pending["resultType"]), (&json!(true), &json!("complete")));
    assert!(pending["content"][0]["text"].as_str().unwrap().starts_with("PENDING "));

    let before = std::time::Instant::now();
    assert_eq!(retry(3, "decline").send().await.json()["result"]["structuredContent"]["code"], "pending");
    assert!(before.elapsed() < Duration::from_millis(200), "who does not want to look is not held");

    let held = retry(4, "accept").begin().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    door.desk.decide(true);
    assert_eq!(held.finish().await.json()["result"]["structuredContent"]["rows"], 3);
    // However often it is brought back, it starts nothing.
    assert_eq!(retry(5, "accept").send().await.json()["result"]["structuredContent"]["rows"], 3);
    assert_eq!((door.desk.parked(), door.desk.calls.lock().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn a_request_state_is_good_for_its_own_call_only() {
    let door = Door::open().await;
    let result = door.modern(1, "tools/call", park(), elicits()).send().await.json()["result"].clone();
    let state = result["requestState"].as_str().unwrap().to_owned();
    let with = |state: &str, params: Value| {
        let mut params = params;
        params["requestState"] = json!(state);
        params["inputResponses"] = json!({ "approval": { "action": "accept" } });
        door.modern(2, "tools/call", params, elicits())
    };
    let mut tampered = state.clone();
    tampered.replace_range(10..11, if &state[10..11] == "A" { "B" } else { "A" });
    let cases = [
        ("tampered", with(&tampered, park())),
        ("no seal", with(state.split_once('.').unwrap().0, park())),
        ("empty", with("", park())),
        ("other arguments", with(&state, json!({ "name": "shop__execute", "arguments": { "sql": "other" } }))),
        ("other tool", with(&state, json!({ "name": "shop__insert", "arguments": { "sql": "park" } }))),
        ("other principal", with(&state, park()).without("Authorization").with("Authorization", "Bearer bob-secret")),
    ];
    let count = cases.len();
    for (why, sent) in cases {
        let reply = sent.send().await;
        assert_eq!(reply.status, 400, "{why}");
        let (code, message) = reply.error();
        assert_eq!(code, -32602, "{why}");
        assert!(message.starts_with("params.requestState: invalid or expired"), "{why}: {message}");
    }
    assert_eq!(door.desk.calls.lock().unwrap().len(), 1, "none of them became a call");
    assert_eq!(door.desk.refusals().len(), count, "each is recorded");
    assert_eq!(with(&state, park()).send().await.status, 200, "the true one still works");
}

#[tokio::test]
async fn a_request_state_expires() {
    let options = turnback_gateway::mcp::McpOptions { state_ttl: Duration::from_millis(50), ..crate::wire::options() };
    let door = Door::with(options).await;
    let result = door.modern(1, "tools/call", park(), elicits()).send().await.json()["result"].clone();
    tokio::time::sleep(Duration::from_millis(80)).await;
    let mut params = park();
    params["requestState"] = result["requestState"].clone();
    assert_eq!(door.modern(2, "tools/call", params, elicits()).send().await.error().0, -32602);
}

#[tokio::test]
async fn who_waits_does_not_keep_others_from_being_served() {
    let options = turnback_gateway::mcp::McpOptions {
        max_in_flight: 1,
        max_waiting: 1,
        hold: Duration::from_secs(5),
        ..crate::wire::options()
    };
    let door = Door::with(options).await;
    let mut first = door.modern(1, "tools/call", park(), json!({})).begin().await;
    first.until("waiting").await;
    let query = json!({ "name": "shop__query", "arguments": { "sql": "x" } });
    assert_eq!(door.modern(2, "tools/call", query, json!({})).send().await.status, 200);
    // The place to wait is taken: the next one is told at once.
    let second = door.modern(3, "tools/call", park(), json!({})).send();
    let second = tokio::time::timeout(Duration::from_secs(1), second).await.unwrap();
    assert_eq!(second.json()["result"]["structuredContent"]["code"], "pending");
    door.desk.decide(true);
    assert_eq!(first.finish().await.json()["result"]["structuredContent"]["rows"], 3);
}

#[tokio::test]
async fn closing_the_door_lets_waiting_callers_go() {
    let options = turnback_gateway::mcp::McpOptions { hold: Duration::from_secs(30), ..crate::wire::options() };
    let door = Door::with(options).await;
    let mut held = door.modern(1, "tools/call", park(), json!({})).begin().await;
    held.until("waiting").await;
    tokio::time::timeout(Duration::from_secs(2), door.shut()).await.expect("it closes soon");
    assert_eq!(held.finish().await.json()["result"]["structuredContent"]["code"], "pending");
}

#[tokio::test]
async fn an_end_that_is_being_told_is_never_answered_pending() {
    // The user declines, the client cancels and the door closes while the desk marks the end as told.
    for why in ["decline", "cancel", "close"] {
        let options = turnback_gateway::mcp::McpOptions { hold: Duration::from_secs(5), ..crate::wire::options() };
        let door = Door::with(options).await;
        let session = door.session(elicits()).await;
        let body = call(1, "shop__execute", &json!({ "sql": "park" }));
        let mut held = door.post(body).with("Mcp-Session-Id", &session).begin().await;
        let asked = question(&held.until("elicitation/create").await);
        door.desk.decide(true);
        while door.desk.telling.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let desk = std::sync::Arc::clone(&door.desk);
        let decline = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } }).to_string();
        let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#.to_owned();
        match why {
            "close" => door.shut().await,
            "cancel" => drop(door.post(cancel).with("Mcp-Session-Id", &session).send().await),
            _ => drop(door.post(decline).with("Mcp-Session-Id", &session).send().await),
        }
        let events = held.finish().await.events();
        assert_eq!(events.last().unwrap()["result"]["structuredContent"]["rows"], 3, "{why}");
        assert_eq!(desk.told.load(Ordering::SeqCst), 1, "{why}");
    }
}
